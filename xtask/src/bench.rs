//! `cargo xtask bench`: figures of meshd beside other overlays; of policy, of the gate alone, and of a large network.

mod args;
mod chart;
mod flame;
mod overlays;
mod page;

use crate::setup;
use crate::shell::{cargo, run, target};
use crate::wasm;
use anyhow::{Result, ensure};
use args::{Args, What};
use interop_tests::lab::{Lab, LabSpec, is_root, use_binary};
use interop_tests::report::Table;

/// Reads the words after `bench` and measures.
pub(crate) fn bench(words: &[String]) -> Result<()> {
    let Some(args) = Args::read(words)? else {
        return Ok(());
    };
    match args.what {
        None => overlays::bench(&args.overlays),
        Some(What::Gate { quick }) => gate(quick),
        Some(What::Policy { quick }) => policy(quick),
        Some(What::Churn { quick }) => churn(quick),
        Some(What::Crowd { quick, peers }) => crowd(quick, peers),
        Some(What::Observe { quick }) => observe(quick),
        Some(What::Views { quick, peers }) => views(quick, peers),
        Some(What::Scale) => scale(),
    }
}

/// The daemon as it is released, for all labs of this process.
fn release() -> Result<()> {
    run(&mut cargo("build --release -p meshd"))?;
    use_binary(target()?.join("release/meshd"));
    Ok(())
}

/// Measures what a gate costs by nftables and by tc-bpf, and how fast it changes.
fn gate(quick: bool) -> Result<()> {
    use interop_tests::bench::gate::{cost, rate};
    ensure!(is_root(), "the lab needs root");
    setup::setup()?;
    // Not the release: the kernel does the work.
    run(&mut cargo("build -p meshd --example gate"))?;
    let program = target()?.join("debug/examples/gate");
    let (rounds, seconds) = if quick { (1, 1) } else { (9, 1) };
    let lab = Lab::start(LabSpec::hosts(1).containers(2))?;
    let costs = cost(&lab, &program, rounds, seconds, |line| println!("{line}"))?;
    println!(
        "\nmedians of {rounds} pairs of runs without and with the gate, {seconds} s each, on one core; {}\n\n{}\n{}",
        machine("all that runs here"),
        costs.markdown(),
        rate(&lab, &program)?.markdown()
    );
    Ok(())
}

/// Measures what policy costs: a decision, a look into the cache, and the throughput under a chain of five.
fn policy(quick: bool) -> Result<()> {
    ensure!(is_root(), "the lab needs root");
    setup::setup()?;
    let plugins = wasm::plugins()?;
    run(&mut cargo("run --release -p meshd-core --example lane"))?;
    run(&mut cargo(
        "run --release -p meshd-plugin-host --example latency",
    ))?;
    let (rounds, seconds) = if quick { (1, 1) } else { (9, 2) };
    in_lab(
        interop_tests::bench::policy::spec(),
        (rounds, seconds),
        |lab, say| interop_tests::bench::policy::run(lab, &plugins, rounds, seconds, say),
    )
}

/// Measures what policy costs where nothing is cached: new flows, a change of the chain, a plugin that hangs.
fn churn(quick: bool) -> Result<()> {
    ensure!(is_root(), "the lab needs root");
    setup::setup()?;
    let plugins = wasm::plugins()?;
    release()?;
    let lab = Lab::start(interop_tests::bench::churn::spec())?;
    let (rounds, seconds) = if quick { (1, 1) } else { (9, 3) };
    let say = |line: &str| println!("{line}");
    let result = interop_tests::bench::churn::run(&lab, &plugins, rounds, seconds, say);
    if result.is_err() {
        lab.post_mortem();
    }
    println!(
        "\nmedians of {rounds} rounds of {seconds} s; {}\n",
        machine("all hosts, all daemons and the load")
    );
    for table in result? {
        println!("{}", table.markdown());
    }
    Ok(())
}

/// Measures what many sessions cost a node.
fn crowd(quick: bool, peers: usize) -> Result<()> {
    use interop_tests::bench::crowd;
    let (rounds, seconds, peers) = if quick {
        (1, 1, 4)
    } else {
        (9, 2, peers.max(2))
    };
    in_lab(crowd::spec(), (rounds, seconds), |lab, say| {
        crowd::run(lab, peers, rounds, seconds, say)
    })
}

/// Measures what looking costs.
fn observe(quick: bool) -> Result<()> {
    use interop_tests::bench::observe;
    let (rounds, seconds) = if quick { (1, 1) } else { (15, 3) };
    in_lab(observe::spec(), (rounds, seconds), |lab, say| {
        observe::run(lab, rounds, seconds, say)
    })
}

/// Builds the release, measures in a lab of it, and shows the table.
fn in_lab(
    spec: LabSpec,
    (rounds, seconds): (usize, u32),
    measure: impl FnOnce(&Lab, fn(&str)) -> Result<Table>,
) -> Result<()> {
    ensure!(is_root(), "the lab needs root");
    setup::setup()?;
    release()?;
    let lab = Lab::start(spec)?;
    let result = measure(&lab, |line| println!("{line}"));
    if result.is_err() {
        lab.post_mortem();
    }
    println!(
        "\nmedians of {rounds} pairs of runs of {seconds} s; {}\n\n{}",
        machine("all hosts, all daemons and the load"),
        result?.markdown()
    );
    Ok(())
}

/// Measures how long views take on a node that knows much.
fn views(quick: bool, peers: usize) -> Result<()> {
    use interop_tests::bench::views;
    let (rounds, peers) = if quick { (3, 4) } else { (30, peers.max(3)) };
    ensure!(is_root(), "the lab needs root");
    setup::setup()?;
    release()?;
    let lab = Lab::start(views::spec())?;
    let result = views::run(&lab, peers, rounds, |line| println!("{line}"));
    if result.is_err() {
        lab.post_mortem();
    }
    let (table, is_quick) = result?;
    println!(
        "\n{rounds} times each, {peers} peers; {}\n\n{}",
        machine("all hosts, all daemons and the load"),
        table.markdown()
    );
    ensure!(is_quick, "`status` takes longer than 20 ms");
    Ok(())
}

/// What a network of 10,000 endpoints costs a node in time and memory.
fn scale() -> Result<()> {
    run(&mut cargo("run --release -p meshd-core --example scale"))
}

fn machine(whom: &str) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores for {whom}; Linux {}", kernel.trim())
}
