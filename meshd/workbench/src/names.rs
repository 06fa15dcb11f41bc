//! Names of reasons, as a component's manifest has them: for what is shown, and nothing is decided by them.

use serde_json::Value;
use std::collections::BTreeMap;

/// The custom section with the manifest; docs/plugins/manifest.md has the format.
const MANIFEST: &str = "meshd:plugin";
/// Characters of a name that are shown.
const NAME_MAX: usize = 48;
/// Names that are kept.
const NAMES: usize = 4096;

/// What the codes of a plugin mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(BTreeMap<u16, String>);

impl Names {
    /// Of a component; none if it says nothing that can be read.
    #[must_use]
    pub fn of(component: &[u8]) -> Self {
        let manifest: Option<Value> = meshd_plugin_host::section(component, MANIFEST)
            .and_then(|json| serde_json::from_slice(json).ok());
        let reasons = manifest.as_ref().and_then(|m| m.get("reasons")?.as_array());
        let named = reasons.into_iter().flatten().take(NAMES);
        Self(
            named
                .filter_map(|reason| {
                    let code = reason.get("code")?.as_u64()?;
                    let name = reason.get("name")?.as_str()?;
                    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
                    let name: String = name.chars().filter(|&c| fits(c)).take(NAME_MAX).collect();
                    Some((u16::try_from(code).ok()?, name))
                })
                .collect(),
        )
    }

    /// The name of a code that has one.
    #[must_use]
    pub fn get(&self, code: u16) -> Option<String> {
        self.0.get(&code).cloned()
    }
}
