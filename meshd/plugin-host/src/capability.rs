//! What a controller may import: what its manifest asks for, and what an operator granted of it.
//!
//! ```text
//!   manifest: capabilities --Asks--+
//!   operator: --grant log,kv ------+--> Grants: kept with the attachment        an import outside of them: refused, by name
//! ```
//!
//! Owns the names, the bounds and the defaults. A grant keeps the figures that held when it was given: a later version of the
//! plugin that asks for more hosts or frames does not get them by being installed. Granted without being named are only the
//! interfaces that show the operator something or tell the time; they reach nobody else.

use core::fmt;
use core::str::FromStr;
use meshd_core::wire::record::SHARED_BYTES_MAX;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Bytes that one attachment may keep, where the manifest names none.
const KV_BYTES: u32 = 1 << 20;
/// The most that a manifest gets of these bytes.
const KV_BYTES_MAX: u32 = 16 << 20;
/// Bytes that one attachment may keep for all nodes, of those that this node wrote, where the manifest names none.
const MESH_BYTES: u32 = 64 << 10;
/// The most that a manifest gets of these bytes: what fits into a record.
const MESH_BYTES_MAX: u32 = SHARED_BYTES_MAX as u32;
/// Frames a second, where the manifest names none.
const FRAMES: u32 = 100;
/// The most that a manifest gets of frames a second.
const FRAMES_MAX: u32 = 10_000;
/// Rules, where the manifest names none.
const RULES: u32 = 256;
/// The most that a manifest gets of rules: each is looked at for a decision.
const RULES_MAX: u32 = 1024;
/// Hosts that a manifest may name, and letters of each.
const HOSTS_MAX: usize = 32;
/// See [`HOSTS_MAX`].
const HOST_MAX: usize = 253;

/// One interface that a controller may import; `wit/host.wit`. Of `kv` the scope that reaches other nodes is granted by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capability {
    /// Lines for the operator.
    Log,
    /// Figures for the operator.
    Metrics,
    /// The time.
    Clock,
    /// Chance.
    Random,
    /// Being called later.
    Timers,
    /// What it keeps.
    Kv,
    /// What it keeps for all nodes of the network: the scope `mesh`.
    KvMesh,
    /// Ports, peers, paths and stations of the network.
    Topology,
    /// Facts and rules.
    Flows,
    /// Frames of its own.
    PacketOut,
    /// Requests to hosts that were granted.
    Http,
}

impl Capability {
    /// All, as `wit/` has them.
    pub const ALL: [Self; 11] = [
        Self::Log,
        Self::Metrics,
        Self::Clock,
        Self::Random,
        Self::Timers,
        Self::Kv,
        Self::KvMesh,
        Self::Topology,
        Self::Flows,
        Self::PacketOut,
        Self::Http,
    ];
    /// Granted in any case: they show the operator something or tell the time, and reach nobody else.
    pub const DEFAULT: [Self; 3] = [Self::Log, Self::Metrics, Self::Clock];

    /// As it is typed, shown and called in `wit/`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Metrics => "metrics",
            Self::Clock => "clock",
            Self::Random => "random",
            Self::Timers => "timers",
            Self::Kv => "kv",
            Self::KvMesh => "kv-mesh",
            Self::Topology => "topology",
            Self::Flows => "flows",
            Self::PacketOut => "packet-out",
            Self::Http => "http",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A word that is no capability.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{word}\" is no capability; there are log, metrics, clock, random, timers, kv, kv-mesh, topology, flows, packet-out and http"
)]
pub struct ParseCapabilityError {
    word: String,
}

impl FromStr for Capability {
    type Err = ParseCapabilityError;
    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|one| one.word() == word);
        found.ok_or_else(|| ParseCapabilityError {
            word: word.chars().take(40).collect(),
        })
    }
}

/// The figures behind capabilities; of a manifest what it asks for, of a grant what there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Amounts {
    /// Bytes of keys and values that are kept on this node.
    pub kv_bytes: u32,
    /// Bytes of keys and values that this node shares with the others.
    pub mesh_bytes: u32,
    /// Frames a second.
    pub frames_per_s: u32,
    /// Rules at once.
    pub rules: u32,
    /// Hosts that may be asked.
    pub hosts: Vec<String>,
}

impl Default for Amounts {
    fn default() -> Self {
        Self {
            kv_bytes: KV_BYTES,
            mesh_bytes: MESH_BYTES,
            frames_per_s: FRAMES,
            rules: RULES,
            hosts: Vec::new(),
        }
    }
}

/// What a manifest asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    /// Which interfaces.
    pub capabilities: BTreeSet<Capability>,
    /// How much of them.
    pub amounts: Amounts,
}

/// As a manifest has it: `{"log": {}, "kv": {"node-bytes": 65536}, "http": {"hosts": ["api.example.org"]}}`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub(crate) struct Written {
    log: Option<Nothing>,
    metrics: Option<Nothing>,
    clock: Option<Nothing>,
    random: Option<Nothing>,
    timers: Option<Nothing>,
    kv: Option<Kv>,
    topology: Option<Nothing>,
    flows: Option<Flows>,
    packet_out: Option<PacketOut>,
    http: Option<Http>,
}

