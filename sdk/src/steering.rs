//! What an author of a steering plugin writes, and how it becomes a component.
//!
//! ```
//! use meshd_sdk::prelude::*;
//! use meshd_sdk::steering::*;
//!
//! #[derive(Config)]
//! /// The quickest way that is up.
//! struct Quickest {}
//!
//! #[steering]
//! impl Steering for Quickest {
//!     fn choose(&mut self, _key: &SteerKey, candidates: &[LinkStats], _current: &[u32]) -> Choice {
//!         let mut ways: Vec<_> = candidates.iter().filter(|way| way.up).collect();
//!         ways.sort_by_key(|way| way.rtt_us);
//!         Choice::of(ways.iter().map(|way| way.path))
//!     }
//! }
//! ```

use crate::config::{self, Config, ConfigError};

#[doc(hidden)]
pub mod wit {
    //! The guest's side of the world `steering`, generated.
    #![allow(
        missing_docs,
        unreachable_pub,
        unsafe_code,
        clippy::all,
        clippy::unwrap_used
    )]
    wit_bindgen::generate!({
        path: "../wit",
        world: "steering",
        pub_export_macro: true,
        export_macro_name: "export_steering",
        default_bindings_module: "meshd_sdk::steering::wit",
        with: { "meshd:policy/types@0.1.0": crate::wit::types },
    });
}

pub use crate::wit::types::LinkStats;
pub use wit::exports::meshd::policy::steer::SteerKey;

/// A steering plugin: its fields are its config. `#[steering]` stands above the `impl`.
///
/// Unlike a policy it may remember: `choose` takes `&mut self`. It is asked when a frame of a key has to go, and again when
/// figures of the ways moved by more than a fifth or 5 ms, at most ten times a second.
pub trait Steering: Config + Described + Send + 'static {
    /// Says what is wrong in a config that reads; also the place to prepare it. meshd keeps the old config then.
    ///
    /// # Errors
    /// Everything that is wrong.
    fn check(&mut self) -> Result<(), Vec<ConfigError>> {
        Ok(())
    }

    /// By which ways frames of `key` go. `current`: what holds, the best first; empty at first.
    fn choose(&mut self, key: &SteerKey, candidates: &[LinkStats], current: &[u32]) -> Choice;
}

/// What `#[steering]` knows of a plugin.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no manifest",
    note = "put `#[steering]` above `impl Steering for {Self}`"
)]
pub trait Described {
    /// The manifest, as JSON.
    const MANIFEST: &'static [u8];
}

/// Ways in order of preference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    ranked: Vec<u32>,
    spread: u8,
    gap_ms: u32,
}

impl Choice {
    /// All flows on the first of these ways that is alive; ways that are not named follow in the host's order.
    #[must_use]
    pub fn of(ranked: impl IntoIterator<Item = u32>) -> Self {
        Self {
            ranked: ranked.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Flows are spread over so many of the first.
    #[must_use]
    pub fn spread(self, ways: u8) -> Self {
        Self {
            spread: ways,
            ..self
        }
    }

    /// A flow moves no sooner than after so long a pause in it; without this, 50 ms.
    #[must_use]
    pub fn gap_ms(self, gap_ms: u32) -> Self {
        Self { gap_ms, ..self }
    }

    /// The ways, the best first.
    #[must_use]
    pub fn ranked(&self) -> &[u32] {
        &self.ranked
    }

    /// Over how many of the first flows are spread.
    #[must_use]
    pub fn width(&self) -> u8 {
        self.spread.max(1)
    }
}

/// Reads and checks a config.
pub(crate) fn read<S: Steering>(text: &str) -> Result<S, Vec<ConfigError>> {
    let mut steering: S = config::from_json(text)?;
    steering.check()?;
    Ok(steering)
}

/// What `#[steering]` makes the crate's component with. Does nothing in a native build, where tests run.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_steering {
    ($steering:ty) => {
        // Used, so that a native build does not take the whole plugin for dead code.
        #[cfg(not(target_arch = "wasm32"))]
        const _: () = $crate::steering::guest::used::<$steering>();
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            static STEERING: ::std::sync::Mutex<::core::option::Option<$steering>> =
                ::std::sync::Mutex::new(::core::option::Option::None);
            $crate::__manifest_section!(<$steering as $crate::steering::Described>::MANIFEST);
            struct Component;
            impl $crate::steering::guest::Guest for Component {
                fn configure(
                    config: ::std::string::String,
                    _at: u64,
                ) -> ::core::result::Result<(), ::std::vec::Vec<$crate::wit::types::ConfigError>>
                {
                    $crate::steering::guest::configure(&STEERING, &config)
                }
            }
            impl $crate::steering::guest::SteerGuest for Component {
                fn choose_path(
                    key: $crate::steering::SteerKey,
                    candidates: ::std::vec::Vec<$crate::steering::LinkStats>,
                    current: ::std::vec::Vec<u32>,
                ) -> $crate::steering::guest::SteerChoice {
                    $crate::steering::guest::choose(&STEERING, &key, &candidates, &current)
                }
            }
    $crate::steering::wit::export_steering!(Component with_types_in $crate::steering::wit);
        };
    };
}

/// What the component calls; not for use by hand.
#[doc(hidden)]
pub mod guest {
    use super::{LinkStats, SteerKey, Steering, read};
    use crate::wit::types;
    use std::sync::{Mutex, PoisonError};

    pub use super::wit::Guest;
    pub use super::wit::exports::meshd::policy::steer::{Guest as SteerGuest, SteerChoice};

    /// Does nothing.
    pub const fn used<S: Steering>() {}

    /// Called once per instance.
    ///
    /// # Errors
    /// What is wrong in the config.
    pub fn configure<S: Steering>(
        steering: &Mutex<Option<S>>,
        config: &str,
    ) -> Result<(), Vec<types::ConfigError>> {
        let read = read(config).map_err(|errors| {
            let send = |e: crate::ConfigError| types::ConfigError {
                pointer: e.pointer,
                message: e.message,
            };
            errors.into_iter().map(send).collect::<Vec<_>>()
        })?;
        *steering.lock().unwrap_or_else(PoisonError::into_inner) = Some(read);
        Ok(())
    }

    /// # Panics
    /// If the host has not configured the instance; that ends it.
    pub fn choose<S: Steering>(
        steering: &Mutex<Option<S>>,
        key: &SteerKey,
        candidates: &[LinkStats],
        current: &[u32],
    ) -> SteerChoice {
        let mut steering = steering.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(steering) = steering.as_mut() else {
            panic!("not configured")
        };
        let choice = steering.choose(key, candidates, current);
        SteerChoice {
            ranked: choice.ranked,
            spread: choice.spread,
            gap_ms: choice.gap_ms,
        }
    }
}
