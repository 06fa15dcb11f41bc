//! Controllers: the halves of plugins that have a memory, each on a thread of its own beside the data path.
//!
//! ```text
//!              events (1024, else lost)                      log, figures --> meshd plugin logs, stats
//!   node ----> queue ----> thread: instance of the guest ---> kv --> store, or the directory
//!    ^                          |                        \--> timers, clock, chance, topology
//!    |                          v
//!    \---- chain moved ---- commit: facts, rules --> link of the paired policy
//! ```
//!
//! Owns one [`Attached`] for each attachment whose plugin has a controller: its thread, its bounds, what it keeps and what it
//! wrote. A controller that hangs, traps or floods spends its own thread's time and its own memory. Refuses to know what is
//! installed: that is `rulings/registry.rs`, which makes, changes and ends them. Nothing here holds the registry's lock, and a
//! change that waits for an event under way waits at most for that event's time.

mod fetch;
mod figures;
mod host;
mod journal;
mod kv;
mod live;
mod queue;
mod runner;
mod shares;
mod surroundings;
mod timers;
mod writer;

#[cfg(test)]
pub(crate) use fetch::Fetch;
pub use journal::LogLine;
pub(crate) use kv::forget;
pub(crate) use live::Live;
#[cfg(test)]
pub(crate) use surroundings::{Done, Heard, Nowhere};
pub(crate) use surroundings::{Snapshot, Surroundings};

use crate::punts::{BUDGET_PPS, PuntReader};
use crate::rulings::Link;
use crate::store::{Store, StoreError};
use figures::Figures;
use journal::Journal;
use kv::Kv;
use meshd_core::dues::{Dues, Meter, Rate};
use meshd_core::ident::{Label, Vni};
use meshd_plugin_host::contract;
use meshd_plugin_host::contract::events::{Event, Punt};
use meshd_plugin_host::contract::types::LogLevel;
use meshd_plugin_host::{ConfigureError, Facts, Grants, Plugin, StateError};
use queue::Queue;
use runner::{Cell, Ready};
use serde::{Deserialize, Serialize};
use shares::Shares;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use writer::Writer;

/// Controllers on this node: each has a thread and may have 32 MiB.
pub(crate) const MAX_CONTROLLERS: usize = 64;
/// What of the budget for frames may be sent at once, in ms of it.
const BURST_MS: u64 = 250;
/// A look at a network serves everybody for so long.
const FRESH: Duration = Duration::from_millis(100);

type Outcome<T, E> = Result<T, E>;

/// What all controllers of the node share.
pub(crate) struct House {
    store: Store,
    surroundings: Arc<dyn Surroundings>,
    started: Instant,
    generation: AtomicU64,
    looks: Mutex<BTreeMap<Vni, (Instant, Arc<Snapshot>)>>,
    roll: Mutex<Vec<std::sync::Weak<Shared>>>,
}

impl House {
    pub(crate) fn new(store: Store, surroundings: Arc<dyn Surroundings>) -> Arc<Self> {
        Arc::new(Self {
            store,
            surroundings,
            started: Instant::now(),
            generation: AtomicU64::new(0),
            looks: Mutex::default(),
            roll: Mutex::default(),
        })
    }

    /// Of config, code and facts; never twice the same.
    pub(crate) fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The network now, or a moment ago: a controller that looks all the time does not keep the node from its work.
    fn look(&self, vni: Vni) -> Option<Arc<Snapshot>> {
        let is_fresh = |(at, _): &(Instant, Arc<Snapshot>)| at.elapsed() < FRESH;
        let kept = self
            .looks()
            .get(&vni)
            .filter(|look| is_fresh(look))
            .cloned();
        if let Some((_, seen)) = kept {
            return Some(seen);
        }
        // Without the lock: it waits for the node, and who nudges must not.
        let seen = Arc::new(self.surroundings.look(vni)?);
        let mut looks = self.looks();
        looks.retain(|_, look| is_fresh(look));
        looks.insert(vni, (Instant::now(), Arc::clone(&seen)));
        Some(seen)
    }

    fn looks(&self) -> MutexGuard<'_, BTreeMap<Vni, (Instant, Arc<Snapshot>)>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something changed on some network: all look again.
    pub(crate) fn nudge(&self) {
        self.looks().clear();
        let mut roll = self.roll.lock().unwrap_or_else(PoisonError::into_inner);
        roll.retain(|one| match one.upgrade() {
            Some(shared) => {
                shared.nudged.store(true, Ordering::Release);
                shared.queue.nudge();
                true
            }
            None => false,
        });
    }
}

