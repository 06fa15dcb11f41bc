//! Steering: which ways there are to each peer, how they are, and by which of them the frames of a ruling go.
//!
//! ```text
//!   links, sessions, kernel paths --which there are--> +---------+ <--question, answer-- steering plugin of the network
//!   samples of connections, ten times a second ------> | a peer's| --order--> Choice (shared with lanes, steering/choice.rs)
//!                                                      |  ways   | --alive--> Live   (shared with lanes, steering/way.rs)
//!                                                      +---------+
//! ```
//!
//! Owns the tables, the host's own order (lowest cost, then lowest round trip, among what is alive) and when a plugin is asked:
//! first when a frame of a key has to go, then whenever figures moved by more than a fifth or 5 ms or a way came or went, which
//! can be seen ten times a second. An answer changes no ruling; lanes see the new order in the choice that they hold. Refuses to
//! see frames.

mod choice;
mod figures;
mod way;

pub use choice::{BUCKETS, Choice, GAP_MS, Order, Route};
pub use figures::{Figures, SAMPLE_MS, SILENT_MS, Silence, WaySample};
pub use way::{LINKS_MAX, Live, WAYS_END, WayId, Ways};

use crate::ident::{Moment, NodeId, QueryId, Vni};
use crate::node::Output;
use crate::outbox::Outbox;
use figures::Window;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The session itself is taken after links that cost less.
pub const MAIN_COST: u32 = 1_000;
/// Choices of plugins that are kept.
const CHOICES_MAX: usize = 4096;
/// Questions on their way.
const QUESTIONS_MAX: usize = 256;
/// A question without an answer for so long is given up, in ms.
const ANSWER_MS_MAX: u64 = 2_000;

/// A way as it is declared, and whether it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WayFace {
    /// Its number.
    pub way: WayId,
    /// As an operator sees it.
    pub name: String,
    /// The lower is taken first.
    pub cost: u32,
    /// What it can carry, if that was declared.
    pub rate_kbps: Option<u32>,
    /// A connection is up.
    pub up: bool,
}

/// A way by the kernels, of one network to one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelWay {
    /// Flows may take it.
    pub open: bool,
    /// As probes measured.
    pub figures: Figures,
}

/// What a choice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SteerKey {
    /// The network.
    pub vni: Vni,
    /// To whom.
    pub node: NodeId,
    /// Differentiated services code point as the frame leaves.
    pub dscp: u8,
}

/// One way, as a plugin is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayStats {
    /// Its number.
    pub way: WayId,
    /// As an operator sees it.
    pub name: String,
    /// It can be used.
    pub alive: bool,
    /// How it is.
    pub figures: Figures,
    /// The operator's.
    pub cost: u32,
}

/// What a steering plugin is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SteerQuestion {
    /// What is to be sent.
    pub key: SteerKey,
    /// Among what it chooses.
    pub ways: Vec<WayStats>,
    /// What holds, the best first; empty at first.
    pub current: Vec<WayId>,
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SteerAnswer {
    /// In order of preference; the others follow in the host's order.
    pub ranked: Vec<WayId>,
    /// Flows are spread over so many of the first; 0 and 1: all on the first.
    pub spread: u8,
    /// A flow moves no sooner than after so long a pause; 0: the host's.
    pub gap_ms: u32,
}

#[derive(Debug)]
struct Way {
    face: WayFace,
    window: Window,
    figures: Figures,
    /// As they were when choices were last made.
    told: Figures,
    silence: Option<Silence>,
}

impl Way {
    fn alive(&self) -> bool {
        self.face.up && self.silence.is_none()
    }
}

/// A peer to which there is more than one way, or may be.
#[derive(Debug)]
struct Peer {
    live: Arc<Live>,
    /// The host's own, where no plugin has a word.
    choice: Arc<Choice>,
    ways: BTreeMap<WayId, Way>,
    kernel: BTreeMap<Vni, KernelWay>,
}

impl Peer {
    fn new() -> Self {
        let live = Arc::new(Live::default());
        Self {
            choice: Arc::new(Choice::new(Arc::clone(&live), &Order::of(Vec::new()))),
            live,
            ways: BTreeMap::new(),
            kernel: BTreeMap::new(),
        }
    }

    /// The host's order: by cost, then by round trip as it was when it last moved by much.
    fn ranked(&self) -> Vec<WayId> {
        let mut ways: Vec<&Way> = self.ways.values().collect();
        ways.sort_by_key(|way| (way.face.cost, way.told.rtt_us, way.face.way));
        let mut ranked = vec![WayId::KERNEL];
        ranked.extend(ways.iter().map(|way| way.face.way));
        ranked
    }

