//! What the kernel says of its clock.
#![allow(unsafe_code)] // adjtimex(2) has no safe wrapper in our dependencies.

use meshd_core::diagnosis::clock::Kept;

/// Reads it and changes nothing; `None` where the call is not allowed, as by some sandboxes.
pub(super) fn kept() -> Option<Kept> {
    // SAFETY: all zeros are a valid `timex`, whose `modes` 0 asks for reading alone.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `timex` is valid for reads and writes for the whole call.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    (state >= 0).then(|| Kept {
        synchronised: timex.status & libc::STA_UNSYNC == 0,
        error_max_ms: u64::try_from(timex.maxerror).unwrap_or_default() / 1000,
    })
}
