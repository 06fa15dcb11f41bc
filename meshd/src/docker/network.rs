//! Networks of Docker: which network of the mesh each is, and what becomes of it.
//!
//! Owns that relation. A network of the mesh is never removed with one of Docker: others may be on it.

use super::book::Network;
use super::protocol::{CreateNetwork, DeleteNetwork, Id};
use super::wishes::{MTU, Wishes, new_name, pools};
use super::{Driver, of};
use crate::clock;
use ipnet::IpNet;
use meshd_core::code::ErrorCode;
use meshd_core::command::{Command, NetworkSpec, Refusal, Reply};
use meshd_core::ranges::service_address;
use meshd_core::wire::record::NetworkDef;
use serde_json::{Map, Value};
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

/// A network that is named and not known is waited for so long, while the node has not heard from its mesh since it started.
const HEARD_WITHIN: Duration = Duration::from_secs(10);
const HEARD_AGAIN: Duration = Duration::from_millis(100);

fn list<T: ToString>(all: &[T]) -> String {
    match all.is_empty() {
        true => "none".to_owned(),
        false => all.iter().map(T::to_string).collect::<Vec<_>>().join(", "),
    }
}

impl Driver {
    /// All networks of the mesh.
    pub(super) async fn defs(&self) -> Result<Vec<NetworkDef>, Refusal> {
        self.driver
            .view(|node, _, _| node.directory().networks().cloned().collect())
            .await
    }

    pub(super) async fn create_network(&self, wish: CreateNetwork) -> Result<Value, Refusal> {
        let wishes = Wishes::read(&wish.options)?;
        let mut subnets = Vec::new();
        pools(&wish.v4, &mut subnets)?;
        pools(&wish.v6, &mut subnets)?;
        let _lane = self.lane(&wish.network).await;
        let def = self.network_for(&wishes, &subnets).await?;
        for (pool, _) in &subnets {
            if !def.subnets.contains(pool) {
                return Err(Refusal::new(
                    ErrorCode::DockerSubnetDiffers,
                    format!(
                        "network {} of the mesh has the subnets {}, and Docker would use {pool}: add `--ipam-driver meshd --ipam-opt meshd.network={}`, or give one of its subnets by --subnet",
                        def.name,
                        list(&def.subnets),
                        def.name
                    ),
                ));
            }
        }
        if let Some(mtu) = wishes.mtu.filter(|mtu| *mtu != def.mtu) {
            return Err(Refusal::new(
                ErrorCode::DockerMtuDiffers,
                format!(
                    "network {} has an MTU of {} for all nodes, not {mtu}: leave out {MTU}",
                    def.name, def.mtu
                ),
            ));
        }
        let routers = subnets.iter().filter_map(|(pool, gateway)| {
            gateway.filter(|gateway| Some(*gateway) != service_address(pool))
        });
        let gateways = match wishes.gateways.is_empty() {
            true => routers.collect(),
            false => wishes.gateways,
        };
        let made = Network {
            vni: def.vni,
            gateways,
            egress: wishes.egress,
            labels: wishes.labels,
            since: clock::wall().0,
        };
        match self.book.network(&wish.network) {
            Some(known)
                if Network {
                    since: made.since,
                    ..known.clone()
                } == made =>
            {
                return Ok(Value::Object(Map::new()));
            }
            Some(_) => {
                return Err(Refusal::new(
                    ErrorCode::DockerNetworkDiffers,
                    format!(
                        "network {} of Docker is here already, with other options",
                        wish.network.short()
                    ),
                ));
            }
            None => {}
        }
        if let Some(full) = self.book.networks_full() {
            return Err(full);
        }
        self.keep_gateways(&def, &made.gateways).await?;
        let gateways = made.gateways.clone();
        if let Err(reason) = self.book.put_network(&wish.network, made).await {
            self.drop_gateways(def.vni, &gateways).await?;
            return Err(reason);
        }
        tracing::info!(network = %wish.network.short(), mesh_network = %def.name, "network of Docker");
        Ok(Value::Object(Map::new()))
    }

