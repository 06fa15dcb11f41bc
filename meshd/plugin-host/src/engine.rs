//! The wasmtime engines: what every guest may use up, and the watch that ends one that uses more. Policies and controllers
//! have an engine each, since code that counts fuel is slower, and a controller has nothing to count.
//!
//! Fuel bounds a decision, and its exhaustion depends on the key alone; bulk-memory instructions cost a unit a byte. What is
//! slow for other reasons (page faults, memory that misses every cache) meets the clock behind it: a thread advances epochs
//! every [`TICK`] while decisions are made, and sleeps while none are; at each epoch the guest's own thread looks how much
//! processor time it had. So a guest that hangs is cut within 2 ms, and one that a busy machine kept waiting is not.

use crate::load::LoadError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;
use wasmtime::Config;

/// Length of an epoch.
const TICK: Duration = Duration::from_micros(500);
/// Processor time of a decision behind its first epoch: with that one, at most 1.5 ms. A little less than two epochs, so that
/// a tick that comes early does not add a third.
pub(crate) const DECIDE_TIME: Patience = Patience {
    cpu: Duration::from_micros(900),
    ticks: 200,
};
/// The same for a choice among ways, which is made ten times a second at most.
pub(crate) const STEER_TIME: Patience = Patience {
    cpu: Duration::from_millis(10),
    ticks: 400,
};
/// The same for `configure`.
pub(crate) const CONFIGURE_TIME: Patience = Patience {
    cpu: Duration::from_secs(1),
    ticks: 10_000,
};
/// The same for an event. What the host does for a controller meanwhile, such as trying facts on its policy, counts too.
pub(crate) const EVENT_TIME: Patience = Patience {
    cpu: Duration::from_millis(250),
    ticks: 10_000,
};
/// Ticks without a decision after which the watch goes to sleep.
const IDLE_TICKS: u32 = 1000;

/// How long a call may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Processor time, counted from the first epoch that ends during the call.
    cpu: Duration,
    /// Epochs that may end during the call whatever it got of the processor: 100 ms for a decision.
    ticks: u32,
}

/// A call's time so far.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    patience: Patience,
    first: Option<Duration>,
    ticks: u32,
}

impl Stopwatch {
    pub(crate) fn start(patience: Patience) -> Self {
        Self {
            patience,
            first: None,
            ticks: 0,
        }
    }

    /// An epoch ended, and this thread has had so much processor time in its life. True: the call goes on.
    pub(crate) fn tick(&mut self, cpu: Duration) -> bool {
        self.ticks += 1;
        let used = cpu.saturating_sub(*self.first.get_or_insert(cpu));
        used < self.patience.cpu && self.ticks < self.patience.ticks
    }
}

/// Processor time of this thread; where the system does not tell, none, and the epochs alone count.
pub(crate) fn thread_cpu() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map_or(Duration::ZERO, Duration::from)
}

/// What one instance may use up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Fuel for one decision; about one unit an instruction.
    pub decide_fuel: u64,
    /// Fuel for a choice among ways.
    pub steer_fuel: u64,
    /// Fuel for `configure`.
    pub configure_fuel: u64,
    /// Bytes of linear memory.
    pub memory: usize,
    /// Entries of a table.
    pub table: usize,
    /// Bytes of linear memory of a controller.
    pub controller_memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            decide_fuel: 20_000,
            steer_fuel: 1_000_000,
            configure_fuel: 100_000_000,
            memory: 16 << 20,
            table: 10_000,
            controller_memory: 32 << 20,
        }
    }
}

/// Compiles and runs guests. Cheap to clone; one for the daemon is enough.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    wasm: wasmtime::Engine,
    controllers: wasmtime::Engine,
    limits: Limits,
    watch: Watch,
}

impl Engine {
    /// # Errors
    /// [`LoadError::Engine`] if this machine cannot run compiled WASM, or has no thread to give.
    pub fn new(limits: Limits) -> Result<Self, LoadError> {
        let start = |settings| {
            wasmtime::Engine::new(&settings).map_err(|e| LoadError::Engine {
                reason: format!("{e:#}"),
            })
        };
        let (wasm, controllers) = (start(settings())?, start(controller_settings())?);
        let both = [wasm.clone(), controllers.clone()];
        let watch = Watch::start(both).map_err(|e| LoadError::Engine {
            reason: e.to_string(),
        })?;
        Ok(Self(Arc::new(Inner {
            wasm,
            controllers,
            limits,
            watch,
        })))
    }

