//! The daemon as the API sees it: commands to the driver, views of the node, traces that ask the plugins.
//!
//! Owns no state of its own.

use crate::api::backend::{Answer, Backend, DropFilter};
use crate::api::capture::CaptureWish;
use crate::api::requests::{Invite, InviteWish};
use crate::api::{plugin_views, trace};
use crate::capture;
use crate::connections;
use crate::datapath::LaneFlows;
use crate::devices::Devices;
use crate::docker::{self, Docker};
use crate::driver::{DriverHandle, World};
use crate::events::{Past, Wanted};
use crate::far::{self, Far};
use crate::identity::Identity;
use crate::kernel::{FenceReading, Kernel};
use crate::losses::Losses;
use crate::rulings::Rulings;
use crate::token::Token;
use crate::views;
use meshd_core::code::ErrorCode;
use meshd_core::command::{Command, InviteSpec, Refusal, Reply, TraceSpec};
use meshd_core::config::{DeviceConfig, DeviceName};
use meshd_core::conntrack;
use meshd_core::edit;
use meshd_core::flow::Origin;
use meshd_core::flowtext;
use meshd_core::frame::Frame;
use meshd_core::ident::{NodeId, Now, Vni, WallTime};
use meshd_core::lane::LaneFlow;
use meshd_core::node::{Node, Question};
use meshd_core::ruling::{Action, Output};
use meshd_core::switch::{TraceEnd, TraceOutcome};
use meshd_core::view;
use meshd_core::wire::inquiry::InquiryWhat;
use std::time::Duration;

/// Peers that are asked to go on with a trace.
const FAR_MAX: usize = 8;
/// Rows of the FDB that are shown at once.
const FDB_PAGE: usize = 1024;
/// A lane says what it has cached within this, or is too busy.
const LANE_WITHIN: Duration = Duration::from_millis(500);
/// Chains of one flooded frame that a trace follows at most.
const TRACE_QUESTIONS_MAX: usize = 256;

/// See the module.
#[derive(Clone)]
pub(crate) struct Live {
    /// Commands and views.
    pub(crate) driver: DriverHandle,
    /// For tokens.
    pub(crate) identity: Identity,
    /// For traces and the plugins' own calls.
    pub(crate) rulings: Rulings,
    /// For what the fence counted.
    pub(crate) kernel: Kernel,
    /// For the Docker driver.
    pub(crate) docker: Docker,
    /// For traces at other nodes, and what they say of this one.
    pub(crate) far: Far,
    /// For what was dropped.
    pub(crate) losses: Losses,
    /// Of this host.
    pub(crate) devices: Devices,
}

impl Backend for Live {
    async fn command(&self, mut command: Command) -> Answer<Reply> {
        if let Command::Attach(spec) = &mut command {
            // Here, while the process that was named is most likely still there.
            spec.netns = crate::kernel::settle(spec.netns.clone());
        }
        self.driver.command(command).await
    }

