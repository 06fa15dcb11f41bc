//! Edits: what a policy changes of a frame before it goes on.
//!
//! ```text
//!   dst | src | tags (0 to 4) | EtherType, packet         edits in order --> the same frame with other MACs, tags, DSCP
//! ```
//!
//! Owns the words, what they make of a frame and of its key, so that a later plugin and the FDB see the frame as it will be.
//! An edit of what is not there (the priority of an untagged frame, the DSCP of no IP packet) changes nothing. Refuses to
//! touch anything behind the IP header's DSCP and checksum; lengths change by tags only.

use crate::flow::{Fields, FlowKey, IpKind};
use crate::frame::{ETHER_IPV4, ETHER_IPV6};
use crate::ident::MacAddr;
use bytes::BufMut;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Most edits of one ruling.
pub const EDITS_MAX: usize = 8;
/// Most tags of an edited frame; a push beyond them does nothing.
const TAGS_MAX: usize = 4;
/// IEEE 802.1Q, and the service tag of 802.1ad.
const ETHER_VLAN: u16 = 0x8100;
const ETHER_QINQ: u16 = 0x88a8;

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Edit {
    /// A tag of 802.1Q in front of those that are there, with this VID (1 to 4094) and priority 0.
    PushVlan(u16),
    /// The outer tag goes.
    PopVlan,
    /// The VID of the outer tag, 1 to 4094.
    SetVlan(u16),
    /// The priority of the outer tag, 0 to 7.
    SetPcp(u8),
    /// The DSCP of an IP packet, 0 to 63 (RFC 2474); ECN stays.
    SetDscp(u8),
    /// The source.
    SetSrcMac(MacAddr),
    /// The destination.
    SetDstMac(MacAddr),
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PushVlan(vid) => write!(f, "push VLAN {vid}"),
            Self::PopVlan => f.write_str("pop VLAN"),
            Self::SetVlan(vid) => write!(f, "set VLAN {vid}"),
            Self::SetPcp(pcp) => write!(f, "set PCP {pcp}"),
            Self::SetDscp(dscp) => write!(f, "set DSCP {dscp}"),
            Self::SetSrcMac(mac) => write!(f, "set source {mac}"),
            Self::SetDstMac(mac) => write!(f, "set destination {mac}"),
        }
    }
}

impl Edit {
    /// Fields of the frame that the edited key's fields come from under another name: who reads those after this edit has read
    /// these.
    #[must_use]
    pub fn needs(self) -> Fields {
        match self {
            Self::PushVlan(_) | Self::PopVlan => {
                Fields::VLAN.with(Fields::PCP).with(Fields::INNER_VLAN)
            }
            _ => Fields::default(),
        }
    }

    /// The key of an edited frame.
    pub fn rekey(self, key: &mut FlowKey) {
        match self {
            Self::PushVlan(vid) => {
                (key.inner_vlan, key.vlan, key.pcp) = (key.vlan, 0x1000 | vid, 0);
            }
            Self::PopVlan => (key.vlan, key.inner_vlan, key.pcp) = (key.inner_vlan, 0, 0),
            Self::SetVlan(vid) if key.vlan != 0 => key.vlan = 0x1000 | vid,
            Self::SetPcp(pcp) if key.vlan != 0 => key.pcp = pcp,
            Self::SetDscp(dscp)
                if matches!(key.ip_kind, IpKind::V4 | IpKind::V6 | IpKind::NdV6) =>
            {
                key.dscp = dscp;
            }
            Self::SetVlan(_) | Self::SetPcp(_) | Self::SetDscp(_) => {}
            Self::SetSrcMac(mac) => key.src_mac = mac,
            Self::SetDstMac(mac) => key.dst_mac = mac,
        }
    }
}

/// The tags of a frame, the outer one first.
#[derive(Default)]
struct Tags {
    list: [[u8; 4]; TAGS_MAX],
    count: usize,
}

impl Tags {
    fn push(&mut self, tag: [u8; 4]) {
        if self.count < TAGS_MAX {
            self.list.copy_within(0..self.count, 1);
            self.list[0] = tag;
            self.count += 1;
        }
    }

    fn pop(&mut self) {
        if self.count > 0 {
            self.list.copy_within(1..self.count, 0);
            self.count -= 1;
        }
    }

