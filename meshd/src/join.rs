//! A newcomer's way into a mesh: from the text of an invite to an identity.
//!
//! ```text
//!   token -> own node key, stored -> dial the inviter (its key is in the token) -> Join -> Joined -> check -> store
//!                  ^                        \__ again, for 10 s, if the answer gets lost __/
//!                  the inviter binds the invite to this key, so that asking again gives the same answer again
//! ```
//!
//! Owns the newcomer's side. Believes nothing but what the token's mesh root has signed for this node's key. Leaves nothing
//! but the node key behind if it fails.

use crate::identity::{
    Identity, IdentityError, Keys, check_membership, node_key, refuse_second_mesh, wall_now,
};
use crate::quic::Connection;
use crate::store::{Store, StoreError};
use crate::token::Token;
use crate::underlay::{DialError, Endpoint, RaceError, UnderlayError, race};
use meshd_core::ident::{Label, MeshId, NodeId};
use meshd_core::state::{self, RecordKind, StateKey};
use meshd_core::wire::control::{
    Goodbye, JoinRefusal, JoinRequest, MESSAGE_MAX, Message, VERSION, Welcome,
};
use meshd_core::wire::record::{Keyring, Record, RecordError, Signed};
use quinn::VarInt;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

const BOOTSTRAP: &str = "join/bootstrap";
/// For all of it.
const WITHIN: Duration = Duration::from_secs(10);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);
/// Most records that are kept from a welcome: the inviter's membership and advert, and some more.
const RECORDS_MAX: usize = 64;

/// Why a node did not become a member.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// A member already, or the state cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The state file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its key is good for nothing any more.
    #[error(
        "this node was revoked from mesh {name}, and its key stays refused; to join again, stop meshd, remove the state folder and use the invite then (docs/howto/remove-a-node.md)"
    )]
    Revoked {
        /// The mesh's name.
        name: Label,
    },
    /// This node is a member of the mesh that the token is for.
    #[error(
        "this node is a member of mesh {name} already, the one that the invite is for; nothing to do: start it with `meshd run`. If the others say that it was revoked (`meshd peers`), remove the state folder first"
    )]
    Already {
        /// The mesh's name.
        name: Label,
    },
    /// A member of another.
    #[error("this node is a member of mesh {name} ({}), and the invite is for another ({}); give the new one its own state folder with --state", .mesh.short(), .other.short())]
    OtherMesh {
        /// The mesh's name.
        name: Label,
        /// The mesh.
        mesh: MeshId,
        /// The token's.
        other: MeshId,
    },
    /// By this host's clock.
    #[error(
        "{error}; and this invite expired {ago_s} s ago by this host's clock: ask for a new one (`meshd invite`), or set the clock if it is wrong"
    )]
    Expired {
        /// Since then.
        ago_s: u64,
        /// What became of the attempt all the same.
        error: Box<JoinError>,
    },
    /// The inviter says no.
    #[error("{0}")]
    Refused(#[from] JoinRefusal),
    /// The inviter ends the session.
    #[error("the inviter {} ended the session: {reason}", .inviter.short())]
    Ended {
        /// The inviter.
        inviter: NodeId,
        /// In words.
        reason: String,
    },
    /// No way to the inviter.
    #[error("the inviter {} cannot be reached: {why}", .inviter.short())]
    Unreachable {
        /// The inviter.
        inviter: NodeId,
        /// Address by address.
        why: String,
    },
    /// What the inviter sent does not hold.
    #[error("the inviter's answer does not hold: {0}; do not trust this invite")]
    Welcome(#[from] RecordError),
    /// No socket.
    #[error(transparent)]
    Underlay(#[from] UnderlayError),
}

/// What a new member starts with, besides its identity: somebody to dial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// Who invited this node.
    pub inviter: NodeId,
    /// Where it was.
    pub addresses: Vec<SocketAddr>,
}

impl JoinError {
    /// True if the inviter surely made no member of this node's key. Else the key is needed to ask again.
    pub(crate) fn is_without_trace(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Unreachable { .. } | Self::Underlay(_) => true,
            Self::Expired { error, .. } => error.is_without_trace(),
            _ => false,
        }
    }
}

