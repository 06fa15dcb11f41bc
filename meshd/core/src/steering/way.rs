//! Numbers of ways, and which of a peer's ways carry frames.

use core::sync::atomic::{AtomicU32, Ordering};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One way to a peer. Its number means the same while the node runs: 1 is kernel VXLAN, 2 the session itself, 3 to 8 the
/// underlay links of this node, in the order of its config file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WayId(u8);

/// Most underlay links of a node.
pub const LINKS_MAX: usize = 6;
/// The first number that no way has.
pub const WAYS_END: usize = 3 + LINKS_MAX;

impl WayId {
    /// VXLAN by the two kernels.
    pub const KERNEL: Self = Self(1);
    /// The QUIC session that also carries control messages.
    pub const MAIN: Self = Self(2);

    /// The nth underlay link of this node.
    #[must_use]
    pub fn link(nth: usize) -> Option<Self> {
        let number = u8::try_from(nth).ok()?.checked_add(3)?;
        Self::new(number.into())
    }

    /// The way with this number, if a way can have it.
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        let number = u8::try_from(number).ok()?;
        (1..WAYS_END)
            .contains(&usize::from(number))
            .then_some(Self(number))
    }

    /// Which underlay link it is; `None`: none.
    #[must_use]
    pub fn nth_link(self) -> Option<usize> {
        usize::from(self.0).checked_sub(3)
    }

    /// As plugins and operators see it.
    #[must_use]
    pub fn number(self) -> u32 {
        u32::from(self.0)
    }

    fn bit(self) -> u32 {
        1 << self.0
    }
}

impl fmt::Display for WayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A set of ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ways(u32);

impl Ways {
    /// With one more.
    #[must_use]
    pub fn with(self, way: WayId) -> Self {
        Self(self.0 | way.bit())
    }

    /// Is it in there?
    #[must_use]
    pub fn has(self, way: WayId) -> bool {
        self.0 & way.bit() != 0
    }

    /// None at all?
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<WayId> for Ways {
    fn from_iter<I: IntoIterator<Item = WayId>>(ways: I) -> Self {
        ways.into_iter().fold(Self::default(), Self::with)
    }
}

/// The ways of one peer by which lanes may send now, and the one for what no choice is made for: floods to several members, and
/// copies. Shared by the node, which sets it, and all lanes, which look at it with each frame; kernel VXLAN is never among them,
/// since lanes cannot send by it.
#[derive(Debug, Default)]
pub struct Live(AtomicU32);

/// In the word of [`Live`] the number of the best way stands above the bits of all ways; 0: there is none.
const BEST_SHIFT: usize = 16;

const _: () = assert!(WAYS_END <= BEST_SHIFT, "each way has a bit");

impl Live {
    /// As it is now.
    #[must_use]
    pub fn ways(&self) -> Ways {
        Ways(self.0.load(Ordering::Relaxed) & ((1 << BEST_SHIFT) - 1))
    }

    /// The way for what no choice is made for; `None`: none is alive, or it was not said.
    #[must_use]
    pub fn best(&self) -> Option<WayId> {
        WayId::new(self.0.load(Ordering::Relaxed) >> BEST_SHIFT)
    }

    /// From now on.
    pub fn set(&self, ways: Ways, best: Option<WayId>) {
        let best = best.map_or(0, WayId::number) << BEST_SHIFT;
        self.0.store(ways.0 | best, Ordering::Relaxed);
    }
}

/// Two are the same only if they are one: it is shared state.
impl PartialEq for Live {
    fn eq(&self, other: &Self) -> bool {
        core::ptr::eq(self, other)
    }
}

impl Eq for Live {}
