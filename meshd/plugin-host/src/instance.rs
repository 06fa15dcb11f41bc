//! One plugin with one config, ready to decide.
//!
//! ```text
//!   new: fits the schema? -> instantiate -> configure(json) -> one decision to warm up        any fault: the instance is gone,
//!   decide: refuel -> call -> read the verdict                            the next decide makes a fresh one
//! ```
//!
//! Owns the store, its limits and its replacement. An instance has one caller at a time.

use crate::bindings::meshd::policy::types::{ConfigError, FlowKey as GuestKey, Verdict};
use crate::bindings::tracked::PolicyTracked;
use crate::bindings::{Asked, Policy};
use crate::convert::{self, Decision};
use crate::engine::{CONFIGURE_TIME, DECIDE_TIME, Limits, Stopwatch, thread_cpu};
use crate::fault::Fault;
use crate::load::{Plugin, Pre};
use crate::tracked::Reading;
use crate::words::{self, Words};
use meshd_core::node::{Direction, Question};
use std::sync::Arc;
use wasmtime::component::Resource;
use wasmtime::{ResourceLimiter, Store, UpdateDeadline};

/// The longest config that is taken, in bytes of JSON.
pub const MAX_CONFIG: usize = 256 << 10;
/// Config errors that are shown; a guest may send any number.
const MAX_PROBLEMS: usize = 16;
/// Decisions after which an instance is replaced: bounds what a guest that leaks can hold.
const LIFE: u32 = 1_000_000;

/// One thing that a plugin does not like about its config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// JSON pointer to the place; empty: the whole.
    pub pointer: String,
    /// What is wrong there.
    pub message: String,
}

impl core::fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if self.pointer.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "at {}: {}", self.pointer, self.message)
        }
    }
}

/// Why a plugin does not work with a config.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigureError {
    /// Longer than [`MAX_CONFIG`].
    #[error("the config has {size} bytes; at most {MAX_CONFIG} are taken")]
    TooLong {
        /// In bytes.
        size: usize,
    },
    /// It is not what the manifest's schema allows; the plugin was not asked.
    #[error("the config is not what the plugin's schema allows: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Schema(
        /// At least one.
        Vec<ConfigProblem>,
    ),
    /// The plugin refuses it.
    #[error("the plugin refuses its config: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Refused(
        /// At least one.
        Vec<ConfigProblem>,
    ),
    /// It failed while it read the config.
    #[error("the plugin fails while it reads its config: {0}")]
    Fault(Fault),
    /// It failed in its first decision, on a fixed key.
    #[error("the plugin reads its config, but fails in its first decision: {0}")]
    FirstDecision(Fault),
}

/// The data of a store: what the guest may still grow to.
pub(crate) struct Guest {
    limits: Limits,
    /// Memory it asked for and did not get, and the limit.
    refused: Option<(usize, usize)>,
    watch: Stopwatch,
    /// The key of the call under way, where the guest asks for it.
    pub(crate) reading: Option<Reading>,
}

impl ResourceLimiter for Guest {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired <= self.limits.memory {
            return Ok(true);
        }
        self.refused = Some((desired, self.limits.memory));
        // A trap, since a quiet -1 from memory.grow is hard to see.
        Err(wasmtime::Error::msg("memory limit"))
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= self.limits.table)
    }

    // A component made of one guest has the guest's module and wit-component's shims.
    fn instances(&self) -> usize {
        16
    }

    fn tables(&self) -> usize {
        16
    }

    fn memories(&self) -> usize {
        1
    }
}

/// The exports of a guest, by its world.
enum Exports {
    Policy(Policy),
    Tracked(PolicyTracked),
}

impl Exports {
    fn new(store: &mut Store<Guest>, pre: &Pre) -> wasmtime::Result<Self> {
        Ok(match pre {
            Pre::Policy(pre) => Self::Policy(pre.instantiate(store)?),
            Pre::Tracked(pre) => Self::Tracked(pre.instantiate(store)?),
        })
    }

