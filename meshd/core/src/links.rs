//! Underlay links: further QUIC connections to a peer, one for each uplink that both ends declare under the same name.
//!
//! ```text
//!   own links (config) x the peer's links (its advert) --same name--> wanted --dial, Hello both ways--> up: carries frames
//!                                                                       ^                               |
//!                                                                       +--- 0.5 s .. 30 s --- closed --+
//! ```
//!
//! Owns their sessions, their proofs, and when to dial which. The rules are simpler than those of `peers.rs`, since a peer has
//! its session beside: the node with the lower id dials, the other one only after it has waited in vain (it may be behind
//! NAT), and of two connections of one link that of the lower node stays. Believes nothing of a connection but its key before
//! a membership statement has come over it, as there. What goes over them is for `steering.rs`.

use crate::directory::Directory;
use crate::ident::{Label, MeshId, Moment, NodeId, Now, SessionId};
use crate::node::Output;
use crate::notice::Notice;
use crate::outbox::Outbox;
use crate::peers::{check_hello, last_words, name_of, own_hello, part, say_hello, words};
use crate::steering::WayId;
use crate::wire::control::{Goodbye, Hello, Message};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Time to prove to be a member.
const PROVE_MS: u64 = 3_000;
/// A dial without an answer from the shell counts as failed.
const DIAL_LOST_MS: u64 = 30_000;
const BACKOFF_MS_MIN: u64 = 500;
const BACKOFF_MS_MAX: u64 = 30_000;
/// The higher of two nodes waits so long for the lower one to dial.
const HIGHER_WAITS_MS: u64 = 6_000;
/// Most connections that others dialed and have not proven.
const UNPROVEN_MAX: usize = 64;

/// An uplink of this node, as its operator declared it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkSpec {
    /// Links of one name, on two nodes, are connected.
    pub name: Label,
    /// Bound here, advertised to others.
    pub address: SocketAddr,
    /// The lower is taken first.
    pub cost: u32,
    /// What it can carry, if that is known.
    pub rate_kbps: Option<u32>,
}

#[derive(Debug)]
struct Session {
    key: NodeId,
    way: WayId,
    remote: SocketAddr,
    dialed: bool,
    since: Moment,
    proven: bool,
    last_words: Option<String>,
}

#[derive(Debug)]
struct Dial {
    address: SocketAddr,
    next: Moment,
    backoff_ms: u64,
    under_way: Option<Moment>,
    error: Option<String>,
}

/// One link to one peer, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkView {
    /// Its number.
    pub way: WayId,
    /// Its connection, if it is up.
    pub session: Option<SessionId>,
    /// The far end, where it was advertised or is.
    pub remote: SocketAddr,
    /// Why it is not up.
    pub error: Option<String>,
}

/// What a connection of a link is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkStanding {
    /// None of ours.
    Unknown,
    /// A stranger yet.
    Unproven,
    /// A member.
    Proven(NodeId),
}

/// See the module.
pub(crate) struct Links {
    me: NodeId,
    mesh: MeshId,
    own: Vec<LinkSpec>,
    sessions: BTreeMap<SessionId, Session>,
    up: BTreeMap<(NodeId, WayId), SessionId>,
    dials: BTreeMap<(NodeId, WayId), Dial>,
    rng: SmallRng,
}

