//! What is lost of a superframe, made again of what came.
//!
//! ```text
//!   slice 0  slice 1    -     slice 3 …  slice 45   repair 0  repair 1        slice 2 is missing: 3 and on wait
//!      |        |              parked …  parked         |
//!      v        v                                       +--> slice 2 = repair 0 + all others of its group, then what waited
//!     out      out
//! ```
//!
//! Owns one superframe at a time, from its first slice on until it is complete or given up: when all repairs have come and do not do,
//! when something else comes behind it, or after [`WAIT_MS`]. Its memory is two sums for each group, and copies of what waits. What was
//! not sent with repairs passes as it came.
//!
//! What has come is added up as it comes, and a repair is added to that: what is left in the plain sum of a group is the sum of what is
//! missing, and in the weighted one the same by weights. Two sums tell two slices.

use super::field::{self, Factor};
use super::slice::{Repair, Slice, Whole, groups};
use crate::ident::Moment;
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::VecDeque;

/// How long what came behind a gap waits for a repair, in ms. Repairs are sent at once behind the slices.
const WAIT_MS: u64 = 3;
/// Slices of a superframe that is mended: as many as a word has bits.
const SLICES_MAX: usize = 128;

#[derive(Debug)]
struct Open {
    whole: Whole,
    step: usize,
    repairs: u8,
    groups: usize,
    /// Which slices have come.
    seen: u128,
    /// What has been handed on ends here.
    upto: usize,
    /// When the gap was seen.
    since: Option<Moment>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Mender {
    open: Option<Open>,
    /// Of each group, one after the other: the plain sums, and the weighted ones.
    sums: Vec<u8>,
    groups: Vec<Group>,
    /// What came behind a gap, by offset.
    parked: VecDeque<Slice>,
    /// The superframe that was open last: of a late slice of it, what it brings has been handed on or has not.
    closed: Option<Open>,
    mended: u64,
}

/// How far the sums of a group are.
#[derive(Clone, Copy, Debug, Default)]
struct Group {
    /// The weighted sum is right for so many members.
    weighed: usize,
    /// Which repairs are added.
    has_plain: bool,
    has_weighted: bool,
}

impl Open {
    fn is(&self, slice: &Slice) -> bool {
        (self.whole.vni, self.whole.id) == (slice.whole.vni, slice.whole.id)
    }

    fn count(&self) -> usize {
        usize::from(self.whole.total).div_ceil(self.step)
    }

    /// The number of a slice, if it is one of those that this one is cut into.
    fn index(&self, slice: &Slice) -> Option<usize> {
        let offset = usize::from(slice.offset);
        let is_last = slice.end() == usize::from(self.whole.total);
        let fits = slice.whole == self.whole
            && slice.repairs == self.repairs
            && offset.is_multiple_of(self.step)
            && (slice.payload().len() == self.step || is_last && slice.payload().len() < self.step);
        fits.then_some(offset / self.step)
    }

    /// Slices of a group.
    fn members(&self, group: usize) -> usize {
        (self.count() - group).div_ceil(self.groups)
    }

    /// The first two slices of a group that have not come, and whether they are all.
    fn missing(&self, group: usize) -> ([Option<usize>; 2], bool) {
        let members = (group..self.count()).step_by(self.groups);
        let mut missing = members.filter(|index| self.seen >> index & 1 == 0);
        ([missing.next(), missing.next()], missing.next().is_none())
    }
}

impl Mender {
    /// A slice came. `out` gets what can be handed on, in order.
    pub fn slice(&mut self, slice: Slice, now: Moment, out: &mut VecDeque<Slice>) {
        if let Some(closed) = &mut self.closed
            && let Some(index) = closed.index(&slice)
        {
            if closed.seen >> index & 1 == 0 {
                closed.seen |= 1 << index;
                out.push_back(slice);
            }
            return;
        }
        let known = self.open.as_ref().is_some_and(|open| open.is(&slice));
        if !known {
            self.give_up(out);
            self.begin(&slice);
        }
        self.take(slice, now, out);
    }

