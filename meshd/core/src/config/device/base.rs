//! What all `[[device.*]]` have: a name, addresses, MTU, MAC, and the name of the service behind the addresses.
//!
//! Owns these keys and their bounds.

use super::DeviceName;
use crate::devices::{Shape, Wish};
use crate::ident::{Label, MacAddr};
use ipnet::IpNet;
use std::net::IpAddr;

const ADDRESSES_MAX: usize = 64;
const MTU_MIN: u32 = 68;
const MTU_MIN_V6: u32 = 1280;
const MTU_MAX: u32 = 65_535;

/// The key that is wrong, and the message.
pub(super) type Wrong = (&'static str, String);

/// Declares a table of the file with the keys of its own, and those that all kinds have.
macro_rules! table {
    ($(#[$about:meta])* $table:ident { $($(#[$of_key:meta])* pub $key:ident: $value:ty,)* }) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
        pub struct $table {
            /// Its name.
            pub name: DeviceName,
            $($(#[$of_key])* pub $key: $value,)*
            /// Its addresses, each with its prefix.
            #[serde(default)]
            #[cfg_attr(feature = "schema", schema(value_type = Vec<String>))]
            pub addresses: Vec<ipnet::IpNet>,
            /// Bytes of layer 3 payload; `None`: as the kernel has it.
            pub mtu: Option<u32>,
            /// `None`: derived from node and name, and of a VLAN that of its parent.
            pub mac: Option<crate::ident::MacAddr>,
            /// Name, in the domain of the mesh, of what answers at its addresses; advertised while it has them.
            pub service: Option<crate::ident::Label>,
        }

        impl $table {
            /// What all kinds have.
            pub(in crate::config::device) fn base(&self) -> Base<'_> {
                Base {
                    name: &self.name,
                    addresses: &self.addresses,
                    mtu: self.mtu,
                    mac: self.mac,
                    service: self.service.as_ref(),
                }
            }
        }
    };
}
pub(super) use table;

/// What all kinds have.
#[derive(Clone, Copy)]
pub(super) struct Base<'a> {
    pub(super) name: &'a DeviceName,
    pub(super) addresses: &'a [IpNet],
    pub(super) mtu: Option<u32>,
    pub(super) mac: Option<MacAddr>,
    pub(super) service: Option<&'a Label>,
}

impl Base<'_> {
    /// A wish with all of it.
    pub(super) fn wish(&self, shape: Shape) -> Wish {
        Wish {
            mac: self.mac,
            mtu: self.mtu,
            addresses: self.addresses.iter().copied().collect(),
            service: self.service.cloned(),
            ..Wish::of(shape)
        }
    }

    /// The first of these keys that is wrong.
    pub(super) fn first_wrong(&self) -> Option<Wrong> {
        if self.addresses.len() > ADDRESSES_MAX {
            let count = self.addresses.len();
            let message =
                format!("addresses has {count} entries; at most {ADDRESSES_MAX} are possible");
            return Some(("addresses", message));
        }
        for (at, address) in self.addresses.iter().enumerate() {
            let before = self.addresses.iter().take(at);
            if let Some(message) = wrong_address(address, before) {
                return Some(("addresses", message));
            }
        }
        if let Some(mtu) = self.mtu {
            let is_v6 = |address: &IpNet| address.addr().is_ipv6();
            let least = match self.addresses.iter().any(is_v6) {
                true => MTU_MIN_V6,
                false => MTU_MIN,
            };
            if !(least..=MTU_MAX).contains(&mtu) {
                let message = format!("mtu is {mtu}; it must be {least} to {MTU_MAX}");
                return Some(("mtu", message));
            }
        }
        if let Some(mac) = self.mac.filter(|mac| !mac.is_source()) {
            let message =
                format!("{mac} is no address that a device can have: it is zero or a group's");
            return Some(("mac", message));
        }
        if self.service.is_some() && self.addresses.is_empty() {
            let message = "a service without an address cannot be found; give the device `addresses`, or leave it out";
            return Some(("service", message.to_owned()));
        }
        None
    }
}

/// True of what no host has.
pub(super) fn is_nobodys(ip: IpAddr) -> bool {
    ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::from([255; 4])
}

fn wrong_address<'a>(
    address: &IpNet,
    mut before: impl Iterator<Item = &'a IpNet>,
) -> Option<String> {
    let ip = address.addr();
    if is_nobodys(ip) {
        return Some(format!(
            "{address} is no address of a device; use one such as \"10.0.0.1/24\""
        ));
    }
    let is_wide = address.prefix_len() + 1 < address.max_prefix_len();
    if is_wide && ip.is_ipv4() && (ip == address.network() || ip == address.broadcast()) {
        return Some(format!(
            "{address} is a whole subnet; give the device an address of it, such as \"10.0.0.1/24\""
        ));
    }
    before
        .any(|other| other.addr() == ip)
        .then(|| format!("{ip} is there twice; leave one out"))
}
