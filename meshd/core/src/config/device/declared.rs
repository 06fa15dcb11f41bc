//! Devices that were declared by the API, beside those of the file.
//!
//! ```text
//!   [[device.…]] of the file --+
//!                              +-- merge --> one DevicesConfig that holds --> Wishes
//!   PUT /v1/devices/NAME ------+        \--> what does not count, and why
//! ```
//!
//! Owns who has a name: the file goes first, since it is edited without asking anybody. What was declared by the API and cannot be
//! beside it is kept and does not count until it can. A change that could not count at once is refused.

use super::{
    BondConfig, BridgeConfig, Common, DEVICES_MAX, DeviceName, DevicesConfig, DummyConfig, Fault,
    MacvlanConfig, VlanConfig,
};
use crate::code::ErrorCode;
use crate::command::Refusal;
use crate::config::place::{ConfigError, read};
use crate::ident::escape;
use crate::view::DeviceSource;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One device, as its section of the file has it: `{"bond": {"name": "bond0", "members": ["eth1", "eth2"]}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[allow(
    clippy::large_enum_variant,
    reason = "one is a line of what somebody typed; there are at most 256"
)]
pub enum DeviceConfig {
    /// `[[device.dummy]]`.
    Dummy(DummyConfig),
    /// `[[device.bond]]`.
    Bond(BondConfig),
    /// `[[device.vlan]]`.
    Vlan(VlanConfig),
    /// `[[device.bridge]]`.
    Bridge(BridgeConfig),
    /// `[[device.macvlan]]`.
    Macvlan(MacvlanConfig),
    /// `[[device.macvtap]]`.
    Macvtap(MacvlanConfig),
}

impl DeviceConfig {
    /// In a word, as the file has it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Dummy(_) => "dummy",
            Self::Bond(_) => "bond",
            Self::Vlan(_) => "vlan",
            Self::Bridge(_) => "bridge",
            Self::Macvlan(_) => "macvlan",
            Self::Macvtap(_) => "macvtap",
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &DeviceName {
        match self {
            Self::Dummy(it) => &it.name,
            Self::Bond(it) => &it.name,
            Self::Vlan(it) => &it.name,
            Self::Bridge(it) => &it.name,
            Self::Macvlan(it) | Self::Macvtap(it) => &it.name,
        }
    }
}

impl DevicesConfig {
    /// Reads a text of `[[device.…]]` sections, and nothing else. What cannot be together is not looked for.
    ///
    /// # Errors
    /// The first thing that cannot be read, with its place.
    pub fn listed(text: &str) -> Result<Vec<DeviceConfig>, ConfigError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Devices {
            device: DevicesConfig,
        }
        let Devices { device } = read(text)?;
        Ok(device.each().collect())
    }

    /// All, bridges last: one that is adopted wants its members to be declared before.
    fn each(self) -> impl Iterator<Item = DeviceConfig> {
        let dummies = self.dummies.into_iter().map(DeviceConfig::Dummy);
        let bonds = self.bonds.into_iter().map(DeviceConfig::Bond);
        let vlans = self.vlans.into_iter().map(DeviceConfig::Vlan);
        let macvlans = self.macvlans.into_iter().map(DeviceConfig::Macvlan);
        let macvtaps = self.macvtaps.into_iter().map(DeviceConfig::Macvtap);
        let bridges = self.bridges.into_iter().map(DeviceConfig::Bridge);
        let stations = macvlans.chain(macvtaps);
        dummies
            .chain(bonds)
            .chain(vlans)
            .chain(stations)
            .chain(bridges)
    }

    fn push(&mut self, device: DeviceConfig) {
        match device {
            DeviceConfig::Dummy(it) => self.dummies.push(it),
            DeviceConfig::Bond(it) => self.bonds.push(it),
            DeviceConfig::Vlan(it) => self.vlans.push(it),
            DeviceConfig::Bridge(it) => self.bridges.push(it),
            DeviceConfig::Macvlan(it) => self.macvlans.push(it),
            DeviceConfig::Macvtap(it) => self.macvtaps.push(it),
        }
    }

    fn with<'a>(&self, more: impl IntoIterator<Item = &'a DeviceConfig>) -> Self {
        let mut all = self.clone();
        for device in more {
            all.push(device.clone());
        }
        all
    }

    fn has(&self, name: &DeviceName) -> bool {
        self.all().iter().any(|it| it.base.name == name)
    }

    /// What is wrong, with the device that the fault is told of.
    fn fault(&self) -> Option<String> {
        let (section, nth, key, message): Fault = self.first_wrong()?;
        let is_it = |it: &&Common<'_>| (it.section, it.nth) == (section, nth);
        let all = self.all();
        let name = all.iter().find(is_it).map(|it| it.base.name.to_string());
        let kind = section.trim_start_matches("device.");
        Some(format!(
            "`{key}` of {kind} {}: {message}",
            name.unwrap_or_default()
        ))
    }
}

/// What the file and the API say together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// What counts.
    pub config: DevicesConfig,
    /// Who declared what counts, and how.
    pub counts: BTreeMap<DeviceName, (DeviceSource, DeviceConfig)>,
    /// What was declared by the API and does not count, and why.
    pub left_out: BTreeMap<DeviceName, (DeviceConfig, String)>,
}

/// Everything that was declared on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// What the file is called in messages.
    place: String,
    file: DevicesConfig,
    api: BTreeMap<DeviceName, DeviceConfig>,
}

impl Declared {
    /// What a file says, and what was kept of the API.
    #[must_use]
    pub fn new(
        place: String,
        file: DevicesConfig,
        api: impl IntoIterator<Item = DeviceConfig>,
    ) -> Self {
        let api = api.into_iter();
        Self {
            place,
            file,
            api: api.map(|device| (device.name().clone(), device)).collect(),
        }
    }

    /// The file says this now.
    pub fn set_file(&mut self, file: DevicesConfig) {
        self.file = file;
    }

    /// What counts of it.
    #[must_use]
    pub fn merge(&self) -> Merged {
        let mut merged = Merged::default();
        let mut open: Vec<&DeviceConfig> = Vec::new();
        for (name, device) in &self.api {
            if self.file.has(name) {
                let why = format!(
                    "the API has another device {name}, which does not count beside {}: `meshd device rm {name}` forgets it",
                    self.place
                );
                merged.left_out.insert(name.clone(), (device.clone(), why));
            } else {
                open.push(device);
            }
        }
        let mut all = self.file.with(open.iter().copied());
        let mut taken: Vec<&DeviceConfig> = Vec::new();
        if all.first_wrong().is_none() {
            taken.append(&mut open);
        }
        // One by one, again while that lets in others: a bridge may come before what is to be in it.
        let mut is_new = !open.is_empty();
        while is_new {
            is_new = false;
            open.retain(|device| {
                let more = taken.iter().copied().chain([*device]);
                let fits = self.file.with(more).first_wrong().is_none();
                if fits {
                    taken.push(device);
                    is_new = true;
                }
                !fits
            });
            all = self.file.with(taken.iter().copied());
        }
        for device in open {
            let fault = self
                .file
                .with(taken.iter().copied().chain([device]))
                .fault();
            let why = format!(
                "declared by the API, and cannot be beside the rest: {}; `meshd device rm {}` forgets it",
                fault.unwrap_or_default(),
                device.name()
            );
            let left = (device.clone(), why);
            merged.left_out.insert(device.name().clone(), left);
        }
        let of_file = self.file.clone().each();
        let of_file = of_file.map(|device| (DeviceSource::File, device));
        let of_api = taken.into_iter().cloned();
        let of_api = of_api.map(|device| (DeviceSource::Api, device));
        merged.counts = of_file
            .chain(of_api)
            .map(|(source, device)| (device.name().clone(), (source, device)))
            .collect();
        merged.config = all;
        merged
    }

    /// With a device of the API, which is new or takes the place of the one of its name.
    ///
    /// # Errors
    /// If the name is the file's, or the device cannot be: by itself, or beside the others.
    pub fn put(&self, device: DeviceConfig) -> Result<Self, Refusal> {
        let name = device.name().clone();
        if self.file.has(&name) {
            return Err(
                self.is_the_files(&name, "change it there, or give the new one another name")
            );
        }
        if let Some(fault) = DevicesConfig::default().with([&device]).fault() {
            // A bridge that is adopted is wrong alone, and may be right beside what is to be in it.
            if !matches!(&device, DeviceConfig::Bridge(bridge) if bridge.adopt) {
                return Err(Refusal::new(ErrorCode::DeviceInvalid, fault));
            }
        }
        // Also what does not count is kept, and bounded.
        if self.api.len() >= DEVICES_MAX && !self.api.contains_key(&name) {
            let message = format!(
                "{DEVICES_MAX} devices were declared by the API already, those that do not count included; remove some"
            );
            return Err(Refusal::new(ErrorCode::DeviceConflict, message));
        }
        let others = self.merge().counts;
        let others = others
            .iter()
            .filter(|(other, (source, _))| **other != name && *source == DeviceSource::Api);
        let all = others.map(|(_, (_, other))| other).chain([&device]);
        if let Some(fault) = self.file.with(all).fault() {
            return Err(Refusal::new(ErrorCode::DeviceConflict, fault));
        }
        let mut next = self.clone();
        next.api.insert(name, device);
        Ok(next)
    }

    /// Without a device of the API.
    ///
    /// # Errors
    /// If there is none of that name, it is the file's, or another one stands on it or has it in it.
    pub fn remove(&self, name: &DeviceName) -> Result<Self, Refusal> {
        if !self.api.contains_key(name) {
            return Err(match self.file.has(name) {
                true => self.is_the_files(name, "take it out there"),
                false => unknown(&name.to_string()),
            });
        }
        let merged = self.merge();
        if !merged.left_out.contains_key(name) {
            let all = merged.config.all();
            let users = all
                .iter()
                .filter(|it| it.lower().any(|lower| lower == name));
            let users: Vec<String> = users
                .map(|it| {
                    let kind = it.section.trim_start_matches("device.");
                    format!("{kind} {}", it.base.name)
                })
                .collect();
            if !users.is_empty() {
                let message = format!(
                    "{name} is what {} stands on; remove or change that first",
                    users.join(", ")
                );
                return Err(Refusal::new(ErrorCode::DeviceInUse, message));
            }
        }
        let mut next = self.clone();
        next.api.remove(name);
        Ok(next)
    }

    fn is_the_files(&self, name: &DeviceName, advice: &str) -> Refusal {
        let message = format!("device {name} is declared in {}; {advice}", self.place);
        Refusal::new(ErrorCode::DeviceInFile, message)
    }
}

/// Of whatever was asked for.
#[must_use]
pub fn unknown(name: &str) -> Refusal {
    let name = escape(name.as_bytes());
    let message = format!("there is no device \"{name}\"; see `meshd devices`");
    Refusal::new(ErrorCode::DeviceUnknown, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::Config;
    use proptest::prelude::*;

    fn device(text: &str) -> DeviceConfig {
        let mut listed = DevicesConfig::listed(text).unwrap();
        assert_eq!(listed.len(), 1, "{text}");
        listed.remove(0)
    }

    fn bond(name: &str, members: &str) -> DeviceConfig {
        device(&format!(
            "[[device.bond]]\nname = \"{name}\"\nmembers = [{members}]\n"
        ))
    }

    fn vlan(name: &str, parent: &str) -> DeviceConfig {
        device(&format!(
            "[[device.vlan]]\nname = \"{name}\"\nparent = \"{parent}\"\nid = 7\n"
        ))
    }

    fn file(text: &str) -> Declared {
        let config = Config::parse(text).unwrap();
        Declared::new("/etc/meshd/meshd.toml".to_owned(), config.device, [])
    }

    fn name(text: &str) -> DeviceName {
        text.to_owned().try_into().unwrap()
    }

    const FILE: &str = "[[device.bond]]\nname = \"bond0\"\nmembers = [\"eth1\"]\n";

    #[test]
    fn a_device_of_the_api_counts_beside_the_files_and_the_same_again_changes_nothing() {
        let first = file(FILE).put(vlan("bond0.7", "bond0")).unwrap();
        assert_eq!(first.put(vlan("bond0.7", "bond0")).unwrap(), first);
        let merged = first.merge();
        assert_eq!(merged.config.wishes().len(), 2);
        let source = |of: &str| merged.counts[&name(of)].0;
        assert_eq!(source("bond0"), DeviceSource::File);
        assert_eq!(source("bond0.7"), DeviceSource::Api);
        assert!(merged.left_out.is_empty());
    }

    #[test]
    fn what_the_file_declares_is_the_files() {
        let declared = file(FILE);
        let refused = declared.put(bond("bond0", "\"eth2\"")).unwrap_err();
        assert_eq!(refused.code, ErrorCode::DeviceInFile);
        assert!(refused.message.contains("/etc/meshd/meshd.toml"));
        let refused = declared.remove(&name("bond0")).unwrap_err();
        assert_eq!(refused.code, ErrorCode::DeviceInFile);
        let refused = declared.remove(&name("bond1")).unwrap_err();
        assert_eq!(refused.code, ErrorCode::DeviceUnknown);
    }

    #[test]
    fn what_cannot_be_is_told_apart_from_what_cannot_be_beside_the_others() {
        let declared = file(FILE);
        let refused = declared.put(bond("bond1", "")).unwrap_err();
        assert_eq!(refused.code, ErrorCode::DeviceInvalid);
        assert!(
            refused.message.contains("`members` of bond bond1"),
            "{refused}"
        );
        let refused = declared.put(bond("bond1", "\"eth1\"")).unwrap_err();
        assert_eq!(refused.code, ErrorCode::DeviceConflict);
        assert!(refused.message.contains("bond0"), "{refused}");
        let around = declared.put(bond("bond1", "\"v0\"")).unwrap();
        let refused = around.put(vlan("v0", "bond1")).unwrap_err();
        assert!(refused.message.contains("circle"), "{refused}");
    }

    #[test]
    fn what_others_stand_on_is_not_removed_before_them() {
        let declared = Declared::default().put(bond("b", "\"eth1\"")).unwrap();
        let declared = declared.put(vlan("v", "b")).unwrap();
        let refused = declared.remove(&name("b")).unwrap_err();
        assert_eq!(refused.code, ErrorCode::DeviceInUse);
        assert!(refused.message.contains("vlan v"), "{refused}");
        let declared = declared.remove(&name("v")).unwrap();
        assert_eq!(declared.remove(&name("b")).unwrap(), Declared::default());
    }

    #[test]
    fn a_file_that_comes_to_say_otherwise_goes_first_and_what_it_left_out_comes_back() {
        let mut declared = Declared::default().put(bond("b", "\"eth1\"")).unwrap();
        declared = declared.put(vlan("v", "b")).unwrap();
        let before = declared.clone();
        declared.set_file(Config::parse(FILE).unwrap().device);
        let merged = declared.merge();
        // Its member is the file's bond's now. The VLAN waits for a parent, as it does in a file.
        assert!(merged.left_out[&name("b")].1.contains("eth1"));
        assert_eq!(merged.config.wishes().len(), 2);
        // Of the same name.
        let same = Config::parse(&FILE.replace("bond0", "b")).unwrap().device;
        declared.set_file(same);
        let merged = declared.merge();
        assert_eq!(merged.counts[&name("b")].0, DeviceSource::File);
        assert!(merged.left_out[&name("b")].1.contains("meshd device rm b"));
        // What does not count is removed though others stand on the file's of that name.
        assert!(declared.remove(&name("b")).is_ok());
        declared.set_file(DevicesConfig::default());
        assert_eq!(declared.merge(), before.merge());
    }

    #[test]
    fn an_adopted_bridge_takes_devices_of_both() {
        let adopted =
            device("[[device.bridge]]\nname = \"a\"\nadopt = true\nmembers = [\"bond0\", \"z\"]\n");
        let refused = file(FILE).put(adopted.clone()).unwrap_err();
        assert!(refused.message.contains("z is no device"), "{refused}");
        let dummy = device("[[device.dummy]]\nname = \"z\"\n");
        let declared = file(FILE).put(dummy).unwrap().put(adopted).unwrap();
        assert!(declared.merge().left_out.is_empty());
        let refused = declared.remove(&name("z")).unwrap_err();
        assert_eq!(refused.code, ErrorCode::DeviceInUse);
    }

    #[test]
    fn as_json_it_has_the_keys_of_the_file() {
        let read = serde_json::from_str::<DeviceConfig>;
        let text = r#"{"bond": {"name": "b", "members": ["eth1"], "mode": "802.3ad"}}"#;
        let lacp = "[[device.bond]]\nname = \"b\"\nmembers = [\"eth1\"]\nmode = \"802.3ad\"\n";
        assert_eq!(read(text).unwrap(), device(lacp));
        let again = serde_json::to_string(&device(lacp)).unwrap();
        assert_eq!(read(&again).unwrap(), device(lacp));
        for odd in [
            r#"{"bond": {"name": "b", "members": [], "mood": "good"}}"#,
            r#"{"bond": {"name": "b/c", "members": []}}"#,
            r#"{"tunnel": {"name": "b"}}"#,
            r#"{"bond": {"name": "b", "members": []}, "dummy": {"name": "c"}}"#,
            r#"{"dummy": {"name": "a-name-that-is-too-long"}}"#,
            r#"{"dummy": {"name": "svc%d"}}"#,
            r#"{"dummy": {"name": "all"}}"#,
            r#"{"vlan": {"name": "v", "parent": "default", "id": 1}}"#,
        ] {
            assert!(read(odd).is_err(), "{odd}");
        }
        let told = DevicesConfig::listed("[[device.dummy]]\nname = \"a\"\n[dns]\n").unwrap_err();
        assert_eq!(told.line, 3);
    }

    proptest! {
        /// Whatever is put and removed, and whatever the file comes to say: what counts can be together, nothing is lost, and
        /// the file's counts.
        #[test]
        fn what_counts_can_be_together(steps in proptest::collection::vec((0..5u8, 0..5u8, 0..3u8, 0..6u8), 0..24)) {
            let names = ["a", "b", "c", "d", "e"];
            let mut declared = Declared::default();
            for (who, other, kind, what) in steps {
                let (who, other) = (names[usize::from(who)], names[usize::from(other)]);
                let made = match kind {
                    0 => bond(who, &format!("\"{other}\"")),
                    1 => vlan(who, other),
                    _ => device(&format!("[[device.macvlan]]\nname = \"{who}\"\nparent = \"{other}\"\nmode = \"passthru\"\n")),
                };
                match what {
                    0 => {
                        let file = DevicesConfig::default().with([&made]);
                        if file.first_wrong().is_none() {
                            declared.set_file(file);
                        }
                    }
                    1 => declared.set_file(DevicesConfig::default()),
                    2 => declared = declared.remove(&name(who)).unwrap_or(declared),
                    _ => declared = declared.put(made.clone()).inspect(|next| {
                        let merged = next.merge();
                        assert_eq!(&merged.counts[&name(who)].1, &made);
                    }).unwrap_or(declared),
                }
                let merged = declared.merge();
                prop_assert!(merged.config.first_wrong().is_none());
                prop_assert_eq!(merged.config.all().len(), merged.counts.len());
                for name in declared.api.keys() {
                    prop_assert!(merged.counts.contains_key(name) || merged.left_out.contains_key(name));
                }
                for it in declared.file.all() {
                    prop_assert_eq!(merged.counts[it.base.name].0, DeviceSource::File);
                }
            }
        }
    }
}
