//! Reading the kernel's links and addresses byte for byte, and what its refusals mean.
//!
//! Owns the raw side of rtnetlink. rtnetlink's own types hold interface names as UTF-8 and lose a message that has another
//! name in it, so they serve for writing, and reading goes through [`Raw`]: type and body, nothing decoded.

use meshd_core::ident::MacAddr;
use netlink_packet_core::{
    DecodeError, NLA_F_NESTED, NLA_TYPE_MASK, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST,
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use nix::errno::Errno;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) const RTM_NEWLINK: u16 = libc::RTM_NEWLINK;
pub(super) const RTM_DELLINK: u16 = libc::RTM_DELLINK;
pub(super) const RTM_NEWADDR: u16 = libc::RTM_NEWADDR;
pub(super) const RTM_DELADDR: u16 = libc::RTM_DELADDR;
pub(super) const RTM_NEWROUTE: u16 = libc::RTM_NEWROUTE;
pub(super) const RTM_DELROUTE: u16 = libc::RTM_DELROUTE;
pub(super) const RTM_DELQDISC: u16 = libc::RTM_DELQDISC;
pub(super) const RTM_DELTFILTER: u16 = libc::RTM_DELTFILTER;

/// A message of the route family as it is on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Raw {
    pub(super) kind: u16,
    pub(super) body: Vec<u8>,
}

impl NetlinkSerializable for Raw {
    fn message_type(&self) -> u16 {
        self.kind
    }
    fn buffer_len(&self) -> usize {
        self.body.len()
    }
    fn serialize(&self, buffer: &mut [u8]) {
        // The buffer has the length that `buffer_len` said.
        for (to, from) in buffer.iter_mut().zip(&self.body) {
            *to = *from;
        }
    }
}

impl NetlinkDeserializable for Raw {
    type Error = DecodeError;
    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self {
            kind: header.message_type,
            body: payload.to_vec(),
        })
    }
}

/// A body under construction: a fixed header, then attributes.
pub(super) struct Body(Vec<u8>);

impl Body {
    /// With a header of `len` zero bytes of which the first is the address family.
    pub(super) fn new(family: u8, len: usize) -> Self {
        let mut bytes = vec![0; len];
        if let Some(first) = bytes.first_mut() {
            *first = family;
        }
        Self(bytes)
    }

    /// Overwrites bytes of the header.
    pub(super) fn set(mut self, at: usize, value: &[u8]) -> Self {
        for (to, from) in self.0.iter_mut().skip(at).zip(value) {
            *to = *from;
        }
        self
    }

    /// One more attribute; values are far below the 64 KiB that its length can say.
    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// One more attribute, whose value is attributes.
    pub(super) fn nested(self, kind: u16, inner: Self) -> Self {
        self.attribute(kind | NLA_F_NESTED, &inner.0)
    }

    /// Attributes only.
    pub(super) fn attributes() -> Self {
        Self(Vec::new())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        self.0
    }
}

/// The attributes of a body after its header; what is cut off ends the list.
pub(super) fn attributes(body: &[u8], header: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = body.get(header..).unwrap_or_default();
    std::iter::from_fn(move || {
        // struct nlattr: length 2 (with these 4 bytes), type 2 (its upper two bits are flags).
        let &[a, b, c, d] = rest.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & NLA_TYPE_MASK, value))
    })
}

pub(super) fn word(value: &[u8]) -> Option<u32> {
    value
        .first_chunk::<4>()
        .map(|bytes| u32::from_ne_bytes(*bytes))
}

pub(super) fn half(value: &[u8]) -> Option<u16> {
    value
        .first_chunk::<2>()
        .map(|bytes| u16::from_ne_bytes(*bytes))
}

pub(super) fn text(value: &[u8]) -> Vec<u8> {
    value
        .split(|&byte| byte == 0)
        .next()
        .unwrap_or_default()
        .to_vec()
}

/// A device, as far as meshd looks at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) flags: u32,
    pub(super) name: Vec<u8>,
    pub(super) alias: Vec<u8>,
    pub(super) kind: Vec<u8>,
    pub(super) mac: Option<MacAddr>,
    pub(super) mtu: u32,
    /// Bytes of the largest superframe that is sent by it; 0: the kernel does not say.
    pub(super) gso_max: u32,
    /// Index of the lower device; of a veth: of its far end, in the far end's namespace.
    pub(super) peer: Option<u32>,
    /// The namespace that `peer` is in, as this namespace numbers it; `None`: this one.
    pub(super) peer_netns: Option<i32>,
    /// Index of the bridge (or other device) that it is a port of.
    pub(super) master: Option<u32>,
    /// What its kind says of it (`IFLA_INFO_DATA`), attributes.
    pub(super) data: Vec<u8>,
    /// What its master says of it as a port (`IFLA_INFO_SLAVE_DATA`), attributes.
    pub(super) port_data: Vec<u8>,
}

