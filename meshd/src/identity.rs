//! Who this node is: its Ed25519 key, its membership, and, on the node that made the mesh, the root key.
//!
//! ```text
//!   init    node key + root key  ->  own membership, signed by the root, role admin
//!   join    node key, stored before anybody is asked  ->  membership from the inviter, checked against the root in the token
//!   store   identity/node-key  identity/root-key  (PKCS#8)   identity/membership  (written last: what makes a member)
//! ```
//!
//! Owns the keys and all signing. Refuses to show them: no `Debug` of a secret, copies are wiped, core dumps are off.

use crate::store::{Store, StoreError};
use meshd_core::code::ErrorCode;
use meshd_core::ident::{Label, MeshId, NodeId, WallTime};
use meshd_core::wire::record::{Keyring, Membership, Record, RecordError, Role, Signed};
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use zeroize::Zeroizing;

const NODE_KEY: &str = "identity/node-key";
const ROOT_KEY: &str = "identity/root-key";
const MEMBERSHIP: &str = "identity/membership";

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The state file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Made or joined before.
    #[error("this node is a member of mesh {name} ({mesh}) already; give the new one its own state folder with --state", mesh = .mesh.short())]
    Member {
        /// The mesh's name.
        name: Label,
        /// The mesh.
        mesh: MeshId,
    },
    /// What is stored does not read.
    #[error(
        "{what} in the state file cannot be used: {why}; restore the file from a backup, or remove the state folder and join again"
    )]
    Damaged {
        /// Which part.
        what: &'static str,
        /// In words.
        why: String,
    },
    /// No random numbers from the kernel.
    #[error("the kernel gave no random numbers for a key")]
    Random,
    /// The root's own statement could not be made.
    #[error("the membership of this node could not be signed: {0}")]
    Sign(#[from] RecordError),
}

/// A private key in use: for signing, and as PKCS#8 for TLS.
pub(crate) struct NodeKey {
    pair: Ed25519KeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl NodeKey {
    /// The key stored under `name`; a new one is made and stored where there is none.
    fn load_or_make(store: &Store, name: &'static str) -> Result<Self, IdentityError> {
        if let Some(key) = Self::load(store, name)? {
            return Ok(key);
        }
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .map_err(|_| IdentityError::Random)?;
        let pkcs8 = Zeroizing::new(pkcs8.as_ref().to_vec());
        store.put(name, &pkcs8)?;
        Self::parse(name, pkcs8)
    }

    fn load(store: &Store, name: &'static str) -> Result<Option<Self>, IdentityError> {
        store
            .get(name)?
            .map(|bytes| Self::parse(name, Zeroizing::new(bytes)))
            .transpose()
    }

    fn parse(name: &'static str, pkcs8: Zeroizing<Vec<u8>>) -> Result<Self, IdentityError> {
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).map_err(|e| IdentityError::Damaged {
            what: name,
            why: e.to_string(),
        })?;
        Ok(Self { pair, pkcs8 })
    }

    fn public(&self) -> [u8; 32] {
        let mut out = [0; 32];
        // Ed25519 public keys have 32 bytes (RFC 8032 §5.1.5).
        out.copy_from_slice(self.pair.public_key().as_ref());
        out
    }

    /// The node that this key is.
    pub(crate) fn id(&self) -> NodeId {
        NodeId(self.public())
    }

    /// For TLS.
    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut out = [0; 64];
        // Ed25519 signatures have 64 bytes (RFC 8032 §5.1.6).
        out.copy_from_slice(self.pair.sign(message).as_ref());
        out
    }
}

/// The node's own key, made and stored where there is none: a join that lost its answer tries again with the same key.
pub(crate) fn node_key(store: &Store) -> Result<NodeKey, IdentityError> {
    NodeKey::load_or_make(store, NODE_KEY)
}

/// What makes a node a member, as stored.
#[derive(Serialize, Deserialize)]
struct Standing {
    mesh: MeshId,
    mesh_name: Label,
    membership: Signed,
}

struct Inner {
    node: NodeKey,
    root: Option<NodeKey>,
    standing: Standing,
}

/// The identity of a member. Clones share it.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

