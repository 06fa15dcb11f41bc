//! What a guest said, in the words of a golden trace: what it answered before any of it is closed over or composed.
//!
//! The SDK writes the same traces of the same policy as native code, so every word here is one of `sdk/src/test`.

use crate::bindings::meshd::policy::types::{
    Action, CtState, DepMask, Deps, FloodSet, FlowKey as GuestKey, Mac, MirrorTo, Target, Verdict,
};
use crate::convert;
use core::fmt::Write as _;
use meshd_core::node::Question;

/// A guest's verdict, for people, and what it cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// `next`, `drop telnet`, `port 3 for 1000 ms`.
    pub verdict: String,
    /// What it claims to have read, by the names of `wit/types.wit` in its order.
    pub reads: String,
    /// Units that the decision used up.
    pub fuel: u64,
}

impl Words {
    /// Of a package that has no policy.
    pub(crate) fn nothing() -> Self {
        Self {
            verdict: "next".to_owned(),
            reads: String::new(),
            fuel: 0,
        }
    }
}

/// A fingerprint of all that a guest is told of a question (FNV-1a), in the order of the record in `wit/types.wit`.
#[must_use]
pub fn key_print(question: &Question) -> u64 {
    let key = convert::key(question);
    words(&key, question.key.tcp_flags & 0x1ff)
        .iter()
        .flat_map(|word| word.to_be_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
}

fn words(key: &GuestKey, tcp_flags: u16) -> [u64; 31] {
    let mac = |mac: &Mac| u64::from(mac.hi) << 32 | u64::from(mac.lo);
    [
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
        tcp_flags.into(),
        key.icmp_type.into(),
        key.icmp_code.into(),
        ct_bits(key.ct).into(),
        key.ct_mark.into(),
    ]
}

/// In the order of `ct-state`.
fn ct_bits(state: CtState) -> u8 {
    let order = [
        CtState::UNTRACKED,
        CtState::NEW,
        CtState::ESTABLISHED,
        CtState::RELATED,
        CtState::REPLY,
        CtState::INVALID,
    ];
    order.iter().enumerate().fold(0, |all, (bit, flag)| {
        all | u8::from(state.contains(*flag)) << bit
    })
}

/// As the SDK says it; `name` knows the codes that have one.
pub(crate) fn verdict(verdict: &Verdict, name: &dyn Fn(u16) -> Option<String>) -> String {
    let mut out = match &verdict.target {
        Target::Next => "next".to_owned(),
        Target::Accept => "accept".to_owned(),
        Target::Drop(reason) => {
            let word = if reason.reject { "reject" } else { "drop" };
            let why = name(reason.code).unwrap_or_else(|| reason.code.to_string());
            format!("{word} {why}")
        }
        Target::Port(port) => format!("port {port}"),
        Target::Peer(peer) => format!("peer {peer}"),
        Target::Group(number) => format!("group {number}"),
        Target::Flood(FloodSet::Named(number)) => format!("flood set {number}"),
        Target::Flood(FloodSet::None) => "flood nobody".to_owned(),
        other => format!("{other:?}").to_lowercase(),
    };
    // Writing to a String cannot fail.
    for action in &verdict.actions {
        let _ = match action {
            Action::PushVlan(vid) => write!(out, ", push-vlan {vid}"),
            Action::PopVlan => write!(out, ", pop-vlan"),
            Action::SetVlan(vid) => write!(out, ", set-vlan {vid}"),
            Action::SetPcp(pcp) => write!(out, ", set-pcp {pcp}"),
            Action::SetDscp(dscp) => write!(out, ", set-dscp {dscp}"),
            Action::SetSrcMac(mac) => write!(out, ", set-src-mac {}", convert::mac_addr(*mac)),
            Action::SetDstMac(mac) => write!(out, ", set-dst-mac {}", convert::mac_addr(*mac)),
            Action::CtCommit => write!(out, ", ct-commit"),
            Action::SetCtMark(mark) => write!(out, ", set-ct-mark {mark}"),
            Action::Meter(at) => write!(out, ", meter {at}"),
            Action::Count(label) => write!(out, ", count {label}"),
            Action::Punt(bytes) => write!(out, ", punt {bytes}"),
            Action::Mirror((to, bytes)) => {
                let _ = match to {
                    MirrorTo::Port(port) => write!(out, ", mirror {port}"),
                    MirrorTo::Peer(peer) => write!(out, ", mirror peer {peer}"),
                    MirrorTo::Session(session) => write!(out, ", mirror session {session}"),
                };
                match bytes {
                    0 => Ok(()),
                    bytes => write!(out, " cut {bytes}"),
                }
            }
            Action::Learn(ms) => write!(out, ", learn {ms} ms"),
        };
    }
    if !verdict.life.cacheable {
        out += " uncached";
    }
    for tag in &verdict.life.tags {
        let _ = write!(out, " tag {tag}");
    }
    for (word, ms) in [
        ("for", verdict.life.hard_ms),
        ("idle", verdict.life.idle_ms),
    ] {
        if ms != 0 {
            let _ = write!(out, " {word} {ms} ms");
        }
    }
    out
}

/// As the SDK says it.
pub(crate) fn reads(deps: &DepMask) -> String {
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
    let named = whole.iter().filter(|(bit, _)| deps.fields.contains(*bit));
    let mut out: Vec<String> = named.map(|(_, name)| (*name).to_owned()).collect();
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
            mask => out.push(format!("{name}/{mask:#06x}")),
        }
    }
    out.join(" ")
}
