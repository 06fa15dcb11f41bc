//! The configuration file: TOML text to [`Config`], once and completely.
//!
//! ```text
//!   text --Config::parse--> Config --ConfigDiff::between(running, new)--> what changes now, what needs a restart
//!            | line, column, the line, what to do
//!            v
//!         ConfigError; the running configuration stays
//! ```
//!
//! Owns the keys, their defaults and their bounds. Refuses unknown keys, so that a typing error is no silent default. Reads
//! no file. `examples/config/meshd.toml` shows every key.

use crate::command::NetworkSpec;
use crate::ident::{Label, Vni, escape};
use crate::links::LinkSpec;
use crate::networks;
use crate::signer::Signer;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// UDP port of the underlay, and of name servers.
const UNDERLAY_PORT: u16 = 7650;
const DNS_PORT: u16 = 53;
/// RFC 7348 §4.
const VXLAN_PORT: u16 = 4789;
/// Largest file, in bytes.
const TEXT_MAX: usize = 1 << 20;
/// As in [`crate::wire::record`].
const ADDRESSES_MAX: usize = 16;
const NETWORKS_MAX: usize = 4096;
const UPSTREAMS_MAX: usize = 8;
/// As in [`crate::wire::record`].
const TRUSTED_MAX: usize = 16;
const SIGNERS_MAX: usize = 16;
/// As in [`crate::wire::record`].
const LINKS_MAX: usize = crate::wire::record::LINKS_MAX;
/// An underlay link costs so much at most.
const COST_MAX: u32 = 1_000_000;

/// All settings of a node, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How this node is reached.
    pub underlay: UnderlayConfig,
    /// Name service.
    pub dns: DnsConfig,
    /// What the kernel does by itself.
    pub kernel: KernelSettings,
    /// How big things may grow.
    pub limits: Limits,
    /// Whose plugins are taken.
    pub plugins: PluginsConfig,
    /// Logs.
    pub log: LogConfig,
    /// Networks to define where they do not exist.
    #[serde(rename = "network")]
    pub networks: Vec<NetworkConfig>,
}

/// `[underlay]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UnderlayConfig {
    /// Address of the QUIC endpoint.
    pub listen: SocketAddr,
    /// Where others reach it, besides the addresses of this host's interfaces. At most 16.
    pub advertise: Vec<SocketAddr>,
    /// Subnets of the underlay that may carry frames in the clear, as kernel VXLAN, between nodes that both trust them. At
    /// most 16.
    pub trusted: Vec<IpNet>,
    /// UDP port of VXLAN, the same on all nodes.
    pub vxlan_port: u16,
    /// Uplinks between which traffic to each peer is spread or chosen. At most 6.
    #[serde(rename = "link")]
    pub links: Vec<LinkConfig>,
}

/// One `[[underlay.link]]`: an uplink of this host. Two nodes have a connection for each name that both declare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkConfig {
    /// Its name, the same on all nodes that it connects.
    pub name: Label,
    /// An address of this host.
    pub address: LinkAddress,
    /// The lower is taken first, 0 to 1000000; the session itself counts as 1000.
    #[serde(default)]
    pub cost: u32,
    /// What it can carry; `None`: that is estimated.
    pub rate: Option<LinkRate>,
}

/// `10.1.0.1` or `10.1.0.1:7651`; without a port it is the one after that of `listen`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkAddress {
    /// Of this host.
    pub ip: IpAddr,
    /// UDP.
    pub port: Option<u16>,
}

impl TryFrom<String> for LinkAddress {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let alone = text.parse().map(|ip| Self { ip, port: None });
        let both = || text.parse::<SocketAddr>().map(|at| (at.ip(), at.port()));
        let address = alone.or_else(|_| {
            both().map(|(ip, port)| Self {
                ip,
                port: Some(port),
            })
        });
        let usable = |address: &Self| {
            !address.ip.is_unspecified() && !address.ip.is_multicast() && address.port != Some(0)
        };
        address.ok().filter(usable).ok_or_else(|| {
            format!(
                "\"{}\" is no address of an uplink; use one of this host's, such as \"10.1.0.1\" or \"10.1.0.1:7651\"",
                escape(text.as_bytes())
            )
        })
    }
}

