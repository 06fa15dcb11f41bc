//! `meshd devices`: host devices, as wished and as they are.

use super::ByteText;
use crate::config::DeviceConfig;
use crate::ident::MacAddr;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// One host device: declared in the config file or by the API, or made by this node and declared no longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Device {
    /// Its name.
    pub name: ByteText,
    /// Kind and main settings, as wished.
    pub kind: String,
    /// Who declared it; `None`: nobody does any more, or it is a shim, which others need.
    pub source: Option<DeviceSource>,
    /// As it was declared.
    pub declared: Option<DeviceConfig>,
    /// How it is.
    pub state: DeviceState,
    /// What it waits for, what it lacks, what the kernel refused; empty if it is ready.
    pub why: Vec<String>,
    /// There is such a device, and it is not somebody else's.
    pub there: bool,
    /// It is raised.
    pub up: bool,
    /// Something is at the other end.
    pub carrier: bool,
    /// All it has beyond link scope, also those that others gave it.
    #[cfg_attr(feature = "schema", schema(value_type = Vec<String>))]
    pub addresses: Vec<IpNet>,
    /// As it is.
    pub mac: Option<MacAddr>,
    /// As it is, in bytes of layer 3 payload.
    pub mtu: Option<u32>,
    /// What is in it, also what others put there.
    pub members: Vec<ByteText>,
    /// Of a bond: the member that it sends by, where that is one.
    pub active: Option<ByteText>,
    /// The bond or bridge that it is in.
    pub master: Option<ByteText>,
    /// The namespace that it is put into, if that is not the host's.
    pub netns: Option<ByteText>,
    /// Its name there.
    pub ifname: Option<ByteText>,
    /// Of a macvtap: what a virtual machine opens.
    pub file: Option<ByteText>,
    /// Name, in the domain of the mesh, of what answers at its addresses.
    pub service: Option<String>,
    /// Of a shim: what the host reaches by it.
    #[cfg_attr(feature = "schema", schema(value_type = Vec<String>))]
    pub routes: Vec<std::net::IpAddr>,
}

/// Who declared a host device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum DeviceSource {
    /// The config file.
    File,
    /// `PUT /v1/devices/{device}`, or `meshd device add`.
    Api,
}

/// How a host device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum DeviceState {
    /// As it should be.
    Ready,
    /// It is there, and lacks something, such as a member.
    Partial,
    /// It is left as it is, or not made, until something else is done.
    Waiting,
    /// The kernel refused a step.
    Failed,
    /// It is wished no longer, and could not be removed yet.
    Left,
}
