//! What others did to the devices of our networks, kept until it is taken.
//!
//! Owns a set, so that a storm of changes is one entry each; its size is bounded by what we have. Refuses to say how the
//! kernel is now: whoever takes an entry looks at the whole network again.

use super::marks::NetworkRole;
use meshd_core::ident::{PortId, Vni};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// The part of a network that it happened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// One of its devices.
    Device(NetworkRole),
    /// A port in its bridge, by the index of its device.
    Port(u32),
    /// The entries of its bridge or its VXLAN device.
    Fdb,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// Deleted, or moved into another namespace.
    Gone,
    /// It has another name now.
    Renamed,
    /// Set down.
    Down,
    /// It is in no bridge any more, or in another one.
    LeftBridge,
    /// Its filter (clsact, cls_bpf) is gone.
    LostFilter,
    /// Settings, the MTU, the MAC, the mark or flags of the bridge port are not as we made them; or an entry of the FDB
    /// went away, came, or leads elsewhere.
    Changed,
    /// Events were lost: anything may have happened.
    Unknown,
}

/// Something was done to a network's devices by somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Disturbance {
    /// The network.
    pub vni: Vni,
    /// Where.
    pub part: Part,
    /// What.
    pub what: What,
}

impl Disturbance {
    /// In words, of which the network is no part. `port`: whose device [`Part::Port`] is.
    #[must_use]
    pub fn told(&self, port: Option<PortId>) -> String {
        let part = match (self.part, port) {
            (Part::Device(role), _) => format!("the {}", role.shown()),
            (Part::Port(_), Some(port)) => format!("port {port} in the bridge"),
            (Part::Port(index), None) => format!("the device of index {index} in the bridge"),
            (Part::Fdb, _) => "the FDB".to_owned(),
        };
        let what = match self.what {
            What::Gone => " was deleted",
            What::Renamed => " was renamed",
            What::Down => " was set down",
            What::LeftBridge => " left its bridge",
            What::LostFilter => " lost its filter (clsact, cls_bpf)",
            What::Changed => " was changed",
            What::Unknown => return format!("{part}: events were lost"),
        };
        format!("{part}{what} by somebody else")
    }
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VNI {}: {}", self.vni, self.told(None))
    }
}

/// The set, and who waits for it.
#[derive(Debug, Default)]
pub(super) struct Disturbances {
    all: Mutex<BTreeSet<Disturbance>>,
    news: Notify,
}

impl Disturbances {
    pub(super) fn tell(&self, disturbance: Disturbance) {
        // The set is whole between any two statements that change it.
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if all.insert(disturbance) {
            tracing::debug!(%disturbance, "kernel events");
            self.news.notify_one();
        }
    }

    /// Waits until there is something, and takes all. May be dropped at any time; for one waiter.
    pub(super) async fn take(&self) -> BTreeSet<Disturbance> {
        loop {
            {
                let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
                if !all.is_empty() {
                    return std::mem::take(&mut *all);
                }
            }
            self.news.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_storm_is_told_once() {
        let all = Disturbances::default();
        let disturbance = Disturbance {
            vni: Vni::new(7).unwrap(),
            part: Part::Fdb,
            what: What::Changed,
        };
        for _ in 0..1000 {
            all.tell(disturbance);
        }
        assert_eq!(all.take().await, BTreeSet::from([disturbance]));
        assert_eq!(
            disturbance.to_string(),
            "VNI 7: the FDB was changed by somebody else"
        );
        let port = Disturbance {
            part: Part::Port(1869),
            what: What::Gone,
            ..disturbance
        };
        assert_eq!(
            port.told(Some(PortId(5))),
            "port 5 in the bridge was deleted by somebody else"
        );
        let more = tokio::time::timeout(std::time::Duration::from_millis(10), all.take());
        assert!(more.await.is_err());
    }
}
