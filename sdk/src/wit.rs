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

/// The world `controller`, where tests run: its types are those of `policy`.
#[cfg(not(target_arch = "wasm32"))]
mod simulated {
    wit_bindgen::generate!({
        path: "../wit",
        world: "controller",
        with: { "meshd:policy/types@0.1.0": crate::wit::types },
    });
}

#[cfg(not(any(asked, controlling)))]
pub use exports::meshd::policy::decide::Guest;
#[cfg(asked)]
pub use exports::meshd::policy::decide_tracked::{Answer, Guest};
#[cfg(asked)]
pub use meshd::policy::tracked_key;
#[cfg(controlling)]
pub use exports::meshd::policy::events::{self, Guest};
#[cfg(controlling)]
pub use meshd::policy::{
    clock, flows, http, kv, log, metrics, packet_out, random, timers, topology,
};
pub use meshd::policy::types;
#[cfg(not(target_arch = "wasm32"))]
pub use simulated::exports::meshd::policy::events;
#[cfg(not(target_arch = "wasm32"))]
pub use simulated::meshd::policy::{
    clock, flows, http, kv, log, metrics, packet_out, random, timers, topology,
};
