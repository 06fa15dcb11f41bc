//! Two hosts on a virtual clock, a link that sins, a session that is late but loses nothing, and data that the kernels
//! forward whatever the daemons do.

use crate::ident::{Moment, NodeId, Vni};
use crate::offload::KernelTraffic;
use crate::path::{Candidate, Output, PathReport, PathState, PathView, Paths, Reason, Side};
use crate::wire::probe::ProbeFrame;
use crate::wire::probe::segments;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;

pub(super) const NODES: [NodeId; 2] = [NodeId([0xa1; 32]), NodeId([0xb2; 32])];

pub(super) fn vni(number: u32) -> Vni {
    Vni::new(number).unwrap()
}

pub(super) fn candidate(session: bool) -> Candidate {
    let side = |ip: &str| Side {
        vxlan: true,
        vtep: Some(ip.parse().unwrap()),
        trusted: vec!["10.0.0.0/24".parse().unwrap()],
    };
    Candidate {
        here: side("10.0.0.1"),
        there: side("10.0.0.2"),
        session,
        mtu: 1450,
    }
}

/// One direction of the underlay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) delay_us: u64,
    pub(super) jitter_us: u64,
    /// In a thousand.
    pub(super) loss: u32,
    pub(super) blocked: bool,
    /// Longest frame.
    pub(super) size_max: usize,
    /// Segments come with a wrong TCP checksum.
    pub(super) bad_offload: bool,
}

pub(super) const FAIR: Link = Link {
    delay_us: 150,
    jitter_us: 50,
    loss: 0,
    blocked: false,
    size_max: 9000,
    bad_offload: false,
};

enum Event {
    Frame(Vni, Vec<u8>),
    Reports(Vec<PathReport>),
    Poll,
}

struct Host {
    paths: Paths,
    stopped_until: Moment,
    /// The kernel's counters, by network.
    sent: BTreeMap<Vni, u64>,
    heard: BTreeMap<Vni, u64>,
    open: BTreeMap<Vni, bool>,
}

/// What happened, where, when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) at: Moment,
    pub(super) host: usize,
    pub(super) vni: Vni,
    pub(super) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Open,
    Close,
    Changed(PathState, PathState, Reason, String),
}

pub(super) struct World {
    pub(super) now: Moment,
    hosts: [Host; 2],
    /// From host 0, from host 1.
    pub(super) links: [Link; 2],
    pub(super) session_us: u64,
    /// Data frames each millisecond, from each host, on each network.
    pub(super) data: [bool; 2],
    pub(super) said: Vec<Said>,
    pub(super) probes: [u64; 2],
    pub(super) reports: [u64; 2],
    /// Data frames that a kernel sent and the link ate.
    pub(super) eaten: u64,
    vnis: Vec<Vni>,
    events: BTreeMap<(Moment, u64), (usize, Event)>,
    numbered: u64,
    ticked: Moment,
    rng: SmallRng,
}

impl World {
    /// Two nodes that share `networks` networks and have a session.
    pub(super) fn new(seed: u64, networks: u32) -> Self {
        let host = |i: usize| Host {
            paths: Paths::new(NODES[i], seed * 2 + i as u64),
            stopped_until: Moment(0),
            sent: BTreeMap::new(),
            heard: BTreeMap::new(),
            open: BTreeMap::new(),
        };
        let mut world = Self {
            now: Moment(0).plus_ms(1000),
            hosts: [host(0), host(1)],
            links: [FAIR; 2],
            session_us: 400,
            data: [false; 2],
            said: Vec::new(),
            probes: [0; 2],
            reports: [0; 2],
            eaten: 0,
            vnis: (1..=networks).map(vni).collect(),
            events: BTreeMap::new(),
            numbered: 0,
            ticked: Moment(0).plus_ms(1000),
            rng: SmallRng::seed_from_u64(seed),
        };
        for host in 0..2 {
            world.set(host, &candidate(true));
            world.put(world.now, host, Event::Poll);
        }
        world
    }

