//! The tables' laws, and messages as hosts send them.
#![allow(clippy::unwrap_used)]

use super::control::{Control, Family, Malformed, Word, igmp_checksum, mld_checksum};
use super::*;
use crate::frame::Frame;
use proptest::prelude::*;

const G: MacAddr = MacAddr([0x01, 0x00, 0x5e, 1, 2, 3]);

fn at(ms: u64) -> Moment {
    Moment(1_000_000_000).plus_ms(ms)
}

fn igmp(src: [u8; 4], ttl: u8, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    message[2..4].copy_from_slice(&[0, 0]);
    let sum = igmp_checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![1, 0, 0x5e, 0, 0, 22, 2, 0, 0, 0, 0, 1, 8, 0];
    let len = u16::try_from(20 + message.len()).unwrap();
    let mut header = vec![0x45, 0];
    header.extend(len.to_be_bytes());
    header.extend([0, 0, 0, 0, ttl, 2, 0, 0]);
    header.extend(src);
    header.extend([224, 0, 0, 22]);
    frame.extend(header);
    frame.extend(message);
    frame
}

fn mld(src: u128, message: &[u8]) -> Vec<u8> {
    let dst = 0xff02_u128 << 112 | 0x16;
    let mut message = message.to_vec();
    message[2..4].copy_from_slice(&[0, 0]);
    let sum = mld_checksum(src, dst, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 0x16, 2, 0, 0, 0, 0, 1, 0x86, 0xdd];
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(u16::try_from(8 + message.len()).unwrap().to_be_bytes());
    frame.extend([0, 1]);
    frame.extend(src.to_be_bytes());
    frame.extend(dst.to_be_bytes());
    frame.extend([58, 0, 5, 2, 0, 0, 1, 0]);
    frame.extend(message);
    frame
}

fn read(frame: &[u8]) -> Result<Option<Control>, Malformed> {
    Control::of(&Frame::parse(frame).unwrap())
}

fn words(list: &[(MacAddr, bool)]) -> Result<Option<Control>, Malformed> {
    let words = list.iter().map(|&(group, joins)| Word { group, joins });
    Ok(Some(Control::Report(words.collect())))
}

const HOST: [u8; 4] = [10, 0, 0, 5];
const LINK: u128 = 0xfe80 << 112 | 5;

#[test]
fn every_version_of_igmp_is_read() {
    let group = [239, 129, 2, 3];
    let message = |kind: u8, group: [u8; 4]| [&[kind, 0, 0, 0][..], &group].concat();
    for kind in [0x12, 0x16] {
        let said = read(&igmp(HOST, 1, &message(kind, group)));
        assert_eq!(said, words(&[(G, true)]), "{kind:#x}");
    }
    assert_eq!(
        read(&igmp(HOST, 1, &message(0x17, group))),
        words(&[(G, false)])
    );
    // What always floods is left out.
    assert_eq!(
        read(&igmp(HOST, 1, &message(0x16, [224, 0, 0, 251]))),
        words(&[])
    );
    let query = [0x11, 10, 0, 0, 0, 0, 0, 0];
    assert_eq!(
        read(&igmp(HOST, 1, &query)),
        Ok(Some(Control::Query(Family::V4)))
    );
    assert_eq!(read(&igmp([0; 4], 1, &query)), Ok(Some(Control::Proxy)));
    // IS_EX of none: joined; TO_IN of none: left; ALLOW of one with auxiliary data: joined; BLOCK: nothing said.
    let mut report = vec![0x22, 0, 0, 0, 0, 0, 0, 4];
    report.extend([&[2, 0, 0, 0][..], &[239, 1, 2, 3]].concat());
    report.extend([&[3, 0, 0, 0][..], &[239, 1, 2, 4]].concat());
    report.extend([&[5, 1, 0, 1][..], &[239, 1, 2, 5], &[1; 4], &[9; 4]].concat());
    report.extend([&[6, 0, 0, 1][..], &[239, 1, 2, 6], &[1; 4]].concat());
    let other = |last| MacAddr([0x01, 0x00, 0x5e, 1, 2, last]);
    let said = words(&[(G, true), (other(4), false), (other(5), true)]);
    assert_eq!(read(&igmp(HOST, 1, &report)), said);
}

