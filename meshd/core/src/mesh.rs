//! The mesh side of the node in one piece: directory, peers, SWIM and invites, and how they feed each other.
//!
//! ```text
//!   sessions ---> peers ---proven---> sync: digest one way, records both ways
//!                   |                     |
//!                   v                     v
//!   SWIM ------> reachable? -------> directory ---fresh---> spread: own to all, others' to three, a summary now and then
//!                                         |
//!   commands --> invites, networks -------+---changes---> the rest of the node
//! ```
//!
//! Owns the interplay and nothing else; what an operator asks stands in `wishes.rs`. **The rule of reachability** is [`Mesh::reaches`]: a node can be reached if there
//! is a proven session with it, or SWIM says it is alive (its session is about to come back). So what a rogue says by SWIM
//! takes nobody's endpoints away while a session holds, and a killed node is gone once both its session and SWIM have let
//! it go: 4 s each, where frames were exchanged of late, and else the session 3 s after it is asked, which SWIM's word has it do. Two more reasons to believe in a node: its kernel still answers on VXLAN, so what the kernels
//! carry between us goes on without its daemon; and this node has just started and has not had the time to ask.

mod adverts;
mod reach;
mod wishes;

use crate::directory::{AcceptError, Change, Directory};
use crate::ident::{Label, MeshId, Moment, NodeId, Now, SessionId};
use crate::invites::Invites;
use crate::links::{LinkSpec, LinkStanding, Links};
use crate::multicast::GroupReport;
use crate::node::{Output, SessionEvent};
use crate::notice::Notice;
use crate::outbox::Outbox;
use crate::path::PathReport;
use crate::peers::{Peers, Standing, Turn, send_records};
use crate::swim::{Finding, Swim, Swum};
use crate::wire::control::{Goodbye, Message, PoolGrant, PoolRequest};
use crate::wire::inquiry::InquiryWord;
use crate::wire::record::{
    Keyring, LinkAdvert, NodeAdvert, Record, RecordError, Signed, VERSION_TEXT_MAX,
};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

/// Expiry and the like are looked at this often.
const TICK_MS: u64 = 1_000;
/// A random peer hears a summary this often.
const SUMMARY_MS: u64 = 5_000;
/// Records that come within this time after the first session count as the first sync.
const FIRST_SYNC_MS: u64 = 3_000;
/// News of one message are passed on to this many peers …
const RELAYS: usize = 3;
/// … if they are not more records than this: a whole sync is no news to others.
const RELAYED_MAX: usize = 64;
/// For so long after the start, in ms, a node that was known before counts as reachable: what the kernel carries goes on.
const START_MS: u64 = 10_000;
/// Most records looked at in one message.
const RECORDS_MAX: usize = 4_096;

/// What a node is born with.
pub struct MeshConfig {
    /// The mesh.
    pub mesh: MeshId,
    /// Its name, for newcomers.
    pub mesh_name: Label,
    /// This node's statement.
    pub membership: Signed,
    /// Records to begin with, not checked yet: what the inviter told of itself.
    pub records: Vec<Signed>,
    /// This node's keys.
    pub keyring: Arc<dyn Keyring>,
    /// The underlay links of this node.
    pub links: Vec<LinkSpec>,
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
    /// Tells what it heard on VXLAN.
    Paths(Vec<PathReport>),
    /// What it wants of multicast.
    Groups(GroupReport),
    /// Asks something for a person there, or answers.
    Inquiry(InquiryWord),
}

/// One other member and how it stands, for `status` and `peers`.
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
    mesh: MeshId,
    keyring: Arc<dyn Keyring>,
    peers: Peers,
    links: Links,
    swim: Swim,
    invites: Invites,
    changes: BTreeSet<Change>,
    next_tick: Moment,
    next_summary: Moment,
    /// Peers that are heard by links only.
    silent: BTreeSet<NodeId>,
    /// Nodes whose kernel answers.
    in_kernel: BTreeSet<NodeId>,
    /// Nodes that are believed in since this one has just started, and until when.
    given: (BTreeSet<NodeId>, Moment),
    /// When the first sync counts as over; not before there was a peer.
    settles: Option<Moment>,
    settled: bool,
}

