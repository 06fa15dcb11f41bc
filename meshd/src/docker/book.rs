//! What Docker made here, over restarts: its networks and their endpoints.
//!
//! ```text
//!   store, table "shell":   docker/network/ID  -> which network of the mesh, and how
//!                           docker/endpoint/ID -> MAC, addresses, name: what its port is made of
//! ```
//!
//! Owns the two tables, bounded. What is told to Docker is on the disk before.

use super::protocol::Id;
use crate::coded::Coded;
use crate::store::{Store, StoreError};
use ipnet::IpNet;
use meshd_core::code::ErrorCode;
use meshd_core::command::Refusal;
use meshd_core::ident::{Label, MacAddr, Vni};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Networks of Docker at once.
const NETWORKS_MAX: usize = 1024;
/// Endpoints of Docker at once; ports have a limit of their own.
const ENDPOINTS_MAX: usize = 8192;

const NETWORK: &str = "docker/network/";
const ENDPOINT: &str = "docker/endpoint/";

/// A network of Docker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Network {
    /// The network of the mesh that it is.
    pub(super) vni: Vni,
    /// Default routes of its containers: routers on the network.
    pub(super) gateways: Vec<IpAddr>,
    /// Containers get another interface on `docker_gwbridge`, by which they reach the world.
    pub(super) egress: bool,
    /// Labels of all its endpoints.
    pub(super) labels: BTreeMap<String, String>,
    /// When it was made, ms since the Unix epoch.
    pub(super) since: u64,
}

/// An endpoint of Docker: a container on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Endpoint {
    /// Docker's id of its network.
    pub(super) network: String,
    /// Its MAC.
    pub(super) mac: MacAddr,
    /// Its addresses, with prefix lengths.
    pub(super) ips: Vec<IpNet>,
    /// Its name on the network; known before it joins only if it was given by an option.
    pub(super) name: Option<Label>,
    /// Labels of its own.
    pub(super) labels: BTreeMap<String, String>,
    /// When it was made, ms since the Unix epoch.
    pub(super) since: u64,
}

/// The tables. Clones share them.
#[derive(Clone)]
pub(super) struct Book {
    store: Store,
    tables: Arc<Mutex<Tables>>,
}

#[derive(Default)]
struct Tables {
    networks: BTreeMap<String, Network>,
    endpoints: BTreeMap<String, Endpoint>,
}

fn listed<T: for<'a> Deserialize<'a>>(
    store: &Store,
    prefix: &str,
) -> Result<BTreeMap<String, T>, StoreError> {
    let mut found = BTreeMap::new();
    for (key, value) in store.list(prefix)? {
        let id = key.strip_prefix(prefix).unwrap_or_default().to_owned();
        match serde_json::from_slice(&value) {
            Ok(value) => drop(found.insert(id, value)),
            Err(error) => {
                tracing::warn!(code = %ErrorCode::DockerStateDamaged, %key, %error, "what is kept of Docker cannot be read")
            }
        }
    }
    Ok(found)
}

