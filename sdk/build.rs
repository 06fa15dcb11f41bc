//! Says by `asked` whether the key is asked for field by field: in a component, with the feature `tracked`. A native build, where
//! tests run, has the key as a record in any case.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(asked)");
    println!("cargo::rerun-if-changed=build.rs");
    let tracked = std::env::var_os("CARGO_FEATURE_TRACKED").is_some();
    if tracked && std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "wasm32") {
        println!("cargo::rustc-cfg=asked");
    }
}
