//! What is installed and where it is attached; every change of that.
//!
//! A change goes in this order: build the new instances, keep the record (durable), take them into use. So a failure
//! changes nothing, and a crash leaves the old or the new. The controllers of the attachments that change stand still
//! meanwhile, between two events.

use super::chain::Chains;
use super::checker::{Caught, Checker};
use super::error::{
    AttachError, DetachError, InstallError, RemoveError, RollbackError, ShadowError, StartError,
};
use super::groups::Groups;
use super::link::{Counters, Lasting, Link, Spare};
use super::place::{Place, Placement, may_move};
use super::report::{PluginInfo, show};
use super::shadow::Shadow;
use super::shelf::{Attachment, Good, Record, Shelf, Version};
use super::tolls::Tolls;
use crate::compiler::Loader;
use crate::controllers::{Attached, House, LogLine, MAX_CONTROLLERS, Paused, Successor};
use crate::punts::Punts;
use crate::store::Store;
use meshd_core::ident::{Label, Vni};
use meshd_plugin_host::{Capability, Digest, Facts, FailMode, Instance, Manifest, Plugin, World};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Plugins that can be installed, and networks one can be attached to; each attachment may hold 16 MiB.
pub(super) const MAX_PLUGINS: usize = 256;
/// See [`MAX_PLUGINS`].
pub(super) const MAX_ATTACHMENTS: usize = 256;
/// Versions beside others, on this node: each may have 16 MiB and a tenth of a processor.
pub(super) const MAX_SHADOWS: usize = 8;
/// Earlier versions of a plugin that stay ready for `rollback`.
const MAX_EARLIER: usize = 3;

pub(super) struct Installed {
    pub(super) record: Record,
    /// Or why it does not load.
    pub(super) plugin: Result<Plugin, String>,
    /// Also of a plugin that does not load, as far as its file can be read: its fail mode holds then.
    pub(super) manifest: Option<Arc<Manifest>>,
    pub(super) links: BTreeMap<Vni, Arc<Link>>,
    pub(super) controllers: BTreeMap<Vni, Attached>,
}

impl Installed {
    /// Does it choose ways? Else it is a policy.
    pub(super) fn steers(&self) -> bool {
        match (&self.plugin, &self.manifest) {
            (Ok(plugin), _) => plugin.shape().world == World::Steering,
            (Err(_), manifest) => manifest
                .as_ref()
                .is_some_and(|manifest| manifest.world == World::Steering.name()),
        }
    }
}

pub(super) struct Registry {
    loader: Arc<Loader>,
    shelf: Shelf,
    store: Store,
    house: Arc<House>,
    checker: Option<Checker>,
    punts: Punts,
    lasting: BTreeMap<(Label, Vni), Lasting>,
    installed: BTreeMap<Label, Installed>,
    revision: u32,
    revisions: BTreeMap<Vni, u32>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop_controllers();
    }
}

impl Registry {
    pub(super) fn open(
        store: Store,
        state_dir: &Path,
        loader: Arc<Loader>,
        house: Arc<House>,
        checker: Option<Checker>,
        punts: Punts,
    ) -> Result<Self, StartError> {
        let shelf = Shelf::open(store.clone(), state_dir)?;
        let records = shelf.records()?;
        let mut out = Self {
            loader,
            shelf,
            store,
            house,
            checker,
            punts,
            lasting: BTreeMap::new(),
            installed: BTreeMap::new(),
            revision: 0,
            revisions: BTreeMap::new(),
        };
        for (name, record) in records {
            let plugin = out.ready(record.digest);
            let manifest = match &plugin {
                Ok(plugin) => plugin.manifest().cloned(),
                Err(_) => out.manifest(record.digest),
            };
            if let Err(reason) = &plugin {
                tracing::error!(plugin = %name, %reason, "an installed plugin does not load; its attachments answer by their fail mode");
            }
            let mut links = BTreeMap::new();
            let mut controllers = BTreeMap::new();
            for (&vni, attachment) in &record.attachments {
                let instance = plugin.clone().and_then(|plugin| {
                    Instance::new(&plugin, &attachment.config, 1).map_err(|e| e.to_string())
                });
                let lasting = out.lasting(&name, vni);
                let kept = (Arc::default(), lasting, None);
                let link = out.link(&name, attachment, &manifest, instance, kept);
                if let Ok(plugin) = &plugin
                    && plugin.has_controller()
                {
                    match out.resume(&name, vni, plugin, attachment, &link) {
                        Ok(attached) => {
                            controllers.insert(vni, attached);
                        }
                        Err(reason) => {
                            tracing::error!(plugin = %name, %vni, %reason, "a controller does not start");
                        }
                    }
                }
                links.insert(vni, link);
                out.moved(vni);
            }
            let installed = Installed {
                record,
                plugin,
                manifest,
                links,
                controllers,
            };
            out.installed.insert(name, installed);
        }
        out.sweep();
        Ok(out)
    }

