//! The plugins of this node and the policy chains they make: installed, attached to networks, asked.
//!
//! ```text
//!   driver --ask--> queue (1024) --> worker: chain of the network, link by link --> Input::Answer --> driver
//!                      | full: Answer "failed" at once                ^
//!   API --install, attach, detach--> registry --new set of chains-----+  swapped whole, after it is on the disk
//!           \--> compiler (a child process), before anything is locked  |
//!   checker: a sample of the decisions, examined <----------------------+  what does not hold is a Finding
//! ```
//!
//! Owns the queue, the worker, the checker and the current set of chains. A change is built beside the running set, and only a set in
//! which every plugin took its config replaces it. Never blocks the driver, and decides nothing itself: a link says what
//! the plugin said (`rulings/link.rs`), the registry what is installed (`rulings/registry.rs`). After a change the caller
//! tells the node by `Command::PolicyChain` with the number from [`Rulings::chains`], so that old rulings go stale.

mod breaker;
mod chain;
mod checker;
mod error;
mod groups;
mod link;
mod place;
mod registry;
mod report;
mod shadow;
mod shelf;
mod tolls;

pub use crate::controllers::{ControllerError, ControllerInfo, LogLine};
pub use chain::{Asked, Said};
pub use error::{
    AttachError, DetachError, InstallError, RemoveError, RollbackError, ShadowError, StartError,
};
pub(crate) use groups::{Kept, PutChange};
pub(crate) use link::Link;
pub use meshd_plugin_host::{Capability, FailMode, Stage};
pub use place::Placement;
pub use report::{About, AttachmentInfo, LabelCount, MeterInfo, PluginInfo, ShadowInfo};
pub use shadow::{Difference, Example, Tally};
pub use shelf::ShelfError;

use crate::compiler::{Compiler, Loader, Trust};
use crate::controllers::{House, Surroundings};
use crate::punts::Punts;
use crate::store::Store;
use arc_swap::ArcSwap;
use chain::Chains;
use checker::{Caught, Checker};
use meshd_core::code::ErrorCode;
use meshd_core::ident::{Epoch, Label, QueryId, Vni};
use meshd_core::node::{Input, Question};
use meshd_core::policy::Answer;
use meshd_core::steering::SteerQuestion;
use meshd_plugin_host::{Engine, Limits};
use registry::Registry;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Instant;
use tokio::sync::mpsc;

/// Questions that may wait. At 1 to 3 µs each this is a few ms; whoever comes later is better off with an answer now.
const QUEUE: usize = 1024;
/// Findings that may wait to be told. Each is one attachment's only one, until it changes.
const FINDINGS: usize = 64;

/// A plugin's decision did not hold for all frames for which its mask said it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The plugin.
    pub plugin: Label,
    /// Where it decided.
    pub vni: Vni,
    /// What does not hold.
    pub reason: String,
}

/// Whether what a config declares for the host (`meters`, `groups`, `flood-sets`) can be had, for who has no daemon to ask.
///
/// # Errors
/// What is wrong with it, and where.
pub fn check_config(config: &str) -> Result<(), String> {
    // Its name stands before those of its meters, and no name of a plugin is too long for that.
    let Ok(any) = "plugin".parse() else {
        return Ok(());
    };
    tolls::Tolls::of(&any, config, None)?;
    groups::Groups::of(&any, config).map(std::mem::drop)
}

/// Does a config have keys, of which some may be the host's? A config may be any JSON: a list, a number, nothing.
fn declares(config: &str) -> bool {
    config.trim_start().starts_with('{')
}

/// Plugins, chains and the worker that asks them. Clones share them; the worker ends with the last one.
#[derive(Clone)]
pub struct Rulings(Arc<Inner>);

struct Inner {
    asks: SyncSender<Ask>,
    steers: SyncSender<(QueryId, SteerQuestion)>,
    inputs: mpsc::Sender<Input>,
    chains: Arc<ArcSwap<Chains>>,
    registry: Mutex<Registry>,
    loader: Arc<Loader>,
    punts: Punts,
    findings: Mutex<Option<mpsc::Receiver<Finding>>>,
    house: Arc<House>,
    turn: tokio::sync::Mutex<()>,
}

