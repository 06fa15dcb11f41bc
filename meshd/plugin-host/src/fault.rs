//! What can go wrong while a guest runs.

use wasmtime::Trap;

/// Why a guest gave no verdict. The instance is thrown away; the plugin's fail mode answers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It ran too long, by count.
    #[error("it used more than its {limit} fuel; look for a loop that depends on the key")]
    Fuel {
        /// Fuel it had.
        limit: u64,
    },
    /// It ran too long, by the clock.
    #[error("it did not return in time; look for large memory operations")]
    Deadline,
    /// It wanted too much memory.
    #[error("it asked for {wanted} bytes of memory; the limit is {limit}")]
    Memory {
        /// What it asked for.
        wanted: usize,
        /// What it may have.
        limit: usize,
    },
    /// It called itself too deeply.
    #[error("it ran out of stack; look for recursion")]
    Stack,
    /// It ended itself: a panic, a division by zero, an access outside its memory.
    #[error("it trapped: {what}")]
    Trap {
        /// As the engine says.
        what: String,
    },
    /// It returned what the contract or this host does not allow.
    #[error("its verdict is not valid: {what}")]
    Verdict {
        /// What is wrong.
        what: String,
    },
    /// After a fault, no fresh instance could be made.
    #[error("a fresh instance could not be made: {what}")]
    Restart {
        /// Why.
        what: String,
    },
}

impl Fault {
    /// Every [`Fault::kind`], in order.
    pub const KINDS: [&'static str; 7] = [
        "fuel", "deadline", "memory", "stack", "trap", "verdict", "restart",
    ];

    /// What each of [`Fault::KINDS`] means, and what its author can do.
    pub const EXPLAINED: [(&'static str, &'static str); 7] = [
        (
            "The plugin used more than its fuel: it ran too long, by count of its instructions.",
            "Look for a loop that depends on the key; `meshd plugin bench` shows what a question costs.",
        ),
        (
            "The plugin did not return in time, by the clock.",
            "Look for large memory operations; a lone one is pardoned and asked again.",
        ),
        (
            "The plugin asked for more memory than its limit.",
            "Keep less, or ask for more in the manifest.",
        ),
        ("The plugin ran out of stack.", "Look for recursion."),
        (
            "The plugin ended itself: a panic, a division by zero, an access outside of its memory.",
            "`meshd plugin stats` has the last fault's words; replay the frame with `meshd plugin replay`.",
        ),
        (
            "The plugin's verdict is not what the contract or this host allows.",
            "The last fault in `meshd plugin stats` says what of it; see docs/plugins/contract.md.",
        ),
        (
            "After a fault no fresh instance of the plugin could be made.",
            "Its config may be refused now, or this host has no memory left; `meshd plugin ls` says which.",
        ),
    ];

    /// Which of [`Fault::KINDS`] this is, by its place there: for counters.
    #[must_use]
    pub fn kind(&self) -> usize {
        match self {
            Self::Fuel { .. } => 0,
            Self::Deadline => 1,
            Self::Memory { .. } => 2,
            Self::Stack => 3,
            Self::Trap { .. } => 4,
            Self::Verdict { .. } => 5,
            Self::Restart { .. } => 6,
        }
    }

    /// The fault behind an error of a call, given the limits of the instance and what memory it was refused.
    pub(crate) fn of(error: &wasmtime::Error, fuel: u64, refused: Option<(usize, usize)>) -> Self {
        if let Some((wanted, limit)) = refused {
            return Self::Memory { wanted, limit };
        }
        match error.downcast_ref::<Trap>() {
            Some(Trap::OutOfFuel) => Self::Fuel { limit: fuel },
            Some(Trap::Interrupt) => Self::Deadline,
            Some(Trap::StackOverflow) => Self::Stack,
            Some(trap) => Self::Trap {
                what: trap.to_string(),
            },
            None => Self::Trap {
                what: format!("{error:#}"),
            },
        }
    }
}
