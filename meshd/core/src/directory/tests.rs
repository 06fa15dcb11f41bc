//! The accept rules, the bounds, and that two directories become equal.

use super::*;
use crate::ident::{Label, MacAddr, Moment};
use crate::testing::FakeKeyring;
use crate::wire::record::{NetworkDef, NodeAdvert};
use proptest::prelude::*;
use std::net::IpAddr;

fn at(ms: u64) -> Now {
    Now {
        moment: Moment::default().plus_ms(ms),
        wall: WallTime(1_000_000 + ms),
    }
}

fn vni(n: u32) -> Vni {
    Vni::new(n).unwrap()
}

fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

fn node(n: u64) -> NodeId {
    FakeKeyring::member(1, n).node()
}

fn membership(n: u64, role: Role, expires: Option<WallTime>) -> Signed {
    named(n, &format!("n{n}"), role, expires)
}

fn named(n: u64, name: &str, role: Role, expires: Option<WallTime>) -> Signed {
    let root = FakeKeyring::root(1);
    let name: Label = name.parse().unwrap();
    Record::Membership(Membership {
        mesh: root.mesh(),
        node: node(n),
        name,
        role,
        labels: BTreeMap::new(),
        serial: 1,
        issued: WallTime(0),
        expires,
    })
    .sign(root.mesh(), &root)
    .unwrap()
}

fn revocations(serial: u64, nodes: &[u64]) -> Signed {
    let root = FakeKeyring::root(1);
    let mut nodes: Vec<NodeId> = nodes.iter().map(|&n| node(n)).collect();
    nodes.sort();
    Record::Revocations(Revocations {
        mesh: root.mesh(),
        serial,
        nodes,
    })
    .sign(root.mesh(), &root)
    .unwrap()
}

fn endpoint(n: u8) -> Endpoint {
    Endpoint {
        mac: mac(n),
        ips: vec![IpAddr::from([10, 0, 0, n])],
        name: Some(format!("c{n}").parse().unwrap()),
        labels: BTreeMap::new(),
        since: WallTime(5),
        roams: false,
    }
}

fn endpoints(n: u64, serial: u64, list: Vec<Endpoint>) -> Signed {
    let keys = FakeKeyring::member(1, n);
    Record::Endpoints(Endpoints {
        node: node(n),
        vni: vni(7),
        serial,
        list,
    })
    .sign(keys.mesh(), &keys)
    .unwrap()
}

fn network(author: u64, number: u32, name: &str, since: u64) -> Signed {
    let keys = FakeKeyring::member(1, author);
    Record::Network(NetworkDef {
        author: node(author),
        serial: 1,
        since: WallTime(since),
        vni: vni(number),
        name: name.parse().unwrap(),
        subnets: vec![],
        mtu: 1450,
        removed: false,
    })
    .sign(keys.mesh(), &keys)
    .unwrap()
}

/// The directory of node 1, which knows members 1 to 4; 1 and 2 are admins.
fn directory_of(n: u64) -> Directory {
    let keys = FakeKeyring::member(1, n);
    let mut directory = Directory::new(keys.mesh(), Arc::new(keys), &[], at(0));
    for m in 1..=4 {
        let role = if m <= 2 { Role::Admin } else { Role::Member };
        let mut out = Outbox::default();
        directory
            .accept(&membership(m, role, None), None, at(0), &mut out)
            .unwrap();
    }
    directory
}

fn take(directory: &mut Directory, signed: &Signed) -> Result<bool, AcceptError> {
    directory.accept(signed, None, at(10), &mut Outbox::default())
}

#[test]
fn only_members_are_believed_and_only_about_themselves() {
    let mut directory = directory_of(1);
    assert_eq!(
        take(&mut directory, &endpoints(3, 1, vec![endpoint(1)])),
        Ok(true)
    );
    assert_eq!(
        take(&mut directory, &endpoints(9, 1, vec![endpoint(2)])),
        Err(AcceptError::Stranger(node(9)))
    );
    // Member 4 signs what member 3 would say.
    let honest = endpoints(3, 2, vec![endpoint(4)]);
    let forger = FakeKeyring::member(1, 4);
    let message = [
        b"meshd record v1\0".as_slice(),
        &forger.mesh().0,
        &honest.body,
    ]
    .concat();
    let forged = Signed {
        signature: forger.sign(&message).into(),
        ..honest
    };
    assert!(matches!(
        take(&mut directory, &forged),
        Err(AcceptError::Record(RecordError::Signature(_)))
    ));
}