    async fn invite(&self, wish: InviteWish) -> Answer<Invite> {
        // First: an invite that nobody is told of would stay open, and count.
        let own = |node: &Node| {
            node.directory()
                .advert(node.id())
                .map(|advert| advert.addresses.clone())
                .unwrap_or_default()
        };
        let addresses = self.driver.view(move |node, _, _| own(node)).await?;
        if addresses.is_empty() {
            return Err(Refusal::new(
                ErrorCode::UnderlayNoAddress,
                "this node has no address that a newcomer could dial; set `advertise` under [underlay]",
            ));
        }
        let mut secret = [0; 16];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut secret).map_err(
            |_| {
                Refusal::new(
                    ErrorCode::NoRandomNumbers,
                    "the system gave no random numbers",
                )
            },
        )?;
        let spec = InviteSpec {
            ttl_s: wish.ttl_s,
            role: wish.role,
            labels: wish.labels,
            secret,
        };
        let Reply::Invite { expires } = self.driver.command(Command::Invite(spec)).await? else {
            return Err(Refusal::new(
                ErrorCode::Internal,
                "the node answered with something else than an invite",
            ));
        };
        let token = Token {
            mesh: self.identity.mesh(),
            inviter: self.identity.node_id(),
            addresses,
            secret,
            expires: WallTime(expires),
        };
        Ok(Invite {
            token: token.to_string(),
            expires_at_ms: expires,
        })
    }

    async fn status(&self) -> Answer<view::Status> {
        let problems = self.problems(&self.networks().await?).await;
        let fenced_off = match self.kernel.fence().read().await {
            Ok(FenceReading::Whole(state)) => state.dropped,
            _ => 0,
        };
        let status = self
            .driver
            .view(move |node, world, now| {
                views::status(node, world, now, problems, fenced_off).ok_or_else(|| {
                    let message = node.mesh().revoked();
                    message.unwrap_or_else(|| "this node has no statement of membership any more; restore its state folder from a backup, or remove it and join by a new invite".to_owned())
                })
            })
            .await?;
        status.map_err(|message| Refusal {
            code: ErrorCode::NodeRevoked,
            message,
        })
    }

    async fn members(&self) -> Answer<Vec<view::Member>> {
        self.driver.view(|node, _, _| views::members(node)).await
    }

    async fn peers(&self) -> Answer<Vec<view::Peer>> {
        self.driver.view(views::peers).await
    }

    async fn paths(&self) -> Answer<Vec<view::Path>> {
        self.driver.view(views::paths).await
    }

    async fn groups(&self) -> Answer<Vec<view::Listeners>> {
        self.driver
            .view(|node, _, now| views::groups(node, now))
            .await
    }

    async fn vteps(&self) -> Answer<Vec<view::VtepRow>> {
        self.driver.view(|node, _, _| views::vteps(node)).await
    }

    async fn networks(&self) -> Answer<Vec<view::Network>> {
        self.driver.view(|node, _, _| views::networks(node)).await
    }

    async fn ports(&self) -> Answer<Vec<view::Port>> {
        let kernel = self.driver.view(|_, world, _| world.kernel.clone()).await?;
        // The gates may hold many entries: not while the driver waits.
        let passed = tokio::task::spawn_blocking(move || kernel.ledger().by_port());
        let passed = passed.await.map_err(|_| {
            Refusal::new(ErrorCode::Internal, "the kernel's counters cannot be read")
        })?;
        self.driver
            .view(move |node, world, _| views::ports(node, world, &passed))
            .await
    }

    async fn devices(&self) -> Answer<Vec<view::Device>> {
        Ok(self.devices.show())
    }

    async fn device(&self, name: &str) -> Answer<view::Device> {
        self.devices.one(name)
    }

    async fn put_device(&self, device: DeviceConfig) -> Answer<view::Device> {
        self.devices.put(device).await
    }

    async fn remove_device(&self, name: DeviceName) -> Answer<()> {
        let on = name.name().clone();
        let ports = self.driver.view(move |node, _, _| {
            let ports = node.ports().iter();
            ports
                .filter(|(record, ..)| record.kind.uplink().is_some() && record.ifname == on)
                .map(|(record, ..)| record.id)
                .collect::<Vec<_>>()
        });
        if let Some(port) = ports.await?.first() {
            let message = format!(
                "port {port} leads through {name}; `meshd detach {port}` first, or take the bridge out of its network in the config file"
            );
            return Err(Refusal::new(ErrorCode::DeviceInUse, message));
        }
        self.devices.remove(name).await
    }

    async fn fdb(&self) -> Answer<Vec<view::FdbEntry>> {
        let mut rows = self.driver.view(|node, _, _| views::fdb_rows(node)).await?;
        let mut entries = Vec::with_capacity(rows.len());
        // In pages, so that upcalls have their turn between them.
        while !rows.is_empty() {
            let rest = rows.split_off(rows.len().min(FDB_PAGE));
            let page = std::mem::replace(&mut rows, rest);
            let shown = self
                .driver
                .view(move |node, _, now| views::fdb(node, &page, now));
            entries.extend(shown.await?);
        }
        Ok(entries)
    }

    async fn flows(&self) -> Answer<Vec<view::Flow>> {
        let asked = self
            .driver
            .view(|_, world, _| world.datapath.flows())
            .await?;
        let mut lanes = Vec::with_capacity(asked.len());
        for (origin, told) in asked {
            // A lane that ended in the meantime has nothing cached.
            if let Ok(flows) = told.await {
                lanes.push((origin, flows));
            }
        }
        let lanes = LaneFlows::by_origin(lanes);
        self.driver
            .view(move |node, world, now| {
                views::flows(node, &lanes, &world.kernel.ledger().counts(), now)
            })
            .await
    }

    async fn connections(&self) -> Answer<Vec<view::Connection>> {
        let (zones, now) = self
            .driver
            .view(|_, world, now| (world.datapath.zones(), now))
            .await?;
        // A table may be long: not while the driver waits.
        let rows = tokio::task::spawn_blocking(move || connections::read(&zones, now.moment));
        let rows = rows.await.map_err(|_| {
            Refusal::new(ErrorCode::Internal, "the connection table cannot be read")
        })?;
        self.driver
            .view(move |node, _, now| connections::show(node, &rows, now))
            .await
    }

    async fn drops_where(&self, filter: DropFilter) -> Answer<Vec<view::Drops>> {
        self.losses.drops(filter).await
    }

    async fn capture(&self, wish: CaptureWish) -> Answer<capture::Stream> {
        capture::begin(&self.driver, wish).await
    }

    async fn balance(&self) -> Answer<Vec<view::Balance>> {
        self.losses.balance().await
    }

    async fn doctor(&self) -> Answer<view::Doctor> {
        self.examine().await
    }

    async fn docker(&self) -> Answer<docker::Status> {
        self.docker.status().await
    }

    async fn docker_tidy(&self) -> Answer<docker::Tidied> {
        self.docker.tidy().await
    }

    async fn set_docker(&self, settings: Option<docker::Settings>) -> Answer<()> {
        match settings {
            Some(settings) => self.docker.enable(settings).await,
            None => self.docker.disable().await,
        }
    }

    async fn trace(&self, spec: TraceSpec) -> Answer<view::TraceReport> {
        let own = self.identity.node_id();
        let vni = spec.vni;
        let report = self.trace_here(spec).await?;
        Ok(self.go_on(report, own, vni).await)
    }

    async fn trace_on(&self, node: NodeId, vni: Vni, packet: String) -> Answer<view::TraceReport> {
        if node == self.identity.node_id() {
            let spec = trace::resolve(self, &vni.to_string(), &packet).await?;
            return self.trace(spec).await;
        }
        let what = InquiryWhat::Packet { vni, text: packet };
        let report = self.far.ask(&self.driver, node, what).await;
        let report = report.map_err(far::refusal)?;
        Ok(self.go_on(report, node, vni).await)
    }

    fn events(&self, wanted: &Wanted) -> Past {
        self.driver.events(wanted)
    }

    fn rulings(&self) -> Rulings {
        self.rulings.clone()
    }
}

