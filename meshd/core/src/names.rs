//! Names: who is called what on which network, as answers for a name server.
//!
//! ```text
//!   web.blue.home.internal      -> addresses of the endpoint `web` of network `blue`
//!   meshd.blue.home.internal    -> the node's own service on it
//!   2.0.0.10.in-addr.arpa       -> web.blue.home.internal, asked on `blue` only
//!   dns.home.internal           -> addresses of the hosts' own devices at which the service `dns` answers, asked on any network
//! ```
//!
//! Owns an immutable picture of the directory's names; a change makes a new one, swapped in as a whole. Refuses to tell one
//! network's names to another: for whoever asks there, they do not exist. Knows nothing of DNS messages.

use crate::ident::{Label, Vni};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Seconds that an answer may be kept.
pub const TTL_S: u32 = 5;

/// The service's own name on each network, unless an endpoint took it.
pub const SERVICE_NAME: &str = "meshd";

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NameKind {
    /// IPv4 addresses.
    V4,
    /// IPv6 addresses.
    V6,
    /// The name of an address.
    Reverse,
    /// Anything else, of which there is none.
    Other,
}

/// What is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameAnswer {
    /// At least one, in ascending order.
    Addresses(Vec<IpAddr>),
    /// The full name, lower case, without a dot at the end.
    Name(String),
    /// The name exists, but not with this kind of data.
    NoData,
    /// It is in our zones, and does not exist for the one who asks.
    NoSuchName,
    /// It is not in our zones: somebody else may know.
    NotOurs,
}

/// All names of all networks at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Lower case, no dot at the end.
    domain: String,
    networks: BTreeMap<Vni, Zone>,
    /// Services of the hosts, in the mesh's own zone.
    services: Table,
}

/// Labels and their addresses, both ways.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Table {
    forward: BTreeMap<String, Vec<IpAddr>>,
    /// Address to the name's first label.
    reverse: BTreeMap<IpAddr, String>,
}

impl Table {
    fn add(&mut self, name: &str, ips: &[IpAddr]) {
        let known = self.forward.entry(name.to_owned()).or_default();
        for &ip in ips {
            if let Err(at) = known.binary_search(&ip) {
                known.insert(at, ip);
            }
            self.reverse.entry(ip).or_insert_with(|| name.to_owned());
        }
    }
}

/// One network's names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Zone {
    /// `<network>.<domain>`.
    origin: String,
    subnets: Vec<IpNet>,
    names: Table,
}

