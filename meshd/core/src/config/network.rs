//! `[[network]]`: networks to define where they do not exist, and what this node joins to them.
//!
//! Owns the keys and what several networks cannot have together. The rules for a network alone are those of `meshd network add`.

use super::device::DeviceName;
use crate::command::NetworkSpec;
use crate::ident::{Label, Vni};
use crate::kind::{Crossing, UplinkSpec};
use crate::multicast::MulticastSpec;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One `[[network]]`; the rules are those of `meshd network add`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// Its name.
    pub name: Label,
    /// Its segment; `None`: derived from the name.
    pub vni: Option<Vni>,
    /// Its subnets.
    #[serde(default)]
    pub subnets: Vec<IpNet>,
    /// Bytes of layer 3 payload; `None`: 1380.
    pub mtu: Option<u16>,
    /// Send its multicast only where somebody listens.
    #[serde(default = "yes")]
    pub multicast_snooping: bool,
    /// Ask also the LANs of uplinks and bridges who listens.
    #[serde(default)]
    pub multicast_querier: bool,
    /// A bridge of this host, whoever made it: all that is in it joins the network.
    pub bridge: Option<DeviceName>,
    /// What may cross between the bridge and other sites.
    #[serde(default)]
    pub bridge_allow: BTreeSet<Crossing>,
}

fn yes() -> bool {
    true
}

impl NetworkConfig {
    /// Does it define the network? One that says only what this node does about it names a network that others define.
    #[must_use]
    pub fn defines(&self) -> bool {
        let local = self.bridge.is_some() || self.multicast() != MulticastSpec::default();
        !local || self.vni.is_some() || self.mtu.is_some() || !self.subnets.is_empty()
    }

    /// How this node treats its multicast.
    #[must_use]
    pub fn multicast(&self) -> MulticastSpec {
        MulticastSpec {
            snooping: self.multicast_snooping,
            querier: self.multicast_querier,
        }
    }

    /// The bridge as the way to a LAN.
    #[must_use]
    pub fn lan(&self) -> UplinkSpec {
        UplinkSpec {
            allow: self.bridge_allow.clone(),
            ..UplinkSpec::default()
        }
    }
}

impl From<NetworkConfig> for NetworkSpec {
    fn from(network: NetworkConfig) -> Self {
        Self {
            name: network.name,
            vni: network.vni,
            subnets: network.subnets,
            mtu: network.mtu,
        }
    }
}

/// What two networks have and only one may: which network, the key, and the message.
pub(super) fn first_twice(networks: &[NetworkConfig]) -> Option<(usize, &'static str, String)> {
    let mut vnis = BTreeMap::new();
    let mut bridges = BTreeMap::new();
    for (nth, network) in networks.iter().enumerate() {
        let name = &network.name;
        if let Some(vni) = network.vni
            && let Some(other) = vnis.insert(vni, name)
        {
            let message = format!(
                "VNI {vni} is that of networks {other} and {name}; give one another, or none"
            );
            return Some((nth, "vni", message));
        }
        if let Some(bridge) = &network.bridge
            && let Some(other) = bridges.insert(bridge, name)
        {
            let message = format!(
                "bridge {} is that of networks {other} and {name}, and would join both; a bridge is of one network",
                bridge.name()
            );
            return Some((nth, "bridge", message));
        }
        if network.multicast_querier && !network.multicast_snooping {
            let message = format!(
                "multicast_querier asks who listens, and multicast_snooping of network {name} is false, so that nobody heeds the answers; leave one out"
            );
            return Some((nth, "multicast_querier", message));
        }
        if network.bridge.is_none() && !network.bridge_allow.is_empty() {
            let message = format!(
                "bridge_allow says what may cross between a bridge and other sites, and network {name} names none; set `bridge` as well, or leave it out"
            );
            return Some((nth, "bridge_allow", message));
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn wrong(text: &str) -> String {
        Config::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_bridge_is_of_one_network_and_the_line_is_told() {
        let two = "[[network]]\nname = \"a\"\nbridge = \"br0\"\n[[network]]\nname = \"b\"\nbridge = \"br0\"\n";
        let told = wrong(two);
        assert!(
            told.contains("line 6") && told.contains("networks a and b"),
            "{told}"
        );
        let told = wrong("[[network]]\nname = \"a\"\nbridge = \"br/0\"\n");
        assert!(told.contains("line 3"), "{told}");
        let told = wrong("[[network]]\nname = \"a\"\nbridge_allow = [\"mdns\"]\n");
        assert!(told.contains("names none"), "{told}");
        let told = wrong("[[network]]\nname = \"a\"\nbridge = \"br0\"\nbridge_allow = [\"all\"]\n");
        assert!(told.contains("line 4"), "{told}");
        let told = wrong(
            "[[network]]\nname = \"a\"\nmulticast_snooping = false\nmulticast_querier = true\n",
        );
        assert!(told.contains("nobody heeds"), "{told}");
    }

    #[test]
    fn what_a_node_does_about_a_network_does_not_define_it() {
        let text = "[[network]]\nname = \"a\"\nbridge = \"br0\"\nbridge_allow = [\"mdns\", \"dhcp\"]\n\
                    [[network]]\nname = \"b\"\nmulticast_querier = true\nsubnets = [\"10.0.0.0/24\"]\n\
                    [[network]]\nname = \"c\"\n";
        let config = Config::parse(text).unwrap();
        let defines: Vec<bool> = config.networks.iter().map(NetworkConfig::defines).collect();
        assert_eq!(defines, [false, true, true]);
        let allow = config.networks[0].lan().allow;
        assert_eq!(allow, BTreeSet::from([Crossing::Dhcp, Crossing::Mdns]));
        let asks = |name: &str| config.multicast()[&name.parse::<Label>().unwrap()].querier;
        assert!(asks("b") && !asks("c"));
    }
}
