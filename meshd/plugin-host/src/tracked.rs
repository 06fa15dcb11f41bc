//! The key by questions: what a guest of the world `policy-tracked` asks is noted, and is what its answer rests on.
//!
//! ```text
//!   decide(borrow<key>) --> guest --dst-port-in(1024, 65535)--> Reading: the answer, and six bits of the port noted
//!                            \----answer----> + what was noted = a verdict as of the world `policy`
//! ```
//!
//! Owns the notes of the call under way. A guest that keeps the handle beyond its call is ended by the component model, and
//! one that asks for a prefix that cannot be, by us.

use crate::bindings::Asked;
use crate::bindings::meshd::policy::types::{
    CtState, DepMask, Deps, Direction, DstClass, FlowKey as GuestKey, Frag, Ip, IpKind, Mac,
    PartialDeps, TcpFlags,
};
use crate::bindings::tracked::meshd::policy::tracked_key::{Host, HostKey};
use crate::instance::Guest;
use core::ops::RangeInclusive;
use wasmtime::component::Resource;

/// The call under way.
#[derive(Debug)]
pub(crate) struct Reading {
    key: GuestKey,
    noted: DepMask,
}

impl Reading {
    pub(crate) fn of(key: GuestKey) -> Self {
        Self {
            key,
            noted: DepMask {
                fields: Deps::empty(),
                partial: PartialDeps {
                    src_mac_prefix: 0,
                    dst_mac_prefix: 0,
                    src_ip_prefix: 0,
                    dst_ip_prefix: 0,
                    src_port_mask: 0,
                    dst_port_mask: 0,
                },
            },
        }
    }

    /// What was asked for.
    pub(crate) fn noted(self) -> DepMask {
        self.noted
    }

    fn note(&mut self, field: Deps) -> &GuestKey {
        self.noted.fields |= field;
        &self.key
    }

    /// Whether an address of the key is of the prefix's family.
    fn family(&mut self, prefix: u128, len: u8) -> bool {
        let v4 = len >= 96 && prefix >> 32 == 0xffff;
        match self.note(Deps::IP_KIND).ip_kind {
            IpKind::V4 | IpKind::ArpV4 => v4,
            IpKind::V6 | IpKind::NdV6 => !v4,
            IpKind::None => false,
        }
    }
}

impl Guest {
    fn reading(&mut self) -> wasmtime::Result<&mut Reading> {
        self.reading
            .as_mut()
            .ok_or_else(|| wasmtime::Error::msg("the key is gone: decide has returned"))
    }
}

/// Whether `value`, of `width` bits, begins with the first `len` bits of `prefix`, and how many of its bits that rests on.
fn prefix(value: u128, prefix: u128, len: u8, width: u8) -> wasmtime::Result<(bool, u8)> {
    if len > width {
        return Err(wasmtime::Error::msg(format!(
            "a prefix of {len} bits, and the field has {width}"
        )));
    }
    let differ = (value ^ prefix) << (128 - u32::from(width));
    // At most 128.
    let same = (differ.leading_zeros() as u8).min(width);
    Ok(if same >= len {
        (true, len)
    } else {
        (false, same + 1)
    })
}

/// Whether `port` is in `range`, and the bits that this rests on: of the largest aligned block around it, all of whose ports
/// have the same answer.
fn range(port: u16, range: &RangeInclusive<u16>) -> (bool, u16) {
    let inside = range.contains(&port);
    if range.is_empty() {
        return (false, 0);
    }
    let same = |low: u16, high: u16| {
        if inside {
            range.contains(&low) && range.contains(&high)
        } else {
            high < *range.start() || low > *range.end()
        }
    };
    let mask = (0..=16u32)
        .rev()
        .map(|bits| !(u16::MAX.checked_shr(16 - bits).unwrap_or(0)))
        .find(|mask| same(port & mask, port | !mask));
    (inside, mask.unwrap_or(u16::MAX))
}

fn mac(mac: Mac) -> u128 {
    u128::from(mac.hi) << 32 | u128::from(mac.lo)
}

fn ip(ip: Ip) -> u128 {
    u128::from(ip.hi) << 64 | u128::from(ip.lo)
}

impl Host for Guest {}

macro_rules! fields {
    ($($name:ident: $ty:ty, $bit:ident;)*) => {
        $(fn $name(&mut self, _key: Resource<Asked>) -> wasmtime::Result<$ty> {
            Ok(self.reading()?.note(Deps::$bit).$name)
        })*
    };
}

impl HostKey for Guest {
    fields! {
        dir: Direction, DIR;
        in_port: u32, IN_PORT;
        in_peer: u64, IN_PEER;
        tenant: u32, TENANT;
        src_identity: u32, SRC_IDENTITY;
        dst_identity: u32, DST_IDENTITY;
        src_mac: Mac, SRC_MAC;
        dst_mac: Mac, DST_MAC;
        dst_class: DstClass, DST_CLASS;
        ether_type: u16, ETHER_TYPE;
        vlan: u16, VLAN;
        pcp: u8, PCP;
        inner_vlan: u16, INNER_VLAN;
        ip_kind: IpKind, IP_KIND;
        ip_proto: u8, IP_PROTO;
        dscp: u8, DSCP;
        ecn: u8, ECN;
        ttl: u8, TTL;
        frag: Frag, FRAG;
        l4_ok: bool, L4_OK;
        tcp_flags: TcpFlags, TCP_FLAGS;
        icmp_type: u8, ICMP_TYPE;
        icmp_code: u8, ICMP_CODE;
        ct: CtState, CT;
        ct_mark: u32, CT_MARK;
    }

