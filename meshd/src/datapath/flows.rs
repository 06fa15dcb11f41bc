//! What lanes have cached, for who looks.

use meshd_core::flow::{FlowKey, FlowMask, Origin};
use meshd_core::lane::LaneFlow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// What a lane has cached, and what waits in it.
#[derive(Debug, Default)]
pub(crate) struct LaneFlows {
    /// Cached rulings.
    pub(crate) flows: Vec<LaneFlow>,
    /// Keys without a ruling, and how many frames of each wait.
    pub(crate) waiting: Vec<(FlowKey, usize)>,
}

impl LaneFlows {
    /// What the lanes of each origin have, as one: all of them keep a ruling, and each counts the frames that it decided itself.
    pub(crate) fn by_origin(lanes: Vec<(Origin, Self)>) -> Vec<(Origin, Self)> {
        let mut all: BTreeMap<Origin, Vec<Self>> = BTreeMap::new();
        for (origin, lane) in lanes {
            all.entry(origin).or_default().push(lane);
        }
        let as_one = |mut lanes: Vec<Self>| match lanes.len() {
            1 => lanes.pop().unwrap_or_default(),
            _ => Self::together(lanes),
        };
        let all = all.into_iter();
        all.map(|(origin, lanes)| (origin, as_one(lanes))).collect()
    }

    fn together(lanes: Vec<Self>) -> Self {
        let mut flows: BTreeMap<(FlowKey, FlowMask), LaneFlow> = BTreeMap::new();
        let mut waiting = Vec::new();
        for lane in lanes {
            waiting.extend(lane.waiting);
            for flow in lane.flows {
                match flows.entry((flow.flow.key, flow.flow.mask)) {
                    Entry::Vacant(place) => {
                        place.insert(flow);
                    }
                    Entry::Occupied(mut place) => {
                        let (frames, bytes) = (place.get().frames, place.get().bytes);
                        let (since, used) = (place.get().since, place.get().used);
                        // The one that was used last knows best what is done.
                        if flow.used > used {
                            place.insert(flow.clone());
                        }
                        let one = place.get_mut();
                        one.frames = frames + flow.frames;
                        one.bytes = bytes + flow.bytes;
                        one.since = since.min(flow.since);
                        one.used = used.max(flow.used);
                    }
                }
            }
        }
        Self {
            flows: flows.into_values().collect(),
            waiting,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use meshd_core::ident::{Epoch, Moment, PortId, Vni};
    use meshd_core::ruling::{Action, DropReason, Megaflow};

    fn flow(dst: u8, times: (u64, u64), frames: u64) -> LaneFlow {
        let mut key = FlowKey::blank(Vni::new(7).unwrap());
        key.dst_mac.0[5] = dst;
        LaneFlow {
            flow: Megaflow {
                key,
                mask: FlowMask::default(),
                epoch: Epoch(1),
                until: None,
                idle_ms: None,
            },
            action: Action::Drop(DropReason::Policy),
            obstacle: None,
            since: Moment(times.0),
            used: Moment(times.1),
            frames,
            bytes: 100 * frames,
        }
    }

    #[test]
    fn a_ruling_that_several_lanes_of_a_port_keep_is_one_with_the_frames_of_all() {
        let lane = |flows| LaneFlows {
            flows,
            waiting: Vec::new(),
        };
        let (port, other) = (Origin::Port(PortId(1)), Origin::Port(PortId(2)));
        let all = LaneFlows::by_origin(vec![
            (port, lane(vec![flow(1, (5, 9), 3), flow(2, (1, 1), 1)])),
            (other, lane(vec![flow(1, (1, 1), 7)])),
            (port, lane(vec![flow(1, (4, 20), 2)])),
        ]);
        let [(first, one), (second, two)] = &all[..] else {
            panic!("{all:?}");
        };
        assert_eq!((*first, *second), (port, other));
        assert_eq!(one.flows, [flow(1, (4, 20), 5), flow(2, (1, 1), 1)]);
        assert_eq!(two.flows, [flow(1, (1, 1), 7)]);
    }
}
