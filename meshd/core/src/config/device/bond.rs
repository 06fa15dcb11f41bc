//! `[[device.bond]]`: several devices as one.
//!
//! Owns its keys, and what of them cannot be together.

use super::DeviceName;
use super::base::{Base, Wrong, table};
use crate::devices::{Bond, BondHash, BondMode, LacpRate, LacpSelect, Monitor, Shape, Wish};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// As the kernel has it (`BOND_MAX_ARP_TARGETS`).
const TARGETS_MAX: usize = 16;
/// How often a carrier is looked at, unless said.
const MII_MS: u32 = 100;

table! {
    /// One `[[device.bond]]`. Keys and values are those of Documentation/networking/bonding.rst. Its MTU is that of its members too.
    BondConfig {
    /// What it is made of.
    pub members: Vec<DeviceName>,
    /// How one is picked.
    #[serde(default)]
    pub mode: BondMode,
    /// The member that is taken while it works.
    pub primary: Option<DeviceName>,
    /// Milliseconds between looks at the carrier; `None`: 100, or never where ARP is asked.
    pub miimon: Option<u32>,
    /// Milliseconds until a member that came back counts.
    pub up_delay: Option<u32>,
    /// Milliseconds until a member that was lost counts as lost.
    pub down_delay: Option<u32>,
    /// Milliseconds between questions by ARP.
    pub arp_interval: Option<u32>,
    /// Who is asked.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schema(value_type = Vec<String>))]
    pub arp_targets: Vec<Ipv4Addr>,
    /// Of what a hash is made.
    pub hash: Option<BondHash>,
    /// How often LACP speaks.
    pub lacp_rate: Option<LacpRate>,
    /// Which of several aggregates LACP takes.
    pub lacp_select: Option<LacpSelect>,
    /// With LACP: no carrier with fewer members.
    pub min_links: Option<u32>,
    }
}

impl BondConfig {
    fn monitor(&self) -> Monitor {
        match self.arp_interval {
            Some(every_ms) => Monitor::Arp {
                every_ms,
                targets: self.arp_targets.clone(),
            },
            None => Monitor::Mii {
                every_ms: self.miimon.unwrap_or(MII_MS),
                up_ms: self.up_delay.unwrap_or(0),
                down_ms: self.down_delay.unwrap_or(0),
            },
        }
    }

    pub(super) fn wish(&self) -> Wish {
        let members = self.members.iter();
        Wish {
            members: members.map(|name| (name.0.clone(), None)).collect(),
            primary: self.primary.as_ref().map(|name| name.0.clone()),
            ..self.base().wish(Shape::Bond(Bond {
                mode: self.mode,
                monitor: self.monitor(),
                hash: self.hash.unwrap_or_default(),
                lacp_rate: self.lacp_rate.unwrap_or_default(),
                lacp_select: self.lacp_select.unwrap_or_default(),
                min_links: self.min_links.unwrap_or(0),
            }))
        }
    }

    pub(super) fn first_wrong(&self) -> Option<Wrong> {
        let wrong = |key, message: &str| Some((key, message.to_owned()));
        let lacp = self.mode == BondMode::Lacp;
        let for_lacp = [
            ("lacp_rate", self.lacp_rate.is_some()),
            ("lacp_select", self.lacp_select.is_some()),
            ("min_links", self.min_links.is_some()),
        ];
        if let Some((key, _)) = for_lacp.into_iter().find(|(_, there)| *there && !lacp) {
            return Some((
                key,
                format!("{key} is for LACP; set mode = \"802.3ad\", or leave it out"),
            ));
        }
        if self.members.is_empty() {
            return wrong(
                "members",
                "a bond without members carries nothing; name at least one device",
            );
        }
        if self.hash.is_some() && !self.mode.hashes() {
            return wrong(
                "hash",
                "this mode makes no hash; leave it out, or set mode = \"balance-xor\" or \"802.3ad\"",
            );
        }
        if let Some(primary) = &self.primary {
            if !self.mode.has_primary() {
                return wrong(
                    "primary",
                    "this mode prefers no member; leave it out, or set mode = \"active-backup\"",
                );
            }
            if !self.members.contains(primary) {
                return Some((
                    "primary",
                    format!("{} is no member; name one of `members`", primary.0),
                ));
            }
        }
        let carrier = [
            ("miimon", self.miimon),
            ("up_delay", self.up_delay),
            ("down_delay", self.down_delay),
        ];
        if self.arp_interval.is_some() {
            if !self.mode.takes_arp() {
                return wrong(
                    "arp_interval",
                    "this mode looks at the carrier only; leave it out, or set `miimon`",
                );
            }
            if let Some((key, _)) = carrier.iter().find(|(_, value)| value.is_some()) {
                return Some((
                    key,
                    format!(
                        "{key} is for looks at the carrier, and arp_interval asks by ARP; leave one out"
                    ),
                ));
            }
            if self.arp_targets.is_empty() || self.arp_targets.len() > TARGETS_MAX {
                return Some((
                    "arp_targets",
                    format!(
                        "arp_targets has {} addresses; name 1 to {TARGETS_MAX} that answer on this segment",
                        self.arp_targets.len()
                    ),
                ));
            }
            if self
                .arp_targets
                .iter()
                .any(|ip| ip.is_unspecified() || ip.is_broadcast() || ip.is_multicast())
            {
                return wrong(
                    "arp_targets",
                    "one of these is nobody's address; name hosts that answer on this segment",
                );
            }
        } else if !self.arp_targets.is_empty() {
            return wrong(
                "arp_targets",
                "nobody asks them; set `arp_interval`, in milliseconds, or leave it out",
            );
        }
        if self.arp_interval == Some(0) {
            return wrong("arp_interval", "arp_interval is 0; it must be 1 to 60000");
        }
        let times = carrier
            .into_iter()
            .chain([("arp_interval", self.arp_interval)]);
        for (key, value) in times {
            if let Some(value) = value.filter(|value| *value > 60_000) {
                return Some((
                    key,
                    format!("{key} is {value}; it must be 0 to 60000 (milliseconds)"),
                ));
            }
        }
        if self.miimon == Some(0) && !self.mode.takes_arp() {
            return wrong(
                "miimon",
                "this mode must look at the carrier; set it to 100 or so, or leave it out",
            );
        }
        let every = self.miimon.unwrap_or(MII_MS);
        for (key, value) in [("up_delay", self.up_delay), ("down_delay", self.down_delay)] {
            let value = value.unwrap_or(0);
            if value != 0 && (every == 0 || value % every != 0) {
                return Some((
                    key,
                    format!("{key} is {value}; it must be a multiple of miimon, which is {every}"),
                ));
            }
        }
        None
    }
}
