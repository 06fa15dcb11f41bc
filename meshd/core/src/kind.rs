//! What a port is made of: a veth, an interface of the host, a place in a bridge of the host, a macvlan or a macvtap.
//!
//! Owns the words and their bounds. What they mean for frames is decided in `pipeline.rs` and `guard.rs`; what they mean for the
//! kernel is the shell's.

use crate::attach::refusal;
use crate::code::ErrorCode;
use crate::command::{AttachSpec, IpSpec, Refusal};
use crate::ident::MacAddr;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// Source MACs behind an uplink, unless its spec says otherwise.
pub const UPLINK_MACS: u16 = 1024;
/// Most that a spec may ask for: as many as a network learns.
pub const UPLINK_MACS_MAX: u16 = 4096;
/// Most MACs of [`MacvlanMode::Source`].
pub const SOURCES_MAX: usize = 64;

/// What a port is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum PortKind {
    /// A veth pair, whose far end is in the namespace.
    #[default]
    Veth,
    /// An interface that is there already, in the daemon's namespace: the LAN behind it joins the network.
    Uplink(UplinkSpec),
    /// A bridge that somebody else made, in the daemon's namespace: the port is a port of it, and all that is in it joins the
    /// network. It has no VLAN.
    Bridge(UplinkSpec),
    /// A macvlan in the namespace, over a veth of its own.
    Macvlan(MacvlanSpec),
    /// A macvtap in the namespace, over a veth of its own: `/dev/tapN` is for a virtual machine.
    Macvtap(MacvlanSpec),
}

impl PortKind {
    /// The part of the way to a LAN, if it is one: an uplink, or a bridge.
    #[must_use]
    pub fn uplink(&self) -> Option<&UplinkSpec> {
        match self {
            Self::Uplink(uplink) | Self::Bridge(uplink) => Some(uplink),
            _ => None,
        }
    }

    /// The macvlan's or macvtap's part, if it is one.
    #[must_use]
    pub fn macvlan(&self) -> Option<&MacvlanSpec> {
        match self {
            Self::Macvlan(spec) | Self::Macvtap(spec) => Some(spec),
            _ => None,
        }
    }

    /// The VLAN of an interface that the port takes; `None`: all that others do not take.
    #[must_use]
    pub fn vlan(&self) -> Option<u16> {
        self.uplink()?.vlan
    }

    /// True if the port is kept while what it stands on is missing, also if that was never there.
    #[must_use]
    pub fn waits(&self) -> bool {
        matches!(self, Self::Bridge(_))
    }

    /// `veth`, `uplink`, `bridge`, `macvlan`, `macvtap`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Uplink(_) => "uplink",
            Self::Bridge(_) => "bridge",
            Self::Macvlan(_) => "macvlan",
            Self::Macvtap(_) => "macvtap",
        }
    }
}

/// An uplink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct UplinkSpec {
    /// Only frames with this tag of 802.1Q, 1 to 4094, which is taken off and put on again; `None`: all frames that no other
    /// uplink on the interface takes, with their tags.
    pub vlan: Option<u16>,
    /// What may cross between this LAN and other sites.
    pub allow: BTreeSet<Crossing>,
    /// Source MACs behind it, at most; `None`: [`UPLINK_MACS`].
    pub macs: Option<u16>,
}

/// Traffic that stays at its site unless an uplink lets it pass: what configures or advertises a LAN is for that LAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Crossing {
    /// Answers of DHCP servers (RFC 2131, RFC 8415).
    Dhcp,
    /// Router advertisements and redirects (RFC 4861).
    Ra,
    /// Multicast DNS (RFC 6762).
    Mdns,
    /// SSDP of UPnP.
    Ssdp,
}

impl Crossing {
    /// As it is typed.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Dhcp => "dhcp",
            Self::Ra => "ra",
            Self::Mdns => "mdns",
            Self::Ssdp => "ssdp",
        }
    }

    /// What it is, as the subject of a sentence.
    #[must_use]
    pub fn subject(self) -> &'static str {
        match self {
            Self::Dhcp => "an answer of a DHCP server",
            Self::Ra => "a router advertisement or redirect",
            Self::Mdns => "multicast DNS",
            Self::Ssdp => "SSDP",
        }
    }

    /// By its group address alone.
    #[must_use]
    pub fn of_group(dst: MacAddr) -> Option<Self> {
        match dst.0 {
            // 224.0.0.251 and ff02::fb (RFC 6762 §3), mapped by RFC 1112 §6.4 and RFC 2464 §7.
            [0x01, 0x00, 0x5e, 0x00, 0x00, 0xfb] | [0x33, 0x33, 0x00, 0x00, 0x00, 0xfb] => {
                Some(Self::Mdns)
            }
            // 239.255.255.250, ff02::c and ff05::c (UPnP Device Architecture 2.0, §1 and annex A).
            [0x01, 0x00, 0x5e, 0x7f, 0xff, 0xfa] | [0x33, 0x33, 0x00, 0x00, 0x00, 0x0c] => {
                Some(Self::Ssdp)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Crossing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// UDP ports that servers of DHCP send from: RFC 2131 §4.1, RFC 8415 §7.2.
const DHCP_SERVERS: [u16; 2] = [67, 547];

/// Does a DHCP server send from this UDP port, and which bits of it tell so? Few bits, so that one ruling holds for many ports.
#[must_use]
pub fn from_dhcp_server(src_port: u16) -> (bool, u16) {
    let mut bits = 0;
    for server in DHCP_SERVERS {
        match src_port ^ server {
            0 => return (true, u16::MAX),
            differing => bits |= 1 << (u16::BITS - 1 - differing.leading_zeros()),
        }
    }
    (false, bits)
}

/// A macvlan or macvtap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct MacvlanSpec {
    /// How the kernel treats its frames.
    pub mode: MacvlanMode,
    /// The MACs whose frames it takes, in [`MacvlanMode::Source`].
    pub sources: BTreeSet<MacAddr>,
}

/// Modes of a macvlan (linux/if_link.h, `enum macvlan_mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum MacvlanMode {
    /// Frames for a sibling are handed over at once.
    #[default]
    Bridge,
    /// Never to a sibling.
    Private,
    /// All frames leave, also those for a sibling.
    Vepa,
    /// It has the parent for itself: it may have many MACs, and change its own.
    Passthru,
    /// It takes frames of given sources only.
    Source,
}

impl MacvlanMode {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Bridge,
        Self::Private,
        Self::Vepa,
        Self::Passthru,
        Self::Source,
    ];

    /// As it is typed.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Private => "private",
            Self::Vepa => "vepa",
            Self::Passthru => "passthru",
            Self::Source => "source",
        }
    }

    /// The kernel's number of it.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Private => 1,
            Self::Vepa => 2,
            Self::Bridge => 4,
            Self::Passthru => 8,
            Self::Source => 16,
        }
    }
}

