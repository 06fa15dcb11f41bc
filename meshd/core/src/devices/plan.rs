//! From what a host has to what it is to have: which steps, in which order, and what waits for what.
//!
//! **Order.** First members leave, then devices that nobody wishes any more go, those that stand on others first; then each
//! device is made whole, those that others stand upon first. A device that cannot be changed into what is wished is built
//! beside the old one, and takes its place when it is complete ([`Step::Make`]).
//!
//! Refuses to touch what is not ours: a device of another's with the wished name is left, and told. Of others' devices only the
//! membership changes, of those that the file names as members.

use super::{
    Bridge, HostRoute, Place, Scene, Seen, Shape, Tagging, Vlans, Wish, Wishes, default_vlans,
    station,
};
use crate::ident::{IfName, MacAddr};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

/// A step for the sake of a device. If it fails, the later ones for that device are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The device that was wished, or that is wished no longer.
    pub of: IfName,
    /// What to do.
    pub step: Step,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Step {
    /// A device leaves the bond or bridge that it is in.
    Release { member: IfName },
    /// The device goes.
    Remove,
    /// The device is made, down, under another name, and gets its own when it is set; an earlier one of ours goes right before.
    Make {
        shape: Shape,
        mac: Option<MacAddr>,
        place: Option<Place>,
    },
    /// Our mark on it says what we put into it.
    Mark { put: BTreeSet<IfName> },
    /// A bridge's settings.
    Set { bridge: Bridge },
    /// Its address.
    SetMac { mac: MacAddr },
    /// Its MTU.
    SetMtu { mtu: u32 },
    /// A device enters it, and is up then.
    Enslave { member: IfName },
    /// A member that is in it is raised.
    RaiseMember { member: IfName },
    /// The member that is preferred.
    Prefer { member: Option<IfName> },
    /// VLANs of a bridge port, or of the bridge itself.
    SetVlans {
        port: IfName,
        add: Vlans,
        remove: BTreeSet<u16>,
    },
    /// It is raised.
    Raise,
    /// An address that we gave it goes.
    RemoveAddress { address: IpNet },
    /// It gets an address.
    AddAddress { address: IpNet },
    /// The host does not reach this by it any more.
    RemoveRoute { route: HostRoute },
    /// The host reaches this by it.
    AddRoute { route: HostRoute },
    /// It does not answer for this address any more.
    RemoveProxy { address: Ipv6Addr },
    /// It answers for this address.
    AddProxy { address: Ipv6Addr },
}

/// What is to be done, and what is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order.
    pub tasks: Vec<Task>,
    /// Devices that stay as they are, and why.
    pub waits: BTreeMap<IfName, String>,
    /// What devices lack that are made nevertheless.
    pub lacks: BTreeMap<IfName, Vec<String>>,
}

/// What becomes of a wished device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is there, and may be changed.
    Kept,
    /// It is made, first or anew.
    Made,
}

/// The steps from `scene` to `wishes`; none if all is as it can be.
#[must_use]
pub fn plan(scene: &Scene, wishes: &Wishes) -> Plan {
    let mut planner = Planner {
        scene,
        wishes,
        fates: BTreeMap::new(),
        plan: Plan::default(),
    };
    let order = planner.order();
    for name in &order {
        planner.decide(name);
    }
    planner.release();
    planner.remove();
    for name in &order {
        planner.complete(name);
    }
    planner.plan
}

struct Planner<'a> {
    scene: &'a Scene,
    wishes: &'a Wishes,
    fates: BTreeMap<&'a IfName, Fate>,
    plan: Plan,
}