#[test]
fn the_newest_serial_counts_and_an_old_one_is_no_news() {
    let mut directory = directory_of(1);
    directory.set_reachable(node(3), true, &mut Outbox::default());
    assert_eq!(
        take(&mut directory, &endpoints(3, 5, vec![endpoint(1)])),
        Ok(true)
    );
    assert_eq!(
        take(&mut directory, &endpoints(3, 5, vec![endpoint(1)])),
        Ok(false)
    );
    assert_eq!(
        take(&mut directory, &endpoints(3, 4, vec![endpoint(2)])),
        Ok(false)
    );
    assert_eq!(
        directory
            .endpoints(vni(7))
            .map(|(n, e)| (n, e.mac))
            .collect::<Vec<_>>(),
        [(node(3), mac(1))]
    );
    assert_eq!(
        take(&mut directory, &endpoints(3, u64::MAX, vec![])),
        Ok(true)
    );
    assert_eq!(directory.endpoints(vni(7)).count(), 0);
}

#[test]
fn revocation_removes_all_that_a_node_said_and_nothing_comes_back() {
    let mut directory = directory_of(1);
    directory.set_reachable(node(2), true, &mut Outbox::default());
    take(&mut directory, &endpoints(2, 1, vec![endpoint(1)])).unwrap();
    take(&mut directory, &network(2, 7, "red", 1)).unwrap();
    assert!(directory.network("red").is_some());
    directory.take_changes();
    take(&mut directory, &revocations(1, &[2])).unwrap();
    assert!(directory.take_changes().contains(&Change::Revoked(node(2))));
    assert_eq!(directory.endpoints(vni(7)).count(), 0);
    assert!(directory.network("red").is_none() && directory.member(node(2)).is_none());
    assert_eq!(
        take(&mut directory, &membership(2, Role::Admin, None)),
        Err(AcceptError::Revoked(node(2)))
    );
    assert_eq!(
        take(&mut directory, &endpoints(2, 9, vec![endpoint(1)])),
        Err(AcceptError::Revoked(node(2)))
    );
}

#[test]
fn an_expired_member_is_not_believed_any_more() {
    let mut directory = directory_of(1);
    take(
        &mut directory,
        &membership(5, Role::Member, Some(WallTime(1_002_000))),
    )
    .unwrap();
    directory.set_reachable(node(5), true, &mut Outbox::default());
    assert_eq!(
        take(&mut directory, &endpoints(5, 1, vec![endpoint(1)])),
        Ok(true)
    );
    assert_eq!(directory.endpoints(vni(7)).count(), 1);
    let late = at(2_000);
    directory.expire(late, &mut Outbox::default());
    assert_eq!(directory.endpoints(vni(7)).count(), 0);
    let again = directory.accept(
        &endpoints(5, 2, vec![endpoint(1)]),
        None,
        late,
        &mut Outbox::default(),
    );
    assert_eq!(again, Err(AcceptError::Expired(node(5))));
}

#[test]
fn networks_are_defined_by_admins_and_of_two_of_one_name_the_older_holds() {
    let mut directory = directory_of(1);
    assert_eq!(
        take(&mut directory, &network(3, 7, "red", 1)),
        Err(AcceptError::NotAdmin(node(3)))
    );
    take(&mut directory, &network(1, 7, "red", 50)).unwrap();
    let mut out = Outbox::default();
    directory
        .accept(&network(2, 8, "red", 40), None, at(10), &mut out)
        .unwrap();
    assert_eq!(directory.network("red").unwrap().author, node(2));
    assert!(directory.network_by_vni(vni(7)).is_none());
    let told = core::iter::from_fn(|| out.pop())
        .filter(|o| matches!(o, Output::Notice(Notice::NetworkConflict { .. })))
        .count();
    assert_eq!((told, directory.conflicts().count()), (1, 1));
}

