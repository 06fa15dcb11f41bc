//! Which figures there are: name, unit, labels and meaning of each, and the rows that a scrape has.
//!
//! Owns their bounds: beyond [`ROWS_MAX`] of one kind of thing, what comes behind is one row whose labels are `other`.

use crate::api::backend::Backend;
use crate::api::plugin_views::{self, PluginStats};
use crate::rulings::PluginInfo;
use meshd_core::command::Refusal;
use meshd_core::view::{
    Device, DeviceState, Drops, Member, Network, Path, Peer, PeerState, Port, PortState, Status,
    Traffic, word,
};
use prometheus_client::metrics::MetricType;
use std::collections::BTreeMap;

/// Rows of one family that are told apart.
pub(super) const ROWS_MAX: usize = 1000;
/// In the place of labels beyond.
const OTHER: &str = "other";

/// Kind of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows, while the daemon runs.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl Kind {
    pub(super) fn metric(self) -> MetricType {
        match self {
            Self::Counter => MetricType::Counter,
            Self::Gauge => MetricType::Gauge,
            Self::Histogram => MetricType::Histogram,
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A family of figures.
#[derive(Debug)]
pub(super) struct Def {
    /// Without prefix, unit and `_total`.
    name: &'static str,
    /// At the end of the name.
    pub(super) unit: Option<&'static str>,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    /// One sentence.
    pub(super) help: &'static str,
}

impl Def {
    /// With the prefix, without unit and `_total`.
    pub(super) fn prefixed(&self) -> String {
        match self.name.starts_with("process_") {
            true => self.name.to_owned(),
            false => format!("{}_{}", super::PREFIX, self.name),
        }
    }

    /// As queries have it.
    pub(super) fn exported(&self) -> String {
        let mut name = self.prefixed();
        if let Some(unit) = self.unit {
            name.extend(["_", unit]);
        }
        if self.kind == Kind::Counter {
            name.push_str("_total");
        }
        name
    }
}

macro_rules! families {
    ($($id:ident: $kind:ident $name:literal $(in $unit:literal)? [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub(super) const $id: Def = Def {
                name: $name,
                unit: { let unit: Option<&'static str> = None; $(let _ = unit; let unit = Some($unit);)? unit },
                kind: Kind::$kind,
                labels: &[$($label),*],
                help: $help,
            };
        )*
        /// All of them, in the order in which they are told.
        pub(super) const ALL: &[&Def] = &[$(&$id),*];
    };
}

families! {
    BUILD: Gauge "build_info" ["version"] "1; the label is the daemon's version.";
    STARTED: Gauge "start_time" in "seconds" [] "When the daemon started, since the Unix epoch.";
    PROBLEMS: Gauge "problems" [] "What is not as it should be on this node, as `meshd status` lists it.";
    CONFLICTS: Gauge "conflicts" [] "Things in the mesh that are claimed twice.";
    MEMBERS: Gauge "members" ["state"] "Members of the mesh, as this node sees them.";
    FDB: Gauge "fdb_entries" [] "MACs known on all networks.";
    DROPS: Counter "dropped_frames" ["reason"] "Frames that the daemon dropped, by reason.";
    FENCED: Counter "fenced_off_packets" [] "VXLAN packets of strangers that the kernel's fence dropped.";
    NETWORK_ENDPOINTS: Gauge "network_endpoints" ["network"] "Endpoints of a network, on all nodes.";
    NETWORK_PORTS: Gauge "network_ports" ["network"] "Ports of a network on this node.";
    NETWORK_NODES: Gauge "network_nodes" ["network"] "Nodes that have ports on a network.";
    PORT_READY: Gauge "port_ready" ["network", "port", "name"] "1 if frames flow by the port, else 0.";
    PORT_LINK: Gauge "port_link_up" ["network", "port", "name"] "1 if both ends of the port are up, else 0.";
    PORT_RX_FRAMES: Counter "port_received_frames" ["network", "port", "name"] "Frames that came from the port through the daemon.";
    PORT_RX_BYTES: Counter "port_received" in "bytes" ["network", "port", "name"] "Bytes that came from the port through the daemon.";
    PORT_TX_FRAMES: Counter "port_sent_frames" ["network", "port", "name"] "Frames that the daemon sent to the port.";
    PORT_TX_BYTES: Counter "port_sent" in "bytes" ["network", "port", "name"] "Bytes that the daemon sent to the port.";
    PORT_KERNEL_RX_FRAMES: Counter "port_kernel_received_frames" ["network", "port", "name"] "Frames from the port that the kernel forwarded by itself.";
    PORT_KERNEL_RX_BYTES: Counter "port_kernel_received" in "bytes" ["network", "port", "name"] "Bytes of frames from the port that the kernel forwarded by itself.";
    PORT_KERNEL_TX_FRAMES: Counter "port_kernel_sent_frames" ["network", "port", "name"] "Frames to the port that the kernel forwarded by itself.";
    PORT_KERNEL_TX_BYTES: Counter "port_kernel_sent" in "bytes" ["network", "port", "name"] "Bytes of frames to the port that the kernel forwarded by itself.";
    PORT_DROPS: Counter "port_dropped_frames" ["network", "port", "name"] "Frames from or to the port that were dropped.";
    PEER_UP: Gauge "peer_up" ["peer"] "1 if there is a session with the peer, else 0.";
    PEER_RTT: Gauge "peer_round_trip" in "seconds" ["peer"] "Smoothed round-trip time of the session.";
    PEER_RX_FRAMES: Counter "peer_received_frames" ["peer"] "Frames that came from the peer over QUIC.";
    PEER_RX_BYTES: Counter "peer_received" in "bytes" ["peer"] "Bytes of frames that came from the peer over QUIC.";
    PEER_TX_FRAMES: Counter "peer_sent_frames" ["peer"] "Frames that were sent to the peer over QUIC.";
    PEER_TX_BYTES: Counter "peer_sent" in "bytes" ["peer"] "Bytes of frames that were sent to the peer over QUIC.";
    PEER_KERNEL_RX_FRAMES: Counter "peer_kernel_received_frames" ["peer"] "Frames from the peer over VXLAN that the kernel forwarded by itself.";
    PEER_KERNEL_RX_BYTES: Counter "peer_kernel_received" in "bytes" ["peer"] "Bytes of frames from the peer over VXLAN that the kernel forwarded by itself.";
    PEER_KERNEL_TX_FRAMES: Counter "peer_kernel_sent_frames" ["peer"] "Frames to the peer over VXLAN that the kernel forwarded by itself.";
    PEER_KERNEL_TX_BYTES: Counter "peer_kernel_sent" in "bytes" ["peer"] "Bytes of frames to the peer over VXLAN that the kernel forwarded by itself.";
    PEER_DROPS: Counter "peer_dropped_frames" ["peer"] "Frames from or to the peer that were dropped.";
    PEER_LOST: Counter "peer_lost_packets" ["peer"] "QUIC packets of the session that the underlay lost.";
    PATH_ACTIVE: Gauge "path_active" ["peer", "kind", "of"] "1 if traffic may take the path, else 0; `of` is its network or link.";
    PATH_RTT: Gauge "path_round_trip" in "seconds" ["peer", "kind", "of"] "Smoothed round-trip time of the path.";
    PATH_LOSS: Gauge "path_loss" in "ratio" ["peer", "kind", "of"] "Part of the packets that the path loses, 0 to 1.";
    PATH_MTU: Gauge "path_mtu" in "bytes" ["peer", "kind", "of"] "Largest UDP payload that the path takes.";
    PLUGIN_ASKED: Counter "plugin_questions" ["plugin", "network"] "Questions that the plugin was asked.";
    PLUGIN_REFUSED: Counter "plugin_refusals" ["plugin", "network"] "Questions of which the plugin said that the frame is dropped.";
    PLUGIN_FAILED: Counter "plugin_failures" ["plugin", "network"] "Questions that the fail mode answered.";
    PLUGIN_FAILING: Gauge "plugin_failing" ["plugin", "network"] "1 if the fail mode answers at the moment, else 0.";
    PLUGIN_TIME: Histogram "plugin_call_duration" in "seconds" ["plugin", "network"] "Time of calls into the plugin.";
    DEVICE_READY: Gauge "device_ready" ["device"] "1 if the host device is as the config file wishes, else 0.";
    SCRAPE: Gauge "scrape_duration" in "seconds" [] "Time that this scrape took.";
    CPU: Counter "process_cpu" in "seconds" [] "Processor time of the daemon.";
    MEMORY: Gauge "process_resident_memory" in "bytes" [] "Memory of the daemon.";
    OPEN_FDS: Gauge "process_open_fds" [] "Open file descriptors of the daemon.";
}

/// A figure.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// Of things.
    Counter(u64),
    /// Of time.
    Seconds(f64),
    /// Goes up and down.
    Gauge(f64),
    /// Of calls.
    Histogram {
        /// Seconds, of all.
        sum: f64,
        /// How many.
        count: u64,
        /// Up to so many seconds, and above the one before: how many.
        buckets: Vec<(f64, u64)>,
    },
}

impl Value {
    /// Two rows as one. Of gauges the least: a row of many is well if all of them are.
    fn merge(&mut self, other: Self) {
        match (self, other) {
            (Self::Counter(a), Self::Counter(b)) => *a = a.saturating_add(b),
            (Self::Seconds(a), Self::Seconds(b)) => *a += b,
            (Self::Gauge(a), Self::Gauge(b)) => *a = a.min(b),
            (
                Self::Histogram {
                    sum,
                    count,
                    buckets,
                },
                Self::Histogram {
                    sum: more,
                    count: n,
                    buckets: others,
                },
            ) => {
                *sum += more;
                *count = count.saturating_add(n);
                for ((_, a), (_, b)) in buckets.iter_mut().zip(others) {
                    *a = a.saturating_add(b);
                }
            }
            _ => {}
        }
    }
}

/// All rows of a scrape.
#[derive(Debug, Default)]
pub(super) struct Rows(BTreeMap<&'static str, Vec<(Vec<String>, Value)>>);

impl Rows {
    /// One more row.
    pub(super) fn put(&mut self, def: &Def, labels: &[&str], value: Value) {
        debug_assert_eq!(labels.len(), def.labels.len(), "{}", def.name);
        let rows = self.0.entry(def.name).or_default();
        if rows.len() < ROWS_MAX || labels.is_empty() {
            let labels = labels.iter().map(|&label| label.to_owned()).collect();
            rows.push((labels, value));
        } else if rows.len() == ROWS_MAX {
            rows.push((vec![OTHER.to_owned(); labels.len()], value));
        } else if let Some((_, rest)) = rows.last_mut() {
            rest.merge(value);
        }
    }

    fn count(&mut self, def: &Def, labels: &[&str], n: u64) {
        self.put(def, labels, Value::Counter(n));
    }

    fn gauge(&mut self, def: &Def, labels: &[&str], n: f64) {
        self.put(def, labels, Value::Gauge(n));
    }

    fn is(&mut self, def: &Def, labels: &[&str], so: bool) {
        self.gauge(def, labels, f64::from(u8::from(so)));
    }

    /// Those of one family, if it has some.
    pub(super) fn of(&self, def: &Def) -> Option<&[(Vec<String>, Value)]> {
        self.0.get(def.name).map(Vec::as_slice)
    }
}

/// Asks for all views, one after the other, so that a scrape is never much at once.
pub(super) async fn gather<B: Backend>(backend: &B) -> Result<Rows, Refusal> {
    let mut rows = Rows::default();
    // A node without a statement of membership still has figures.
    if let Ok(status) = backend.status().await {
        of_status(&mut rows, &status);
    }
    of_members(&mut rows, &backend.members().await?);
    of_drops(&mut rows, &backend.drops().await?);
    let networks = backend.networks().await?;
    of_networks(&mut rows, &networks);
    of_ports(&mut rows, &backend.ports().await?);
    of_peers(&mut rows, &backend.peers().await?);
    of_paths(&mut rows, &backend.paths().await?);
    let rulings = backend.rulings();
    // Not on a thread of the runtime: a change may hold it up.
    let plugins = tokio::task::spawn_blocking(move || rulings.list()).await;
    of_plugins(&mut rows, &plugins.unwrap_or_default(), &networks);
    of_devices(&mut rows, &backend.devices().await?);
    Ok(rows)
}

fn of_status(rows: &mut Rows, status: &Status) {
    rows.gauge(&BUILD, &[&status.version], 1.0);
    rows.gauge(&STARTED, &[], status.started_at_ms as f64 / 1000.0);
    rows.gauge(&PROBLEMS, &[], status.problems.len() as f64);
    rows.gauge(&CONFLICTS, &[], status.conflicts.len() as f64);
    rows.gauge(&FDB, &[], f64::from(status.fdb_entries));
    rows.count(&FENCED, &[], status.fenced_off);
}

fn of_members(rows: &mut Rows, members: &[Member]) {
    let mut states = BTreeMap::new();
    for member in members {
        *states.entry(word(&member.state)).or_insert(0u32) += 1;
    }
    for (state, n) in states {
        rows.gauge(&MEMBERS, &[&state], f64::from(n));
    }
}

fn of_drops(rows: &mut Rows, drops: &[Drops]) {
    let counted: BTreeMap<_, _> = drops.iter().map(|one| (one.reason, one.count)).collect();
    // All reasons, so that the first frame is seen as a change.
    for reason in meshd_core::ruling::DropReason::ALL {
        let n = counted.get(reason).copied().unwrap_or_default();
        rows.count(&DROPS, &[&word(reason)], n);
    }
}

fn of_networks(rows: &mut Rows, networks: &[Network]) {
    for network in networks {
        let label: &[&str] = &[network.name.as_str()];
        rows.gauge(&NETWORK_ENDPOINTS, label, f64::from(network.endpoints));
        rows.gauge(&NETWORK_PORTS, label, f64::from(network.ports_here));
        rows.gauge(&NETWORK_NODES, label, network.nodes.len() as f64);
    }
}

fn traffic(rows: &mut Rows, defs: [&Def; 5], labels: &[&str], traffic: Traffic) {
    let figures = [
        traffic.rx_frames,
        traffic.rx_bytes,
        traffic.tx_frames,
        traffic.tx_bytes,
        traffic.dropped,
    ];
    for (def, n) in defs.into_iter().zip(figures) {
        rows.count(def, labels, n);
    }
}

fn of_ports(rows: &mut Rows, ports: &[Port]) {
    let defs = [
        &PORT_RX_FRAMES,
        &PORT_RX_BYTES,
        &PORT_TX_FRAMES,
        &PORT_TX_BYTES,
        &PORT_DROPS,
    ];
    for port in ports {
        let id = port.id.to_string();
        let name = port.name.as_ref().map_or("", |name| name.as_str());
        let labels: &[&str] = &[&port.network, &id, name];
        rows.is(&PORT_READY, labels, port.state == PortState::Ready);
        rows.is(&PORT_LINK, labels, port.link);
        traffic(rows, defs, labels, port.traffic);
        rows.count(&PORT_KERNEL_RX_FRAMES, labels, port.kernel.rx_frames);
        rows.count(&PORT_KERNEL_RX_BYTES, labels, port.kernel.rx_bytes);
        rows.count(&PORT_KERNEL_TX_FRAMES, labels, port.kernel.tx_frames);
        rows.count(&PORT_KERNEL_TX_BYTES, labels, port.kernel.tx_bytes);
    }
}

fn of_peers(rows: &mut Rows, peers: &[Peer]) {
    let defs = [
        &PEER_RX_FRAMES,
        &PEER_RX_BYTES,
        &PEER_TX_FRAMES,
        &PEER_TX_BYTES,
        &PEER_DROPS,
    ];
    for peer in peers {
        let name = peer.node.show();
        let labels: &[&str] = &[&name];
        rows.is(&PEER_UP, labels, peer.state == PeerState::Up);
        traffic(rows, defs, labels, peer.traffic);
        rows.count(&PEER_KERNEL_RX_FRAMES, labels, peer.kernel.rx_frames);
        rows.count(&PEER_KERNEL_RX_BYTES, labels, peer.kernel.rx_bytes);
        rows.count(&PEER_KERNEL_TX_FRAMES, labels, peer.kernel.tx_frames);
        rows.count(&PEER_KERNEL_TX_BYTES, labels, peer.kernel.tx_bytes);
        if let Some(us) = peer.rtt_us {
            rows.gauge(&PEER_RTT, labels, us as f64 / 1e6);
        }
        if let Some(lost) = peer.lost_packets {
            rows.count(&PEER_LOST, labels, lost);
        }
    }
}

fn of_paths(rows: &mut Rows, paths: &[Path]) {
    for path in paths {
        let peer = path.node.show();
        let of = path.network.as_ref().or(path.link.as_ref());
        let labels: &[&str] = &[&peer, &path.kind, of.map_or("", String::as_str)];
        rows.is(&PATH_ACTIVE, labels, path.active);
        if let Some(us) = path.rtt_us {
            rows.gauge(&PATH_RTT, labels, us as f64 / 1e6);
        }
        if let Some(ppm) = path.loss_ppm {
            rows.gauge(&PATH_LOSS, labels, f64::from(ppm) / 1e6);
        }
        if let Some(mtu) = path.mtu {
            rows.gauge(&PATH_MTU, labels, f64::from(mtu));
        }
    }
}

/// Bounds of the buckets, in ns; the last has none.
const BOUNDS_NS: [u64; 7] = [
    1 << 10,
    1 << 12,
    1 << 14,
    1 << 16,
    1 << 18,
    1 << 20,
    1 << 22,
];

fn of_plugins(rows: &mut Rows, plugins: &[PluginInfo], networks: &[Network]) {
    for plugin in plugins {
        for at in &plugin.attachments {
            let network = plugin_views::network_name(networks, at.vni);
            let failing = plugin.trouble.is_some() || at.trouble.is_some();
            let stats = plugin_views::stats(plugin, at, network);
            let labels: &[&str] = &[stats.plugin.as_str(), &stats.network];
            rows.count(&PLUGIN_ASKED, labels, stats.asked);
            rows.count(&PLUGIN_REFUSED, labels, stats.dropped);
            rows.count(&PLUGIN_FAILED, labels, stats.failed);
            rows.is(&PLUGIN_FAILING, labels, failing);
            rows.put(&PLUGIN_TIME, labels, times(&stats));
        }
    }
}

fn times(stats: &PluginStats) -> Value {
    let mut buckets: Vec<(f64, u64)> = BOUNDS_NS
        .iter()
        .map(|ns| (*ns as f64 / 1e9, 0))
        .chain([(f64::INFINITY, 0)])
        .collect();
    for bucket in &stats.times {
        let at = bucket.below_ns.map_or(BOUNDS_NS.len(), |below| {
            BOUNDS_NS.iter().filter(|bound| **bound < below).count()
        });
        if let Some((_, calls)) = buckets.get_mut(at) {
            *calls += bucket.calls;
        }
    }
    Value::Histogram {
        sum: stats.mean_ns as f64 * stats.calls as f64 / 1e9,
        count: stats.calls,
        buckets,
    }
}

fn of_devices(rows: &mut Rows, devices: &[Device]) {
    for device in devices {
        let ready = device.state == DeviceState::Ready;
        rows.is(&DEVICE_READY, &[&device.name.text], ready);
    }
}