    /// The same, up and with data both ways for a second.
    pub(super) fn busy(seed: u64) -> Self {
        let mut world = Self::new(seed, 1);
        world.run(2000);
        world.data = [true; 2];
        world.run(1000);
        assert!(world.is_open(0) && world.is_open(1), "{:?}", world.said);
        world.said.clear();
        world
    }

    pub(super) fn set(&mut self, host: usize, candidate: &Candidate) {
        for vni in self.vnis.clone() {
            let paths = &mut self.hosts[host].paths;
            assert!(paths.set(NODES[1 - host], vni, candidate, self.now));
        }
        self.drain(host);
    }

    pub(super) fn paths(&mut self, host: usize, what: impl FnOnce(&mut Paths, Moment)) {
        what(&mut self.hosts[host].paths, self.now);
        self.drain(host);
    }

    /// The daemon is killed, and another one takes over what its kernel has.
    pub(super) fn restart(&mut self, host: usize, seed: u64) {
        self.hosts[host].paths = Paths::new(NODES[host], seed);
        self.set(host, &candidate(false));
        for vni in self.vnis.clone() {
            if self.hosts[host].open.get(&vni) == Some(&true) {
                let paths = &mut self.hosts[host].paths;
                assert!(paths.adopt(NODES[1 - host], vni, self.now));
            }
        }
        self.drain(host);
    }

    pub(super) fn stop(&mut self, host: usize, ms: u64) {
        self.hosts[host].stopped_until = self.now.plus_ms(ms);
    }

    pub(super) fn is_open(&self, host: usize) -> bool {
        let open = self.hosts[host].open.get(&self.vnis[0]) == Some(&true);
        assert_eq!(
            open,
            self.hosts[host]
                .paths
                .is_open(NODES[1 - host], self.vnis[0])
        );
        open
    }

    pub(super) fn view(&self, host: usize) -> PathView {
        let paths = &self.hosts[host].paths;
        paths.view(NODES[1 - host], self.vnis[0], self.now).unwrap()
    }

    /// Closed at `host` for which reasons, and when.
    pub(super) fn closed(&self, host: usize) -> Vec<(Moment, Reason)> {
        let here: Vec<&Said> = self.said.iter().filter(|said| said.host == host).collect();
        let after = |i: usize| {
            here[i..].iter().find_map(|said| match &said.what {
                What::Changed(_, _, reason, _) => Some(*reason),
                _ => None,
            })
        };
        here.iter()
            .enumerate()
            .filter(|(_, said)| said.what == What::Close)
            .map(|(i, said)| (said.at, after(i).unwrap()))
            .collect()
    }

    fn put(&mut self, at: Moment, host: usize, event: Event) {
        self.numbered += 1;
        self.events.insert((at, self.numbered), (host, event));
    }

    fn passes(&mut self, from: usize, len: usize) -> Option<u64> {
        let link = self.links[from];
        let lost = self.rng.random_range(0..1000) < link.loss;
        let delay = link.delay_us + self.rng.random_range(0..=link.jitter_us);
        (!link.blocked && !lost && len <= link.size_max).then_some(delay * 1000)
    }

    fn drain(&mut self, host: usize) {
        while let Some(output) = self.hosts[host].paths.poll_output() {
            let (vni, what) = match output {
                Output::Probe { peer, .. } | Output::Report { peer, .. }
                    if peer != NODES[1 - host] =>
                {
                    continue;
                }
                Output::Probe { vni, probe, .. } => {
                    self.probes[host] += 1;
                    self.transmit(host, vni, &probe);
                    continue;
                }
                Output::Report { reports, .. } => {
                    self.reports[host] += 1;
                    let at = Moment(self.now.0 + self.session_us * 1000);
                    self.put(at, 1 - host, Event::Reports(reports));
                    continue;
                }
                Output::Open { vni, .. } => (vni, What::Open),
                Output::Close { vni, .. } => (vni, What::Close),
                Output::Changed {
                    vni, transition: t, ..
                } => (vni, What::Changed(t.from, t.to, t.reason, t.evidence)),
            };
            if matches!(what, What::Open | What::Close) {
                let open = what == What::Open;
                self.hosts[host].open.insert(vni, open);
            }
            self.said.push(Said {
                at: self.now,
                host,
                vni,
                what,
            });
        }
    }

