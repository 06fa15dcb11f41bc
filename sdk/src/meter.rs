//! How a config declares meters. The host reads the key `meters` of every config, so a policy that uses them has the field
//!
//! ```
//! use meshd_sdk::prelude::*;
//!
//! #[derive(Config)]
//! struct Shaper {
//!     /// What may be used.
//!     #[config(default = [])]
//!     meters: Vec<Meter>,
//! }
//! ```
//!
//! and says `next().meter(0)` for the first of them.

/// A token bucket that the host keeps for this attachment. Give either `kbps` or `pps`.
#[derive(Clone, Debug, PartialEq, Eq, crate::Config)]
pub struct Meter {
    /// 1 to 32 letters, digits, `-`, `_` or `.`; drops and traces name it behind the plugin.
    pub name: String,
    /// Thousand bits a second, of frames without preamble and checksum.
    pub kbps: Option<u32>,
    /// Frames a second.
    pub pps: Option<u32>,
    /// How much may come at once: what the rate makes of so many ms, and two long frames at least; up to 10000.
    #[config(default = 100)]
    pub burst_ms: u32,
}
