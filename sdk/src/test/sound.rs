//! Soundness: two keys that agree in what was read get the same verdict, and the same is read of them.
//!
//! ```text
//!   key ---------------decide--> verdict, deps
//!    |  other bits scrambled                    must be equal
//!   key' --------------decide--> verdict, deps
//! ```

use super::keys::halves;
use crate::key::{Direction, DstClass, Frag, IpKind, bits};
use crate::net::prefix;
use crate::verdict::Verdict;
use crate::wit::types::{DepMask, Deps, FlowKey, Mac, TcpFlags};

/// xorshift64*: a fixed seed, so that a failure comes again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// The low bits of an xorshift are the weaker ones; truncation of the high ones is meant.
    fn word(&mut self) -> u32 {
        (self.roll() >> 32) as u32
    }

    fn half(&mut self) -> u16 {
        (self.roll() >> 48) as u16
    }

    fn byte(&mut self) -> u8 {
        (self.roll() >> 56) as u8
    }

    fn below(&mut self, n: usize) -> usize {
        self.roll() as usize % n.max(1)
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// See [`crate::test::Host::sound`].
pub(crate) fn check(
    seeds: &[FlowKey],
    rounds: usize,
    decide: impl Fn(&FlowKey) -> (Verdict, DepMask),
) {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for round in 0..rounds {
        let first = random(seeds, &mut dice);
        let (verdict, deps) = decide(&first);
        let second = scramble(&first, &deps, &random(seeds, &mut dice));
        let (again, deps_again) = decide(&second);
        assert!(
            verdict == again && same(&deps, &deps_again),
            "round {round}: a difference in what was not read changed the answer\n{first:?}\n  {verdict:?} {deps:?}\n{second:?}\n  {again:?} {deps_again:?}"
        );
    }
}

fn same(a: &DepMask, b: &DepMask) -> bool {
    let parts = |d: &DepMask| {
        let p = &d.partial;
        (
            p.src_mac_prefix,
            p.dst_mac_prefix,
            p.src_ip_prefix,
            p.dst_ip_prefix,
            p.src_port_mask,
            p.dst_port_mask,
        )
    };
    a.fields == b.fields && parts(a) == parts(b)
}

/// A key near the seeds, with boundary values in some fields and noise in others.
fn random(seeds: &[FlowKey], dice: &mut Dice) -> FlowKey {
    let mut key = noise(dice);
    if seeds.is_empty() {
        return key;
    }
    let (seed, other) = (dice.pick(seeds), dice.pick(seeds));
    macro_rules! mostly {
        ($($field:ident)*) => { $(match dice.below(8) {
            0 => {}
            1 => key.$field = other.$field,
            _ => key.$field = seed.$field,
        })* };
    }
    mostly!(dir in_port in_peer tenant src_identity dst_identity src_mac dst_mac dst_class ether_type vlan pcp inner_vlan ip_kind src_ip dst_ip
        ip_proto dscp ecn ttl frag l4_ok src_port dst_port tcp_flags icmp_type icmp_code ct ct_mark);
    if dice.one_in(4) {
        key.dst_port = key.dst_port.wrapping_add(dice.pick(&[1, u16::MAX]));
    }
    if dice.one_in(4) {
        key.dst_ip = halves(bits(key.dst_ip.hi, key.dst_ip.lo) ^ 1 << dice.below(128));
    }
    for mac in [&mut key.src_mac, &mut key.dst_mac] {
        if dice.one_in(4) {
            mac.lo ^= 1 << dice.below(32);
        }
    }
    if dice.one_in(4) {
        key.src_ip = halves(bits(key.src_ip.hi, key.src_ip.lo) ^ 1 << dice.below(128));
    }
    key
}

fn noise(dice: &mut Dice) -> FlowKey {
    use crate::wit::types::{CtState, Ip};
    const FLAGS: [TcpFlags; 5] = [
        TcpFlags::FIN,
        TcpFlags::SYN,
        TcpFlags::RST,
        TcpFlags::ACK,
        TcpFlags::ECE,
    ];
    FlowKey {
        dir: dice.pick(&[Direction::Ingress, Direction::Egress]),
        in_port: dice.word(),
        in_peer: dice.roll(),
        tenant: dice.word() & 0xff_ffff,
        src_identity: dice.word(),
        dst_identity: dice.word(),
        src_mac: Mac {
            hi: dice.half(),
            lo: dice.word(),
        },
        dst_mac: Mac {
            hi: dice.half(),
            lo: dice.word(),
        },
        dst_class: dice.pick(&[
            DstClass::UnicastKnown,
            DstClass::UnicastUnknown,
            DstClass::Multicast,
            DstClass::Broadcast,
        ]),
        ether_type: dice.half(),
        vlan: dice.half(),
        pcp: dice.byte() & 7,
        inner_vlan: dice.half(),
        ip_kind: dice.pick(&[
            IpKind::None,
            IpKind::V4,
            IpKind::V6,
            IpKind::ArpV4,
            IpKind::NdV6,
        ]),
        src_ip: Ip {
            hi: dice.roll(),
            lo: dice.roll(),
        },
        dst_ip: Ip {
            hi: dice.roll(),
            lo: dice.roll(),
        },
        ip_proto: dice.byte(),
        dscp: dice.byte() & 63,
        ecn: dice.byte() & 3,
        ttl: dice.byte(),
        frag: dice.pick(&[Frag::None, Frag::First, Frag::Later]),
        l4_ok: dice.one_in(2),
        src_port: dice.half(),
        dst_port: dice.half(),
        tcp_flags: dice.pick(&FLAGS) | dice.pick(&FLAGS),
        icmp_type: dice.byte(),
        icmp_code: dice.byte(),
        ct: dice.pick(&[CtState::UNTRACKED, CtState::NEW, CtState::ESTABLISHED]),
        ct_mark: dice.word(),
    }
}

/// `key` in every bit that was read, `other` in the rest.
fn scramble(key: &FlowKey, deps: &DepMask, other: &FlowKey) -> FlowKey {
    let mut out = *other;
    macro_rules! keep {
        ($($field:ident $bit:ident)*) => { $(if deps.fields.contains(Deps::$bit) { out.$field = key.$field; })* };
    }
    keep!(dir DIR in_port IN_PORT in_peer IN_PEER tenant TENANT src_identity SRC_IDENTITY dst_identity DST_IDENTITY dst_class DST_CLASS
        ether_type ETHER_TYPE vlan VLAN pcp PCP inner_vlan INNER_VLAN ip_kind IP_KIND ip_proto IP_PROTO dscp DSCP ecn ECN ttl TTL frag FRAG
        l4_ok L4_OK tcp_flags TCP_FLAGS icmp_type ICMP_TYPE icmp_code ICMP_CODE ct CT ct_mark CT_MARK);
    let part = &deps.partial;
    let mix = |a: u128, b: u128, len: u8| prefix(a, len) | (b & !prefix(u128::MAX, len));
    out.src_ip = halves(mix(
        bits(key.src_ip.hi, key.src_ip.lo),
        bits(out.src_ip.hi, out.src_ip.lo),
        part.src_ip_prefix,
    ));
    out.dst_ip = halves(mix(
        bits(key.dst_ip.hi, key.dst_ip.lo),
        bits(out.dst_ip.hi, out.dst_ip.lo),
        part.dst_ip_prefix,
    ));
    out.src_mac = mix_mac(&key.src_mac, &out.src_mac, part.src_mac_prefix);
    out.dst_mac = mix_mac(&key.dst_mac, &out.dst_mac, part.dst_mac_prefix);
    out.src_port = key.src_port & part.src_port_mask | out.src_port & !part.src_port_mask;
    out.dst_port = key.dst_port & part.dst_port_mask | out.dst_port & !part.dst_port_mask;
    out
}

/// The first `len` bits of `a`, the rest of `b`.
fn mix_mac(a: &Mac, b: &Mac, len: u8) -> Mac {
    let bits = |m: &Mac| u64::from(m.hi) << 32 | u64::from(m.lo);
    let rest = (1u64 << (48 - u32::from(len.min(48)))) - 1;
    let mixed = bits(a) & !rest | bits(b) & rest;
    // 16 and 32 bits.
    Mac {
        hi: (mixed >> 32) as u16,
        lo: mixed as u32,
    }
}

#[cfg(test)]
mod tests {
    use crate::prelude::*;
    use crate::test::host;
    use core::sync::atomic::{AtomicU32, Ordering};

    #[derive(Config)]
    struct Moody {
        #[config(skip)]
        count: AtomicU32,
    }

    #[policy(stage = "guard")]
    impl Policy for Moody {
        fn decide(&self, _: &Key<'_>) -> Verdict {
            if self.count.fetch_add(1, Ordering::Relaxed) % 1000 == 999 {
                drop("mood")
            } else {
                next()
            }
        }
    }

    #[test]
    #[should_panic(expected = "a difference in what was not read")]
    fn a_policy_with_state_is_found_unsound() {
        host(Moody {
            count: AtomicU32::new(0),
        })
        .sound(10_000);
    }
}
