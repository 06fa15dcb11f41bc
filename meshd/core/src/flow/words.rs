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

/// Word by word: as bytes, their number would have a part in it, and cost as much again.
#[allow(
    clippy::derived_hash_with_manual_eq,
    reason = "equal words have equal hashes"
)]
impl Hash for KeyWords {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        for word in self.0 {
            state.write_u64(word);
        }
    }
}

const fn wide(mac: MacAddr, low: u16) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    let [y, z] = low.to_be_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, y, z])
}

const fn halves(ip: u128) -> [u64; 2] {
    [(ip >> 64) as u64, ip as u64]
}

impl KeyWords {
    /// Of a key.
    #[inline]
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
            u64::from_be_bytes([
                key.pcp,
                key.ip_kind as u8,
                key.ip_proto,
                key.dscp,
                key.ecn,
                key.ttl,
                key.icmp_type,
                key.icmp_code,
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
            wide(prefix_mac(every, mask.src_mac), 0) | ones(Fields::ETHER_TYPE, 16),
            wide(prefix_mac(every, mask.dst_mac), 0) | ones(Fields::VLAN, 16),
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

    /// True if these words under `mask` are `want`.
    #[inline]
    pub(crate) fn is_under(&self, mask: &Self, want: &Self) -> bool {
        let words = self.0.iter().zip(&mask.0).zip(&want.0);
        // No way out before the end, so that it is done in wide registers.
        words.fold(0, |bits, ((word, mask), want)| bits | (word & mask ^ want)) == 0
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
