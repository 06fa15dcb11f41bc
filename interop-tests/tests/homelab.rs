//! `examples/homelab/README.md`, typed: two LANs, a virtual machine that qemu boots, and a laptop behind a NAT.

use anyhow::{Context, Result, ensure};
use interop_tests::lab::{find, is_root, meshd_binary};
use interop_tests::page::{commands, repository, type_in, type_page};
use std::io::Write;
use std::path::PathBuf;

/// Kernel and modules that the VM tier fetched (`cargo xtask vm`).
fn guest() -> Result<Option<[(&'static str, PathBuf); 3]>> {
    let bin = meshd_binary()?;
    let mut folders = bin.ancestors().map(|folder| folder.join("vm/kernel-cloud"));
    let Some(folder) = folders.find(|folder| folder.join("vmlinuz").is_file()) else {
        return Ok(None);
    };
    let mut modules = std::fs::read_dir(folder.join("tree/lib/modules"))?;
    let modules = modules.next().context("no modules")??.path();
    Ok(Some([
        ("KERNEL", folder.join("vmlinuz")),
        ("MODULES", modules),
        ("ACCEL", PathBuf::from("tcg")),
    ]))
}

/// What is missing here to boot a machine; said loudly.
fn bootable(test: &str) -> Result<Option<[(&'static str, PathBuf); 3]>> {
    let say = |why: &str| {
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
    };
    if !is_root() {
        say("needs root");
        return Ok(None);
    }
    for tool in [
        "qemu-system-x86_64",
        "busybox",
        "cpio",
        "modprobe",
        "nft",
        "jq",
    ] {
        if find(tool).is_none() {
            say(&format!("needs {tool}"));
            return Ok(None);
        }
    }
    let found = guest()?;
    if found.is_none() {
        say("needs a kernel to boot; `cargo xtask vm` fetches it");
    }
    Ok(found)
}

#[test]
fn the_page_about_virtual_machines_holds_word_for_word() -> Result<()> {
    let Some([kernel, modules, accel]) =
        bootable("the_page_about_virtual_machines_holds_word_for_word")?
    else {
        return Ok(());
    };
    let here = ("REPOSITORY", repository().canonicalize()?);
    let said = type_page(
        "docs/howto/virtual-machine.md",
        &[kernel, modules, accel, here],
    )?;
    ensure!(said.contains("hello from the guest"), "{said}");
    Ok(())
}

#[test]
fn the_homelab_holds_word_for_word() -> Result<()> {
    let Some(guest) = bootable("the_homelab_holds_word_for_word")? else {
        return Ok(());
    };
    let script = commands("examples/homelab/README.md")?;
    ensure!(
        script.contains("guest.sh vm"),
        "the page has lost its machine"
    );
    let said = type_in(&script, &guest)?;
    let answered = said.matches(" 0% packet loss").count();
    let pings = script
        .lines()
        .filter(|line| line.contains("ping -c 3"))
        .count();
    ensure!(
        answered >= pings && pings >= 5,
        "{answered} of {pings}:\n{said}"
    );
    let pages = said.matches("hello from the guest").count();
    ensure!(pages == 2, "{pages} pages were read:\n{said}");
    Ok(())
}
