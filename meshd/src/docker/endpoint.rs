//! Endpoints: the ports of containers, as Docker asks for them.
//!
//! ```text
//!   CreateEndpoint   address and MAC are noted
//!   Join             a port is made whose far end waits in this namespace; Docker takes it into the container
//!   Leave            nothing: Docker brings the far end back, or it died with the container
//!   DeleteEndpoint   the port goes
//! ```
//!
//! Owns the way from one to the other. What was written about an endpoint is read in `wishes`.

use super::Driver;
use super::book::{Endpoint, Network};
use super::ipam::OWNER;
use super::protocol::{self, CreateEndpoint, Id, InterfaceName, Joined, OfEndpoint, shown};
use super::wishes::{endpoint_wishes, named, united};
use crate::clock;
use ipnet::IpNet;
use meshd_core::code::{ErrorCode, RefusalKind};
use meshd_core::command::{AttachSpec, Command, IpSpec, NetnsRef, PortRecord, Refusal};
use meshd_core::ident::{IfName, MacAddr};
use meshd_core::kind::PortKind;
use meshd_core::owner::Owner;
use serde_json::{Map, Value};
use std::net::IpAddr;

const PORT_MAP: &str = "com.docker.network.portmap";

/// The owner of the port.
pub(super) fn owner_of(endpoint: &Id) -> Result<Owner, Refusal> {
    let owner = format!("{OWNER}/{endpoint}").parse();
    owner.map_err(|error| Refusal::new(ErrorCode::DockerRequestInvalid, format!("{error}")))
}

/// The interface that waits for Docker.
pub(super) fn source_name(endpoint: &Id) -> String {
    // 44 bits of it: with `mc` in front it fits the kernel's 15 bytes.
    let digits = endpoint.as_str().get(..11).unwrap_or(endpoint.as_str());
    format!("mc{digits}")
}

/// Locally administered, by the endpoint's id: the same again for the same.
fn mac_of(endpoint: &Id) -> MacAddr {
    let digest = ring::digest::digest(&ring::digest::SHA256, endpoint.as_str().as_bytes());
    let [a, b, c, d] = digest
        .as_ref()
        .first_chunk::<4>()
        .copied()
        .unwrap_or_default();
    MacAddr([0x02, 0x42, a, b, c, d])
}

impl Driver {
    pub(super) async fn create_endpoint(&self, wish: CreateEndpoint) -> Result<Value, Refusal> {
        let _lane = self.lane(&wish.endpoint).await;
        let network = self.network_of(&wish.network)?;
        let (name, labels) = endpoint_wishes(&wish.options)?;
        let mut ips = Vec::new();
        for text in [&wish.interface.v4, &wish.interface.v6] {
            if !text.is_empty() {
                let ip: IpNet = text.parse().map_err(|_| {
                    Refusal::new(
                        ErrorCode::AddressInvalid,
                        format!("\"{}\" is no address with a prefix length", shown(text)),
                    )
                })?;
                ips.push(ip);
            }
        }
        let mac = match wish.interface.mac.as_str() {
            "" => None,
            text => Some(protocol::mac(text)?),
        };
        let made = Endpoint {
            network: wish.network.as_str().to_owned(),
            mac: mac.unwrap_or_else(|| mac_of(&wish.endpoint)),
            ips,
            name,
            labels: united(&network.labels, labels)?,
            since: clock::wall().0,
        };
        if let Some(known) = self.book.endpoint(&wish.endpoint) {
            let same = Endpoint {
                since: made.since,
                ..known.clone()
            } == made;
            if !same {
                return Err(Refusal::new(
                    ErrorCode::DockerEndpointDiffers,
                    format!(
                        "endpoint {} is here already, with other properties",
                        wish.endpoint.short()
                    ),
                ));
            }
        } else {
            not_a_router(&made, &network)?;
            self.check_free(&made, network.vni).await?;
            self.book.put_endpoint(&wish.endpoint, made.clone()).await?;
        }
        // Docker takes it ill to be told what it said.
        Ok(match mac {
            None => serde_json::json!({ "Interface": { "MacAddress": made.mac.to_string() } }),
            Some(_) => serde_json::json!({ "Interface": {} }),
        })
    }

