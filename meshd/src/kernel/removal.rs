//! Undoing ports: their devices, and what else was made of them.
//!
//! ```text
//!    veths, TAPs of all that go --> a group that nobody else has --> the group deleted: one request, one wait
//!                                              fails --> each alone
//!    hints, macvtaps' files
//! ```
//!
//! For each device that goes the kernel waits until nobody can still be looking at it, some ten milliseconds; devices that go by
//! one request share that wait. A far end goes with its veth, addresses and routes with that. All is tried, whatever fails.

use super::batch::Request;
use super::failure::refused;
use super::marks::Role;
use super::netlink::{self, Link};
use super::port::Workbench;
use super::{hint, tap_file};
use meshd_core::command::PortRecord;
use meshd_core::ident::{PortId, escape};
use meshd_core::kind::PortKind;
use nix::errno::Errno;
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A device that is to go.
struct Doomed {
    port: PortId,
    role: Role,
    link: Link,
}

impl Workbench<'_> {
    /// Removes all of some ports. Answers what could not be undone, of each in their order.
    pub(super) async fn unwire(&self, ports: &[PortRecord]) -> Vec<Vec<String>> {
        // Without it the number of its macvtap may be another's by now.
        let mut there = BTreeSet::new();
        for port in ports {
            if let Ok(Some(_)) = self.find(port.id, Role::Veth).await {
                there.insert(port.id);
            }
        }
        let ids: Vec<PortId> = ports.iter().map(|port| port.id).collect();
        let failed = self.remove_devices(&ids).await;
        let mut all = Vec::new();
        for port in ports {
            let of_it = failed.iter().filter(|(id, _)| *id == port.id);
            let mut errors: Vec<String> = of_it.map(|(_, error)| error.clone()).collect();
            if port.kind.uplink().is_some() {
                errors.extend(self.sweep_uplinks(&|other| other != port.id).await);
                all.push(errors);
                continue;
            }
            if let Some(file) = &port.file
                && (there.contains(&port.id) || file.starts_with(tap_file::OWN))
                && let Err(error) = tap_file::remove(Path::new(OsStr::from_bytes(file)))
            {
                errors.push(format!("remove {}: {error}", escape(file)));
            }
            // Made by a daemon that was killed before it could note that.
            if let PortKind::Macvtap(_) = port.kind {
                let own = tap_file::own(&self.marks.of(port.id));
                if let Err(error) = tap_file::remove(&own) {
                    errors.push(format!("remove {}: {error}", own.display()));
                }
            }
            if let Err(error) = hint::remove(&port.netns, port.id, self.marks.of_node()) {
                errors.push(format!("remove the resolv.conf of its namespace: {error}"));
            }
            all.push(errors);
        }
        all
    }

    /// Removes the devices of ports that are still ours.
    pub(super) async fn remove_devices(&self, ports: &[PortId]) -> Vec<(PortId, String)> {
        let (mut errors, mut left) = (Vec::new(), Vec::new());
        for &port in ports {
            for role in [Role::Veth, Role::Tap] {
                match self.find(port, role).await {
                    Ok(found) => left.extend(found.map(|link| Doomed { port, role, link })),
                    Err(failure) => errors.push((port, failure.reason)),
                }
            }
            self.inventory.forget(port);
        }
        let mut doomed = Vec::new();
        for device in left {
            let port = device.port;
            if device.role == Role::Tap
                && let Some(former) = self.marks.read_former(&device.link)
            {
                let failed = self.release_uplink(port, former).await;
                if !failed.is_empty() {
                    // It alone knows how the interface was, and is kept for the next try.
                    errors.extend(failed.into_iter().map(|reason| (port, reason)));
                    self.inventory.add(port, device.role, device.link.index);
                    continue;
                }
            }
            doomed.push(device);
        }
        let gone = self.delete_together(&doomed).await;
        for (at, Doomed { port, role, link }) in doomed.into_iter().enumerate() {
            let deleted = match gone.contains(&at) {
                true => Ok(()),
                false => self.delete(link.index).await,
            };
            match deleted {
                Ok(()) | Err(Errno::ENODEV) => {
                    if let (Role::Tap, Ok(name)) = (role, str::from_utf8(&link.name)) {
                        self.taps.remove(name);
                    }
                }
                Err(error) => {
                    self.inventory.add(port, role, link.index);
                    let name = escape(&link.name);
                    errors.push((port, refused("delete", &name, self.own_netns)(error).reason));
                }
            }
        }
        errors
    }

    async fn delete(&self, index: u32) -> Result<(), Errno> {
        let deleted = self.own.rt.link().del(index).execute().await;
        deleted.map_err(|error| netlink::errno(&error))
    }

    /// Deletes devices by one request, as a group; answers which are gone, by their place.
    async fn delete_together(&self, doomed: &[Doomed]) -> BTreeSet<usize> {
        let none = BTreeSet::new();
        let mut random = [0; 4];
        if doomed.len() < 2 || SystemRandom::new().fill(&mut random).is_err() {
            return none;
        }
        // Of two thousand million, far above those that people give; a group is nothing but this number.
        let group = (u32::from_ne_bytes(random) | 1 << 31).to_ne_bytes();
        let request = |kind, index: u32| Request {
            kind,
            flags: 0,
            body: netlink::Body::new(0, 16)
                .set(4, &index.to_ne_bytes())
                .attribute(libc::IFLA_GROUP, &group)
                .bytes(),
        };
        let enter = doomed
            .iter()
            .map(|device| request(libc::RTM_SETLINK, device.link.index));
        let mut requests: Vec<Request> = enter.collect();
        requests.push(request(libc::RTM_DELLINK, 0));
        let Ok(failed) = self.batch.send(&requests).await else {
            return none;
        };
        if failed.iter().any(|(at, _)| *at == doomed.len()) {
            return none;
        }
        let mut gone: BTreeSet<usize> = (0..doomed.len()).collect();
        for (at, _) in failed {
            gone.remove(&at);
        }
        gone
    }
}