    fn configure(
        &self,
        store: &mut Store<Guest>,
        config: &str,
        generation: u64,
    ) -> wasmtime::Result<Result<(), Vec<ConfigError>>> {
        match self {
            Self::Policy(policy) => policy
                .meshd_policy_decide()
                .call_configure(store, config, generation),
            Self::Tracked(policy) => policy
                .meshd_policy_decide_tracked()
                .call_configure(store, config, generation),
        }
    }

    fn decide(&self, store: &mut Store<Guest>, key: GuestKey) -> wasmtime::Result<Verdict> {
        match self {
            Self::Policy(policy) => policy.meshd_policy_decide().call_decide(store, key),
            Self::Tracked(policy) => {
                store.data_mut().reading = Some(Reading::of(key));
                let answer = policy
                    .meshd_policy_decide_tracked()
                    .call_decide(&mut *store, Resource::<Asked>::new_borrow(0))?;
                let reading = store.data_mut().reading.take();
                Ok(Verdict {
                    target: answer.target,
                    actions: answer.actions,
                    deps: reading
                        .ok_or_else(|| wasmtime::Error::msg("no key"))?
                        .noted(),
                    life: answer.life,
                })
            }
        }
    }
}

struct Live {
    store: Store<Guest>,
    exports: Exports,
    decisions: u32,
}

impl Live {
    fn new(plugin: &Plugin, config: &str, generation: u64) -> Result<Self, ConfigureError> {
        let limits = plugin.engine.limits();
        let mut store = Store::new(
            plugin.engine.wasm(),
            Guest {
                limits,
                refused: None,
                watch: Stopwatch::start(CONFIGURE_TIME),
                reading: None,
            },
        );
        store.limiter(|guest| guest);
        plugin.engine.guard();
        store.epoch_deadline_callback(|mut context| {
            Ok(if context.data_mut().watch.tick(thread_cpu()) {
                UpdateDeadline::Continue(1)
            } else {
                UpdateDeadline::Interrupt
            })
        });
        store.set_epoch_deadline(1);
        let exports = match store
            .set_fuel(limits.configure_fuel)
            .and_then(|()| Exports::new(&mut store, &plugin.pre))
        {
            Ok(exports) => exports,
            Err(e) => {
                return Err(ConfigureError::Fault(Fault::of(
                    &e,
                    limits.configure_fuel,
                    store.data().refused,
                )));
            }
        };
        match exports.configure(&mut store, config, generation) {
            Ok(Ok(())) => Ok(Self {
                store,
                exports,
                decisions: 0,
            }),
            Ok(Err(problems)) => {
                let short = |text: String| text.chars().take(500).collect::<String>();
                let mut problems: Vec<ConfigProblem> = problems
                    .into_iter()
                    .take(MAX_PROBLEMS)
                    .map(|p| ConfigProblem {
                        pointer: short(p.pointer),
                        message: short(p.message),
                    })
                    .collect();
                if problems.is_empty() {
                    problems.push(ConfigProblem {
                        pointer: String::new(),
                        message: "the plugin does not say why".to_owned(),
                    });
                }
                Err(ConfigureError::Refused(problems))
            }
            Err(e) => Err(ConfigureError::Fault(Fault::of(
                &e,
                limits.configure_fuel,
                store.data().refused,
            ))),
        }
    }

    fn decide(
        &mut self,
        plugin: &Plugin,
        key: GuestKey,
        direction: Direction,
    ) -> Result<Decision, Fault> {
        self.ask(plugin, key)
            .and_then(|verdict| convert::decision(&verdict, direction))
    }

    fn ask(&mut self, plugin: &Plugin, key: GuestKey) -> Result<Verdict, Fault> {
        let fuel = plugin.engine.limits().decide_fuel;
        plugin.engine.guard();
        self.store.data_mut().watch = Stopwatch::start(DECIDE_TIME);
        self.store.set_epoch_deadline(1);
        self.decisions += 1;
        self.store
            .set_fuel(fuel)
            .and_then(|()| self.exports.decide(&mut self.store, key))
            .map_err(|e| Fault::of(&e, fuel, self.store.data().refused))
    }
}

