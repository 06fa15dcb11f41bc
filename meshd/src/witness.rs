//! What the daemon adds to `meshd doctor`: its own process, its plugins, and what its peers say of it.
//!
//! ```text
//!   meshd doctor -> the node as it is              -> views/doctor.rs
//!                -> this process: rights, files, sockets
//!                -> each peer, at once: its testimony -> clocks, NAT, agreement
//! ```
//!
//! Owns the gathering; `meshd_core::diagnosis` decides. Peers that do not answer in time have not answered.

use crate::api::backend::{Answer, DropFilter};
use crate::api::plugin_views;
use crate::backend::Live;
use crate::clock;
use crate::events::Wanted;
use crate::rulings::{AttachmentInfo, PluginInfo, Stage};
use crate::underlay::socket::BUFFER;
use crate::views;
use futures_util::future::join_all;
use meshd_core::diagnosis::{
    Finding, Heard, Testimony, Witness, agreement, claims, clock as clocks, host, nat, plugins,
    rivals, sockets, vxlan, warn,
};
use meshd_core::ident::{NodeId, Vni};
use meshd_core::ruling::DropReason;
use meshd_core::view::{Check, Doctor};
use meshd_core::wire::inquiry::InquiryWhat;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// A plugin's place in a chain, and the words for it.
type Link = ((Stage, u16), String);

/// Peers that are asked, those with the lowest ids: more would say the same.
const ASKED_MAX: usize = 16;
/// In which they answer.
const WITHIN: Duration = Duration::from_millis(1500);
/// Events of the last ten minutes count.
const RECENT_MS: u64 = 600_000;
/// Faults of plugins that mean that a budget was used up.
const OVER_BUDGET: [&str; 4] = ["fuel", "deadline", "memory", "stack"];

impl Live {
    /// All that the daemon can say for `meshd doctor`.
    pub(crate) async fn examine(&self) -> Answer<Doctor> {
        let mut doctor = self.driver.view(views::doctor).await?;
        let (own, witnesses) = self.ask_peers().await?;
        let checks = &mut doctor.checks;
        checks.extend(clocks::against(&witnesses));
        checks.extend(self.outer(&witnesses).await?);
        let payloads = self.driver.view(views::payloads).await?;
        checks.extend(agreement::directions(&payloads, &witnesses));
        checks.extend(agreement::checks(&own, &witnesses));
        checks.extend(unasked(&witnesses));
        let plugins = self.plugin_list().await;
        let networks = self.driver.view(|node, _, _| views::networks(node)).await?;
        let places = plugins.iter().flat_map(|plugin| {
            let name = |vni| plugin_views::network_name(&networks, vni);
            places(plugin, name)
        });
        checks.extend(plugins::checks(&places.collect::<Vec<_>>(), &OVER_BUDGET));
        let since = clock::wall().0.saturating_sub(RECENT_MS);
        let wanted = Wanted {
            since_ms: Some(since),
            ..Wanted::default()
        };
        let events = self.driver.events(&wanted).events;
        checks.extend(claims::flaps(&events, since));
        checks.extend(rivals::meddling(&events, since));
        checks.extend(self.devices.checks());
        let fenced = DropFilter {
            reason: Some(DropReason::Fenced),
            ..DropFilter::default()
        };
        let fenced = self.losses.drops(fenced).await?;
        checks.extend(
            fenced
                .first()
                .and_then(|row| vxlan::strangers(row.recent, row.recent_ms, row.count)),
        );
        checks.extend(self.process().await?);
        Ok(doctor)
    }

    /// What this node says of itself to `asker`.
    pub(crate) async fn testimony(&self, asker: NodeId) -> Result<Testimony, String> {
        let mut chains: BTreeMap<Vni, Vec<Link>> = BTreeMap::new();
        for plugin in self.plugin_list().await {
            for at in &plugin.attachments {
                chains.entry(at.vni).or_default().push(link(&plugin, at));
            }
        }
        let chains = chains.into_iter().map(|(vni, mut links)| {
            links.sort();
            (vni, links.into_iter().map(|(_, line)| line).collect())
        });
        let chains = chains.collect();
        let said = self
            .driver
            .view(move |node, world, now| views::testimony(node, world, now, asker, chains));
        said.await.map_err(|refusal| refusal.message)
    }

    /// What this node would say of itself, and what peers say.
    async fn ask_peers(&self) -> Answer<(Testimony, Vec<Witness>)> {
        let own = self.testimony(self.identity.node_id()).await;
        let own = own.map_err(|message| meshd_core::command::Refusal {
            code: meshd_core::code::ErrorCode::Internal,
            message,
        })?;
        let peers = self.driver.view(|node, _, _| views::askable(node)).await?;
        let asked = peers.into_iter().take(ASKED_MAX).map(async |(id, peer)| {
            let asked_ms = clock::wall().0;
            let told = self.far.ask(&self.driver, id, InquiryWhat::Testimony);
            let said = match tokio::time::timeout(WITHIN, told).await {
                Ok(Ok(testimony)) => Ok(Heard {
                    testimony,
                    asked_ms,
                    came_ms: clock::wall().0,
                }),
                Ok(Err(why)) => Err(why),
                Err(_) => Err(format!("no answer within {} ms", WITHIN.as_millis())),
            };
            Witness { peer, said }
        });
        Ok((own, join_all(asked).await))
    }

