//! Where the built guests are, and questions to ask them.
#![allow(dead_code, unreachable_pub)] // each test file uses a part of it

use meshd_core::flow::{FlowKey, Frag, IpKind};
use meshd_core::ident::{MacAddr, PortId, Vni};
use meshd_core::node::{Direction, DstClass, Question};
use meshd_plugin_host::{Engine, Instance, Limits, Plugin};
use std::path::{Path, PathBuf};

/// The folder with the components: `MESHD_PLUGINS`, or `plugins` in cargo's target folder.
fn folder() -> PathBuf {
    if let Some(dir) = std::env::var_os("MESHD_PLUGINS") {
        return dir.into();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), |dir| root.join(dir))
        .join("plugins")
}

/// The component of a guest.
pub fn component(name: &str) -> Vec<u8> {
    let path = folder().join(format!("{name}.wasm"));
    std::fs::read(&path)
        .unwrap_or_else(|e| panic!("{}: {e}: run `cargo xtask plugins` first", path.display()))
}

/// A guest with a config.
pub fn instance(name: &str, config: &str) -> Instance {
    Instance::new(&plugin(name), config, 1).unwrap_or_else(|e| panic!("{e}"))
}

/// A guest.
pub fn plugin(name: &str) -> Plugin {
    let engine = Engine::new(Limits::default()).unwrap_or_else(|e| panic!("{e}"));
    Plugin::load(&engine, &component(name)).unwrap_or_else(|e| panic!("{e}"))
}

/// The first frame of a TCP connection from 10.0.0.1:4000 to 10.0.0.2.
pub fn tcp_to(port: u16) -> Question {
    let vni = Vni::new(7).unwrap_or_else(|e| panic!("{e}"));
    let v4 = |host: u128| 0xffff_0a00_0000 + host;
    Question {
        vni,
        direction: Direction::Ingress,
        port: PortId(1),
        peer: None,
        key: FlowKey {
            vni,
            src_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            dst_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            ether_type: 0x0800,
            vlan: 0,
            pcp: 0,
            inner_vlan: 0,
            ip_kind: IpKind::V4,
            src_ip: v4(1),
            dst_ip: v4(2),
            ip_proto: 6,
            dscp: 0,
            ecn: 0,
            ttl: 64,
            frag: Frag::None,
            l4_ok: true,
            src_port: 4000,
            dst_port: port,
            tcp_flags: 2,
            icmp_type: 0,
            icmp_code: 0,
            ..FlowKey::blank(vni)
        },
        dst_class: DstClass::UnicastKnown,
    }
}