    /// The lower half of the outer tag: priority, DEI, VID.
    fn outer(&mut self, change: impl FnOnce(u16) -> u16) {
        if let ([[_, _, high, low], ..], true) = (&mut self.list, self.count > 0) {
            [*high, *low] = change(u16::from_be_bytes([*high, *low])).to_be_bytes();
        }
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*two))
}

/// Appends the edited frame. One that is shorter than an Ethernet header goes as it is.
pub fn apply(edits: &[Edit], frame: &[u8], out: &mut impl BufMut) {
    if edited(edits, frame, out).is_none() {
        out.put_slice(frame);
    }
}

/// `None`: nothing was written.
fn edited(edits: &[Edit], frame: &[u8], out: &mut impl BufMut) -> Option<()> {
    let (dst, rest) = frame.split_first_chunk::<6>()?;
    let (src, mut rest) = rest.split_first_chunk::<6>()?;
    let (mut dst, mut src, mut dscp) = (MacAddr(*dst), MacAddr(*src), None);
    let mut tags = Tags::default();
    while let (Some(ETHER_VLAN | ETHER_QINQ), true) = (be16(rest, 0), tags.count < TAGS_MAX) {
        let (tag, behind) = rest.split_first_chunk::<4>()?;
        if let Some(place) = tags.list.get_mut(tags.count) {
            *place = *tag;
        }
        tags.count += 1;
        rest = behind;
    }
    be16(rest, 0)?;
    for edit in edits {
        match *edit {
            Edit::PushVlan(vid) => {
                let ([a, b], [c, d]) = (ETHER_VLAN.to_be_bytes(), vid.to_be_bytes());
                tags.push([a, b, c, d]);
            }
            Edit::PopVlan => tags.pop(),
            Edit::SetVlan(vid) => tags.outer(|tci| tci & 0xf000 | vid & 0x0fff),
            Edit::SetPcp(pcp) => tags.outer(|tci| tci & 0x1fff | u16::from(pcp) << 13),
            Edit::SetDscp(value) => dscp = Some(value),
            Edit::SetSrcMac(mac) => src = mac,
            Edit::SetDstMac(mac) => dst = mac,
        }
    }
    out.put_slice(&dst.0);
    out.put_slice(&src.0);
    for tag in tags.list.iter().take(tags.count) {
        out.put_slice(tag);
    }
    match dscp.and_then(|dscp| ip_head(rest, dscp)) {
        Some((head, len)) => {
            out.put_slice(head.get(..len)?);
            out.put_slice(rest.get(len..)?);
        }
        None => out.put_slice(rest),
    }
    Some(())
}

