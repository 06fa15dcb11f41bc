//! Claims about a lane at work.

use super::*;
use crate::clock::Clock;
use crate::datapath::capture::Captures;
use crate::punts::Punts;
use arc_swap::ArcSwap;
use meshd_core::flow::FlowMask;
use meshd_core::ident::{NodeId, PortId};
use meshd_core::ruling::{Action, Megaflow};
use meshd_core::steering::{BUCKETS, Choice, GAP_MS, Live, Order, WayId};
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::watch;

fn framed(vni: Vni) -> Bytes {
    let mut framed = BytesMut::new();
    datagram::Header::Whole { vni }.encode_into(&mut framed);
    framed.extend_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    framed.extend_from_slice(&[0; 46]);
    framed.freeze()
}

#[test]
fn a_flow_does_not_change_its_way_within_a_batch_however_long_the_thread_stood_still() {
    let (inputs, mut asked) = mpsc::channel(8);
    let (_keep, from_driver) = mpsc::channel(8);
    let clock = Clock::start();
    let shared = Arc::new(Shared {
        epoch: AtomicU64::new(1),
        zones: ArcSwap::default(),
        outlets: ArcSwap::default(),
        inputs,
        clock,
        limits: LaneLimits::default(),
        captures: Arc::<Captures>::default(),
        punts: Punts::default(),
        begun: watch::Sender::new(true),
    });
    let (mut task, _from_driver) = LaneTask::new(Start {
        origin: Origin::Port(PortId(1)),
        shared,
        limits: LaneLimits::default(),
        from_driver,
        report: Arc::default(),
        seed: 1,
        purse: Purse::default(),
    });
    let vni = Vni::new(7).unwrap();
    let [first, second] = [2, 3].map(|number| WayId::new(number).unwrap());
    let live = Arc::new(Live::default());
    live.set([first, second].into_iter().collect(), None);
    let order = |ranked: [WayId; 2]| Order::of(ranked.to_vec());
    let choice = Arc::new(Choice::new(Arc::clone(&live), &order([first, second])));

    task.frame(vni, &framed(vni));
    let Ok(Input::Upcall { upcall, .. }) = asked.try_recv() else {
        panic!("the node is asked");
    };
    let frame = framed(vni);
    let key = Frame::parse(&frame[datagram::WHOLE_LEN..])
        .unwrap()
        .flow_key(vni);
    let peer = Output::Peer(NodeId([9; 32]));
    let ruling = Ruling {
        ways: Some(Arc::clone(&choice)),
        cache: Some(Megaflow {
            key,
            mask: FlowMask::exact(),
            epoch: Epoch(1),
            until: None,
            idle_ms: None,
        }),
        ..Ruling::of(Action::Forward(Arc::new([peer])))
    };
    task.told(ToLane::Ruling(upcall, Box::new(ruling)));
    // What has begun nothing takes the wanted way: the flow's bucket is the one that stays with another.
    let on_first = |at: Moment| {
        (0..BUCKETS as u64)
            .filter(|&bucket| choice.pick(bucket, at) == Some(first))
            .count()
    };
    choice.set(&order([second, first]));
    std::thread::sleep(Duration::from_millis(u64::from(GAP_MS) + 10));
    task.frame(vni, &framed(vni));
    // Its last frame was of the moment at which the batch began.
    let began = task.now.unwrap();
    assert!(clock.moment().ms_since(began) >= u64::from(GAP_MS));
    assert_eq!(on_first(began), 1);
    task.batch_done();
    task.frame(vni, &framed(vni));
    assert_eq!(on_first(clock.moment()), 0);
    assert_eq!(task.lane.counters().frames, 3);
}