    /// Said here, an address that others have is a clear word at `docker run`; the port would be refused later.
    async fn check_free(
        &self,
        endpoint: &Endpoint,
        vni: meshd_core::ident::Vni,
    ) -> Result<(), Refusal> {
        let ips: Vec<IpAddr> = endpoint.ips.iter().map(IpNet::addr).collect();
        let taken = self
            .driver
            .view(move |node, _, _| {
                ips.into_iter().find_map(|ip| {
                    let (holder, _) = node.directory().ip(vni, ip)?;
                    let name = node.directory().member(holder).map(|m| m.name.clone());
                    let name = name.map_or_else(|| holder.short(), |name| name.to_string());
                    (holder != node.id()).then_some((ip, name))
                })
            })
            .await?;
        match taken {
            None => Ok(()),
            Some((ip, holder)) => Err(Refusal::new(
                ErrorCode::AddressTaken,
                format!(
                    "address {ip} is used on that network by node {holder}: two hosts with Docker's own IPAM hand out the same addresses; use `--ipam-driver meshd`, or another --ip-range on each host"
                ),
            )),
        }
    }

    /// The port of an endpoint.
    pub(super) async fn port_of(&self, owner: Owner) -> Result<Option<PortRecord>, Refusal> {
        self.driver
            .view(move |node, _, _| {
                let mut all = node.ports().iter();
                all.find(|(record, ..)| record.owner.as_ref() == Some(&owner))
                    .map(|(record, ..)| record.clone())
            })
            .await
    }

    pub(super) async fn join(&self, wish: OfEndpoint) -> Result<Value, Refusal> {
        let _lane = self.lane(&wish.endpoint).await;
        let network = self.network_of(&wish.network)?;
        let endpoint = self.endpoint_of(&wish)?;
        let about = self.engine.container(&wish.network, &wish.endpoint).await;
        let source = source_name(&wish.endpoint);
        let ifname = IfName::new(source.as_bytes())
            .map_err(|error| Refusal::new(ErrorCode::InterfaceNameInvalid, error.to_string()))?;
        let (name, labels, given) = named(&endpoint, about)?;
        let spec = AttachSpec {
            network: network.vni.to_string(),
            netns: NetnsRef::Handed,
            ifname,
            ip: match endpoint.ips.is_empty() {
                true => IpSpec::None,
                false => IpSpec::Fixed(endpoint.ips.clone()),
            },
            mac: Some(endpoint.mac),
            name,
            labels,
            mtu: None,
            routes: Vec::new(),
            vrf: None,
            owner: Some(owner_of(&wish.endpoint)?),
            kind: PortKind::default(),
        };
        self.attach(spec, given).await?;
        let of_family = |v4: bool| {
            let mut gateways = network.gateways.iter().filter(|ip| ip.is_ipv4() == v4);
            gateways.next().map(ToString::to_string).unwrap_or_default()
        };
        let joined = Joined {
            interface: InterfaceName {
                source,
                prefix: "eth",
            },
            gateway: of_family(true),
            gateway_v6: of_family(false),
            no_gateway_service: !network.egress,
        };
        serde_json::to_value(joined)
            .map_err(|error| Refusal::new(ErrorCode::Internal, error.to_string()))
    }

    fn endpoint_of(&self, wish: &OfEndpoint) -> Result<Endpoint, Refusal> {
        let known = self.book.endpoint(&wish.endpoint);
        known
            .filter(|endpoint| endpoint.network == wish.network.as_str())
            .ok_or_else(|| {
                Refusal::new(
                    ErrorCode::DockerEndpointUnknown,
                    format!(
                        "network {} of Docker has no endpoint {}",
                        wish.network.short(),
                        wish.endpoint.short()
                    ),
                )
            })
    }

    /// Makes the port. A name that nobody gave is left out where it is taken: a container of the same name on another host
    /// is nothing that keeps one from starting.
    async fn attach(&self, mut spec: AttachSpec, name_given: bool) -> Result<(), Refusal> {
        // At this interface there is this endpoint's port or none: what it was made as is what is meant.
        let known = match spec.owner.clone() {
            Some(owner) => self.port_of(owner).await?,
            None => None,
        };
        if let Some(known) = known {
            (spec.name, spec.labels) = (known.name, known.labels);
        }
        let refused = match self.driver.command(Command::Attach(spec.clone())).await {
            Ok(_) => return Ok(()),
            Err(refusal) => refusal,
        };
        let droppable = spec.name.is_some() && !name_given;
        if !droppable || refused.kind() != RefusalKind::Conflict {
            return Err(refused);
        }
        spec.name = None;
        match self.driver.command(Command::Attach(spec)).await {
            Ok(_) => {
                tracing::warn!(
                    code = %refused.code, "a container has no name on the network: {}",
                    refused.message
                );
                Ok(())
            }
            Err(refusal) => Err(refusal),
        }
    }

