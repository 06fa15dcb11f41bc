//! What is installed and where it is attached; every change of that.
//!
//! A change goes in this order: build the new instances, keep the record (durable), take them into use. So a failure
//! changes nothing, and a crash leaves the old or the new.

use super::chain::Chains;
use super::link::{Counters, FailMode, Link};
use super::shelf::{Attachment, Record, Shelf, ShelfError};
use crate::store::Store;
use meshd_core::ident::{Label, Vni};
use meshd_plugin_host::{ConfigureError, Digest, Engine, Instance, Limits, LoadError, Plugin};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Where an attachment stands if nothing is said.
const ORDER: u16 = 100;
/// Plugins that can be installed, and networks one can be attached to; each attachment may hold 16 MiB.
const MAX_PLUGINS: usize = 256;
/// See [`MAX_PLUGINS`].
const MAX_ATTACHMENTS: usize = 256;

/// Where in the chain a plugin stands, and what holds when it fails. `None`: as it was, or else 100 and closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Placement {
    /// Lower is asked earlier; the plugin's name decides between equals.
    pub order: Option<u16>,
    /// Dropped or passed on.
    pub fail: Option<FailMode>,
}

/// An installed plugin, to be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PluginInfo {
    /// Its name on this node.
    pub name: Label,
    /// SHA-256 of the component.
    pub digest: Digest,
    /// Bytes of the component.
    pub size: u64,
    /// Why it cannot be used, if so.
    pub trouble: Option<String>,
    /// By VNI.
    pub attachments: Vec<AttachmentInfo>,
}

/// A plugin in a network's chain, to be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AttachmentInfo {
    /// The network.
    pub vni: Vni,
    /// Lower is asked earlier.
    pub order: u16,
    /// JSON.
    pub config: String,
    /// What holds when it fails.
    pub fail: FailMode,
    /// Why its fail mode answers at the moment, if so.
    pub trouble: Option<String>,
    /// How it failed last.
    pub last_fault: Option<String>,
    /// Questions since the daemon started.
    pub asked: u64,
    /// Of them, refused by the plugin.
    pub dropped: u64,
    /// Of them, answered by the fail mode.
    pub failed: u64,
    /// Time in the plugin, in ns.
    pub ns: u64,
}

/// Why the plugins of this node cannot be brought up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] LoadError),
    /// The system has no thread to give.
    #[error("cannot start the policy thread: {0}")]
    Thread(io::Error),
}

/// Why a component is not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// It is no policy component.
    #[error("{name} cannot be installed: {source}")]
    Load {
        /// The plugin.
        name: Label,
        /// What is wrong with it.
        source: LoadError,
    },
    /// A network where the name is attached has a config that this component refuses.
    #[error(
        "{name} cannot replace the installed one on network {vni}: {source}. The installed one goes on; change the config there first, or detach it"
    )]
    Configure {
        /// The plugin.
        name: Label,
        /// The network.
        vni: Vni,
        /// What it says.
        source: ConfigureError,
    },
    /// Too many.
    #[error("{name} cannot be installed: this node has {MAX_PLUGINS} plugins already")]
    Full {
        /// The plugin.
        name: Label,
    },
    /// The state cannot be written.
    #[error("{name} cannot be kept: {source}")]
    Keep {
        /// The plugin.
        name: Label,
        /// What fails.
        source: ShelfError,
    },
}

/// Why a plugin is not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// No such plugin.
    #[error(
        "no plugin {name} is installed on this node; `meshd plugin install {name} FILE.wasm` first"
    )]
    NotInstalled {
        /// The plugin.
        name: Label,
    },
    /// It did not load when the daemon started.
    #[error("{name} is installed, but cannot be used: {reason}")]
    Broken {
        /// The plugin.
        name: Label,
        /// Why it does not load.
        reason: String,
    },
    /// It refuses the config.
    #[error("{name} is not attached to network {vni} with this config: {source}")]
    Configure {
        /// The plugin.
        name: Label,
        /// The network.
        vni: Vni,
        /// What it says.
        source: ConfigureError,
    },
    /// Too many.
    #[error("{name} is attached to {MAX_ATTACHMENTS} networks already")]
    Full {
        /// The plugin.
        name: Label,
    },
    /// The state cannot be written.
    #[error("the attachment of {name} cannot be kept: {source}")]
    Keep {
        /// The plugin.
        name: Label,
        /// What fails.
        source: ShelfError,
    },
}

