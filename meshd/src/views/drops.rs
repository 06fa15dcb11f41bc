//! `meshd drops`: what lanes, sessions and the kernel have dropped, by reason and place, and the balance that shows that nothing
//! is left out.

use super::{network_name, show_origin, wall_at};
use crate::api::backend::DropFilter;
use crate::driver::World;
use crate::kernel::KernelLosses;
use meshd_core::flow::{FlowKey, Origin};
use meshd_core::ident::{Moment, Now, Vni};
use meshd_core::node::Node;
use meshd_core::ruling::DropReason;
use meshd_core::tally::{LaneDrop, Tallies};
use meshd_core::view::{Balance, DropExample, DropPlace, Drops};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Places that a row names.
const PLACES_MAX: usize = 32;

/// Where frames were dropped, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    reason: DropReason,
    vni: Option<Vni>,
    origin: Option<Origin>,
}

/// Frames by place.
pub(crate) type Counts = BTreeMap<Place, u64>;

/// What was dropped, at one moment.
pub(crate) struct Counted {
    /// How many.
    pub(crate) counts: Counts,
    last: Vec<(Option<Vni>, Option<Origin>, LaneDrop)>,
}

/// Adds up what lanes and sessions have dropped, and what the kernel has.
pub(crate) fn count(node: &Node, world: &World<'_>, kernel: &KernelLosses) -> Counted {
    let (mut counts, mut last) = (Counts::new(), Vec::new());
    let mut add = |reason, vni, origin, frames: u64| {
        if frames > 0 {
            *counts
                .entry(Place {
                    reason,
                    vni,
                    origin,
                })
                .or_default() += frames;
        }
    };
    for (origin, tallies) in world.datapath.tallies() {
        for (vni, tally) in tallies.iter() {
            for (reason, frames) in tally.drops.iter() {
                add(reason, vni, origin, frames);
            }
            last.extend(tally.last.iter().map(|drop| (vni, origin, drop.clone())));
        }
    }
    let mut ports: BTreeMap<_, _> = BTreeMap::new();
    for (record, ..) in node.ports().iter() {
        ports.insert(record.id, record.vni);
    }
    for (port, frames) in &kernel.ports {
        let vni = ports.get(port).copied();
        add(
            DropReason::TapOverrun,
            vni,
            Some(Origin::Port(*port)),
            *frames,
        );
    }
    for (vni, frames) in &kernel.networks {
        let origin = Some(Origin::Vxlan(*vni));
        add(DropReason::TapOverrun, Some(*vni), origin, *frames);
    }
    add(DropReason::SocketOverrun, None, None, kernel.sockets);
    add(DropReason::Fenced, None, None, kernel.fenced);
    Counted { counts, last }
}

/// Rows of what a filter lets through. `before`: what was counted earlier, and how long ago that is, in ms.
pub(crate) fn rows(
    node: &Node,
    counted: &Counted,
    before: Option<(&Counts, u64)>,
    filter: &DropFilter,
    now: Now,
) -> Vec<Drops> {
    let passes = |vni: Option<Vni>, origin: Option<Origin>| {
        filter.vni.is_none_or(|wanted| vni == Some(wanted))
            && filter.origin.is_none_or(|wanted| origin == Some(wanted))
    };
    let row = |&reason: &DropReason| {
        let all = counted.counts.iter();
        let here =
            all.filter(|(place, _)| place.reason == reason && passes(place.vni, place.origin));
        let mut places: Vec<DropPlace> = here
            .map(|(place, &count)| DropPlace {
                network: place.vni.map(|vni| network_name(node, vni)),
                origin: match (place.origin, place.vni) {
                    (Some(origin), _) => Some(show_origin(node, origin)),
                    (None, Some(_)) => Some("this node".to_owned()),
                    (None, None) => None,
                },
                port: match place.origin {
                    Some(Origin::Port(port)) => Some(port),
                    _ => None,
                },
                count,
                recent: before.map_or(0, |(before, _)| {
                    count.saturating_sub(before.get(place).copied().unwrap_or_default())
                }),
            })
            .collect();
        let (count, recent) = places.iter().fold((0, 0), |(count, recent), place| {
            (count + place.count, recent + place.recent)
        });
        places.sort_by_key(|place| Reverse(place.count));
        places.truncate(PLACES_MAX);
        (count > 0).then(|| Drops {
            reason,
            count,
            recent,
            recent_ms: before.map_or(0, |(_, ms)| ms),
            explanation: reason.explain().to_owned(),
            last: last(node, counted, reason, &passes, now),
            places,
        })
    };
    let reasons = DropReason::ALL.iter();
    reasons
        .filter(|reason| filter.reason.is_none_or(|wanted| wanted == **reason))
        .filter_map(row)
        .collect()
}

/// The last frame that was dropped for a reason, with what the switch knows of it.
fn last(
    node: &Node,
    counted: &Counted,
    reason: DropReason,
    passes: &impl Fn(Option<Vni>, Option<Origin>) -> bool,
    now: Now,
) -> Option<DropExample> {
    let example = |at: Moment,
                   vni: Option<Vni>,
                   origin: Option<Origin>,
                   key: Option<&FlowKey>,
                   why: Option<String>| DropExample {
        at_ms: wall_at(now, at),
        network: vni.map(|vni| network_name(node, vni)),
        origin: origin.map_or_else(
            || "this node".to_owned(),
            |origin| show_origin(node, origin),
        ),
        flow: key.map(meshd_core::flowtext::show),
        why,
    };
    let ruled = node.switch().drops().get(&reason);
    let ruled = ruled.filter(|drop| passes(Some(drop.vni), Some(drop.origin)));
    let by_switch = ruled.map(|drop| {
        let (vni, origin) = (Some(drop.vni), Some(drop.origin));
        example(drop.at, vni, origin, drop.key.as_ref(), drop.why.clone())
    });
    let lanes = counted.last.iter();
    let by_lane = lanes
        .filter(|(vni, origin, drop)| drop.reason == reason && passes(*vni, *origin))
        .max_by_key(|(.., drop)| drop.at)
        .map(|(vni, origin, drop)| {
            let why = drop.meter.as_ref().map(|meter| format!("meter {meter}"));
            example(drop.at, *vni, *origin, drop.key.as_ref(), why)
        });
    // The lane saw the very last one; the switch knows more of one that may be older but of the same flow.
    match (by_switch, by_lane) {
        (Some(mut told), Some(seen)) if told.flow == seen.flow || seen.flow.is_none() => {
            told.at_ms = told.at_ms.max(seen.at_ms);
            Some(told)
        }
        (_, Some(seen)) => Some(seen),
        (told, None) => told,
    }
}

/// What came and what left, by network.
pub(crate) fn balance(node: &Node, world: &World<'_>) -> Vec<Balance> {
    let mut all = Tallies::default();
    for tallies in world.datapath.tallies().values() {
        all.merge(tallies);
    }
    all.iter()
        .map(|(vni, tally)| Balance {
            network: vni.map(|vni| network_name(node, vni)),
            vni,
            came: tally.came,
            extra: tally.extra,
            sent: tally.sent,
            answered: tally.answered,
            waiting: tally.waiting,
            dropped: tally.drops.total(),
            missing: i64::try_from(tally.missing()).unwrap_or(i64::MAX),
        })
        .collect()
}
