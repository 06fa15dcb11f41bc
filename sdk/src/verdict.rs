//! What a policy says.

use crate::mac::Mac;
use crate::wit::types::{self, Action, DepMask, DropReason, FloodSet, Lifetime, MirrorTo, Target};

/// What is to happen to every frame that agrees with this one in what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Verdict {
    pub(crate) say: Say,
    pub(crate) cacheable: bool,
    pub(crate) idle_ms: u32,
    pub(crate) hard_ms: u32,
    /// In order; the rest is `None`.
    pub(crate) tags: [Option<u32>; TAGS_MAX],
    /// In order; the rest is `None`.
    pub(crate) acts: [Option<Act>; ACTS_MAX],
}

/// Most actions of one verdict. A host does eight changes, four copies, eight meters and eight labels at most.
const ACTS_MAX: usize = 16;

/// Most tags of one verdict.
const TAGS_MAX: usize = 4;

/// What is done to a frame before it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    PushVlan(u16),
    PopVlan,
    SetVlan(u16),
    SetPcp(u8),
    SetDscp(u8),
    SetSrcMac(Mac),
    SetDstMac(Mac),
    Mirror { to: To, bytes: u16 },
    Commit,
    Mark(u32),
    Meter(u32),
    Count(u32),
    Punt(u16),
    Learn(u32),
}

/// Where a copy goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Port(u32),
    Peer(u64),
}

impl Act {
    /// It changes the frame.
    #[cfg(not(target_arch = "wasm32"))]
    fn is_edit(self) -> bool {
        matches!(
            self,
            Self::PushVlan(_)
                | Self::PopVlan
                | Self::SetVlan(_)
                | Self::SetPcp(_)
                | Self::SetDscp(_)
                | Self::SetSrcMac(_)
                | Self::SetDstMac(_)
        )
    }

    fn sent(self) -> Action {
        let mac = |mac: Mac| {
            let [a, b, c, d, e, f] = mac.octets();
            types::Mac {
                hi: u16::from_be_bytes([a, b]),
                lo: u32::from_be_bytes([c, d, e, f]),
            }
        };
        match self {
            Self::PushVlan(vid) => Action::PushVlan(vid),
            Self::PopVlan => Action::PopVlan,
            Self::SetVlan(vid) => Action::SetVlan(vid),
            Self::SetPcp(pcp) => Action::SetPcp(pcp),
            Self::SetDscp(dscp) => Action::SetDscp(dscp),
            Self::SetSrcMac(to) => Action::SetSrcMac(mac(to)),
            Self::SetDstMac(to) => Action::SetDstMac(mac(to)),
            Self::Mirror { to, bytes } => {
                let to = match to {
                    To::Port(port) => MirrorTo::Port(port),
                    To::Peer(peer) => MirrorTo::Peer(peer),
                };
                Action::Mirror((to, bytes))
            }
            Self::Commit => Action::CtCommit,
            Self::Mark(mark) => Action::SetCtMark(mark),
            Self::Meter(at) => Action::Meter(at),
            Self::Count(label) => Action::Count(label),
            Self::Punt(bytes) => Action::Punt(bytes),
            Self::Learn(ms) => Action::Learn(ms),
        }
    }
}

/// As a golden trace has it.
#[cfg(not(target_arch = "wasm32"))]
impl core::fmt::Display for Act {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::PushVlan(vid) => write!(f, "push-vlan {vid}"),
            Self::PopVlan => f.write_str("pop-vlan"),
            Self::SetVlan(vid) => write!(f, "set-vlan {vid}"),
            Self::SetPcp(pcp) => write!(f, "set-pcp {pcp}"),
            Self::SetDscp(dscp) => write!(f, "set-dscp {dscp}"),
            Self::SetSrcMac(mac) => write!(f, "set-src-mac {mac}"),
            Self::SetDstMac(mac) => write!(f, "set-dst-mac {mac}"),
            Self::Mirror { to, bytes } => {
                match to {
                    To::Port(port) => write!(f, "mirror {port}")?,
                    To::Peer(peer) => write!(f, "mirror peer {peer}")?,
                }
                match bytes {
                    0 => Ok(()),
                    bytes => write!(f, " cut {bytes}"),
                }
            }
            Self::Commit => f.write_str("ct-commit"),
            Self::Mark(mark) => write!(f, "set-ct-mark {mark}"),
            Self::Meter(at) => write!(f, "meter {at}"),
            Self::Count(label) => write!(f, "count {label}"),
            Self::Punt(bytes) => write!(f, "punt {bytes}"),
            Self::Learn(ms) => write!(f, "learn {ms} ms"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Say {
    Next,
    Accept,
    Drop { code: u16, reject: bool },
    Port(u32),
    Peer(u64),
    Group(u32),
    FloodSet(u32),
}

/// Why a frame is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason(u16);

impl Reason {
    /// What `#[policy]` makes of a name.
    #[doc(hidden)]
    #[must_use]
    pub const fn interned(code: u16) -> Self {
        Self(code)
    }
}

/// A reason: a name in quotes, or the number of a rule as `u16`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no reason to drop a frame",
    note = "a name is written in the `impl` under `#[policy]`, in quotes: drop(\"telnet\"); that gives it its code",
    note = "the number of a rule is a `u16`, and `#[policy(rules = …)]` says how many there are"
)]
pub trait IntoReason {
    /// That.
    fn into_reason(self) -> Reason;
}