struct Ask {
    query: QueryId,
    epoch: Epoch,
    question: Question,
}

impl Rulings {
    /// Loads what is installed and admitted by `trust`, and starts the worker. A plugin that does not load any more keeps its attachments, and they
    /// answer by their fail mode; [`Rulings::list`] says so.
    ///
    /// # Errors
    /// If the state cannot be read, or the WASM engine does not start.
    pub(crate) fn start(
        store: Store,
        state_dir: &Path,
        inputs: mpsc::Sender<Input>,
        trust: Trust,
        surroundings: Arc<dyn Surroundings>,
    ) -> Result<Self, StartError> {
        let compiler = Compiler::itself();
        Self::start_with(store, state_dir, inputs, compiler, trust, surroundings)
    }

    /// The same, with another compiler than this program itself.
    ///
    /// # Errors
    /// As of [`Rulings::start`].
    pub(crate) fn start_with(
        store: Store,
        state_dir: &Path,
        inputs: mpsc::Sender<Input>,
        compiler: Compiler,
        trust: Trust,
        surroundings: Arc<dyn Surroundings>,
    ) -> Result<Self, StartError> {
        let engine = Engine::new(Limits::default())?;
        let loader = Arc::new(Loader::new(engine, compiler, state_dir).trusting(trust));
        let home: Arc<OnceLock<Weak<Inner>>> = Arc::default();
        let (tell, findings) = mpsc::channel(FINDINGS);
        let back = Arc::clone(&home);
        let caught = move |caught| {
            if let Some(inner) = back.get().and_then(Weak::upgrade) {
                Self(inner).caught(&caught, &tell);
            }
        };
        let checker = Checker::start(seed(), caught).map_err(StartError::Thread)?;
        let punts = Punts::default();
        let house = House::new(store.clone(), surroundings);
        let registry = Registry::open(
            store,
            state_dir,
            Arc::clone(&loader),
            Arc::clone(&house),
            Some(checker),
            punts.clone(),
        )?;
        let chains = Arc::new(ArcSwap::from_pointee(registry.chains()));
        let (asks, queue) = sync_channel(QUEUE);
        let (seen, answers) = (Arc::clone(&chains), inputs.clone());
        std::thread::Builder::new()
            .name("meshd-policy".to_owned())
            .spawn(move || work(&queue, &seen, &answers))
            .map_err(StartError::Thread)?;
        let (steers, questions) = sync_channel(QUEUE);
        let (seen, answers) = (Arc::clone(&chains), inputs.clone());
        std::thread::Builder::new()
            .name("meshd-steering".to_owned())
            .spawn(move || choose(&questions, &seen, &answers))
            .map_err(StartError::Thread)?;
        let inner = Arc::new(Inner {
            asks,
            steers,
            inputs,
            chains,
            registry: Mutex::new(registry),
            loader,
            punts,
            findings: Mutex::new(Some(findings)),
            house,
            turn: tokio::sync::Mutex::default(),
        });
        // It was empty.
        let _ = home.set(Arc::downgrade(&inner));
        Ok(Self(inner))
    }

    fn caught(&self, caught: &Caught, tell: &mpsc::Sender<Finding>) {
        if !self.registry().quarantine(caught) {
            return;
        }
        let finding = Finding {
            plugin: caught.name.clone(),
            vni: caught.vni,
            reason: caught.lie.to_string(),
        };
        tracing::error!(code = %ErrorCode::PluginQuarantined, plugin = %finding.plugin, vni = %finding.vni, reason = %finding.reason, "a plugin's answers hold for exactly equal frames only from now on");
        // Who does not listen still sees it in the list of plugins.
        let _ = tell.try_send(finding);
    }

    /// Where lanes put frames that verdicts send to controllers.
    #[must_use]
    pub fn punts(&self) -> Punts {
        self.0.punts.clone()
    }