    /// Sets what is alive. Where all are silent none is better than another: then it is this node that does not hear.
    fn settle(&self) {
        let silent = !self.ways.values().any(Way::alive);
        let usable = || {
            let ways = self.ways.values();
            ways.filter(move |way| way.alive() || silent && way.face.up)
        };
        // By nothing that moves with the traffic: what has no flowlets is to change its way as seldom as can be.
        let best = usable().min_by_key(|way| (way.face.cost, way.face.way));
        let ways = usable().map(|way| way.face.way).collect();
        self.live.set(ways, best.map(|way| way.face.way));
    }

    fn stats(&self, vni: Vni) -> Vec<WayStats> {
        let kernel = self.kernel.get(&vni).map(|kernel| WayStats {
            way: WayId::KERNEL,
            name: "kernel-vxlan".to_owned(),
            alive: kernel.open,
            figures: kernel.figures,
            cost: 0,
        });
        let ways = self.ways.values().map(|way| WayStats {
            way: way.face.way,
            name: way.face.name.clone(),
            alive: way.alive(),
            figures: way.figures,
            cost: way.face.cost,
        });
        kernel.into_iter().chain(ways).collect()
    }
}

/// A choice of a plugin.
#[derive(Debug)]
struct Steered {
    choice: Arc<Choice>,
    /// What the plugin said last; `None`: nothing yet, or it failed.
    said: Option<SteerAnswer>,
    asked: Option<QueryId>,
    /// Figures moved since it was asked.
    again: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Steering {
    peers: BTreeMap<NodeId, Peer>,
    /// Networks with a steering plugin, and the number that its changes move.
    plugins: BTreeMap<Vni, u32>,
    steered: BTreeMap<SteerKey, Steered>,
    /// Ways that policy named and wants to be asked about anew when they die, and whether they live.
    named: BTreeMap<(NodeId, WayId), bool>,
    questions: BTreeMap<QueryId, (SteerKey, Moment)>,
    next_query: QueryId,
    /// Somebody may have to be asked: most inputs are about something else.
    due: bool,
}

impl Steering {
    /// Says between which ways to which peers there is a choice. True if rulings are to be made anew.
    pub(crate) fn set_ways(
        &mut self,
        all: BTreeMap<NodeId, Vec<WayFace>>,
        out: &mut Outbox,
    ) -> bool {
        let before = self.peers.len();
        self.peers.retain(|node, _| all.contains_key(node));
        let mut anew = before != self.peers.len();
        self.steered.retain(|key, _| all.contains_key(&key.node));
        for (node, faces) in all {
            anew |= self.set_peer(node, faces, out);
        }
        anew
    }

    fn set_peer(&mut self, node: NodeId, faces: Vec<WayFace>, out: &mut Outbox) -> bool {
        let new = !self.peers.contains_key(&node);
        let peer = self.peers.entry(node).or_insert_with(Peer::new);
        if new {
            let live = Arc::clone(&peer.live);
            out.push(Output::Ways { node, live });
        }
        let mut changed = new;
        let numbers: BTreeSet<WayId> = faces.iter().map(|face| face.way).collect();
        peer.ways.retain(|way, _| numbers.contains(way));
        for face in faces {
            let way = peer.ways.entry(face.way).or_insert_with(|| Way {
                face: face.clone(),
                window: Window::default(),
                figures: Figures::default(),
                told: Figures::default(),
                silence: None,
            });
            if way.face != face {
                if way.face.up != face.up {
                    // Nothing of the old connection is true of the new one.
                    way.window = Window::default();
                    way.silence = None;
                }
                way.face = face;
                changed = true;
            }
        }
        if changed {
            self.moved(node);
        }
        new
    }

    /// Says how the kernels' ways are.
    pub(crate) fn set_kernel(&mut self, ways: &BTreeMap<(NodeId, Vni), KernelWay>) {
        for (&node, peer) in &mut self.peers {
            let now: BTreeMap<Vni, KernelWay> = ways
                .iter()
                .filter(|((of, _), _)| *of == node)
                .map(|((_, vni), way)| (*vni, *way))
                .collect();
            let open = |all: &BTreeMap<Vni, KernelWay>| -> Vec<Vni> {
                let open = all.iter().filter(|(_, way)| way.open);
                open.map(|(vni, _)| *vni).collect()
            };
            let changed = open(&now) != open(&peer.kernel);
            peer.kernel = now;
            if changed {
                self.due = true;
                let steered = self.steered.iter_mut();
                steered
                    .filter(|(key, _)| key.node == node)
                    .for_each(|(_, steered)| steered.again = true);
            }
        }
    }

