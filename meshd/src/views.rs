//! What an operator reads: the node, its lanes and its sessions, put together as the plain data of `meshd_core::view`.
//!
//! Owns the putting together. Each function reads one instant between two inputs of the node.

mod doctor;
pub(crate) mod drops;
mod links;
mod paths;

pub(crate) use doctor::{askable, doctor, nat, payloads, testimony};
pub(crate) use paths::paths;

use crate::datapath::{LaneFlows, LaneReport};
use crate::driver::World;
use meshd_core::claims::{Claim, Conflict};
use meshd_core::fdb::{How, Place};
use meshd_core::flow::{FlowKey, Origin};
use meshd_core::ident::{Label, Moment, NodeId, Now, PortId, Vni};
use meshd_core::kind::PortKind;
use meshd_core::mesh::PeerView;
use meshd_core::node::Node;
use meshd_core::offload::{GateMatch, Obstacle};
use meshd_core::ruling::{Action, Output};
use meshd_core::switch::FdbRow;
use meshd_core::view::{
    self, Away, ByteText, FdbEntry, FdbKind, Flow, FlowTier, GroupRow, KernelTraffic, Listeners,
    Member, MemberService, MemberState, Network, NetworkBridge, NodeRef, Peer, PeerState, Port,
    PortState, Status, Traffic, VtepRow,
};
use meshd_core::vteps::Gateway;
use std::collections::BTreeMap;

fn node_ref(node: &Node, id: NodeId) -> NodeRef {
    NodeRef {
        id,
        name: node
            .directory()
            .member(id)
            .map(|member| member.name.clone()),
    }
}

pub(crate) fn network_name(node: &Node, vni: Vni) -> String {
    node.directory()
        .network_by_vni(vni)
        .map_or_else(|| format!("vni {vni}"), |def| def.name.to_string())
}

/// The wall clock at an earlier moment of this run.
fn wall_at(now: Now, then: Moment) -> u64 {
    now.wall.0.saturating_sub(now.moment.ms_since(then))
}

/// `meshd status`; `problems` are what only the shell knows.
pub(crate) fn status(
    node: &Node,
    world: &World<'_>,
    now: Now,
    mut problems: Vec<String>,
    fenced_off: u64,
) -> Option<Status> {
    problems.extend(node.mesh().revoked());
    if let Some(why) = world.unkept {
        problems.push(format!(
            "the state cannot be kept: {why}; traffic goes on, but changes are refused until there is room"
        ));
    }
    problems.extend(world.refused_config.map(ToOwned::to_owned));
    let directory = node.directory();
    let me = directory.member(node.id())?;
    let started = node.started().wall.0;
    let (mut ports, mut ready) = (0, 0);
    for (record, state, reason) in node.ports().iter() {
        ports += 1;
        ready += u32::from(state == PortState::Ready);
        // Wired as it should be, and of no use at the moment.
        if let (PortState::Ready, Some(reason)) = (state, reason) {
            let port = show_port(node, record.id);
            problems.push(format!("{port} is ready, {reason}"));
        }
    }
    let tallies = world.datapath.tallies();
    problems.extend(
        node.guard()
            .blocks()
            .map(|(port, reason)| format!("port {port} is blocked: {reason}")),
    );
    problems.extend(node.mesh().twins(now.moment).map(|(twin, here, there)| {
        let name = directory.show(twin);
        format!("two hosts run with the key of {name}, at {here} and at {there}: `meshd doctor` says what to do")
    }));
    problems.extend(missing_bridges(node));
    problems.extend(node.ports().unserved().map(|(vni, reason)| {
        format!(
            "names of network {} are not answered on this node, and it is tried again: {reason}",
            network_name(node, vni)
        )
    }));
    problems.extend(node.planes().problems().map(|(vni, reason)| {
        format!(
            "network {} in the kernel: {reason}",
            network_name(node, vni)
        )
    }));
    Some(Status {
        version: node.config().version.clone(),
        mesh: me.mesh,
        mesh_name: node.config().mesh_name.clone(),
        domain: node.config().domain.clone(),
        node: node_ref(node, node.id()),
        role: me.role,
        has_root: node.mesh().has_root(),
        addresses: directory
            .advert(node.id())
            .map(|advert| advert.addresses.clone())
            .unwrap_or_default(),
        started_at_ms: started,
        uptime_s: now.moment.ms_since(node.started().moment) / 1000,
        epoch: node.switch().epoch(),
        members: count(directory.members()),
        members_alive: count(directory.members().filter(|m| directory.reachable(m.node))),
        peers_up: count(
            node.mesh()
                .peers()
                .into_iter()
                .filter(|peer| peer.session.is_some()),
        ),
        networks: count(directory.networks()),
        ports,
        ports_ready: ready,
        fdb_entries: directory
            .networks()
            .map(|def| count(node.switch().macs(def.vni)))
            .sum(),
        dropped: tallies
            .values()
            .map(|tallies| tallies.total().drops.total())
            .sum(),
        fenced_off,
        conflicts: directory
            .conflicts()
            .map(|conflict| show_conflict(node, &conflict))
            .collect(),
        problems,
    })
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}

