//! The decisions of `meshd doctor`: facts in, checks out.
//!
//! ```text
//!   host      /proc, clock, disk, sockets        ->  host.rs  clock.rs  sockets.rs  nic.rs   \
//!   kernel    routes, VXLAN devices of others    ->  routes.rs  rivals.rs                     \
//!   daemon    paths, claims, chains, ports       ->  vxlan.rs  claims.rs  plugins.rs           >  Check { code, found, advice }
//!   peers     their testimonies                  ->  clock.rs  nat.rs  agreement.rs           /
//!   probes    datagrams and echoes to addresses  ->  reach.rs  names.rs                      /
//! ```
//!
//! Owns what counts as wrong, how bad it is, and the words for it: each kind of fault is a [`Finding`], a word that stays. The
//! shell gathers the facts. Refuses to guess: what could not be read or was not answered is said as that.

pub mod agreement;
pub mod claims;
pub mod clock;
mod finding;
pub mod host;
pub mod names;
pub mod nat;
pub mod nic;
pub mod plugins;
pub mod reach;
pub mod rivals;
pub mod routes;
pub mod sockets;
mod testimony;
pub mod vxlan;

pub use finding::Finding;
pub use testimony::{Heard, NetworkSaid, Testimony, Witness};

use crate::view::{Check, CheckState};

/// All is well with it.
#[must_use]
pub fn well(name: impl Into<String>, found: impl Into<String>) -> Check {
    Check {
        name: name.into(),
        code: None,
        state: CheckState::Ok,
        found: found.into(),
        advice: None,
    }
}

/// It works, with something missing or at risk.
#[must_use]
pub fn warn(
    code: Finding,
    name: impl Into<String>,
    found: impl Into<String>,
    advice: impl Into<String>,
) -> Check {
    Check {
        code: Some(code),
        state: CheckState::Warn,
        advice: Some(advice.into()),
        ..well(name, found)
    }
}

/// Something does not work.
#[must_use]
pub fn fail(
    code: Finding,
    name: impl Into<String>,
    found: impl Into<String>,
    advice: impl Into<String>,
) -> Check {
    Check {
        state: CheckState::Fail,
        ..warn(code, name, found, advice)
    }
}

/// A list of things in a sentence; of a long one the first, and how many more there are.
fn list<T: ToString>(things: &[T]) -> String {
    /// Of things that are named.
    const NAMED_MAX: usize = 5;
    let mut named: Vec<String> = things.iter().take(NAMED_MAX).map(T::to_string).collect();
    if things.len() > NAMED_MAX {
        named.push(format!("and {} more", things.len() - NAMED_MAX));
    }
    named.join(", ")
}

/// Milliseconds for people: `430 ms`, `12.5 s`, `3 min`, `2 h`, `400 days`.
fn span(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} days", ms / 86_400_000),
    }
}

/// Bytes for people: `900 bytes`, `12 KiB`, `3 MiB`.
fn size(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} bytes"),
        10_240..10_485_760 => format!("{} KiB", bytes >> 10),
        10_485_760..10_737_418_240 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_told_for_people() {
        let spans = [430, 12_500, 180_000, 7_200_000, 34_560_000_000].map(span);
        assert_eq!(spans, ["430 ms", "12.5 s", "3 min", "2 h", "400 days"]);
        assert_eq!(
            [900, 20 << 10, 64 << 20].map(size),
            ["900 bytes", "20 KiB", "64 MiB"]
        );
        assert_eq!(list(&[1, 2, 3, 4, 5, 6, 7]), "1, 2, 3, 4, 5, and 2 more");
    }
}
