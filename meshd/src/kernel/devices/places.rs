//! Host devices in namespaces of others: where each is, how it gets there, and how it goes.
//!
//! ```text
//!    make:    built and marked in the host's namespace -> moved, and named as it is to be there
//!    find:    by its mark, in the namespace that its wish names; what nobody wishes, in all that this one has a number for
//! ```
//!
//! Owns the files of macvtaps, too. Refuses to keep a namespace alive: nothing open of it outlives a look or a step.

use super::super::device::link_body;
use super::super::failure::{Failure, failure, refused};
use super::super::netlink::{Body, Link};
use super::super::netns::{Netlink, Netns};
use super::super::tap_file;
use super::{DeviceError, HostDevices, shapes};
use meshd_core::code::ErrorCode;
use meshd_core::command::NetnsRef;
use meshd_core::devices::{Place, Scene, Seen, Wishes};
use meshd_core::ident::IfName;
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

/// What is known of them since the last look.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    /// Those where they are wished, each with its number there.
    spots: BTreeMap<IfName, (Place, u32)>,
    /// Others of ours: what the host calls the namespace, and the number there.
    strays: BTreeMap<IfName, Vec<(i32, u32)>>,
    /// The places when all namespaces were looked through last.
    searched: Option<BTreeMap<IfName, Place>>,
    /// The namespaces that wishes name and that are there: device and inode of each one's file.
    there: BTreeMap<IfName, (u64, u64)>,
    /// Files of macvtaps.
    files: BTreeMap<IfName, PathBuf>,
}

/// A device, and the way to it.
pub(super) struct Spot {
    pub(super) netlink: Netlink,
    pub(super) netns: Arc<Netns>,
    pub(super) link: Link,
}

impl Spot {
    pub(super) async fn set(&self, step: &str, name: &IfName, body: Body) -> Result<(), Failure> {
        let done = self.netlink.change(libc::RTM_NEWLINK, 0, body.bytes());
        done.await.map_err(refused(step, name, &self.netns))
    }
}

async fn enter(netns: &Netns) -> Result<Netlink, Failure> {
    Netlink::at(netns).await.map_err(|error| {
        failure(
            ErrorCode::NetnsMissing,
            format!("open netlink in {}: {error}", netns.shown()),
        )
    })
}

impl HostDevices {
    fn known(&self) -> std::sync::MutexGuard<'_, Elsewhere> {
        self.elsewhere
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to the scene what of ours is in other namespaces.
    pub(super) async fn look_elsewhere(
        &self,
        wishes: &Wishes,
        names: &BTreeMap<u32, IfName>,
        scene: &mut Scene,
    ) -> Result<(), DeviceError> {
        let placed = wishes
            .iter()
            .filter_map(|(name, wish)| Some((name.clone(), wish.place.clone()?)));
        let placed: BTreeMap<IfName, Place> = placed.collect();
        let (mut spots, mut there) = (BTreeMap::new(), BTreeMap::new());
        for (name, place) in &placed {
            // What cannot be entered has nothing that could be seen; making it will say why.
            let Ok(netns) = Netns::open(&place.netns) else {
                continue;
            };
            there.extend(netns.id().map(|id| (name.clone(), id)));
            if netns.is(&self.netns) || scene.contains_key(name) {
                continue;
            }
            let Some(seen) = self.look_at(name, place, &netns, names).await? else {
                continue;
            };
            let (seen, index) = seen;
            spots.insert(name.clone(), (place.clone(), index));
            scene.insert(name.clone(), seen);
        }
        let is_new = {
            let known = self.known();
            let left = known.strays.keys().any(|name| !spots.contains_key(name));
            left || known.searched.as_ref() != Some(&placed)
        };
        let strays = match is_new {
            true => self.search(&spots, names, scene).await?,
            false => BTreeMap::new(),
        };
        let mut known = self.known();
        (known.spots, known.strays, known.there) = (spots, strays, there);
        known.searched = Some(placed);
        Ok(())
    }

    /// The namespaces that wishes name, those that were there at the last look.
    #[must_use]
    pub fn namespaces(&self) -> BTreeMap<IfName, (u64, u64)> {
        self.known().there.clone()
    }

    /// The device of this name where it is wished, and its number there.
    async fn look_at(
        &self,
        name: &IfName,
        place: &Place,
        netns: &Netns,
        names: &BTreeMap<u32, IfName>,
    ) -> Result<Option<(Seen, u32)>, Failure> {
        let far = enter(netns).await?;
        let read = refused("read the devices for", name, netns);
        let links = far.links().await.map_err(&read)?;
        let ours = |link: &&Link| self.marks.read_placed(link).as_ref() == Some(name);
        let Some(link) = links.iter().find(ours) else {
            return Ok(None);
        };
        let addresses = far.addresses().await.map_err(&read)?;
        let mut seen = self.seen_far(link, names);
        seen.addresses = self.read_addresses(name, link, &addresses, true);
        seen.place = Some(place.clone());
        if link.name != place.ifname.as_bytes() {
            seen.place = Some(somewhere(name));
        }
        if link.kind == b"macvtap" {
            seen.file = Some(self.make_file(netns, name, link.index).await);
        }
        Ok(Some((seen, link.index)))
    }

