//! `[[device.macvlan]]` and `[[device.macvtap]]`: stations of their own on the LAN behind a device of the host.
//!
//! Owns their keys, and what of them cannot be together. How the host itself reaches them is decided in `devices/shim.rs`.

use super::DeviceName;
use super::base::{Base, Wrong, is_nobodys, table};
use crate::command::NetnsRef;
use crate::devices::{Macvlan, Place, Shape, Wish};
use crate::ident::MacAddr;
use crate::kind::{MacvlanMode, SOURCES_MAX};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Of one station.
const REACH_MAX: usize = 16;
/// Longest path of a namespace (`PATH_MAX` of linux/limits.h).
const PATH_MAX: usize = 4095;

table! {
    /// One `[[device.macvlan]]` or `[[device.macvtap]]`. Its name is that on this host; it is another's business in a namespace.
    MacvlanConfig {
        /// A card, a bond, a VLAN or a bridge, whose LAN the station is on; of this file or not.
        pub parent: DeviceName,
        /// How the kernel treats its frames.
        #[serde(default)]
        pub mode: MacvlanMode,
        /// The MACs whose frames it takes, in mode `source`.
        #[serde(default)]
        pub sources: BTreeSet<MacAddr>,
        /// The namespace that it is put into, by name or path; `None`: it stays with the host.
        pub netns: Option<String>,
        /// Its name there; `None`: the same.
        pub ifname: Option<DeviceName>,
        /// Addresses that the host finds behind it, besides those in a namespace: of a machine on a macvtap.
        #[serde(default)]
        #[cfg_attr(feature = "schema", schema(value_type = Vec<String>))]
        pub reach: Vec<IpAddr>,
        /// Does the host reach it? Unless said it does, in mode `bridge`.
        pub shim: Option<bool>,
    }
}

impl MacvlanConfig {
    pub(super) fn wish(&self, is_tap: bool) -> Wish {
        let place = self.netns.as_ref().map(|typed| Place {
            netns: NetnsRef::Path(path(typed)),
            ifname: self.ifname.as_ref().unwrap_or(&self.name).0.clone(),
        });
        let is_bridge = self.mode == MacvlanMode::Bridge;
        Wish {
            place,
            reach: self.reach.iter().copied().collect(),
            shim: is_bridge && self.shim.unwrap_or(true),
            ..self.base().wish(Shape::Macvlan(Macvlan {
                parent: self.parent.0.clone(),
                mode: self.mode,
                sources: self.sources.clone(),
                tap: is_tap,
            }))
        }
    }

    pub(super) fn first_wrong(&self) -> Option<Wrong> {
        let wrong = |key, message: &str| Some((key, message.to_owned()));
        let of_source = self.mode == MacvlanMode::Source;
        if self.sources.len() > SOURCES_MAX {
            let count = self.sources.len();
            let message = format!("sources has {count} MACs; at most {SOURCES_MAX} are possible");
            return Some(("sources", message));
        }
        if let Some(mac) = self.sources.iter().find(|mac| !mac.is_source()) {
            return Some(("sources", format!("{mac} is no address of a station")));
        }
        match (of_source, self.sources.is_empty()) {
            (true, true) => {
                return wrong(
                    "mode",
                    "mode source takes frames of given MACs only; name them in `sources`",
                );
            }
            (false, false) => {
                return wrong(
                    "sources",
                    "these are for mode = \"source\"; set that, or leave them out",
                );
            }
            _ => {}
        }
        if self.mac.is_some() && self.mode == MacvlanMode::Passthru {
            return wrong(
                "mac",
                "in mode passthru a station has the MAC of its parent; leave it out",
            );
        }
        if let Some(typed) = &self.netns {
            let is_relative = typed.contains('/') && !typed.starts_with('/');
            let is_odd = typed.is_empty() || typed.len() > PATH_MAX || typed.contains('\0');
            if is_relative || is_odd || typed.starts_with("pid:") {
                return wrong(
                    "netns",
                    "this is no namespace that outlives a process; give its name, as `ip netns` has it, or an absolute path",
                );
            }
        } else if self.ifname.is_some() {
            return wrong(
                "ifname",
                "on the host itself a device has the name `name`; leave this out, or set `netns`",
            );
        }
        let is_bridge = self.mode == MacvlanMode::Bridge;
        if self.shim == Some(true) && !is_bridge {
            return wrong(
                "shim",
                "the host reaches stations in mode = \"bridge\" only; set that, or leave this out",
            );
        }
        if !self.reach.is_empty() && (!is_bridge || self.shim == Some(false)) {
            return wrong(
                "reach",
                "the host does not reach this station; set mode = \"bridge\" and no `shim = false`, or leave it out",
            );
        }
        if self.reach.len() > REACH_MAX {
            let count = self.reach.len();
            let message = format!("reach has {count} addresses; at most {REACH_MAX} are possible");
            return Some(("reach", message));
        }
        let odd = |ip: &&IpAddr| is_nobodys(**ip) || ip.is_loopback();
        let odd = self.reach.iter().find(odd)?;
        let message = format!("{odd} is no address of a station; name one such as 192.168.1.50");
        Some(("reach", message))
    }
}

/// The file of a namespace: of a bare name, where `ip netns` keeps it.
fn path(typed: &str) -> Vec<u8> {
    match typed.contains('/') {
        true => typed.as_bytes().to_vec(),
        false => format!("/run/netns/{typed}").into_bytes(),
    }
}