/// What an attachment's instances, one after the other, have in common.
struct Shared {
    plugin: Label,
    vni: Vni,
    house: Arc<House>,
    queue: Queue,
    journal: Journal,
    figures: Mutex<Figures>,
    kv: Mutex<Kv>,
    shares: Mutex<Shares>,
    writer: Mutex<Writer>,
    grants: Mutex<Grants>,
    /// Of frames of its own.
    budget: Mutex<Arc<Dues>>,
    nudged: AtomicBool,
    /// Changes that wait for the instance.
    wanted: AtomicU32,
    /// Requests that were made, and those on their way.
    calls: AtomicU64,
    under_way: Arc<AtomicU32>,
    events: AtomicU64,
    busy_us: AtomicU64,
    faults: AtomicU64,
}

impl Shared {
    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kv(&self) -> MutexGuard<'_, Kv> {
        self.kv.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shares(&self) -> MutexGuard<'_, Shares> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grants(&self) -> MutexGuard<'_, Grants> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn budget(&self) -> MutexGuard<'_, Arc<Dues>> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stand_on(&self, link: Arc<Link>) {
        for gone in self.writer().stand_on(link) {
            self.journal.host(LogLevel::Warn, &gone);
        }
    }

    fn committed(&self, generation: u64) {
        self.queue.push(Event::Committed(generation));
    }

    fn take_nudge(&self) -> bool {
        self.nudged.swap(false, Ordering::AcqRel)
    }

    fn count_event(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.events.fetch_add(1, Ordering::Relaxed);
        self.busy_us.fetch_add(us, Ordering::Relaxed);
    }

    fn count_fault(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }
}

/// A bucket for frames of a plugin's own.
fn budget(grants: &Grants) -> Arc<Dues> {
    let rate = Rate::Pps(u64::from(grants.amounts.frames_per_s.max(1)));
    let mut budget = Dues::default();
    budget.meter(Arc::new(Meter::new("packet-out".into(), rate, BURST_MS)));
    Arc::new(budget)
}

/// A controller, to be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = Controller)]
pub struct ControllerInfo {
    /// Why it does nothing at the moment, if so.
    pub trouble: Option<String>,
    /// How it failed last.
    pub last_fault: Option<String>,
    /// Capabilities that were granted.
    pub grants: Vec<String>,
    /// Events that it was told.
    pub events: u64,
    /// Events that wait.
    pub waiting: u64,
    /// Events that were lost.
    pub lost: u64,
    /// Time in it, in us.
    pub busy_us: u64,
    /// How often it failed.
    pub faults: u64,
    /// Facts that the policy has of it, and their bytes.
    #[schema(value_type = Vec<u64>)]
    pub facts: (u64, u64),
    /// Rules that it wrote.
    pub rules: u64,
    /// Bytes that it keeps.
    pub kept: u64,
    /// Bytes that it keeps for all nodes of the network, of those that this node wrote.
    pub shared: u64,
    /// Its own figures.
    pub figures: BTreeMap<String, i64>,
}

