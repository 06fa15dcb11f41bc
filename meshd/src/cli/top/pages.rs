//! The pages of `meshd top`: which lines they have, and what a line says. Pure.

use super::super::show::{clean, micros, or_dash, span, state, time};
use crate::api::plugin_views::PluginStats;
use meshd_core::view::{
    Drops, Event, Flow, FlowTier, KernelTraffic, Path, Peer, PeerState, Port, PortState, Traffic,
};
use std::collections::BTreeMap;

/// By line: two totals of what it counts, by the second.
pub(super) type Rates = BTreeMap<String, [u64; 2]>;

/// What there is to look at, in the order of their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Page {
    /// Who is there, and what passes between.
    Peers,
    /// Ways to peers, and how well they are.
    Paths,
    /// Ports of this node.
    Ports,
    /// Cached rulings.
    Flows,
    /// What plugins decide, and what that takes.
    Plugins,
    /// Why frames were dropped.
    Drops,
    /// What happened.
    Events,
}

impl Page {
    pub(super) const ALL: [Self; 7] = [
        Self::Peers,
        Self::Paths,
        Self::Ports,
        Self::Flows,
        Self::Plugins,
        Self::Drops,
        Self::Events,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Peers => "Peers",
            Self::Paths => "Paths",
            Self::Ports => "Ports",
            Self::Flows => "Flows",
            Self::Plugins => "Plugins",
            Self::Drops => "Drops",
            Self::Events => "Events",
        }
    }

    /// Heads of the columns. The last one takes the room that is left.
    pub(super) fn heads(self) -> &'static [&'static str] {
        match self {
            Self::Peers => &["PEER", "STATE", "RTT", "IN", "OUT", "DROPPED", "WHY"],
            Self::Paths => &["PEER", "KIND", "USE", "RTT", "LOSS", "LOAD", "MTU", "WHY"],
            Self::Ports => &["PORT", "NETWORK", "STATE", "IN", "OUT", "DROPPED", "PLACE"],
            Self::Flows => &[
                "NETWORK", "FROM", "LIVES", "LOAD", "FRAMES", "ACTION", "FLOW",
            ],
            Self::Plugins => &[
                "PLUGIN",
                "NETWORK",
                "CALLS",
                "MEAN",
                "P99 BELOW",
                "REFUSED",
                "LAST FAULT",
            ],
            Self::Drops => &["REASON", "NOW", "FRAMES", "LAST", "WHAT IT MEANS"],
            Self::Events => &["WHEN", "NO", "WHAT"],
        }
    }

    /// In the place of lines.
    pub(super) fn empty(self) -> &'static str {
        match self {
            Self::Peers => "no peers; `meshd invite` makes a token for one",
            Self::Paths => "no paths: there is no peer",
            Self::Ports => "no ports; `meshd attach` makes one",
            Self::Flows => "no flows: no frame was ruled on lately",
            Self::Plugins => "no plugin was asked",
            Self::Drops => "no frame was dropped since the daemon started",
            Self::Events => "nothing happened since the daemon started",
        }
    }
}

/// How a line is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Weak,
    Bad,
}

/// One line of a page. All text is clean: nothing in it is obeyed by a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) cells: Vec<String>,
    /// More of it, for who chose the line.
    pub(super) details: Vec<String>,
    /// The heaviest come first.
    pub(super) weight: u64,
    pub(super) tone: Tone,
}

impl Line {
    fn new<const N: usize>(cells: [String; N], weight: u64, tone: Tone) -> Self {
        let cells = cells.map(|cell| one_line(&cell)).to_vec();
        Self {
            cells,
            details: Vec::new(),
            weight,
            tone,
        }
    }

    fn with(mut self, name: &str, text: Option<impl ToString>) -> Self {
        if let Some(text) = text {
            let text = format!("{name}: {}", text.to_string());
            self.details.push(one_line(&text));
        }
        self
    }
}

fn one_line(text: &str) -> String {
    clean(&text.replace('\n', " "))
}

/// What a page shows.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Peers(Vec<Peer>),
    Paths(Vec<Path>),
    Ports(Vec<Port>),
    Flows(Vec<Flow>),
    Plugins(Vec<PluginStats>),
    Drops(Vec<Drops>),
    Events(Vec<Event>),
}

