//! `meshd paths`: all ways to each peer, with state, reason and what was measured.

use super::{network_name, node_ref, wall_at};
use crate::driver::World;
use crate::underlay::SessionStats;
use meshd_core::ident::{NodeId, Now};
use meshd_core::links::LinkView;
use meshd_core::mesh::PeerView;
use meshd_core::node::Node;
use meshd_core::path::{PathState, Transition};
use meshd_core::steering::{MAIN_COST, Silence, WayId, WayStats};
use meshd_core::view::{NodeRef, Path, PathStep};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// To each peer the session, then links, then VXLAN by network.
pub(crate) fn paths(node: &Node, world: &World<'_>, now: Now) -> Vec<Path> {
    let mut kernel: BTreeMap<NodeId, Vec<Path>> = BTreeMap::new();
    for view in node.planes().paths(now.moment) {
        let advert = node.directory().advert(view.peer);
        let vtep = advert.and_then(|advert| advert.vtep);
        let step = |step: &Transition| PathStep {
            at_ms: wall_at(now, step.at),
            from: step.from,
            to: step.to,
            reason: step.reason,
            evidence: step.evidence.clone(),
        };
        let held = view.held_until.map(|until| {
            let ms = until.ms_since(now.moment);
            format!("; tried again in {} s", ms.div_ceil(1000))
        });
        kernel.entry(view.peer).or_default().push(Path {
            node: node_ref(node, view.peer),
            id: WayId::KERNEL.number(),
            kind: "kernel-vxlan".to_owned(),
            link: None,
            network: Some(network_name(node, view.vni)),
            active: view.state == PathState::Up,
            reason: format!("{}{}", view.reason.explain(), held.unwrap_or_default()),
            reason_code: Some(view.reason),
            evidence: (!view.evidence.is_empty()).then_some(view.evidence),
            remedy: view.reason.remedy().map(str::to_owned),
            since_at_ms: Some(wall_at(now, view.since)),
            history: view.history.iter().map(step).collect(),
            remote: vtep.map(|vtep| SocketAddr::new(vtep.ip, vtep.port)),
            rtt_us: view.rtt_us,
            mtu: view.path_mtu.map(u32::from),
            loss_ppm: view.loss_ppm,
            window_bytes: None,
            cost: 0,
            kernel: Some(view.passed),
            jitter_us: None,
            used_kbps: None,
            avail_kbps: None,
        });
    }
    let mut all = Vec::new();
    for peer in node.mesh().peers() {
        let id = peer.node;
        let ways = node.steering().ways(id);
        let known = |way: WayId| ways.iter().find(|(stats, _)| stats.way == way);
        all.push(quic_path(node, world, peer, known(WayId::MAIN)));
        for link in node.mesh().links_with(id) {
            all.push(link_path(node, world, id, &link, known(link.way)));
        }
        all.extend(kernel.remove(&id).into_iter().flatten());
    }
    all
}

/// What steering knows of a way, and whether it is silent.
type Known<'a> = Option<&'a (WayStats, Option<Silence>)>;

fn quic_path(node: &Node, world: &World<'_>, peer: PeerView, known: Known<'_>) -> Path {
    let stats = peer
        .session
        .and_then(|session| world.underlay.stats(session));
    let reason = match (&peer.session, peer.last_error) {
        (Some(_), _) => match stats.and_then(|s| s.mtu_before) {
            Some(before) => format!(
                "a proven session; packets of {before} bytes got lost, so smaller ones are sent"
            ),
            None => "a proven session".to_owned(),
        },
        (None, Some(error)) => error,
        (None, None) => "being dialed".to_owned(),
    };
    let cost = known.map_or(MAIN_COST, |(stats, _)| stats.cost);
    let path = Path {
        node: node_ref(node, peer.node),
        id: WayId::MAIN.number(),
        kind: "quic-direct".to_owned(),
        active: peer.session.is_some(),
        remote: stats.map(|s| s.remote).or(peer.remote),
        reason,
        ..blank(node_ref(node, peer.node), cost)
    };
    measured(path, stats, known)
}

/// A link to a peer: another connection, from uplink to uplink.
fn link_path(
    node: &Node,
    world: &World<'_>,
    peer: NodeId,
    link: &LinkView,
    known: Known<'_>,
) -> Path {
    let spec = (link.way.nth_link()).and_then(|nth| node.mesh().links().get(nth));
    let stats = link
        .session
        .and_then(|session| world.underlay.stats(session));
    let path = Path {
        id: link.way.number(),
        kind: "link".to_owned(),
        link: spec.map(|spec| spec.name.to_string()),
        active: link.session.is_some(),
        remote: Some(stats.map_or(link.remote, |s| s.remote)),
        reason: match (link.session, &link.error) {
            (Some(_), _) => "connected".to_owned(),
            (None, Some(error)) => error.clone(),
            (None, None) => "being dialed, from here or from there".to_owned(),
        },
        ..blank(node_ref(node, peer), spec.map_or(0, |spec| spec.cost))
    };
    measured(path, stats, known)
}

fn blank(node: NodeRef, cost: u32) -> Path {
    Path {
        node,
        id: 0,
        kind: String::new(),
        link: None,
        network: None,
        active: false,
        reason: String::new(),
        reason_code: None,
        evidence: None,
        remedy: None,
        since_at_ms: None,
        history: Vec::new(),
        remote: None,
        rtt_us: None,
        mtu: None,
        loss_ppm: None,
        window_bytes: None,
        cost,
        kernel: None,
        jitter_us: None,
        used_kbps: None,
        avail_kbps: None,
    }
}

/// With what was measured: of the last second, where there is a choice of ways; else since the connection began.
fn measured(path: Path, stats: Option<SessionStats>, known: Known<'_>) -> Path {
    let ppm = |lost: u64, sent: u64| {
        u32::try_from(lost.saturating_mul(1_000_000) / sent.max(1)).unwrap_or(u32::MAX)
    };
    let path = Path {
        rtt_us: stats.map(|s| s.rtt_us),
        mtu: stats.map(|s| u32::from(s.mtu)),
        loss_ppm: stats.map(|s| ppm(s.lost_packets, s.sent_packets)),
        window_bytes: stats.map(|s| s.cwnd),
        ..path
    };
    let Some((known, silence)) = known.filter(|_| path.active) else {
        return path;
    };
    let figures = known.figures;
    Path {
        active: known.alive,
        reason: match silence {
            Some(Silence::Unheard(ms)) => format!("nothing was heard for {ms} ms"),
            Some(Silence::Unanswered(ms)) => format!(
                "the peer is heard and acknowledges nothing for {ms} ms: it does not hear this node by this way"
            ),
            None => path.reason,
        },
        loss_ppm: Some(figures.loss_ppm),
        jitter_us: Some(figures.jitter_us),
        used_kbps: Some(figures.used_kbps),
        avail_kbps: Some(figures.avail_kbps),
        ..path
    }
}
