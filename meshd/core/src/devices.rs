//! Host devices: the dummies, bonds, VLAN sub-interfaces, bridges and macvlans that the configuration wishes this host to have.
//!
//! ```text
//!   [[device.bond]] … (config/device.rs) --> Wishes --+
//!                                                     +-- plan --> tasks, in order --> the shell does them
//!   all devices of the host -- observe (shell) --> Scene         \-> what waits, and for what
//! ```
//!
//! Owns their shapes and what a scene shows of them; `plan.rs` compares. Not to be mixed up with what ports and networks have
//! in the kernel (`crate::plan`): a host device is the operator's, and lasts as long as it stands in the file.

mod plan;
mod shim;
mod station;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod station_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use plan::{Plan, Step, Task, plan};
pub use shim::{HostRoute, shim_name, with_shims};
pub use station::{Macvlan, Place};

use crate::ident::{IfName, Label, MacAddr};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a host is to have, by name.
pub type Wishes = BTreeMap<IfName, Wish>;

/// A device that is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Its kind and settings.
    pub shape: Shape,
    /// Its MAC; `None`: one that stays the same for this node and name, and for a VLAN that of its parent.
    pub mac: Option<MacAddr>,
    /// Bytes of layer 3 payload; `None`: as the kernel has it.
    pub mtu: Option<u32>,
    /// Addresses that we give it, each with its prefix.
    pub addresses: BTreeSet<IpNet>,
    /// Devices that are to be in it, each with its VLANs there; `None`: as the bridge has it.
    pub members: BTreeMap<IfName, Option<Vlans>>,
    /// The member that is taken while it works.
    pub primary: Option<IfName>,
    /// VLANs of a bridge's own port; `None`: as the kernel has it.
    pub own_vlans: Option<Vlans>,
    /// Name, in the domain of the mesh, of what answers at its addresses.
    pub service: Option<Label>,
    /// The namespace that it is put into; `None`: it stays with the host.
    pub place: Option<Place>,
    /// Of a macvlan: addresses that the host finds behind it, besides those in a namespace.
    pub reach: BTreeSet<IpAddr>,
    /// Of a macvlan: the host is to reach it.
    pub shim: bool,
    /// Of a shim: what the host reaches by it.
    pub routes: BTreeSet<HostRoute>,
    /// Of a shim: addresses of the host that it answers for (RFC 4861 §7.2.8).
    pub proxies: BTreeSet<Ipv6Addr>,
}

impl Wish {
    /// A device of this shape, without anything else.
    #[must_use]
    pub fn of(shape: Shape) -> Self {
        Self {
            shape,
            mac: None,
            mtu: None,
            addresses: BTreeSet::new(),
            members: BTreeMap::new(),
            primary: None,
            own_vlans: None,
            service: None,
            place: None,
            reach: BTreeSet::new(),
            shim: false,
            routes: BTreeSet::new(),
            proxies: BTreeSet::new(),
        }
    }

    /// The devices that must be there before it.
    pub fn lower(&self) -> impl Iterator<Item = &IfName> {
        self.members.keys().chain(self.shape.parent())
    }
}

/// The kind of a device, with what its kind is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A device that is always up and carries nothing: a place for addresses.
    Dummy,
    /// Several devices as one.
    Bond(Bond),
    /// The frames of another device that bear one tag.
    Vlan(Vlan),
    /// A switch.
    Bridge(Bridge),
    /// A bridge that somebody else made: nothing of it is ours but the members that we put in.
    Adopted,
    /// A station of its own on the LAN behind another device.
    Macvlan(Macvlan),
    /// A macvlan by which the host reaches the stations on this device: see [`with_shims`].
    Shim(IfName),
}

impl Shape {
    /// In a word, as the file has it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Dummy => "dummy",
            Self::Bond(_) => "bond",
            Self::Vlan(_) => "vlan",
            Self::Bridge(_) | Self::Adopted => "bridge",
            Self::Macvlan(macvlan) if macvlan.tap => "macvtap",
            Self::Macvlan(_) | Self::Shim(_) => "macvlan",
        }
    }

    /// The device that it stands upon.
    #[must_use]
    pub fn parent(&self) -> Option<&IfName> {
        match self {
            Self::Vlan(vlan) => Some(&vlan.parent),
            Self::Macvlan(macvlan) => Some(&macvlan.parent),
            Self::Shim(parent) => Some(parent),
            Self::Dummy | Self::Bond(_) | Self::Bridge(_) | Self::Adopted => None,
        }
    }

    /// May a device of this shape become the other one while it lives?
    fn becomes(&self, wished: &Self) -> bool {
        matches!((self, wished), (Self::Bridge(_), Self::Bridge(_))) || self == wished
    }
}