impl Live {
    /// Asks the peers to which a frame would go what would become of it there.
    async fn go_on(
        &self,
        mut report: view::TraceReport,
        from: NodeId,
        vni: Vni,
    ) -> view::TraceReport {
        let frame = report.leaves.as_deref().and_then(trace::decode);
        let Some(frame) = frame else { return report };
        for node in report.peers.iter().take(FAR_MAX) {
            let told = if node.id == self.identity.node_id() {
                let spec = TraceSpec::of(vni, Origin::Peer(from), frame.clone());
                self.trace_here(spec)
                    .await
                    .map_err(|refusal| refusal.message)
            } else {
                let what = InquiryWhat::Frame {
                    vni,
                    from,
                    frame: frame.clone(),
                };
                let told = self.far.ask(&self.driver, node.id, what).await;
                told.map_err(|why| far::refusal(why).message)
            };
            let (far, failure) = match told {
                Ok(far) => (Some(Box::new(far)), None),
                Err(why) => (None, Some(why)),
            };
            report.far.push(view::FarTrace {
                node: node.clone(),
                report: far,
                failure,
            });
        }
        report
    }

    /// Flows of lanes of an origin.
    async fn lanes_of(&self, origin: Origin) -> Vec<LaneFlow> {
        let asked = self.driver.view(|_, world, _| world.datapath.flows()).await;
        let mut flows = Vec::new();
        for (of, told) in asked.unwrap_or_default() {
            if of == origin
                && let Ok(Ok(lane)) = tokio::time::timeout(LANE_WITHIN, told).await
            {
                flows.extend(lane.flows);
            }
        }
        flows
    }

