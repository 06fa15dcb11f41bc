//! The forwarding tables of bridge and VXLAN device, filled from the directory.
//!
//! ```text
//!    bridge mb<vni>:  MAC -> port (mv<port> or mx<vni>)       `master static`
//!    VXLAN mx<vni>:   MAC -> VTEP;  zero MAC -> foreign VTEPs  `self permanent`
//! ```
//!
//! Owns the entries' bytes and the batches that change them. Refuses to choose entries, and leaves alone what the kernel
//! makes itself: the addresses of the ports' own devices.

use super::batch::Request;
use super::failure::{Failure, refused};
use super::marks::NetworkRole;
use super::netlink::{self, Body};
use super::netns::Netlink;
use super::port::Workbench;
use meshd_core::ident::{MacAddr, Vni};
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE};
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

const AF_BRIDGE: u8 = 7;
/// `struct ndmsg`: family 1, padding 3, device 4, state 2, flags 1, type 1.
const HEAD: usize = 12;

/// Where frames to a MAC go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FdbTarget {
    /// Out of the device, which is a port of the bridge.
    Port,
    /// From the device, which is a VXLAN one, to a VTEP; with another UDP port than the device's own, if any. Of the MAC
    /// zero there may be many: each gets what no other entry is for.
    Vtep {
        /// Its address.
        ip: IpAddr,
        /// Its UDP port, if not the device's own.
        port: Option<u16>,
    },
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FdbEntry {
    /// The index of the bridge's port, or of the VXLAN device.
    pub device: u32,
    /// Whose frames.
    pub mac: MacAddr,
    /// Where they go.
    pub target: FdbTarget,
}

impl FdbEntry {
    /// Is it for frames that no other entry is for?
    #[must_use]
    pub fn is_flood(&self) -> bool {
        self.mac == MacAddr::default()
    }
}

impl fmt::Display for FdbEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.target {
            FdbTarget::Port => write!(f, "{} behind port {}", self.mac, self.device),
            FdbTarget::Vtep { ip, port: None } => {
                write!(f, "{} at VTEP {ip} from device {}", self.mac, self.device)
            }
            FdbTarget::Vtep {
                ip,
                port: Some(port),
            } => write!(
                f,
                "{} at VTEP {ip} port {port} from device {}",
                self.mac, self.device
            ),
        }
    }
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FdbChange {
    /// Frames to this MAC go there from now on, in one step, wherever they went before; a zero MAC gets one target more.
    Set(FdbEntry),
    /// No longer there. That it is not there already is no failure.
    Remove(FdbEntry),
}

impl FdbChange {
    /// The entry that it is about.
    #[must_use]
    pub fn entry(&self) -> &FdbEntry {
        match self {
            Self::Set(entry) | Self::Remove(entry) => entry,
        }
    }
}

/// A change that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", change.entry())]
pub struct FdbFailure {
    /// The change, with its MAC.
    pub change: FdbChange,
    /// The kernel's answer in words.
    pub reason: String,
}

/// What the tables of one network hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FdbTable {
    /// Entries such as we make.
    pub entries: BTreeSet<FdbEntry>,
    /// Entries of others: learned, of a VLAN, or made otherwise. Not ours to keep, and none are expected.
    pub others: BTreeSet<FdbEntry>,
}

/// An entry as a message has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) entry: FdbEntry,
    /// `NUD_*`.
    state: u16,
    is_tagged: bool,
}

impl Seen {
    /// From the body of RTM_NEWNEIGH or RTM_DELNEIGH; `None`: it is of another family, or of no use here.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        if *body.first()? != AF_BRIDGE {
            return None;
        }
        let device = netlink::word(body.get(4..)?)?;
        let state = netlink::half(body.get(8..)?)?;
        let flags = *body.get(10)?;
        let (mut mac, mut ip, mut port, mut is_tagged) = (None, None, None, false);
        for (kind, value) in netlink::attributes(body, HEAD) {
            match kind {
                libc::NDA_LLADDR => mac = value.try_into().ok().map(MacAddr),
                libc::NDA_DST => {
                    let family = if value.len() == 4 { 2 } else { 10 };
                    ip = netlink::ip(family, value);
                }
                libc::NDA_PORT => port = netlink::half(value).map(u16::from_be),
                libc::NDA_VLAN => is_tagged = true,
                _ => {}
            }
        }
        let target = match ip {
            Some(ip) => FdbTarget::Vtep { ip, port },
            // The unicast addresses that a device itself listens to.
            None if flags & libc::NTF_SELF != 0 => return None,
            None => FdbTarget::Port,
        };
        let mac = mac?;
        Some(Self {
            entry: FdbEntry {
                device,
                mac,
                target,
            },
            state,
            is_tagged,
        })
    }

    /// The kernel made it, for the address of a port's own device.
    pub(super) fn is_local(&self) -> bool {
        self.entry.target == FdbTarget::Port && self.state & libc::NUD_PERMANENT != 0
    }

    /// Is it such as we make?
    pub(super) fn is_as_made(&self) -> bool {
        let lasting = match self.entry.target {
            FdbTarget::Port => libc::NUD_NOARP,
            FdbTarget::Vtep { .. } => libc::NUD_PERMANENT,
        };
        self.state & lasting != 0 && !self.is_tagged
    }
}

