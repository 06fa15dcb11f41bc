//! Views as people read them: tables that fit 80 columns, words instead of numbers where words say more.
//!
//! Owns the columns. All text that others chose goes through [`clean`] before it meets a terminal.

mod capture;
mod device;
mod doctor;
mod drops;
mod trace;

pub(super) use capture::captured;
pub(super) use device::devices;
pub(super) use doctor::doctor;
pub(super) use drops::{balance, drops};
pub(super) use trace::trace;

use comfy_table::{ContentArrangement, Table};
use meshd_core::kind::PortKind;
use meshd_core::view::{
    Connection, Event, FdbEntry, FdbKind, Flow, FlowTier, KernelTraffic, Listeners, Member,
    MemberState, Network, NodeRef, Path, Peer, PeerState, Plugin, Port, PortState, Status, Traffic,
    VtepRow,
};
use meshd_core::wire::record::Role;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr};

/// `value` as one JSON document.
pub(super) fn json(value: &impl Serialize) -> String {
    // These are plain structs with text keys: nothing in them cannot be JSON.
    serde_json::to_string_pretty(value).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
}

/// `text` without anything that a terminal would obey: control characters but line feeds, and marks that change the
/// direction of writing, as escapes.
pub(super) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let obeyed = c.is_control() && c != '\n';
        if obeyed
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
        {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Lines, each of them clean.
pub(super) fn clean_lines(lines: &[String]) -> String {
    lines.iter().map(|line| clean(line) + "\n").collect()
}

/// Milliseconds since the Unix epoch as RFC 3339, in UTC and to the second.
pub(super) fn time(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, second) = (seconds / 86400, seconds % 86400);
    // Days since 0000-03-01; then eras of 400 years (Howard Hinnant, "chrono-compatible low-level date algorithms").
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 {
        month_index + 3
    } else {
        month_index - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// `3 d 4 h`, `12 min`, `8 s`.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// `1.4 GiB`.
fn amount(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes, 0);
    while value >= 10 * 1024 && unit < 4 {
        value /= 1024;
        unit += 1;
    }
    let unit = ["B", "KiB", "MiB", "GiB", "TiB"]
        .get(unit)
        .copied()
        .unwrap_or("TiB");
    format!("{value} {unit}")
}

pub(super) fn micros(us: Option<u64>) -> String {
    match us {
        None => "-".to_owned(),
        Some(us) if us < 10_000 => format!("{}.{} ms", us / 1000, us / 100 % 10),
        Some(us) => format!("{} ms", us / 1000),
    }
}

/// `12.3` of 123.
fn tenths(tenths: u32) -> String {
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn list<T: ToString>(items: &[T]) -> String {
    if items.is_empty() {
        "-".to_owned()
    } else {
        items
            .iter()
            .map(T::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    }
}

fn labels(labels: &BTreeMap<String, String>) -> String {
    list(
        &labels
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect::<Vec<_>>(),
    )
}

pub(super) fn or_dash<T: ToString>(value: Option<&T>) -> String {
    value.map_or_else(|| "-".to_owned(), T::to_string)
}

fn nodes(nodes: &[NodeRef]) -> String {
    list(&nodes.iter().map(NodeRef::show).collect::<Vec<_>>())
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Member => "member",
        Role::Admin => "admin",
    }
}

/// Rows under a header line, columns two spaces apart; on a terminal cells are wrapped to its width.
pub(super) fn table(
    header: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
    empty: &str,
) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header);
    let mut any = false;
    for row in rows {
        any = true;
        table.add_row(row.iter().map(|cell| clean(cell)));
    }
    if !any {
        return format!("{empty}\n");
    }
    table.set_content_arrangement(if std::io::stdout().is_terminal() {
        ContentArrangement::Dynamic
    } else {
        ContentArrangement::Disabled
    });
    let count = header.len();
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if at + 1 == count { 0 } else { 2 }));
    }
    table
        .lines()
        .flat_map(|line| [line.trim_end().to_owned(), "\n".to_owned()])
        .collect()
}

/// Lines `name  value`, values under each other.
pub(super) fn facts(facts: &[(&str, String)]) -> String {
    let width = facts
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or_default();
    facts.iter().fold(String::new(), |mut out, (name, value)| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:width$}  {}", clean(value));
        out
    })
}

