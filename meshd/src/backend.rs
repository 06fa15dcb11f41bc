//! The daemon as the API sees it: commands to the driver, views of the node, traces that ask the plugins.
//!
//! Owns no state of its own.

use crate::api::backend::{Answer, Backend};
use crate::api::plugin_views;
use crate::api::requests::{Invite, InviteWish};
use crate::connections;
use crate::driver::DriverHandle;
use crate::identity::Identity;
use crate::kernel::{FenceReading, Kernel};
use crate::rulings::Rulings;
use crate::token::Token;
use crate::views;
use meshd_core::command::{Command, InviteSpec, Refusal, RefusalCode, Reply, TraceSpec};
use meshd_core::conntrack;
use meshd_core::flowtext;
use meshd_core::frame::Frame;
use meshd_core::ident::WallTime;
use meshd_core::node::{Node, Question};
use meshd_core::ruling::{Action, Output};
use meshd_core::switch::{TraceEnd, TraceOutcome};
use meshd_core::view;
use tokio::sync::broadcast;

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
}

fn failed(message: impl Into<String>) -> Refusal {
    Refusal {
        code: RefusalCode::Failed,
        message: message.into(),
    }
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
        let mut secret = [0; 16];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut secret)
            .map_err(|_| failed("the system gave no random numbers"))?;
        let spec = InviteSpec {
            ttl_s: wish.ttl_s,
            role: wish.role,
            labels: wish.labels,
            secret,
        };
        let Reply::Invite { expires } = self.driver.command(Command::Invite(spec)).await? else {
            return Err(failed(
                "the node answered with something else than an invite",
            ));
        };
        let own = |node: &Node| {
            node.directory()
                .advert(node.id())
                .map(|advert| advert.addresses.clone())
                .unwrap_or_default()
        };
        let addresses = self.driver.view(move |node, _, _| own(node)).await?;
        if addresses.is_empty() {
            return Err(failed(
                "this node has no address that a newcomer could dial; set `advertise` under [underlay]",
            ));
        }
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
            code: RefusalCode::Forbidden,
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

    async fn vteps(&self) -> Answer<Vec<view::VtepRow>> {
        self.driver.view(|node, _, _| views::vteps(node)).await
    }

    async fn networks(&self) -> Answer<Vec<view::Network>> {
        self.driver.view(|node, _, _| views::networks(node)).await
    }

    async fn ports(&self) -> Answer<Vec<view::Port>> {
        self.driver
            .view(|node, world, _| views::ports(node, world))
            .await
    }

    async fn fdb(&self) -> Answer<Vec<view::FdbEntry>> {
        self.driver.view(|node, _, now| views::fdb(node, now)).await
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
        let rows = rows
            .await
            .map_err(|_| failed("the connection table cannot be read"))?;
        self.driver
            .view(move |node, _, now| connections::show(node, &rows, now))
            .await
    }

    async fn drops(&self) -> Answer<Vec<view::Drops>> {
        self.driver.view(views::drops).await
    }

    async fn doctor(&self) -> Answer<view::Doctor> {
        self.driver.view(views::doctor).await
    }

    async fn trace(&self, spec: TraceSpec) -> Answer<view::TraceReport> {
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
                return self
                    .driver
                    .view(move |node, _, _| report(node, &spec, outcome, plugins))
                    .await;
            };
            if answers.len() == TRACE_QUESTIONS_MAX {
                return Err(failed(
                    "the frame would be flooded to more ports than a trace follows; trace a unicast frame",
                ));
            }
            let (rulings, question) = (self.rulings.clone(), Question::clone(question));
            let (direction, port) = (question.direction, question.port);
            let answer = tokio::task::spawn_blocking(move || rulings.ask_now(&question));
            let (answer, asked) = answer
                .await
                .map_err(|_| failed("the plugin chain broke while it was asked"))?;
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

    fn events(&self) -> (Vec<view::Event>, broadcast::Receiver<view::Event>) {
        self.driver.events()
    }

    fn rulings(&self) -> Rulings {
        self.rulings.clone()
    }
}

impl Live {
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
    outcome: TraceOutcome,
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
    view::TraceReport {
        network,
        vni: spec.vni,
        origin,
        flow,
        steps: outcome.steps,
        plugins,
        verdict,
        drop,
        cached_as,
    }
}

fn show_output(node: &Node, output: Output) -> String {
    match output {
        Output::Port(port) => views::show_port(node, port),
        Output::Peer(id) => format!(
            "{} (its own policy has the last word there)",
            node.directory().show(id)
        ),
    }
}
