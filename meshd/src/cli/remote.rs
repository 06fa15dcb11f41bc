//! Commands that the daemon answers.

use super::args::{Command, Common, LogCommand, NetworkCommand, VtepCommand};
use super::ports::{self, PortsCommand};
use super::{
    Failure, Printed, capture, device, docker, doctor, drops, events, plugins, show, top, ui,
};
use crate::api::client::{Client, ClientError, segment};
use crate::api::requests::{Invite, InviteWish, LogLevel, TraceWish};
use meshd_core::command::NetworkSpec;
use meshd_core::view;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::time::Duration;

/// Until a daemon that ended is looked for again.
const AGAIN: Duration = Duration::from_secs(1);

pub(super) async fn run(common: &Common, command: Command) -> Result<Printed, Failure> {
    let client = Client::new(&common.socket);
    let ask = Ask {
        // For these, that there is none is an answer.
        client: match &command {
            Command::Version | Command::Doctor(_) => client,
            _ => client.while_starting(&common.state),
        },
        json: common.json,
    };
    match command {
        Command::Ui { port } => ui::run(common, port).await,
        Command::Status => ask.view("/v1/status", show::status).await,
        Command::Members => ask.rows("/v1/members", show::members).await,
        Command::Peers => ask.rows("/v1/peers", show::peers).await,
        Command::Paths => ask.rows("/v1/paths", show::paths).await,
        Command::Ports { command: None } => ask.rows("/v1/ports", show::ports).await,
        Command::Ports {
            command: Some(PortsCommand::Wait { port, timeout }),
        } => {
            let port = ports::wait(&ask.client, &port, timeout).await?;
            ask.made(&port, show::attached)
        }
        Command::Ports {
            command: Some(PortsCommand::Show { port }),
        } => {
            let port = ports::one(&ask.client, &port).await?;
            ask.made(&port, show::attached)
        }
        Command::Devices => ask.rows("/v1/devices", show::devices).await,
        Command::Device(command) => device::run(&ask, command).await,
        Command::Drops(args) => drops::run(&ask, &args).await,
        Command::Top(args) => top::run(&ask.client, &args).await,
        Command::Fdb { network } => {
            let query = network
                .map(|network| format!("?network={}", segment(&network)))
                .unwrap_or_default();
            ask.rows(&format!("/v1/fdb{query}"), show::fdb).await
        }
        Command::Flows { network, why } => {
            let query = network
                .map(|network| format!("?network={}", segment(&network)))
                .unwrap_or_default();
            let mut flows: Vec<view::Flow> = ask.client.get(&format!("/v1/flows{query}")).await?;
            flows.retain(|flow| !why || flow.lives != view::FlowTier::Kernel);
            ask.made(&flows, |flows| show::flows(flows))
        }
        Command::Connections { network } => {
            let query = network
                .map(|network| format!("?network={}", segment(&network)))
                .unwrap_or_default();
            ask.rows(&format!("/v1/connections{query}"), show::connections)
                .await
        }
        Command::Events {
            follow,
            after,
            since,
            kinds,
        } => events::run(&ask, follow, after, since, &kinds).await,
        Command::Log(LogCommand::Level { level }) => {
            let now: LogLevel = match level {
                Some(level) => ask.client.put("/v1/log", &LogLevel { level }).await?,
                None => ask.client.get("/v1/log").await?,
            };
            ask.made(&now, |now| format!("{}\n", now.level))
        }
        Command::Invite { ttl, labels, role } => {
            let wish = InviteWish {
                ttl_s: ttl.as_secs(),
                role: role.into(),
                labels: labels.into_iter().collect(),
            };
            let made: Invite = ask.client.post("/v1/invites", &wish).await?;
            if !common.json {
                // On stderr, so that TOKEN=$(meshd invite) holds the token alone.
                eprintln!(
                    "# good once, until {}; on the new node: meshd join TOKEN",
                    show::time(made.expires_at_ms)
                );
            }
            ask.made(&made, |made| format!("{}\n", made.token))
        }
        Command::Revoke { member } => {
            ask.client
                .delete(&format!("/v1/members/{}", segment(&member)))
                .await?;
            ask.done(
                "revoked",
                &member,
                format!("{member} is revoked; its sessions are closed as the news spreads"),
            )
        }
        Command::Network(command) => network(&ask, command).await,
        Command::Attach(args) => {
            let made: view::Port = ask.client.post("/v1/ports", &args.wish()?).await?;
            ask.made(&made, show::attached)
        }
        Command::Detach { port } => {
            ask.client
                .delete(&format!("/v1/ports/{}", segment(&port)))
                .await?;
            ask.done("detached", &port, format!("port {port} is detached"))
        }
        Command::Capture(args) => capture::run(&ask, &args).await,
        Command::Trace {
            network,
            packet,
            live: true,
            rate,
            ..
        } => capture::live(&ask, &network, &packet.join(" "), rate).await,
        Command::Trace {
            network,
            packet,
            on,
            ..
        } => {
            let wish = TraceWish {
                network,
                packet: packet.join(" "),
                on,
            };
            let report: view::TraceReport = ask.client.post("/v1/trace", &wish).await?;
            ask.made(&report, show::trace)
        }
        Command::Docker(command) => docker::run(&ask, command).await,
        Command::Plugin(command) => plugins::run(&ask, command).await,
        Command::Doctor(args) => doctor::run(common, args, &ask.client).await,
        Command::Version => version(&ask).await,
        // Done in `super::run`; named here so that a new command is not forgotten.
        Command::Init { .. }
        | Command::Join { .. }
        | Command::Run { .. }
        | Command::Completions { .. }
        | Command::Cni(_)
        | Command::Api(_)
        | Command::Explain { .. }
        | Command::Config(_)
        | Command::Install { .. }
        | Command::Uninstall { .. }
        | Command::Man { .. }
        | Command::CompilePlugin
        | Command::HelpMarkdown => Printed::text(""),
    }
}

