//! Offload: which rulings the kernel's gates can hold, which they hold now, and what stands in the way of the others.
//!
//! ```text
//!   ruling on an upcall --consider--> GateFlow --> Output::Gate(Open) --> the gate of the port, or of the VXLAN device
//!                          | Obstacle                                     (until the epoch moves, and it is looked at again)
//!                          v
//!                    stays in the datapath; `meshd flows` names the obstacle
//! ```
//!
//! Owns the table of flows that the kernel holds and the words for what it cannot. Refuses to decide what a frame may do: it
//! copies rulings, and only those whose every condition a gate can check. A gate knows two kinds of entries:
//!
//! * a **pair**: entrance, both MACs, EtherType. For rulings that looked at nothing else.
//! * a **flow**: also protocol, addresses and ports, all exact. For rulings that looked at any of these.
//!
//! Both are for whole, untagged frames. ARP and neighbour discovery pass no gate.

use crate::dues::Dues;
use crate::flow::{Fields, FlowKey, FlowMask, Frag, IpKind, Origin};
use crate::frame::{ETHER_IPV4, ETHER_IPV6};
use crate::ident::{Epoch, MacAddr, Moment, NodeId, PortId, Vni};
use crate::neighbor::is_neighborly;
use crate::ruling::{Action, Output};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most flows that the kernel holds for this node.
pub const FLOWS_MAX: usize = 32_768;
/// Most paths that the kernel knows; slot 0 is no path.
pub const SLOTS_MAX: u32 = 16_384;
/// How long after its port came up a source's frames stay with the daemon, in ms: others have to hear of the source first.
pub const FRESH_MS: u64 = 500;

/// Where a frame meets a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entrance {
    /// A port's veth.
    Port(PortId),
    /// The VXLAN device of a network.
    Vxlan(Vni),
}

/// Which frames an entry of a gate lets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GateMatch {
    /// Where they come in.
    pub entrance: Entrance,
    /// From.
    pub src_mac: MacAddr,
    /// To.
    pub dst_mac: MacAddr,
    /// What is in them.
    pub ether_type: u16,
    /// More conditions; `None`: a pair.
    pub l4: Option<GateL4>,
}

/// The conditions of a flow, beyond those of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GateL4 {
    /// IP protocol or IPv6 upper-layer number.
    pub ip_proto: u8,
    /// As in [`FlowKey`].
    pub src_ip: u128,
    /// As in [`FlowKey`].
    pub dst_ip: u128,
    /// Source port; the type of ICMP and ICMPv6.
    pub src_port: u16,
    /// Destination port; the code of ICMP and ICMPv6.
    pub dst_port: u16,
}

/// A path, as the kernel's gates number it; [`PathSlot::NONE`] is always open.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct PathSlot(pub u32);

impl PathSlot {
    /// For frames that take no path: they stay on this host.
    pub const NONE: Self = Self(0);
}

/// Frames that never met the daemon: the kernel knew the rulings. A superframe counts as its segments, and has one header. They came
/// from, or went to, whatever it is told of: a port, or a path to a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct KernelTraffic {
    /// Frames that came from it.
    pub rx_frames: u64,
    /// Their bytes, from the destination MAC on.
    pub rx_bytes: u64,
    /// Frames that went to it.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
}

impl KernelTraffic {
    /// Each figure of the one joined with that of the other.
    #[must_use]
    pub fn each(self, with: Self, join: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            rx_frames: join(self.rx_frames, with.rx_frames),
            rx_bytes: join(self.rx_bytes, with.rx_bytes),
            tx_frames: join(self.tx_frames, with.tx_frames),
            tx_bytes: join(self.tx_bytes, with.tx_bytes),
        }
    }

    /// The sum of both.
    #[must_use]
    pub fn and(self, more: Self) -> Self {
        self.each(more, u64::saturating_add)
    }
}

/// One entry of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateFlow {
    /// Which frames pass.
    pub matches: GateMatch,
    /// They do as long as this is no older than the gates' epoch …
    pub epoch: Epoch,
    /// … and it is not later than this …
    pub until: Option<Moment>,
    /// … and this path is open.
    pub slot: PathSlot,
    /// The port of this node that they go to, whose traffic they are; `None`: they leave the node.
    pub to: Option<PortId>,
}

