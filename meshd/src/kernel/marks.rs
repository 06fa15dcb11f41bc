//! How a device says whose it is.
//!
//! Owns the mark: the ifalias `meshd:<mesh>:<node>:<port>`, and `meshd:<mesh>:<node>:n<vni>` for what a network has. A
//! veth, a bridge and a VXLAN device are made with a MAC that is derived from their mark, since the kernel takes an alias
//! only in a second request: so a device that was left between the two is recognised as well.

use super::netlink::Link;
use meshd_core::ident::{MacAddr, MeshId, NodeId, PortId, Vni};

/// True if the device bears the mark of a node, whichever.
pub(super) fn is_marked(link: &Link) -> bool {
    link.alias.starts_with(b"meshd:")
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
}

impl Role {
    /// The name to try for the `attempt`-th time: others may have taken the ones before.
    pub(super) fn name(self, port: PortId, attempt: u32) -> String {
        let letters = match self {
            Self::Veth => "mv",
            Self::Tap => "mt",
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

    /// The alias of a port's devices.
    pub(super) fn of(&self, port: PortId) -> String {
        format!("{}{port}", self.prefix)
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
        let number = link.alias.strip_prefix(self.prefix.as_bytes())?;
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
    fn names_fit_the_kernel_for_any_port_and_network() {
        assert!(Role::Tap.name(PortId(u32::MAX), 15).len() <= 15);
        let vni = Vni::new(0xff_ffff).unwrap();
        assert!(NetworkRole::Vxlan.name(vni, 15).len() <= 15);
    }
}
