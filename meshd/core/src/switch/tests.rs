#![allow(clippy::unwrap_used)]
//! Claims about the switch, one network at a time: who gets a frame, who does not, and why.

use super::*;
use crate::conntrack::CtState;
use crate::dues::{Dues, Meter, Rate};
use crate::edit::Edit;
use crate::fdb::{AGE_MS, HOLD_MS};
use crate::flow::Fields;
use crate::frame::tests::{arp, udp, v6};
use crate::group::{Bucket, BucketTarget, Group, GroupKind};
use crate::offload::Plane;
use crate::policy::{FloodSet, Mirror, MirrorPlace, Orders, Part, Punt, Redirect, Verdict};
use crate::ruling::{Copied, Output as To};
use proptest::prelude::*;
use std::net::Ipv6Addr;
use std::sync::Arc;

const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);
/// On node 8.
const R: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x8f]);
const SERVICE: MacAddr = MacAddr([2, 0x6d, 0x64, 0, 0, 7]);
/// Nobody's.
const X: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x77]);
const MULTICAST: MacAddr = MacAddr([1, 0, 0x5e, 0, 0, 5]);
const PA: PortId = PortId(1);
const PB: PortId = PortId(2);
const PS: PortId = PortId(3);
const N8: NodeId = NodeId([8; 32]);
const N9: NodeId = NodeId([9; 32]);
const FROM_A: Origin = Origin::Port(PA);
const FROM_8: Origin = Origin::Peer(N8);

fn vni() -> Vni {
    Vni::new(7).unwrap()
}

fn at(ms: u64) -> Moment {
    Moment(0).plus_ms(ms)
}

/// Ports 1 and 2 (A, B) and the service on a network that nodes 8 (with R) and 9 have too.
struct Bench {
    switch: Switch,
    out: Outbox,
    now: Moment,
    upcalls: u64,
    /// Of the frames that come.
    ct: Tracked,
}

fn remote(node: NodeId, mac: MacAddr, last: u8) -> RemoteEndpoint {
    RemoteEndpoint {
        node,
        mac,
        ips: vec![IpAddr::from([10, 0, 0, last])],
        shared: Vec::new(),
        roams: None,
        router: false,
    }
}

impl Bench {
    fn new() -> Self {
        Self::with(SwitchLimits::default())
    }

    fn with(limits: SwitchLimits) -> Self {
        let (mut switch, mut out) = (Switch::new(limits, Epoch(0), 7), Outbox::default());
        switch.set_network(vni(), 1450, &mut out);
        for (port, mac, last, service) in [
            (PA, A, 11, false),
            (PB, B, 12, false),
            (PS, SERVICE, 1, true),
        ] {
            let face = PortFace {
                port,
                vni: vni(),
                mac,
                ips: vec![IpAddr::from([10, 0, 0, last])],
                service,
                foreign: None,
                since: Moment(0),
                router: false,
                monitor: false,
                uplink: None,
            };
            switch.add_port(face, at(0), &mut out).unwrap();
        }
        switch.set_members(vni(), BTreeSet::from([N8, N9]), &mut out);
        switch.set_remote(vni(), &[remote(N8, R, 18)], &mut out);
        let mut bench = Self {
            switch,
            out,
            now: at(0),
            upcalls: 0,
            ct: Tracked::default(),
        };
        bench.drain();
        bench
    }

    fn drain(&mut self) -> Vec<Out> {
        std::iter::from_fn(|| self.out.pop()).collect()
    }

    fn upcall(&mut self, origin: Origin, frame: &[u8]) -> Vec<Out> {
        self.upcalls += 1;
        self.switch.upcall(
            origin,
            UpcallId(self.upcalls),
            (vni(), self.ct),
            &Bytes::copy_from_slice(frame),
            self.now,
            &mut self.out,
        );
        self.drain()
    }

    /// The ruling on a frame that needs no policy.
    fn rule(&mut self, origin: Origin, frame: &[u8]) -> Ruling {
        ruling(&self.upcall(origin, frame)).unwrap()
    }

    fn drops(&mut self, origin: Origin, frame: &[u8]) -> DropReason {
        match self.rule(origin, frame).action {
            Action::Drop(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    fn receivers(&mut self, origin: Origin, frame: &[u8]) -> Vec<To> {
        match self.rule(origin, frame).action {
            Action::Forward(to) => to.to_vec(),
            other => panic!("{other:?}, {:?}", self.switch.drops()),
        }
    }

    fn answer(&mut self, asked: &[Out], answer: Answer) -> Vec<Out> {
        let (query, epoch, _) = question(asked).expect("a question");
        self.switch
            .answer(query, epoch, answer.into(), self.now, &mut self.out);
        self.drain()
    }
}

fn ruling(outputs: &[Out]) -> Option<Ruling> {
    outputs.iter().find_map(|o| {
        if let Out::Ruling { ruling, .. } = o {
            Some(ruling.clone())
        } else {
            None
        }
    })
}

fn question(outputs: &[Out]) -> Option<(QueryId, Epoch, Question)> {
    outputs.iter().find_map(|o| {
        if let Out::Ask {
            query,
            epoch,
            question,
        } = o
        {
            Some((*query, *epoch, question.clone()))
        } else {
            None
        }
    })
}

fn pass() -> Answer {
    let mask = FlowMask {
        dst_port: 0xffff,
        ..FlowMask::default()
    };
    Answer {
        mask,
        why: "acl: pass".into(),
        ..Answer::of(Verdict::Pass)
    }
}

fn deny() -> Answer {
    Answer {
        verdict: Verdict::Drop,
        why: "acl: udp/53".into(),
        ..pass()
    }
}

fn ip(dst: MacAddr, src: MacAddr) -> Vec<u8> {
    udp(dst, src, [10, 0, 0, 11], [10, 0, 0, 12], 53, 8)
}

fn broadcast(src: MacAddr) -> Vec<u8> {
    ip(MacAddr::BROADCAST, src)
}

fn with_orders(orders: Orders) -> Answer {
    Answer { orders, ..pass() }
}

fn injected(outputs: &[Out]) -> Vec<(To, Vec<u8>)> {
    let frames = outputs.iter().filter_map(|output| match output {
        Out::Inject { to, frame, .. } => Some((*to, frame.to_vec())),
        _ => None,
    });
    frames.collect()
}

mod connections;
mod epoch;
mod forwarding;
mod guarded;
mod learning;
mod listeners;
mod neighbors;
mod orders;
mod policy;
mod refusals;
mod tracing;