pub(super) struct Ask {
    pub(super) client: Client,
    pub(super) json: bool,
}

impl Ask {
    pub(super) async fn view<T: DeserializeOwned + Serialize>(
        &self,
        path: &str,
        table: impl FnOnce(&T) -> String,
    ) -> Result<Printed, Failure> {
        let view: T = self.client.get(path).await?;
        self.made(&view, table)
    }

    pub(super) async fn rows<T: DeserializeOwned + Serialize>(
        &self,
        path: &str,
        table: impl FnOnce(&[T]) -> String,
    ) -> Result<Printed, Failure> {
        self.view(path, |rows: &Vec<T>| table(rows)).await
    }

    pub(super) fn made<T: Serialize>(
        &self,
        made: &T,
        words: impl FnOnce(&T) -> String,
    ) -> Result<Printed, Failure> {
        Printed::text(if self.json {
            show::json(made)
        } else {
            words(made)
        })
    }

    pub(super) fn done(
        &self,
        verb: &str,
        what: &str,
        sentence: String,
    ) -> Result<Printed, Failure> {
        Printed::text(if self.json {
            show::json(&json!({ verb: what }))
        } else {
            show::clean(&sentence)
        })
    }

    /// Waits for a daemon that ended, until it is started again.
    pub(super) async fn await_daemon(&self) -> Result<(), Failure> {
        loop {
            tokio::time::sleep(AGAIN).await;
            match self.client.get::<serde_json::Value>("/v1/version").await {
                Ok(_) => return Ok(()),
                Err(
                    ClientError::NoDaemon { .. }
                    | ClientError::Broken { .. }
                    | ClientError::Stuck { .. },
                ) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Prints rows that come one after the other; false: nobody reads any more.
    pub(super) fn print<T: Serialize>(
        &self,
        rows: &[T],
        words: impl Fn(&T) -> String,
    ) -> Result<bool, Failure> {
        for row in rows {
            let line = match self.json {
                true => serde_json::to_string(row).unwrap_or_default() + "\n",
                false => words(row),
            };
            if let Err(error) = super::write(&line) {
                let forgiven = super::forgive(Err(error));
                return forgiven
                    .map(|()| false)
                    .map_err(|error| super::unwritten(&error));
            }
        }
        Ok(true)
    }
}

async fn network(ask: &Ask, command: NetworkCommand) -> Result<Printed, Failure> {
    match command {
        NetworkCommand::Add {
            name,
            vni,
            subnets,
            mtu,
        } => {
            let spec = NetworkSpec {
                name,
                vni,
                subnets,
                mtu,
            };
            let made: view::Network = ask.client.post("/v1/networks", &spec).await?;
            ask.made(&made, show::network_added)
        }
        NetworkCommand::Vtep(VtepCommand::Add { network, ip, macs }) => {
            let path = format!("/v1/networks/{}/vteps/{ip}", segment(&network));
            let made: view::VtepRow = ask.client.post(&path, &json!({ "macs": macs })).await?;
            ask.made(&made, |made| show::vteps(std::slice::from_ref(made)))
        }
        NetworkCommand::Vtep(VtepCommand::Ls) => ask.rows("/v1/vteps", show::vteps).await,
        NetworkCommand::Vtep(VtepCommand::Rm { network, ip }) => {
            let path = format!("/v1/networks/{}/vteps/{ip}", segment(&network));
            ask.client.delete(&path).await?;
            ask.done(
                "removed",
                &ip.to_string(),
                format!("{ip} is no foreign VTEP of network {network} any more"),
            )
        }
        NetworkCommand::Groups => ask.rows("/v1/groups", show::groups).await,
        NetworkCommand::Ls => ask.rows("/v1/networks", show::networks).await,
        NetworkCommand::Rm { network } => {
            ask.client
                .delete(&format!("/v1/networks/{}", segment(&network)))
                .await?;
            ask.done("removed", &network, format!("network {network} is removed"))
        }
    }
}

async fn version(ask: &Ask) -> Result<Printed, Failure> {
    let ours = env!("CARGO_PKG_VERSION");
    let daemon = match ask.client.get::<serde_json::Value>("/v1/version").await {
        Ok(answer) => answer["version"].as_str().map(str::to_owned),
        // A missing daemon is an answer here.
        Err(ClientError::NoDaemon { .. } | ClientError::Forbidden { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    if ask.json {
        return Printed::text(show::json(&json!({ "version": ours, "daemon": daemon })));
    }
    let daemon = daemon.map_or_else(|| "no daemon answers".to_owned(), |v| format!("daemon {v}"));
    Printed::text(show::clean(&format!("meshd {ours} ({daemon})")))
}
