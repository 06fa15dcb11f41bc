use super::*;
use proptest::prelude::*;

fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

fn vtep(n: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, n])
}

/// A kernel that does as it is told, and refuses what a real one would.
fn apply(scene: &mut NetworkScene, step: &Step) {
    match step.clone() {
        Step::Unbridge { mac, behind } => match behind {
            Behind::Port(port) => assert!(scene.ports.get_mut(&port).unwrap().remove(&mac)),
            Behind::Vxlan => assert!(scene.vxlan.as_mut().unwrap().bridged.remove(&mac)),
        },
        Step::Unlearn { mac } => assert!(scene.vxlan.as_mut().unwrap().fdb.remove(&mac).is_some()),
        Step::Unflood { vtep } => assert!(scene.vxlan.as_mut().unwrap().floods.remove(&vtep)),
        Step::RemoveVxlan => assert!(scene.vxlan.take().is_some()),
        Step::Leave { port } => assert!(scene.ports.remove(&port).is_some()),
        Step::RemoveBridge => {
            assert!(scene.bridge.take().is_some());
            scene.ports.clear();
            if let Some(vxlan) = &mut scene.vxlan {
                vxlan.ready = false;
                vxlan.bridged.clear();
            }
        }
        Step::Bar { vteps, whole } => {
            assert!(!whole || scene.vxlan.is_none(), "a device without a fence");
            let fence = scene.fence.as_mut().unwrap();
            assert!(vteps.iter().all(|vtep| fence.remove(vtep)));
            if whole {
                scene.fence = None;
            }
        }
        Step::Admit { vteps } => scene.fence.get_or_insert_default().extend(vteps),
        Step::MakeBridge { mtu } => {
            if scene.bridge.is_none() {
                scene.ports.clear();
                if let Some(vxlan) = &mut scene.vxlan {
                    vxlan.ready = false;
                    vxlan.bridged.clear();
                }
            }
            scene.bridge = Some(mtu);
        }
        Step::MakeVxlan { local, port, mtu } => {
            assert!(
                scene.bridge.is_some() && scene.fence.is_some(),
                "fence first"
            );
            let vxlan = scene.vxlan.get_or_insert(VxlanScene {
                local,
                port,
                mtu,
                ready: true,
                fdb: BTreeMap::new(),
                floods: BTreeSet::new(),
                bridged: BTreeSet::new(),
            });
            assert_eq!((vxlan.local, vxlan.port), (local, port));
            (vxlan.ready, vxlan.mtu) = (true, mtu);
        }
        Step::Learn { mac, vtep } => {
            let vxlan = scene.vxlan.as_mut().unwrap();
            assert!(vxlan.ready);
            vxlan.fdb.insert(mac, vtep);
        }
        Step::Flood { vtep } => assert!(scene.vxlan.as_mut().unwrap().floods.insert(vtep)),
        Step::Join { port } => {
            assert!(scene.bridge.is_some());
            scene.ports.entry(port).or_default();
        }
        Step::Bridge { mac, behind } => {
            // One entry a MAC: an entry behind another device is replaced.
            for macs in scene.ports.values_mut() {
                macs.remove(&mac);
            }
            if let Some(vxlan) = &mut scene.vxlan {
                vxlan.bridged.remove(&mac);
            }
            match behind {
                Behind::Port(port) => assert!(scene.ports.get_mut(&port).unwrap().insert(mac)),
                Behind::Vxlan => {
                    let vxlan = scene.vxlan.as_mut().unwrap();
                    assert!(vxlan.fdb.contains_key(&mac), "bridged before learned");
                    vxlan.bridged.insert(mac);
                }
            }
        }
    }
}

/// Each MAC in one place only, as bridges have it.
fn alone(mut scene: NetworkScene) -> NetworkScene {
    let mut seen = BTreeSet::new();
    for macs in scene.ports.values_mut() {
        macs.retain(|mac| seen.insert(*mac));
    }
    if let Some(vxlan) = &mut scene.vxlan {
        vxlan
            .bridged
            .retain(|mac| seen.insert(*mac) && vxlan.fdb.contains_key(mac));
    }
    if scene.bridge.is_none() {
        scene.ports.clear();
        if let Some(vxlan) = &mut scene.vxlan {
            vxlan.bridged.clear();
            vxlan.ready = false;
        }
    }
    if scene.vxlan.is_some() && scene.fence.is_none() {
        scene.fence = Some(BTreeSet::new());
    }
    scene
}

fn macs() -> impl Strategy<Value = BTreeSet<MacAddr>> {
    prop::collection::btree_set((1u8..12).prop_map(mac), 0..4)
}

fn vteps() -> impl Strategy<Value = BTreeSet<IpAddr>> {
    prop::collection::btree_set((1u8..6).prop_map(vtep), 0..4)
}

fn ports() -> impl Strategy<Value = BTreeMap<PortId, BTreeSet<MacAddr>>> {
    prop::collection::btree_map((1u32..5).prop_map(PortId), macs(), 0..4)
}

fn fdb() -> impl Strategy<Value = BTreeMap<MacAddr, IpAddr>> {
    prop::collection::btree_map((1u8..12).prop_map(mac), (1u8..6).prop_map(vtep), 0..6)
}

fn mtu() -> impl Strategy<Value = u16> {
    prop_oneof![Just(1450u16), Just(9000)]
}

