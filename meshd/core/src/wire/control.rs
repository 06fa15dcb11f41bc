//! Messages on a session's control stream: postcard behind a 4-byte big-endian length.
//!
//! Owns the alphabet, the version and the bounds. The stream itself is the shell's.

use crate::ident::{Label, MeshId, NodeId, Vni};
use crate::wire::record::Signed;
use serde::{Deserialize, Serialize};

/// Spoken version; a node refuses another with a message that names both.
pub const VERSION: u16 = 1;
/// Largest message, in bytes, from a proven peer.
pub const MESSAGE_MAX: usize = 1 << 20;
/// Largest message, in bytes, from one who has not proven to be a member.
pub const UNPROVEN_MESSAGE_MAX: usize = 4096;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// First from both sides; nothing else is believed before.
    Hello(Hello),
    /// Why the session ends; last.
    Goodbye(Goodbye),
    /// From one who holds an invite and is no member yet, instead of `Hello`.
    Join(JoinRequest),
    /// Answer to `Join`; last.
    Joined(Result<Welcome, JoinRefusal>),
    /// One packet of the SWIM protocol (foca), opaque here.
    Swim(Vec<u8>),
    /// Records that are new.
    Records(Vec<Signed>),
    /// What the sender knows, as one number: sent now and then; who finds another number answers with `Digest`.
    Summary(u64),
    /// What the sender knows of the records whose key hash is in `from..=to`. The receiver answers with what is newer or
    /// missing in that range, and, if `reply`, with its own digest of it.
    Digest {
        /// First key hash spoken of.
        from: u64,
        /// Last key hash spoken of.
        to: u64,
        /// Sorted by key.
        have: Vec<Have>,
        /// Answer with a digest.
        reply: bool,
    },
    /// Asks for addresses of a network's pool.
    PoolRequest(PoolRequest),
    /// The answer; durable at the giver before it is sent.
    PoolGrant(PoolGrant),
}

/// One line of a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Have {
    /// Hash of the record's key.
    pub key: u64,
    /// Its serial.
    pub serial: u64,
    /// Hash of its content: two records of one serial differ by it (an author that lost its state).
    pub tag: u32,
}

/// Who I am and why you may believe it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Spoken version.
    pub version: u16,
    /// The mesh.
    pub mesh: MeshId,
    /// The sender's membership, signed by the mesh root.
    pub membership: Signed,
    /// When the dialer dialed, in ms since the Unix epoch by its clock; the higher of two sessions stays.
    pub dialed: u64,
}

/// Why a session ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Goodbye {
    /// Another session with the same peer is kept.
    Superseded,
    /// The node stops.
    Stopping,
    /// The peer was revoked.
    Revoked,
    /// The peer's statement does not hold; the text says why.
    Refused(String),
}

/// An invite, redeemed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// Spoken version.
    pub version: u16,
    /// The mesh that the invite is for.
    pub mesh: MeshId,
    /// The invite's secret.
    pub secret: [u8; 16],
    /// The name the newcomer would like.
    pub name: Label,
}

/// What a newcomer gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The mesh's name.
    pub mesh_name: Label,
    /// Its statement.
    pub membership: Signed,
    /// What the inviter knows that a newcomer needs first: the inviter's membership and advert.
    pub records: Vec<Signed>,
}

/// Why a join is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum JoinRefusal {
    /// Used by another key already.
    #[error("this invite was used already; ask for a new one (`meshd invite`)")]
    Used,
    /// Too late.
    #[error("this invite has expired; ask for a new one (`meshd invite`)")]
    Expired,
    /// The inviter is of another mesh now.
    #[error("this invite is for another mesh than the one that the inviter belongs to")]
    OtherMesh,
    /// Never made, or withdrawn.
    #[error("the inviter does not know this invite; ask for a new one (`meshd invite`)")]
    Unknown,
    /// The versions differ.
    #[error("the inviter speaks another version of the protocol; use the same release of meshd on both nodes")]
    Version,
    /// The newcomer's key is on the list of revocations.
    #[error("this node's key was revoked; remove its state folder to join with a new key")]
    Revoked,
    /// The inviter cannot sign.
    #[error("the inviter does not hold the mesh's root key")]
    NoRoot,
    /// Too many wrong secrets.
    #[error("too many wrong invites from this address; try again in a minute")]
    SlowDown,
}

/// Asks for part of a network's address pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRequest {
    /// The network.
    pub vni: Vni,
    /// Index into the network's subnets.
    pub subnet: u8,
    /// The same number again asks for the same answer again.
    pub request: u64,
}

/// Part of a pool changes hands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolGrant {
    /// The network.
    pub vni: Vni,
    /// Index into the network's subnets.
    pub subnet: u8,
    /// Of the request.
    pub request: u64,
    /// First and last address as numbers; IPv4 as is. `None`: nothing to spare.
    pub range: Option<(u128, u128)>,
    /// Who may have some, if the giver has not.
    pub ask: Vec<NodeId>,
}
