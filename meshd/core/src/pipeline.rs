//! The walk of one frame through a network, without change to anything: what is to happen to it, or which question must be
//! answered first.
//!
//! ```text
//!  from port:  lengths, headers -> source check -> ARP/ND -> where to? -> policy in (sender's port)
//!                                                                           |-> policy out (each receiver here) -> ports
//!                                                                           '-> the receiver's node              -> peers
//!  from peer:  on the network?  -> source check -> ARP/ND -> where to? -> policy out -> ports       (never a peer)
//!  from the node's own service: as from a port, but to ports only, unasked, and never flooded but for ARP and ND
//! ```
//!
//! Owns the rules. The switch runs the walk again each time that an answer comes home, and `meshd trace` runs it with a pen:
//! both see the same code. A ruling is cached under source, destination, EtherType and address family, plus what policy
//! read; ARP and ND are never cached, and since the family is always matched none of them can meet a cached ruling.

use crate::complaint::{self, Complaint, Speaker};
use crate::conntrack::Order;
use crate::dues::Dues;
use crate::edit::Edit;
use crate::fdb::{AGE_MS, How, Place, Source, SourceRefused};
use crate::flow::{Fields, FlowKey, FlowMask, Origin};
use crate::frame::Frame;
use crate::ident::{MacAddr, Moment, NodeId};
use crate::neighbor::{Advice, is_neighborly};
use crate::node::Question;
use crate::policy::{Known, Mirror, MirrorPlace, NamedPath};
use crate::ruling::{Action, Arm, Copied, DropReason, Output, PuntOrder};
use crate::view::TraceStep;
use crate::wire::loop_probe::{LOOP_MAC, is_loop_probe};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// How long a ruling holds that knows no better than to flood, in ms.
pub const UNKNOWN_MS: u64 = 1000;
/// How long a ruling holds that a failed or silent plugin caused, in ms.
pub const FAILED_MS: u64 = 1000;

/// How long a refusal holds that the sender is told of, in ms: an answer each time, and no question for each frame between.
pub const REJECTED_MS: u64 = 100;

/// Bytes of the longest frame of a network with `mtu`: the Ethernet header, two tags, and the payload.
#[must_use]
pub fn longest(mtu: u16) -> u32 {
    u32::from(mtu) + 22
}

/// Who answers questions: `None` if the answer is not there yet.
pub(crate) type Oracle<'a> = &'a mut dyn FnMut(&Question) -> Option<Known>;

/// What is to happen to a frame, and for which others the same holds.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) action: Action,
    /// What was looked at; `None`: the next frame may fare otherwise.
    pub(crate) mask: Option<FlowMask>,
    pub(crate) until: Option<Moment>,
    /// It ends after so many ms without a frame.
    pub(crate) idle_ms: Option<u32>,
    pub(crate) longest: u32,
    /// Known beyond the reason of a drop.
    pub(crate) why: Option<String>,
    /// A MAC that is nowhere, of which this decision made something.
    pub(crate) unknown: Option<MacAddr>,
    /// Policy chose where to.
    pub(crate) redirected: bool,
    /// Policy chose by which way.
    pub(crate) path: Option<NamedPath>,
    /// What is changed of it.
    pub(crate) edits: Option<Arc<[Edit]>>,
    /// What policy wants of its connection; the epoch is the switch's to say.
    pub(crate) track: Option<Order>,
    /// Where it came from is remembered.
    pub(crate) learn: Option<Learn>,
    /// What each frame is charged with and counted under.
    pub(crate) dues: Option<Arc<Dues>>,
    /// Copies of each for controllers.
    pub(crate) punts: Option<Arc<[PuntOrder]>>,
    /// Copies of each that is forwarded, as it leaves.
    pub(crate) copies: Option<Arc<[Copied]>>,
    /// The ways that policy gave it, if there are several.
    pub(crate) select: Option<Arc<[Arm]>>,
    /// An answer that the switch gives itself.
    pub(crate) reply: Option<(Output, Bytes)>,
    /// The group, if it rests on who listens to it.
    pub(crate) group: Option<MacAddr>,
    /// The frame may say who listens.
    pub(crate) heard: bool,
}

