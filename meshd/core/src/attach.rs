//! What a new port may be: the wishes of an [`AttachSpec`] against the network's rules, the other ports of the node and what
//! the directory knows.
//!
//! Owns the rules and their messages, as functions without effect. Refuses to make anything: `ports.rs` does.

use crate::claims::Claim;
use crate::code::ErrorCode;
use crate::command::{AttachSpec, IpSpec, NetnsRef, PortRecord, Refusal};
use crate::directory::Directory;
use crate::ident::{Label, MacAddr, NodeId, Vni, escape};
use crate::kind;
use crate::ranges::{leasable, number, service_address};
use crate::wire::record::{IPS_MAX, LABEL_BYTES_MAX, LABELS_MAX, NetworkDef};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Longest path of a namespace, in bytes, as the kernel takes it (`PATH_MAX` with its NUL).
const PATH_MAX: usize = 4095;

/// Least MTU of an interface, in bytes: what every IPv4 host takes (RFC 791 §3.1).
const MTU_MIN: u16 = 576;
/// Most routes of one port.
pub const ROUTES_MAX: usize = 32;
/// The label of an endpoint whose addresses and name several nodes may have, each for the same service: `true`.
pub const SHARED_LABEL: &str = "meshd.shared";

/// What a port may clash with, as the directory shows it.
pub trait Surroundings {
    /// The network of this name or VNI.
    fn network(&self, text: &str) -> Option<&NetworkDef>;
    /// The network with this VNI.
    fn network_by_vni(&self, vni: Vni) -> Option<&NetworkDef>;
    /// All names of networks, for messages.
    fn network_names(&self) -> Vec<String>;
    /// Who has this MAC.
    fn mac_holder(&self, vni: Vni, mac: MacAddr) -> Option<NodeId>;
    /// Who has this address.
    fn ip_holder(&self, vni: Vni, ip: IpAddr) -> Option<NodeId>;
    /// Who has this name.
    fn name_holder(&self, vni: Vni, name: &Label) -> Option<NodeId>;
    /// May this be had by several nodes, as all say that have it?
    fn is_shared(&self, vni: Vni, claim: &Claim) -> bool;
    /// A member's name, for messages.
    fn show_node(&self, node: NodeId) -> String;
}

impl Surroundings for Directory {
    fn network(&self, text: &str) -> Option<&NetworkDef> {
        Directory::network(self, text)
    }
    fn network_by_vni(&self, vni: Vni) -> Option<&NetworkDef> {
        Directory::network_by_vni(self, vni)
    }
    fn network_names(&self) -> Vec<String> {
        self.networks().map(|def| def.name.to_string()).collect()
    }
    fn mac_holder(&self, vni: Vni, mac: MacAddr) -> Option<NodeId> {
        self.mac(vni, mac).map(|(node, _)| node)
    }
    fn ip_holder(&self, vni: Vni, ip: IpAddr) -> Option<NodeId> {
        self.ip(vni, ip).map(|(node, _)| node)
    }
    fn name_holder(&self, vni: Vni, name: &Label) -> Option<NodeId> {
        self.name(vni, name).map(|(node, _)| node)
    }
    fn is_shared(&self, vni: Vni, claim: &Claim) -> bool {
        Directory::is_shared(self, vni, claim)
    }
    fn show_node(&self, node: NodeId) -> String {
        crate::command::show_member(self.member(node).map(|m| &m.name), node)
    }
}

/// `02:6d:64` and the VNI: the MAC of every node's own presence on a network.
#[must_use]
pub fn service_mac(vni: Vni) -> MacAddr {
    let [_, a, b, c] = vni.get().to_be_bytes();
    MacAddr([0x02, 0x6d, 0x64, a, b, c])
}

/// A refusal, short.
pub(crate) fn refusal(code: ErrorCode, message: impl Into<String>) -> Refusal {
    Refusal {
        code,
        message: message.into(),
    }
}

