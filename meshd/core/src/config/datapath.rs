//! `[datapath]`: on how many cores frames are carried.

use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;

/// Threads that carry frames, at most.
pub(super) const THREADS_MAX: u32 = 256;
/// Queues of a port, at most; the kernel has 256.
pub(super) const QUEUES_MAX: u32 = 64;
/// Queues of a port that are made unasked: each has a lane, and a queue of frames in the kernel.
const QUEUES_UNASKED: usize = 8;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatapathSettings {
    /// Threads that carry frames, 1 to 256; `None`: see [`Self::threads`].
    pub threads: Option<u16>,
    /// Queues of a port, 1 to 64; `None`: see [`Self::queues`].
    pub queues: Option<u16>,
}

impl DatapathSettings {
    /// Threads that carry frames and nothing else: unless said, half of the cores. The other half is for those whose frames they
    /// are, and for the kernel's share of the work; a thread more than that is woken by the others more often than it helps them.
    #[must_use]
    pub fn threads(&self, cores: NonZeroUsize) -> usize {
        let unasked = cores.get().div_ceil(2);
        self.threads.map_or(unasked, usize::from).max(1)
    }

    /// Queues of a port: unless said, as many as there are threads to read them, and at most eight.
    #[must_use]
    pub fn queues(&self, cores: NonZeroUsize) -> usize {
        let unasked = self.threads(cores).min(QUEUES_UNASKED);
        self.queues.map_or(unasked, usize::from).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_cores_carry_frames_and_a_port_has_a_queue_for_each_unless_said() {
        let of = |threads, queues, cores| {
            let settings = DatapathSettings { threads, queues };
            let cores = NonZeroUsize::new(cores).unwrap_or(NonZeroUsize::MIN);
            (settings.threads(cores), settings.queues(cores))
        };
        assert_eq!(of(None, None, 1), (1, 1));
        assert_eq!(of(None, None, 2), (1, 1));
        assert_eq!(of(None, None, 7), (4, 4));
        assert_eq!(of(None, None, 64), (32, 8));
        assert_eq!(of(Some(3), None, 2), (3, 3));
        assert_eq!(of(None, Some(5), 2), (1, 5));
        assert_eq!(of(Some(2), Some(12), 2), (2, 12));
    }
}