    /// Where peers see this node.
    async fn outer(&self, witnesses: &[Witness]) -> Answer<Vec<Check>> {
        let mut facts = self
            .driver
            .view(|node, world, _| views::nat(node, world))
            .await?;
        facts.own = addresses();
        for witness in witnesses {
            let sees = witness
                .said
                .as_ref()
                .ok()
                .and_then(|heard| heard.testimony.sees);
            if let Some(sees) = sees {
                facts.seen.insert(witness.peer.clone(), sees);
            }
        }
        Ok(nat::checks(&facts))
    }

    async fn plugin_list(&self) -> Vec<PluginInfo> {
        // Not on a thread of the runtime: a change may hold them for as long as a plugin takes to read its config.
        let rulings = self.rulings.clone();
        let list = tokio::task::spawn_blocking(move || rulings.list());
        list.await.unwrap_or_default()
    }

    /// This process, as the kernel shows it.
    async fn process(&self) -> Answer<Vec<Check>> {
        let ports = self
            .driver
            .view(|_, world, _| world.underlay.local_ports())
            .await?;
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let status = read("/proc/self/status");
        let mut checks = vec![host::rights("the daemon", &status)];
        let open = std::fs::read_dir("/proc/self/fd").map(Iterator::count);
        let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
        if let (Ok(open), Ok((soft, _))) = (open, limit) {
            let open = u64::try_from(open).unwrap_or(u64::MAX);
            checks.push(host::descriptors(open, soft));
        }
        let number = |path: &str| read(path).trim().parse().ok();
        let limits =
            ["rmem_max", "wmem_max"].map(|name| number(&format!("/proc/sys/net/core/{name}")));
        // In a namespace of its own the kernel shows no limits.
        if let [Some(rmem), Some(wmem)] = limits {
            checks.push(sockets::buffers(
                rmem,
                wmem,
                BUFFER as u64,
                host::may_net_admin(&status),
            ));
        }
        let tables = ["/proc/self/net/udp", "/proc/self/net/udp6"].map(read);
        let ours = tables.iter().flat_map(|table| sockets::parse(table));
        let ours = ours.filter(|socket| ports.contains(&socket.port));
        checks.extend(sockets::overflow(ours.map(|socket| socket.drops).sum()));
        Ok(checks)
    }
}

/// Peers that have a session and did not answer: a path may just have broken, or they run another release.
fn unasked(witnesses: &[Witness]) -> Option<Check> {
    let silent = witnesses.iter().filter_map(|witness| {
        let why = witness.said.as_ref().err()?;
        Some(format!("{}: {why}", witness.peer))
    });
    let silent: Vec<_> = silent.collect();
    let found = format!("did not say how they see this node: {}", silent.join("; "));
    let advice = "a path that has just broken ends its session within seconds: run `meshd doctor` again; else see their versions in `meshd members`";
    (!silent.is_empty()).then(|| warn(Finding::PeerSilent, "peers that were asked", found, advice))
}

/// All of this host.
fn addresses() -> std::collections::BTreeSet<IpAddr> {
    let all = nix::ifaddrs::getifaddrs().into_iter().flatten();
    all.filter_map(|one| {
        let storage = one.address?;
        let v4 = storage.as_sockaddr_in().map(|at| IpAddr::V4(at.ip()));
        v4.or_else(|| Some(IpAddr::V6(storage.as_sockaddr_in6()?.ip())))
    })
    .collect()
}

/// A plugin's place in a chain, in words that are the same on each node that has the same, and its order.
fn link(plugin: &PluginInfo, at: &AttachmentInfo) -> Link {
    let config =
        data_encoding::HEXLOWER.encode(&crate::identity::sha256(at.config.as_bytes())[..4]);
    let digest = plugin.digest.to_string();
    let digest = digest.get(..12).unwrap_or(&digest);
    let line = format!(
        "{} {} {} {digest} (config {config})",
        at.stage.word(),
        at.order,
        plugin.name
    );
    ((at.stage, at.order), line)
}

/// Where a plugin is at work, or that it is nowhere.
fn places(plugin: &PluginInfo, name: impl Fn(Vni) -> String) -> Vec<plugins::Place> {
    let of = plugins::Place {
        plugin: plugin.name.to_string(),
        trouble: plugin.trouble.clone(),
        ..plugins::Place::default()
    };
    if plugin.attachments.is_empty() {
        return vec![of];
    }
    let place = |at: &AttachmentInfo| {
        let network = name(at.vni);
        let stats = plugin_views::stats(plugin, at, network.clone());
        let controller = at.controller.as_ref();
        plugins::Place {
            network: Some(network),
            fail: at.fail.word().to_owned(),
            trouble: plugin.trouble.clone().or_else(|| at.trouble.clone()),
            quarantine: at.quarantine.clone(),
            controller: controller.and_then(|its| its.trouble.clone()),
            faults: stats.faults,
            last_fault: at.last_fault.clone(),
            calls: stats.calls,
            p99_ns: stats.p99_below_ns,
            ..of.clone()
        }
    };
    plugin.attachments.iter().map(place).collect()
}
