//! What is installed and where it is attached; every change of that.
//!
//! A change goes in this order: build the new instances, keep the record (durable), take them into use. So a failure
//! changes nothing, and a crash leaves the old or the new. The controllers of the attachments that change stand still
//! meanwhile, between two events.

mod attached;
mod installed;

use super::chain::Chains;
use super::checker::Checker;
use super::error::StartError;
use super::groups::Groups;
use super::link::{Counters, Lasting, Link, Spare};
use super::place::{Place, Placement};
use super::report::{PluginInfo, show};
use super::shelf::{Attachment, Good, Record, Shelf};
use super::tolls::Tolls;
use crate::compiler::Loader;
use crate::controllers::{Attached, House, LogLine};
use crate::punts::Punts;
use crate::store::Store;
use meshd_core::code::ErrorCode;
use meshd_core::ident::{Label, Vni};
use meshd_plugin_host::{Capability, Digest, FailMode, Instance, Manifest, Plugin, World};
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
                tracing::error!(code = %ErrorCode::PluginBroken, plugin = %name, %reason, "an installed plugin does not load; its attachments answer by their fail mode");
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
                            tracing::error!(code = %ErrorCode::PluginControllerFailed, plugin = %name, %vni, %reason, "a controller does not start");
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
                .inspect_err(|reason| tracing::warn!(code = %ErrorCode::PluginBroken, plugin = %name, %reason, "the last good version does not work; what this one cannot decide is dropped"))
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

    pub(super) fn list(&self) -> Vec<PluginInfo> {
        self.installed
            .iter()
            .map(|(name, installed)| show(name, installed))
            .collect()
    }
}

/// As `--grant` takes them, without those that are granted in any case.
pub(super) fn words<'a>(wants: impl Iterator<Item = &'a Capability>) -> String {
    let named = wants.filter(|one| !Capability::DEFAULT.contains(one));
    let words: Vec<&str> = named.map(|one| one.word()).collect();
    words.join(",")
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

/// What a change of an attachment did with its controller so far.
enum Fresh {
    /// There is none.
    None,
    /// It has another config; this is the one before.
    Before(String),
    /// There was none.
    New(Attached),
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
