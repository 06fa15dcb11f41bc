//! Macvlans and macvtaps on a device of the host: stations of their own on its LAN. They are no ports: no network of the mesh has them.
//!
//! Owns their shape, where they are put, and what keeps a device from carrying one.

use super::{Scene, Seen, Shape, Wish, Wishes};
use crate::command::NetnsRef;
use crate::ident::{IfName, MacAddr};
use crate::kind::MacvlanMode;
use std::collections::BTreeSet;

/// Kinds of masters that take all frames of what is in them (`rx_handler` of linux/netdevice.h), as a macvlan would.
const TAKERS: [&str; 4] = ["bond", "bridge", "team", "openvswitch"];

/// Settings of a macvlan or macvtap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Macvlan {
    /// On whose LAN it is.
    pub parent: IfName,
    /// How the kernel treats its frames.
    pub mode: MacvlanMode,
    /// The MACs whose frames it takes, in mode `source`.
    pub sources: BTreeSet<MacAddr>,
    /// It has a file for a virtual machine.
    pub tap: bool,
}

/// Where a device is put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The namespace.
    pub netns: NetnsRef,
    /// Its name there.
    pub ifname: IfName,
}

/// Why no macvlan such as `shape` can stand upon `parent`, which is there and not about to be made anew.
pub(super) fn refuses(scene: &Scene, shape: &Shape, parent: &IfName) -> Option<String> {
    let seen = scene.get(parent)?;
    // In passthru mode it has the MAC of its parent.
    let alone = matches!(shape, Shape::Macvlan(it) if it.mode == MacvlanMode::Passthru);
    if seen.wireless && !alone {
        return Some(format!(
            "{parent} is wireless, and an access point takes frames of one MAC only, so the LAN would not hear the station: name a card with a cable; attach the station to a network of the mesh instead (`meshd attach … --kind macvlan`); or, where {parent} is the access point itself or uses 4 addresses, put it into a bridge and name that"
        ));
    }
    if seen.uplink {
        return Some(format!(
            "{parent} is an uplink of a network, which takes its frames: attach the station to that network instead (`meshd attach … --kind macvlan`), or detach the uplink"
        ));
    }
    if is_one(seen) {
        return Some(on_itself(parent));
    }
    let master = seen.master.as_ref()?;
    let kind = scene.get(master)?.kind.as_str();
    TAKERS.contains(&kind).then(|| {
        format!(
            "{parent} is in the {kind} {master}, which takes its frames: name {master} as the parent, or take {parent} out"
        )
    })
}

/// Why none can by what else is wished.
pub(super) fn contradicts(wishes: &Wishes, parent: &IfName) -> Option<String> {
    let is_one = |shape: &Shape| matches!(shape, Shape::Macvlan(_) | Shape::Shim(_));
    if wishes.get(parent).is_some_and(|wish| is_one(&wish.shape)) {
        return Some(on_itself(parent));
    }
    let holds = |(_, wish): &(&IfName, &Wish)| wish.members.contains_key(parent);
    let (master, _) = wishes.iter().find(holds)?;
    Some(format!(
        "{parent} is to be in {master}, which takes its frames: name {master} as the parent"
    ))
}

fn on_itself(parent: &IfName) -> String {
    format!("{parent} is a macvlan itself: name what that stands upon")
}

fn is_one(seen: &Seen) -> bool {
    matches!(seen.kind.as_str(), "macvlan" | "macvtap")
}

/// The macvlan that keeps `member` out of a bond or bridge. `stays`: of ours, one that is not about to go.
pub(super) fn carried<'a>(
    scene: &'a Scene,
    member: &IfName,
    stays: impl Fn(&IfName) -> bool,
) -> Option<&'a IfName> {
    let carries = |(name, seen): &(&IfName, &Seen)| {
        is_one(seen) && seen.parent.as_ref() == Some(member) && (!seen.ours || stays(name))
    };
    scene.iter().find(carries).map(|(name, _)| name)
}
