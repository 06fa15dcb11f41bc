//! Many nodes, one thread, one seed: the machines as they are, on a virtual clock, over links that lose, delay, reorder and
//! part. `MESHD_SIM_SEED` runs one seed, `MESHD_SIM_SEEDS` so many; a failure prints the seed that makes it again.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod checkers;
mod kernel;
mod link;
mod links;
mod scenarios;
mod shared;
mod world;
