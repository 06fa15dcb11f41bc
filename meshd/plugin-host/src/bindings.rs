//! The host's side of `wit/`, generated. Nothing else in the workspace calls `bindgen!`.
#![allow(missing_docs, unreachable_pub, clippy::all)]

wasmtime::component::bindgen!({ path: "../../wit", world: "policy" });
