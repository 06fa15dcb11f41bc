//! Bridges of others: kept and waited for, and of one network each.

use super::*;
use crate::kind::UplinkSpec;

fn bridge(network: &str, name: &[u8]) -> AttachSpec {
    AttachSpec {
        ifname: IfName::new(name).unwrap(),
        ip: IpSpec::None,
        kind: PortKind::Bridge(UplinkSpec::default()),
        ..spec(network, "/proc/self/ns/net")
    }
}

fn fails(lab: &mut Lab, id: PortId) {
    let reason = (
        ErrorCode::KernelRefused,
        "there is no bridge yet".to_owned(),
    );
    let (now, pools, out) = (lab.now, &mut lab.pools, &mut lab.out);
    lab.ports.wire_failed(id, reason, false, now, pools, out);
}

fn state(lab: &Lab) -> Option<(PortState, Option<String>)> {
    let (_, state, why) = lab.ports.iter().next()?;
    Some((state, why.map(str::to_owned)))
}

#[test]
fn a_bridge_that_was_never_there_is_waited_for_and_tried_when_it_appears() {
    let mut lab = Lab::new(ME);
    lab.attach(bridge("bare", b"br\xff"));
    let wiring = wire_of(&lab.outputs()).unwrap();
    let id = wiring.port.id;
    fails(&mut lab, id);
    let made = reply_port(&lab.outputs()).unwrap();
    assert!(!made.ready, "it is made, and not ready");
    assert_eq!(state(&lab).unwrap().0, PortState::Failed);
    // The same wish again is answered at once, with the same port.
    lab.attach(bridge("bare", b"br\xff"));
    assert_eq!(reply_port(&lab.outputs()).unwrap().id, id);
    // Also by the next run of the daemon.
    let mut lab = lab.restarted();
    assert_eq!(wire_of(&lab.outputs()).unwrap().port.id, id);
    fails(&mut lab, id);
    lab.outputs();
    let (now, pools, out) = (lab.now, &mut lab.pools, &mut lab.out);
    lab.ports.appeared(id, &lab.around, pools, now, out);
    let wiring = wire_of(&lab.outputs()).unwrap();
    lab.wired(&wiring.port);
    assert_eq!(state(&lab).unwrap().0, PortState::Ready);
    // What appears while all is well changes nothing.
    lab.outputs();
    let (now, pools, out) = (lab.now, &mut lab.pools, &mut lab.out);
    lab.ports.appeared(id, &lab.around, pools, now, out);
    assert!(wire_of(&lab.outputs()).is_none());
}

#[test]
fn what_is_waited_for_is_told_once_until_the_reason_is_another() {
    let mut lab = Lab::new(ME);
    lab.attach(bridge("bare", b"br0"));
    let wiring = wire_of(&lab.outputs()).unwrap();
    let id = wiring.port.id;
    let told = |lab: &mut Lab, reason: &str| {
        let (now, pools, out) = (lab.now, &mut lab.pools, &mut lab.out);
        lab.ports.wire_failed(
            id,
            (ErrorCode::KernelRefused, reason.to_owned()),
            false,
            now,
            pools,
            out,
        );
        let failed = |o: &Output| matches!(o, Output::Notice(Notice::PortFailed { .. }));
        let times = lab.outputs().iter().filter(|o| failed(o)).count();
        lab.later();
        times
    };
    let no_bridge = ["there is no bridge yet"; 4].map(|reason| told(&mut lab, reason));
    assert_eq!(no_bridge, [1, 0, 0, 0]);
    assert_eq!(told(&mut lab, "its MTU is too small"), 1);
    assert_eq!(told(&mut lab, "there is no bridge yet"), 1);
    // Once it was there, its loss is news.
    lab.wired(&wiring.port);
    assert_eq!(state(&lab).unwrap().0, PortState::Ready);
    assert_eq!(told(&mut lab, "there is no bridge yet"), 1);
}

#[test]
fn a_bridge_is_of_one_network_and_has_no_vlan_and_no_addresses() {
    let mut lab = Lab::new(ME);
    lab.up(bridge("bare", b"br0"));
    let refused = lab.refused(bridge("blue", b"br0"));
    assert_eq!(refused.kind(), RefusalKind::Conflict);
    assert!(
        refused
            .message
            .contains("bridge br0 is that of network bare"),
        "{refused}"
    );
    let vlan = PortKind::Bridge(UplinkSpec {
        vlan: Some(5),
        ..UplinkSpec::default()
    });
    let tagged = AttachSpec {
        kind: vlan,
        ..bridge("blue", b"br1")
    };
    assert_eq!(lab.refused(tagged).kind(), RefusalKind::Invalid);
    let addressed = AttachSpec {
        ip: IpSpec::Fixed(vec!["10.0.0.3/29".parse().unwrap()]),
        ..bridge("blue", b"br1")
    };
    let refused = lab.refused(addressed);
    assert!(refused.message.contains("no endpoint"), "{refused}");
}
