//! pcapng, as much of it as a capture needs (draft-ietf-opsawg-pcapng).
//!
//! ```text
//!   section header | interface | interface … | packet | packet | interface | packet … | statistics
//! ```
//!
//! Owns the bytes. Blocks are whole and stand alone, so a file that is cut between two of them is a right one.

/// Blocks, by the number of their type.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
/// `LINKTYPE_ETHERNET`.
const ETHERNET: u16 = 1;

/// Options of all blocks.
const COMMENT: u16 = 1;
/// Options of an interface.
const IF_NAME: u16 = 2;
const IF_DESCRIPTION: u16 = 3;
const IF_TSRESOL: u16 = 9;
/// Of the section: who wrote it.
const SHB_USERAPPL: u16 = 4;
/// Options of a packet.
const EPB_FLAGS: u16 = 2;
const EPB_DROPCOUNT: u16 = 4;
/// Of statistics: what the writer has left out.
const ISB_IFDROP: u16 = 5;

/// A packet to be written.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Number of its interface, in the order in which they were written.
    pub interface: u32,
    /// Nanoseconds since the Unix epoch.
    pub at_ns: u64,
    /// What is kept of it.
    pub bytes: &'a [u8],
    /// How long it was.
    pub length: u32,
    /// It came by the interface, or (false) left by it.
    pub inbound: bool,
    /// Frames that were left out since the one before.
    pub missed: u64,
    /// What is to be said of it; empty: nothing.
    pub comment: &'a str,
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    // A length has 16 bits.
    let value = value.get(..usize::from(u16::MAX)).unwrap_or(value);
    out.extend_from_slice(&code.to_le_bytes());
    out.extend_from_slice(&(value.len() as u16).to_le_bytes());
    out.extend_from_slice(value);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

/// A block of `kind`: length in front and behind.
fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = (out.len() - begin + 4) as u32;
    out.extend_from_slice(&length.to_le_bytes());
    if let Some(place) = out.get_mut(begin + 4..begin + 8) {
        place.copy_from_slice(&length.to_le_bytes());
    }
}

/// The head of a file; `comment` as of a packet.
pub fn section(out: &mut Vec<u8>, program: &str, comment: &str) {
    block(out, SECTION, |out| {
        // Byte order, version 1.0, and a length that is not known.
        out.extend_from_slice(&0x1a2b_3c4d_u32.to_le_bytes());
        out.extend_from_slice(&[1, 0, 0, 0]);
        out.extend_from_slice(&u64::MAX.to_le_bytes());
        if !comment.is_empty() {
            option(out, COMMENT, comment.as_bytes());
        }
        option(out, SHB_USERAPPL, program.as_bytes());
        option(out, 0, &[]);
    });
}

/// One more interface; they are numbered from 0. Of each packet at most `snaplen` bytes are kept.
pub fn interface(out: &mut Vec<u8>, name: &str, description: &str, snaplen: u32) {
    block(out, INTERFACE, |out| {
        out.extend_from_slice(&ETHERNET.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&snaplen.to_le_bytes());
        option(out, IF_NAME, name.as_bytes());
        if !description.is_empty() {
            option(out, IF_DESCRIPTION, description.as_bytes());
        }
        // Nanoseconds.
        option(out, IF_TSRESOL, &[9]);
        option(out, 0, &[]);
    });
}

fn time(out: &mut Vec<u8>, at_ns: u64) {
    out.extend_from_slice(&((at_ns >> 32) as u32).to_le_bytes());
    out.extend_from_slice(&(at_ns as u32).to_le_bytes());
}