#[test]
fn an_endpoint_is_found_by_mac_address_and_name_while_its_node_is_reachable() {
    let mut directory = directory_of(1);
    take(
        &mut directory,
        &endpoints(3, 1, vec![endpoint(1), endpoint(2)]),
    )
    .unwrap();
    assert!(directory.mac(vni(7), mac(1)).is_none());
    directory.set_reachable(node(3), true, &mut Outbox::default());
    assert_eq!(directory.mac(vni(7), mac(1)).unwrap().0, node(3));
    assert_eq!(
        directory.ip(vni(7), [10, 0, 0, 2].into()).unwrap().1.mac,
        mac(2)
    );
    assert_eq!(
        directory
            .name(vni(7), &"c2".parse().unwrap())
            .unwrap()
            .1
            .mac,
        mac(2)
    );
    assert_eq!(
        (
            directory.ips(vni(7)).count(),
            directory.names(vni(7)).count()
        ),
        (2, 2)
    );
    assert!(directory.mac(vni(8), mac(1)).is_none());
    directory.set_reachable(node(3), false, &mut Outbox::default());
    assert!(directory.ip(vni(7), [10, 0, 0, 2].into()).is_none());
}

#[test]
fn a_node_that_lost_its_state_goes_on_above_its_old_records() {
    let mut before = directory_of(1);
    let say = |networks| {
        Record::Node(NodeAdvert {
            node: node(1),
            serial: 0,
            boot: 1,
            addresses: vec![],
            networks,
            version: String::new(),
            vtep: None,
            trusted: vec![],
            links: vec![],
            services: vec![],
        })
    };
    for n in 1..=5 {
        before
            .publish(say(vec![vni(n)]), at(0), &mut Outbox::default())
            .unwrap();
    }
    let old = before.signed(&RecordKey::Node(node(1))).unwrap().clone();
    let mut after = directory_of(1);
    after
        .publish(say(vec![vni(9)]), at(0), &mut Outbox::default())
        .unwrap();
    take(&mut after, &old).unwrap();
    let advert = after.advert(node(1)).unwrap();
    assert_eq!(
        (advert.serial, advert.networks.as_slice()),
        (6, [vni(9)].as_slice())
    );
}

#[test]
fn what_is_kept_is_there_after_a_restart() {
    let mut out = Outbox::default();
    let mut directory = directory_of(1);
    directory
        .accept(&network(2, 7, "red", 1), None, at(0), &mut out)
        .unwrap();
    directory
        .accept(&endpoints(3, 1, vec![endpoint(1)]), None, at(0), &mut out)
        .unwrap();
    let list = vec![endpoint(9)];
    directory
        .publish(
            Record::Endpoints(Endpoints {
                node: node(1),
                vni: vni(7),
                serial: 0,
                list,
            }),
            at(0),
            &mut out,
        )
        .unwrap();
    let kept = core::iter::from_fn(|| out.pop()).filter_map(|o| match o {
        Output::Persist { key, value } => Some((key, value.unwrap())),
        _ => None,
    });
    let mut state: Vec<_> = kept.collect();
    state.extend((1..=3).filter_map(|m| state_of(&membership(m, Role::Admin, None))));
    state.push((b"foreign".to_vec(), b"\xff".to_vec()));
    let keys = FakeKeyring::member(1, 1);
    let again = Directory::new(keys.mesh(), Arc::new(keys), &state, at(9));
    assert!(again.network("red").is_some());
    assert_eq!(
        again.endpoints(vni(7)).map(|(n, _)| n).collect::<Vec<_>>(),
        [node(1)]
    );
}

#[test]
fn one_node_cannot_fill_the_directory() {
    let mut directory = directory_of(1);
    let many = |from: u16, count: u16| -> Vec<Endpoint> {
        (from..from + count)
            .map(|n| {
                let [a, b] = n.to_be_bytes();
                Endpoint {
                    mac: MacAddr([2, 0, 0, 0, a, b]),
                    ips: vec![],
                    name: None,
                    labels: BTreeMap::new(),
                    since: WallTime(1),
                    roams: false,
                }
            })
            .collect()
    };
    assert_eq!(
        take(&mut directory, &endpoints(3, 1, many(0, 4096))),
        Ok(true)
    );
    let keys = FakeKeyring::member(1, 3);
    let more = Record::Endpoints(Endpoints {
        node: node(3),
        vni: vni(8),
        serial: 1,
        list: many(5000, 1),
    })
    .sign(keys.mesh(), &keys)
    .unwrap();
    assert!(matches!(
        take(&mut directory, &more),
        Err(AcceptError::Full(_))
    ));
}

