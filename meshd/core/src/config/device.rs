//! `[[device.dummy]]`, `[[device.bond]]`, `[[device.vlan]]`, `[[device.bridge]]`, `[[device.macvlan]]` and `[[device.macvtap]]`: the
//! host devices of the configuration.
//!
//! Owns what of them cannot be together; their keys and bounds are in `device/`. What becomes of them is in `crate::devices`.

mod base;
mod bond;
mod bridge;
mod declared;
mod macvlan;
mod vlan;

pub use bond::BondConfig;
pub use bridge::BridgeConfig;
pub use declared::{Declared, DeviceConfig, Merged, unknown as unknown_device};
pub use macvlan::MacvlanConfig;
pub use vlan::VlanConfig;

use crate::devices::{Shape, Wishes};
use crate::ident::{IfName, IfNameError, Label};
use crate::kind::MacvlanMode;
use crate::wire::record::{IPS_MAX, SERVICES_MAX};
use base::{Base, table};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

/// Of all kinds together.
const DEVICES_MAX: usize = 256;
/// Names of members, with a byte each: our mark on the device has room for so much (IFALIASZ of linux/if.h).
const MEMBERS_BYTES_MAX: usize = 200;
const VLAN_MAX: u16 = 4094;

/// The name of a device, as text. A device whose name is no UTF-8 cannot be named in the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceName(IfName);

impl DeviceName {
    /// As the kernel has it.
    #[must_use]
    pub fn name(&self) -> &IfName {
        &self.0
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for DeviceName {
    type Error = IfNameError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let name = IfName::new(text.as_bytes())?;
        // These are no device's in /proc/sys/net/*/conf, and what is set there is set for others.
        if matches!(text.as_str(), "all" | "default") {
            let name = name.to_string();
            return Err(IfNameError::Reserved { name });
        }
        // `%d` has the kernel take a number: the device would be found under another name.
        if text.contains('%') {
            let name = name.to_string();
            return Err(IfNameError::Template { name });
        }
        Ok(Self(name))
    }
}

impl From<DeviceName> for String {
    fn from(name: DeviceName) -> Self {
        String::from_utf8_lossy(name.0.as_bytes()).into_owned()
    }
}

table! {
    /// One `[[device.dummy]]`.
    DummyConfig {}
}

/// `[device]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DevicesConfig {
    /// Places for addresses.
    #[serde(rename = "dummy")]
    pub dummies: Vec<DummyConfig>,
    /// Several devices as one.
    #[serde(rename = "bond")]
    pub bonds: Vec<BondConfig>,
    /// The frames of one tag of another device.
    #[serde(rename = "vlan")]
    pub vlans: Vec<VlanConfig>,
    /// Switches.
    #[serde(rename = "bridge")]
    pub bridges: Vec<BridgeConfig>,
    /// Stations of their own on the LAN behind another device.
    #[serde(rename = "macvlan")]
    pub macvlans: Vec<MacvlanConfig>,
    /// The same, for virtual machines.
    #[serde(rename = "macvtap")]
    pub macvtaps: Vec<MacvlanConfig>,
}

/// What is wrong: the section, which of them, the key, and the message.
pub(super) type Fault = (&'static str, usize, &'static str, String);

/// What all kinds have, for checks that are the same.
struct Common<'a> {
    section: &'static str,
    nth: usize,
    base: Base<'a>,
    members: &'a [DeviceName],
    parent: Option<&'a DeviceName>,
}

impl<'a> Common<'a> {
    fn of((section, nth): (&'static str, usize), base: Base<'a>) -> Self {
        Self {
            section,
            nth,
            base,
            members: &[],
            parent: None,
        }
    }

    fn holding(self, members: &'a [DeviceName]) -> Self {
        Self { members, ..self }
    }

    fn upon(self, parent: &'a DeviceName) -> Self {
        let parent = Some(parent);
        Self { parent, ..self }
    }

    fn lower(&self) -> impl Iterator<Item = &'a DeviceName> + use<'a> {
        self.members.iter().chain(self.parent)
    }

    fn fault(&self, key: &'static str, message: String) -> Fault {
        (self.section, self.nth, key, message)
    }
}

impl DevicesConfig {
    /// What this host is to have.
    #[must_use]
    pub fn wishes(&self) -> Wishes {
        let mut wishes = Wishes::new();
        for dummy in &self.dummies {
            wishes.insert(dummy.name.0.clone(), dummy.base().wish(Shape::Dummy));
        }
        for bond in &self.bonds {
            wishes.insert(bond.name.0.clone(), bond.wish());
        }
        for vlan in &self.vlans {
            wishes.insert(vlan.name.0.clone(), vlan.wish());
        }
        for bridge in &self.bridges {
            let above = self.vlans.iter().filter(|vlan| vlan.parent == bridge.name);
            let wish = bridge.wish(above.map(|vlan| vlan.id));
            wishes.insert(bridge.name.0.clone(), wish);
        }
        for (stations, is_tap) in [(&self.macvlans, false), (&self.macvtaps, true)] {
            for station in stations {
                wishes.insert(station.name.0.clone(), station.wish(is_tap));
            }
        }
        wishes
    }