impl Mesh {
    /// A node as it was left: `state` are all pairs of the store, those of others are skipped. Publishes its advert.
    ///
    /// # Errors
    /// If this node's own membership is not signed by the mesh root or is about another key. Expired or revoked is no
    /// error: the node starts, its ports work among themselves, and its peers tell why they refuse it.
    pub fn new(
        config: MeshConfig,
        state: &[(Vec<u8>, Vec<u8>)],
        now: Now,
        out: &mut Outbox,
    ) -> Result<Self, RecordError> {
        let MeshConfig {
            mesh,
            mesh_name,
            membership,
            records,
            keyring,
            links,
            seed,
            version,
        } = config;
        let me = keyring.node();
        match membership.open(mesh, &*keyring)? {
            Record::Membership(m) if m.node == me => {}
            _ => return Err(RecordError::Shape("membership is of another node")),
        }
        let mut directory = Directory::new(mesh, Arc::clone(&keyring), state, now);
        // Known already, or newer here, or revoked: all fine.
        let _ = directory.accept(&membership, None, now, out);
        for record in &records {
            let _ = directory.accept(record, None, now, out);
        }
        let old = directory.advert(me).cloned();
        // Above all earlier boots even if the state was lost, as long as the clock is about right.
        let boot = old
            .as_ref()
            .map_or(1, |a| a.boot.saturating_add(1))
            .max(now.wall.0 / 1000);
        let (old_vtep, trusted, services) =
            old.as_ref().map_or((None, Vec::new(), Vec::new()), |a| {
                (a.vtep, a.trusted.clone(), a.services.clone())
            });
        let advert = NodeAdvert {
            node: me,
            serial: 0,
            boot,
            addresses: old
                .as_ref()
                .map(|a| a.addresses.clone())
                .unwrap_or_default(),
            networks: old.map(|a| a.networks).unwrap_or_default(),
            version: version.chars().take(VERSION_TEXT_MAX / 4).collect(),
            // As it was: what goes by the kernel goes on over a restart. Said anew once the host's addresses are known.
            vtep: old_vtep,
            trusted,
            links: links
                .iter()
                .map(|link| LinkAdvert {
                    name: link.name.clone(),
                    address: link.address,
                })
                .collect(),
            // Likewise, until it is known which of them are still there.
            services,
        };
        directory.publish(Record::Node(advert), now, out)?;
        let mut this = Self {
            mesh,
            peers: Peers::new(me, mesh, seed, now.moment),
            links: Links::new(me, mesh, links, seed.rotate_left(41)),
            swim: Swim::new(me, boot, seed.rotate_left(17)),
            invites: Invites::new(mesh, mesh_name, state),
            directory,
            keyring,
            changes: BTreeSet::new(),
            silent: BTreeSet::new(),
            in_kernel: BTreeSet::new(),
            given: (BTreeSet::new(), now.moment.plus_ms(START_MS)),
            next_tick: now.moment.plus_ms(TICK_MS),
            next_summary: now.moment.plus_ms(SUMMARY_MS),
            settles: None,
            settled: false,
        };
        let others: Vec<NodeId> = this.directory.members().map(|m| m.node).collect();
        for node in others.into_iter().filter(|node| *node != me) {
            if this
                .directory
                .advert(node)
                .is_some_and(|advert| advert.vtep.is_some())
            {
                this.given.0.insert(node);
                this.directory.set_reachable(node, true, out);
            }
        }
        this.follow_up(now, out);
        Ok(this)
    }

    /// Something about a QUIC connection.
    pub fn session(&mut self, event: SessionEvent, now: Now, out: &mut Outbox) {
        match event {
            SessionEvent::Connected {
                session,
                key,
                remote,
                dialed,
            } => {
                self.peers
                    .connected(session, key, remote, dialed, &self.directory, now, out);
            }
            SessionEvent::LinkConnected {
                session,
                key,
                way,
                remote,
                dialed,
            } => {
                let directory = &self.directory;
                self.links
                    .connected(session, (key, way), remote, dialed, directory, now, out);
            }
            SessionEvent::LinkDialFailed { node, way, reason } => {
                self.links.dial_failed(node, way, &reason, now);
            }
            SessionEvent::Closed { session, reason }
                if self.links.standing(session) != LinkStanding::Unknown =>
            {
                let standing = self.links.standing(session);
                self.links
                    .closed(session, &reason, &self.directory, now, out);
                if let LinkStanding::Proven(node) = standing {
                    self.refresh(node, out);
                }
            }
            SessionEvent::Closed { session, reason } => {
                let turn = self
                    .peers
                    .closed(session, &reason, &self.directory, now, out);
                self.turn(turn, now, out);
            }
            SessionEvent::Shrank { session, was, mtu } => {
                if let Some(node) = self.peer_of(session) {
                    let name = self.directory.member(node).map(|m| m.name.to_string());
                    out.push(Output::Notice(Notice::PathShrank {
                        node,
                        name: name.unwrap_or_default(),
                        was,
                        mtu,
                    }));
                }
            }
            SessionEvent::DialFailed { node, reason } => self.peers.dial_failed(node, &reason, now),
        }
        self.follow_up(now, out);
    }

