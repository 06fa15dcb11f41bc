//! The daemon: puts the parts together in the order in which they depend on each other, and takes them apart on a signal.
//!
//! ```text
//!    store -> identity -> underlay, kernel, rulings -> node (restored) -> driver -> wirer -> API -> ready
//! ```
//!
//! Owns the start and the end. What runs is in the parts.

use crate::api::socket::{Socket, SocketError};
use crate::api::tokens::Tokens;
use crate::api::{Doors, Gate, Rules};
use crate::backend::Live;
use crate::bridges::Bridges;
use crate::clock::Clock;
use crate::coded::Refused;
use crate::config_file;
use crate::controllers;
use crate::datapath::Datapath;
use crate::devices::Devices;
use crate::dns::{Forwarder, NamesHandle};
use crate::docker::Docker;
use crate::driver::{self, DriverHandle, HEARD_MAX, INPUTS_MAX, Parts};
use crate::events::{Events, Wanted};
use crate::executor::{self, Executor};
use crate::far::{self, Far};
use crate::footprint;
use crate::identity::Identity;
use crate::join::Bootstrap;
use crate::kernel::{BridgeFilterWatch, Kernel, KernelConfig, bridge_filter, try_features};
use crate::losses::Losses;
use crate::rulings::Rulings;
use crate::store::Store;
use crate::systemd::inherited::Inherited;
use crate::systemd::watchdog;
use crate::telemetry;
use crate::underlay::{Heard, Underlay, UnderlayConfig, UnderlayError};
use crate::wirer::{Tools, Wirer};
use anyhow::Context as _;
use arc_swap::ArcSwap;
use meshd_core::code::{ErrorCode, RefusalKind};
use meshd_core::command::{Command, NetworkSpec};
use meshd_core::config::Config;
use meshd_core::lane::LaneLimits;
use meshd_core::names::Names;
use meshd_core::node::{Node, NodeConfig};
use meshd_core::notice::Notice;
use meshd_core::planes::PlanesConfig;
use meshd_core::steering::WayId;
use meshd_core::wire::record::Service;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

/// What `meshd run` was told.
#[derive(Clone, Debug)]
pub(crate) struct RunOptions {
    /// State folder.
    pub(crate) state: PathBuf,
    /// Socket of the API.
    pub(crate) socket: PathBuf,
    /// Config file; `None`: the default one if it is there.
    pub(crate) config: Option<PathBuf>,
}

/// Tasks that read the underlay's port, at most: each has its rooms, and the kernel's buffer of a socket.
const READERS_MAX: usize = 8;

/// For the meshd that had the state before, to end.
const PREDECESSOR: Duration = Duration::from_secs(3);

/// Bytes of a superframe whose slices leave in one call: with their headers no more than 65,507, the longest payload of UDP. That
/// is 44 packets of 1,472 bytes, of which 1,352 are the superframe's.
const ONE_CALL: u32 = 59_488;

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps the daemon from starting, or what ended it.
pub(crate) fn run(options: &RunOptions) -> anyhow::Result<()> {
    let config_path = config_file::path(options.config.as_deref());
    let config = config_file::read(config_path.as_deref())?;
    let control = Builder::new_multi_thread()
        .thread_name("meshd-control")
        .enable_all()
        .build()
        .context("start the threads for control")?;
    let (sending, traces) = telemetry::start(&config.telemetry, control.handle())?;
    crate::logging::start(&config.log, traces)?;
    telemetry::absent(&config.telemetry);
    let data = Builder::new_multi_thread()
        .thread_name("meshd-data")
        .worker_threads(config.datapath.threads(cores()))
        .enable_all()
        .build()
        .context("start the threads for frames")?;
    let ended = control.block_on(serve(options, config, config_path, data.handle()));
    // The last spans go by the control runtime.
    drop(sending);
    // What still runs has nothing to lose: the driver has ended, or there is none.
    control.shutdown_background();
    data.shutdown_background();
    ended
}

/// Cores that this process may use.
fn cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