    /// The controller of an attachment that was made before the daemon started.
    fn resume(
        &self,
        name: &Label,
        vni: Vni,
        plugin: &Plugin,
        attachment: &Attachment,
        link: &Arc<Link>,
    ) -> Result<Attached, String> {
        let grants = &attachment.grants;
        if let Some(lacking) = grants.lacks(plugin.wants()) {
            return Err(format!("{lacking} is not granted"));
        }
        let config = &attachment.config;
        let attached = Attached::later(&self.house, (name, vni), plugin, config, grants);
        let attached = attached.map_err(|e| e.to_string())?;
        attached
            .begin(Arc::clone(link))
            .map_err(|e| e.to_string())?;
        Ok(attached)
    }

    /// No controller is told anything any more; what each keeps is on the disk.
    pub(super) fn stop_controllers(&mut self) {
        let all = self.installed.values();
        all.flat_map(|installed| installed.controllers.values())
            .for_each(Attached::halt);
        for installed in self.installed.values_mut() {
            for attached in std::mem::take(&mut installed.controllers).into_values() {
                attached.stop();
            }
        }
    }

    fn controllers(&self) -> usize {
        let all = self.installed.values();
        all.map(|installed| installed.controllers.len()).sum()
    }

    /// The controller's lines behind `after`; `None`: there is none.
    pub(super) fn log(&self, name: &Label, vni: Vni, after: u64) -> Option<Vec<LogLine>> {
        let attached = self.installed.get(name)?.controllers.get(&vni)?;
        Some(attached.log(after))
    }

    /// The plugin with this digest, from its file.
    fn ready(&self, digest: Digest) -> Result<Plugin, String> {
        let wasm = self.shelf.get(digest)?;
        self.loader.load(&wasm).map_err(|e| e.to_string())
    }

    fn manifest(&self, digest: Digest) -> Option<Arc<Manifest>> {
        let wasm = self.shelf.get(digest).ok()?;
        Manifest::of(&wasm).ok()?.map(Arc::new)
    }

    fn link(
        &self,
        name: &Label,
        attachment: &Attachment,
        manifest: &Option<Arc<Manifest>>,
        instance: Result<Instance, String>,
        (counters, lasting, before): (Arc<Counters>, Lasting, Option<&Tolls>),
    ) -> Arc<Link> {
        let place = attachment.place(manifest);
        let spare = match (place.fail, &attachment.last_good) {
            (FailMode::LastGood, Some(good)) => self
                .ready(good.digest)
                .and_then(|plugin| {
                    let tolls = Tolls::of(name, &good.config, None)?;
                    let groups = Groups::of(name, &good.config)?;
                    let instance = Instance::new(&plugin, &good.config, 1).map_err(|e| e.to_string())?;
                    Ok((instance, tolls, groups))
                })
                .inspect_err(|reason| tracing::warn!(plugin = %name, %reason, "the last good version does not work; what this one cannot decide is dropped"))
                .ok()
                .map(|(instance, tolls, groups)| Spare {
                    digest: good.digest,
                    instance,
                    tolls,
                    groups,
                }),
            _ => None,
        };
        let (instance, tolls) = match (instance, Tolls::of(name, &attachment.config, before)) {
            (Ok(_), Err(reason)) => (Err(reason), Tolls::default()),
            (instance, tolls) => (instance, tolls.unwrap_or_default()),
        };
        let (instance, groups) = match (instance, Groups::of(name, &attachment.config)) {
            (Ok(_), Err(reason)) => (Err(reason), Groups::default()),
            (instance, groups) => (instance, groups.unwrap_or_default()),
        };
        let link = Link::new(name.clone(), place, instance, counters, lasting)
            .with_tolls(tolls)
            .with_groups(groups)
            .with_spare(spare)
            .with_checker(self.checker.clone());
        link.quarantine(attachment.quarantine.clone());
        Arc::new(link)
    }

    /// What lasts of an attachment; made where there is none.
    fn lasting(&mut self, name: &Label, vni: Vni) -> Lasting {
        let punts = &self.punts;
        let lasting = self.lasting.entry((name.clone(), vni));
        let new = || Lasting {
            punts: punts.open(),
            put: Arc::default(),
        };
        lasting.or_insert_with(new).clone()
    }