impl Decision {
    /// That this becomes of one frame, and nothing is known of others.
    pub(crate) fn of(action: Action) -> Self {
        Self {
            action,
            mask: None,
            until: None,
            idle_ms: None,
            longest: u32::MAX,
            why: None,
            unknown: None,
            redirected: false,
            path: None,
            edits: None,
            track: None,
            learn: None,
            dues: None,
            punts: None,
            copies: None,
            select: None,
            reply: None,
            group: None,
            heard: false,
        }
    }
}

/// What policy has the switch remember of a frame, besides its source MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Learn {
    /// For how long.
    pub(crate) ms: u64,
    /// The address that it claims, if it is ARP or ND.
    pub(crate) ip: Option<IpAddr>,
}

/// Why a walk ends before the frame has receivers.
enum Stop {
    Drop(DropReason, Option<String>),
    Ask(Box<Question>),
    Consume(Option<(Output, Bytes)>),
    /// Each flow goes by one of these; never empty.
    Select(Vec<Arm>),
}

fn stop<T>(reason: DropReason) -> Result<T, Stop> {
    Err(Stop::Drop(reason, None))
}

/// One frame on its way.
pub(crate) struct Walk<'a> {
    network: Option<&'a Network>,
    chain: bool,
    origin: Origin,
    /// The node that it comes from, if it comes from one.
    sender: Option<NodeId>,
    frame: Frame<'a>,
    key: FlowKey,
    now: Moment,
    oracle: Oracle<'a>,
    mask: FlowMask,
    cacheable: bool,
    until: Option<Moment>,
    idle_ms: Option<u32>,
    unknown: Option<MacAddr>,
    redirected: bool,
    path: Option<NamedPath>,
    /// The sender is to be told that policy refuses.
    reject: bool,
    mirrors: BTreeSet<Mirror>,
    edits: Vec<Edit>,
    track: Option<Order>,
    /// The source is the port's own, which is not forgotten.
    own_source: bool,
    learn: Option<Learn>,
    dues: Dues,
    punts: Vec<PuntOrder>,
    group: Option<MacAddr>,
    heard: bool,
    steps: Option<&'a mut Vec<TraceStep>>,
}