impl Links {
    pub(crate) fn new(me: NodeId, mesh: MeshId, own: Vec<LinkSpec>, seed: u64) -> Self {
        Self {
            me,
            mesh,
            own,
            sessions: BTreeMap::new(),
            up: BTreeMap::new(),
            dials: BTreeMap::new(),
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// The uplinks of this node.
    pub(crate) fn own(&self) -> &[LinkSpec] {
        &self.own
    }

    /// The links that this node has in common with another, and where that one takes them.
    pub(crate) fn common(&self, node: NodeId, directory: &Directory) -> Vec<(WayId, SocketAddr)> {
        let theirs = directory.advert(node).map_or(&[][..], |a| &a.links);
        let same = |link: &LinkSpec| theirs.iter().find(|other| other.name == link.name);
        self.own
            .iter()
            .enumerate()
            .filter_map(|(nth, link)| Some((WayId::link(nth)?, same(link)?.address)))
            .collect()
    }

    /// Brings what is to be dialed up to date with the directory.
    pub(crate) fn plan(&mut self, directory: &Directory, now: Now) {
        if self.own.is_empty() {
            return;
        }
        let revoked = directory.is_revoked(self.me);
        let others = directory.members().map(|m| m.node).filter(|&node| {
            node != self.me && !revoked && directory.in_good_standing(node, now.wall)
        });
        let wanted: BTreeMap<(NodeId, WayId), SocketAddr> = others
            .flat_map(|node| {
                let common = self.common(node, directory).into_iter();
                common.map(move |(way, address)| ((node, way), address))
            })
            .collect();
        self.dials.retain(|link, _| wanted.contains_key(link));
        for (link, address) in wanted {
            if self.up.contains_key(&link) {
                continue;
            }
            let wait = self.patience(link.0);
            let dial = self.dials.entry(link).or_insert_with(|| Dial {
                address,
                next: now.moment.plus_ms(wait),
                backoff_ms: 0,
                under_way: None,
                error: None,
            });
            if dial.address != address {
                // What failed there may work here.
                dial.address = address;
                dial.backoff_ms = 0;
                dial.next = dial.next.min(now.moment.plus_ms(wait));
            }
        }
    }

    fn patience(&self, node: NodeId) -> u64 {
        if self.me < node { 0 } else { HIGHER_WAITS_MS }
    }

    /// The far end of a connection holds the private key of `key`.
    pub(crate) fn connected(
        &mut self,
        session: SessionId,
        (key, way): (NodeId, WayId),
        remote: SocketAddr,
        dialed: bool,
        directory: &Directory,
        now: Now,
        out: &mut Outbox,
    ) {
        if dialed && let Some(dial) = self.dials.get_mut(&(key, way)) {
            dial.under_way = None;
        }
        let strangers: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, s)| !s.proven && !s.dialed)
            .map(|(id, _)| *id)
            .collect();
        for oldest in strangers
            .iter()
            .take((strangers.len() + 1).saturating_sub(UNPROVEN_MAX))
        {
            self.end(
                *oldest,
                Goodbye::Busy("too many wait for proof".into()),
                out,
            );
        }
        self.sessions.insert(
            session,
            Session {
                key,
                way,
                remote,
                dialed,
                since: now.moment,
                proven: false,
                last_words: None,
            },
        );
        if directory.is_revoked(self.me) || directory.is_revoked(key) || key == self.me {
            self.end(session, Goodbye::Refused("no member".into()), out);
        } else if dialed {
            say_hello(session, own_hello(self.me, self.mesh, 0, directory), out);
        }
    }

    /// What one said that has not proven to be a member. True if a link is up now that was not.
    pub(crate) fn stranger_says(
        &mut self,
        session: SessionId,
        message: &Message,
        directory: &mut Directory,
        now: Now,
        out: &mut Outbox,
    ) -> bool {
        match message {
            Message::Hello(hello) => self.hello(session, hello, directory, now, out),
            Message::Goodbye(goodbye) => {
                self.goodbye(session, goodbye);
                false
            }
            _ => {
                let why = "only members speak on a link".to_owned();
                self.end(session, Goodbye::Refused(why), out);
                false
            }
        }
    }