    /// What would become of a frame on this node.
    pub(crate) async fn trace_here(&self, spec: TraceSpec) -> Answer<view::TraceReport> {
        let (mut answers, mut plugins) = (Vec::new(), Vec::new());
        // A chain that looks at connections makes the network a tracked one with the first frame.
        let mut begins = false;
        loop {
            let (traced, given) = (spec.clone(), answers.clone());
            let (outcome, is_tracked) = self
                .driver
                .view(move |node, world, now| {
                    let zones = world.datapath.zones();
                    let ct = match begins {
                        true => conntrack::unheard(traced.vni, &traced.frame),
                        false => zones.peek(traced.vni, &traced.frame, now.moment),
                    };
                    let outcome = node.switch().trace(
                        traced.origin,
                        traced.vni,
                        (&traced.frame, ct),
                        &given,
                        now.moment,
                    );
                    (outcome, zones.get(traced.vni).is_some())
                })
                .await?;
            let TraceEnd::Ask(question) = &outcome.end else {
                let flows = self.lanes_of(spec.origin).await;
                return self
                    .driver
                    .view(move |node, world, now| {
                        let mut report = report(node, &spec, &outcome, plugins);
                        report.cached = cached(node, &spec, &outcome, &flows, now);
                        for step in &mut report.steps {
                            step.detail = views::with_names(node, &step.detail);
                        }
                        goes_on(node, world, now, &spec, &outcome, &mut report);
                        report
                    })
                    .await;
            };
            if answers.len() == TRACE_QUESTIONS_MAX {
                return Err(Refusal::new(
                    ErrorCode::TraceTooWide,
                    "the frame would be flooded to more ports than a trace follows; trace a unicast frame",
                ));
            }
            let (rulings, question) = (self.rulings.clone(), Question::clone(question));
            let (direction, port) = (question.direction, question.port);
            let answer = tokio::task::spawn_blocking(move || rulings.ask_now(&question));
            let (answer, asked) = answer.await.map_err(|_| {
                Refusal::new(
                    ErrorCode::PluginFailed,
                    "the plugin chain broke while it was asked",
                )
            })?;
            if answer.is_tracked() && !is_tracked && !begins {
                begins = true;
                answers.clear();
                plugins.clear();
                continue;
            }
            answers.push(answer);
            let asked = asked.into_iter();
            plugins.extend(asked.map(|one| plugin_views::traced(direction, port, one)));
        }
    }