fn head(device: u32, state: u16, flags: u8) -> Body {
    Body::new(AF_BRIDGE, HEAD)
        .set(4, &device.to_ne_bytes())
        .set(8, &state.to_ne_bytes())
        .set(10, &[flags])
}

fn request(change: &FdbChange) -> Request {
    let entry = change.entry();
    let body = match entry.target {
        FdbTarget::Port => head(entry.device, libc::NUD_NOARP, libc::NTF_MASTER)
            .attribute(libc::NDA_LLADDR, &entry.mac.0),
        FdbTarget::Vtep { ip, port } => {
            let body = head(entry.device, libc::NUD_PERMANENT, libc::NTF_SELF)
                .attribute(libc::NDA_LLADDR, &entry.mac.0);
            let body = match ip {
                IpAddr::V4(ip) => body.attribute(libc::NDA_DST, &ip.octets()),
                IpAddr::V6(ip) => body.attribute(libc::NDA_DST, &ip.octets()),
            };
            match port {
                Some(port) => body.attribute(libc::NDA_PORT, &port.to_be_bytes()),
                None => body,
            }
        }
    };
    let (kind, flags) = match change {
        FdbChange::Set(entry) if entry.is_flood() => {
            (libc::RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_APPEND)
        }
        FdbChange::Set(_) => (libc::RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE),
        FdbChange::Remove(_) => (libc::RTM_DELNEIGH, 0),
    };
    Request {
        kind,
        flags,
        body: body.bytes(),
    }
}

fn reason(error: Errno) -> String {
    let hint = match error {
        Errno::ENODEV => ": the device went away",
        Errno::EINVAL | Errno::EOPNOTSUPP => ": the device is no port of a bridge, or no VXLAN one",
        Errno::EAFNOSUPPORT => {
            ": the VTEP is of another IP version than the device's local address"
        }
        Errno::EPERM => ": needs CAP_NET_ADMIN (run meshd as root)",
        _ => "",
    };
    format!("{}{hint}", error.desc())
}

impl Workbench<'_> {
    /// Makes all changes, in batches, and goes on after a failure. The answer is what failed.
    pub(super) async fn change_fdb(&self, changes: &[FdbChange]) -> Vec<FdbFailure> {
        let networks = &self.inventory.networks;
        // Before the kernel does it, so that the monitor knows whose doing it is.
        for change in changes {
            let group = networks.bridge_of(change.entry().device);
            self.inventory.entries.note(change, group);
        }
        let requests: Vec<_> = changes.iter().map(request).collect();
        let failed = match self.batch.send(&requests).await {
            Ok(failed) => failed,
            Err(error) => {
                let all = changes.iter().map(|change| FdbFailure {
                    change: *change,
                    reason: format!("the netlink socket failed: {error}"),
                });
                return all.collect();
            }
        };
        let failed = failed.into_iter().filter_map(|(at, error)| {
            let change = *changes.get(at)?;
            let is_gone = matches!(change, FdbChange::Remove(_)) && matches!(error, Errno::ENOENT);
            if let FdbChange::Set(entry) = change {
                self.inventory
                    .entries
                    .note(&FdbChange::Remove(entry), networks.bridge_of(entry.device));
            }
            (!is_gone).then(|| FdbFailure {
                change,
                reason: reason(error),
            })
        });
        failed.collect()
    }

    /// Reads what the network's bridge and VXLAN device hold. From now on the loss of any of its entries is told.
    pub(super) async fn read_fdb(&self, vni: Vni) -> Result<FdbTable, Failure> {
        let networks = &self.inventory.networks;
        let bridge = networks.of(vni, NetworkRole::Bridge);
        let vxlan = networks.of(vni, NetworkRole::Vxlan);
        let mut table = FdbTable::default();
        let mut seen = Vec::new();
        if let Some(bridge) = bridge {
            seen.extend(self.dump_fdb(0, Some(bridge)).await?);
        }
        if let Some(vxlan) = vxlan
            && networks.bridge_of(vxlan).is_none()
        {
            seen.extend(self.dump_fdb(vxlan, None).await?);
        }
        for seen in seen.iter().filter(|seen| !seen.is_local()) {
            if seen.is_as_made() {
                table.entries.insert(seen.entry);
            } else {
                table.others.insert(seen.entry);
            }
        }
        let groups: Vec<_> = bridge.into_iter().chain(vxlan).collect();
        let noted = table
            .entries
            .iter()
            .map(|entry| (*entry, networks.bridge_of(entry.device)));
        self.inventory.entries.replace(&groups, noted);
        Ok(table)
    }

    async fn dump_fdb(&self, device: u32, bridge: Option<u32>) -> Result<Vec<Seen>, Failure> {
        let shown = bridge.unwrap_or(device);
        dump(self.own, device, bridge).await.map_err(refused(
            "read the FDB of device",
            &shown,
            self.own_netns,
        ))
    }
}