    fn hello(
        &mut self,
        session: SessionId,
        hello: &Hello,
        directory: &mut Directory,
        now: Now,
        out: &mut Outbox,
    ) -> bool {
        let Some(s) = self.sessions.get(&session) else {
            return false;
        };
        let (key, way, dialed, remote) = (s.key, s.way, s.dialed, s.remote);
        if let Err(goodbye) = check_hello(hello, key, self.mesh, directory, now, out) {
            out.push(Output::Notice(Notice::PeerRefused {
                remote: format!("{remote} ({})", key.short()),
                reason: match &goodbye {
                    Goodbye::Refused(why) => why.clone(),
                    _ => "its key was revoked".to_owned(),
                },
            }));
            self.end(session, goodbye, out);
            self.postpone((key, way), BACKOFF_MS_MAX, "it was refused here", now);
            return false;
        }
        if !dialed {
            say_hello(session, own_hello(self.me, self.mesh, 0, directory), out);
        }
        let by_lower = |s: &Session| s.dialed == (self.me < s.key);
        let before = self.up.get(&(key, way)).copied();
        if let Some(old) = before.and_then(|id| self.sessions.get(&id))
            && let Some(new) = self.sessions.get(&session)
            && by_lower(old)
            && !by_lower(new)
        {
            self.end(session, Goodbye::Superseded, out);
            return false;
        }
        if let Some(s) = self.sessions.get_mut(&session) {
            s.proven = true;
        }
        self.up.insert((key, way), session);
        self.dials.remove(&(key, way));
        out.push(Output::LinkProven {
            session,
            node: key,
            way,
        });
        match before {
            Some(old) => self.end(old, Goodbye::Superseded, out),
            None => out.push(Output::Notice(Notice::LinkUp {
                node: key,
                name: name_of(directory, key),
                link: self.name(way),
                remote: remote.to_string(),
            })),
        }
        true
    }

    pub(crate) fn goodbye(&mut self, session: SessionId, goodbye: &Goodbye) {
        if let Some(s) = self.sessions.get_mut(&session) {
            s.last_words = Some(last_words(goodbye, "connection"));
        }
    }

    /// A connection is over. True if it was one that carried frames.
    pub(crate) fn closed(
        &mut self,
        session: SessionId,
        reason: &str,
        directory: &Directory,
        now: Now,
        out: &mut Outbox,
    ) -> bool {
        let Some(s) = self.sessions.remove(&session) else {
            return false;
        };
        let reason = s.last_words.unwrap_or_else(|| words(reason));
        let link = (s.key, s.way);
        let carried = self.up.get(&link) == Some(&session);
        if carried {
            self.up.remove(&link);
            out.push(Output::Notice(Notice::LinkDown {
                node: s.key,
                name: name_of(directory, s.key),
                link: self.name(s.way),
                reason: reason.clone(),
            }));
            self.plan(directory, now);
        }
        if carried || s.dialed {
            self.postpone(link, BACKOFF_MS_MIN, &reason, now);
        }
        carried
    }

