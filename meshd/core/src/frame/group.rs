//! What of a packet tells who listens to which group.

use super::Frame;
use crate::flow::{Frag, IpKind};

/// An IP packet, as a reader of IGMP and MLD needs it. Not a fragment.
#[derive(Clone, Copy, Debug)]
pub struct GroupPacket<'a> {
    /// IPv4.
    pub v4: bool,
    /// Source; IPv4 as `::ffff:a.b.c.d`.
    pub src: u128,
    /// Destination, in the same way.
    pub dst: u128,
    /// IP protocol, or IPv6 upper-layer number behind all extension headers.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// What it carries.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The packet, if it is a whole one of IPv4 or IPv6.
    #[must_use]
    pub fn group_packet(&self) -> Option<GroupPacket<'a>> {
        let packet = self.packet().filter(|packet| packet.frag == Frag::None)?;
        Some(GroupPacket {
            v4: packet.kind == IpKind::V4,
            src: packet.src,
            dst: packet.dst,
            protocol: packet.protocol,
            ttl: packet.ttl,
            payload: packet.l4,
        })
    }
}