impl From<LinkAddress> for String {
    fn from(address: LinkAddress) -> Self {
        match address.port {
            Some(port) => SocketAddr::new(address.ip, port).to_string(),
            None => address.ip.to_string(),
        }
    }
}

/// `100mbit`: a number and `kbit`, `mbit` or `gbit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkRate {
    /// At least 1.
    pub kbps: u32,
}

impl TryFrom<String> for LinkRate {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let units = [("kbit", 1u32), ("mbit", 1_000), ("gbit", 1_000_000)];
        let read = units.iter().find_map(|(unit, kbps)| {
            let number: u32 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
            number.checked_mul(*kbps)
        });
        let rate = read.filter(|kbps| *kbps > 0).map(|kbps| Self { kbps });
        rate.ok_or_else(|| {
            format!(
                "\"{}\" is no rate; use a number and a unit, such as \"100mbit\", \"512kbit\" or \"1gbit\"",
                escape(text.as_bytes())
            )
        })
    }
}

impl From<LinkRate> for String {
    fn from(rate: LinkRate) -> Self {
        format!("{}kbit", rate.kbps)
    }
}

impl UnderlayConfig {
    /// The links as the node takes them.
    #[must_use]
    pub fn link_specs(&self) -> Vec<LinkSpec> {
        let spec = |link: &LinkConfig| {
            let next = self.listen.port().checked_add(1).unwrap_or(UNDERLAY_PORT);
            LinkSpec {
                name: link.name.clone(),
                address: SocketAddr::new(link.address.ip, link.address.port.unwrap_or(next)),
                cost: link.cost,
                rate_kbps: link.rate.map(|rate| rate.kbps),
            }
        };
        self.links.iter().map(spec).collect()
    }

    /// Of two links one is too many: which, and why.
    fn link_twice(&self) -> Option<(usize, &'static str, String)> {
        self.links.iter().enumerate().find_map(|(nth, link)| {
            let before = self.links.get(..nth).unwrap_or_default();
            if before.iter().any(|other| other.name == link.name) {
                let message = format!("link {} is there twice; leave one out", link.name);
                return Some((nth, "name", message));
            }
            let same = before.iter().find(|other| other.address == link.address)?;
            let message = format!(
                "links {} and {} have one address; give each its own",
                same.name, link.name
            );
            Some((nth, "address", message))
        })
    }
}

impl Default for UnderlayConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), UNDERLAY_PORT),
            advertise: Vec::new(),
            trusted: Vec::new(),
            vxlan_port: VXLAN_PORT,
            links: Vec::new(),
        }
    }
}

/// `[kernel]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KernelSettings {
    /// Let the kernel forward what policy has let pass: between ports of this host, and by VXLAN where the underlay is
    /// trusted.
    pub fast_path: bool,
    /// What to do where the host's own firewall filters bridged frames.
    pub bridge_filter: BridgeFilter,
    /// Let ports hand over superframes of TCP and UDP, where the kernel can: over QUIC they cost a fraction of what their frames
    /// would.
    pub superframes: bool,
}

impl Default for KernelSettings {
    fn default() -> Self {
        Self {
            fast_path: true,
            bridge_filter: BridgeFilter::Avoid,
            superframes: true,
        }
    }
}

/// `[kernel] bridge_filter`: frames that the kernel forwards pass the host's own FORWARD rules where `br_netfilter` is
/// loaded; those that the daemon forwards do not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BridgeFilter {
    /// While such rules may drop, the daemon forwards all frames.
    #[default]
    Avoid,
    /// The rules are known to let pass what should: let the kernel forward.
    Ignore,
}

/// `[dns]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DnsConfig {
    /// Serve names at all.
    pub enabled: bool,
    /// Domain of the mesh; `None`: `<mesh name>.internal`.
    pub domain: Option<Domain>,
    /// Servers for other names; none: those of the host. At most 8.
    pub upstream: Vec<Upstream>,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            domain: None,
            upstream: Vec::new(),
        }
    }
}

