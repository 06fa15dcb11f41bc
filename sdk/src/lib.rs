//! Write a meshd policy in twenty lines, and test it without a daemon.
//!
//! ```
//! use meshd_sdk::prelude::*;
//!
//! /// Refuses connections to one TCP port.
//! #[derive(serde::Deserialize)]
//! struct NoTelnet { port: u16 }
//!
//! impl Policy for NoTelnet {
//!     fn decide(&self, key: &Key<'_>) -> Verdict {
//!         if key.is_tcp() && key.dst_port() == self.port { drop(1) } else { next() }
//!     }
//! }
//! export_policy!(NoTelnet);
//!
//! use meshd_sdk::test::{arp, host, tcp};
//! let host = host(NoTelnet { port: 23 });
//! host.send(tcp("10.0.0.1:4000", "10.0.0.2:23")).drops(1).reads("ip-kind ip-proto l4-ok dst-port");
//! host.send(arp("10.0.0.1", "10.0.0.2")).passes().reads("ip-kind");
//! host.sound(10_000);
//! ```
//!
//! A policy is a function of its config and a frame's key. meshd asks it about the first frame of a flow and keeps the
//! verdict for all frames that agree in what the policy read; [`Key`] notes the reads, so nobody writes a mask by hand.

mod key;
mod net;
mod policy;
#[cfg(not(target_arch = "wasm32"))]
mod sound;
#[cfg(not(target_arch = "wasm32"))]
pub mod test;
mod verdict;
#[doc(hidden)]
pub mod wit;

pub use key::{Direction, DstClass, Frag, IpKind, Key};
pub use net::{Net, ParseNetError};
#[doc(hidden)]
pub use policy::guest;
pub use policy::{ConfigError, Policy};
pub use verdict::{Verdict, accept, drop, next};

/// What most plugins need. It shadows `core::mem::drop`.
pub mod prelude {
    pub use crate::{
        ConfigError, Direction, DstClass, Frag, IpKind, Key, Net, Policy, Verdict, accept, drop,
        export_policy, next,
    };
}
