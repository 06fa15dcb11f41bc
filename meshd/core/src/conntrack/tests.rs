#![allow(clippy::unwrap_used)]

use super::*;
use crate::frame::Frame;
use crate::ident::{Moment, NodeId, PortId, Vni};
use etherparse::PacketBuilder;
use proptest::prelude::*;

const SYN: u16 = flag::SYN;
const ACK: u16 = flag::ACK;
const FIN: u16 = flag::FIN | flag::ACK;
const RST: u16 = flag::RST;
const SYN_ACK: u16 = SYN | ACK;

const NEW: CtState = CtState::NEW;
const ESTABLISHED: CtState = CtState::ESTABLISHED;
const REPLY: CtState = CtState::REPLY;
const INVALID: CtState = CtState::INVALID;

fn vni(number: u32) -> Vni {
    Vni::new(number).unwrap()
}

fn at(ms: u64) -> Moment {
    Moment(0).plus_ms(1_000_000 + ms)
}

fn tcp(src: u16, dst: u16) -> Tuple {
    ends(6, (1, src), (2, dst))
}

fn ends(proto: u8, src: (u128, u16), dst: (u128, u16)) -> Tuple {
    Tuple {
        proto,
        src_ip: 0xffff_0a00_0000 + src.0,
        dst_ip: 0xffff_0a00_0000 + dst.0,
        src_port: src.1,
        dst_port: dst.1,
    }
}

fn port(number: u32) -> Opener {
    Opener::of(Origin::Port(PortId(number)), MacAddr([2, 0, 0, 0, 0, 1]))
}

fn commit(epoch: u64) -> Order {
    Order {
        commit: true,
        mark: None,
        epoch: Epoch(epoch),
        why: "test".to_owned(),
    }
}

struct Bench {
    zone: Zone,
    seen: Seen,
    now: Moment,
}

impl Bench {
    fn new() -> Self {
        Self::with(TrackLimits::default())
    }

    fn with(limits: TrackLimits) -> Self {
        Self {
            zone: Zone::new(limits, vni(7), Epoch(1), 7),
            seen: Seen::new(9),
            now: at(0),
        }
    }

    /// Comes by and is forwarded.
    fn come(&mut self, tuple: Tuple, signal: Signal) -> CtState {
        let subject = match signal {
            Signal::Tcp(flags) => Subject::tcp(tuple, flags),
            _ => Subject::Packet(tuple, signal),
        };
        let state = self.zone.look(&mut self.seen, &subject, self.now).state;
        self.zone.pass(&mut self.seen, &subject, self.now);
        state
    }

    fn order(&mut self, tuple: Tuple, signal: Signal, opener: Opener, order: &Order) {
        let subject = Subject::Packet(tuple, signal);
        self.zone
            .order(&mut self.seen, &subject, opener, order, self.now);
    }

    /// The same, by a ruling that enters it.
    fn pass(&mut self, tuple: Tuple, signal: Signal) -> CtState {
        let state = self.come(tuple, signal);
        self.order(tuple, signal, port(1), &commit(1));
        state
    }

    fn state(&self, tuple: Tuple) -> State {
        let rows = self.zone.rows(usize::MAX, self.now);
        rows.iter().find(|row| row.tuple == tuple).unwrap().state
    }
}

#[test]
fn a_tcp_connection_goes_from_its_syn_to_both_fins_and_a_new_syn_is_another_connection() {
    let (mut bench, out, back) = (Bench::new(), tcp(4000, 80), tcp(4000, 80).reversed());
    assert_eq!(bench.pass(out, Signal::Tcp(SYN)), NEW);
    assert_eq!(bench.come(out, Signal::Tcp(SYN)), NEW, "sent again");
    assert_eq!(bench.state(out), State::SynSent);
    assert_eq!(
        bench.come(back, Signal::Tcp(SYN_ACK)),
        ESTABLISHED.with(REPLY)
    );
    assert_eq!(bench.state(out), State::SynReceived);
    assert_eq!(bench.come(out, Signal::Tcp(ACK)), ESTABLISHED);
    assert_eq!(bench.state(out), State::Established);
    assert_eq!(bench.come(back, Signal::Tcp(FIN)), ESTABLISHED.with(REPLY));
    assert_eq!(bench.state(out), State::Closing);
    assert_eq!(bench.come(out, Signal::Tcp(FIN)), ESTABLISHED);
    assert_eq!(bench.state(out), State::Closed);
    assert_eq!(bench.come(back, Signal::Tcp(ACK)), ESTABLISHED.with(REPLY));
    assert_eq!(bench.come(back, Signal::Tcp(SYN)), NEW, "the other way");
    assert_eq!(bench.pass(out, Signal::Tcp(SYN)), NEW);
    assert_eq!(bench.state(out), State::SynSent);
    assert_eq!(bench.zone.len(), 1);
}

