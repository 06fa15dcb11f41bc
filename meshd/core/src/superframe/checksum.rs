//! The Internet checksum (RFC 1071).

/// The sum of 16-bit words, not yet folded; a byte that is left over is the upper half of a word.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    // Eight bytes at a time: the sum of 32-bit halves has the same residue.
    let mut words = bytes.chunks_exact(8);
    let mut total = 0u64;
    for word in &mut words {
        if let Some(word) = word.first_chunk::<8>() {
            let word = u64::from_be_bytes(*word);
            total += (word >> 32) + (word & 0xffff_ffff);
        }
    }
    let mut rest = words.remainder().chunks_exact(2);
    for pair in &mut rest {
        if let &[high, low] = pair {
            total += u64::from(u16::from_be_bytes([high, low]));
        }
    }
    if let &[last] = rest.remainder() {
        total += u64::from(last) << 8;
    }
    total
}

/// Folded to 16 bits; not yet inverted.
pub(super) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // No more than 16 bits are left.
    sum as u16
}

/// Fills in the checksum of an ordinary frame, of which so far only the pseudo header is in it: what the kernel leaves to us
/// with `needs_checksum`. A place that is not in the frame changes nothing.
pub fn complete(frame: &mut [u8], start: u16, offset: u16) {
    let start = usize::from(start);
    let Some(covered) = frame.get(start..) else {
        return;
    };
    let value = !fold(sum(covered));
    // 0 says that there is none (RFC 768).
    let value = if value == 0 { 0xffff } else { value };
    let at = start + usize::from(offset);
    if let Some(place) = frame.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As RFC 1071 §4.1 writes it down.
    fn plain(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            let low = pair.get(1).copied().unwrap_or_default();
            sum += u32::from(u16::from_be_bytes([pair[0], low]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    proptest! {
        #[test]
        fn the_sum_of_any_bytes_is_that_of_their_words(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            // 0 and 0xffff are the same number.
            let same = |a: u16, b: u16| a % 0xffff == b % 0xffff;
            prop_assert!(same(fold(sum(&bytes)), plain(&bytes)));
        }

        #[test]
        fn a_completed_checksum_is_right_and_one_out_of_bounds_changes_nothing(
            mut frame in proptest::collection::vec(any::<u8>(), 40..200), start in 0u16..250, offset in 0u16..250,
        ) {
            let before = frame.clone();
            let (start, at) = (start & !1, usize::from((start & !1) + (offset & !1)));
            complete(&mut frame, start, offset & !1);
            if at + 2 <= frame.len() && usize::from(start) <= frame.len() {
                frame[at..at + 2].copy_from_slice(&before[at..at + 2]);
            }
            prop_assert_eq!(frame, before);
        }
    }
}