fn show_conflict(node: &Node, conflict: &Conflict) -> view::Conflict {
    let (kind, what) = match &conflict.claim {
        Claim::Mac(mac) => ("mac", mac.to_string()),
        Claim::Ip(ip) => ("ip", ip.to_string()),
        Claim::Name(name) => ("name", name.to_string()),
        Claim::Network(name) => ("network", name.to_string()),
    };
    view::Conflict {
        kind: kind.to_owned(),
        network: network_name(node, conflict.vni),
        what,
        holder: node_ref(node, conflict.holder),
        other: node_ref(node, conflict.other),
    }
}

/// `meshd members`.
pub(crate) fn members(node: &Node) -> Vec<Member> {
    let directory = node.directory();
    let alive: BTreeMap<NodeId, bool> = node
        .mesh()
        .peers()
        .into_iter()
        .map(|peer| (peer.node, peer.alive))
        .collect();
    let state = |id: NodeId| match (id == node.id(), directory.reachable(id), alive.get(&id)) {
        (true, ..) => MemberState::Here,
        (_, true, Some(true)) => MemberState::Alive,
        (_, true, _) => MemberState::Suspect,
        (_, false, _) if directory.advert(id).is_none() => MemberState::Unknown,
        _ => MemberState::Dead,
    };
    directory
        .members()
        .map(|member| {
            let advert = directory.advert(member.node);
            Member {
                id: member.node,
                name: member.name.clone(),
                role: member.role,
                labels: member.labels.clone(),
                state: state(member.node),
                serial: member.serial,
                issued_at_ms: member.issued.0,
                expires_at_ms: member.expires.map(|wall| wall.0),
                addresses: advert.map(|a| a.addresses.clone()).unwrap_or_default(),
                networks: advert
                    .map(|a| {
                        a.networks
                            .iter()
                            .map(|&vni| network_name(node, vni))
                            .collect()
                    })
                    .unwrap_or_default(),
                version: advert.map(|a| a.version.clone()),
                services: advert
                    .into_iter()
                    .flat_map(|a| &a.services)
                    .map(|service| MemberService {
                        name: service.name.clone(),
                        ips: service.ips.clone(),
                        answered: node
                            .service_rules()
                            .allow(&service.name, member.node, directory),
                    })
                    .collect(),
            }
        })
        .collect()
}

/// `meshd peers`.
pub(crate) fn peers(node: &Node, world: &World<'_>, now: Now) -> Vec<Peer> {
    let reports = world.datapath.reports();
    let mut kernel: BTreeMap<NodeId, KernelTraffic> = BTreeMap::new();
    for path in node.planes().paths(now.moment) {
        let sum = kernel.entry(path.peer).or_default();
        *sum = sum.and(path.passed);
    }
    let show = |peer: PeerView| Peer {
        kernel: kernel.get(&peer.node).copied().unwrap_or_default(),
        ..show_peer(node, world, now, &reports, peer)
    };
    node.mesh().peers().into_iter().map(show).collect()
}

