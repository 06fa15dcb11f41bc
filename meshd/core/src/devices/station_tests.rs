use super::*;
use crate::command::NetnsRef;
use crate::kind::MacvlanMode;

fn name(text: &str) -> IfName {
    IfName::new(text.as_bytes()).unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn station(parent: &str, netns: Option<&str>) -> Wish {
    Wish {
        place: netns.map(|path| Place {
            netns: NetnsRef::Path(path.into()),
            ifname: name("eth0"),
        }),
        shim: true,
        ..Wish::of(Shape::Macvlan(Macvlan {
            parent: name(parent),
            mode: MacvlanMode::Bridge,
            sources: BTreeSet::new(),
            tap: false,
        }))
    }
}

fn seen(wish: &Wish, addresses: &[&str]) -> Seen {
    Seen {
        ours: true,
        shape: Some(wish.shape.clone()),
        kind: "macvlan".into(),
        up: true,
        parent: wish.shape.parent().cloned(),
        place: wish.place.clone(),
        addresses: addresses.iter().map(|text| (net(text), true)).collect(),
        ..Seen::default()
    }
}

fn card(addresses: &[&str]) -> Seen {
    Seen {
        up: true,
        addresses: addresses.iter().map(|text| (net(text), false)).collect(),
        ..Seen::default()
    }
}

#[test]
fn the_host_reaches_stations_by_a_shim_from_its_address_in_their_subnet() {
    let mut vm = station("eth1", None);
    vm.reach = ["192.0.2.8".parse().unwrap()].into();
    let web = station("eth1", Some("/run/netns/web"));
    let wishes = Wishes::from([(name("vm"), vm.clone()), (name("web"), web.clone())]);
    let mut scene = Scene::from([(
        name("eth1"),
        card(&["10.0.0.1/8", "192.0.2.1/24", "2001:db8::1/64"]),
    )]);
    // None is there yet.
    assert_eq!(with_shims(&scene, &wishes), wishes);
    scene.insert(name("vm"), seen(&vm, &[]));
    scene.insert(name("web"), seen(&web, &["192.0.2.9/24", "2001:db8::9/64"]));
    let shim = &with_shims(&scene, &wishes)[&name("ms-eth1")];
    let routes: Vec<String> = shim
        .routes
        .iter()
        .map(|route| format!("{} from {}", route.to, route.src.unwrap()))
        .collect();
    assert_eq!(
        routes,
        [
            "192.0.2.8 from 192.0.2.1",
            "192.0.2.9 from 192.0.2.1",
            "2001:db8::9 from 2001:db8::1"
        ]
    );
    assert_eq!(shim.proxies, ["2001:db8::1".parse().unwrap()].into());
    assert!(shim.addresses.is_empty());
    // With the last station it goes.
    for gone in ["vm", "web"] {
        scene.remove(&name(gone));
    }
    assert_eq!(with_shims(&scene, &wishes), wishes);
}

#[test]
fn a_station_in_another_namespace_than_wished_is_made_anew_and_has_no_shim() {
    let wish = station("eth1", Some("/run/netns/web"));
    let other = station("eth1", Some("/run/netns/old"));
    let wishes = Wishes::from([(name("web"), wish.clone())]);
    let scene = Scene::from([
        (name("eth1"), card(&["192.0.2.1/24"])),
        (name("web"), seen(&other, &["192.0.2.9/24"])),
    ]);
    assert_eq!(with_shims(&scene, &wishes), wishes);
    let made = plan(&scene, &wishes);
    let make = Step::Make {
        shape: wish.shape.clone(),
        mac: None,
        place: wish.place,
    };
    assert!(made.tasks.iter().any(|task| task.step == make), "{made:?}");
}

#[test]
fn a_parent_whose_frames_another_takes_carries_no_station_and_the_plan_says_who() {
    let wishes = Wishes::from([(name("web"), station("eth1", None))]);
    let bridge = Seen {
        kind: "bridge".into(),
        ..Seen::default()
    };
    let in_bridge = Seen {
        master: Some(name("br7")),
        ..Seen::default()
    };
    let uplink = Seen {
        uplink: true,
        ..Seen::default()
    };
    let on_another = seen(&station("eth0", None), &[]);
    for (parent, words) in [
        (None, "there is no such device"),
        (Some(in_bridge), "name br7 as the parent"),
        (Some(uplink), "an uplink of a network"),
        (
            Some(Seen {
                ours: false,
                ..on_another
            }),
            "a macvlan itself",
        ),
    ] {
        let mut scene = Scene::from([(name("br7"), bridge.clone())]);
        scene.extend(parent.map(|parent| (name("eth1"), parent)));
        let plan = plan(&scene, &wishes);
        assert_eq!(plan.tasks, [], "{words}");
        assert!(plan.waits[&name("web")].contains(words), "{plan:?}");
    }
}

#[test]
fn a_card_with_a_station_is_not_put_into_a_bridge() {
    let mut bridge = Wish::of(Shape::Bridge(Bridge::default()));
    bridge.members = [(name("eth1"), None)].into();
    let wishes = Wishes::from([(name("br"), bridge)]);
    let above = Seen {
        ours: false,
        ..seen(&station("eth1", None), &[])
    };
    let scene = Scene::from([(name("eth1"), Seen::default()), (name("other"), above)]);
    let plan = plan(&scene, &wishes);
    assert!(plan.lacks[&name("br")][0].contains("carries the macvlan other"));
    let enslaves = |task: &Task| matches!(task.step, Step::Enslave { .. });
    assert!(!plan.tasks.iter().any(enslaves));
}

#[test]
fn shims_of_long_names_are_told_apart() {
    assert_eq!(shim_name(&name("eth1")), name("ms-eth1"));
    let [one, other] = ["enp0s31f6np0.10", "enp0s31f6np0.11"].map(|text| shim_name(&name(text)));
    assert_ne!(one, other);
}

#[test]
fn a_wireless_parent_carries_no_station_but_one_with_its_own_mac() {
    let mut alone = station("wlan0", None);
    if let Shape::Macvlan(it) = &mut alone.shape {
        it.mode = MacvlanMode::Passthru;
    }
    let radio = Seen {
        wireless: true,
        ..card(&[])
    };
    let scene = Scene::from([(name("wlan0"), radio)]);
    for (wish, is_made) in [(station("wlan0", None), false), (alone, true)] {
        let done = plan(&scene, &Wishes::from([(name("s"), wish)]));
        let makes = |task: &Task| matches!(task.step, Step::Make { .. });
        assert_eq!(done.tasks.iter().any(makes), is_made, "{done:?}");
        let why = done.waits.get(&name("s"));
        assert_eq!(why.is_none(), is_made);
        assert!(why.is_none_or(|why| why.contains("wireless") && why.contains("into a bridge")));
    }
}