    /// The number of an attachment, and where frames for its controller come: [`PuntBox::listen`](crate::punts::PuntBox::listen). The same as long as it is
    /// attached, whatever its config and code. What it answered is taken back by [`Command::PolicyInvalidate`] with that number.
    ///
    /// [`Command::PolicyInvalidate`]: meshd_core::command::Command::PolicyInvalidate
    #[cfg(test)]
    fn punt_box(&self, plugin: &Label, vni: Vni) -> Option<Arc<crate::punts::PuntBox>> {
        let registry = self.registry();
        let lasting = registry.lasts(plugin, vni)?;
        Some(Arc::clone(&lasting.punts))
    }

    /// Who changes something and tells the node of it has its turn meanwhile, so that the node hears of changes in their order.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.0.turn.lock().await
    }

    /// What the checker finds, for who tells the node and people; once. After each, `Command::PolicyChain` is due.
    pub fn findings(&self) -> Option<mpsc::Receiver<Finding>> {
        let mut findings = self
            .0
            .findings
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        findings.take()
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
                answer: answer.into(),
            });
        }
    }

    /// Asks the steering plugin of the question's network; the answer comes as `Input::Steered`. Never blocks: where the queue is
    /// full, the answer is that it failed.
    pub fn steer(&self, query: QueryId, question: SteerQuestion) {
        if self.0.steers.try_send((query, question)).is_err() {
            let answer = None;
            // The node gives up a question without an answer by itself.
            let _ = self.0.inputs.try_send(Input::Steered { query, answer });
        }
    }

    /// The answer of the current chain, now and on this thread, with what each plugin said: for `meshd trace`.
    pub fn ask_now(&self, question: &Question) -> (Answer, Vec<Asked>) {
        self.0.chains.load().trace(question, Instant::now())
    }

    /// Keeps a component under `name`; `source` is the file it came from, for `reload`. If the name is in use, its attachments change over to the new code, all or none.
    ///
    /// # Errors
    /// Why it is no plugin, which attachment's config it refuses, or that it cannot be kept. Nothing has changed then.
    pub fn install(
        &self,
        name: &Label,
        wasm: &[u8],
        source: Option<String>,
    ) -> Result<PluginInfo, InstallError> {
        // Takes a while, so it comes before the lock.
        let plugin = self
            .0
            .loader
            .load(wasm)
            .map_err(|source| InstallError::Load {
                name: name.clone(),
                source,
            })?;
        let mut registry = self.registry();
        let info = registry.install(name, plugin, wasm, source);
        // Of a component that was refused nothing stays.
        let info = info.inspect_err(|_| registry.sweep())?;
        self.0.chains.store(Arc::new(registry.chains()));
        Ok(info)
    }

    /// Puts an earlier version in the place of `name`'s code: the one before, or the one whose digest begins with `to`. Its
    /// attachments change over, all or none.
    ///
    /// # Errors
    /// There is none such, or an attachment's config is none for it. Nothing has changed then.
    pub fn roll_back(&self, name: &Label, to: Option<&str>) -> Result<PluginInfo, RollbackError> {
        let wasm = self.registry().earlier(name, to)?;
        let plugin = self
            .0
            .loader
            .load(&wasm)
            .map_err(|source| InstallError::Load {
                name: name.clone(),
                source,
            })?;
        let mut registry = self.registry();
        let info = registry.roll_back(name, plugin)?;
        self.0.chains.store(Arc::new(registry.chains()));
        Ok(info)
    }

    /// Has the version in `wasm` asked what `name` is asked on `vni`, with the same config; `name` is obeyed. It ends with
    /// [`Rulings::unshadow`], with the next change of code, config or place there, and with the daemon.
    ///
    /// # Errors
    /// It is no plugin, takes no such config, or there is nothing to run beside.
    pub fn shadow(&self, name: &Label, vni: Vni, wasm: &[u8]) -> Result<PluginInfo, ShadowError> {
        let plugin = self
            .0
            .loader
            .load(wasm)
            .map_err(|source| ShadowError::Load {
                name: name.clone(),
                source,
            })?;
        let mut registry = self.registry();
        registry
            .shadow(name, vni, &plugin)
            .inspect_err(|_| registry.sweep())
    }

    /// Ends what [`Rulings::shadow`] began.
    ///
    /// # Errors
    /// There is none.
    pub fn unshadow(&self, name: &Label, vni: Vni) -> Result<PluginInfo, ShadowError> {
        self.registry().unshadow(name, vni)
    }

    /// Removes a plugin that is attached nowhere, with all its versions.
    ///
    /// # Errors
    /// There is none such, it is attached, or the change cannot be kept.
    pub fn remove(&self, name: &Label) -> Result<(), RemoveError> {
        self.registry().remove(name)
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
        self.attach_granting(plugin, vni, config, placement, None)
    }

    /// The same, and its controller may import `grant` from now on, with the figures that its manifest names today. `None`: what
    /// it might before, which at first is [`Capability::DEFAULT`].
    ///
    /// # Errors
    /// As of [`Rulings::attach`], or that its controller imports something else.
    pub fn attach_granting<'a>(
        &self,
        plugin: &Label,
        vni: Vni,
        config: impl Into<Option<&'a str>>,
        placement: Placement,
        grant: Option<&BTreeSet<Capability>>,
    ) -> Result<PluginInfo, AttachError> {
        let mut registry = self.registry();
        let info = registry.attach(plugin, vni, config.into(), placement, grant)?;
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

    /// What the controller of an attachment has told, behind line `after`; `None`: there is no controller.
    #[must_use]
    pub fn log(&self, plugin: &Label, vni: Vni, after: u64) -> Option<Vec<LogLine>> {
        self.registry().log(plugin, vni, after)
    }

    /// All places that plugins have on networks: what others kept for all nodes is to be forgotten ([`Command::ShareOnly`]).
    ///
    /// [`Command::ShareOnly`]: meshd_core::command::Command::ShareOnly
    pub fn attachments(&self) -> BTreeSet<(Vni, Label)> {
        self.registry().attachments()
    }

    /// Ports, peers or stations changed: controllers look again.
    pub(crate) fn nudge(&self) {
        self.0.house.nudge();
    }

    /// Ends the controllers; what they keep is on the disk then.
    pub(crate) fn stop(&self) {
        self.registry().stop_controllers();
    }

    /// How many components were compiled since the start. What was compiled before by this release is not again.
    pub fn compiled(&self) -> u64 {
        self.0.loader.compiler().runs()
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

    /// For `Command::SteeringPlugin`: the same of steering plugins.
    pub fn steering(&self) -> BTreeMap<Vni, u32> {
        self.registry().steering_revisions()
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        // Each change is made on a copy or after its last fallible step, so a panic leaves nothing half done.
        self.0
            .registry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// For scrambling: a plugin must not know what it will be asked.
fn seed() -> u64 {
    let mut bytes = [0; 8];
    // Without random numbers, scrambled keys can be foreseen, and are still scrambled.
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
    u64::from_ne_bytes(bytes)
}

fn work(queue: &Receiver<Ask>, chains: &ArcSwap<Chains>, answers: &mpsc::Sender<Input>) {
    while let Ok(Ask {
        query,
        epoch,
        question,
    }) = queue.recv()
    {
        // A mistake of ours costs one answer, and not all that come after.
        let asked = AssertUnwindSafe(|| chains.load().answer(&question, Instant::now()));
        let answer = std::panic::catch_unwind(asked).unwrap_or_else(|_| {
            chain::failed("the daemon failed within this question; its log says how".to_owned())
        });
        if answers
            .blocking_send(Input::Answer {
                query,
                epoch,
                answer: answer.into(),
            })
            .is_err()
        {
            return; // the driver is gone
        }
    }
}

fn choose(
    queue: &Receiver<(QueryId, SteerQuestion)>,
    chains: &ArcSwap<Chains>,
    answers: &mpsc::Sender<Input>,
) {
    while let Ok((query, question)) = queue.recv() {
        let answer = chains.load().steer(&question, Instant::now());
        let steered = Input::Steered { query, answer };
        if answers.blocking_send(steered).is_err() {
            return; // the driver is gone
        }
    }
}

#[cfg(test)]
mod tests;
