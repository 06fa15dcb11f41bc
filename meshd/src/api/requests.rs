//! Bodies of requests, as both the command line and the routes know them.
//!
//! Owns their shapes and their way into the core's commands. Unknown fields are refused: a misspelt wish must not be
//! silently another wish.

use crate::rulings::{Capability, FailMode, Stage};
use data_encoding::HEXLOWER_PERMISSIVE;
use meshd_core::code::ErrorCode;
use meshd_core::command::{AttachSpec, IpSpec, NetnsRef, PortRoute, Refusal};
use meshd_core::ident::{IfName, Label, MacAddr, escape};
use meshd_core::kind::PortKind;
use meshd_core::owner::Owner;
use meshd_core::wire::record::Role;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Longest a label's key and value may be, in bytes, and how many there may be.
const LABEL_BYTES_MAX: usize = 128;
const LABELS_MAX: usize = 32;
/// Longest life of an invite: 30 days.
const TTL_S_MAX: u64 = 30 * 24 * 3600;

/// Bytes in JSON: a string, or `{"hex": "ff00"}` where they are no UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum ByteInput {
    /// Its bytes are meant.
    Text(String),
    /// Any bytes.
    Hex {
        /// Two digits a byte.
        hex: String,
    },
}

impl ByteInput {
    /// Of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Hex {
                hex: HEXLOWER_PERMISSIVE.encode(bytes),
            },
        }
    }

    /// The bytes.
    ///
    /// # Errors
    /// If the hex is none.
    pub fn bytes(&self) -> Result<Vec<u8>, Refusal> {
        match self {
            Self::Text(text) => Ok(text.as_bytes().to_vec()),
            Self::Hex { hex } => HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).map_err(|_| {
                Refusal::new(
                    ErrorCode::RequestBodyInvalid,
                    format!("\"{}\" is no hex", escape(hex.as_bytes())),
                )
            }),
        }
    }
}

/// `POST /v1/invites`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InviteWish {
    /// Seconds until it expires, 1 to 30 days.
    pub ttl_s: u64,
    /// What the newcomer may do.
    pub role: Role,
    /// Labels of the newcomer.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl InviteWish {
    /// Within bounds?
    ///
    /// # Errors
    /// If not; says what.
    pub fn check(&self) -> Result<(), Refusal> {
        if !(1..=TTL_S_MAX).contains(&self.ttl_s) {
            return Err(Refusal::new(
                ErrorCode::InviteInvalid,
                "an invite lives from one second to 30 days; see --ttl",
            ));
        }
        check_labels(&self.labels)
    }
}

/// An invite, made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Invite {
    /// To be given to `meshd join`, once.
    pub token: String,
    /// Not good from then on, ms since the Unix epoch.
    pub expires_at_ms: u64,
}

/// `POST /v1/ports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachWish {
    /// Name or VNI.
    pub network: String,
    /// Absolute path of the namespace's file; left out for an uplink or a bridge, which is in the daemon's.
    #[serde(default)]
    pub netns: Option<ByteInput>,
    /// Name of the interface there.
    pub ifname: ByteInput,
    /// `"auto"`, `"none"` or `{"fixed": ["10.0.0.5/24"]}`.
    pub ip: IpSpec,
    /// Made by the node, if left out.
    #[serde(default)]
    pub mac: Option<MacAddr>,
    /// Its name on the network.
    #[serde(default)]
    pub name: Option<Label>,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Of the interface, in bytes; left out: the network's.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// `[{"to": "0.0.0.0/0", "via": "10.0.0.9"}]`: routes besides those to its subnets.
    #[serde(default)]
    pub routes: Vec<PortRoute>,
    /// The VRF of the namespace that the interface is put into.
    #[serde(default)]
    pub vrf: Option<ByteInput>,
    /// Whose port it is; found and detached by it.
    #[serde(default)]
    pub owner: Option<Owner>,
    /// `"veth"`, `{"uplink": {"vlan": 5, "allow": ["mdns"]}}`, `{"bridge": {}}`, `{"macvlan": {"mode": "bridge"}}` or `{"macvtap": {}}`.
    #[serde(default)]
    pub kind: PortKind,
}

/// The daemon's own network namespace.
const OWN: &[u8] = b"/proc/self/ns/net";

