//! `[[device.vlan]]`: the frames of one tag of another device.

use super::base::{Base, Wrong, table};
use super::{DeviceName, VLAN_MAX};
use crate::devices::{Shape, Vlan, VlanProtocol, Wish};
use serde::{Deserialize, Serialize};

table! {
    /// One `[[device.vlan]]`. Its MTU is at most its parent's.
    VlanConfig {
        /// The device whose frames have the tag; of this file or not.
        pub parent: DeviceName,
        /// 1 to 4094.
        pub id: u16,
        /// The tag's.
        #[serde(default)]
        pub protocol: VlanProtocol,
    }
}

impl VlanConfig {
    pub(super) fn wish(&self) -> Wish {
        self.base().wish(Shape::Vlan(Vlan {
            parent: self.parent.0.clone(),
            id: self.id,
            protocol: self.protocol,
        }))
    }

    pub(super) fn first_wrong(&self) -> Option<Wrong> {
        let is_wrong = !(1..=VLAN_MAX).contains(&self.id);
        is_wrong.then(|| {
            let message = format!("id is {}; it must be 1 to {VLAN_MAX}", self.id);
            ("id", message)
        })
    }
}
