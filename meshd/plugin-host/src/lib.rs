//! Hosts policy plugins, and distrusts them.
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
//! and never a socket, a file or an async runtime. A guest has no imports but the key it is
//! asked about, a fixed amount of fuel for a decision, a memory cap, and nothing it returns is believed unread.

mod bindings;
mod check;
mod convert;
mod engine;
mod fault;
mod instance;
mod load;
mod manifest;
mod schema;
mod sections;
mod signature;
mod tracked;
mod words;

pub use check::{Lie, Scramble, examine};
pub use convert::{Decision, Say};
pub use engine::{Engine, Limits};
pub use fault::Fault;
pub use instance::{ConfigProblem, ConfigureError, Instance, MAX_CONFIG};
pub use load::{
    Digest, LoadError, MAX_COMPONENT, Plugin, Shape, WIT, World, compatibility, precheck,
    precompile,
};
pub use manifest::{FailMode, MAX_MANIFEST, Manifest, ManifestError, SECTION, Stage};
pub use schema::Schema;
pub use sections::section;
pub use signature::{SIGNATURE, SignatureError, sign, signed_digest, signer_of, signers};
pub use words::{Words, key_print};
