//! The core's words and the guest's: a question becomes a key, a verdict becomes a decision.
//!
//! Every mask is closed over its prerequisites: a field is matched only together with the fields that give it meaning,
//! whatever the guest claimed (CVE-2023-1668 was a switch that left this out). Refuses verdicts that this host cannot carry out.

use crate::bindings::meshd::policy::types::{
    Action, CtState, DepMask, Deps, Direction as GuestDirection, DstClass as GuestClass,
    FloodMember, FloodSet as GuestSet, FlowKey as GuestKey, Frag as GuestFrag, Ip,
    IpKind as GuestKind, Mac, MirrorTo, OnPathLoss, Target, TcpFlags, Verdict,
};
use crate::fault::Fault;
use meshd_core::edit::{EDITS_MAX, Edit};
use meshd_core::fdb::LIFE_MS;
use meshd_core::flow::{Fields, FlowMask, Frag, IpKind};
use meshd_core::ident::{MacAddr, PortId};
use meshd_core::node::{Direction, DstClass, Question};
use meshd_core::policy::{FloodSet, Mirror, MirrorPlace, NamedPath, Orders, PathLost, Redirect};

/// Bytes of the shortest copy: an Ethernet header.
const COPY_MIN: u16 = 14;
/// Places that one verdict may mirror to.
const MIRRORS_MAX: usize = 4;
/// Meters, and labels, that one verdict may name.
const DUES_MAX: usize = 8;
/// Tags that one verdict may bear.
const TAGS_MAX: usize = 16;
/// Members of a flood set that one verdict may name.
const FLOOD_MAX: usize = 4096;

/// What one plugin decided about one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What it said.
    pub say: Say,
    /// The bits of the key that this rests on, closed over their prerequisites.
    pub mask: FlowMask,
    /// Whether it also rests on how the destination was found.
    pub read_dst_class: bool,
    /// False: it holds for this frame only.
    pub cacheable: bool,
    /// It holds for so many ms; `None`: as long as code and config.
    pub hard_ms: Option<u32>,
    /// And for so many ms without a frame; `None`: as long as anything is kept.
    pub idle_ms: Option<u32>,
    /// What else it wants.
    pub orders: Orders,
    /// Meters that apply, by their place in its config.
    pub meters: Vec<u32>,
    /// Labels that it is counted under.
    pub counts: Vec<u32>,
    /// Its controller gets so many bytes of the frame; 0: all.
    pub punt: Option<u16>,
    /// By which it may be taken back.
    pub tags: Vec<u32>,
    /// The group that has its target, by the plugin's own number.
    pub group: Option<u32>,
    /// The named flood set that it floods to, by the plugin's own number.
    pub flood_set: Option<u32>,
}

impl Decision {
    /// That and no more, having read nothing.
    #[must_use]
    pub fn of(say: Say) -> Self {
        Self {
            say,
            mask: FlowMask::default(),
            read_dst_class: false,
            cacheable: true,
            hard_ms: None,
            idle_ms: None,
            orders: Orders::default(),
            meters: Vec::new(),
            counts: Vec::new(),
            punt: None,
            tags: Vec::new(),
            group: None,
            flood_set: None,
        }
    }
}

/// What one plugin said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Say {
    /// Leaves it to the next plugin.
    Next,
    /// Pass, and do not ask the later ones.
    Accept,
    /// Refused.
    Drop {
        /// The plugin's own number for why.
        code: u16,
    },
}

