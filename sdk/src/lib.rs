//! Write a meshd policy in ten lines, and test it without a daemon.
//!
//! ```
//! use meshd_sdk::prelude::*;
//!
//! #[derive(Config)]
//! /// Refuse connections to one TCP port.
//! struct NoTelnet { #[config(default = 23)] port: u16 }
//!
//! #[policy(stage = "guard", fail = "closed")]
//! impl Policy for NoTelnet {
//!     fn decide(&self, key: &Key) -> Verdict {
//!         if key.is_tcp() && key.dst_port() == self.port { drop("telnet") } else { next() }
//!     }
//! }
//!
//! use meshd_sdk::test::{host, pkt};
//! let p = host(NoTelnet { port: 23 });
//! p.send(pkt!(tcp 10.0.0.1:4000 > 10.0.0.2:23 syn)).drops("telnet").reads("ip-kind ip-proto l4-ok dst-port");
//! p.send(pkt!(arp who-has 10.0.0.2 tell 10.0.0.1)).passes().reads("ip-kind");
//! p.sound(10_000);
//! ```
//!
//! A policy is a function of its config and a frame's key. meshd asks it about the first frame of a flow and keeps the
//! verdict for all frames that agree in what the policy read; [`Key`] notes the reads, so nobody writes a mask by hand.
//!
//! The component says of itself, in a custom section, what it is: name, stage, fail mode, names of its reasons, and the
//! schema of its config. `docs/plugins/manifest.md` has the format.

// The macros write `::meshd_sdk`, in here too.
extern crate self as meshd_sdk;

pub mod config;
pub mod controller;
mod emit;
pub mod group;
mod key;
mod mac;
#[doc(hidden)]
pub mod manifest;
pub mod meter;
mod net;
mod peer;
mod policy;
pub mod rules;
pub mod steering;
#[cfg(not(target_arch = "wasm32"))]
pub mod test;
mod verdict;
#[doc(hidden)]
pub mod wit;

pub use config::{Config, ConfigError};
pub use controller::Controller;
pub use group::{Bucket, FloodReceivers, Group, GroupKind};
pub use key::{Ct, Direction, DstClass, Frag, IpKind, Key};
pub use mac::{Mac, MacMap, ParseMacError};
pub use meshd_sdk_macros::{Config, controller, policy, steering};
pub use meter::Meter;
pub use net::{Net, ParseNetError};
pub use peer::Peer;
pub use policy::Policy;
#[doc(hidden)]
pub use policy::guest;
pub use verdict::{
    IntoReason, Reason, Verdict, accept, drop, flood_set, next, reject, to_group, to_peer, to_port,
};

/// What most plugins need. It shadows `core::mem::drop`.
pub mod prelude {
    pub use crate::{
        Config, ConfigError, Controller, Ct, Direction, DstClass, Frag, Group, IpKind, Key, Mac,
        MacMap, Meter, Net, Peer, Policy, Verdict, accept, controller, drop, flood_set, next,
        policy, reject, steering, to_group, to_peer, to_port,
    };
}