    fn begin(&mut self, slice: &Slice) {
        let step = slice.payload().len();
        let is_last = slice.end() == usize::from(slice.whole.total);
        let late = self.closed.as_ref().is_some_and(|closed| closed.is(slice));
        let groups = groups(slice.repairs).unwrap_or_default();
        // The last is shorter than the others.
        if groups == 0 || is_last || late {
            return;
        }
        let open = Open {
            whole: slice.whole,
            step,
            repairs: slice.repairs,
            groups: usize::from(groups),
            seen: 0,
            upto: 0,
            since: None,
        };
        if open.count() > SLICES_MAX || open.count() < open.groups {
            return;
        }
        self.sums.clear();
        self.sums.resize(2 * step * open.groups, 0);
        self.groups.clear();
        self.groups.resize(open.groups, Group::default());
        self.open = Some(open);
    }

    fn take(&mut self, slice: Slice, now: Moment, out: &mut VecDeque<Slice>) {
        let Some(open) = &mut self.open else {
            return out.push_back(slice);
        };
        let Some(index) = open.index(&slice) else {
            self.give_up(out);
            return out.push_back(slice);
        };
        if open.seen >> index & 1 == 1 {
            return;
        }
        open.seen |= 1 << index;
        if let Some(Sums {
            group,
            plain,
            weighted,
        }) = sums(open, &mut self.groups, &mut self.sums, index % open.groups)
        {
            field::add(plain, slice.payload());
            // With one repair nobody will ask for the other sum.
            if open.repairs > 1 {
                group.weigh(index / open.groups, weighted, slice.payload());
            }
        }
        if usize::from(slice.offset) != open.upto {
            open.since.get_or_insert(now);
            let at = self
                .parked
                .partition_point(|other| other.offset < slice.offset);
            // A copy, so that it does not keep the large buffer that it was read into.
            let bytes = Bytes::copy_from_slice(&slice.bytes);
            return self.parked.insert(at, Slice { bytes, ..slice });
        }
        open.upto = slice.end();
        out.push_back(slice);
        while let Some(next) = self
            .parked
            .pop_front_if(|next| usize::from(next.offset) == open.upto)
        {
            open.upto = next.end();
            out.push_back(next);
        }
        if self.parked.is_empty() {
            open.since = None;
        }
        if open.upto == usize::from(open.whole.total) {
            self.closed = self.open.take();
        }
    }

    /// A repair came.
    pub fn repair(&mut self, repair: &Repair, now: Moment, out: &mut VecDeque<Slice>) {
        let Some(open) = self.open.as_ref().filter(|open| {
            open.whole == repair.whole
                && open.step == usize::from(repair.step)
                && open.repairs == repair.repairs
        }) else {
            return;
        };
        let (group, is_weighted) = repair.of();
        for slice in add_repair(
            open,
            &mut self.groups,
            &mut self.sums,
            group.into(),
            is_weighted,
            repair,
        ) {
            self.mended += 1;
            self.take(slice, now, out);
        }
        if repair.which + 1 == repair.repairs {
            self.give_up(out);
        }
    }

    /// Nothing more is waited for: something else came behind it.
    pub fn give_up(&mut self, out: &mut VecDeque<Slice>) {
        if let Some(open) = self.open.take() {
            out.extend(self.parked.drain(..));
            self.closed = Some(open);
        }
    }

    /// When what waits has waited long enough.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        let since = self.open.as_ref()?.since?;
        Some(since.plus_ms(WAIT_MS))
    }

    /// Gives up what has waited for too long.
    pub fn handle_timeout(&mut self, now: Moment, out: &mut VecDeque<Slice>) {
        if self.poll_timeout().is_some_and(|due| due <= now) {
            self.give_up(out);
        }
    }

