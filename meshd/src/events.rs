//! Events: notices with a time and a number, remembered in a ring, told to who listens, and logged.

use meshd_core::ident::WallTime;
use meshd_core::notice::Notice;
use meshd_core::view::Event;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use tokio::sync::broadcast;

/// Events that are remembered.
const RING_MAX: usize = 1000;
/// Events that a slow listener may lag behind before it misses some.
const LAG_MAX: usize = 256;

/// The ring and its listeners.
pub(crate) struct Events {
    ring: Mutex<Ring>,
    listeners: broadcast::Sender<Event>,
}

#[derive(Default)]
struct Ring {
    events: VecDeque<Event>,
    next: u64,
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
        let event = Event::of(ring.next, at.0, notice);
        ring.next += 1;
        log(&event);
        if ring.events.len() == RING_MAX {
            ring.events.pop_front();
        }
        ring.events.push_back(event.clone());
        // Under the lock, so that no listener misses one or sees it twice.
        let _ = self.listeners.send(event);
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