#[test]
fn a_reset_ends_a_connection_unless_its_ends_go_on() {
    let (mut bench, out, back) = (Bench::new(), tcp(4000, 80), tcp(4000, 80).reversed());
    bench.pass(out, Signal::Tcp(SYN));
    bench.come(back, Signal::Tcp(SYN_ACK));
    bench.come(back, Signal::Tcp(RST));
    assert_eq!(bench.state(out), State::Reset);
    assert_eq!(bench.come(out, Signal::Tcp(ACK)), ESTABLISHED);
    assert_eq!(bench.state(out), State::Established);
    bench.come(out, Signal::Tcp(RST | ACK));
    bench.now = bench.now.plus_ms(10_000);
    assert_eq!(bench.come(back, Signal::Tcp(ACK)), NEW);
}

#[test]
fn what_opens_no_connection_is_invalid_and_a_segment_in_the_middle_of_one_is_new() {
    let mut bench = Bench::new();
    for flags in [
        RST,
        SYN_ACK,
        0,
        SYN | flag::FIN,
        flag::FIN,
        flag::FIN | 8 | 32,
    ] {
        assert_eq!(
            bench.come(tcp(1, 2), Signal::Tcp(flags)),
            INVALID,
            "{flags:#x}"
        );
    }
    let echo = ends(1, (1, 0), (2, 7));
    assert_eq!(bench.come(echo, Signal::EchoReply), INVALID);
    assert_eq!(bench.come(tcp(1, 2), Signal::Tcp(ACK)), NEW);
    assert!(bench.zone.is_empty(), "nothing was ordered");
    bench.order(tcp(1, 2), Signal::Tcp(RST), port(1), &commit(1));
    assert!(bench.zone.is_empty(), "a reset enters nothing");
}

#[test]
fn udp_and_echo_are_established_by_an_answer_and_live_as_long_as_they_are_used() {
    let mut bench = Bench::new();
    let (ask, echo) = (ends(17, (1, 4000), (2, 53)), ends(58, (1, 7), (2, 0)));
    for (tuple, answer) in [(ask, Signal::Data), (echo, Signal::EchoReply)] {
        assert_eq!(bench.pass(tuple, Signal::Data), NEW);
        assert_eq!(bench.pass(tuple, Signal::Data), NEW, "nobody answered");
        assert_eq!(
            bench.come(tuple.reversed(), answer),
            ESTABLISHED.with(REPLY)
        );
        assert_eq!(bench.come(tuple, Signal::Data), ESTABLISHED);
    }
    bench.now = bench.now.plus_ms(179_999);
    assert_eq!(bench.come(ask, Signal::Data), ESTABLISHED);
    bench.now = bench.now.plus_ms(179_999);
    assert_eq!(bench.come(ask, Signal::Data), ESTABLISHED);
    assert_eq!(bench.come(echo, Signal::Data), NEW, "its time is over");
}

#[test]
fn an_error_is_related_if_it_goes_to_who_sent_the_packet_and_that_is_of_a_connection() {
    let (mut bench, out) = (Bench::new(), tcp(4000, 80));
    let related = CtState::RELATED;
    let error = |bench: &mut Bench, about: Tuple, to: u128| {
        let subject = Subject::Error { about, to };
        bench.zone.look(&mut bench.seen, &subject, bench.now).state
    };
    assert_eq!(error(&mut bench, out, out.src_ip), INVALID);
    bench.pass(out, Signal::Tcp(SYN));
    assert_eq!(error(&mut bench, out, out.src_ip), related.with(REPLY));
    assert_eq!(
        error(&mut bench, out.reversed(), out.dst_ip),
        related,
        "about an answer"
    );
    assert_eq!(error(&mut bench, out, out.dst_ip), INVALID);
    assert_eq!(error(&mut bench, tcp(4001, 80), out.src_ip), INVALID);
    bench.zone.decide_anew(Epoch(2));
    assert_eq!(
        error(&mut bench, out, out.src_ip),
        INVALID,
        "until it is decided"
    );
}

