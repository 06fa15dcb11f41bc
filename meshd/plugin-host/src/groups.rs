//! Groups and flood sets that a controller makes, in the core's words.
//!
//! Owns what a bucket may be: one target, and changes of the frame. Refuses everything else that a verdict could want: meters,
//! copies and connections are the verdict's that names the group.

use crate::bindings::controller::meshd::policy::flows;
use crate::bindings::meshd::policy::types::{
    DepMask, Deps, FloodMember, Lifetime, PartialDeps, Verdict,
};
use crate::convert::{self, Decision, Say};
use meshd_core::group::{Bucket, BucketTarget, Group, GroupKind};
use meshd_core::ident::PortId;
use meshd_core::node::Direction;
use meshd_core::policy::{FloodSet, Orders, Redirect};

/// The group under `name`, which is for people.
///
/// # Errors
/// The place of a bucket that cannot be, and why.
pub fn group(name: &str, made: &flows::Group) -> Result<Group, String> {
    let buckets = made.buckets.iter().enumerate().map(|(at, one)| {
        bucket(one).map_err(|why| format!("bucket {at} of group {}: {why}", made.id))
    });
    Ok(Group {
        name: name.into(),
        kind: match made.kind {
            flows::GroupKind::Select => GroupKind::Select,
            flows::GroupKind::Failover => GroupKind::Failover,
        },
        buckets: buckets.collect::<Result<_, _>>()?,
    })
}

fn bucket(bucket: &flows::Bucket) -> Result<Bucket, String> {
    let verdict = Verdict {
        target: bucket.target.clone(),
        actions: bucket.actions.clone(),
        deps: DepMask {
            fields: Deps::empty(),
            partial: PartialDeps {
                src_mac_prefix: 0,
                dst_mac_prefix: 0,
                src_ip_prefix: 0,
                dst_ip_prefix: 0,
                src_port_mask: 0,
                dst_port_mask: 0,
            },
        },
        life: Lifetime {
            cacheable: true,
            idle_ms: 0,
            hard_ms: 0,
            tags: Vec::new(),
        },
    };
    let decision = convert::decision(&verdict, Direction::Ingress).map_err(|e| e.to_string())?;
    let Orders {
        redirect, edits, ..
    } = decision.orders.clone();
    let plain = Decision {
        say: decision.say,
        orders: Orders {
            redirect,
            edits: edits.clone(),
            ..Orders::default()
        },
        ..Decision::of(Say::Next)
    };
    let to = match (decision.say, redirect) {
        (Say::Drop { .. }, _) => BucketTarget::Drop,
        (_, Some(Redirect::Port(port))) => BucketTarget::Port(port),
        (_, Some(Redirect::Peer(peer))) => BucketTarget::Peer(peer),
        (Say::Next, None) => BucketTarget::Next,
        (_, Some(Redirect::Path(_))) | (Say::Accept, None) => {
            return Err("it leads to `next`, `port`, `peer` or `drop`".to_owned());
        }
    };
    if decision != plain {
        return Err("it may change MACs, tags and DSCP, and have no other action".to_owned());
    }
    Ok(Bucket {
        weight: bucket.weight,
        to,
        edits,
    })
}

/// A set of these.
#[must_use]
pub fn flood_set(members: &[FloodMember]) -> FloodSet {
    let mut set = FloodSet::default();
    for member in members {
        match member {
            FloodMember::Port(port) => set.ports.insert(PortId(*port)),
            FloodMember::Peer(peer) => set.peers.insert(*peer),
        };
    }
    set
}
