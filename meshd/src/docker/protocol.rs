//! What Docker sends and wants to hear: libnetwork's remote network and IPAM protocols.
//!
//! Owns the shapes, as Docker's documents `libnetwork/docs/remote.md` and `docs/ipam.md` have them. What Docker sends may
//! have more fields than these, and `null` where a list or a map is meant. Ids come from outside: nothing but letters and
//! digits, and no more of them than Docker uses, so that they can be keys and parts of names.

use meshd_core::code::ErrorCode;
use meshd_core::command::Refusal;
use meshd_core::ident::{MacAddr, escape};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;

/// Digits of an id of Docker: 64, or 25 of swarm.
const ID_MAX: usize = 64;

/// The id of a network or an endpoint, as Docker made it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Id(String);

impl Id {
    pub(super) fn new(text: &str) -> Result<Self, Refusal> {
        let fits =
            (1..=ID_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric());
        if fits {
            return Ok(Self(text.to_owned()));
        }
        let shown = escape(text.as_bytes().get(..80).unwrap_or(text.as_bytes()));
        let message = format!("\"{shown}\" is no id of Docker: 1 to {ID_MAX} letters and digits");
        Err(Refusal::new(ErrorCode::DockerRequestInvalid, message))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// As Docker's command line shows it.
    pub(super) fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::new(&text).map_err(|refusal| serde::de::Error::custom(refusal.message))
    }
}

/// Go writes a list or a map that was never made as `null`.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// Reads a request; what is wrong with it is told.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let wrong = |what: &str| {
        let message = format!("the request is not what is wanted: {what}");
        Refusal::new(ErrorCode::DockerRequestInvalid, message)
    };
    // A list would be read as fields in their order.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(wrong("a JSON object"));
    }
    serde_json::from_slice(body).map_err(|error| wrong(&error.to_string()))
}

/// `NetworkDriver.CreateNetwork`.
#[derive(Debug, Deserialize)]
pub(super) struct CreateNetwork {
    #[serde(rename = "NetworkID")]
    pub(super) network: Id,
    #[serde(rename = "Options", default, deserialize_with = "nullable")]
    pub(super) options: Map<String, Value>,
    #[serde(rename = "IPv4Data", default, deserialize_with = "nullable")]
    pub(super) v4: Vec<IpamData>,
    #[serde(rename = "IPv6Data", default, deserialize_with = "nullable")]
    pub(super) v6: Vec<IpamData>,
}

/// One subnet of a network, as its IPAM driver gave it.
#[derive(Debug, Deserialize)]
pub(super) struct IpamData {
    /// Of the IPAM driver that it is of, so ours or another's.
    #[serde(rename = "AddressSpace", default)]
    pub(super) space: String,
    #[serde(rename = "Pool", default)]
    pub(super) pool: String,
    #[serde(rename = "Gateway", default)]
    pub(super) gateway: String,
}

/// `NetworkDriver.DeleteNetwork`.
#[derive(Debug, Deserialize)]
pub(super) struct DeleteNetwork {
    #[serde(rename = "NetworkID")]
    pub(super) network: Id,
}

/// `NetworkDriver.CreateEndpoint`.
#[derive(Debug, Deserialize)]
pub(super) struct CreateEndpoint {
    #[serde(rename = "NetworkID")]
    pub(super) network: Id,
    #[serde(rename = "EndpointID")]
    pub(super) endpoint: Id,
    #[serde(rename = "Interface", default, deserialize_with = "nullable")]
    pub(super) interface: Interface,
    #[serde(rename = "Options", default, deserialize_with = "nullable")]
    pub(super) options: Map<String, Value>,
}

/// The interface to be; empty where nothing is said.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Interface {
    #[serde(rename = "Address", default)]
    pub(super) v4: String,
    #[serde(rename = "AddressIPv6", default)]
    pub(super) v6: String,
    #[serde(rename = "MacAddress", default)]
    pub(super) mac: String,
}

/// `DeleteEndpoint`, `EndpointOperInfo`, `Join`, `Leave`, `ProgramExternalConnectivity`, `RevokeExternalConnectivity`.
#[derive(Debug, Deserialize)]
pub(super) struct OfEndpoint {
    #[serde(rename = "NetworkID")]
    pub(super) network: Id,
    #[serde(rename = "EndpointID")]
    pub(super) endpoint: Id,
    #[serde(rename = "Options", default, deserialize_with = "nullable")]
    pub(super) options: Map<String, Value>,
}

