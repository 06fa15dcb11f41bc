//! The thread of one controller: one event after the other, timers in between, and what happens when it fails.
//!
//! ```text
//!   start --ok--> events, timers, flush of kv --fault--> gone for 0.1 s, then 0.2 s, ... --> start
//!     ^                                        five faults in 10 s: gone for 10 s, each time twice as long, at most 5 min
//!     \-- a change of code or config waits for the event under way, and works on the instance itself
//! ```
//!
//! Owns the instance. While there is none, events wait in the queue, and what does not fit is lost; a new instance begins with
//! what is there then.

use super::host::Host;
use super::queue::Woken;
use super::shares;
use super::surroundings::Snapshot;
use super::timers::Timers;
use super::{Attached, Shared};
use meshd_core::code::ErrorCode;
use meshd_plugin_host::contract::events::Event;
use meshd_plugin_host::contract::types::LogLevel;
use meshd_plugin_host::{Capability, ConfigureError, Controller, Fault, Plugin, StateError};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two looks at the network, where nothing says that it changed.
const LOOK: Duration = Duration::from_millis(500);
/// Figures of ways are told no more often.
const METRICS: Duration = Duration::from_secs(1);
/// Faults that end the trust, if they fall into [`WINDOW`].
const FAULTS: usize = 5;
/// See [`FAULTS`].
const WINDOW: Duration = Duration::from_secs(10);
/// After the first fault in the window; twice as long after each one more.
const BREATH: Duration = Duration::from_millis(100);
/// After [`FAULTS`]; twice as long each time.
const PAUSE: Duration = Duration::from_secs(10);
/// See [`PAUSE`].
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// An instance, and what ends with it.
pub(super) struct Ready {
    controller: Controller,
    timers: Arc<Mutex<Timers>>,
    /// The last request of the instance before: an answer to that is none for this one.
    last_call: u64,
    /// What it was told of the network.
    told: Arc<Snapshot>,
    looks_at: Instant,
    /// When it may be told of ways again.
    metrics_at: Instant,
}

/// What a change of the attachment and the thread take turns at.
pub(super) struct Cell {
    pub(super) code: Plugin,
    pub(super) config: String,
    pub(super) ready: Option<Ready>,
    recovery: Recovery,
    last_fault: Option<String>,
    /// A new instance has not been told yet what is there.
    greet: bool,
}

impl Cell {
    pub(super) fn new(code: Plugin, config: &str, ready: Option<Ready>) -> Self {
        Self {
            code,
            config: config.to_owned(),
            greet: ready.is_some(),
            ready,
            recovery: Recovery::default(),
            last_fault: None,
        }
    }

    /// Why it does nothing at the moment, if so.
    pub(super) fn trouble(&self) -> Option<String> {
        let until = self.recovery.until.filter(|_| self.ready.is_none())?;
        let left = until.saturating_duration_since(Instant::now()).as_secs();
        let last = self.last_fault.as_deref().unwrap_or("unknown");
        Some(format!(
            "its controller failed and is started again in {} s (last: {last})",
            left + 1
        ))
    }

    pub(super) fn last_fault(&self) -> Option<String> {
        self.last_fault.clone()
    }

    /// The state of the instance, for the next one; none where there is no instance or it fails at that.
    pub(super) fn save(&mut self, shared: &Shared) -> Option<Vec<u8>> {
        let ready = self.ready.as_mut()?;
        match ready.controller.save_state() {
            Ok(state) => Some(state),
            Err(error) => {
                let text = format!("its state is not handed over: {error}");
                shared.journal.host(LogLevel::Warn, &text);
                if let StateError::Fault(fault) = error {
                    self.fault(shared, &fault.to_string());
                }
                None
            }
        }
    }

    /// The instance gets another config; if there is none, one is started to see whether it takes it.
    pub(super) fn configure(
        &mut self,
        shared: &Arc<Shared>,
        config: &str,
    ) -> Result<(), ConfigureError> {
        let generation = shared.house.next_generation();
        match &mut self.ready {
            Some(ready) => {
                let outcome = ready.controller.configure(config, generation);
                if let Err(ConfigureError::Fault(fault)) = &outcome {
                    self.fault(shared, &fault.to_string());
                }
                outcome?;
            }
            None => self.replace(start(shared, &self.code, config)?),
        }
        self.config = config.to_owned();
        Ok(())
    }