/// `[limits]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Source MACs of one port, 1 to 1024.
    pub macs_per_port: u16,
    /// Broadcast, unknown unicast and multicast frames of one port per second, 1 to 1000000.
    pub bum_per_second: u32,
    /// Ports of this node, 1 to 4096.
    pub ports: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            macs_per_port: 8,
            bum_per_second: 1000,
            ports: 4096,
        }
    }
}

/// `[plugins]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PluginsConfig {
    /// Those whose signature is relied on. At most 16.
    pub trusted: Vec<Signer>,
    /// Take only plugins that one of them has signed.
    pub require_signature: bool,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// A level, or a filter as `tracing` has it.
    pub level: String,
    /// For people or for programs.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Text,
        }
    }
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// One `[[network]]`; the rules are those of `meshd network add`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// Its name.
    pub name: Label,
    /// Its segment; `None`: derived from the name.
    pub vni: Option<Vni>,
    /// Its subnets.
    #[serde(default)]
    pub subnets: Vec<IpNet>,
    /// Bytes of layer 3 payload; `None`: 1450.
    pub mtu: Option<u16>,
}

impl From<NetworkConfig> for NetworkSpec {
    fn from(network: NetworkConfig) -> Self {
        Self {
            name: network.name,
            vni: network.vni,
            subnets: network.subnets,
            mtu: network.mtu,
        }
    }
}

/// A DNS domain: labels with dots between them, lower case, at most 180 bytes, so that names fit in front (RFC 1035 §2.3.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(String);

impl Domain {
    /// The text, without a dot at the end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Domain {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let folded = text.trim_end_matches('.').to_ascii_lowercase();
        let fits = (1..=180).contains(&folded.len())
            && folded
                .split('.')
                .all(|label| label.parse::<Label>().is_ok());
        if fits {
            Ok(Self(folded))
        } else {
            Err(format!(
                "\"{}\" is no domain; use one such as \"home.internal\"",
                escape(text.as_bytes())
            ))
        }
    }
}

impl From<Domain> for String {
    fn from(domain: Domain) -> Self {
        domain.0
    }
}

/// A name server, `9.9.9.9` or `9.9.9.9:53`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Upstream(pub SocketAddr);

impl TryFrom<String> for Upstream {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let alone = text
            .parse::<IpAddr>()
            .map(|ip| SocketAddr::new(ip, DNS_PORT));
        alone.or_else(|_| text.parse()).map(Self).map_err(|_| {
            format!("\"{}\" is no name server; use an address or address:port, such as \"9.9.9.9\" or \"[2620:fe::fe]:53\"", escape(text.as_bytes()))
        })
    }
}

impl From<Upstream> for String {
    fn from(upstream: Upstream) -> Self {
        upstream.0.to_string()
    }
}

/// Where the file is wrong, and what to do. Line and column count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}\n  | {text}\n  | {marker}")]
pub struct ConfigError {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
    /// In words.
    pub message: String,
    /// The line, escaped, cut to what a terminal shows.
    pub text: String,
    /// `^` under the column.
    pub marker: String,
}