impl Bootstrap {
    /// As `join` left it; `None` on the node that made the mesh.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn load(store: &Store) -> Result<Option<Self>, StoreError> {
        // What does not decode is of an older release, and no more than a hint.
        Ok(store
            .get(BOOTSTRAP)?
            .and_then(|bytes| postcard::from_bytes(&bytes).ok()))
    }
}

/// Redeems `token`, asking for `name`. Safe to call again after any failure.
///
/// # Errors
/// Who or what is in the way, and what to do.
pub async fn join(store: &Store, token: &Token, name: &Label) -> Result<Identity, JoinError> {
    match refuse_second_mesh(store) {
        Err(IdentityError::Member { name, mesh }) if mesh == token.mesh => {
            if is_revoked(store)? {
                return Err(JoinError::Revoked { name });
            }
            return Err(JoinError::Already { name });
        }
        Err(IdentityError::Member { name, mesh }) => {
            return Err(JoinError::OtherMesh {
                name,
                mesh,
                other: token.mesh,
            });
        }
        other => other?,
    }
    let key = node_key(store)?;
    let loopback = !token.addresses.is_empty()
        && token
            .addresses
            .iter()
            .all(|a| a.ip().to_canonical().is_loopback());
    let endpoint = Endpoint::bind(listen(loopback, &token.addresses), 1, &key, false)?;
    let request = JoinRequest {
        version: VERSION,
        mesh: token.mesh,
        secret: token.secret,
        name: name.clone(),
    };
    let welcome = ask(&endpoint, token, request).await;
    endpoint.close().await;
    let welcome = welcome.map_err(|error| {
        // The inviter's clock decides, this host's may be wrong; but who is not even reached may be so for this reason.
        let late_ms = wall_now().0.saturating_sub(token.expires.0);
        if late_ms > 0 && !matches!(error, JoinError::Refused(_)) {
            return JoinError::Expired {
                ago_s: late_ms / 1000,
                error: Box::new(error),
            };
        }
        error
    })?;
    let keys = Keys {
        node: &key,
        root: None,
    };
    check_membership(&welcome.membership, token.mesh, key.id(), &keys)?;
    let bootstrap = Bootstrap {
        inviter: token.inviter,
        addresses: token.addresses.clone(),
    };
    // Before the identity: a member always knows somebody.
    store.put(
        BOOTSTRAP,
        &postcard::to_stdvec(&bootstrap).map_err(|_| RecordError::Malformed)?,
    )?;
    store.commit(&known_members(&welcome.records, token.mesh, &keys))?;
    Ok(Identity::adopt(
        store,
        key,
        token.mesh,
        welcome.mesh_name,
        welcome.membership,
    )?)
}

/// Whether this node has learnt of its own revocation. The node that kept the list has checked it.
fn is_revoked(store: &Store) -> Result<bool, JoinError> {
    let me = node_key(store)?.id();
    let list = StateKey::Record(RecordKind::Revocations, NodeId([0; 32]), None).encode();
    let rows = store.load()?;
    let kept = rows.iter().find(|(key, _)| *key == list);
    let record = kept.and_then(|(_, value)| state::decode::<Signed>(value).ok()?.decode().ok());
    Ok(matches!(record, Some(Record::Revocations(list)) if list.nodes.contains(&me)))
}

