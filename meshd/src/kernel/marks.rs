//! How a device says whose it is.
//!
//! Owns the mark: the ifalias `meshd:<mesh>:<node>:<port>`. A veth is made with a MAC that is derived from its mark, since
//! the kernel takes an alias only in a second request: so a veth that was left between the two is recognised as well.

use super::netlink::Link;
use meshd_core::ident::{MacAddr, MeshId, NodeId, PortId};

/// True if the device bears the mark of a node, whichever.
pub(super) fn is_marked(link: &Link) -> bool {
    link.alias.starts_with(b"meshd:")
}

/// Marks of one node.
#[derive(Clone, Debug)]
pub(super) struct Marks {
    prefix: String,
}

/// What a device of ours is for.
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
        if attempt == 0 {
            format!("{letters}{:x}", port.0)
        } else {
            format!("{letters}{:x}x{attempt:x}", port.0)
        }
    }
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
        let digest = ring::digest::digest(&ring::digest::SHA256, self.of(port).as_bytes());
        let [a, b, c, d] = digest
            .as_ref()
            .first_chunk::<4>()
            .copied()
            .unwrap_or_default();
        MacAddr([0x02, 0x6d, a, b, c, d])
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
            let digits = link
                .name
                .strip_prefix(b"mv")?
                .split(|&byte| byte == b'x')
                .next()?;
            let port = PortId(u32::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?);
            return (role == Role::Veth && link.mac == Some(self.mac(port)))
                .then_some((port, role));
        }
        let number = link.alias.strip_prefix(self.prefix.as_bytes())?;
        Some((PortId(str::from_utf8(number).ok()?.parse().ok()?), role))
    }
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
    fn names_fit_the_kernel_for_any_port() {
        assert!(Role::Tap.name(PortId(u32::MAX), 15).len() <= 15);
    }
}
