//! What is installed: a plugin's code, the code before it, and how one takes the other's place in every chain at once.

use super::{Installed, MAX_EARLIER, MAX_PLUGINS, Registry, counters, good_before, tolls};
use crate::controllers::{Attached, MAX_CONTROLLERS, Paused, Successor};
use crate::rulings::checker::Caught;
use crate::rulings::error::{InstallError, RemoveError, RollbackError};
use crate::rulings::link::Lasting;
use crate::rulings::place::may_move;
use crate::rulings::report::{PluginInfo, show};
use crate::rulings::shelf::{Record, Version};
use meshd_core::code::ErrorCode;
use meshd_core::ident::{Label, Vni};
use meshd_plugin_host::{Facts, Instance, Plugin, World};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Registry {
    /// Takes `plugin`, which was made of `wasm`, into use under `name`.
    pub(in crate::rulings) fn install(
        &mut self,
        name: &Label,
        plugin: Plugin,
        wasm: &[u8],
        source: Option<String>,
    ) -> Result<PluginInfo, InstallError> {
        let old = self.installed.get(name);
        if old.is_none() && self.installed.len() >= MAX_PLUGINS {
            return Err(InstallError::Full { name: name.clone() });
        }
        let mut record = old.map(|old| old.record.clone()).unwrap_or_else(|| Record {
            digest: plugin.digest(),
            size: wasm.len() as u64,
            source: None,
            attachments: BTreeMap::new(),
            history: Vec::new(),
        });
        record.source = source.or(record.source);
        if record.digest != plugin.digest() {
            let before = Version {
                digest: record.digest,
                size: record.size,
            };
            (record.digest, record.size) = (plugin.digest(), wasm.len() as u64);
            record
                .history
                .retain(|version| version.digest != record.digest);
            record.history.insert(0, before);
            record.history.truncate(MAX_EARLIER);
        }
        self.shelf
            .put(record.digest, wasm)
            .map_err(|source| InstallError::Keep {
                name: name.clone(),
                source,
            })?;
        self.change_code(name, plugin, record)
    }

    /// The component of an earlier version of `name`: the one before, or the one whose digest begins with `wanted`.
    pub(in crate::rulings) fn earlier(
        &self,
        name: &Label,
        wanted: Option<&str>,
    ) -> Result<Vec<u8>, RollbackError> {
        let installed = self
            .installed
            .get(name)
            .ok_or_else(|| RollbackError::NotInstalled { name: name.clone() })?;
        let history = &installed.record.history;
        let digest = history
            .iter()
            .map(|version| version.digest)
            .find(|digest| wanted.is_none_or(|wanted| digest.to_string().starts_with(wanted)))
            .ok_or_else(|| RollbackError::NoVersion {
                name: name.clone(),
                wanted: wanted.map_or_else(String::new, |wanted| format!(" {wanted}")),
                have: match history.is_empty() {
                    true => "none".to_owned(),
                    false => {
                        let short = history.iter().map(|version| version.digest.short());
                        short.collect::<Vec<_>>().join(", ")
                    }
                },
            })?;
        self.shelf
            .get(digest)
            .map_err(|reason| RollbackError::Broken {
                name: name.clone(),
                reason,
            })
    }

    /// Back to `plugin`, one of the earlier versions. The one that is left goes to the end of those, so that going back
    /// again goes further back.
    pub(in crate::rulings) fn roll_back(
        &mut self,
        name: &Label,
        plugin: Plugin,
    ) -> Result<PluginInfo, RollbackError> {
        let installed = self
            .installed
            .get(name)
            .ok_or_else(|| RollbackError::NotInstalled { name: name.clone() })?;
        let mut record = installed.record.clone();
        let found = record
            .history
            .iter()
            .position(|version| version.digest == plugin.digest())
            .ok_or_else(|| RollbackError::NoVersion {
                name: name.clone(),
                wanted: format!(" {} any more", plugin.digest().short()),
                have: "others; look at `meshd plugin ls`".to_owned(),
            })?;
        let target = record.history.remove(found);
        record.history.push(Version {
            digest: record.digest,
            size: record.size,
        });
        (record.digest, record.size) = (target.digest, target.size);
        Ok(self.change_code(name, plugin, record)?)
    }

    /// Two phases: every attachment gets an instance of `plugin` and `record` is kept, or nothing has changed.
    pub(super) fn change_code(
        &mut self,
        name: &Label,
        plugin: Plugin,
        mut record: Record,
    ) -> Result<PluginInfo, InstallError> {
        let old = self.installed.get(name);
        let manifest = plugin.manifest().cloned();
        let world = plugin.shape().world;
        if let Some(old) = old.filter(|old| !old.links.is_empty())
            && old.steers() != (world == World::Steering)
        {
            return Err(InstallError::World {
                name: name.clone(),
                world: world.name(),
            });
        }
        let stage = manifest.as_deref().and_then(|manifest| manifest.stage);
        let mut controllers = old.map(|old| old.controllers.clone()).unwrap_or_default();
        let running = controllers.clone();
        let mut paused: BTreeMap<Vni, Paused<'_>> = running
            .iter()
            .map(|(&vni, attached)| (vni, attached.pause()))
            .collect();
        let (mut instances, mut successors) = (BTreeMap::new(), BTreeMap::new());
        let mut fresh = BTreeMap::new();
        for (&vni, attachment) in &mut record.attachments {
            if let Some(to) = attachment.stage
                && let Err(why) = may_move(stage, to)
            {
                return Err(InstallError::Stage {
                    name: name.clone(),
                    vni,
                    from: stage.unwrap_or_default().word(),
                    to: to.word(),
                    why,
                });
            }
            if let Some(capability) = attachment.grants.lacks(plugin.wants()) {
                return Err(InstallError::Grant {
                    name: name.clone(),
                    vni,
                    capability,
                });
            }
            let facts = running
                .get(&vni)
                .map_or_else(Facts::default, Attached::facts);
            let config = &attachment.config;
            let instance = Instance::with_facts(&plugin, config, facts, self.next_generation())
                .map_err(|source| InstallError::Configure {
                    name: name.clone(),
                    vni,
                    source,
                })?;
            if plugin.has_controller() {
                let refused = |source| InstallError::Controller {
                    name: name.clone(),
                    vni,
                    source,
                };
                match paused.get_mut(&vni) {
                    Some(paused) => {
                        let successor: Successor =
                            paused.successor(&plugin, config).map_err(refused)?;
                        successors.insert(vni, successor);
                    }
                    None => {
                        if self.controllers() + fresh.len() >= MAX_CONTROLLERS {
                            return Err(InstallError::Full { name: name.clone() });
                        }
                        let place = (name, vni);
                        let attached = Attached::prepare(
                            &self.house,
                            place,
                            &plugin,
                            config,
                            &attachment.grants,
                        );
                        fresh.insert(vni, attached.map_err(refused)?);
                    }
                }
            }
            let new = (plugin.digest(), attachment.config.clone());
            attachment.last_good = good_before(old, vni, &new);
            attachment.quarantine = None;
            instances.insert(vni, instance);
        }
        self.shelf
            .keep(name, &record)
            .map_err(|source| InstallError::Keep {
                name: name.clone(),
                source,
            })?;
        let lasting: Vec<Lasting> = instances
            .keys()
            .map(|&vni| self.lasting(name, vni))
            .collect();
        let old = self.installed.get(name);
        let mut links = BTreeMap::new();
        for ((vni, instance), lasting) in instances.into_iter().zip(lasting) {
            if let Some(attachment) = record.attachments.get(&vni) {
                let link = self.link(
                    name,
                    attachment,
                    &manifest,
                    Ok(instance),
                    (counters(old, vni), lasting, tolls(old, vni)),
                );
                links.insert(vni, link);
            }
        }
        for (vni, mut paused) in paused {
            match (successors.remove(&vni), links.get(&vni)) {
                (Some(successor), Some(link)) => {
                    paused.succeed(successor);
                    paused.stand_on(Arc::clone(link));
                }
                // The new version has no controller. What the old one kept stays, for a way back.
                _ => {
                    drop(paused);
                    if let Some(attached) = controllers.remove(&vni) {
                        attached.stop();
                    }
                }
            }
        }
        for (vni, attached) in fresh {
            let Some(link) = links.get(&vni) else {
                continue;
            };
            match attached.begin(Arc::clone(link)) {
                Ok(()) => {
                    controllers.insert(vni, attached);
                }
                Err(error) => {
                    tracing::error!(code = %ErrorCode::PluginControllerFailed, plugin = %name, %vni, %error, "a controller does not start");
                }
            }
        }
        let networks: Vec<Vni> = links.keys().copied().collect();
        let installed = Installed {
            record,
            plugin: Ok(plugin),
            manifest,
            links,
            controllers,
        };
        let info = show(name, &installed);
        self.installed.insert(name.clone(), installed);
        for vni in networks {
            self.moved(vni);
        }
        self.sweep();
        Ok(info)
    }

    pub(in crate::rulings) fn remove(&mut self, name: &Label) -> Result<(), RemoveError> {
        let installed = self
            .installed
            .get(name)
            .ok_or_else(|| RemoveError::NotInstalled { name: name.clone() })?;
        let networks: Vec<Vni> = installed.record.attachments.keys().copied().collect();
        if !networks.is_empty() {
            return Err(RemoveError::Attached {
                name: name.clone(),
                networks,
            });
        }
        self.shelf
            .forget(name)
            .map_err(|source| RemoveError::Keep {
                name: name.clone(),
                source,
            })?;
        self.installed.remove(name);
        self.sweep();
        Ok(())
    }

    /// A decision did not hold: the attachment that made it answers for exactly equal frames only, until its code or config
    /// changes. False: it has changed already.
    pub(in crate::rulings) fn quarantine(&mut self, caught: &Caught) -> bool {
        let Some(installed) = self.installed.get_mut(&caught.name) else {
            return false;
        };
        let Some(link) = installed
            .links
            .get(&caught.vni)
            .filter(|link| link.is_mark(&caught.mark) && link.quarantined().is_none())
        else {
            return false;
        };
        let reason = caught.lie.to_string();
        link.quarantine(Some(reason.clone()));
        if let Some(attachment) = installed.record.attachments.get_mut(&caught.vni) {
            attachment.quarantine = Some(reason);
        }
        if let Err(error) = self.shelf.keep(&caught.name, &installed.record) {
            // It holds until the next start, and then the next sample finds it again.
            tracing::warn!(code = %ErrorCode::PluginUnkept, plugin = %caught.name, %error, "a quarantine cannot be kept");
        }
        self.moved(caught.vni);
        true
    }
}
