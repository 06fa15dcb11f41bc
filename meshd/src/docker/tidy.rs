//! What Docker removed while nobody listened: a container or a network may go while the daemon is away, or dockerd's whole
//! state. Docker logs that and goes on, so nothing would ever tell.
//!
//! Owns the comparison. Refuses to remove what is younger than Docker's own hesitation, and anything at all while Docker
//! does not answer.

use super::Driver;
use super::engine::Known;
use super::ipam::OWNER;
use super::protocol::{DeleteNetwork, Id};
use crate::clock;
use ipnet::IpNet;
use meshd_core::code::ErrorCode;
use meshd_core::command::Refusal;
use meshd_core::ident::Vni;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Docker is asked so often.
const PERIOD: Duration = Duration::from_secs(30);
/// After a start, and while Docker does not answer.
const SOON: Duration = Duration::from_secs(3);
/// What was made so lately may be on its way: Docker lists a network when all is done, its retries of 15 s included.
const YOUNG_MS: u64 = 60_000;

/// What Docker had no more, and is removed here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = DockerTidied)]
pub struct Tidied {
    /// Docker's ids of networks.
    pub networks: Vec<String>,
    /// Docker's ids of endpoints.
    pub endpoints: Vec<String>,
    /// Addresses that were kept for endpoints.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
}

/// Compares until it is dropped.
pub(super) async fn follow(driver: Arc<Driver>) {
    // By which look an address was reserved already: there is no saying when it was.
    let mut seen = BTreeMap::new();
    loop {
        let pause = match driver.tidy(&mut seen, YOUNG_MS).await {
            Ok(_) => PERIOD,
            Err(refusal) => {
                tracing::debug!(code = %refusal.code, %refusal, "what Docker has no more is not removed");
                SOON
            }
        };
        tokio::time::sleep(pause).await;
    }
}

fn unreachable(reason: String) -> Refusal {
    let message = format!("Docker cannot be asked what it has: {reason}");
    Refusal::new(ErrorCode::DockerUnreachable, message)
}

/// Since when addresses are not used.
pub(super) type Seen = BTreeMap<(Vni, IpAddr), u64>;

impl Driver {
    /// Removes what Docker has no more and is older than `young` milliseconds.
    ///
    /// # Errors
    /// If Docker does not answer, or something cannot be removed: what was before it is.
    pub(super) async fn tidy(&self, seen: &mut Seen, young: u64) -> Result<Tidied, Refusal> {
        let now = clock::wall().0;
        let old = |since: u64| since.saturating_add(young) <= now;
        let mut tidied = Tidied::default();
        let there = self.engine.networks().await.map_err(unreachable)?;
        let mut known: BTreeMap<String, Known> = BTreeMap::new();
        for (id, network) in self.book.networks() {
            let found = match there.contains(&id) {
                true => self.engine.network(&id).await.map_err(unreachable)?,
                false => None,
            };
            match found {
                Some(found) => drop(known.insert(id, found)),
                None if old(network.since) => {
                    tracing::info!(network = %id, "Docker has this network no more");
                    let wish = DeleteNetwork {
                        network: Id::new(&id)?,
                    };
                    self.delete_network(wish).await?;
                    tidied.networks.push(id);
                }
                None => drop(known.insert(id, Known::default())),
            }
        }
        for (id, endpoint) in self.book.endpoints() {
            let is_there = known
                .get(&endpoint.network)
                .is_some_and(|network| network.endpoints().contains(&id));
            if !is_there && old(endpoint.since) {
                tracing::info!(endpoint = %id, "Docker has this endpoint no more");
                let endpoint = Id::new(&id)?;
                let _lane = self.lane(&endpoint).await;
                self.forget_endpoint(&endpoint).await?;
                tidied.endpoints.push(id);
            }
        }
        tidied.addresses = self.tidy_addresses(&known, seen, now, young).await?;
        Ok(tidied)
    }

    /// Addresses that are neither an endpoint's, nor set aside by `--aux-address`, nor a router's.
    async fn tidy_addresses(
        &self,
        known: &BTreeMap<String, Known>,
        seen: &mut Seen,
        now: u64,
        young: u64,
    ) -> Result<Vec<IpAddr>, Refusal> {
        let endpoints = self.book.endpoints();
        let mut used: BTreeSet<IpAddr> = endpoints
            .values()
            .flat_map(|endpoint| endpoint.ips.iter().map(IpNet::addr))
            .collect();
        used.extend(known.values().flat_map(Known::auxiliary));
        let reserved = self
            .driver
            .view(|node, _, _| node.pools().reservations())
            .await?;
        let unused: BTreeSet<(Vni, IpAddr)> = reserved
            .into_iter()
            .filter(|one| one.owner.as_str() == OWNER && !used.contains(&one.ip))
            .filter(|one| !self.book.is_gateway(one.vni, one.ip))
            .map(|one| (one.vni, one.ip))
            .collect();
        seen.retain(|key, _| unused.contains(key));
        let mut released = Vec::new();
        for key in unused {
            let since = *seen.entry(key).or_insert(now);
            if since.saturating_add(young) <= now {
                tracing::info!(ip = %key.1, "Docker uses this address no more");
                self.release(key.0, key.1).await?;
                seen.remove(&key);
                released.push(key.1);
            }
        }
        Ok(released)
    }
}