async fn serve(
    options: &RunOptions,
    config: Config,
    config_path: Option<PathBuf>,
    data: &Handle,
) -> anyhow::Result<()> {
    crate::identity::refuse_core_dumps();
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let inherited = Inherited::take();
    let socket = match inherited.api {
        Some(listener) => Socket::inherited(listener).context("take over the API's socket")?,
        None => bind_api(&options.socket).await?,
    };
    let state = options.state.clone();
    // One that was told to stop a moment ago may still say goodbye to its peers.
    let store = tokio::task::spawn_blocking(move || Store::open_within(&state, PREDECESSOR))
        .await
        .context("open the state")??;
    let identity = Identity::load(&store)?.ok_or_else(|| {
        let message = format!(
            "{} belongs to no mesh yet; run `meshd init` for a new mesh, or `meshd join TOKEN` with a token from `meshd invite`",
            options.state.display()
        );
        Refused::new(ErrorCode::NotAMember, message)
    })?;
    let clock = Clock::start();
    let (inputs, from_all) = mpsc::channel(INPUTS_MAX);
    let (heard, from_sessions) = mpsc::channel(HEARD_MAX);
    let (state, wall) = (options.state.clone(), clock.now().wall);
    let events = tokio::task::spawn_blocking(move || Events::open(&state, wall))
        .await
        .context("read the events")?;
    let (handle, mailbox) = driver::channel(events);
    // First, since the underlay may be one of them.
    let of_file = (config_path.as_deref(), config.device.clone());
    let (mesh, node) = (identity.mesh(), identity.node_id());
    let devices = Devices::start(mesh, node, store.clone(), of_file).await?;
    let underlay = start_underlay((&config, &devices), &identity, &heard, data).await?;
    drop(heard);
    let kernel = Kernel::start(
        KernelConfig {
            mesh: identity.mesh(),
            node: identity.node_id(),
            underlay: SocketAddr::new(config.underlay.listen.ip(), underlay.local_port()),
            superframes: config.kernel.superframes,
            queues: config.datapath.queues(cores()),
            // By VXLAN the kernel has use for longer ones.
            gso_max: config.underlay.trusted.is_empty().then_some(ONE_CALL),
            data: data.clone(),
            taps: inherited.taps,
        },
        clock.moment(),
        inputs.clone(),
    )
    .await?;
    let rulings = Rulings::start(
        store.clone(),
        &options.state,
        inputs.clone(),
        (&config.plugins).into(),
        Arc::new(controllers::Live::new(
            handle.clone(),
            tokio::runtime::Handle::current(),
        )),
    )?;
    let mut seed = [0u8; 8];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut seed).map_err(|_| {
        Refused::new(
            ErrorCode::NoRandomNumbers,
            "the system gave no random numbers",
        )
    })?;
    let seed = u64::from_ne_bytes(seed);
    let mut links = config.underlay.link_specs();
    for (nth, link) in links.iter_mut().enumerate() {
        let port = WayId::link(nth).and_then(|way| underlay.link_port(way));
        link.address.set_port(port.unwrap_or(link.address.port()));
    }
    let domain = config.dns.domain.as_ref().map_or_else(
        || format!("{}.internal", identity.mesh_name()),
        |domain| domain.as_str().to_owned(),
    );
    let planes = planes(&config, &kernel).await;
    let node_config = NodeConfig {
        mesh: identity.mesh(),
        records: Vec::new(),
        ports_max: usize::from(config.limits.ports),
        mesh_name: identity.mesh_name().clone(),
        domain,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        membership: identity.membership().clone(),
        advertise: config.underlay.advertise.clone(),
        links,
        steering: rulings.steering(),
        macs_per_port: usize::from(config.limits.macs_per_port),
        dns: config.dns.enabled,
        chains: rulings.chains(),
        multicast: config.multicast(),
        services: config.dns.rules(),
        planes: planes.clone(),
        gates: kernel.ledger().found(),
    };
    let node = Node::new(
        node_config,
        Arc::new(identity.clone()),
        seed,
        store.load()?,
        clock.now(),
    )
    .map_err(|error| {
        let message = format!(
            "the state in {} cannot be used: {error}",
            options.state.display()
        );
        Refused::new(ErrorCode::StateDamaged, message)
    })?;
    for complaint in kernel.sweep(&node.port_ids()).await {
        tracing::warn!(code = %ErrorCode::LeftoversKept, "{complaint}");
    }
    let mut networks: std::collections::BTreeSet<_> = node.ports().networks();
    networks.extend(node.vteps().iter().map(|(vni, _)| vni));
    if !planes.in_kernel() {
        networks.clear();
    }
    for complaint in kernel.sweep_networks(&networks).await {
        tracing::warn!(code = %ErrorCode::LeftoversKept, "{complaint}");
    }
    let upstream: Vec<SocketAddr> = config.dns.upstream.iter().map(|server| server.0).collect();
    let names: NamesHandle = Arc::new(ArcSwap::from_pointee(Names::default()));
    let lane_limits = LaneLimits {
        floods_per_s: config.limits.bum_per_second,
        ..LaneLimits::default()
    };
    let datapath = Datapath::new(
        inputs.clone(),
        clock,
        lane_limits,
        seed,
        rulings.punts(),
        data.clone(),
    );
    let ways_gauge = tokio::spawn(datapath.gauge());
    let executor = Executor::start(executor::Tools {
        kernel: kernel.clone(),
        driver: handle.clone(),
        inputs: inputs.clone(),
        port: config.underlay.vxlan_port,
    });
    let gauge = tokio::spawn(kernel.clone().gauge(inputs.clone()));
    let wirer = Wirer::start(Tools {
        kernel: kernel.clone(),
        names: names.clone(),
        forward: Forwarder::new(&upstream),
        driver: handle.clone(),
        inputs: inputs.clone(),
    });
    let live_kernel = kernel.clone();
    let (far, asked) = Far::new();
    let parts = Parts {
        node,
        clock,
        store: store.clone(),
        underlay,
        rulings: rulings.clone(),
        datapath,
        kernel,
        far: far.clone(),
        names,
        inputs: from_all,
        heard: from_sessions,
    };
    if let Some(bootstrap) = Bootstrap::load(&parts.store)? {
        parts.underlay.dial(bootstrap.inviter, bootstrap.addresses);
    }
    let mut driving = tokio::spawn(driver::run(parts, wirer, executor, mailbox));
    let losses = Losses::new(handle.clone(), live_kernel.clone());
    let live = Live {
        driver: handle.clone(),
        identity: identity.clone(),
        rulings,
        losses: losses.clone(),
        far,
        kernel: live_kernel,
        docker: Docker::start(store, handle.clone())?,
        devices: devices.clone(),
    };
    let rulings = live.rulings.clone();
    let findings = tokio::spawn(follow_findings(rulings.clone(), handle.clone()));
    let nudging = tokio::spawn(nudge_controllers(rulings.clone(), handle.clone()));
    // What a detached plugin shared, should the daemon have ended in between; before anybody attaches one.
    let attachments = rulings.attachments();
    if let Err(refusal) = handle.command(Command::ShareOnly { attachments }).await {
        tracing::warn!(code = %refusal.code, "what detached plugins shared: {refusal}");
    }
    let tcp = match config.api.listen {
        Some(address) => match listen_api(address, &options.state, &config).await {
            Ok(door) => Some(door),
            // The networks of a node do not depend on who looks at them.
            Err(error) => {
                tracing::error!(code = %ErrorCode::ApiPortTaken, "{error:#}; the API is answered by its socket alone");
                None
            }
        },
        None => None,
    };
    let rules = Rules::of(&config.api);
    if rules.have_guests() {
        socket.open_to_all(&options.socket)?;
    }
    let doors = Doors { socket, rules, tcp };
    let answering = live.clone();
    let api = tokio::spawn(crate::api::serve(doors, live));
    apply_networks(&handle, &config).await;
    let bridges = Bridges::start(handle.clone(), &config);
    let changes = tokio::spawn(crate::changes::follow(
        rulings.clone(),
        devices.clone(),
        handle.clone(),
    ));
    let watching = tokio::spawn(crate::watch::follow(
        config_path,
        config,
        handle.clone(),
        devices.clone(),
        bridges,
    ));
    let offering = tokio::spawn(offer_services(devices.services(), handle.clone()));
    let filter = BridgeFilterWatch::new(planes.bridge_filter);
    let filter = tokio::spawn(follow_bridge_filter(filter, handle.clone()));
    let answering = tokio::spawn(far::answer(answering, asked));
    let looking = tokio::spawn(losses.look());
    let beating = tokio::spawn(watchdog::beat(handle.clone(), data.clone()));
    tracing::info!(node = %identity.node_id(), mesh = %identity.mesh_name(), socket = %options.socket.display(), "ready");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let trimming = tokio::spawn(footprint::keep_small());
    let ended = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        ended = &mut driving => Some(ended),
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    trimming.abort();
    watching.abort();
    changes.abort();
    beating.abort();
    answering.abort();
    looking.abort();
    filter.abort();
    offering.abort();
    gauge.abort();
    ways_gauge.abort();
    findings.abort();
    nudging.abort();
    api.abort();
    // They wait for the driver, so they end before it does.
    let _ = tokio::task::spawn_blocking(move || rulings.stop()).await;
    match ended {
        None => {
            tracing::info!("stopping; ports stay as they are, for the next start");
            handle.stop().await;
            let driven = driving.await;
            let _ = tokio::task::spawn_blocking(move || handle.close_events()).await;
            match driven {
                Ok(kept) => kept.context("something was not kept"),
                Err(panic) => Err(anyhow::anyhow!("the driver broke: {panic}")),
            }
        }
        Some(Ok(result)) => result.context("the state can no longer be kept"),
        Some(Err(panic)) => Err(anyhow::anyhow!("the driver broke: {panic}")),
    }
}