fn show_peer(
    node: &Node,
    world: &World<'_>,
    now: Now,
    reports: &BTreeMap<Origin, LaneReport>,
    peer: PeerView,
) -> Peer {
    let origin = Origin::Peer(peer.node);
    let stats = peer
        .session
        .and_then(|session| world.underlay.stats(session));
    let state = match (peer.session, peer.last_error.is_some()) {
        (Some(_), _) => PeerState::Up,
        (None, true) => PeerState::Waiting,
        (None, false) => PeerState::Dialing,
    };
    Peer {
        node: node_ref(node, peer.node),
        state,
        remote: stats.map(|s| s.remote).or(peer.remote),
        dialed: peer.session.map(|_| peer.dialed),
        since_at_ms: peer.since.map(|since| wall_at(now, since)),
        reason: peer.session.is_none().then_some(peer.last_error).flatten(),
        retry_in_ms: None,
        rtt_us: stats.map(|s| s.rtt_us),
        datagram_max: stats
            .and_then(|s| s.datagram_max)
            .and_then(|max| u32::try_from(max).ok()),
        traffic: traffic(world, reports, origin),
        kernel: KernelTraffic::default(),
        lost_packets: stats.map(|s| s.lost_packets),
        mended: reports
            .get(&origin)
            .map_or(0, |report| report.counters.mended),
    }
}

fn traffic(world: &World<'_>, reports: &BTreeMap<Origin, LaneReport>, origin: Origin) -> Traffic {
    let (tx_frames, tx_bytes) = world.datapath.sent(origin);
    let Some(report) = reports.get(&origin) else {
        return Traffic::default();
    };
    let counters = &report.counters;
    let dropped = counters.drops.total();
    Traffic {
        rx_frames: counters.frames,
        rx_bytes: counters.bytes,
        tx_frames,
        tx_bytes,
        dropped,
    }
}

/// `meshd network vtep ls`.
pub(crate) fn vteps(node: &Node) -> Vec<VtepRow> {
    let rows = |(vni, gateway): (Vni, &Gateway)| {
        let network = network_name(node, vni);
        let port = gateway.port;
        let ours = node.planes().vtep();
        let remote = ours.map(|vtep| std::net::SocketAddr::new(vtep.ip, vtep.port));
        let rows = gateway.list.values().map(move |vtep| VtepRow {
            remote,
            trouble: node.planes().foreign_trouble(vtep.ip),
            network: network.clone(),
            vni,
            ip: vtep.ip,
            macs: vtep.macs.iter().copied().collect(),
            port,
        });
        rows.collect::<Vec<_>>()
    };
    node.vteps().iter().flat_map(rows).collect()
}

/// `meshd network groups`.
pub(crate) fn groups(node: &Node, now: Now) -> Vec<Listeners> {
    let show = |def: &meshd_core::wire::record::NetworkDef| {
        let known = node.switch().listening(def.vni, now.moment);
        let snooping = known.is_some();
        let (rows, all, malformed) = known.map_or((Vec::new(), Vec::new(), 0), |l| {
            (l.groups, l.all, l.malformed)
        });
        let rows = rows.into_iter().map(|row| GroupRow {
            group: row.group,
            ports: row.ports,
            nodes: row.nodes.iter().map(|&id| node_ref(node, id)).collect(),
        });
        Listeners {
            network: def.name.to_string(),
            vni: def.vni,
            snooping,
            all,
            groups: rows.collect(),
            malformed,
        }
    };
    node.directory().networks().map(show).collect()
}

