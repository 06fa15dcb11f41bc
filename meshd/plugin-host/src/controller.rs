//! One controller with one config: the half of a package that has a memory and is told what happens.
//!
//! ```text
//!   start: instantiate -> configure(json) -> restore-state?      on-event(one at a time)      save-state
//!              |  every import is the embedder's `ControllerHost`                 any fault: the guest is dead; start another
//! ```
//!
//! Owns the store, its memory limit and its clock: it counts no fuel, since a controller is not asked twice for the same. A
//! call ends after [`EVENT_TIME`](crate::engine) of processor time, or after [`CALL_WAIT_MAX`], whatever it waits for: who changes the
//! attachment waits for the call. Refuses nothing of what a guest asks the host for: that
//! is the embedder's, which knows what was granted.

use crate::bindings::controller::exports::meshd::policy::events::Event;
use crate::bindings::controller::meshd::policy::{
    clock, flows, http, kv, log, metrics, packet_out, random, timers, topology,
};
use crate::bindings::controller::{Controller as Exports, ControllerPre};
use crate::engine::{CONFIGURE_TIME, EVENT_TIME, Engine, Patience, Stopwatch, thread_cpu};
use crate::fault::Fault;
use crate::instance::{ConfigureError, Guest, MAX_CONFIG, problems};
use crate::load::{LoadError, Plugin, differs};
use std::time::{Duration, Instant};
use wasmtime::component::{Component, HasData, Linker};
use wasmtime::{Store, UpdateDeadline};

/// The longest state that is handed over, in bytes.
pub const MAX_STATE: usize = 256 << 10;

/// The longest that a call may take, the host's part in it included. A commit may wait for its turn, and a guest that makes one
/// after the other waits without using its processor time up.
pub(crate) const CALL_WAIT_MAX: Duration = Duration::from_secs(5);

/// What a controller may call, as `wit/host.wit` has it. All answers come at once.
pub trait ControllerHost:
    log::Host
    + metrics::Host
    + clock::Host
    + random::Host
    + timers::Host
    + kv::Host
    + topology::Host
    + flows::Host
    + packet_out::Host
    + http::Host
    + Send
{
}

impl<T> ControllerHost for T where
    T: log::Host
        + metrics::Host
        + clock::Host
        + random::Host
        + timers::Host
        + kv::Host
        + topology::Host
        + flows::Host
        + packet_out::Host
        + http::Host
        + Send
{
}

/// Why one version's state is not taken by another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Longer than [`MAX_STATE`].
    #[error("its state has {size} bytes; at most {MAX_STATE} are handed over")]
    TooLong {
        /// In bytes.
        size: usize,
    },
    /// The new version does not want it.
    #[error("it does not take the state of the version before: {reason}")]
    Refused {
        /// In its words, cut.
        reason: String,
    },
    /// It failed.
    #[error("it fails while state is handed over: {0}")]
    Fault(Fault),
}

/// The data of a controller's store.
pub(crate) struct Desk {
    guest: Guest,
    /// When the call under way began.
    began: Instant,
    host: Box<dyn ControllerHost>,
}

/// The embedder's half, as the linker wants it named.
struct Host;