/// The key of a question, in the contract's words.
#[must_use]
pub fn key(question: &Question) -> GuestKey {
    let key = &question.key;
    GuestKey {
        dir: match question.direction {
            Direction::Ingress => GuestDirection::Ingress,
            Direction::Egress => GuestDirection::Egress,
        },
        in_port: question.port.0,
        in_peer: question.peer.map_or(0, |node| node.handle()),
        tenant: question.vni.get(),
        src_identity: 0,
        dst_identity: 0,
        src_mac: mac(key.src_mac),
        dst_mac: mac(key.dst_mac),
        dst_class: match question.dst_class {
            DstClass::UnicastKnown => GuestClass::UnicastKnown,
            DstClass::UnicastUnknown => GuestClass::UnicastUnknown,
            DstClass::Multicast => GuestClass::Multicast,
            DstClass::Broadcast => GuestClass::Broadcast,
        },
        ether_type: key.ether_type,
        vlan: key.vlan,
        pcp: key.pcp,
        inner_vlan: key.inner_vlan,
        ip_kind: match key.ip_kind {
            IpKind::None => GuestKind::None,
            IpKind::V4 => GuestKind::V4,
            IpKind::V6 => GuestKind::V6,
            IpKind::ArpV4 => GuestKind::ArpV4,
            IpKind::NdV6 => GuestKind::NdV6,
        },
        src_ip: ip(key.src_ip),
        dst_ip: ip(key.dst_ip),
        ip_proto: key.ip_proto,
        dscp: key.dscp,
        ecn: key.ecn,
        ttl: key.ttl,
        frag: match key.frag {
            Frag::None => GuestFrag::None,
            Frag::First => GuestFrag::First,
            Frag::Later => GuestFrag::Later,
        },
        l4_ok: key.l4_ok,
        src_port: key.src_port,
        dst_port: key.dst_port,
        tcp_flags: tcp_flags(key.tcp_flags),
        icmp_type: key.icmp_type,
        icmp_code: key.icmp_code,
        ct: ct_state(key.ct),
        ct_mark: key.ct_mark,
    }
}

/// The other way round, for what a controller writes: the fields that a mask can name.
pub(crate) fn flow_key(key: &GuestKey, vni: meshd_core::ident::Vni) -> meshd_core::flow::FlowKey {
    meshd_core::flow::FlowKey {
        src_mac: mac_addr(key.src_mac),
        dst_mac: mac_addr(key.dst_mac),
        ether_type: key.ether_type,
        vlan: key.vlan,
        pcp: key.pcp,
        inner_vlan: key.inner_vlan,
        ip_kind: match key.ip_kind {
            GuestKind::None => IpKind::None,
            GuestKind::V4 => IpKind::V4,
            GuestKind::V6 => IpKind::V6,
            GuestKind::ArpV4 => IpKind::ArpV4,
            GuestKind::NdV6 => IpKind::NdV6,
        },
        src_ip: ip_bits(key.src_ip),
        dst_ip: ip_bits(key.dst_ip),
        ip_proto: key.ip_proto,
        dscp: key.dscp,
        ecn: key.ecn,
        ttl: key.ttl,
        frag: match key.frag {
            GuestFrag::None => Frag::None,
            GuestFrag::First => Frag::First,
            GuestFrag::Later => Frag::Later,
        },
        l4_ok: key.l4_ok,
        src_port: key.src_port,
        dst_port: key.dst_port,
        tcp_flags: tcp_bits(key.tcp_flags),
        icmp_type: key.icmp_type,
        icmp_code: key.icmp_code,
        ct: core_ct(key.ct),
        ct_mark: key.ct_mark,
        ..meshd_core::flow::FlowKey::blank(vni)
    }
}

/// The key of a frame of no protocol: every plugin has to have an answer to it.
pub(crate) fn warm_up() -> GuestKey {
    GuestKey {
        dir: GuestDirection::Ingress,
        in_port: 0,
        in_peer: 0,
        tenant: 0,
        src_identity: 0,
        dst_identity: 0,
        src_mac: Mac { hi: 0x0200, lo: 1 },
        dst_mac: Mac { hi: 0x0200, lo: 2 },
        dst_class: GuestClass::UnicastUnknown,
        ether_type: 0x88b5, // IEEE 802, local experimental
        vlan: 0,
        pcp: 0,
        inner_vlan: 0,
        ip_kind: GuestKind::None,
        src_ip: Ip { hi: 0, lo: 0 },
        dst_ip: Ip { hi: 0, lo: 0 },
        ip_proto: 0,
        dscp: 0,
        ecn: 0,
        ttl: 0,
        frag: GuestFrag::None,
        l4_ok: false,
        src_port: 0,
        dst_port: 0,
        tcp_flags: TcpFlags::empty(),
        icmp_type: 0,
        icmp_code: 0,
        ct: CtState::UNTRACKED,
        ct_mark: 0,
    }
}