#[test]
fn after_a_change_of_the_chain_a_connection_is_new_both_ways_until_a_ruling_of_that_chain_orders_it()
 {
    let (mut bench, out, back) = (Bench::new(), tcp(4000, 80), tcp(4000, 80).reversed());
    bench.pass(out, Signal::Tcp(SYN));
    bench.come(back, Signal::Tcp(SYN_ACK));
    assert_eq!(bench.come(out, Signal::Tcp(ACK)), ESTABLISHED);
    bench.zone.decide_anew(Epoch(5));
    assert_eq!(bench.come(out, Signal::Tcp(ACK)), NEW);
    assert_eq!(bench.come(back, Signal::Tcp(ACK)), NEW.with(REPLY));
    // A ruling of before that comes late.
    bench.order(out, Signal::Tcp(ACK), port(1), &commit(4));
    assert_eq!(bench.come(out, Signal::Tcp(ACK)), NEW);
    // By an answer: the direction stays.
    bench.order(back, Signal::Tcp(ACK), port(2), &commit(5));
    assert_eq!(bench.come(out, Signal::Tcp(ACK)), ESTABLISHED);
    assert_eq!(bench.come(back, Signal::Tcp(ACK)), ESTABLISHED.with(REPLY));
    assert_eq!(bench.zone.len(), 1);
}

#[test]
fn a_mark_is_set_by_an_order_and_is_in_the_key_both_ways() {
    let (mut bench, ask) = (Bench::new(), ends(17, (1, 4000), (2, 53)));
    let mark = |commit, mark| Order {
        commit,
        mark: Some(mark),
        ..self::commit(1)
    };
    bench.order(ask, Signal::Data, port(1), &mark(false, 7));
    assert!(bench.zone.is_empty(), "a mark alone enters nothing");
    bench.order(ask, Signal::Data, port(1), &mark(true, 7));
    let read = |bench: &mut Bench, tuple| {
        let subject = Subject::Packet(tuple, Signal::Data);
        bench.zone.look(&mut bench.seen, &subject, bench.now).mark
    };
    assert_eq!(read(&mut bench, ask), 7);
    bench.order(ask, Signal::Data, port(1), &mark(false, 8));
    assert_eq!(read(&mut bench, ask.reversed()), 8);
    assert_eq!(
        bench
            .zone
            .peek(&Subject::Packet(ask.reversed(), Signal::Data), bench.now),
        Tracked {
            state: ESTABLISHED.with(REPLY),
            mark: 8
        }
    );
}

#[test]
fn two_lanes_see_one_connection_and_what_the_table_gave_up_is_gone_for_both() {
    let limits = TrackLimits {
        connections: 1,
        per_opener: 1,
    };
    let (mut bench, mut other) = (Bench::with(limits), Seen::new(3));
    let (ask, now) = (ends(17, (1, 4000), (2, 53)), bench.now);
    bench.pass(ask, Signal::Data);
    let answer = Subject::Packet(ask.reversed(), Signal::Data);
    let state = bench.zone.look(&mut other, &answer, now).state;
    bench.zone.pass(&mut other, &answer, now);
    assert_eq!(state, ESTABLISHED.with(REPLY));
    assert_eq!(bench.come(ask, Signal::Data), ESTABLISHED);
    bench.pass(ends(17, (1, 4001), (2, 53)), Signal::Data);
    assert_eq!(bench.come(ask, Signal::Data), NEW);
    assert_eq!(bench.zone.look(&mut other, &answer, now).state, NEW);
}