    /// Slices that were made again, since the last call.
    pub fn take_mended(&mut self) -> u64 {
        core::mem::take(&mut self.mended)
    }
}

impl Group {
    /// Adds a member to the weighted sum. Each one more in a row costs a doubling; one that comes late is multiplied.
    fn weigh(&mut self, member: usize, sum: &mut [u8], payload: &[u8]) {
        if member < self.weighed {
            let weight = Factor::new(field::power(self.weighed - 1 - member));
            return weight.add(sum, payload);
        }
        self.double(member, sum);
        field::double_and_add(sum, payload);
        self.weighed = member + 1;
    }

    /// Makes the sum right for so many members, of which some have not come.
    fn double(&mut self, members: usize, sum: &mut [u8]) {
        (self.weighed..members).for_each(|_| field::double(sum));
        self.weighed = self.weighed.max(members);
    }
}

/// What is added up of a group.
struct Sums<'s> {
    group: &'s mut Group,
    plain: &'s mut [u8],
    weighted: &'s mut [u8],
}

fn sums<'s>(
    open: &Open,
    groups: &'s mut [Group],
    sums: &'s mut [u8],
    group: usize,
) -> Option<Sums<'s>> {
    let (plain, weighted) = sums.split_at_mut_checked(open.step * open.groups)?;
    let place = group * open.step..(group + 1) * open.step;
    Some(Sums {
        group: groups.get_mut(group)?,
        plain: plain.get_mut(place.clone())?,
        weighted: weighted.get_mut(place)?,
    })
}

/// The slices that can be made now.
fn add_repair(
    open: &Open,
    groups: &mut [Group],
    all: &mut [u8],
    number: usize,
    is_weighted: bool,
    repair: &Repair,
) -> impl Iterator<Item = Slice> + use<> {
    let mut made = [None, None];
    if let Some(Sums {
        group,
        plain,
        weighted,
    }) = sums(open, groups, all, number)
    {
        let members = open.members(number);
        let has = match is_weighted {
            true => &mut group.has_weighted,
            false => &mut group.has_plain,
        };
        if !std::mem::replace(has, true) {
            match is_weighted {
                false => field::add(plain, repair.sum()),
                true => {
                    group.double(members, weighted);
                    field::add(weighted, repair.sum());
                }
            }
            let weight = |index: usize| field::power(members - 1 - index / open.groups);
            let (missing, are_all) = open.missing(number);
            made = match missing {
                _ if !are_all => [None, None],
                [Some(one), None] if group.has_plain => [Some((one, plain.to_vec())), None],
                [Some(one), None] => {
                    let mut payload = weighted.to_vec();
                    Factor::new(weight(one)).inverse().scale(&mut payload);
                    [Some((one, payload)), None]
                }
                [Some(one), Some(other)] if group.has_plain && group.has_weighted => {
                    // weighted = weight(one) * first + weight(other) * second, plain = first + second.
                    let mut first = weighted.to_vec();
                    Factor::new(weight(other)).add(&mut first, plain);
                    let both = Factor::new(weight(one) ^ weight(other));
                    both.inverse().scale(&mut first);
                    let mut second = first.clone();
                    field::add(&mut second, plain);
                    [Some((one, first)), Some((other, second))]
                }
                _ => [None, None],
            };
        }
    }
    let (whole, step, repairs) = (open.whole, open.step, open.repairs);
    let headers = Bytes::copy_from_slice(repair.headers());
    made.into_iter().flatten().map(move |(index, payload)| {
        let offset = index * step;
        let len = step.min(usize::from(whole.total) - offset);
        let mut bytes = BytesMut::with_capacity(headers.len() + len);
        bytes.put_slice(&headers);
        bytes.put_slice(payload.get(..len).unwrap_or_default());
        Slice {
            whole,
            // Below `total`.
            offset: offset as u16,
            repairs,
            bytes: bytes.freeze(),
        }
    })
}