/// True if the record is what `spec` asks for, as far as `spec` says; else what differs.
pub(crate) fn same_wish(record: &PortRecord, spec: &AttachSpec) -> Result<(), &'static str> {
    let same_ips = match &spec.ip {
        IpSpec::Auto => true,
        IpSpec::None => record.ips.is_empty(),
        IpSpec::Fixed(ips) => {
            ips.iter().all(|ip| record.ips.contains(ip)) && record.ips.len() == ips.len()
        }
    };
    if record.kind != spec.kind {
        Err("kind or options")
    } else if !same_ips {
        Err("addresses")
    } else if spec.mac.is_some_and(|mac| mac != record.mac) {
        Err("MAC address")
    } else if spec.name.is_some() && spec.name != record.name {
        Err("name")
    } else if !spec.labels.is_empty() && spec.labels != record.labels {
        Err("labels")
    } else if spec.mtu.is_some() && spec.mtu != record.mtu {
        Err("MTU")
    } else if !spec.routes.is_empty() && spec.routes != record.routes {
        Err("routes")
    } else if spec.vrf.is_some() && spec.vrf != record.vrf {
        Err("VRF")
    } else if spec.owner.is_some() && spec.owner != record.owner {
        Err("owner")
    } else {
        Ok(())
    }
}

/// Checks all that does not need an address to be leased. `ports`: this node's ports, of all networks. Claims that the
/// directory ascribes to `me` are left out: what this node has is in `ports`.
///
/// # Errors
/// What is wrong, where, and what to do.
pub(crate) fn check<'a>(
    spec: &AttachSpec,
    net: &NetworkDef,
    ports: impl Iterator<Item = &'a PortRecord> + Clone,
    around: &dyn Surroundings,
    me: NodeId,
) -> Result<(), Refusal> {
    check_netns(&spec.netns)?;
    check_labels(&spec.labels)?;
    check_mtu(spec, net)?;
    check_routes(spec, net)?;
    kind::check(spec)?;
    let here = ports.filter(|record| record.vni == net.vni);
    let elsewhere = |holder: Option<NodeId>| {
        holder
            .filter(|&node| node != me)
            .map(|node| around.show_node(node))
    };
    let shares = spec
        .labels
        .get(SHARED_LABEL)
        .is_some_and(|value| value == "true");
    let may_share = |claim: Claim| shares && around.is_shared(net.vni, &claim);
    if let Some(mac) = spec.mac {
        if !mac.is_source() {
            return Err(refusal(
                ErrorCode::MacInvalid,
                format!("MAC {mac} is no address of a station; use one such as 02:00:00:00:00:01"),
            ));
        }
        if mac == service_mac(net.vni) {
            return Err(refusal(
                ErrorCode::MacInvalid,
                format!(
                    "MAC {mac} is that of meshd's own service on network {}; use another",
                    net.name
                ),
            ));
        }
        if let Some(record) = here.clone().find(|record| record.mac == mac) {
            return Err(refusal(
                ErrorCode::MacTaken,
                format!(
                    "MAC {mac} belongs to port {} of network {} on this node",
                    record.id, net.name
                ),
            ));
        }
        if let Some(holder) = elsewhere(around.mac_holder(net.vni, mac)) {
            return Err(refusal(
                ErrorCode::MacTaken,
                format!(
                    "MAC {mac} is used on network {} by node {holder}; use another or leave out --mac",
                    net.name
                ),
            ));
        }
    }
    if let Some(name) = &spec.name {
        if name.is_number() {
            return Err(refusal(
                ErrorCode::NameInvalid,
                format!(
                    "name {name}: a name of digits alone could be taken for a port's number; put a letter in it"
                ),
            ));
        }
        if let Some(record) = here
            .clone()
            .find(|record| record.name.as_ref() == Some(name))
        {
            return Err(refusal(
                ErrorCode::NameTaken,
                format!(
                    "name {name} belongs to port {} of network {} on this node; choose another",
                    record.id, net.name
                ),
            ));
        }
        let holder = elsewhere(around.name_holder(net.vni, name));
        if let Some(holder) = holder.filter(|_| !may_share(Claim::Name(name.clone()))) {
            return Err(refusal(
                ErrorCode::NameTaken,
                format!(
                    "name {name} is used on network {} by node {holder}; choose another",
                    net.name
                ),
            ));
        }
    }
    let IpSpec::Fixed(ips) = &spec.ip else {
        return Ok(());
    };
    if ips.len() > IPS_MAX {
        return Err(refusal(
            ErrorCode::AddressInvalid,
            format!(
                "{} addresses for one port; at most {IPS_MAX} are possible",
                ips.len()
            ),
        ));
    }
    for (at, ip) in ips.iter().enumerate() {
        check_ip(ip, net)?;
        if let Some(route) = spec
            .routes
            .iter()
            .find(|route| route.via == Some(ip.addr()))
        {
            return Err(refusal(
                ErrorCode::RouteInvalid,
                format!(
                    "route {route}: the router's address is the port's own; name another router, or give the port another address"
                ),
            ));
        }
        if ips.iter().take(at).any(|other| other.addr() == ip.addr()) {
            return Err(refusal(
                ErrorCode::AddressInvalid,
                format!("address {ip} is given twice"),
            ));
        }
        if let Some(record) = here
            .clone()
            .find(|record| record.ips.iter().any(|known| known.addr() == ip.addr()))
        {
            return Err(refusal(
                ErrorCode::AddressTaken,
                format!(
                    "address {ip} belongs to port {} of network {} on this node",
                    record.id, net.name
                ),
            ));
        }
        let holder = elsewhere(around.ip_holder(net.vni, ip.addr()));
        if let Some(holder) = holder.filter(|_| !may_share(Claim::Ip(ip.addr()))) {
            return Err(refusal(
                ErrorCode::AddressTaken,
                format!(
                    "address {ip} is used on network {} by node {holder}; use another or --ip auto",
                    net.name
                ),
            ));
        }
    }
    Ok(())
}