/// How a bond picks among its members (Documentation/networking/bonding.rst, `mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum BondMode {
    /// Each packet by the next.
    #[serde(rename = "balance-rr")]
    BalanceRr,
    /// One works, the others wait.
    #[default]
    #[serde(rename = "active-backup")]
    ActiveBackup,
    /// By a hash of the packet.
    #[serde(rename = "balance-xor")]
    BalanceXor,
    /// All by all.
    #[serde(rename = "broadcast")]
    Broadcast,
    /// By a hash, among those that LACP agreed on (IEEE 802.1AX).
    #[serde(rename = "802.3ad")]
    Lacp,
    /// By load, sending.
    #[serde(rename = "balance-tlb")]
    BalanceTlb,
    /// By load, both ways.
    #[serde(rename = "balance-alb")]
    BalanceAlb,
}

impl BondMode {
    /// All, in the order of the kernel's numbers (`BOND_MODE_*` of linux/if_bonding.h).
    pub const ALL: [Self; 7] = [
        Self::BalanceRr,
        Self::ActiveBackup,
        Self::BalanceXor,
        Self::Broadcast,
        Self::Lacp,
        Self::BalanceTlb,
        Self::BalanceAlb,
    ];

    /// Is the choice made by a hash?
    #[must_use]
    pub fn hashes(self) -> bool {
        matches!(self, Self::BalanceXor | Self::Lacp | Self::BalanceTlb)
    }

    /// Can ARP tell whether a member works?
    #[must_use]
    pub fn takes_arp(self) -> bool {
        !matches!(self, Self::Lacp | Self::BalanceTlb | Self::BalanceAlb)
    }

    /// Is there one member that works more than the others?
    #[must_use]
    pub fn has_primary(self) -> bool {
        matches!(
            self,
            Self::ActiveBackup | Self::BalanceTlb | Self::BalanceAlb
        )
    }
}

/// What of a packet a hash is made of (`xmit_hash_policy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum BondHash {
    /// MACs and EtherType.
    #[default]
    #[serde(rename = "layer2")]
    Layer2,
    /// Addresses and ports.
    #[serde(rename = "layer3+4")]
    Layer34,
    /// MACs and addresses.
    #[serde(rename = "layer2+3")]
    Layer23,
    /// Addresses inside of a tunnel too.
    #[serde(rename = "encap2+3")]
    Encap23,
    /// Addresses and ports inside of a tunnel too.
    #[serde(rename = "encap3+4")]
    Encap34,
}

impl BondHash {
    /// All, in the order of the kernel's numbers (`BOND_XMIT_POLICY_*`).
    pub const ALL: [Self; 5] = [
        Self::Layer2,
        Self::Layer34,
        Self::Layer23,
        Self::Encap23,
        Self::Encap34,
    ];
}

/// How often LACP speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum LacpRate {
    /// Every 30 s.
    #[default]
    Slow,
    /// Every second.
    Fast,
}

/// Which of several aggregates LACP takes (`ad_select`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum LacpSelect {
    /// Keep it while it works.
    #[default]
    Stable,
    /// The fastest.
    Bandwidth,
    /// That of the most members.
    Count,
}

/// How it is known that a member works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Monitor {
    /// By its carrier.
    Mii {
        /// Looked at so often; 0: never.
        every_ms: u32,
        /// A member that comes back counts after so long.
        up_ms: u32,
        /// A member that is lost counts as lost after so long.
        down_ms: u32,
    },
    /// By answers to ARP.
    Arp {
        /// Asked so often.
        every_ms: u32,
        /// Who is asked, at most 16.
        targets: Vec<Ipv4Addr>,
    },
}

/// Settings of a bond.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bond {
    /// How members are picked.
    pub mode: BondMode,
    /// How it is known which work.
    pub monitor: Monitor,
    /// Of what a hash is made, where there is one.
    pub hash: BondHash,
    /// With LACP.
    pub lacp_rate: LacpRate,
    /// With LACP.
    pub lacp_select: LacpSelect,
    /// The bond has a carrier while so many members work, with LACP.
    pub min_links: u32,
}

/// The tag of a VLAN sub-interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// Whose frames.
    pub parent: IfName,
    /// 1 to 4094.
    pub id: u16,
    /// The tag's EtherType.
    pub protocol: VlanProtocol,
}

/// EtherType of a VLAN tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum VlanProtocol {
    /// 0x8100: a customer's tag.
    #[default]
    #[serde(rename = "802.1q")]
    Customer,
    /// 0x88a8: a provider's tag, around a customer's (QinQ).
    #[serde(rename = "802.1ad")]
    Provider,
}

impl VlanProtocol {
    /// In host order.
    #[must_use]
    pub fn ethertype(self) -> u16 {
        match self {
            Self::Customer => 0x8100,
            Self::Provider => 0x88a8,
        }
    }
}

