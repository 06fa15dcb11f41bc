//! `cargo xtask bench`: figures of the two-host lab, beside a plain veth and kernel VXLAN in the same run.

use crate::setup;
use crate::shell::{cargo, run, target};
use anyhow::{Result, ensure};
use interop_tests::lab::{Lab, LabSpec, is_root, use_binary};

/// Measures and prints a Markdown table. `quick`: one round of one second, to see that it works.
pub(crate) fn bench(quick: bool) -> Result<()> {
    ensure!(is_root(), "the lab needs root");
    setup::setup()?;
    run(&mut cargo("build --release -p meshd"))?;
    use_binary(target()?.join("release/meshd"));
    let lab = Lab::start(LabSpec::hosts(2).containers(2))?;
    let (rounds, seconds) = if quick { (1, 1) } else { (3, 3) };
    let result = interop_tests::bench::run(&lab, rounds, seconds, |line| println!("{line}"));
    if result.is_err() {
        lab.post_mortem();
    }
    let table = result?;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    println!(
        "\nmedians of {rounds} rounds of {seconds} s; {cores} cores for both hosts, both daemons and the load; Linux {}\n",
        kernel.trim()
    );
    println!("{}", table.markdown());
    Ok(())
}
