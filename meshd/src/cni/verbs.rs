//! The commands of CNI: what each asks of the daemon, in which order, and what is undone when a step fails.
//!
//! ```text
//!   ADD     delegated IPAM ADD? -> attach (owner, addresses, routes) -> result        a failure gives addresses back
//!   DEL     detach by owner -> delegated IPAM DEL?                                    nothing there is success, also where
//!                                                                                     the IPAM plugin cannot be run
//!   CHECK   port by owner -> look into the namespace -> delegated IPAM CHECK?
//!   GC      ports of our configuration and network whose container has no valid attachment -> detached
//! ```

use super::PLUGIN;
use super::config::{Config, Dns, Version, had_addresses};
use super::error::{CniError, Code, error};
use super::garbage::Garbage;
use super::inside::{self, Found};
use super::ipam;
use super::naming;
use super::outcome::{Made, addresses_of};
use super::port;
use super::request::{Attachment, Request};
use super::router;
use crate::api::client::{Client, ClientError, segment};
use crate::api::requests::{AttachWish, ByteInput};
use crate::clock;
use ipnet::IpNet;
use meshd_core::command::IpSpec;
use meshd_core::ident::WallTime;
use meshd_core::kind::PortKind;
use meshd_core::owner::Owner;
use meshd_core::ranges::service_address;
use meshd_core::view;
use meshd_core::wire::record::LABEL_BYTES_MAX;
use serde_json::Value;
use std::path::Path;

/// A request with its configuration.
pub(super) struct Work<'a> {
    pub(super) request: &'a Request,
    pub(super) config: &'a Config,
    pub(super) client: Client,
}

impl<'a> Work<'a> {
    pub(super) fn new(request: &'a Request, config: &'a Config, socket: &Path) -> Self {
        let client = Client::new(config.socket.as_deref().unwrap_or(socket));
        let client = client.on_behalf_of(&format!("{PLUGIN} {}", request.verb.word()));
        Self {
            request,
            config,
            client,
        }
    }

    /// Of ADD, DEL and CHECK; [`Request::read`] has seen to it.
    fn attachment(&self) -> Result<Attachment, CniError> {
        let attachment = self.request.attachment.clone().ok_or_else(|| {
            error(
                Code::InvalidEnvironment,
                "CNI_CONTAINERID and CNI_IFNAME are not set",
            )
        })?;
        Ok(match &self.config.ifname {
            Some(ifname) => Attachment {
                ifname: ifname.clone(),
                ..attachment
            },
            None => attachment,
        })
    }

    fn owner(&self, attachment: &Attachment) -> Result<Owner, CniError> {
        naming::owner(&self.config.name, attachment)
            .ok_or_else(|| error(Code::InvalidEnvironment, "CNI_CONTAINERID makes no owner"))
    }

    fn netns(&self) -> Result<&str, CniError> {
        let netns = self.request.netns.as_deref();
        netns.ok_or_else(|| error(Code::InvalidEnvironment, "CNI_NETNS is not set"))
    }

    /// Makes the interface.
    pub(super) async fn add(&self) -> Result<Value, CniError> {
        let (attachment, netns) = (self.attachment()?, self.netns()?);
        if inside::is_own(netns)? {
            return Err(error(
                Code::InvalidEnvironment,
                format!("CNI_NETNS {netns} is the host's own namespace, not a container's"),
            ));
        }
        let (owner, begun) = (self.owner(&attachment)?, clock::wall());
        self.check_gateways().await?;
        let mut wish = self.wish(&attachment, netns)?;
        let mut dns = self.config.dns.clone();
        if let Some(plugin) = &self.config.ipam {
            let given = ipam::add(plugin, self.config, self.request).await?;
            wish.ip = IpSpec::Fixed(given.ips);
            wish.routes = given.routes;
            dns = dns.or(given.dns);
        } else if wish.ip == IpSpec::None && !self.config.ips.is_empty() {
            wish.ip = IpSpec::Fixed(self.fixed().await?);
        }
        match port::attach(&self.client, &wish, &attachment).await {
            Ok(port) => made(&port, &attachment, netns, dns).result(self.config),
            Err(cause) => {
                let gone = self.is_gone(&owner, &cause, begun).await;
                if let Some(plugin) = self.config.ipam.as_ref().filter(|_| gone) {
                    ipam::undo(plugin, self.config, self.request).await;
                }
                Err(cause.into())
            }
        }
    }