#[derive(Deserialize)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Kv {
    node_bytes: Option<u32>,
    mesh_bytes: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Flows {
    max_rules: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct PacketOut {
    pps: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Http {
    #[serde(default)]
    hosts: Vec<String>,
}

impl Written {
    /// What it asks for, within the bounds.
    pub(crate) fn asks(self) -> Result<Asks, String> {
        let mesh_bytes = self.kv.as_ref().and_then(|kv| kv.mesh_bytes);
        let named = [
            (Capability::Log, self.log.is_some()),
            (Capability::Metrics, self.metrics.is_some()),
            (Capability::Clock, self.clock.is_some()),
            (Capability::Random, self.random.is_some()),
            (Capability::Timers, self.timers.is_some()),
            (Capability::Kv, self.kv.is_some()),
            (Capability::KvMesh, mesh_bytes.is_some()),
            (Capability::Topology, self.topology.is_some()),
            (Capability::Flows, self.flows.is_some()),
            (Capability::PacketOut, self.packet_out.is_some()),
            (Capability::Http, self.http.is_some()),
        ];
        let hosts = self.http.map_or_else(Vec::new, |http| http.hosts);
        if hosts.len() > HOSTS_MAX {
            return Err(format!("it asks for more than {HOSTS_MAX} hosts"));
        }
        let plain = |host: &String| {
            let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':');
            !host.is_empty() && host.len() <= HOST_MAX && host.bytes().all(fits)
        };
        if let Some(wrong) = hosts.iter().find(|host| !plain(host)) {
            let shown: String = wrong.chars().take(60).collect();
            return Err(format!(
                "{shown:?} is no host; give `api.example.org` or `10.0.0.1:8080`"
            ));
        }
        let or = |wanted: Option<u32>, default: u32, most: u32| wanted.unwrap_or(default).min(most);
        Ok(Asks {
            capabilities: named
                .into_iter()
                .filter_map(|(capability, there)| there.then_some(capability))
                .collect(),
            amounts: Amounts {
                kv_bytes: or(self.kv.and_then(|kv| kv.node_bytes), KV_BYTES, KV_BYTES_MAX),
                mesh_bytes: or(mesh_bytes, MESH_BYTES, MESH_BYTES_MAX),
                frames_per_s: or(self.packet_out.and_then(|out| out.pps), FRAMES, FRAMES_MAX),
                rules: or(
                    self.flows.and_then(|flows| flows.max_rules),
                    RULES,
                    RULES_MAX,
                ),
                hosts: hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            },
        })
    }
}

impl Asks {
    /// What it gets if an operator grants `named`, and what is granted in any case.
    #[must_use]
    pub fn granted(&self, named: &BTreeSet<Capability>) -> Grants {
        let mut amounts = self.amounts.clone();
        if !named.contains(&Capability::Http) {
            amounts.hosts.clear();
        }
        Grants {
            capabilities: named.iter().copied().chain(Capability::DEFAULT).collect(),
            amounts,
        }
    }
}

/// What an operator granted an attachment, with the figures that held then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grants {
    /// Which interfaces.
    pub capabilities: BTreeSet<Capability>,
    /// How much of them.
    pub amounts: Amounts,
}

impl Default for Grants {
    fn default() -> Self {
        Asks::default().granted(&BTreeSet::new())
    }
}

impl Grants {
    /// The first of `wanted` that is not granted.
    pub fn lacks<'a>(
        &self,
        wanted: impl IntoIterator<Item = &'a Capability>,
    ) -> Option<Capability> {
        let mut wanted = wanted.into_iter();
        wanted.find(|one| !self.capabilities.contains(one)).copied()
    }

    /// What was granted by name, and not in any case.
    pub fn named(&self) -> impl Iterator<Item = Capability> + '_ {
        let named = self.capabilities.iter().copied();
        named.filter(|one| !Capability::DEFAULT.contains(one))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn asks(json: &str) -> Result<Asks, String> {
        serde_json::from_str::<Written>(json)
            .map_err(|e| e.to_string())
            .and_then(Written::asks)
    }

    #[test]
    fn a_grant_has_what_was_named_and_the_defaults_and_the_figures_of_its_day() {
        let old =
            asks(r#"{"kv":{"node-bytes":100},"http":{"hosts":["API.example.org"]},"log":{}}"#)
                .unwrap();
        let grants = old.granted(&[Capability::Http].into());
        assert_eq!(grants.lacks(&Capability::DEFAULT), None);
        assert_eq!(grants.lacks(&old.capabilities), Some(Capability::Kv));
        assert_eq!(grants.amounts.hosts, ["api.example.org"]);
        assert_eq!(grants.named().collect::<Vec<_>>(), [Capability::Http]);
        assert!(old.granted(&BTreeSet::new()).amounts.hosts.is_empty());
    }

    #[test]
    fn what_a_manifest_asks_for_is_bounded_and_words_that_are_none_are_refused() {
        let much = asks(r#"{"kv":{"node-bytes":4000000000,"mesh-bytes":4000000000},"packet-out":{"pps":4000000000},"flows":{"max-rules":4000000000}}"#).unwrap();
        assert_eq!(much.amounts.kv_bytes, KV_BYTES_MAX);
        assert_eq!(much.amounts.mesh_bytes, MESH_BYTES_MAX);
        assert!(much.capabilities.contains(&Capability::KvMesh));
        let little = asks(r#"{"kv":{}}"#).unwrap();
        assert!(!little.capabilities.contains(&Capability::KvMesh));
        assert_eq!(little.amounts.mesh_bytes, MESH_BYTES);
        assert_eq!(much.amounts.frames_per_s, FRAMES_MAX);
        assert_eq!(much.amounts.rules, RULES_MAX);
        assert!(asks(r#"{"files":{}}"#).unwrap_err().contains("files"));
        assert!(asks(r#"{"http":{"hosts":["a/b"]}}"#).is_err());
        assert!("files".parse::<Capability>().is_err());
        for one in Capability::ALL {
            assert_eq!(one.word().parse(), Ok(one));
            assert_eq!(serde_json::to_value(one).unwrap(), one.word());
        }
    }
}
