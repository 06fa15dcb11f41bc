//! Messages on a session's control stream: postcard behind a 4-byte big-endian length.
//!
//! Owns the alphabet, the version and the bounds. The stream itself is the shell's.

use crate::ident::{Label, MeshId, NodeId, Vni};
use crate::multicast::GroupReport;
use crate::path::PathReport;
use crate::wire::inquiry::InquiryWord;
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
    /// What the sender heard of the receiver's probes and data on VXLAN, by network.
    Paths(Vec<PathReport>),
    /// What the sender wants of a network's multicast.
    Groups(GroupReport),
    /// What a person at one end wants to know of the other.
    Inquiry(InquiryWord),
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
    /// Not now: it may well be taken a moment later; the text says why.
    Busy(String),
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
    #[error(
        "the inviter speaks another version of the protocol; use the same release of meshd on both nodes"
    )]
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
    /// The same number again asks for the same answer again. Grows; survives restarts.
    pub request: u64,
    /// Somebody waits for an address: the giver's last one is given too. Else this is for reserve.
    pub urgent: bool,
    /// First and last address that is of use, as numbers; others are not given. `None`: any is.
    pub within: Option<(u128, u128)>,
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

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The length says more than the reader takes.
    #[error("a message of {len} bytes; at most {max} are taken here")]
    Large {
        /// As announced.
        len: usize,
        /// The reader's bound.
        max: usize,
    },
    /// Not the encoding of a message.
    #[error("a message does not decode; the far end may run another release")]
    Malformed,
}