    /// Sees to it that nothing is left of an ADD that failed. False if a port is or may be there all the same: its addresses stay
    /// until DEL.
    async fn is_gone(&self, owner: &Owner, cause: &ClientError, begun: WallTime) -> bool {
        // The daemon was not reached, and will not be.
        if let ClientError::NoDaemon { .. } | ClientError::Forbidden { .. } = cause {
            return true;
        }
        let Ok(ports) = self.client.get::<Vec<view::Port>>("/v1/ports").await else {
            return false;
        };
        let port = ports.iter().find(|port| port.owner.as_ref() == Some(owner));
        match port::left(cause, port.map(|port| WallTime(port.since_at_ms)), begun) {
            port::Left::Nothing => true,
            port::Left::Own => self.detach(owner).await.is_ok(),
            port::Left::Others => false,
        }
    }

    /// What names a router and is no route would be nothing at all, silently.
    async fn check_gateways(&self) -> Result<(), CniError> {
        let unused = self.config.unused_gateways();
        if unused.is_empty() {
            return Ok(());
        }
        let network = self.network().await?;
        router::on_network(&unused, network.name.as_str(), &network.subnets).map_err(|why| {
            let message = format!("network configuration, \"gateway\": {why}");
            error(Code::InvalidConfig, message)
        })
    }

    fn wish(&self, attachment: &Attachment, netns: &str) -> Result<AttachWish, CniError> {
        let (args, config) = (&self.request.args, self.config);
        let name = naming::alias(&config.aliases, attachment)
            .or_else(|| naming::endpoint(args, attachment));
        let mut labels = config.labels.clone();
        let pairs = [
            ("k8s.pod", args.pod.as_deref()),
            ("k8s.namespace", args.namespace.as_deref()),
            ("cni.container", Some(attachment.container.as_str())),
        ];
        for (key, value) in pairs {
            if let Some(value) = value {
                let most = LABEL_BYTES_MAX - key.len();
                let value = value.chars().filter(|c| !c.is_control());
                let mut cut: String = value.take(most).collect();
                while cut.len() > most {
                    cut.pop();
                }
                labels.entry(key.to_owned()).or_insert(cut);
            }
        }
        Ok(AttachWish {
            network: config.network.clone(),
            netns: Some(ByteInput::of(netns.as_bytes())),
            ifname: ByteInput::of(attachment.ifname.as_bytes()),
            ip: config.without_asking().unwrap_or(IpSpec::None),
            mac: config.mac,
            name,
            labels,
            mtu: config.mtu,
            routes: config.routes.clone(),
            vrf: None,
            owner: Some(self.owner(attachment)?),
            kind: PortKind::Veth,
        })
    }

    /// The addresses that were asked for, with the prefix lengths of their subnets.
    async fn fixed(&self) -> Result<Vec<IpNet>, CniError> {
        let asked = self.config.fixed()?;
        let whole = asked
            .iter()
            .map(|&(ip, prefix)| IpNet::new(ip, prefix?).ok());
        if let Some(whole) = whole.collect() {
            return Ok(whole);
        }
        let network = self.network().await?;
        let with_prefix = |&(ip, prefix): &(std::net::IpAddr, Option<u8>)| {
            let subnet = network.subnets.iter().find(|subnet| subnet.contains(&ip));
            let prefix = prefix.or_else(|| Some(subnet?.prefix_len()));
            let net = prefix.and_then(|prefix| IpNet::new(ip, prefix).ok());
            net.ok_or_else(|| {
                let name = &network.name;
                error(
                    Code::InvalidConfig,
                    format!("address {ip} is in no subnet of network {name}"),
                )
            })
        };
        asked.iter().map(with_prefix).collect()
    }

