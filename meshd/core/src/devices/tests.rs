use super::*;
use crate::kind::MacvlanMode;
use proptest::prelude::*;

const NAMES: [&str; 8] = ["eth0", "eth1", "eth2", "bo", "br", "v1", "v2", "du"];

fn name(text: &str) -> IfName {
    IfName::new(text.as_bytes()).unwrap()
}

fn any_name() -> impl Strategy<Value = IfName> {
    prop::sample::select(&NAMES[..]).prop_map(name)
}

fn bond(mode: BondMode) -> Shape {
    Shape::Bond(Bond {
        mode,
        monitor: Monitor::Mii {
            every_ms: 100,
            up_ms: 0,
            down_ms: 0,
        },
        hash: BondHash::Layer2,
        lacp_rate: LacpRate::Slow,
        lacp_select: LacpSelect::Stable,
        min_links: 0,
    })
}

fn vlan(parent: &str, id: u16) -> Shape {
    Shape::Vlan(Vlan {
        parent: name(parent),
        id,
        protocol: VlanProtocol::Customer,
    })
}

fn macvlan(parent: &str) -> Shape {
    Shape::Macvlan(Macvlan {
        parent: name(parent),
        mode: MacvlanMode::Bridge,
        sources: BTreeSet::new(),
        tap: false,
    })
}

/// A kernel that does as it is told, and refuses what a real one would.
fn apply(scene: &mut Scene, task: &Task) {
    let of = &task.of;
    let device = |scene: &Scene| scene.get(of).cloned().unwrap_or_else(|| panic!("{task:?}"));
    match task.step.clone() {
        Step::Release { member } => {
            let seen = scene.get_mut(&member).unwrap();
            assert!(seen.master.take().is_some(), "{task:?}");
        }
        Step::Remove => {
            assert!(device(scene).ours, "a foreign device is removed: {task:?}");
            remove(scene, of);
        }
        Step::Make { shape, mac, place } => {
            if let Some(before) = scene.get(of) {
                assert!(before.ours, "a foreign device is replaced: {task:?}");
                remove(scene, of);
            }
            let parent = shape.parent().cloned();
            assert!(parent.iter().all(|it| scene.contains_key(it)), "{task:?}");
            if let (Some(parent), Shape::Macvlan(_) | Shape::Shim(_)) = (&parent, &shape) {
                let takes = |seen: &Seen| matches!(seen.kind.as_str(), "bond" | "bridge");
                let master = scene[parent].master.as_ref();
                assert!(
                    !master.is_some_and(|it| takes(&scene[it])),
                    "EBUSY: {task:?}"
                );
            }
            let vlans = match shape {
                Shape::Bridge(_) => default_vlans(),
                _ => Vlans::new(),
            };
            let made = Seen {
                ours: true,
                kind: shape.word().to_owned(),
                shape: Some(shape),
                mac: mac.or(Some(MacAddr([2, 0, 0, 0, 0, 9]))),
                mtu: 1500,
                parent,
                vlans,
                place,
                ..Seen::default()
            };
            scene.insert(of.clone(), made);
        }
        Step::Mark { put } => scene.get_mut(of).unwrap().put = put,
        Step::Set { bridge } => {
            let seen = scene.get_mut(of).unwrap();
            assert!(matches!(seen.shape, Some(Shape::Bridge(_))) && seen.ours);
            seen.shape = Some(Shape::Bridge(bridge));
        }
        Step::SetMac { mac } => {
            assert!(device(scene).ours);
            scene.get_mut(of).unwrap().mac = Some(mac);
        }
        Step::SetMtu { mtu } => {
            assert!(device(scene).ours);
            scene.get_mut(of).unwrap().mtu = mtu;
        }
        Step::Enslave { member } => {
            let is_bridge = device(scene).kind == "bridge";
            let carrying = scene
                .values()
                .find(|above| above.kind == "macvlan" && above.parent.as_ref() == Some(&member));
            let carrying = carrying.cloned();
            let seen = scene.get_mut(&member).unwrap();
            assert!(seen.master.is_none(), "it is elsewhere: {task:?}");
            assert!(carrying.is_none(), "EBUSY: {task:?}");
            seen.master = Some(of.clone());
            seen.up = true;
            if is_bridge {
                seen.vlans = default_vlans();
            }
        }
        Step::RaiseMember { member } => scene.get_mut(&member).unwrap().up = true,
        Step::Prefer { member } => {
            if let Some(member) = &member {
                assert_eq!(scene[member].master.as_ref(), Some(of), "{task:?}");
            }
            scene.get_mut(of).unwrap().primary = member;
        }
        Step::SetVlans { port, add, remove } => {
            let seen = scene.get_mut(&port).unwrap();
            assert!(port == *of || seen.master.as_ref() == Some(of), "{task:?}");
            seen.vlans.retain(|id, _| !remove.contains(id));
            seen.vlans.extend(add);
        }
        Step::Raise => {
            assert!(device(scene).ours);
            scene.get_mut(of).unwrap().up = true;
        }
        Step::RemoveAddress { address } => {
            let gone = scene.get_mut(of).unwrap().addresses.remove(&address);
            assert_eq!(gone, Some(true), "not ours, or not there: {task:?}");
        }
        Step::AddAddress { address } => {
            assert!(device(scene).ours);
            let before = scene.get_mut(of).unwrap().addresses.insert(address, true);
            assert_eq!(before, None);
        }
        Step::RemoveRoute { route } => {
            assert!(scene.get_mut(of).unwrap().routes.remove(&route));
        }
        Step::AddRoute { route } => {
            assert!(device(scene).up, "ENETDOWN: {task:?}");
            let seen = scene.get_mut(of).unwrap();
            assert!(seen.routes.iter().all(|it| it.to != route.to), "EEXIST");
            seen.routes.insert(route);
        }
        Step::RemoveProxy { address } => {
            assert!(scene.get_mut(of).unwrap().proxies.remove(&address));
        }
        Step::AddProxy { address } => {
            assert!(scene.get_mut(of).unwrap().proxies.insert(address));
        }
    }
}

