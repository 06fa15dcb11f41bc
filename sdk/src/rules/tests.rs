//! The search against going through the list, and what it notes.

use super::*;
use crate::key::Raw;
use crate::test::keys::{halves, key};
use crate::test::{pkt, sound};
use crate::{Direction, Frag, Net};
use proptest::prelude::*;

fn net() -> impl Strategy<Value = Net> {
    let v4 = (0u32..6, 20u8..=32).prop_map(|(host, len)| {
        let bits = 0x0a00_0000u32 | host << 3;
        let bits = bits & u32::MAX << (32 - len);
        Net::new(std::net::Ipv4Addr::from_bits(bits).into(), len).unwrap()
    });
    let v6 = (0u128..4, 8u8..=128).prop_map(|(host, len)| {
        let bits = (0xfd00 << 112 | host) & u128::MAX << (128 - len);
        Net::new(std::net::Ipv6Addr::from_bits(bits).into(), len).unwrap()
    });
    prop_oneof![4 => v4, 1 => v6]
}

fn rule() -> impl Strategy<Value = Rule> {
    let ports = || {
        let one = (0u16..8, 0u16..4).prop_map(|(low, more)| Ports {
            low,
            high: low + more,
        });
        let wide = (1000u16..1010).prop_map(|low| Ports {
            low,
            high: u16::MAX,
        });
        prop::option::weighted(0.5, prop_oneof![3 => one, 1 => wide])
    };
    let proto = prop_oneof![
        4 => Just(Proto::Ip(6)),
        2 => Just(Proto::Ip(17)),
        1 => Just(Proto::Icmp),
        1 => Just(Proto::Arp),
        1 => Just(Proto::Nd),
        1 => Just(Proto::Ip(47)),
    ];
    let way = prop_oneof![Just(Way::In), Just(Way::Out)];
    (
        any::<bool>(),
        prop::option::weighted(0.1, way),
        prop::option::weighted(0.8, proto),
        prop::option::weighted(0.6, net()),
        prop::option::weighted(0.6, net()),
        ports(),
        ports(),
    )
        .prop_map(|(allow, way, proto, src, dst, src_port, port)| {
            let mut asks = Match {
                way,
                proto,
                src,
                dst,
                src_port,
                port,
            };
            if asks.fault().is_some() {
                (asks.src_port, asks.port) = (None, None);
            }
            if allow {
                Rule::Allow(asks)
            } else {
                Rule::Deny(asks)
            }
        })
}

/// A key near what rules ask for.
fn frame() -> impl Strategy<Value = Raw> {
    let kind = prop_oneof![
        6 => Just(IpKind::V4),
        2 => Just(IpKind::V6),
        1 => Just(IpKind::ArpV4),
        1 => Just(IpKind::NdV6),
        1 => Just(IpKind::None),
    ];
    let proto = prop_oneof![5 => Just(6u8), 3 => Just(17u8), 1 => Just(1u8), 1 => Just(58u8), 1 => Just(47u8), 1 => any::<u8>()];
    let port = || prop_oneof![6 => 0u16..12, 1 => 998u16..1012, 1 => any::<u16>()];
    let rare = prop_oneof![8 => Just((Frag::None, true)), 1 => Just((Frag::Later, false)), 1 => Just((Frag::First, false))];
    let ends = (0u32..64, 0u32..64, 0u128..6, 0u128..6);
    (kind, proto, port(), port(), rare, ends, any::<bool>()).prop_map(
        |(kind, proto, src_port, dst_port, (frag, l4_ok), (src, dst, src6, dst6), out)| {
            let mut key = key(&pkt!(udp 10.0.0.1:1 > 10.0.0.2:2)).unwrap();
            let v4 = |host: u32| halves(0xffff << 32 | u128::from(0x0a00_0000 | host));
            let v6 = |host: u128| halves(0xfd00 << 112 | host);
            (key.src_ip, key.dst_ip) = match kind {
                IpKind::None => (halves(0), halves(0)),
                IpKind::V4 | IpKind::ArpV4 => (v4(src), v4(dst)),
                IpKind::V6 | IpKind::NdV6 => (v6(src6), v6(dst6)),
            };
            (key.ip_kind, key.ip_proto, key.frag, key.l4_ok) = (kind, proto, frag, l4_ok);
            if l4_ok {
                (key.src_port, key.dst_port) = (src_port, dst_port);
            }
            key.dir = if out {
                Direction::Ingress
            } else {
                Direction::Egress
            };
            key
        },
    )
}

