//! Tasks of the workspace: `cargo xtask help`.
//!
//! Owns what is run by people and by CI, in the same way. Refuses to know anything about meshd beyond its command line.

mod bench;
mod contract;
mod deb;
mod demo;
mod docs;
mod gate;
mod instructions;
mod setup;
mod shell;
mod suites;
mod vm;
mod walls;
mod wasm;

use anyhow::{Result, bail};
use std::process::ExitCode;

const HELP: &str = "\
cargo xtask TASK

  demo [--keep]     three hosts become one switch, before your eyes (root); --keep leaves the lab up
  test [--quick]    every check there is, set-up included; --quick leaves the lab out
  ci                the same as test: what CI runs, you run
  setup             installs what is missing (apt packages, rustup components), or says what to do
  plugins           builds plugins/ as WASM components, prints the folder
  walls             checks that meshd-core touches no clock, socket, file or thread
  docs [--site]     checks that the links of the documentation lead somewhere and that its table of contents is complete;
                    --site makes a site of it, in target/book (installs mdbook where it is missing)
  wit               writes docs/reference/wit.md anew
  lab [FILTER]      the tests on the real kernel alone (root)
  vm [--kernel cloud|generic|PACKAGE] [--suite DEBIAN] [--limit SECONDS] [--kvm] [--verbose] [TESTS [FILTER…]]…
                    the lab under a stock kernel in a throw-away guest: its own tests, or files of interop-tests/tests
  bench [OPTIONS]   figures of meshd beside other overlays (root); cargo xtask bench --help
  bench gate|policy|churn|crowd|observe|views|scale   what a gate, a chain of plugins, new flows, many sessions, looking, views of much,
                    and a network of 10,000 endpoints cost
  instructions [--write]  what a frame costs in instructions, against the kept figures; --write keeps new ones (valgrind)
  deb               the Debian package of the release build; installs cargo-deb where it is missing
  fmt               formats every workspace of the repository
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match task(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn task(words: &[String]) -> Result<()> {
    let (task, rest) = words
        .split_first()
        .map_or(("help", &[][..]), |(first, rest)| (first.as_str(), rest));
    let flag = |name: &str| -> Result<bool> {
        match rest {
            [] => Ok(false),
            [word] if word == name => Ok(true),
            _ => bail!("`{task}` takes only {name}"),
        }
    };
    match task {
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        "demo" => demo::demo(flag("--keep")?),
        "test" => gate::test(flag("--quick")?),
        "ci" => gate::test(false),
        "setup" => setup::for_tests(),
        "plugins" => {
            println!("{}", wasm::plugins()?.display());
            Ok(())
        }
        "walls" => walls::walls().or_else(walls::explain),
        "docs" => docs::docs(rest),
        "wit" => contract::write(),
        "lab" => gate::lab(rest),
        "vm" => vm::vm(rest),
        "bench" => bench::bench(rest),
        "instructions" => match flag("--write")? {
            true => instructions::write(),
            false => instructions::check(),
        },
        "deb" => {
            println!("{}", deb::deb()?.display());
            Ok(())
        }
        "fmt" => gate::fmt(),
        other => bail!("no task {other:?}\n\n{HELP}"),
    }
}
