//! Which ports GC takes away: those of containers that are gone, on the network of this entry of the configuration.
//!
//! ```text
//!   port's owner cni/CONFIGURATION/CONTAINER/IFNAME
//!     of another configuration, or on another network than this entry's   kept: not ours
//!     CONTAINER has a valid attachment, by whichever interface            kept: maybe another entry's
//!     else                                                                garbage
//! ```
//!
//! A configuration may have `meshd-cni` several times, with an `ifname` each, and all are given the same list, with the
//! interface that the runtime named. No entry knows the others' interfaces, so what belongs to a container that runs is never
//! garbage: DEL removes it.

use super::naming;
use meshd_core::ident::Vni;
use meshd_core::owner::Owner;

/// What tells garbage from the rest, for one entry of a network configuration.
pub(super) struct Garbage<'a> {
    /// Of all owners of the configuration.
    prefix: String,
    /// Of the owners of each container that has a valid attachment.
    alive: Vec<String>,
    /// The entry's network: name or VNI.
    network: &'a str,
}

impl<'a> Garbage<'a> {
    /// `name`: of the configuration; `valid`: container and interface of each attachment that there is.
    pub(super) fn new(name: &str, network: &'a str, valid: &[(String, String)]) -> Self {
        let alive = |(container, _): &(String, String)| naming::prefix_of(name, container);
        Self {
            prefix: naming::prefix(name),
            alive: valid.iter().map(alive).collect(),
            network,
        }
    }

    /// Does a port of this owner, on this network, go?
    pub(super) fn is(&self, owner: &Owner, network: &str, vni: Vni) -> bool {
        let owner = owner.as_str();
        let on_ours = network.eq_ignore_ascii_case(self.network) || vni.to_string() == self.network;
        on_ours
            && owner.starts_with(&self.prefix)
            && !self.alive.iter().any(|alive| owner.starts_with(alive))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Owner, network and VNI.
    const PORTS: [(&str, &str, u32); 7] = [
        ("cni/demo/1a/eth0", "lan", 7),
        ("cni/demo/1a/mesh1", "dmz", 8),
        ("cni/demo/1ab/eth0", "lan", 7),
        ("cni/demo/gone/eth0", "lan", 7),
        ("cni/demo/gone/mesh1", "dmz", 8),
        ("cni/demo2/gone/eth0", "lan", 7),
        ("docker/gone", "lan", 7),
    ];

    fn removed(network: &str, valid: &[(&str, &str)]) -> Vec<&'static str> {
        let valid: Vec<(String, String)> = valid
            .iter()
            .map(|&(container, ifname)| (container.to_owned(), ifname.to_owned()))
            .collect();
        let garbage = Garbage::new("demo", network, &valid);
        let goes = |&&(owner, network, vni): &&(&'static str, &str, u32)| {
            garbage.is(&owner.parse().unwrap(), network, Vni::new(vni).unwrap())
        };
        PORTS.iter().filter(goes).map(|port| port.0).collect()
    }

    #[test]
    fn of_two_entries_of_one_configuration_none_removes_what_the_other_made() {
        // The first entry has no `ifname`, the second has `mesh1`; the runtime names `eth0` to both.
        let valid = [("1a", "eth0"), ("1ab", "eth0")];
        assert_eq!(removed("lan", &valid), ["cni/demo/gone/eth0"]);
        assert_eq!(removed("dmz", &valid), ["cni/demo/gone/mesh1"]);
    }

    #[test]
    fn two_entries_on_one_network_keep_all_interfaces_of_a_container_that_runs() {
        let garbage = Garbage::new("demo", "7", &[("1a".to_owned(), "eth0".to_owned())]);
        let vni = Vni::new(7).unwrap();
        let goes = |owner: &str| garbage.is(&owner.parse().unwrap(), "lan", vni);
        assert!(!goes("cni/demo/1a/eth0") && !goes("cni/demo/1a/mesh1"));
        assert!(goes("cni/demo/gone/eth0") && goes("cni/demo/gone/mesh1"));
    }

    #[test]
    fn a_container_is_told_from_one_whose_id_only_begins_alike() {
        assert_eq!(
            removed("lan", &[("1a", "eth0")]),
            ["cni/demo/1ab/eth0", "cni/demo/gone/eth0"]
        );
        let long = "a".repeat(1000);
        let valid = [(long.clone(), "eth0".to_owned())];
        let garbage = Garbage::new("demo", "lan", &valid);
        let goes = |container: String| {
            let ifname = "eth0".to_owned();
            let at = crate::cni::request::Attachment { container, ifname };
            let owner = naming::owner("demo", &at).unwrap();
            garbage.is(&owner, "lan", Vni::new(7).unwrap())
        };
        assert!(!goes(long) && goes("a".repeat(1001)));
    }
}
