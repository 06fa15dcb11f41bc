//! By which session each peer is reached, and what is sent to it there.

use super::{Mesh, PeerView};
use crate::ident::{Moment, NodeId, Now, SessionId};
use crate::links::{LinkSpec, LinkView};
use crate::node::Output;
use crate::outbox::Outbox;
use crate::peers::{REVOKED_HERE, Standing};
use crate::steering::WayId;
use crate::wire::control::Message;
use std::collections::BTreeSet;
use std::net::SocketAddr;

impl Mesh {
    /// True if frames for the node have a way, or will have one again in a moment: see the head of this file.
    #[must_use]
    pub fn reaches(&self, node: NodeId) -> bool {
        !self.directory.is_revoked(node)
            && (self.peers.session_of(node).is_some()
                || self.links.up(node).next().is_some()
                || self.swim.alive(node)
                || self.in_kernel.contains(&node)
                || self.given.0.contains(&node))
    }

    /// The nodes whose kernels forward to us.
    pub fn set_in_kernel(&mut self, nodes: BTreeSet<NodeId>, now: Now, out: &mut Outbox) {
        if nodes == self.in_kernel {
            return;
        }
        let before = std::mem::replace(&mut self.in_kernel, nodes);
        let changed: Vec<NodeId> = before
            .symmetric_difference(&self.in_kernel)
            .copied()
            .collect();
        for node in changed {
            self.refresh(node, out);
        }
        self.follow_up(now, out);
    }

    /// Where what is to be said to a peer goes: its session; while that is away or silent, a link.
    pub(super) fn control(&self, node: NodeId) -> Option<SessionId> {
        let heard = |_: &SessionId| !self.silent.contains(&node);
        let main = self.peers.session_of(node);
        let link = || self.links.up(node).next().map(|(_, session)| session);
        main.filter(heard).or_else(link).or(main)
    }

    /// The peers whose sessions are silent, while links with them are not.
    pub fn set_silent(&mut self, nodes: BTreeSet<NodeId>) {
        self.silent = nodes;
    }

    /// The underlay links of this node.
    #[must_use]
    pub fn links(&self) -> &[LinkSpec] {
        self.links.own()
    }

    /// The links with a peer.
    #[must_use]
    pub fn links_with(&self, node: NodeId) -> Vec<LinkView> {
        self.links.views(node, &self.directory)
    }

    /// The connection of one way to a peer.
    #[must_use]
    pub fn session_by(&self, node: NodeId, way: WayId) -> Option<SessionId> {
        if way == WayId::MAIN {
            return self.peers.session_of(node);
        }
        let mut up = self.links.up(node);
        up.find_map(|(up, session)| (up == way).then_some(session))
    }

    /// Sends to a peer; false if there is neither a proven session nor a link.
    pub fn send(&mut self, node: NodeId, message: Message, out: &mut Outbox) -> bool {
        let session = self.control(node);
        if let Some(session) = session {
            out.push(Output::Message { session, message });
        }
        session.is_some()
    }

    /// The proven session with a peer.
    #[must_use]
    pub fn session_of(&self, node: NodeId) -> Option<SessionId> {
        self.peers.session_of(node)
    }

    /// Nodes whose key two hosts have: where the one with the session is, and where the other was last.
    pub fn twins(&self, now: Moment) -> impl Iterator<Item = (NodeId, SocketAddr, SocketAddr)> {
        self.peers.twins(now)
    }

    /// The member behind a proven session.
    #[must_use]
    pub fn peer_of(&self, session: SessionId) -> Option<NodeId> {
        match self.peers.standing(session) {
            Standing::Proven(node) => Some(node),
            _ => None,
        }
    }

    /// All other members and how they stand.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerView> {
        let others = self
            .directory
            .members()
            .map(|m| m.node)
            .filter(|node| *node != self.directory.me());
        let view = |node: NodeId| {
            let session = self.peers.session_of(node);
            let described = session.and_then(|session| self.peers.describe(session));
            PeerView {
                node,
                session,
                remote: described.map(|(remote, ..)| remote),
                dialed: described.is_some_and(|(_, dialed, _)| dialed),
                since: described.and_then(|(.., since)| since),
                alive: self.swim.alive(node),
                last_error: if self.directory.is_revoked(self.directory.me()) {
                    Some(REVOKED_HERE.to_owned())
                } else {
                    self.peers.last_error(node).map(ToOwned::to_owned)
                },
            }
        };
        others.map(view).collect()
    }
}