impl IntoReason for Reason {
    fn into_reason(self) -> Reason {
        self
    }
}

impl IntoReason for u16 {
    fn into_reason(self) -> Reason {
        Reason(self)
    }
}

/// Leave the frame to the next plugin, and after the last one to the switch.
pub fn next() -> Verdict {
    Verdict::of(Say::Next)
}

/// Let the frame pass; later plugins of the chain are not asked.
pub fn accept() -> Verdict {
    Verdict::of(Say::Accept)
}

/// Refuse the frame. `why` is a name in quotes, or the number of the rule that refuses; `meshd trace` shows it.
///
/// Names are lower-case letters, digits and hyphens. `#[policy]` gives each that stands in its `impl` a code, in the order
/// in which they stand there, and writes the table into the manifest. Elsewhere nobody would know the code:
///
/// ```compile_fail,E0277
/// # use meshd_sdk::prelude::*;
/// fn helper() -> Verdict { drop("telnet") }
/// ```
pub fn drop(why: impl IntoReason) -> Verdict {
    let Reason(code) = why.into_reason();
    Verdict::of(Say::Drop {
        code,
        reject: false,
    })
}

/// As [`drop`], and the sender is told where its protocol can tell it: a TCP reset, or an ICMP message.
pub fn reject(why: impl IntoReason) -> Verdict {
    let Reason(code) = why.into_reason();
    Verdict::of(Say::Drop { code, reject: true })
}

/// Out of this port of the node, wherever the destination is; on the way in only. Later plugins may still drop.
pub fn to_port(port: u32) -> Verdict {
    Verdict::of(Say::Port(port))
}

/// To this member, wherever the destination is; on the way in only. Later plugins may still drop.
pub fn to_peer(peer: u64) -> Verdict {
    Verdict::of(Say::Peer(peer))
}

/// By the group at this place (from 0) in the config's `groups`, or that the controller made under this number: one of its ways,
/// the same one for all frames of a flow; on the way in only. Later plugins may still drop.
pub fn to_group(group: u32) -> Verdict {
    Verdict::of(Say::Group(group))
}

/// If it is flooded, only to the flood set at this place (from 0) in the config's `flood-sets`, or that the controller made under
/// this number; on the way in only. Later plugins may still drop.
pub fn flood_set(set: u32) -> Verdict {
    Verdict::of(Say::FloodSet(set))
}

