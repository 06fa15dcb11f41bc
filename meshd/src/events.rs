//! Events: notices with a time and a number, remembered in a ring, told to who listens, and logged.
//!
//! Owns the ring. What strangers and members can bring about as often as they like is told a few times a second only; the
//! rest is counted, and the number told, so that a flood hides nothing else and fills no disk.

use meshd_core::ident::WallTime;
use meshd_core::notice::Notice;
use meshd_core::view::Event;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use tokio::sync::broadcast;

/// Events that are remembered.
const RING_MAX: usize = 1000;
/// Events that a slow listener may lag behind before it misses some.
const LAG_MAX: usize = 256;

/// Of each [`what_floods`]: told at once, and one more each so many ms.
const FLOOD: (u64, u64) = (50, 500);

/// The ring and its listeners.
pub(crate) struct Events {
    ring: Mutex<Ring>,
    listeners: broadcast::Sender<Event>,
}

#[derive(Default)]
struct Ring {
    events: VecDeque<Event>,
    next: u64,
    floods: BTreeMap<&'static str, Flood>,
}

struct Flood {
    left: u64,
    at: WallTime,
    held_back: u64,
}

impl Ring {
    /// What to tell: the notice and, before it, how many like it were held back; nothing, if it is held back itself.
    fn admit(&mut self, at: WallTime, notice: Notice) -> Vec<Notice> {
        let Some(what) = what_floods(&notice) else {
            return vec![notice];
        };
        let flood = self.floods.entry(what).or_insert(Flood {
            left: FLOOD.0,
            at,
            held_back: 0,
        });
        // A clock that is set back earns nothing for a while, and loses nothing.
        let earned = at.0.saturating_sub(flood.at.0) / FLOOD.1;
        if earned > 0 {
            flood.left = flood.left.saturating_add(earned).min(FLOOD.0);
            flood.at = at;
        }
        if flood.left == 0 {
            flood.held_back += 1;
            return Vec::new();
        }
        flood.left -= 1;
        match std::mem::take(&mut flood.held_back) {
            0 => vec![notice],
            count => vec![
                Notice::HeldBack {
                    what: what.to_owned(),
                    count,
                },
                notice,
            ],
        }
    }

    fn push(&mut self, at: WallTime, notice: Notice) -> Event {
        let event = Event::of(self.next, at.0, notice);
        self.next += 1;
        if self.events.len() == RING_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event.clone());
        event
    }
}

/// Others can bring these about without end.
fn what_floods(notice: &Notice) -> Option<&'static str> {
    match notice {
        Notice::PeerRefused { .. } => Some("refused peers"),
        Notice::InviteRefused { .. } => Some("refused invites"),
        Notice::MacConflict { .. } | Notice::IpConflict { .. } | Notice::NameConflict { .. } => {
            Some("claims that conflict")
        }
        Notice::NetworkConflict { .. }
        | Notice::NetworkAdded { .. }
        | Notice::NetworkRemoved { .. } => Some("networks"),
        _ => None,
    }
}

impl Events {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self {
            ring: Mutex::default(),
            listeners: broadcast::Sender::new(LAG_MAX),
        }
    }

    /// One more. The oldest is forgotten if there are too many.
    pub(crate) fn tell(&self, at: WallTime, notice: Notice) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        for notice in ring.admit(at, notice) {
            let event = ring.push(at, notice);
            log(&event);
            // Under the lock, so that no listener misses one or sees it twice.
            let _ = self.listeners.send(event);
        }
    }

    /// What is remembered, and all that follows.
    pub(crate) fn subscribe(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        (
            ring.events.iter().cloned().collect(),
            self.listeners.subscribe(),
        )
    }
}

fn log(event: &Event) {
    let text = &event.text;
    match &event.notice {
        Notice::PeerRefused { .. }
        | Notice::InviteRefused { .. }
        | Notice::PortFailed { .. }
        | Notice::PathShrank { .. }
        | Notice::LinkDown { .. }
        | Notice::HeldBack { .. }
        | Notice::KernelTrouble { .. }
        | Notice::KernelRepaired { .. }
        | Notice::BridgeFiltered { .. }
        | Notice::StateUnkept { .. }
        | Notice::PluginQuarantined { .. }
        | Notice::Refused { .. } => {
            tracing::warn!(target: "meshd::events", "{text}");
        }
        Notice::MacConflict { .. }
        | Notice::IpConflict { .. }
        | Notice::NameConflict { .. }
        | Notice::NetworkConflict { .. } => {
            tracing::warn!(target: "meshd::events", "{text}");
        }
        Notice::Epoch { .. } => tracing::debug!(target: "meshd::events", "{text}"),
        _ => tracing::info!(target: "meshd::events", "{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_told_in_part_and_counted_and_hides_nothing_else() {
        let events = Events::new();
        let refused = || Notice::PeerRefused {
            remote: "x".to_owned(),
            reason: "y".to_owned(),
        };
        for ms in 0..10_000 {
            events.tell(WallTime(1000 + ms / 10), refused());
        }
        events.tell(
            WallTime(2000),
            Notice::Epoch {
                epoch: meshd_core::ident::Epoch(1),
            },
        );
        events.tell(WallTime(60_000), refused());
        let (told, _) = events.subscribe();
        let count = |what: fn(&Notice) -> bool| told.iter().filter(|e| what(&e.notice)).count();
        let seen = count(|n| matches!(n, Notice::PeerRefused { .. }));
        assert!((50..60).contains(&seen), "{seen}");
        assert_eq!(count(|n| matches!(n, Notice::Epoch { .. })), 1);
        let held_back: u64 = told
            .iter()
            .map(|e| match &e.notice {
                Notice::HeldBack { count, .. } => *count,
                _ => 0,
            })
            .sum();
        assert_eq!(held_back + seen as u64, 10_001);
    }
}
