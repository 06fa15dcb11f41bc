//! `meshd device`: host devices, declared by the API; `meshd devices` lists them.
//!
//! ```text
//!   add bond bond0 members=eth1,eth2 ---+
//!                                       +--> DeviceConfig, one or several --PUT /v1/devices/NAME--> daemon
//!   add --file FILE: [[device.…]] ------+
//! ```
//!
//! Owns how the keys of the config file are typed as `KEY=VALUE`. What each may be is the daemon's to say.

use super::remote::Ask;
use super::values;
use super::{Failure, Printed, show};
use crate::api::client::segment;
use crate::bounded;
use crate::config_file::SIZE_MAX;
use clap::{Subcommand, ValueEnum};
use meshd_core::code::ErrorCode;
use meshd_core::config::keys::{self, Key, Kind};
use meshd_core::config::{DeviceConfig, DevicesConfig};
use meshd_core::ident::escape;
use meshd_core::view::Device;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// `meshd device`.
#[derive(Debug, Subcommand)]
pub(super) enum DeviceCommand {
    /// Declare a device of this host; the same again changes nothing, and otherwise it becomes as it is declared now.
    #[command(
        override_usage = "meshd device add KIND NAME [KEY=VALUE]...\n       meshd device add --file FILE",
        after_help = "Examples:\n  \
        meshd device add dummy svc0 addresses=10.9.0.53/32,fd09::53/128 service=dns\n  \
        meshd device add bond bond0 members=eth1,eth2 mode=802.3ad lacp_rate=fast\n  \
        meshd device add vlan bond0.100 parent=bond0 id=100 addresses=10.100.0.1/24\n  \
        meshd device add bridge br0 members=eth3,eth4 vlan_filtering=true 'access={eth3=10, eth4=20}'\n  \
        meshd device add macvtap vm0 parent=bond0.100\n  \
        meshd device add --file devices.toml        the same as [[device.bond]] and so on\n\n\
        Keys are those of [[device.KIND]] in the config file (docs/reference/config.md). What is left out is as if it were never said.\n\
        It is kept over restarts. What the config file declares is changed there: docs/howto/host-devices.md."
    )]
    Add {
        /// What it is.
        #[arg(value_enum, required_unless_present = "file", requires = "name")]
        kind: Option<KindArg>,
        /// Its name.
        #[arg(value_parser = values::word)]
        name: Option<String>,
        /// A key of its section in the config file; entries of a list have commas between them.
        #[arg(value_name = "KEY=VALUE", value_parser = values::pair)]
        keys: Vec<(String, String)>,
        /// Declare the [[device.…]] sections of this file instead; `-` reads stdin.
        #[arg(long, value_name = "FILE", conflicts_with_all = ["kind", "name", "keys"])]
        file: Option<PathBuf>,
    },
    /// Remove a device that was declared by `meshd device add` or the API.
    #[command(after_help = "Examples:\n  meshd device rm bond0.100")]
    Rm {
        /// Its name.
        #[arg(value_parser = values::word)]
        name: String,
    },
}

/// Kinds, as the config file has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum KindArg {
    /// A place for addresses that are up as long as the host.
    Dummy,
    /// Several devices as one.
    Bond,
    /// The frames of one tag of another device.
    Vlan,
    /// A switch, made or adopted.
    Bridge,
    /// A station of its own on the LAN behind another device.
    Macvlan,
    /// The same, for a virtual machine.
    Macvtap,
}

impl KindArg {
    fn word(self) -> &'static str {
        match self {
            Self::Dummy => "dummy",
            Self::Bond => "bond",
            Self::Vlan => "vlan",
            Self::Bridge => "bridge",
            Self::Macvlan => "macvlan",
            Self::Macvtap => "macvtap",
        }
    }
}