    /// What every instance may use up.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.0.limits
    }

    pub(crate) fn wasm(&self) -> &wasmtime::Engine {
        &self.0.wasm
    }

    pub(crate) fn controllers(&self) -> &wasmtime::Engine {
        &self.0.controllers
    }

    /// A guest is about to run: sees to it that epochs advance as long as what is returned lives.
    #[must_use]
    pub(crate) fn guard(&self) -> Running<'_> {
        self.0.watch.guard()
    }
}

/// A guest runs.
pub(crate) struct Running<'a>(&'a Signals);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What compiled code depends on: the same where it is made and where it runs.
pub(crate) fn settings() -> Config {
    let mut config = Config::new();
    config.wasm_component_model(true);
    // Costs 1.6 to 1.8 times per call, and a policy has nothing to wait for.
    config.concurrency_support(false);
    config.consume_fuel(true);
    config.epoch_interruption(true);
    config.max_wasm_stack(256 << 10);
    // The same verdict on every machine.
    config.cranelift_nan_canonicalization(true);
    config.wasm_relaxed_simd(false);
    config.wasm_memory64(false);
    // A fault is what an attacker repeats; a backtrace each time is work for us, not for them.
    config.wasm_backtrace_max_frames(None);
    config
}

/// As [`settings`], for controllers: the clock alone ends what runs too long.
pub(crate) fn controller_settings() -> Config {
    let mut config = settings();
    config.consume_fuel(false);
    config.max_wasm_stack(512 << 10);
    config
}

impl core::fmt::Debug for Engine {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Engine")
            .field("limits", &self.0.limits)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Signals {
    calls: AtomicU64,
    /// Calls under way. One may take longer than the watch stays awake for nothing.
    running: AtomicU64,
    asleep: AtomicBool,
    stop: AtomicBool,
}

struct Watch {
    signals: Arc<Signals>,
    thread: Thread,
    handle: Option<JoinHandle<()>>,
}

impl Watch {
    fn start(engines: [wasmtime::Engine; 2]) -> std::io::Result<Self> {
        let signals = Arc::new(Signals::default());
        let seen = Arc::clone(&signals);
        let handle = std::thread::Builder::new()
            .name("meshd-wasm-watch".to_owned())
            .spawn(move || {
                let (mut calls, mut idle) = (0, 0);
                while !seen.stop.load(Ordering::Acquire) {
                    std::thread::sleep(TICK);
                    engines.iter().for_each(wasmtime::Engine::increment_epoch);
                    let now = seen.calls.load(Ordering::SeqCst);
                    let quiet = now == calls && seen.running.load(Ordering::SeqCst) == 0;
                    idle = if quiet { idle + 1 } else { 0 };
                    calls = now;
                    if idle < IDLE_TICKS {
                        continue;
                    }
                    // Say that we sleep, then look once more: a call that came between sees the flag or is seen by us.
                    seen.asleep.store(true, Ordering::SeqCst);
                    while seen.calls.load(Ordering::SeqCst) == calls
                        && !seen.stop.load(Ordering::Acquire)
                    {
                        std::thread::park();
                    }
                    seen.asleep.store(false, Ordering::SeqCst);
                    idle = 0;
                }
            })?;
        Ok(Self {
            thread: handle.thread().clone(),
            handle: Some(handle),
            signals,
        })
    }

    fn guard(&self) -> Running<'_> {
        self.signals.running.fetch_add(1, Ordering::SeqCst);
        self.signals.calls.fetch_add(1, Ordering::SeqCst);
        if self.signals.asleep.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        Running(&self.signals)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.signals.stop.store(true, Ordering::Release);
        self.thread.unpark();
        if let Some(handle) = self.handle.take() {
            // It cannot have panicked in a way that matters here.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_ends_by_the_processor_time_it_had_and_not_by_the_time_it_was_kept_waiting() {
        let us = Duration::from_micros;
        let mut hangs = Stopwatch::start(DECIDE_TIME);
        assert_eq!(
            [7_400, 7_900, 8_390].map(|at| hangs.tick(us(at))),
            [true, true, false]
        );
        let mut waits = Stopwatch::start(DECIDE_TIME);
        assert!((0..199).all(|n| waits.tick(us(7_000 + n))));
        assert!(!waits.tick(us(7_200)), "100 ms is enough in any case");
    }
}