/// What stands on it goes, what is in it stays.
fn remove(scene: &mut Scene, gone: &IfName) {
    scene.remove(gone);
    let above: Vec<IfName> = scene
        .iter()
        .filter(|(_, seen)| seen.parent.as_ref() == Some(gone))
        .map(|(name, _)| name.clone())
        .collect();
    for name in above {
        remove(scene, &name);
    }
    for seen in scene.values_mut() {
        if seen.master.as_ref() == Some(gone) {
            seen.master = None;
        }
    }
}

/// Tasks whose device went with what it stood on are nobody's.
fn carry_out(scene: &mut Scene, plan: &Plan) {
    for task in &plan.tasks {
        if task.step == Step::Remove && !scene.contains_key(&task.of) {
            continue;
        }
        apply(scene, task);
    }
}

fn any_shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        Just(Shape::Dummy),
        prop_oneof![Just(BondMode::ActiveBackup), Just(BondMode::Lacp)].prop_map(bond),
        (any_name(), 1u16..4).prop_map(|(parent, id)| vlan(&parent.to_string(), id)),
        any_name().prop_map(|parent| macvlan(&parent.to_string())),
        any::<[bool; 2]>().prop_map(|[stp, vlan_filtering]| Shape::Bridge(Bridge {
            stp,
            vlan_filtering,
            ..Bridge::default()
        })),
    ]
}

fn any_address() -> impl Strategy<Value = IpNet> {
    (1u8..5).prop_map(|n| format!("10.0.0.{n}/24").parse().unwrap())
}

prop_compose! {
    fn any_seen()(
        ours in any::<bool>(),
        reserved in prop::bool::weighted(0.05),
        shape in any_shape(),
        put in prop::collection::btree_set(any_name(), 0..3),
        mtu in prop::sample::select(vec![1500u32, 9000]),
        up in any::<bool>(),
        addresses in prop::collection::btree_map(any_address(), any::<bool>(), 0..3),
        vlan_id in 1u16..4,
    ) -> Seen {
        let mut seen = Seen {
            ours: ours && !reserved,
            reserved,
            kind: shape.word().to_owned(),
            put: if ours { put } else { BTreeSet::new() },
            mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
            mtu,
            up,
            addresses: addresses.into_iter().map(|(a, by_us)| (a, by_us && ours)).collect(),
            vlans: [(vlan_id, Tagging::ACCESS)].into(),
            parent: shape.parent().cloned(),
            shape: Some(shape),
            ..Seen::default()
        };
        if !seen.ours && !matches!(seen.shape, Some(Shape::Vlan(_) | Shape::Bridge(_) | Shape::Macvlan(_))) {
            (seen.kind, seen.shape) = (String::new(), None);
        }
        seen
    }
}

fn any_scene() -> impl Strategy<Value = Scene> {
    let devices = prop::collection::btree_map(any_name(), any_seen(), 0..8);
    let masters = prop::collection::btree_map(any_name(), any_name(), 0..4);
    (devices, masters).prop_map(|(mut scene, masters)| {
        // No parent that is not there, and none that stands on its child.
        let mut orphans = Vec::new();
        for (name, seen) in &scene {
            if let Some(parent) = &seen.parent
                && (parent >= name || !scene.contains_key(parent))
            {
                orphans.push(name.clone());
            }
        }
        for orphan in orphans {
            let seen = scene.get_mut(&orphan).unwrap();
            (seen.parent, seen.shape, seen.kind) = (None, Some(Shape::Dummy), "dummy".into());
        }
        for (member, master) in masters {
            let holds = scene
                .get(&master)
                .is_some_and(|seen| matches!(seen.shape, Some(Shape::Bond(_) | Shape::Bridge(_))));
            if let Some(seen) = scene.get_mut(&member).filter(|_| holds && member != master) {
                seen.master = Some(master);
            }
        }
        scene
    })
}

