//! Events: notices with a time and a number, remembered in a ring in memory and on disk, told to who listens, and logged.
//!
//! Owns the ring, and the numbers, which grow over restarts. What strangers and members can bring about as often as they like is told a few times a second only; the
//! rest is counted, and the number told, so that a flood hides nothing else and fills no disk.

mod log;
mod shelf;
mod wanted;

pub(crate) use shelf::FILE;
pub use wanted::Wanted;

use log::log;
use meshd_core::code::ErrorCode;
use meshd_core::ident::WallTime;
use meshd_core::notice::Notice;
use meshd_core::view::Event;
use shelf::Shelf;
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use tokio::sync::broadcast;

/// Events that are remembered.
const RING_MAX: usize = 10_000;
/// Their bytes, as JSON.
const BYTES_MAX: usize = 8 << 20;
/// Events that a slow listener may lag behind before it misses some.
const LAG_MAX: usize = 256;

/// Of each [`what_floods`]: told at once, and one more each so many ms.
const FLOOD: (u64, u64) = (50, 500);

/// The ring and its listeners.
pub(crate) struct Events {
    ring: Mutex<Ring>,
    listeners: broadcast::Sender<Event>,
}

/// What somebody wants of the events.
pub struct Past {
    /// Those that are remembered, oldest first.
    pub events: Vec<Event>,
    /// Numbers behind the one that was asked for which are remembered no more.
    pub missed: u64,
    /// The number that was asked for was given to no event yet: it is of another life of the node, and `events` are all of this one.
    pub anew: bool,
    /// Those that follow, wanted or not; the first may be among `events`.
    pub coming: broadcast::Receiver<Event>,
}

#[derive(Default)]
struct Ring {
    /// With the bytes of each.
    events: VecDeque<(Event, usize)>,
    bytes: usize,
    next: u64,
    floods: BTreeMap<&'static str, Flood>,
    shelf: Option<Shelf>,
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
        // Text, numbers and maps with text for keys: it can be written.
        let line = serde_json::to_vec(&event).unwrap_or_default();
        self.bytes += line.len();
        self.events.push_back((event.clone(), line.len()));
        self.bound();
        if let Some(shelf) = &self.shelf {
            shelf.put(event.seq, line);
        }
        event
    }

    fn bound(&mut self) {
        while self.events.len() > RING_MAX || self.bytes > BYTES_MAX {
            let Some((_, bytes)) = self.events.pop_front() else {
                return;
            };
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }
}

/// Others can bring these about without end.
fn what_floods(notice: &Notice) -> Option<&'static str> {
    match notice {
        Notice::PeerRefused { .. } => Some("refused peers"),
        Notice::InviteRefused { .. } => Some("refused invites"),
        Notice::MacConflict { .. }
        | Notice::IpConflict { .. }
        | Notice::NameConflict { .. }
        | Notice::ServiceRefused { .. }
        | Notice::ServiceDiffers { .. }
        | Notice::ServiceHidden { .. } => Some("claims that conflict"),
        Notice::NetworkConflict { .. }
        | Notice::NetworkAdded { .. }
        | Notice::NetworkRemoved { .. } => Some("networks"),
        _ => None,
    }
}

impl Events {
    /// Those that the state folder remembers; the run begins with a notice. Where they cannot be kept they are remembered in
    /// memory, and the log says so.
    pub(crate) fn open(dir: &Path, at: WallTime) -> Self {
        let mut ring = Ring {
            next: 1,
            ..Ring::default()
        };
        let mut clean = true;
        match Shelf::open(dir) {
            Ok((shelf, found)) => {
                ring.bytes = found.events.iter().map(|(_, bytes)| bytes).sum();
                (ring.events, ring.next, clean) = (found.events, found.next, found.clean);
                ring.shelf = Some(shelf);
                ring.bound();
            }
            Err(error) => {
                tracing::warn!(
                    code = %ErrorCode::EventsUnkept, "events cannot be kept in {} ({error}); they are remembered in memory alone",
                    dir.display()
                );
            }
        }
        let events = Self {
            ring: Mutex::new(ring),
            listeners: broadcast::Sender::new(LAG_MAX),
        };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        events.tell(at, Notice::Started { version, clean });
        events
    }

    /// Writes what is not on disk yet; nothing more is kept there.
    pub(crate) fn close(&self) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        // Its drop waits for the disk.
        drop(ring.shelf.take());
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