    /// What is not as it should be, with what to do.
    async fn problems(&self, networks: &[view::Network]) -> Vec<String> {
        let mut problems = Vec::new();
        // Not on a thread of the runtime: a change may hold them for as long as a plugin takes to read its config.
        let rulings = self.rulings.clone();
        let plugins = tokio::task::spawn_blocking(move || rulings.list()).await;
        for plugin in plugins.unwrap_or_default() {
            if let Some(trouble) = &plugin.trouble {
                problems.push(format!("plugin {}: {trouble}", plugin.name));
            }
            for place in &plugin.attachments {
                let controller = place.controller.as_ref();
                let trouble = place.trouble.as_ref();
                for trouble in trouble
                    .into_iter()
                    .chain(controller.and_then(|its| its.trouble.as_ref()))
                {
                    problems.push(format!(
                        "plugin {} on network {}: {trouble}",
                        plugin.name,
                        networks
                            .iter()
                            .find(|network| network.vni == place.vni)
                            .map_or_else(
                                || place.vni.to_string(),
                                |network| network.name.to_string()
                            )
                    ));
                }
            }
        }
        problems
    }
}

fn report(
    node: &Node,
    spec: &TraceSpec,
    outcome: &TraceOutcome,
    plugins: Vec<view::TracePlugin>,
) -> view::TraceReport {
    let directory = node.directory();
    let network = directory
        .network_by_vni(spec.vni)
        .map_or_else(|| format!("vni {}", spec.vni), |def| def.name.to_string());
    let flow = Frame::parse(&spec.frame).map_or_else(
        |_| "a frame cut short".to_owned(),
        |frame| flowtext::show(&frame.flow_key(spec.vni)),
    );
    let (mut verdict, mut drop, mut cached_as) = (String::new(), None, None);
    if let TraceEnd::Ruled { ruling, why } = &outcome.end {
        verdict = match &ruling.action {
            Action::Forward(to) => {
                let to: Vec<String> = to.iter().map(|output| show_output(node, *output)).collect();
                format!("forwarded to {}", to.join(", "))
            }
            Action::Drop(reason) => {
                drop = Some(*reason);
                let why = why
                    .as_ref()
                    .map(|why| format!(" ({why})"))
                    .unwrap_or_default();
                format!("dropped: {}{why}", reason.explain())
            }
            Action::Consume => "answered by this node's switch; nothing is forwarded".to_owned(),
        };
        cached_as = ruling
            .cache
            .as_ref()
            .map(|megaflow| flowtext::show_masked(&megaflow.key, &megaflow.mask));
    }
    let origin = views::show_origin(node, spec.origin);
    let mut steps = before(node, spec);
    steps.extend(outcome.steps.iter().cloned());
    if let Some(ip) = spec.question {
        verdict = format!("the question who has {ip} is {verdict}");
    }
    view::TraceReport {
        network,
        vni: spec.vni,
        origin,
        flow,
        steps,
        plugins,
        verdict,
        drop,
        cached_as,
        cached: Vec::new(),
        node: directory.member(node.id()).map(|own| view::NodeRef {
            id: own.node,
            name: Some(own.name.clone()),
        }),
        leaves: None,
        peers: Vec::new(),
        far: Vec::new(),
    }
}

/// What is to be known before a trace is read: what it takes for granted, and that its port is down.
fn before(node: &Node, spec: &TraceSpec) -> Vec<view::TraceStep> {
    let mut steps = Vec::new();
    let mut step = |what: &str, detail: String| {
        let what = what.to_owned();
        steps.push(view::TraceStep { what, detail });
    };
    if let Origin::Port(port) = spec.origin
        && node.ports().is_down(port)
    {
        let port = views::show_port(node, port);
        step(
            "interface",
            format!("that of {port} is down: nothing comes from there at the moment"),
        );
    }
    for detail in &spec.assumed {
        step("assumed", detail.clone());
    }
    if let Some(ip) = spec.question {
        step(
            "who-has",
            format!(
                "no endpoint is known to have {ip}, but something behind an uplink or a foreign VTEP may: the sender asks first, and this is the trace of its question; only if that is answered the packet follows"
            ),
        );
    }
    steps
}