pub(super) fn status(status: &Status) -> String {
    let invites = if status.has_root {
        ", holds the root key"
    } else {
        ""
    };
    let mut out = facts(&[
        (
            "node",
            format!("{} ({}{invites})", status.node.show(), role(status.role)),
        ),
        ("id", status.node.id.to_string()),
        ("mesh", format!("{} ({})", status.mesh_name, status.mesh)),
        ("names", format!("NAME.NETWORK.{}", status.domain)),
        ("version", status.version.clone()),
        ("up", span(status.uptime_s)),
        ("addresses", list(&status.addresses)),
        (
            "members",
            format!("{} alive of {}", status.members_alive, status.members),
        ),
        ("peers", format!("{} up", status.peers_up)),
        ("networks", status.networks.to_string()),
        (
            "ports",
            format!("{} ready of {}", status.ports_ready, status.ports),
        ),
        ("MACs", status.fdb_entries.to_string()),
        (
            "dropped",
            format!(
                "{} frames{}",
                status.dropped,
                if status.dropped > 0 {
                    " (`meshd drops` says why)"
                } else {
                    ""
                }
            ),
        ),
        (
            "fenced off",
            format!("{} VXLAN packets of strangers", status.fenced_off),
        ),
        ("epoch", status.epoch.to_string()),
    ]);
    for conflict in &status.conflicts {
        let _ = writeln!(
            out,
            "\nCONFLICT  {}",
            clean(&format!(
                "{} {} on {} is claimed twice: {} keeps it, {} claims it too",
                conflict.kind,
                conflict.what,
                conflict.network,
                conflict.holder.show(),
                conflict.other.show()
            ))
        );
    }
    for problem in &status.problems {
        let _ = writeln!(out, "\nPROBLEM  {}", clean(problem));
    }
    out
}

pub(super) fn members(members: &[Member]) -> String {
    let rows = members.iter().map(|m| {
        let state = match m.state {
            MemberState::Here => "here",
            MemberState::Alive => "alive",
            MemberState::Suspect => "suspect",
            MemberState::Dead => "dead",
            MemberState::Unknown => "unknown",
            MemberState::Revoked => "revoked",
        };
        vec![
            m.name.to_string(),
            m.id.short(),
            state.to_owned(),
            role(m.role).to_owned(),
            list(&m.networks),
            labels(&m.labels),
            m.addresses
                .first()
                .map_or_else(|| "-".to_owned(), ToString::to_string),
        ]
    });
    let mut out = table(
        &[
            "NAME", "ID", "STATE", "ROLE", "NETWORKS", "LABELS", "ADDRESS",
        ],
        rows,
        "no members",
    );
    for member in members {
        for service in &member.services {
            let (name, at) = (&service.name, list(&service.ips));
            let note = match service.answered {
                true => "",
                false => {
                    ", not answered: this node's config does not let it have that name ([dns])"
                }
            };
            let _ = writeln!(out, "{}: service {name} at {at}{note}", member.name);
        }
    }
    out
}

/// By the daemon and by the kernel.
fn traffic(traffic: Traffic, kernel: KernelTraffic) -> [String; 2] {
    [
        amount(traffic.rx_bytes.saturating_add(kernel.rx_bytes)),
        amount(traffic.tx_bytes.saturating_add(kernel.tx_bytes)),
    ]
}

pub(super) fn peers(peers: &[Peer]) -> String {
    let rows = peers.iter().map(|p| {
        let state = match p.state {
            PeerState::Up => "up",
            PeerState::Greeting => "greeting",
            PeerState::Dialing => "dialing",
            PeerState::Waiting => "waiting",
            PeerState::Down => "down",
        };
        let [rx, tx] = traffic(p.traffic, p.kernel);
        let mut why = p.reason.clone().unwrap_or_else(|| "-".to_owned());
        if let Some(ms) = p.retry_in_ms {
            let _ = write!(why, " (again in {} s)", ms.div_ceil(1000));
        }
        vec![
            p.node.show(),
            state.to_owned(),
            or_dash(p.remote.as_ref()),
            micros(p.rtt_us),
            rx,
            tx,
            why,
        ]
    });
    table(
        &["PEER", "STATE", "ADDRESS", "RTT", "RECEIVED", "SENT", "WHY"],
        rows,
        "no peers; `meshd invite` makes a token for one",
    )
}