/// `meshd network ls`.
pub(crate) fn networks(node: &Node) -> Vec<Network> {
    let directory = node.directory();
    let show = |def: &meshd_core::wire::record::NetworkDef| {
        let here = count(
            node.ports()
                .iter()
                .filter(|(record, ..)| record.vni == def.vni),
        );
        let mut nodes: Vec<NodeId> = directory.members_with_network(def.vni).collect();
        if here > 0 {
            nodes.push(node.id());
        }
        Network {
            name: def.name.clone(),
            vni: def.vni,
            subnets: def.subnets.clone(),
            mtu: def.mtu,
            author: node_ref(node, def.author),
            since_at_ms: def.since.0,
            service: def
                .subnets
                .iter()
                .filter_map(meshd_core::ranges::service_address)
                .collect(),
            domain: format!("{}.{}", def.name, node.config().domain),
            ports_here: here,
            endpoints: count(directory.endpoints(def.vni)),
            nodes: nodes.into_iter().map(|id| node_ref(node, id)).collect(),
            plugins: node.chain(def.vni),
            away: (0..=u8::MAX)
                .zip(&def.subnets)
                .flat_map(|(index, subnet)| {
                    let away = node.pools().away(def.vni, index).into_iter();
                    away.map(|(id, addresses)| Away {
                        subnet: *subnet,
                        node: node_ref(node, id),
                        addresses: addresses.to_string(),
                    })
                })
                .collect(),
            bridges: bridges(node)
                .filter(|(vni, _)| *vni == def.vni)
                .map(|(_, bridge)| bridge)
                .collect(),
        }
    };
    directory.networks().map(show).collect()
}

/// Bridges of the host that are of a network, or waited for.
fn bridges(node: &Node) -> impl Iterator<Item = (Vni, NetworkBridge)> {
    let ports = node.ports().iter();
    let bridges = ports.filter(|(record, ..)| matches!(record.kind, PortKind::Bridge(_)));
    bridges.map(|(record, state, reason)| {
        let bridge = NetworkBridge {
            name: ByteText::of(record.ifname.as_bytes()),
            port: record.id,
            state,
            reason: reason.map(str::to_owned),
        };
        (record.vni, bridge)
    })
}

/// Of these, those that are not there.
fn missing_bridges(node: &Node) -> impl Iterator<Item = String> {
    bridges(node)
        .filter(|(_, bridge)| bridge.state == PortState::Failed)
        .map(|(vni, bridge)| {
            let reason = bridge.reason.unwrap_or_default();
            let (network, port) = (network_name(node, vni), bridge.port);
            format!("network {network} waits for a bridge (port {port}): {reason}")
        })
}

/// `meshd ports`. `kernel`: what the gates let pass of each.
pub(crate) fn ports(
    node: &Node,
    world: &World<'_>,
    kernel: &BTreeMap<PortId, KernelTraffic>,
) -> Vec<Port> {
    let reports = world.datapath.reports();
    let mtu = |vni| node.directory().network_by_vni(vni).map(|def| def.mtu);
    let mut learned: BTreeMap<PortId, usize> = BTreeMap::new();
    for vni in node.ports().networks() {
        for (_, place, how) in node.switch().macs(vni) {
            if let (Place::Port(port), How::Learned { .. }) = (place, how) {
                *learned.entry(port).or_default() += 1;
            }
        }
    }
    node.ports()
        .iter()
        .map(|(record, state, reason)| {
            let network = network_name(node, record.vni);
            let (state, reason) = match (state, node.guard().blocked(record.id)) {
                (PortState::Ready, Some((why, _))) => (PortState::Blocked, Some(why.to_owned())),
                _ => (state, reason.map(str::to_owned)),
            };
            Port {
                id: record.id,
                vni: record.vni,
                netns: ByteText::of(record.netns.path()),
                ifname: ByteText::of(record.ifname.as_bytes()),
                mac: record.mac,
                ips: record.ips.clone(),
                leased: record.leased.clone(),
                domain_name: record
                    .name
                    .as_ref()
                    .map(|name| format!("{name}.{network}.{}", node.config().domain)),
                network,
                name: record.name.clone(),
                labels: record.labels.clone(),
                since_at_ms: record.since,
                mtu: mtu(record.vni).map(|most| record.mtu.unwrap_or(most).min(most)),
                routes: record.routes.clone(),
                vrf: record.vrf.as_ref().map(|vrf| ByteText::of(vrf.as_bytes())),
                owner: record.owner.clone(),
                kind: record.kind.clone(),
                state,
                reason,
                link: node.ports().has_link(record.id),
                device: record.file.as_deref().map(ByteText::of),
                devices: world.kernel.device_names(record.id),
                queues: world.datapath.queues(record.id),
                learned: learned.get(&record.id).copied().unwrap_or(0),
                stp_root: node.guard().root(record.id),
                traffic: traffic(world, &reports, Origin::Port(record.id)),
                kernel: kernel.get(&record.id).copied().unwrap_or_default(),
            }
        })
        .collect()
}