/// The answer to `Join`.
#[derive(Debug, Serialize)]
pub(super) struct Joined {
    #[serde(rename = "InterfaceName")]
    pub(super) interface: InterfaceName,
    #[serde(rename = "Gateway")]
    pub(super) gateway: String,
    #[serde(rename = "GatewayIPv6")]
    pub(super) gateway_v6: String,
    /// True: Docker is not to give the container another interface, on `docker_gwbridge`, by which it reaches the world.
    #[serde(rename = "DisableGatewayService")]
    pub(super) no_gateway_service: bool,
}

/// Which interface Docker is to take, and what it is called in the container.
#[derive(Debug, Serialize)]
pub(super) struct InterfaceName {
    #[serde(rename = "SrcName")]
    pub(super) source: String,
    #[serde(rename = "DstPrefix")]
    pub(super) prefix: &'static str,
}

/// `IpamDriver.RequestPool`.
#[derive(Debug, Deserialize)]
pub(super) struct RequestPool {
    #[serde(rename = "Pool", default)]
    pub(super) pool: String,
    #[serde(rename = "SubPool", default)]
    pub(super) sub_pool: String,
    #[serde(rename = "Options", default, deserialize_with = "nullable")]
    pub(super) options: BTreeMap<String, String>,
    #[serde(rename = "V6", default)]
    pub(super) v6: bool,
}

/// `IpamDriver.RequestAddress`.
#[derive(Debug, Deserialize)]
pub(super) struct RequestAddress {
    #[serde(rename = "PoolID")]
    pub(super) pool: String,
    #[serde(rename = "Address", default)]
    pub(super) address: String,
    #[serde(rename = "Options", default, deserialize_with = "nullable")]
    pub(super) options: BTreeMap<String, String>,
}

/// `IpamDriver.ReleaseAddress`.
#[derive(Debug, Deserialize)]
pub(super) struct ReleaseAddress {
    #[serde(rename = "PoolID")]
    pub(super) pool: String,
    #[serde(rename = "Address", default)]
    pub(super) address: String,
}

/// A MAC, as Docker writes it.
pub(super) fn mac(text: &str) -> Result<MacAddr, Refusal> {
    let mac = text.parse::<MacAddr>();
    mac.map_err(|_| {
        Refusal::new(
            ErrorCode::MacInvalid,
            format!("\"{}\" is no MAC", shown(text)),
        )
    })
}

/// Text in an error, short and without control characters.
pub(super) fn shown(text: &str) -> String {
    let cut = text.char_indices().nth(80).map_or(text.len(), |(at, _)| at);
    escape(text.get(..cut).unwrap_or_default().as_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_docker_20_sends_is_read_with_its_nulls() {
        let body = br#"{"NetworkID":"8a1f","EndpointID":"99","Interface":null,"Options":null,"SandboxKey":"/x"}"#;
        let read: CreateEndpoint = super::read(body).unwrap();
        assert_eq!(
            (read.network.short(), read.interface.v4.as_str()),
            ("8a1f", "")
        );
        let body = br#"{"NetworkID":"8a1f","Options":{},"IPv4Data":[{"AddressSpace":"meshd","Pool":"10.0.0.0/24","Gateway":"10.0.0.1/24","AuxAddresses":{}}],"IPv6Data":null}"#;
        let read: CreateNetwork = super::read(body).unwrap();
        assert_eq!(read.v4.first().unwrap().gateway, "10.0.0.1/24");
        assert!(read.v6.is_empty());
    }

    #[test]
    fn an_id_is_letters_and_digits_and_nothing_else() {
        for bad in [
            "",
            "../../etc",
            "a/b",
            "a b",
            "a\0",
            &"a".repeat(65),
            "\u{e9}",
        ] {
            assert!(Id::new(bad).is_err(), "{bad:?}");
        }
        let id = Id::new(&"0f".repeat(32)).unwrap();
        assert_eq!(id.short(), "0f0f0f0f0f0f");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(bytes: Vec<u8>) {
            let _ = read::<CreateNetwork>(&bytes);
            let _ = read::<CreateEndpoint>(&bytes);
            let _ = read::<RequestAddress>(&bytes);
        }
    }
}