impl Names {
    /// The picture of what the iterators tell. Endpoints of unknown networks and without a name are left out; of two
    /// endpoints with one name on one network the addresses are joined (the directory lets only one through).
    #[must_use]
    pub fn build<'a>(
        domain: &str,
        networks: impl IntoIterator<Item = (Vni, &'a Label, &'a [IpNet])>,
        endpoints: impl IntoIterator<Item = (Vni, &'a Label, &'a [IpAddr])>,
    ) -> Self {
        let domain = domain.trim_matches('.').to_ascii_lowercase();
        let mut zones = BTreeMap::new();
        for (vni, name, subnets) in networks {
            let origin = if domain.is_empty() {
                name.to_string()
            } else {
                format!("{name}.{domain}")
            };
            let zone = Zone {
                origin,
                subnets: subnets.to_vec(),
                names: Table::default(),
            };
            zones.insert(vni, zone);
        }
        for (vni, name, ips) in endpoints {
            let Some(zone) = zones.get_mut(&vni) else {
                continue;
            };
            zone.names.add(name.as_str(), ips);
        }
        for zone in zones.values_mut() {
            let ips: Vec<IpAddr> = zone
                .subnets
                .iter()
                .filter_map(crate::ranges::service_address)
                .collect();
            if !zone.names.forward.contains_key(SERVICE_NAME) && !ips.is_empty() {
                zone.names.add(SERVICE_NAME, &ips);
            }
        }
        Self {
            domain,
            networks: zones,
            services: Table::default(),
        }
    }

    /// And the services of the hosts: of several with one name the addresses are joined. A network's name is never a service's.
    #[must_use]
    pub fn with_services<'a>(
        mut self,
        services: impl IntoIterator<Item = (&'a Label, &'a [IpAddr])>,
    ) -> Self {
        let taken: BTreeSet<&str> = self.networks.values().map(|z| z.origin.as_str()).collect();
        let mut table = Table::default();
        for (name, ips) in services {
            if !taken.contains(self.below(name.as_str()).as_str()) {
                table.add(name.as_str(), ips);
            }
        }
        self.services = table;
        self
    }

    fn below(&self, label: &str) -> String {
        match self.domain.as_str() {
            "" => label.to_owned(),
            domain => format!("{label}.{domain}"),
        }
    }

    /// The domain of the mesh, lower case, without a dot at the end.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// `<network>.<domain>` of a network that is known.
    #[must_use]
    pub fn origin(&self, vni: Vni) -> Option<&str> {
        self.networks.get(&vni).map(|zone| zone.origin.as_str())
    }

    /// What somebody on network `vni` is told about `fqdn`, in lower case, without a dot at the end. Text that is no name
    /// is a name that does not exist.
    #[must_use]
    pub fn lookup(&self, vni: Vni, fqdn: &str, kind: NameKind) -> NameAnswer {
        if let Some(ip) = address_of(fqdn) {
            return self.lookup_reverse(vni, ip, kind);
        }
        let Some(zone) = self.networks.get(&vni) else {
            return if within(fqdn, &self.domain).is_some() {
                NameAnswer::NoSuchName
            } else {
                NameAnswer::NotOurs
            };
        };
        if let Some(inner) = within(fqdn, &zone.origin) {
            return match zone.names.forward.get(inner) {
                Some(ips) => of_kind(ips, kind),
                // The zone itself exists; it has no address.
                None if inner.is_empty() => NameAnswer::NoData,
                None => NameAnswer::NoSuchName,
            };
        }
        match within(fqdn, &self.domain) {
            Some("") => NameAnswer::NoData,
            Some(inner) => match self.services.forward.get(inner) {
                Some(ips) => of_kind(ips, kind),
                None => NameAnswer::NoSuchName,
            },
            // There may be names below it, so it exists (RFC 8020).
            None if zone.covers_arpa(fqdn) => NameAnswer::NoData,
            None => NameAnswer::NotOurs,
        }
    }

    /// The apex of the zone of ours that `fqdn` is in, for somebody on network `vni`: the network's, the mesh's, or that of
    /// the reverse names of one of the network's subnets.
    #[must_use]
    pub fn apex(&self, vni: Vni, fqdn: &str) -> Option<String> {
        let zone = self.networks.get(&vni);
        let origin = zone.map(|zone| zone.origin.clone());
        let reverse = zone
            .into_iter()
            .flat_map(|zone| zone.subnets.iter().map(reverse_apex));
        origin
            .into_iter()
            .chain([self.domain.clone()])
            .chain(reverse)
            .find(|apex| within(fqdn, apex).is_some())
    }

    fn lookup_reverse(&self, vni: Vni, ip: IpAddr, kind: NameKind) -> NameAnswer {
        let Some(zone) = self
            .networks
            .get(&vni)
            .filter(|zone| zone.subnets.iter().any(|net| net.contains(&ip)))
        else {
            return match self
                .services
                .reverse
                .get(&ip)
                .filter(|_| self.networks.contains_key(&vni))
            {
                Some(label) if kind == NameKind::Reverse => NameAnswer::Name(self.below(label)),
                Some(_) => NameAnswer::NoData,
                None => NameAnswer::NotOurs,
            };
        };
        match (zone.names.reverse.get(&ip), kind) {
            (None, _) => NameAnswer::NoSuchName,
            (Some(label), NameKind::Reverse) => {
                NameAnswer::Name(format!("{label}.{}", zone.origin))
            }
            (Some(_), _) => NameAnswer::NoData,
        }
    }
}