impl Message {
    /// Length and body, as they go on the stream.
    ///
    /// # Errors
    /// [`MessageError::Large`] if the body is larger than [`MESSAGE_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        let out = postcard::to_extend(self, vec![0; 4]).map_err(|_| MessageError::Malformed)?;
        let len = out.len() - 4;
        let large = MessageError::Large {
            len,
            max: MESSAGE_MAX,
        };
        let prefix = u32::try_from(len).map_err(|_| large.clone())?.to_be_bytes();
        if len > MESSAGE_MAX {
            return Err(large);
        }
        Ok(prefix.into_iter().chain(out.into_iter().skip(4)).collect())
    }

    /// The body's length, from the four bytes before it.
    ///
    /// # Errors
    /// [`MessageError::Large`] if it is more than `max` ([`MESSAGE_MAX`] or [`UNPROVEN_MESSAGE_MAX`]): hang up.
    pub fn body_len(prefix: [u8; 4], max: usize) -> Result<usize, MessageError> {
        let len = u32::from_be_bytes(prefix) as usize;
        if len > max {
            Err(MessageError::Large { len, max })
        } else {
            Ok(len)
        }
    }

    /// The message in a whole body.
    ///
    /// # Errors
    /// [`MessageError::Malformed`] if it is none, or more than one.
    pub fn decode(body: &[u8]) -> Result<Self, MessageError> {
        match postcard::take_from_bytes(body) {
            Ok((message, [])) => Ok(message),
            _ => Err(MessageError::Malformed),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::record::Signature;
    use proptest::prelude::*;

    fn signed() -> impl Strategy<Value = Signed> {
        (any::<Vec<u8>>(), any::<[u8; 32]>(), any::<[u8; 32]>()).prop_map(|(body, a, b)| Signed {
            body,
            signature: Signature(a, b),
        })
    }

    fn label() -> impl Strategy<Value = Label> {
        "[a-z][a-z0-9]{0,20}".prop_map(|text| text.parse().unwrap())
    }

    fn vni() -> impl Strategy<Value = Vni> {
        (1u32..1 << 24).prop_map(|n| Vni::new(n).unwrap())
    }

    fn message() -> impl Strategy<Value = Message> {
        let refusal = prop_oneof![
            Just(JoinRefusal::Used),
            Just(JoinRefusal::Expired),
            Just(JoinRefusal::OtherMesh),
            Just(JoinRefusal::Unknown),
            Just(JoinRefusal::Version),
            Just(JoinRefusal::Revoked),
            Just(JoinRefusal::NoRoot),
            Just(JoinRefusal::SlowDown)
        ];
        let have =
            any::<(u64, u64, u32)>().prop_map(|(key, serial, tag)| Have { key, serial, tag });
        prop_oneof![
            (any::<u16>(), any::<[u8; 32]>(), signed(), any::<u64>()).prop_map(
                |(version, mesh, membership, dialed)| Message::Hello(Hello {
                    version,
                    mesh: MeshId(mesh),
                    membership,
                    dialed
                })
            ),
            any::<String>().prop_map(|why| Message::Goodbye(Goodbye::Refused(why))),
            any::<String>().prop_map(|why| Message::Goodbye(Goodbye::Busy(why))),
            prop_oneof![
                Just(Goodbye::Superseded),
                Just(Goodbye::Stopping),
                Just(Goodbye::Revoked)
            ]
            .prop_map(Message::Goodbye),
            (any::<u16>(), any::<[u8; 32]>(), any::<[u8; 16]>(), label()).prop_map(
                |(version, mesh, secret, name)| Message::Join(JoinRequest {
                    version,
                    mesh: MeshId(mesh),
                    secret,
                    name
                })
            ),
            (label(), signed(), prop::collection::vec(signed(), 0..4)).prop_map(
                |(mesh_name, membership, records)| Message::Joined(Ok(Welcome {
                    mesh_name,
                    membership,
                    records
                }))
            ),
            refusal.prop_map(|why| Message::Joined(Err(why))),
            any::<Vec<u8>>().prop_map(Message::Swim),
            prop::collection::vec(signed(), 0..4).prop_map(Message::Records),
            any::<u64>().prop_map(Message::Summary),
            (
                any::<u64>(),
                any::<u64>(),
                prop::collection::vec(have, 0..8),
                any::<bool>()
            )
                .prop_map(|(from, to, have, reply)| Message::Digest {
                    from,
                    to,
                    have,
                    reply
                }),
            (
                vni(),
                any::<u8>(),
                any::<u64>(),
                any::<bool>(),
                any::<Option<(u128, u128)>>()
            )
                .prop_map(|(vni, subnet, request, urgent, within)| {
                    Message::PoolRequest(PoolRequest {
                        vni,
                        subnet,
                        request,
                        urgent,
                        within,
                    })
                }),
            (
                vni(),
                any::<u8>(),
                any::<u64>(),
                any::<Option<(u128, u128)>>(),
                prop::collection::vec(any::<[u8; 32]>(), 0..4)
            )
                .prop_map(|(vni, subnet, request, range, ask)| Message::PoolGrant(
                    PoolGrant {
                        vni,
                        subnet,
                        request,
                        range,
                        ask: ask.into_iter().map(NodeId).collect()
                    }
                )),
        ]
    }

    proptest! {
        #[test]
        fn a_message_decodes_to_what_was_encoded(message in message()) {
            let bytes = message.encode().unwrap();
            let (prefix, body) = bytes.split_first_chunk::<4>().unwrap();
            prop_assert_eq!(Message::body_len(*prefix, MESSAGE_MAX).unwrap(), body.len());
            prop_assert_eq!(Message::decode(body).unwrap(), message);
        }

        #[test]
        fn garbage_never_panics_and_what_decodes_encodes_again(body: Vec<u8>) {
            if let Ok(message) = Message::decode(&body) {
                prop_assert!(message.encode().is_ok());
            }
        }

        #[test]
        fn a_cut_or_longer_message_is_refused(message in message(), cut in 1usize..8) {
            let bytes = message.encode().unwrap();
            let body = &bytes[4..];
            prop_assert!(Message::decode(&body[..body.len().saturating_sub(cut)]).is_err());
            prop_assert!(Message::decode(&[body, &[0]].concat()).is_err());
        }
    }

    #[test]
    fn a_length_over_the_bound_is_refused_before_anything_is_read() {
        assert!(Message::body_len([0xff; 4], MESSAGE_MAX).is_err());
        assert!(Message::body_len(4097u32.to_be_bytes(), UNPROVEN_MESSAGE_MAX).is_err());
        assert!(Message::Swim(vec![0; MESSAGE_MAX + 1]).encode().is_err());
    }

    #[test]
    fn a_list_that_claims_more_than_it_has_allocates_nothing() {
        // Records (variant 5) with 2^32 entries announced.
        assert_eq!(
            Message::decode(&[5, 0xff, 0xff, 0xff, 0xff, 0x0f]),
            Err(MessageError::Malformed)
        );
    }
}
