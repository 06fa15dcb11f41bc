//! Traces: what would become of a frame, by the switch itself, without that anything is learned or sent.

use super::Switch;
use crate::conntrack::Tracked;
use crate::flow::Origin;
use crate::frame::Frame;
use crate::ident::{Moment, Vni};
use crate::node::Question;
use crate::offload::Obstacle;
use crate::pipeline::Walk;
use crate::policy::{Answer, Known};
use crate::ruling::{Action, DropReason, Ruling};
use crate::view::TraceStep;
use std::sync::Arc;

/// Where a trace ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceEnd {
    /// This would happen. With an answer by the switch itself the action is [`Action::Consume`].
    Ruled {
        /// The ruling.
        ruling: Ruling,
        /// What is known beyond the reason of a drop.
        why: Option<String>,
    },
    /// Policy has the word: trace again, with the answer to this appended to the answers.
    Ask(Box<Question>),
}

/// What would happen to a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceOutcome {
    /// In the order in which the switch goes.
    pub steps: Vec<TraceStep>,
    /// Where it ended.
    pub end: TraceEnd,
}

impl Switch {
    /// What would happen to a frame, without change. Policy is not asked and nothing kept is used: the caller has the
    /// questions answered one by one and passes all answers, in order.
    #[must_use]
    pub fn trace(
        &self,
        origin: Origin,
        vni: Vni,
        (frame, ct): (&[u8], Tracked),
        answers: &[Answer],
        now: Moment,
    ) -> TraceOutcome {
        let mut steps = Vec::new();
        let Ok(parsed) = Frame::parse(frame) else {
            let ruling = Ruling {
                obstacle: Some(Obstacle::NotForwarded),
                ..Ruling::of(Action::Drop(DropReason::Malformed))
            };
            return TraceOutcome {
                steps,
                end: TraceEnd::Ruled { ruling, why: None },
            };
        };
        let key = parsed.flow_key(vni).with_ct(ct);
        if self.tracked.contains(&vni) || ct != Tracked::default() {
            steps.push(TraceStep {
                what: "connection".to_owned(),
                detail: match ct.mark {
                    0 => ct.state.to_string(),
                    mark => format!("{}, mark {mark}", ct.state),
                },
            });
        }
        let mut given = answers.iter();
        let mut oracle = |_: &Question| Some(Known::from(Arc::new(given.next()?.clone())));
        let walk = Walk::new(
            self.networks.get(&vni),
            self.policy.has_chain(vni),
            origin,
            (parsed, key),
            now,
            &mut oracle,
        );
        let decided = walk.with_steps(&mut steps).decide();
        let end = match decided {
            Ok(decision) => {
                let gate = self.consider(origin, &key, &decision, now);
                steps.push(TraceStep {
                    what: "kernel".to_owned(),
                    detail: match gate {
                        Ok(_) => "its gate lets such frames pass without the daemon".to_owned(),
                        Err(obstacle) => format!("stays with the daemon: {}", obstacle.explain()),
                    },
                });
                let ways = self.ways_of(&key, &decision);
                if let Some(ways) = &ways {
                    let names = ways.ranked().map(|way| way.to_string());
                    steps.push(TraceStep {
                        what: "ways".to_owned(),
                        detail: format!(
                            "in this order: {}; see `meshd paths`",
                            names.collect::<Vec<_>>().join(", ")
                        ),
                    });
                }
                TraceEnd::Ruled {
                    ruling: self.ruling(&decision, &key, ways, gate),
                    why: decision.why,
                }
            }
            Err(question) => TraceEnd::Ask(question),
        };
        TraceOutcome { steps, end }
    }
}