/// Who is a member and where, as the node finds it in its state when it starts. What is not signed as it must be is left out.
fn known_members(
    records: &[Signed],
    mesh: MeshId,
    keyring: &dyn Keyring,
) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let kept = records.iter().take(RECORDS_MAX).filter_map(|signed| {
        let key = match signed.open(mesh, keyring).ok()? {
            Record::Membership(m) => StateKey::Record(RecordKind::Membership, m.node, None),
            Record::Node(advert) => StateKey::Record(RecordKind::Node, advert.node, None),
            // All else comes with the first session.
            _ => return None,
        };
        Some((key.encode(), Some(state::encode(signed))))
    });
    kept.collect()
}

/// Any port; loopback only for an invite that names nothing else.
fn listen(loopback: bool, addresses: &[SocketAddr]) -> SocketAddr {
    let ip = match (loopback, addresses.first()) {
        (true, Some(SocketAddr::V4(_))) => IpAddr::from(Ipv4Addr::LOCALHOST),
        (true, _) => Ipv6Addr::LOCALHOST.into(),
        (false, _) => Ipv6Addr::UNSPECIFIED.into(),
    };
    (ip, 0).into()
}

/// Dials and asks, again and again, until there is an answer or the time is over.
async fn ask(
    endpoint: &Endpoint,
    token: &Token,
    request: JoinRequest,
) -> Result<Welcome, JoinError> {
    let end = Instant::now() + WITHIN;
    let mut last = JoinError::Unreachable {
        inviter: token.inviter,
        why: format!("no answer within {} s", WITHIN.as_secs()),
    };
    // Once it was asked it may have made this key a member, whatever happens then.
    let mut asked = false;
    let tries = async {
        loop {
            match race(endpoint, token.inviter, &token.addresses).await {
                Ok(connection) => {
                    let ended = |reason| JoinError::Ended {
                        inviter: token.inviter,
                        reason,
                    };
                    asked = true;
                    last = ended("it gave no answer in time".to_owned());
                    match exchange(&connection, request.clone()).await {
                        Ok(answer) => return answer.map_err(JoinError::from),
                        Err(reason) => last = ended(reason),
                    }
                }
                Err(RaceError(errors)) if errors.is_empty() => {
                    return Err(JoinError::Unreachable {
                        inviter: token.inviter,
                        why: "the invite names no address".to_owned(),
                    });
                }
                Err(error) => {
                    let other = |(_, e): &(_, DialError)| matches!(e, DialError::WrongKey { .. });
                    let permanent = error.0.iter().any(other);
                    let unreachable = JoinError::Unreachable {
                        inviter: token.inviter,
                        why: error.to_string(),
                    };
                    // The key there is not going to be another one in a moment.
                    if permanent && !asked {
                        return Err(unreachable);
                    }
                    if !asked {
                        last = unreachable;
                    }
                }
            }
            sleep(PAUSE).await;
        }
    };
    let result = timeout_at(end, tries).await;
    result.unwrap_or(Err(last))
}