#[test]
fn a_lane_with_two_networks_does_not_mix_their_connections_nor_those_of_a_table_that_is_gone() {
    let mut bench = Bench::new();
    let ask = ends(17, (1, 4000), (2, 53));
    bench.pass(ask, Signal::Data);
    bench.come(ask.reversed(), Signal::Data);
    assert_eq!(bench.come(ask, Signal::Data), ESTABLISHED);
    for (number, since) in [(8, Epoch(1)), (7, Epoch(2))] {
        let other = Zone::new(TrackLimits::default(), vni(number), since, 7);
        let subject = Subject::Packet(ask, Signal::Data);
        let state = other.look(&mut bench.seen, &subject, bench.now).state;
        assert_eq!(state, NEW, "VNI {number} since {since:?}");
        other.order(&mut bench.seen, &subject, port(1), &commit(2), bench.now);
        assert_eq!(other.len(), 1);
    }
    assert_eq!(bench.come(ask, Signal::Data), ESTABLISHED);
}

#[test]
fn who_scans_pushes_out_its_own_and_not_what_others_or_itself_have_established() {
    let limits = TrackLimits {
        connections: 200,
        per_opener: 150,
    };
    let mut bench = Bench::with(limits);
    let held = |opener: u32, n: u16| ends(6, (u128::from(opener), 1000 + n), (9, 22));
    for opener in 1..=3 {
        for n in 0..20 {
            let tuple = held(opener, n);
            bench.order(tuple, Signal::Tcp(SYN), port(opener), &commit(1));
            bench.come(tuple.reversed(), Signal::Tcp(SYN_ACK));
            bench.come(tuple, Signal::Tcp(ACK));
        }
    }
    for n in 0..20_000u16 {
        bench.now = bench.now.plus_ms(1);
        let tuple = ends(6, (1, 40_000), (u128::from(n) + 100, n));
        bench.order(tuple, Signal::Tcp(SYN), port(1), &commit(1));
        assert!(bench.zone.len() <= 200);
    }
    for opener in 1..=3 {
        for n in 0..20 {
            assert_eq!(
                bench.come(held(opener, n), Signal::Tcp(ACK)),
                ESTABLISHED,
                "{opener} {n}"
            );
        }
    }
    assert!(bench.zone.is_sound());
}

#[test]
fn a_peer_with_many_macs_pushes_out_none_of_a_ports_connections() {
    let limits = TrackLimits {
        connections: 100,
        per_opener: 50,
    };
    let mut bench = Bench::with(limits);
    let held = |n: u16| ends(17, (1, 1000 + n), (2, 53));
    for n in 0..40 {
        bench.order(held(n), Signal::Data, port(1), &commit(1));
    }
    for n in 0..5000u16 {
        let [hi, lo] = n.to_be_bytes();
        let opener = Opener::of(Origin::Peer(NodeId([8; 32])), MacAddr([2, 0, 0, 0, hi, lo]));
        let tuple = ends(17, (5000 + u128::from(n), 1), (2, 53));
        bench.order(tuple, Signal::Data, opener, &commit(1));
        assert!(bench.zone.len() <= 100 && bench.zone.is_sound());
    }
    for n in 0..40 {
        assert_eq!(
            bench.come(held(n).reversed(), Signal::Data),
            ESTABLISHED.with(REPLY)
        );
    }
}

fn subject_of(frame: &[u8]) -> Subject {
    let frame = Frame::parse(frame).unwrap();
    frame.subject(&frame.flow_key(Vni::new(7).unwrap()))
}

/// UDP from 10.0.0.1:4000 to 10.0.0.2:53, from its IP header on.
fn quoted() -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .udp(4000, 53)
        .write(&mut packet, &[0; 40])
        .unwrap();
    packet
}

fn asked() -> Tuple {
    ends(17, (1, 4000), (2, 53))
}

fn unreachable(quote: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 0, 0, 2], [10, 0, 0, 1], 64)
        .icmpv4_raw(3, 3, [0; 4])
        .write(&mut frame, quote)
        .unwrap();
    frame
}

#[test]
fn an_icmp_error_is_about_the_packet_that_it_quotes_if_only_by_eight_bytes_of_its_layer_4() {
    let about = Subject::Error {
        about: asked(),
        to: asked().src_ip,
    };
    assert_eq!(subject_of(&unreachable(&quoted())), about);
    assert_eq!(subject_of(&unreachable(&quoted()[..28])), about);
    assert_eq!(subject_of(&unreachable(&quoted()[..22])), Subject::Broken);
    let mut later = quoted();
    later[7] = 1;
    assert_eq!(subject_of(&unreachable(&later)), Subject::Broken);
    let (a, b) = ([0xfd; 16], [0xfe; 16]);
    let mut six = Vec::new();
    PacketBuilder::ipv6(a, b, 64)
        .udp(4000, 53)
        .write(&mut six, &[])
        .unwrap();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv6(b, a, 64)
        .icmpv6_raw(2, 0, [0; 4])
        .write(&mut frame, &six)
        .unwrap();
    let (src_ip, dst_ip) = (u128::from_be_bytes(a), u128::from_be_bytes(b));
    let about = Tuple {
        src_ip,
        dst_ip,
        ..asked()
    };
    assert_eq!(subject_of(&frame), Subject::Error { about, to: src_ip });
}