impl Book {
    /// Reads what is kept.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub(super) fn open(store: Store) -> Result<Self, StoreError> {
        let tables = Tables {
            networks: listed(&store, NETWORK)?,
            endpoints: listed(&store, ENDPOINT)?,
        };
        let tables = Arc::new(Mutex::new(tables));
        Ok(Self { store, tables })
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        // The tables are whole between any two statements that change them.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn network(&self, id: &Id) -> Option<Network> {
        self.tables().networks.get(id.as_str()).cloned()
    }

    pub(super) fn endpoint(&self, id: &Id) -> Option<Endpoint> {
        self.tables().endpoints.get(id.as_str()).cloned()
    }

    pub(super) fn networks(&self) -> BTreeMap<String, Network> {
        self.tables().networks.clone()
    }

    pub(super) fn endpoints(&self) -> BTreeMap<String, Endpoint> {
        self.tables().endpoints.clone()
    }

    /// Whether a network of Docker names the address as its router.
    pub(super) fn is_gateway(&self, vni: Vni, ip: IpAddr) -> bool {
        let tables = self.tables();
        let mut networks = tables.networks.values();
        networks.any(|network| network.vni == vni && network.gateways.contains(&ip))
    }

    /// True if there is no room for one more network.
    pub(super) fn networks_full(&self) -> Option<Refusal> {
        let full = self.tables().networks.len() >= NETWORKS_MAX;
        full.then(|| {
            let message =
                format!("there are {NETWORKS_MAX} networks of Docker here already; remove some");
            Refusal::new(ErrorCode::DockerFull, message)
        })
    }

    /// Keeps a network.
    pub(super) async fn put_network(&self, id: &Id, network: Network) -> Result<(), Refusal> {
        self.write(format!("{NETWORK}{id}"), Some(bytes(&network)))
            .await?;
        self.tables()
            .networks
            .insert(id.as_str().to_owned(), network);
        Ok(())
    }

    pub(super) async fn remove_network(&self, id: &Id) -> Result<(), Refusal> {
        self.write(format!("{NETWORK}{id}"), None).await?;
        self.tables().networks.remove(id.as_str());
        Ok(())
    }

    /// Keeps an endpoint.
    pub(super) async fn put_endpoint(&self, id: &Id, endpoint: Endpoint) -> Result<(), Refusal> {
        {
            let tables = self.tables();
            if tables.endpoints.len() >= ENDPOINTS_MAX
                && !tables.endpoints.contains_key(id.as_str())
            {
                let message = format!(
                    "there are {ENDPOINTS_MAX} endpoints of Docker here already; remove some containers"
                );
                return Err(Refusal::new(ErrorCode::DockerFull, message));
            }
        }
        self.write(format!("{ENDPOINT}{id}"), Some(bytes(&endpoint)))
            .await?;
        self.tables()
            .endpoints
            .insert(id.as_str().to_owned(), endpoint);
        Ok(())
    }

    pub(super) async fn remove_endpoint(&self, id: &Id) -> Result<(), Refusal> {
        self.write(format!("{ENDPOINT}{id}"), None).await?;
        self.tables().endpoints.remove(id.as_str());
        Ok(())
    }

    async fn write(&self, key: String, value: Option<Vec<u8>>) -> Result<(), Refusal> {
        let store = self.store.clone();
        let write = move || store.put_all(&[(key.as_str(), value.as_deref())]);
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                let message = format!("it cannot be kept: {error}");
                Err(Refusal::new(error.code(), message))
            }
            Err(_) => {
                let message = "it cannot be kept: the daemon is stopping";
                Err(Refusal::new(ErrorCode::DaemonStopping, message))
            }
        }
    }
}

fn bytes<T: Serialize>(value: &T) -> Vec<u8> {
    // Plain data: there is no way to fail.
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_kept_is_there_after_a_restart_and_what_is_damaged_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let (network, endpoint) = (Id::new("aa").unwrap(), Id::new("bb").unwrap());
        {
            let store = Store::open(&dir.path().join("s")).unwrap();
            let book = Book::open(store.clone()).unwrap();
            let made = Network {
                vni: Vni::new(7).unwrap(),
                gateways: vec!["10.0.0.9".parse().unwrap()],
                egress: true,
                labels: BTreeMap::new(),
                since: 3,
            };
            book.put_network(&network, made).await.unwrap();
            let made = Endpoint {
                network: "aa".to_owned(),
                mac: MacAddr([2, 0, 0, 0, 0, 1]),
                ips: vec!["10.0.0.2/24".parse().unwrap()],
                name: None,
                labels: BTreeMap::new(),
                since: 4,
            };
            book.put_endpoint(&endpoint, made).await.unwrap();
            let (vni, router) = (Vni::new(7).unwrap(), "10.0.0.9".parse().unwrap());
            assert!(book.is_gateway(vni, router));
            assert!(!book.is_gateway(Vni::new(8).unwrap(), router));
            store.put("docker/endpoint/cc", b"{").unwrap();
        }
        let store = Store::open(&dir.path().join("s")).unwrap();
        let book = Book::open(store).unwrap();
        assert_eq!(book.network(&network).unwrap().vni.get(), 7);
        assert_eq!(book.endpoints().len(), 1);
        book.remove_endpoint(&endpoint).await.unwrap();
        assert!(book.endpoint(&endpoint).is_none());
    }
}