fn check_netns(netns: &NetnsRef) -> Result<(), Refusal> {
    if *netns == NetnsRef::Handed {
        return Ok(());
    }
    let path = netns.path();
    let why = if path.first() != Some(&b'/') {
        "is no absolute path"
    } else if path.contains(&0) {
        "has a NUL byte in it"
    } else if path.len() > PATH_MAX {
        "is longer than 4095 bytes"
    } else {
        return Ok(());
    };
    let shown = escape(path.get(..64).unwrap_or(path));
    Err(refusal(
        ErrorCode::NetnsInvalid,
        format!(
            "the path \"{shown}\" of a network namespace {why}; use one such as /run/netns/NAME or /proc/PID/ns/net"
        ),
    ))
}

/// Checks the labels of a port: how many, how long, and that they are text.
///
/// # Errors
/// Which one is wrong, and why.
pub fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if labels.len() > LABELS_MAX {
        return Err(refusal(
            ErrorCode::LabelInvalid,
            format!(
                "{} labels for one port; at most {LABELS_MAX} are possible",
                labels.len()
            ),
        ));
    }
    for (key, value) in labels {
        let shown = escape(key.as_bytes().get(..32).unwrap_or(key.as_bytes()));
        if key.is_empty() {
            return Err(refusal(
                ErrorCode::LabelInvalid,
                "a label has an empty key; give it as key=value".to_owned(),
            ));
        }
        if key.len() + value.len() > LABEL_BYTES_MAX {
            let len = key.len() + value.len();
            return Err(refusal(
                ErrorCode::LabelInvalid,
                format!(
                    "label \"{shown}\" has {len} bytes with its value; at most {LABEL_BYTES_MAX} are possible"
                ),
            ));
        }
        if key.chars().chain(value.chars()).any(char::is_control) {
            return Err(refusal(
                ErrorCode::LabelInvalid,
                format!("label \"{shown}\" holds a control character; leave it out"),
            ));
        }
    }
    Ok(())
}

fn check_mtu(spec: &AttachSpec, net: &NetworkDef) -> Result<(), Refusal> {
    match spec.mtu {
        Some(mtu) if !(MTU_MIN..=net.mtu).contains(&mtu) => Err(refusal(
            ErrorCode::MtuInvalid,
            format!(
                "an MTU of {mtu} bytes: on network {} it may be {MTU_MIN} to {}",
                net.name, net.mtu
            ),
        )),
        _ => Ok(()),
    }
}

