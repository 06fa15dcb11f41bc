//! Sessions and peers: who is on the other end of a QUIC connection, and may stay.
//!
//! ```text
//!   Connected --Hello--> unproven --Hello that holds--> proven --> the peer's one session
//!                          |  3 s, refused                |  revoked, expired, superseded, closed
//!                          v                              v
//!                       hung up                     dialed again: 0.5 s .. 30 s apart
//! ```
//!
//! Owns the table of sessions, the proofs, the choice between two sessions of one peer, and when to dial whom. Believes
//! nothing of a session but its key before a membership statement for that key, signed by the root, has come over it.
//! Of two sessions with one peer both ends keep the one whose dialer dialed later, by the dialer's clock, then the one of
//! the higher NodeId. What is said over a session is for `mesh.rs`.

mod dial;
mod ending;
mod proof;
mod twins;

pub(crate) use self::ending::{last_words, part, words};
pub(crate) use self::proof::{check_hello, own_hello, say_hello};

use self::dial::{BACKOFF_MS_MAX, BACKOFF_MS_MIN, Dial};
use self::twins::Twins;
use crate::directory::Directory;
use crate::ident::{MeshId, Moment, NodeId, Now, SessionId};
use crate::node::Output;
use crate::outbox::Outbox;
use crate::wire::control::{Goodbye, Message};
use crate::wire::record::Signed;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Most sessions that others dialed and have not proven.
const UNPROVEN_MAX: usize = 64;
/// Time to prove to be a member.
const PROVE_MS: u64 = 3_000;
/// A dial without an answer from the shell counts as failed.
const DIAL_LOST_MS: u64 = 30_000;
/// Messages with records in answer to the digests of one peer: at once, and per second. Less than a session lets wait.
const ANSWERS: (u64, u64) = (24, 4);
/// Why a node that knows of its own revocation has no sessions.
pub(crate) const REVOKED_HERE: &str = "this node was revoked";

/// A token bucket.
#[derive(Clone, Copy, Debug)]
struct Budget {
    left: u64,
    of: (u64, u64),
    at: Moment,
}

impl Budget {
    fn new(of: (u64, u64), now: Moment) -> Self {
        Self {
            left: of.0,
            of,
            at: now,
        }
    }

    fn left(&mut self, now: Moment) -> u64 {
        let gained = now.ms_since(self.at).saturating_mul(self.of.1) / 1000;
        if gained > 0 {
            self.left = self.left.saturating_add(gained).min(self.of.0);
            self.at = now;
        }
        self.left
    }

    fn spend(&mut self, count: u64) {
        self.left = self.left.saturating_sub(count);
    }
}

#[derive(Debug)]
struct Session {
    key: NodeId,
    remote: SocketAddr,
    dialed: bool,
    /// When, by the dialer's clock; 0 until its Hello says.
    dialed_at: u64,
    since: Moment,
    proven: Option<Moment>,
    answers: Budget,
    last_words: Option<Goodbye>,
}

/// What a session is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Unknown,
    Unproven(NodeId, SocketAddr),
    Proven(NodeId),
}

pub(crate) struct Peers {
    me: NodeId,
    mesh: MeshId,
    sessions: BTreeMap<SessionId, Session>,
    proven: BTreeMap<NodeId, SessionId>,
    dials: BTreeMap<NodeId, Dial>,
    rng: SmallRng,
    started: Moment,
    last_dialed: u64,
    revoked_by: Option<NodeId>,
    twins: Twins,
}

/// What became of a session's proof or end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing that others need to know.
    Same,
    /// The first session of this peer, or a better one.
    Up(NodeId),
    /// The last session of this peer is gone.
    Down(NodeId),
}

impl Peers {
    pub(crate) fn new(me: NodeId, mesh: MeshId, seed: u64, started: Moment) -> Self {
        Self {
            me,
            mesh,
            sessions: BTreeMap::new(),
            proven: BTreeMap::new(),
            dials: BTreeMap::new(),
            rng: SmallRng::seed_from_u64(seed),
            started,
            last_dialed: 0,
            revoked_by: None,
            twins: Twins::default(),
        }
    }

    // ---- sessions --------------------------------------------------------------------------------------------------

