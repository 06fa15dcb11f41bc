//! The daemon and its command line: everything that touches the world. What to do is decided in `meshd-core`.

pub mod api;
pub mod cli;
mod daemon;
pub mod doctor;
pub mod identity;
pub mod join;
pub mod kernel;
pub mod rulings;
pub mod store;
pub mod token;
pub mod underlay;