    /// What the node does not know is not there, unless it has just started and its mesh is yet to tell it.
    async fn has_heard(&self) -> Result<bool, Refusal> {
        self.driver
            .view(|node, _, _| {
                let alone = node.directory().members().all(|m| m.node == node.id());
                alone || node.mesh().is_settled()
            })
            .await
    }

    /// The network of the mesh that is meant; made, if it was named and is not there.
    async fn network_for(
        &self,
        wishes: &Wishes,
        subnets: &[(IpNet, Option<IpAddr>)],
    ) -> Result<NetworkDef, Refusal> {
        if let Some(name) = &wishes.network {
            let vni: Option<u32> = name.parse().ok();
            let named = |def: &&NetworkDef| {
                def.name.as_str().eq_ignore_ascii_case(name) || Some(def.vni.get()) == vni
            };
            let end = Instant::now() + HEARD_WITHIN;
            loop {
                // Before the look: what it has heard by then is seen.
                let heard = self.has_heard().await?;
                let defs = self.defs().await?;
                if let Some(def) = defs.iter().find(named) {
                    return Ok(def.clone());
                }
                if heard || Instant::now() >= end {
                    break;
                }
                tokio::time::sleep(HEARD_AGAIN).await;
            }
            let spec = NetworkSpec {
                name: new_name(name)?,
                vni: None,
                subnets: subnets.iter().map(|(pool, _)| *pool).collect(),
                mtu: wishes.mtu,
            };
            return self.define(spec).await;
        }
        let defs = self.defs().await?;
        let fits = |def: &&NetworkDef| {
            !subnets.is_empty() && subnets.iter().all(|(pool, _)| def.subnets.contains(pool))
        };
        let fitting: Vec<&NetworkDef> = defs.iter().filter(fits).collect();
        match fitting.as_slice() {
            [def] => Ok((*def).clone()),
            _ => Err(Refusal::new(
                ErrorCode::DockerNetworkUnsaid,
                format!(
                    "say which network of the mesh it is: `-o meshd.network=NAME`; there are: {} (a new NAME is defined with Docker's subnet)",
                    list(&defs.iter().map(|def| &def.name).collect::<Vec<_>>())
                ),
            )),
        }
    }

    /// Defines a network of the mesh.
    async fn define(&self, spec: NetworkSpec) -> Result<NetworkDef, Refusal> {
        let name = spec.name.clone();
        match self.driver.command(Command::NetworkAdd(spec)).await {
            Ok(Reply::Network(def)) => Ok(def),
            Ok(_) => Err(Refusal::new(
                ErrorCode::Internal,
                "the node answered with something else than a network",
            )),
            Err(refusal) => Err(of(
                &format!("there is no network {name} in the mesh, and it cannot be defined: "),
                &refusal,
            )),
        }
    }

    pub(super) async fn delete_network(&self, wish: DeleteNetwork) -> Result<Value, Refusal> {
        {
            let _lane = self.lane(&wish.network).await;
            // First: nothing joins it from now on. Lanes are shared, so never two are held.
            let known = self.book.network(&wish.network);
            self.book.remove_network(&wish.network).await?;
            if let Some(Network { vni, gateways, .. }) = known {
                self.drop_gateways(vni, &gateways).await?;
            }
        }
        let left = self.book.endpoints().into_iter();
        let left: Vec<String> = left
            .filter(|(_, endpoint)| endpoint.network == wish.network.as_str())
            .map(|(id, _)| id)
            .collect();
        for id in left {
            let endpoint = Id::new(&id)?;
            let _lane = self.lane(&endpoint).await;
            self.forget_endpoint(&endpoint).await?;
        }
        Ok(Value::Object(Map::new()))
    }

    pub(super) fn network_of(&self, id: &Id) -> Result<Network, Refusal> {
        self.book.network(id).ok_or_else(|| {
            Refusal::new(ErrorCode::DockerNetworkUnknown, format!(
                "network {} of Docker was not made on this node's driver; remove it and create it again",
                id.short()
            ))
        })
    }
}