impl Config {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        if text.len() > TEXT_MAX {
            return Err(error_at(
                "",
                0,
                format!(
                    "the file has {} bytes; at most {TEXT_MAX} are read",
                    text.len()
                ),
            ));
        }
        let config: Self = toml::from_str(text).map_err(|wrong| {
            let at = wrong.span().map_or(0, |span| span.start);
            error_at(text, at, wrong.message().to_owned())
        })?;
        if let Some((section, key, message)) = config.first_wrong() {
            return Err(error_at(
                text,
                place_of(text, section, key, usize::MAX),
                message,
            ));
        }
        if let Some((nth, key, message)) = config.underlay.link_twice() {
            let at = place_of(text, "underlay.link", key, nth);
            return Err(error_at(text, at, message));
        }
        for (nth, network) in config.networks.iter().enumerate() {
            if let Some((key, message)) = networks::first_wrong(&network.clone().into()) {
                return Err(error_at(text, place_of(text, "network", key, nth), message));
            }
        }
        if let Some((nth, message)) = config.vni_twice() {
            return Err(error_at(
                text,
                place_of(text, "network", "vni", nth),
                message,
            ));
        }
        Ok(config)
    }

    fn vni_twice(&self) -> Option<(usize, String)> {
        let mut seen = BTreeMap::new();
        self.networks.iter().enumerate().find_map(|(nth, network)| {
            let other = seen.insert(network.vni?, &network.name)?;
            let (name, vni) = (&network.name, network.vni?);
            Some((
                nth,
                format!(
                    "VNI {vni} is that of networks {other} and {name}; give one another, or none"
                ),
            ))
        })
    }

    /// What types alone do not say: the section, the key, and what is wrong there.
    fn first_wrong(&self) -> Option<(&'static str, &'static str, String)> {
        let within = |section, key, value: u32, low: u32, high: u32| {
            (!(low..=high).contains(&value)).then(|| {
                (
                    section,
                    key,
                    format!("{key} is {value}; it must be {low} to {high}"),
                )
            })
        };
        let most = |section, key, count: usize, most: usize| {
            (count > most).then(|| {
                (
                    section,
                    key,
                    format!("{key} has {count} entries; at most {most} are possible"),
                )
            })
        };
        let unusable = self
            .underlay
            .advertise
            .iter()
            .find(|a| a.port() == 0 || a.ip().is_unspecified() || a.ip().is_multicast());
        let names = self.networks.iter().map(|network| &network.name);
        let twice = names
            .clone()
            .enumerate()
            .find(|(at, name)| names.clone().take(*at).any(|other| other == *name));
        None.or_else(|| within("limits", "macs_per_port", self.limits.macs_per_port.into(), 1, 1024))
            .or_else(|| within("limits", "bum_per_second", self.limits.bum_per_second, 1, 1_000_000))
            .or_else(|| within("limits", "ports", self.limits.ports.into(), 1, 4096))
            .or_else(|| most("underlay", "advertise", self.underlay.advertise.len(), ADDRESSES_MAX))
            .or_else(|| {
                let message = |a| format!("advertise holds {a}, where nobody can reach this node; use an address and port of it");
                unusable.map(|a| ("underlay", "advertise", message(a)))
            })
            .or_else(|| most("underlay", "trusted", self.underlay.trusted.len(), TRUSTED_MAX))
            .or_else(|| {
                let port = self.underlay.vxlan_port;
                (port == 0).then(|| ("underlay", "vxlan_port", "vxlan_port is 0; it must be 1 to 65535".to_owned()))
            })
            .or_else(|| {
                let (listen, port) = (self.underlay.listen.port(), self.underlay.vxlan_port);
                let message = format!("vxlan_port is {port}, which is the port of `listen` too; use another one");
                (listen == port).then_some(("underlay", "vxlan_port", message))
            })
            .or_else(|| most("underlay.link", "name", self.underlay.links.len(), LINKS_MAX))
            .or_else(|| {
                let dear = self.underlay.links.iter().find(|link| link.cost > COST_MAX)?;
                within("underlay.link", "cost", dear.cost, 0, COST_MAX)
            })
            .or_else(|| filter_fault(&self.log.level).map(|fault| ("log", "level", fault)))
            .or_else(|| most("plugins", "trusted", self.plugins.trusted.len(), SIGNERS_MAX))
            .or_else(|| {
                let nobody = self.plugins.require_signature && self.plugins.trusted.is_empty();
                let message = "require_signature is true and nobody is trusted, so no plugin could be used; name a signer under `trusted`";
                nobody.then(|| ("plugins", "require_signature", message.to_owned()))
            })
            .or_else(|| most("dns", "upstream", self.dns.upstream.len(), UPSTREAMS_MAX))
            .or_else(|| most("network", "name", self.networks.len(), NETWORKS_MAX))
            .or_else(|| twice.map(|(_, name)| ("network", "name", format!("network {name} is there twice; leave one out"))))
    }
}

