//! Steering: the core's words and the guest's, for a plugin that chooses among ways.
//!
//! Its answer is bounded here: numbers that no way has are passed over, and what is too long is a fault.

use crate::bindings::meshd::policy::types::LinkStats;
use crate::bindings::steering::exports::meshd::policy::steer::{SteerChoice, SteerKey};
use crate::fault::Fault;
use meshd_core::ident::{NodeId, Vni};
use meshd_core::steering::{Figures, SteerAnswer, SteerKey as Key, SteerQuestion, WayId, WayStats};

/// Ways that one answer may rank.
const RANKED_MAX: usize = 64;
/// The longest gap that a plugin may want, in ms.
const GAP_MS_MAX: u32 = 600_000;

/// What a guest is asked: the key, the ways, and what holds.
pub(crate) fn question(question: &SteerQuestion) -> (SteerKey, Vec<LinkStats>, Vec<u32>) {
    let peer = question.key.node.handle();
    let key = SteerKey {
        tenant: question.key.vni.get(),
        src_identity: 0,
        dst_identity: 0,
        dscp: question.key.dscp,
        dst_peer: peer,
    };
    let stats = |way: &WayStats| LinkStats {
        peer,
        path: way.way.number(),
        name: way.name.clone(),
        up: way.alive,
        rtt_us: way.figures.rtt_us,
        jitter_us: way.figures.jitter_us,
        loss_ppm: way.figures.loss_ppm,
        avail_kbps: way.figures.avail_kbps,
        used_kbps: way.figures.used_kbps,
        mtu: way.figures.mtu,
        cost: way.cost,
    };
    let current = question.current.iter().map(|way| way.number());
    (
        key,
        question.ways.iter().map(stats).collect(),
        current.collect(),
    )
}

/// What it answered.
pub(crate) fn answer(choice: &SteerChoice) -> Result<SteerAnswer, Fault> {
    let wrong = |what: String| Err(Fault::Verdict { what });
    if choice.ranked.len() > RANKED_MAX {
        return wrong(format!("it ranks more than {RANKED_MAX} ways"));
    }
    if choice.gap_ms > GAP_MS_MAX {
        return wrong(format!("its gap is longer than {GAP_MS_MAX} ms"));
    }
    Ok(SteerAnswer {
        ranked: choice
            .ranked
            .iter()
            .filter_map(|way| WayId::new(*way))
            .collect(),
        spread: choice.spread,
        gap_ms: choice.gap_ms,
    })
}

/// A question that every steering plugin is asked once before it is used: what it sets up lazily is set up then. Of no network
/// that exists, to nobody.
pub(crate) fn warm_up() -> Option<SteerQuestion> {
    let way = |way, name: &str| WayStats {
        way,
        name: name.to_owned(),
        alive: true,
        figures: Figures::default(),
        cost: 0,
    };
    Some(SteerQuestion {
        key: Key {
            vni: Vni::new(1).ok()?,
            node: NodeId([0; 32]),
            dscp: 0,
        },
        ways: vec![
            way(WayId::MAIN, "quic-direct"),
            way(WayId::link(0)?, "link"),
        ],
        current: Vec::new(),
    })
}
