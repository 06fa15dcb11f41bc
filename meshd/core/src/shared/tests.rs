//! Claims about shared values: nodes that have heard the same see the same, and no peer makes anybody's table grow.

use super::*;
use proptest::prelude::*;

const MOST: usize = 64 << 10;
/// A day in 2026.
const START: u64 = 1_790_000_000_000;

fn id(n: u8) -> NodeId {
    NodeId([n; 32])
}

fn at(ms: u64) -> WallTime {
    WallTime(START + ms)
}

fn replica(n: u8) -> Replica {
    Replica::new(id(n), Vec::new())
}

fn put(to: &mut Replica, key: &str, value: &str, ms: u64) -> u64 {
    to.set(key, value.into(), None, 0, MOST, at(ms)).unwrap()
}

fn share(of: &Replica) -> Vec<SharedValue> {
    of.own.values().cloned().collect()
}

/// `to` hears the shares of `of` and of nobody else.
fn tell(to: &mut Replica, of: &[&Replica], ms: u64) -> Vec<String> {
    let shares: Vec<(NodeId, Vec<SharedValue>)> = of.iter().map(|r| (r.me, share(r))).collect();
    to.hear(shares.iter().map(|(node, list)| (*node, &list[..])), at(ms))
}

fn seen(of: &Replica, key: &str, ms: u64) -> Option<String> {
    let (value, _) = of.get(key, at(ms))?;
    Some(String::from_utf8(value.to_vec()).unwrap())
}

#[test]
fn the_last_writer_holds_and_what_it_wrote_over_leaves_the_share_of_the_other() {
    let (mut a, mut b) = (replica(1), replica(2));
    put(&mut a, "k", "of a", 0);
    assert_eq!(tell(&mut b, &[&a], 10), ["k"]);
    assert_eq!(tell(&mut b, &[&a], 10), [""; 0], "no news");
    // The clock of b is behind: its stamp is above what it has seen all the same.
    put(&mut b, "k", "of b", 0);
    assert_eq!(tell(&mut a, &[&b], 20), ["k"]);
    for node in [&a, &b] {
        assert_eq!(seen(node, "k", 20).as_deref(), Some("of b"));
    }
    assert_eq!(share(&a), []);
    assert_eq!(a.take_share(at(20)), Some(Vec::new()), "it is told anew");
}

#[test]
fn a_write_with_an_expected_version_holds_only_against_that_one() {
    let mut a = replica(1);
    let first = a.set("k", b"1".to_vec(), Some(0), 0, MOST, at(0)).unwrap();
    let again = a.set("k", b"2".to_vec(), Some(0), 0, MOST, at(0));
    assert_eq!(again, Err(SetError::Conflict(first)));
    let second = a
        .set("k", b"2".to_vec(), Some(first), 0, MOST, at(0))
        .unwrap();
    assert!(second > first);
    a.delete("k", MOST, at(0)).unwrap();
    let third = a.set("k", b"3".to_vec(), Some(0), 0, MOST, at(0)).unwrap();
    assert!(third > second, "of a key that comes again too");
}

#[test]
fn what_was_deleted_does_not_come_back_with_a_node_that_was_away() {
    let (mut a, mut b) = (replica(1), replica(2));
    put(&mut a, "k", "old", 0);
    tell(&mut b, &[&a], 10);
    b.delete("k", MOST, at(20)).unwrap();
    // a was away and knows nothing of it.
    tell(&mut b, &[&a], 30);
    assert_eq!(seen(&b, "k", 30), None);
    assert_eq!(tell(&mut a, &[&b], 40), ["k"]);
    assert_eq!((seen(&a, "k", 40), share(&a)), (None, Vec::new()));
    // And after a day the tombstone goes.
    assert_eq!(share(&b).len(), 1);
    assert_eq!(b.take_share(at(30 + TOMBSTONE_MS)), Some(Vec::new()));
}

#[test]
fn a_value_that_runs_out_uncovers_no_older_one() {
    let (mut a, mut b) = (replica(1), replica(2));
    put(&mut a, "k", "old", 0);
    tell(&mut b, &[&a], 0);
    b.set("k", b"new".to_vec(), None, 100, MOST, at(10))
        .unwrap();
    tell(&mut b, &[&a], 20);
    assert_eq!(seen(&b, "k", 109).as_deref(), Some("new"));
    assert_eq!(seen(&b, "k", 110), None);
    assert!(b.take_share(at(110)).is_some());
    tell(&mut b, &[&a], 120);
    assert_eq!(
        (seen(&b, "k", 120), b.list("", None, 9, at(120)).len()),
        (None, 0)
    );
}