impl HasData for Host {
    type Data<'a> = &'a mut (dyn ControllerHost + 'static);
}

fn host(desk: &mut Desk) -> &mut (dyn ControllerHost + 'static) {
    &mut *desk.host
}

pub(crate) fn link(
    engine: &Engine,
    component: &Component,
) -> Result<ControllerPre<Desk>, LoadError> {
    let mut linker = Linker::new(engine.controllers());
    let all = [
        log::add_to_linker::<_, Host>(&mut linker, host),
        metrics::add_to_linker::<_, Host>(&mut linker, host),
        clock::add_to_linker::<_, Host>(&mut linker, host),
        random::add_to_linker::<_, Host>(&mut linker, host),
        timers::add_to_linker::<_, Host>(&mut linker, host),
        kv::add_to_linker::<_, Host>(&mut linker, host),
        topology::add_to_linker::<_, Host>(&mut linker, host),
        flows::add_to_linker::<_, Host>(&mut linker, host),
        packet_out::add_to_linker::<_, Host>(&mut linker, host),
        http::add_to_linker::<_, Host>(&mut linker, host),
    ];
    let contract = |e: wasmtime::Error| differs("events", &e);
    for added in all {
        added.map_err(contract)?;
    }
    let pre = linker.instantiate_pre(component).map_err(contract)?;
    ControllerPre::new(pre).map_err(contract)
}

/// A controller at work. One caller at a time; after a fault it is of no use any more.
pub struct Controller {
    engine: Engine,
    store: Store<Desk>,
    exports: Exports,
}

impl Controller {
    /// Starts the controller of `plugin`, which has to have one, with `config` (JSON; empty: `{}`).
    ///
    /// # Errors
    /// What it says about the config, or how it failed.
    pub fn start(
        plugin: &Plugin,
        config: &str,
        generation: u64,
        host: Box<dyn ControllerHost>,
    ) -> Result<Self, ConfigureError> {
        let Some(code) = &plugin.controller else {
            return Err(ConfigureError::Fault(Fault::Restart {
                what: "there is no controller in this plugin".to_owned(),
            }));
        };
        let engine = plugin.engine.clone();
        let limits = engine.limits();
        let desk = Desk {
            guest: Guest::new(limits.controller_memory, limits),
            began: Instant::now(),
            host,
        };
        let mut store = Store::new(engine.controllers(), desk);
        store.limiter(|desk| &mut desk.guest);
        store.epoch_deadline_callback(|mut context| {
            let desk = context.data_mut();
            let goes_on = desk.guest.watch.tick(thread_cpu());
            Ok(match goes_on && desk.began.elapsed() < CALL_WAIT_MAX {
                true => UpdateDeadline::Continue(1),
                false => UpdateDeadline::Interrupt,
            })
        });
        store.set_epoch_deadline(1);
        let running = engine.guard();
        let exports = code.pre.instantiate(&mut store);
        drop(running);
        let exports = exports.map_err(|e| ConfigureError::Fault(fault(&e, &store)))?;
        let mut controller = Self {
            engine,
            store,
            exports,
        };
        controller.configure(config, generation)?;
        Ok(controller)
    }

    /// Another config.
    ///
    /// # Errors
    /// What it says about the config, and then it goes on with the old one; or how it failed.
    pub fn configure(&mut self, config: &str, generation: u64) -> Result<(), ConfigureError> {
        if config.len() > MAX_CONFIG {
            return Err(ConfigureError::TooLong { size: config.len() });
        }
        let config = match config.trim() {
            "" => "{}",
            _ => config,
        };
        let said = self.call(CONFIGURE_TIME, |exports, store| {
            let events = exports.meshd_policy_events();
            events.call_configure(store, config, generation)
        });
        match said.map_err(ConfigureError::Fault)? {
            Ok(()) => Ok(()),
            Err(said) => Err(ConfigureError::Refused(problems(said))),
        }
    }

    /// One thing that happened.
    ///
    /// # Errors
    /// How it failed; it is dead then.
    pub fn on_event(&mut self, event: &Event) -> Result<(), Fault> {
        self.call(EVENT_TIME, |exports, store| {
            exports.meshd_policy_events().call_on_event(store, event)
        })
    }

    /// What the next version is to know.
    ///
    /// # Errors
    /// How it failed, and then it is dead; or that it is too much.
    pub fn save_state(&mut self) -> Result<Vec<u8>, StateError> {
        let state = self
            .call(EVENT_TIME, |exports, store| {
                exports.meshd_policy_events().call_save_state(store)
            })
            .map_err(StateError::Fault)?;
        match state.len() {
            size if size > MAX_STATE => Err(StateError::TooLong { size }),
            _ => Ok(state),
        }
    }

    /// What the version before wanted known.
    ///
    /// # Errors
    /// It does not take it, or it failed.
    pub fn restore_state(&mut self, state: &[u8], from_version: &str) -> Result<(), StateError> {
        let said = self.call(CONFIGURE_TIME, |exports, store| {
            let events = exports.meshd_policy_events();
            events.call_restore_state(store, state, from_version)
        });
        said.map_err(StateError::Fault)?.map_err(|reason| {
            let reason = reason.chars().take(500).collect();
            StateError::Refused { reason }
        })
    }

    fn call<T>(
        &mut self,
        patience: Patience,
        call: impl FnOnce(&Exports, &mut Store<Desk>) -> wasmtime::Result<T>,
    ) -> Result<T, Fault> {
        let desk = self.store.data_mut();
        desk.guest.watch = Stopwatch::start(patience);
        desk.began = Instant::now();
        self.store.set_epoch_deadline(1);
        let _running = self.engine.guard();
        call(&self.exports, &mut self.store).map_err(|e| fault(&e, &self.store))
    }
}

fn fault(error: &wasmtime::Error, store: &Store<Desk>) -> Fault {
    // There is no fuel to run out of.
    Fault::of(error, 0, store.data().guest.refused)
}

impl core::fmt::Debug for Controller {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Controller").finish_non_exhaustive()
    }
}
