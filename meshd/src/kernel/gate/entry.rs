//! What the gate's maps hold: who may pass, by which ruling, and how much did.
//!
//! ```text
//!   key    device 4 | src MAC 6 | dst MAC 6 | EtherType 2 | kind 1 | IP protocol 1 | ports 2 + 2 | src IP 16 | dst IP 16
//!   entry  epoch 8 | until 8 | path 4 | to 4 | packets 8 | bytes 8 | made 8
//! ```
//!
//! Owns the layout of both, which the programs share: numbers of the frame in network order, all others as the host has them.

use meshd_core::flow::{FlowKey, Frag, IpKind};
use meshd_core::frame::ETHER_ARP;
use meshd_core::ident::MacAddr;
use std::num::NonZeroU64;

/// Bytes of a key.
pub(super) const KEY_LEN: usize = 56;
/// Bytes of an entry.
pub(super) const ENTRY_LEN: usize = 48;
/// EtherTypes below are lengths (IEEE 802.3).
const ETHER_TYPE_MIN: u16 = 0x0600;

/// Which frames an entry lets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Index of the device that they enter.
    pub device: u32,
    /// Source.
    pub src_mac: MacAddr,
    /// Destination.
    pub dst_mac: MacAddr,
    /// EtherType; tagged frames never pass.
    pub ether_type: u16,
    /// Only one flow of the pair; `None`: all that the two have to say in this EtherType.
    pub flow: Option<L4>,
}

/// A flow of TCP, UDP, SCTP, ICMP or ICMPv6, in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct L4 {
    /// IP protocol or IPv6 upper-layer number (IANA).
    pub ip_proto: u8,
    /// Source; IPv4 as `::ffff:a.b.c.d`.
    pub src_ip: u128,
    /// Destination, as the source.
    pub dst_ip: u128,
    /// ICMP: the type.
    pub src_port: u16,
    /// ICMP: the code.
    pub dst_port: u16,
}

/// By what right the frames of a key pass, and how many did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Of the ruling. The entry counts while the gate's epoch is not above.
    pub epoch: u64,
    /// When it ends, CLOCK_MONOTONIC in nanoseconds; see [`super::Gate::now`].
    pub until: Option<NonZeroU64>,
    /// Slot of the path that the frames leave by; 0: none, they stay on this host.
    pub path: u32,
    /// Index of the device that they leave by; 0: none of a port.
    pub to: u32,
    /// Packets that passed; a superframe counts as its segments.
    pub packets: u64,
    /// Their bytes, from the Ethernet header on; a superframe has one header.
    pub bytes: u64,
    /// When the key was opened first, as `until`.
    pub made: u64,
}

impl Entry {
    /// An entry by a ruling of `epoch`, without an end, that has counted nothing yet.
    #[must_use]
    pub fn new(epoch: u64, path: u32) -> Self {
        Self {
            epoch,
            path,
            ..Self::default()
        }
    }
}

impl Key {
    /// The pair that a frame with this key belongs to, entering `device`. `None`: such frames never pass, since the daemon
    /// has to see them: tags, ARP, neighbour discovery, lengths for EtherTypes.
    #[must_use]
    pub fn pair(device: u32, key: &FlowKey) -> Option<Self> {
        let passes = key.vlan == 0
            && key.ether_type >= ETHER_TYPE_MIN
            && key.ether_type != ETHER_ARP
            && key.ip_kind != IpKind::NdV6;
        passes.then_some(Self {
            device,
            src_mac: key.src_mac,
            dst_mac: key.dst_mac,
            ether_type: key.ether_type,
            flow: None,
        })
    }

    /// The flow that a frame with this key belongs to, entering `device`. `None`: as [`Self::pair`], and where there is no
    /// whole header of layer 4 that the gate reads.
    #[must_use]
    pub fn flow(device: u32, key: &FlowKey) -> Option<Self> {
        let whole = key.frag == Frag::None && key.l4_ok;
        if !whole || !matches!(key.ip_kind, IpKind::V4 | IpKind::V6) {
            return None;
        }
        // A key has ports or a type and code, and the others are zero.
        let flow = L4 {
            ip_proto: key.ip_proto,
            src_ip: key.src_ip,
            dst_ip: key.dst_ip,
            src_port: key.src_port | u16::from(key.icmp_type),
            dst_port: key.dst_port | u16::from(key.icmp_code),
        };
        Some(Self {
            flow: Some(flow),
            ..Self::pair(device, key)?
        })
    }

