//! Says by `asked` whether the key is asked for field by field: in a component, with the feature `tracked`. A native build, where
//! tests run, has the key as a record in any case. And by `controlling` whether the component is the controller of its crate:
//! with the feature `controller`.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(asked, controlling)");
    println!("cargo::rerun-if-changed=build.rs");
    let feature = |name: &str| std::env::var_os(format!("CARGO_FEATURE_{name}")).is_some();
    let component = std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "wasm32");
    match (component, feature("CONTROLLER"), feature("TRACKED")) {
        (true, true, _) => println!("cargo::rustc-cfg=controlling"),
        (true, false, true) => println!("cargo::rustc-cfg=asked"),
        _ => {}
    }
}