impl Identity {
    /// Makes a mesh: a root key, a node key, and this node as its first member, role admin.
    ///
    /// # Errors
    /// [`IdentityError::Member`] if this node is a member of a mesh already; nothing is changed then.
    pub fn init(
        store: &Store,
        mesh_name: &Label,
        node_name: &Label,
    ) -> Result<Self, IdentityError> {
        refuse_second_mesh(store)?;
        let node = node_key(store)?;
        let root = NodeKey::load_or_make(store, ROOT_KEY)?;
        let mesh = MeshId(root.public());
        let membership = Record::Membership(Membership {
            mesh,
            node: node.id(),
            name: node_name.clone(),
            role: Role::Admin,
            labels: BTreeMap::new(),
            serial: 1,
            issued: wall_now(),
            expires: None,
        })
        .sign(
            mesh,
            &Keys {
                node: &node,
                root: Some(&root),
            },
        )?;
        Self::keep(
            store,
            node,
            Some(root),
            Standing {
                mesh,
                mesh_name: mesh_name.clone(),
                membership,
            },
        )
    }

    /// Takes what the inviter sent; the caller has checked the statement against the token.
    pub(crate) fn adopt(
        store: &Store,
        node: NodeKey,
        mesh: MeshId,
        mesh_name: Label,
        membership: Signed,
    ) -> Result<Self, IdentityError> {
        refuse_second_mesh(store)?;
        Self::keep(
            store,
            node,
            None,
            Standing {
                mesh,
                mesh_name,
                membership,
            },
        )
    }

    fn keep(
        store: &Store,
        node: NodeKey,
        root: Option<NodeKey>,
        standing: Standing,
    ) -> Result<Self, IdentityError> {
        let bytes = postcard::to_stdvec(&standing).map_err(|e| IdentityError::Damaged {
            what: MEMBERSHIP,
            why: e.to_string(),
        })?;
        store.put(MEMBERSHIP, &bytes)?;
        Ok(Self(Arc::new(Inner {
            node,
            root,
            standing,
        })))
    }

    /// The identity in `store`; `None` before `init` or `join`.
    ///
    /// # Errors
    /// If what is stored cannot be read or does not fit together.
    pub fn load(store: &Store) -> Result<Option<Self>, IdentityError> {
        let Some(standing) = standing(store)? else {
            return Ok(None);
        };
        let node = NodeKey::load(store, NODE_KEY)?.ok_or(IdentityError::Damaged {
            what: NODE_KEY,
            why: "it is missing".into(),
        })?;
        // A root key of another mesh is left over from an init that did not get to its end.
        let root =
            NodeKey::load(store, ROOT_KEY)?.filter(|key| MeshId(key.public()) == standing.mesh);
        Ok(Some(Self(Arc::new(Inner {
            node,
            root,
            standing,
        }))))
    }

    /// The mesh: its root's public key.
    #[must_use]
    pub fn mesh(&self) -> MeshId {
        self.0.standing.mesh
    }

    /// The mesh's name.
    #[must_use]
    pub fn mesh_name(&self) -> &Label {
        &self.0.standing.mesh_name
    }

    /// This node's statement, signed by the root.
    #[must_use]
    pub fn membership(&self) -> &Signed {
        &self.0.standing.membership
    }

    /// This node: its public key.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.0.node.id()
    }

    /// True on the node that made the mesh: only it can invite and revoke.
    #[must_use]
    pub fn has_root(&self) -> bool {
        self.0.root.is_some()
    }

    pub(crate) fn node_key(&self) -> &NodeKey {
        &self.0.node
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("node", &self.node_id())
            .field("mesh", &self.mesh())
            .field("has_root", &self.has_root())
            .finish_non_exhaustive()
    }
}

fn standing(store: &Store) -> Result<Option<Standing>, IdentityError> {
    let damaged = |e: postcard::Error| IdentityError::Damaged {
        what: MEMBERSHIP,
        why: e.to_string(),
    };
    store
        .get(MEMBERSHIP)?
        .map(|bytes| postcard::from_bytes(&bytes).map_err(damaged))
        .transpose()
}

/// # Errors
/// [`IdentityError::Member`] with the mesh that this node is a member of.
pub(crate) fn refuse_second_mesh(store: &Store) -> Result<(), IdentityError> {
    match standing(store)? {
        Some(s) => Err(IdentityError::Member {
            name: s.mesh_name,
            mesh: s.mesh,
        }),
        None => Ok(()),
    }
}