/// A router must be within reach when its route is set, or the kernel refuses it.
fn check_routes(spec: &AttachSpec, net: &NetworkDef) -> Result<(), Refusal> {
    if spec.routes.len() > ROUTES_MAX {
        return Err(refusal(
            ErrorCode::RouteInvalid,
            format!(
                "{} routes for one port; at most {ROUTES_MAX} are possible",
                spec.routes.len()
            ),
        ));
    }
    for (at, route) in spec.routes.iter().enumerate() {
        if route.to.addr() != route.to.network() {
            return Err(refusal(
                ErrorCode::RouteInvalid,
                format!(
                    "route {route} has bits set behind its prefix; use {}",
                    route.to.trunc()
                ),
            ));
        }
        if let Some(earlier) = spec.routes.iter().take(at).find(|r| r.to == route.to) {
            return Err(refusal(
                ErrorCode::RouteInvalid,
                format!(
                    "routes {earlier} and {route} lead to the same destination, and an interface has one of them; leave one out"
                ),
            ));
        }
        let Some(via) = route.via else { continue };
        if via.is_ipv4() != route.to.addr().is_ipv4() {
            return Err(refusal(
                ErrorCode::RouteInvalid,
                format!("route {route} leads to one address family by a router of the other"),
            ));
        }
        let earlier = spec.routes.iter().take(at);
        let near = net.subnets.iter().chain(
            earlier
                .filter(|route| route.via.is_none())
                .map(|route| &route.to),
        );
        if !near.into_iter().any(|subnet| subnet.contains(&via)) {
            return Err(refusal(
                ErrorCode::RouteInvalid,
                format!(
                    "route {route}: the router is in no subnet of network {}; use one that is, or put a route to it before",
                    net.name
                ),
            ));
        }
        if net
            .subnets
            .iter()
            .any(|subnet| service_address(subnet) == Some(via))
        {
            return Err(refusal(
                ErrorCode::RouteInvalid,
                format!(
                    "route {route}: {via} is meshd's own service on network {}, which answers names and routes nothing; name a router",
                    net.name
                ),
            ));
        }
        if let Some(subnet) = net.subnets.iter().find(|subnet| is_edge(subnet, via)) {
            return Err(refusal(
                ErrorCode::RouteInvalid,
                format!(
                    "route {route}: {via} is the network or broadcast address of {subnet}, which no router has; name a router"
                ),
            ));
        }
    }
    Ok(())
}

/// The address of a subnet itself, or its broadcast address.
fn is_edge(subnet: &IpNet, ip: IpAddr) -> bool {
    ip == subnet.network() || (ip.is_ipv4() && ip == subnet.broadcast())
}

/// May a port have this address on the network?
///
/// # Errors
/// Why not.
pub(crate) fn check_ip(ip: &IpNet, net: &NetworkDef) -> Result<(), Refusal> {
    let Some(subnet) = net
        .subnets
        .iter()
        .find(|subnet| subnet.contains(&ip.addr()))
    else {
        let subnets: Vec<String> = net.subnets.iter().map(ToString::to_string).collect();
        return Err(refusal(
            ErrorCode::AddressOutside,
            match subnets.is_empty() {
                true => format!(
                    "address {ip}: network {} has no subnets; use --ip none, or define a network with --subnet",
                    net.name
                ),
                false => format!(
                    "address {ip} is in no subnet of network {} ({})",
                    net.name,
                    subnets.join(", ")
                ),
            },
        ));
    };
    if ip.prefix_len() != subnet.prefix_len() {
        return Err(refusal(
            ErrorCode::AddressInvalid,
            format!(
                "address {ip} has another prefix length than its subnet; use {}/{}",
                ip.addr(),
                subnet.prefix_len()
            ),
        ));
    }
    if Some(ip.addr()) == service_address(subnet) {
        return Err(refusal(
            ErrorCode::AddressInvalid,
            format!(
                "address {ip} is that of meshd's own service on network {}; use another",
                net.name
            ),
        ));
    }
    match leasable(subnet) {
        Some((first, last)) if (first..=last).contains(&number(ip.addr())) => Ok(()),
        _ => Err(refusal(
            ErrorCode::AddressInvalid,
            format!("address {ip} is the network or broadcast address of {subnet}; use another"),
        )),
    }
}