impl Link {
    /// From the body of RTM_NEWLINK or RTM_DELLINK.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        // struct ifinfomsg: family 1, pad 1, type 2, index 4, flags 4, change 4.
        let mut link = Self {
            index: word(body.get(4..)?)?,
            flags: word(body.get(8..)?)?,
            ..Self::default()
        };
        for (kind, value) in attributes(body, 16) {
            match kind {
                libc::IFLA_IFNAME => link.name = text(value),
                libc::IFLA_IFALIAS => link.alias = text(value),
                libc::IFLA_ADDRESS => link.mac = value.try_into().ok().map(MacAddr),
                libc::IFLA_MTU => link.mtu = word(value)?,
                libc::IFLA_GSO_MAX_SIZE => link.gso_max = word(value).unwrap_or(0),
                libc::IFLA_LINK => link.peer = word(value),
                libc::IFLA_LINK_NETNSID => link.peer_netns = word(value).map(u32::cast_signed),
                libc::IFLA_MASTER => link.master = word(value).filter(|index| *index != 0),
                libc::IFLA_LINKINFO => {
                    for (kind, value) in attributes(value, 0) {
                        match kind {
                            libc::IFLA_INFO_KIND => link.kind = text(value),
                            libc::IFLA_INFO_DATA => link.data = value.to_vec(),
                            libc::IFLA_INFO_SLAVE_DATA => link.port_data = value.to_vec(),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Some(link)
    }

    /// True if a veth's far end is up, too.
    pub(super) fn has_carrier(&self) -> bool {
        self.flags & libc::IFF_RUNNING.cast_unsigned() != 0
    }

    pub(super) fn is_up(&self) -> bool {
        self.flags & libc::IFF_UP.cast_unsigned() != 0
    }
}

/// An address of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) index: u32,
    pub(super) ip: IpAddr,
    pub(super) prefix: u8,
    pub(super) scope: u8,
    /// `IFA_F_*`.
    pub(super) flags: u32,
    /// Who gave it (`IFA_PROTO`); 0: not said.
    pub(super) proto: u8,
}

impl Address {
    /// From the body of RTM_NEWADDR.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        // struct ifaddrmsg: family 1, prefix length 1, flags 1, scope 1, index 4.
        let &[family, prefix, flags, scope] = body.first_chunk::<4>()?;
        let (index, mut flags) = (word(body.get(4..)?)?, u32::from(flags));
        const IFA_PROTO: u16 = 11;
        let (mut local, mut address, mut proto) = (None, None, 0);
        for (kind, value) in attributes(body, 8) {
            match kind {
                libc::IFA_LOCAL => local = ip(family, value),
                libc::IFA_ADDRESS => address = ip(family, value),
                libc::IFA_FLAGS => flags = word(value)?,
                IFA_PROTO => proto = value.first().copied().unwrap_or_default(),
                _ => {}
            }
        }
        // On a point-to-point device IFA_ADDRESS is the other side.
        Some(Self {
            index,
            ip: local.or(address)?,
            prefix,
            scope,
            flags,
            proto,
        })
    }
}

pub(super) fn ip(family: u8, value: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => value
            .first_chunk::<4>()
            .map(|bytes| Ipv4Addr::from(*bytes).into()),
        libc::AF_INET6 => value
            .first_chunk::<16>()
            .map(|bytes| Ipv6Addr::from(*bytes).into()),
        _ => None,
    }
}

/// The device that a message about traffic control speaks of (`struct tcmsg`: family 1, padding 3, index 4, …).
pub(super) fn tc_device(body: &[u8]) -> Option<u32> {
    word(body.get(4..)?)
}

/// A filter of kind bpf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct BpfFilter {
    /// As it was named when it was attached.
    pub(super) name: Vec<u8>,
    /// The kernel's number of its program.
    pub(super) program: u32,
}

/// From the body of RTM_NEWTFILTER (`struct tcmsg` of 20 bytes, attributes of linux/rtnetlink.h and linux/pkt_cls.h).
pub(super) fn bpf_filter(body: &[u8]) -> Option<BpfFilter> {
    const TCA_BPF_NAME: u16 = 7;
    const TCA_BPF_ID: u16 = 11;
    let find = |wanted| attributes(body, 20).find(|(kind, _)| *kind == wanted);
    find(libc::TCA_KIND).filter(|(_, kind)| text(kind) == b"bpf")?;
    let (mut filter, mut program) = (BpfFilter::default(), None);
    for (kind, value) in attributes(find(libc::TCA_OPTIONS)?.1, 0) {
        match kind {
            TCA_BPF_NAME => filter.name = text(value),
            TCA_BPF_ID => program = word(value),
            _ => {}
        }
    }
    // What stands for the whole priority has no program.
    filter.program = program?;
    Some(filter)
}

