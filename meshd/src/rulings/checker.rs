//! Whoever trusts plugins and checks: a thread that examines a sample of their decisions, beside the worker that answers.
//!
//! ```text
//!   link --1 of 256 decisions--> queue (64, else dropped) --> fresh instance, scrambled keys --holds--> nothing
//!                                                                        \--does not--> Finding: quarantine, notice
//! ```
//!
//! Owns the queue, the thread and how much of a processor it may have. What is examined is `meshd_plugin_host::examine`'s;
//! what follows from a finding is the registry's.

use meshd_core::ident::{Label, Vni};
use meshd_core::node::Question;
use meshd_plugin_host::{Decision, Instance, Lie, Scramble, examine};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Samples that may wait. One of each link at most is under way, so this is enough for 64 busy networks.
const QUEUE: usize = 64;
/// It rests so many times as long as an examination took, and at most [`REST_MAX`]: a tenth of one processor.
const REST: u32 = 9;
/// See [`REST`].
const REST_MAX: Duration = Duration::from_secs(1);

/// A decision to be examined.
pub(super) struct Sample {
    pub(super) name: Label,
    /// True while it is under way; which one it is says which link it came from.
    pub(super) mark: Arc<AtomicBool>,
    pub(super) examined: Arc<AtomicU64>,
    /// A fresh one.
    pub(super) instance: Instance,
    pub(super) question: Question,
    pub(super) decision: Decision,
}

/// A decision did not hold.
pub(super) struct Caught {
    pub(super) name: Label,
    pub(super) vni: Vni,
    pub(super) mark: Arc<AtomicBool>,
    pub(super) lie: Lie,
}

/// The way to the thread. Clones share it; the thread ends with the last one.
#[derive(Clone)]
pub(super) struct Checker(SyncSender<Sample>);

impl Checker {
    /// Starts the thread. `caught` is called there, for each decision that did not hold.
    pub(super) fn start(
        seed: u64,
        caught: impl Fn(Caught) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (samples, queue) = sync_channel(QUEUE);
        std::thread::Builder::new()
            .name("meshd-policy-check".to_owned())
            .spawn(move || work(&queue, Scramble::new(seed), &caught))?;
        Ok(Self(samples))
    }

    /// Never blocks; where the queue is full, another sample will do.
    pub(super) fn offer(&self, sample: Sample) {
        if let Err(back) = self.0.try_send(sample) {
            let (std::sync::mpsc::TrySendError::Full(sample)
            | std::sync::mpsc::TrySendError::Disconnected(sample)) = back;
            sample.mark.store(false, Ordering::Release);
        }
    }
}

fn work(queue: &Receiver<Sample>, mut scramble: Scramble, caught: &impl Fn(Caught)) {
    while let Ok(sample) = queue.recv() {
        let Sample {
            name,
            mark,
            examined,
            mut instance,
            question,
            decision,
        } = sample;
        let started = Instant::now();
        let found = examine(
            |question| instance.decide(question),
            &question,
            &decision,
            &mut scramble,
        );
        let took = started.elapsed();
        // Its memory goes before the thread rests.
        drop(instance);
        examined.fetch_add(1, Ordering::Relaxed);
        mark.store(false, Ordering::Release);
        if let Err(lie) = found {
            caught(Caught {
                name,
                vni: question.vni,
                mark,
                lie,
            });
        }
        std::thread::sleep((took * REST).min(REST_MAX));
    }
}
