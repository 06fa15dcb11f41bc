//! What a node asks another one for a person who stands before the first: how a trace goes on there, and how it sees the asker.
//!
//! Owns the question and the answer. Both ends are proven members; how often one may ask is the asked node's to say.

use crate::ident::{NodeId, Vni};
use serde::{Deserialize, Serialize};

/// Bytes of an answer, at most.
pub const ANSWER_MAX: usize = 64 << 10;
/// Bytes of a packet in words, or in hex digits.
pub const TEXT_MAX: usize = 20_000;

/// One message of an inquiry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InquiryWord {
    /// Say this, please.
    Ask(Inquiry),
    /// This.
    Told {
        /// Of the question.
        id: u64,
        /// JSON of at most [`ANSWER_MAX`] bytes: a [`TraceReport`](crate::view::TraceReport) or a
        /// [`Testimony`](crate::diagnosis::Testimony); or why there is none.
        answer: Result<Vec<u8>, String>,
    },
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inquiry {
    /// To be named in the answer.
    pub id: u64,
    /// What is asked.
    pub what: InquiryWhat,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InquiryWhat {
    /// What would become of a frame that comes from a member, by its session?
    Frame {
        /// On this network.
        vni: Vni,
        /// The member.
        from: NodeId,
        /// From the destination MAC on.
        frame: Vec<u8>,
    },
    /// The same of a packet in the words of `meshd trace`, from where the asked node says that it comes.
    Packet {
        /// On this network.
        vni: Vni,
        /// The words.
        text: String,
    },
    /// How do you see me, what does your clock say, and what do you hold of what both should hold alike?
    Testimony,
}