fn any_plan() -> impl Strategy<Value = NetworkPlan> {
    let vxlan = (
        1u8..3,
        prop_oneof![Just(4789u16), Just(4790)],
        fdb(),
        vteps(),
        vteps(),
    );
    (mtu(), ports(), prop::option::of(vxlan)).prop_map(|(mtu, ports, vxlan)| {
        let mut plan = NetworkPlan {
            mtu,
            ports,
            vxlan: vxlan.map(|(local, port, endpoints, floods, fence)| VxlanPlan {
                local: vtep(local),
                port,
                endpoints,
                probes: (100..103).map(|n| (mac(n), vtep(n))).collect(),
                floods,
                gateway: None,
                fence,
            }),
        };
        // As derived: what is here is not elsewhere, and a MAC is behind one port.
        let mut seen = BTreeSet::new();
        for macs in plan.ports.values_mut() {
            macs.retain(|mac| seen.insert(*mac));
        }
        if let Some(vxlan) = &mut plan.vxlan {
            vxlan.endpoints.retain(|mac, _| !seen.contains(mac));
        }
        plan
    })
}

fn any_scene() -> impl Strategy<Value = NetworkScene> {
    let vxlan = (
        1u8..3,
        prop_oneof![Just(4789u16), Just(4790)],
        mtu(),
        any::<bool>(),
        fdb(),
        vteps(),
        macs(),
    );
    (
        prop::option::of(mtu()),
        ports(),
        prop::option::of(vxlan),
        prop::option::of(vteps()),
    )
        .prop_map(|(bridge, ports, vxlan, fence)| {
            alone(NetworkScene {
                bridge,
                ports,
                vxlan: vxlan.map(
                    |(local, port, mtu, ready, fdb, floods, bridged)| VxlanScene {
                        local: vtep(local),
                        port,
                        mtu,
                        ready,
                        fdb,
                        floods,
                        bridged,
                    },
                ),
                fence,
            })
        })
}

proptest! {
    #[test]
    fn from_any_scene_the_steps_lead_to_the_plan_in_one_pass(
        mut scene in any_scene(),
        plan in prop::option::of(any_plan()),
    ) {
        for step in diff(&scene, plan.as_ref()) {
            apply(&mut scene, &step);
        }
        let wanted = plan.as_ref().map(NetworkPlan::scene).unwrap_or_default();
        prop_assert_eq!(&scene, &wanted);
        prop_assert_eq!(diff(&scene, plan.as_ref()), vec![]);
    }

    #[test]
    fn what_is_closed_is_closed_before_anything_opens_and_both_in_order(
        scene in any_scene(),
        plan in any_plan(),
    ) {
        let rank = |step: &Step| match step {
            Step::Unbridge { .. } => 0,
            Step::Unlearn { .. } => 1,
            Step::Unflood { .. } => 2,
            Step::RemoveVxlan => 3,
            Step::Leave { .. } => 4,
            Step::RemoveBridge => 5,
            Step::Bar { .. } => 6,
            Step::Admit { .. } => 7,
            Step::MakeBridge { .. } => 8,
            Step::MakeVxlan { .. } => 9,
            Step::Learn { .. } => 10,
            Step::Flood { .. } => 11,
            Step::Join { .. } => 12,
            Step::Bridge { .. } => 13,
        };
        let ranks: Vec<i32> = diff(&scene, Some(&plan)).iter().map(rank).collect();
        prop_assert!(ranks.is_sorted(), "{:?}", ranks);
    }

    #[test]
    fn what_is_right_already_is_not_touched(plan in any_plan()) {
        prop_assert_eq!(diff(&plan.scene(), Some(&plan)), vec![]);
    }
}

#[test]
fn a_mac_that_moves_to_another_node_is_replaced_and_never_absent() {
    let vxlan = |at: u8| VxlanPlan {
        local: vtep(1),
        port: 4789,
        endpoints: [(mac(1), vtep(at))].into(),
        probes: BTreeMap::new(),
        floods: BTreeSet::new(),
        gateway: None,
        fence: [vtep(2), vtep(3)].into(),
    };
    let plan = |at| NetworkPlan {
        mtu: 1450,
        ports: BTreeMap::new(),
        vxlan: Some(vxlan(at)),
    };
    assert_eq!(
        diff(&plan(2).scene(), Some(&plan(3))),
        [Step::Learn {
            mac: mac(1),
            vtep: vtep(3)
        }]
    );
}

#[test]
fn one_change_among_ten_thousand_endpoints_is_one_step() {
    let many = |n: u32| {
        MacAddr([
            2,
            1,
            (n >> 24) as u8,
            (n >> 16) as u8,
            (n >> 8) as u8,
            n as u8,
        ])
    };
    let at = |n: u32| IpAddr::from([10, 0, ((n % 500) >> 8) as u8, (n % 500) as u8]);
    let mut vxlan = VxlanPlan {
        local: vtep(1),
        port: 4789,
        endpoints: (0..10_000).map(|n| (many(n), at(n))).collect(),
        probes: BTreeMap::new(),
        floods: BTreeSet::new(),
        gateway: None,
        fence: (0..500).map(at).collect(),
    };
    let plan = |vxlan: &VxlanPlan| NetworkPlan {
        mtu: 1450,
        ports: BTreeMap::new(),
        vxlan: Some(vxlan.clone()),
    };
    let scene = plan(&vxlan).scene();
    vxlan.endpoints.insert(many(7), at(8));
    let steps = diff(&scene, Some(&plan(&vxlan)));
    assert_eq!(steps.len(), 1);
}