/// What this kernel can do for the fast path, found out by trying, and what the operator wants of it.
async fn planes(config: &Config, kernel: &Kernel) -> PlanesConfig {
    let features = try_features().await.unwrap_or_default();
    let lacks = |names: &[&str]| {
        let failed = features
            .iter()
            .filter(|feature| names.contains(&feature.name))
            .find_map(|feature| Some((feature, feature.tried.as_ref().err()?)));
        failed.map(|(feature, why)| format!("{} ({}): {why}", feature.name, feature.option))
    };
    let bridge = lacks(&["bridge"]);
    if let Some(what) = &bridge {
        tracing::warn!(code = %ErrorCode::KernelLacks, "no fast path on this host: the kernel lacks {what}");
    }
    if let Some(what) = lacks(&["tap with superframes"]).filter(|_| config.kernel.superframes) {
        tracing::warn!(
            code = %ErrorCode::KernelLacks, "over QUIC frames travel one by one, which is slow: the kernel lacks {what}"
        );
    }
    if let Some(what) =
        lacks(&["tap with several queues"]).filter(|_| config.datapath.queues(cores()) > 1)
    {
        tracing::warn!(
            code = %ErrorCode::KernelLacks, "all that a port sends is carried by one core: the kernel lacks {what}"
        );
    }
    let vxlan = lacks(&["vxlan", "tap with virtio-net header", "nftables"]);
    if let Some(what) = vxlan
        .as_ref()
        .filter(|_| !config.underlay.trusted.is_empty())
    {
        tracing::warn!(code = %ErrorCode::KernelLacks, "no VXLAN on this host: the kernel lacks {what}");
    }
    let planes = PlanesConfig {
        bridge: bridge.is_none() && !features.is_empty(),
        vxlan: vxlan.map_or(Ok(()), Err),
        kernel: config.kernel,
        bridge_filter: bridge_filter().await,
        trusted: config.underlay.trusted.clone(),
        port: config.underlay.vxlan_port,
        first_slot: kernel.ledger().first_slot(),
    };
    if let Some(by) = planes.steps_back() {
        tracing::warn!(
            code = %ErrorCode::FirewallFiltersBridges, "no fast path on this host for now: its firewall filters bridged frames (br_netfilter), and {by}; see `meshd doctor`"
        );
    }
    planes
}

