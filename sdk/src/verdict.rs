//! What a policy says.

use crate::wit::types::{self, DepMask, DropReason, Lifetime, Target};

/// What is to happen to every frame that agrees with this one in what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Verdict {
    pub(crate) say: Say,
    pub(crate) cacheable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Say {
    Next,
    Accept,
    Drop(u16),
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
    Verdict {
        say: Say::Next,
        cacheable: true,
    }
}

/// Let the frame pass; later plugins of the chain are not asked.
pub fn accept() -> Verdict {
    Verdict {
        say: Say::Accept,
        cacheable: true,
    }
}

/// Refuse the frame. `why` is a name in quotes, or the number of the rule that refuses; `meshd trace` shows it.
///
/// Names are lower-case letters, digits and hyphens. `#[policy]` gives each that stands in its `impl` a code, in the order
/// in which they stand there, and writes the table into the manifest.
pub fn drop(why: impl IntoReason) -> Verdict {
    let Reason(code) = why.into_reason();
    Verdict {
        say: Say::Drop(code),
        cacheable: true,
    }
}

impl Verdict {
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
                Say::Drop(code) => Target::Drop(DropReason {
                    code,
                    reject: false,
                }),
            },
            actions: Vec::new(),
            deps,
            life: Lifetime {
                cacheable: self.cacheable,
                idle_ms: 0,
                hard_ms: 0,
                tags: Vec::new(),
            },
        }
    }
}
