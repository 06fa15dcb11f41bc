//! How a device says whose it is.
//!
//! Owns the mark: the ifalias `meshd:<mesh>:<node>:<port>`, of an uplink's TAP with `:u<interface>:<VLAN>:<how it was>` behind, and `meshd:<mesh>:<node>:n<vni>` for what a network has. A
//! veth, a bridge and a VXLAN device are made with a MAC that is derived from their mark, since the kernel takes an alias
//! only in a second request: so a device that was left between the two is recognised as well. A host device has the alias
//! `meshd:<mesh>:<node>:d`, and after it, each with a colon in front, the names of what we put into it; until it has that, its
//! name says whose it is.

use super::netlink::Link;
use meshd_core::ident::{IfName, MacAddr, MeshId, NodeId, PortId, Vni};
use std::collections::BTreeSet;

/// True if the device bears the mark of a node, whichever.
pub(super) fn is_marked(link: &Link) -> bool {
    link.alias.starts_with(b"meshd:")
}

/// True if what it carries is, or may be, of the overlay: it is marked, and is no host device that leads to the underlay. A
/// dummy leads nowhere, and its addresses may be those of several hosts.
pub(super) fn is_of_overlay(link: &Link) -> bool {
    let mut parts = link.alias.split(|&byte| byte == b':').skip(3);
    let is_host_device = parts.next() == Some(b"d") && link.kind != b"dummy";
    is_marked(link) && !is_host_device
}

/// Marks of one node.
#[derive(Clone, Debug)]
pub(super) struct Marks {
    prefix: String,
}

/// What a device of a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The host's end of the veth.
    Veth,
    /// The TAP.
    Tap,
    /// The other end of the veth, where a macvlan or macvtap is over it.
    Lower,
}

impl Role {
    /// The name to try for the `attempt`-th time: others may have taken the ones before.
    pub(super) fn name(self, port: PortId, attempt: u32) -> String {
        let letters = match self {
            Self::Veth => "mv",
            Self::Tap => "mt",
            Self::Lower => "ml",
        };
        name(letters, port.0, attempt)
    }
}

/// What a device of a network is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetworkRole {
    /// The bridge that joins the network's ports and its VXLAN device.
    Bridge,
    /// The VXLAN device.
    Vxlan,
    /// The TAP with virtio-net headers: what VXLAN brings and the kernel may not deliver, and our probes.
    Vtap,
}

impl NetworkRole {
    /// All there are, in the order in which they are made.
    pub const ALL: [Self; 3] = [Self::Bridge, Self::Vxlan, Self::Vtap];

    fn letters(self) -> &'static str {
        match self {
            Self::Bridge => "mb",
            Self::Vxlan => "mx",
            Self::Vtap => "mu",
        }
    }

    /// In words, for messages.
    #[must_use]
    pub fn shown(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Vxlan => "VXLAN device",
            Self::Vtap => "TAP",
        }
    }

    /// The kernel's word for such a device.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Vxlan => "vxlan",
            Self::Vtap => "tun",
        }
    }

    /// The name to try for the `attempt`-th time: others may have taken the ones before.
    pub(super) fn name(self, vni: Vni, attempt: u32) -> String {
        name(self.letters(), vni.get(), attempt)
    }
}

/// How an interface of the host was before it became an uplink. The mark of the uplink's TAP keeps it: whoever finds the TAP can
/// put the interface back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Former {
    /// Index of the interface.
    pub(super) index: u32,
    /// The VLAN of the uplink.
    pub(super) vlan: Option<u16>,
    /// It was up.
    pub(super) up: bool,
    /// It was set to take frames for all.
    pub(super) promiscuous: bool,
    /// It had the clsact qdisc.
    pub(super) hooked: bool,
}

impl Former {
    fn write(self) -> String {
        let letter = |is: bool, letter| if is { letter } else { "" };
        format!(
            ":u{}:{}:{}{}{}",
            self.index,
            self.vlan.unwrap_or(0),
            letter(self.up, "u"),
            letter(self.promiscuous, "p"),
            letter(self.hooked, "c")
        )
    }

    fn read(suffix: &[u8]) -> Option<Self> {
        let mut parts = str::from_utf8(suffix).ok()?.strip_prefix('u')?.split(':');
        let index = parts.next()?.parse().ok()?;
        let vlan: u16 = parts.next()?.parse().ok()?;
        let letters = parts.next()?;
        Some(Self {
            index,
            vlan: (vlan != 0).then_some(vlan),
            up: letters.contains('u'),
            promiscuous: letters.contains('p'),
            hooked: letters.contains('c'),
        })
    }
}