/// Why a plugin is not detached.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// No such plugin.
    #[error("no plugin {name} is installed on this node; `meshd plugin ls` shows those that are")]
    NotInstalled {
        /// The plugin.
        name: Label,
    },
    /// It is not there.
    #[error("{name} is not attached to network {vni}; `meshd plugin ls` shows where it is")]
    NotAttached {
        /// The plugin.
        name: Label,
        /// The network.
        vni: Vni,
    },
    /// The state cannot be written.
    #[error("the change cannot be kept: {0}")]
    Keep(ShelfError),
}

struct Installed {
    record: Record,
    /// Or why it does not load.
    plugin: Result<Plugin, String>,
    links: BTreeMap<Vni, Arc<Link>>,
}

pub(super) struct Registry {
    engine: Engine,
    shelf: Shelf,
    installed: BTreeMap<Label, Installed>,
    revision: u32,
    revisions: BTreeMap<Vni, u32>,
}

impl Registry {
    pub(super) fn open(store: Store, state_dir: &Path) -> Result<Self, StartError> {
        let shelf = Shelf::open(store, state_dir)?;
        let engine = Engine::new(Limits::default())?;
        let records = shelf.records()?;
        shelf.sweep(&records.values().map(|record| record.digest).collect());
        let mut out = Self {
            engine,
            shelf,
            installed: BTreeMap::new(),
            revision: 0,
            revisions: BTreeMap::new(),
        };
        for (name, record) in records {
            let plugin = out
                .shelf
                .get(record.digest)
                .and_then(|wasm| Plugin::load(&out.engine, &wasm).map_err(|e| e.to_string()));
            if let Err(reason) = &plugin {
                tracing::error!(plugin = %name, %reason, "an installed plugin does not load; its attachments answer by their fail mode");
            }
            let mut links = BTreeMap::new();
            for (&vni, attachment) in &record.attachments {
                let instance = plugin.clone().and_then(|plugin| {
                    Instance::new(&plugin, &attachment.config, 1).map_err(|e| e.to_string())
                });
                links.insert(
                    vni,
                    Arc::new(Link::new(
                        name.clone(),
                        attachment.order,
                        attachment.fail,
                        instance,
                        Arc::default(),
                    )),
                );
                out.moved(vni);
            }
            out.installed.insert(
                name,
                Installed {
                    record,
                    plugin,
                    links,
                },
            );
        }
        Ok(out)
    }

    pub(super) fn chains(&self) -> Chains {
        let mut chains: BTreeMap<Vni, Vec<Arc<Link>>> = BTreeMap::new();
        for (&vni, link) in self
            .installed
            .values()
            .flat_map(|installed| &installed.links)
        {
            chains.entry(vni).or_default().push(Arc::clone(link));
        }
        for links in chains.values_mut() {
            // They come by name, and the sort is stable.
            links.sort_by_key(|link| link.order());
        }
        Chains(chains)
    }

    pub(super) fn revisions(&self) -> BTreeMap<Vni, u32> {
        let in_use: BTreeSet<Vni> = self
            .installed
            .values()
            .flat_map(|installed| installed.links.keys().copied())
            .collect();
        self.revisions
            .iter()
            .map(|(&vni, &revision)| (vni, if in_use.contains(&vni) { revision } else { 0 }))
            .collect()
    }

    /// The chain of `vni` is another one from now on.
    fn moved(&mut self, vni: Vni) {
        // Never 0, which means that there is none.
        self.revision = self.revision.wrapping_add(1).max(1);
        self.revisions.insert(vni, self.revision);
    }

    fn next_generation(&self) -> u64 {
        u64::from(self.revision) + 1
    }

    pub(super) fn install(
        &mut self,
        name: &Label,
        wasm: &[u8],
    ) -> Result<PluginInfo, InstallError> {
        let plugin = Plugin::load(&self.engine, wasm).map_err(|source| InstallError::Load {
            name: name.clone(),
            source,
        })?;
        let old = self.installed.get(name);
        if old.is_none() && self.installed.len() >= MAX_PLUGINS {
            return Err(InstallError::Full { name: name.clone() });
        }
        let attachments = old
            .map(|old| old.record.attachments.clone())
            .unwrap_or_default();
        let mut links = BTreeMap::new();
        for (&vni, attachment) in &attachments {
            let instance = Instance::new(&plugin, &attachment.config, self.next_generation())
                .map_err(|source| InstallError::Configure {
                    name: name.clone(),
                    vni,
                    source,
                })?;
            let counters = counters(old, vni);
            links.insert(
                vni,
                Arc::new(Link::new(
                    name.clone(),
                    attachment.order,
                    attachment.fail,
                    Ok(instance),
                    counters,
                )),
            );
        }
        let record = Record {
            digest: plugin.digest(),
            size: wasm.len() as u64,
            attachments,
        };
        self.shelf
            .put(record.digest, wasm)
            .and_then(|()| self.shelf.keep(name, &record))
            .map_err(|source| InstallError::Keep {
                name: name.clone(),
                source,
            })?;
        let networks: Vec<Vni> = links.keys().copied().collect();
        let installed = Installed {
            record,
            plugin: Ok(plugin),
            links,
        };
        let info = show(name, &installed);
        self.installed.insert(name.clone(), installed);
        for vni in networks {
            self.moved(vni);
        }
        self.shelf.sweep(
            &self
                .installed
                .values()
                .map(|installed| installed.record.digest)
                .collect(),
        );
        Ok(info)
    }