    /// Takes a round of samples.
    pub(crate) fn measure(&mut self, samples: &[WaySample], now: Moment) {
        for sample in samples {
            let peer = self.peers.get_mut(&sample.node);
            if let Some(way) = peer.and_then(|peer| peer.ways.get_mut(&sample.way)) {
                way.window.push(*sample, now);
            }
        }
        let mut moved = Vec::new();
        for (&node, peer) in &mut self.peers {
            let mut any = false;
            for way in peer.ways.values_mut().filter(|way| way.face.up) {
                let silence = way.window.silence(now);
                any |= silence.is_some() != way.silence.is_some();
                way.silence = silence;
                way.figures = way.window.figures(way.face.rate_kbps);
                any |= way.figures.differ(&way.told);
            }
            if any {
                moved.push(node);
            }
        }
        for node in moved {
            self.moved(node);
        }
    }

    /// Figures of a peer's ways moved, or a way came or went: the host chooses anew, and plugins are to be asked.
    fn moved(&mut self, node: NodeId) {
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        for way in peer.ways.values_mut() {
            way.told = way.figures;
        }
        peer.settle();
        let ranked = peer.ranked();
        peer.choice.set(&Order::of(ranked.clone()));
        self.due = true;
        for (_, steered) in self.steered.iter_mut().filter(|(key, _)| key.node == node) {
            steered.choice.set(&order(steered.said.as_ref(), &ranked));
            steered.again = true;
        }
    }

    /// The steering plugin of a network came, changed or went (0). True if rulings are to be made anew.
    pub(crate) fn set_plugin(&mut self, vni: Vni, revision: u32) -> bool {
        let before = match revision {
            0 => self.plugins.remove(&vni),
            _ => self.plugins.insert(vni, revision),
        };
        if before.unwrap_or(0) == revision {
            return false;
        }
        self.steered.retain(|key, _| key.vni != vni);
        true
    }

    /// Is there more than the session, or may there be?
    pub(crate) fn has_choice(&self, node: NodeId) -> bool {
        self.peers.contains_key(&node)
    }

    /// Is there a steering plugin anywhere?
    pub(crate) fn has_plugins(&self) -> bool {
        !self.plugins.is_empty()
    }

    /// Does a plugin choose for this network?
    pub(crate) fn is_steered(&self, vni: Vni) -> bool {
        self.plugins.contains_key(&vni)
    }

    /// By which ways frames of this key go. `None`: there is but one way to the peer.
    pub(crate) fn choose(&mut self, key: SteerKey) -> Option<Arc<Choice>> {
        let peer = self.peers.get(&key.node)?;
        if !self.plugins.contains_key(&key.vni) {
            return Some(Arc::clone(&peer.choice));
        }
        self.due = true;
        if let Some(steered) = self.steered.get(&key) {
            return Some(Arc::clone(&steered.choice));
        }
        if self.steered.len() >= CHOICES_MAX {
            // Those that no ruling holds any more.
            self.steered
                .retain(|_, steered| Arc::strong_count(&steered.choice) > 1);
        }
        if self.steered.len() >= CHOICES_MAX {
            return Some(Arc::clone(&peer.choice));
        }
        let order = Order::of(peer.ranked());
        let choice = Arc::new(Choice::new(Arc::clone(&peer.live), &order));
        let steered = Steered {
            choice: Arc::clone(&choice),
            said: None,
            asked: None,
            again: true,
        };
        self.steered.insert(key, steered);
        Some(choice)
    }

    /// As [`Self::choose`], without change: for traces.
    pub(crate) fn look(&self, key: SteerKey) -> Option<Arc<Choice>> {
        let peer = self.peers.get(&key.node)?;
        let steered = self.steered.get(&key).filter(|_| self.is_steered(key.vni));
        Some(Arc::clone(steered.map_or(&peer.choice, |s| &s.choice)))
    }

    /// A choice of exactly this way, for a policy that named it. `strict`: what finds it dead is dropped. `None`: there is no
    /// such way.
    pub(crate) fn exactly(&self, node: NodeId, way: WayId, strict: bool) -> Option<Arc<Choice>> {
        let peer = self.peers.get(&node)?;
        peer.ways.get(&way)?;
        let live = Arc::clone(&peer.live);
        Some(Arc::new(if strict {
            Choice::strict(live, &Order::of(vec![way]))
        } else {
            let rest = peer.ranked().into_iter().filter(|other| *other != way);
            Choice::new(live, &Order::of(std::iter::once(way).chain(rest).collect()))
        }))
    }

    /// Policy named this way, and wants to be asked anew when it dies.
    pub(crate) fn note_named(&mut self, node: NodeId, way: WayId) {
        if self.named.len() < CHOICES_MAX {
            let alive = self.is_alive(node, way);
            self.named.insert((node, way), alive);
        }
    }