/// A network, by name and VNI.
type Named = (Label, Vni);

/// The FDBs of all networks, as the switch has them.
pub(crate) fn fdb_rows(node: &Node) -> Vec<(Named, FdbRow)> {
    let networks = node.directory().networks();
    let rows = networks.flat_map(|def| {
        let rows = node.switch().fdb(def.vni).into_iter();
        rows.map(|row| ((def.name.clone(), def.vni), row))
    });
    rows.collect()
}

/// `meshd fdb`, of these rows.
pub(crate) fn fdb(node: &Node, rows: &[(Named, FdbRow)], now: Now) -> Vec<FdbEntry> {
    let directory = node.directory();
    let show = |((network, vni), row): &(Named, FdbRow)| {
        let (port, owner, kind) = match (row.place, row.how) {
            (Place::Port(port), How::Learned { .. }) => (Some(port), node.id(), FdbKind::Learned),
            (Place::Port(port), _) => (Some(port), node.id(), FdbKind::Port),
            (Place::Service(port), _) => (Some(port), node.id(), FdbKind::Service),
            (Place::Node(owner), _) => (None, owner, FdbKind::Remote),
        };
        let endpoint = directory.mac(*vni, row.mac).map(|(_, endpoint)| endpoint);
        FdbEntry {
            network: network.to_string(),
            vni: *vni,
            mac: row.mac,
            port,
            node: node_ref(node, owner),
            kind,
            ips: row.ips.clone(),
            name: endpoint.and_then(|endpoint| endpoint.name.clone()),
            idle_s: match row.how {
                How::Learned { seen, .. } => Some(now.moment.ms_since(seen) / 1000),
                _ => None,
            },
        }
    };
    rows.iter().map(show).collect()
}

/// `port 3 (web.demo)` or `peer berlin`.
pub(crate) fn show_origin(node: &Node, origin: Origin) -> String {
    match origin {
        Origin::Peer(id) => format!("peer {}", node_ref(node, id).show()),
        Origin::Port(port) => show_port(node, port),
        Origin::Vxlan(vni) => format!("vxlan of {}", network_name(node, vni)),
    }
}

/// A sentence of the core's with the names of nodes for the beginnings of their keys: `node q62rf5xi` is `node berlin (q62rf5xi)`.
pub(crate) fn with_names(node: &Node, text: &str) -> String {
    const WORD: &str = "node ";
    if !text.contains(WORD) {
        return text.to_owned();
    }
    let mut out = text.to_owned();
    for member in node.directory().members() {
        let short = format!("{WORD}{}", member.node.short());
        if out.contains(&short) {
            let named = format!("{WORD}{} ({})", member.name, member.node.short());
            out = out.replace(&short, &named);
        }
    }
    out
}

/// `port 3 (web.demo)`.
pub(crate) fn show_port(node: &Node, port: PortId) -> String {
    let named = node
        .ports()
        .iter()
        .find(|(record, ..)| record.id == port)
        .and_then(|(record, ..)| {
            let name = record.name.as_ref()?;
            Some(format!("{name}.{}", network_name(node, record.vni)))
        });
    named.map_or_else(
        || format!("port {port}"),
        |name| format!("port {port} ({name})"),
    )
}

