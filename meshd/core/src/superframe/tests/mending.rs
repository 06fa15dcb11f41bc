//! Claims about what is made again of a superframe that lost some of itself.

use super::super::{Cut, Mender, REPAIRS_MAX, Repair, Slice};
use super::{Made, made, vni};
use crate::ident::Moment;
use crate::wire::datagram;
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use std::collections::VecDeque;

/// Slices and repairs of a superframe with number `id`.
fn sent(made: &Made, id: u32, max: usize, repairs: u8) -> Option<(Vec<Bytes>, usize)> {
    let (frame, mut room) = (made.frame(), BytesMut::new());
    let cut = Cut::of(&frame, made.segment, max)?;
    let all = cut.datagrams(vni(), id, repairs, &mut room).collect();
    Some((all, cut.count()))
}

fn take(mender: &mut Mender, datagram: &Bytes, out: &mut VecDeque<Slice>) {
    let now = Moment::default().plus_ms(5);
    if datagram::is_repair(datagram) {
        mender.repair(&Repair::decode(datagram).unwrap(), now, out);
    } else {
        mender.slice(Slice::decode(datagram).unwrap(), now, out);
    }
}

proptest! {
    #[test]
    fn a_superframe_of_which_each_group_lost_no_more_than_it_has_repairs_is_whole_again_at_once(
        made in made(), max in 400usize..1500, repairs in 1..=REPAIRS_MAX, lost in proptest::collection::vec(any::<prop::sample::Index>(), 14),
    ) {
        let Some((all, count)) = sent(&made, 7, max, repairs) else { return Ok(()) };
        let repairs = all.len() - count;
        let groups = if repairs == 1 { 1 } else { repairs / 2 };
        prop_assume!(repairs > 0 && count >= groups);
        // Of each group as many as it has repairs: slices or those.
        let mut gone = Vec::new();
        for group in 0..groups {
            let sums = (count + group..all.len()).step_by(groups);
            let members: Vec<usize> = (group..count).step_by(groups).chain(sums).collect();
            for turn in 0..repairs / groups {
                gone.push(members[lost[group + turn * groups].index(members.len())]);
            }
        }
        gone.sort_unstable();
        gone.dedup();
        // At least one slice tells what it is all about.
        prop_assume!((0..count - 1).any(|index| !gone.contains(&index)));
        let (mut mender, mut out) = (Mender::default(), VecDeque::new());
        for (index, datagram) in all.iter().enumerate() {
            if !gone.contains(&index) {
                take(&mut mender, datagram, &mut out);
            }
        }
        let wanted: Vec<Slice> = all[..count].iter().map(|d| Slice::decode(d).unwrap()).collect();
        prop_assert_eq!(out, wanted);
        prop_assert_eq!(mender.poll_timeout(), None);
        prop_assert_eq!(mender.take_mended(), gone.iter().filter(|index| **index < count).count() as u64);
    }

    #[test]
    fn what_comes_in_any_order_is_handed_on_and_nothing_that_was_not_sent(
        made in made(), max in 400usize..1500, repairs in 0..=REPAIRS_MAX,
        order in proptest::collection::vec(any::<prop::sample::Index>(), 0..60),
    ) {
        let Some((first, count)) = sent(&made, 7, max, repairs) else { return Ok(()) };
        let (second, _) = sent(&made, 8, max, repairs).unwrap();
        let all: Vec<&Bytes> = first.iter().chain(&second).collect();
        let slices: Vec<Slice> = first[..count].iter().chain(&second[..count]).map(|d| Slice::decode(d).unwrap()).collect();
        let (mut mender, mut out) = (Mender::default(), VecDeque::new());
        let mut came = Vec::new();
        for index in order {
            let index = index.index(all.len());
            if !came.contains(&index) {
                came.push(index);
                take(&mut mender, all[index], &mut out);
            }
        }
        mender.give_up(&mut out);
        for slice in &out {
            prop_assert!(slices.contains(slice));
        }
        for index in came {
            let datagram = all[index];
            if datagram::is_slice(datagram) {
                let slice = Slice::decode(datagram).unwrap();
                prop_assert!(out.contains(&slice), "what came is handed on");
            }
        }
    }

    #[test]
    fn any_bytes_are_a_repair_or_none_and_harm_nothing(
        made in made(), changes in proptest::collection::vec((0usize..120, any::<u8>()), 0..4), repairs in 1..=REPAIRS_MAX, skip in 0usize..8,
    ) {
        let Some((all, _)) = sent(&made, 7, 600, repairs) else { return Ok(()) };
        let (mut mender, mut out) = (Mender::default(), VecDeque::new());
        for (number, datagram) in all.iter().enumerate() {
            let mut bytes = datagram.to_vec();
            if number % 8 == skip {
                continue;
            }
            for (at, value) in &changes {
                // The kind stays.
                if let Some(byte) = bytes.get_mut(at + 1).filter(|_| number % 3 == 0) {
                    *byte = *value;
                }
            }
            let bytes = Bytes::from(bytes);
            if let Ok(repair) = Repair::decode(&bytes) && datagram::is_repair(&bytes) {
                mender.repair(&repair, Moment::default().plus_ms(5), &mut out);
            } else if let Ok(slice) = Slice::decode(&bytes) && datagram::is_slice(&bytes) {
                mender.slice(slice, Moment::default().plus_ms(5), &mut out);
            }
        }
        mender.give_up(&mut out);
        for slice in out {
            prop_assert!(slice.end() <= usize::from(slice.whole.total));
        }
    }
}