/// Tells the node whenever something else stands in the way of what this host's bridges forward.
async fn follow_bridge_filter(mut watch: BridgeFilterWatch, handle: DriverHandle) {
    loop {
        let in_the_way = watch.changed().await;
        // Refused only when the daemon stops.
        if handle
            .command(Command::BridgeFilter { in_the_way })
            .await
            .is_err()
        {
            return;
        }
    }
}

/// One that was killed a moment ago may still answer at its socket.
async fn bind_api(path: &Path) -> Result<Socket, SocketError> {
    let end = tokio::time::Instant::now() + PREDECESSOR;
    loop {
        match Socket::bind(path) {
            Err(SocketError::InUse { .. }) if tokio::time::Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            bound => return bound,
        }
    }
}

/// The API's TCP port, which a daemon that ends may still have.
async fn listen_api(
    address: SocketAddr,
    state: &Path,
    config: &Config,
) -> anyhow::Result<(TcpListener, Gate)> {
    let end = tokio::time::Instant::now() + PREDECESSOR;
    let listener = loop {
        match TcpListener::bind(address).await {
            Err(error)
                if error.kind() == std::io::ErrorKind::AddrInUse
                    && tokio::time::Instant::now() < end =>
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            bound => {
                break bound.with_context(|| {
                    format!(
                        "listen on {address} for the API; is it taken? See `listen` under [api] in the config file"
                    )
                })?;
            }
        }
    };
    tracing::info!(address = %listener.local_addr()?, "the API is answered by TCP, too");
    let gate = Gate::new(Tokens::new(state), config.api.hosts.clone());
    Ok((listener, gate))
}