    pub(super) async fn delete_endpoint(&self, wish: OfEndpoint) -> Result<Value, Refusal> {
        let _lane = self.lane(&wish.endpoint).await;
        self.forget_endpoint(&wish.endpoint).await?;
        Ok(Value::Object(Map::new()))
    }

    /// Removes the port of an endpoint and what is kept of it.
    pub(super) async fn forget_endpoint(&self, endpoint: &Id) -> Result<(), Refusal> {
        let owner = owner_of(endpoint)?;
        match self.driver.command(Command::DetachOwner { owner }).await {
            Ok(_) => {}
            // It never joined, or its port went with the container.
            Err(refusal) if refusal.kind() == RefusalKind::NotFound => {}
            Err(refusal) => return Err(refusal),
        }
        if self.book.endpoint(endpoint).is_some() {
            self.book.remove_endpoint(endpoint).await?;
        }
        Ok(())
    }

    /// What `docker network inspect` and the like may show of an endpoint: nothing that Docker would use.
    pub(super) fn endpoint_info(&self, wish: &OfEndpoint) -> Result<Value, Refusal> {
        self.endpoint_of(wish)?;
        Ok(serde_json::json!({ "Value": {} }))
    }

    /// Docker asks this of the network that has the container's default route.
    pub(super) fn publish(&self, wish: &OfEndpoint) -> Result<Value, Refusal> {
        self.endpoint_of(wish)?;
        let mapped = wish.options.get(PORT_MAP).and_then(Value::as_array);
        if mapped.is_some_and(|ports| !ports.is_empty()) {
            return Err(Refusal::new(
                ErrorCode::DockerPublishUnsupported,
                "ports are published (-p) by Docker's own bridge only: leave out --gateway and meshd.gateway, or publish them on the router of the network",
            ));
        }
        Ok(Value::Object(Map::new()))
    }
}

/// A container with the address of its network's router would be its own way out. Our addresses are never that; others may be.
fn not_a_router(endpoint: &Endpoint, network: &Network) -> Result<(), Refusal> {
    let mut ips = endpoint.ips.iter().map(IpNet::addr);
    match ips.find(|ip| network.gateways.contains(ip)) {
        None => Ok(()),
        Some(ip) => Err(Refusal::new(
            ErrorCode::AddressReserved,
            format!(
                "address {ip} is kept for the router of this network of Docker, which names it as its gateway: use another, and keep it from Docker's own IPAM by `--aux-address router={ip}` of `docker network create`"
            ),
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_address_of_a_networks_router_is_no_endpoints() {
        let network = Network {
            vni: meshd_core::ident::Vni::new(7).unwrap(),
            gateways: ["10.10.0.9", "fd00::9"]
                .map(|ip| ip.parse().unwrap())
                .to_vec(),
            egress: true,
            labels: BTreeMap::new(),
            since: 0,
        };
        let mut endpoint = Endpoint {
            network: "aa".to_owned(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            ips: vec!["10.10.0.8/24".parse().unwrap()],
            name: None,
            labels: BTreeMap::new(),
            since: 0,
        };
        assert!(not_a_router(&endpoint, &network).is_ok());
        endpoint.ips.push("fd00::9/64".parse().unwrap());
        let refused = not_a_router(&endpoint, &network).unwrap_err();
        assert_eq!(refused.code, ErrorCode::AddressReserved);
        assert!(refused.message.contains("fd00::9 is kept"), "{refused}");
    }

    #[test]
    fn interface_and_mac_follow_from_the_endpoint_and_fit_the_kernel() {
        let id = Id::new(&"c0ffee99".repeat(8)).unwrap();
        assert_eq!(source_name(&id), "mcc0ffee99c0f");
        assert!(source_name(&id).len() <= 15);
        assert_eq!(mac_of(&id), mac_of(&id));
        assert!(mac_of(&id).is_source());
    }
}