fn any_wishes() -> impl Strategy<Value = Wishes> {
    let wish = (
        any_shape(),
        prop::option::of(Just(MacAddr([2, 0, 0, 0, 0, 7]))),
        prop::option::of(Just(1400u32)),
        prop::collection::btree_set(any_address(), 0..3),
        prop::collection::btree_set(any_name(), 0..4),
        any::<bool>(),
        prop::bool::weighted(0.2),
    );
    prop::collection::btree_map(any_name(), wish, 0..6).prop_map(|drawn| {
        let mut wishes = Wishes::new();
        let mut taken = BTreeSet::new();
        for (name, (shape, mac, mtu, addresses, members, prefers, adopts)) in drawn {
            let mut wish = Wish::of(shape);
            // What needs a device is behind it in the alphabet, so there are no circles; each is in one master.
            if wish.shape.parent().is_some_and(|parent| *parent >= name) {
                wish.shape = Shape::Dummy;
            }
            let members = members.into_iter().filter(|member| *member < name);
            match wish.shape {
                Shape::Bond(_) => {
                    wish.members = members
                        .filter(|member| taken.insert(member.clone()))
                        .map(|member| (member, None))
                        .collect();
                    let first = wish.members.keys().next().cloned();
                    wish.primary = first.filter(|_| prefers);
                }
                Shape::Bridge(bridge) => {
                    let vlans = bridge
                        .vlan_filtering
                        .then(|| Vlans::from([(2, Tagging::ACCESS), (3, Tagging::TRUNK)]));
                    wish.members = members
                        .filter(|member| taken.insert(member.clone()))
                        .map(|member| (member, vlans.clone()))
                        .collect();
                    wish.own_vlans = bridge.vlan_filtering.then(default_vlans);
                    if adopts {
                        (wish.shape, wish.own_vlans) = (Shape::Adopted, None);
                    }
                }
                _ => {}
            }
            if wish.shape != Shape::Adopted {
                (wish.mac, wish.mtu, wish.addresses) = (mac, mtu, addresses);
            }
            wishes.insert(name, wish);
        }
        wishes
    })
}

/// Rounds until nothing is left to do; more than one, since what a device waits for may be released in the same plan.
const ROUNDS: usize = 4;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_host_comes_to_what_is_wished_and_what_is_foreign_stays(scene in any_scene(), wishes in any_wishes()) {
        let before = scene.clone();
        let mut scene = scene;
        let mut last = Plan::default();
        for _ in 0..ROUNDS {
            last = plan(&scene, &wishes);
            if last.tasks.is_empty() {
                break;
            }
            carry_out(&mut scene, &last);
        }
        prop_assert!(last.tasks.is_empty(), "it does not come to rest: {:?}", last.tasks);
        for (name, wish) in &wishes {
            if last.waits.contains_key(name) {
                continue;
            }
            let seen = scene.get(name);
            prop_assert!(seen.is_some(), "{name} is not there, and nothing is said of it");
            let seen = seen.unwrap();
            for (member, vlans) in &wish.members {
                let told = last.lacks.get(name).is_some_and(|lacks| lacks.iter().any(|lack| lack.starts_with(&member.to_string())));
                let there = scene.get(member).is_some_and(|seen| seen.master.as_ref() == Some(name));
                prop_assert!(told != there, "{member} in {name}: told {told}, there {there}");
                if let Some(vlans) = vlans.as_ref().filter(|_| there) {
                    prop_assert_eq!(&scene[member].vlans, vlans);
                }
            }
            if wish.shape == Shape::Adopted {
                continue;
            }
            prop_assert!(seen.ours && seen.up);
            prop_assert_eq!(seen.shape.as_ref(), Some(&wish.shape));
            prop_assert!(wish.mac.is_none_or(|mac| seen.mac == Some(mac)));
            prop_assert!(wish.mtu.is_none_or(|mtu| seen.mtu == mtu));
            prop_assert!(wish.addresses.iter().all(|address| seen.addresses.contains_key(address)));
            let strange = seen.addresses.iter().find(|(address, ours)| **ours && !wish.addresses.contains(address));
            prop_assert_eq!(strange, None);
        }
        for (name, seen) in &scene {
            let left = seen.ours && !wishes.contains_key(name) && !last.waits.contains_key(name);
            prop_assert!(!left, "{name} is left");
        }
        for (name, was) in before.iter().filter(|(_, seen)| !seen.ours) {
            let is = scene.get(name);
            prop_assert!(is.is_some(), "foreign {name} is gone");
            let mut is = is.unwrap().clone();
            let wished = wishes.values().any(|wish| wish.members.contains_key(name));
            let was_ours = was.master.as_ref().is_some_and(|master| before[master].ours);
            if wished || was_ours {
                // Being in something is all that may have changed of it.
                (is.master, is.up) = (was.master.clone(), was.up);
                is.vlans.clone_from(&was.vlans);
            }
            prop_assert_eq!(&is, was, "foreign {} was changed", name);
        }
    }

    #[test]
    fn what_was_carried_out_is_not_done_again(wishes in any_wishes()) {
        let mut scene = Scene::from(["eth0", "eth1", "eth2"].map(|text| (name(text), Seen::default())));
        for _ in 0..ROUNDS {
            let next = plan(&scene, &wishes);
            carry_out(&mut scene, &next);
        }
        prop_assert_eq!(plan(&scene, &wishes).tasks, vec![]);
    }
}

