//! Documentation is a test: what `docs/quickstart.md` and `examples/` tell people to type is typed here.

use anyhow::{Context, Result, ensure};
use interop_tests::lab::is_root;
use interop_tests::page::{commands, repository, type_in};
use std::io::Write;
use std::path::Path;

fn skipped(name: &str) -> bool {
    if !is_root() {
        let _ = writeln!(std::io::stderr(), "SKIPPED {name}: needs root");
    }
    !is_root()
}

#[test]
fn what_is_typed_here_disturbs_nobody_outside() -> Result<()> {
    if skipped("what_is_typed_here_disturbs_nobody_outside") {
        return Ok(());
    }
    let said = type_in(
        "ip netns add berlin; ip netns exec berlin ip link set lo up; ip netns exec berlin ping -c 1 127.0.0.1; ip netns del berlin",
        &[],
    )?;
    ensure!(said.contains(" 0% packet loss"), "{said}");
    ensure!(
        type_in("false; true", &[]).is_err(),
        "the first command that fails ends the script"
    );
    ensure!(!Path::new("/run/netns/berlin").exists());
    Ok(())
}

#[test]
fn the_quickstart_holds_word_for_word() -> Result<()> {
    if skipped("the_quickstart_holds_word_for_word") {
        return Ok(());
    }
    let script = commands("docs/quickstart.md")?;
    ensure!(
        script.contains("meshd invite"),
        "the page has lost its commands"
    );
    let said = type_in(&script, &[])?;
    ensure!(
        said.matches(" 0% packet loss").count() == 2,
        "both pings are answered:\n{said}"
    );
    Ok(())
}

#[test]
fn the_examples_run() -> Result<()> {
    if skipped("the_examples_run") {
        return Ok(());
    }
    let script = repository().join("examples/two-hosts/run.sh");
    type_in(&format!("bash {}", script.canonicalize()?.display()), &[])
        .context("examples/two-hosts")
        .map(drop)
}