    pub(crate) fn connected(
        &mut self,
        session: SessionId,
        key: NodeId,
        remote: SocketAddr,
        dialed: bool,
        directory: &Directory,
        now: Now,
        out: &mut Outbox,
    ) {
        let under_way = self
            .dials
            .get_mut(&key)
            .filter(|_| dialed)
            .and_then(|dial| dial.under_way.take());
        let dialed_at = if dialed {
            // No two alike, so that both ends choose the same of two.
            self.last_dialed = under_way
                .map_or(now.wall.0, |(_, wall)| wall)
                .max(self.last_dialed.saturating_add(1));
            self.last_dialed
        } else {
            0
        };
        self.sessions.insert(
            session,
            Session {
                key,
                remote,
                dialed,
                dialed_at,
                since: now.moment,
                proven: None,
                answers: Budget::new(ANSWERS, now.moment),
                last_words: None,
            },
        );
        if directory.is_revoked(self.me) {
            // It has no statement to show any more: nobody is kept waiting for one.
            self.hang_up(session, REVOKED_HERE, out);
            return;
        }
        if directory.is_revoked(key) {
            if dialed {
                self.refuse(session, Goodbye::Revoked, "its key was revoked", now, out);
            }
            // Else it hears so in answer to what it says first, Hello or Join; and learns nothing before.
            self.make_room(out);
            return;
        }
        if key == self.me {
            self.refuse(
                session,
                Goodbye::Refused("this is your own key".into()),
                "it has this node's own key",
                now,
                out,
            );
            return;
        }
        self.make_room(out);
        // Who dials knows by the key whom it reached, and speaks first; a stranger that comes by learns nothing of the mesh.
        if dialed {
            let hello = own_hello(self.me, self.mesh, dialed_at, directory);
            say_hello(session, hello, out);
        }
    }

