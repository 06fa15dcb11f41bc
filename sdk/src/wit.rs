//! The guest's side of `wit/`, generated.
#![allow(
    missing_docs,
    unreachable_pub,
    unsafe_code,
    clippy::all,
    clippy::unwrap_used
)]

#[cfg(not(asked))]
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

#[cfg(not(asked))]
pub use exports::meshd::policy::decide::Guest;
#[cfg(asked)]
pub use exports::meshd::policy::decide_tracked::{Answer, Guest};
#[cfg(asked)]
pub use meshd::policy::tracked_key;
pub use meshd::policy::types;
