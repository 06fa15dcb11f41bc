//! `[dns]` of the configuration: names that are answered, and whose word counts for them.

use super::{Domain, Upstream};
use crate::ident::{Label, escape};
use crate::services::ServiceRules;
use serde::{Deserialize, Serialize};

/// Nodes of one `[[dns.service]]`.
const NODES_MAX: usize = 64;
/// Longest way to name one: an id.
const NODE_MAX: usize = 64;

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
    /// Whose services of hosts are answered.
    pub services: ServicesOf,
    /// Who may advertise which. At most 256.
    #[serde(rename = "service")]
    pub service: Vec<ServiceConfig>,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            domain: None,
            upstream: Vec::new(),
            services: ServicesOf::Any,
            service: Vec::new(),
        }
    }
}

/// `[dns] services`: which services of hosts have a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServicesOf {
    /// Those of all members, but for names that a `[[dns.service]]` lists.
    #[default]
    Any,
    /// Those that a `[[dns.service]]` lists.
    Listed,
}

/// One `[[dns.service]]`: a name, and whose word counts for it on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    /// As devices have it under `service`.
    pub name: Label,
    /// Members, by name, id or how that begins. At most 64.
    pub nodes: Vec<String>,
}

impl DnsConfig {
    /// Whose services count.
    #[must_use]
    pub fn rules(&self) -> ServiceRules {
        let rule = |service: &ServiceConfig| {
            let nodes = service.nodes.iter().cloned().collect();
            (service.name.clone(), nodes)
        };
        ServiceRules {
            nodes: self.service.iter().map(rule).collect(),
            only_listed: self.services == ServicesOf::Listed,
        }
    }

    /// The nth `[[dns.service]]` that cannot be, the key, and why.
    pub(super) fn first_wrong(&self) -> Option<(usize, &'static str, String)> {
        self.service.iter().enumerate().find_map(|(nth, service)| {
            let before = self.service.get(..nth).unwrap_or_default();
            if before.iter().any(|other| other.name == service.name) {
                let message = format!(
                    "service {} is there twice; put all its nodes into one",
                    service.name
                );
                return Some((nth, "name", message));
            }
            let count = service.nodes.len();
            if count > NODES_MAX {
                let message =
                    format!("nodes has {count} entries; at most {NODES_MAX} are possible");
                return Some((nth, "nodes", message));
            }
            let odd = |node: &&String| {
                !(1..=NODE_MAX).contains(&node.len())
                    || node.contains(|c: char| c.is_control() || c.is_whitespace())
            };
            let odd = service.nodes.iter().find(odd)?;
            let shown = odd.chars().take(NODE_MAX).collect::<String>();
            let message = format!(
                "\"{}\" is no member; use a name or an id as `meshd members` shows them",
                escape(shown.as_bytes())
            );
            Some((nth, "nodes", message))
        })
    }
}