const CT: [(meshd_core::conntrack::CtState, CtState); 5] = {
    use meshd_core::conntrack::CtState as Core;
    [
        (Core::NEW, CtState::NEW),
        (Core::ESTABLISHED, CtState::ESTABLISHED),
        (Core::RELATED, CtState::RELATED),
        (Core::REPLY, CtState::REPLY),
        (Core::INVALID, CtState::INVALID),
    ]
};

fn ct_state(state: meshd_core::conntrack::CtState) -> CtState {
    if state == meshd_core::conntrack::CtState::UNTRACKED {
        return CtState::UNTRACKED;
    }
    CT.iter()
        .filter(|(core, _)| state.has(*core))
        .fold(CtState::empty(), |all, (_, guest)| all | *guest)
}

fn core_ct(state: CtState) -> meshd_core::conntrack::CtState {
    let untracked = meshd_core::conntrack::CtState::UNTRACKED;
    CT.iter()
        .filter(|(_, guest)| state.contains(*guest))
        .fold(untracked, |all, (core, _)| all.with(*core))
}

fn mac(MacAddr([a, b, c, d, e, f]): MacAddr) -> Mac {
    Mac {
        hi: u16::from_be_bytes([a, b]),
        lo: u32::from_be_bytes([c, d, e, f]),
    }
}

fn ip(bits: u128) -> Ip {
    // The halves of 128 bits have 64 each.
    Ip {
        hi: (bits >> 64) as u64,
        lo: bits as u64,
    }
}

fn ip_bits(ip: Ip) -> u128 {
    u128::from(ip.hi) << 64 | u128::from(ip.lo)
}

/// In the order of their bits.
const TCP: [TcpFlags; 9] = [
    TcpFlags::FIN,
    TcpFlags::SYN,
    TcpFlags::RST,
    TcpFlags::PSH,
    TcpFlags::ACK,
    TcpFlags::URG,
    TcpFlags::ECE,
    TcpFlags::CWR,
    TcpFlags::NS,
];

fn tcp_bits(flags: TcpFlags) -> u16 {
    let set = TCP
        .iter()
        .enumerate()
        .filter(|(_, flag)| flags.contains(**flag));
    set.fold(0, |bits, (at, _)| bits | 1 << at)
}

fn tcp_flags(bits: u16) -> TcpFlags {
    TCP.iter()
        .enumerate()
        .filter(|(i, _)| bits >> i & 1 == 1)
        .fold(TcpFlags::empty(), |all, (_, flag)| all | *flag)
}

