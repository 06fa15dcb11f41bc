//! The daemon and its command line: everything that touches the world. What to do is decided in `meshd-core`.

pub mod api;
mod backend;
mod bounded;
pub mod cli;
mod clock;
pub mod compiler;
mod connections;
mod daemon;
mod datapath;
mod dns;
pub mod doctor;
mod driver;
mod events;
mod executor;
pub mod identity;
pub mod join;
pub mod kernel;
mod logging;
pub mod rulings;
mod service;
pub mod store;
pub mod token;
pub mod underlay;
mod unkept;
mod views;
mod watch;
mod wirer;