impl<'a> Walk<'a> {
    /// Of a frame with this key.
    pub(crate) fn new(
        network: Option<&'a Network>,
        chain: bool,
        origin: Origin,
        (frame, key): (Frame<'a>, FlowKey),
        now: Moment,
        oracle: Oracle<'a>,
    ) -> Self {
        let mask = FlowMask {
            src_mac: 48,
            dst_mac: 48,
            fields: Fields::ETHER_TYPE.with(Fields::IP_KIND),
            ..FlowMask::default()
        };
        let cacheable = !is_neighborly(key.ip_kind);
        Self {
            network,
            chain,
            origin,
            sender: sender(network, origin, key.src_mac),
            frame,
            key,
            now,
            oracle,
            mask,
            cacheable,
            until: None,
            idle_ms: None,
            unknown: None,
            redirected: false,
            path: None,
            reject: false,
            mirrors: BTreeSet::new(),
            edits: Vec::new(),
            track: None,
            own_source: false,
            learn: None,
            dues: Dues::default(),
            punts: Vec::new(),
            group: None,
            heard: false,
            steps: None,
        }
    }

    /// Writes down each step.
    pub(crate) fn with_steps(mut self, steps: &'a mut Vec<TraceStep>) -> Self {
        self.steps = Some(steps);
        self
    }

    /// Walks.
    ///
    /// # Errors
    /// The question whose answer is missing.
    pub(crate) fn decide(mut self) -> Result<Decision, Box<Question>> {
        let (mut copies, mut select) = (Vec::new(), None);
        let (action, why, reply) = match self.walk().and_then(|to| self.guard(to)) {
            Ok(to) => {
                copies = self.mirror(&to);
                (Action::Forward(to.into()), None, None)
            }
            Err(Stop::Select(mut arms)) => {
                self.guard_arms(&mut arms);
                let first = arms.first().map(|arm| arm.ruling.action.clone());
                select = Some(arms.into());
                let none = Action::Drop(DropReason::PolicyTarget);
                (first.unwrap_or(none), None, None)
            }
            Err(Stop::Consume(reply)) => (Action::Consume, None, reply),
            Err(Stop::Drop(reason, why)) => {
                self.dues.forgive();
                self.learn = None;
                self.step("drop", || {
                    why.clone().unwrap_or_else(|| reason.explain().to_owned())
                });
                let told = match reason {
                    DropReason::TooLong => self.too_big(),
                    DropReason::Policy if self.reject => self.prohibited(),
                    _ => None,
                };
                if told.is_some() && reason == DropReason::Policy {
                    self.step("reject", || "the sender is told".to_owned());
                    self.hold(self.now.plus_ms(REJECTED_MS));
                }
                (Action::Drop(reason), why, told)
            }
            Err(Stop::Ask(question)) => return Err(question),
        };
        Ok(Decision {
            action,
            mask: self.cacheable.then_some(self.mask),
            until: self.until,
            idle_ms: self.idle_ms,
            longest: self.network.map_or(u32::MAX, |n| longest(n.mtu)),
            why,
            unknown: self.unknown,
            redirected: self.redirected,
            path: self.path,
            edits: (!self.edits.is_empty()).then(|| self.edits.into()),
            track: self.track,
            learn: self.learn,
            dues: (!self.dues.is_empty()).then(|| Arc::new(self.dues)),
            punts: (!self.punts.is_empty()).then(|| self.punts.into()),
            copies: (!copies.is_empty()).then(|| copies.into()),
            select,
            reply,
            group: self.group,
            heard: self.heard,
        })
    }

    /// Who gets a copy: ports that are on the network and do not have the frame anyway, and members. Of several wishes for one
    /// place the longest copy is made.
    fn mirror(&mut self, to: &[Output]) -> Vec<Copied> {
        let mut copies: Vec<Copied> = Vec::new();
        let Some(network) = self.network else {
            return copies;
        };
        for Mirror { to: place, bytes } in std::mem::take(&mut self.mirrors) {
            let output = match place {
                MirrorPlace::Port(port) => {
                    let there = network.ports.get(&port).is_some_and(|face| !face.service);
                    let has = self.origin == Origin::Port(port) || to.contains(&Output::Port(port));
                    (there && !has).then_some(Output::Port(port))
                }
                MirrorPlace::Peer(handle) => {
                    let node = network.members.iter().find(|node| node.handle() == handle);
                    node.map(|&node| Output::Peer(node))
                }
            };
            let Some(output) = output else {
                self.step("mirror", || match place {
                    MirrorPlace::Port(port) => {
                        format!("port {port}: is not on the network, or has the frame anyway")
                    }
                    MirrorPlace::Peer(handle) => {
                        format!("no peer on the network has the number {handle:#018x}")
                    }
                });
                continue;
            };
            self.step("mirror", || {
                let cut = match bytes {
                    0 => String::new(),
                    bytes => format!(", {bytes} bytes at most"),
                };
                format!("a copy to {}{cut}", show(&[output]))
            });
            match copies.iter_mut().find(|copy| copy.to == output) {
                Some(copy) if copy.bytes == 0 || bytes == 0 => copy.bytes = 0,
                Some(copy) => copy.bytes = copy.bytes.max(bytes),
                None => copies.push(Copied { to: output, bytes }),
            }
        }
        copies
    }

    /// What a router would tell who sent a frame that is too long.
    fn too_big(&self) -> Option<(Output, Bytes)> {
        let (Origin::Port(port), network) = (self.origin, self.network?) else {
            return None;
        };
        let service = network.ports.values().find(|face| face.service);
        let speaker = Speaker {
            mac: service.map_or(self.key.dst_mac, |face| face.mac),
            ips: service.map_or(&[], |face| &face.ips),
        };
        let complaint = Complaint::TooBig(network.mtu);
        let reply = complaint::reply(self.frame.bytes(), complaint, speaker)?;
        Some((Output::Port(port), reply))
    }

    /// What the receiver, or a firewall in front of it, would tell who sent a frame that policy refuses. It comes from the
    /// receiver's addresses, which the sender's node knows to be here.
    fn prohibited(&self) -> Option<(Output, Bytes)> {
        let to = match (self.origin, self.sender) {
            (Origin::Port(port), _) => Output::Port(port),
            (_, Some(node)) => Output::Peer(node),
            (_, None) => return None,
        };
        let speaker = Speaker {
            mac: self.key.dst_mac,
            ips: &[],
        };
        let reply = complaint::reply(self.frame.bytes(), Complaint::Prohibited, speaker)?;
        Some((to, reply))
    }

    /// Where the frame comes from, if it may come from there, and what the FDB says of its source.
    pub(crate) fn admit(
        network: &Network,
        origin: Origin,
        frame: &Frame<'_>,
        now: Moment,
    ) -> Result<(Place, Option<Source>), SourceRefused> {
        let refused = |reason, why: String| {
            Err(SourceRefused {
                reason,
                why,
                until: None,
            })
        };
        let src = frame.src();
        if frame.bytes().len() > longest(network.mtu) as usize {
            return refused(
                DropReason::TooLong,
                format!(
                    "it has {} bytes; with an MTU of {} it may have {}",
                    frame.bytes().len(),
                    network.mtu,
                    longest(network.mtu)
                ),
            );
        }
        if !src.is_source() {
            return refused(DropReason::InvalidSource, format!("its source is {src}"));
        }
        match origin {
            Origin::Port(port) => match network.ports.get(&port) {
                None => refused(
                    DropReason::NotOnNetwork,
                    format!("port {port} is not on the network"),
                ),
                Some(_) if network.blocked.contains(&port) => refused(
                    DropReason::Blocked,
                    format!("it is port {port}, by which it came"),
                ),
                Some(face) if face.service => {
                    if src == face.mac {
                        Ok((Place::Service(port), None))
                    } else {
                        refused(
                            DropReason::SpoofedSource,
                            format!("the service's MAC is {}, not {src}", face.mac),
                        )
                    }
                }
                Some(_) => Ok((
                    Place::Port(port),
                    Some(network.fdb.check_source(src, port, now)?),
                )),
            },
            Origin::Peer(node) if !network.members.contains(&node) => refused(
                DropReason::NotOnNetwork,
                format!(
                    "node {} has not said that it is on the network",
                    node.short()
                ),
            ),
            Origin::Vxlan(_) => match (network.fdb.lookup(src), network.foreign_port()) {
                // A foreign VTEP's, or one that is not known yet and can only be a foreign VTEP's.
                (Some(Place::Port(port)), Some(foreign)) if port == foreign => Ok((
                    Place::Port(port),
                    Some(network.fdb.check_source(src, port, now)?),
                )),
                (None, Some(foreign)) => Ok((
                    Place::Port(foreign),
                    Some(network.fdb.check_source(src, foreign, now)?),
                )),
                (Some(Place::Node(owner)), _) if network.members.contains(&owner) => {
                    Ok((Place::Node(owner), None))
                }
                (Some(Place::Node(owner)), _) => refused(
                    DropReason::NotOnNetwork,
                    format!(
                        "node {} has not said that it is on the network",
                        owner.short()
                    ),
                ),
                (Some(Place::Port(port) | Place::Service(port)), _) => refused(
                    DropReason::SpoofedSource,
                    format!("{src} is behind port {port} of this node"),
                ),
                (None, None) => refused(
                    DropReason::SpoofedSource,
                    format!("nobody on the network has {src}"),
                ),
            },
            Origin::Peer(node) => match network.fdb.lookup(src) {
                Some(Place::Port(port) | Place::Service(port)) => refused(
                    DropReason::SpoofedSource,
                    format!("{src} is behind port {port} of this node"),
                ),
                Some(Place::Node(owner)) if owner != node => refused(
                    DropReason::SpoofedSource,
                    format!("{src} belongs to an endpoint of node {}", owner.short()),
                ),
                _ => Ok((Place::Node(node), None)),
            },
        }
    }

    fn walk(&mut self) -> Result<Vec<Output>, Stop> {
        let vni = self.key.vni;
        let Some(network) = self.network else {
            return stop(DropReason::UnknownVni);
        };
        if self.key.dst_mac == LOOP_MAC && is_loop_probe(self.frame.bytes()) {
            self.cacheable = false;
            self.step("guard", || "a loop probe: the guard looks at it".to_owned());
            return Err(Stop::Consume(None));
        }
        let control = self.key.dst_mac.is_link_local_control() || self.is_bpdu(network);
        if control && matches!(self.origin, Origin::Port(port) if network.uplink(port).is_some()) {
            // The guard wants to see each, also where the port is blocked or the source is refused.
            self.cacheable = false;
        }
        let from = match Self::admit(network, self.origin, &self.frame, self.now) {
            Ok((from, source)) => {
                let src = self.key.src_mac;
                self.step("source check", || match source {
                    Some(Source::Own) => format!("{src} is the port's own MAC"),
                    Some(Source::Known) => format!("{src} was learned at this port"),
                    Some(Source::New) => format!("{src} is new and would be learned"),
                    Some(Source::Moved { from }) => {
                        format!("{src} would move here from port {from}")
                    }
                    Some(Source::Roamed { from }) => {
                        format!("{src} would move here from node {}", from.short())
                    }
                    None => format!("{src} may come from there"),
                });
                self.own_source = source == Some(Source::Own);
                if source.is_some() && !self.own_source {
                    // The cache hides frames from the FDB: come back in time to keep the entry young.
                    let life_ms = match (source, network.fdb.how(src)) {
                        (Some(Source::Known), Some(How::Learned { life_ms, .. })) => life_ms,
                        _ => AGE_MS,
                    };
                    self.hold(self.now.plus_ms(life_ms / 2));
                }
                if matches!(from, Place::Node(_)) && network.fdb.lookup(src).is_none() {
                    self.unknown = Some(src);
                }
                from
            }
            Err(SourceRefused { reason, why, until }) => {
                if let Some(until) = until {
                    self.hold(until);
                }
                // A length is no part of the key: shorter frames of the same flow are welcome.
                self.cacheable &= reason != DropReason::TooLong;
                return Err(Stop::Drop(reason, Some(why)));
            }
        };
        if control {
            return stop(DropReason::LinkLocalControl);
        }
        if self.frame.is_malformed() {
            return stop(DropReason::Malformed);
        }
        self.step("network", || {
            format!(
                "VNI {vni}, MTU {}, {} ports here, {} peers",
                network.mtu,
                network.ports.len(),
                network.members.len()
            )
        });
        if is_neighborly(self.key.ip_kind) {
            self.neighbors(network, from)?;
        }
        self.deliver(network, from)
    }

    /// ARP and ND that the switch sees to itself end here.
    fn neighbors(&mut self, network: &Network, from: Place) -> Result<(), Stop> {
        match network.neighbors.consider(&self.frame, from, &network.fdb) {
            Advice::Forward => Ok(()),
            Advice::Refuse(why) => Err(Stop::Drop(DropReason::SpoofedAddress, Some(why))),
            Advice::NoRouter => stop(DropReason::RouterAdvertisement),
            Advice::Void(why) => Err(Stop::Drop(DropReason::Malformed, Some(why.to_owned()))),
            Advice::Silence(ip) => {
                self.step("neighbour", || format!("{ip} is the asker's own address, or behind its own port: nothing is to be said"));
                Err(Stop::Consume(None))
            }
            Advice::Answer { reply, owner, ip } => {
                self.step("neighbour", || {
                    format!("{ip} is at {}: answered here", owner.mac)
                });
                let back = match from {
                    Place::Port(port) | Place::Service(port) => Some((Output::Port(port), reply)),
                    Place::Node(_) => None,
                };
                Err(Stop::Consume(back))
            }
        }
    }

    fn hold(&mut self, until: Moment) {
        self.until = Some(self.until.map_or(until, |u| u.min(until)));
    }

    fn step(&mut self, what: &str, detail: impl FnOnce() -> String) {
        if let Some(steps) = &mut self.steps {
            steps.push(TraceStep {
                what: what.to_owned(),
                detail: detail(),
            });
        }
    }
}

mod asked;
mod by_group;
mod delivery;
mod guarded;
mod listeners;
mod network;

use delivery::show;
pub(crate) use network::{Network, sender};