#[test]
fn a_later_fragment_is_looked_up_nowhere_and_a_first_one_is() {
    let frame = |fragment: u16| {
        let mut frame = [&[2; 12][..], &[8, 0], &quoted()].concat();
        frame[20..22].copy_from_slice(&fragment.to_be_bytes());
        subject_of(&frame)
    };
    assert_eq!(frame(0x2000), Subject::Packet(asked(), Signal::Data));
    assert_eq!(frame(0x0010), Subject::None);
}

#[test]
fn an_echo_is_told_by_its_identifier_and_asking_back_by_the_same_is_no_answer() {
    let echo = |reply: bool| {
        let mut frame = Vec::new();
        let builder =
            PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9);
        let builder = if reply {
            builder.icmpv4_echo_reply(77, 1)
        } else {
            builder.icmpv4_echo_request(77, 1)
        };
        builder.write(&mut frame, &[]).unwrap();
        subject_of(&frame)
    };
    let asked = ends(1, (1, 77), (2, 0));
    assert_eq!(echo(false), Subject::Packet(asked, Signal::Data));
    let answer = ends(1, (1, 0), (2, 77));
    assert_eq!(echo(true), Subject::Packet(answer, Signal::EchoReply));
    let mut bench = Bench::new();
    bench.pass(asked, Signal::Data);
    let back = ends(1, (2, 77), (1, 0));
    assert_eq!(bench.come(back, Signal::Data), NEW);
    assert_eq!(bench.come(asked, Signal::Data), NEW, "nobody answered");
    let answer = asked.reversed();
    assert_eq!(
        bench.come(answer, Signal::EchoReply),
        ESTABLISHED.with(REPLY)
    );
}

#[test]
fn a_frame_that_is_refused_changes_nothing_of_the_connection_it_claims() {
    let (mut bench, out) = (Bench::new(), tcp(4000, 80));
    bench.pass(out, Signal::Tcp(SYN));
    bench.come(out.reversed(), Signal::Tcp(SYN_ACK));
    bench.come(out, Signal::Tcp(ACK));
    let before = bench.state(out);
    // Somebody else's, who has the addresses and not the port: the switch refuses it after the look.
    let reset = Subject::tcp(out.reversed(), RST);
    let mut lane = Seen::new(9);
    let _ = bench.zone.look(&mut lane, &reset, bench.now);
    assert_eq!(bench.state(out), before);
    assert_eq!(bench.come(out, Signal::Tcp(ACK)), ESTABLISHED);
    bench.zone.pass(&mut lane, &reset, bench.now);
    assert_ne!(bench.state(out), before, "that of the other end does");
}

#[test]
fn a_header_that_is_cut_off_is_broken() {
    let mut cut = [&[2; 12][..], &[8, 0], &quoted()[..24]].concat();
    cut[16..18].copy_from_slice(&24u16.to_be_bytes());
    assert_eq!(subject_of(&cut), Subject::Broken);
}

/// The same by the rules alone: a list without bounds, without a cache, and without a shared word.
#[derive(Default)]
struct Naive {
    list: Vec<NaiveConn>,
    since: u64,
}

struct NaiveConn {
    tuple: Tuple,
    /// Each frame since it was entered, with whether it was a reply.
    story: Vec<(Signal, bool)>,
    last: u64,
    epoch: u64,
    mark: u32,
}

impl NaiveConn {
    fn replied(&self) -> bool {
        self.story.iter().any(|(_, reply)| *reply)
    }