pub(super) async fn run(ask: &Ask, command: DeviceCommand) -> Result<Printed, Failure> {
    match command {
        DeviceCommand::Rm { name } => {
            ask.client.delete(&path(&name)).await?;
            ask.done(
                "removed",
                &name,
                format!("device {name} is declared no more"),
            )
        }
        DeviceCommand::Add {
            file: Some(file), ..
        } => {
            let mut made: Vec<Device> = Vec::new();
            for device in listed(&file)? {
                let put = put(ask, &device).await.map_err(|mut failure| {
                    let before = made.iter().map(|row| row.name.text.as_str());
                    let before: Vec<&str> = before.collect();
                    if !before.is_empty() {
                        failure.message += &format!("; declared before it: {}", before.join(", "));
                    }
                    failure
                });
                made.push(put?);
            }
            ask.made(&made, |made| show::devices(made))
        }
        DeviceCommand::Add {
            kind, name, keys, ..
        } => {
            // Both are there without `--file`.
            let kind = kind.map_or("", KindArg::word);
            let device = typed(kind, name.unwrap_or_default(), &keys)?;
            let made = put(ask, &device).await?;
            ask.made(&made, |made| show::devices(std::slice::from_ref(made)))
        }
    }
}

fn path(name: &str) -> String {
    format!("/v1/devices/{}", segment(name))
}

async fn put(ask: &Ask, device: &DeviceConfig) -> Result<Device, Failure> {
    let name = String::from(device.name().clone());
    Ok(ask.client.put(&path(&name), device).await?)
}

/// The devices of a file, or of stdin.
fn listed(file: &Path) -> Result<Vec<DeviceConfig>, Failure> {
    let unread = |error: std::io::Error| {
        let message = format!("read {}: {error}", values::show_path(file));
        Failure::new(ErrorCode::FileUnreadable, message)
    };
    let text = if file == Path::new("-") {
        let bytes = bounded::stdin(SIZE_MAX).map_err(unread)?;
        String::from_utf8(bytes).map_err(|_| {
            let message =
                "what stdin gives is no text; give [[device.…]] sections as in the config file";
            Failure::new(ErrorCode::ConfigSyntax, message)
        })?
    } else {
        bounded::text(file, SIZE_MAX).map_err(unread)?
    };
    DevicesConfig::listed(&text).map_err(|wrong| {
        let message = format!("{}:{wrong}", values::show_path(file));
        Failure::new(wrong.code, message)
    })
}

/// A device of `KEY=VALUE`, each as the type of its key wants it.
fn typed(kind: &str, name: String, pairs: &[(String, String)]) -> Result<DeviceConfig, Failure> {
    let wrong = |message: String| Failure::new(ErrorCode::DeviceInvalid, message);
    let sections = keys::sections()
        .map_err(|wrong| Failure::new(ErrorCode::Internal, format!("the list of keys: {wrong}")))?;
    let section = format!("device.{kind}");
    let section = sections.iter().find(|it| it.name == section);
    let known = section.map_or(&[][..], |section| &section.keys);
    let mut table = Map::new();
    table.insert("name".to_owned(), Value::String(name));
    for (key, text) in pairs {
        let Some(of) = known.iter().find(|it| it.name == *key && key != "name") else {
            let names = known.iter().map(|key| key.name.as_str());
            let names: Vec<&str> = names.filter(|name| *name != "name").collect();
            return Err(wrong(format!(
                "a {kind} has no key \"{}\"; it may have {}",
                escape(key.as_bytes()),
                names.join(", ")
            )));
        };
        let value = value(of, text).map_err(|why| wrong(format!("`{key}`: {why}")))?;
        if table.insert(key.clone(), value).is_some() {
            return Err(wrong(format!(
                "`{key}` is there twice; entries of a list have commas between them"
            )));
        }
    }
    whole(kind, table.clone()).map_err(|error| match to_blame(kind, &table, pairs, &error) {
        Some((key, text)) => wrong(format!(
            "{kind}: `{key}={}`: {error}",
            escape(text.as_bytes())
        )),
        None => wrong(format!("{kind}: {error}")),
    })
}

fn whole(kind: &str, table: Map<String, Value>) -> Result<DeviceConfig, String> {
    let mut device = Map::new();
    device.insert(kind.to_owned(), Value::Object(table));
    serde_json::from_value(Value::Object(device)).map_err(|error| error.to_string())
}

/// The error of a type does not say in which key it stands: that without which there is another error, or none.
fn to_blame<'a>(
    kind: &str,
    table: &Map<String, Value>,
    pairs: &'a [(String, String)],
    error: &str,
) -> Option<&'a (String, String)> {
    // What is not there has no key among these.
    if error.starts_with("missing field") {
        return None;
    }
    pairs.iter().find(|(key, _)| {
        let mut without = table.clone();
        without.remove(key);
        whole(kind, without).err().as_deref() != Some(error)
    })
}