impl Content {
    pub(super) fn page(&self) -> Page {
        match self {
            Self::Peers(_) => Page::Peers,
            Self::Paths(_) => Page::Paths,
            Self::Ports(_) => Page::Ports,
            Self::Flows(_) => Page::Flows,
            Self::Plugins(_) => Page::Plugins,
            Self::Drops(_) => Page::Drops,
            Self::Events(_) => Page::Events,
        }
    }

    /// What lines count, by their names: of peers and ports bytes in and out, of flows bytes, of plugins calls.
    pub(super) fn totals(&self) -> BTreeMap<String, [u64; 2]> {
        match self {
            Self::Peers(peers) => {
                let all = peers.iter();
                all.map(|p| (peer_id(p), bytes_of(p.traffic, p.kernel)))
                    .collect()
            }
            Self::Ports(ports) => {
                let all = ports.iter();
                all.map(|p| (port_id(p), bytes_of(p.traffic, p.kernel)))
                    .collect()
            }
            Self::Flows(flows) => flows.iter().map(|f| (flow_id(f), [f.bytes, 0])).collect(),
            Self::Plugins(stats) => stats
                .iter()
                .map(|p| (plugin_id(p), [p.calls, p.dropped]))
                .collect(),
            Self::Paths(_) | Self::Drops(_) | Self::Events(_) => BTreeMap::new(),
        }
    }

    /// In the daemon's order.
    pub(super) fn lines(&self, rates: &Rates) -> Vec<Line> {
        let rate = |id: String| rates.get(&id).copied();
        match self {
            Self::Peers(all) => all.iter().map(|p| peer(p, rate(peer_id(p)))).collect(),
            Self::Paths(all) => all.iter().map(path).collect(),
            Self::Ports(all) => all.iter().map(|p| port(p, rate(port_id(p)))).collect(),
            Self::Flows(all) => all.iter().map(|f| flow(f, rate(flow_id(f)))).collect(),
            Self::Plugins(all) => all.iter().map(|p| plugin(p, rate(plugin_id(p)))).collect(),
            Self::Drops(all) => all.iter().filter(|d| d.count > 0).map(drops).collect(),
            Self::Events(all) => all.iter().map(event).collect(),
        }
    }
}

fn peer_id(peer: &Peer) -> String {
    peer.node.id.to_string()
}

fn port_id(port: &Port) -> String {
    port.id.to_string()
}

fn flow_id(flow: &Flow) -> String {
    format!("{} {} {}", flow.vni, flow.origin, flow.flow)
}

fn plugin_id(stats: &PluginStats) -> String {
    format!("{} {}", stats.vni, stats.plugin)
}

