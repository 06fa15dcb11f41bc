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
use meshd_core::ident::{Label, Vni};
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

/// The network of the mesh that one of Docker is to be.
#[derive(Debug)]
enum Meant {
    There(NetworkDef),
    New(NetworkSpec),
}

impl Meant {
    /// `None`: it is chosen when the network is defined.
    fn vni(&self) -> Option<Vni> {
        match self {
            Self::There(def) => Some(def.vni),
            Self::New(spec) => spec.vni,
        }
    }

    /// Is it what Docker would use: its subnets, its MTU, the routers of its containers?
    fn fits(
        &self,
        pools: &[(IpNet, Option<IpAddr>)],
        mtu: Option<u16>,
        gateways: &[IpAddr],
    ) -> Result<(), Refusal> {
        let (name, subnets) = match self {
            Self::There(def) => (&def.name, &def.subnets),
            Self::New(spec) => (&spec.name, &spec.subnets),
        };
        if let Some((pool, _)) = pools.iter().find(|(pool, _)| !subnets.contains(pool)) {
            return Err(Refusal::new(
                ErrorCode::DockerSubnetDiffers,
                format!(
                    "network {name} of the mesh has the subnets {}, and Docker would use {pool}: add `--ipam-driver meshd --ipam-opt meshd.network={name}`, or give one of its subnets by --subnet",
                    list(subnets)
                ),
            ));
        }
        if let Self::There(def) = self
            && let Some(mtu) = mtu.filter(|mtu| *mtu != def.mtu)
        {
            return Err(Refusal::new(
                ErrorCode::DockerMtuDiffers,
                format!(
                    "network {name} has an MTU of {} for all nodes, not {mtu}: leave out {MTU}",
                    def.mtu
                ),
            ));
        }
        for ip in gateways {
            subnet_of(name, subnets, *ip)?;
        }
        Ok(())
    }
}

/// The subnet of a network that a gateway is in.
pub(super) fn subnet_of(name: &Label, subnets: &[IpNet], ip: IpAddr) -> Result<IpNet, Refusal> {
    let within = subnets.iter().find(|subnet| subnet.contains(&ip));
    within.copied().ok_or_else(|| {
        let has = list(subnets);
        let message = format!("gateway {ip} is in no subnet of network {name}; it has: {has}");
        Refusal::new(ErrorCode::AddressOutside, message)
    })
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
        // Whatever can be refused is, before anything is defined: a network of the mesh is all nodes'.
        let meant = self.network_for(&wishes, &subnets).await?;
        let routers = subnets.iter().filter_map(|(pool, gateway)| {
            gateway.filter(|gateway| Some(*gateway) != service_address(pool))
        });
        let gateways = match wishes.gateways.is_empty() {
            true => routers.collect(),
            false => wishes.gateways,
        };
        meant.fits(&subnets, wishes.mtu, &gateways)?;
        let known = self.book.network(&wish.network);
        let vni = meant.vni().or(known.as_ref().map(|known| known.vni));
        if let Some(known) = &known {
            let same = vni == Some(known.vni)
                && (&known.gateways, known.egress, &known.labels)
                    == (&gateways, wishes.egress, &wishes.labels);
            if !same {
                return Err(Refusal::new(
                    ErrorCode::DockerNetworkDiffers,
                    format!(
                        "network {} of Docker is here already, with other options",
                        wish.network.short()
                    ),
                ));
            }
        } else if let Some(full) = self.book.networks_full() {
            return Err(full);
        }
        let def = match meant {
            Meant::There(def) => def,
            // One that went is itself again only with its VNI.
            Meant::New(spec) => self.define(NetworkSpec { vni, ..spec }).await?,
        };
        if known.is_some() {
            return Ok(Value::Object(Map::new()));
        }
        let made = Network {
            vni: def.vni,
            gateways,
            egress: wishes.egress,
            labels: wishes.labels,
            since: clock::wall().0,
        };
        let kept = self.keep_gateways(&def, &made.gateways).await?;
        if let Err(reason) = self.book.put_network(&wish.network, made).await {
            self.give_back(def.vni, &kept).await;
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

    /// The network of the mesh that is meant; to be defined, if it was named and is not there.
    async fn network_for(
        &self,
        wishes: &Wishes,
        subnets: &[(IpNet, Option<IpAddr>)],
    ) -> Result<Meant, Refusal> {
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
                    return Ok(Meant::There(def.clone()));
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
            return Ok(Meant::New(spec));
        }
        let defs = self.defs().await?;
        let fits = |def: &&NetworkDef| {
            !subnets.is_empty() && subnets.iter().all(|(pool, _)| def.subnets.contains(pool))
        };
        let fitting: Vec<&NetworkDef> = defs.iter().filter(fits).collect();
        match fitting.as_slice() {
            [def] => Ok(Meant::There((*def).clone())),
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use meshd_core::ident::{NodeId, WallTime};

    fn ips(all: &[&str]) -> Vec<IpAddr> {
        all.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn a_gateway_outside_of_its_subnets_is_refused_before_a_network_is_defined() {
        let subnets: Vec<IpNet> = vec!["10.9.0.0/24".parse().unwrap()];
        let pools = [(subnets[0], None)];
        let new = Meant::New(NetworkSpec {
            name: "new".parse().unwrap(),
            vni: None,
            subnets,
            mtu: Some(1400),
        });
        assert!(new.vni().is_none());
        new.fits(&pools, Some(1400), &ips(&["10.9.0.7"])).unwrap();
        let refused = new.fits(&pools, None, &ips(&["10.9.0.7", "10.8.0.1"]));
        let refused = refused.unwrap_err();
        assert_eq!(refused.code, ErrorCode::AddressOutside);
        assert!(refused.message.contains("10.8.0.1"), "{refused}");
    }

    #[test]
    fn a_network_that_is_there_is_refused_for_another_subnet_mtu_or_gateway() {
        let there = Meant::There(NetworkDef {
            author: NodeId([1; 32]),
            serial: 1,
            since: WallTime(1),
            vni: Vni::new(7).unwrap(),
            name: "lan".parse().unwrap(),
            subnets: vec!["10.0.0.0/24".parse().unwrap()],
            mtu: 1380,
            removed: false,
        });
        let code = |pool: &str, mtu, gateways: &[&str]| {
            let pools = [(pool.parse().unwrap(), None)];
            let fits = there.fits(&pools, mtu, &ips(gateways));
            fits.err().map(|refusal| refusal.code)
        };
        let (lan, mtu) = ("10.0.0.0/24", Some(1380));
        assert_eq!(code(lan, mtu, &["10.0.0.9"]), None);
        assert_eq!(
            code("10.1.0.0/24", mtu, &[]),
            Some(ErrorCode::DockerSubnetDiffers)
        );
        assert_eq!(
            code(lan, Some(1500), &[]),
            Some(ErrorCode::DockerMtuDiffers)
        );
        assert_eq!(
            code(lan, mtu, &["10.1.0.1"]),
            Some(ErrorCode::AddressOutside)
        );
    }
}