fn card() -> Seen {
    Seen {
        mtu: 1500,
        ..Seen::default()
    }
}

#[test]
fn a_vlan_on_a_bond_is_made_after_it_and_again_with_it() {
    let mut bonded = Wish::of(bond(BondMode::ActiveBackup));
    bonded.members = [(name("eth0"), None), (name("eth9"), None)].into();
    let mut wishes = Wishes::from([(name("b9"), bonded), (name("a.7"), Wish::of(vlan("b9", 7)))]);
    let mut scene = Scene::from([(name("eth0"), card())]);
    let first = plan(&scene, &wishes);
    assert_eq!(
        first.lacks[&name("b9")],
        ["eth9 is not there: there is no such device"]
    );
    carry_out(&mut scene, &first);
    assert_eq!(scene[&name("a.7")].parent, Some(name("b9")));
    assert_eq!(plan(&scene, &wishes).tasks, []);
    wishes.get_mut(&name("b9")).unwrap().shape = bond(BondMode::Lacp);
    let again = plan(&scene, &wishes);
    carry_out(&mut scene, &again);
    assert_eq!(scene[&name("eth0")].master, Some(name("b9")));
    assert!(scene.contains_key(&name("a.7")));
    assert_eq!(plan(&scene, &wishes).tasks, []);
}

#[test]
fn a_card_with_an_address_is_not_taken_from_under_it() {
    let mut eth = card();
    eth.addresses = [("192.0.2.7/24".parse().unwrap(), false)].into();
    let mut wish = Wish::of(bond(BondMode::ActiveBackup));
    wish.members = [(name("eth0"), None)].into();
    let plan = plan(
        &Scene::from([(name("eth0"), eth)]),
        &Wishes::from([(name("bo"), wish)]),
    );
    let enslaves = |task: &Task| matches!(task.step, Step::Enslave { .. });
    assert!(!plan.tasks.iter().any(enslaves));
    assert!(plan.lacks[&name("bo")][0].contains("192.0.2.7/24"));
}

#[test]
fn a_name_of_meshds_own_in_the_kernel_is_told_as_such_and_not_offered_for_adoption() {
    let own = Seen {
        reserved: true,
        kind: "bridge".into(),
        ..card()
    };
    let scene = Scene::from([(name("mb2e88bf"), own)]);
    let bridge = Wish::of(Shape::Bridge(crate::devices::Bridge::default()));
    let there = plan(&scene, &Wishes::from([(name("mb2e88bf"), bridge)]));
    let why = &there.waits[&name("mb2e88bf")];
    assert!(
        why.contains("meshd itself") && !why.contains("adopt"),
        "{why}"
    );
    assert!(there.tasks.is_empty());
}

#[test]
fn an_adopted_bridge_keeps_all_but_what_we_put_in() {
    let mut scene = Scene::from([(
        name("virbr0"),
        Seen {
            kind: "bridge".into(),
            ..card()
        },
    )]);
    scene.insert(
        name("vnet0"),
        Seen {
            master: Some(name("virbr0")),
            ..card()
        },
    );
    let before = scene.clone();
    let mut bridge = Wish::of(Shape::Adopted);
    bridge.members = [(name("du"), None)].into();
    let wishes = Wishes::from([
        (name("virbr0"), bridge),
        (name("du"), Wish::of(Shape::Dummy)),
    ]);
    let there = plan(&scene, &wishes);
    carry_out(&mut scene, &there);
    assert_eq!(scene[&name("du")].master, Some(name("virbr0")));
    let back = plan(&scene, &Wishes::new());
    carry_out(&mut scene, &back);
    assert_eq!(scene, before);
}
