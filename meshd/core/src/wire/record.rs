//! Signed records: the mesh's shared state, each verifiable without trust in who passed it on.
//!
//! ```text
//!   Signed { body: bytes, signature }     body = postcard of the record, signature over domain | mesh | body
//!      Membership   signed by the mesh root     who may be here, under which name
//!      Revocations  signed by the mesh root     who may not, any more
//!      NetworkDef   signed by an admin          a network: name, VNI, subnets, MTU
//!      NodeAdvert   signed by the node          where it is reached, which networks it has
//!      Endpoints    signed by the node          MACs, IPs, names, labels behind its ports, one record per network
//!      SharedValues signed by the node          what its controllers wrote last, one record per network and plugin
//! ```
//!
//! Owns the shapes, their bounds, what is signed and which key must have signed it. Whether that key's holder is a member
//! in good standing is checked by `directory.rs`.

use crate::ident::{Label, MacAddr, MeshId, NodeId, Vni, WallTime};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

pub use crate::steering::LINKS_MAX;

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

/// Largest body of a record, in bytes.
pub const BODY_MAX: usize = 250_000;
/// Most underlay addresses in an advert.
pub const ADDRESSES_MAX: usize = 16;
/// Most networks in the mesh, and in an advert.
pub const NETWORKS_MAX: usize = 4096;
/// Most endpoints in one record.
pub const ENDPOINTS_MAX: usize = 4096;
/// Most addresses of one endpoint.
pub const IPS_MAX: usize = 16;
/// Most labels of one thing.
pub const LABELS_MAX: usize = 32;
/// Longest label, key and value together, in bytes.
pub const LABEL_BYTES_MAX: usize = 128;
/// All labels of a member together, in bytes: a `Hello` must fit into what is read from a stranger.
pub const MEMBER_LABELS_BYTES_MAX: usize = 2048;
/// Most subnets of a network.
pub const SUBNETS_MAX: usize = 8;
/// Most trusted subnets of a node.
pub const TRUSTED_MAX: usize = 16;
/// Most revoked keys in the list.
pub const REVOKED_MAX: usize = 7000;
/// Longest key of a shared value, in bytes.
pub const KEY_MAX: usize = 256;
/// Longest shared value, in bytes.
pub const VALUE_MAX: usize = 64 << 10;
/// All that one node shares of one plugin on one network, in bytes: [`SharedValue::cost`].
pub const SHARED_BYTES_MAX: usize = 192 << 10;
/// What a shared value takes beside its bytes, so that many empty ones are bounded too.
const VALUE_EACH: usize = 64;
/// Most services of a node.
pub const SERVICES_MAX: usize = 16;
/// Longest version text, in bytes.
pub const VERSION_TEXT_MAX: usize = 64;

const DOMAIN: &[u8] = b"meshd record v1\0";

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
    /// Signed by `node`.
    Shared(SharedValues),
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
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
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
    /// Grows with each start, and above that of a copy of this node that began later.
    pub boot: u64,
    /// Underlay addresses, most likely first, at most 16.
    pub addresses: Vec<SocketAddr>,
    /// Networks with a port here, at most 4096, sorted.
    pub networks: Vec<Vni>,
    /// Version of the program, for people.
    pub version: String,
    /// Where it takes VXLAN, if it does.
    pub vtep: Option<Vtep>,
    /// Underlay that it trusts with frames in the clear, at most 16.
    pub trusted: Vec<ipnet::IpNet>,
    /// Its underlay links, at most 6, each name once.
    pub links: Vec<LinkAdvert>,
    /// What answers at addresses of the host's own devices, at most 16, sorted by name. Several nodes may say the same.
    pub services: Vec<Service>,
}

/// A name in the domain of the mesh, and the underlay addresses where it answers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: Label,
    /// 1 to 16.
    pub ips: Vec<IpAddr>,
}

/// Where a node takes connections of one of its underlay links.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkAdvert {
    /// Links of one name, on two nodes, are connected.
    pub name: Label,
    /// UDP.
    pub address: SocketAddr,
}