pub(super) fn paths(paths: &[Path]) -> String {
    let rows = paths.iter().map(|p| {
        let whose = p.network.as_ref().or(p.link.as_ref());
        let kind = whose.map_or_else(|| p.kind.clone(), |name| format!("{} {name}", p.kind));
        let load = p.used_kbps.map_or_else(
            || "-".to_owned(),
            |used| format!("{} Mbit/s", tenths(used / 100)),
        );
        let word = |code| Some(serde_json::to_value(code).ok()?.as_str()?.to_owned());
        let mut why = match p.reason_code.and_then(word) {
            Some(word) => format!("{word}: {}", p.reason),
            None => p.reason.clone(),
        };
        for more in p
            .evidence
            .iter()
            .chain(p.remedy.iter().filter(|_| !p.active))
        {
            why += "; ";
            why += more;
        }
        let loss = p.loss_ppm.map_or_else(
            || "-".to_owned(),
            |ppm| format!("{}.{:02} %", ppm / 10_000, ppm / 100 % 100),
        );
        vec![
            p.node.show(),
            p.id.to_string(),
            kind,
            if p.active { "active" } else { "spare" }.to_owned(),
            or_dash(p.remote.as_ref()),
            micros(p.rtt_us),
            loss,
            load,
            or_dash(p.mtu.as_ref()),
            why,
        ]
    });
    table(
        &[
            "PEER", "ID", "KIND", "USE", "ADDRESS", "RTT", "LOSS", "LOAD", "MTU", "WHY",
        ],
        rows,
        "no paths: there is no peer",
    )
}

pub(super) fn networks(networks: &[Network]) -> String {
    let rows = networks.iter().map(|n| {
        vec![
            n.name.to_string(),
            n.vni.to_string(),
            list(&n.subnets),
            n.mtu.to_string(),
            n.ports_here.to_string(),
            n.endpoints.to_string(),
            nodes(&n.nodes),
            n.plugins.to_string(),
        ]
    });
    let empty = "no networks; `meshd network add demo --subnet 10.0.0.0/24` makes one";
    let away = networks.iter().flat_map(|n| {
        n.away.iter().map(move |away| {
            let node = nodes(std::slice::from_ref(&away.node));
            clean(&format!(
                "{}: {} or more addresses of {} are with {node}, which is revoked or not connected\n",
                n.name, away.addresses, away.subnet
            ))
        })
    });
    let bridges = networks.iter().flat_map(|n| {
        n.bridges.iter().map(move |bridge| {
            let why = bridge.reason.as_ref().map(|why| format!(": {why}"));
            let how = match bridge.state {
                PortState::Failed => "waits for bridge".to_owned(),
                other => format!("{} with bridge", state(other)),
            };
            clean(&format!(
                "{}: {how} {} (port {}){}\n",
                n.name,
                bridge.name.text,
                bridge.port,
                why.unwrap_or_default()
            ))
        })
    });
    let away: String = away.chain(bridges).collect();
    let lines = table(
        &[
            "NAME",
            "VNI",
            "SUBNETS",
            "MTU",
            "PORTS",
            "ENDPOINTS",
            "NODES",
            "PLUGINS",
        ],
        rows,
        empty,
    );
    lines + &away
}

pub(super) fn vteps(vteps: &[VtepRow]) -> String {
    let rows = vteps.iter().map(|v| {
        vec![
            v.network.clone(),
            v.ip.to_string(),
            list(&v.macs),
            v.port.to_string(),
            v.vni.to_string(),
            v.remote.map_or_else(|| "-".to_owned(), |r| r.to_string()),
            match &v.trouble {
                None => "reached".to_owned(),
                Some(_) => "not reached".to_owned(),
            },
        ]
    });
    let mut out = table(
        &[
            "NETWORK",
            "VTEP",
            "MACS",
            "PORT",
            "VNI",
            "ITS REMOTE",
            "STATE",
        ],
        rows,
        "no foreign VTEPs were declared on this node",
    );
    for v in vteps {
        if let Some(trouble) = &v.trouble {
            let _ = writeln!(
                out,
                "! {} on {}: {}",
                v.ip,
                clean(&v.network),
                clean(trouble)
            );
        }
    }
    out
}

