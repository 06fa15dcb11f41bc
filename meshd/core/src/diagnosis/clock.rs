//! This host's clock: was it set, does somebody keep it, and does it agree with those of the peers?
//!
//! Refuses to call a difference one that the way there and back could make.

use super::{Finding, Witness, fail, span, warn, well};
use crate::view::Check;

/// A clock before this (2025-01-01, in ms) was never set: meshd is younger.
const CLOCK_MIN_MS: u64 = 1_735_689_600_000;
/// From here on a difference is told.
const SKEW_MS: u64 = 2_000;
/// From here on invites and memberships suffer.
const SKEW_BAD_MS: u64 = 60_000;

/// What the kernel says of the clock (adjtimex(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Somebody keeps it: `STA_UNSYNC` is not set.
    pub synchronised: bool,
    /// The error at most, in ms, as that somebody believes.
    pub error_max_ms: u64,
}

/// Set at all, and kept. `kept` is `None` where the kernel did not tell.
#[must_use]
pub fn own(now_ms: u64, kept: Option<Kept>) -> Check {
    if now_ms < CLOCK_MIN_MS {
        return fail(
            Finding::ClockUnset,
            "clock",
            "says a time before 2025",
            "set it (`timedatectl set-ntp true`): invites and memberships expire by it",
        );
    }
    match kept {
        Some(Kept {
            synchronised: true,
            error_max_ms,
        }) => well(
            "clock",
            format!("kept by a time service, within {}", span(error_max_ms)),
        ),
        Some(_) => warn(
            Finding::ClockUnsynchronised,
            "clock",
            "was set, and no time service keeps it (the kernel's STA_UNSYNC)",
            "run one: `timedatectl set-ntp true`, chrony or ntpd",
        ),
        None => well("clock", "was set"),
    }
}

/// A peer's clock minus this one, in ms, and how far that may be off: half of the time there and back.
fn offset(witness: &Witness) -> Option<(i64, u64)> {
    let heard = witness.said.as_ref().ok()?;
    let trip = heard.came_ms.checked_sub(heard.asked_ms)?;
    let middle = heard.asked_ms + trip / 2;
    let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    let offset = signed(heard.testimony.wall_ms).saturating_sub(signed(middle));
    Some((offset, trip.div_ceil(2)))
}

/// Against the peers. Where most of them say the same of this clock, it is this one that is wrong.
#[must_use]
pub fn against(witnesses: &[Witness]) -> Vec<Check> {
    let offsets: Vec<_> = witnesses
        .iter()
        .filter_map(|witness| Some((witness.peer.as_str(), offset(witness)?)))
        .collect();
    let is_off = |(offset, doubt): (i64, u64)| offset.unsigned_abs() > SKEW_MS + doubt;
    let off: Vec<_> = offsets.iter().filter(|(_, of)| is_off(*of)).collect();
    if offsets.is_empty() {
        return Vec::new();
    }
    let name = "clocks of peers";
    if off.is_empty() {
        let most = offsets.iter().map(|(_, (offset, _))| offset.unsigned_abs());
        let found = format!(
            "{} asked, all within {} of this one",
            offsets.len(),
            span(most.max().unwrap_or_default().max(1))
        );
        return vec![well(name, found)];
    }
    let ours = off.len() >= 2 && off.len() * 2 > offsets.len();
    off.into_iter()
        .map(|(peer, (offset, doubt))| {
            let away = offset.unsigned_abs();
            let found = format!(
                "that of {peer} is {} {} this host's (give or take {})",
                span(away),
                if *offset > 0 { "ahead of" } else { "behind" },
                span(*doubt)
            );
            let advice = match (ours, offsets.len()) {
                (true, _) => "most peers say so, so it is this host's clock: `timedatectl set-ntp true`".to_owned(),
                (false, 1) => format!("`timedatectl set-ntp true` on this host and on {peer}; compare `date -u` on both"),
                (false, _) => format!("other peers agree with this host, so it is that of {peer}: `timedatectl set-ntp true` there"),
            };
            match away > SKEW_BAD_MS {
                true => fail(Finding::ClockSkew, name, found, advice),
                false => warn(Finding::ClockSkew, name, found, advice),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::testimony::witness;
    use super::*;
    use crate::view::CheckState;

    #[test]
    fn a_clock_that_nobody_keeps_is_told_and_one_that_was_never_set_is_a_fault() {
        let kept = |synchronised| {
            Some(Kept {
                synchronised,
                error_max_ms: 20,
            })
        };
        let now = CLOCK_MIN_MS + 1;
        assert_eq!(own(now, kept(true)).state, CheckState::Ok);
        assert_eq!(
            own(now, kept(false)).code,
            Some(Finding::ClockUnsynchronised)
        );
        assert_eq!(own(now, None).state, CheckState::Ok);
        assert_eq!(own(5, kept(true)).code, Some(Finding::ClockUnset));
    }

    #[test]
    fn the_way_there_and_back_is_no_difference_of_clocks() {
        let fine = [
            witness("b", |_| {}),
            witness("c", |said| said.wall_ms += 1_500),
        ];
        assert_eq!(
            against(&fine).first().map(|check| check.state),
            Some(CheckState::Ok)
        );
        // Half an answer of ten seconds is doubt.
        let mut slow = witness("b", |said| said.wall_ms += 9_000);
        if let Ok(heard) = &mut slow.said {
            heard.came_ms += 10_000;
        }
        assert_eq!(
            against(&[slow]).first().map(|check| check.state),
            Some(CheckState::Ok)
        );
    }

    #[test]
    fn who_is_wrong_is_told_by_what_most_say() {
        let late = |peer: &str| witness(peer, |said| said.wall_ms += 10_000);
        let one = against(&[late("b"), witness("c", |_| {}), witness("d", |_| {})]);
        assert_eq!(one.len(), 1);
        let text = |checks: &[Check]| format!("{checks:?}");
        assert!(
            text(&one).contains("10.0 s ahead of") && text(&one).contains("it is that of b"),
            "{one:?}"
        );
        assert_eq!(one.first().map(|check| check.state), Some(CheckState::Warn));
        let most = against(&[late("b"), late("c"), witness("d", |_| {})]);
        assert!(
            most.len() == 2 && text(&most).contains("this host's clock"),
            "{most:?}"
        );
        let far = against(&[witness("b", |said| said.wall_ms = 0)]);
        assert_eq!(far.first().map(|check| check.state), Some(CheckState::Fail));
        assert!(text(&far).contains("behind"), "{far:?}");
    }

    #[test]
    fn who_did_not_answer_says_nothing_of_clocks() {
        let silent = Witness {
            peer: "b".to_owned(),
            said: Err("no session".to_owned()),
        };
        assert!(against(&[silent]).is_empty());
    }
}
