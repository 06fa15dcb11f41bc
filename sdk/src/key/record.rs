//! The key as a record: the world `policy`.

use super::{Key, mac};
use crate::mac::Mac;
use crate::net::Net;
use crate::wit::types::IpKind;
use core::ops::RangeInclusive;

pub(crate) use crate::wit::types::FlowKey as Raw;

/// A field of the record.
macro_rules! raw {
    ($key:ident.$field:ident) => {
        $key.raw.$field
    };
}
pub(super) use raw;

impl Key<'_> {
    pub(super) fn test_src_mac(&self, one: Mac) -> bool {
        let (same, bits) = mac(&raw!(self.src_mac)).compare(one);
        self.src_mac.set(self.src_mac.get().max(bits));
        same
    }

    pub(super) fn test_dst_mac(&self, one: Mac) -> bool {
        let (same, bits) = mac(&raw!(self.dst_mac)).compare(one);
        self.dst_mac.set(self.dst_mac.get().max(bits));
        same
    }

    pub(super) fn test_src_ip(&self, net: Net) -> bool {
        if !family(self.ip_kind(), net) {
            return false;
        }
        let (inside, bits) = net.test(self.src_bits());
        self.src_ip.set(self.src_ip.get().max(bits));
        inside
    }

    pub(super) fn test_dst_ip(&self, net: Net) -> bool {
        if !family(self.ip_kind(), net) {
            return false;
        }
        let (inside, bits) = net.test(self.dst_bits());
        self.dst_ip.set(self.dst_ip.get().max(bits));
        inside
    }

    pub(super) fn test_src_port(&self, range: RangeInclusive<u16>) -> bool {
        let (inside, mask) = block(raw!(self.src_port), &range);
        self.src_port.set(self.src_port.get() | mask);
        inside
    }

    pub(super) fn test_dst_port(&self, range: RangeInclusive<u16>) -> bool {
        let (inside, mask) = block(raw!(self.dst_port), &range);
        self.dst_port.set(self.dst_port.get() | mask);
        inside
    }
}

fn family(kind: IpKind, net: Net) -> bool {
    if net.is_v4() {
        matches!(kind, IpKind::V4 | IpKind::ArpV4)
    } else {
        matches!(kind, IpKind::V6 | IpKind::NdV6)
    }
}

/// Whether `port` is in `range`, and the mask of the largest aligned block around it on which that answer is constant. In as
/// few instructions as will do, since a list of rules asks this most.
fn block(port: u16, range: &RangeInclusive<u16>) -> (bool, u16) {
    let (port, low, high) = (
        u32::from(port),
        u32::from(*range.start()),
        u32::from(*range.end()),
    );
    if low > high {
        return (false, 0);
    }
    // The nearest ports of the other answer differ from this one in these bits; the highest of them must matter. Beside the
    // first and the last port there is none, and these differ in bits that a port does not have.
    let (inside, differ) = if port < low {
        (false, port ^ low)
    } else if port > high {
        (false, port ^ high)
    } else {
        let (below, above) = (port ^ low.wrapping_sub(1), port ^ (high + 1));
        (true, below.min(above))
    };
    // Never zero; and of the 32 bits 16 are meant to go.
    (
        inside,
        (u32::MAX << (31 - differ.leading_zeros().min(31))) as u16,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_notes_the_largest_block_on_which_its_answer_is_constant() {
        assert_eq!(block(22, &(22..=22)), (true, 0xffff));
        assert_eq!(block(23, &(22..=22)), (false, 0xffff));
        assert_eq!(block(0x8016, &(22..=22)), (false, 0x8000));
        assert_eq!(block(2000, &(1024..=65535)), (true, 0xfc00));
        assert_eq!(block(7, &(0..=65535)), (true, 0));
        for range in [
            0..=0,
            22..=25,
            1024..=65535,
            1000..=1003,
            RangeInclusive::new(5, 4),
        ] {
            for port in 0..=u16::MAX {
                let (inside, mask) = block(port, &range);
                assert_eq!(inside, range.contains(&port), "{port} {range:?}");
                for other in [port & mask, port | !mask] {
                    assert_eq!(
                        range.contains(&port),
                        range.contains(&other),
                        "{port} {range:?}"
                    );
                    assert_eq!((inside, mask), block(other, &range), "{port} {range:?}");
                }
            }
        }
    }
}
