//! Claims about what is missed of superframes.

use super::super::{Cut, Missing, Slice};
use super::{made, vni};
use crate::ident::Moment;
use bytes::BytesMut;
use proptest::prelude::*;

proptest! {
    #[test]
    fn what_did_not_come_of_a_superframe_is_missed_once_and_what_came_late_is_not(
        made in made(), max in 400usize..1500,
        lost in proptest::collection::vec(any::<bool>(), 200), late in any::<bool>(),
    ) {
        let (frame, mut room) = (made.frame(), BytesMut::new());
        let mut slices = |id| -> Option<Vec<Slice>> {
            let cut = Cut::of(&frame, made.segment, max)?;
            let all = cut.datagrams(vni(), id, 0, &mut room);
            Some(all.map(|datagram| Slice::decode(&datagram).unwrap()).collect())
        };
        let Some(first) = slices(1) else { return Ok(()) };
        let (second, third) = (slices(2).unwrap(), slices(3).unwrap());
        let gone = |at: usize| at > 0 && lost.get(at).copied().unwrap_or(false);
        let mut missing = Missing::default();
        let now = Moment::default();
        let mut counted = 0;
        let mut take = |slice: &Slice| counted += missing.slice(slice, now).map_or(0, |(_, frames)| frames);
        let kept = first.iter().enumerate().filter(|(at, _)| !gone(*at));
        kept.for_each(|(_, slice)| take(slice));
        second.iter().for_each(&mut take);
        if late {
            first.iter().enumerate().filter(|(at, _)| gone(*at)).for_each(|(_, slice)| take(slice));
        }
        third.iter().for_each(&mut take);
        let bytes: usize = first.iter().enumerate().filter(|(at, _)| gone(*at)).map(|(_, slice)| slice.payload().len()).sum();
        let wanted = if late { 0 } else { bytes.div_ceil(usize::from(made.segment)) as u64 };
        prop_assert_eq!(counted, wanted);
        // Of those that are whole nothing is missed, however long one waits.
        let end = now.plus_ms(5000);
        prop_assert_eq!(missing.handle_timeout(end), None);
        prop_assert_eq!(missing.poll_timeout(), None);
    }
}