    /// What is remembered and wanted, and all that follows.
    pub(crate) fn subscribe(&self, wanted: &Wanted) -> Past {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wanted = wanted.clone();
        // A number of another life of this node: what it has seen is not known here.
        let anew = wanted.after.is_some_and(|after| after >= ring.next);
        if anew {
            wanted.after = None;
        }
        let first = ring
            .events
            .front()
            .map_or(ring.next, |(event, _)| event.seq);
        let missed = wanted
            .after
            .map_or(0, |after| first.saturating_sub(after.saturating_add(1)));
        let events = ring.events.iter().rev().map(|(event, _)| event);
        let mut events: Vec<Event> = events
            .filter(|event| wanted.takes(event))
            .take(wanted.last.unwrap_or(RING_MAX))
            .cloned()
            .collect();
        events.reverse();
        Past {
            events,
            missed,
            anew,
            coming: self.listeners.subscribe(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn epoch(n: u64) -> Notice {
        Notice::Epoch {
            epoch: meshd_core::ident::Epoch(n),
        }
    }

    fn all(events: &Events) -> Vec<Event> {
        events.subscribe(&Wanted::default()).events
    }

    #[test]
    fn a_flood_of_refusals_is_told_in_part_and_counted_and_hides_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let events = Events::open(folder.path(), WallTime(0));
        let refused = || Notice::PeerRefused {
            remote: "x".to_owned(),
            reason: "y".to_owned(),
        };
        for ms in 0..10_000 {
            events.tell(WallTime(1000 + ms / 10), refused());
        }
        events.tell(WallTime(2000), epoch(1));
        events.tell(WallTime(60_000), refused());
        let told = all(&events);
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

    #[test]
    fn events_and_their_numbers_go_on_over_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let first = Events::open(folder.path(), WallTime(0));
        for n in 0..20 {
            first.tell(WallTime(n), epoch(n));
        }
        first.close();
        let told = all(&first);
        let second = Events::open(folder.path(), WallTime(100));
        let again = all(&second);
        assert_eq!(again[..told.len()], told[..]);
        let [.., last] = &again[..] else { panic!() };
        assert_eq!(last.seq, told.len() as u64 + 1);
        assert!(matches!(last.notice, Notice::Started { clean: true, .. }));
    }

    #[test]
    fn after_a_kill_no_number_is_used_twice_and_the_next_run_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let killed = Events::open(folder.path(), WallTime(0));
        for n in 0..50 {
            killed.tell(WallTime(n), epoch(n));
        }
        let seen = all(&killed).last().unwrap().seq;
        // As the disk is before the first batch.
        let other = tempfile::tempdir().unwrap();
        std::fs::copy(
            folder.path().join("events.redb"),
            other.path().join("events.redb"),
        )
        .unwrap();
        let next = Events::open(other.path(), WallTime(100));
        let told = all(&next);
        let started = told.last().unwrap();
        assert!(matches!(
            started.notice,
            Notice::Started { clean: false, .. }
        ));
        assert!(started.seq > seen, "{} after {seen}", started.seq);
    }

    #[test]
    fn the_ring_is_bounded_on_disk_too_and_who_was_away_is_told_how_much_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let events = Events::open(folder.path(), WallTime(0));
        for n in 0..RING_MAX as u64 + 500 {
            events.tell(WallTime(n), epoch(n));
        }
        events.close();
        let size = folder.path().join("events.redb").metadata().unwrap().len();
        assert!(size < 32 << 20, "{size}");
        let again = Events::open(folder.path(), WallTime(0));
        let past = again.subscribe(&Wanted {
            after: Some(1),
            ..Wanted::default()
        });
        assert_eq!(past.events.len(), RING_MAX);
        let first = past.events.first().unwrap().seq;
        assert_eq!(past.missed, first - 2);
        // A number that no run has given.
        let strange = again.subscribe(&Wanted {
            after: Some(u64::MAX),
            ..Wanted::default()
        });
        assert_eq!((strange.events.len(), strange.missed), (RING_MAX, 0));
        assert!(strange.anew && !past.anew);
    }

    #[test]
    fn a_damaged_file_is_moved_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.redb");
        std::fs::write(&path, [7; 10_000]).unwrap();
        let events = Events::open(folder.path(), WallTime(0));
        assert_eq!(all(&events).len(), 1);
        events.close();
        assert_eq!(
            std::fs::read(folder.path().join("events.redb.damaged")).unwrap(),
            [7; 10_000]
        );
        assert_eq!(all(&Events::open(folder.path(), WallTime(0))).len(), 2);
    }

    #[test]
    fn events_are_chosen_by_what_they_are_about_by_word_and_by_time() {
        let folder = tempfile::tempdir().unwrap();
        let events = Events::open(folder.path(), WallTime(0));
        let port = meshd_core::ident::PortId(3);
        events.tell(WallTime(10), Notice::PortUnblocked { port });
        events.tell(WallTime(20), Notice::PortFarEnd { port, up: true });
        events.tell(WallTime(30), epoch(1));
        let count = |kinds: &str, since_ms| {
            let mut wanted = Wanted {
                since_ms,
                ..Wanted::default()
            };
            wanted.kinds(kinds).unwrap();
            events.subscribe(&wanted).events.len()
        };
        assert_eq!(count("", None), 4);
        assert_eq!(count("port", None), 2);
        assert_eq!(count("port-far-end,epoch", None), 2);
        assert_eq!(count("port,node", Some(20)), 2);
        assert!(Wanted::default().kinds("Port!").is_err());
        let last = events.subscribe(&Wanted {
            last: Some(2),
            ..Wanted::default()
        });
        let at: Vec<u64> = last.events.iter().map(|event| event.at_ms).collect();
        assert_eq!(at, [20, 30]);
    }
}
