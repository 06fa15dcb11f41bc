//! meshd

fn main() -> std::process::ExitCode {
    if meshd::cni::is_plugin(std::env::args_os().next().as_deref()) {
        return meshd::cni::main();
    }
    meshd::cli::main()
}