/// A VXLAN tunnel end point (RFC 7348 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Vtep {
    /// Where it takes frames, and from where it sends them.
    pub ip: IpAddr,
    /// UDP port.
    pub port: u16,
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
    /// Its MAC was not given to a port but seen behind one: it may move to another node, and the newest place counts.
    pub roams: bool,
}

/// What the controllers of one plugin, on one node, wrote last for all nodes of a network: see [`shared`](crate::shared).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedValues {
    /// Who speaks.
    pub node: NodeId,
    /// The network.
    pub vni: Vni,
    /// As the plugin is installed there.
    pub plugin: Label,
    /// Grows; survives restarts.
    pub serial: u64,
    /// Sorted by key; all together at most [`SHARED_BYTES_MAX`].
    pub list: Vec<SharedValue>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedValue {
    /// At most 256 bytes.
    pub key: String,
    /// At most 64 KiB; `None`: it was deleted, or has run out.
    pub value: Option<Vec<u8>>,
    /// Hybrid clock of the write: of two writes of one key the higher counts.
    pub stamp: u64,
    /// Holds until then, 0: without end; of what was deleted: remembered until then.
    pub until: WallTime,
}

impl SharedValues {
    /// Bytes that they count as.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.list.iter().map(SharedValue::cost).sum()
    }
}

impl SharedValue {
    /// Bytes that it counts as.
    #[must_use]
    pub fn cost(&self) -> usize {
        VALUE_EACH + self.key.len() + self.value.as_ref().map_or(0, Vec::len)
    }

    /// It has not run out.
    #[must_use]
    pub fn lives(&self, now: WallTime) -> bool {
        self.until.0 == 0 || now < self.until
    }
}

/// Which fact a record states: of two records with one key the higher serial counts. In the order in which a node that
/// knows nothing must learn them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RecordKey {
    /// Membership of a node.
    Membership(NodeId),
    /// The list.
    Revocations,
    /// Definition of a VNI by an author.
    Network(NodeId, Vni),
    /// Advert of a node.
    Node(NodeId),
    /// Endpoints of a node on a network.
    Endpoints(NodeId, Vni),
    /// What a node shares of a plugin on a network.
    Shared(NodeId, Vni, Label),
}