    /// A message on a session; what is for others comes back, with the proven sender.
    pub fn message(
        &mut self,
        session: SessionId,
        message: Message,
        now: Now,
        out: &mut Outbox,
    ) -> Option<(NodeId, PeerMessage)> {
        let answer = match (self.links.standing(session), self.peers.standing(session)) {
            (LinkStanding::Proven(_), _) if matches!(message, Message::Goodbye(_)) => {
                if let Message::Goodbye(goodbye) = &message {
                    self.links.goodbye(session, goodbye);
                }
                None
            }
            // Control messages come by a link while the session is away.
            (LinkStanding::Proven(node), _) | (_, Standing::Proven(node)) => {
                self.peer_says(session, node, message, now, out)
            }
            (LinkStanding::Unproven, _) => {
                if self
                    .links
                    .stranger_says(session, &message, &mut self.directory, now, out)
                    && let LinkStanding::Proven(node) = self.links.standing(session)
                {
                    self.refresh(node, out);
                }
                None
            }
            (_, Standing::Unproven(key, remote)) => {
                self.stranger_says(session, key, remote, message, now, out);
                None
            }
            (_, Standing::Unknown) => None,
        };
        self.follow_up(now, out);
        answer
    }

    fn stranger_says(
        &mut self,
        session: SessionId,
        key: NodeId,
        remote: SocketAddr,
        message: Message,
        now: Now,
        out: &mut Outbox,
    ) {
        match message {
            Message::Hello(hello) => {
                let turn = self
                    .peers
                    .hello(session, &hello, &mut self.directory, now, out);
                self.turn(turn, now, out);
                if let Turn::Up(_) = turn
                    && self.peers.is_dialer(session)
                {
                    // One of the two starts; the other's digest comes with the answer.
                    self.send_digests(session, out);
                }
            }
            Message::Join(request) => {
                let answer = self.invites.redeem(
                    &request,
                    key,
                    remote,
                    &mut self.directory,
                    &*self.keyring,
                    now,
                    out,
                );
                out.push(Output::Message {
                    session,
                    message: Message::Joined(answer),
                });
                self.peers.hang_up(session, "answered", out);
            }
            Message::Goodbye(goodbye) => self.peers.goodbye(session, goodbye),
            _ => {
                let why = "it spoke before it said who it is";
                self.peers.refuse(
                    session,
                    Goodbye::Refused("say Hello first".into()),
                    why,
                    now,
                    out,
                );
            }
        }
    }

    fn peer_says(
        &mut self,
        session: SessionId,
        node: NodeId,
        message: Message,
        now: Now,
        out: &mut Outbox,
    ) -> Option<(NodeId, PeerMessage)> {
        match message {
            Message::Goodbye(goodbye) => self.peers.goodbye(session, goodbye),
            Message::Swim(packet) => {
                let directory = &self.directory;
                let boot_of = |node| {
                    let boot = directory.advert(node).map_or(0, |a| a.boot);
                    directory.in_good_standing(node, now.wall).then_some(boot)
                };
                let swum = self.swim.packet(node, &packet, boot_of, now);
                self.swum(swum, now, out);
            }
            Message::Records(records) => {
                for signed in records.iter().take(RECORDS_MAX) {
                    // One that is not taken here says nothing about the one who passed it on; but whoever did has checked
                    // its signature, or is no honest node.
                    if let Err(AcceptError::Record(why)) =
                        self.directory.accept(signed, Some(node), now, out)
                    {
                        let reason = format!("it passed on a record that does not hold: {why}");
                        self.links
                            .close(node, &Goodbye::Refused(reason.clone()), out);
                        let turn = self
                            .peers
                            .expel(session, &reason, &self.directory, now, out);
                        self.turn(turn, now, out);
                        break;
                    }
                }
            }
            Message::Summary(theirs) => {
                if theirs != self.directory.summary() && self.peers.may_ask(session, now.moment) > 0
                {
                    self.peers.asked(session, 1);
                    self.send_digests(session, out);
                }
            }
            Message::Digest {
                from,
                to,
                have,
                reply,
            } => {
                let most = self.peers.may_ask(session, now.moment);
                if most > 0 {
                    let newer = self.directory.newer_than(from, to, &have, most);
                    self.peers.asked(session, newer.len());
                    for chunk in newer {
                        out.push(Output::Message {
                            session,
                            message: Message::Records(chunk),
                        });
                    }
                    if reply {
                        let have = self.directory.digest_of(from, to);
                        out.push(Output::Message {
                            session,
                            message: Message::Digest {
                                from,
                                to,
                                have,
                                reply: false,
                            },
                        });
                    }
                }
            }
            Message::PoolRequest(request) => {
                return Some((node, PeerMessage::PoolRequest(request)));
            }
            Message::PoolGrant(grant) => return Some((node, PeerMessage::PoolGrant(grant))),
            Message::Paths(reports) => return Some((node, PeerMessage::Paths(reports))),
            Message::Inquiry(word) => return Some((node, PeerMessage::Inquiry(word))),
            Message::Groups(report) => return Some((node, PeerMessage::Groups(report))),
            // Once is enough; and a member needs no invite.
            Message::Hello(_) | Message::Join(_) | Message::Joined(_) => {}
        }
        None
    }

