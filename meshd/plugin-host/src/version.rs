//! Which version of the contract a component is made for, and whether this host can serve it.
//!
//! ```text
//!   meshd:policy/decide @ 0.1.7                 ours: 0.1.0
//!                |         | \-- patch: only adds. What is not ours, by name, is refused: Newer
//!                |         \---- minor: may break.  Another one is refused: Version, and which side is the older
//!                \-------------- interface
//! ```
//!
//! Owns the names of the contract's interfaces, and the rule. The types behind a name are compared by the linker.

use crate::load::{LoadError, Shape};

/// The version of `meshd:policy` that this host speaks.
pub const WIT: &str = "meshd:policy@0.1.0";

/// All interfaces of it; `wit/`.
const INTERFACES: [&str; 16] = [
    "types",
    "decide",
    "tracked-key",
    "decide-tracked",
    "steer",
    "events",
    "log",
    "metrics",
    "clock",
    "random",
    "timers",
    "kv",
    "topology",
    "flows",
    "packet-out",
    "http",
];

/// An interface of the contract, by a name that a component uses.
pub(crate) struct Named<'a> {
    pub(crate) interface: &'a str,
    version: &'a str,
}

fn number(version: &str) -> Vec<u32> {
    version
        .split('.')
        .map_while(|part| part.parse().ok())
        .collect()
}

fn ours() -> Vec<u32> {
    WIT.split_once('@')
        .map_or(Vec::new(), |(_, ours)| number(ours))
}

impl<'a> Named<'a> {
    /// `None`: it is not of `meshd:policy`, or has no version.
    pub(crate) fn read(name: &'a str) -> Option<Self> {
        let (interface, version) = name.strip_prefix("meshd:policy/")?.split_once('@')?;
        Some(Self { interface, version })
    }

    /// Below 1.0 a step of the minor number may break, one of the patch number only adds (`docs/plugins/contract.md`).
    fn compatible(&self) -> bool {
        let (theirs, ours) = (number(self.version), ours());
        theirs.len() == 3 && theirs.get(..2) == ours.get(..2)
    }

    fn is_ours(&self) -> bool {
        INTERFACES.contains(&self.interface)
    }

    fn version_error(&self) -> LoadError {
        LoadError::Version {
            version: short(self.version),
            hint: remedy(self.version),
        }
    }
}

/// Which of the two is the older, and what to do.
pub(crate) fn remedy(version: &str) -> &'static str {
    if number(version) > ours() {
        "Upgrade meshd, or build it with an older meshd-sdk"
    } else {
        "Build it with the meshd-sdk of this release"
    }
}

/// A stranger's word.
fn short(text: &str) -> String {
    text.chars().take(60).collect()
}

/// Can what goes by these names be served, as far as names say?
///
/// # Errors
/// [`LoadError::Version`] for another minor number, [`LoadError::Newer`] for what a later patch added. Other names are nobody's
/// business here.
pub(crate) fn check<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), LoadError> {
    let named: Vec<Named<'_>> = names.filter_map(Named::read).collect();
    if let Some(other) = named.iter().find(|name| !name.compatible()) {
        return Err(other.version_error());
    }
    let newer = |name: &&Named<'_>| !name.is_ours() && number(name.version) > ours();
    match named.iter().find(newer) {
        Some(Named { interface, version }) => Err(LoadError::Newer {
            needs: short(&format!("meshd:policy/{interface}@{version}")),
        }),
        None => Ok(()),
    }
}

/// What a component needs of the contract, and how it is served: for `meshd plugin check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Its world, with the version that it is made for.
    pub needs: String,
    /// The contract of this host.
    pub offers: &'static str,
    /// By what the one is made the other; empty: both speak the same. This release speaks one version and has none.
    pub adapters: Vec<&'static str>,
}

impl Terms {
    pub(crate) fn of(shape: &Shape) -> Self {
        let all = shape.exports.iter().chain(&shape.imports);
        let newest = all
            .filter_map(|name| Named::read(name))
            .max_by_key(|name| number(name.version));
        let version = newest.map_or("?", |name| name.version);
        Self {
            needs: format!("meshd:policy/{}@{version}", shape.world.name()),
            offers: WIT,
            adapters: Vec::new(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refusal(names: &[&str]) -> Option<String> {
        check(names.iter().copied())
            .err()
            .map(|error| error.to_string())
    }

    #[test]
    fn a_patch_number_is_no_difference_and_another_minor_says_which_side_is_the_older() {
        for same in ["0.1.0", "0.1.7"] {
            let name = format!("meshd:policy/decide@{same}");
            assert_eq!(refusal(&[&name, "meshd:policy/types@0.1.7"]), None);
        }
        for (other, upgrade) in [
            ("0.2.0", true),
            ("1.1.0", true),
            ("0.0.9", false),
            ("0.1", false),
            ("x", false),
        ] {
            // Whatever it is the version of: the interfaces of another version are not known by name.
            for interface in ["decide", "decide-v2"] {
                let name = format!("meshd:policy/{interface}@{other}");
                let words = refusal(&[&name]).unwrap();
                assert_eq!(words.contains("Upgrade meshd"), upgrade, "{words}");
                assert!(words.contains(other) && words.contains(WIT), "{words}");
            }
        }
        assert!(Named::read("wasi:cli/run@0.2.0").is_none());
    }

    #[test]
    fn what_a_later_patch_added_is_refused_by_its_name_and_only_that() {
        let words = refusal(&["meshd:policy/decide@0.1.7", "meshd:policy/geo@0.1.7"]).unwrap();
        assert!(words.contains("needs meshd:policy/geo@0.1.7"), "{words}");
        assert!(words.contains("Upgrade meshd"), "{words}");
        // What was never there is no matter of versions.
        assert_eq!(refusal(&["meshd:policy/geo@0.1.0"]), None);
    }

    #[test]
    fn the_interfaces_are_those_of_wit() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit");
        let mut there = Vec::new();
        for file in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let names = text
                .lines()
                .filter_map(|line| line.strip_prefix("interface "));
            there.extend(names.map(|name| name.trim_end_matches(" {").to_owned()));
        }
        there.sort_unstable();
        let mut ours = INTERFACES.to_vec();
        ours.sort_unstable();
        assert_eq!(there, ours);
    }
}
