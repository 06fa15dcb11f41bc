//! Bytes of test frames: what a text asks for beyond what the daemon's own reader can say.
//!
//! Works on untagged frames that `meshd_core::flowtext` or [`ether`] made; tags come last. Whatever does not fit such a
//! frame is left as it is.

use crate::Mac;

/// Of an untagged frame.
const L3: usize = 14;
/// Shorter ones are padded by the sender (IEEE 802.3 §4.2.3.3), FCS not counted.
const LEAST: usize = 60;

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// From UDP.
    Sctp,
    /// From ICMP.
    Protocol(u8),
    /// From a request.
    ArpReply,
    Dscp(u8),
    Ecn(u8),
    Ttl(u8),
    Fragment {
        later: bool,
    },
    /// Ends four bytes into its layer 4.
    Cut,
}

/// A frame of another EtherType, with an empty body.
pub(crate) fn ether(kind: u16, src: Mac, dst: Mac) -> Vec<u8> {
    let mut frame = [dst.octets().as_slice(), &src.octets(), &kind.to_be_bytes()].concat();
    frame.resize(LEAST, 0);
    frame
}

/// Puts tags in.
pub(crate) fn tag(frame: &mut Vec<u8>, outer: Option<u16>, inner: Option<u16>) {
    let mut tags = Vec::new();
    // 802.1ad outside of another one, 802.1Q else.
    let outside: [u8; 2] = if inner.is_some() {
        [0x88, 0xa8]
    } else {
        [0x81, 0]
    };
    for (kind, tci) in [(outside, outer), ([0x81, 0], inner)] {
        if let Some(tci) = tci {
            tags.extend(kind);
            tags.extend(tci.to_be_bytes());
        }
    }
    frame.splice(12..12, tags);
}

/// Makes a change.
pub(crate) fn change(frame: &mut Vec<u8>, change: Change) {
    if change == Change::ArpReply {
        put(frame, L3 + 7, 2);
        return;
    }
    let v4 = frame.get(L3).is_some_and(|first| first >> 4 == 4);
    match change {
        Change::ArpReply => {}
        Change::Sctp => {
            put(frame, L3 + if v4 { 9 } else { 6 }, 132);
            // A common header has 12 bytes, one of UDP 8.
            resize(frame, v4, 12);
        }
        Change::Protocol(number) => put(frame, L3 + if v4 { 9 } else { 6 }, number),
        Change::Ttl(ttl) => put(frame, L3 + if v4 { 8 } else { 7 }, ttl),
        Change::Dscp(dscp) => class(frame, v4, 0xfc, dscp << 2),
        Change::Ecn(ecn) => class(frame, v4, 0x03, ecn),
        Change::Cut => resize(frame, v4, 4),
        Change::Fragment { later } if v4 => {
            // More follow; or 185 units of 8 bytes into the packet.
            put(frame, L3 + 6, if later { 0 } else { 0x20 });
            put(frame, L3 + 7, if later { 185 } else { 0 });
        }
        Change::Fragment { later } => {
            let next = frame.get(L3 + 6).copied().unwrap_or_default();
            let offset: u16 = if later { 185 << 3 } else { 1 };
            let [high, low] = offset.to_be_bytes();
            put(frame, L3 + 6, 44);
            let at = (L3 + 40).min(frame.len());
            frame.splice(at..at, [next, 0, high, low, 0, 0, 0, 1]);
            length(frame, v4, |len| len + 8);
        }
    }
    if v4 {
        checksum(frame);
    }
}

fn put(frame: &mut [u8], at: usize, byte: u8) {
    if let Some(there) = frame.get_mut(at) {
        *there = byte;
    }
}

/// Sets the bits `mask` of the traffic class.
fn class(frame: &mut [u8], v4: bool, mask: u8, bits: u8) {
    let get = |frame: &[u8], at: usize| frame.get(at).copied().unwrap_or_default();
    if v4 {
        let old = get(frame, L3 + 1);
        put(frame, L3 + 1, old & !mask | bits);
        return;
    }
    let (first, second) = (get(frame, L3), get(frame, L3 + 1));
    let class = (first << 4 | second >> 4) & !mask | bits;
    put(frame, L3, first & 0xf0 | class >> 4);
    put(frame, L3 + 1, class << 4 | second & 0x0f);
}

/// Cuts or fills layer 4, which stands at the end, to `len` bytes.
fn resize(frame: &mut Vec<u8>, v4: bool, len: u16) {
    let (header, fragment) = (if v4 { 20 } else { 40 }, frame.get(L3 + 6) == Some(&44));
    let before = header + if !v4 && fragment { 8 } else { 0 };
    length(frame, v4, |_| before + len);
    frame.resize(L3 + usize::from(before + len), 0);
    frame.resize(frame.len().max(LEAST), 0);
}

/// Changes the length that the IP header states; of the whole packet, header included.
fn length(frame: &mut [u8], v4: bool, to: impl FnOnce(u16) -> u16) {
    // IPv6 does not count its own header.
    let (at, own) = if v4 { (L3 + 2, 0) } else { (L3 + 4, 40) };
    if let Some(&[high, low]) = frame.get(at..at + 2).and_then(|b| b.first_chunk()) {
        let new = to(u16::from_be_bytes([high, low]) + own) - own;
        let [high, low] = new.to_be_bytes();
        put(frame, at, high);
        put(frame, at + 1, low);
    }
}

/// Of the IPv4 header (RFC 1071).
fn checksum(frame: &mut [u8]) {
    put(frame, L3 + 10, 0);
    put(frame, L3 + 11, 0);
    let mut sum: u32 = 0;
    for pair in frame.get(L3..L3 + 20).unwrap_or_default().chunks_exact(2) {
        if let &[high, low] = pair {
            sum += u32::from(u16::from_be_bytes([high, low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [_, _, high, low] = (!sum).to_be_bytes();
    put(frame, L3 + 10, high);
    put(frame, L3 + 11, low);
}
