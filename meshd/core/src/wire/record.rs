//! Signed records: the mesh's shared state, each verifiable without trust in who passed it on.
//!
//! ```text
//!   Signed { body: bytes, signature }     body = domain byte | postcard of the record
//!      Membership   signed by the mesh root     who may be here, under which name
//!      Revocations  signed by the mesh root     who may not, any more
//!      NetworkDef   signed by an admin          a network: name, VNI, subnets, MTU
//!      NodeAdvert   signed by the node          where it is reached, which networks it has
//!      Endpoints    signed by the node          MACs, IPs, names, labels behind its ports, one record per network
//! ```
//!
//! Owns the shapes, their bounds and what is signed. Who may sign what is checked by `directory.rs`.

use crate::ident::{Label, MacAddr, MeshId, NodeId, Vni, WallTime};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Ed25519 signing and checking (RFC 8032), given to the core so that it stays free of crypto code of its own.
/// All are pure functions of their arguments and the node's key. Shared by the machines of one node, so `Sync`.
pub trait Keyring: Send + Sync {
    /// The key this signs with.
    fn node(&self) -> NodeId;
    /// Signature of `message` by the node's key.
    fn sign(&self, message: &[u8]) -> [u8; 64];
    /// Signature of `message` by the mesh root's key, on the node that holds it.
    fn sign_as_root(&self, message: &[u8]) -> Option<[u8; 64]>;
    /// True if `signature` over `message` is by `key`.
    fn verify(&self, key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool;
    /// SHA-256 (FIPS 180-4).
    fn hash(&self, message: &[u8]) -> [u8; 32];
}

/// Bytes and who stands for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// What was signed: the postcard encoding of a [`Record`].
    pub body: Vec<u8>,
    /// Ed25519, 64 bytes.
    pub signature: Signature,
}

/// 64 bytes; serde has arrays only up to 32.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature(pub [u8; 32], pub [u8; 32]);

/// One fact of the mesh. What is signed is `"meshd record v1\0" | mesh id | postcard of this`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// Signed by the mesh root.
    Membership(Membership),
    /// Signed by the mesh root.
    Revocations(Revocations),
    /// Signed by `author`, a member with [`Role::Admin`].
    Network(NetworkDef),
    /// Signed by `node`.
    Node(NodeAdvert),
    /// Signed by `node`.
    Endpoints(Endpoints),
}

/// That a key is a member, as which name, until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The mesh.
    pub mesh: MeshId,
    /// The member.
    pub node: NodeId,
    /// Unique in the mesh; the root gives `-2`, `-3` … to later ones of the same name.
    pub name: Label,
    /// What it may do.
    pub role: Role,
    /// Free labels, part of the identity that policy sees. At most 32.
    pub labels: BTreeMap<String, String>,
    /// Grows with each statement about this node; the highest counts.
    pub serial: u64,
    /// When it was signed.
    pub issued: WallTime,
    /// Not valid from then on.
    pub expires: Option<WallTime>,
}

/// What a member may do beyond having ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Ports on networks that exist.
    Member,
    /// May also define and remove networks.
    Admin,
}

/// Keys that are members no longer, all of them, each time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocations {
    /// The mesh.
    pub mesh: MeshId,
    /// Grows with each list; the highest counts.
    pub serial: u64,
    /// Sorted.
    pub nodes: Vec<NodeId>,
}

/// A network of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkDef {
    /// Who defines it, and owns its address pool at first.
    pub author: NodeId,
    /// Grows with each statement about this VNI by this author.
    pub serial: u64,
    /// When it was first defined: of two with one name or VNI the older holds.
    pub since: WallTime,
    /// The segment.
    pub vni: Vni,
    /// Unique in the mesh.
    pub name: Label,
    /// IPv4 and IPv6, at most 8.
    pub subnets: Vec<ipnet::IpNet>,
    /// Bytes of layer 3 payload, 576 to 9000.
    pub mtu: u16,
    /// Removed: the record stays as its own tombstone.
    pub removed: bool,
}

/// Where a node is and what it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAdvert {
    /// Who speaks.
    pub node: NodeId,
    /// Grows; survives restarts.
    pub serial: u64,
    /// Grows by one each start.
    pub boot: u64,
    /// Underlay addresses, most likely first, at most 16.
    pub addresses: Vec<SocketAddr>,
    /// Networks with a port here, at most 4096, sorted.
    pub networks: Vec<Vni>,
    /// Version of the program, for people.
    pub version: String,
}

/// All endpoints of one node on one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// Who speaks.
    pub node: NodeId,
    /// The network.
    pub vni: Vni,
    /// Grows; survives restarts.
    pub serial: u64,
    /// At most 4096, sorted by MAC.
    pub list: Vec<Endpoint>,
}

/// What is behind a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its address.
    pub mac: MacAddr,
    /// Its addresses, at most 16.
    pub ips: Vec<IpAddr>,
    /// Its name on the network.
    pub name: Option<Label>,
    /// Free labels, at most 32.
    pub labels: BTreeMap<String, String>,
    /// When it was first claimed by this node: of two claims the older holds.
    pub since: WallTime,
}