/// All entries of a bridge with its ports, or of one device.
pub(super) async fn dump(
    netlink: &Netlink,
    device: u32,
    bridge: Option<u32>,
) -> Result<Vec<Seen>, Errno> {
    // `struct ifinfomsg` here: the kernel filters by device and by bridge (IFLA_MASTER).
    let body = Body::new(AF_BRIDGE, 16).set(4, &device.to_ne_bytes());
    let body = match bridge {
        Some(bridge) => body.attribute(libc::IFLA_MASTER, &bridge.to_ne_bytes()),
        None => body,
    };
    let bodies = netlink.ask(libc::RTM_GETNEIGH, true, body.bytes()).await?;
    Ok(bodies.iter().filter_map(|body| Seen::parse(body)).collect())
}

/// Looks for one entry; true: such as we make, false: otherwise, `None`: not there.
pub(super) async fn look(netlink: &Netlink, entry: &FdbEntry) -> Option<bool> {
    let seen = if entry.is_flood() {
        // Asked for by MAC, the kernel tells only the first target.
        dump(netlink, entry.device, None).await.ok()?
    } else {
        let flags = match entry.target {
            FdbTarget::Port => libc::NTF_MASTER,
            FdbTarget::Vtep { .. } => libc::NTF_SELF,
        };
        let body = head(entry.device, 0, flags).attribute(libc::NDA_LLADDR, &entry.mac.0);
        let bodies = netlink.ask(libc::RTM_GETNEIGH, false, body.bytes()).await;
        let bodies = bodies.ok()?;
        bodies.iter().filter_map(|body| Seen::parse(body)).collect()
    };
    let found = seen.iter().find(|seen| seen.entry == *entry)?;
    Some(found.is_as_made())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry() -> impl Strategy<Value = FdbEntry> {
        let target = prop_oneof![
            Just(FdbTarget::Port),
            (any::<IpAddr>(), any::<Option<u16>>())
                .prop_map(|(ip, port)| FdbTarget::Vtep { ip, port }),
        ];
        (any::<u32>(), any::<[u8; 6]>(), target).prop_map(|(device, mac, target)| FdbEntry {
            device,
            mac: MacAddr(mac),
            target,
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = Seen::parse(&bytes);
        }

        #[test]
        fn what_is_written_is_read_back(entry in entry()) {
            let seen = Seen::parse(&request(&FdbChange::Set(entry)).body).unwrap();
            prop_assert_eq!(seen.entry, entry);
            prop_assert!(seen.is_as_made() && !seen.is_local());
        }

        #[test]
        fn a_message_cut_anywhere_is_no_other_entry(entry in entry(), at in 0usize..60) {
            let body = request(&FdbChange::Set(entry)).body;
            let cut = body.get(..at.min(body.len())).unwrap();
            let same = |seen: Seen| (seen.entry.device, seen.entry.mac) == (entry.device, entry.mac);
            prop_assert!(Seen::parse(cut).is_none_or(same));
        }
    }

    #[test]
    fn what_the_kernel_makes_for_a_device_is_not_taken_for_an_entry() {
        let own = head(7, libc::NUD_PERMANENT, 0).attribute(libc::NDA_LLADDR, &[2; 6]);
        assert!(Seen::parse(&own.bytes()).unwrap().is_local());
        let listens = head(7, libc::NUD_PERMANENT, libc::NTF_SELF);
        assert_eq!(
            Seen::parse(&listens.attribute(libc::NDA_LLADDR, &[2; 6]).bytes()),
            None
        );
    }
}