    async fn network(&self) -> Result<view::Network, CniError> {
        let networks: Vec<view::Network> = self.client.get("/v1/networks").await?;
        let wanted = &self.config.network;
        let fits =
            |net: &view::Network| net.name.as_str() == wanted || net.vni.to_string() == *wanted;
        networks.into_iter().find(fits).ok_or_else(|| {
            error(
                Code::TryAgainLater,
                format!(
                    "there is no network \"{}\" on this node",
                    super::error::clean(wanted)
                ),
            )
            .details("`meshd network ls` shows which there are; `meshd network add` defines one")
        })
    }

    /// Removes the interface, if it is there.
    pub(super) async fn del(&self) -> Result<(), CniError> {
        let attachment = self.attachment()?;
        let was_there = self.detach(&self.owner(&attachment)?).await?;
        let Some(plugin) = &self.config.ipam else {
            return Ok(());
        };
        // After the port, so that nobody has the address twice.
        let Err(why) = ipam::del(plugin, self.config, self.request).await else {
            return Ok(());
        };
        // A plugin that is not there or does not speak this version has refused the ADD as well. Where nothing else says that
        // it once gave an address here, no later DEL would do better: "generally complete without error" (section 4, DEL).
        let never_ran = !ipam::is_there(plugin, self.request) || why.is(Code::IncompatibleVersion);
        if never_ran && !was_there && !had_addresses(&self.config.raw) {
            eprintln!(
                "meshd-cni: DEL: {}; it gave no address to this container, so there is none to give back",
                why.message()
            );
            return Ok(());
        }
        Err(why)
    }

    /// True if there was a port to detach.
    async fn detach(&self, owner: &Owner) -> Result<bool, CniError> {
        let path = format!("/v1/owners/{}", segment(owner.as_str()));
        match self.client.delete(&path).await {
            Err(cause) if port::is_absent(&cause) => Ok(false),
            other => other.map(|()| true).map_err(CniError::from),
        }
    }

    /// Is the interface as ADD has made it?
    pub(super) async fn check(&self) -> Result<(), CniError> {
        if self.config.version < Version::V0_4 {
            return Err(error(
                Code::IncompatibleVersion,
                "CHECK came with cniVersion 0.4.0",
            ));
        }
        let Some(prev) = &self.config.prev else {
            return Err(error(Code::InvalidConfig, "CHECK needs \"prevResult\""));
        };
        let (attachment, netns) = (self.attachment()?, self.netns()?);
        let owner = self.owner(&attachment)?;
        let ports: Vec<view::Port> = self.client.get("/v1/ports").await?;
        let port = ports
            .into_iter()
            .find(|port| port.owner.as_ref() == Some(&owner));
        let Some(port) = port else {
            return Err(differs(format!("there is no port of owner {owner}")));
        };
        if port.state != view::PortState::Ready || port.reason.is_some() {
            let reason = port.reason.unwrap_or_else(|| "not ready yet".to_owned());
            // It is said to go on with what `meshd ports` has in front of it: "ready, but …".
            let reason = reason.strip_prefix("but ").unwrap_or(&reason);
            return Err(differs(format!("port {}: {reason}", port.id)));
        }
        let had = addresses_of(prev, &attachment.ifname);
        if let Some(missing) = had.iter().find(|net| !port.ips.contains(net)) {
            return Err(differs(format!(
                "port {} has no address {missing}",
                port.id
            )));
        }
        compare(
            &port,
            &attachment.ifname,
            &inside::look(netns, &attachment.ifname)?,
        )?;
        if let Some(plugin) = &self.config.ipam {
            ipam::check(plugin, self.config, self.request).await?;
        }
        Ok(())
    }