    fn flags(&self, reply: Option<bool>) -> impl DoubleEndedIterator<Item = u16> + '_ {
        self.story
            .iter()
            .filter_map(move |(signal, way)| match signal {
                Signal::Tcp(flags) if reply.is_none_or(|reply| reply == *way) => Some(*flags),
                _ => None,
            })
    }

    fn both_fins(&self) -> bool {
        [false, true].iter().all(|way| {
            self.flags(Some(*way))
                .any(|f| f & (flag::FIN | RST | SYN) == flag::FIN)
        })
    }

    fn over(&self) -> bool {
        // What ended it last: a reset that nobody talked past.
        let last = self.flags(None).rfind(|f| f & SYN == 0);
        match last {
            Some(flags) if flags & RST != 0 => true,
            Some(_) => self.both_fins(),
            None => false,
        }
    }

    fn lives(&self, ms: u64) -> bool {
        let mut life = Life::born(self.story[0].0);
        for (signal, reply) in &self.story[1..] {
            life = life.after(*signal, *reply);
        }
        assert_eq!(life.replied, self.replied());
        assert_eq!(life.state.is_over(), self.over(), "{:?}", self.story);
        ms - self.last < life.idle_ms()
    }
}

impl Naive {
    fn find(&self, tuple: Tuple, signal: Signal, ms: u64) -> Option<(usize, bool)> {
        let at =
            (self.list.iter()).position(|c| c.tuple == tuple || c.tuple == tuple.reversed())?;
        let conn = &self.list[at];
        let fresh = conn.over() && signal.is_syn();
        (conn.lives(ms) && !fresh).then_some((at, conn.tuple != tuple))
    }

    fn look(&mut self, tuple: Tuple, signal: Signal, ms: u64) -> Tracked {
        let Some((at, reply)) = self.find(tuple, signal, ms) else {
            let state = if signal.opens() { NEW } else { INVALID };
            return Tracked { state, mark: 0 };
        };
        let conn = &mut self.list[at];
        conn.story.push((signal, reply));
        conn.last = ms;
        let known = conn.replied() && conn.epoch >= self.since;
        let state = if known { ESTABLISHED } else { NEW };
        Tracked {
            state: if reply { state.with(REPLY) } else { state },
            mark: conn.mark,
        }
    }

