//! WireGuard in user space, set up over its configuration socket (the cross-platform interface of wireguard-go, which
//! boringtun has too), so that wg(8) is not needed.

use super::{Entry, Program, Site, System};
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// In Go, by the authors of WireGuard.
pub(super) const WIREGUARD_GO: Entry = Entry {
    id: "wireguard-go",
    title: "wireguard-go",
    layer: 3,
    cipher: "ChaCha20-Poly1305",
    pair: 0,
    program: Some(Program {
        name: "wireguard-go",
        version: "--version",
        get: "apt-get install wireguard-go, of Debian 13 or later: older ones have no superframes",
    }),
    up: wireguard_go,
};

/// In Rust, by Cloudflare.
pub(super) const BORINGTUN: Entry = Entry {
    id: "boringtun",
    title: "boringtun",
    layer: 3,
    cipher: "ChaCha20-Poly1305",
    pair: 0,
    program: Some(Program {
        name: "boringtun-cli",
        version: "--version",
        get: "cargo install --locked boringtun-cli",
    }),
    up: boringtun,
};

/// Key pairs of RFC 7748, section 6.1: secret, public. Nothing here is to be kept secret.
const KEYS: [(&str, &str); 2] = [
    (
        "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
        "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
    ),
    (
        "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
        "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
    ),
];

fn wireguard_go(site: &Site<'_>) -> Result<System> {
    up(site, "wireguard-go", &["--foreground"])
}

fn boringtun(site: &Site<'_>) -> Result<System> {
    let words = [
        "--foreground",
        "--disable-drop-privileges",
        "--verbosity",
        "error",
    ];
    up(site, "boringtun-cli", &words)
}

fn up(site: &Site<'_>, program: &str, words: &[&str]) -> Result<System> {
    let mut daemons = Vec::new();
    for side in [0, 1] {
        let daemon = site.daemon(side, program, |command| {
            command.args(words).arg(site.device(side));
        })?;
        daemons.push(daemon.leaving(socket(site, side)));
        configure(site, side).with_context(|| format!("set up {program}"))?;
    }
    // IPv4 and UDP 28, WireGuard's header and tag 32: `wg-quick` says 80, for IPv6.
    site.done_with(daemons, site.setting.mtu - 60)
}

fn socket(site: &Site<'_>, side: usize) -> String {
    format!("/var/run/wireguard/{}.sock", site.device(side))
}

fn configure(site: &Site<'_>, side: usize) -> Result<()> {
    let path = socket(site, side);
    let mut socket = None;
    crate::wait("its socket", Duration::from_secs(5), || {
        socket = UnixStream::connect(&path).ok();
        Ok(socket.is_some())
    })?;
    let mut socket = socket.context("no socket")?;
    let (own, far) = (KEYS[side].0, KEYS[1 - side].1);
    let far_end = site.end(1 - side);
    // Both programs may be up on one host.
    let port = 51820 + u16::from(site.number);
    let mut text = format!("set=1\nprivate_key={own}\nlisten_port={port}\npublic_key={far}\n");
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "endpoint={}:{port}\nallowed_ip={far_end}/32\n\n",
        site.underlay(1 - side)
    );
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.write_all(text.as_bytes())?;
    let mut answer = [0; 64];
    let len = socket.read(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer[..len]);
    ensure!(answer.contains("errno=0"), "it refused: {answer:?}");
    Ok(())
}