    fn all(&self) -> Vec<Common<'_>> {
        let dummies = self.dummies.iter().enumerate();
        let dummies = dummies.map(|(nth, it)| Common::of(("device.dummy", nth), it.base()));
        let bonds = self
            .bonds
            .iter()
            .enumerate()
            .map(|(nth, it)| Common::of(("device.bond", nth), it.base()).holding(&it.members));
        let vlans = self.vlans.iter().enumerate();
        let vlans =
            vlans.map(|(nth, it)| Common::of(("device.vlan", nth), it.base()).upon(&it.parent));
        let bridges =
            self.bridges.iter().enumerate().map(|(nth, it)| {
                Common::of(("device.bridge", nth), it.base()).holding(&it.members)
            });
        let stations = self.stations();
        let stations = stations.map(|(at, it)| Common::of(at, it.base()).upon(&it.parent));
        dummies
            .chain(bonds)
            .chain(vlans)
            .chain(bridges)
            .chain(stations)
            .collect()
    }

    /// Each macvlan and macvtap, by where it stands in the file.
    fn stations(&self) -> impl Iterator<Item = ((&'static str, usize), &MacvlanConfig)> {
        let each = |section| move |(nth, it)| ((section, nth), it);
        let macvlans = self.macvlans.iter().enumerate().map(each("device.macvlan"));
        macvlans.chain(self.macvtaps.iter().enumerate().map(each("device.macvtap")))
    }

    /// The first thing that types alone do not say.
    pub(super) fn first_wrong(&self) -> Option<Fault> {
        let all = self.all();
        if let Some(last) = all.last().filter(|_| all.len() > DEVICES_MAX) {
            let count = all.len();
            let message = format!("there are {count} devices; at most {DEVICES_MAX} are possible");
            return Some(last.fault("name", message));
        }
        let mut names: BTreeMap<&DeviceName, &Common<'_>> = BTreeMap::new();
        let mut masters: BTreeMap<&DeviceName, &DeviceName> = BTreeMap::new();
        for it in &all {
            let name = it.base.name;
            if names.insert(name, it).is_some() {
                let message = format!("there are two devices {}; give one another name", name.0);
                return Some(it.fault("name", message));
            }
            if let Some((key, message)) = it.base.first_wrong() {
                return Some(it.fault(key, message));
            }
            if let Some(message) = it.members.iter().find_map(is_loopback) {
                return Some(it.fault("members", message));
            }
            if let Some(message) = it.parent.and_then(is_loopback) {
                return Some(it.fault("parent", message));
            }
            if let Some(message) = wrong_members(it, &mut masters) {
                return Some(it.fault("members", message));
            }
        }
        let placed = all.iter().find_map(|it| wrong_place(it, &names, &masters));
        placed
            .or_else(|| wrong_addresses(&all))
            .or_else(|| wrong_services(&all))
            .or_else(|| self.wrong_by_itself(&names))
            .or_else(|| self.wrong_passthru())
    }

    fn wrong_by_itself(&self, names: &BTreeMap<&DeviceName, &Common<'_>>) -> Option<Fault> {
        let mut bonds = self.bonds.iter().enumerate().filter_map(|(nth, bond)| {
            let (key, message) = bond.first_wrong()?;
            Some(("device.bond", nth, key, message))
        });
        let mut vlans = self.vlans.iter().enumerate().filter_map(|(nth, vlan)| {
            let (key, message) = vlan.first_wrong()?;
            Some(("device.vlan", nth, key, message))
        });
        let mut bridges = self.bridges.iter().enumerate().filter_map(|(nth, bridge)| {
            let (key, message) = bridge.first_wrong(names)?;
            Some(("device.bridge", nth, key, message))
        });
        let mut stations = self.stations().filter_map(|((section, nth), station)| {
            let (key, message) = station.first_wrong()?;
            Some((section, nth, key, message))
        });
        bonds
            .next()
            .or_else(|| vlans.next())
            .or_else(|| bridges.next())
            .or_else(|| stations.next())
    }

    /// A station in mode passthru has its parent for itself.
    fn wrong_passthru(&self) -> Option<Fault> {
        let alone = |it: &MacvlanConfig| it.mode == MacvlanMode::Passthru;
        let mut parents: BTreeMap<&DeviceName, &MacvlanConfig> = BTreeMap::new();
        for ((section, nth), it) in self.stations() {
            if let Some(other) = parents.insert(&it.parent, it)
                && (alone(it) || alone(other))
            {
                let (parent, other) = (&it.parent.0, &other.name.0);
                let message = format!(
                    "{other} is on {parent} too, and in mode passthru a device has its parent for itself; use another mode for both"
                );
                return Some((section, nth, "mode", message));
            }
        }
        None
    }
}

fn wrong_members<'a>(
    it: &Common<'a>,
    masters: &mut BTreeMap<&'a DeviceName, &'a DeviceName>,
) -> Option<String> {
    let bytes: usize = it.members.iter().map(|it| it.0.as_bytes().len() + 1).sum();
    if bytes > MEMBERS_BYTES_MAX {
        return Some(format!(
            "the names of its members have {bytes} bytes; at most {MEMBERS_BYTES_MAX} are possible"
        ));
    }
    for member in it.members {
        match masters.insert(member, it.base.name) {
            None => {}
            Some(other) if other == it.base.name => {
                return Some(format!("{} is named twice; leave one out", member.0));
            }
            Some(other) => {
                return Some(format!(
                    "{} is a member of {} too; a device is in one of them",
                    member.0, other.0
                ));
            }
        }
    }
    None
}

