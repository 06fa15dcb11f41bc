//! The reference tunnel: what this machine can do at most with superframes and one cipher, and no protocol around it. The
//! program is `interop-tests/src/bin/reference-tunnel.rs`.

use super::{Entry, Program, Site, System};
use anyhow::Result;

/// A limit, not a peer.
pub(super) const REFERENCE: Entry = Entry {
    id: "reference-tunnel",
    title: "reference tunnel",
    layer: 2,
    cipher: "AES-128-GCM",
    pair: 0,
    program: Some(Program {
        name: "reference-tunnel",
        version: "",
        get: "cargo build --release -p interop-tests --bin reference-tunnel",
    }),
    up,
};

fn up(site: &Site<'_>) -> Result<System> {
    let mut daemons = Vec::new();
    for side in [0, 1] {
        let [own, far] = [side, 1 - side].map(|side| format!("{}:4400", site.underlay(side)));
        let mtu = site.setting.mtu.to_string();
        daemons.push(site.daemon(side, "reference-tunnel", |command| {
            command.args([&site.device(side), &own, &far, &mtu]);
        })?);
    }
    // UDP and IPv4 28, its own header and tag 24, Ethernet and virtio-net 24: a frame of this size is one datagram.
    site.done_with(daemons, site.setting.mtu - 76)
}
