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

/// Refuse the frame. `code` is the number of the rule that refuses; `meshd trace` shows it.
pub fn drop(code: u16) -> Verdict {
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
