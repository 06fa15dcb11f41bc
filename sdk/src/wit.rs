//! The guest's side of `wit/`, generated.
#![allow(
    missing_docs,
    unreachable_pub,
    unsafe_code,
    clippy::all,
    clippy::unwrap_used
)]

wit_bindgen::generate!({
    path: "../wit",
    world: "policy",
    pub_export_macro: true,
    default_bindings_module: "meshd_sdk::wit",
});

pub use exports::meshd::policy::decide::Guest;
pub use meshd::policy::types;
