//! From a frame to the key that a policy is asked with, by the daemon's own parser; and what was read of one, as text.

use super::packet::Packet;
use crate::key::{DstClass, Frag, IpKind};
use crate::wit::types::{CtState, DepMask, Deps, FlowKey, Ip, Mac, TcpFlags};
use meshd_core::flow;
use meshd_core::frame::Frame;
use meshd_core::ident::Vni;

/// A packet's key.
///
/// # Errors
/// Why the daemon would not ask about it.
pub(crate) fn key(packet: &Packet) -> Result<FlowKey, String> {
    let (core, malformed) = parse(packet)?;
    if malformed {
        return Err("its headers contradict each other or are cut off".to_owned());
    }
    let mac = |mac: meshd_core::ident::MacAddr| {
        let [a, b, c, d, e, f] = mac.0;
        Mac {
            hi: u16::from_be_bytes([a, b]),
            lo: u32::from_be_bytes([c, d, e, f]),
        }
    };
    let dst = crate::Mac::new(core.dst_mac.0);
    let dst_class = match (dst, packet.unknown) {
        (crate::Mac::BROADCAST, _) => DstClass::Broadcast,
        (group, _) if group.is_group() => DstClass::Multicast,
        (_, true) => DstClass::UnicastUnknown,
        (_, false) => DstClass::UnicastKnown,
    };
    Ok(FlowKey {
        dir: packet.dir,
        in_port: packet.port,
        in_peer: packet.peer,
        tenant: packet.vni,
        src_identity: 0,
        dst_identity: 0,
        src_mac: mac(core.src_mac),
        dst_mac: mac(core.dst_mac),
        dst_class,
        ether_type: core.ether_type,
        vlan: core.vlan,
        pcp: core.pcp,
        inner_vlan: core.inner_vlan,
        ip_kind: match core.ip_kind {
            flow::IpKind::None => IpKind::None,
            flow::IpKind::V4 => IpKind::V4,
            flow::IpKind::V6 => IpKind::V6,
            flow::IpKind::ArpV4 => IpKind::ArpV4,
            flow::IpKind::NdV6 => IpKind::NdV6,
        },
        src_ip: halves(core.src_ip),
        dst_ip: halves(core.dst_ip),
        ip_proto: core.ip_proto,
        dscp: core.dscp,
        ecn: core.ecn,
        ttl: core.ttl,
        frag: match core.frag {
            flow::Frag::None => Frag::None,
            flow::Frag::First => Frag::First,
            flow::Frag::Later => Frag::Later,
        },
        l4_ok: core.l4_ok,
        src_port: core.src_port,
        dst_port: core.dst_port,
        tcp_flags: flags(core.tcp_flags),
        icmp_type: core.icmp_type,
        icmp_code: core.icmp_code,
        ct: packet.ct.unwrap_or(CtState::UNTRACKED),
        ct_mark: packet.mark,
    })
}

/// A packet on one line, as `meshd trace` shows it.
pub(crate) fn show(packet: &Packet) -> String {
    let Ok((core, _)) = parse(packet) else {
        return format!("{} bytes", packet.frame.len());
    };
    let mut out = meshd_core::flowtext::show(&core);
    if packet.peer != 0 {
        out += &format!(" from peer {}", packet.peer);
    }
    match packet.dir {
        crate::Direction::Egress => out += &format!(" to port {}", packet.port),
        crate::Direction::Ingress if packet.port != 1 => {
            out += &format!(" from port {}", packet.port)
        }
        crate::Direction::Ingress => {}
    }
    out
}

fn parse(packet: &Packet) -> Result<(flow::FlowKey, bool), String> {
    let vni = Vni::new(packet.vni).map_err(|e| e.to_string())?;
    let frame = Frame::parse(&packet.frame).map_err(|e| e.to_string())?;
    Ok((frame.flow_key(vni), frame.is_malformed()))
}

fn flags(bits: u16) -> TcpFlags {
    let order = crate::key::FLAGS.iter().enumerate();
    order
        .filter(|(bit, _)| bits >> bit & 1 == 1)
        .fold(TcpFlags::empty(), |all, (_, flag)| all | *flag)
}