/// Why an instance is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControllerError {
    /// It does not take its config.
    #[error("its controller: {0}")]
    Configure(#[from] ConfigureError),
    /// It does not take the state of the version before.
    #[error("its controller: {0}")]
    State(#[from] StateError),
    /// What it kept cannot be read.
    #[error("what its controller kept cannot be read: {0}")]
    Kept(String),
    /// The system has no thread to give.
    #[error("its controller cannot be started: {0}")]
    Thread(String),
}

impl From<StoreError> for ControllerError {
    fn from(error: StoreError) -> Self {
        Self::Kept(error.to_string())
    }
}

/// The controller of one attachment. Clones share it.
#[derive(Clone)]
pub(crate) struct Attached(Arc<Shared>, Arc<Mutex<Cell>>, Arc<Thread>);

#[derive(Default)]
struct Thread(Mutex<Option<JoinHandle<()>>>);

impl Attached {
    /// One that has taken its config; it is told nothing until [`Attached::begin`].
    ///
    /// # Errors
    /// Why not. Nothing is left then.
    pub(crate) fn prepare(
        house: &Arc<House>,
        (plugin, vni): (&Label, Vni),
        code: &Plugin,
        config: &str,
        grants: &Grants,
    ) -> Outcome<Self, ControllerError> {
        let shared = Self::shared(house, (plugin, vni), grants)?;
        let ready = runner::start(&shared, code, config)?;
        Ok(Self::of(
            shared,
            Cell::new(code.clone(), config, Some(ready)),
        ))
    }

    /// One whose thread starts the instance: for the start of the daemon, when there is nobody yet who could be asked.
    ///
    /// # Errors
    /// If what it kept cannot be read.
    pub(crate) fn later(
        house: &Arc<House>,
        (plugin, vni): (&Label, Vni),
        code: &Plugin,
        config: &str,
        grants: &Grants,
    ) -> Outcome<Self, ControllerError> {
        let shared = Self::shared(house, (plugin, vni), grants)?;
        Ok(Self::of(shared, Cell::new(code.clone(), config, None)))
    }

    fn shared(
        house: &Arc<House>,
        (plugin, vni): (&Label, Vni),
        grants: &Grants,
    ) -> Outcome<Arc<Shared>, ControllerError> {
        let kv = Kv::open(house.store.clone(), plugin, vni)?;
        let shared = Arc::new(Shared {
            plugin: plugin.clone(),
            vni,
            house: Arc::clone(house),
            queue: Queue::default(),
            journal: Journal::default(),
            figures: Mutex::default(),
            kv: Mutex::new(kv),
            shares: Mutex::default(),
            writer: Mutex::default(),
            budget: Mutex::new(budget(grants)),
            grants: Mutex::new(grants.clone()),
            nudged: AtomicBool::new(false),
            wanted: AtomicU32::new(0),
            calls: AtomicU64::new(0),
            under_way: Arc::default(),
            events: AtomicU64::new(0),
            busy_us: AtomicU64::new(0),
            faults: AtomicU64::new(0),
        });
        let mut roll = house.roll.lock().unwrap_or_else(PoisonError::into_inner);
        roll.push(Arc::downgrade(&shared));
        Ok(shared)
    }

    fn of(shared: Arc<Shared>, cell: Cell) -> Self {
        Self(shared, Arc::new(Mutex::new(cell)), Arc::default())
    }

    /// Events come from now on, and what it writes holds for `link`.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(crate) fn begin(&self, link: Arc<Link>) -> Outcome<(), ControllerError> {
        let punts = link.punts().listen(BUDGET_PPS);
        self.0.stand_on(link);
        self.follow_punts(punts)?;
        let this = self.clone();
        let thread = std::thread::Builder::new()
            .name("meshd-control".to_owned())
            // Guests have a stack of their own; the host's calls are shallow.
            .stack_size(1 << 20)
            .spawn(move || runner::run(&this))
            .map_err(|e| ControllerError::Thread(e.to_string()))?;
        let mut slot = self.2.0.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(thread);
        Ok(())
    }

    /// Frames that the policy sends here become events. The thread ends when another listens, or the attachment is gone.
    fn follow_punts(&self, mut punts: PuntReader) -> Outcome<(), ControllerError> {
        let shared = Arc::downgrade(&self.0);
        std::thread::Builder::new()
            .name("meshd-punts".to_owned())
            .stack_size(256 << 10)
            .spawn(move || {
                while let Some(punted) = punts.blocking_recv() {
                    let Some(shared) = shared.upgrade() else {
                        return;
                    };
                    shared.queue.push(Event::Punted(Punt {
                        key: contract::key(&punted.question),
                        frame: punted.frame.into(),
                        truncated: punted.truncated,
                    }));
                }
            })
            .map(drop)
            .map_err(|e| ControllerError::Thread(e.to_string()))
    }

    /// Waits for the event under way, and keeps the next one from coming as long as what is returned lives.
    pub(crate) fn pause(&self) -> Paused<'_> {
        self.0.wanted.fetch_add(1, Ordering::AcqRel);
        Paused {
            attached: self,
            cell: Some(self.cell()),
        }
    }

    /// The event under way is the last one, and is not waited for: where many are to stop, they do it side by side.
    pub(crate) fn halt(&self) {
        self.0.queue.stop();
    }

    /// No event comes any more; returns after the one under way. What it kept stays.
    pub(crate) fn stop(&self) {
        self.halt();
        let thread = self
            .2
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // A panic in it has been said by its thread.
            let _ = thread.join();
        }
        self.0.writer().leave();
    }

    /// The facts that it wrote.
    pub(crate) fn facts(&self) -> Facts {
        self.0.writer().facts().clone()
    }

    /// The lines behind `after`.
    pub(crate) fn log(&self, after: u64) -> Vec<LogLine> {
        self.0.journal.since(after)
    }

    pub(crate) fn info(&self) -> ControllerInfo {
        let shared = &self.0;
        // An event under way is waited for by nobody who only looks.
        let (trouble, last_fault) = match self.1.try_lock() {
            Ok(cell) => (cell.trouble(), cell.last_fault()),
            Err(_) => (None, None),
        };
        let (waiting, lost) = shared.queue.depth();
        let writer = shared.writer.try_lock();
        let (facts, rules) = writer.map_or(((0, 0), 0), |writer| {
            let facts = writer.facts();
            let sizes = (facts.len() as u64, facts.bytes() as u64);
            (sizes, writer.rules().len() as u64)
        });
        let grants = shared.grants();
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        ControllerInfo {
            trouble,
            last_fault,
            grants: grants
                .capabilities
                .iter()
                .map(ToString::to_string)
                .collect(),
            events: count(&shared.events),
            waiting: waiting as u64,
            lost,
            busy_us: count(&shared.busy_us),
            faults: count(&shared.faults),
            facts,
            rules,
            kept: shared.kv().bytes() as u64,
            // An exchange with the node is waited for by nobody who only looks.
            shared: shared
                .shares
                .try_lock()
                .map_or(0, |shares| shares.bytes() as u64),
            figures: shared.figures().all(),
        }
    }

    fn cell(&self) -> MutexGuard<'_, Cell> {
        self.1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_wanted(&self) -> bool {
        self.0.wanted.load(Ordering::Acquire) > 0
    }
}