/// `meshd flows`, most frames first. `counted`: frames and bytes of each entry of the kernel's gates.
pub(crate) fn flows(
    node: &Node,
    lanes: &[(Origin, LaneFlows)],
    counted: &BTreeMap<GateMatch, (u64, u64)>,
    now: Now,
) -> Vec<Flow> {
    // By megaflow: what the kernel has of it.
    #[derive(Default)]
    struct InKernel {
        entries: u32,
        frames: u64,
        bytes: u64,
        since: Option<Moment>,
    }
    let mut kernel: BTreeMap<(Origin, FlowKey), InKernel> = BTreeMap::new();
    for kept in node.switch().offloads().iter() {
        let of = kernel.entry((kept.origin, kept.megaflow)).or_default();
        let (frames, bytes) = counted.get(&kept.flow.matches).copied().unwrap_or_default();
        of.entries += 1;
        of.frames += frames;
        of.bytes += bytes;
        of.since = Some(of.since.map_or(kept.since, |since| since.min(kept.since)));
    }
    let mut rows = Vec::new();
    for (origin, lane) in lanes {
        for cached in &lane.flows {
            let key = &cached.flow.key;
            let held = kernel.remove(&(*origin, *key));
            let in_kernel = held.as_ref().is_some_and(|held| held.entries > 0);
            let obstacle = if in_kernel { None } else { cached.obstacle };
            let held = held.unwrap_or_default();
            rows.push(Flow {
                network: network_name(node, key.vni),
                vni: key.vni,
                origin: show_origin(node, *origin),
                flow: meshd_core::flowtext::show_match(key, &cached.flow.mask),
                action: show_action(node, &cached.action),
                lives: if in_kernel {
                    FlowTier::Kernel
                } else {
                    FlowTier::Datapath
                },
                since_at_ms: wall_at(now, held.since.unwrap_or(cached.since)),
                frames: cached.frames + held.frames,
                bytes: cached.bytes + held.bytes,
                kernel_frames: held.frames,
                kernel_entries: held.entries,
                obstacle,
                why: obstacle.map(|o| o.explain().to_owned()),
            });
        }
        for (key, frames) in &lane.waiting {
            rows.push(Flow {
                network: network_name(node, key.vni),
                vni: key.vni,
                origin: show_origin(node, *origin),
                flow: meshd_core::flowtext::show(key),
                action: "waits for a ruling".to_owned(),
                lives: FlowTier::Slow,
                since_at_ms: now.wall.0,
                frames: *frames as u64,
                bytes: 0,
                kernel_frames: 0,
                kernel_entries: 0,
                obstacle: Some(Obstacle::NotCached),
                why: Some("it is being ruled on".to_owned()),
            });
        }
    }
    // What the daemon has not seen a frame of since its ruling was last made, or since its own start.
    for ((origin, key), held) in kernel {
        let mask = meshd_core::offload::shown_mask(&key);
        let action = node
            .switch()
            .offloads()
            .iter()
            .find(|kept| (kept.origin, kept.megaflow) == (origin, key))
            .map(|kept| match node.switch().plane(key.vni) {
                Some(plane) if plane.here.contains_key(&kept.key.dst_mac) => plane
                    .here
                    .get(&kept.key.dst_mac)
                    .map_or_else(String::new, |port| format!("to {}", show_port(node, *port))),
                Some(plane) => plane
                    .there
                    .get(&kept.key.dst_mac)
                    .map_or_else(String::new, |peer| {
                        format!("to peer {}", node_ref(node, *peer).show())
                    }),
                None => String::new(),
            })
            .unwrap_or_default();
        rows.push(Flow {
            network: network_name(node, key.vni),
            vni: key.vni,
            origin: show_origin(node, origin),
            flow: meshd_core::flowtext::show_match(&key, &mask),
            action,
            lives: FlowTier::Kernel,
            since_at_ms: held.since.map_or(now.wall.0, |since| wall_at(now, since)),
            frames: held.frames,
            bytes: held.bytes,
            kernel_frames: held.frames,
            kernel_entries: held.entries,
            obstacle: None,
            why: None,
        });
    }
    rows.sort_by(|a, b| (b.frames, &a.flow).cmp(&(a.frames, &b.flow)));
    rows
}

fn show_action(node: &Node, action: &Action) -> String {
    match action {
        Action::Drop(reason) => format!("drop: {}", reason.name()),
        Action::Consume => "answered here".to_owned(),
        Action::Forward(to) => {
            let shown: Vec<String> = to
                .iter()
                .map(|output| match output {
                    Output::Port(port) => show_port(node, *port),
                    Output::Peer(id) => format!("peer {}", node_ref(node, *id).show()),
                })
                .collect();
            format!("to {}", shown.join(", "))
        }
    }
}