/// The source address of a routing lookup's answer (RTM_NEWROUTE).
pub(super) fn preferred_source(body: &[u8]) -> Option<IpAddr> {
    let family = *body.first()?;
    // struct rtmsg has 12 bytes.
    attributes(body, 12)
        .find(|(kind, _)| *kind == libc::RTA_PREFSRC)
        .and_then(|(_, value)| ip(family, value))
}

/// The number of a namespace in the answer to RTM_GETNSID; `None`: it has none here.
pub(super) fn netns_number(body: &[u8]) -> Option<i32> {
    const NETNSA_NSID: u16 = 1;
    // struct rtgenmsg, padded.
    attributes(body, 4)
        .find(|(kind, _)| *kind == NETNSA_NSID)
        .and_then(|(_, v)| word(v))
        .map(u32::cast_signed)
        .filter(|n| *n >= 0)
}

/// Messages of one datagram of a multicast socket; what is cut off ends the list.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    parts(datagram).map(|part| (part.kind, part.body))
}

/// One message of a datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    /// That of the request it answers.
    pub(super) sequence: u32,
    /// The netlink port of who asked, or whose doing it tells of; 0: the kernel.
    pub(super) port: u32,
    pub(super) body: &'a [u8],
}

impl Part<'_> {
    /// What a message of type NLMSG_ERROR says; `Ok`: done.
    pub(super) fn answer(&self) -> Option<Result<(), Errno>> {
        const NLMSG_ERROR: u16 = 2;
        let code = word(self.body).filter(|_| self.kind == NLMSG_ERROR)?;
        Some(match code.cast_signed() {
            0 => Ok(()),
            code => Err(Errno::from_raw(code.wrapping_neg())),
        })
    }
}

/// Messages of one datagram with their heads; what is cut off ends the list.
pub(super) fn parts(mut datagram: &[u8]) -> impl Iterator<Item = Part<'_>> {
    // struct nlmsghdr: length 4, type 2, flags 2, sequence 4, port 4.
    std::iter::from_fn(move || {
        let length = usize::try_from(word(datagram)?).ok()?;
        let body = datagram.get(16..length)?;
        let part = Part {
            kind: half(datagram.get(4..)?)?,
            flags: half(datagram.get(6..)?)?,
            sequence: word(datagram.get(8..)?)?,
            port: word(datagram.get(12..)?)?,
            body,
        };
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some(part)
    })
}

/// A message as it is on the wire, appended to `datagram`.
pub(super) fn append(datagram: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, body: &[u8]) {
    let length = u32::try_from(body.len() + 16).unwrap_or(u32::MAX);
    datagram.extend_from_slice(&length.to_ne_bytes());
    datagram.extend_from_slice(&kind.to_ne_bytes());
    datagram.extend_from_slice(&flags.to_ne_bytes());
    datagram.extend_from_slice(&sequence.to_ne_bytes());
    datagram.extend_from_slice(&[0; 4]);
    datagram.extend_from_slice(body);
    datagram.resize(datagram.len().next_multiple_of(4), 0);
}

/// The request for a message with `body`.
pub(super) fn request(kind: u16, dump: bool, body: Vec<u8>) -> NetlinkMessage<Raw> {
    flagged(kind, if dump { NLM_F_DUMP } else { 0 }, body)
}

/// The request to change something: answered by an acknowledgement.
pub(super) fn command(kind: u16, flags: u16, body: Vec<u8>) -> NetlinkMessage<Raw> {
    flagged(kind, NLM_F_ACK | flags, body)
}

fn flagged(kind: u16, flags: u16, body: Vec<u8>) -> NetlinkMessage<Raw> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(Raw { kind, body }));
    message.finalize();
    message
}

/// The kernel's answer in an error of rtnetlink.
pub(super) fn errno(error: &rtnetlink::Error) -> Errno {
    match error {
        rtnetlink::Error::NetlinkError(message) => {
            Errno::from_raw(message.raw_code().wrapping_neg())
        }
        _ => Errno::EIO,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (Link::parse(&bytes), Address::parse(&bytes), preferred_source(&bytes), netns_number(&bytes), bpf_filter(&bytes));
            prop_assert!(messages(&bytes).count() <= bytes.len());
        }
    }

    #[test]
    fn a_name_that_is_no_utf8_is_read_as_it_is() {
        let body = Body::new(0, 16)
            .set(4, &7u32.to_ne_bytes())
            .attribute(libc::IFLA_IFNAME, b"\xff\xfe\0")
            .bytes();
        let link = Link::parse(&body).unwrap();
        assert_eq!((link.index, link.name.as_slice()), (7, &b"\xff\xfe"[..]));
    }
}
