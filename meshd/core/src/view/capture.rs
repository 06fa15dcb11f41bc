//! What `meshd capture` and `meshd trace --live` show, line by line.

use crate::capture::Way;
use crate::ruling::DropReason;
use serde::{Deserialize, Serialize};

/// One line of a capture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Captured {
    /// A frame.
    Frame(CapturedFrame),
    /// Something to know about what follows, and about what is not seen.
    Note {
        /// In words.
        note: String,
    },
    /// The end: how many frames are not in it.
    Missed {
        /// Since the reader was too slow.
        missed: u64,
        /// Since they were beyond the rate that was asked for.
        skipped: u64,
    },
}

/// A frame that was captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedFrame {
    /// Nanoseconds since the Unix epoch.
    pub at_ns: u64,
    /// The network's name.
    pub network: String,
    /// `port 3 (web.lan)` or `peer berlin`.
    pub place: String,
    /// Whether it came from there or went there.
    pub way: Way,
    /// As [`flowtext`](crate::flowtext) writes it; absent: it cannot be read.
    pub flow: Option<String>,
    /// What became of it, and how, in words.
    pub verdict: String,
    /// Why it was dropped, if it was.
    pub drop: Option<DropReason>,
    /// Its bytes.
    pub length: u32,
    /// Frames that it stands for: more than one of a superframe.
    pub frames: u64,
}
