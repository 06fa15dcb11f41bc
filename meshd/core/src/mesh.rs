//! The mesh side of the node in one piece: directory, peers, SWIM and invites, and how they feed each other.

use crate::command::{InviteSpec, NetworkSpec, Refusal, Reply};
use crate::directory::{Change, Directory};
use crate::ident::{Label, MeshId, Moment, NodeId, Now, SessionId, Vni};
use crate::node::SessionEvent;
use crate::outbox::Outbox;
use crate::wire::control::{Message, PoolGrant, PoolRequest};
use crate::wire::record::{Endpoint, Keyring, RecordError, Signed};
use std::net::SocketAddr;
use std::sync::Arc;

/// What a node is born with.
pub struct MeshConfig {
    /// The mesh.
    pub mesh: MeshId,
    /// Its name, for newcomers.
    pub mesh_name: Label,
    /// This node's statement.
    pub membership: Signed,
    /// This node's keys.
    pub keyring: Arc<dyn Keyring>,
    /// Of all randomness.
    pub seed: u64,
    /// Of the program, for people.
    pub version: String,
}

/// A message of a proven peer that is not the mesh's own business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMessage {
    /// Asks for addresses.
    PoolRequest(PoolRequest),
    /// Gives them.
    PoolGrant(PoolGrant),
}

/// One session of a proven or hopeful peer, for `status` and `peers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// The member.
    pub node: NodeId,
    /// The session in use, if any.
    pub session: Option<SessionId>,
    /// Its far end.
    pub remote: Option<SocketAddr>,
    /// True if this node dialed it.
    pub dialed: bool,
    /// Since when it is proven.
    pub since: Option<Moment>,
    /// What SWIM says.
    pub alive: bool,
    /// Why there is no session, in words.
    pub last_error: Option<String>,
}

/// See the module.
pub struct Mesh {
    /// Read it freely; it changes only through the methods here.
    pub directory: Directory,
}

impl Mesh {
    /// A node as it was left: `state` are all pairs of the store, those of others are skipped. Publishes its advert.
    ///
    /// # Errors
    /// If this node's own membership does not hold (expired or revoked is no error: it starts and tells).
    pub fn new(
        _config: MeshConfig,
        _state: &[(Vec<u8>, Vec<u8>)],
        _now: Now,
        _out: &mut Outbox,
    ) -> Result<Self, RecordError> {
        Ok(Self {
            directory: Directory::default(),
        })
    }

    /// Something about a QUIC connection.
    pub fn session(&mut self, _event: SessionEvent, _now: Now, _out: &mut Outbox) {}

    /// A message on a session; what is for others comes back, with the proven sender.
    pub fn message(
        &mut self,
        _session: SessionId,
        _message: Message,
        _now: Now,
        _out: &mut Outbox,
    ) -> Option<(NodeId, PeerMessage)> {
        None
    }

    /// What the records changed since the last call. Ask after each call of any method here that takes an outbox.
    pub fn take_changes(&mut self) -> Vec<Change> {
        Vec::new()
    }

    /// The underlay addresses of this host.
    pub fn addresses(&mut self, _addresses: Vec<SocketAddr>, _now: Now, _out: &mut Outbox) {}

    /// The networks that have a port here. The same again does nothing.
    pub fn advertise_networks(&mut self, _networks: Vec<Vni>, _now: Now, _out: &mut Outbox) {}

    /// All endpoints of this node on a network, in any order. The same again does nothing.
    ///
    /// # Errors
    /// If they break a bound of [`crate::wire::record`].
    pub fn advertise_endpoints(
        &mut self,
        _vni: Vni,
        _list: Vec<Endpoint>,
        _now: Now,
        _out: &mut Outbox,
    ) -> Result<(), RecordError> {
        Ok(())
    }

    /// Defines a network, or finds that it is defined so already.
    ///
    /// # Errors
    /// If this node is no admin, or the name, VNI or subnets clash.
    pub fn add_network(
        &mut self,
        _spec: &NetworkSpec,
        _now: Now,
        _out: &mut Outbox,
    ) -> Result<Reply, Refusal> {
        Ok(Reply::Done)
    }

    /// Removes a network that no reachable node has a port on.
    ///
    /// # Errors
    /// If it is unknown, of another author, or in use.
    pub fn remove_network(
        &mut self,
        _text: &str,
        _now: Now,
        _out: &mut Outbox,
    ) -> Result<Reply, Refusal> {
        Ok(Reply::Done)
    }

    /// Opens an invite.
    ///
    /// # Errors
    /// Without the root key, or if 1024 are open.
    pub fn invite(
        &mut self,
        _spec: &InviteSpec,
        _now: Now,
        _out: &mut Outbox,
    ) -> Result<Reply, Refusal> {
        Ok(Reply::Done)
    }

    /// Takes a member's rights, everywhere, for good.
    ///
    /// # Errors
    /// Without the root key, for oneself, for nobody.
    pub fn revoke(
        &mut self,
        _member: &str,
        _now: Now,
        _out: &mut Outbox,
    ) -> Result<Reply, Refusal> {
        Ok(Reply::Done)
    }

    /// Sends to a peer; false if there is no proven session.
    pub fn send(&mut self, _node: NodeId, _message: Message, _out: &mut Outbox) -> bool {
        false
    }

    /// The proven session with a peer.
    #[must_use]
    pub fn session_of(&self, _node: NodeId) -> Option<SessionId> {
        None
    }

    /// The member behind a proven session.
    #[must_use]
    pub fn peer_of(&self, _session: SessionId) -> Option<NodeId> {
        None
    }

    /// All other members and how they stand.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerView> {
        Vec::new()
    }

    /// Says goodbye to all.
    pub fn stop(&mut self, _out: &mut Outbox) {}

    /// When to call [`Self::handle_timeout`], and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Moment, &'static str)> {
        None
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, _now: Now, _out: &mut Outbox) {}
}
