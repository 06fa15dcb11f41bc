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

use self::dial::{BACKOFF_MS_MAX, BACKOFF_MS_MIN, Dial};
use crate::directory::Directory;
use crate::ident::{MeshId, Moment, NodeId, Now, SessionId, escape};
use crate::node::Output;
use crate::notice::Notice;
use crate::outbox::Outbox;
use crate::wire::control::{Goodbye, Hello, Message, VERSION};
use crate::wire::record::{Record, RecordKey, Signed};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Most sessions that others dialed and have not proven.
const UNPROVEN_MAX: usize = 64;
/// Time to prove to be a member.
const PROVE_MS: u64 = 3_000;
/// Of two sessions that one node dialed, the earlier one by its clock stays if it is so much earlier: no two proofs are so
/// far apart, so its clock was set back.
const CLOCK_SET_BACK_MS: u64 = 30_000;
/// A dial without an answer from the shell counts as failed.
const DIAL_LOST_MS: u64 = 30_000;
/// Messages with records in answer to the digests of one peer: at once, and per second. Less than a session lets wait.
const ANSWERS: (u64, u64) = (24, 4);
/// Why a node that knows of its own revocation has no sessions.
pub(crate) const REVOKED_HERE: &str = "this node was revoked";
/// Longest text of a far end that is kept, in characters.
const WORDS_MAX: usize = 200;

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
            self.say_hello(session, dialed_at, directory, out);
        }
    }

    fn say_hello(&self, session: SessionId, dialed: u64, directory: &Directory, out: &mut Outbox) {
        if let Some(hello) = hello(self.me, self.mesh, dialed, directory) {
            let message = Message::Hello(hello);
            out.push(Output::Message { session, message });
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

    /// Checks a Hello.
    pub(crate) fn hello(
        &mut self,
        session: SessionId,
        hello: &Hello,
        directory: &mut Directory,
        now: Now,
        out: &mut Outbox,
    ) -> Turn {
        let Some(s) = self.sessions.get_mut(&session) else {
            return Turn::Same;
        };
        if s.proven.is_some() {
            return Turn::Same;
        }
        let key = s.key;
        if let Err(goodbye) = check_hello(hello, key, self.mesh, directory, now, out) {
            let reason = match &goodbye {
                Goodbye::Refused(why) => why.clone(),
                _ => "its key was revoked".into(),
            };
            self.refuse(session, goodbye, &reason, now, out);
            return Turn::Same;
        }
        let dialed = s.dialed;
        if !dialed {
            s.dialed_at = hello.dialed;
        }
        let rank = |s: &Session, me: NodeId| (s.dialed_at, if s.dialed { me } else { s.key });
        let mine = rank(s, self.me);
        let before = self.proven.get(&key).copied();
        if !dialed {
            self.say_hello(session, 0, directory, out);
        }
        let set_back = |old: &Session| {
            old.dialed == dialed && old.dialed_at > mine.0.saturating_add(CLOCK_SET_BACK_MS)
        };
        if before
            .and_then(|old| self.sessions.get(&old))
            .is_some_and(|old| rank(old, self.me) > mine && !set_back(old))
        {
            self.drop_session(session, Goodbye::Superseded, out);
            self.dials.remove(&key);
            return Turn::Same;
        }
        let Some(s) = self.sessions.get_mut(&session) else {
            return Turn::Same;
        };
        s.proven = Some(now.moment);
        self.revoked_by = None;
        let remote = s.remote.to_string();
        self.proven.insert(key, session);
        self.dials.remove(&key);
        out.push(Output::Proven { session, node: key });
        match before {
            Some(old) => self.drop_session(old, Goodbye::Superseded, out),
            None => out.push(Output::Notice(Notice::PeerUp {
                node: key,
                name: name_of(directory, key),
                remote,
            })),
        }
        Turn::Up(key)
    }

    pub(crate) fn goodbye(&mut self, session: SessionId, goodbye: Goodbye) {
        if let Some(s) = self.sessions.get_mut(&session) {
            s.last_words = Some(goodbye);
        }
    }

    pub(crate) fn closed(
        &mut self,
        session: SessionId,
        reason: &str,
        directory: &Directory,
        now: Now,
        out: &mut Outbox,
    ) -> Turn {
        let Some(s) = self.sessions.remove(&session) else {
            return Turn::Same;
        };
        let patience = match &s.last_words {
            // They do not want this node: no use in asking often.
            Some(Goodbye::Refused(_) | Goodbye::Revoked) => BACKOFF_MS_MAX,
            Some(Goodbye::Busy(_) | Goodbye::Stopping) => BACKOFF_MS_MIN * 4,
            Some(Goodbye::Superseded) | None => BACKOFF_MS_MIN,
        };
        if s.last_words == Some(Goodbye::Revoked) {
            self.revoked_by = Some(s.key);
        }
        let reason = s
            .last_words
            .as_ref()
            .map_or_else(|| words(reason), |goodbye| last_words(goodbye, "session"));
        if self.proven.get(&s.key) == Some(&session) {
            self.proven.remove(&s.key);
            self.dials.remove(&s.key);
            out.push(Output::Notice(Notice::PeerDown {
                node: s.key,
                name: name_of(directory, s.key),
                reason: reason.clone(),
            }));
            self.plan(directory, now);
            self.postpone(s.key, patience, &reason, now);
            return Turn::Down(s.key);
        }
        if s.dialed && s.proven.is_none() {
            self.postpone(s.key, patience, &reason, now);
        }
        Turn::Same
    }

    /// Ends a peer's session, if it has one.
    pub(crate) fn close(
        &mut self,
        node: NodeId,
        goodbye: Goodbye,
        directory: &Directory,
        out: &mut Outbox,
    ) -> Turn {
        self.dials.remove(&node);
        let unproven: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, s)| s.key == node && s.proven.is_none())
            .map(|(id, _)| *id)
            .collect();
        for session in unproven {
            self.drop_session(session, goodbye.clone(), out);
        }
        let Some(session) = self.proven.remove(&node) else {
            return Turn::Same;
        };
        let reason = match &goodbye {
            Goodbye::Revoked => "revoked".to_owned(),
            Goodbye::Refused(why) | Goodbye::Busy(why) => why.clone(),
            Goodbye::Stopping => "this node stops".to_owned(),
            Goodbye::Superseded => "superseded".to_owned(),
        };
        self.drop_session(session, goodbye, out);
        out.push(Output::Notice(Notice::PeerDown {
            node,
            name: name_of(directory, node),
            reason,
        }));
        Turn::Down(node)
    }

    /// Ends a session that misbehaves or was answered.
    pub(crate) fn hang_up(&mut self, session: SessionId, reason: &str, out: &mut Outbox) {
        if self.sessions.remove(&session).is_some() {
            out.push(Output::Hangup {
                session,
                reason: reason.into(),
            });
        }
    }

    /// Ends a session whose far end is not to be a peer, and tells.
    pub(crate) fn refuse(
        &mut self,
        session: SessionId,
        goodbye: Goodbye,
        reason: &str,
        now: Now,
        out: &mut Outbox,
    ) {
        if let Some(s) = self.sessions.get(&session) {
            out.push(Output::Notice(Notice::PeerRefused {
                remote: format!("{} ({})", s.remote, s.key.short()),
                reason: reason.into(),
            }));
            let (key, dialed) = (s.key, s.dialed);
            self.drop_session(session, goodbye, out);
            if dialed {
                self.postpone(
                    key,
                    BACKOFF_MS_MAX,
                    &format!("it was refused here: {reason}"),
                    now,
                );
            }
        }
    }

    /// Ends the session of a peer that broke the rules, and lets it wait.
    pub(crate) fn expel(
        &mut self,
        session: SessionId,
        reason: &str,
        directory: &Directory,
        now: Now,
        out: &mut Outbox,
    ) -> Turn {
        let Some(s) = self.sessions.get(&session) else {
            return Turn::Same;
        };
        let node = s.key;
        out.push(Output::Notice(Notice::PeerRefused {
            remote: format!("{} ({})", s.remote, node.short()),
            reason: reason.into(),
        }));
        let turn = self.close(node, Goodbye::Refused(reason.into()), directory, out);
        self.plan(directory, now);
        self.postpone(node, BACKOFF_MS_MAX, reason, now);
        turn
    }

    fn drop_session(&mut self, session: SessionId, goodbye: Goodbye, out: &mut Outbox) {
        if self.sessions.remove(&session).is_some() {
            let reason = match &goodbye {
                Goodbye::Superseded => "superseded".to_owned(),
                Goodbye::Stopping => "stopping".to_owned(),
                Goodbye::Revoked => "revoked".to_owned(),
                Goodbye::Refused(why) | Goodbye::Busy(why) => why.clone(),
            };
            out.push(Output::Message {
                session,
                message: Message::Goodbye(goodbye),
            });
            out.push(Output::Hangup { session, reason });
        }
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

/// What this node says first; `None`: it has no statement to show.
pub(crate) fn hello(me: NodeId, mesh: MeshId, dialed: u64, directory: &Directory) -> Option<Hello> {
    let membership = directory.signed(&RecordKey::Membership(me))?.clone();
    Some(Hello {
        version: VERSION,
        mesh,
        membership,
        dialed,
    })
}

/// Whether the far end of a session, which holds `key`, has shown that it is a member.
pub(crate) fn check_hello(
    hello: &Hello,
    key: NodeId,
    mesh: MeshId,
    directory: &mut Directory,
    now: Now,
    out: &mut Outbox,
) -> Result<(), Goodbye> {
    let refused = |why: String| Err(Goodbye::Refused(why));
    if hello.version != VERSION {
        return refused(format!(
            "it speaks version {} of the protocol, this node {VERSION}; use the same release of meshd",
            hello.version
        ));
    }
    if hello.mesh != mesh {
        return refused(format!(
            "it is of mesh {}, this node of {}",
            hello.mesh.short(),
            mesh.short()
        ));
    }
    if directory.is_revoked(key) {
        return Err(Goodbye::Revoked);
    }
    match directory.open(&hello.membership) {
        Ok(Record::Membership(m)) if m.node == key => {}
        Ok(_) => return refused("its membership statement is about another node".into()),
        Err(why) => return refused(why.to_string()),
    }
    if let Err(why) = directory.accept(&hello.membership, Some(key), now, out) {
        return refused(why.to_string());
    }
    // It may show an old statement; the newest one counts.
    if !directory.in_good_standing(key, now.wall) {
        return refused("its membership has expired; invite it again".into());
    }
    Ok(())
}

pub(crate) fn name_of(directory: &Directory, node: NodeId) -> String {
    directory
        .member(node)
        .map(|m| m.name.to_string())
        .unwrap_or_default()
}

/// A far end's text, short and printable.
pub(crate) fn words(text: &str) -> String {
    escape(text.as_bytes()).chars().take(WORDS_MAX).collect()
}

/// Why the far end hung up, for people; `what` it was, a session or a link's connection.
pub(crate) fn last_words(goodbye: &Goodbye, what: &str) -> String {
    match goodbye {
        Goodbye::Refused(why) => format!("refused: {}", words(why)),
        Goodbye::Revoked => "it says that this node was revoked".to_owned(),
        Goodbye::Busy(why) => format!("busy: {}", words(why)),
        Goodbye::Stopping => "the peer stops".to_owned(),
        Goodbye::Superseded => format!("superseded by another {what}"),
    }
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