    pub(super) fn to_bytes(self) -> [u8; KEY_LEN] {
        let mut out = Writer::default();
        out.put(&self.device.to_ne_bytes());
        out.put(&self.src_mac.0);
        out.put(&self.dst_mac.0);
        out.put(&self.ether_type.to_be_bytes());
        if let Some(flow) = self.flow {
            out.put(&[1, flow.ip_proto]);
            out.put(&flow.src_port.to_be_bytes());
            out.put(&flow.dst_port.to_be_bytes());
            out.put(&flow.src_ip.to_be_bytes());
            out.put(&flow.dst_ip.to_be_bytes());
        }
        out.bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let mut key = Self {
            device: u32::from_ne_bytes(from.take()?),
            src_mac: MacAddr(from.take()?),
            dst_mac: MacAddr(from.take()?),
            ether_type: u16::from_be_bytes(from.take()?),
            flow: None,
        };
        let [kind, ip_proto] = from.take()?;
        let flow = L4 {
            ip_proto,
            src_port: u16::from_be_bytes(from.take()?),
            dst_port: u16::from_be_bytes(from.take()?),
            src_ip: u128::from_be_bytes(from.take()?),
            dst_ip: u128::from_be_bytes(from.take()?),
        };
        match kind {
            0 => {}
            1 => key.flow = Some(flow),
            _ => return None,
        }
        from.0.is_empty().then_some(key)
    }
}

impl Entry {
    pub(super) fn to_bytes(self) -> [u8; ENTRY_LEN] {
        let mut out = Writer::default();
        let until = self.until.map_or(0, NonZeroU64::get);
        out.put(&self.epoch.to_ne_bytes());
        out.put(&until.to_ne_bytes());
        out.put(&self.path.to_ne_bytes());
        out.put(&self.to.to_ne_bytes());
        out.put(&self.packets.to_ne_bytes());
        out.put(&self.bytes.to_ne_bytes());
        out.put(&self.made.to_ne_bytes());
        out.bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let (epoch, until) = (from.take()?, from.take()?);
        let entry = Self {
            epoch: u64::from_ne_bytes(epoch),
            until: NonZeroU64::new(u64::from_ne_bytes(until)),
            path: u32::from_ne_bytes(from.take()?),
            to: u32::from_ne_bytes(from.take()?),
            packets: u64::from_ne_bytes(from.take()?),
            bytes: u64::from_ne_bytes(from.take()?),
            made: u64::from_ne_bytes(from.take()?),
        };
        from.0.is_empty().then_some(entry)
    }
}

struct Writer<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Default for Writer<N> {
    fn default() -> Self {
        Self {
            bytes: [0; N],
            at: 0,
        }
    }
}

impl<const N: usize> Writer<N> {
    fn put(&mut self, value: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(self.at).zip(value) {
            *to = *from;
        }
        self.at += value.len();
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn any_l4()(ip_proto: u8, src_ip: u128, dst_ip: u128, src_port: u16, dst_port: u16) -> L4 {
            L4 { ip_proto, src_ip, dst_ip, src_port, dst_port }
        }
    }
    prop_compose! {
        fn any_key()(device: u32, src: [u8; 6], dst: [u8; 6], ether_type: u16, flow in prop::option::of(any_l4())) -> Key {
            Key { device, src_mac: MacAddr(src), dst_mac: MacAddr(dst), ether_type, flow }
        }
    }
    prop_compose! {
        fn any_entry()(epoch: u64, until: u64, path: u32, to: u32, packets: u64, bytes: u64, made: u64) -> Entry {
            Entry { epoch, until: NonZeroU64::new(until), path, to, packets, bytes, made }
        }
    }

    proptest! {
        #[test]
        fn a_key_and_an_entry_are_read_back_as_they_were_written(key in any_key(), entry in any_entry()) {
            prop_assert_eq!(Key::from_bytes(&key.to_bytes()), Some(key));
            prop_assert_eq!(Entry::from_bytes(&entry.to_bytes()), Some(entry));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let (key, entry) = (Key::from_bytes(&bytes), Entry::from_bytes(&bytes));
            prop_assert!(key.is_none() || bytes.len() == KEY_LEN);
            prop_assert!(entry.is_none() || bytes.len() == ENTRY_LEN);
        }
    }

    #[test]
    fn the_key_of_a_pair_is_zero_behind_its_kind() {
        let key = Key {
            device: 1,
            src_mac: MacAddr([1; 6]),
            dst_mac: MacAddr([2; 6]),
            ether_type: 0x0800,
            flow: None,
        };
        assert!(key.to_bytes().iter().skip(18).all(|&byte| byte == 0));
    }
}