fn exchange(a: &Directory, b: &mut Directory, chunk: usize) {
    for (from, to, _) in a.digest_in_chunks(chunk) {
        for records in a.newer_than(from, to, &b.digest_of(from, to), u64::MAX) {
            for signed in records {
                let _ = take(b, &signed);
            }
        }
    }
}

proptest! {
    #[test]
    fn a_digest_each_way_makes_two_directories_equal(
        said in prop::collection::vec((1u64..=4, 1u64..6, 0u8..4, any::<bool>()), 0..40),
        chunk in 1usize..6,
    ) {
        let (mut a, mut b) = (directory_of(1), directory_of(2));
        let mut lost: BTreeMap<(u64, u64), u8> = BTreeMap::new();
        for (who, serial, what, to_a) in said {
            let known = *lost.entry((who, serial)).or_insert(what);
            // What these two said themselves is told by `reclaim`, another story.
            if who > 2 {
                let _ = take(if to_a { &mut a } else { &mut b }, &endpoints(who, serial, vec![endpoint(known)]));
            }
        }
        if a.summary() != b.summary() {
            exchange(&a, &mut b, chunk);
            exchange(&b, &mut a, chunk);
        }
        prop_assert_eq!(a.summary(), b.summary());
        prop_assert_eq!(a.digest(), b.digest());
    }
}

#[test]
fn an_author_that_says_two_things_with_one_serial_is_heard_alike_everywhere() {
    let (mut a, mut b) = (directory_of(1), directory_of(2));
    take(&mut a, &endpoints(3, 1, vec![endpoint(1)])).unwrap();
    take(&mut b, &endpoints(3, 1, vec![endpoint(2)])).unwrap();
    assert_ne!(a.summary(), b.summary());
    exchange(&a, &mut b, 100);
    exchange(&b, &mut a, 100);
    assert_eq!(a.summary(), b.summary());
}

#[test]
fn a_revoked_key_stays_revoked_whatever_list_comes_and_the_root_says_so_again() {
    let root = FakeKeyring::root(1);
    let mut directory = Directory::new(root.mesh(), Arc::new(root), &[], at(0));
    take(&mut directory, &revocations(1, &[2])).unwrap();
    take(&mut directory, &revocations(5, &[3])).unwrap();
    assert!(directory.is_revoked(node(2)) && directory.is_revoked(node(3)));
    let signed = directory
        .signed(&RecordKey::Revocations)
        .unwrap()
        .decode()
        .unwrap();
    assert_eq!(signed.serial(), 6);
    // One who cannot sign keeps what it knows.
    let mut other = directory_of(2);
    take(&mut other, &revocations(1, &[4])).unwrap();
    take(&mut other, &revocations(5, &[3])).unwrap();
    assert!(other.is_revoked(node(4)) && other.is_revoked(node(3)));
}

#[test]
fn a_member_that_is_called_like_the_id_of_another_is_not_taken_for_it() {
    let id = node(2).to_string();
    for name in [id.as_str(), &node(2).short()] {
        let mut directory = directory_of(1);
        take(&mut directory, &named(9, name, Role::Member, None)).unwrap();
        let found = |text: &str| directory.find_member(text).map(|m| m.node);
        assert_eq!(found(&id), Some(node(2)));
        assert_eq!(found(&node(2).short()), Some(node(2)));
        assert_eq!((found("n2"), found("n3")), (Some(node(2)), Some(node(3))));
        // Nor for one that is no member any more.
        take(&mut directory, &revocations(1, &[2])).unwrap();
        assert_eq!(directory.find_member(&id), None);
    }
}

#[test]
fn a_name_that_an_id_begins_with_is_free_for_nobody() {
    let mut directory = directory_of(1);
    take(&mut directory, &revocations(1, &[3])).unwrap();
    for n in [1, 2, 3] {
        let id = node(n).to_string();
        for len in [6, 8, id.len()] {
            let name: Label = id[..len].parse().unwrap();
            assert!(!directory.name_is_free(&name), "{name}");
        }
    }
    for (name, free) in [("n2", false), ("n9", true), ("gateway", true)] {
        assert_eq!(
            directory.name_is_free(&name.parse().unwrap()),
            free,
            "{name}"
        );
    }
}
