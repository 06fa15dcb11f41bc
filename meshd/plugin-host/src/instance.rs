//! One plugin with one config, ready to decide.
//!
//! ```text
//!   new: fits the schema? -> instantiate -> configure(json) -> update(all facts) -> one decision to warm up
//!   decide: refuel -> call -> read the verdict              any fault: the instance is gone, the next decide makes a fresh one
//! ```
//!
//! Owns the store, its limits and its replacement. An instance has one caller at a time. A package without a policy, which is a
//! controller alone, has instances too: they pass everything, having read nothing.

use crate::bindings::meshd::policy::types::{ConfigError, Fact, FlowKey as GuestKey, Verdict};
use crate::bindings::steering::Steering;
use crate::bindings::tracked::PolicyTracked;
use crate::bindings::{Asked, Policy};
use crate::convert::{self, Decision, Say};
use crate::engine::{
    CONFIGURE_TIME, DECIDE_TIME, Engine, Limits, STEER_TIME, Stopwatch, thread_cpu,
};
use crate::facts::{FactChange, Facts};
use crate::fault::Fault;
use crate::load::{Plugin, Pre, World};
use crate::steering;
use crate::tracked::Reading;
use crate::words::{self, Words};
use meshd_core::node::{Direction, Question};
use meshd_core::steering::{SteerAnswer, SteerQuestion};
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
    /// It failed while it took its facts.
    #[error("the plugin reads its config, but fails while it takes its facts: {0}")]
    Facts(Fault),
    /// It failed in its first decision, on a fixed key.
    #[error("the plugin reads its config, but fails in its first decision: {0}")]
    FirstDecision(Fault),
}

/// What is shown of the problems that a guest has with its config.
pub(crate) fn problems(said: Vec<ConfigError>) -> Vec<ConfigProblem> {
    let short = |text: String| text.chars().take(500).collect::<String>();
    let mut problems: Vec<ConfigProblem> = said
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
    problems
}

/// The data of a store: what the guest may still grow to.
pub(crate) struct Guest {
    memory: usize,
    table: usize,
    /// Memory it asked for and did not get, and the limit.
    pub(crate) refused: Option<(usize, usize)>,
    pub(crate) watch: Stopwatch,
    /// The key of the call under way, where the guest asks for it.
    pub(crate) reading: Option<Reading>,
}

impl Guest {
    /// With so much memory, and the time of `configure`.
    pub(crate) fn new(memory: usize, limits: Limits) -> Self {
        Self {
            memory,
            table: limits.table,
            refused: None,
            watch: Stopwatch::start(CONFIGURE_TIME),
            reading: None,
        }
    }
}

impl ResourceLimiter for Guest {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired <= self.memory {
            return Ok(true);
        }
        self.refused = Some((desired, self.memory));
        // A trap, since a quiet -1 from memory.grow is hard to see.
        Err(wasmtime::Error::msg("memory limit"))
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= self.table)
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
    Steering(Steering),
}