    /// What lasts of an attachment, if there is one.
    #[cfg(test)]
    pub(super) fn lasts(&self, name: &Label, vni: Vni) -> Option<&Lasting> {
        self.lasting.get(&(name.clone(), vni))
    }

    /// Files that nothing needs any more go.
    pub(super) fn sweep(&self) {
        let records = self.installed.values().map(|installed| &installed.record);
        let needed: BTreeSet<Digest> = records.flat_map(Record::digests).collect();
        self.shelf.sweep(&needed);
        self.loader.sweep(&needed);
    }

    pub(super) fn chains(&self) -> Chains {
        let mut chains = Chains::default();
        for installed in self.installed.values() {
            for (&vni, link) in &installed.links {
                if installed.steers() {
                    chains.steering.insert(vni, Arc::clone(link));
                } else {
                    chains.links.entry(vni).or_default().push(Arc::clone(link));
                }
            }
        }
        for links in chains.links.values_mut() {
            // They come by name, and the sort is stable.
            links.sort_by_key(|link| (link.place().stage, link.place().order));
        }
        chains
    }

    /// Of the policy chains.
    pub(super) fn revisions(&self) -> BTreeMap<Vni, u32> {
        self.revisions_of(false)
    }

    /// Of the steering plugins.
    pub(super) fn steering_revisions(&self) -> BTreeMap<Vni, u32> {
        self.revisions_of(true)
    }

    fn revisions_of(&self, steering: bool) -> BTreeMap<Vni, u32> {
        let in_use: BTreeSet<Vni> = self
            .installed
            .values()
            .filter(|installed| installed.steers() == steering)
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
        self.house.next_generation()
    }

