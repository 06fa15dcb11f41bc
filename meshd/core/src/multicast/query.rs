//! The questions that this node puts to its own ports: general queries of IGMPv3 and MLDv2.
//!
//! Owns their bytes. They are a switch's and no router's: IGMP from 0.0.0.0 (RFC 4541 §2.1.1), and MLD, which must have a link-local
//! source, from the highest there is, so that every router wins the election (RFC 3810 §7.6.2: the lowest does).

use super::control::{Family, igmp_checksum, mld_checksum};
use crate::ident::MacAddr;
use bytes::{BufMut, Bytes, BytesMut};

/// Where MLD queries of ours come from.
pub(super) const SOURCE_V6: u128 = 0xfe80_0000_0000_0000_ffff_ffff_ffff_fffe;
/// All hosts: 224.0.0.1 and ff02::1.
const ALL_V6: u128 = 0xff02_0000_0000_0000_0000_0000_0000_0001;
/// Who is asked answers within a second: in tenths of it for IGMP, in ms for MLD.
const MAX_V4: u8 = 10;
const MAX_V6: u16 = 1000;
/// Robustness 2, and the interval in s (RFC 3376 §8.1, §8.2).
const QRV: u8 = 2;
const QQIC: u8 = 125;

/// A general query from `src`.
pub(super) fn general(family: Family, src: MacAddr) -> Bytes {
    let mut frame = BytesMut::with_capacity(90);
    let (dst, ether_type): ([u8; 6], u16) = match family {
        Family::V4 => ([0x01, 0x00, 0x5e, 0, 0, 1], 0x0800),
        Family::V6 => ([0x33, 0x33, 0, 0, 0, 1], 0x86dd),
    };
    frame.put_slice(&dst);
    frame.put_slice(&src.0);
    frame.put_u16(ether_type);
    match family {
        Family::V4 => {
            // Version 4, 24 bytes of header with Router Alert (RFC 2113), precedence of internetwork control, TTL 1.
            let mut header = [
                0x46, 0xc0, 0, 36, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 224, 0, 0, 1, 0x94, 4, 0, 0,
            ];
            let [high, low] = igmp_checksum(&header).to_be_bytes();
            (header[10], header[11]) = (high, low);
            frame.put_slice(&header);
            let mut message = [0x11, MAX_V4, 0, 0, 0, 0, 0, 0, QRV, QQIC, 0, 0];
            let [high, low] = igmp_checksum(&message).to_be_bytes();
            (message[2], message[3]) = (high, low);
            frame.put_slice(&message);
        }
        Family::V6 => {
            let mut message = [0; 28];
            message[0] = 130;
            message[4..6].copy_from_slice(&MAX_V6.to_be_bytes());
            (message[24], message[25]) = (QRV, QQIC);
            let checksum = mld_checksum(SOURCE_V6, ALL_V6, &message);
            message[2..4].copy_from_slice(&checksum.to_be_bytes());
            frame.put_slice(&[0x60, 0, 0, 0, 0, 36, 0, 1]);
            frame.put_u128(SOURCE_V6);
            frame.put_u128(ALL_V6);
            // Hop-by-Hop with Router Alert for MLD (RFC 2711), padded to 8 bytes.
            frame.put_slice(&[58, 0, 5, 2, 0, 0, 1, 0]);
            frame.put_slice(&message);
        }
    }
    frame.freeze()
}