/// One after the other, without classes and index.
fn naive(list: &[Rule], frame: &Opening<'_, '_>) -> Option<u16> {
    let about = |rule: &Rule| rule.asks().is_about(frame.key.ip_kind());
    let found = list
        .iter()
        .position(|rule| about(rule) && rule.matches(frame));
    found.map(|at| at as u16 + 1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn a_search_finds_what_going_through_the_list_finds(
        list in prop::collection::vec(rule(), 0..200),
        frames in prop::collection::vec((frame(), any::<bool>()), 1..64),
    ) {
        let rules = Rules::new("", list.clone()).unwrap();
        for (frame, turned) in frames {
            let (one, other) = (Key::new(&frame), Key::new(&frame));
            let found = if turned { rules.first_of_answer(&one) } else { rules.first(&one) };
            let wanted = naive(&list, &Opening { key: &other, turned });
            prop_assert_eq!(found.map(|(n, _)| n), wanted);
        }
    }

    #[test]
    fn frames_that_agree_in_what_a_search_read_are_found_the_same(
        list in prop::collection::vec(rule(), 17..200),
        frames in prop::collection::vec(frame(), 1..64),
    ) {
        let rules = Rules::new("", list).unwrap();
        sound::check(&frames, 2000, |frame| {
            let key = Key::new(frame);
            let verdict = match rules.first(&key) {
                None => crate::next(),
                Some((n, rule)) if rule.allows() => crate::next().count(n.into()),
                Some((n, _)) => crate::drop(n),
            };
            (verdict, key.deps())
        });
    }
}

#[test]
fn the_thousandth_rule_is_found_under_a_mask_of_what_tells_it_apart() {
    let list = (0..1000u32).map(|n| {
        let host = std::net::Ipv4Addr::from_bits(0x0a00_0000 + n * 8);
        Rule::Deny(Match {
            proto: Some(Proto::Ip(6)),
            dst: Some(Net::new(host.into(), 32).unwrap()),
            port: Some(Ports { low: 22, high: 22 }),
            ..Match::default()
        })
    });
    let rules = Rules::new("", list.collect()).unwrap();
    // 999 * 8 is 0x1f38.
    let last = key(&pkt!(tcp 192.168.0.1:4000 > 10.0.31.56:22 syn)).unwrap();
    let key_of = Key::new(&last);
    assert_eq!(rules.first(&key_of).map(|(n, _)| n), Some(1000));
    let read = key_of.deps().partial;
    assert_eq!(
        (read.src_ip_prefix, read.src_port_mask),
        (0, 0),
        "nothing asks for them"
    );
    assert_eq!((read.dst_ip_prefix, read.dst_port_mask), (128, 0xffff));
    // Far from all of them: the first bit of four tells.
    let far = key(&pkt!(tcp 192.168.0.1:4000 > 172.16.0.1:22 syn)).unwrap();
    let key_of = Key::new(&far);
    assert!(rules.first(&key_of).is_none());
    assert_eq!(key_of.deps().partial.dst_ip_prefix, 97);
    assert_eq!(key_of.deps().partial.dst_port_mask, 0);
}

#[test]
fn more_rules_than_can_be_searched_are_refused_with_their_count() {
    let list = vec![Rule::Deny(Match::default()); RULES_MAX + 1];
    let errors = Rules::new("/rules", list).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].pointer, "/rules");
    assert!(errors[0].message.starts_with("1025 rules; at most 1024"));
}
