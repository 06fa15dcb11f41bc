//! Changes of plugins and host devices, told as events: what there was a moment ago is compared with what there is.
//!
//! Owns the comparison, which knows nothing of how a change came about: so none is forgotten.

use crate::devices::Devices;
use crate::driver::DriverHandle;
use crate::rhythm::beat;
use crate::rulings::{PluginInfo, Rulings};
use meshd_core::ident::Vni;
use meshd_core::notice::{Notice, PluginStep};
use meshd_core::view::{Device, DeviceState};
use std::collections::BTreeMap;
use std::time::Duration;

/// Between two looks. The breaker of a plugin lets it rest for a second at least.
const LOOK: Duration = Duration::from_secs(1);

/// Until it is dropped.
pub(crate) async fn follow(rulings: Rulings, devices: Devices, driver: DriverHandle) {
    let mut plugins = None;
    let mut host = None;
    loop {
        // Not on a thread of the runtime: a change may hold them for as long as a plugin takes to read its config.
        let worker = rulings.clone();
        if let Ok(list) = tokio::task::spawn_blocking(move || worker.list()).await {
            let now = plugins_of(&list);
            if let Some(before) = plugins.replace(now.clone()) {
                for notice in plugin_changes(&before, &now) {
                    driver.notice(notice);
                }
            }
        }
        let now = devices_of(&devices.show());
        if let Some(before) = host.replace(now.clone()) {
            for notice in device_changes(&before, &now) {
                driver.notice(notice);
            }
        }
        beat(LOOK).await;
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Plugin {
    digest: String,
    trouble: Option<String>,
    places: BTreeMap<Vni, Place>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// Stage, order, fail mode and config.
    as_set: (String, u16, String, String),
    trouble: Option<String>,
}

type Plugins = BTreeMap<String, Plugin>;

fn plugins_of(list: &[PluginInfo]) -> Plugins {
    let plugin = |info: &PluginInfo| Plugin {
        digest: info.digest.short(),
        trouble: info.trouble.clone(),
        places: info
            .attachments
            .iter()
            .map(|at| {
                let fail = at.fail.word().to_owned();
                let controller = at.controller.as_ref();
                let trouble = at.trouble.clone();
                let place = Place {
                    as_set: (
                        at.stage.word().to_owned(),
                        at.order,
                        fail,
                        at.config.clone(),
                    ),
                    trouble: trouble.or_else(|| controller.and_then(|its| its.trouble.clone())),
                };
                (at.vni, place)
            })
            .collect(),
    };
    list.iter()
        .map(|info| (info.name.to_string(), plugin(info)))
        .collect()
}

fn plugin_changes(before: &Plugins, now: &Plugins) -> Vec<Notice> {
    let mut told = Vec::new();
    let mut tell = |plugin: &String, vni, state, reason: String| {
        told.push(Notice::Plugin {
            plugin: plugin.clone(),
            vni,
            state,
            reason,
        });
    };
    let none = BTreeMap::new();
    for (name, is) in now {
        let was = before.get(name);
        match was {
            None => tell(
                name,
                None,
                PluginStep::Installed,
                format!("version {}", is.digest),
            ),
            Some(was) if was.digest != is.digest => {
                let reason = format!("version {} in the place of {}", is.digest, was.digest);
                tell(name, None, PluginStep::Replaced, reason);
            }
            Some(_) => {}
        }
        match (was.and_then(|was| was.trouble.as_ref()), &is.trouble) {
            (was, Some(trouble)) if was != Some(trouble) => {
                tell(name, None, PluginStep::Failing, trouble.clone());
            }
            (Some(_), None) => tell(name, None, PluginStep::Well, String::new()),
            _ => {}
        }
        let places = was.map_or(&none, |was| &was.places);
        for (vni, place) in &is.places {
            let was = places.get(vni);
            match was {
                None => {
                    let (stage, order, fail, _) = &place.as_set;
                    let reason = format!("stage {stage}, order {order}, fails {fail}");
                    tell(name, Some(*vni), PluginStep::Attached, reason);
                }
                Some(was) if was.as_set != place.as_set => {
                    let reason = "its config, place or fail mode is another".to_owned();
                    tell(name, Some(*vni), PluginStep::Changed, reason);
                }
                Some(_) => {}
            }
            match (was.and_then(|was| was.trouble.as_ref()), &place.trouble) {
                (None, Some(trouble)) => {
                    tell(name, Some(*vni), PluginStep::Failing, trouble.clone());
                }
                (Some(_), None) => tell(name, Some(*vni), PluginStep::Well, String::new()),
                // Words of trouble may hold how long it lasts: told once.
                _ => {}
            }
        }
        for vni in places.keys().filter(|vni| !is.places.contains_key(vni)) {
            tell(name, Some(*vni), PluginStep::Detached, String::new());
        }
    }
    for (name, was) in before.iter().filter(|(name, _)| !now.contains_key(*name)) {
        for vni in was.places.keys() {
            tell(name, Some(*vni), PluginStep::Detached, String::new());
        }
        tell(name, None, PluginStep::Removed, String::new());
    }
    told
}

type Host = BTreeMap<String, (DeviceState, String)>;

fn devices_of(list: &[Device]) -> Host {
    let row = |device: &Device| {
        let why = device.why.join("; ");
        (device.name.text.clone(), (device.state, why))
    };
    list.iter().map(row).collect()
}

fn device_changes(before: &Host, now: &Host) -> Vec<Notice> {
    let gone = before.keys().filter(|name| !now.contains_key(*name));
    now.keys()
        .chain(gone)
        .filter_map(|name| {
            let (was, is) = (before.get(name), now.get(name));
            let state = |one: Option<&(DeviceState, String)>| one.map(|(state, _)| *state);
            (state(was) != state(is)).then(|| Notice::Device {
                name: name.clone(),
                from: state(was),
                to: state(is),
                reason: is.map(|(_, why)| why.clone()).unwrap_or_default(),
            })
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn plugin(digest: &str, places: &[(u32, u16, Option<&str>)]) -> Plugin {
        let place = |&(vni, order, trouble): &(u32, u16, Option<&str>)| {
            let as_set = (
                "guard".to_owned(),
                order,
                "closed".to_owned(),
                "{}".to_owned(),
            );
            let trouble = trouble.map(str::to_owned);
            (Vni::new(vni).unwrap(), Place { as_set, trouble })
        };
        Plugin {
            digest: digest.to_owned(),
            trouble: None,
            places: places.iter().map(place).collect(),
        }
    }

    fn steps(before: &Plugins, now: &Plugins) -> Vec<(String, Option<u32>, PluginStep)> {
        plugin_changes(before, now)
            .into_iter()
            .map(|notice| match notice {
                Notice::Plugin {
                    plugin, vni, state, ..
                } => (plugin, vni.map(Vni::get), state),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn each_change_of_a_plugin_is_told_once_and_what_stays_is_not() {
        let none = Plugins::new();
        let of = |plugin: Plugin| Plugins::from([("acl".to_owned(), plugin)]);
        let step = |vni, state| ("acl".to_owned(), vni, state);
        let first = of(plugin("a", &[(7, 100, None)]));
        assert_eq!(
            steps(&none, &first),
            [
                step(None, PluginStep::Installed),
                step(Some(7), PluginStep::Attached)
            ]
        );
        assert_eq!(steps(&first, &first), []);
        let failing = of(plugin("b", &[(7, 100, Some("for 1 s"))]));
        assert_eq!(
            steps(&first, &failing),
            [
                step(None, PluginStep::Replaced),
                step(Some(7), PluginStep::Failing)
            ]
        );
        let still = of(plugin("b", &[(7, 100, Some("for 2 s"))]));
        assert_eq!(steps(&failing, &still), []);
        let moved = of(plugin("b", &[(7, 50, None), (8, 100, None)]));
        assert_eq!(
            steps(&still, &moved),
            [
                step(Some(7), PluginStep::Changed),
                step(Some(7), PluginStep::Well),
                step(Some(8), PluginStep::Attached)
            ]
        );
        assert_eq!(
            steps(&moved, &none),
            [
                step(Some(7), PluginStep::Detached),
                step(Some(8), PluginStep::Detached),
                step(None, PluginStep::Removed)
            ]
        );
    }

    #[test]
    fn a_device_that_comes_changes_or_goes_is_told_with_its_reason() {
        let of = |state, why: &str| Host::from([("bond0".to_owned(), (state, why.to_owned()))]);
        let (ready, partial) = (
            of(DeviceState::Ready, ""),
            of(DeviceState::Partial, "no eth1"),
        );
        assert_eq!(device_changes(&ready, &ready), []);
        assert_eq!(
            device_changes(&ready, &partial),
            [Notice::Device {
                name: "bond0".to_owned(),
                from: Some(DeviceState::Ready),
                to: Some(DeviceState::Partial),
                reason: "no eth1".to_owned(),
            }]
        );
        assert_eq!(device_changes(&Host::new(), &ready).len(), 1);
        assert_eq!(device_changes(&ready, &Host::new()).len(), 1);
    }
}
