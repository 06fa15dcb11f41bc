//! Documentation is a test: each command of the how-to and operations pages is typed, here or by the test that is named here.

use anyhow::{Context, Result, ensure};
use interop_tests::lab::{find, is_root, plugin};
use interop_tests::page::{Block, Kind, read, repository, type_page};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

/// Folders and pages whose commands are for readers to type.
const PAGES: [&str; 4] = [
    "docs/quickstart.md",
    "docs/howto",
    "docs/operations",
    "docs/troubleshooting.md",
];

/// Blocks that are not typed here, with the reason, and the test that does the same by other words where there is one: page, how
/// the first line begins (nothing: all such blocks of the page), reason.
const ELSEWHERE: [(&str, &str, &str); 19] = [
    (
        "docs/quickstart.md",
        "",
        "two real hosts: the second half of the page is the same on one machine",
    ),
    (
        "docs/howto/systemd.md",
        "cargo xtask deb",
        "a build: tests/systemd.rs does the same, and installs what it made",
    ),
    (
        "docs/howto/cni.md",
        "ctr image pull",
        "a registry: the image is there by then",
    ),
    (
        "docs/howto/host-devices.md",
        "",
        "bonds, VLANs and dummies, which kernels of some machines lack: tests/vm/devices.rs in the VM",
    ),
    (
        "docs/howto/namespaces.md",
        "meshd attach lan --netns pid:",
        "typed unseen, with the number of a process that there is",
    ),
    (
        "docs/howto/namespaces.md",
        "ip -n router",
        "VRFs, which kernels of some machines lack: tests/vm/devices.rs in the VM",
    ),
    (
        "docs/howto/top.md",
        "",
        "a picture that has no end: meshd/src/cli/top has its tests",
    ),
    (
        "docs/operations/backup.md",
        "systemctl stop",
        "typed unseen, with the scene's own folders",
    ),
    (
        "docs/operations/sizing.md",
        "cargo xtask bench",
        "figures: tests/bench.rs runs some of it in short",
    ),
    (
        "docs/operations/sizing.md",
        "[datapath]",
        "numbers for a larger machine: tests/queues.rs has others",
    ),
    (
        "docs/howto/virtual-machine.md",
        "qemu-system-x86_64 …",
        "typed unseen, with a kernel and a disk",
    ),
    (
        "docs/howto/lan-stations.md",
        "",
        "stations for a LAN's own sake: tests/stations.rs",
    ),
    (
        "docs/howto/monitoring.md",
        "",
        "a user and a service of Prometheus: tests/api.rs scrapes",
    ),
    (
        "docs/howto/web-page.md",
        "",
        "a page that has no end: tests/page.rs opens it in Chromium",
    ),
    (
        "docs/howto/why-was-it-dropped.md",
        "",
        "--watch has no end: tests/drops.rs",
    ),
    (
        "docs/howto/refuse-a-port.md",
        "cargo xtask plugins",
        "a build: the gate does it before",
    ),
    (
        "docs/howto/fast-path.md",
        "sysctl",
        "br_netfilter is a switch of the whole machine: tests/vm.rs in the VM",
    ),
    ("docs/howto/fast-path.md", "iptables", "the same"),
    ("docs/howto/fast-path.md", "[kernel]", "the same"),
];

/// Pages that need an engine of which a machine has but one, or a guest: the test that types each.
const TYPED_THERE: [(&str, &str); 4] = [
    ("docs/howto/docker.md", "tests/docker.rs"),
    ("docs/howto/cni.md", "tests/cni.rs"),
    ("docs/howto/systemd.md", "tests/systemd.rs"),
    ("docs/howto/virtual-machine.md", "tests/homelab.rs"),
];

/// All pages, from the repository's root on.
fn pages() -> Result<Vec<String>> {
    let mut all = Vec::new();
    for place in PAGES {
        let path = repository().join(place);
        if path.is_file() {
            all.push(place.to_owned());
            continue;
        }
        for entry in path.read_dir().with_context(|| place.to_owned())? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            if name.ends_with(".md") {
                all.push(format!("{place}/{name}"));
            }
        }
    }
    all.sort();
    Ok(all)
}

/// The reason that is given for a block that is not typed here.
fn reason(page: &str, block: &Block) -> Option<usize> {
    ELSEWHERE
        .iter()
        .position(|(where_, begin, _)| *where_ == page && block.text.starts_with(begin))
}

#[test]
fn each_command_is_typed_or_it_is_said_where_and_why_not() -> Result<()> {
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for page in pages()? {
        for block in read(&page)? {
            if block.kind != Kind::Elsewhere {
                continue;
            }
            match reason(&page, &block) {
                Some(row) => drop(used.insert(row)),
                None => wrong.push(format!(
                    "{page}:{}: not typed: mark it (interop-tests/src/page/blocks.rs), or give a reason in tests/pages.rs:\n{}",
                    block.line, block.text
                )),
            }
        }
    }
    for (row, (page, begin, _)) in ELSEWHERE.iter().enumerate() {
        if !used.contains(&row) {
            wrong.push(format!("{page} has no such block any more: {begin:?}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn a_page_that_another_test_types_is_named_there() -> Result<()> {
    for (page, test) in TYPED_THERE {
        let text = std::fs::read_to_string(repository().join("interop-tests").join(test))?;
        let named = format!("\"{page}\"");
        ensure!(text.contains(&named), "{test} does not type {page}");
    }
    Ok(())
}

#[test]
fn the_pages_hold_word_for_word() -> Result<()> {
    let say = |what: &str| {
        let _ = writeln!(std::io::stderr(), "{what}");
    };
    if !is_root() {
        say("SKIPPED the_pages_hold_word_for_word: needs root");
        return Ok(());
    }
    if find("nsenter").is_none() {
        say("SKIPPED the_pages_hold_word_for_word: needs nsenter (apt-get install util-linux)");
        return Ok(());
    }
    let plugins = plugin("acl")?;
    let plugins = plugins.parent().context("a component is in a folder")?;
    let environment: [(&str, PathBuf); 1] = [("MESHD_PLUGINS", plugins.canonicalize()?)];
    let mut failed = Vec::new();
    for page in pages()? {
        let at_hosts = read(&page)?.iter().any(|block| match &block.kind {
            Kind::Typed(hosts) | Kind::Config(hosts) => !hosts.is_empty(),
            _ => false,
        });
        if !at_hosts || TYPED_THERE.iter().any(|(there, _)| *there == page) {
            continue;
        }
        let start = Instant::now();
        match type_page(&page, &environment) {
            Ok(_) => say(&format!("{page}: {:.1} s", start.elapsed().as_secs_f64())),
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n\n"));
    Ok(())
}