    /// Removes what belongs to no attachment any more.
    pub(super) async fn gc(&self) -> Result<(), CniError> {
        self.since_1_1()?;
        let Some(valid) = &self.config.valid else {
            return Err(error(
                Code::InvalidConfig,
                "GC needs \"cni.dev/valid-attachments\"",
            ));
        };
        let garbage = Garbage::new(&self.config.name, &self.config.network, valid);
        let ports: Vec<view::Port> = self.client.get("/v1/ports").await?;
        let mut failed = Vec::new();
        for port in ports {
            if let Some(owner) = &port.owner
                && garbage.is(owner, &port.network, port.vni)
                && let Err(why) = self.detach(owner).await
            {
                failed.push(why.message().to_owned());
            }
        }
        if let Some(plugin) = &self.config.ipam
            && let Err(why) = ipam::forward(plugin, self.config, self.request).await
        {
            failed.push(why.message().to_owned());
        }
        match failed.is_empty() {
            true => Ok(()),
            false => Err(error(Code::Refused, failed.join("; "))),
        }
    }

    /// Would ADD work?
    pub(super) async fn status(&self) -> Result<(), CniError> {
        self.since_1_1()?;
        self.network()
            .await
            .map_err(|why| why.with_code(Code::NotAvailable))?;
        match &self.config.ipam {
            Some(plugin) => ipam::forward(plugin, self.config, self.request).await,
            None => Ok(()),
        }
    }

    fn since_1_1(&self) -> Result<(), CniError> {
        if self.config.version >= Version::V1_1 {
            return Ok(());
        }
        let verb = self.request.verb.word();
        Err(error(
            Code::IncompatibleVersion,
            format!("{verb} came with cniVersion 1.1.0"),
        ))
    }
}

fn differs(message: String) -> CniError {
    error(Code::NotAsItWas, message)
}

/// What the daemon has of the port, against what is in the container.
fn compare(port: &view::Port, ifname: &str, found: &Found) -> Result<(), CniError> {
    if !found.there {
        return Err(differs(format!(
            "there is no interface {ifname} in the container"
        )));
    }
    if !found.up {
        return Err(differs(format!("interface {ifname} is down")));
    }
    let mac = port.mac.to_string();
    if found.mac.as_ref().is_some_and(|there| *there != mac) {
        return Err(differs(format!(
            "interface {ifname} has another MAC than {mac}"
        )));
    }
    if let Some(missing) = port.ips.iter().find(|net| !found.ips.contains(&net.addr())) {
        return Err(differs(format!(
            "interface {ifname} has lost address {missing}"
        )));
    }
    match port
        .routes
        .iter()
        .find(|route| !found.routes.contains(route))
    {
        Some(missing) => Err(differs(format!(
            "interface {ifname} has lost route {missing}"
        ))),
        None => Ok(()),
    }
}

/// What there is now, with the name service of the network unless others are wanted.
fn made(port: &view::Port, attachment: &Attachment, netns: &str, dns: Option<Dns>) -> Made {
    let servers = port
        .ips
        .iter()
        .filter_map(|ip| service_address(&ip.trunc()));
    let mut servers: Vec<String> = servers.map(|ip| ip.to_string()).collect();
    servers.dedup();
    let domain = port.domain_name.as_ref().zip(port.name.as_ref());
    let search = domain.and_then(|(full, name)| full.strip_prefix(name.as_str()));
    let search = search.map(|rest| rest.trim_start_matches('.').to_owned());
    let ours = Dns {
        nameservers: servers,
        search: search.into_iter().collect(),
        ..Dns::default()
    };
    Made {
        ifname: attachment.ifname.clone(),
        mac: port.mac.to_string(),
        mtu: port.mtu,
        netns: netns.to_owned(),
        ips: port.ips.clone(),
        routes: port.routes.clone(),
        dns: dns.unwrap_or(ours),
    }
}