fn example() -> Made {
    Made {
        v6: false,
        udp: false,
        tags: 0,
        more: false,
        flags: 0x10,
        seq: 0,
        id: 1,
        segment: 500,
        payload: (0..8000u32).map(|byte| byte as u8).collect(),
    }
}

fn offsets(out: &VecDeque<Slice>) -> Vec<u16> {
    out.iter().map(|slice| slice.offset).collect()
}

#[test]
fn what_waits_behind_a_gap_waits_for_three_milliseconds_at_most() {
    let (all, count) = sent(&example(), 1, 700, 2).unwrap();
    let (mut mender, mut out) = (Mender::default(), VecDeque::new());
    for index in (0..count).filter(|index| ![2, 4].contains(index)) {
        take(&mut mender, &all[index], &mut out);
    }
    assert_eq!(out.len(), 2, "two came before the gap");
    assert_eq!(mender.poll_timeout(), Some(Moment::default().plus_ms(8)));
    mender.handle_timeout(Moment::default().plus_ms(7), &mut out);
    assert_eq!(out.len(), 2);
    mender.handle_timeout(Moment::default().plus_ms(8), &mut out);
    assert_eq!(out.len(), count - 2);
    assert!(offsets(&out).is_sorted());
    assert_eq!(mender.poll_timeout(), None);
}

#[test]
fn what_cannot_be_mended_is_handed_on_when_the_last_repair_or_another_superframe_comes() {
    let (all, count) = sent(&example(), 1, 700, 2).unwrap();
    let (next, _) = sent(&example(), 2, 700, 2).unwrap();
    for by_repair in [true, false] {
        let (mut mender, mut out) = (Mender::default(), VecDeque::new());
        // Three of the one group.
        let lost = [2, 4, 5];
        for index in (0..count).filter(|index| !lost.contains(index)) {
            take(&mut mender, &all[index], &mut out);
        }
        if by_repair {
            all[count..]
                .iter()
                .for_each(|repair| take(&mut mender, repair, &mut out));
        } else {
            take(&mut mender, &next[0], &mut out);
        }
        assert_eq!(out.len(), count - 3 + usize::from(!by_repair));
    }
}

#[test]
fn what_is_sent_without_repairs_waits_for_nothing() {
    let (all, count) = sent(&example(), 1, 700, 0).unwrap();
    let (mut mender, mut out) = (Mender::default(), VecDeque::new());
    for index in (0..count).filter(|index| *index != 2) {
        take(&mut mender, &all[index], &mut out);
    }
    assert_eq!(out.len(), count - 1);
    assert_eq!(mender.poll_timeout(), None);
}

#[test]
fn a_slice_that_comes_after_it_was_made_again_is_dropped() {
    let (all, count) = sent(&example(), 1, 700, 2).unwrap();
    let (mut mender, mut out) = (Mender::default(), VecDeque::new());
    for index in (0..all.len()).filter(|index| *index != 2) {
        take(&mut mender, &all[index], &mut out);
    }
    assert_eq!(out.len(), count);
    take(&mut mender, &all[2], &mut out);
    assert_eq!(out.len(), count);
}

#[test]
fn a_slice_that_comes_after_it_was_given_up_is_handed_on() {
    let (all, count) = sent(&example(), 1, 700, 2).unwrap();
    let (mut mender, mut out) = (Mender::default(), VecDeque::new());
    for index in (0..all.len()).filter(|index| ![2, 4, 5].contains(index)) {
        take(&mut mender, &all[index], &mut out);
    }
    assert_eq!(out.len(), count - 3);
    for _ in 0..2 {
        take(&mut mender, &all[2], &mut out);
    }
    assert_eq!(out.len(), count - 2);
}