/// What answers at addresses of this host's devices is advertised, and no longer when it is gone.
async fn offer_services(
    mut found: tokio::sync::watch::Receiver<Option<Vec<Service>>>,
    handle: DriverHandle,
) {
    loop {
        let services = found.borrow_and_update().clone();
        if let Some(services) = services {
            // Refused only when the daemon stops.
            let _ = handle.command(Command::Services { services }).await;
        }
        if found.changed().await.is_err() {
            return;
        }
    }
}

/// A process that ends lets go of the state's lock a moment before its UDP port.
async fn start_underlay(
    (config, devices): (&Config, &Devices),
    identity: &Identity,
    heard: &mpsc::Sender<Heard>,
    data: &Handle,
) -> Result<Underlay, UnderlayError> {
    let end = tokio::time::Instant::now() + PREDECESSOR;
    // An IPv6 address that a device has just got can be used once nobody else claimed it (RFC 4862 §5.4).
    let is_new = devices.are_wished();
    let readers = config.datapath.threads(cores()).min(READERS_MAX);
    let config = &config.underlay;
    loop {
        let sockets = UnderlayConfig {
            listen: config.listen,
            readers,
            links: config
                .link_specs()
                .iter()
                .map(|link| link.address)
                .collect(),
        };
        let started = Underlay::start(sockets, identity.clone(), heard.clone(), data);
        match started {
            Err(UnderlayError::Bind { source, .. } | UnderlayError::Link { source, .. })
                if (source.kind() == std::io::ErrorKind::AddrInUse
                    || (is_new && source.kind() == std::io::ErrorKind::AddrNotAvailable))
                    && tokio::time::Instant::now() < end =>
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            started => return started,
        }
    }
}

/// Defines the networks of the config file; what another admin defined differently is said, not changed.
pub(crate) async fn apply_networks(handle: &DriverHandle, config: &Config) {
    for network in config.networks.iter().filter(|network| network.defines()) {
        let spec = NetworkSpec {
            name: network.name.clone(),
            vni: network.vni,
            subnets: network.subnets.clone(),
            mtu: network.mtu,
        };
        if let Err(refusal) = handle.command(Command::NetworkAdd(spec)).await
            && refusal.kind() != RefusalKind::Unavailable
        {
            tracing::warn!(code = %refusal.code, network = %network.name, "network of the config file: {refusal}");
        }
    }
}

/// Controllers look at their networks now and then; at once where something of them changed.
async fn nudge_controllers(rulings: Rulings, driver: DriverHandle) {
    let mut events = driver.events(&Wanted::none()).coming;
    loop {
        match events.recv().await {
            Ok(event) if bears_on_topology(&event.notice) => rulings.nudge(),
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => rulings.nudge(),
            Err(RecvError::Closed) => return,
        }
    }
}

fn bears_on_topology(notice: &Notice) -> bool {
    matches!(
        notice,
        Notice::PeerUp { .. }
            | Notice::PeerDown { .. }
            | Notice::LinkUp { .. }
            | Notice::LinkDown { .. }
            | Notice::MemberJoined { .. }
            | Notice::NodeDead { .. }
            | Notice::PortReady { .. }
            | Notice::PortFailed { .. }
            | Notice::PortFarEnd { .. }
            | Notice::PortBlocked { .. }
            | Notice::PortUnblocked { .. }
            | Notice::PortGone { .. }
            | Notice::Path { .. }
    )
}

/// What the plugins' checker finds: first the node forgets what it kept of the old answers, then people are told.
async fn follow_findings(rulings: Rulings, driver: DriverHandle) {
    let Some(mut findings) = rulings.findings() else {
        return;
    };
    while let Some(finding) = findings.recv().await {
        let _turn = rulings.turn().await;
        let worker = rulings.clone();
        let chains = tokio::task::spawn_blocking(move || worker.chains()).await;
        for (vni, plugins) in chains.unwrap_or_default() {
            // It refuses only when the daemon stops.
            let _ = driver.command(Command::PolicyChain { vni, plugins }).await;
        }
        driver.notice(Notice::PluginQuarantined {
            plugin: finding.plugin.to_string(),
            vni: finding.vni,
            reason: finding.reason,
        });
    }
}
