//! Commands that the daemon answers.

use super::args::{Command, Common, NetworkCommand, VtepCommand};
use super::values;
use super::{Failure, Printed, doctor, plugins, show};
use crate::api::client::{Client, ClientError, Followed, segment};
use crate::api::requests::{AttachWish, ByteInput, Invite, InviteWish, TraceWish};
use meshd_core::command::NetworkSpec;
use meshd_core::view;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::os::unix::ffi::OsStrExt;

pub(super) async fn run(common: &Common, command: Command) -> Result<Printed, Failure> {
    let ask = Ask {
        client: Client::new(&common.socket),
        json: common.json,
    };
    match command {
        Command::Status => ask.view("/v1/status", show::status).await,
        Command::Members => ask.rows("/v1/members", show::members).await,
        Command::Peers => ask.rows("/v1/peers", show::peers).await,
        Command::Paths => ask.rows("/v1/paths", show::paths).await,
        Command::Ports => ask.rows("/v1/ports", show::ports).await,
        Command::Drops => ask.rows("/v1/drops", show::drops).await,
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
            follow: true,
            after,
        } => ask.follow(after).await,
        Command::Events {
            follow: false,
            after,
        } => {
            let query = after
                .map(|after| format!("?after={after}"))
                .unwrap_or_default();
            ask.rows(&format!("/v1/events{query}"), show::events).await
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
        Command::Attach {
            network,
            netns,
            ifname,
            ip,
            mac,
            name,
            labels,
        } => {
            let path = values::netns(&netns).map_err(|error| {
                let hint = error.hint;
                Failure::new(error).hint(hint)
            })?;
            let wish = AttachWish {
                network,
                netns: ByteInput::of(path.as_os_str().as_bytes()),
                ifname: ByteInput::of(ifname.as_bytes()),
                ip: ip.0,
                mac,
                name,
                labels: labels.into_iter().collect(),
            };
            let made: view::Port = ask.client.post("/v1/ports", &wish).await?;
            ask.made(&made, show::attached)
        }
        Command::Detach { port } => {
            ask.client
                .delete(&format!("/v1/ports/{}", segment(&port)))
                .await?;
            ask.done("detached", &port, format!("port {port} is detached"))
        }
        Command::Trace { network, packet } => {
            let wish = TraceWish {
                network,
                packet: packet.join(" "),
            };
            let report: view::TraceReport = ask.client.post("/v1/trace", &wish).await?;
            ask.made(&report, show::trace)
        }
        Command::Plugin(command) => plugins::run(&ask, command).await,
        Command::Doctor { config } => doctor::run(common, config, &ask.client).await,
        Command::Version => version(&ask).await,
        // Done in `super::run`; named here so that a new command is not forgotten.
        Command::Init { .. }
        | Command::Join { .. }
        | Command::Run { .. }
        | Command::Completions { .. }
        | Command::CompilePlugin
        | Command::HelpMarkdown => Printed::text(""),
    }
}

pub(super) struct Ask {
    pub(super) client: Client,
    json: bool,
}

impl Ask {
    async fn view<T: DeserializeOwned + Serialize>(
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

    async fn follow(&self, after: Option<u64>) -> Result<Printed, Failure> {
        // Without a starting point only what is new: the past is `meshd events`.
        let after = match after {
            Some(after) => after,
            None => self
                .client
                .get::<Vec<view::Event>>("/v1/events")
                .await?
                .last()
                .map_or(0, |event| event.seq),
        };
        let json = self.json;
        let mut written = Ok(());
        self.client
            .follow(
                &format!("/v1/events?follow=true&after={after}"),
                |followed| {
                    let line = match (&followed, json) {
                        (Followed::Event(event), true) => {
                            serde_json::to_string(event).unwrap_or_default()
                        }
                        (Followed::Event(event), false) => show::event(event),
                        (Followed::Missed(count), _) => {
                            eprintln!("hint: {count} events went by faster than they were read");
                            return true;
                        }
                    };
                    // Here also a pipe without a reader is an end, but no failure.
                    match super::write(&line) {
                        Ok(()) => true,
                        Err(error) => {
                            written = super::forgive(Err(error));
                            false
                        }
                    }
                },
            )
            .await?;
        written.map_err(|error| super::unwritten(&error))?;
        Printed::text("")
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