fn name(letters: &str, number: u32, attempt: u32) -> String {
    if attempt == 0 {
        format!("{letters}{number:x}")
    } else {
        format!("{letters}{number:x}x{attempt:x}")
    }
}

/// The number in a name that [`name`] made.
fn number(letters: &str, name: &[u8]) -> Option<u32> {
    let digits = name
        .strip_prefix(letters.as_bytes())?
        .split(|&byte| byte == b'x')
        .next()?;
    u32::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

impl Marks {
    pub(super) fn new(mesh: MeshId, node: NodeId) -> Self {
        Self {
            prefix: format!("meshd:{}:{}:", mesh.short(), node.short()),
        }
    }

    /// What all marks of this node begin with, its colon included: the mark of what several ports share.
    pub(super) fn of_node(&self) -> &str {
        &self.prefix
    }

    /// The alias of a port's devices.
    pub(super) fn of(&self, port: PortId) -> String {
        format!("{}{port}", self.prefix)
    }

    /// The port whose mark, alone, this is.
    pub(super) fn port_of(&self, mark: &[u8]) -> Option<PortId> {
        let number = mark.strip_prefix(self.prefix.as_bytes())?;
        Some(PortId(str::from_utf8(number).ok()?.parse().ok()?))
    }

    /// The alias of an uplink's TAP.
    pub(super) fn of_uplink(&self, port: PortId, former: Former) -> String {
        format!("{}{}", self.of(port), former.write())
    }

    /// What the mark of an uplink's TAP keeps, if it is one of this node's.
    pub(super) fn read_former(&self, link: &Link) -> Option<Former> {
        self.read(link).filter(|(_, role)| *role == Role::Tap)?;
        let at = link.alias.get(self.prefix.len()..)?;
        let colon = at.iter().position(|&byte| byte == b':')?;
        Former::read(at.get(colon + 1..)?)
    }

    /// The alias of the lower end of a macvlan's veth.
    pub(super) fn of_lower(&self, port: PortId) -> String {
        format!("{}:l", self.of(port))
    }

    /// Its MAC.
    pub(super) fn lower_mac(&self, port: PortId) -> MacAddr {
        derived(&self.of_lower(port))
    }

    /// The MAC that the host's end of the veth is made with: locally administered, unique to the mark.
    pub(super) fn mac(&self, port: PortId) -> MacAddr {
        derived(&self.of(port))
    }

    /// The alias of a network's devices.
    pub(super) fn of_network(&self, vni: Vni) -> String {
        format!("{}n{vni}", self.prefix)
    }

    /// The MAC that a network's device is made with: locally administered, unique to mark and role.
    pub(super) fn network_mac(&self, vni: Vni, role: NetworkRole) -> MacAddr {
        derived(&format!("{}:{}", self.of_network(vni), role.letters()))
    }

    /// The mark of what is no device, such as the fence.
    pub(super) fn of_thing(&self, thing: &str) -> String {
        format!("{}{thing}", self.prefix)
    }

    /// The alias of a host device that we put these into. No name holds a colon.
    pub(super) fn of_host_device(&self, put: &BTreeSet<IfName>) -> Vec<u8> {
        let mut alias = format!("{}d", self.prefix).into_bytes();
        for name in put {
            alias.push(b':');
            alias.extend_from_slice(name.as_bytes());
        }
        alias
    }

    /// The alias of a host device that is put into another namespace: there it may have any name. No name holds a colon.
    pub(super) fn of_placed(&self, name: &IfName) -> Vec<u8> {
        let mut alias = format!("{}p:", self.prefix).into_bytes();
        alias.extend_from_slice(name.as_bytes());
        alias
    }

    /// The wished name of a host device that is, or is about to be, in another namespace.
    pub(super) fn read_placed(&self, link: &Link) -> Option<IfName> {
        let rest = link.alias.strip_prefix(self.prefix.as_bytes())?;
        IfName::new(rest.strip_prefix(b"p:")?).ok()
    }

    /// The mark in the name of a macvtap's file.
    pub(super) fn of_file(&self, name: &IfName) -> String {
        // Of two names no two are the same, whatever bytes they have.
        let safe = name.as_bytes().iter().map(|&byte| match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => char::from(byte).to_string(),
            _ => format!("_{byte:02x}"),
        });
        format!("{}f:{}", self.prefix, safe.collect::<String>())
    }

    /// The name of a host device while it is built.
    pub(super) fn working_name(&self) -> String {
        let MacAddr([_, _, a, b, c, d]) = derived(&self.prefix);
        format!("mw{a:02x}{b:02x}{c:02x}{d:02x}")
    }

    /// The MAC of a host device, unless another is wished.
    pub(super) fn host_device_mac(&self, name: &IfName) -> MacAddr {
        derived(&format!("{}d:{name}", self.prefix))
    }

    /// What was put into it, if it is a host device of this node.
    pub(super) fn read_host_device(&self, link: &Link) -> Option<BTreeSet<IfName>> {
        if link.alias.is_empty() && link.name == self.working_name().as_bytes() {
            return Some(BTreeSet::new());
        }
        let rest = link.alias.strip_prefix(self.prefix.as_bytes())?;
        let mut parts = rest.split(|&byte| byte == b':');
        (parts.next() == Some(b"d"))
            .then(|| parts.filter_map(|name| IfName::new(name).ok()).collect())
    }

    /// Which network's it is, if it is this node's.
    pub(super) fn read_network(&self, link: &Link) -> Option<(Vni, NetworkRole)> {
        let role = NetworkRole::ALL
            .into_iter()
            .find(|role| role.kind().as_bytes() == link.kind)?;
        if link.alias.is_empty() {
            // Made, but not marked yet when the daemon died.
            let vni = Vni::new(number(role.letters(), &link.name)?).ok()?;
            let ours = role != NetworkRole::Vtap && link.mac == Some(self.network_mac(vni, role));
            return ours.then_some((vni, role));
        }
        let number = link
            .alias
            .strip_prefix(self.prefix.as_bytes())?
            .strip_prefix(b"n")?;
        let vni = Vni::new(str::from_utf8(number).ok()?.parse().ok()?).ok()?;
        Some((vni, role))
    }

    /// Whose it is, if it is this node's.
    pub(super) fn read(&self, link: &Link) -> Option<(PortId, Role)> {
        let role = match link.kind.as_slice() {
            b"veth" => Role::Veth,
            b"tun" => Role::Tap,
            _ => return None,
        };
        if link.alias.is_empty() {
            // Made, but not marked yet when the daemon died.
            let port = PortId(number("mv", &link.name)?);
            return (role == Role::Veth && link.mac == Some(self.mac(port)))
                .then_some((port, role));
        }
        let mark = link.alias.strip_prefix(self.prefix.as_bytes())?;
        let mut parts = mark.split(|&byte| byte == b':');
        let number = parts.next()?;
        let role = match (role, parts.next()) {
            (Role::Veth, Some(b"l")) => Role::Lower,
            (role, _) => role,
        };
        Some((PortId(str::from_utf8(number).ok()?.parse().ok()?), role))
    }
}