pub(crate) fn halves(bits: u128) -> Ip {
    // 64 bits each.
    Ip {
        hi: (bits >> 64) as u64,
        lo: bits as u64,
    }
}

/// A fingerprint of all of a key (FNV-1a), in the order of the record in `wit/types.wit`.
pub(crate) fn digest(key: &FlowKey) -> u64 {
    let mac = |mac: &Mac| crate::key::mac(mac).bits();
    let words = [
        key.dir as u64,
        key.in_port.into(),
        key.in_peer,
        key.tenant.into(),
        key.src_identity.into(),
        key.dst_identity.into(),
        mac(&key.src_mac),
        mac(&key.dst_mac),
        key.dst_class as u64,
        key.ether_type.into(),
        key.vlan.into(),
        key.pcp.into(),
        key.inner_vlan.into(),
        key.ip_kind as u64,
        key.src_ip.hi,
        key.src_ip.lo,
        key.dst_ip.hi,
        key.dst_ip.lo,
        key.ip_proto.into(),
        key.dscp.into(),
        key.ecn.into(),
        key.ttl.into(),
        key.frag as u64,
        key.l4_ok.into(),
        key.src_port.into(),
        key.dst_port.into(),
        crate::key::flag_bits(key.tcp_flags).into(),
        key.icmp_type.into(),
        key.icmp_code.into(),
        key.ct.bits().into(),
        key.ct_mark.into(),
    ];
    words
        .iter()
        .flat_map(|word| word.to_be_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
}

/// What was read, by the names of `wit/types.wit` in its order.
pub(crate) fn names(deps: &DepMask) -> String {
    let whole = [
        (Deps::DIR, "dir"),
        (Deps::IN_PORT, "in-port"),
        (Deps::IN_PEER, "in-peer"),
        (Deps::TENANT, "tenant"),
        (Deps::SRC_IDENTITY, "src-identity"),
        (Deps::DST_IDENTITY, "dst-identity"),
        (Deps::SRC_MAC, "src-mac"),
        (Deps::DST_MAC, "dst-mac"),
        (Deps::DST_CLASS, "dst-class"),
        (Deps::ETHER_TYPE, "ether-type"),
        (Deps::VLAN, "vlan"),
        (Deps::PCP, "pcp"),
        (Deps::INNER_VLAN, "inner-vlan"),
        (Deps::IP_KIND, "ip-kind"),
        (Deps::IP_PROTO, "ip-proto"),
        (Deps::DSCP, "dscp"),
        (Deps::ECN, "ecn"),
        (Deps::TTL, "ttl"),
        (Deps::FRAG, "frag"),
        (Deps::L4_OK, "l4-ok"),
        (Deps::TCP_FLAGS, "tcp-flags"),
        (Deps::ICMP_TYPE, "icmp-type"),
        (Deps::ICMP_CODE, "icmp-code"),
        (Deps::CT, "ct"),
        (Deps::CT_MARK, "ct-mark"),
    ];
    let mut out: Vec<String> = whole
        .iter()
        .filter(|(bit, _)| deps.fields.contains(*bit))
        .map(|(_, name)| (*name).to_owned())
        .collect();
    let part = &deps.partial;
    for (name, len, all) in [
        ("src-mac", part.src_mac_prefix, 48),
        ("dst-mac", part.dst_mac_prefix, 48),
        ("src-ip", part.src_ip_prefix, 128),
        ("dst-ip", part.dst_ip_prefix, 128),
    ] {
        match len {
            0 => {}
            len if len == all => out.push(name.to_owned()),
            len => out.push(format!("{name}/{len}")),
        }
    }
    for (name, mask) in [
        ("src-port", part.src_port_mask),
        ("dst-port", part.dst_port_mask),
    ] {
        match mask {
            0 => {}
            u16::MAX => out.push(name.to_owned()),
            _ => out.push(format!("{name}/{mask:#06x}")),
        }
    }
    out.join(" ")
}