#[test]
fn both_versions_of_mld_are_read() {
    let group = (0xff15_u128 << 112 | 0x4242).to_be_bytes();
    let mac = MacAddr([0x33, 0x33, 0, 0, 0x42, 0x42]);
    let message = |kind: u8| [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &group].concat();
    assert_eq!(read(&mld(LINK, &message(131))), words(&[(mac, true)]));
    assert_eq!(read(&mld(LINK, &message(132))), words(&[(mac, false)]));
    assert_eq!(
        read(&mld(LINK, &message(130))),
        Ok(Some(Control::Query(Family::V6)))
    );
    let mut report = vec![143, 0, 0, 0, 0, 0, 0, 2];
    report.extend([&[4, 0, 0, 0][..], &group].concat());
    let solicited = 0xff02_u128 << 112 | 0x1_ff00_0001;
    report.extend([&[4, 0, 0, 0][..], &solicited.to_be_bytes()].concat());
    assert_eq!(read(&mld(LINK, &report)), words(&[(mac, true)]));
    // Of a host that has no address yet.
    assert_eq!(read(&mld(0, &report)), words(&[(mac, true)]));
}

#[test]
fn what_is_void_counts_for_nothing() {
    let report = [0x16, 0, 0, 0, 239, 1, 2, 3];
    // A router passed it on.
    assert_eq!(read(&igmp(HOST, 2, &report)), Err(Malformed));
    let mut forged = igmp(HOST, 1, &report);
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(read(&forged), Err(Malformed), "its checksum is wrong");
    // It claims more records than it has.
    let long = [0x22, 0, 0, 0, 0, 0, 0xff, 0xff, 2, 0, 0, 0, 239, 1, 2, 3];
    assert_eq!(read(&igmp(HOST, 1, &long)), Err(Malformed));
    let sources = [0x22, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0xff, 0xff, 239, 1, 2, 3];
    assert_eq!(read(&igmp(HOST, 1, &sources)), Err(Malformed));
    // MLD from elsewhere.
    let query = [&[130, 0, 0, 0, 0, 0, 0, 0][..], &[0; 16]].concat();
    assert_eq!(read(&mld(0xfd00 << 112 | 1, &query)), Err(Malformed));
}

#[test]
fn our_own_queries_are_valid_and_no_routers() {
    for family in [Family::V4, Family::V6] {
        let frame = query(family, MacAddr([2, 0x6d, 0x64, 0, 0, 1]));
        let parsed = Frame::parse(&frame).unwrap();
        assert!(!parsed.is_malformed());
        assert_eq!(Control::of(&parsed), Ok(Some(Control::Proxy)), "{family:?}");
    }
}

fn hears(table: &mut Multicast, port: u32, list: &[(MacAddr, bool)], now: Moment) -> bool {
    let said = words(list);
    table.hear(Some(PortId(port)), said, now).is_some()
}

/// A table with so many host ports, that were asked.
fn asked(ports: u32) -> (Multicast, Moment) {
    let mut table = Multicast::new(false);
    for port in 1..=ports {
        table.add_port(PortId(port), Kind::Host, at(0));
    }
    assert_eq!(table.handle_timeout(at(0)).len(), 2 * ports as usize);
    assert_eq!(
        table.handle_timeout(at(STARTUP_MS)).len(),
        2 * ports as usize
    );
    (table, at(STARTUP_MS + ANSWER_MS))
}

fn wants(table: &Multicast, port: u32, now: Moment) -> bool {
    table.wants(PortId(port), Aim::Group(G), now)
}

#[test]
fn a_port_floods_until_it_was_asked_and_then_gets_what_it_wants() {
    let mut table = Multicast::new(false);
    table.add_port(PortId(1), Kind::Host, at(0));
    assert!(wants(&table, 1, at(0)));
    assert!(table.interest(at(0)).all);
    let (mut table, now) = asked(2);
    assert!(wants(&table, 1, at(STARTUP_MS)), "its answer is on its way");
    assert!(!wants(&table, 1, now));
    hears(&mut table, 1, &[(G, true)], now);
    assert!(wants(&table, 1, now) && !wants(&table, 2, now));
    assert_eq!(table.interest(now).groups, [G]);
    assert!(!table.wants(PortId(1), Aim::Report, now));
    // It is not heard of again.
    let late = now.plus_ms(MEMBER_MS);
    table.handle_timeout(late);
    assert!(!wants(&table, 1, late));
    assert_eq!(table.interest(late), Interest::default());
}