/// An attachment between two events.
pub(crate) struct Paused<'a> {
    attached: &'a Attached,
    cell: Option<MutexGuard<'a, Cell>>,
}

/// The next version's instance, which has taken its config and the state of the one before.
pub(crate) struct Successor {
    code: Plugin,
    ready: Ready,
}

impl Paused<'_> {
    /// Another config for the same code.
    ///
    /// # Errors
    /// What it says; it goes on with the old one then.
    pub(crate) fn configure(&mut self, config: &str) -> Outcome<(), ControllerError> {
        let shared = &self.attached.0;
        match &mut self.cell {
            Some(cell) => Ok(cell.configure(shared, config)?),
            None => Ok(()),
        }
    }

    /// The config that it has.
    pub(crate) fn config(&self) -> String {
        self.cell
            .as_ref()
            .map_or_else(String::new, |cell| cell.config.clone())
    }

    /// An instance of other code, beside this one.
    ///
    /// # Errors
    /// It does not take the config, or the state.
    pub(crate) fn successor(
        &mut self,
        code: &Plugin,
        config: &str,
    ) -> Outcome<Successor, ControllerError> {
        let shared = &self.attached.0;
        let (state, version) = match &mut self.cell {
            Some(cell) => {
                let manifest = cell.code.manifest();
                let version = manifest.map_or_else(String::new, |m| m.version.clone());
                (cell.save(shared), version)
            }
            None => (None, String::new()),
        };
        let mut ready = runner::start(shared, code, config)?;
        if let Some(state) = state {
            ready = runner::restore(ready, &state, &version)?;
        }
        Ok(Successor {
            code: code.clone(),
            ready,
        })
    }

    /// The instance that was prepared goes on in its place.
    pub(crate) fn succeed(&mut self, successor: Successor) {
        if let Some(cell) = &mut self.cell {
            cell.code = successor.code;
            cell.replace(successor.ready);
        }
    }

    /// What was granted is something else from now on.
    pub(crate) fn grant(&self, grants: &Grants) {
        *self.attached.0.budget() = budget(grants);
        *self.attached.0.grants() = grants.clone();
    }

    /// What it writes holds for `link` from now on.
    pub(crate) fn stand_on(&self, link: Arc<Link>) {
        self.attached.0.stand_on(link);
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.cell = None;
        self.attached.0.wanted.fetch_sub(1, Ordering::AcqRel);
        self.attached.0.queue.nudge();
    }
}