fn wrong_place(
    it: &Common<'_>,
    names: &BTreeMap<&DeviceName, &Common<'_>>,
    masters: &BTreeMap<&DeviceName, &DeviceName>,
) -> Option<Fault> {
    let is_station = matches!(it.section, "device.macvlan" | "device.macvtap");
    if let Some(master) = masters.get(it.base.name) {
        let (name, master) = (&it.base.name.0, &master.0);
        if !it.base.addresses.is_empty() {
            let message = format!(
                "{name} is a member of {master}, and has addresses; give them to {master} instead"
            );
            return Some(it.fault("addresses", message));
        }
        if is_station {
            let message = format!(
                "{name} is a member of {master}; a macvlan is a station and leads to no other: leave it out there"
            );
            return Some(it.fault("name", message));
        }
    }
    if let Some(parent) = it.parent.filter(|_| is_station) {
        let below = names.get(parent);
        let stands = below.is_some_and(|it| it.section.starts_with("device.macv"));
        if stands {
            let message = format!(
                "{} is a macvlan itself; name what that stands upon",
                parent.0
            );
            return Some(it.fault("parent", message));
        }
        if let Some(master) = masters.get(parent) {
            let message = format!(
                "{} is a member of {}, which takes its frames; name {} as the parent",
                parent.0, master.0, master.0
            );
            return Some(it.fault("parent", message));
        }
    }
    let message = circle(it, names)?;
    Some(it.fault(it.parent.map_or("members", |_| "parent"), message))
}

/// What one node may advertise is bounded.
fn is_loopback(name: &DeviceName) -> Option<String> {
    (name.0.as_bytes() == b"lo").then(|| {
        "lo is the loopback: nothing stands on it, and no bond or bridge takes it; name another device"
            .to_owned()
    })
}

/// Two devices of this host with one address: the kernel takes both, and answers by either. A station may be in a namespace,
/// where the address is another's, and link-local addresses are of each link alone.
fn wrong_addresses(all: &[Common<'_>]) -> Option<Fault> {
    let is_local = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let mut holders: BTreeMap<IpAddr, &DeviceName> = BTreeMap::new();
    let here = all
        .iter()
        .filter(|it| !it.section.starts_with("device.macv"));
    for it in here {
        for address in it.base.addresses {
            let ip = address.addr();
            if is_local(ip) {
                continue;
            }
            if let Some(other) = holders
                .insert(ip, it.base.name)
                .filter(|o| *o != it.base.name)
            {
                let message = format!(
                    "{address} is an address of {} already; a host has it at one device",
                    other.0
                );
                return Some(it.fault("addresses", message));
            }
        }
    }
    None
}

fn wrong_services(all: &[Common<'_>]) -> Option<Fault> {
    let mut services: BTreeMap<&Label, usize> = BTreeMap::new();
    for it in all {
        let Some(service) = it.base.service else {
            continue;
        };
        let addresses = services.entry(service).or_default();
        *addresses += it.base.addresses.len();
        if *addresses > IPS_MAX {
            let message =
                format!("{service} has {addresses} addresses; at most {IPS_MAX} are possible");
            return Some(it.fault("service", message));
        }
        if services.len() > SERVICES_MAX {
            let message =
                format!("there are more than {SERVICES_MAX} services; give some one name together");
            return Some(it.fault("service", message));
        }
    }
    None
}

/// Stands it, by however many others, on itself?
fn circle(it: &Common<'_>, names: &BTreeMap<&DeviceName, &Common<'_>>) -> Option<String> {
    let (mut seen, mut open) = (BTreeSet::new(), it.lower().collect::<Vec<_>>());
    while let Some(next) = open.pop() {
        if next == it.base.name {
            let name = &it.base.name.0;
            return Some(format!("{name} would stand on itself; break the circle"));
        }
        if seen.insert(next) {
            open.extend(names.get(next).into_iter().flat_map(|below| below.lower()));
        }
    }
    None
}
