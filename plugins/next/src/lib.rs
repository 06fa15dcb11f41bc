//! Made for the world `policy-v2` of a contract that no release speaks (`meshd/plugin-host/tests/next`). Not for use.
//!
//! Refuses, under code 6, what has the flow label 7: a field that the key of today does not have.
#![cfg(target_arch = "wasm32")]

#[allow(clippy::all, clippy::unwrap_used)]
mod wit {
    wit_bindgen::generate!({
        path: ["../../wit", "../../meshd/plugin-host/tests/next"],
        world: "meshd:policy/policy-v2@0.2.0",
        pub_export_macro: true,
        default_bindings_module: "crate::wit",
        generate_all,
    });
}

use wit::exports::meshd::policy0_2_0::decide_v2::{FlowKeyV2, Guest};
use wit::meshd::policy0_1_0::types::{
    ConfigError, DepMask, Deps, DropReason, Lifetime, PartialDeps, Target, Verdict,
};

struct Next;

impl Guest for Next {
    fn configure(_config: String, _at: u64) -> Result<(), Vec<ConfigError>> {
        Ok(())
    }

    fn decide(key: FlowKeyV2) -> Verdict {
        let target = match key.flow_label {
            7 => Target::Drop(DropReason {
                code: 6,
                reject: false,
            }),
            _ => Target::Next,
        };
        Verdict {
            target,
            actions: Vec::new(),
            deps: DepMask {
                fields: Deps::empty(),
                partial: PartialDeps {
                    src_mac_prefix: 0,
                    dst_mac_prefix: 0,
                    src_ip_prefix: 0,
                    dst_ip_prefix: 0,
                    src_port_mask: 0,
                    dst_port_mask: 0,
                },
            },
            life: Lifetime {
                cacheable: true,
                idle_ms: 0,
                hard_ms: 0,
                tags: Vec::new(),
            },
        }
    }
}

wit::export!(Next with_types_in wit);