    fn send_digests(&self, session: SessionId, out: &mut Outbox) {
        for (from, to, have) in self.directory.digest() {
            out.push(Output::Message {
                session,
                message: Message::Digest {
                    from,
                    to,
                    have,
                    reply: true,
                },
            });
        }
    }

    /// Has this run heard from its mesh what there is: was there a peer, and time for the first exchange?
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    fn turn(&mut self, turn: Turn, now: Now, out: &mut Outbox) {
        match turn {
            Turn::Same => {}
            Turn::Up(node) => {
                self.settles
                    .get_or_insert(now.moment.plus_ms(FIRST_SYNC_MS));
                self.refresh(node, out);
                let swum = self.swim.announce(node, now);
                self.swum(swum, now, out);
            }
            Turn::Down(node) => self.refresh(node, out),
        }
    }

    fn swum(&mut self, swum: Swum, now: Now, out: &mut Outbox) {
        for (node, packet) in swum.packets {
            // No session: lost.
            self.send(node, Message::Swim(packet), out);
        }
        for finding in swum.findings {
            let (Finding::Alive(node) | Finding::Dead(node)) = finding;
            if let Finding::Dead(_) = finding {
                // A session without frames may not have noticed: what it is asked it must answer.
                self.send(node, Message::Summary(self.directory.summary()), out);
            }
            self.refresh(node, out);
            self.peers.dial_soon(node, now);
        }
        if let Some(boot) = swum.outlived
            && let Some(advert) = self.own_advert().cloned()
        {
            let advert = NodeAdvert {
                boot: boot.max(advert.boot),
                ..advert
            };
            let _ = self.directory.publish(Record::Node(advert), now, out);
        }
    }

    /// A boot of its own advert that is later than the life in which this node swims: it goes on in that one.
    fn keep_up(&mut self, now: Now, out: &mut Outbox) {
        let boot = self.own_advert().map_or(0, |advert| advert.boot);
        if !self.swim.rise(boot) {
            return;
        }
        let peers: Vec<NodeId> = self.peers.all_proven().map(|(node, _)| node).collect();
        for node in peers {
            let swum = self.swim.announce(node, now);
            self.swum(swum, now, out);
        }
    }

    #[cfg(test)]
    pub(crate) fn swim(&self) -> &Swim {
        &self.swim
    }

    fn refresh(&mut self, node: NodeId, out: &mut Outbox) {
        let (before, after) = (self.directory.reachable(node), self.reaches(node));
        if before != after {
            self.directory.set_reachable(node, after, out);
            let name = self
                .directory
                .member(node)
                .map(|m| m.name.to_string())
                .unwrap_or_default();
            out.push(Output::Notice(if after {
                Notice::NodeAlive { node, name }
            } else {
                Notice::NodeDead { node, name }
            }));
        }
    }

