//! Other Layer 2 meshes in user space, with a TAP and a shared or exchanged key.

use super::{Entry, Program, Site, System, site::write};
use crate::netns::{ip, output};
use anyhow::Result;
use std::process::Command;

/// In Rust, with the same cipher by the same library as meshd.
pub(super) const VPNCLOUD: Entry = Entry {
    id: "vpncloud",
    title: "vpncloud",
    layer: 2,
    cipher: "AES-128-GCM",
    pair: 0,
    program: Some(Program {
        name: "vpncloud",
        version: "--version",
        get: "cargo install --locked vpncloud",
    }),
    up: vpncloud,
};

/// In C, of community networks.
pub(super) const FASTD: Entry = Entry {
    id: "fastd",
    title: "fastd",
    layer: 2,
    cipher: "AES-128-CTR, UMAC",
    pair: 0,
    program: Some(Program {
        name: "fastd",
        version: "--version",
        get: "apt-get install fastd",
    }),
    up: fastd,
};

fn vpncloud(site: &Site<'_>) -> Result<System> {
    let mut daemons = Vec::new();
    for side in [0, 1] {
        let (netns, far) = (&site.host(side).netns, site.underlay(1 - side));
        // It asks the kernel for the way to the world, and ends where there is none.
        ip(&format!("-n {netns} route replace default via {far}"))?;
        let words = format!(
            "--no-port-forwarding --device {} --type tap --mode switch --algorithm aes128 --password bench --listen 3210 \
             --no-auto-claim --ip {}/24 --connect {far}:3210",
            site.device(side),
            site.end(side)
        );
        daemons.push(site.daemon(side, "vpncloud", |command| {
            command.args(words.split_whitespace());
        })?);
    }
    // UDP and IPv4 28, its header and tag 24, Ethernet 14 and what padding it may add.
    site.done_with(daemons, site.setting.mtu - 80)
}

fn fastd(site: &Site<'_>) -> Result<System> {
    let folder = site.folder()?;
    let program = site.program("fastd")?;
    let mut keys = Vec::new();
    for side in [0, 1] {
        let words = ["--generate-key", "--machine-readable"];
        let secret = output(Command::new(&program).args(words))?;
        let config = format!("secret \"{}\";\n", secret.trim());
        let file = write(&folder, &format!("key-{side}.conf"), &config)?;
        let words = ["--show-key", "--machine-readable", "-c"];
        let public = output(Command::new(&program).args(words).arg(file))?;
        keys.push((secret.trim().to_owned(), public.trim().to_owned()));
    }
    // UDP and IPv4 28, its header 24, Ethernet 14.
    let mtu = site.setting.mtu - 70;
    let mut daemons = Vec::new();
    for side in [0, 1] {
        let [own, far] = [side, 1 - side].map(|side| format!("{}:10000", site.underlay(side)));
        // Only one side calls: where both do at once, each may hold a session that the other has not.
        let remote = if side == 1 {
            format!("remote {far};")
        } else {
            String::new()
        };
        let config = format!(
            "log level warn; mode tap; interface \"{}\"; method \"aes128-ctr+umac\"; mtu {mtu};\n\
             bind {own}; secret \"{}\"; peer \"far\" {{ key \"{}\"; {remote} }}\n",
            site.device(side),
            keys[side].0,
            keys[1 - side].1
        );
        let file = write(&folder, &format!("{side}.conf"), &config)?;
        daemons.push(site.daemon(side, "fastd", |command| {
            command.arg("-c").arg(file);
        })?);
    }
    site.done_with(daemons, mtu)
}