#[test]
fn who_leaves_is_asked_and_those_who_stay_say_so() {
    let (mut table, now) = asked(1);
    hears(&mut table, 1, &[(G, true)], now);
    assert!(hears(&mut table, 1, &[(G, false)], now), "asked at once");
    assert!(!hears(&mut table, 1, &[(G, false)], now), "and not again");
    assert!(wants(&table, 1, now));
    hears(&mut table, 1, &[(G, true)], now.plus_ms(500));
    table.handle_timeout(now.plus_ms(LEAVE_MS));
    assert!(wants(&table, 1, now.plus_ms(LEAVE_MS)));
    let later = now.plus_ms(5000);
    hears(&mut table, 1, &[(G, false)], later);
    table.handle_timeout(later.plus_ms(LEAVE_MS));
    assert!(!wants(&table, 1, later.plus_ms(LEAVE_MS)));
}

#[test]
fn routers_and_lans_get_all_and_only_routers_get_reports() {
    let (mut table, now) = asked(1);
    table.add_port(PortId(2), Kind::Lan, now);
    assert!(wants(&table, 2, now.plus_ms(10_000)), "nobody may ask it");
    assert!(!table.wants(PortId(2), Aim::Report, now));
    assert!(table.interest(now).all && !table.interest(now).routers);
    table.hear(Some(PortId(1)), Ok(Some(Control::Query(Family::V4))), now);
    assert!(wants(&table, 1, now) && table.wants(PortId(1), Aim::Report, now));
    assert!(table.interest(now).routers);
    // While a router asks, nobody else does, in that protocol.
    let due = now.plus_ms(QUERY_MS);
    assert_eq!(table.handle_timeout(due), [(PortId(1), Family::V6)]);
    let gone = now.plus_ms(ROUTER_MS);
    table.handle_timeout(gone);
    assert!(!wants(&table, 1, gone));
}

#[test]
fn forged_reports_fill_no_table_and_harm_their_own_port_alone() {
    let (mut table, now) = asked(8);
    for n in 0..20_000u32 {
        let [_, a, b, c] = n.to_be_bytes();
        let group = MacAddr([0x01, 0x00, 0x5e, a | 0x10, b, c]);
        hears(&mut table, n % 7 + 1, &[(group, true)], now);
    }
    assert!(table.members.len() <= GROUPS_MAX);
    let all: usize = table.members.values().map(BTreeMap::len).sum();
    assert!(all <= 7 * GROUPS_PER_PORT);
    assert!(wants(&table, 1, now), "who says too much gets all");
    assert!(!wants(&table, 8, now));
    let interest = table.interest(now);
    assert!(interest.all && interest.groups.is_empty());
    let late = now.plus_ms(MEMBER_MS);
    table.handle_timeout(late);
    assert!(table.members.is_empty() && !wants(&table, 1, late));
    assert!(table.ports.values().all(|port| port.groups == 0));
    // Another node that says too much gets all, too.
    let groups = (0..2000u16).map(|n| MacAddr([0x33, 0x33, 0, 0, n.to_be_bytes()[0], 1]));
    let node = NodeId([9; 32]);
    let interest = Interest {
        groups: groups.collect(),
        ..Interest::default()
    };
    table.set_other(node, interest, late);
    assert!(table.node_wants(node, Aim::Group(G)));
}

#[test]
fn only_what_a_ruling_rests_on_makes_an_epoch_and_never_many_in_a_row() {
    let (mut table, now) = asked(2);
    hears(&mut table, 1, &[(G, true)], now);
    assert!(!table.take_stale(now), "nobody sends to it");
    let other = MacAddr([0x01, 0x00, 0x5e, 9, 9, 9]);
    table.note_ruled(other);
    hears(&mut table, 1, &[(other, true)], now);
    assert!(table.take_stale(now));
    table.new_epoch();
    table.note_ruled(other);
    hears(&mut table, 2, &[(other, true)], now);
    assert!(!table.take_stale(now.plus_ms(EPOCH_MS - 1)));
    assert!(table.take_stale(now.plus_ms(EPOCH_MS)));
}