    /// Ends all connections with a node that is to be no peer any more, or of this one, which stops.
    pub(crate) fn close(&mut self, node: NodeId, goodbye: &Goodbye, out: &mut Outbox) {
        self.dials.retain(|(of, _), _| *of != node);
        self.up.retain(|(of, _), _| *of != node);
        let theirs: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, s)| s.key == node)
            .map(|(id, _)| *id)
            .collect();
        for session in theirs {
            self.end(session, goodbye.clone(), out);
        }
    }

    /// All nodes with which there is a connection.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.sessions.values().map(|s| s.key)
    }

    fn end(&mut self, session: SessionId, goodbye: Goodbye, out: &mut Outbox) {
        let Some(s) = self.sessions.remove(&session) else {
            return;
        };
        if self.up.get(&(s.key, s.way)) == Some(&session) {
            self.up.remove(&(s.key, s.way));
        }
        part(session, goodbye, out);
    }

    /// A dial led nowhere.
    pub(crate) fn dial_failed(&mut self, node: NodeId, way: WayId, reason: &str, now: Now) {
        self.postpone((node, way), BACKOFF_MS_MIN, &words(reason), now);
    }

    fn postpone(&mut self, link: (NodeId, WayId), at_least_ms: u64, reason: &str, now: Now) {
        let patience = self.patience(link.0);
        if let Some(dial) = self.dials.get_mut(&link) {
            dial.under_way = None;
            dial.backoff_ms = (dial.backoff_ms * 2).clamp(at_least_ms, BACKOFF_MS_MAX);
            dial.error = Some(reason.to_owned());
            let jittered = dial.backoff_ms / 2 + self.rng.random_range(0..=dial.backoff_ms / 2);
            dial.next = now.moment.plus_ms(jittered + patience);
        }
    }

    // ---- time ------------------------------------------------------------------------------------------------------

    pub(crate) fn poll_timeout(&self) -> Option<(Moment, &'static str)> {
        let proofs = self.sessions.values().filter(|s| !s.proven);
        let proofs = proofs.map(|s| (s.since.plus_ms(PROVE_MS), "a link must prove its peer"));
        let proving = |link: &(NodeId, WayId)| {
            let mut all = self.sessions.values();
            all.any(|s| !s.proven && s.dialed && (s.key, s.way) == *link)
        };
        let dials = self
            .dials
            .iter()
            .filter_map(|(link, dial)| match dial.under_way {
                Some(since) => Some((since.plus_ms(DIAL_LOST_MS), "a link's dial is lost")),
                // Its proof has a time of its own.
                None if proving(link) => None,
                None => Some((dial.next, "a link is to be dialed")),
            });
        proofs.chain(dials).min_by_key(|(at, _)| *at)
    }

    pub(crate) fn handle_timeout(&mut self, now: Now, out: &mut Outbox) {
        let late: Vec<(SessionId, NodeId, WayId)> = self
            .sessions
            .iter()
            .filter(|(_, s)| !s.proven && s.since.plus_ms(PROVE_MS) <= now.moment)
            .map(|(id, s)| (*id, s.key, s.way))
            .collect();
        for (session, node, way) in late {
            let why = "no proof of membership within 3 s";
            self.end(session, Goodbye::Busy(why.into()), out);
            self.postpone((node, way), BACKOFF_MS_MIN, why, now);
        }
        let proving: Vec<(NodeId, WayId)> = self
            .sessions
            .values()
            .filter(|s| !s.proven && s.dialed)
            .map(|s| (s.key, s.way))
            .collect();
        let mut lost = Vec::new();
        for (link, dial) in &mut self.dials {
            match dial.under_way {
                Some(since) if since.plus_ms(DIAL_LOST_MS) <= now.moment => lost.push(*link),
                None if dial.next <= now.moment && !proving.contains(link) => {
                    dial.under_way = Some(now.moment);
                    let (node, way) = *link;
                    let address = dial.address;
                    out.push(Output::DialLink { node, way, address });
                }
                _ => {}
            }
        }
        for link in lost {
            self.postpone(link, BACKOFF_MS_MIN, "no answer", now);
        }
    }

    // ---- reading ---------------------------------------------------------------------------------------------------

    pub(crate) fn standing(&self, session: SessionId) -> LinkStanding {
        match self.sessions.get(&session) {
            None => LinkStanding::Unknown,
            Some(s) if s.proven => LinkStanding::Proven(s.key),
            Some(_) => LinkStanding::Unproven,
        }
    }

    /// The links with a peer that are up.
    pub(crate) fn up(&self, node: NodeId) -> impl Iterator<Item = (WayId, SessionId)> + '_ {
        let all = self.up.iter().filter(move |((of, _), _)| *of == node);
        all.map(|((_, way), session)| (*way, *session))
    }

    /// All links with a peer, for people.
    pub(crate) fn views(&self, node: NodeId, directory: &Directory) -> Vec<LinkView> {
        let view = |(way, address): (WayId, SocketAddr)| {
            let session = self.up.get(&(node, way)).copied();
            let at = session.and_then(|session| self.sessions.get(&session));
            LinkView {
                way,
                session,
                remote: at.map_or(address, |s| s.remote),
                error: self.dials.get(&(node, way)).and_then(|d| d.error.clone()),
            }
        };
        self.common(node, directory).into_iter().map(view).collect()
    }

    /// The name of one of this node's links.
    pub(crate) fn name(&self, way: WayId) -> String {
        let link = way.nth_link().and_then(|nth| self.own.get(nth));
        link.map_or_else(|| format!("way {way}"), |link| link.name.to_string())
    }
}
