//! What the tests and the demo need from the machine: packages and rustup components.

use anyhow::{Result, ensure};
use interop_tests::lab::{find, is_root};
use std::process::Command;

/// A program, and the Debian package that has it.
const TOOLS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("ping", "iputils-ping"),
    ("iperf3", "iperf3"),
    ("cc", "gcc"),
    ("make", "make"),
];

/// What the tests need beside.
const TEST_TOOLS: [(&str, &str); 16] = [
    ("systemctl", "systemd"),
    ("strip", "binutils"),
    ("dpkg-shlibdeps", "dpkg-dev"),
    ("mmdebstrap", "mmdebstrap"),
    ("dockerd", "docker.io"),
    ("clang", "clang"),
    ("ethtool", "ethtool"),
    ("faketime", "faketime"),
    ("ovs-vswitchd", "openvswitch-switch"),
    ("/usr/lib/cni/host-local", "containernetworking-plugins"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("busybox", "busybox-static"),
    (
        "/usr/lib/python3/dist-packages/jsonschema/__init__.py",
        "python3-jsonschema",
    ),
    ("jq", "jq"),
    ("chromium", "chromium"),
];

/// What the comparison of overlays needs beside.
const BENCH_TOOLS: [(&str, &str); 1] = [("ethtool", "ethtool")];

/// What the VM is made with; the rest of its programs are those of the lab.
const VM_TOOLS: [(&str, &str); 5] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("cpio", "cpio"),
    ("kmod", "kmod"),
    ("dpkg-deb", "dpkg"),
    ("ethtool", "ethtool"),
];

/// Installs what is missing for the demo and the figures, where that is possible; says what to do where not.
pub(crate) fn setup() -> Result<()> {
    install(&TOOLS)
}

/// The same, for the tests.
pub(crate) fn for_tests() -> Result<()> {
    // Who is not root runs no lab.
    let lab: &[_] = if is_root() { &TEST_TOOLS } else { &[] };
    install(&[&TOOLS, lab].concat())
}

/// The same, for the comparison of overlays.
pub(crate) fn for_bench() -> Result<()> {
    install(&[&TOOLS[..], &BENCH_TOOLS].concat())
}

/// The same, for the VM, which needs no root.
pub(crate) fn for_vm() -> Result<()> {
    install(&[&TOOLS[..], &VM_TOOLS].concat())
}

fn install(tools: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<_> = tools
        .iter()
        .filter(|(tool, _)| find(tool).is_none())
        .collect();
    if !missing.is_empty() {
        let mut packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
        if packages.contains(&"gcc") {
            packages.push("libc6-dev");
        }
        let line = format!(
            "apt-get install --no-install-recommends {}",
            packages.join(" ")
        );
        ensure!(
            is_root() && find("apt-get").is_some(),
            "missing: {}. Install them, on Debian and its kin by `{line}` as root",
            packages.join(", ")
        );
        println!("setup: {line}");
        let apt = |words: &[&str]| {
            Command::new("apt-get")
                .args(words)
                .env("DEBIAN_FRONTEND", "noninteractive")
                .status()
        };
        let words: Vec<&str> = ["install", "-y", "-q", "--no-install-recommends"]
            .into_iter()
            .chain(packages.iter().copied())
            .collect();
        if !apt(&words)?.success() {
            // The package lists may be old, or absent as in a container image.
            apt(&["update", "-q"])?;
            ensure!(apt(&words)?.success(), "`{line}` failed");
        }
    }
    for component in ["rustfmt", "clippy"] {
        let tool = if component == "clippy" {
            "cargo-clippy"
        } else {
            "rustfmt"
        };
        let there = Command::new(tool)
            .arg("--version")
            .output()
            .is_ok_and(|out| out.status.success());
        if !there {
            println!("setup: rustup component add {component}");
            let added = Command::new("rustup")
                .args(["component", "add", component])
                .status()
                .is_ok_and(|status| status.success());
            ensure!(
                added,
                "{component} is missing, and `rustup component add {component}` failed"
            );
        }
    }
    if is_root() {
        ensure!(
            std::path::Path::new("/dev/net/tun").exists(),
            "/dev/net/tun is missing: load the tun module (`modprobe tun`)"
        );
    }
    Ok(())
}