/// What is wrong with a log filter: levels, and `target=level` with commas between. The filter's own reader takes a misspelt
/// level for a target, and then nothing else is logged.
fn filter_fault(filter: &str) -> Option<String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let mut depth = 0u32;
    let parts = filter.split(|c| {
        match c {
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    for part in parts.map(str::trim) {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        if !LEVELS.iter().any(|known| level.eq_ignore_ascii_case(known)) {
            return Some(format!(
                "\"{}\" is no level; use {}, or a filter such as \"info,meshd::underlay=debug\"",
                escape(level.as_bytes()),
                LEVELS.join(", ")
            ));
        }
    }
    None
}

/// Where `key` begins in the nth (or, of fewer, the last) `[section]` of a text that parsed, or where that section does;
/// 0 if it is written in some other way (`a.b = …`).
fn place_of(text: &str, section: &str, key: &str, nth: usize) -> usize {
    let (mut at, mut inside, mut count, mut found) = (0, false, 0, 0);
    for line in text.split_inclusive('\n') {
        let bare = line.trim();
        let begins = at + (line.len() - line.trim_start().len());
        if let Some(head) = bare.strip_prefix('[') {
            let head = head.trim_start_matches('[').trim_start();
            inside = head
                .strip_prefix(section)
                .is_some_and(|rest| rest.trim_start().starts_with(']') && count <= nth);
            if inside {
                count += 1;
                if nth != usize::MAX {
                    found = begins;
                }
            }
        } else if inside
            && bare
                .strip_prefix(key)
                .is_some_and(|rest| rest.trim_start().starts_with('='))
        {
            // Of several `[[network]]` the last: it is the one too many.
            found = begins;
        }
        at += line.len();
    }
    found
}

fn error_at(text: &str, at: usize, message: String) -> ConfigError {
    const SHOWN: usize = 100;
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let (before, after) = text.split_at(at);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let lead = before.get(line_start..).unwrap_or("");
    let column = lead.chars().count() + 1;
    let rest = after.split('\n').next().unwrap_or("");
    // A window around the place, with what does not print escaped: the file may be anything.
    let lead_shown: String = lead
        .chars()
        .skip(column.saturating_sub(SHOWN / 2))
        .collect();
    let rest_shown: String = rest.chars().take(SHOWN / 2).collect();
    let lead_shown = printable(&lead_shown);
    let marker = format!("{}^", " ".repeat(lead_shown.chars().count()));
    let message = escape_lines(&message);
    ConfigError {
        line: before.matches('\n').count() + 1,
        column,
        message,
        text: format!("{lead_shown}{}", printable(&rest_shown))
            .trim_end()
            .to_owned(),
        marker,
    }
}

/// The text as it is in the file, but for what does not print.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => shown.push(c),
            _ => shown.push_str(&escape(c.encode_utf8(&mut [0; 4]).as_bytes())),
        }
    }
    shown
}

/// The parser's message on one line; it may quote the file.
fn escape_lines(message: &str) -> String {
    let joined = message
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("; ");
    joined
        .chars()
        .take(500)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// What a new file changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigDiff {
    /// Keys that take effect at once.
    pub live: Vec<&'static str>,
    /// Keys that take effect at the next start of the daemon.
    pub restart: Vec<&'static str>,
}