/// EtherType and the first bytes of the packet, with another DSCP and a checksum that fits it; how many bytes these are.
fn ip_head(rest: &[u8], dscp: u8) -> Option<([u8; 14], usize)> {
    let mut head = [0; 14];
    match be16(rest, 0)? {
        // Up to the header's checksum, which changes as its word of version, length and DSCP does (RFC 1624 §3).
        ETHER_IPV4 if rest.get(2)? >> 4 == 4 => {
            head.copy_from_slice(rest.get(..14)?);
            let before = u16::from_be_bytes([head[2], head[3]]);
            head[3] = dscp << 2 | head[3] & 3;
            let after = u16::from_be_bytes([head[2], head[3]]);
            let sum = u16::from_be_bytes([head[12], head[13]]);
            let mut new = u32::from(!sum) + u32::from(!before) + u32::from(after);
            while new > 0xffff {
                new = (new & 0xffff) + (new >> 16);
            }
            let new = !u16::try_from(new).ok()?;
            head[12..].copy_from_slice(&new.to_be_bytes());
            Some((head, 14))
        }
        // Version 4 bits, traffic class 8 bits: DSCP 6 and ECN 2 (RFC 8200 §3).
        ETHER_IPV6 if rest.get(2)? >> 4 == 6 => {
            head[..4].copy_from_slice(rest.get(..4)?);
            head[2] = 0x60 | dscp >> 2;
            head[3] = dscp << 6 | head[3] & 0x3f;
            Some((head, 4))
        }
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::frame::Frame;
    use crate::ident::Vni;
    use etherparse::{NetSlice, PacketBuilder, SlicedPacket};
    use proptest::prelude::*;

    fn packet(v6: bool, traffic_class: u8) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let builder = if v6 {
            builder.ipv6([0xfd; 16], [0xfc; 16], 64)
        } else {
            builder.ipv4([10, 0, 0, 5], [10, 0, 0, 6], 64)
        };
        builder.udp(4000, 53).write(&mut frame, b"query").unwrap();
        if v6 {
            frame[14] = 0x60 | traffic_class >> 4;
            frame[15] = traffic_class << 4;
        } else {
            frame[15] = traffic_class;
            let mut header = etherparse::Ipv4Header::from_slice(&frame[14..]).unwrap().0;
            header.header_checksum = header.calc_header_checksum();
            frame[24..26].copy_from_slice(&header.header_checksum.to_be_bytes());
        }
        frame
    }

    fn through(edits: &[Edit], frame: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        apply(edits, frame, &mut out);
        out
    }

    fn edit() -> impl Strategy<Value = Edit> {
        prop_oneof![
            (1..4095u16).prop_map(Edit::PushVlan),
            Just(Edit::PopVlan),
            (1..4095u16).prop_map(Edit::SetVlan),
            (0..8u8).prop_map(Edit::SetPcp),
            (0..64u8).prop_map(Edit::SetDscp),
            any::<[u8; 6]>().prop_map(|mac| Edit::SetSrcMac(MacAddr(mac))),
            any::<[u8; 6]>().prop_map(|mac| Edit::SetDstMac(MacAddr(mac))),
        ]
    }

    #[test]
    fn another_dscp_leaves_ecn_and_makes_the_checksum_right() {
        for v6 in [false, true] {
            for ecn in 0..4 {
                let frame = packet(v6, 10 << 2 | ecn);
                let out = through(&[Edit::SetDscp(46)], &frame);
                assert_eq!(out.len(), frame.len());
                match SlicedPacket::from_ethernet(&out).unwrap().net.unwrap() {
                    NetSlice::Ipv4(ip) => {
                        let header = ip.header().to_header();
                        assert_eq!((header.dscp.value(), header.ecn.value()), (46, ecn));
                        assert_eq!(header.header_checksum, header.calc_header_checksum());
                    }
                    NetSlice::Ipv6(ip) => {
                        assert_eq!(ip.header().traffic_class(), 46 << 2 | ecn);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn tags_are_put_on_changed_and_taken_off_again() {
        let frame = packet(false, 0);
        let tagged = through(&[Edit::PushVlan(7), Edit::SetPcp(5)], &frame);
        assert_eq!(tagged[12..16], [0x81, 0, 0xa0, 7]);
        assert_eq!(tagged.len(), frame.len() + 4);
        let other = through(&[Edit::SetVlan(9)], &tagged);
        assert_eq!(other[12..16], [0x81, 0, 0xa0, 9]);
        assert_eq!(through(&[Edit::PopVlan], &other), frame);
        let untouched = [Edit::PopVlan, Edit::SetVlan(3), Edit::SetPcp(3)];
        assert_eq!(through(&untouched, &frame), frame, "it has no tag");
        let many = through(&[Edit::PushVlan(1); EDITS_MAX], &frame);
        assert_eq!(many.len(), frame.len() + 4 * TAGS_MAX);
    }

    proptest! {
        /// Of frames with at most one tag before and after, so that the key holds all of them.
        #[test]
        fn the_key_of_an_edited_frame_is_the_edited_key(
            v6: bool, tag: Option<u16>, edits in proptest::collection::vec(edit(), 0..EDITS_MAX),
        ) {
            let pushes = edits.iter().filter(|edit| matches!(edit, Edit::PushVlan(_))).count();
            prop_assume!(pushes + usize::from(tag.is_some()) <= 1);
            let vni = Vni::new(7).unwrap();
            let mut frame = packet(v6, 0);
            if let Some(vid) = tag {
                frame = through(&[Edit::PushVlan(vid % 4094 + 1)], &frame);
            }
            let mut key = Frame::parse(&frame).unwrap().flow_key(vni);
            edits.iter().for_each(|edit| edit.rekey(&mut key));
            let out = through(&edits, &frame);
            prop_assert_eq!(Frame::parse(&out).unwrap().flow_key(vni), key);
        }

        #[test]
        fn garbage_stays_as_long_as_its_tags_let_it(frame: Vec<u8>, edits in proptest::collection::vec(edit(), 0..EDITS_MAX)) {
            let out = through(&edits, &frame);
            prop_assert!(out.len() <= frame.len() + 4 * TAGS_MAX && out.len() + 4 * TAGS_MAX >= frame.len());
        }
    }
}
