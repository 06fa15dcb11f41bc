//! Sessions between hosts: who dials whom, what travels by a stream, and how one ends.

use super::*;

impl World {
    pub(super) fn new_lane(&mut self, at: usize, origin: Origin) {
        let seed = self.rng.random();
        self.hosts[at]
            .lanes
            .insert(origin, Lane::new(origin, LaneLimits::default(), seed));
    }

    pub(super) fn proven(&mut self, at: usize, session: SessionId, node: NodeId, way: WayId) {
        self.hosts[at].sessions.insert((node, way), session);
        let origin = Origin::Peer(node);
        // In the shell each connection has a lane; here the first one will do for all.
        if way == WayId::MAIN || !self.hosts[at].lanes.contains_key(&origin) {
            self.new_lane(at, origin);
        }
    }

    pub(super) fn dial(&mut self, from: usize, life: u64, node: NodeId, way: WayId, to: usize) {
        let delay = 3 * self.weather.message_ns(&mut self.rng);
        let event = Event::Connected {
            from,
            life,
            node,
            way,
            to,
        };
        self.later(delay, event);
    }

    /// Can anything pass between two hosts on this way?
    pub(super) fn open(&self, a: usize, b: usize, way: WayId) -> bool {
        !self.parting.parted(a, b) && !self.cut_ways.contains(&way)
    }

    pub(super) fn dial_failed(&mut self, at: usize, life: u64, node: NodeId, way: WayId) {
        let reason = "no answer".to_owned();
        let event = match way {
            WayId::MAIN => SessionEvent::DialFailed { node, reason },
            way => SessionEvent::LinkDialFailed { node, way, reason },
        };
        self.later(1000 * MS, Event::Input(at, life, Input::Session(event)));
    }

    pub(super) fn connected(
        &mut self,
        from: usize,
        life: u64,
        node: NodeId,
        way: WayId,
        to: usize,
    ) {
        let there =
            self.hosts[to].node.is_some() && self.id(to) == node && self.open(from, to, way);
        if self.hosts[from].life != life {
            return;
        }
        if !there {
            return self.dial_failed(from, life, node, way);
        }
        let session = self.session_id();
        let far = self.hosts[to].life;
        let ends = [(from, life), (to, far)];
        self.sessions.insert(
            session,
            Session {
                ends,
                way,
                up: true,
                queues: Default::default(),
                silent_since: None,
                heard: 0,
            },
        );
        self.later(500 * MS, Event::Idle(session));
        let event = |key, far: usize, dialed| match way.nth_link() {
            None => SessionEvent::Connected {
                session,
                key,
                remote: address(far),
                dialed,
            },
            Some(nth) => SessionEvent::LinkConnected {
                session,
                key,
                way,
                remote: link_address(far, nth),
                dialed,
            },
        };
        let mine = event(node, to, true);
        let theirs = event(self.id(from), from, false);
        self.input(to, far, Input::Session(theirs));
        self.input(from, life, Input::Session(mine));
    }

    pub(super) fn post(&mut self, from: usize, session: SessionId, parcel: Parcel) {
        let Some(state) = self.sessions.get_mut(&session) else {
            // The session of a newcomer that joins.
            if let Parcel::Message(Message::Joined(answer)) = parcel {
                let welcome = answer.expect("the invite holds");
                let newcomer = self.hosts.last_mut().unwrap();
                newcomer.membership = Some(welcome.membership);
                newcomer.records = welcome.records;
            }
            return;
        };
        if !state.up {
            return;
        }
        let end = usize::from(state.ends[0].0 == from);
        let queue = &mut state.queues[end];
        queue.push_back(parcel);
        if queue.len() == 1 {
            let delay = self.weather.message_ns(&mut self.rng);
            self.later(delay, Event::Pump(session, end));
        }
    }

    pub(super) fn pump(&mut self, session: SessionId, end: usize) {
        let Some(state) = self.sessions.get_mut(&session) else {
            return;
        };
        let [a, b] = state.ends;
        if !state.up {
            return;
        }
        let way = state.way;
        if !self.open(a.0, b.0, way) {
            return self.later(100 * MS, Event::Pump(session, end));
        }
        let Some(state) = self.sessions.get_mut(&session) else {
            return;
        };
        let Some(parcel) = state.queues[end].pop_front() else {
            return;
        };
        if !state.queues[end].is_empty() {
            self.later(20_000, Event::Pump(session, end));
        }
        let (to, life) = [a, b][end];
        match parcel {
            Parcel::Message(message) => {
                // As the wire does it: what cannot be encoded is not sent.
                self.note(1);
                self.input(to, life, Input::Message { session, message });
            }
            Parcel::Close(reason) => self.close(session, &reason),
        }
    }

    pub(super) fn close(&mut self, session: SessionId, reason: &str) {
        let Some(state) = self.sessions.remove(&session) else {
            return;
        };
        for (at, life) in state.ends {
            let event = SessionEvent::Closed {
                session,
                reason: reason.to_owned(),
            };
            self.later(1000, Event::Input(at, life, Input::Session(event)));
        }
    }

    /// QUIC's keep-alive and idle time-out: four seconds of silence end a session.
    pub(super) fn idle(&mut self, session: SessionId) {
        let now = self.now;
        let Some(state) = self.sessions.get_mut(&session) else {
            return;
        };
        let [a, b] = state.ends;
        let alive = [a, b]
            .iter()
            .all(|&(at, life)| self.hosts[at].life == life && self.hosts[at].node.is_some());
        let open = !self.parting.parted(a.0, b.0) && !self.cut_ways.contains(&state.way);
        if alive && open {
            state.silent_since = None;
        } else if now - *state.silent_since.get_or_insert(now) >= 4000 * MS {
            return self.close(session, "timed out");
        }
        self.later(500 * MS, Event::Idle(session));
    }

    /// Counters of a host's connections. What is heard grows while something can pass, since each end says something now and
    /// then.
    pub(super) fn sample(&mut self, at: usize, life: u64) {
        if self.hosts[at].life != life || self.hosts[at].node.is_none() {
            return;
        }
        let sessions = self.hosts[at].sessions.iter();
        let samples = sessions.filter_map(|(&(node, way), session)| {
            let [a, b] = self.sessions.get(session)?.ends;
            let open = self.open(a.0, b.0, way);
            let heard = if open { self.now } else { 0 };
            Some((session, node, way, heard))
        });
        let samples: Vec<_> = samples.map(|(s, n, w, h)| (*s, n, w, h)).collect();
        let mut all = Vec::new();
        for (session, node, way, heard) in samples {
            let state = self.sessions.get_mut(&session).unwrap();
            state.heard = state.heard.max(heard);
            all.push(WaySample {
                node,
                way,
                rtt_us: u32::try_from(2 * self.weather.latency_us).unwrap(),
                acks: self.now / MS,
                sent_packets: self.now / MS / 100,
                lost_packets: 0,
                sent_bytes: self.now / MS,
                heard_bytes: state.heard,
                asked: self.now / MS,
                answered_bytes: state.heard,
                cwnd: 100_000,
                mtu: 1452,
            });
        }
        self.input(at, life, Input::Ways(all));
        self.later(SAMPLE_MS * MS, Event::Sample(at, life));
    }
}