impl Zone {
    /// True if `fqdn` is a whole-octet (or whole-nibble) part of the reverse tree inside one of our subnets, but no full
    /// address: such names must not go upstream, where private addresses are unknown.
    fn covers_arpa(&self, fqdn: &str) -> bool {
        let v4 = within(fqdn, "in-addr.arpa").map(|inner| (inner, 8, false));
        let v6 = within(fqdn, "ip6.arpa").map(|inner| (inner, 4, true));
        let Some((inner, bits, is_v6)) = v4.or(v6) else {
            return false;
        };
        let (mut number, mut len) = (0u128, 0u32);
        for part in inner.rsplit('.').filter(|p| !p.is_empty()) {
            let Ok(digit) = u128::from_str_radix(part, if is_v6 { 16 } else { 10 }) else {
                return false;
            };
            let width = if is_v6 { 128 } else { 32 };
            if digit >= 1 << bits || len + bits > width {
                return false;
            }
            number |= digit << (width - len - bits);
            len += bits;
        }
        self.subnets.iter().any(|net| match net {
            IpNet::V4(net) => {
                !is_v6
                    && len >= u32::from(net.prefix_len())
                    && u32::try_from(number).is_ok_and(|n| net.contains(&Ipv4Addr::from(n)))
            }
            IpNet::V6(net) => {
                is_v6 && len >= u32::from(net.prefix_len()) && net.contains(&Ipv6Addr::from(number))
            }
        })
    }
}

/// Where the reverse names of a subnet begin: whole octets or nibbles, so perhaps above the subnet.
fn reverse_apex(net: &IpNet) -> String {
    let (labels, tree): (Vec<String>, _) = match net {
        IpNet::V4(net) => {
            let octets = net.network().octets().into_iter();
            let octets = octets.take(usize::from(net.prefix_len() / 8));
            (
                octets.map(|octet| octet.to_string()).collect(),
                "in-addr.arpa",
            )
        }
        IpNet::V6(net) => {
            let octets = net.network().octets().into_iter();
            let nibbles = octets.flat_map(|octet| [octet >> 4, octet & 15]);
            let nibbles = nibbles.take(usize::from(net.prefix_len() / 4));
            (nibbles.map(|n| format!("{n:x}")).collect(), "ip6.arpa")
        }
    };
    let labels = labels.into_iter().rev();
    labels
        .chain([tree.to_owned()])
        .collect::<Vec<_>>()
        .join(".")
}

fn of_kind(ips: &[IpAddr], kind: NameKind) -> NameAnswer {
    let found: Vec<IpAddr> = ips
        .iter()
        .copied()
        .filter(|ip| match kind {
            NameKind::V4 => ip.is_ipv4(),
            NameKind::V6 => ip.is_ipv6(),
            NameKind::Reverse | NameKind::Other => false,
        })
        .collect();
    if found.is_empty() {
        NameAnswer::NoData
    } else {
        NameAnswer::Addresses(found)
    }
}

/// What stands before `.zone` in `fqdn`; empty if they are the same.
fn within<'a>(fqdn: &'a str, zone: &str) -> Option<&'a str> {
    if zone.is_empty() {
        return Some(fqdn);
    }
    let inner = fqdn.strip_suffix(zone)?;
    if inner.is_empty() {
        Some(inner)
    } else {
        inner.strip_suffix('.').filter(|i| !i.is_empty())
    }
}