#[test]
fn changes_that_do_not_end_make_fewer_and_fewer_epochs() {
    let (mut table, mut now) = asked(2);
    let mut epochs = [0; 2];
    for second in 0..10 {
        for _ in 0..100 {
            now = now.plus_ms(10);
            table.note_ruled(G);
            table.touch(Some(G), now);
            if table.take_stale(now) {
                table.new_epoch();
                epochs[usize::from(second >= 5)] += 1;
            }
        }
    }
    assert!(epochs[0] > 5 && (1..=7).contains(&epochs[1]), "{epochs:?}");
    now = now.plus_ms(5 * EPOCH_SLOW_MS);
    table.note_ruled(G);
    table.touch(Some(G), now);
    assert!(
        table.take_stale(now),
        "one change after a pause is no flood"
    );
    assert_eq!(table.epoch_pause, EPOCH_MS);
}

#[test]
fn another_node_is_sent_all_until_it_says_what_it_wants() {
    let (mut table, now) = asked(1);
    let node = NodeId([9; 32]);
    assert!(table.node_wants(node, Aim::Group(G)) && table.node_wants(node, Aim::Report));
    table.set_other(node, Interest::default(), now);
    assert!(!table.node_wants(node, Aim::Group(G)) && !table.node_wants(node, Aim::Report));
    let interest = Interest {
        groups: vec![G],
        ..Interest::default()
    };
    table.set_other(node, interest, now);
    assert!(table.node_wants(node, Aim::Group(G)));
    assert!(table.keep_others(|_| false));
    assert!(table.node_wants(node, Aim::Report));
}

#[derive(Clone, Debug)]
enum Act {
    Join(u32, u8),
    Leave(u32, u8),
    Router(u32),
    Port(u32, bool),
    Pass(u32),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (1..4u32, any::<u8>()).prop_map(|(port, group)| Act::Join(port, group % 5)),
        (1..4u32, any::<u8>()).prop_map(|(port, group)| Act::Leave(port, group % 5)),
        (1..4u32).prop_map(Act::Router),
        (1..4u32, any::<bool>()).prop_map(|(port, there)| Act::Port(port, there)),
        (1..300_000u32).prop_map(Act::Pass),
    ]
}

proptest! {
    /// Whatever happens, who joined within the time of a membership and did not leave is sent to; the node says so to others, and
    /// time never stands still.
    #[test]
    fn a_member_is_never_left_out(acts in proptest::collection::vec(act(), 1..80)) {
        let mut table = Multicast::new(false);
        let mut now = at(0);
        let mut joined: BTreeMap<(u32, MacAddr), Moment> = BTreeMap::new();
        let mut there = BTreeSet::new();
        for act in acts {
            let group = |n: u8| MacAddr([0x01, 0x00, 0x5e, 1, 2, n]);
            match act {
                Act::Join(port, n) => {
                    hears(&mut table, port, &[(group(n), true)], now);
                    if there.contains(&port) {
                        joined.insert((port, group(n)), now.plus_ms(MEMBER_MS));
                    }
                }
                Act::Leave(port, n) => {
                    hears(&mut table, port, &[(group(n), false)], now);
                    joined.remove(&(port, group(n)));
                }
                Act::Router(port) => {
                    table.hear(Some(PortId(port)), Ok(Some(Control::Query(Family::V4))), now);
                }
                Act::Port(port, true) => {
                    table.add_port(PortId(port), Kind::Host, now);
                    there.insert(port);
                }
                Act::Port(port, false) => {
                    table.remove_port(PortId(port));
                    there.remove(&port);
                    joined.retain(|(of, _), _| *of != port);
                }
                Act::Pass(ms) => {
                    let end = now.plus_ms(ms.into());
                    let mut turns = 0;
                    while let Some(due) = table.poll_timeout().filter(|due| *due <= end) {
                        now = now.max(due);
                        table.handle_timeout(now);
                        table.take_stale(now);
                        turns += 1;
                        prop_assert!(turns < 200, "time stands still");
                    }
                    now = end;
                }
            }
            joined.retain(|_, until| *until > now);
            let interest = table.interest(now);
            for (port, group) in joined.keys() {
                prop_assert!(table.wants(PortId(*port), Aim::Group(*group), now));
                prop_assert!(interest.all || interest.groups.contains(group));
            }
        }
    }

    #[test]
    fn garbage_in_place_of_a_message_never_panics(v4: bool, body in proptest::collection::vec(any::<u8>(), 8..120)) {
        let _ = match v4 {
            true => read(&igmp(HOST, 1, &body)),
            false => read(&mld(LINK, &body)),
        };
    }
}