    fn order(&mut self, tuple: Tuple, signal: Signal, order: &Order, ms: u64) {
        if let Some((at, _)) = self.find(tuple, signal, ms) {
            let conn = &mut self.list[at];
            conn.mark = order.mark.unwrap_or(conn.mark);
            if order.commit {
                conn.epoch = conn.epoch.max(order.epoch.0);
            }
        } else if order.commit && signal.opens() {
            self.list
                .retain(|c| c.tuple != tuple && c.tuple != tuple.reversed());
            self.list.push(NaiveConn {
                tuple,
                story: vec![(signal, false)],
                last: ms,
                epoch: order.epoch.0,
                mark: order.mark.unwrap_or(0),
            });
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Frame {
        tuple: Tuple,
        signal: Signal,
        lane: usize,
        order: Option<(bool, Option<u32>)>,
        late: bool,
    },
    Wait(u64),
    Chain,
}

fn any_tuple() -> impl Strategy<Value = Tuple> {
    // Few enough that frames meet again.
    (0..4u8, 0..2u128, 0..1u128, 0..1u16, 0..2u16).prop_map(|(proto, a, b, p, q)| {
        let proto = [6, 6, 17, 1][usize::from(proto)];
        // The ends of a connection differ.
        ends(proto, (a, p), (b + 3, q))
    })
}

fn any_act() -> impl Strategy<Value = Act> {
    let flags = prop_oneof![
        Just(SYN),
        Just(SYN_ACK),
        Just(ACK),
        Just(ACK | 8),
        Just(FIN),
        Just(RST),
        Just(RST | ACK)
    ];
    let order = proptest::option::weighted(0.7, (any::<bool>(), proptest::option::of(0..3u32)));
    let frame = (
        any_tuple(),
        any::<bool>(),
        flags,
        any::<bool>(),
        0..2usize,
        order,
        proptest::bool::weighted(0.1),
    )
        .prop_map(|(tuple, back, flags, echo, lane, order, late)| {
            let signal = match tuple.proto {
                6 => Signal::Tcp(flags),
                1 if echo => Signal::EchoReply,
                _ => Signal::Data,
            };
            let tuple = if back { tuple.reversed() } else { tuple };
            Act::Frame {
                tuple,
                signal,
                lane,
                order,
                late,
            }
        });
    prop_oneof![
        20 => frame,
        2 => prop_oneof![0..2000u64, 5_000..70_000u64, 100_000..400_000u64].prop_map(Act::Wait),
        1 => Just(Act::Chain),
    ]
}

proptest! {
    #[test]
    fn any_frames_fare_as_by_a_list_without_bounds_or_cache(acts in proptest::collection::vec(any_act(), 1..200)) {
        let (zone, mut lanes) = (Zone::new(TrackLimits::default(), vni(7), Epoch(0), 7), [Seen::new(1), Seen::new(2)]);
        let (mut naive, mut ms, mut epoch) = (Naive::default(), 1_000_000u64, 0u64);
        for act in acts {
            match act {
                Act::Wait(more) => ms += more,
                Act::Chain => {
                    epoch += 1;
                    zone.decide_anew(Epoch(epoch));
                    naive.since = epoch;
                }
                Act::Frame { tuple, signal, lane, order, late } => {
                    let (subject, now) = (Subject::Packet(tuple, signal), Moment(0).plus_ms(ms));
                    let peeked = zone.peek(&subject, now);
                    let looked = zone.look(&mut lanes[lane], &subject, now);
                    prop_assert_eq!(zone.look(&mut lanes[lane], &subject, now), looked, "it is not counted yet");
                    zone.pass(&mut lanes[lane], &subject, now);
                    prop_assert_eq!(looked, naive.look(tuple, signal, ms));
                    prop_assert_eq!(peeked, looked);
                    if let Some((commit, mark)) = order {
                        let epoch = Epoch(epoch.saturating_sub(u64::from(late)));
                        let order = Order { commit, mark, epoch, why: String::new() };
                        zone.order(&mut lanes[lane], &subject, port(1), &order, now);
                        naive.order(tuple, signal, &order, ms);
                    }
                }
            }
        }
        let now = Moment(0).plus_ms(ms);
        prop_assert!(zone.is_sound());
        let live = naive.list.iter().filter(|c| c.lives(ms)).count();
        prop_assert_eq!(zone.rows(usize::MAX, now).len(), live);
    }

    #[test]
    fn no_sequence_of_frames_exceeds_the_bounds_or_takes_a_small_holders_connection(
        frames in proptest::collection::vec((0..4u32, 0..2000u16, any::<bool>()), 1..600),
    ) {
        let limits = TrackLimits { connections: 40, per_opener: 25 };
        let mut bench = Bench::with(limits);
        // Port 9 holds ten, which is less than a fifth of the table for each of five.
        let held = |n: u16| ends(17, (99, n), (98, 53));
        for n in 0..8 {
            bench.order(held(n), Signal::Data, port(9), &commit(1));
        }
        for (opener, n, answered) in frames {
            let tuple = ends(17, (u128::from(opener), n), (50, 53));
            bench.order(tuple, Signal::Data, port(opener), &commit(1));
            if answered {
                bench.come(tuple.reversed(), Signal::Data);
            }
            prop_assert!(bench.zone.len() <= 40);
            prop_assert!(bench.zone.is_sound());
        }
        for n in 0..8 {
            prop_assert_eq!(bench.come(held(n).reversed(), Signal::Data), ESTABLISHED.with(REPLY));
        }
    }

    #[test]
    fn any_bytes_are_some_subject(bytes in proptest::collection::vec(any::<u8>(), 14..120), v6 in any::<bool>(), kind in 0..16u8) {
        let mut bytes = bytes;
        let l3: &[u8] = if v6 { &[0x86, 0xdd, 0x60] } else { &[8, 0, 0x45] };
        bytes.splice(12..14, l3.iter().copied());
        for at in [23, 20] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = if v6 { 58 } else { 1 };
            }
        }
        if let Some(byte) = bytes.get_mut(if v6 { 54 } else { 34 }) {
            *byte = kind;
        }
        let frame = Frame::parse(&bytes).unwrap();
        let key = frame.flow_key(Vni::new(7).unwrap());
        let mut bench = Bench::new();
        let subject = frame.subject(&key);
        let looked = bench.zone.look(&mut bench.seen, &subject, bench.now);
        prop_assert_eq!(looked.state == CtState::UNTRACKED, subject == Subject::None);
    }
}