fn value(key: &Key, text: &str) -> Result<Value, String> {
    let example = || format!("wanted: {}={}", key.name, key.example);
    Ok(match key.kind {
        Kind::Text | Kind::Word => Value::String(text.to_owned()),
        Kind::Number => json!(text.parse::<i64>().map_err(|_| example())?),
        Kind::Switch => json!(text.parse::<bool>().map_err(|_| example())?),
        Kind::List if !text.trim_start().starts_with('[') => {
            let entries = text.split(',').map(str::trim).filter(|it| !it.is_empty());
            entries.map(|it| Value::String(it.to_owned())).collect()
        }
        Kind::List | Kind::Map | Kind::Lists => {
            let line = format!("value = {text}");
            let table: toml::Table = line.parse().map_err(|_| example())?;
            let value = table.get("value").filter(|_| table.len() == 1);
            serde_json::to_value(value.ok_or_else(example)?).map_err(|_| example())?
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(kind: &str, pairs: &[&str]) -> Result<DeviceConfig, String> {
        let pairs: Vec<_> = pairs.iter().map(|it| values::pair(it).unwrap()).collect();
        typed(kind, "d0".to_owned(), &pairs).map_err(|failure| failure.message)
    }

    #[test]
    fn a_value_that_is_none_is_told_with_its_key() {
        for (kind, pairs, said) in [
            (
                "bridge",
                &["members=eth1", "addresses=10.0.0.1"][..],
                "bridge: `addresses=10.0.0.1`: invalid IP",
            ),
            (
                "bridge",
                &["addresses=10.0.0.1/33"],
                "`addresses=10.0.0.1/33`: ",
            ),
            (
                "bridge",
                &["stp=true", "priority=99999"],
                "`priority=99999`: invalid value",
            ),
            ("vlan", &["parent=eth1", "id=99999"], "`id=99999`: "),
            ("vlan", &["parent=eth1"], "vlan: missing field `id`"),
        ] {
            let refused = of(kind, pairs).unwrap_err();
            assert!(refused.contains(said), "{refused}");
        }
    }

    #[test]
    fn keys_are_typed_as_the_file_has_them() {
        for (kind, pairs, section) in [
            (
                "dummy",
                &["addresses=10.0.0.1/32, fd00::1/128", "mtu=1400"][..],
                "addresses = [\"10.0.0.1/32\", \"fd00::1/128\"]\nmtu = 1400",
            ),
            (
                "bond",
                &["members=eth1,eth2", "mode=802.3ad", "min_links=1"],
                "members = [\"eth1\", \"eth2\"]\nmode = \"802.3ad\"\nmin_links = 1",
            ),
            (
                "vlan",
                &["parent=eth1", "id=7", "protocol=802.1ad"],
                "parent = \"eth1\"\nid = 7\nprotocol = \"802.1ad\"",
            ),
            (
                "bridge",
                &[
                    "members=[\"a\", \"b\"]",
                    "stp=true",
                    "access={a = 7}",
                    "trunk={b = [7, 8]}",
                ],
                "members = [\"a\", \"b\"]\nstp = true\naccess = { a = 7 }\ntrunk = { b = [7, 8] }",
            ),
            (
                "macvtap",
                &["parent=eth1", "reach=10.0.0.9"],
                "parent = \"eth1\"\nreach = [\"10.0.0.9\"]",
            ),
        ] {
            let text = format!("[[device.{kind}]]\nname = \"d0\"\n{section}\n");
            let read = DevicesConfig::listed(&text).unwrap().remove(0);
            assert_eq!(of(kind, pairs).unwrap(), read, "{text}");
        }
    }

    #[test]
    fn what_is_typed_wrong_is_told_with_what_is_wanted() {
        for (kind, pairs, told) in [
            (
                "dummy",
                &["adresses=10.0.0.1/32"][..],
                "it may have addresses, mtu",
            ),
            ("vlan", &["parent=eth1", "id=seven"], "wanted: id="),
            ("vlan", &["parent=eth1"], "missing field `id`"),
            ("dummy", &["name=other"], "no key"),
            ("dummy", &["mtu=1400", "mtu=1500"], "twice"),
            ("bond", &["members=a/b"], "bond: "),
            ("bridge", &["access={a = 7}\nb = 3"], "wanted: access="),
        ] {
            let message = of(kind, pairs).unwrap_err();
            assert!(message.contains(told), "{message}");
        }
    }
}
