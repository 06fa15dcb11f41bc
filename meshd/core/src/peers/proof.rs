//! The proof: a Hello with a membership statement, and what follows from it.
//!
//! Owns who becomes a peer, and which of two sessions of one peer stays. Believes the key of the connection, and what the root signed for
//! it.

use super::{Peers, Session, Turn, name_of};
use crate::directory::Directory;
use crate::ident::{MeshId, NodeId, Now, SessionId};
use crate::node::Output;
use crate::notice::Notice;
use crate::outbox::Outbox;
use crate::wire::control::{Goodbye, Hello, Message, VERSION};
use crate::wire::record::{Record, RecordKey};
use std::net::SocketAddr;

/// Of two sessions that one node dialed, the earlier one by its clock stays if it is so much earlier: no two proofs are so
/// far apart, so its clock was set back.
const CLOCK_SET_BACK_MS: u64 = 30_000;

/// What this node says first; `None`: it has no statement to show.
pub(crate) fn own_hello(
    me: NodeId,
    mesh: MeshId,
    dialed: u64,
    directory: &Directory,
) -> Option<Hello> {
    let membership = directory.signed(&RecordKey::Membership(me))?.clone();
    Some(Hello {
        version: VERSION,
        mesh,
        membership,
        dialed,
    })
}

/// Shows the far end of a session that this node is a member; says nothing while it has no proof of it.
pub(crate) fn say_hello(session: SessionId, hello: Option<Hello>, out: &mut Outbox) {
    if let Some(hello) = hello {
        let message = Message::Hello(hello);
        out.push(Output::Message { session, message });
    }
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

/// Why one of two hosts with one key is refused.
fn two_hosts(name: &str, here: SocketAddr, there: SocketAddr) -> String {
    format!(
        "two hosts run with the key of {name}, at {here} and at {there}: stop one, remove its state folder, and let it join by an invite of its own"
    )
}

impl Peers {
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
            let hello = own_hello(self.me, self.mesh, 0, directory);
            say_hello(session, hello, out);
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
        let remote_of = |session| Some(self.sessions.get(&session)?.remote);
        let places = before.and_then(|old| Some((remote_of(old)?, remote_of(session)?)));
        if let Some((old, new)) = places {
            if self.twins.refuses(key, old, new, now.moment) {
                let why = two_hosts(&name_of(directory, key), old, new);
                self.refuse(session, Goodbye::Refused(why.clone()), &why, now, out);
                return Turn::Same;
            }
            self.twins.replaced(key, old, new, now.moment);
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
}
