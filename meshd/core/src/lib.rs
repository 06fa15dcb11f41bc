//! Every decision of meshd, and nothing that touches the world: no clock, socket, file, thread, async or iteration over
//! hash tables. Time and randomness come in as arguments, so that a run can be replayed from its inputs.
//!
//! Start at [`node`], the alphabet; then [`switch`], the walk of a frame. `docs/ARCHITECTURE.md` has the drawing.
#![forbid(unsafe_code)]

pub(crate) mod announce;
pub mod attach;
pub mod capture;
pub mod claims;
pub mod code;
pub mod command;
mod complaint;
pub mod config;
pub mod conntrack;
pub mod devices;
pub mod diagnosis;
pub mod directory;
pub mod dues;
pub mod edit;
pub mod fdb;
pub mod flow;
pub mod flowtext;
pub mod frame;
pub mod group;
pub mod guard;
pub mod ident;
mod invites;
pub mod kind;
pub mod lane;
pub mod links;
pub mod machine;
pub mod mesh;
pub mod multicast;
pub mod names;
pub mod neighbor;
pub mod networks;
pub mod node;
pub mod notice;
pub mod offload;
pub mod outbox;
pub mod owner;
pub mod path;
mod peers;
pub mod pipeline;
pub mod plan;
pub mod planes;
pub mod policy;
pub mod pool;
pub mod ports;
pub mod ranges;
pub mod ruling;
#[cfg(feature = "schema")]
mod schema;
pub mod services;
pub mod shared;
pub mod signer;
pub mod state;
pub mod steering;
pub mod superframe;
mod swim;
pub mod switch;
pub mod tally;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod view;
pub mod vteps;
pub mod wire;