fn derived(mark: &str) -> MacAddr {
    let digest = ring::digest::digest(&ring::digest::SHA256, mark.as_bytes());
    let [a, b, c, d] = digest
        .as_ref()
        .first_chunk::<4>()
        .copied()
        .unwrap_or_default();
    MacAddr([0x02, 0x6d, a, b, c, d])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn marks(node: u8) -> Marks {
        Marks::new(MeshId([1; 32]), NodeId([node; 32]))
    }

    #[test]
    fn a_mark_is_read_by_the_node_that_made_it_and_by_no_other() {
        let link = Link {
            alias: marks(2).of(PortId(31)).into_bytes(),
            kind: b"tun".to_vec(),
            ..Link::default()
        };
        assert_eq!(marks(2).read(&link), Some((PortId(31), Role::Tap)));
        assert_eq!(marks(3).read(&link), None);
    }

    #[test]
    fn no_two_names_have_one_mark_of_a_file() {
        let marks = marks(1);
        let names: [&[u8]; 6] = [b"vm.0", b"vm-0", b"vm_0", b"vm_2d0", b"vm\xff0", b"vm0"];
        let files = names.map(|name| marks.of_file(&IfName::new(name).unwrap()));
        let all: std::collections::BTreeSet<&String> = files.iter().collect();
        assert_eq!(all.len(), names.len(), "{files:?}");
    }

    #[test]
    fn the_mark_of_an_uplink_keeps_how_the_interface_was() {
        for bits in 0..8u8 {
            let former = Former {
                index: 17,
                vlan: (bits & 1 != 0).then_some(4094),
                up: bits & 2 != 0,
                promiscuous: bits & 4 != 0,
                hooked: bits & 1 == 0,
            };
            let alias = marks(2).of_uplink(PortId(u32::MAX), former);
            assert!(alias.len() < 256, "IFALIASZ");
            let link = Link {
                alias: alias.into_bytes(),
                kind: b"tun".to_vec(),
                ..Link::default()
            };
            assert_eq!(marks(2).read_former(&link), Some(former));
            assert_eq!(marks(2).read(&link), Some((PortId(u32::MAX), Role::Tap)));
            assert_eq!(marks(3).read_former(&link), None);
        }
    }

    #[test]
    fn a_veth_without_an_alias_is_ours_only_by_its_mac() {
        let mut link = Link {
            name: b"mv1fx2".to_vec(),
            kind: b"veth".to_vec(),
            mac: Some(marks(2).mac(PortId(31))),
            ..Link::default()
        };
        assert_eq!(marks(2).read(&link), Some((PortId(31), Role::Veth)));
        assert_eq!(marks(3).read(&link), None);
        link.mac = Some(MacAddr([2, 0, 0, 0, 0, 1]));
        assert_eq!(marks(2).read(&link), None);
    }

    #[test]
    fn a_device_of_a_network_is_read_by_alias_or_by_mac_and_never_taken_for_a_ports() {
        let vni = Vni::new(0xabcdef).unwrap();
        for role in NetworkRole::ALL {
            let mut link = Link {
                name: role.name(vni, 3).into_bytes(),
                alias: marks(2).of_network(vni).into_bytes(),
                kind: role.kind().as_bytes().to_vec(),
                ..Link::default()
            };
            assert_eq!(marks(2).read_network(&link), Some((vni, role)));
            assert_eq!(marks(2).read(&link), None);
            assert_eq!(marks(3).read_network(&link), None);
            link.alias.clear();
            assert_eq!(marks(2).read_network(&link), None);
            link.mac = Some(marks(2).network_mac(vni, role));
            let half_made = (role != NetworkRole::Vtap).then_some((vni, role));
            assert_eq!(marks(2).read_network(&link), half_made);
        }
        let port = Link {
            alias: marks(2).of(PortId(7)).into_bytes(),
            kind: b"tun".to_vec(),
            ..Link::default()
        };
        assert_eq!(marks(2).read_network(&port), None);
    }

    #[test]
    fn a_host_device_says_whose_it_is_and_what_was_put_into_it() {
        let put = BTreeSet::from([b"eth1", b"eth2"].map(|name| IfName::new(name).unwrap()));
        let mut link = Link {
            name: b"bond0".to_vec(),
            kind: b"bond".to_vec(),
            alias: marks(2).of_host_device(&put),
            ..Link::default()
        };
        assert_eq!(marks(2).read_host_device(&link), Some(put));
        assert_eq!(marks(3).read_host_device(&link), None);
        assert!(!is_of_overlay(&link));
        link.kind = b"dummy".to_vec();
        assert!(is_of_overlay(&link));
        (link.name, link.alias) = (marks(2).working_name().into_bytes(), Vec::new());
        assert_eq!(marks(2).read_host_device(&link), Some(BTreeSet::new()));
        assert_eq!(marks(3).read_host_device(&link), None);
        link.alias = marks(2).of(PortId(7)).into_bytes();
        assert_eq!(marks(2).read_host_device(&link), None);
        assert_eq!(marks(2).read_placed(&link), None);
        assert!(is_of_overlay(&link));
        let web = IfName::new(b"web").unwrap();
        link.alias = marks(2).of_placed(&web);
        assert_eq!(marks(2).read_placed(&link), Some(web));
        assert_eq!(marks(3).read_placed(&link), None);
        assert_eq!(marks(2).read_host_device(&link), None);
    }

    #[test]
    fn names_fit_the_kernel_for_any_port_and_network() {
        assert!(Role::Tap.name(PortId(u32::MAX), 15).len() <= 15);
        let vni = Vni::new(0xff_ffff).unwrap();
        assert!(NetworkRole::Vxlan.name(vni, 15).len() <= 15);
    }
}