#[test]
fn a_stamp_of_the_far_future_counts_when_its_time_comes_and_keeps_nobody_from_writing() {
    let (mut liar, mut a) = (replica(9), replica(1));
    put(&mut liar, "k", "of the future", 10 * FUTURE_MS);
    put(&mut liar, "l", "of soon", FUTURE_MS - 1);
    tell(&mut a, &[&liar], 0);
    assert_eq!(seen(&a, "k", 0), None);
    assert_eq!(seen(&a, "l", 0).as_deref(), Some("of soon"));
    let stamp = put(&mut a, "k", "of a", 1);
    assert!(
        stamp >> COUNT_BITS < START + FUTURE_MS,
        "its clock stays near"
    );
    assert_eq!(a.due(), Some(at(9 * FUTURE_MS)));
    tell(&mut a, &[&liar], 9 * FUTURE_MS);
    assert_eq!(
        seen(&a, "k", 9 * FUTURE_MS).as_deref(),
        Some("of the future")
    );
    // A node that set its own clock right writes over what it wrote when it was wrong.
    put(&mut liar, "k", "now", 0);
    assert_eq!(seen(&liar, "k", 0).as_deref(), Some("now"));
}

#[test]
fn a_node_shares_so_much_and_no_more_and_tombstones_make_room() {
    let mut a = replica(1);
    let most = 1000;
    let mut put = |key: &str, bytes: usize| a.set(key, vec![0; bytes], None, 0, most, at(0));
    put("1", 400).unwrap();
    put("2", 400).unwrap();
    assert_eq!(put("3", 400), Err(SetError::Full));
    put("2", 300).unwrap();
    assert_eq!(put("4", VALUE_MAX + 1), Err(SetError::TooLarge));
    assert_eq!(put(&"k".repeat(KEY_MAX + 1), 0), Err(SetError::TooLarge));
    a.delete("1", most, at(0)).unwrap();
    a.delete("2", most, at(0)).unwrap();
    for n in 0..1000 {
        let key = format!("many/{n}");
        a.set(&key, vec![0; 100], None, 0, most, at(n)).unwrap();
        a.delete(&key, most, at(n)).unwrap();
        assert!(a.bytes() <= most);
    }
    a.set("3", vec![0; 900], None, 0, most, at(0)).unwrap();
    assert_eq!(
        a.bytes(),
        share(&a).iter().map(SharedValue::cost).sum::<usize>()
    );
}

#[derive(Clone, Debug)]
enum Op {
    Set(usize, u8, u8, u32),
    Delete(usize, u8),
    /// One hears another.
    Hear(usize, usize),
    Wait(u64),
}

const NODES: usize = 4;

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..NODES, 0..5u8, any::<u8>(), prop_oneof![Just(0u32), 1..2000u32]).prop_map(|(n, k, v, t)| Op::Set(n, k, v, t)),
        2 => (0..NODES, 0..5u8).prop_map(|(n, k)| Op::Delete(n, k)),
        4 => (0..NODES, 0..NODES).prop_map(|(a, b)| Op::Hear(a, b)),
        2 => (0..1500u64).prop_map(Op::Wait),
    ]
}

proptest! {
    /// Each node's clock is off by up to half a minute; they hear each other as it comes, and at last all hear all.
    #[test]
    fn whoever_has_heard_the_same_sees_the_same_whatever_came_before(
        ops in proptest::collection::vec(any_op(), 1..120),
        skew in proptest::collection::vec(0..30_000u64, NODES),
    ) {
        let mut nodes: Vec<Replica> = (0..NODES).map(|n| replica(n as u8 + 1)).collect();
        // What each has heard last of each.
        let mut heard = vec![vec![Vec::new(); NODES]; NODES];
        let mut now = 0;
        let hear = |nodes: &mut Vec<Replica>, heard: &Vec<Vec<Vec<SharedValue>>>, to: usize, ms: u64| {
            let all = heard[to].iter().enumerate().map(|(n, list)| (id(n as u8 + 1), &list[..]));
            nodes[to].hear(all, at(ms))
        };
        for op in ops {
            match op {
                Op::Set(n, k, v, ttl) => drop(nodes[n].set(&k.to_string(), vec![v], None, ttl, MOST, at(now + skew[n]))),
                Op::Delete(n, k) => nodes[n].delete(&k.to_string(), MOST, at(now + skew[n])).unwrap(),
                Op::Hear(a, b) => {
                    heard[a][b] = share(&nodes[b]);
                    hear(&mut nodes, &heard, a, now + skew[a]);
                }
                Op::Wait(ms) => now += ms,
            }
            for node in &nodes {
                prop_assert_eq!(node.bytes, node.own.values().map(SharedValue::cost).sum::<usize>());
            }
        }
        // Past every time to live and every skew; twice, since a share shrinks by what is heard.
        now += 60_000;
        for _ in 0..2 {
            let shares: Vec<_> = nodes.iter_mut().map(|node| { node.tidy(at(now)); share(node) }).collect();
            for to in 0..NODES {
                heard[to] = shares.clone();
                hear(&mut nodes, &heard, to, now);
            }
        }
        let view = |node: &Replica| -> Vec<(String, Vec<u8>, u64)> {
            let keys = node.list("", None, 1024, at(now)).into_iter();
            keys.map(|key| { let (value, version) = node.get(&key, at(now)).unwrap(); (key, value.to_vec(), version) }).collect()
        };
        for node in &nodes {
            prop_assert_eq!(view(node), view(&nodes[0]));
        }
        // A key is in the share of one node only: the last writer's.
        let mut writers = BTreeSet::new();
        for value in nodes.iter().flat_map(share) {
            prop_assert!(writers.insert(value.key.clone()), "{} is told by two", value.key);
        }
    }
}