/// What the gates are to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GateOp {
    /// Let these pass; an entry with the same match is replaced.
    Open(GateFlow),
    /// Let them pass no longer.
    Close(GateMatch),
    /// Entries of earlier epochs let nothing pass any more.
    Epoch(Epoch),
    /// Entries on this path let frames pass, or do not.
    Path {
        /// Its number.
        slot: PathSlot,
        /// From now on.
        open: bool,
    },
}

macro_rules! obstacles {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What keeps a ruling out of the kernel: the first thing that does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
        pub enum Obstacle { $($(#[$doc])* $name,)* }

        impl Obstacle {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// One sentence for an operator.
            #[must_use]
            pub fn explain(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

obstacles! {
    /// See the text.
    NoGate = "this network has no bridge in the kernel: see `meshd doctor`, or `fast_path` under [kernel] in the config",
    /// See the text.
    NotForwarded = "frames that are dropped or answered here are seen to by the daemon",
    /// See the text.
    NotCached = "the ruling holds for this one frame only",
    /// See the text.
    Neighbor = "ARP and neighbour discovery are always looked at by the daemon",
    /// See the text.
    Flooded = "it has more than one receiver, or is for a group",
    /// See the text.
    Redirected = "policy sends it elsewhere than its destination MAC is, and the kernel knows places by MAC",
    /// See the text.
    Idle = "policy wants it forgotten after a time without frames that the gates do not keep",
    /// See the text.
    Edited = "policy changes MACs, tags or DSCP, which the gates do not",
    /// See the text.
    Metered = "policy meters it, and meters are kept by the daemon",
    /// See the text.
    Punted = "policy sends copies of it to a controller, which the gates do not",
    /// See the text.
    Counted = "policy counts it, and the counters are kept by the daemon",
    /// See the text.
    Mirrored = "policy wants copies of it, which the gates do not make",
    /// See the text.
    Service = "it is from or for the node's own name service",
    /// See the text.
    Uplink = "it is from or for the LAN behind an uplink, whose guards the daemon keeps",
    /// See the text.
    Tagged = "it bears a VLAN tag, or is no Ethernet II frame",
    /// See the text.
    Fragment = "it is a fragment, and policy looks at ports",
    /// See the text.
    ReadsIpHeader = "policy looks at DSCP, ECN or TTL, which the gates do not",
    /// See the text.
    ReadsTcpFlags = "policy looks at TCP flags, which the gates do not",
    /// See the text.
    Tracked = "policy looks at the state of its connection, or enters it, and only the daemon sees connections",
    /// See the text.
    ReadsMacBits = "policy looks at parts of a MAC, VLAN or EtherType in a way that the gates do not",
    /// See the text.
    Headers = "policy looks at headers that this packet does not have",
    /// See the text.
    Steered = "another way to the peer than kernel VXLAN is the best one for it: see `meshd paths`",
    /// See the text.
    PathIsQuic = "the path to the peer is QUIC: see `meshd paths`",
    /// See the text.
    NotWired = "the kernel does not know the destination yet",
    /// See the text.
    TurnsBack = "it would leave by the VXLAN device that it came in by, which a bridge does not do",
    /// See the text.
    Fresh = "the source is new, and the other nodes are being told of it",
    /// See the text.
    TableFull = "the kernel holds as many flows as it may",
}

/// What the switch knows of the kernel's side of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plane {
    /// MACs that the bridge delivers to ports of this node.
    pub here: BTreeMap<MacAddr, PortId>,
    /// MACs behind foreign VTEPs that it delivers by VXLAN, and the port that stands for these.
    pub foreign: BTreeMap<MacAddr, PortId>,
    /// MACs that it delivers by VXLAN, and the node of each.
    pub there: BTreeMap<MacAddr, NodeId>,
    /// Open paths.
    pub open: BTreeMap<NodeId, PathSlot>,
    /// Numbers of all paths, for counting what comes in.
    pub slots: BTreeMap<NodeId, PathSlot>,
    /// There is a VXLAN device, so frames may come in by it.
    pub vxlan: bool,
}

/// A ruling, as it is considered.
pub(crate) struct Considered<'a> {
    pub(crate) origin: Origin,
    /// The node that sent it, if it comes from one.
    pub(crate) sender: Option<NodeId>,
    pub(crate) key: &'a FlowKey,
    pub(crate) action: &'a Action,
    /// Policy sent it elsewhere than its destination MAC is.
    pub(crate) redirected: bool,
    /// Policy changes it.
    pub(crate) edited: bool,
    /// Policy has an order about its connection.
    pub(crate) tracked: bool,
    /// Policy sends it to a controller.
    pub(crate) punted: bool,
    /// Policy wants copies.
    pub(crate) copied: bool,
    /// Policy meters or counts it.
    pub(crate) dues: Option<&'a Dues>,
    pub(crate) mask: Option<&'a FlowMask>,
    pub(crate) epoch: Epoch,
    pub(crate) until: Option<Moment>,
}

/// The entry that holds this ruling, or what is in the way.
pub(crate) fn consider(plane: Option<&Plane>, c: &Considered<'_>) -> Result<GateFlow, Obstacle> {
    let key = c.key;
    let Action::Forward(to) = c.action else {
        return Err(Obstacle::NotForwarded);
    };
    if is_neighborly(key.ip_kind) {
        return Err(Obstacle::Neighbor);
    }
    let Some(plane) = plane else {
        return Err(Obstacle::NoGate);
    };
    let [output] = to[..] else {
        return Err(Obstacle::Flooded);
    };
    if key.dst_mac.is_group() || !key.src_mac.is_source() {
        return Err(Obstacle::Flooded);
    }
    if c.redirected {
        return Err(Obstacle::Redirected);
    }
    if c.edited {
        return Err(Obstacle::Edited);
    }
    if c.tracked {
        return Err(Obstacle::Tracked);
    }
    if c.copied {
        return Err(Obstacle::Mirrored);
    }
    if c.punted {
        return Err(Obstacle::Punted);
    }
    if let Some(dues) = c.dues {
        return Err(match dues.has_meters() {
            true => Obstacle::Metered,
            false => Obstacle::Counted,
        });
    }
    let mask = c.mask.ok_or(Obstacle::NotCached)?;
    let l4 = conditions(key, mask)?;
    let entrance = match c.origin {
        Origin::Port(port) => {
            // A port that is not on the bridge is the service's, or has just come.
            if plane.here.get(&key.src_mac) != Some(&port) {
                return Err(Obstacle::NotWired);
            }
            Entrance::Port(port)
        }
        Origin::Peer(_) | Origin::Vxlan(_) if !plane.vxlan => return Err(Obstacle::PathIsQuic),
        Origin::Peer(_) | Origin::Vxlan(_) => Entrance::Vxlan(key.vni),
    };
    let (slot, to) = match output {
        Output::Port(port) => {
            let by_vxlan = plane.foreign.get(&key.dst_mac) == Some(&port);
            if by_vxlan && entrance == Entrance::Vxlan(key.vni) {
                return Err(Obstacle::TurnsBack);
            }
            if plane.here.get(&key.dst_mac) != Some(&port) && !by_vxlan {
                return Err(Obstacle::NotWired);
            }
            // Counted by the peer's path, so that what comes in proves it.
            let slot = c.sender.and_then(|node| plane.slots.get(&node).copied());
            (slot.unwrap_or(PathSlot::NONE), (!by_vxlan).then_some(port))
        }
        Output::Peer(_) if entrance == Entrance::Vxlan(key.vni) => {
            return Err(Obstacle::TurnsBack);
        }
        Output::Peer(node) => {
            let slot = plane.open.get(&node).ok_or(Obstacle::PathIsQuic)?;
            if plane.there.get(&key.dst_mac) != Some(&node) {
                return Err(Obstacle::NotWired);
            }
            (*slot, None)
        }
    };
    Ok(GateFlow {
        matches: GateMatch {
            entrance,
            src_mac: key.src_mac,
            dst_mac: key.dst_mac,
            ether_type: key.ether_type,
            l4,
        },
        epoch: c.epoch,
        until: c.until,
        slot,
        to,
    })
}

/// What an entry has to check beyond the pair, for a ruling with this mask to hold for all that pass.
fn conditions(key: &FlowKey, mask: &FlowMask) -> Result<Option<GateL4>, Obstacle> {
    // Tagged frames pass no gate, so "no tag" is checked for any mask.
    if key.vlan != 0 || key.pcp != 0 || key.inner_vlan != 0 || key.ether_type < 0x0600 {
        return Err(Obstacle::Tagged);
    }
    let reads = |fields: Fields| mask.fields.meets(fields);
    if reads(Fields::TTL.with(Fields::DSCP).with(Fields::ECN)) {
        return Err(Obstacle::ReadsIpHeader);
    }
    if reads(Fields::TCP_FLAGS) {
        return Err(Obstacle::ReadsTcpFlags);
    }
    if reads(Fields::CT.with(Fields::CT_MARK)) {
        return Err(Obstacle::Tracked);
    }
    if mask.src_mac < 48 || mask.dst_mac < 48 || !mask.fields.has(Fields::ETHER_TYPE) {
        // The walk always matches these in full; a ruling that does not is none of its making.
        return Err(Obstacle::ReadsMacBits);
    }
    let l4 = Fields::IP_PROTO
        .with(Fields::FRAG)
        .with(Fields::L4_OK)
        .with(Fields::ICMP_TYPE)
        .with(Fields::ICMP_CODE);
    let ports = mask.src_port != 0 || mask.dst_port != 0;
    if !reads(l4) && !ports && mask.src_ip == 0 && mask.dst_ip == 0 {
        // The gate lets no packet pass that does not parse as what its EtherType says, so the kind is checked too.
        let whole = match key.ether_type {
            ETHER_IPV4 => key.ip_kind == IpKind::V4,
            ETHER_IPV6 => key.ip_kind == IpKind::V6,
            _ => key.ip_kind == IpKind::None,
        };
        return if whole {
            Ok(None)
        } else {
            Err(Obstacle::Headers)
        };
    }
    if key.frag != Frag::None {
        return Err(Obstacle::Fragment);
    }
    let icmp = matches!(
        (key.ip_kind, key.ip_proto),
        (IpKind::V4, 1) | (IpKind::V6, 58)
    );
    let with_ports = matches!(key.ip_proto, 6 | 17 | 132);
    if !matches!(key.ip_kind, IpKind::V4 | IpKind::V6) || !key.l4_ok || !(icmp || with_ports) {
        return Err(Obstacle::Headers);
    }
    let (src_port, dst_port) = if icmp {
        (u16::from(key.icmp_type), u16::from(key.icmp_code))
    } else {
        (key.src_port, key.dst_port)
    };
    Ok(Some(GateL4 {
        ip_proto: key.ip_proto,
        src_ip: key.src_ip,
        dst_ip: key.dst_ip,
        src_port,
        dst_port,
    }))
}

/// The fields of a key that are not zero, as a mask, for showing what an entry looks at.
#[must_use]
pub fn shown_mask(key: &FlowKey) -> FlowMask {
    let l4 = key.l4_ok;
    let ip = |ip: u128| if l4 && ip != 0 { 128 } else { 0 };
    let fields = Fields::ETHER_TYPE.with(Fields::IP_KIND);
    FlowMask {
        src_mac: 48,
        dst_mac: 48,
        fields: if l4 {
            fields.with(Fields::IP_PROTO).with(Fields::L4_OK)
        } else {
            fields
        },
        src_ip: ip(key.src_ip),
        dst_ip: ip(key.dst_ip),
        src_port: if l4 && key.src_port != 0 { 0xffff } else { 0 },
        dst_port: if l4 && key.dst_port != 0 { 0xffff } else { 0 },
    }
}

/// What is kept of a flow that the kernel holds, so that it can be looked at again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Whose frames they are.
    pub origin: Origin,
    /// One of them.
    pub key: FlowKey,
    /// The ruling's key under its mask: the megaflow that it belongs to.
    pub megaflow: FlowKey,
    /// As the gate has it.
    pub flow: GateFlow,
    /// Since when the kernel holds it.
    pub since: Moment,
}

/// The flows that the kernel holds.
#[derive(Debug, Default)]
pub struct Offloads {
    flows: BTreeMap<GateMatch, Kept>,
}

impl Offloads {
    /// Notes a flow; false if there is no room for one more.
    pub(crate) fn insert(&mut self, mut kept: Kept) -> bool {
        match self.flows.get(&kept.flow.matches) {
            Some(before) => kept.since = before.since,
            None if self.flows.len() >= FLOWS_MAX => return false,
            None => {}
        }
        self.flows.insert(kept.flow.matches, kept);
        true
    }

    /// Forgets a flow; false if it was not there.
    pub(crate) fn remove(&mut self, matches: &GateMatch) -> bool {
        self.flows.remove(matches).is_some()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Kept> {
        self.flows.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    pub(crate) fn take(&mut self) -> BTreeMap<GateMatch, Kept> {
        std::mem::take(&mut self.flows)
    }
}

impl GateMatch {
    /// A key of a frame that this entry lets pass: all that the gate looks at, and nothing else.
    #[must_use]
    pub fn key(&self, vni: Vni) -> FlowKey {
        let mut key = FlowKey::blank(vni);
        (key.src_mac, key.dst_mac, key.ether_type) = (self.src_mac, self.dst_mac, self.ether_type);
        key.ip_kind = match self.ether_type {
            ETHER_IPV4 => IpKind::V4,
            ETHER_IPV6 => IpKind::V6,
            _ => IpKind::None,
        };
        if let Some(l4) = &self.l4 {
            (key.ip_proto, key.src_ip, key.dst_ip) = (l4.ip_proto, l4.src_ip, l4.dst_ip);
            key.l4_ok = true;
            if matches!(
                (key.ip_kind, l4.ip_proto),
                (IpKind::V4, 1) | (IpKind::V6, 58)
            ) {
                // They came from one byte each.
                key.icmp_type = u8::try_from(l4.src_port).unwrap_or(u8::MAX);
                key.icmp_code = u8::try_from(l4.dst_port).unwrap_or(u8::MAX);
            } else {
                (key.src_port, key.dst_port) = (l4.src_port, l4.dst_port);
            }
        }
        key
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::flow::tests::any_mask;
    use proptest::prelude::*;

    const SRC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const DST: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn tcp() -> FlowKey {
        let mut key = FlowKey::blank(Vni::new(7).unwrap());
        (key.src_mac, key.dst_mac, key.ether_type) = (SRC, DST, ETHER_IPV4);
        (key.ip_kind, key.ip_proto, key.l4_ok) = (IpKind::V4, 6, true);
        (key.src_ip, key.dst_ip) = (0xffff_0a00_0001, 0xffff_0a00_0002);
        (key.src_port, key.dst_port, key.ttl) = (4000, 80, 64);
        key
    }

    fn pair_mask() -> FlowMask {
        FlowMask {
            src_mac: 48,
            dst_mac: 48,
            fields: Fields::ETHER_TYPE.with(Fields::IP_KIND),
            ..FlowMask::default()
        }
    }

    fn plane() -> Plane {
        let node = NodeId([9; 32]);
        Plane {
            here: [(SRC, PortId(1)), (MacAddr([2, 0, 0, 0, 0, 3]), PortId(3))].into(),
            foreign: BTreeMap::new(),
            there: [(DST, node)].into(),
            open: [(node, PathSlot(4))].into(),
            slots: [(node, PathSlot(4))].into(),
            vxlan: true,
        }
    }

    fn try_it(key: &FlowKey, mask: &FlowMask, plane: &Plane) -> Result<GateFlow, Obstacle> {
        let action = Action::Forward([Output::Peer(NodeId([9; 32]))].into());
        consider(
            Some(plane),
            &Considered {
                origin: Origin::Port(PortId(1)),
                sender: None,
                key,
                action: &action,
                redirected: false,
                edited: false,
                tracked: false,
                punted: false,
                copied: false,
                dues: None,
                mask: Some(mask),
                epoch: Epoch(5),
                until: None,
            },
        )
    }

    #[test]
    fn a_ruling_that_looked_at_macs_alone_is_a_pair_and_one_that_looked_at_a_port_is_a_flow() {
        let pair = try_it(&tcp(), &pair_mask(), &plane()).unwrap();
        assert_eq!((pair.matches.l4, pair.slot), (None, PathSlot(4)));
        let mask = FlowMask {
            dst_port: 0xffff,
            ..pair_mask()
        }
        .with_prerequisites();
        let flow = try_it(&tcp(), &mask, &plane()).unwrap();
        assert_eq!(
            flow.matches.l4.map(|l4| (l4.src_port, l4.dst_port)),
            Some((4000, 80))
        );
    }

    #[test]
    fn each_obstacle_is_named() {
        let at = |change: &dyn Fn(&mut FlowKey, &mut FlowMask, &mut Plane)| {
            let (mut key, mut mask, mut plane) = (tcp(), pair_mask(), plane());
            change(&mut key, &mut mask, &mut plane);
            try_it(&key, &mask, &plane).unwrap_err()
        };
        assert_eq!(at(&|_, _, p| p.open.clear()), Obstacle::PathIsQuic);
        assert_eq!(at(&|_, _, p| p.there.clear()), Obstacle::NotWired);
        assert_eq!(at(&|_, _, p| p.here.clear()), Obstacle::NotWired);
        assert_eq!(at(&|k, _, _| k.vlan = 0x1005), Obstacle::Tagged);
        assert_eq!(
            at(&|_, m, _| m.fields = m.fields.with(Fields::TTL)),
            Obstacle::ReadsIpHeader
        );
        assert_eq!(
            at(&|_, m, _| m.fields = m.fields.with(Fields::TCP_FLAGS)),
            Obstacle::ReadsTcpFlags
        );
        assert_eq!(
            at(&|_, m, _| m.fields = m.fields.with(Fields::CT)),
            Obstacle::Tracked
        );
        assert_eq!(
            at(&|_, m, _| m.fields = m.fields.with(Fields::CT_MARK)),
            Obstacle::Tracked
        );
        assert_eq!(
            at(&|k, m, _| {
                k.frag = Frag::Later;
                *m = FlowMask { dst_port: 1, ..*m }.with_prerequisites();
            }),
            Obstacle::Fragment
        );
        assert_eq!(
            at(&|k, _, _| k.dst_mac = MacAddr::BROADCAST),
            Obstacle::Flooded
        );
        assert_eq!(at(&|k, _, _| k.ip_kind = IpKind::ArpV4), Obstacle::Neighbor);
    }

    #[test]
    fn what_came_by_vxlan_is_not_left_to_a_bridge_that_would_send_it_back_by_vxlan() {
        let mut plane = plane();
        plane.foreign.insert(DST, PortId(7));
        let key = tcp();
        for to in [Output::Peer(NodeId([9; 32])), Output::Port(PortId(7))] {
            let considered = Considered {
                origin: Origin::Vxlan(key.vni),
                sender: None,
                key: &key,
                action: &Action::Forward([to].into()),
                redirected: false,
                edited: false,
                tracked: false,
                punted: false,
                copied: false,
                dues: None,
                mask: Some(&pair_mask()),
                epoch: Epoch(5),
                until: None,
            };
            assert_eq!(
                consider(Some(&plane), &considered),
                Err(Obstacle::TurnsBack)
            );
        }
    }

    proptest! {
        /// Soundness: whatever mask a ruling has, each frame that its entry lets pass is one that the ruling speaks of.
        #[test]
        fn what_an_entry_lets_pass_the_ruling_covers(mask in any_mask(), other in any::<(u8, u8, u16, u16, u16)>()) {
            let mask = FlowMask { fields: mask.fields.with(Fields::ETHER_TYPE), src_mac: 48, dst_mac: 48, ..mask }.with_prerequisites();
            let key = tcp();
            if let Ok(flow) = try_it(&key, &mask, &plane()) {
                // Another frame that matches the entry: what the entry does not look at is anything.
                let mut frame = flow.matches.key(key.vni);
                frame.ttl = other.0;
                frame.dscp = other.1 & 63;
                frame.tcp_flags = other.2;
                if flow.matches.l4.is_none() {
                    (frame.src_port, frame.dst_port, frame.l4_ok, frame.ip_proto) = (other.3, other.4, true, 17);
                }
                prop_assert_eq!(mask.apply(&frame), mask.apply(&key));
            }
        }
    }
}