    fn seen_far(&self, link: &Link, names: &BTreeMap<u32, IfName>) -> Seen {
        // The host's number: what it stands on is here.
        let parent = link.peer.and_then(|index| names.get(&index)).cloned();
        Seen {
            ours: true,
            shape: shapes::read(link, parent.as_ref()),
            kind: String::from_utf8_lossy(&link.kind).into_owned(),
            mac: link.mac,
            mtu: link.mtu,
            up: link.is_up(),
            carrier: link.has_carrier(),
            parent,
            ..Seen::default()
        }
    }

    /// Ours that are not where anybody wishes them.
    async fn search(
        &self,
        spots: &BTreeMap<IfName, (Place, u32)>,
        names: &BTreeMap<u32, IfName>,
        scene: &mut Scene,
    ) -> Result<BTreeMap<IfName, Vec<(i32, u32)>>, Failure> {
        let read = refused("read the devices in", &"other namespaces", &self.netns);
        let mut at = Vec::new();
        for (name, (place, index)) in spots {
            let Ok(netns) = Netns::open(&place.netns) else {
                continue;
            };
            let number = self.own.number_of(&netns).await.map_err(&read)?;
            at.extend(number.map(|number| (name, number, *index)));
        }
        let mut strays: BTreeMap<IfName, Vec<(i32, u32)>> = BTreeMap::new();
        for number in self.own.numbers().await.map_err(&read)? {
            // It may have gone since.
            let links = self.own.links_in(number).await.unwrap_or_default();
            for link in &links {
                let Some(name) = self.marks.read_placed(link) else {
                    continue;
                };
                if at.contains(&(&name, number, link.index)) {
                    continue;
                }
                let all = strays.entry(name.clone()).or_default();
                all.push((number, link.index));
                let place = Some(somewhere(&name));
                scene.entry(name).or_insert_with(|| Seen {
                    place,
                    ..self.seen_far(link, names)
                });
            }
        }
        Ok(strays)
    }

    /// The way to a device, wherever it is.
    pub(super) async fn spot(&self, of: &IfName) -> Result<Spot, Failure> {
        let there = self.known().spots.get(of).cloned();
        let Some((place, index)) = there else {
            return Ok(Spot {
                netlink: self.own.clone(),
                netns: Arc::clone(&self.netns),
                link: self.find(of).await?,
            });
        };
        let netns =
            Arc::new(Netns::open(&place.netns).map_err(|error| failure(error.code(), error))?);
        let netlink = enter(&netns).await?;
        let link = {
            let looked = refused("look for", of, &netns);
            let link = netlink.link_by_index(index).await.map_err(&looked)?;
            link.ok_or_else(|| looked(Errno::ENODEV))?
        };
        Ok(Spot {
            netlink,
            netns,
            link,
        })
    }

    /// The namespace that a device is to be put into.
    pub(super) async fn target(
        &self,
        place: Option<&Place>,
    ) -> Result<Option<(Place, Netns)>, Failure> {
        let Some(place) = place else { return Ok(None) };
        let netns = Netns::open(&place.netns).map_err(|error| failure(error.code(), error))?;
        if netns.is(&self.netns) {
            return Err(failure(
                ErrorCode::InterfaceExists,
                format!("{} is the daemon's own: leave `netns` out", netns.shown()),
            ));
        }
        // By this it is found again, whatever becomes of the file.
        let numbered = self.own.number(&netns).await;
        numbered.map_err(refused("give a number to", &"it", &netns))?;
        Ok(Some((place.clone(), netns)))
    }

    /// Is its name there free, or held by the one that it takes the place of?
    pub(super) async fn check_free(
        &self,
        of: &IfName,
        (place, netns): (&Place, &Netns),
    ) -> Result<(), Failure> {
        let far = enter(netns).await?;
        let found = far.link_by_name(place.ifname.as_bytes()).await;
        let found = found.map_err(refused("look for", &place.ifname, netns))?;
        match found {
            Some(link) if self.marks.read_placed(&link).as_ref() != Some(of) => {
                Err(taken(place, netns))
            }
            _ => Ok(()),
        }
    }

