//! The host's side of `wit/`, generated. Nothing else in the workspace calls `bindgen!`.
#![allow(missing_docs, unreachable_pub, clippy::all)]

wasmtime::component::bindgen!({ path: "../../wit", world: "policy" });

/// What a handle of a key stands for. There is one key at a time, so it holds nothing.
pub struct Asked;

/// The world `steering`; its types are those of `policy`.
pub(crate) mod steering {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "steering",
        with: { "meshd:policy/types": crate::bindings::meshd::policy::types },
    });
}

/// The world `policy-tracked`; its types are those of `policy`.
pub(crate) mod tracked {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "policy-tracked",
        imports: { default: trappable },
        with: {
            "meshd:policy/types": crate::bindings::meshd::policy::types,
            "meshd:policy/tracked-key.key": crate::bindings::Asked,
        },
    });
}

/// The world `controller`; its types are those of `policy`.
pub(crate) mod controller {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "controller",
        with: { "meshd:policy/types": crate::bindings::meshd::policy::types },
    });
}