/// Settings of a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Spanning tree (IEEE 802.1D).
    pub stp: bool,
    /// Its priority there; the lower becomes the root.
    pub priority: u16,
    /// Multicast goes only where somebody listens (RFC 4541).
    pub multicast_snooping: bool,
    /// Ask who listens, if no router does.
    pub multicast_querier: bool,
    /// Keep VLANs apart (IEEE 802.1Q).
    pub vlan_filtering: bool,
}

impl Default for Bridge {
    fn default() -> Self {
        Self {
            stp: false,
            priority: 0x8000,
            multicast_snooping: true,
            multicast_querier: false,
            vlan_filtering: false,
        }
    }
}

/// VLANs of a bridge port, by id.
pub type Vlans = BTreeMap<u16, Tagging>;

/// How a bridge port has a VLAN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tagging {
    /// Frames without a tag that come in are of it.
    pub pvid: bool,
    /// Frames of it leave without a tag.
    pub untagged: bool,
}

impl Tagging {
    /// Of an access port.
    pub const ACCESS: Self = Self {
        pvid: true,
        untagged: true,
    };
    /// Of a trunk.
    pub const TRUNK: Self = Self {
        pvid: false,
        untagged: false,
    };
}

/// What a port of a filtering bridge has if nothing else is said.
#[must_use]
pub fn default_vlans() -> Vlans {
    [(1, Tagging::ACCESS)].into()
}

/// All devices of a host, by name.
pub type Scene = BTreeMap<IfName, Seen>;

/// A device, as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// It bears our mark as a host device.
    pub ours: bool,
    /// It is a part of what meshd itself has in the kernel: a port's or a network's.
    pub reserved: bool,
    /// Its shape, where it is one that we make, with settings such as we make.
    pub shape: Option<Shape>,
    /// The kernel's word for its kind; empty for what has none, such as a card.
    pub kind: String,
    /// What our mark says that we put into it.
    pub put: BTreeSet<IfName>,
    /// Its address.
    pub mac: Option<MacAddr>,
    /// In bytes.
    pub mtu: u32,
    /// As an operator set it.
    pub up: bool,
    /// Something is at the other end, as far as it can tell.
    pub carrier: bool,
    /// The bond or bridge that it is in.
    pub master: Option<IfName>,
    /// The device that it stands upon, in this namespace.
    pub parent: Option<IfName>,
    /// Its addresses beyond link scope; true: one that we gave it.
    pub addresses: BTreeMap<IpNet, bool>,
    /// Of a bond: the member that it prefers.
    pub primary: Option<IfName>,
    /// Of a bond: the member that it sends by, where that is one.
    pub active: Option<IfName>,
    /// Its VLANs as a bridge port, or as a bridge.
    pub vlans: Vlans,
    /// The namespace that it is in, as its wish has it; `None`: the host's.
    pub place: Option<Place>,
    /// An uplink of a network takes all its frames.
    pub uplink: bool,
    /// Its frames go by radio.
    pub wireless: bool,
    /// Of a shim.
    pub routes: BTreeSet<HostRoute>,
    /// Of a shim.
    pub proxies: BTreeSet<Ipv6Addr>,
    /// Of a macvtap: its file, or why there is none.
    pub file: Option<Result<Vec<u8>, String>>,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dummy => f.write_str("dummy"),
            Self::Bond(bond) => {
                let mode = match bond.mode {
                    BondMode::BalanceRr => "balance-rr",
                    BondMode::ActiveBackup => "active-backup",
                    BondMode::BalanceXor => "balance-xor",
                    BondMode::Broadcast => "broadcast",
                    BondMode::Lacp => "802.3ad",
                    BondMode::BalanceTlb => "balance-tlb",
                    BondMode::BalanceAlb => "balance-alb",
                };
                write!(f, "bond {mode}")
            }
            Self::Vlan(vlan) => {
                let protocol = match vlan.protocol {
                    VlanProtocol::Customer => "",
                    VlanProtocol::Provider => " 802.1ad",
                };
                write!(f, "vlan {}{protocol} on {}", vlan.id, vlan.parent)
            }
            Self::Bridge(bridge) => {
                f.write_str("bridge")?;
                for (is_on, word) in [
                    (bridge.stp, " stp"),
                    (!bridge.multicast_snooping, " no snooping"),
                    (bridge.vlan_filtering, " vlans"),
                ] {
                    if is_on {
                        f.write_str(word)?;
                    }
                }
                Ok(())
            }
            Self::Adopted => f.write_str("bridge, adopted"),
            Self::Macvlan(it) => {
                write!(f, "{} {} on {}", self.word(), it.mode.word(), it.parent)
            }
            Self::Shim(parent) => write!(f, "shim on {parent}"),
        }
    }
}