pub(super) fn groups(networks: &[Listeners]) -> String {
    let rows = networks.iter().flat_map(|n| {
        n.groups.iter().map(move |row| {
            vec![
                n.network.clone(),
                row.group.to_string(),
                list(&row.ports),
                nodes(&row.nodes),
            ]
        })
    });
    let lines = table(
        &["NETWORK", "GROUP", "PORTS", "NODES"],
        rows,
        "nobody listens to a group that is not for all",
    );
    let notes = networks.iter().filter_map(|n| {
        let name = &n.network;
        match (n.snooping, n.all.is_empty()) {
            (false, _) => Some(format!("{name}: all multicast goes to all\n")),
            (true, false) => Some(format!("{name}: all goes to ports {}\n", list(&n.all))),
            (true, true) => None,
        }
    });
    let notes: String = notes.map(|note| clean(&note)).collect();
    lines + &notes
}

pub(super) fn network_added(network: &Network) -> String {
    clean(&format!(
        "network {} (VNI {}) is there: subnets {}, MTU {}, names NAME.{}\n",
        network.name,
        network.vni,
        list(&network.subnets),
        network.mtu,
        network.domain
    ))
}

fn place(port: &Port) -> String {
    let (netns, ifname) = (&port.netns, &port.ifname);
    if let Some(uplink) = port.kind.uplink() {
        let vlan = uplink.vlan.map(|vlan| format!(" vlan {vlan}"));
        let word = port.kind.word();
        return format!("{word} {}{}", ifname.text, vlan.unwrap_or_default());
    }
    let short = netns
        .text
        .strip_prefix("/run/netns/")
        .unwrap_or(&netns.text);
    match port.kind {
        PortKind::Veth => format!("{short}:{}", ifname.text),
        _ => format!("{short}:{} ({})", ifname.text, port.kind.word()),
    }
}

/// One word.
pub(super) fn state(state: PortState) -> &'static str {
    match state {
        PortState::Wiring => "wiring",
        PortState::Ready => "ready",
        PortState::Blocked => "blocked",
        PortState::Failed => "failed",
        PortState::Leaving => "leaving",
    }
}

/// Of an uplink, how many are behind it.
fn mac(port: &Port) -> String {
    match port.kind {
        PortKind::Uplink(_) | PortKind::Bridge(_) => format!("{} learned", port.learned),
        _ => port.mac.to_string(),
    }
}

pub(super) fn ports(ports: &[Port]) -> String {
    // Most have none, and where engines have some, they are long.
    let owned = ports.iter().any(|port| port.owner.is_some());
    let rows = ports.iter().map(|p| {
        let state = state(p.state);
        let state = p
            .reason
            .as_ref()
            .map_or_else(|| state.to_owned(), |why| format!("{state}: {why}"));
        let ips: Vec<_> = p.ips.iter().map(ipnet::IpNet::addr).collect();
        let mut row = vec![
            p.id.to_string(),
            p.network.clone(),
            or_dash(p.name.as_ref()),
            list(&ips),
            mac(p),
            place(p),
            state,
        ];
        if owned {
            row.push(or_dash(p.owner.as_ref()));
        }
        row
    });
    let empty = "no ports; `meshd attach NETWORK --netns NAME` makes one";
    let mut heads = vec![
        "PORT",
        "NETWORK",
        "NAME",
        "ADDRESSES",
        "MAC",
        "WHERE",
        "STATE",
    ];
    if owned {
        heads.push("OWNER");
    }
    table(&heads, rows, empty)
}

pub(super) fn attached(port: &Port) -> String {
    let mut lines = vec![
        ("port", port.id.to_string()),
        ("network", format!("{} (VNI {})", port.network, port.vni)),
        ("where", place(port)),
        ("MAC", mac(port)),
        ("addresses", list(&port.ips)),
    ];
    if port.state == PortState::Failed {
        let why = port.reason.clone().unwrap_or_default();
        lines.push(("waits", why));
    }
    if let Some(device) = &port.device {
        lines.push(("device", device.text.clone()));
    }
    if !port.devices.is_empty() {
        lines.push(("on this host", port.devices.join(", ")));
    }
    if port.queues.len() > 1 {
        let frames: Vec<String> = port.queues.iter().map(u64::to_string).collect();
        lines.push(("frames by queue", frames.join(", ")));
    }
    if let Some(name) = &port.domain_name {
        lines.push(("name", name.clone()));
    }
    if let Some(owner) = &port.owner {
        lines.push(("owner", owner.to_string()));
    }
    facts(&lines)
}

