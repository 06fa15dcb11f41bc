//! Controllers: the half of a plugin that has a memory and is told what happens, beside the data path.
//!
//! ```
//! use std::collections::BTreeMap;
//! use meshd_sdk::prelude::*;
//! use meshd_sdk::controller::{Commit, Event, FactChange, FactMap, Host};
//!
//! #[derive(Config)]
//! /// Lets nobody speak but the stations of ports with the label `speaker`.
//! struct Speakers {
//!     #[config(skip)]
//!     may: FactMap<Mac, ()>,
//! }
//!
//! #[policy(stage = "guard", fail = "closed")]
//! impl Policy for Speakers {
//!     fn decide(&self, key: &Key) -> Verdict {
//!         if self.may.get(&key.src_mac()).is_some() { next() } else { drop("no-speaker") }
//!     }
//!     fn update(&mut self, change: &FactChange) {
//!         self.may.apply("may/", change);
//!     }
//! }
//!
//! struct Watch {
//!     speakers: BTreeMap<u32, Mac>,
//! }
//!
//! #[controller(topology, flows)]
//! impl Controller for Watch {
//!     type Config = Speakers;
//!     fn new(_: Speakers, _: &Host) -> Result<Self, Vec<ConfigError>> {
//!         Ok(Self { speakers: BTreeMap::new() })
//!     }
//!     fn on_event(&mut self, event: Event, host: &Host) {
//!         let commit = match event {
//!             Event::PortAdded(port) if port.label("speaker").is_some() => {
//!                 self.speakers.insert(port.id, port.mac);
//!                 Commit::new().put("may/", &port.mac, &())
//!             }
//!             Event::PortRemoved(id) => match self.speakers.remove(&id) {
//!                 Some(mac) => Commit::new().forget("may/", &mac),
//!                 None => return,
//!             },
//!             _ => return,
//!         };
//!         host.warn_if(host.commit(commit));
//!     }
//! }
//!
//! use meshd_sdk::test::{controlled, pkt};
//! let mut world = controlled::<Watch>("{}").unwrap();
//! world.port(3, "02:00:00:00:00:03", &[]).label("speaker", "yes").arrives();
//! let policy = world.policy::<Speakers>();
//! policy.send(pkt!(tcp 10.0.0.3:4000 > 10.0.0.2:23 syn mac 02:00:00:00:00:03 > 02:00:00:00:00:02)).passes();
//! policy.send(pkt!(tcp 10.0.0.4:4000 > 10.0.0.2:23 syn)).drops("no-speaker");
//! world.remove_port(3);
//! let policy = world.policy::<Speakers>();
//! policy.send(pkt!(tcp 10.0.0.3:4000 > 10.0.0.2:23 syn mac 02:00:00:00:00:03 > 02:00:00:00:00:02)).drops("no-speaker");
//! ```
//!
//! Policy and controller of a crate are two components in one file; what they have in common is the config and the facts. A
//! crate may have either, or both. The manifest names what the controller asks for, and an operator grants it, or not.

mod commit;
mod event;
mod facts;
#[cfg(controlling)]
mod guest;
mod host;

pub use crate::wit::flows::FlowError;
pub use crate::wit::http::{HttpError, Response};
pub use crate::wit::kv::{Entry, KvError};
pub use crate::wit::packet_out::OutError;
pub use crate::wit::types::{FlowKey, LinkStats, LogLevel};
pub use commit::Commit;
pub use event::{Endpoint, Event, Peer, Port, Punt, TimerId};
pub use facts::{Fact, FactChange, FactMap};
pub use host::{Host, Kv, OutTo, Request};

use crate::config::{Config, ConfigError};
use crate::manifest::Controls;

/// A controller. `#[controller(topology, flows, …)]` stands above the `impl` and names what it asks for.
pub trait Controller: Controls + Sized + Send + 'static {
    /// What the attachment is configured with: of a crate with a policy, the policy's.
    type Config: Config;

    /// Begins. The first event comes afterwards; `commit` is not to be had yet.
    ///
    /// # Errors
    /// Everything that is wrong with the config.
    fn new(config: Self::Config, host: &Host) -> Result<Self, Vec<ConfigError>>;

    /// The config is another one; what is not said otherwise begins anew.
    ///
    /// # Errors
    /// Everything that is wrong with it. This one goes on then.
    fn reconfigure(&mut self, config: Self::Config, host: &Host) -> Result<(), Vec<ConfigError>> {
        *self = Self::new(config, host)?;
        Ok(())
    }

    /// One thing that happened. It has 250 ms of processor time.
    fn on_event(&mut self, event: Event, host: &Host);

    /// What the next version is to know; at most 256 KiB.
    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    /// What the version before wanted known.
    ///
    /// # Errors
    /// Why it cannot be taken; the version before goes on then.
    fn restore(&mut self, state: &[u8], from_version: &str) -> Result<(), String> {
        let _ = (state, from_version);
        Ok(())
    }
}

/// What the component calls; not for use by hand.
#[doc(hidden)]
pub mod export {
    #[cfg(controlling)]
    pub use super::guest::{Seat, configure, on_event, restore, save};

    /// Does nothing.
    pub const fn used<C: super::Controller>() {}
}

/// What `#[controller]` makes the controller's component with. Does nothing in a native build, and in the policy's component.
#[cfg(not(controlling))]
#[doc(hidden)]
#[macro_export]
macro_rules! __export_controller {
    ($controller:ty) => {
        const _: () = $crate::controller::export::used::<$controller>();
    };
}

/// What `#[controller]` makes the controller's component with.
#[cfg(controlling)]
#[doc(hidden)]
#[macro_export]
macro_rules! __export_controller {
    ($controller:ty) => {
        const _: () = {
            static SEAT: $crate::controller::export::Seat<$controller> =
                $crate::controller::export::Seat::new();
            $crate::__manifest_section!(<$controller as $crate::manifest::Controls>::MANIFEST);
            struct Component;
            impl $crate::wit::Guest for Component {
                fn configure(
                    config: ::std::string::String,
                    _at: u64,
                ) -> ::core::result::Result<(), ::std::vec::Vec<$crate::wit::types::ConfigError>>
                {
                    $crate::controller::export::configure(&SEAT, &config)
                }
                fn on_event(event: $crate::wit::events::Event) {
                    $crate::controller::export::on_event(&SEAT, event);
                }
                fn save_state() -> ::std::vec::Vec<u8> {
                    $crate::controller::export::save(&SEAT)
                }
                fn restore_state(
                    state: ::std::vec::Vec<u8>,
                    from_version: ::std::string::String,
                ) -> ::core::result::Result<(), ::std::string::String> {
                    $crate::controller::export::restore(&SEAT, &state, &from_version)
                }
            }
    $crate::wit::export!(Component with_types_in $crate::wit);
        };
    };
}