    /// Another instance takes the place of this one.
    pub(super) fn replace(&mut self, ready: Ready) {
        self.ready = Some(ready);
        self.recovery = Recovery::default();
        self.greet = true;
    }

    fn fault(&mut self, shared: &Shared, text: &str) {
        self.ready = None;
        self.last_fault = Some(text.to_owned());
        let pause = self.recovery.fault(Instant::now());
        shared.count_fault();
        let line = format!(
            "it failed: {text}; started again in {} ms",
            pause.as_millis()
        );
        shared.journal.host(LogLevel::Error, &line);
        // The recovery bounds how often this is said.
        tracing::warn!(code = %ErrorCode::PluginFailed, plugin = %shared.plugin, vni = %shared.vni, fault = %text, "a controller failed");
    }
}

/// A fresh instance that has taken its config.
pub(super) fn start(
    shared: &Arc<Shared>,
    code: &Plugin,
    config: &str,
) -> Result<Ready, ConfigureError> {
    let timers = Arc::default();
    let last_call = shared.calls.load(Ordering::Relaxed);
    let host = Host {
        shared: Arc::clone(shared),
        timers: Arc::clone(&timers),
    };
    let generation = shared.house.next_generation();
    let controller = Controller::start(code, config, generation, Box::new(host))?;
    Ok(Ready {
        controller,
        timers,
        last_call,
        told: Arc::default(),
        looks_at: Instant::now(),
        metrics_at: Instant::now(),
    })
}

/// The same, having taken the state of the version before.
pub(super) fn restore(
    mut ready: Ready,
    state: &[u8],
    from_version: &str,
) -> Result<Ready, StateError> {
    ready.controller.restore_state(state, from_version)?;
    Ok(ready)
}

/// The life of the thread.
pub(super) fn run(attached: &Attached) {
    let shared = &attached.0;
    loop {
        // Who changes the attachment goes first.
        while attached.is_wanted() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let (due, wants) = {
            let mut cell = attached.cell();
            let due = tend(&mut cell, shared);
            (due, cell.ready.is_some())
        };
        match shared.queue.wait(due, wants) {
            Woken::Due => {}
            Woken::Event(event) => {
                let mut cell = attached.cell();
                deliver(&mut cell, shared, &event);
            }
            Woken::Stopped => break,
        }
    }
    flush(shared);
    shares::flush(shared);
    attached.cell().ready = None;
}

/// What the clock asks for; returns when it asks again.
fn tend(cell: &mut Cell, shared: &Arc<Shared>) -> Option<Instant> {
    let now = Instant::now();
    if cell.ready.is_none() && cell.recovery.may_start(now) {
        match start(shared, &cell.code, &cell.config) {
            Ok(ready) => cell.replace_after_fault(ready),
            Err(error) => cell.fault(shared, &error.to_string()),
        }
    }
    if std::mem::take(&mut cell.greet) {
        let last_call = cell.ready.as_ref().map_or(0, |ready| ready.last_call);
        shared.queue.clear(last_call);
        shared.journal.host(LogLevel::Info, "started");
    }
    if let Some(ready) = &mut cell.ready {
        look(ready, shared, now);
    }
    // One at a time: timers that are due all the time must not keep events, changes and the end away.
    if let Some(id) = cell.ready.as_ref().and_then(Ready::take_timer) {
        deliver(cell, shared, &Event::Timer(id));
    }
    if shared.kv().due().is_some_and(|due| due <= now) {
        flush(shared);
    }
    if cell.ready.is_some() {
        shares::tend(shared, now);
    }
    let ready = cell.ready.as_ref();
    let timer = ready.and_then(|ready| lock(&ready.timers).next());
    let look = ready.map(|ready| ready.looks_at).filter(|_| shared.sees());
    let start = cell.recovery.until.filter(|_| cell.ready.is_none());
    let kv = shared.kv().due();
    let mesh = shared.shares().due().filter(|_| cell.ready.is_some());
    [timer, look, start, kv, mesh].into_iter().flatten().min()
}