impl Verdict {
    /// The host carries it out where a frame is at its receiver.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn holds_at_egress(&self) -> bool {
        let placed = matches!(self.say, Say::Port(_) | Say::Peer(_));
        let here = |act: &Act| act.is_edit() || matches!(act, Act::Learn(_));
        !placed && !self.acts.iter().flatten().any(here)
    }

    fn of(say: Say) -> Self {
        Self {
            say,
            cacheable: true,
            idle_ms: 0,
            hard_ms: 0,
            tags: [None; TAGS_MAX],
            acts: [None; ACTS_MAX],
        }
    }

    /// # Panics
    /// If there are too many; a policy that does that is one whose author sees it in each test.
    fn act(mut self, act: Act) -> Self {
        let free = self.acts.iter_mut().find(|place| place.is_none());
        match free {
            Some(place) => *place = Some(act),
            None => panic!("a verdict has at most {ACTS_MAX} actions"),
        }
        self
    }

    /// With a tag of 802.1Q in front, VID 1 to 4094. This and the other changes: on the way in only, eight at most.
    pub fn push_vlan(self, vid: u16) -> Self {
        self.act(Act::PushVlan(vid))
    }

    /// Without its outer tag.
    pub fn pop_vlan(self) -> Self {
        self.act(Act::PopVlan)
    }

    /// With this VID (1 to 4094) in its outer tag, if it has one.
    pub fn set_vlan(self, vid: u16) -> Self {
        self.act(Act::SetVlan(vid))
    }

    /// With this priority (0 to 7) in its outer tag, if it has one.
    pub fn set_pcp(self, pcp: u8) -> Self {
        self.act(Act::SetPcp(pcp))
    }

    /// With this DSCP (0 to 63), if it is IP; ECN stays.
    pub fn set_dscp(self, dscp: u8) -> Self {
        self.act(Act::SetDscp(dscp))
    }

    /// With this source, which must be an endpoint of this node.
    pub fn set_src_mac(self, mac: Mac) -> Self {
        self.act(Act::SetSrcMac(mac))
    }

    /// With this destination, and so to where that is.
    pub fn set_dst_mac(self, mac: Mac) -> Self {
        self.act(Act::SetDstMac(mac))
    }

    /// With a copy to this port of the node, if it is forwarded; four copies at most.
    pub fn mirror(self, port: u32) -> Self {
        self.mirror_cut(port, 0)
    }

    /// With a copy of the first so many bytes (14 at least; 0: all) to this port.
    pub fn mirror_cut(self, port: u32, bytes: u16) -> Self {
        let to = To::Port(port);
        self.act(Act::Mirror { to, bytes })
    }

    /// With a copy of the first so many bytes (14 at least; 0: all) to this member, where it leaves by the port that is labelled
    /// `meshd.monitor=true`.
    pub fn mirror_peer(self, peer: u64, bytes: u16) -> Self {
        let to = To::Peer(peer);
        self.act(Act::Mirror { to, bytes })
    }

    /// With its connection entered in the host's table, so that its next frames are established as soon as it is answered.
    /// Of one that is entered already: decided by this chain.
    pub fn ct_commit(self) -> Self {
        self.act(Act::Commit)
    }

    /// With this mark on its connection, if that is in the host's table.
    pub fn set_ct_mark(self, mark: u32) -> Self {
        self.act(Act::Mark(mark))
    }

    /// Charged to the meter at this place (from 0) in the config's `meters`; see [`Meter`](crate::meter::Meter). Of several
    /// each applies; where one has no room the frame is dropped and charged to none. Eight at most.
    pub fn meter(self, at: u32) -> Self {
        self.act(Act::Meter(at))
    }

    /// Counted under this label, also where it is dropped; `meshd plugin stats` shows packets and bytes. Eight at most.
    pub fn count(self, label: u32) -> Self {
        self.act(Act::Count(label))
    }

    /// With a copy of the frame as it came in to the controller of the plugin, the first so many bytes; 0: all. Also of what is
    /// dropped. Above the budget (1000 a second) copies are counted and not sent.
    pub fn punt(self, bytes: u16) -> Self {
        self.act(Act::Punt(bytes))
    }

    /// With its source remembered at its port until it was quiet for so many ms (1000 to 86400000; a station that is not told of
    /// here is forgotten after 300000), and on ARP and ND with the address that it claims; on the way in only. Of what is
    /// dropped nothing is remembered.
    pub fn learn(self, ms: u32) -> Self {
        self.act(Act::Learn(ms))
    }

    /// With a tag: the controller of the plugin can take back all verdicts with it at once. Four at most.
    ///
    /// # Panics
    /// If there are more.
    pub fn tag(mut self, tag: u32) -> Self {
        match self.tags.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(tag),
            None => panic!("a verdict has at most {TAGS_MAX} tags"),
        }
        self
    }

    /// Kept for this long at most, from now on; 0: as long as nothing changes.
    pub fn for_ms(self, hard_ms: u32) -> Self {
        Self { hard_ms, ..self }
    }

    /// Kept until no frame came for this long; 0: as the host has it.
    pub fn idle_ms(self, idle_ms: u32) -> Self {
        Self { idle_ms, ..self }
    }

    /// The same for this frame only: the next one is asked about anew. That is slow.
    pub fn uncached(self) -> Self {
        Self {
            cacheable: false,
            ..self
        }
    }

    pub(crate) fn with_deps(self, deps: DepMask) -> types::Verdict {
        types::Verdict {
            target: match self.say {
                Say::Next => Target::Next,
                Say::Accept => Target::Accept,
                Say::Drop { code, reject } => Target::Drop(DropReason { code, reject }),
                Say::Port(port) => Target::Port(port),
                Say::Peer(peer) => Target::Peer(peer),
                Say::Group(group) => Target::Group(group),
                Say::FloodSet(set) => Target::Flood(FloodSet::Named(set)),
            },
            actions: self.acts.iter().flatten().map(|act| act.sent()).collect(),
            deps,
            life: Lifetime {
                cacheable: self.cacheable,
                idle_ms: self.idle_ms,
                hard_ms: self.hard_ms,
                tags: self.tags.into_iter().flatten().collect(),
            },
        }
    }
}
