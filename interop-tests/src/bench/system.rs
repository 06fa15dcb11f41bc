//! What is compared: each way from one host to another, and how it is put up in the lab.
//!
//! ```text
//!   hosts a, b    veth, kernel VXLAN, the reference tunnel and every peer that is installed, side by side
//!   hosts c, d    meshd over QUIC: they do not trust the wire
//!   hosts e, f    meshd in the kernel's VXLAN: they do
//! ```
//!
//! Each has a device of its own, addresses of its own (10.(100 + its number).0.0/16) and, between containers, two of its
//! own. All run at once; only one of them carries anything at a time.

mod boring;
mod kernel;
mod mesh;
mod peers;
mod site;
mod tunnel;

pub use mesh::attach_both;
pub use site::{Programs, Site};

use super::load::Way;
use crate::lab::find;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use site::Daemon;

/// What a system is, for a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The word by which `--only` knows it.
    pub id: String,
    /// Its name for people.
    pub title: String,
    /// Layer of what it carries: 2 or 3.
    pub layer: u8,
    /// How it encrypts; empty if it does not.
    pub cipher: String,
    /// Its version, as it says; empty if it has none.
    pub version: String,
    /// MTU of what it carries, bytes.
    pub mtu: u32,
}

/// A system in the lab, up and tried.
#[derive(Debug)]
pub struct System {
    /// What it is.
    pub about: About,
    /// From end to end.
    pub way: Way,
    /// Its daemons on both hosts; none of what the kernel does.
    pub pids: Vec<u32>,
    _daemons: Vec<Daemon>,
}

/// A system that can be compared.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The word by which `--only` knows it.
    pub id: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// Layer of what it carries.
    pub layer: u8,
    /// How it encrypts; empty if it does not.
    pub cipher: &'static str,
    /// Which two of the lab's hosts it is on: 0 for the first two, and so on.
    pub pair: usize,
    /// The foreign program that it needs.
    pub program: Option<Program>,
    up: fn(&Site<'_>) -> Result<System>,
}

/// A program that is not of this repository.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its name in the search path.
    pub name: &'static str,
    /// Arguments that make it tell its version; none if it has no such.
    version: &'static str,
    /// How to get it.
    pub get: &'static str,
}

/// All of them, in the order of the table.
pub const ENTRIES: [Entry; 9] = [
    kernel::VETH,
    kernel::VXLAN,
    mesh::KERNEL,
    mesh::QUIC,
    tunnel::REFERENCE,
    boring::WIREGUARD_GO,
    boring::BORINGTUN,
    peers::VPNCLOUD,
    peers::FASTD,
];

impl Entry {
    /// Whether it is a peer: neither the kernel, nor meshd, nor ours in any other way.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.program.is_some() && self.id != tunnel::REFERENCE.id
    }

    /// What is to be done before it can be put up; nothing if it is there.
    #[must_use]
    pub fn missing(&self, programs: &Programs) -> Option<String> {
        let program = self.program?;
        let there = programs.contains_key(program.name) || find(program.name).is_some();
        (!there).then(|| format!("{}: not installed; {}", self.title, program.get))
    }

    /// Puts it up at its site, and tries whether packets of its MTU pass.
    ///
    /// # Errors
    /// If it does not come up; the message has the end of what its daemons said.
    pub fn up(&self, site: &Site<'_>) -> Result<System> {
        (self.up)(site)
    }
}