    fn src_ip(&mut self, _key: Resource<Asked>) -> wasmtime::Result<Ip> {
        let reading = self.reading()?;
        reading.noted.partial.src_ip_prefix = 128;
        Ok(reading.key.src_ip)
    }

    fn dst_ip(&mut self, _key: Resource<Asked>) -> wasmtime::Result<Ip> {
        let reading = self.reading()?;
        reading.noted.partial.dst_ip_prefix = 128;
        Ok(reading.key.dst_ip)
    }

    fn src_port(&mut self, _key: Resource<Asked>) -> wasmtime::Result<u16> {
        let reading = self.reading()?;
        reading.noted.partial.src_port_mask = u16::MAX;
        Ok(reading.key.src_port)
    }

    fn dst_port(&mut self, _key: Resource<Asked>) -> wasmtime::Result<u16> {
        let reading = self.reading()?;
        reading.noted.partial.dst_port_mask = u16::MAX;
        Ok(reading.key.dst_port)
    }

    fn src_mac_in(&mut self, _key: Resource<Asked>, of: Mac, len: u8) -> wasmtime::Result<bool> {
        let reading = self.reading()?;
        let (inside, bits) = prefix(mac(reading.key.src_mac), mac(of), len, 48)?;
        let noted = &mut reading.noted.partial.src_mac_prefix;
        *noted = bits.max(*noted);
        Ok(inside)
    }

    fn dst_mac_in(&mut self, _key: Resource<Asked>, of: Mac, len: u8) -> wasmtime::Result<bool> {
        let reading = self.reading()?;
        let (inside, bits) = prefix(mac(reading.key.dst_mac), mac(of), len, 48)?;
        let noted = &mut reading.noted.partial.dst_mac_prefix;
        *noted = bits.max(*noted);
        Ok(inside)
    }

    fn src_ip_in(&mut self, _key: Resource<Asked>, of: Ip, len: u8) -> wasmtime::Result<bool> {
        let reading = self.reading()?;
        let (inside, bits) = prefix(ip(reading.key.src_ip), ip(of), len, 128)?;
        if !reading.family(ip(of), len) {
            return Ok(false);
        }
        let noted = &mut reading.noted.partial.src_ip_prefix;
        *noted = bits.max(*noted);
        Ok(inside)
    }

    fn dst_ip_in(&mut self, _key: Resource<Asked>, of: Ip, len: u8) -> wasmtime::Result<bool> {
        let reading = self.reading()?;
        let (inside, bits) = prefix(ip(reading.key.dst_ip), ip(of), len, 128)?;
        if !reading.family(ip(of), len) {
            return Ok(false);
        }
        let noted = &mut reading.noted.partial.dst_ip_prefix;
        *noted = bits.max(*noted);
        Ok(inside)
    }

    fn src_port_in(
        &mut self,
        _key: Resource<Asked>,
        low: u16,
        high: u16,
    ) -> wasmtime::Result<bool> {
        let reading = self.reading()?;
        let (inside, bits) = range(reading.key.src_port, &(low..=high));
        reading.noted.partial.src_port_mask |= bits;
        Ok(inside)
    }

    fn dst_port_in(
        &mut self,
        _key: Resource<Asked>,
        low: u16,
        high: u16,
    ) -> wasmtime::Result<bool> {
        let reading = self.reading()?;
        let (inside, bits) = range(reading.key.dst_port, &(low..=high));
        reading.noted.partial.dst_port_mask |= bits;
        Ok(inside)
    }

    // Handles are lent for a call; there is none to drop.
    fn drop(&mut self, _key: Resource<Asked>) -> wasmtime::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_range_rests_on_the_largest_block_with_one_answer(port: u16, low: u16, high: u16) {
            let (inside, mask) = range(port, &(low..=high));
            prop_assert_eq!(inside, (low..=high).contains(&port));
            let block = |mask: u16| (port & mask)..=(port | !mask);
            prop_assert!(block(mask).all(|other| (low..=high).contains(&other) == inside));
            if mask != 0 {
                let wider = mask << 1;
                prop_assert!(block(wider).any(|other| (low..=high).contains(&other) != inside));
            }
        }

        #[test]
        fn a_prefix_rests_on_its_bits_or_on_those_up_to_the_first_difference(
            value: u128, flip in 0u32..130, len in 0u8..=128
        ) {
            let other = value ^ 1u128.checked_shl(127u32.wrapping_sub(flip)).unwrap_or(0);
            let (inside, bits) = prefix(value, other, len, 128).expect("a prefix");
            prop_assert_eq!(inside, flip >= u32::from(len));
            prop_assert_eq!(u32::from(bits), if inside { u32::from(len) } else { flip + 1 });
        }
    }

    #[test]
    fn a_prefix_that_is_longer_than_the_field_is_refused() {
        let e = prefix(1, 1, 49, 48).expect_err("49 of 48");
        assert!(e.to_string().contains("49 bits"), "{e}");
        assert_eq!(
            prefix(0x0200_0000_0001, 0x0200_0000_0000, 48, 48).expect("48"),
            (false, 48)
        );
        assert_eq!(prefix(0, 0, 0, 48).expect("none"), (true, 0));
    }
}