/// One plugin with one config. Replaces its own guest after a fault.
pub struct Instance {
    plugin: Plugin,
    config: Arc<str>,
    generation: u64,
    live: Option<Live>,
}

impl Instance {
    /// Starts `plugin` with `config` (JSON; empty: `{}`) and lets it decide once on a fixed key, so that what it sets up
    /// lazily is set up. `generation` is passed on.
    ///
    /// # Errors
    /// What the plugin says about the config, or how it failed.
    pub fn new(plugin: &Plugin, config: &str, generation: u64) -> Result<Self, ConfigureError> {
        if config.len() > MAX_CONFIG {
            return Err(ConfigureError::TooLong { size: config.len() });
        }
        let config = if config.trim().is_empty() {
            "{}"
        } else {
            config
        };
        let schema = plugin.manifest().and_then(|m| m.schema.as_ref());
        let problems = schema.map_or_else(Vec::new, |schema| schema.problems(config));
        if !problems.is_empty() {
            return Err(ConfigureError::Schema(problems));
        }
        let mut instance = Self {
            plugin: plugin.clone(),
            config: config.into(),
            generation,
            live: None,
        };
        instance.live = Some(instance.start()?);
        Ok(instance)
    }

    fn start(&self) -> Result<Live, ConfigureError> {
        let mut live = Live::new(&self.plugin, &self.config, self.generation)?;
        live.decide(&self.plugin, convert::warm_up(), Direction::Ingress)
            .map_err(ConfigureError::FirstDecision)?;
        Ok(live)
    }

    /// What the plugin says about the frames of `question`.
    ///
    /// # Errors
    /// How it failed. The guest is gone then, and the next call starts a fresh one.
    pub fn decide(&mut self, question: &Question) -> Result<Decision, Fault> {
        let mut live = self.ready()?;
        let decision = live.decide(&self.plugin, convert::key(question), question.direction)?;
        self.live = Some(live);
        Ok(decision)
    }

    /// The same, and what the guest said in so many words: for tools. `name` knows the codes that have one.
    ///
    /// # Errors
    /// As [`Instance::decide`].
    pub fn decide_in_words(
        &mut self,
        question: &Question,
        name: &dyn Fn(u16) -> Option<String>,
    ) -> Result<(Decision, Words), Fault> {
        let mut live = self.ready()?;
        let verdict = live.ask(&self.plugin, convert::key(question))?;
        let left = live.store.get_fuel().unwrap_or_default();
        let decision = convert::decision(&verdict, question.direction)?;
        self.live = Some(live);
        let words = Words {
            verdict: words::verdict(&verdict, name),
            reads: words::reads(&verdict.deps),
            fuel: self.plugin.engine.limits().decide_fuel.saturating_sub(left),
        };
        Ok((decision, words))
    }

    fn ready(&mut self) -> Result<Live, Fault> {
        match self.live.take() {
            Some(live) if live.decisions < LIFE => Ok(live),
            _ => self.start().map_err(|e| Fault::Restart {
                what: e.to_string(),
            }),
        }
    }

    /// Another one of the same plugin, config and generation. It starts when it is asked, and has decided nothing until then.
    #[must_use]
    pub fn sibling(&self) -> Self {
        Self {
            plugin: self.plugin.clone(),
            config: Arc::clone(&self.config),
            generation: self.generation,
            live: None,
        }
    }

    /// The plugin it runs.
    #[must_use]
    pub fn plugin(&self) -> &Plugin {
        &self.plugin
    }

    /// The config it runs with.
    #[must_use]
    pub fn config(&self) -> &str {
        &self.config
    }
}

impl core::fmt::Debug for Instance {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Instance")
            .field("plugin", &self.plugin)
            .field("live", &self.live.is_some())
            .finish_non_exhaustive()
    }
}
