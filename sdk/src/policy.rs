//! What an author writes, and how it becomes a component.

use crate::key::Key;
use crate::verdict::Verdict;
use serde::de::DeserializeOwned;

/// One thing that is wrong in a config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// JSON pointer to the place (RFC 6901), such as `/rules/2/port`; empty: the whole.
    pub pointer: String,
    /// What is wrong there, and what would be right.
    pub message: String,
}

impl ConfigError {
    /// `message` about the place `pointer`.
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            pointer: pointer.into(),
            message: message.into(),
        }
    }
}

/// A policy: its fields are its config, read from JSON; `#[serde(deny_unknown_fields)]` makes slips visible.
///
/// `decide` takes `&self`, so that the same key always gets the same verdict; keep nothing in cells or statics.
pub trait Policy: DeserializeOwned + Send + Sync + 'static {
    /// Says what is wrong in a config that reads; also the place to prepare it. meshd keeps the old config then.
    ///
    /// # Errors
    /// Everything that is wrong.
    fn check(&mut self) -> Result<(), Vec<ConfigError>> {
        Ok(())
    }

    /// What is to happen to every frame that agrees with this key in what is read of it.
    fn decide(&self, key: &Key<'_>) -> Verdict;
}

/// Reads and checks a config.
pub(crate) fn read<P: Policy>(config: &str) -> Result<P, Vec<ConfigError>> {
    // A list would be read as the fields in their order, and an empty one as a config in which nothing is set.
    if config.trim_start().starts_with('[') {
        return Err(vec![ConfigError::new(
            "",
            "the config is a list; an object is wanted, such as {}",
        )]);
    }
    let json = &mut serde_json::Deserializer::from_str(config);
    let mut policy: P = serde_path_to_error::deserialize(&mut *json)
        .map_err(|e| vec![ConfigError::new(pointer(e.path()), e.inner().to_string())])?;
    json.end()
        .map_err(|e| vec![ConfigError::new("", e.to_string())])?;
    policy.check()?;
    Ok(policy)
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut out = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => out.push_str(&format!("/{index}")),
            Segment::Map { key } => {
                out.push_str(&format!("/{}", key.replace('~', "~0").replace('/', "~1")))
            }
            Segment::Enum { variant } => out.push_str(&format!("/{variant}")),
            Segment::Unknown => {}
        }
    }
    out
}

/// Makes the crate's component out of a [`Policy`]. Does nothing in a native build, where tests run.
#[macro_export]
macro_rules! export_policy {
    ($policy:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            static POLICY: ::std::sync::OnceLock<$policy> = ::std::sync::OnceLock::new();
            struct Component;
            impl $crate::wit::Guest for Component {
                fn configure(
                    config: ::std::string::String,
                    _at: u64,
                ) -> ::core::result::Result<(), ::std::vec::Vec<$crate::wit::types::ConfigError>>
                {
                    $crate::guest::configure(&POLICY, &config)
                }
                fn update(_facts: ::std::vec::Vec<$crate::wit::types::Fact>, _at: u64) {}
                fn decide(key: $crate::wit::types::FlowKey) -> $crate::wit::types::Verdict {
                    $crate::guest::decide(&POLICY, &key)
                }
            }
    $crate::wit::export!(Component with_types_in $crate::wit);
        };
    };
}

/// What [`export_policy!`] expands to; not for use by hand.
#[doc(hidden)]
pub mod guest {
    use super::{Policy, read};
    use crate::key::Key;
    use crate::wit::types;
    use std::sync::OnceLock;

    /// Called once per instance.
    ///
    /// # Errors
    /// What is wrong in the config.
    pub fn configure<P: Policy>(
        policy: &OnceLock<P>,
        config: &str,
    ) -> Result<(), Vec<types::ConfigError>> {
        let send = |pointer, message| types::ConfigError { pointer, message };
        let read = read(config).map_err(|errors| {
            errors
                .into_iter()
                .map(|e| send(e.pointer, e.message))
                .collect::<Vec<_>>()
        })?;
        policy.set(read).map_err(|_| {
            vec![send(
                String::new(),
                "the host configured this instance twice".to_owned(),
            )]
        })
    }

    /// # Panics
    /// If the host has not configured the instance; that ends it.
    pub fn decide<P: Policy>(policy: &OnceLock<P>, key: &types::FlowKey) -> types::Verdict {
        let Some(policy) = policy.get() else {
            panic!("not configured")
        };
        let key = Key::new(key);
        let verdict = policy.decide(&key);
        verdict.with_deps(key.deps())
    }
}
