//! The walk of a frame that policy gave to a group: each way of it that is there is walked to its end.
//!
//! ```text
//!   group --failover--> the first way that is there --> receivers, as if policy had named it
//!      '----select----> each that is there: its changes, its receiver's policy --> one arm of the ruling
//! ```
//!
//! Owns which ways are there. What is there may change: a port, a peer or a MAC that goes or moves makes a new epoch, and where a
//! way was missing the ruling ends within a second. The choice among those that are there is the lane's.

use super::{Network, Stop, UNKNOWN_MS, Walk, show};
use crate::fdb::Place;
use crate::group::{Bucket, BucketTarget, Group, GroupKind};
use crate::node::{Direction, DstClass};
use crate::ruling::{Action, Arm, DropReason, Output, Ruling};
use std::sync::Arc;

impl Walk<'_> {
    /// To one of a group's ways, or to the arms of a ruling.
    pub(super) fn by_group(
        &mut self,
        network: &Network,
        from: Place,
        group: &Group,
        class: DstClass,
    ) -> Result<Vec<Output>, Stop> {
        self.redirected = true;
        let mut ways: Vec<&Bucket> = Vec::new();
        for bucket in group.buckets.iter().filter(|bucket| bucket.weight > 0) {
            if self.is_there(network, from, bucket) {
                ways.push(bucket);
            } else {
                self.step("group", || {
                    format!("{}: {bucket}: is not there", group.name)
                });
                // It may come.
                self.hold(self.now.plus_ms(UNKNOWN_MS));
            }
        }
        if group.kind == GroupKind::Failover {
            ways.truncate(1);
        }
        match ways[..] {
            [] => {
                let why = format!("no way of group {} is there", group.name);
                Err(Stop::Drop(DropReason::PolicyTarget, Some(why)))
            }
            [bucket] => self.along(network, bucket, class),
            _ => {
                let mut arms = Vec::with_capacity(ways.len());
                for bucket in ways {
                    arms.push(self.arm(network, bucket, class)?);
                }
                Err(Stop::Select(arms))
            }
        }
    }

    fn is_there(&self, network: &Network, from: Place, bucket: &Bucket) -> bool {
        match bucket.to {
            BucketTarget::Drop => true,
            BucketTarget::Peer(handle) => {
                network.members.iter().any(|node| node.handle() == handle)
            }
            BucketTarget::Port(port) => {
                let there = network.ports.get(&port).is_some_and(|face| !face.service);
                there && from != Place::Port(port)
            }
            BucketTarget::Next => {
                let mut key = self.key;
                bucket.edits.iter().for_each(|edit| edit.rekey(&mut key));
                match network.fdb.lookup(key.dst_mac) {
                    Some(Place::Port(port)) => from != Place::Port(port),
                    Some(Place::Node(_)) => true,
                    Some(Place::Service(_)) | None => false,
                }
            }
        }
    }

    /// Along a way that is there.
    fn along(
        &mut self,
        network: &Network,
        bucket: &Bucket,
        class: DstClass,
    ) -> Result<Vec<Output>, Stop> {
        for edit in &bucket.edits {
            edit.rekey(&mut self.key);
            self.mask.fields = self.mask.fields.with(edit.needs());
            self.edits.push(*edit);
        }
        let output = match bucket.to {
            BucketTarget::Port(port) => Some(Output::Port(port)),
            BucketTarget::Peer(handle) => {
                let node = network.members.iter().find(|node| node.handle() == handle);
                node.map(|&node| Output::Peer(node))
            }
            BucketTarget::Next => match network.fdb.lookup(self.key.dst_mac) {
                Some(Place::Port(port)) => Some(Output::Port(port)),
                Some(Place::Node(node)) => Some(Output::Peer(node)),
                Some(Place::Service(_)) | None => None,
            },
            BucketTarget::Drop => None,
        };
        let Some(output) = output else {
            let why = Some("its way of the group leads nowhere".to_owned());
            return Err(Stop::Drop(DropReason::Policy, why));
        };
        if let Output::Port(port) = output {
            self.pass(Direction::Egress, port, class)?;
        }
        self.step("group", || format!("{bucket}: {}", show(&[output])));
        Ok(vec![output])
    }

    /// Along a way that some flows take: what that comes to, and nothing of it for the others but what it rests on.
    fn arm(&mut self, network: &Network, bucket: &Bucket, class: DstClass) -> Result<Arm, Stop> {
        let before = (
            self.key,
            self.edits.clone(),
            self.mirrors.clone(),
            self.track.clone(),
            self.dues.clone(),
            self.punts.clone(),
        );
        let action = match self.along(network, bucket, class) {
            Ok(to) => Ok(to),
            Err(Stop::Drop(reason, why)) => {
                self.dues.forgive();
                self.step("group", || {
                    let why = why.unwrap_or_else(|| reason.explain().to_owned());
                    format!("{bucket}: dropped: {why}")
                });
                Err(reason)
            }
            Err(other) => return Err(other),
        };
        let copies = match &action {
            Ok(to) => self.mirror(to),
            Err(_) => Vec::new(),
        };
        let forwarded = action.is_ok();
        let ruling = Ruling {
            edits: (!self.edits.is_empty()).then(|| self.edits.clone().into()),
            track: self.track.clone().filter(|_| forwarded).map(Arc::new),
            dues: (!self.dues.is_empty()).then(|| Arc::new(self.dues.clone())),
            punts: (!self.punts.is_empty()).then(|| self.punts.clone().into()),
            copies: (!copies.is_empty()).then(|| copies.into()),
            ..Ruling::of(match action {
                Ok(to) => Action::Forward(to.into()),
                Err(reason) => Action::Drop(reason),
            })
        };
        (
            self.key,
            self.edits,
            self.mirrors,
            self.track,
            self.dues,
            self.punts,
        ) = before;
        Ok(Arm {
            seed: bucket.seed(),
            weight: bucket.weight,
            ruling,
        })
    }
}
