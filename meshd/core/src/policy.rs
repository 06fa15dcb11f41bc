//! Policy: what the plugin chain said, kept as megaflows, and the frames that wait for it.

use crate::flow::FlowMask;
use serde::{Deserialize, Serialize};

/// How long an answer is waited for, in ms.
pub const ANSWER_MS_MAX: u64 = 2000;

/// What a chain of plugins answers to a [`Question`](crate::node::Question).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Pass or not.
    pub verdict: Verdict,
    /// Which bits of the key it read; the port and direction are always taken as read.
    pub mask: FlowMask,
    /// Whether the destination class was read.
    pub read_dst_class: bool,
    /// False: ask for every frame.
    pub cacheable: bool,
    /// Who decided, and under which reason, for people: `acl: tcp/22 (code 1)`.
    pub why: String,
}

/// Composed over the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// On to the switch.
    Pass,
    /// A plugin refused.
    Drop,
    /// A plugin failed, and fails closed.
    Failed,
}