impl RecordKey {
    /// First eight bytes of the SHA-256 of the key: short enough for digests, too long to be hit on purpose.
    #[must_use]
    pub fn fingerprint(&self, keyring: &dyn Keyring) -> u64 {
        // Keys are small and always encode.
        let bytes = postcard::to_stdvec(self).unwrap_or_default();
        let [a, b, c, d, e, f, g, h, ..] = keyring.hash(&bytes);
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

/// Why bytes are no record of this mesh.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// More than [`BODY_MAX`].
    #[error("a record of {len} bytes is larger than {BODY_MAX}")]
    Large {
        /// Of the body.
        len: usize,
    },
    /// Not the encoding of a record.
    #[error("a record does not decode")]
    Malformed,
    /// Some part is over its bound or out of order.
    #[error("a record's {0}")]
    Shape(&'static str),
    /// A statement of another mesh's root.
    #[error("the record is of mesh {mesh}", mesh = .0.short())]
    OtherMesh(MeshId),
    /// The signature is not by the key that it must be by.
    #[error("the signature of {0} does not hold")]
    Signature(String),
    /// This node lacks the key to sign it.
    #[error("only {0} can sign this record")]
    NotOurs(String),
}

impl Record {
    /// Which fact it states.
    #[must_use]
    pub fn key(&self) -> RecordKey {
        match self {
            Self::Membership(m) => RecordKey::Membership(m.node),
            Self::Revocations(_) => RecordKey::Revocations,
            Self::Network(n) => RecordKey::Network(n.author, n.vni),
            Self::Node(a) => RecordKey::Node(a.node),
            Self::Endpoints(e) => RecordKey::Endpoints(e.node, e.vni),
            Self::Shared(s) => RecordKey::Shared(s.node, s.vni, s.plugin.clone()),
        }
    }

    /// The higher counts.
    #[must_use]
    pub fn serial(&self) -> u64 {
        match self {
            Self::Membership(m) => m.serial,
            Self::Revocations(r) => r.serial,
            Self::Network(n) => n.serial,
            Self::Node(a) => a.serial,
            Self::Endpoints(e) => e.serial,
            Self::Shared(s) => s.serial,
        }
    }

    pub(crate) fn set_serial(&mut self, serial: u64) {
        match self {
            Self::Membership(m) => m.serial = serial,
            Self::Revocations(r) => r.serial = serial,
            Self::Network(n) => n.serial = serial,
            Self::Node(a) => a.serial = serial,
            Self::Endpoints(e) => e.serial = serial,
            Self::Shared(s) => s.serial = serial,
        }
    }

    /// The member that must have signed it; `None`: the mesh root.
    #[must_use]
    pub fn author(&self) -> Option<NodeId> {
        match self {
            Self::Membership(_) | Self::Revocations(_) => None,
            Self::Network(n) => Some(n.author),
            Self::Node(a) => Some(a.node),
            Self::Endpoints(e) => Some(e.node),
            Self::Shared(s) => Some(s.node),
        }
    }

    /// Checks the bounds that stand with the fields.
    ///
    /// # Errors
    /// [`RecordError::Shape`] with the first part that is wrong.
    pub fn check_shape(&self) -> Result<(), RecordError> {
        let wrong = match self {
            Self::Membership(m) => check_labels(&m.labels).or_else(|| {
                let bytes: usize = m.labels.iter().map(|(k, v)| k.len() + v.len()).sum();
                (bytes > MEMBER_LABELS_BYTES_MAX)
                    .then_some("labels are longer than 2048 bytes together")
            }),
            Self::Revocations(r) if r.nodes.len() > REVOKED_MAX => {
                Some("list has more than 7000 keys")
            }
            Self::Revocations(r) if !r.nodes.is_sorted_by(|a, b| a < b) => {
                Some("keys are not sorted")
            }
            Self::Revocations(_) => None,
            Self::Network(n) if n.subnets.len() > SUBNETS_MAX => Some("subnets are more than 8"),
            Self::Network(n) if !(576..=9000).contains(&n.mtu) => Some("MTU is not 576 to 9000"),
            Self::Network(_) => None,
            Self::Node(a) if a.addresses.len() > ADDRESSES_MAX => {
                Some("addresses are more than 16")
            }
            Self::Node(a) if a.networks.len() > NETWORKS_MAX => Some("networks are more than 4096"),
            Self::Node(a) if !a.networks.is_sorted_by(|x, y| x < y) => {
                Some("networks are not sorted")
            }
            Self::Node(a) if a.version.len() > VERSION_TEXT_MAX => {
                Some("version is longer than 64 bytes")
            }
            Self::Node(a) if a.trusted.len() > TRUSTED_MAX => {
                Some("trusted subnets are more than 16")
            }
            Self::Node(a) if a.links.len() > LINKS_MAX => Some("links are more than 6"),
            Self::Node(a) if has_twin(&a.links) => Some("links have one name twice"),
            Self::Node(a) if a.services.len() > SERVICES_MAX => Some("services are more than 16"),
            Self::Node(a) if !a.services.is_sorted_by(|x, y| x.name < y.name) => {
                Some("services are not sorted by name")
            }
            Self::Node(a) => {
                let bounds = 1..=IPS_MAX;
                let odd = |service: &Service| !bounds.contains(&service.ips.len());
                let odd = a.services.iter().any(odd);
                odd.then_some("service has no address, or more than 16")
            }
            Self::Endpoints(e) if e.list.len() > ENDPOINTS_MAX => {
                Some("endpoints are more than 4096")
            }
            Self::Endpoints(e) if !e.list.is_sorted_by(|a, b| a.mac < b.mac) => {
                Some("endpoints are not sorted by MAC")
            }
            Self::Endpoints(e) => e.list.iter().find_map(|endpoint| {
                if !endpoint.mac.is_source() {
                    Some("endpoint has a MAC that no station may send from")
                } else if endpoint.ips.len() > IPS_MAX {
                    Some("endpoint has more than 16 addresses")
                } else {
                    check_labels(&endpoint.labels)
                }
            }),
            Self::Shared(s) if !s.list.is_sorted_by(|a, b| a.key < b.key) => {
                Some("shared values are not sorted by key")
            }
            Self::Shared(s) if s.bytes() > SHARED_BYTES_MAX => {
                Some("shared values are more than 192 KiB")
            }
            Self::Shared(s) => s.list.iter().find_map(|value| {
                let bytes = value.value.as_ref().map_or(0, Vec::len);
                if value.key.len() > KEY_MAX {
                    Some("shared value has a key above 256 bytes")
                } else {
                    (bytes > VALUE_MAX).then_some("shared value has more than 64 KiB")
                }
            }),
        };
        wrong.map_or(Ok(()), |what| Err(RecordError::Shape(what)))
    }

    /// Signs with the key that this kind wants: the root's, or this node's.
    ///
    /// # Errors
    /// If the record breaks a bound, or this node lacks the key.
    pub fn sign(&self, mesh: MeshId, keyring: &dyn Keyring) -> Result<Signed, RecordError> {
        self.check_shape()?;
        let body = postcard::to_stdvec(self).map_err(|_| RecordError::Malformed)?;
        if body.len() > BODY_MAX {
            return Err(RecordError::Large { len: body.len() });
        }
        let message = signed_bytes(mesh, &body);
        let signature = match self.author() {
            None => keyring
                .sign_as_root(&message)
                .ok_or_else(|| RecordError::NotOurs("the mesh root".into()))?,
            Some(node) if node == keyring.node() => keyring.sign(&message),
            Some(node) => return Err(RecordError::NotOurs(node.short())),
        };
        Ok(Signed {
            body,
            signature: Signature::from(signature),
        })
    }
}

fn has_twin(links: &[LinkAdvert]) -> bool {
    let mut rest = links;
    while let [first, others @ ..] = rest {
        if others.iter().any(|other| other.name == first.name) {
            return true;
        }
        rest = others;
    }
    false
}

fn check_labels(labels: &BTreeMap<String, String>) -> Option<&'static str> {
    if labels.len() > LABELS_MAX {
        Some("labels are more than 32")
    } else if labels
        .iter()
        .any(|(k, v)| k.len() + v.len() > LABEL_BYTES_MAX)
    {
        Some("label is longer than 128 bytes")
    } else {
        None
    }
}

fn signed_bytes(mesh: MeshId, body: &[u8]) -> Vec<u8> {
    [DOMAIN, &mesh.0, body].concat()
}

impl Signed {
    /// Decodes and checks bounds, without the signature: for records of one's own store.
    ///
    /// # Errors
    /// If it is no record or breaks a bound.
    pub fn decode(&self) -> Result<Record, RecordError> {
        if self.body.len() > BODY_MAX {
            return Err(RecordError::Large {
                len: self.body.len(),
            });
        }
        // Bytes after the record would be signed but unseen.
        let (record, []) =
            postcard::take_from_bytes::<Record>(&self.body).map_err(|_| RecordError::Malformed)?
        else {
            return Err(RecordError::Malformed);
        };
        record.check_shape()?;
        Ok(record)
    }

