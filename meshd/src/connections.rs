//! `meshd connections`: the tables of tracked networks, as plain data.

use crate::views::{network_name, show_origin};
use meshd_core::conntrack::{Row, Zones};
use meshd_core::ident::{Moment, Now, Vni};
use meshd_core::node::Node;
use meshd_core::view::Connection;
use std::net::{IpAddr, Ipv6Addr};

/// Connections that are shown of one network.
const SHOWN_MAX: usize = 4096;

/// What the tables have.
pub(crate) fn read(zones: &Zones, now: Moment) -> Vec<(Vni, Row)> {
    let of = |(vni, zone): (&Vni, _)| {
        let zone: &std::sync::Arc<meshd_core::conntrack::Zone> = zone;
        let vni = *vni;
        let rows = zone.rows(SHOWN_MAX, now);
        rows.into_iter().map(move |row| (vni, row))
    };
    zones.iter().flat_map(of).collect()
}

/// The same with names.
pub(crate) fn show(node: &Node, rows: &[(Vni, Row)], now: Now) -> Vec<Connection> {
    let shown = rows.iter().map(|(vni, row)| Connection {
        network: network_name(node, *vni),
        vni: *vni,
        opened_by: show_origin(node, row.opener.origin),
        proto: match row.tuple.proto {
            1 | 58 => "icmp".to_owned(),
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            132 => "sctp".to_owned(),
            other => other.to_string(),
        },
        src: address(row.tuple.src_ip),
        src_port: row.tuple.src_port,
        dst: address(row.tuple.dst_ip),
        dst_port: row.tuple.dst_port,
        state: row.state,
        replied: row.replied,
        stale: row.stale,
        mark: row.mark,
        age_s: now.moment.ms_since(row.since) / 1000,
        idle_s: row.idle_ms / 1000,
        left_s: row.left_ms / 1000,
        why: row.why.clone(),
    });
    shown.collect()
}

fn address(bits: u128) -> IpAddr {
    Ipv6Addr::from_bits(bits).to_canonical()
}