impl AttachWish {
    /// As the core wants it.
    ///
    /// # Errors
    /// If a part is none; says which.
    pub fn spec(self) -> Result<AttachSpec, Refusal> {
        let path = match (self.netns, self.kind.uplink()) {
            (None, Some(_)) => OWN.to_vec(),
            (Some(_), Some(_)) => {
                return Err(Refusal::new(
                    ErrorCode::UplinkInvalid,
                    "an uplink or bridge is of the daemon's own namespace: leave out netns",
                ));
            }
            (Some(path), None) => path.bytes()?,
            (None, None) => return Err(Refusal::new(ErrorCode::NetnsInvalid, "netns is missing")),
        };
        if path.first() != Some(&b'/') || path.contains(&0) {
            return Err(Refusal::new(
                ErrorCode::NetnsInvalid,
                format!("netns \"{}\" is no absolute path", escape(&path)),
            ));
        }
        if self.mac.is_some_and(|mac| !mac.is_source()) {
            return Err(Refusal::new(
                ErrorCode::MacInvalid,
                "a port's MAC must not be zero or a group address (lowest bit of the first byte)",
            ));
        }
        check_labels(&self.labels)?;
        Ok(AttachSpec {
            network: self.network,
            netns: NetnsRef::Path(path),
            ifname: IfName::new(&self.ifname.bytes()?)
                .map_err(|e| Refusal::new(ErrorCode::InterfaceNameInvalid, e.to_string()))?,
            ip: self.ip,
            mac: self.mac,
            name: self.name,
            labels: self.labels,
            mtu: self.mtu,
            routes: self.routes,
            vrf: match self.vrf {
                Some(vrf) => {
                    Some(IfName::new(&vrf.bytes()?).map_err(|e| {
                        Refusal::new(ErrorCode::InterfaceNameInvalid, e.to_string())
                    })?)
                }
                None => None,
            },
            owner: self.owner,
            kind: self.kind,
        })
    }
}

/// `POST /v1/trace`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TraceWish {
    /// Name or VNI.
    pub network: String,
    /// As [`meshd_core::flowtext::Packet`] reads it, or `hex DIGITS from PORT`.
    pub packet: String,
    /// The node that is asked, by name or id; absent: this one.
    #[serde(default)]
    pub on: Option<String>,
}

/// `POST /v1/networks/{network}/plugins/{plugin}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PluginWish {
    /// Given to the plugin as it is; JSON. Left out: as it was, or `{}`.
    #[serde(default)]
    pub config: Option<String>,
    /// Lower is asked earlier; left out: as it was, or 100.
    #[serde(default)]
    pub order: Option<u16>,
    /// `"closed"`, `"open"` or `"last-good"`; left out: as it was, or as the manifest says.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub fail: Option<FailMode>,
    /// `"guard"`, `"classify"`, `"forward"` or `"observe"`; left out: as it was, or as the manifest says.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub stage: Option<Stage>,
    /// What its controller may import, by the names of interfaces: `"kv"`, `"flows"` and so on; left out: as it was, or what is
    /// granted in any case.
    #[serde(default)]
    #[schema(value_type = Option<BTreeSet<String>>)]
    pub grant: Option<BTreeSet<Capability>>,
}

/// `POST /v1/plugins/{plugin}/rollback`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackWish {
    /// First digits of the version's digest; left out: the version before.
    #[serde(default)]
    pub to: Option<String>,
}

/// `POST /v1/networks/{network}/vteps/{ip}`: what is behind a foreign VTEP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VtepWish {
    /// MACs there.
    #[serde(default)]
    pub macs: BTreeSet<MacAddr>,
}

/// `GET /v1/version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Version {
    /// Of the daemon.
    pub version: String,
}

/// `GET` and `PUT /v1/log`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogLevel {
    /// `off`, `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,meshd::underlay=debug`.
    pub level: String,
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if labels.len() > LABELS_MAX {
        return Err(Refusal::new(
            ErrorCode::LabelInvalid,
            format!("{} labels; at most {LABELS_MAX} are allowed", labels.len()),
        ));
    }
    match labels
        .iter()
        .find(|(k, v)| k.is_empty() || k.len() > LABEL_BYTES_MAX || v.len() > LABEL_BYTES_MAX)
    {
        Some((key, _)) => Err(Refusal::new(
            ErrorCode::LabelInvalid,
            format!(
                "label \"{}\": key and value have at most {LABEL_BYTES_MAX} bytes, and the key at least one",
                escape(key.as_bytes())
            ),
        )),
        None => Ok(()),
    }
}
