//! The guest's side of `wit/`, generated.
#![allow(
    missing_docs,
    unreachable_pub,
    unsafe_code,
    clippy::all,
    clippy::unwrap_used
)]

#[cfg(not(any(asked, controlling)))]
wit_bindgen::generate!({
    path: "../wit",
    world: "policy",
    pub_export_macro: true,
    default_bindings_module: "meshd_sdk::wit",
});
#[cfg(asked)]
wit_bindgen::generate!({
    path: "../wit",
    world: "policy-tracked",
    pub_export_macro: true,
    default_bindings_module: "meshd_sdk::wit",
});

#[cfg(controlling)]
wit_bindgen::generate!({
    path: "../wit",
    world: "controller",
    pub_export_macro: true,
    default_bindings_module: "meshd_sdk::wit",
});

/// What the world `controller` has, where its code is only compiled along: in tests, and in the policy's component. All of it are
/// imports, and those that nobody calls are not in the component.
#[cfg(not(controlling))]
mod along {
    wit_bindgen::generate!({
        inline: "
            package meshd:sdk;
            world along {
                import meshd:policy/log@0.1.0;
                import meshd:policy/metrics@0.1.0;
                import meshd:policy/clock@0.1.0;
                import meshd:policy/random@0.1.0;
                import meshd:policy/timers@0.1.0;
                import meshd:policy/kv@0.1.0;
                import meshd:policy/topology@0.1.0;
                import meshd:policy/flows@0.1.0;
                import meshd:policy/packet-out@0.1.0;
                import meshd:policy/http@0.1.0;
                import meshd:policy/events@0.1.0;
            }
        ",
        path: "../wit",
        with: { "meshd:policy/types@0.1.0": crate::wit::types },
        generate_all,
    });
}

#[cfg(not(controlling))]
pub use along::meshd::policy::{
    clock, events, flows, http, kv, log, metrics, packet_out, random, timers, topology,
};
#[cfg(not(any(asked, controlling)))]
pub use exports::meshd::policy::decide::Guest;
#[cfg(asked)]
pub use exports::meshd::policy::decide_tracked::{Answer, Guest};
#[cfg(controlling)]
pub use exports::meshd::policy::events::{self, Guest};
#[cfg(asked)]
pub use meshd::policy::tracked_key;
pub use meshd::policy::types;
#[cfg(controlling)]
pub use meshd::policy::{
    clock, flows, http, kv, log, metrics, packet_out, random, timers, topology,
};
