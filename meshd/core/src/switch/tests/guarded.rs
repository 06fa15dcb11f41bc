//! What the guards must see each time: no megaflow hides it from them.

use super::*;
use crate::kind::UplinkSpec;

const PU: PortId = PortId(7);
const FROM_U: Origin = Origin::Port(PU);

fn with_uplink() -> Bench {
    let mut bench = Bench::new();
    let face = PortFace {
        port: PU,
        vni: vni(),
        mac: MacAddr::default(),
        ips: vec![],
        service: false,
        foreign: None,
        since: Moment(0),
        router: false,
        monitor: false,
        uplink: Some(UplinkSpec::default()),
    };
    bench.switch.add_port(face, at(0), &mut bench.out).unwrap();
    bench
}

fn bpdu(dst: [u8; 6]) -> Vec<u8> {
    [&dst[..], &X.0, &[0, 38, 0x42, 0x42, 3], &[0; 35]].concat()
}

#[test]
fn each_bpdu_of_an_uplink_is_asked_about_also_while_it_is_blocked() {
    let mut bench = with_uplink();
    for blocked in [false, true] {
        let out = &mut bench.out;
        bench.switch.set_blocked(vni(), PU, blocked, out);
        for dst in [
            [1, 0x80, 0xc2, 0, 0, 0],
            [1, 0x80, 0xc2, 0, 0, 14],
            [1, 0, 0x0c, 0xcc, 0xcc, 0xcd],
        ] {
            for _ in 0..3 {
                let ruling = bench.rule(FROM_U, &bpdu(dst));
                assert!(matches!(ruling.action, Action::Drop(_)), "{ruling:?}");
                assert!(ruling.cache.is_none(), "{dst:x?}: {ruling:?}");
            }
        }
    }
    // Of a container they are nobody's business, and cost one upcall.
    let ruling = bench.rule(
        FROM_A,
        &[
            &bpdu([1, 0x80, 0xc2, 0, 0, 0])[..6],
            &A.0,
            &bpdu([0; 6])[12..],
        ]
        .concat(),
    );
    assert!(ruling.cache.is_some(), "{ruling:?}");
}
