//! Judges policy plugins without a daemon: on recorded traffic, on made-up traffic, by the clock.
//!
//! ```text
//!   FILE.pcap --Recording--> frames --question--> Instance (the daemon's engine)
//!   Traffic   ---------------^            \--look--> Policy (the daemon's cache)
//!                 replay: what happens to this traffic, and how much of it is asked about
//!                 trial:  does the plugin keep the contract?       bench: what does it cost?
//! ```
//!
//! Owns the questions and what is made of the answers. What a guest may do and what a cache keeps is the host's and the core's.
//! Traces are those of the SDK's tests, so a component is held against what its native code said.

mod bench;
mod golden;
mod names;
mod question;
mod recording;
mod replay;
mod traffic;
mod trial;

pub use bench::{Figures, bench};
pub use golden::{difference, trace};
pub use names::Names;
pub use question::{NotAsked, question};
pub use recording::{Captured, MAX_RECORDING, Recording, RecordingError};
pub use replay::{Entry, Replay, replay};
pub use traffic::traffic;
pub use trial::{Trial, Trouble, trial};