/// One question, one answer; `Err` says why there was none.
async fn exchange(
    connection: &Connection,
    request: JoinRequest,
) -> Result<Result<Welcome, JoinRefusal>, String> {
    let lost = |error: &dyn std::error::Error| match connection.close_reason() {
        Some(reason) => crate::underlay::show_close(&reason),
        None => error.to_string(),
    };
    let question = Message::Join(request).encode().map_err(|e| e.to_string())?;
    let (mut sender, mut receiver) = connection.open_bi().await.map_err(|e| lost(&e))?;
    sender.write_all(&question).await.map_err(|e| lost(&e))?;
    let mut prefix = [0; 4];
    receiver
        .read_exact(&mut prefix)
        .await
        .map_err(|e| lost(&e))?;
    let mut body = vec![0; Message::body_len(prefix, MESSAGE_MAX).map_err(|e| e.to_string())?];
    receiver.read_exact(&mut body).await.map_err(|e| lost(&e))?;
    match Message::decode(&body).map_err(|e| e.to_string())? {
        Message::Joined(answer) => {
            connection.close(VarInt::from_u32(0), b"joined");
            Ok(answer)
        }
        Message::Goodbye(Goodbye::Refused(reason) | Goodbye::Busy(reason)) => {
            Err(meshd_core::ident::escape(reason.as_bytes()))
        }
        Message::Goodbye(Goodbye::Stopping) => Err("it is stopping".to_owned()),
        Message::Goodbye(_) => Err("it said goodbye".to_owned()),
        _ => Err("it says what is no answer to a join".to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::identity::tests::{fresh, label};
    use crate::underlay::{Underlay, UnderlayConfig};
    use meshd_core::ident::WallTime;
    use meshd_core::node::{Input, SessionEvent};
    use meshd_core::wire::record::{Membership, Role};
    use std::collections::BTreeMap;
    use tokio::sync::mpsc;

    /// How the inviter of a test answers.
    #[derive(Clone, Copy, PartialEq)]
    enum Manner {
        Honest,
        Refuses,
        LosesFirstAnswer,
        OtherKey,
        OtherRoot,
    }

    /// An inviter with an endpoint on loopback, answering in a task.
    async fn inviter(manner: Manner) -> (Token, Underlay, tempfile::TempDir) {
        let (folder, _store, identity) = fresh("alpha");
        let (_folder, _store, other) = fresh("mallory");
        let (inputs, mut happened) = mpsc::channel(64);
        let underlay = Underlay::start(
            UnderlayConfig {
                links: Vec::new(),
                readers: 1,
                listen: "127.0.0.1:0".parse().unwrap(),
            },
            identity.clone(),
            inputs,
            &tokio::runtime::Handle::current(),
        )
        .unwrap();
        let token = Token {
            mesh: identity.mesh(),
            inviter: identity.node_id(),
            addresses: vec![
                SocketAddr::from(([127, 0, 0, 1], 1)),
                SocketAddr::from(([127, 0, 0, 1], underlay.local_port())),
            ],
            secret: [7; 16],
            expires: WallTime(wall_now().0 + 60_000),
        };
        let answers = underlay.clone();
        tokio::spawn(async move {
            let (mut keys, mut joins) = (BTreeMap::new(), 0);
            while let Some(heard) = happened.recv().await {
                match heard.input {
                    Input::Session(SessionEvent::Connected { session, key, .. }) => {
                        keys.insert(session, key);
                    }
                    Input::Message {
                        session,
                        message: Message::Join(request),
                    } => {
                        joins += 1;
                        if manner == Manner::LosesFirstAnswer && joins == 1 {
                            answers.hangup(session, "lost".into());
                            continue;
                        }
                        let signer = if manner == Manner::OtherRoot {
                            &other
                        } else {
                            &identity
                        };
                        let membership = Record::Membership(Membership {
                            mesh: signer.mesh(),
                            node: if manner == Manner::OtherKey {
                                NodeId([9; 32])
                            } else {
                                keys[&session]
                            },
                            name: request.name,
                            role: Role::Member,
                            labels: BTreeMap::new(),
                            serial: 1,
                            issued: WallTime(0),
                            expires: None,
                        })
                        .sign(signer.mesh(), signer)
                        .unwrap();
                        let welcome = Welcome {
                            mesh_name: identity.mesh_name().clone(),
                            membership,
                            records: vec![
                                identity.membership().clone(),
                                other.membership().clone(),
                            ],
                        };
                        let answer = if manner == Manner::Refuses {
                            Err(JoinRefusal::Used)
                        } else {
                            Ok(welcome)
                        };
                        answers.send(session, Message::Joined(answer));
                        answers.hangup(session, "answered".into());
                    }
                    _ => {}
                }
            }
        });
        (token, underlay, folder)
    }

    fn newcomer() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        (folder, store)
    }

    #[tokio::test]
    async fn a_newcomer_becomes_a_member_and_cannot_join_again() {
        let (token, underlay, _state) = inviter(Manner::Honest).await;
        let (_folder, store) = newcomer();
        let identity = join(&store, &token, &label("beta")).await.unwrap();
        assert_eq!(
            (identity.mesh(), identity.mesh_name(), identity.has_root()),
            (token.mesh, &label("home"), false)
        );
        assert_eq!(
            Identity::load(&store).unwrap().unwrap().node_id(),
            identity.node_id()
        );
        let bootstrap = Bootstrap::load(&store).unwrap().unwrap();
        let wanted = Bootstrap {
            inviter: token.inviter,
            addresses: token.addresses.clone(),
        };
        assert_eq!(bootstrap, wanted);
        assert_eq!(
            store.load().unwrap().len(),
            1,
            "the inviter's membership is in the node's state, the forged one is not"
        );
        assert!(matches!(
            join(&store, &token, &label("beta")).await,
            Err(JoinError::Already { .. })
        ));
        let other = Token {
            mesh: MeshId([3; 32]),
            ..token
        };
        assert!(matches!(
            join(&store, &other, &label("beta")).await,
            Err(JoinError::OtherMesh { .. })
        ));
        underlay.close().await;
    }

    #[tokio::test]
    async fn a_lost_answer_is_asked_for_again_with_the_same_key() {
        let (token, underlay, _state) = inviter(Manner::LosesFirstAnswer).await;
        let (_folder, store) = newcomer();
        let key = node_key(&store).unwrap().id();
        assert_eq!(
            join(&store, &token, &label("beta"))
                .await
                .unwrap()
                .node_id(),
            key
        );
        underlay.close().await;
    }

    #[tokio::test]
    async fn a_refusal_is_told_and_leaves_no_membership() {
        let (token, underlay, _state) = inviter(Manner::Refuses).await;
        let (_folder, store) = newcomer();
        let refused = join(&store, &token, &label("beta")).await.unwrap_err();
        assert!(refused.to_string().contains("used already"), "{refused}");
        assert!(Identity::load(&store).unwrap().is_none());
        underlay.close().await;
    }

    #[tokio::test]
    async fn a_statement_of_another_root_or_for_another_key_is_not_believed() {
        for manner in [Manner::OtherKey, Manner::OtherRoot] {
            let (token, underlay, _state) = inviter(manner).await;
            let (_folder, store) = newcomer();
            assert!(matches!(
                join(&store, &token, &label("beta")).await,
                Err(JoinError::Welcome(_))
            ));
            assert!(Identity::load(&store).unwrap().is_none());
            underlay.close().await;
        }
    }

    #[tokio::test]
    async fn a_node_whose_clock_is_ahead_of_the_invite_may_join_if_the_inviter_says_so() {
        let (token, underlay, _state) = inviter(Manner::Honest).await;
        let (_folder, store) = newcomer();
        let token = Token {
            expires: WallTime(1000),
            ..token
        };
        join(&store, &token, &label("beta")).await.unwrap();
        underlay.close().await;
    }

    #[tokio::test]
    async fn an_expired_invite_is_told_when_nobody_answers() {
        let (_folder, store) = newcomer();
        let token = Token {
            mesh: MeshId([1; 32]),
            inviter: NodeId([2; 32]),
            addresses: vec![],
            secret: [0; 16],
            expires: WallTime(1000),
        };
        assert!(matches!(
            join(&store, &token, &label("beta")).await,
            Err(JoinError::Expired { .. })
        ));
        assert!(Identity::load(&store).unwrap().is_none());
    }

    #[tokio::test]
    async fn another_node_at_the_address_is_named() {
        let (token, underlay, _state) = inviter(Manner::Honest).await;
        let (_folder, store) = newcomer();
        let token = Token {
            inviter: NodeId([4; 32]),
            ..token
        };
        let refused = join(&store, &token, &label("beta"))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("127.0.0.1:1: ")
                && refused.contains("expected key")
                && refused.contains("found"),
            "{refused}"
        );
        underlay.close().await;
    }
}
