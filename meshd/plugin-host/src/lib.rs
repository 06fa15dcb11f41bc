//! Hosts plugins, policies and controllers, and distrusts them.
//!
//! ```text
//!   bytes --precompile--> code --from_compiled--> Plugin --Instance::new(config)--> Instance --decide(question)--> Decision
//!                  |                     |                        |                              |
//!                  +------LoadError------+                  ConfigureError                     Fault (and a fresh
//!                                                                                     instance for the next question)
//! ```
//!
//! Owns the engine, the contract check, the limits and the translation between the core's words and those of `wit/`.
//! Knows no chain, no fail mode and no network: that is the daemon's `rulings`. It imports wasmtime and the core's types,
//! and never a socket, a file or an async runtime. A policy has no imports but the key it is
//! asked about, a fixed amount of fuel for a decision, a memory cap, and nothing it returns is believed unread. A controller
//! has the imports that its embedder grants, a time for each event and a memory cap.

mod bindings;
mod capability;
mod check;
mod controller;
mod convert;
mod engine;
mod facts;
mod fault;
pub mod groups;
mod instance;
mod load;
mod manifest;
mod rules;
mod schema;
mod sections;
mod signature;
mod steering;
mod tracked;
mod version;
mod words;

pub use capability::{Amounts, Asks, Capability, Grants, ParseCapabilityError};
pub use check::{Lie, Scramble, examine};
pub use controller::{Controller, ControllerHost, MAX_STATE, StateError};
pub use convert::{Decision, Say};
pub use engine::{Engine, Limits};
pub use facts::{FACTS_MAX, FactChange, Facts, FactsError};
pub use fault::Fault;
pub use instance::{ConfigProblem, ConfigureError, Instance, MAX_CONFIG};
pub use load::{
    Digest, LoadError, MAX_COMPONENT, Plugin, Shape, World, compatibility, precheck, precompile,
};
pub use manifest::{FailMode, MAX_MANIFEST, Manifest, ManifestError, SECTION, Stage};
pub use rules::{Looked, Rule, RuleError, Rules};
pub use schema::Schema;
pub use sections::{CONTROLLER, section};
pub use signature::{SIGNATURE, SignatureError, sign, signed_digest, signer_of, signers};
pub use version::{Terms, WIT};
pub use words::{Words, key_print};

/// The words of the contract, as `wit/` has them: what a [`ControllerHost`] is asked, and what a [`Controller`] is told.
pub mod contract {
    pub use crate::bindings::controller::exports::meshd::policy::events;
    pub use crate::bindings::controller::meshd::policy::{
        clock, flows, http, kv, log, metrics, packet_out, random, timers, topology,
    };
    pub use crate::bindings::meshd::policy::types;
    pub use crate::convert::key;
}