    fn transmit(&mut self, host: usize, vni: Vni, probe: &ProbeFrame) {
        for mut bytes in segments(probe) {
            if self.links[host].bad_offload && probe.segmentation.is_some() {
                bytes[50] ^= 0x55;
            }
            if let Some(delay) = self.passes(host, bytes.len()) {
                let at = Moment(self.now.0 + delay);
                self.put(at, 1 - host, Event::Frame(vni, bytes));
            }
        }
    }

    /// A millisecond of data: the kernels forward it, whether their daemons have time or not.
    fn tick(&mut self) {
        for host in 0..2 {
            if !self.data[host] {
                continue;
            }
            for vni in self.vnis.clone() {
                if self.hosts[host].open.get(&vni) == Some(&true) {
                    *self.hosts[host].sent.entry(vni).or_default() += 1;
                    if self.passes(host, 1464).is_some() {
                        *self.hosts[1 - host].heard.entry(vni).or_default() += 1;
                    } else {
                        self.eaten += 1;
                    }
                }
            }
        }
    }

    fn handle(&mut self, host: usize, event: Event) {
        let Host {
            paths, sent, heard, ..
        } = &mut self.hosts[host];
        let (peer, now) = (NODES[1 - host], self.now);
        match event {
            Event::Frame(vni, bytes) => assert!(paths.frame(vni, &bytes, now)),
            Event::Reports(reports) => {
                for report in &reports {
                    paths.report(peer, report, now);
                }
            }
            Event::Poll => {
                for vni in &self.vnis {
                    let count = |map: &mut BTreeMap<Vni, u64>| map.remove(vni).unwrap_or_default();
                    let passed = KernelTraffic {
                        rx_frames: count(heard),
                        tx_frames: count(sent),
                        ..KernelTraffic::default()
                    };
                    paths.traffic(peer, *vni, passed, now);
                }
                // As a daemon's gauge, which others may keep from the processor for a moment.
                let late = self.rng.random_range(0..10);
                self.put(now.plus_ms(50 + late), host, Event::Poll);
            }
        }
        self.drain(host);
    }

    /// When the host has something to do: a timer, or what came while it was stopped.
    fn timer(&self, host: usize) -> Option<Moment> {
        let at = self.hosts[host].paths.poll_timeout()?;
        Some(at.max(self.hosts[host].stopped_until).max(self.now))
    }

    pub(super) fn run(&mut self, ms: u64) {
        let end = self.now.plus_ms(ms);
        loop {
            let event = self.events.first_key_value().map(|(&(at, _), _)| at);
            let timers = [self.timer(0), self.timer(1)];
            let tick = self.ticked.plus_ms(1);
            let all = [event, timers[0], timers[1], Some(tick)];
            let next = all.into_iter().flatten().min().unwrap();
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            if next == tick {
                self.ticked = tick;
                self.tick();
            } else if event == Some(next)
                && (!timers.contains(&Some(next)) || self.rng.random_range(0..2) == 0)
            {
                let (_, (host, event)) = self.events.pop_first().unwrap();
                let until = self.hosts[host].stopped_until;
                if until > self.now {
                    self.put(until, host, event);
                } else {
                    self.handle(host, event);
                }
            } else {
                let host = usize::from(timers[0] != Some(next));
                let now = self.now;
                self.paths(host, |paths, _| paths.handle_timeout(now));
            }
        }
        self.now = end;
    }

    /// Whether the path of host 0 is open, looked at each 100 ms.
    pub(super) fn share_open(&mut self, ms: u64) -> f64 {
        let mut open = 0;
        for _ in 0..ms / 100 {
            self.run(100);
            open += u64::from(self.is_open(0));
        }
        open as f64 / (ms / 100) as f64
    }
}
