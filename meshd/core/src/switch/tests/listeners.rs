//! Who listens, as rulings have it.

use super::*;
use crate::multicast::{Interest, MulticastSpec, STARTUP_MS};

const GROUP: MacAddr = MacAddr([1, 0, 0x5e, 1, 2, 3]);
const SPEC: MulticastSpec = MulticastSpec {
    snooping: true,
    querier: false,
};

/// An IPv4 packet of `protocol` to 239.1.2.3.
fn packet(src: MacAddr, protocol: u8, ttl: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = [&GROUP.0[..], &src.0, &[8, 0]].concat();
    let len = u8::try_from(20 + body.len()).unwrap();
    frame.extend([0x45, 0, 0, len, 0, 0, 0, 0, ttl, protocol, 0, 0]);
    frame.extend([10, 0, 0, 11, 239, 1, 2, 3]);
    frame.extend(body);
    frame
}

fn data() -> Vec<u8> {
    packet(A, 17, 1, &[0x10, 0, 0x20, 0, 0, 12, 0, 0, 1, 2, 3, 4])
}

/// An IGMPv2 report, or that he leaves, of who is at B.
fn says(kind: u8) -> Vec<u8> {
    let (sum, carry) = (u16::from(kind) << 8).overflowing_add(0xef01 + 0x0203);
    let [high, low] = (!(sum + u16::from(carry))).to_be_bytes();
    let mut frame = packet(B, 2, 1, &[kind, 0, high, low, 239, 1, 2, 3]);
    // 10.0.0.12.
    frame[29] = 12;
    frame
}

/// All ports were asked.
fn asked() -> Bench {
    let mut bench = Bench::new();
    let (now, out) = (bench.now, &mut bench.out);
    bench.switch.set_multicast(vni(), SPEC, now, out);
    for ms in [0, STARTUP_MS, 5000] {
        bench.now = at(ms);
        bench.switch.handle_timeout(at(ms), &mut bench.out);
    }
    bench.drain();
    bench
}

fn epochs(out: &[Out]) -> usize {
    let is_epoch = |out: &&Out| matches!(out, Out::Epoch(_));
    out.iter().filter(is_epoch).count()
}

#[test]
fn ports_are_asked_and_until_then_a_group_goes_to_all() {
    let mut bench = Bench::new();
    let (now, out) = (bench.now, &mut bench.out);
    bench.switch.set_multicast(vni(), SPEC, now, out);
    bench.drain();
    let ruling = bench.rule(FROM_A, &data());
    assert_eq!(
        bench.receivers(FROM_A, &data()),
        [To::Port(PB), To::Peer(N8), To::Peer(N9)]
    );
    assert!(ruling.cache.unwrap().until.is_some(), "for a moment only");
    bench.switch.handle_timeout(at(0), &mut bench.out);
    let asked = bench.drain();
    let to = |port| {
        let is_it = |out: &&Out| matches!(out, Out::Inject { to, .. } if *to == To::Port(port));
        asked.iter().filter(is_it).count()
    };
    assert_eq!((to(PA), to(PB), to(PS)), (2, 2, 0), "IGMP and MLD each");
}

#[test]
fn a_report_is_seen_though_frames_of_its_group_are_cached() {
    let mut bench = asked();
    let ruled = bench.rule(FROM_A, &data()).cache.unwrap();
    let key = |frame: &[u8]| Frame::parse(frame).unwrap().flow_key(vni());
    assert_eq!(ruled.mask.apply(&key(&data())), ruled.key);
    let report = packet(A, 2, 1, &[0x16, 0, 0, 0, 239, 1, 2, 3]);
    assert_ne!(ruled.mask.apply(&key(&report)), ruled.key);
    assert_eq!(bench.rule(FROM_A, &report).cache, None);
}

#[test]
fn a_join_ends_the_rulings_on_its_group_and_a_leave_does() {
    let mut bench = asked();
    assert_eq!(
        bench.receivers(FROM_A, &data()),
        [To::Peer(N8), To::Peer(N9)]
    );
    let heard = bench.upcall(Origin::Port(PB), &says(0x16));
    assert_eq!(epochs(&heard), 1);
    // Both nodes have not said whether they have routers.
    assert!(ruling(&heard).unwrap().cache.is_none());
    assert_eq!(
        bench.receivers(FROM_A, &data()),
        [To::Port(PB), To::Peer(N8), To::Peer(N9)]
    );
    // The same again is no news.
    assert_eq!(epochs(&bench.upcall(Origin::Port(PB), &says(0x16))), 0);
    let left = bench.upcall(Origin::Port(PB), &says(0x17));
    let asks = |out: &&Out| {
        matches!(
            out,
            Out::Inject {
                to: To::Port(PB),
                ..
            }
        )
    };
    assert_eq!(left.iter().filter(asks).count(), 2);
    bench.now = at(8000);
    bench.switch.handle_timeout(at(8000), &mut bench.out);
    assert_eq!(epochs(&bench.drain()), 1);
    assert_eq!(
        bench.receivers(FROM_A, &data()),
        [To::Peer(N8), To::Peer(N9)]
    );
}

#[test]
fn a_node_gets_what_it_said_it_wants() {
    let mut bench = asked();
    bench.receivers(FROM_A, &data());
    let say = |bench: &mut Bench, node, groups: &[MacAddr]| {
        let interest = Interest {
            groups: groups.to_vec(),
            ..Interest::default()
        };
        let (now, out) = (bench.now, &mut bench.out);
        bench.switch.set_interest(vni(), node, interest, now, out);
        bench.now = bench.now.plus_ms(100);
        bench.switch.handle_timeout(bench.now, &mut bench.out);
        bench.drain();
    };
    say(&mut bench, N8, &[GROUP]);
    say(&mut bench, N9, &[]);
    assert_eq!(bench.receivers(FROM_A, &data()), [To::Peer(N8)]);
    say(&mut bench, N8, &[]);
    assert_eq!(bench.drops(FROM_A, &data()), DropReason::NoReceiver);
    // A report that no router wants ends here, and is no loss.
    assert_eq!(
        bench.rule(Origin::Port(PB), &says(0x16)).action,
        Action::Consume
    );
    // A node whose session ended is not known any more.
    bench.switch.forget_interest(N9, &mut bench.out);
    assert_eq!(
        bench.receivers(FROM_A, &data()),
        [To::Port(PB), To::Peer(N9)]
    );
    // Who is not on the network says nothing of it.
    let stranger = NodeId([7; 32]);
    let (now, out) = (bench.now, &mut bench.out);
    bench
        .switch
        .set_interest(vni(), stranger, Interest::default(), now, out);
    let known = bench.switch.listening(vni(), now).unwrap();
    assert_eq!(known.groups[0].ports, [PB]);
}

#[test]
fn a_report_that_policy_drops_was_not_made() {
    let mut bench = asked();
    let (now, out) = (bench.now, &mut bench.out);
    bench.switch.set_policy(vni(), 1, now, out);
    bench.drain();
    let questions = bench.upcall(Origin::Port(PB), &says(0x16));
    bench.answer(&questions, deny());
    assert!(
        bench
            .switch
            .listening(vni(), now)
            .unwrap()
            .groups
            .is_empty()
    );
}