    /// After each call: news go out, and changes reach the machines that they concern.
    fn follow_up(&mut self, now: Now, out: &mut Outbox) {
        self.keep_up(now, out);
        self.spread(out);
        let changes = self.directory.take_changes();
        for change in &changes {
            match change {
                Change::Revoked(node) => {
                    self.peers
                        .close(*node, Goodbye::Revoked, &self.directory, out);
                    self.links.close(*node, &Goodbye::Revoked, out);
                    let swum = self.swim.forget(*node, now);
                    self.swum(swum, now, out);
                    self.refresh(*node, out);
                }
                Change::Node(node) => self.peers.dial_soon(*node, now),
                _ => {}
            }
        }
        if changes
            .iter()
            .any(|c| matches!(c, Change::Members | Change::Node(_) | Change::Revoked(_)))
        {
            self.peers.plan(&self.directory, now);
            self.links.plan(&self.directory, now);
        }
        self.changes.extend(changes);
        // Reachability may have changed by what was just done.
        self.changes.extend(self.directory.take_changes());
    }

    fn spread(&mut self, out: &mut Outbox) {
        let mut by_source: std::collections::BTreeMap<Option<NodeId>, Vec<Signed>> =
            std::collections::BTreeMap::new();
        for (signed, from) in self.directory.take_fresh() {
            by_source.entry(from).or_default().push(signed);
        }
        for (from, records) in by_source {
            let sessions = match from {
                None => self
                    .directory
                    .members()
                    .filter_map(|m| self.control(m.node))
                    .collect(),
                Some(_) if records.len() > RELAYED_MAX => Vec::new(),
                Some(peer) => self.peers.some_of(RELAYS, Some(peer)),
            };
            send_records(records, &sessions, out);
        }
    }

    /// What the records changed since the last call. Ask after each call of any method here that takes an outbox.
    pub fn take_changes(&mut self) -> Vec<Change> {
        core::mem::take(&mut self.changes).into_iter().collect()
    }

    /// Says goodbye to all.
    pub fn stop(&mut self, now: Now, out: &mut Outbox) {
        let swum = self.swim.leave(now);
        self.swum(swum, now, out);
        let peers: Vec<NodeId> = self.peers.all_proven().map(|(node, _)| node).collect();
        for node in peers {
            self.peers
                .close(node, Goodbye::Stopping, &self.directory, out);
        }
        for node in self.links.nodes().collect::<BTreeSet<_>>() {
            self.links.close(node, &Goodbye::Stopping, out);
        }
    }

    /// When to call [`Self::handle_timeout`], and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Moment, &'static str)> {
        let own = [
            (self.next_tick, "expiry is looked at"),
            (self.next_summary, "a peer hears a summary"),
        ];
        let swim = self.swim.poll_timeout().map(|at| (at, "SWIM"));
        own.into_iter()
            .chain(swim)
            .chain(self.peers.poll_timeout())
            .chain(self.links.poll_timeout())
            .min_by_key(|(at, _)| *at)
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now, out: &mut Outbox) {
        if self.given.1 <= now.moment {
            for node in std::mem::take(&mut self.given.0) {
                self.refresh(node, out);
            }
        }
        if self.next_tick <= now.moment {
            self.next_tick = now.moment.plus_ms(TICK_MS);
            self.tick(now, out);
        }
        if self.next_summary <= now.moment {
            self.next_summary = now.moment.plus_ms(SUMMARY_MS);
            for session in self.peers.some_of(1, None) {
                out.push(Output::Message {
                    session,
                    message: Message::Summary(self.directory.summary()),
                });
            }
        }
        let swum = self.swim.handle_timeout(now);
        self.swum(swum, now, out);
        self.peers.handle_timeout(&self.directory, now, out);
        self.links.handle_timeout(now, out);
        self.follow_up(now, out);
    }

    fn tick(&mut self, now: Now, out: &mut Outbox) {
        self.directory.expire(now, out);
        self.invites.sweep(now, out);
        let expired: BTreeSet<NodeId> = self
            .peers
            .all_proven()
            .map(|(node, _)| node)
            .chain(self.links.nodes())
            .filter(|node| !self.directory.in_good_standing(*node, now.wall))
            .collect();
        for node in expired {
            let goodbye = Goodbye::Refused("the membership has expired; invite it again".into());
            self.links.close(node, &goodbye, out);
            let turn = self.peers.close(node, goodbye, &self.directory, out);
            let swum = self.swim.forget(node, now);
            self.swum(swum, now, out);
            self.turn(turn, now, out);
        }
        if !self.settled && self.settles.is_some_and(|at| at <= now.moment) {
            self.settled = true;
            self.directory.settle();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