/// What a verdict on a question of this direction comes to.
pub(crate) fn decision(verdict: &Verdict, direction: Direction) -> Result<Decision, Fault> {
    let mut orders = Orders::default();
    let mut say = Say::Next;
    let (mut meters, mut counts) = (Vec::new(), Vec::new());
    let (mut punt, mut group, mut flood_set) = (None, None, None);
    match &verdict.target {
        Target::Next => {}
        Target::Accept => say = Say::Accept,
        Target::Drop(reason) => {
            orders.reject = reason.reject;
            say = Say::Drop { code: reason.code };
        }
        Target::Port(port) => orders.redirect = Some(Redirect::Port(PortId(*port))),
        Target::Peer(peer) => orders.redirect = Some(Redirect::Peer(*peer)),
        Target::Path(path) => {
            orders.redirect = Some(Redirect::Path(NamedPath {
                peer: path.peer,
                way: path.path,
                lost: match path.lost {
                    OnPathLoss::HostChoice => PathLost::HostChoice,
                    OnPathLoss::Drop => PathLost::Drop,
                    OnPathLoss::AskAgain => PathLost::AskAgain,
                },
            }));
        }
        Target::Group(number) => group = Some(*number),
        Target::Flood(GuestSet::Named(number)) => flood_set = Some(*number),
        Target::Flood(set) => orders.flood = flood(set)?,
    }
    let placed = orders.redirect.is_some() || group.is_some();
    if direction == Direction::Egress && (placed || orders.flood.is_some() || flood_set.is_some()) {
        return Err(Fault::Verdict {
            what: "at egress a frame is at its receiver already: give targets `port`, `peer`, `path`, `group` and `flood` at ingress only"
                .to_owned(),
        });
    }
    for action in &verdict.actions {
        match action {
            Action::Mirror((to, bytes)) => {
                let to = match to {
                    MirrorTo::Port(port) => MirrorPlace::Port(PortId(*port)),
                    MirrorTo::Peer(peer) => MirrorPlace::Peer(*peer),
                    MirrorTo::Session(_) => return Err(Fault::Verdict {
                        what: "this host has no capture sessions: mirror to a port, or to a member"
                            .to_owned(),
                    }),
                };
                let bytes = match bytes {
                    0 => 0,
                    bytes => bounded("the length of a mirror's copy", *bytes, COPY_MIN..=u16::MAX)?,
                };
                orders.mirrors.insert(Mirror { to, bytes });
            }
            Action::PushVlan(vid) => {
                orders
                    .edits
                    .push(Edit::PushVlan(bounded("push-vlan", *vid, 1..=4094)?))
            }
            Action::PopVlan => orders.edits.push(Edit::PopVlan),
            Action::SetVlan(vid) => {
                orders
                    .edits
                    .push(Edit::SetVlan(bounded("set-vlan", *vid, 1..=4094)?))
            }
            Action::SetPcp(pcp) => {
                orders
                    .edits
                    .push(Edit::SetPcp(bounded("set-pcp", *pcp, 0..=7)?))
            }
            Action::SetDscp(dscp) => {
                orders
                    .edits
                    .push(Edit::SetDscp(bounded("set-dscp", *dscp, 0..=63)?))
            }
            Action::SetSrcMac(mac) => orders.edits.push(Edit::SetSrcMac(mac_addr(*mac))),
            Action::SetDstMac(mac) => orders.edits.push(Edit::SetDstMac(mac_addr(*mac))),
            Action::SetCtMark(mark) => orders.ct_mark = Some(*mark),
            Action::CtCommit => orders.commit = true,
            Action::Meter(meter) => meters.push(*meter),
            Action::Count(label) => counts.push(*label),
            Action::Learn(ms) => {
                let ms = bounded("learn", *ms, LIFE_MS)?;
                orders.learn_ms = Some(orders.learn_ms.map_or(ms, |least| least.min(ms)));
            }
            Action::Punt(bytes) => {
                punt = Some(match (punt, *bytes) {
                    (Some(0), _) | (_, 0) => 0,
                    (before, bytes) => before.map_or(bytes, |before: u16| before.max(bytes)),
                });
            }
        }
        if meters.len() > DUES_MAX || counts.len() > DUES_MAX {
            return Err(Fault::Verdict {
                what: format!("it names more than {DUES_MAX} meters or labels"),
            });
        }
        if orders.edits.len() > EDITS_MAX {
            return Err(Fault::Verdict {
                what: format!("it changes more than {EDITS_MAX} things"),
            });
        }
    }
    if direction == Direction::Egress && orders.learn_ms.is_some() {
        return Err(Fault::Verdict {
            what: "at egress a frame has passed where its source is learned: give `learn` at ingress only"
                .to_owned(),
        });
    }
    if direction == Direction::Egress && !orders.edits.is_empty() {
        return Err(Fault::Verdict {
            what: "at egress a frame is at its receiver already: change it at ingress only"
                .to_owned(),
        });
    }
    if orders.mirrors.len() > MIRRORS_MAX {
        return Err(Fault::Verdict {
            what: format!("it mirrors to more than {MIRRORS_MAX} places"),
        });
    }
    let tags = &verdict.life.tags;
    if tags.len() > TAGS_MAX {
        return Err(Fault::Verdict {
            what: format!("it bears more than {TAGS_MAX} tags"),
        });
    }
    Ok(Decision {
        say,
        mask: mask(&verdict.deps)?.with_prerequisites(),
        read_dst_class: verdict.deps.fields.contains(Deps::DST_CLASS),
        cacheable: verdict.life.cacheable,
        hard_ms: (verdict.life.hard_ms > 0).then_some(verdict.life.hard_ms),
        idle_ms: (verdict.life.idle_ms > 0).then_some(verdict.life.idle_ms),
        orders,
        meters,
        counts,
        punt,
        tags: tags.clone(),
        group,
        flood_set,
    })
}