impl ConfigDiff {
    /// What differs between the running configuration and a new one.
    #[must_use]
    pub fn between(running: &Config, new: &Config) -> Self {
        let mut diff = Self::default();
        let mut note = |differs: bool, live: bool, key: &'static str| {
            if differs {
                if live {
                    diff.live.push(key)
                } else {
                    diff.restart.push(key)
                }
            }
        };
        note(
            running.underlay.listen != new.underlay.listen,
            false,
            "underlay.listen",
        );
        note(
            running.underlay.advertise != new.underlay.advertise,
            false,
            "underlay.advertise",
        );
        note(
            running.underlay.trusted != new.underlay.trusted,
            true,
            "underlay.trusted",
        );
        note(
            running.underlay.vxlan_port != new.underlay.vxlan_port,
            false,
            "underlay.vxlan_port",
        );
        note(
            running.underlay.links != new.underlay.links,
            false,
            "underlay.link",
        );
        note(
            running.kernel.fast_path != new.kernel.fast_path,
            true,
            "kernel.fast_path",
        );
        note(
            running.kernel.bridge_filter != new.kernel.bridge_filter,
            true,
            "kernel.bridge_filter",
        );
        note(
            running.kernel.superframes != new.kernel.superframes,
            false,
            "kernel.superframes",
        );
        note(running.dns.enabled != new.dns.enabled, false, "dns.enabled");
        note(running.dns.domain != new.dns.domain, false, "dns.domain");
        note(
            running.dns.upstream != new.dns.upstream,
            false,
            "dns.upstream",
        );
        note(
            running.limits.macs_per_port != new.limits.macs_per_port,
            false,
            "limits.macs_per_port",
        );
        note(
            running.limits.bum_per_second != new.limits.bum_per_second,
            false,
            "limits.bum_per_second",
        );
        note(
            running.limits.ports != new.limits.ports,
            false,
            "limits.ports",
        );
        note(
            running.plugins.trusted != new.plugins.trusted,
            false,
            "plugins.trusted",
        );
        note(
            running.plugins.require_signature != new.plugins.require_signature,
            false,
            "plugins.require_signature",
        );
        note(running.log.level != new.log.level, true, "log.level");
        note(running.log.format != new.log.format, false, "log.format");
        note(running.networks != new.networks, true, "network");
        diff
    }

    /// Nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live.is_empty() && self.restart.is_empty()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXAMPLE: &str = include_str!("../../../examples/config/meshd.toml");

    #[test]
    fn the_example_has_every_key_at_its_default() {
        assert_eq!(Config::parse(EXAMPLE).unwrap(), Config::default());
        assert_eq!(Config::parse("").unwrap(), Config::default());
        let written = toml::to_string(&Config::default()).unwrap();
        for key in written
            .lines()
            .filter_map(|line| line.split_once(" = "))
            .map(|(key, _)| key)
        {
            assert!(
                EXAMPLE.contains(&format!("\n{key} = "))
                    || EXAMPLE.contains(&format!(".{key}]]"))
                    || key == "network",
                "{key} is missing in the example"
            );
        }
    }

    #[test]
    fn what_the_example_has_in_comments_is_valid_too() {
        // Commented settings are indented, so that prose is not mistaken for them.
        let open: String = EXAMPLE
            .lines()
            .filter(|line| !["advertise = []", "upstream = []", "trusted = []"].contains(line))
            .map(|line| line.strip_prefix("#   ").unwrap_or(line).to_owned() + "\n")
            .collect();
        let config = Config::parse(&open).unwrap();
        assert_eq!(config.networks[0].vni, Some(Vni::new(4711).unwrap()));
        assert_eq!(config.dns.upstream[0].0, "9.9.9.9:53".parse().unwrap());
        assert_eq!(
            config.dns.domain.as_ref().unwrap().as_str(),
            "home.internal"
        );
        assert_eq!(config.underlay.advertise.len(), 1);
        assert_eq!(
            Config::parse(&toml::to_string(&config).unwrap()).unwrap(),
            config
        );
    }

    #[test]
    fn an_error_shows_line_column_text_and_what_to_do() {
        let wrong = Config::parse("[dns]\n  domian = \"x\"\n").unwrap_err();
        assert_eq!(
            (wrong.line, wrong.column, wrong.text.as_str()),
            (2, 3, "  domian = \"x\"")
        );
        assert!(wrong.message.contains("domain"), "{wrong}");
        assert!(wrong.to_string().ends_with("\n  |   ^"), "{wrong}");
        let wrong = Config::parse("[underlay]\nlisten = \"here\"\n").unwrap_err();
        assert_eq!((wrong.line, wrong.column), (2, 10));
        let wrong = Config::parse("[dns]\nupstream = [\"9.9.9.9\", \"nine\"]").unwrap_err();
        assert!(
            wrong.message.contains("use an address or address:port"),
            "{wrong}"
        );
        let wrong = Config::parse("[[network]]\nname = \"a b\"\n").unwrap_err();
        assert_eq!(wrong.line, 2);
        let wrong = Config::parse("[limits]\nports = 4097\n").unwrap_err();
        assert_eq!((wrong.line, wrong.column), (2, 1));
        assert!(wrong.message.contains("must be 1 to 4096"), "{wrong}");
        let wrong =
            Config::parse("[[network]]\nname = \"a\"\n[[network]]\nname = \"A\"\n").unwrap_err();
        assert_eq!(wrong.line, 4);
        let wrong = Config::parse("[underlay]\nadvertise = [\"0.0.0.0:1\"]").unwrap_err();
        assert!(wrong.message.contains("nobody can reach"), "{wrong}");
        assert!(Config::parse(&" ".repeat(TEXT_MAX + 1)).is_err());
    }

    #[test]
    fn a_network_that_cannot_be_is_refused_with_its_own_line() {
        let good = "[[network]]\nname = \"a\"\nvni = 7\nsubnets = [\"10.1.0.0/24\"]\nmtu = 1450\n";
        for (wrong, line, words) in [
            ("subnets = [\"10.0.0.1/24\"]", 7, "host bits"),
            ("mtu = 1", 7, "must be 576 to 9000"),
            ("subnets = [\"fd00::/64\"]\n  mtu = 600", 8, "1280"),
            ("vni = 7", 7, "networks a and b"),
        ] {
            let last = "[[network]]\nname = \"c\"\nsubnets = [\"10.3.0.0/24\"]\nmtu = 1450\n";
            let text = format!("{good}[[network]]\n{wrong}\nname = \"b\"\n{last}");
            let error = Config::parse(&text).unwrap_err();
            assert_eq!(error.line, line, "{error}");
            assert!(error.message.contains(words), "{error}");
        }
        assert!(Config::parse(good).is_ok());
    }

    #[test]
    fn a_misspelt_level_is_refused_and_a_filter_is_not() {
        for wrong in ["wran", "", "info,", "meshd", "info,meshd=loud", "meshd="] {
            let error = Config::parse(&format!("[log]\nlevel = \"{wrong}\"\n")).unwrap_err();
            assert_eq!((error.line, error.column), (2, 1), "{error}");
            assert!(
                error.message.contains("is no level; use off, error"),
                "{error}"
            );
        }
        for good in [
            "warn",
            "TRACE",
            "info,meshd::underlay=debug, quinn=off",
            "off,meshd[span{a=1,b=2}]=trace",
        ] {
            assert!(Config::parse(&format!("[log]\nlevel = \"{good}\"\n")).is_ok());
        }
    }

    #[test]
    fn a_change_of_endpoint_or_limits_needs_a_restart_and_one_of_the_log_level_does_not() {
        let new = Config::parse(
            "[underlay]\nlisten = \"0.0.0.0:1\"\n[limits]\nports = 5\n[log]\nlevel = \"debug\"\n",
        )
        .unwrap();
        let diff = ConfigDiff::between(&Config::default(), &new);
        assert_eq!(
            (diff.live.as_slice(), diff.restart.as_slice()),
            (&["log.level"][..], &["underlay.listen", "limits.ports"][..])
        );
        assert!(ConfigDiff::between(&new, &new).is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_on_printable_lines(text in ".{0,200}", cut in 0usize..2000) {
            for text in [text.clone(), EXAMPLE.chars().take(cut).collect::<String>() + &text] {
                if let Err(wrong) = Config::parse(&text) {
                    prop_assert!(wrong.to_string().chars().all(|c| c == '\n' || !c.is_control()));
                    prop_assert_eq!(wrong.to_string().lines().count(), 3);
                    prop_assert!(wrong.line <= text.matches('\n').count() + 1);
                }
            }
        }

        #[test]
        fn a_broken_line_of_the_example_is_found(bytes in proptest::collection::vec((0usize..3000, any::<char>()), 1..5)) {
            let mut chars: Vec<char> = EXAMPLE.chars().collect();
            for (at, with) in bytes {
                if let Some(c) = chars.get_mut(at) {
                    *c = with;
                }
            }
            let _ = Config::parse(&chars.into_iter().collect::<String>());
        }
    }

    #[test]
    fn a_demand_for_signatures_needs_somebody_who_is_trusted() {
        let error = Config::parse("[plugins]\nrequire_signature = true\n").unwrap_err();
        assert_eq!(
            (error.line, error.message.contains("nobody is trusted")),
            (2, true)
        );
        let key = "ab".repeat(32);
        let text = format!("[plugins]\ntrusted = [\"ed25519:{key}\"]\nrequire_signature = true\n");
        assert_eq!(Config::parse(&text).unwrap().plugins.trusted.len(), 1);
        let error = Config::parse("[plugins]\ntrusted = [\"me\"]\n").unwrap_err();
        assert!(error.message.contains("64 hex digits"), "{error:?}");
    }
}