    /// Takes `plugin`, which was made of `wasm`, into use under `name`.
    pub(super) fn install(
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
    pub(super) fn earlier(
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
    pub(super) fn roll_back(
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
    fn change_code(
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
                    tracing::error!(plugin = %name, %vni, %error, "a controller does not start");
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

    pub(super) fn remove(&mut self, name: &Label) -> Result<(), RemoveError> {
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
    pub(super) fn quarantine(&mut self, caught: &Caught) -> bool {
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
            tracing::warn!(plugin = %caught.name, %error, "a quarantine cannot be kept");
        }
        self.moved(caught.vni);
        true
    }

    pub(super) fn attach(
        &mut self,
        name: &Label,
        vni: Vni,
        config: Option<&str>,
        placement: Placement,
        grant: Option<&BTreeSet<Capability>>,
    ) -> Result<PluginInfo, AttachError> {
        let generation = self.next_generation();
        let installed = self
            .installed
            .get(name)
            .ok_or_else(|| AttachError::NotInstalled { name: name.clone() })?;
        let plugin = installed
            .plugin
            .as_ref()
            .map_err(|reason| AttachError::Broken {
                name: name.clone(),
                reason: reason.clone(),
            })?
            .clone();
        if installed.steers() {
            if placement != Placement::default() {
                return Err(AttachError::SteeringPlace { name: name.clone() });
            }
            let other = self.installed.iter().find(|(other, installed)| {
                *other != name && installed.steers() && installed.links.contains_key(&vni)
            });
            if let Some((other, _)) = other {
                return Err(AttachError::SteeringTaken {
                    name: name.clone(),
                    vni,
                    other: other.clone(),
                });
            }
        }
        let mut record = installed.record.clone();
        let old = record.attachments.get(&vni);
        if old.is_none() && record.attachments.len() >= MAX_ATTACHMENTS {
            return Err(AttachError::Full { name: name.clone() });
        }
        let manifest = plugin.manifest().cloned();
        let stage = manifest.as_deref().and_then(|manifest| manifest.stage);
        if let Some(to) = placement.stage
            && let Err(why) = may_move(stage, to)
        {
            return Err(AttachError::Stage {
                name: name.clone(),
                vni,
                from: stage.unwrap_or_default().word(),
                to: to.word(),
                why,
            });
        }
        let placement = Placement {
            order: placement.order.or(old.map(|old| old.order)),
            fail: placement.fail.or(old.and_then(|old| old.fail)),
            stage: placement.stage.or(old.and_then(|old| old.stage)),
        };
        let config = config
            .or(old.map(|old| old.config.as_str()))
            .unwrap_or_default();
        let grants = match (grant, old) {
            (None, Some(old)) => old.grants.clone(),
            (grant, _) => {
                let asks = plugin.asks();
                asks.granted(grant.unwrap_or(&BTreeSet::new()))
            }
        };
        if let Some(capability) = grants.lacks(plugin.wants()) {
            return Err(AttachError::Grant {
                name: name.clone(),
                vni,
                capability,
                asks: words(plugin.wants()),
            });
        }
        let running = installed.controllers.get(&vni).cloned();
        let mut paused = running.as_ref().map(Attached::pause);
        let facts = running
            .as_ref()
            .map_or_else(Facts::default, Attached::facts);
        let instance =
            Instance::with_facts(&plugin, config, facts, generation).map_err(|source| {
                AttachError::Configure {
                    name: name.clone(),
                    vni,
                    source,
                }
            })?;
        Tolls::of(name, instance.config(), None)
            .and_then(|_| Groups::of(name, instance.config()))
            .map_err(|reason| AttachError::Declared {
                name: name.clone(),
                vni,
                reason,
            })?;
        let old = record.attachments.get(&vni);
        let new = (record.digest, instance.config().to_owned());
        let same = old.is_some_and(|old| old.config == new.1);
        let attachment = Attachment {
            order: Place::new(placement, manifest.clone()).order,
            fail: placement.fail,
            stage: placement.stage,
            last_good: match old.filter(|_| same) {
                Some(old) => old.last_good.clone(),
                None => good_before(Some(installed), vni, &new),
            },
            quarantine: old.filter(|_| same).and_then(|old| old.quarantine.clone()),
            config: new.1,
            grants,
        };
        let refused = |source| AttachError::Controller {
            name: name.clone(),
            vni,
            source,
        };
        let fresh = match &mut paused {
            Some(paused) => {
                let before = paused.config();
                paused.configure(&attachment.config).map_err(refused)?;
                Fresh::Before(before)
            }
            None if plugin.has_controller() => {
                if self.controllers() >= MAX_CONTROLLERS {
                    return Err(AttachError::Controllers { name: name.clone() });
                }
                let (config, grants) = (&attachment.config, &attachment.grants);
                let attached = Attached::prepare(&self.house, (name, vni), &plugin, config, grants);
                Fresh::New(attached.map_err(refused)?)
            }
            None => Fresh::None,
        };
        record.attachments.insert(vni, attachment.clone());
        if let Err(source) = self.shelf.keep(name, &record) {
            if let (Some(paused), Fresh::Before(config)) = (&mut paused, fresh) {
                // It took this one before.
                let _ = paused.configure(&config);
            }
            return Err(AttachError::Keep {
                name: name.clone(),
                source,
            });
        }
        let lasting = self.lasting(name, vni);
        let installed = self
            .installed
            .get(name)
            .ok_or_else(|| AttachError::NotInstalled { name: name.clone() })?;
        let kept = (
            counters(Some(installed), vni),
            lasting,
            tolls(Some(installed), vni),
        );
        let link = self.link(name, &attachment, &manifest, Ok(instance), kept);
        if let Some(paused) = &paused {
            paused.grant(&attachment.grants);
            paused.stand_on(Arc::clone(&link));
        }
        let begun = match fresh {
            Fresh::New(attached) => match attached.begin(Arc::clone(&link)) {
                Ok(()) => Some(attached),
                Err(source) => {
                    // As it was; a start of the daemon that finds the new record would try again.
                    let _ = self.shelf.keep(name, &installed.record);
                    return Err(refused(source));
                }
            },
            Fresh::Before(_) | Fresh::None => None,
        };
        let installed = self
            .installed
            .get_mut(name)
            .ok_or_else(|| AttachError::NotInstalled { name: name.clone() })?;
        installed.record = record;
        installed.links.insert(vni, link);
        installed.controllers.extend(begun.map(|one| (vni, one)));
        let info = show(name, installed);
        self.moved(vni);
        self.sweep();
        Ok(info)
    }

    /// Has `plugin` asked what `name` is asked on `vni`, with the same config, from now on and until something changes there.
    pub(super) fn shadow(
        &mut self,
        name: &Label,
        vni: Vni,
        plugin: &Plugin,
    ) -> Result<PluginInfo, ShadowError> {
        let at_work = self.installed.values().flat_map(|one| one.links.values());
        let shadows = at_work.filter(|link| link.shadow().is_some()).count();
        let (installed, link) = self.place(name, vni)?;
        if installed.steers() || plugin.shape().world == World::Steering {
            return Err(ShadowError::Steering { name: name.clone() });
        }
        if shadows >= MAX_SHADOWS && link.shadow().is_none() {
            return Err(ShadowError::Full);
        }
        let config = installed
            .record
            .attachments
            .get(&vni)
            .map_or("", |attachment| attachment.config.as_str());
        let running = installed.controllers.get(&vni);
        let facts = running.map_or_else(Facts::default, Attached::facts);
        let generation = self.next_generation();
        let instance =
            Instance::with_facts(plugin, config, facts, generation).map_err(|source| {
                ShadowError::Configure {
                    name: name.clone(),
                    vni,
                    source,
                }
            })?;
        let old = link.place().clone();
        let new = old.with_manifest(plugin.manifest().cloned());
        let shadow =
            Shadow::start(plugin.digest(), instance, old, new).map_err(ShadowError::Thread)?;
        link.set_shadow(Some(shadow));
        Ok(show(name, installed))
    }

    /// Ends what [`Self::shadow`] began.
    pub(super) fn unshadow(&mut self, name: &Label, vni: Vni) -> Result<PluginInfo, ShadowError> {
        let (installed, link) = self.place(name, vni)?;
        match link.set_shadow(None) {
            Some(_) => Ok(show(name, installed)),
            None => Err(ShadowError::None {
                name: name.clone(),
                vni,
            }),
        }
    }

    fn place(&self, name: &Label, vni: Vni) -> Result<(&Installed, &Arc<Link>), ShadowError> {
        let installed = self
            .installed
            .get(name)
            .ok_or_else(|| ShadowError::NotInstalled { name: name.clone() })?;
        let link = installed.links.get(&vni);
        let link = link.ok_or_else(|| ShadowError::NotAttached {
            name: name.clone(),
            vni,
        })?;
        Ok((installed, link))
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
        if let Some(attached) = installed.controllers.remove(&vni) {
            attached.stop();
            drop(attached);
            if let Err(error) = crate::controllers::forget(&self.store, name, vni) {
                tracing::warn!(plugin = %name, %vni, %error, "what a controller kept could not be removed");
            }
        }
        if let Some(gone) = self.lasting.remove(&(name.clone(), vni)) {
            self.punts.close(gone.punts.id());
        }
        let info = show(name, installed);
        self.moved(vni);
        Ok(info)
    }

    pub(super) fn attachments(&self) -> BTreeSet<(Vni, Label)> {
        let all = self.installed.iter();
        all.flat_map(|(name, installed)| {
            let places = installed.record.attachments.keys();
            places.map(move |vni| (*vni, name.clone()))
        })
        .collect()
    }

    pub(super) fn list(&self) -> Vec<PluginInfo> {
        self.installed
            .iter()
            .map(|(name, installed)| show(name, installed))
            .collect()
    }
}

/// What a change of an attachment did with its controller so far.
enum Fresh {
    /// There is none.
    None,
    /// It has another config; this is the one before.
    Before(String),
    /// There was none.
    New(Attached),
}

/// As `--grant` takes them, without those that are granted in any case.
pub(super) fn words<'a>(wants: impl Iterator<Item = &'a Capability>) -> String {
    let named = wants.filter(|one| !Capability::DEFAULT.contains(one));
    let words: Vec<&str> = named.map(|one| one.word()).collect();
    words.join(",")
}

fn counters(old: Option<&Installed>, vni: Vni) -> Arc<Counters> {
    old.and_then(|old| old.links.get(&vni))
        .map(|link| Arc::clone(link.counters()))
        .unwrap_or_default()
}

fn tolls(old: Option<&Installed>, vni: Vni) -> Option<&Tolls> {
    let link = old.and_then(|old| old.links.get(&vni))?;
    Some(link.tolls())
}

impl Attachment {
    fn place(&self, manifest: &Option<Arc<Manifest>>) -> Place {
        let placement = Placement {
            order: Some(self.order),
            fail: self.fail,
            stage: self.stage,
        };
        Place::new(placement, manifest.clone())
    }
}

/// What an attachment falls back on after a change to `new`: what was there before if it works, else what that fell back on.
fn good_before(old: Option<&Installed>, vni: Vni, new: &(Digest, String)) -> Option<Good> {
    let old = old?;
    let before = old.record.attachments.get(&vni)?;
    let works = old
        .links
        .get(&vni)
        .is_some_and(|link| link.trouble(Instant::now()).is_none());
    let good = match works {
        true => Some(Good {
            digest: old.record.digest,
            config: before.config.clone(),
        }),
        false => None,
    };
    let differs = |good: &Good| good.digest != new.0 || good.config != new.1;
    good.filter(differs)
        .or_else(|| before.last_good.clone().filter(differs))
}