    /// The record, if the key that this kind wants has signed it for `mesh`.
    ///
    /// # Errors
    /// If it is no record, breaks a bound, is of another mesh, or the signature does not hold.
    pub fn open(&self, mesh: MeshId, keyring: &dyn Keyring) -> Result<Record, RecordError> {
        let record = self.decode()?;
        match &record {
            Record::Membership(Membership { mesh: of, .. })
            | Record::Revocations(Revocations { mesh: of, .. })
                if *of != mesh =>
            {
                return Err(RecordError::OtherMesh(*of));
            }
            _ => {}
        }
        let author = record.author();
        let key = author.map_or(mesh.0, |node| node.0);
        if keyring.verify(
            &key,
            &signed_bytes(mesh, &self.body),
            &self.signature.to_bytes(),
        ) {
            Ok(record)
        } else {
            Err(RecordError::Signature(author.map_or_else(
                || "the mesh root".into(),
                |node| node.short(),
            )))
        }
    }
}

impl From<[u8; 64]> for Signature {
    fn from(bytes: [u8; 64]) -> Self {
        let (mut a, mut b) = ([0; 32], [0; 32]);
        a.copy_from_slice(&bytes[..32]);
        b.copy_from_slice(&bytes[32..]);
        Self(a, b)
    }
}

impl Signature {
    /// As the keyring wants it.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 64] {
        let mut out = [0; 64];
        out[..32].copy_from_slice(&self.0);
        out[32..].copy_from_slice(&self.1);
        out
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::FakeKeyring;
    use proptest::prelude::*;

