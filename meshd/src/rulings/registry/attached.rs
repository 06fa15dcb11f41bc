//! Where plugins are attached: their places in the chains of networks, and the shadows beside them.

use super::{
    Fresh, Installed, MAX_ATTACHMENTS, MAX_SHADOWS, Registry, counters, good_before, tolls, words,
};
use crate::controllers::{Attached, MAX_CONTROLLERS};
use crate::rulings::error::{AttachError, DetachError, ShadowError};
use crate::rulings::groups::Groups;
use crate::rulings::link::Link;
use crate::rulings::place::{Place, Placement, may_move};
use crate::rulings::report::{PluginInfo, show};
use crate::rulings::shadow::Shadow;
use crate::rulings::shelf::Attachment;
use crate::rulings::tolls::Tolls;
use meshd_core::code::ErrorCode;
use meshd_core::ident::{Label, Vni};
use meshd_plugin_host::{Capability, Facts, Instance, Plugin, World};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Registry {
    pub(in crate::rulings) fn attach(
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
    pub(in crate::rulings) fn shadow(
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
    pub(in crate::rulings) fn unshadow(
        &mut self,
        name: &Label,
        vni: Vni,
    ) -> Result<PluginInfo, ShadowError> {
        let (installed, link) = self.place(name, vni)?;
        match link.set_shadow(None) {
            Some(_) => Ok(show(name, installed)),
            None => Err(ShadowError::None {
                name: name.clone(),
                vni,
            }),
        }
    }

    pub(super) fn place(
        &self,
        name: &Label,
        vni: Vni,
    ) -> Result<(&Installed, &Arc<Link>), ShadowError> {
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

    pub(in crate::rulings) fn detach(
        &mut self,
        name: &Label,
        vni: Vni,
    ) -> Result<PluginInfo, DetachError> {
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
                tracing::warn!(code = %ErrorCode::PluginUnkept, plugin = %name, %vni, %error, "what a controller kept could not be removed");
            }
        }
        if let Some(gone) = self.lasting.remove(&(name.clone(), vni)) {
            self.punts.close(gone.punts.id());
        }
        let info = show(name, installed);
        self.moved(vni);
        Ok(info)
    }

    pub(in crate::rulings) fn attachments(&self) -> BTreeSet<(Vni, Label)> {
        let all = self.installed.iter();
        all.flat_map(|(name, installed)| {
            let places = installed.record.attachments.keys();
            places.map(move |vni| (*vni, name.clone()))
        })
        .collect()
    }
}