pub(super) fn fdb(entries: &[FdbEntry]) -> String {
    let rows = entries.iter().map(|e| {
        let kind = match e.kind {
            FdbKind::Port => "port",
            FdbKind::Learned => "learned",
            FdbKind::Remote => "remote",
            FdbKind::Service => "service",
        };
        let place = e
            .port
            .map_or_else(|| e.node.show(), |port| format!("port {port}"));
        let idle = e.idle_s.map_or_else(|| "-".to_owned(), span);
        vec![
            e.network.clone(),
            e.mac.to_string(),
            place,
            kind.to_owned(),
            list(&e.ips),
            or_dash(e.name.as_ref()),
            idle,
        ]
    });
    table(
        &[
            "NETWORK",
            "MAC",
            "BEHIND",
            "KNOWN",
            "ADDRESSES",
            "NAME",
            "IDLE",
        ],
        rows,
        "no MACs are known",
    )
}

pub(super) fn flows(flows: &[Flow]) -> String {
    let rows = flows.iter().map(|f| {
        let lives = match f.lives {
            FlowTier::Kernel => "kernel",
            FlowTier::Datapath => "datapath",
            FlowTier::Slow => "slow",
        };
        vec![
            f.network.clone(),
            f.origin.clone(),
            f.flow.clone(),
            f.action.clone(),
            lives.to_owned(),
            f.frames.to_string(),
            amount(f.bytes),
            f.why.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    });
    table(
        &[
            "NETWORK",
            "FROM",
            "FLOW",
            "ACTION",
            "LIVES",
            "FRAMES",
            "BYTES",
            "NOT IN KERNEL",
        ],
        rows,
        "no flows: no frame was ruled on lately",
    )
}

pub(super) fn connections(all: &[Connection]) -> String {
    let rows = all.iter().map(|c| {
        let end = |ip: IpAddr, port: u16| match c.proto.as_str() {
            "tcp" | "udp" | "sctp" => SocketAddr::new(ip, port).to_string(),
            _ => ip.to_string(),
        };
        let state = if c.stale {
            format!("{}, to be decided anew", c.state)
        } else {
            c.state.to_string()
        };
        vec![
            c.network.clone(),
            c.opened_by.clone(),
            format!(
                "{} {} > {}",
                c.proto,
                end(c.src, c.src_port),
                end(c.dst, c.dst_port)
            ),
            state,
            c.mark.to_string(),
            span(c.age_s),
            span(c.idle_s),
            c.why.clone(),
        ]
    });
    table(
        &[
            "NETWORK",
            "OPENED BY",
            "CONNECTION",
            "STATE",
            "MARK",
            "AGE",
            "IDLE",
            "DECIDED BY",
        ],
        rows,
        "no connections: no plugin looks at them, or none was opened",
    )
}

pub(super) fn event(event: &Event) -> String {
    clean(&format!(
        "{}  {:>4}  {}",
        time(event.at_ms),
        event.seq,
        event.text.replace('\n', " ")
    ))
}

pub(super) fn events(events: &[Event]) -> String {
    if events.is_empty() {
        return "no such event is remembered\n".to_owned();
    }
    events.iter().fold(String::new(), |mut out, one| {
        let _ = writeln!(out, "{}", event(one));
        out
    })
}

/// The word for the algorithm and twelve digits.
fn signer_short(signer: &str) -> String {
    signer.chars().take(20).collect()
}

pub(super) fn plugins(plugins: &[Plugin]) -> String {
    let rows = plugins.iter().flat_map(|plugin| {
        let digest = plugin.digest.get(..12).unwrap_or(&plugin.digest).to_owned();
        let trouble = plugin.trouble.clone();
        let signed = match plugin.signers.as_slice() {
            [] => "nobody".to_owned(),
            [signer] => signer_short(signer),
            [signer, more @ ..] => format!("{} and {} more", signer_short(signer), more.len()),
        };
        let about = plugin.manifest.as_ref();
        let about = about.map_or_else(
            || "-".to_owned(),
            |about| format!("{} {}", about.name, about.version),
        );
        let idle = vec![vec![
            plugin.name.to_string(),
            about.clone(),
            digest.clone(),
            signed.clone(),
            "-".to_owned(),
            "-".to_owned(),
            "-".to_owned(),
            "-".to_owned(),
            "-".to_owned(),
            "-".to_owned(),
            trouble.unwrap_or_else(|| "not attached".to_owned()),
        ]];
        let attached: Vec<Vec<String>> = plugin
            .attachments
            .iter()
            .map(|at| {
                let quarantine = at.quarantine.as_ref();
                let quarantine = quarantine.map(|reason| format!("quarantined: {reason}"));
                let shadow = at.shadow.as_ref().map(|shadow| {
                    let digest = shadow.digest.get(..12).unwrap_or(&shadow.digest);
                    let (differ, compared) = (shadow.differ, shadow.compared);
                    format!("; {digest} beside it, {differ} of {compared} differ")
                });
                let trouble = at.trouble.clone().or(quarantine).or_else(|| {
                    at.last_fault
                        .as_ref()
                        .map(|fault| format!("last fault: {fault}"))
                });
                vec![
                    plugin.name.to_string(),
                    about.clone(),
                    digest.clone(),
                    signed.clone(),
                    at.network.clone(),
                    at.stage.clone(),
                    at.fail.clone(),
                    at.asked.to_string(),
                    at.dropped.to_string(),
                    at.failed.to_string(),
                    format!(
                        "{}{}",
                        trouble.unwrap_or_else(|| "ok".to_owned()),
                        shadow.unwrap_or_default()
                    ),
                ]
            })
            .collect();
        if attached.is_empty() { idle } else { attached }
    });
    let empty = "no plugins; `meshd plugin install NAME FILE` installs one";
    table(
        &[
            "PLUGIN",
            "IS",
            "DIGEST",
            "SIGNED BY",
            "NETWORK",
            "STAGE",
            "FAIL",
            "ASKED",
            "REFUSED",
            "FAILED",
            "STATE",
        ],
        rows,
        empty,
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use meshd_core::ident::{MacAddr, NodeId};
    use meshd_core::notice::Notice;
    use meshd_core::view::ByteText;

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(951_827_696_000), "2000-02-29T12:34:56Z");
        assert_eq!(time(1_798_761_599_999), "2026-12-31T23:59:59Z");
        assert_eq!(time(4_107_542_400_000), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn spans_and_amounts_are_short() {
        assert_eq!(
            (span(59), span(61), span(90_061)),
            ("59 s".to_owned(), "1 min".to_owned(), "1 d 1 h".to_owned())
        );
        assert_eq!(
            (amount(9999), amount(5 << 30), amount(u64::MAX)),
            (
                "9999 B".to_owned(),
                "5120 MiB".to_owned(),
                "16777215 TiB".to_owned()
            )
        );
        assert_eq!(
            (micros(Some(1234)), micros(None)),
            ("1.2 ms".to_owned(), "-".to_owned())
        );
    }

    #[test]
    fn a_peer_cannot_write_to_the_terminal() {
        let notice = Notice::PeerDown {
            node: NodeId([1; 32]),
            name: "x".into(),
            reason: "a\x1b[2Jb\u{202e}c\nd".into(),
        };
        let line = event(&Event::of(1, 0, notice));
        assert!(
            line.chars().all(|c| !c.is_control() && c != '\u{202e}'),
            "{line:?}"
        );
    }

    #[test]
    fn ports_are_one_line_each_within_100_columns() {
        let port = Port {
            ifname: ByteText::of(b"eth\xff"),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            ips: vec!["10.0.0.2/24".parse().unwrap()],
            ..crate::api::tests::web()
        };
        let text = ports(std::slice::from_ref(&port));
        assert_eq!(
            text,
            "PORT  NETWORK  NAME  ADDRESSES  MAC                WHERE        STATE\n\
             3     demo     web   10.0.0.2   02:00:00:00:00:01  web:eth\\xff  ready\n"
        );
        assert_eq!(
            ports(&[]),
            "no ports; `meshd attach NETWORK --netns NAME` makes one\n"
        );
        let value = serde_json::to_value(&port).unwrap();
        assert_eq!(
            value["ifname"],
            serde_json::json!({"text": "eth\\xff", "hex": "657468ff"})
        );
        assert_eq!(value["mac"], "02:00:00:00:00:01");
    }
}