    /// Those of the named ways that died since the last call.
    pub(crate) fn take_dead(&mut self) -> Vec<(NodeId, WayId)> {
        let all: Vec<_> = self
            .named
            .iter()
            .map(|(way, lived)| (*way, *lived))
            .collect();
        let mut dead = Vec::new();
        for ((node, way), lived) in all {
            let alive = self.is_alive(node, way);
            if lived && !alive {
                self.named.remove(&(node, way));
                dead.push((node, way));
            } else {
                self.named.insert((node, way), alive);
            }
        }
        dead
    }

    fn is_alive(&self, node: NodeId, way: WayId) -> bool {
        let peer = self.peers.get(&node);
        peer.is_some_and(|peer| peer.live.ways().has(way))
    }

    /// Asks the plugins what is to be asked. Called at the end of each input.
    pub(crate) fn ask(&mut self, now: Moment, out: &mut Outbox) {
        while let Some((&query, &(key, since))) = self.questions.first_key_value() {
            if now.ms_since(since) < ANSWER_MS_MAX {
                break;
            }
            self.questions.remove(&query);
            if let Some(steered) = self.steered.get_mut(&key) {
                steered.asked = None;
            }
        }
        if !std::mem::take(&mut self.due) {
            return;
        }
        for (&key, steered) in &mut self.steered {
            if self.questions.len() >= QUESTIONS_MAX {
                self.due = true;
                break;
            }
            // What no ruling holds needs no answer.
            if !steered.again || steered.asked.is_some() || Arc::strong_count(&steered.choice) < 2 {
                continue;
            }
            let Some(peer) = self.peers.get(&key.node) else {
                continue;
            };
            let query = self.next_query;
            self.next_query = QueryId(query.0.wrapping_add(1));
            steered.again = false;
            steered.asked = Some(query);
            self.questions.insert(query, (key, now));
            let current = steered
                .said
                .is_some()
                .then(|| steered.choice.ranked().collect());
            out.push(Output::Steer {
                query,
                question: SteerQuestion {
                    key,
                    ways: peer.stats(key.vni),
                    current: current.unwrap_or_default(),
                },
            });
        }
    }

    /// A plugin answered; `None`: it failed, and what holds goes on to hold. True if kernel VXLAN came to the first place, or
    /// left it.
    pub(crate) fn answer(&mut self, query: QueryId, answer: Option<SteerAnswer>) -> bool {
        let Some((key, _)) = self.questions.remove(&query) else {
            return false;
        };
        let (Some(steered), Some(peer)) = (self.steered.get_mut(&key), self.peers.get(&key.node))
        else {
            return false;
        };
        if steered.asked != Some(query) {
            return false;
        }
        steered.asked = None;
        self.due |= steered.again;
        let Some(answer) = answer else {
            return false;
        };
        let before = steered.choice.prefers_kernel();
        steered.said = Some(answer);
        steered
            .choice
            .set(&order(steered.said.as_ref(), &peer.ranked()));
        before != steered.choice.prefers_kernel()
    }

    /// The ways to a peer, for people: which are alive, and the host's order.
    #[must_use]
    pub fn ways(&self, node: NodeId) -> Vec<(WayStats, Option<Silence>)> {
        let ways = self.peers.get(&node).map(|peer| &peer.ways);
        let stats = |way: &Way| {
            let stats = WayStats {
                way: way.face.way,
                name: way.face.name.clone(),
                alive: way.alive(),
                figures: way.figures,
                cost: way.face.cost,
            };
            (stats, way.silence)
        };
        ways.map_or_else(Vec::new, |ways| ways.values().map(stats).collect())
    }

    /// The peers whose session is silent, while a link with them is alive.
    pub(crate) fn silent_sessions(&self) -> BTreeSet<NodeId> {
        let silent = self.peers.iter().filter(|(_, peer)| {
            let main = peer.ways.get(&WayId::MAIN);
            main.is_some_and(|main| main.silence.is_some()) && peer.ways.values().any(Way::alive)
        });
        silent.map(|(node, _)| *node).collect()
    }

    /// Choices of plugins that hold now.
    pub fn choices(&self) -> impl Iterator<Item = (SteerKey, Vec<WayId>)> + '_ {
        let used = self.steered.iter();
        used.map(|(key, steered)| (*key, steered.choice.ranked().collect()))
    }
}

/// What a plugin said, completed by the host's order.
fn order(said: Option<&SteerAnswer>, ranked: &[WayId]) -> Order {
    let Some(said) = said else {
        return Order::of(ranked.to_vec());
    };
    let mut all: Vec<WayId> = Vec::new();
    for way in said.ranked.iter().chain(ranked) {
        if ranked.contains(way) && !all.contains(way) {
            all.push(*way);
        }
    }
    Order {
        ranked: all,
        spread: said.spread.max(1),
        gap_ms: if said.gap_ms == 0 {
            GAP_MS
        } else {
            said.gap_ms
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
