//! A flow key in ten words, for caches: to mask and to compare it takes ten operations, where the fields take forty.
//!
//! Owns the layout; nobody else knows which bit is where. Nothing of a key is left out, so two keys are the same if their
//! words are, and a masked key's words are the key's words under the mask's.

use super::{Fields, FlowKey, FlowMask, prefix_ip, prefix_mac};
use crate::ident::MacAddr;
use core::hash::{Hash, Hasher};

/// The words of a [`FlowKey`], or of a [`FlowMask`] with all bits set that matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyWords([u64; 10]);

/// Two words at once: a multiplication each, and no look at what is still to be mixed in.
#[allow(
    clippy::derived_hash_with_manual_eq,
    reason = "equal words have equal hashes"
)]
impl Hash for KeyWords {
    #[inline(always)]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b, c, d, e, f, g, h, i, j] = self.0;
        for (high, low) in [(a, b), (c, d), (e, f), (g, h), (i, j)] {
            state.write_u128(u128::from(high) << 64 | u128::from(low));
        }
    }
}

/// A MAC and sixteen bits more. In the order of memory: to put together the two parts that a MAC is moved in costs least.
#[inline(always)]
const fn wide(mac: MacAddr, high: u16) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    let (low, mid) = (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]));
    low as u64 | (mid as u64) << 32 | (high as u64) << 48
}

const fn halves(ip: u128) -> [u64; 2] {
    [(ip >> 64) as u64, ip as u64]
}

impl KeyWords {
    /// Of a key.
    #[inline(always)]
    pub(crate) const fn of(key: &FlowKey) -> Self {
        let [src_high, src_low] = halves(key.src_ip);
        let [dst_high, dst_low] = halves(key.dst_ip);
        Self([
            wide(key.src_mac, key.ether_type),
            wide(key.dst_mac, key.vlan),
            src_high,
            src_low,
            dst_high,
            dst_low,
            (key.src_port as u64) << 48
                | (key.dst_port as u64) << 32
                | (key.tcp_flags as u64) << 16
                | key.inner_vlan as u64,
            u64::from_le_bytes([
                key.icmp_code,
                key.icmp_type,
                key.ttl,
                key.ecn,
                key.dscp,
                key.ip_proto,
                key.ip_kind as u8,
                key.pcp,
            ]),
            (key.vni.get() as u64) << 32 | key.ct_mark as u64,
            (key.ct.0 as u64) << 16 | (key.frag as u64) << 8 | key.l4_ok as u64,
        ])
    }

    /// Of a mask.
    pub(crate) fn of_mask(mask: &FlowMask) -> Self {
        let ones = |field: Fields, width: u32| {
            if mask.fields.has(field) {
                u64::MAX >> (64 - width)
            } else {
                0
            }
        };
        let byte = |field| ones(field, 8);
        let every = MacAddr([0xff; 6]);
        let [src_high, src_low] = halves(prefix_ip(u128::MAX, mask.src_ip));
        let [dst_high, dst_low] = halves(prefix_ip(u128::MAX, mask.dst_ip));
        Self([
            wide(prefix_mac(every, mask.src_mac), 0) | ones(Fields::ETHER_TYPE, 16) << 48,
            wide(prefix_mac(every, mask.dst_mac), 0) | ones(Fields::VLAN, 16) << 48,
            src_high,
            src_low,
            dst_high,
            dst_low,
            u64::from(mask.src_port) << 48
                | u64::from(mask.dst_port) << 32
                | ones(Fields::TCP_FLAGS, 16) << 16
                | ones(Fields::INNER_VLAN, 16),
            byte(Fields::PCP) << 56
                | byte(Fields::IP_KIND) << 48
                | byte(Fields::IP_PROTO) << 40
                | byte(Fields::DSCP) << 32
                | byte(Fields::ECN) << 24
                | byte(Fields::TTL) << 16
                | byte(Fields::ICMP_TYPE) << 8
                | byte(Fields::ICMP_CODE),
            u64::from(u32::MAX) << 32 | ones(Fields::CT_MARK, 32),
            byte(Fields::CT) << 16 | byte(Fields::FRAG) << 8 | byte(Fields::L4_OK),
        ])
    }

    /// The bits of both.
    #[inline]
    pub(crate) fn and(&self, other: &Self) -> Self {
        let mut out = *self;
        for (word, mask) in out.0.iter_mut().zip(&other.0) {
            *word &= mask;
        }
        out
    }

    /// True if these words under `mask` are `want`, which has no bit outside of it.
    #[inline(always)]
    pub(crate) fn is_under(&self, mask: &Self, want: &Self) -> bool {
        let words = self.0.iter().zip(&mask.0).zip(&want.0);
        // No way out before the end: a branch for each word costs more than all of them. Written as `word & mask ^ want` it
        // would be compiled to branches again.
        words.fold(0, |bits, ((word, mask), want)| bits | (word ^ want) & mask) == 0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::{any_key, any_mask};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_masked_key_has_the_words_of_the_key_under_those_of_the_mask(key in any_key(), other in any_key(), mask in any_mask()) {
            let words = KeyWords::of_mask(&mask);
            let masked = KeyWords::of(&mask.apply(&key));
            prop_assert_eq!(KeyWords::of(&key).and(&words), masked);
            let same = mask.apply(&key) == mask.apply(&other);
            prop_assert_eq!(KeyWords::of(&other).is_under(&words, &masked), same);
        }

        #[test]
        fn keys_that_differ_in_one_field_have_other_words(key in any_key(), other in any_key(), field in 0..16u32) {
            // All of one key but a single field, which is the other's.
            let one = FlowMask { fields: Fields::ALL.without(Fields(1 << field)), ..FlowMask::exact() };
            let rest = FlowMask { fields: Fields(1 << field), ..FlowMask::default() };
            let words = |key: &FlowKey, mask: &FlowMask| KeyWords::of(&mask.apply(key));
            let same = rest.apply(&key) == rest.apply(&FlowKey { vni: key.vni, ..other });
            prop_assert_eq!(words(&key, &rest) == words(&FlowKey { vni: key.vni, ..other }, &rest), same);
            prop_assert_eq!(words(&key, &one).and(&KeyWords::of_mask(&rest)), KeyWords::of(&FlowKey::blank(key.vni)).and(&KeyWords::of_mask(&rest)));
        }
    }
}