    /// Moves a device that is made and marked to its place. If it cannot be there, nothing of it is left there.
    pub(super) async fn hand_over(
        &self,
        of: &IfName,
        link: &Link,
        to: (&Place, &Netns),
    ) -> Result<(), Failure> {
        let handed = self.try_hand_over(of, link, to).await;
        if handed.is_err()
            && let Ok(far) = enter(to.1).await
        {
            // The kernel moves first, and names then.
            let working = self.marks.working_name();
            let found = far.link_by_name(working.as_bytes()).await.ok().flatten();
            let ours = |link: &Link| self.marks.read_placed(link).as_ref() == Some(of);
            if let Some(half) = found.filter(ours) {
                let body = link_body(half.index, 0, 0).bytes();
                let _ = far.change(libc::RTM_DELLINK, 0, body).await;
            }
        }
        handed
    }

    async fn try_hand_over(
        &self,
        of: &IfName,
        link: &Link,
        (place, netns): (&Place, &Netns),
    ) -> Result<(), Failure> {
        let moved = refused("move there", of, netns);
        let name = [place.ifname.as_bytes(), b"\0"].concat();
        let body = link_body(link.index, 0, 0)
            .attribute(libc::IFLA_NET_NS_FD, &netns.fd().to_ne_bytes())
            .attribute(libc::IFLA_IFNAME, &name);
        match self.own.change(libc::RTM_NEWLINK, 0, body.bytes()).await {
            Ok(()) => {}
            Err(Errno::EEXIST) => return Err(taken(place, netns)),
            Err(error) => return Err(moved(error)),
        }
        let far = enter(netns).await?;
        let links = far.links().await.map_err(&moved)?;
        let ours = |link: &Link| self.marks.read_placed(link).as_ref() == Some(of);
        let there = links
            .into_iter()
            .find(ours)
            .ok_or_else(|| moved(Errno::ENODEV))?;
        let spot = (place.clone(), there.index);
        self.known().spots.insert(of.clone(), spot);
        Ok(())
    }

    /// Removes what of this name is in other namespaces; false if nothing was.
    pub(super) async fn remove_elsewhere(&self, of: &IfName) -> Result<bool, Failure> {
        let (spot, strays) = {
            let known = self.known();
            let strays = known.strays.get(of).cloned().unwrap_or_default();
            (known.spots.get(of).cloned(), strays)
        };
        let was_there = spot.is_some() || !strays.is_empty();
        if spot.is_some() {
            // With its namespace it went, too.
            if let Ok(spot) = self.spot(of).await {
                let body = link_body(spot.link.index, 0, 0).bytes();
                match spot.netlink.change(libc::RTM_DELLINK, 0, body).await {
                    Ok(()) | Err(Errno::ENODEV) => {}
                    Err(error) => return Err(refused("delete", of, &spot.netns)(error)),
                }
            }
            self.known().spots.remove(of);
        }
        for (number, index) in strays {
            let gone = self.own.delete_in(number, index).await;
            gone.map_err(refused("delete in another namespace", of, &self.netns))?;
        }
        self.known().strays.remove(of);
        Ok(was_there)
    }

    /// The file of a macvtap, which is there then.
    pub(super) async fn make_file(
        &self,
        netns: &Netns,
        name: &IfName,
        index: u32,
    ) -> Result<Vec<u8>, String> {
        let made = tap_file::make(netns, &self.marks.of_file(name), index).await;
        let path = made.map_err(|error| format!("the file of macvtap {name}: {error}"))?;
        let bytes = path.as_os_str().as_bytes().to_vec();
        let before = self.known().files.insert(name.clone(), path.clone());
        if let Some(before) = before.filter(|before| *before != path) {
            drop_file(name, &before);
        }
        Ok(bytes)
    }

    /// Removes the files of macvtaps that are gone.
    pub(super) fn tidy_files(&self, scene: &Scene) {
        let is_gone = |name: &IfName| scene.get(name).is_none_or(|seen| seen.file.is_none());
        let mut known = self.known();
        let gone: Vec<IfName> = known
            .files
            .keys()
            .filter(|name| is_gone(name))
            .cloned()
            .collect();
        for name in gone {
            if let Some(path) = known.files.remove(&name) {
                drop_file(&name, &path);
            }
        }
    }
}

fn drop_file(name: &IfName, path: &std::path::Path) {
    if let Err(error) = tap_file::remove(path) {
        tracing::warn!(code = %ErrorCode::LeftoversKept, device = %name, %error, "the file of a macvtap is left: {}", path.display());
    }
}

fn taken(place: &Place, netns: &Netns) -> Failure {
    failure(
        ErrorCode::InterfaceExists,
        format!(
            "{} has an interface {} already: choose another `ifname`, or remove that one",
            netns.shown(),
            place.ifname
        ),
    )
}

/// No place that anybody can wish.
fn somewhere(name: &IfName) -> Place {
    Place {
        netns: NetnsRef::Handed,
        ifname: name.clone(),
    }
}