    pub(super) fn attach(
        &mut self,
        name: &Label,
        vni: Vni,
        config: Option<&str>,
        placement: Placement,
    ) -> Result<PluginInfo, AttachError> {
        let generation = self.next_generation();
        let installed = self
            .installed
            .get_mut(name)
            .ok_or_else(|| AttachError::NotInstalled { name: name.clone() })?;
        let plugin = installed
            .plugin
            .as_ref()
            .map_err(|reason| AttachError::Broken {
                name: name.clone(),
                reason: reason.clone(),
            })?;
        let mut record = installed.record.clone();
        let old = record.attachments.get(&vni);
        if old.is_none() && record.attachments.len() >= MAX_ATTACHMENTS {
            return Err(AttachError::Full { name: name.clone() });
        }
        let order = placement
            .order
            .or(old.map(|old| old.order))
            .unwrap_or(ORDER);
        let fail = placement
            .fail
            .or(old.map(|old| old.fail))
            .unwrap_or_default();
        let config = config
            .or(old.map(|old| old.config.as_str()))
            .unwrap_or_default();
        let instance =
            Instance::new(plugin, config, generation).map_err(|source| AttachError::Configure {
                name: name.clone(),
                vni,
                source,
            })?;
        record.attachments.insert(
            vni,
            Attachment {
                order,
                config: instance.config().to_owned(),
                fail,
            },
        );
        self.shelf
            .keep(name, &record)
            .map_err(|source| AttachError::Keep {
                name: name.clone(),
                source,
            })?;
        let counters = counters(Some(installed), vni);
        installed.record = record;
        installed.links.insert(
            vni,
            Arc::new(Link::new(name.clone(), order, fail, Ok(instance), counters)),
        );
        let info = show(name, installed);
        self.moved(vni);
        Ok(info)
    }

    pub(super) fn detach(&mut self, name: &Label, vni: Vni) -> Result<PluginInfo, DetachError> {
        let installed = self
            .installed
            .get_mut(name)
            .ok_or_else(|| DetachError::NotInstalled { name: name.clone() })?;
        let mut record = installed.record.clone();
        if record.attachments.remove(&vni).is_none() {
            return Err(DetachError::NotAttached {
                name: name.clone(),
                vni,
            });
        }
        self.shelf.keep(name, &record).map_err(DetachError::Keep)?;
        installed.record = record;
        installed.links.remove(&vni);
        let info = show(name, installed);
        self.moved(vni);
        Ok(info)
    }

    pub(super) fn list(&self) -> Vec<PluginInfo> {
        self.installed
            .iter()
            .map(|(name, installed)| show(name, installed))
            .collect()
    }
}

fn counters(old: Option<&Installed>, vni: Vni) -> Arc<Counters> {
    old.and_then(|old| old.links.get(&vni))
        .map(|link| Arc::clone(link.counters()))
        .unwrap_or_default()
}

fn show(name: &Label, installed: &Installed) -> PluginInfo {
    let Installed {
        record,
        plugin,
        links,
    } = installed;
    let now = Instant::now();
    let attachments = record.attachments.iter().map(|(&vni, attachment)| {
        let link = links.get(&vni);
        let count = |of: fn(&Counters) -> &std::sync::atomic::AtomicU64| {
            link.map_or(0, |link| of(link.counters()).load(Ordering::Relaxed))
        };
        AttachmentInfo {
            vni,
            order: attachment.order,
            config: attachment.config.clone(),
            fail: attachment.fail,
            trouble: link.and_then(|link| link.trouble(now)),
            last_fault: link.and_then(|link| link.last_fault()),
            asked: count(|c| &c.asked),
            dropped: count(|c| &c.dropped),
            failed: count(|c| &c.failed),
            ns: count(|c| &c.ns),
        }
    });
    PluginInfo {
        name: name.clone(),
        digest: record.digest,
        size: record.size,
        trouble: plugin.as_ref().err().cloned(),
        attachments: attachments.collect(),
    }
}