/// As claimed, without the prerequisites.
pub(crate) fn mask(deps: &DepMask) -> Result<FlowMask, Fault> {
    let (claimed, parts) = (deps.fields, &deps.partial);
    Ok(FlowMask {
        src_mac: if claimed.contains(Deps::SRC_MAC) {
            48
        } else {
            bits("src-mac-prefix", parts.src_mac_prefix, 48)?
        },
        dst_mac: if claimed.contains(Deps::DST_MAC) {
            48
        } else {
            bits("dst-mac-prefix", parts.dst_mac_prefix, 48)?
        },
        fields: fields(claimed),
        src_ip: bits("src-ip-prefix", parts.src_ip_prefix, 128)?,
        dst_ip: bits("dst-ip-prefix", parts.dst_ip_prefix, 128)?,
        src_port: parts.src_port_mask,
        dst_port: parts.dst_port_mask,
    })
}

/// `None`: all.
fn flood(set: &GuestSet) -> Result<Option<FloodSet>, Fault> {
    match set {
        GuestSet::Whole => Ok(None),
        GuestSet::None => Ok(Some(FloodSet::default())),
        // Of the attachment, which knows them.
        GuestSet::Named(_) => Ok(None),
        GuestSet::Only(members) if members.len() > FLOOD_MAX => Err(Fault::Verdict {
            what: format!("its flood set has more than {FLOOD_MAX} members"),
        }),
        GuestSet::Only(members) => {
            let mut set = FloodSet::default();
            for member in members {
                match member {
                    FloodMember::Port(port) => set.ports.insert(PortId(*port)),
                    FloodMember::Peer(peer) => set.peers.insert(*peer),
                };
            }
            Ok(Some(set))
        }
    }
}

fn bounded<T: Copy + PartialOrd + core::fmt::Display>(
    name: &str,
    value: T,
    range: core::ops::RangeInclusive<T>,
) -> Result<T, Fault> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (low, high) = (range.start(), range.end());
    Err(Fault::Verdict {
        what: format!("{name} is {value}, and must be {low} to {high}"),
    })
}

pub(crate) fn mac_addr(mac: Mac) -> MacAddr {
    let ([a, b], [c, d, e, f]) = (mac.hi.to_be_bytes(), mac.lo.to_be_bytes());
    MacAddr([a, b, c, d, e, f])
}

fn bits(name: &str, claimed: u8, width: u8) -> Result<u8, Fault> {
    if claimed <= width {
        Ok(claimed)
    } else {
        Err(Fault::Verdict {
            what: format!("{name} is {claimed}, and the field has {width} bits"),
        })
    }
}

/// Direction, port, peer and network are matched in any case; identities do not vary yet.
fn fields(claimed: Deps) -> Fields {
    const SAME: [(Deps, Fields); 16] = [
        (Deps::ETHER_TYPE, Fields::ETHER_TYPE),
        (Deps::VLAN, Fields::VLAN),
        (Deps::PCP, Fields::PCP),
        (Deps::INNER_VLAN, Fields::INNER_VLAN),
        (Deps::IP_KIND, Fields::IP_KIND),
        (Deps::IP_PROTO, Fields::IP_PROTO),
        (Deps::DSCP, Fields::DSCP),
        (Deps::ECN, Fields::ECN),
        (Deps::TTL, Fields::TTL),
        (Deps::FRAG, Fields::FRAG),
        (Deps::L4_OK, Fields::L4_OK),
        (Deps::TCP_FLAGS, Fields::TCP_FLAGS),
        (Deps::ICMP_TYPE, Fields::ICMP_TYPE),
        (Deps::ICMP_CODE, Fields::ICMP_CODE),
        (Deps::CT, Fields::CT),
        (Deps::CT_MARK, Fields::CT_MARK),
    ];
    SAME.iter()
        .filter(|(dep, _)| claimed.contains(*dep))
        .fold(Fields::default(), |all, (_, field)| all.with(*field))
}