    fn advert(node: NodeId) -> Record {
        Record::Node(NodeAdvert {
            node,
            serial: 1,
            boot: 1,
            addresses: vec![],
            networks: vec![],
            version: "1".into(),
            vtep: None,
            trusted: vec![],
            links: vec![],
            services: vec![],
        })
    }

    #[test]
    fn a_record_opens_only_in_the_mesh_it_was_signed_for_and_unaltered() {
        let root = FakeKeyring::root(1);
        let mesh = root.mesh();
        let signed = advert(root.node()).sign(mesh, &root).unwrap();
        assert_eq!(signed.open(mesh, &root).unwrap(), advert(root.node()));
        assert!(matches!(
            signed.open(FakeKeyring::root(2).mesh(), &root),
            Err(RecordError::Signature(_))
        ));
        let mut altered = signed.clone();
        altered.body[34] ^= 1;
        assert!(altered.open(mesh, &root).is_err());
        let mut longer = signed;
        longer.body.push(0);
        assert_eq!(longer.open(mesh, &root), Err(RecordError::Malformed));
    }

    #[test]
    fn a_member_cannot_sign_for_another_or_for_the_root() {
        let root = FakeKeyring::root(1);
        let member = FakeKeyring::member(1, 2);
        assert!(matches!(
            advert(root.node()).sign(root.mesh(), &member),
            Err(RecordError::NotOurs(_))
        ));
        let revocations = Record::Revocations(Revocations {
            mesh: root.mesh(),
            serial: 1,
            nodes: vec![root.node()],
        });
        assert!(matches!(
            revocations.sign(root.mesh(), &member),
            Err(RecordError::NotOurs(_))
        ));
        // The same body under the member's signature.
        let body = postcard::to_stdvec(&revocations).unwrap();
        let signature = member.sign(&signed_bytes(root.mesh(), &body)).into();
        assert!(matches!(
            Signed { body, signature }.open(root.mesh(), &root),
            Err(RecordError::Signature(_))
        ));
    }

    #[test]
    fn bounds_are_checked_before_signing_and_on_opening() {
        let root = FakeKeyring::root(1);
        let mac = |n: u8| MacAddr([2, 0, 0, 0, 0, n]);
        let endpoint = |n| Endpoint {
            mac: mac(n),
            ips: vec![],
            name: None,
            labels: BTreeMap::new(),
            since: WallTime(0),
            roams: false,
        };
        let record = |list| {
            Record::Endpoints(Endpoints {
                node: root.node(),
                vni: Vni::new(5).unwrap(),
                serial: 1,
                list,
            })
        };
        assert!(
            record(vec![endpoint(1), endpoint(2)])
                .sign(root.mesh(), &root)
                .is_ok()
        );
        assert!(
            record(vec![endpoint(2), endpoint(1)])
                .sign(root.mesh(), &root)
                .is_err()
        );
        assert!(
            record(vec![endpoint(1), endpoint(1)])
                .sign(root.mesh(), &root)
                .is_err()
        );
        let many = Endpoint {
            ips: vec![[10, 0, 0, 1].into(); 17],
            ..endpoint(1)
        };
        assert!(record(vec![many]).sign(root.mesh(), &root).is_err());
        let group = Endpoint {
            mac: MacAddr::BROADCAST,
            ..endpoint(1)
        };
        assert!(record(vec![group]).sign(root.mesh(), &root).is_err());
    }

    proptest! {
        #[test]
        fn garbage_is_no_record_and_no_panic(body: Vec<u8>, half: [u8; 32]) {
            let root = FakeKeyring::root(1);
            let signed = Signed { body, signature: Signature(half, half) };
            prop_assert!(signed.open(root.mesh(), &root).is_err());
        }
    }
}