/// The statement in `signed`, if it says that `node` is a member of `mesh`, and the root has signed it.
///
/// # Errors
/// What does not hold.
pub(crate) fn check_membership(
    signed: &Signed,
    mesh: MeshId,
    node: NodeId,
    keyring: &dyn Keyring,
) -> Result<Membership, RecordError> {
    match signed.open(mesh, keyring)? {
        Record::Membership(m) if m.node == node => Ok(m),
        Record::Membership(_) => Err(RecordError::Shape("node is not this one")),
        _ => Err(RecordError::Shape("kind is not a membership")),
    }
}

/// The keys of one node, wherever they are kept.
pub(crate) struct Keys<'a> {
    pub(crate) node: &'a NodeKey,
    pub(crate) root: Option<&'a NodeKey>,
}

impl Keyring for Keys<'_> {
    fn node(&self) -> NodeId {
        self.node.id()
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.node.sign(message)
    }

    fn sign_as_root(&self, message: &[u8]) -> Option<[u8; 64]> {
        self.root.map(|root| root.sign(message))
    }

    fn verify(&self, key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
        UnparsedPublicKey::new(&ED25519, key)
            .verify(message, signature)
            .is_ok()
    }

    fn hash(&self, message: &[u8]) -> [u8; 32] {
        sha256(message)
    }
}

impl Identity {
    fn keys(&self) -> Keys<'_> {
        Keys {
            node: &self.0.node,
            root: self.0.root.as_ref(),
        }
    }
}

impl Keyring for Identity {
    fn node(&self) -> NodeId {
        self.node_id()
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.keys().sign(message)
    }

    fn sign_as_root(&self, message: &[u8]) -> Option<[u8; 64]> {
        self.keys().sign_as_root(message)
    }

    fn verify(&self, key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
        self.keys().verify(key, message, signature)
    }

    fn hash(&self, message: &[u8]) -> [u8; 32] {
        sha256(message)
    }
}

/// SHA-256 (FIPS 180-4).
pub(crate) fn sha256(message: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    // SHA-256 has 32 bytes.
    out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, message).as_ref());
    out
}

/// By the host's clock; 0 if that is before 1970.
pub(crate) fn wall_now() -> WallTime {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Keeps this process's memory, keys included, out of core dumps and away from other processes of the same user.
pub fn refuse_core_dumps() {
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(code = %ErrorCode::CoreDumpsPossible, %error, "core dumps of this process stay possible, and would hold its keys");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn label(text: &str) -> Label {
        text.parse().unwrap()
    }

    /// A fresh mesh of one.
    pub(crate) fn fresh(name: &str) -> (tempfile::TempDir, Store, Identity) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let identity = Identity::init(&store, &label("home"), &label(name)).unwrap();
        (folder, store, identity)
    }

    #[test]
    fn an_identity_is_the_same_after_loading_and_its_membership_holds() {
        let (_folder, store, made) = fresh("alpha");
        let loaded = Identity::load(&store).unwrap().unwrap();
        assert_eq!(
            (loaded.node_id(), loaded.mesh(), loaded.has_root()),
            (made.node_id(), made.mesh(), true)
        );
        let m =
            check_membership(loaded.membership(), made.mesh(), made.node_id(), &loaded).unwrap();
        assert_eq!((m.name, m.role), (label("alpha"), Role::Admin));
    }

    #[test]
    fn a_member_cannot_make_another_mesh_and_keeps_its_own() {
        let (_folder, store, made) = fresh("alpha");
        let refused = Identity::init(&store, &label("other"), &label("alpha")).unwrap_err();
        assert!(
            refused.to_string().contains("member of mesh home"),
            "{refused}"
        );
        assert_eq!(Identity::load(&store).unwrap().unwrap().mesh(), made.mesh());
    }

    #[test]
    fn a_signature_holds_only_for_its_key_and_message() {
        let (_folder, _store, a) = fresh("alpha");
        let (_folder, _store, b) = fresh("beta");
        let signature = a.sign(b"hello");
        assert!(b.verify(&a.node_id().0, b"hello", &signature));
        assert!(!b.verify(&b.node_id().0, b"hello", &signature));
        assert!(!b.verify(&a.node_id().0, b"hullo", &signature));
        assert!(!b.verify(&[0; 32], b"hello", &[0; 64]));
    }

    #[test]
    fn debug_shows_no_secret() {
        let (_folder, _store, a) = fresh("alpha");
        let shown = format!("{a:?}");
        assert!(
            shown.contains("has_root: true") && shown.len() < 150,
            "{shown}"
        );
    }
}