/// Checks what a spec says of its kind, and what goes with it.
///
/// # Errors
/// What is wrong, and what to do.
pub(crate) fn check(spec: &AttachSpec) -> Result<(), Refusal> {
    let invalid = |code, message: String| Err(refusal(code, message));
    match &spec.kind {
        PortKind::Veth => Ok(()),
        PortKind::Bridge(UplinkSpec { vlan: Some(_), .. }) => invalid(
            ErrorCode::UplinkInvalid,
            "a bridge is joined whole: leave out the VLAN, or attach a VLAN device as an uplink"
                .to_owned(),
        ),
        PortKind::Uplink(uplink) | PortKind::Bridge(uplink) => {
            if let Some(vlan) = uplink.vlan.filter(|vlan| !(1..=4094).contains(vlan)) {
                return invalid(
                    ErrorCode::VlanInvalid,
                    format!("VLAN {vlan}: ids are 1 to 4094 (IEEE 802.1Q)"),
                );
            }
            if let Some(macs) = uplink.macs.filter(|n| !(1..=UPLINK_MACS_MAX).contains(n)) {
                return invalid(
                    ErrorCode::UplinkInvalid,
                    format!("{macs} MACs behind an uplink; 1 to {UPLINK_MACS_MAX} are possible"),
                );
            }
            let far_end = spec.mac.is_some()
                || spec.mtu.is_some()
                || spec.vrf.is_some()
                || !spec.routes.is_empty();
            if matches!(spec.ip, IpSpec::Fixed(_)) || far_end {
                return invalid(
                    ErrorCode::UplinkInvalid,
                    format!(
                        "{} \"{}\" is the way to a LAN and no endpoint: leave out --ip, --mac, --mtu, --vrf and --route; for an address of this host on the network attach a port of its own (`meshd attach {} --netns self`)",
                        spec.kind.word(),
                        spec.ifname,
                        spec.network
                    ),
                );
            }
            Ok(())
        }
        PortKind::Macvlan(macvlan) | PortKind::Macvtap(macvlan) => {
            let of_source = macvlan.mode == MacvlanMode::Source;
            if macvlan.sources.len() > SOURCES_MAX {
                return invalid(
                    ErrorCode::MacvlanInvalid,
                    format!(
                        "{} source MACs; at most {SOURCES_MAX} are possible",
                        macvlan.sources.len()
                    ),
                );
            }
            match macvlan.sources.iter().find(|mac| !mac.is_source()) {
                Some(mac) => invalid(
                    ErrorCode::MacvlanInvalid,
                    format!("source {mac} is no address of a station"),
                ),
                None if of_source && macvlan.sources.is_empty() => invalid(
                    ErrorCode::MacvlanInvalid,
                    "mode source takes frames of given MACs only: say which with --source MAC"
                        .to_owned(),
                ),
                None if !of_source && !macvlan.sources.is_empty() => invalid(
                    ErrorCode::MacvlanInvalid,
                    format!(
                        "source MACs are for mode source, and this is mode {}: leave out --source, or use --mode source",
                        macvlan.mode.word()
                    ),
                ),
                None => Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever agrees in the bits that told is told the same.
        #[test]
        fn the_bits_that_tell_a_dhcp_server_are_enough(port: u16, other: u16) {
            let (server, bits) = from_dhcp_server(port);
            prop_assert_eq!(server, DHCP_SERVERS.contains(&port));
            let alike = (other & !bits) | (port & bits);
            prop_assert_eq!(from_dhcp_server(alike).0, server);
        }
    }

    #[test]
    fn all_ports_together_need_few_masks() {
        let masks: BTreeSet<u16> = (0..=u16::MAX)
            .map(|port| from_dhcp_server(port).1)
            .collect();
        assert!(masks.len() <= 20, "{}", masks.len());
    }
}
