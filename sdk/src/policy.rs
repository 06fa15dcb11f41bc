//! What an author writes, and how it becomes a component.

use crate::config::{self, Config, ConfigError};
use crate::controller::FactChange;
use crate::key::Key;
use crate::manifest::Described;
use crate::verdict::Verdict;

/// A policy: its fields are its config. `#[policy(stage = "guard", fail = "closed")]` stands above the `impl`.
///
/// `decide` takes `&self`, so that the same key always gets the same verdict; keep nothing in cells or statics.
pub trait Policy: Config + Described + Send + Sync + 'static {
    /// Says what is wrong in a config that reads; also the place to prepare it. meshd keeps the old config then.
    ///
    /// # Errors
    /// Everything that is wrong.
    fn check(&mut self) -> Result<(), Vec<ConfigError>> {
        Ok(())
    }

    /// The controller of the crate tells something, or takes it back. Only between decisions: what is decided is a function of
    /// the config, the facts and the key. A policy without a controller is never told anything.
    fn update(&mut self, change: &FactChange) {
        let _ = change;
    }

    /// What is to happen to every frame that agrees with this key in what is read of it.
    fn decide(&self, key: &Key<'_>) -> Verdict;
}

/// Reads and checks a config.
pub(crate) fn read<P: Policy>(text: &str) -> Result<P, Vec<ConfigError>> {
    let mut policy: P = config::from_json(text)?;
    policy.check()?;
    Ok(policy)
}

/// What `#[policy]` makes the crate's component with. Does nothing in a native build, where tests run.
#[cfg(not(controlling))]
#[doc(hidden)]
#[macro_export]
macro_rules! __export_policy {
    ($policy:ty) => {
        // Used, so that a native build does not take the whole policy for dead code.
        #[cfg(not(target_arch = "wasm32"))]
        const _: () = $crate::guest::used::<$policy>();
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            static POLICY: $crate::guest::Seat<$policy> = $crate::guest::Seat::new(None);
            $crate::__manifest_section!(<$policy as $crate::manifest::Described>::MANIFEST);
            struct Component;
            impl $crate::wit::Guest for Component {
                fn configure(
                    config: ::std::string::String,
                    _at: u64,
                ) -> ::core::result::Result<(), ::std::vec::Vec<$crate::wit::types::ConfigError>>
                {
                    $crate::guest::configure(&POLICY, &config)
                }
                fn update(facts: ::std::vec::Vec<$crate::wit::types::Fact>, _at: u64) {
                    $crate::guest::update(&POLICY, facts);
                }
                $crate::__decide!(POLICY);
            }
    $crate::wit::export!(Component with_types_in $crate::wit);
        };
    };
}

/// The controller's component has no policy in it.
#[cfg(controlling)]
#[doc(hidden)]
#[macro_export]
macro_rules! __export_policy {
    ($policy:ty) => {
        const _: () = $crate::guest::used::<$policy>();
    };
}

/// The function `decide` of the world that the component is for.
#[cfg(not(asked))]
#[doc(hidden)]
#[macro_export]
macro_rules! __decide {
    ($policy:ident) => {
        fn decide(key: $crate::wit::types::FlowKey) -> $crate::wit::types::Verdict {
            $crate::guest::decide(&$policy, &key)
        }
    };
}

/// The function `decide` of the world that the component is for.
#[cfg(asked)]
#[doc(hidden)]
#[macro_export]
macro_rules! __decide {
    ($policy:ident) => {
        fn decide(key: &$crate::wit::tracked_key::Key) -> $crate::wit::Answer {
            let verdict = $crate::guest::decide(&$policy, key);
            $crate::wit::Answer {
                target: verdict.target,
                actions: verdict.actions,
                life: verdict.life,
            }
        }
    };
}

/// What the component calls; not for use by hand.
#[doc(hidden)]
pub mod guest {
    use super::{Policy, read};
    use crate::controller::FactChange;
    use crate::key::{Key, Raw};
    use crate::wit::types;
    use std::sync::RwLock;

    /// Where the component keeps its policy. There is one thread, and nobody who waits.
    pub type Seat<P> = RwLock<Option<P>>;

    /// Does nothing.
    pub const fn used<P: Policy>() {}

    /// Called once per instance.
    ///
    /// # Errors
    /// What is wrong in the config.
    pub fn configure<P: Policy>(
        seat: &Seat<P>,
        config: &str,
    ) -> Result<(), Vec<types::ConfigError>> {
        let send = |pointer, message| types::ConfigError { pointer, message };
        let read = read(config).map_err(|errors| {
            errors
                .into_iter()
                .map(|e| send(e.pointer, e.message))
                .collect::<Vec<_>>()
        })?;
        match seat.write() {
            Ok(mut seat) if seat.is_none() => {
                *seat = Some(read);
                Ok(())
            }
            _ => Err(vec![send(
                String::new(),
                "the host configured this instance twice".to_owned(),
            )]),
        }
    }

    /// # Panics
    /// If the host has not configured the instance; that ends it.
    pub fn update<P: Policy>(seat: &Seat<P>, facts: Vec<types::Fact>) {
        let mut seat = seat.write();
        let Some(policy) = seat.as_mut().ok().and_then(|seat| seat.as_mut()) else {
            panic!("not configured")
        };
        for types::Fact { key, value } in facts {
            policy.update(&FactChange { key, value });
        }
    }

    /// # Panics
    /// If the host has not configured the instance; that ends it.
    pub fn decide<P: Policy>(seat: &Seat<P>, key: &Raw) -> types::Verdict {
        let seat = seat.read();
        let Some(policy) = seat.as_ref().ok().and_then(|seat| seat.as_ref()) else {
            panic!("not configured")
        };
        let key = Key::new(key);
        let verdict = policy.decide(&key);
        verdict.with_deps(key.deps())
    }
}
