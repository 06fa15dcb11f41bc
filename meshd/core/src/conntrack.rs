//! Connection tracking: which connection a frame belongs to, as far as a network's policy wants to know.
//!
//! ```text
//!   frame --Subject--> lane's own Seen -- hit --> Conn (atomics: state, last frame, epoch, mark) --> Tracked in the key
//!                          | miss                    ^
//!                          v                         | shared by all lanes of the network
//!                     Zone: table under a lock ------+   <-- Order of a ruling (ct-commit, set-ct-mark)
//! ```
//!
//! Owns what a connection is, its states and time-outs, and who gives way when there is no room. Refuses to decide: a
//! connection is entered only where a ruling orders it, so what policy refuses costs no memory. A frame of a known
//! connection takes no lock; one that belongs to none, or that opens one, takes the network's.
//!
//! Revocation: each connection bears the epoch of the ruling that entered it. Once the chain has changed, older ones are
//! [`CtState::NEW`] again, both ways, until a ruling of the new chain orders them anew.
//!
//! No windows or sequence numbers are looked at, and no tags: a zone is a network.

mod conn;
mod seen;
mod share;
mod table;
mod zone;

pub use conn::{Life, State};
pub use seen::Seen;
pub use table::{Row, TrackLimits};
pub use zone::{Zone, Zones, unheard};

use crate::flow::Origin;
use crate::ident::{Epoch, MacAddr};
use serde::{Deserialize, Serialize};

/// What is known of a frame's connection: a set of the constants. [`CtState::UNTRACKED`] is the empty one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct CtState(pub u8);

impl CtState {
    /// Not looked up: the network is not tracked, or the frame is none that has a connection.
    pub const UNTRACKED: Self = Self(0);
    /// Of a connection that is not entered, has been heard from one end only, or was decided by an earlier chain.
    pub const NEW: Self = Self(1);
    /// Frames went both ways.
    pub const ESTABLISHED: Self = Self(2);
    /// An ICMP error about a connection.
    pub const RELATED: Self = Self(4);
    /// Against the direction of the first frame.
    pub const REPLY: Self = Self(8);
    /// Of no connection, and none that could open one.
    pub const INVALID: Self = Self(16);

    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True if all of `other` is in it.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl core::fmt::Display for CtState {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        const NAMES: [(CtState, &str); 5] = [
            (CtState::NEW, "new"),
            (CtState::ESTABLISHED, "established"),
            (CtState::RELATED, "related"),
            (CtState::REPLY, "reply"),
            (CtState::INVALID, "invalid"),
        ];
        if *self == Self::UNTRACKED {
            return f.write_str("untracked");
        }
        let mut between = "";
        for (state, name) in NAMES {
            if self.has(state) {
                write!(f, "{between}{name}")?;
                between = " ";
            }
        }
        Ok(())
    }
}

/// What the key says of a frame's connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracked {
    /// Its state, this frame counted in.
    pub state: CtState,
    /// Its mark; 0 without a connection.
    pub mark: u32,
}

/// What tells connections of a network apart, in the direction of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Tuple {
    /// IP protocol or IPv6 upper-layer number.
    pub proto: u8,
    /// IPv4 as `::ffff:a.b.c.d`.
    pub src_ip: u128,
    /// As `src_ip`.
    pub dst_ip: u128,
    /// TCP, UDP or SCTP port; of who asks by an ICMP echo the identifier; 0 of others.
    pub src_port: u16,
    /// As `src_port`.
    pub dst_port: u16,
}

impl Tuple {
    /// Of frames the other way.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            proto: self.proto,
            src_ip: self.dst_ip,
            dst_ip: self.src_ip,
            src_port: self.dst_port,
            dst_port: self.src_port,
        }
    }
}

/// What a frame is to connection tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// No matter of connections: no IP, ARP and neighbour discovery, a later fragment (its ports are elsewhere), ICMP that
    /// is neither echo nor error.
    None,
    /// A header that is cut off, or flags that no TCP sends.
    Broken,
    /// Of a connection of its own.
    Packet(Tuple, Signal),
    /// An ICMP error about a packet of this tuple, sent to `to`.
    Error {
        /// As in the packet that the error quotes.
        about: Tuple,
        /// Who is told.
        to: u128,
    },
}

/// What a packet means for its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// TCP, with these flags as in [`FlowKey`](crate::flow::FlowKey).
    Tcp(u16),
    /// ICMP echo reply: opens nothing.
    EchoReply,
    /// Anything else.
    Data,
}

/// TCP flags, as in [`FlowKey`](crate::flow::FlowKey).
pub(crate) mod flag {
    pub(crate) const FIN: u16 = 1;
    pub(crate) const SYN: u16 = 2;
    pub(crate) const RST: u16 = 4;
    pub(crate) const ACK: u16 = 16;
}

impl Subject {
    /// TCP flags that some TCP sends: one of SYN, RST, FIN with ACK, or ACK alone.
    pub(crate) fn tcp(tuple: Tuple, flags: u16) -> Self {
        let shape = flags & (flag::FIN | flag::SYN | flag::RST | flag::ACK);
        let sane = matches!(shape & !flag::ACK, flag::SYN | flag::RST)
            || shape == flag::FIN | flag::ACK
            || shape == flag::ACK;
        if sane {
            Self::Packet(tuple, Signal::Tcp(flags))
        } else {
            Self::Broken
        }
    }
}

impl Signal {
    /// A first TCP segment.
    pub(crate) fn is_syn(self) -> bool {
        matches!(self, Self::Tcp(flags) if flags & (flag::SYN | flag::ACK) == flag::SYN)
    }

    /// May it be the first that is seen of a connection? A TCP segment in the middle of one may: this node may have been
    /// restarted, or the connection may have come here from another way.
    pub(crate) fn opens(self) -> bool {
        match self {
            Self::Tcp(flags) => {
                flags & flag::RST == 0 && flags & (flag::SYN | flag::ACK) != flag::SYN | flag::ACK
            }
            Self::EchoReply => false,
            Self::Data => true,
        }
    }
}

/// Who answers for a connection: where its first frame came from. Of a port all MACs are one; behind a peer or the VXLAN
/// device each MAC is one by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Opener {
    /// The lane.
    pub origin: Origin,
    /// Of a peer's frames the source; else zero.
    pub mac: MacAddr,
}

impl Opener {
    /// Of a frame with this source that came from there.
    #[must_use]
    pub fn of(origin: Origin, src_mac: MacAddr) -> Self {
        let mac = match origin {
            Origin::Port(_) => MacAddr([0; 6]),
            Origin::Peer(_) | Origin::Vxlan(_) => src_mac,
        };
        Self { origin, mac }
    }
}

/// What a ruling wants of the connections of its frames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Those that are not entered are to be.
    pub commit: bool,
    /// Those that are entered get this mark.
    pub mark: Option<u32>,
    /// Of the ruling.
    pub epoch: Epoch,
    /// Who decided, for people.
    pub why: String,
}

#[cfg(test)]
mod tests;
