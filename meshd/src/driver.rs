//! The loop between the machine and the world: the only file that knows both.
//!
//! ```text
//!    lanes, kernel, plugins --inputs (bounded)-------> +--------+ --outputs--> datapath, underlay, wirer,
//!    sessions --heard (bounded, each session too)----> | driver |              plugins, store, events
//!    API --requests (bounded)------------------------> |        |
//!    clock ------------------------------------------> +--------+
//! ```
//!
//! Owns the [`Node`] and the order of acts: what a drain wants kept is on disk before anything else of it is done; what
//! may go on while the disk takes nothing stands in `unkept.rs`. It decides nothing.

use crate::clock::Clock;
use crate::datapath::Datapath;
use crate::dns::NamesHandle;
use crate::events::{Events, Past, Wanted};
use crate::executor::Executor;
use crate::far::Far;
use crate::kernel::{Kernel, PortTap, Vtap};
use crate::rulings::Rulings;
use crate::store::{Change, Store};
use crate::telemetry::{self, operation};
use crate::underlay::{Heard, Underlay};
use crate::unkept::{Kept, Unkept};
use crate::wirer::{Job, Wirer};
use arc_swap::ArcSwapOption;
use meshd_core::code::ErrorCode;
use meshd_core::command::{Command, Refusal, Reply};
use meshd_core::ident::{CommandId, Now, PortId, Vni};
use meshd_core::node::{Input, KernelEvent, Node, Output, PacketOut, SendError, SessionEvent};
use meshd_core::notice::Notice;
use meshd_core::steering::WayId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tracing::Instrument as _;

/// Inputs of this host that may wait for the node. Lanes drop upcalls beyond.
pub(crate) const INPUTS_MAX: usize = 4096;
/// What sessions tell and the node has not heard. A channel of its own, so that no peer keeps upcalls from the node;
/// sessions read no further beyond.
pub(crate) const HEARD_MAX: usize = 256;
/// Time for what sessions tell before the others have their turn again.
const HEARD_TURN: Duration = Duration::from_millis(2);
/// Requests of the API that may wait.
const REQUESTS_MAX: usize = 256;
/// Inputs handled between two looks at the clock and at requests.
const BATCH_MAX: usize = 64;

/// What the driver knows beside the node, for views.
pub(crate) struct World<'a> {
    /// Tier 1.
    pub(crate) datapath: &'a Datapath,
    /// Sessions.
    pub(crate) underlay: &'a Underlay,
    /// Tier 0.
    pub(crate) kernel: &'a Kernel,
    /// Why the state is not on the disk, if so.
    pub(crate) unkept: Option<&'a str>,
    /// Why the config file is not taken, if so.
    pub(crate) refused_config: Option<&'a str>,
}

