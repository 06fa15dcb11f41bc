//! The only clock of the daemon: reads both times at once, for the core.

use meshd_core::ident::{Moment, Now, WallTime};
use std::time::{Duration, Instant, SystemTime};

/// What the host's clock says; 0 before 1970.
pub(crate) fn wall() -> WallTime {
    let wall = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    WallTime(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX))
}

/// Starts counting when it is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    /// Moment 0 is now.
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// Time since the start.
    pub(crate) fn moment(&self) -> Moment {
        Moment(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Both times.
    pub(crate) fn now(&self) -> Now {
        Now {
            moment: self.moment(),
            wall: wall(),
        }
    }

    /// When `moment` is, for timers.
    pub(crate) fn instant(&self, moment: Moment) -> Instant {
        // A century is never, and does not overflow.
        self.start + Duration::from_nanos(moment.0.min(100 * 365 * 86_400 * 1_000_000_000))
    }
}