/// Tells what is new on the network.
fn look(ready: &mut Ready, shared: &Shared, now: Instant) {
    if !shared.sees() || (now < ready.looks_at && !shared.take_nudge()) {
        return;
    }
    ready.looks_at = now + LOOK;
    let Some(seen) = shared.house.look(shared.vni) else {
        return;
    };
    let mut seen = Snapshot::clone(&seen);
    if now < ready.metrics_at {
        seen.paths.clone_from(&ready.told.paths);
    }
    for (at, path) in &mut seen.paths {
        *path = std::mem::take(path).settle(ready.told.paths.get(at));
    }
    for event in seen.news(&ready.told) {
        if matches!(event, Event::LinkMetrics(_)) {
            ready.metrics_at = now + METRICS;
        }
        shared.queue.push(event);
    }
    ready.told = Arc::new(seen);
}

fn flush(shared: &Shared) {
    if let Err(why) = shared.kv().flush(crate::clock::wall().0) {
        let line = format!("what it keeps could not be written: {why}");
        shared.journal.host(LogLevel::Warn, &line);
    }
}

fn deliver(cell: &mut Cell, shared: &Shared, event: &Event) {
    let Some(ready) = &mut cell.ready else {
        return;
    };
    if matches!(event, Event::HttpDone((call, _)) if *call <= ready.last_call) {
        return;
    }
    let started = Instant::now();
    let outcome = ready.controller.on_event(event);
    shared.count_event(started.elapsed());
    if let Err(fault) = outcome {
        cell.fault(shared, &said(&fault));
    }
}

fn said(fault: &Fault) -> String {
    match fault {
        Fault::Deadline => "it did not return from an event in time".to_owned(),
        other => other.to_string(),
    }
}

fn lock(timers: &Mutex<Timers>) -> std::sync::MutexGuard<'_, Timers> {
    timers.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ready {
    fn take_timer(&self) -> Option<u64> {
        lock(&self.timers).take(Instant::now())
    }
}

impl Cell {
    /// As [`Self::replace`], but what it did before is not forgotten.
    fn replace_after_fault(&mut self, ready: Ready) {
        self.ready = Some(ready);
        self.greet = true;
    }
}

impl Shared {
    /// Is it told what is on the network?
    fn sees(&self) -> bool {
        self.grants().capabilities.contains(&Capability::Topology)
    }
}

/// When a controller that failed may start again.
#[derive(Debug, Default)]
struct Recovery {
    faults: VecDeque<Instant>,
    until: Option<Instant>,
    pauses: u32,
}

impl Recovery {
    fn may_start(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now >= until)
    }

    /// One more fault; how long it is gone.
    fn fault(&mut self, now: Instant) -> Duration {
        let old = |at: &Instant| now.saturating_duration_since(*at) > WINDOW;
        while self.faults.front().is_some_and(old) {
            self.faults.pop_front();
        }
        // Who lived through a whole longest pause has made up for it.
        if self
            .until
            .is_some_and(|until| now.saturating_duration_since(until) > PAUSE_MAX)
        {
            self.pauses = 0;
        }
        self.faults.push_back(now);
        let pause = if self.faults.len() >= FAULTS {
            self.faults.clear();
            let pause = PAUSE * 2u32.saturating_pow(self.pauses.min(10));
            self.pauses += 1;
            pause.min(PAUSE_MAX)
        } else {
            let n = u32::try_from(self.faults.len()).unwrap_or(u32::MAX);
            BREATH * 2u32.saturating_pow(n.saturating_sub(1))
        };
        self.until = Some(now + pause);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_faults_in_ten_seconds_mean_a_pause_that_doubles_and_rare_ones_a_breath() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut recovery = Recovery::default();
        assert!(recovery.may_start(start));
        for s in [0, 11, 22, 33, 44, 55, 66] {
            assert_eq!(recovery.fault(at(s)), BREATH);
        }
        assert!(!recovery.may_start(at(66)) && recovery.may_start(at(67)));
        let mut recovery = Recovery::default();
        let mut burst = |from: u64| {
            (0..5)
                .map(|s| recovery.fault(at(from + s)).as_millis())
                .collect::<Vec<_>>()
        };
        assert_eq!(burst(0), [100, 200, 400, 800, 10_000]);
        assert_eq!(burst(20), [100, 200, 400, 800, 20_000]);
        assert_eq!(burst(60).last(), Some(&40_000));
        assert_eq!(burst(1000).last(), Some(&10_000), "it lived long enough");
    }
}