/// Where what a trace says is cached already.
fn cached(
    node: &Node,
    spec: &TraceSpec,
    outcome: &TraceOutcome,
    flows: &[LaneFlow],
    now: Now,
) -> Vec<String> {
    let TraceEnd::Ruled { ruling, .. } = &outcome.end else {
        return Vec::new();
    };
    let Ok(frame) = Frame::parse(&spec.frame) else {
        return Vec::new();
    };
    let key = frame.flow_key(spec.vni);
    let epoch = node.switch().epoch();
    let same = |flow: &&LaneFlow| {
        let (mask, of) = (&flow.flow.mask, &flow.flow.key);
        flow.flow.epoch == epoch && mask.apply(&key) == *of
    };
    let lane = match flows.iter().find(same) {
        Some(flow) => format!(
            "the lane of {} has it cached for {} s, and {} went by it",
            views::show_origin(node, spec.origin),
            now.moment.ms_since(flow.since) / 1000,
            match flow.frames {
                1 => "1 frame".to_owned(),
                frames => format!("{frames} frames"),
            }
        ),
        None => "no lane has it cached: the first such frame is asked about".to_owned(),
    };
    let held = node.switch().offloads().iter().any(|kept| {
        (kept.origin, kept.key.src_mac, kept.key.dst_mac) == (spec.origin, key.src_mac, key.dst_mac)
            && kept.key.ether_type == key.ether_type
    });
    let kernel = match (held, ruling.obstacle) {
        (true, _) => "the kernel holds flows between these two MACs: see `meshd flows`".to_owned(),
        (false, None) => "the kernel may hold it, and does not at the moment".to_owned(),
        (false, Some(obstacle)) => format!("the kernel does not hold it: {}", obstacle.explain()),
    };
    vec![lane, kernel]
}

/// The way to each peer, why it is that, and the frame as it goes there.
fn goes_on(
    node: &Node,
    world: &World<'_>,
    now: Now,
    spec: &TraceSpec,
    outcome: &TraceOutcome,
    report: &mut view::TraceReport,
) {
    let TraceEnd::Ruled { ruling, .. } = &outcome.end else {
        return;
    };
    let Action::Forward(to) = &ruling.action else {
        return;
    };
    let mut leaves = Vec::with_capacity(spec.frame.len());
    let edits = ruling.edits.as_deref().unwrap_or_default();
    edit::apply(edits, &spec.frame, &mut leaves);
    report.leaves = Some(leaves.iter().map(|byte| format!("{byte:02x}")).collect());
    let paths = views::paths(node, world, now);
    for output in to.iter() {
        let Output::Peer(id) = output else { continue };
        let by_kernel = |path: &&view::Path| {
            path.kind == "kernel-vxlan" && path.network.as_deref() == Some(&report.network)
        };
        let ways = paths
            .iter()
            .filter(|path| path.node.id == *id && path.active);
        let kernel = ways.clone().find(by_kernel);
        let kernel = kernel.filter(|_| ruling.obstacle.is_none());
        let way = kernel.or_else(|| ways.clone().find(|path| path.kind != "kernel-vxlan"));
        let shown = views::show_origin(node, Origin::Peer(*id));
        let detail = match way {
            Some(path) => {
                let remote = path.remote.map_or_else(String::new, |at| format!(" {at}"));
                format!("to {shown} by {}{remote}: {}", path.kind, path.reason)
            }
            None => {
                format!("to {shown}: none is up at the moment; it would be dropped as no-session")
            }
        };
        report.steps.push(view::TraceStep {
            what: "path".to_owned(),
            detail,
        });
        report.peers.push(view::NodeRef {
            id: *id,
            name: node
                .directory()
                .member(*id)
                .map(|member| member.name.clone()),
        });
    }
}

fn show_output(node: &Node, output: Output) -> String {
    match output {
        Output::Port(port) if node.ports().is_down(port) => format!(
            "{}, whose interface is down: it is lost there",
            views::show_port(node, port)
        ),
        Output::Port(port) => views::show_port(node, port),
        Output::Peer(id) => format!(
            "{} (its own policy has the last word there)",
            node.directory().show(id)
        ),
    }
}