impl<'a> Planner<'a> {
    /// Wished devices, each after those that it needs. Of a circle, which no file that was read has, any.
    fn order(&self) -> Vec<&'a IfName> {
        let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
        for start in self.wishes.keys() {
            // Each entry: a device, and whether what it needs is in the order by now.
            let mut open = vec![(start, false)];
            while let Some((name, is_ready)) = open.pop() {
                if is_ready {
                    order.push(name);
                } else if let Some(wish) = self.wishes.get(name)
                    && seen.insert(name)
                {
                    open.push((name, true));
                    open.extend(wish.lower().map(|lower| (lower, false)));
                }
            }
        }
        order
    }

    fn task(&mut self, of: &IfName, step: Step) {
        let of = of.clone();
        self.plan.tasks.push(Task { of, step });
    }

    fn wait(&mut self, name: &IfName, why: String) {
        self.plan.waits.insert(name.clone(), why);
    }

    fn lack(&mut self, name: &IfName, what: String) {
        let lacks = self.plan.lacks.entry(name.clone()).or_default();
        lacks.push(what);
    }

    fn decide(&mut self, name: &'a IfName) {
        let Some(wish) = self.wishes.get(name) else {
            return;
        };
        match self.fate(name, wish) {
            Ok(fate) => {
                self.fates.insert(name, fate);
            }
            Err(why) => self.wait(name, why),
        }
    }

    fn fate(&self, name: &IfName, wish: &Wish) -> Result<Fate, String> {
        let seen = self.scene.get(name);
        if wish.shape == Shape::Adopted {
            return match seen {
                Some(seen) if seen.ours || seen.reserved => Err(format!(
                    "{name} was made by meshd itself; `adopt` is for a bridge of somebody else's"
                )),
                Some(seen) if seen.kind == "bridge" => Ok(Fate::Kept),
                Some(_) => Err(format!("{name} is no bridge; leave `adopt` out")),
                None => Err(format!(
                    "there is no bridge {name} to adopt yet; leave `adopt` out to have meshd make it"
                )),
            };
        }
        if seen.is_some_and(|seen| seen.reserved) {
            return Err(format!(
                "{name} is what meshd itself has in the kernel for a network or a port: take another name"
            ));
        }
        if let Some(seen) = seen.filter(|seen| !seen.ours) {
            let kind = match seen.kind.as_str() {
                "" => "device",
                kind => kind,
            };
            let adopt = match (seen.kind.as_str(), &wish.shape) {
                ("bridge", Shape::Bridge(_)) => ", set `adopt = true`",
                _ => "",
            };
            let other = match &wish.place {
                Some(place) => format!(
                    "take another name, which is for this host only (`ifname = \"{}\"` keeps that in the namespace)",
                    place.ifname
                ),
                None => "take another name".to_owned(),
            };
            return Err(format!(
                "there is a {kind} {name} that meshd did not make: remove it{adopt}, or {other}"
            ));
        }
        let mut fate = match seen {
            Some(seen)
                if seen
                    .shape
                    .as_ref()
                    .is_some_and(|is| is.becomes(&wish.shape))
                    && seen.place == wish.place =>
            {
                Fate::Kept
            }
            _ => Fate::Made,
        };
        if let Some(parent) = wish.shape.parent() {
            match (self.fates.get(parent), self.scene.get(parent)) {
                // What stood on the old one goes with it.
                (Some(Fate::Made), _) => fate = Fate::Made,
                (Some(Fate::Kept), _) => {}
                (None, _) if self.wishes.contains_key(parent) => {
                    return Err(format!("waits for {parent}, which is not there"));
                }
                (None, None) => {
                    return Err(format!("waits for {parent}: there is no such device"));
                }
                (None, Some(seen)) if seen.reserved || seen.ours => {
                    return Err(format!("waits for {parent}, which is not the operator's"));
                }
                (None, Some(_)) => {}
            }
            if matches!(wish.shape, Shape::Macvlan(_) | Shape::Shim(_)) {
                // Of one that is made anew the scene tells nothing.
                let is_new = self.fates.get(parent) == Some(&Fate::Made);
                let why = (!is_new).then(|| station::refuses(self.scene, &wish.shape, parent));
                let why = why.flatten();
                if let Some(why) = why.or_else(|| station::contradicts(self.wishes, parent)) {
                    return Err(why);
                }
            }
        }
        if let Some(above) = self.foreign_above(name).filter(|_| fate == Fate::Made) {
            return Err(format!(
                "it must be made anew, and {above}, which meshd did not make, stands on it: remove {above} first"
            ));
        }
        Ok(fate)
    }

    /// A device of others that would go with this one.
    fn foreign_above(&self, name: &IfName) -> Option<&'a IfName> {
        let mut lost = BTreeSet::from([name]);
        loop {
            let above = self.scene.iter().find(|(above, seen)| {
                !lost.contains(above) && seen.parent.as_ref().is_some_and(|p| lost.contains(p))
            });
            match above {
                Some((above, seen)) if !seen.ours => return Some(above),
                Some((above, _)) => lost.insert(above),
                None => return None,
            };
        }
    }

    /// The wished bond or bridge that a device is to be in, and is not kept from.
    fn wished_master(&self, member: &IfName) -> Option<&'a IfName> {
        let wish = self.wishes.iter().find(|(name, wish)| {
            wish.members.contains_key(member) && self.fates.contains_key(name)
        });
        wish.map(|(name, _)| name)
    }

    fn release(&mut self) {
        for (member, seen) in self.scene {
            let Some(master) = &seen.master else { continue };
            let Some(over) = self.scene.get(master) else {
                continue;
            };
            if self.wished_master(member) == Some(master) {
                continue;
            }
            // A master that goes lets go of its members itself.
            let goes = over.ours && self.fates.get(master) != Some(&Fate::Kept);
            // While its master waits, all stays.
            if goes || self.plan.waits.contains_key(master) {
                continue;
            }
            // Where a device of ours is, is said by the file alone.
            let ours = seen.ours && self.wishes.contains_key(member);
            if ours || (over.ours && over.put.contains(member)) {
                let member = member.clone();
                self.task(master, Step::Release { member });
            }
        }
    }

    /// Those that stand on others first: each goes by itself, so that its failure is its own.
    fn remove(&mut self) {
        let (mut left, mut order): (BTreeSet<&IfName>, Vec<&IfName>) = Default::default();
        for (name, seen) in self.scene {
            if !seen.ours || self.wishes.contains_key(name) {
                continue;
            }
            match self.foreign_above(name) {
                Some(above) => {
                    let why = format!(
                        "it is wished no longer, and {above}, which meshd did not make, stands on it: remove {above} first"
                    );
                    self.wait(name, why);
                }
                None => {
                    left.insert(name);
                }
            }
        }
        while !left.is_empty() {
            let carries = |name: &IfName| {
                left.iter().any(|above| {
                    let seen = self.scene.get(*above);
                    seen.is_some_and(|seen| seen.parent.as_ref() == Some(name))
                })
            };
            let next = left.iter().find(|name| !carries(name)).or(left.first());
            let Some(next) = next.copied() else { break };
            left.remove(next);
            order.push(next);
        }
        for name in order {
            self.task(name, Step::Remove);
        }
    }

    fn complete(&mut self, name: &'a IfName) {
        let (Some(&fate), Some(wish)) = (self.fates.get(name), self.wishes.get(name)) else {
            return;
        };
        let blank = Seen::default();
        let seen = self.scene.get(name).filter(|_| fate == Fate::Kept);
        let seen = seen.unwrap_or(&blank);
        let is_ours = wish.shape != Shape::Adopted;
        if fate == Fate::Made {
            let (shape, mac, place) = (wish.shape.clone(), wish.mac, wish.place.clone());
            self.task(name, Step::Make { shape, mac, place });
        }
        if is_ours {
            let put: BTreeSet<IfName> = wish.members.keys().cloned().collect();
            if seen.put != put {
                self.task(name, Step::Mark { put });
            }
            if let Shape::Bridge(bridge) = wish.shape
                && fate == Fate::Kept
                && seen.shape.as_ref() != Some(&wish.shape)
            {
                self.task(name, Step::Set { bridge });
            }
            if let Some(mac) = wish.mac
                && fate == Fate::Kept
                && seen.mac != Some(mac)
            {
                self.task(name, Step::SetMac { mac });
            }
            if let Some(mtu) = wish.mtu.filter(|mtu| seen.mtu != *mtu) {
                self.task(name, Step::SetMtu { mtu });
            }
        }
        for (member, vlans) in &wish.members {
            self.member((name, wish), fate, member, vlans.as_ref());
        }
        if wish.primary != seen.primary {
            // One that is not in it cannot be preferred.
            let there = |member: &&IfName| self.will_be_in(name, member);
            let member = wish.primary.as_ref().filter(there).cloned();
            if member != seen.primary {
                self.task(name, Step::Prefer { member });
            }
        }
        if let Some(wished) = &wish.own_vlans {
            let had = match fate {
                Fate::Kept => seen.vlans.clone(),
                Fate::Made => default_vlans(),
            };
            self.vlans(name, name, &had, wished);
        }
        if is_ours {
            if !seen.up {
                self.task(name, Step::Raise);
            }
            self.addresses(name, wish, seen);
            self.routes(name, wish, seen);
        }
    }

    fn routes(&mut self, name: &IfName, wish: &Wish, seen: &Seen) {
        for &route in seen.routes.difference(&wish.routes) {
            self.task(name, Step::RemoveRoute { route });
        }
        for &address in seen.proxies.difference(&wish.proxies) {
            self.task(name, Step::RemoveProxy { address });
        }
        for &address in wish.proxies.difference(&seen.proxies) {
            self.task(name, Step::AddProxy { address });
        }
        for &route in wish.routes.difference(&seen.routes) {
            self.task(name, Step::AddRoute { route });
        }
    }

    fn addresses(&mut self, name: &IfName, wish: &Wish, seen: &Seen) {
        for (&address, &is_ours) in &seen.addresses {
            if is_ours && !wish.addresses.contains(&address) {
                self.task(name, Step::RemoveAddress { address });
            }
        }
        for &address in &wish.addresses {
            if !seen.addresses.contains_key(&address) {
                self.task(name, Step::AddAddress { address });
            }
        }
    }

    /// Is the member in the master once the plan was carried out?
    fn will_be_in(&self, master: &IfName, member: &IfName) -> bool {
        let entered = self.plan.tasks.iter().any(|task| {
            task.of == *master && matches!(&task.step, Step::Enslave { member: m } if m == member)
        });
        entered || self.is_in(master, member)
    }

    /// It is in it, and neither is made anew or removed.
    fn is_in(&self, master: &IfName, member: &IfName) -> bool {
        let seen = self.scene.get(member);
        let goes = seen.is_some_and(|seen| seen.ours)
            && !self.wishes.contains_key(member)
            && !self.plan.waits.contains_key(member);
        self.fates.get(master) == Some(&Fate::Kept)
            && self.fates.get(member) != Some(&Fate::Made)
            && !goes
            && seen.is_some_and(|seen| seen.master.as_ref() == Some(master))
    }

    fn member(
        &mut self,
        (name, wish): (&IfName, &Wish),
        fate: Fate,
        member: &IfName,
        wished: Option<&Vlans>,
    ) {
        let seen = self.scene.get(member);
        let is_bridge = !matches!(wish.shape, Shape::Bond(_));
        if self.is_in(name, member) {
            if is_bridge && seen.is_some_and(|seen| !seen.up) {
                let member = member.clone();
                self.task(name, Step::RaiseMember { member });
            }
            let had = seen.map(|seen| seen.vlans.clone()).unwrap_or_default();
            if let Some(wished) = wished {
                self.vlans(name, member, &had, wished);
            }
            return;
        }
        if let Err(why) = self.may_enter(name, fate, member) {
            self.lack(name, why);
            return;
        }
        let enters = member.clone();
        self.task(name, Step::Enslave { member: enters });
        if let Some(wished) = wished {
            // As a bridge gives them to a new port.
            self.vlans(name, member, &default_vlans(), wished);
        }
    }

    fn may_enter(&self, name: &IfName, fate: Fate, member: &IfName) -> Result<(), String> {
        let holds = |shape: Option<&Shape>| {
            matches!(
                (shape, self.wishes.get(name).map(|wish| &wish.shape)),
                (
                    Some(Shape::Bridge(_) | Shape::Adopted),
                    Some(Shape::Bridge(_) | Shape::Adopted)
                ) | (Some(Shape::Bond(_)), Some(Shape::Bond(_)))
            )
        };
        let wished = self.wishes.get(member).map(|wish| &wish.shape);
        let there = self.scene.get(member).and_then(|seen| seen.shape.as_ref());
        if holds(wished.or(there)) {
            return Err(format!(
                "{member} is of the same kind, and cannot be in another such"
            ));
        }
        let seen = match (self.fates.get(member), self.scene.get(member)) {
            (Some(Fate::Made), _) => return Ok(()),
            (None, Some(seen)) if seen.ours && !self.plan.waits.contains_key(member) => {
                return Err(format!("{member} is not there: nobody wishes it any more"));
            }
            (None, _) if self.wishes.contains_key(member) => {
                return Err(format!("{member} is not there"));
            }
            (_, Some(seen)) => seen,
            (_, None) => return Err(format!("{member} is not there: there is no such device")),
        };
        if seen.reserved {
            return Err(format!(
                "{member} is a part of meshd's own: it stays where it is"
            ));
        }
        if let Some(above) = station::carried(self.scene, member, |above| {
            self.wishes.contains_key(above) || self.plan.waits.contains_key(above)
        }) {
            return Err(format!(
                "{member} carries the macvlan {above}, and has its frames: put {above} on {name} instead, or remove it"
            ));
        }
        if let Some((address, _)) = seen.addresses.first_key_value().filter(|_| !seen.ours) {
            return Err(format!(
                "{member} has the address {address}, which would be lost: give it to {name} by `addresses`, and take it from {member}"
            ));
        }
        let Some(master) = &seen.master else {
            return Ok(());
        };
        let over = self.scene.get(master);
        let is_ours = over.is_some_and(|over| over.ours);
        let goes =
            is_ours && (!self.wishes.contains_key(master) || self.fates.contains_key(master));
        let released = self.plan.tasks.iter().any(
            |task| matches!(&task.step, Step::Release { member: released } if released == member),
        );
        // Its master is made anew, or goes, or lets go of it.
        let again = master == name && fate == Fate::Made;
        let gone = goes
            && self.fates.get(master) != Some(&Fate::Kept)
            && !self.plan.waits.contains_key(master);
        if again || gone || released {
            Ok(())
        } else {
            Err(format!("{member} is in {master}: take it out there"))
        }
    }

    fn vlans(&mut self, of: &IfName, port: &IfName, had: &Vlans, wished: &Vlans) {
        let differs = |(id, how): &(&u16, &Tagging)| had.get(id) != Some(how);
        let add: Vlans = wished
            .iter()
            .filter(differs)
            .map(|(&id, &how)| (id, how))
            .collect();
        let gone = had.keys().filter(|id| !wished.contains_key(id));
        let remove: BTreeSet<u16> = gone.copied().collect();
        if !add.is_empty() || !remove.is_empty() {
            let port = port.clone();
            self.task(of, Step::SetVlans { port, add, remove });
        }
    }
}
