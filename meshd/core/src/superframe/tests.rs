//! Claims about superframes, of each kind, with and without tags and extension headers.

mod mending;
mod missing;

use super::checksum::{fold, sum};
use super::*;
use crate::frame::Frame;
use crate::ident::Vni;
use crate::wire::datagram::WHOLE_LEN;
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

fn vni() -> Vni {
    Vni::new(7).unwrap()
}

/// What a superframe is made of.
#[derive(Clone, Debug)]
struct Made {
    v6: bool,
    udp: bool,
    tags: usize,
    /// IPv4 options or an IPv6 extension header.
    more: bool,
    flags: u8,
    seq: u32,
    id: u16,
    segment: u16,
    payload: Vec<u8>,
}

impl Made {
    /// As a TAP hands it over: lengths of the whole, and a checksum that is not there yet.
    fn frame(&self) -> Vec<u8> {
        let mut out = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for tag in 0..self.tags {
            out.extend([0x81, 0, 0, tag as u8 + 1]);
        }
        let l4_header = if self.udp { 8 } else { 32 };
        let l4 = (l4_header + self.payload.len()) as u16;
        let protocol = if self.udp { 17 } else { 6 };
        if self.v6 {
            let more = if self.more { 8 } else { 0 };
            out.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            out.extend((l4 + more).to_be_bytes());
            out.extend([if self.more { 60 } else { protocol }, 64]);
            out.extend([0xfd; 16]);
            out.extend([0xfe; 16]);
            if self.more {
                out.extend([protocol, 0, 1, 4, 0, 0, 0, 0]);
            }
        } else {
            let words = if self.more { 6 } else { 5 };
            out.extend([8, 0, 0x40 | words, 0]);
            out.extend((l4 + u16::from(words) * 4).to_be_bytes());
            out.extend(self.id.to_be_bytes());
            out.extend([0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            if self.more {
                out.extend([1, 1, 1, 0]);
            }
        }
        out.extend([0x10, 0, 0x20, 0]);
        if self.udp {
            out.extend(l4.to_be_bytes());
            out.extend([0, 0]);
        } else {
            out.extend(self.seq.to_be_bytes());
            out.extend([0, 0, 0, 1, 0x80, self.flags, 1, 0, 0, 0, 0, 0]);
            out.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        }
        out.extend(&self.payload);
        out
    }
}

fn made() -> impl Strategy<Value = Made> {
    (
        any::<(bool, bool, bool, u8, u32, u16)>(),
        0..3usize,
        SEGMENT_MIN..1500,
        proptest::collection::vec(any::<u8>(), 1..6000),
    )
        .prop_map(
            |((v6, udp, more, flags, seq, id), tags, segment, payload)| Made {
                v6,
                udp,
                tags,
                more,
                flags,
                seq,
                id,
                segment,
                payload,
            },
        )
}

/// Of a frame: where in the payload it stands by its number, its flags and its payload. Its checksums must be right.
fn read(made: &Made, frame: &[u8]) -> (u32, u8, Vec<u8>) {
    let parsed = Frame::parse(frame).unwrap();
    assert!(!parsed.is_malformed());
    let l3 = 14 + 4 * made.tags;
    let (l4, addresses) = match made.v6 {
        true => (
            l3 + 40 + if made.more { 8 } else { 0 },
            &frame[l3 + 8..l3 + 40],
        ),
        false => {
            let len = usize::from(frame[l3] & 15) * 4;
            assert_eq!(
                fold(sum(&frame[l3..l3 + len])),
                0xffff,
                "the checksum of IP"
            );
            let total = usize::from(u16::from_be_bytes([frame[l3 + 2], frame[l3 + 3]]));
            assert_eq!(total, frame.len() - l3);
            (l3 + len, &frame[l3 + 12..l3 + 20])
        }
    };
    let protocol = if made.udp { 17 } else { 6 };
    let pseudo = sum(addresses) + protocol + (frame.len() - l4) as u64;
    assert_eq!(
        fold(pseudo + sum(&frame[l4..])),
        0xffff,
        "the checksum of TCP or UDP"
    );
    if made.udp {
        let len = usize::from(u16::from_be_bytes([frame[l4 + 4], frame[l4 + 5]]));
        assert_eq!(len, frame.len() - l4);
        return (0, 0, frame[l4 + 8..].to_vec());
    }
    let seq = u32::from_be_bytes(frame[l4 + 4..l4 + 8].try_into().unwrap());
    (
        seq.wrapping_sub(made.seq),
        frame[l4 + 13],
        frame[l4 + 32..].to_vec(),
    )
}

fn cut(frame: &[u8], segment: u16) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    if segment == 0 {
        return vec![frame.to_vec()];
    }
    assert!(segments(frame, segment, &mut Vec::new(), |one| all
        .push(one.to_vec())));
    all
}

fn joined(run: Option<run::Joined>) -> Vec<(Vec<u8>, u16)> {
    let made = run.into_iter();
    made.map(|(of, framed, segment)| {
        assert_eq!(of, vni());
        (framed[WHOLE_LEN..].to_vec(), segment)
    })
    .collect()
}

proptest! {
    #[test]
    fn the_segments_are_whole_frames_with_all_of_the_payload_in_order(made in made()) {
        let (mut at, all) = (0, cut(&made.frame(), made.segment));
        let last = all.len() - 1;
        for (number, frame) in all.iter().enumerate() {
            let (seq, flags, payload) = read(&made, frame);
            prop_assert!(payload.len() == usize::from(made.segment) || number == last);
            prop_assert_eq!(&payload, &made.payload[at..at + payload.len()]);
            if !made.udp {
                prop_assert_eq!(seq as usize, at);
                prop_assert_eq!(flags & 0x09, if number == last { made.flags & 0x09 } else { 0 }, "FIN and PSH");
                prop_assert_eq!(flags & 0x80, if number == 0 { made.flags & 0x80 } else { 0 }, "CWR");
            }
            at += payload.len();
        }
        prop_assert_eq!(at, made.payload.len());
    }

    #[test]
    fn slices_that_come_in_order_become_what_was_cut(made in made(), max in 400usize..9000) {
        let frame = made.frame();
        let mut room = BytesMut::new();
        let Some(all) = Cut::of(&frame, made.segment, max) else {
            // Only a datagram of UDP has to fit whole.
            prop_assert!(made.udp && usize::from(made.segment) + 16 + 120 > max);
            return Ok(());
        };
        let mut run = Run::default();
        for datagram in all.datagrams(vni(), 5, 0, &mut room) {
            prop_assert!(datagram.len() <= max);
            let slice = Slice::decode(&datagram).unwrap();
            prop_assert!(!run.is_complete() && run.push(&slice).is_none());
        }
        prop_assert!(run.is_complete());
        let [(got, segment)] = joined(run.end()).try_into().unwrap();
        prop_assert_eq!(cut(&got, segment), cut(&frame, made.segment));
    }

    #[test]
    fn of_slices_that_are_lost_or_late_all_that_came_is_delivered_where_it_belongs(
        made in made(), max in 400usize..1500, fate in proptest::collection::vec(0..4u8, 64),
    ) {
        let frame = made.frame();
        let mut room = BytesMut::new();
        let Some(all) = Cut::of(&frame, made.segment, max) else { return Ok(()) };
        let mut all: Vec<Bytes> = all.datagrams(vni(), 5, 0, &mut room).zip(fate.iter().cycle()).filter(|(_, fate)| **fate > 0).map(|(d, _)| d).collect();
        for (at, fate) in fate.iter().enumerate() {
            if *fate == 1 && at + 1 < all.len() {
                all.swap(at, at + 1);
            }
        }
        let (mut run, mut got) = (Run::default(), Vec::new());
        let mut came = 0;
        for (datagram, fate) in all.iter().zip(fate.iter().rev()) {
            let slice = Slice::decode(datagram).unwrap();
            got.extend(joined(run.push(&slice)));
            came += datagram.len();
            if *fate == 2 {
                got.extend(joined(run.end()));
            }
        }
        got.extend(joined(run.end()));
        let mut delivered = 0;
        for (unit, segment) in got {
            for frame in cut(&unit, segment) {
                let (seq, _, payload) = read(&made, &frame);
                if !made.udp {
                    let at = seq as usize;
                    prop_assert_eq!(&payload, &made.payload[at..at + payload.len()]);
                }
                prop_assert!(payload.len() <= usize::from(made.segment));
                delivered += payload.len();
            }
        }
        let headers = SLICE_LEN + Shape::of(&frame).unwrap().headers();
        prop_assert_eq!(delivered, came - all.len() * headers);
    }

    #[test]
    fn whatever_a_peer_sends_is_refused_or_becomes_frames_that_are_well_formed(
        made in made(), changes in proptest::collection::vec((0usize..200, any::<u8>()), 0..6), cut_at in 0usize..3000,
    ) {
        let frame = made.frame();
        let mut room = BytesMut::new();
        let all = Cut::of(&frame, made.segment, 1400).map(|cut| cut.datagrams(vni(), 5, 0, &mut room));
        let mut run = Run::default();
        for datagram in all.into_iter().flatten() {
            let mut bytes = datagram.to_vec();
            bytes.truncate(cut_at.max(1));
            for (at, value) in &changes {
                if let Some(byte) = bytes.get_mut(*at) {
                    *byte = *value;
                }
            }
            bytes[0] = 5;
            let Ok(slice) = Slice::decode(&Bytes::from(bytes)) else { continue };
            let mut done: Vec<_> = run.push(&slice).into_iter().collect();
            if run.is_complete() {
                done.extend(run.end());
            }
            for (_, framed, segment) in done {
                let unit = &framed[WHOLE_LEN..];
                prop_assert!(unit.len() <= SUPERFRAME_MAX);
                if segment == 0 {
                    prop_assert!(!Frame::parse(unit).unwrap().is_malformed());
                } else {
                    let well_formed = |frame: &[u8]| assert!(!Frame::parse(frame).unwrap().is_malformed());
                    prop_assert!(segments(unit, segment, &mut Vec::new(), well_formed));
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_a_slice_or_none(bytes: Vec<u8>) {
        let _ = Slice::decode(&Bytes::from(bytes.clone()));
        let _ = Shape::of(&bytes);
        segments(&bytes, 100, &mut Vec::new(), |_| {});
    }
}

#[test]
fn the_kernel_is_told_where_the_checksum_is_and_of_what_kind_it_is() {
    let made = |v6, udp| Made {
        v6,
        udp,
        tags: 1,
        more: false,
        flags: 0x10,
        seq: 1,
        id: 1,
        segment: 1000,
        payload: vec![0; 5000],
    };
    let vnet = |v6, udp| Shape::of(&made(v6, udp).frame()).unwrap().vnet(1000);
    assert_eq!(
        (vnet(false, false).gso, vnet(true, false).gso),
        (Gso::Tcp4, Gso::Tcp6)
    );
    assert_eq!(
        (vnet(false, true).gso, vnet(true, true).gso),
        (Gso::Udp, Gso::Udp)
    );
    let tcp = vnet(false, false);
    assert_eq!(
        (tcp.csum_start, tcp.csum_offset, tcp.gso_size),
        (38, 16, 1000)
    );
    assert_eq!(
        (vnet(true, true).csum_start, vnet(true, true).csum_offset),
        (58, 6)
    );
    assert_eq!((vnet(true, true).header_len, tcp.header_len), (66, 70));
}

#[test]
fn what_is_neither_tcp_nor_udp_or_a_fragment_has_no_shape() {
    let mut frame = Made {
        v6: false,
        udp: false,
        tags: 0,
        more: false,
        flags: 0,
        seq: 0,
        id: 0,
        segment: 100,
        payload: vec![0; 500],
    }
    .frame();
    assert!(Shape::of(&frame).is_some());
    let whole = frame.clone();
    frame[20] = 0x20;
    assert_eq!(Shape::of(&frame), None, "the first fragment");
    frame[20..22].copy_from_slice(&[0, 5]);
    assert_eq!(Shape::of(&frame), None, "a later one");
    frame = whole.clone();
    frame[23] = 1;
    assert_eq!(Shape::of(&frame), None, "ICMP");
    frame = whole;
    frame[46] = 0x40;
    assert_eq!(Shape::of(&frame), None, "TCP of 16 bytes");
}