    /// The oldest strangers go when there are too many. Sessions that this node dialed do not count: they are as many as
    /// members at most.
    fn make_room(&mut self, out: &mut Outbox) {
        let strangers: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, s)| s.proven.is_none() && !s.dialed)
            .map(|(id, _)| *id)
            .collect();
        for session in strangers
            .iter()
            .take(strangers.len().saturating_sub(UNPROVEN_MAX))
        {
            self.drop_session(
                *session,
                Goodbye::Busy("too many sessions wait for proof here".into()),
                out,
            );
        }
    }

    /// Nodes whose key two hosts have: where the one with the session is, and where the other was last.
    pub(crate) fn twins(
        &self,
        now: Moment,
    ) -> impl Iterator<Item = (NodeId, SocketAddr, SocketAddr)> {
        self.proven.iter().filter_map(move |(node, session)| {
            let here = self.sessions.get(session)?.remote;
            Some((*node, here, self.twins.of(*node, now)?))
        })
    }

    // ---- time ------------------------------------------------------------------------------------------------------

    pub(crate) fn poll_timeout(&self) -> Option<(Moment, &'static str)> {
        let proofs = self
            .sessions
            .values()
            .filter(|s| s.proven.is_none())
            .map(|s| (s.since.plus_ms(PROVE_MS), "a session must prove its peer"));
        let proving = self.proving();
        let dials = self.dials.iter().map(|(node, dial)| match dial.under_way {
            Some((since, _)) => (since.plus_ms(DIAL_LOST_MS), "a dial is lost"),
            // Its proof has a time of its own.
            None if proving.contains(node) => (Moment(u64::MAX), "a session must prove its peer"),
            None => (dial.next, "a peer is to be dialed"),
        });
        proofs
            .chain(dials)
            .filter(|(at, _)| *at != Moment(u64::MAX))
            .min_by_key(|(at, _)| *at)
    }

    pub(crate) fn handle_timeout(&mut self, directory: &Directory, now: Now, out: &mut Outbox) {
        let late: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, s)| s.proven.is_none() && s.since.plus_ms(PROVE_MS) <= now.moment)
            .map(|(id, _)| *id)
            .collect();
        for session in late {
            let dialed = self
                .sessions
                .get(&session)
                .filter(|s| s.dialed)
                .map(|s| s.key);
            self.drop_session(
                session,
                Goodbye::Busy("no proof of membership within 3 s".into()),
                out,
            );
            if let Some(node) = dialed {
                self.postpone(
                    node,
                    BACKOFF_MS_MIN,
                    "it did not prove to be a member within 3 s",
                    now,
                );
            }
        }
        let lost: Vec<NodeId> = self
            .dials
            .iter()
            .filter(|(_, d)| {
                d.under_way
                    .is_some_and(|(since, _)| since.plus_ms(DIAL_LOST_MS) <= now.moment)
            })
            .map(|(node, _)| *node)
            .collect();
        for node in lost {
            self.postpone(node, BACKOFF_MS_MIN, "no answer", now);
        }
        let due: Vec<NodeId> = self
            .dials
            .iter()
            .filter(|(_, d)| d.under_way.is_none() && d.next <= now.moment)
            .map(|(node, _)| *node)
            .collect();
        if !due.is_empty() {
            self.dial_all(due, directory, now, out);
        }
    }

    // ---- reading ---------------------------------------------------------------------------------------------------

    /// What the session is good for.
    pub(crate) fn standing(&self, session: SessionId) -> Standing {
        match self.sessions.get(&session) {
            None => Standing::Unknown,
            Some(s) if s.proven.is_some() => Standing::Proven(s.key),
            Some(s) => Standing::Unproven(s.key, s.remote),
        }
    }

    /// How many messages the peer may have in answer to what it asks.
    pub(crate) fn may_ask(&mut self, session: SessionId, now: Moment) -> u64 {
        let session = self.sessions.get_mut(&session);
        session.map_or(0, |s| s.answers.left(now))
    }

    /// It was given so many; asking costs one also if there was nothing to tell.
    pub(crate) fn asked(&mut self, session: SessionId, answers: usize) {
        if let Some(s) = self.sessions.get_mut(&session) {
            s.answers.spend(answers.max(1) as u64);
        }
    }

    pub(crate) fn session_of(&self, node: NodeId) -> Option<SessionId> {
        self.proven.get(&node).copied()
    }

    /// True if this node dialed the session.
    pub(crate) fn is_dialer(&self, session: SessionId) -> bool {
        self.sessions.get(&session).is_some_and(|s| s.dialed)
    }

    pub(crate) fn all_proven(&self) -> impl Iterator<Item = (NodeId, SessionId)> {
        self.proven.iter().map(|(node, session)| (*node, *session))
    }

    /// Far end, by whom it was dialed, and since when it is proven.
    pub(crate) fn describe(
        &self,
        session: SessionId,
    ) -> Option<(SocketAddr, bool, Option<Moment>)> {
        self.sessions
            .get(&session)
            .map(|s| (s.remote, s.dialed, s.proven))
    }

    /// Who said last that this node was revoked, if no member took it for one since.
    pub(crate) fn revoked_by(&self) -> Option<NodeId> {
        self.revoked_by
    }

    pub(crate) fn last_error(&self, node: NodeId) -> Option<&str> {
        self.dials.get(&node)?.error.as_deref()
    }

    /// Up to `count` peers by chance, `but` not among them.
    pub(crate) fn some_of(&mut self, count: usize, but: Option<NodeId>) -> Vec<SessionId> {
        let mut others: Vec<SessionId> = self
            .proven
            .iter()
            .filter(|(node, _)| Some(**node) != but)
            .map(|(_, session)| *session)
            .collect();
        let mut chosen = Vec::new();
        while chosen.len() < count && !others.is_empty() {
            chosen.push(others.swap_remove(self.rng.random_range(0..others.len())));
        }
        chosen
    }
}

pub(crate) fn name_of(directory: &Directory, node: NodeId) -> String {
    directory
        .member(node)
        .map(|m| m.name.to_string())
        .unwrap_or_default()
}

/// Records to sessions, in messages of a size that a peer takes.
pub(crate) fn send_records(records: Vec<Signed>, sessions: &[SessionId], out: &mut Outbox) {
    for chunk in crate::directory::in_chunks(records.into_iter()) {
        for &session in sessions {
            out.push(Output::Message {
                session,
                message: Message::Records(chunk.clone()),
            });
        }
    }
}
