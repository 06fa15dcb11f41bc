//! The key by questions: the world `policy-tracked`. The host notes what it is asked, so the notes of the key are not sent;
//! what is not a question of its own, such as a table of MACs, asks for the whole field.

use super::Key;
use crate::mac::Mac;
use crate::net::Net;
use core::ops::RangeInclusive;

pub(crate) use crate::wit::tracked_key::Key as Raw;

/// A field, from the host.
macro_rules! raw {
    ($key:ident.$field:ident) => {
        $key.raw.$field()
    };
}
pub(super) use raw;

impl Key<'_> {
    pub(super) fn test_src_mac(&self, one: Mac) -> bool {
        self.raw.src_mac_in(one.halves(), 48)
    }

    pub(super) fn test_dst_mac(&self, one: Mac) -> bool {
        self.raw.dst_mac_in(one.halves(), 48)
    }

    pub(super) fn test_src_ip(&self, net: Net) -> bool {
        let (prefix, len) = net.halves();
        self.raw.src_ip_in(prefix, len)
    }

    pub(super) fn test_dst_ip(&self, net: Net) -> bool {
        let (prefix, len) = net.halves();
        self.raw.dst_ip_in(prefix, len)
    }

    pub(super) fn test_src_port(&self, range: RangeInclusive<u16>) -> bool {
        self.raw.src_port_in(*range.start(), *range.end())
    }

    pub(super) fn test_dst_port(&self, range: RangeInclusive<u16>) -> bool {
        self.raw.dst_port_in(*range.start(), *range.end())
    }
}
