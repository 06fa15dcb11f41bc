//! What a policy says.

use crate::wit::types::{self, DepMask, DropReason, Lifetime, Target};

/// What is to happen to every frame that agrees with this one in what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Verdict {
    pub(crate) say: Say,
    pub(crate) cacheable: bool,
    pub(crate) idle_ms: u32,
    pub(crate) hard_ms: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Say {
    Next,
    Accept,
    Drop { code: u16, reject: bool },
    Port(u32),
    Peer(u64),
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

impl Verdict {
    fn of(say: Say) -> Self {
        Self {
            say,
            cacheable: true,
            idle_ms: 0,
            hard_ms: 0,
        }
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
            },
            actions: Vec::new(),
            deps,
            life: Lifetime {
                cacheable: self.cacheable,
                idle_ms: self.idle_ms,
                hard_ms: self.hard_ms,
                tags: Vec::new(),
            },
        }
    }
}
