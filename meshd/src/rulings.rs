//! The plugins of this node and the policy chains they make: installed, attached to networks, asked.
//!
//! ```text
//!   driver --ask--> queue (1024) --> worker: chain of the network, link by link --> Input::Answer --> driver
//!                      | full: Answer "failed" at once                ^
//!   API --install, attach, detach--> registry --new set of chains-----+  swapped whole, after it is on the disk
//! ```
//!
//! Owns the queue, the worker and the current set of chains. A change is built beside the running set, and only a set in
//! which every plugin took its config replaces it. Never blocks the driver, and decides nothing itself: a link says what
//! the plugin said (`rulings/link.rs`), the registry what is installed (`rulings/registry.rs`). After a change the caller
//! tells the node by `Command::PolicyChain` with the number from [`Rulings::chains`], so that old rulings go stale.

mod chain;
mod link;
mod registry;
mod shelf;

pub use link::FailMode;
pub use registry::{
    AttachError, AttachmentInfo, DetachError, InstallError, Placement, PluginInfo, StartError,
};
pub use shelf::ShelfError;

use crate::store::Store;
use arc_swap::ArcSwap;
use chain::Chains;
use meshd_core::ident::{Epoch, Label, QueryId, Vni};
use meshd_core::node::{Input, Question};
use meshd_core::policy::Answer;
use registry::Registry;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::mpsc;

/// Questions that may wait. At 1 to 3 µs each this is a few ms; whoever comes later is better off with an answer now.
const QUEUE: usize = 1024;

/// Plugins, chains and the worker that asks them. Clones share them; the worker ends with the last one.
#[derive(Clone)]
pub struct Rulings(Arc<Inner>);

struct Inner {
    asks: SyncSender<Ask>,
    inputs: mpsc::Sender<Input>,
    chains: Arc<ArcSwap<Chains>>,
    registry: Mutex<Registry>,
}

struct Ask {
    query: QueryId,
    epoch: Epoch,
    question: Question,
}

impl Rulings {
    /// Loads what is installed and starts the worker. A plugin that does not load any more keeps its attachments, and they
    /// answer by their fail mode; [`Rulings::list`] says so.
    ///
    /// # Errors
    /// If the state cannot be read, or the WASM engine does not start.
    pub fn start(
        store: Store,
        state_dir: &Path,
        inputs: mpsc::Sender<Input>,
    ) -> Result<Self, StartError> {
        let registry = Registry::open(store, state_dir)?;
        let chains = Arc::new(ArcSwap::from_pointee(registry.chains()));
        let (asks, queue) = sync_channel(QUEUE);
        let (seen, answers) = (Arc::clone(&chains), inputs.clone());
        std::thread::Builder::new()
            .name("meshd-policy".to_owned())
            .spawn(move || work(&queue, &seen, &answers))
            .map_err(StartError::Thread)?;
        Ok(Self(Arc::new(Inner {
            asks,
            inputs,
            chains,
            registry: Mutex::new(registry),
        })))
    }

    /// Asks the chain of the question's network; the answer comes as `Input::Answer`. Never blocks: where the queue is
    /// full, the answer is that the policy failed. Where the driver's own queue is full too there is none, and the node's
    /// timeout says the same.
    pub fn ask(&self, query: QueryId, epoch: Epoch, question: Question) {
        if self
            .0
            .asks
            .try_send(Ask {
                query,
                epoch,
                question,
            })
            .is_err()
        {
            let answer = chain::failed("the queue of policy questions is full".to_owned());
            // The node's timeout covers an answer that finds no room.
            let _ = self.0.inputs.try_send(Input::Answer {
                query,
                epoch,
                answer,
            });
        }
    }

    /// The answer of the current chain, now and on this thread: for `meshd trace`.
    pub fn ask_now(&self, question: &Question) -> Answer {
        self.0.chains.load().answer(question, Instant::now())
    }

    /// Keeps a component under `name`. If the name is in use, its attachments change over to the new code, all or none.
    ///
    /// # Errors
    /// Why it is no plugin, which attachment's config it refuses, or that it cannot be kept. Nothing has changed then.
    pub fn install(&self, name: &Label, wasm: &[u8]) -> Result<PluginInfo, InstallError> {
        let mut registry = self.registry();
        let info = registry.install(name, wasm)?;
        self.0.chains.store(Arc::new(registry.chains()));
        Ok(info)
    }

    /// Puts an installed plugin into the chain of a network, with `config` as JSON (empty: `{}`). If it is there already,
    /// changes config and place, and asks the old one until the new one is ready. What is `None` stays as it was: who
    /// changes a place must not empty an access list.
    ///
    /// # Errors
    /// There is no such plugin, it refuses the config, or the change cannot be kept. Nothing has changed then.
    pub fn attach<'a>(
        &self,
        plugin: &Label,
        vni: Vni,
        config: impl Into<Option<&'a str>>,
        placement: Placement,
    ) -> Result<PluginInfo, AttachError> {
        let mut registry = self.registry();
        let info = registry.attach(plugin, vni, config.into(), placement)?;
        self.0.chains.store(Arc::new(registry.chains()));
        Ok(info)
    }

    /// Takes a plugin out of the chain of a network.
    ///
    /// # Errors
    /// It is not there, or the change cannot be kept.
    pub fn detach(&self, plugin: &Label, vni: Vni) -> Result<PluginInfo, DetachError> {
        let mut registry = self.registry();
        let info = registry.detach(plugin, vni)?;
        self.0.chains.store(Arc::new(registry.chains()));
        Ok(info)
    }

    /// Everything installed, by name.
    pub fn list(&self) -> Vec<PluginInfo> {
        self.registry().list()
    }

    /// For `Command::PolicyChain`: each network that has or had a chain since the start. 0: no plugin any more; else a
    /// number that every change of this chain, its code or config has moved.
    pub fn chains(&self) -> BTreeMap<Vni, u32> {
        self.registry().revisions()
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        // Each change is made on a copy or after its last fallible step, so a panic leaves nothing half done.
        self.0
            .registry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn work(queue: &Receiver<Ask>, chains: &ArcSwap<Chains>, answers: &mpsc::Sender<Input>) {
    while let Ok(Ask {
        query,
        epoch,
        question,
    }) = queue.recv()
    {
        let answer = chains.load().answer(&question, Instant::now());
        if answers
            .blocking_send(Input::Answer {
                query,
                epoch,
                answer,
            })
            .is_err()
        {
            return; // the driver is gone
        }
    }
}

#[cfg(test)]
mod tests;
