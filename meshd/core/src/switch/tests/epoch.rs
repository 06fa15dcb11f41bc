//! When old rulings end.

use super::*;

#[test]
fn the_epoch_grows_only_when_an_old_ruling_may_be_wrong() {
    let mut bench = Bench::new();
    let start = bench.switch.epoch();
    bench.rule(FROM_A, &ip(B, A));
    bench.rule(FROM_A, &broadcast(X));
    bench.switch.set_network(vni(), 1450, &mut bench.out);
    bench
        .switch
        .set_members(vni(), BTreeSet::from([N8, N9]), &mut bench.out);
    let more = MacAddr([2, 9, 9, 9, 9, 9]);
    bench.switch.set_remote(
        vni(),
        &[remote(N8, R, 18), remote(N8, more, 20)],
        &mut bench.out,
    );
    assert_eq!(
        bench.switch.epoch(),
        start,
        "new MACs that nobody asked for change no ruling"
    );
    bench.switch.set_remote(
        vni(),
        &[remote(N8, R, 18), remote(N9, more, 20)],
        &mut bench.out,
    );
    assert_eq!(bench.switch.epoch().0, start.0 + 1, "a MAC on another node");
    bench
        .switch
        .set_remote(vni(), &[remote(N8, R, 18)], &mut bench.out);
    assert_eq!(bench.switch.epoch().0, start.0 + 2, "a MAC withdrawn");
    bench
        .switch
        .set_members(vni(), BTreeSet::from([N8]), &mut bench.out);
    assert_eq!(bench.switch.epoch().0, start.0 + 3, "a peer gone");
    let epochs: Vec<Epoch> = bench
        .drain()
        .iter()
        .filter_map(|o| {
            if let Out::Epoch(e) = o {
                Some(*e)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(epochs.last(), Some(&bench.switch.epoch()));
}

#[test]
fn more_unknown_macs_than_can_be_remembered_cost_epochs_not_wrong_rulings() {
    let mut bench = Bench::with(SwitchLimits {
        unknown: 2,
        ..SwitchLimits::default()
    });
    for last in 0..5 {
        bench.rule(FROM_A, &ip(MacAddr([2, 5, 0, 0, 0, last]), A));
    }
    let before = bench.switch.epoch();
    bench.switch.set_remote(
        vni(),
        &[
            remote(N8, R, 18),
            remote(N9, MacAddr([2, 5, 0, 0, 0, 4]), 20),
        ],
        &mut bench.out,
    );
    assert!(bench.switch.epoch() > before);
}

#[test]
fn two_ports_cannot_have_one_mac() {
    let mut bench = Bench::new();
    let face = PortFace {
        port: PortId(5),
        vni: vni(),
        mac: A,
        ips: vec![],
        service: false,
        foreign: None,
        since: Moment(0),
        router: false,
        monitor: false,
        uplink: None,
    };
    let error = bench
        .switch
        .add_port(face.clone(), at(0), &mut bench.out)
        .unwrap_err();
    assert_eq!(
        error,
        AddPortError::MacTaken {
            port: PortId(5),
            mac: A,
            holder: PA
        }
    );
    let elsewhere = PortFace {
        vni: Vni::new(99).unwrap(),
        ..face
    };
    assert!(matches!(
        bench.switch.add_port(elsewhere, at(0), &mut bench.out),
        Err(AddPortError::UnknownVni { .. })
    ));
}
