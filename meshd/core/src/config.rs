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
//! no file. `examples/config/meshd.toml` shows every key, and `keys.toml` describes it.

mod api;
mod datapath;
mod device;
mod diff;
mod dns;
pub mod keys;
mod network;
mod place;
mod underlay;

pub use api::{ApiConfig, HostName, Principal};
pub use datapath::DatapathSettings;
pub use device::{
    BondConfig, BridgeConfig, Declared, DeviceConfig, DeviceName, DevicesConfig, DummyConfig,
    MacvlanConfig, Merged, VlanConfig, unknown_device,
};
pub use diff::ConfigDiff;
pub use dns::{DnsConfig, ServiceConfig, ServicesOf};
pub use network::NetworkConfig;
pub use place::ConfigError;
pub use underlay::{LinkAddress, LinkConfig, LinkRate, UnderlayConfig};

use crate::ident::{Label, escape};
use crate::multicast::MulticastSpec;
use crate::networks;
use crate::signer::Signer;
use place::{error_at, place_of, read};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// UDP port of the underlay, and of name servers.
const UNDERLAY_PORT: u16 = 7650;
const DNS_PORT: u16 = 53;
/// As in [`crate::wire::record`].
const ADDRESSES_MAX: usize = 16;
const NETWORKS_MAX: usize = 4096;
const UPSTREAMS_MAX: usize = 8;
const SERVICES_MAX: usize = 256;
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
    /// On how many cores frames are carried.
    pub datapath: DatapathSettings,
    /// How big things may grow.
    pub limits: Limits,
    /// Whose plugins are taken.
    pub plugins: PluginsConfig,
    /// Who may use the API.
    pub api: ApiConfig,
    /// Logs.
    pub log: LogConfig,
    /// Traces.
    pub telemetry: TelemetryConfig,
    /// Devices that this host is to have.
    pub device: DevicesConfig,
    /// Networks to define where they do not exist.
    #[serde(rename = "network")]
    pub networks: Vec<NetworkConfig>,
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

/// `[telemetry]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// Where traces go: `http://HOST:PORT` of a collector that takes OTLP over HTTP; nowhere by default.
    pub otlp: Option<String>,
}

impl TelemetryConfig {
    fn first_wrong(&self) -> Option<String> {
        let collector = self.otlp.as_ref()?;
        let host = collector.strip_prefix("http://").unwrap_or_default();
        let plain = |c: char| c.is_ascii_alphanumeric() || ".:-_[]/".contains(c);
        let is_url = !host.trim_end_matches('/').is_empty()
            && collector.len() <= 256
            && host.chars().all(plain);
        (!is_url).then(|| {
            format!(
                "otlp is \"{}\"; it must be the address of a collector such as \"http://127.0.0.1:4318\", without TLS",
                escape(collector.as_bytes())
            )
        })
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
    /// To systemd's journal by its own protocol, with level and fields; to stderr as text where there is none.
    Journald,
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

impl Config {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = read(text)?;
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
        if let Some((nth, key, message)) = config.dns.first_wrong() {
            let at = place_of(text, "dns.service", key, nth);
            return Err(error_at(text, at, message));
        }
        if let Some((section, nth, key, message)) = config.device.first_wrong() {
            return Err(error_at(text, place_of(text, section, key, nth), message));
        }
        for (nth, network) in config.networks.iter().enumerate() {
            if let Some((key, message)) = networks::first_wrong(&network.clone().into()) {
                return Err(error_at(text, place_of(text, "network", key, nth), message));
            }
        }
        if let Some((nth, key, message)) = network::first_twice(&config.networks) {
            let at = place_of(text, "network", key, nth);
            return Err(error_at(text, at, message));
        }
        Ok(config)
    }

    /// How this node treats multicast on the networks that the file names.
    #[must_use]
    pub fn multicast(&self) -> BTreeMap<Label, MulticastSpec> {
        let networks = self.networks.iter();
        networks
            .map(|network| (network.name.clone(), network.multicast()))
            .collect()
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
            .or_else(|| {
                let threads = self.datapath.threads?.into();
                within("datapath", "threads", threads, 1, datapath::THREADS_MAX)
            })
            .or_else(|| {
                let queues = self.datapath.queues?.into();
                within("datapath", "queues", queues, 1, datapath::QUEUES_MAX)
            })
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
            .or_else(|| self.telemetry.first_wrong().map(|message| ("telemetry", "otlp", message)))
            .or_else(|| self.api.first_wrong().map(|(key, message)| ("api", key, message)))
            .or_else(|| most("plugins", "trusted", self.plugins.trusted.len(), SIGNERS_MAX))
            .or_else(|| {
                let nobody = self.plugins.require_signature && self.plugins.trusted.is_empty();
                let message = "require_signature is true and nobody is trusted, so no plugin could be used; name a signer under `trusted`";
                nobody.then(|| ("plugins", "require_signature", message.to_owned()))
            })
            .or_else(|| most("dns", "upstream", self.dns.upstream.len(), UPSTREAMS_MAX))
            .or_else(|| most("dns.service", "name", self.dns.service.len(), SERVICES_MAX))
            .or_else(|| most("network", "name", self.networks.len(), NETWORKS_MAX))
            .or_else(|| twice.map(|(_, name)| ("network", "name", format!("network {name} is there twice; leave one out"))))
    }
}

/// What is wrong with a log filter: levels, and `target=level` with commas between. The filter's own reader takes a misspelt
/// level for a target, and then nothing else is logged.
pub fn filter_fault(filter: &str) -> Option<String> {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