impl Exports {
    fn new(store: &mut Store<Guest>, pre: &Pre) -> wasmtime::Result<Self> {
        Ok(match pre {
            Pre::Policy(pre) => Self::Policy(pre.instantiate(store)?),
            Pre::Tracked(pre) => Self::Tracked(pre.instantiate(store)?),
            Pre::Steering(pre) => Self::Steering(pre.instantiate(store)?),
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
            Self::Steering(steering) => steering.call_configure(store, config, generation),
        }
    }

    fn update(
        &self,
        store: &mut Store<Guest>,
        facts: &[Fact],
        generation: u64,
    ) -> wasmtime::Result<()> {
        match self {
            Self::Policy(policy) => policy
                .meshd_policy_decide()
                .call_update(store, facts, generation),
            Self::Tracked(policy) => policy
                .meshd_policy_decide_tracked()
                .call_update(store, facts, generation),
            // It has no controller beside it.
            Self::Steering(_) => Ok(()),
        }
    }

    fn decide(&self, store: &mut Store<Guest>, key: GuestKey) -> wasmtime::Result<Verdict> {
        match self {
            Self::Policy(policy) => policy.meshd_policy_decide().call_decide(store, key),
            Self::Steering(_) => Err(wasmtime::Error::msg("a steering plugin decides nothing")),
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

/// A guest's memory, with its limits on.
fn store(engine: &Engine) -> Store<Guest> {
    let limits = engine.limits();
    let mut store = Store::new(engine.wasm(), Guest::new(limits.memory, limits));
    store.limiter(|guest| guest);
    store.epoch_deadline_callback(|mut context| {
        Ok(if context.data_mut().watch.tick(thread_cpu()) {
            UpdateDeadline::Continue(1)
        } else {
            UpdateDeadline::Interrupt
        })
    });
    store.set_epoch_deadline(1);
    store
}

/// Whether the functions have the types that the contract says; linking looks at their names. What a guest does when it starts
/// is no matter of types.
pub(crate) fn has_its_types(engine: &Engine, pre: &Pre) -> wasmtime::Result<()> {
    let mut store = store(engine);
    let _running = engine.guard();
    store.set_fuel(engine.limits().configure_fuel)?;
    match Exports::new(&mut store, pre) {
        Err(error) if !error.is::<wasmtime::Trap>() && store.data().refused.is_none() => Err(error),
        _ => Ok(()),
    }
}

impl Live {
    fn new(
        plugin: &Plugin,
        pre: &Pre,
        config: &str,
        generation: u64,
    ) -> Result<Self, ConfigureError> {
        let limits = plugin.engine.limits();
        let mut store = store(&plugin.engine);
        let _running = plugin.engine.guard();
        let exports = match store
            .set_fuel(limits.configure_fuel)
            .and_then(|()| Exports::new(&mut store, pre))
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
            Ok(Err(said)) => Err(ConfigureError::Refused(problems(said))),
            Err(e) => Err(ConfigureError::Fault(Fault::of(
                &e,
                limits.configure_fuel,
                store.data().refused,
            ))),
        }
    }

    /// As much fuel and time as for `configure`.
    fn update(&mut self, plugin: &Plugin, facts: &[Fact], generation: u64) -> Result<(), Fault> {
        let fuel = plugin.engine.limits().configure_fuel;
        let _running = plugin.engine.guard();
        self.store.data_mut().watch = Stopwatch::start(CONFIGURE_TIME);
        self.store.set_epoch_deadline(1);
        self.store
            .set_fuel(fuel)
            .and_then(|()| self.exports.update(&mut self.store, facts, generation))
            .map_err(|e| Fault::of(&e, fuel, self.store.data().refused))
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
        let _running = plugin.engine.guard();
        self.store.data_mut().watch = Stopwatch::start(DECIDE_TIME);
        self.store.set_epoch_deadline(1);
        self.decisions += 1;
        self.store
            .set_fuel(fuel)
            .and_then(|()| self.exports.decide(&mut self.store, key))
            .map_err(|e| Fault::of(&e, fuel, self.store.data().refused))
    }
}

impl Live {
    fn choose(&mut self, plugin: &Plugin, asked: &SteerQuestion) -> Result<SteerAnswer, Fault> {
        let Exports::Steering(guest) = &self.exports else {
            return Err(Fault::Verdict {
                what: "it is of the world policy, which chooses no ways".to_owned(),
            });
        };
        let fuel = plugin.engine.limits().steer_fuel;
        let _running = plugin.engine.guard();
        self.store.data_mut().watch = Stopwatch::start(STEER_TIME);
        self.store.set_epoch_deadline(1);
        self.decisions += 1;
        let (key, ways, current) = steering::question(asked);
        let called = self.store.set_fuel(fuel).and_then(|()| {
            guest
                .meshd_policy_steer()
                .call_choose_path(&mut self.store, key, &ways, &current)
        });
        let choice = called.map_err(|e| Fault::of(&e, fuel, self.store.data().refused))?;
        steering::answer(&choice)
    }
}

/// One plugin with one config. Replaces its own guest after a fault.
pub struct Instance {
    plugin: Plugin,
    config: Arc<str>,
    generation: u64,
    facts: Facts,
    /// Boxed: each call takes it out and puts it back.
    live: Option<Box<Live>>,
}

impl Instance {
    /// Starts `plugin` with `config` (JSON; empty: `{}`) and lets it decide once on a fixed key, so that what it sets up
    /// lazily is set up. `generation` is passed on.
    ///
    /// # Errors
    /// What the plugin says about the config, or how it failed.
    pub fn new(plugin: &Plugin, config: &str, generation: u64) -> Result<Self, ConfigureError> {
        Self::with_facts(plugin, config, Facts::default(), generation)
    }

    /// The same, with what a controller has told so far.
    ///
    /// # Errors
    /// As of [`Instance::new`], or how it fails while it takes the facts.
    pub fn with_facts(
        plugin: &Plugin,
        config: &str,
        facts: Facts,
        generation: u64,
    ) -> Result<Self, ConfigureError> {
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
            facts,
            live: None,
        };
        if let Some(pre) = instance.plugin.pre.clone() {
            instance.live = Some(instance.start(&pre)?);
        }
        Ok(instance)
    }

    fn start(&self, pre: &Pre) -> Result<Box<Live>, ConfigureError> {
        let live = Live::new(&self.plugin, pre, &self.config, self.generation)?;
        let mut live = Box::new(live);
        if !self.facts.is_empty() {
            let all: Vec<Fact> = self
                .facts
                .iter()
                .map(|(key, value)| Fact {
                    key: key.to_owned(),
                    value: Some(value.to_vec()),
                })
                .collect();
            live.update(&self.plugin, &all, self.generation)
                .map_err(ConfigureError::Facts)?;
        }
        let first = match (self.plugin.shape().world, steering::warm_up()) {
            (World::Steering, Some(question)) => live.choose(&self.plugin, &question).map(drop),
            _ => live
                .decide(&self.plugin, convert::warm_up(), Direction::Ingress)
                .map(drop),
        };
        first.map_err(ConfigureError::FirstDecision)?;
        Ok(live)
    }

    /// What the plugin says about the frames of `question`.
    ///
    /// # Errors
    /// How it failed. The guest is gone then, and the next call starts a fresh one.
    pub fn decide(&mut self, question: &Question) -> Result<Decision, Fault> {
        let Some(mut live) = self.ready()? else {
            return Ok(Decision::of(Say::Next));
        };
        let decision = live.decide(&self.plugin, convert::key(question), question.direction)?;
        self.live = Some(live);
        Ok(decision)
    }

    /// The ways that a steering plugin chooses. Its memory lasts from one question to the next, and ends with a fault.
    ///
    /// # Errors
    /// How it failed, as of [`Instance::decide`]; also if the plugin is of another world.
    pub fn choose(&mut self, question: &SteerQuestion) -> Result<SteerAnswer, Fault> {
        let Some(mut live) = self.ready()? else {
            return Err(Fault::Verdict {
                what: "it is a controller, which chooses no ways".to_owned(),
            });
        };
        let answer = live.choose(&self.plugin, question)?;
        self.live = Some(live);
        Ok(answer)
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
        let Some(mut live) = self.ready()? else {
            return Ok((Decision::of(Say::Next), Words::nothing()));
        };
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

    /// The facts change to `facts`, which are those that it has with `changes`. It takes them at once, as long as it takes, so
    /// this is nothing for an instance that frames wait for.
    ///
    /// # Errors
    /// How it failed. It has the old facts then, and the next decision starts a fresh guest with them.
    pub fn update(
        &mut self,
        facts: &Facts,
        changes: &[FactChange],
        generation: u64,
    ) -> Result<(), Fault> {
        if self.plugin.pre.is_some() {
            let Some(mut live) = self.ready()? else {
                return Ok(());
            };
            let changes: Vec<Fact> = changes
                .iter()
                .map(|change| Fact {
                    key: change.key.clone(),
                    value: change.value.clone(),
                })
                .collect();
            live.update(&self.plugin, &changes, generation)?;
            // As at a start: what it sets up lazily is set up before frames come.
            live.decide(&self.plugin, convert::warm_up(), Direction::Ingress)?;
            self.live = Some(live);
        }
        (self.facts, self.generation) = (facts.clone(), generation);
        Ok(())
    }

    /// It has these facts from the next decision on, for which it starts anew.
    pub fn set_facts(&mut self, facts: Facts) {
        self.facts = facts;
        self.live = None;
    }

    /// The facts that it decides by.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// `None`: there is no policy in this package.
    fn ready(&mut self) -> Result<Option<Box<Live>>, Fault> {
        let Some(pre) = &self.plugin.pre else {
            return Ok(None);
        };
        match self.live.take() {
            Some(live) if live.decisions < LIFE => Ok(Some(live)),
            _ => self.start(pre).map(Some).map_err(|e| Fault::Restart {
                what: e.to_string(),
            }),
        }
    }

    /// Another one of the same plugin, config, facts and generation. It starts when it is asked, and has decided nothing until then.
    #[must_use]
    pub fn sibling(&self) -> Self {
        Self {
            plugin: self.plugin.clone(),
            config: Arc::clone(&self.config),
            generation: self.generation,
            facts: self.facts.clone(),
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
