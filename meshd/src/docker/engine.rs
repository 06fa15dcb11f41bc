//! Docker itself, asked by its own API: what a container is called, and what there still is.
//!
//! The plugin protocol names no container and tells of no network that was removed while nobody listened. Owns nothing, and
//! is asked for comfort only: where Docker does not answer in time, containers have no name on the network and nothing is
//! cleaned up.

use super::protocol::Id;
use crate::api::client::segment;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// Bytes of the longest answer.
const ANSWER_MAX: usize = 16 << 20;
/// A container's start waits for its name so long.
const NAME_WITHIN: Duration = Duration::from_secs(1);
/// For anything else.
const WITHIN: Duration = Duration::from_secs(5);

/// Where Docker answers.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    socket: PathBuf,
}

/// What is known of a container.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct About {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
}

/// A network, as Docker has it.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Known {
    #[serde(rename = "Containers", default)]
    containers: Option<BTreeMap<String, Member>>,
    #[serde(rename = "IPAM", default)]
    ipam: Option<Ipam>,
}

#[derive(Debug, Deserialize)]
struct Member {
    #[serde(rename = "Name", default)]
    name: String,
    #[serde(rename = "EndpointID", default)]
    endpoint: String,
}

#[derive(Debug, Default, Deserialize)]
struct Ipam {
    #[serde(rename = "Config", default)]
    config: Option<Vec<IpamConfig>>,
}

#[derive(Debug, Default, Deserialize)]
struct IpamConfig {
    #[serde(rename = "AuxiliaryAddresses", default)]
    auxiliary: Option<BTreeMap<String, String>>,
}

impl Known {
    /// Ids of its endpoints.
    pub(super) fn endpoints(&self) -> BTreeSet<String> {
        let members = self.containers.iter().flat_map(BTreeMap::values);
        members.map(|member| member.endpoint.clone()).collect()
    }

    /// Addresses that it keeps for things outside of Docker.
    pub(super) fn auxiliary(&self) -> BTreeSet<IpAddr> {
        let configs = self
            .ipam
            .iter()
            .flat_map(|ipam| ipam.config.iter().flatten());
        let all = configs.flat_map(|config| config.auxiliary.iter().flat_map(BTreeMap::values));
        all.filter_map(|ip| ip.split('/').next()?.parse().ok())
            .collect()
    }
}

impl Engine {
    pub(super) fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Its version.
    pub(super) async fn version(&self) -> Result<String, String> {
        #[derive(Deserialize)]
        struct Version {
            #[serde(rename = "Version")]
            version: String,
        }
        let version: Option<Version> = self.get("/version", NAME_WITHIN).await?;
        version
            .map(|version| version.version)
            .ok_or_else(|| "it knows no /version".to_owned())
    }

    /// Ids of all its networks.
    pub(super) async fn networks(&self) -> Result<BTreeSet<String>, String> {
        #[derive(Deserialize)]
        struct Row {
            #[serde(rename = "Id")]
            id: String,
        }
        let rows: Option<Vec<Row>> = self.get("/networks", WITHIN).await?;
        let rows = rows.ok_or_else(|| "it knows no /networks".to_owned())?;
        Ok(rows.into_iter().map(|row| row.id).collect())
    }

    /// One network; `None` if there is none.
    pub(super) async fn network(&self, id: &str) -> Result<Option<Known>, String> {
        self.get(&format!("/networks/{}", segment(id)), WITHIN)
            .await
    }

    /// The container behind an endpoint, if Docker tells in time.
    pub(super) async fn container(&self, network: &Id, endpoint: &Id) -> Option<About> {
        let asked = tokio::time::timeout(NAME_WITHIN, self.find_container(network, endpoint));
        match asked.await {
            Ok(Ok(found)) => found,
            Ok(Err(reason)) => {
                tracing::debug!(%endpoint, %reason, "Docker does not say which container it is");
                None
            }
            Err(_) => {
                tracing::debug!(%endpoint, "Docker does not say in time which container it is");
                None
            }
        }
    }

    async fn find_container(&self, network: &Id, endpoint: &Id) -> Result<Option<About>, String> {
        let known = self.network(network.as_str()).await?.unwrap_or_default();
        let mut members = known.containers.into_iter().flat_map(BTreeMap::into_values);
        let Some(member) = members.find(|member| member.endpoint == endpoint.as_str()) else {
            return Ok(None);
        };
        #[derive(Deserialize)]
        struct Row {
            #[serde(rename = "Names", default)]
            names: Option<Vec<String>>,
            #[serde(rename = "Labels", default)]
            labels: Option<BTreeMap<String, String>>,
        }
        let full = format!("/{}", member.name);
        let exact = format!("^{}$", full.replace('.', "\\."));
        let filters = serde_json::json!({ "name": [exact] }).to_string();
        let path = format!("/containers/json?all=true&filters={}", segment(&filters));
        // Of the list, which is read without waiting for the container that is being started.
        let rows: Vec<Row> = self.get(&path, NAME_WITHIN).await?.unwrap_or_default();
        let row = rows
            .into_iter()
            .find(|row| row.names.iter().flatten().any(|name| *name == full));
        Ok(Some(About {
            labels: row.and_then(|row| row.labels).unwrap_or_default(),
            name: member.name,
        }))
    }

    /// `None`: 404.
    async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        within: Duration,
    ) -> Result<Option<T>, String> {
        let asked = tokio::time::timeout(within, self.try_get(path));
        let told = asked
            .await
            .map_err(|_| format!("no answer within {} s", within.as_secs()))?;
        told.map_err(|error| format!("{}: {error}", self.socket.display()))
    }

    async fn try_get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<Option<T>> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::builder()
            .uri(path)
            .header("host", "docker")
            .header("connection", "close")
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        anyhow::ensure!(status.is_success(), "HTTP status {status}");
        let body = Limited::new(response.into_body(), ANSWER_MAX)
            .collect()
            .await;
        let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
        Ok(Some(serde_json::from_slice(&body)?))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_and_auxiliary_addresses_are_read_from_what_docker_says_of_a_network() {
        let known: Known = serde_json::from_str(
            r#"{"Name":"lan","IPAM":{"Config":[{"Subnet":"10.0.0.0/24","AuxiliaryAddresses":{"router":"10.0.0.9"}}]},
               "Containers":{"ep-1":{"Name":"web","EndpointID":"e1"}}}"#,
        )
        .unwrap();
        assert!(known.endpoints().contains("e1"));
        assert!(known.auxiliary().contains(&"10.0.0.9".parse().unwrap()));
        let empty: Known =
            serde_json::from_str(r#"{"IPAM":{"Config":null},"Containers":null}"#).unwrap();
        assert!(empty.endpoints().is_empty() && empty.auxiliary().is_empty());
    }
}
