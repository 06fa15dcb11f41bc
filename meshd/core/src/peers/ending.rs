//! How sessions end: by the far end, by this node, with what words, and what that means for the next dial.

use super::{BACKOFF_MS_MAX, BACKOFF_MS_MIN, Peers, Turn, name_of};
use crate::directory::Directory;
use crate::ident::{NodeId, Now, SessionId, escape};
use crate::node::Output;
use crate::notice::Notice;
use crate::outbox::Outbox;
use crate::wire::control::{Goodbye, Message};

/// Longest text of a far end that is kept, in characters.
const WORDS_MAX: usize = 200;

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

/// Why this node hangs up, for people.
fn own_words(goodbye: &Goodbye) -> String {
    match goodbye {
        Goodbye::Refused(why) | Goodbye::Busy(why) => why.clone(),
        Goodbye::Revoked => "revoked".to_owned(),
        Goodbye::Stopping => "this node stops".to_owned(),
        Goodbye::Superseded => "superseded".to_owned(),
    }
}

/// Tells the far end why, and hangs up.
pub(crate) fn part(session: SessionId, goodbye: Goodbye, out: &mut Outbox) {
    let reason = own_words(&goodbye);
    out.push(Output::Message {
        session,
        message: Message::Goodbye(goodbye),
    });
    out.push(Output::Hangup { session, reason });
}

impl Peers {
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
        let reason = own_words(&goodbye);
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

    pub(super) fn drop_session(&mut self, session: SessionId, goodbye: Goodbye, out: &mut Outbox) {
        if self.sessions.remove(&session).is_some() {
            part(session, goodbye, out);
        }
    }
}