/// One packet.
pub fn packet(out: &mut Vec<u8>, packet: &Packet<'_>) {
    block(out, PACKET, |out| {
        out.extend_from_slice(&packet.interface.to_le_bytes());
        time(out, packet.at_ns);
        out.extend_from_slice(&(packet.bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(&packet.length.to_le_bytes());
        out.extend_from_slice(packet.bytes);
        pad(out);
        let direction: u32 = if packet.inbound { 1 } else { 2 };
        option(out, EPB_FLAGS, &direction.to_le_bytes());
        if packet.missed > 0 {
            option(out, EPB_DROPCOUNT, &packet.missed.to_le_bytes());
        }
        if !packet.comment.is_empty() {
            option(out, COMMENT, packet.comment.as_bytes());
        }
        option(out, 0, &[]);
    });
}

/// How many frames an interface's packets have left out so far.
pub fn statistics(out: &mut Vec<u8>, interface: u32, at_ns: u64, missed: u64) {
    block(out, STATISTICS, |out| {
        out.extend_from_slice(&interface.to_le_bytes());
        time(out, at_ns);
        option(out, ISB_IFDROP, &missed.to_le_bytes());
        option(out, 0, &[]);
    });
}

/// A block, as its reader needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Bytes of all of it.
    pub length: usize,
    /// It has a frame.
    pub is_frame: bool,
    /// Of statistics: frames that were left out.
    pub missed: Option<u64>,
}

/// The block at the beginning of `bytes`; `None`: it is not all there.
///
/// # Errors
/// These bytes are no block of this module's.
pub fn whole(bytes: &[u8]) -> Result<Option<Block>, NotPcapng> {
    let word = |at: usize| {
        let bytes = bytes.get(at..)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*bytes))
    };
    let (Some(kind), Some(length)) = (word(0), word(4)) else {
        return Ok(None);
    };
    let length = length as usize;
    if !(12..=BLOCK_MAX).contains(&length) || !length.is_multiple_of(4) {
        return Err(NotPcapng);
    }
    if bytes.len() < length {
        return Ok(None);
    }
    let missed = (kind == STATISTICS).then(|| bytes.get(24..)?.first_chunk::<8>());
    Ok(Some(Block {
        length,
        is_frame: kind == PACKET,
        missed: missed.flatten().map(|missed| u64::from_le_bytes(*missed)),
    }))
}

/// Longer than the longest superframe with the longest comment.
const BLOCK_MAX: usize = 1 << 18;

/// What should have been a block of pcapng is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not the pcapng that meshd writes")]
pub struct NotPcapng;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(frames: &[(Vec<u8>, String)]) -> Vec<u8> {
        let mut out = Vec::new();
        section(&mut out, "meshd", "a note");
        interface(&mut out, "port 1 (web)", "", 1000);
        for (at, (bytes, comment)) in frames.iter().enumerate() {
            let one = Packet {
                interface: 0,
                at_ns: 1_700_000_000_123_456_789 + at as u64,
                bytes,
                length: bytes.len() as u32 + 5,
                inbound: at.is_multiple_of(2),
                missed: at as u64,
                comment,
            };
            packet(&mut out, &one);
        }
        statistics(&mut out, 0, 1, 77);
        out
    }

    #[test]
    fn blocks_are_as_the_draft_has_them() {
        let mut out = Vec::new();
        section(&mut out, "m", "");
        assert_eq!(
            out[..12],
            [0x0a, 0x0d, 0x0d, 0x0a, 40, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a]
        );
        // userappl of one byte, padded to four; the end of options; the length again.
        assert_eq!(
            out[24..],
            [4, 0, 1, 0, b'm', 0, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0]
        );
    }

    proptest! {
        #[test]
        fn blocks_are_found_again_whole_and_what_was_missed_with_them(
            frames in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..200), ".{0,30}"), 0..20),
        ) {
            let bytes = file(&frames);
            let (mut at, mut blocks, mut packets, mut missed) = (0, 0, 0, None);
            while let Some(block) = whole(&bytes[at..]).unwrap() {
                at += block.length;
                blocks += 1;
                packets += usize::from(block.is_frame);
                missed = block.missed.or(missed);
            }
            prop_assert_eq!((at, blocks, missed), (bytes.len(), frames.len() + 3, Some(77)));
            prop_assert_eq!(packets, frames.len());
        }

        #[test]
        fn other_bytes_are_refused_or_waited_for(bytes: Vec<u8>) {
            if let Ok(Some(Block { length, .. })) = whole(&bytes) {
                prop_assert!(length <= bytes.len() && length >= 12);
            }
        }
    }
}
