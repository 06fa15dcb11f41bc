//! meshd
mod kernel;

fn main() {}