/// `12.3 Mbit/s` of bytes a second.
fn bits(bytes: Option<u64>) -> String {
    let Some(bytes) = bytes else {
        return "-".to_owned();
    };
    let bits = bytes.saturating_mul(8);
    let (divisor, unit) = match bits {
        0 => return "0".to_owned(),
        1..10_000 => return format!("{bits} bit/s"),
        10_000..10_000_000 => (1_000, "kbit/s"),
        10_000_000..10_000_000_000 => (1_000_000, "Mbit/s"),
        _ => (1_000_000_000, "Gbit/s"),
    };
    let tenths = bits / (divisor / 10);
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

fn nanos(ns: u64) -> String {
    match ns {
        0..10_000 => format!("{ns} ns"),
        10_000..10_000_000 => format!("{} us", ns / 1000),
        _ => format!("{} ms", ns / 1_000_000),
    }
}

fn peer(p: &Peer, rate: Option<[u64; 2]>) -> Line {
    let (state, tone) = match p.state {
        PeerState::Up => ("up", Tone::Good),
        PeerState::Greeting => ("greeting", Tone::Weak),
        PeerState::Dialing => ("dialing", Tone::Weak),
        PeerState::Waiting => ("waiting", Tone::Bad),
        PeerState::Down => ("down", Tone::Bad),
    };
    let cells = [
        p.node.show(),
        state.to_owned(),
        micros(p.rtt_us),
        bits(rate.map(|r| r[0])),
        bits(rate.map(|r| r[1])),
        p.traffic.dropped.to_string(),
        p.reason.clone().unwrap_or_else(|| "-".to_owned()),
    ];
    let weight = rate.map_or(0, |[rx, tx]| rx + tx);
    Line::new(cells, weight, tone)
        .with("id", Some(p.node.id))
        .with("address", p.remote)
        .with("since", p.since_at_ms.map(time))
        .with("lost packets", p.lost_packets)
        .with("mended slices", (p.mended > 0).then_some(p.mended))
        .with("why", p.reason.as_ref())
}

fn path(p: &Path) -> Line {
    let whose = p.network.as_ref().or(p.link.as_ref());
    let kind = whose.map_or_else(|| p.kind.clone(), |name| format!("{} {name}", p.kind));
    let loss = p.loss_ppm.map_or_else(
        || "-".to_owned(),
        |ppm| format!("{}.{:02} %", ppm / 10_000, ppm / 100 % 100),
    );
    let (used, tone) = match (p.active, &p.remedy) {
        (true, _) => ("active", Tone::Good),
        (false, None) => ("spare", Tone::Plain),
        (false, Some(_)) => ("spare", Tone::Weak),
    };
    let load = p.used_kbps.map(|kbps| u64::from(kbps) * 125);
    let cells = [
        p.node.show(),
        kind,
        used.to_owned(),
        micros(p.rtt_us),
        loss,
        bits(load),
        or_dash(p.mtu.as_ref()),
        p.reason.clone(),
    ];
    Line::new(cells, load.unwrap_or_default(), tone)
        .with("address", p.remote)
        .with("since", p.since_at_ms.map(time))
        .with("why", Some(&p.reason))
        .with("evidence", p.evidence.as_ref())
        .with("what to do", p.remedy.as_ref())
}

/// Of both the daemon and the kernel: what came from it, and what went to it.
fn bytes_of(daemon: Traffic, kernel: KernelTraffic) -> [u64; 2] {
    [
        daemon.rx_bytes.saturating_add(kernel.rx_bytes),
        daemon.tx_bytes.saturating_add(kernel.tx_bytes),
    ]
}

fn port(p: &Port, rate: Option<[u64; 2]>) -> Line {
    let tone = match p.state {
        PortState::Ready if p.link => Tone::Good,
        PortState::Ready => Tone::Weak,
        _ => Tone::Bad,
    };
    let name = p.name.as_ref();
    let place = [&p.netns.text, &p.ifname.text];
    let place = place.map(String::as_str).join(" ");
    let cells = [
        name.map_or_else(|| p.id.to_string(), |name| format!("{} {name}", p.id)),
        p.network.clone(),
        state(p.state).to_owned(),
        bits(rate.map(|r| r[0])),
        bits(rate.map(|r| r[1])),
        p.traffic.dropped.to_string(),
        place.trim().to_owned(),
    ];
    let ips: Vec<String> = p.ips.iter().map(ToString::to_string).collect();
    Line::new(cells, rate.map_or(0, |[rx, tx]| rx + tx), tone)
        .with("MAC", Some(p.mac))
        .with("addresses", (!ips.is_empty()).then(|| ips.join(", ")))
        .with("name", p.domain_name.as_ref())
        .with("since", Some(time(p.since_at_ms)))
        .with("why", p.reason.as_ref())
}

fn flow(f: &Flow, rate: Option<[u64; 2]>) -> Line {
    let (lives, tone) = match f.lives {
        FlowTier::Kernel => ("kernel", Tone::Good),
        FlowTier::Datapath => ("datapath", Tone::Plain),
        FlowTier::Slow => ("slow", Tone::Weak),
    };
    let cells = [
        f.network.clone(),
        f.origin.clone(),
        lives.to_owned(),
        bits(rate.map(|r| r[0])),
        f.frames.to_string(),
        f.action.clone(),
        f.flow.clone(),
    ];
    Line::new(cells, rate.map_or(0, |r| r[0]), tone)
        .with("since", Some(time(f.since_at_ms)))
        .with("not in the kernel", f.why.as_ref())
        .with("flow", Some(&f.flow))
        .with("action", Some(&f.action))
}

fn plugin(p: &PluginStats, rate: Option<[u64; 2]>) -> Line {
    let failing = p.last_fault.is_some() || p.quarantine.is_some();
    let calls = match rate {
        Some([calls, _]) => format!("{} (+{calls}/s)", p.calls),
        None => p.calls.to_string(),
    };
    let cells = [
        p.plugin.to_string(),
        p.network.clone(),
        calls,
        nanos(p.mean_ns),
        p.p99_below_ns.map_or_else(|| "-".to_owned(), nanos),
        p.dropped.to_string(),
        p.last_fault.clone().unwrap_or_else(|| "-".to_owned()),
    ];
    let tone = if failing { Tone::Bad } else { Tone::Plain };
    let mut line = Line::new(cells, rate.map_or(p.calls, |r| r[0]), tone)
        .with(
            "answered by the fail mode",
            (p.failed > 0).then_some(p.failed),
        )
        .with("quarantine", p.quarantine.as_ref())
        .with("last fault", p.last_fault.as_ref());
    for (reason, count) in &p.reasons {
        line = line.with(reason, Some(count));
    }
    line
}

fn drops(d: &Drops) -> Line {
    let now = (d.recent * 1000).checked_div(d.recent_ms);
    let cells = [
        d.reason.name().to_owned(),
        now.map_or_else(|| "-".to_owned(), |rate| format!("{rate}/s")),
        d.count.to_string(),
        d.last
            .as_ref()
            .map_or_else(|| "-".to_owned(), |last| time(last.at_ms)),
        d.explanation.clone(),
    ];
    let tone = if d.recent > 0 {
        Tone::Weak
    } else {
        Tone::Plain
    };
    let mut line = Line::new(cells, d.count, tone);
    if let Some(last) = &d.last {
        line = line
            .with("from", Some(&last.origin))
            .with("network", last.network.as_ref())
            .with("flow", last.flow.as_ref())
            .with("why", last.why.as_ref());
    }
    for place in &d.places {
        let origin = place.origin.as_deref().unwrap_or("somewhere");
        let network = place.network.as_deref().unwrap_or("no network");
        line = line.with(&format!("{origin} on {network}"), Some(place.count));
    }
    line
}

fn event(e: &Event) -> Line {
    let cells = [time(e.at_ms), e.seq.to_string(), e.text.clone()];
    Line::new(cells, e.seq, Tone::Plain).with("what", Some(&e.text))
}

/// `up 3 d 4 h`.
pub(super) fn uptime(seconds: u64) -> String {
    format!("up {}", span(seconds))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::super::model::Seen;
    use super::*;
    use meshd_core::ident::NodeId;
    use meshd_core::view::{NodeRef, Status};

    pub(in super::super) fn peer(number: u8, rx_bytes: u64) -> Peer {
        Peer {
            node: NodeRef {
                id: NodeId([number; 32]),
                name: Some(format!("node-{number}").parse().unwrap()),
            },
            state: PeerState::Up,
            remote: None,
            dialed: None,
            since_at_ms: None,
            reason: None,
            retry_in_ms: None,
            rtt_us: Some(250),
            datagram_max: None,
            traffic: Traffic {
                rx_bytes,
                ..Traffic::default()
            },
            kernel: KernelTraffic::default(),
            lost_packets: None,
            mended: 0,
        }
    }

    pub(in super::super) fn seen(at_ms: u64, peers: Vec<Peer>) -> Seen {
        let status = serde_json::json!({
            "version": "0.1.0", "mesh": NodeId([9; 32]), "mesh_name": "home", "domain": "home.internal",
            "node": {"id": NodeId([1; 32]), "name": "one"}, "role": "member", "has_root": false, "addresses": [],
            "started_at_ms": 0, "uptime_s": 7200, "epoch": 1, "members": 3, "members_alive": 2, "peers_up": 1,
            "networks": 1, "ports": 2, "ports_ready": 2, "fdb_entries": 4, "dropped": 12, "fenced_off": 0,
            "conflicts": [], "problems": []
        });
        Seen {
            at_ms,
            status: serde_json::from_value::<Status>(status).unwrap(),
            content: Content::Peers(peers),
        }
    }

    #[test]
    fn a_peer_cannot_write_to_the_terminal() {
        let mut bad = peer(1, 0);
        bad.reason = Some("\u{1b}[2J\nboo".to_owned());
        let line = super::peer(&bad, None);
        assert!(
            line.cells
                .iter()
                .chain(&line.details)
                .all(|cell| !cell.contains(['\u{1b}', '\n']))
        );
    }

    #[test]
    fn loads_are_bits_a_second() {
        assert_eq!(bits(None), "-");
        assert_eq!(bits(Some(0)), "0");
        assert_eq!(bits(Some(100)), "800 bit/s");
        assert_eq!(bits(Some(125_000)), "1000.0 kbit/s");
        assert_eq!(bits(Some(2_500_000_000)), "20.0 Gbit/s");
    }

    #[test]
    fn each_page_has_as_many_heads_as_its_lines_have_cells() {
        let lines = Content::Peers(vec![peer(1, 0)]).lines(&Rates::new());
        assert_eq!(lines[0].cells.len(), Page::Peers.heads().len());
    }
}