type View = Box<dyn FnOnce(&Node, &World<'_>, Now) + Send>;

enum Request {
    Command(Command, oneshot::Sender<Result<Reply, Refusal>>),
    View(View),
    Send(PacketOut, oneshot::Sender<Result<u32, SendError>>),
    Carry(Carry, oneshot::Sender<()>),
    Stop(oneshot::Sender<()>),
}

/// From the wirer: a port that has a TAP now, or has none any more.
pub(crate) enum Carry {
    /// Frames of the port come from and go to this TAP.
    Port {
        /// The port.
        port: PortId,
        /// Its network.
        vni: Vni,
        /// The TAP.
        tap: PortTap,
        /// Further queues of it.
        more: Vec<PortTap>,
        /// It is the way to a LAN: what that floods is bounded.
        guarded: bool,
    },
    /// The port's TAP is about to go.
    Gone(PortId),
    /// What a network's VXLAN device does not let pass comes from this TAP, and probes go to it.
    Vxlan {
        /// The network.
        vni: Vni,
        /// Of the network.
        mtu: u16,
        /// The TAP.
        tap: Vtap,
    },
    /// The network's TAP is about to go.
    VxlanGone(Vni),
}

/// How everything else talks to the driver.
#[derive(Clone)]
pub(crate) struct DriverHandle {
    requests: mpsc::Sender<Request>,
    events: Arc<Events>,
    refused_config: Arc<ArcSwapOption<String>>,
}

fn stopped() -> Refusal {
    Refusal {
        code: ErrorCode::DaemonStopping,
        message: "the daemon is stopping".to_owned(),
    }
}

impl DriverHandle {
    /// Has a command done.
    ///
    /// # Errors
    /// The node's refusal, or that the daemon stops.
    pub(crate) async fn command(&self, command: Command) -> Result<Reply, Refusal> {
        let word = command.word();
        let span = operation!("command", otel.name = word, "do" = word);
        let done = async {
            let (tell, told) = oneshot::channel();
            self.requests
                .send(Request::Command(command, tell))
                .await
                .map_err(|_| stopped())?;
            told.await.map_err(|_| stopped())?
        };
        let done = done.instrument(span.clone()).await;
        if let Err(refusal) = &done {
            telemetry::failed(&span, refusal.code, &refusal.message);
        }
        done
    }

    /// Sends a frame of a plugin's own making; says to how many ports and peers it was handed. Like any frame it may be lost
    /// where the way is full.
    ///
    /// # Errors
    /// It is no frame that may be sent, there is no such place, or the daemon stops.
    pub(crate) async fn send(&self, packet: PacketOut) -> Result<u32, SendError> {
        let (tell, told) = oneshot::channel();
        self.requests
            .send(Request::Send(packet, tell))
            .await
            .map_err(|_| SendError::Stopping)?;
        told.await.map_err(|_| SendError::Stopping)?
    }

    /// Reads the node as it is between two inputs.
    ///
    /// # Errors
    /// That the daemon stops.
    pub(crate) async fn view<T: Send + 'static>(
        &self,
        view: impl FnOnce(&Node, &World<'_>, Now) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let (tell, told) = oneshot::channel();
        let view: View = Box::new(move |node, world, now| {
            let _ = tell.send(view(node, world, now));
        });
        self.requests
            .send(Request::View(view))
            .await
            .map_err(|_| stopped())?;
        told.await.map_err(|_| stopped())
    }

    /// The events that are remembered and wanted, and all that follow.
    pub(crate) fn events(&self, wanted: &Wanted) -> Past {
        self.events.subscribe(wanted)
    }

    /// Has the events written that are not on disk yet; the last thing that is done.
    pub(crate) fn close_events(&self) {
        self.events.close();
    }

    /// Tells an event that is not the node's.
    pub(crate) fn notice(&self, notice: Notice) {
        self.events.tell(crate::clock::wall(), notice);
    }

    /// Why the config file is not taken; `None`: it is.
    pub(crate) fn config_refused(&self, why: Option<String>) {
        self.refused_config.store(why.map(Arc::new));
    }

    /// Says goodbye to the peers and ends the driver.
    pub(crate) async fn stop(&self) {
        let (tell, told) = oneshot::channel();
        if self.requests.send(Request::Stop(tell)).await.is_ok() {
            let _ = told.await;
        }
    }

    /// Returns once the lane runs, or is gone: whoever is told after that finds it so.
    pub(crate) async fn carry(&self, carry: Carry) {
        let (tell, told) = oneshot::channel();
        if self
            .requests
            .send(Request::Carry(carry, tell))
            .await
            .is_ok()
        {
            let _ = told.await;
        }
    }
}

/// All that the driver acts through.
pub(crate) struct Parts {
    /// The machine.
    pub(crate) node: Node,
    /// The clock it was made with.
    pub(crate) clock: Clock,
    /// What must survive.
    pub(crate) store: Store,
    /// Sessions.
    pub(crate) underlay: Underlay,
    /// Plugins.
    pub(crate) rulings: Rulings,
    /// Tier 1.
    pub(crate) datapath: Datapath,
    /// Tier 0.
    pub(crate) kernel: Kernel,
    /// Questions of and for other nodes.
    pub(crate) far: Far,
    /// Names, for the name services.
    pub(crate) names: NamesHandle,
    /// What happens on this host.
    pub(crate) inputs: mpsc::Receiver<Input>,
    /// What sessions tell.
    pub(crate) heard: mpsc::Receiver<Heard>,
}

struct Driver {
    parts: Parts,
    unkept: Unkept,
    wirer: Wirer,
    executor: Executor,
    requests: mpsc::Receiver<Request>,
    events: Arc<Events>,
    refused_config: Arc<ArcSwapOption<String>>,
    waiting: BTreeMap<CommandId, oneshot::Sender<Result<Reply, Refusal>>>,
    /// Who wants to know what came of a frame.
    sending: BTreeMap<CommandId, oneshot::Sender<Result<u32, SendError>>>,
    /// Commands among [`Driver::waiting`] that keep nothing.
    free: BTreeSet<CommandId>,
    next_command: u64,
}

/// Makes the handle that the parts need before they can be made.
pub(crate) fn channel(events: Events) -> (DriverHandle, Mailbox) {
    let (requests, from_all) = mpsc::channel(REQUESTS_MAX);
    let events = Arc::new(events);
    let refused_config = Arc::default();
    (
        DriverHandle {
            requests,
            events: Arc::clone(&events),
            refused_config: Arc::clone(&refused_config),
        },
        Mailbox {
            requests: from_all,
            events,
            refused_config,
        },
    )
}

/// The driver's end of a [`DriverHandle`].
pub(crate) struct Mailbox {
    requests: mpsc::Receiver<Request>,
    events: Arc<Events>,
    refused_config: Arc<ArcSwapOption<String>>,
}

/// Runs the node until it is told to stop.
///
/// # Errors
/// If it stops with something that could not be kept.
pub(crate) async fn run(
    parts: Parts,
    wirer: Wirer,
    executor: Executor,
    mailbox: Mailbox,
) -> Result<(), crate::store::StoreError> {
    let mut driver = Driver {
        unkept: Unkept::new(parts.store.clone()),
        free: BTreeSet::new(),
        parts,
        wirer,
        executor,
        requests: mailbox.requests,
        events: mailbox.events,
        refused_config: mailbox.refused_config,
        waiting: BTreeMap::new(),
        sending: BTreeMap::new(),
        next_command: 0,
    };
    driver.drain().await;
    loop {
        let wake = driver.parts.node.poll_timeout();
        let wake = wake.map(|(moment, _why)| driver.parts.clock.instant(moment));
        let wake = wake.into_iter().chain(driver.unkept.due()).min();
        let timer = async {
            match wake {
                Some(instant) => tokio::time::sleep_until(instant.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            input = driver.parts.inputs.recv() => {
                let Some(input) = input else { return Ok(()) };
                driver.input(input);
                for _ in 1..BATCH_MAX {
                    let Ok(input) = driver.parts.inputs.try_recv() else { break };
                    driver.input(input);
                }
            }
            heard = driver.parts.heard.recv() => {
                let Some(heard) = heard else { return Ok(()) };
                let start = Instant::now();
                driver.input(heard.input);
                while start.elapsed() < HEARD_TURN {
                    let Ok(heard) = driver.parts.heard.try_recv() else { break };
                    driver.input(heard.input);
                }
            }
            request = driver.requests.recv() => match request {
                Some(Request::Stop(done)) => {
                    let now = driver.parts.clock.now();
                    driver.parts.node.stop(now);
                    driver.drain().await;
                    driver.parts.underlay.close().await;
                    let left = driver.unkept.last_try().await;
                    let _ = done.send(());
                    return left;
                }
                Some(request) => driver.request(request).await,
                None => return Ok(()),
            },
            () = timer => {}
        }
        // Timers first are only as late as one batch, however many inputs wait.
        let now = driver.parts.clock.now();
        if driver
            .parts
            .node
            .poll_timeout()
            .is_some_and(|(due, _)| due <= now.moment)
        {
            driver.parts.node.handle_timeout(now);
        }
        driver.drain().await;
        if !driver.parts.datapath.has_begun() && !driver.parts.node.is_adopting() {
            driver.parts.datapath.begin();
        }
    }
}

impl Driver {
    fn input(&mut self, input: Input) {
        if let Input::Session(SessionEvent::Closed { session, .. }) = &input {
            self.parts.datapath.remove_session(*session);
        }
        // Also a port that is to be made whole: as long as its lane holds the TAP, the kernel gives it to nobody else.
        if let Input::Kernel(
            KernelEvent::PortGone { port } | KernelEvent::WireFailed { port, .. },
        ) = &input
        {
            self.parts.datapath.remove_port(*port);
        }
        let now = self.parts.clock.now();
        self.parts.node.handle(input, now);
    }

    async fn request(&mut self, request: Request) {
        let now = self.parts.clock.now();
        match request {
            Request::Command(command, tell) => {
                let id = self.next_id();
                if matches!(
                    command,
                    Command::PolicyChain { .. }
                        | Command::PolicyInvalidate { .. }
                        | Command::SteeringPlugin { .. }
                        | Command::ShareOnly { .. }
                ) {
                    self.free.insert(id);
                } else if let Err(refusal) = self.room().await {
                    let _ = tell.send(Err(refusal));
                    return;
                }
                self.waiting.insert(id, tell);
                self.parts.node.handle(Input::Command { id, command }, now);
            }
            Request::Send(packet, tell) => {
                let id = self.next_id();
                self.sending.insert(id, tell);
                self.parts.node.handle(Input::Send { id, packet }, now);
            }
            Request::View(view) => {
                let refused_config = self.refused_config.load();
                let world = World {
                    datapath: &self.parts.datapath,
                    underlay: &self.parts.underlay,
                    kernel: &self.parts.kernel,
                    unkept: self.unkept.trouble(),
                    refused_config: refused_config.as_ref().map(|why| why.as_str()),
                };
                view(&self.parts.node, &world, now);
            }
            Request::Carry(carry, done) => {
                match carry {
                    Carry::Port {
                        port,
                        vni,
                        tap,
                        more,
                        guarded,
                    } => {
                        let datapath = &mut self.parts.datapath;
                        datapath.add_port(port, vni, (tap, more), guarded);
                    }
                    Carry::Gone(port) => self.parts.datapath.remove_port(port),
                    Carry::Vxlan { vni, mtu, tap } => {
                        self.parts.datapath.add_vxlan(vni, mtu, tap);
                    }
                    Carry::VxlanGone(vni) => self.parts.datapath.remove_vxlan(vni),
                }
                let _ = done.send(());
            }
            Request::Stop(_) => {}
        }
    }

    fn next_id(&mut self) -> CommandId {
        let id = CommandId(self.next_command);
        self.next_command += 1;
        id
    }

    /// Whether the next command could be kept; what waits for the disk is tried first.
    async fn room(&mut self) -> Result<(), Refusal> {
        if self.unkept.trouble().is_some() {
            self.keep(Vec::new(), true).await;
        }
        let known = self.unkept.trouble().is_some();
        let room = self.unkept.room().await;
        if let (false, Some(why)) = (known, self.unkept.trouble()) {
            let reason = why.to_owned();
            self.notice(Notice::StateUnkept { reason });
        }
        room
    }

    /// Does what the node wants, in its order; first on disk what it wants kept.
    async fn drain(&mut self) {
        let (mut keep, mut acts) = (Vec::new(), Vec::new());
        while let Some(output) = self.parts.node.poll_output() {
            match output {
                Output::Persist { key, value } => keep.push((key, value)),
                act => acts.push(act),
            }
        }
        self.keep(keep, false).await;
        if let Some(names) = self.parts.node.take_names() {
            self.parts.names.store(Arc::new(names));
        }
        for act in acts {
            let free = matches!(&act, Output::Reply { id, .. } if self.free.remove(id));
            let act = match self.unkept.trouble() {
                Some(_) if !free => self.unkept.admit(act),
                _ => Some(act),
            };
            if let Some(act) = act {
                self.act(act);
            }
        }
    }

    async fn keep(&mut self, batch: Vec<Change>, now_please: bool) {
        match self.unkept.keep(batch, now_please).await {
            Kept::All | Kept::Not { first: false } => {}
            Kept::Not { first: true } => {
                let why = self.unkept.trouble().unwrap_or_default();
                self.notice(Notice::StateUnkept {
                    reason: why.to_owned(),
                });
            }
            Kept::Again(acts) => {
                self.notice(Notice::StateKept {});
                for act in acts {
                    self.act(act);
                }
            }
        }
    }

    fn act(&mut self, act: Output) {
        let parts = &mut self.parts;
        match act {
            Output::Persist { .. } => {}
            Output::Ruling {
                origin,
                upcall,
                ruling,
            } => parts.datapath.ruling(origin, upcall, ruling),
            Output::Gate(op) => parts.kernel.ledger().act(op),
            Output::Plan { vni, plan } => {
                let vxlan = plan.as_ref().and_then(|plan| plan.vxlan.as_ref());
                let gateway = vxlan.and_then(|vxlan| vxlan.gateway);
                parts.datapath.set_gateway(vni, gateway);
                self.executor.wish(vni, plan);
            }
            Output::Probe { vni, probe } => parts.datapath.probe(vni, &probe),
            Output::Inject { vni, to, frame } => parts.datapath.inject(vni, to, &frame),
            Output::Monitor { vni, monitor } => parts.datapath.set_monitor(vni, monitor),
            Output::Inquiry { node, word } => parts.far.heard(node, word),
            Output::Epoch(epoch) => parts.datapath.set_epoch(epoch),
            Output::Track { vni, since } => parts.datapath.track(vni, since),
            Output::Ask {
                query,
                epoch,
                question,
            } => parts.rulings.ask(query, epoch, question),
            Output::Dial { node, addresses } => parts.underlay.dial(node, addresses),
            Output::Message { session, message } => parts.underlay.send(session, message),
            Output::Proven { session, node } => {
                // A session that closed in the meantime says so by itself.
                if let Some(connection) = parts.underlay.prove(session) {
                    parts
                        .datapath
                        .add_way(node, WayId::MAIN, session, connection);
                }
            }
            Output::LinkProven { session, node, way } => {
                if let Some(connection) = parts.underlay.prove(session) {
                    parts.datapath.add_way(node, way, session, connection);
                }
            }
            Output::Ways { node, live } => parts.datapath.set_live(node, &live),
            Output::Steer { query, question } => parts.rulings.steer(query, question),
            Output::DialLink { node, way, address } => parts.underlay.dial_link(node, way, address),
            Output::Hangup { session, reason } => parts.underlay.hangup(session, reason),
            Output::Wire(wiring) => {
                // A port that failed with its network still has its lane, and that the TAP.
                parts.datapath.remove_port(wiring.port.id);
                self.wirer.job(Job::Wire(wiring));
            }
            Output::Mend(wiring) => self.wirer.job(Job::Mend(wiring)),
            Output::Unwire(port) => {
                parts.datapath.remove_port(port.id);
                self.wirer.job(Job::Unwire(port));
            }
            Output::Serve(wiring) => self.wirer.job(Job::Serve(wiring)),
            Output::Unserve { vni, port } => {
                parts.datapath.remove_port(port);
                self.wirer.job(Job::Unserve(vni));
            }
            Output::Reply { id, result } => {
                if let Some(tell) = self.waiting.remove(&id) {
                    // Who asked may have gone; the change stands all the same.
                    let _ = tell.send(result);
                }
            }
            Output::Sent { id, result } => {
                if let Some(tell) = self.sending.remove(&id) {
                    // Who asked may have gone; the frame has, too.
                    let _ = tell.send(result);
                }
            }
            Output::Notice(notice) => self.notice(notice),
        }
    }

    fn notice(&self, notice: Notice) {
        let now = self.parts.clock.now();
        self.events.tell(now.wall, notice);
    }
}