/// The address that a full reverse name speaks of (RFC 1035 §3.5, RFC 3596 §2.5).
fn address_of(fqdn: &str) -> Option<IpAddr> {
    if let Some(inner) = within(fqdn, "in-addr.arpa") {
        let mut octets = [0u8; 4];
        let mut parts = inner.rsplit('.');
        for octet in &mut octets {
            let part = parts
                .next()
                .filter(|p| (1..=3).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()))?;
            *octet = part.parse().ok()?;
        }
        return parts
            .next()
            .is_none()
            .then(|| Ipv4Addr::from(octets).into());
    }
    let inner = within(fqdn, "ip6.arpa")?;
    let mut number = 0u128;
    let mut count = 0;
    for part in inner.rsplit('.') {
        let digit = part
            .chars()
            .next()
            .filter(|_| part.len() == 1)?
            .to_digit(16)?;
        count += 1;
        if count > 32 {
            return None;
        }
        number = (number << 4) | u128::from(digit);
    }
    (count == 32).then(|| Ipv6Addr::from(number).into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vni(n: u32) -> Vni {
        Vni::new(n).unwrap()
    }

    fn sample() -> Names {
        let (blue, red): (Label, Label) = ("blue".parse().unwrap(), "red".parse().unwrap());
        let (web, db): (Label, Label) = ("web".parse().unwrap(), "db".parse().unwrap());
        let subnets: Vec<IpNet> =
            vec!["10.0.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()];
        let web_ips: Vec<IpAddr> = vec!["fd00::2".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        let db_ips: Vec<IpAddr> = vec!["10.0.0.3".parse().unwrap()];
        Names::build(
            "Home.Internal.",
            [
                (vni(1), &blue, subnets.as_slice()),
                (vni(2), &red, subnets.as_slice()),
            ],
            [
                (vni(1), &web, web_ips.as_slice()),
                (vni(2), &db, db_ips.as_slice()),
                (vni(3), &db, db_ips.as_slice()),
            ],
        )
    }

    #[test]
    fn a_name_has_its_addresses_by_kind_and_no_data_of_other_kinds() {
        let names = sample();
        let ask = |name, kind| names.lookup(vni(1), name, kind);
        assert_eq!(
            ask("web.blue.home.internal", NameKind::V4),
            NameAnswer::Addresses(vec!["10.0.0.2".parse().unwrap()])
        );
        assert_eq!(
            ask("web.blue.home.internal", NameKind::V6),
            NameAnswer::Addresses(vec!["fd00::2".parse().unwrap()])
        );
        assert_eq!(
            ask("web.blue.home.internal", NameKind::Other),
            NameAnswer::NoData
        );
        assert_eq!(
            ask("nope.blue.home.internal", NameKind::V4),
            NameAnswer::NoSuchName
        );
        assert_eq!(
            ask("a.web.blue.home.internal", NameKind::V4),
            NameAnswer::NoSuchName
        );
        assert_eq!(ask("blue.home.internal", NameKind::V4), NameAnswer::NoData);
        assert_eq!(ask("home.internal", NameKind::V4), NameAnswer::NoData);
    }

    #[test]
    fn another_networks_names_do_not_exist() {
        let names = sample();
        assert_eq!(
            names.lookup(vni(1), "db.red.home.internal", NameKind::V4),
            NameAnswer::NoSuchName
        );
        assert_eq!(
            names.lookup(vni(9), "web.blue.home.internal", NameKind::V4),
            NameAnswer::NoSuchName
        );
        // Both networks have the address; each sees its own name only.
        assert_eq!(
            names.lookup(vni(1), "3.0.0.10.in-addr.arpa", NameKind::Reverse),
            NameAnswer::NoSuchName
        );
        assert_eq!(
            names.lookup(vni(2), "3.0.0.10.in-addr.arpa", NameKind::Reverse),
            NameAnswer::Name("db.red.home.internal".into())
        );
    }

    #[test]
    fn a_service_of_several_hosts_is_one_name_for_all_networks_and_no_networks_name() {
        let (dns, blue): (Label, Label) = ("dns".parse().unwrap(), "blue".parse().unwrap());
        let ips = |text: &str| vec![text.parse::<IpAddr>().unwrap()];
        let (first, other, v6) = (ips("10.9.0.53"), ips("10.9.0.54"), ips("fd09::53"));
        let names = sample().with_services([
            (&dns, first.as_slice()),
            (&dns, first.as_slice()),
            (&dns, other.as_slice()),
            (&dns, v6.as_slice()),
            (&blue, other.as_slice()),
        ]);
        let both = NameAnswer::Addresses([first, other].concat());
        for vni in [vni(1), vni(2)] {
            let ask = |name, kind| names.lookup(vni, name, kind);
            assert_eq!(ask("dns.home.internal", NameKind::V4), both);
            let v6 = NameAnswer::Addresses(v6.clone());
            assert_eq!(ask("dns.home.internal", NameKind::V6), v6);
            assert_eq!(
                ask("dns.home.internal", NameKind::Other),
                NameAnswer::NoData
            );
            let below = ask("x.dns.home.internal", NameKind::V4);
            assert_eq!(below, NameAnswer::NoSuchName);
            let blue = ask("blue.home.internal", NameKind::V4);
            assert!(!matches!(blue, NameAnswer::Addresses(_)), "{blue:?}");
            let reverse = ask("53.0.9.10.in-addr.arpa", NameKind::Reverse);
            assert_eq!(reverse, NameAnswer::Name("dns.home.internal".to_owned()));
            let unknown = ask("99.0.9.10.in-addr.arpa", NameKind::Reverse);
            assert_eq!(unknown, NameAnswer::NotOurs);
        }
        // Who is on no network that is known here is told nothing.
        let stranger = names.lookup(vni(9), "dns.home.internal", NameKind::V4);
        assert_eq!(stranger, NameAnswer::NoSuchName);
    }

    #[test]
    fn names_outside_our_zones_are_for_others() {
        let names = sample();
        for name in [
            "example.com",
            "",
            "xhome.internal",
            "4.3.2.1.in-addr.arpa",
            "in-addr.arpa",
            "10.in-addr.arpa",
        ] {
            assert_eq!(
                names.lookup(vni(1), name, NameKind::V4),
                NameAnswer::NotOurs,
                "{name}"
            );
        }
        assert_eq!(
            names.lookup(vni(9), "example.com", NameKind::V4),
            NameAnswer::NotOurs
        );
    }

    #[test]
    fn reverse_names_of_our_subnets_never_leave() {
        let names = sample();
        let v6 = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
        assert_eq!(
            names.lookup(vni(1), v6, NameKind::Reverse),
            NameAnswer::Name("web.blue.home.internal".into())
        );
        assert_eq!(names.lookup(vni(1), v6, NameKind::V4), NameAnswer::NoData);
        assert_eq!(
            names.lookup(vni(1), "9.0.0.10.in-addr.arpa", NameKind::Reverse),
            NameAnswer::NoSuchName
        );
        assert_eq!(
            names.lookup(vni(1), "0.0.10.in-addr.arpa", NameKind::Other),
            NameAnswer::NoData
        );
        assert_eq!(
            names.lookup(
                vni(1),
                "0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
                NameKind::Other
            ),
            NameAnswer::NoData
        );
    }

    #[test]
    fn every_name_of_ours_has_an_apex_above_it() {
        let names = sample();
        for (name, apex) in [
            ("nope.blue.home.internal", "blue.home.internal"),
            ("blue.home.internal", "blue.home.internal"),
            ("db.red.home.internal", "home.internal"),
            ("home.internal", "home.internal"),
            ("9.0.0.10.in-addr.arpa", "0.0.10.in-addr.arpa"),
            (
                "9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
                "0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
            ),
        ] {
            assert_eq!(names.apex(vni(1), name).as_deref(), Some(apex));
        }
        assert_eq!(names.apex(vni(1), "example.com"), None);
        let wide = "10.16.0.0/12".parse().unwrap();
        assert_eq!(reverse_apex(&wide), "10.in-addr.arpa");
    }

    #[test]
    fn the_service_has_a_name_until_an_endpoint_takes_it() {
        let names = sample();
        assert_eq!(
            names.lookup(vni(1), "meshd.blue.home.internal", NameKind::V4),
            NameAnswer::Addresses(vec!["10.0.0.1".parse().unwrap()])
        );
        assert_eq!(
            names.lookup(vni(1), "1.0.0.10.in-addr.arpa", NameKind::Reverse),
            NameAnswer::Name("meshd.blue.home.internal".into())
        );
    }

    proptest! {
        #[test]
        fn any_question_has_an_answer(text in "\\PC{0,80}", suffix in prop_oneof![
            Just(""), Just(".in-addr.arpa"), Just(".ip6.arpa"), Just(".blue.home.internal")
        ]) {
            let _ = sample().lookup(vni(1), &format!("{text}{suffix}"), NameKind::Reverse);
        }

        #[test]
        fn each_v4_address_is_found_by_its_reverse_name(n: u32) {
            let [a, b, c, d] = n.to_be_bytes();
            prop_assert_eq!(address_of(&format!("{d}.{c}.{b}.{a}.in-addr.arpa")), Some(Ipv4Addr::from(n).into()));
        }
    }
}
