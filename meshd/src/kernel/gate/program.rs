//! The programs that stand at the devices: which frames stay in the kernel.
//!
//! ```text
//!   frame -> tag, ARP, too large, IP that contradicts itself, ND? ------------------------------> miss
//!               | no
//!               +-> (device, MACs, EtherType) open?  ---------- yes -> count -> pass: on to the bridge
//!               +-> the same and addresses, protocol, ports open? yes -^
//!               | no
//!               +-> miss: redirect to the TAP that the daemon reads
//! ```
//!
//! Owns the reading of a frame in the kernel. It may not be laxer than [`meshd_core::frame`]: what that calls malformed must
//! not pass, and what that reads as one flow must not be another here. Tests compare both on the same frames. Frames are read
//! by `bpf_skb_load_bytes`, since they may not be in one piece. No helper is newer than Linux 5.7.

use super::asm::{Assembler, If, Instruction, Label, Op, R0, R1, R2, R3, R4, R6, R7, R8, R9, R10};
use super::asm::{Reg, Size};
use nix::errno::Errno;
use std::os::fd::RawFd;

/// `enum bpf_func_id`.
pub(super) mod helper {
    pub(super) const MAP_LOOKUP_ELEM: i32 = 1;
    pub(super) const KTIME_GET_NS: i32 = 5;
    pub(super) const SKB_VLAN_PUSH: i32 = 18;
    pub(super) const SKB_VLAN_POP: i32 = 19;
    pub(super) const REDIRECT: i32 = 23;
    pub(in crate::kernel::gate) const SKB_LOAD_BYTES: i32 = 26;
}

/// Offsets in `struct __sk_buff`.
pub(super) mod skb {
    pub(super) const LEN: i16 = 0;
    pub(in crate::kernel::gate) const PKT_TYPE: i16 = 4;
    pub(super) const VLAN_PRESENT: i16 = 20;
    pub(super) const VLAN_TCI: i16 = 24;
    pub(super) const VLAN_PROTO: i16 = 28;
    pub(super) const INGRESS_IFINDEX: i16 = 36;
    pub(super) const IFINDEX: i16 = 40;
    pub(super) const GSO_SEGS: i16 = 164;
    pub(super) const GSO_SIZE: i16 = 176;
}

/// Places on the stack, from its end.
mod stack {
    /// The key, 56 bytes, as `entry.rs` has it.
    pub(super) const KEY: i16 = -56;
    pub(super) const KEY_DEVICE: i16 = KEY;
    pub(super) const KEY_SRC_MAC: i16 = KEY + 4;
    pub(super) const KEY_DST_MAC: i16 = KEY + 10;
    pub(super) const KEY_ETHER_TYPE: i16 = KEY + 16;
    pub(super) const KEY_KIND: i16 = KEY + 18;
    pub(super) const KEY_IP_PROTO: i16 = KEY + 19;
    pub(super) const KEY_SRC_PORT: i16 = KEY + 20;
    pub(super) const KEY_DST_PORT: i16 = KEY + 22;
    pub(super) const KEY_SRC_IP: i16 = KEY + 24;
    pub(super) const KEY_DST_IP: i16 = KEY + 40;
    /// The Ethernet header, 14 bytes; its source MAC stands at a multiple of 4.
    pub(super) const ETHERNET: i16 = -74;
    /// The fixed part of the IP header, 20 or 40 bytes.
    pub(super) const IP: i16 = -120;
    /// The first 8 bytes of layer 4.
    pub(super) const L4: i16 = -128;
    /// The protocol, 8 bytes.
    pub(super) const PROTO: i16 = -136;
    /// A TCP header's length, 1 byte.
    pub(super) const TCP_OFFSET: i16 = -137;
    /// Slot of the path, 4 bytes.
    pub(super) const SLOT: i16 = -144;
}

/// Offsets in an entry, as `entry.rs` has it.
mod entry {
    pub(super) const EPOCH: i16 = 0;
    pub(super) const UNTIL: i16 = 8;
    pub(super) const PATH: i16 = 16;
    pub(super) const PACKETS: i16 = 24;
    pub(super) const BYTES: i16 = 32;
}

/// Offsets in the value of a path.
mod path {
    pub(super) const OPEN: i16 = 0;
    pub(super) const SENT_PACKETS: i16 = 8;
    pub(super) const SENT_BYTES: i16 = 16;
    pub(super) const HEARD_PACKETS: i16 = 24;
    pub(super) const HEARD_BYTES: i16 = 32;
}

const ETHERNET_LEN: i32 = 14;
/// Local experimental EtherType 1 (IEEE 802): probes of the VXLAN path, which the daemon answers.
const ETHER_PROBE: i32 = 0x88b5;
/// `TC_ACT_UNSPEC`: the filters of others go on, and then the kernel.
const TC_ACT_UNSPEC: i32 = -1;
/// `TC_ACT_SHOT`: the frame is dropped.
const TC_ACT_SHOT: i32 = 2;

/// `PACKET_OUTGOING` of linux/if_packet.h.
const PACKET_OUTGOING: i32 = 4;

/// Which gate it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Of a port: frames leave for a path, which must be open.
    Port,
    /// Of a VXLAN device: frames came by a path, open or not.
    Vxlan,
}

/// What a program is made for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) side: Side,
    /// Index of the device that misses leave by.
    pub(super) miss: u32,
    /// Of the network, bytes behind the Ethernet header.
    pub(super) mtu: u16,
    pub(super) flows: RawFd,
    pub(super) paths: RawFd,
    pub(super) epoch: RawFd,
}

/// `return bpf_redirect(device, 0);`
pub(super) fn redirect(device: u32) -> Result<Vec<Instruction>, Errno> {
    let mut asm = Assembler::default();
    leave_by(&mut asm, device);
    asm.finish()
}

/// Frames of a VLAN leave by `device`, without its tag. Others go on.
pub(super) fn untag(device: u32, vlan: u16) -> Result<Vec<Instruction>, Errno> {
    let mut asm = Assembler::default();
    let (other, failed) = (asm.label(), asm.label());
    asm.copy(R6, R1);
    asm.load(Size::Word, R0, R6, skb::VLAN_PRESENT);
    asm.jump_if(If::Equal, R0, 0, other);
    // A provider's tag (802.1ad) is another, of whatever number.
    asm.load(Size::Word, R0, R6, skb::VLAN_PROTO);
    asm.jump_if(If::NotEqual, R0, u16::to_be(0x8100).into(), other);
    asm.load(Size::Word, R0, R6, skb::VLAN_TCI);
    asm.compute(Op::And, R0, 0x0fff);
    asm.jump_if(If::NotEqual, R0, vlan.into(), other);
    asm.copy(R1, R6);
    asm.call(helper::SKB_VLAN_POP);
    asm.jump_if(If::NotEqual, R0, 0, failed);
    leave_by(&mut asm, device);
    asm.here(other);
    asm.set(R0, TC_ACT_UNSPEC);
    asm.exit();
    asm.here(failed);
    asm.set(R0, TC_ACT_SHOT);
    asm.exit();
    asm.finish()
}

/// All frames leave by `device`, with the tag of a VLAN.
pub(super) fn tag(device: u32, vlan: u16) -> Result<Vec<Instruction>, Errno> {
    let mut asm = Assembler::default();
    let failed = asm.label();
    asm.set(R2, u16::to_be(0x8100).into());
    asm.set(R3, vlan.into());
    asm.call(helper::SKB_VLAN_PUSH);
    asm.jump_if(If::NotEqual, R0, 0, failed);
    leave_by(&mut asm, device);
    asm.here(failed);
    asm.set(R0, TC_ACT_SHOT);
    asm.exit();
    asm.finish()
}

fn leave_by(asm: &mut Assembler, device: u32) {
    asm.set(R1, device.cast_signed());
    asm.set(R2, 0);
    asm.call(helper::REDIRECT);
    asm.exit();
}

/// A gate.
pub(super) fn gate(plan: Plan) -> Result<Vec<Instruction>, Errno> {
    let asm = Assembler::default();
    let mut writer = Writer::new(asm, plan);
    writer.ethernet();
    writer.lookups();
    writer.pass();
    let Writer {
        mut asm, places, ..
    } = writer;
    asm.here(places.miss);
    leave_by(&mut asm, plan.miss);
    asm.finish()
}

/// For a socket that listens at the device of a gate: so many bytes at most of what the gate lets in there, and of what leaves
/// there by the kernel. What came in and is the daemon's, or is from the daemon, it does not hear.
pub(super) fn listen(plan: Plan, snaplen: i32) -> Result<Vec<Instruction>, Errno> {
    let mut asm = Assembler::default();
    let entered = asm.label();
    asm.load(Size::Word, R0, R1, skb::PKT_TYPE);
    asm.jump_if(If::NotEqual, R0, PACKET_OUTGOING, entered);
    asm.load(Size::Word, R0, R1, skb::INGRESS_IFINDEX);
    let mut writer = Writer::new(asm, plan);
    let places = writer.places;
    let device = plan.miss.cast_signed();
    writer.asm.jump_if(If::Equal, R0, device, places.miss);
    writer.asm.jump(places.pass);
    writer.asm.here(entered);
    writer.ethernet();
    writer.lookups();
    let Writer { mut asm, .. } = writer;
    asm.here(places.pass);
    asm.set(R0, snaplen);
    asm.exit();
    asm.here(places.miss);
    asm.set(R0, 0);
    asm.exit();
    asm.finish()
}

#[derive(Clone, Copy)]
struct Places {
    /// The frame is read; is its pair open?
    pair: Label,
    pass: Label,
    miss: Label,
}

/// R6 is the frame's `__sk_buff` all the time. While it is read: R7 offset of layer 4, or 0 if there is none to look at; R8
/// payload of each segment of a superframe, or 0; R9 where the packet ends. Then: R8 the entry, R9 the path's value or 0.
struct Writer {
    asm: Assembler,
    plan: Plan,
    places: Places,
}

impl Writer {
    fn new(mut asm: Assembler, plan: Plan) -> Self {
        let places = Places {
            pair: asm.label(),
            pass: asm.label(),
            miss: asm.label(),
        };
        Self { asm, plan, places }
    }

    /// Copies bytes of the frame to the stack. What is not there is a miss.
    fn read(&mut self, at: impl FnOnce(&mut Assembler), to: i16, len: i32) {
        at(&mut self.asm);
        self.asm.copy(R1, R6);
        self.asm.copy(R3, R10);
        self.asm.compute(Op::Add, R3, i32::from(to));
        self.asm.set(R4, len);
        self.asm.call(helper::SKB_LOAD_BYTES);
        self.asm.jump_if(If::NotEqual, R0, 0, self.places.miss);
    }

    /// Moves bytes from one place of the stack to another.
    fn copy(&mut self, size: Size, from: i16, to: i16) {
        self.asm.load(size, R1, R10, from);
        self.asm.store(size, R10, to, R1);
    }

    /// To the label `pair`, if the frame may pass at all.
    fn ethernet(&mut self) {
        let miss = self.places.miss;
        self.asm.copy(R6, R1);
        self.asm.load(Size::Word, R0, R6, skb::VLAN_PRESENT);
        self.asm.jump_if(If::NotEqual, R0, 0, miss);
        self.read(|asm| asm.set(R2, 0), stack::ETHERNET, ETHERNET_LEN);

        for at in (stack::KEY..0).step_by(8) {
            self.asm.store_value(Size::Double, R10, at, 0);
        }
        self.asm.load(Size::Word, R1, R6, skb::IFINDEX);
        self.asm.store(Size::Word, R10, stack::KEY_DEVICE, R1);
        self.copy(Size::Word, stack::ETHERNET + 6, stack::KEY_SRC_MAC);
        self.copy(Size::Half, stack::ETHERNET + 10, stack::KEY_SRC_MAC + 4);
        for at in [0, 2, 4] {
            self.copy(Size::Half, stack::ETHERNET + at, stack::KEY_DST_MAC + at);
        }
        self.copy(Size::Half, stack::ETHERNET + 12, stack::KEY_ETHER_TYPE);

        let kind = R1;
        self.asm.host_order(kind);
        self.asm.jump_if(If::Less, kind, 0x0600, miss);
        for refused in [0x0806, 0x8100, 0x88a8] {
            self.asm.jump_if(If::Equal, kind, refused, miss);
        }
        if self.plan.side == Side::Vxlan {
            self.asm.jump_if(If::Equal, kind, ETHER_PROBE, miss);
        }

        let (superframe, fits) = (self.asm.label(), self.asm.label());
        let longest = i32::from(self.plan.mtu) + ETHERNET_LEN;
        self.asm.set(R7, 0);
        self.asm.load(Size::Word, R8, R6, skb::GSO_SIZE);
        self.asm.load(Size::Word, R9, R6, skb::LEN);
        self.asm.jump_if(If::NotEqual, R8, 0, superframe);
        self.asm.jump_if(If::Greater, R9, longest, miss);
        self.asm.here(superframe);

        let v6 = self.asm.label();
        self.asm.jump_if(If::Equal, kind, 0x86dd, v6);
        self.asm.jump_if(If::Equal, kind, 0x0800, fits);
        // Only IP is segmented.
        self.asm.jump_if(If::NotEqual, R8, 0, miss);
        self.asm.jump(self.places.pair);

        let l4 = self.asm.label();
        self.asm.here(fits);
        self.ipv4(l4);
        self.asm.here(v6);
        self.ipv6(l4);
        self.asm.here(l4);
        self.layer4();
    }

    /// To `l4` with the protocol in R3.
    fn ipv4(&mut self, l4: Label) {
        let Places { pair, miss, .. } = self.places;
        self.read(|asm| asm.set(R2, ETHERNET_LEN), stack::IP, 20);
        let asm = &mut self.asm;
        let (first, header, total) = (R2, R1, R2);
        asm.load(Size::Byte, header, R10, stack::IP);
        asm.copy(first, header);
        asm.compute(Op::ShiftRight, first, 4);
        asm.jump_if(If::NotEqual, first, 4, miss);
        asm.compute(Op::And, header, 15);
        asm.compute(Op::ShiftLeft, header, 2);
        asm.jump_if(If::Less, header, 20, miss);
        // Of a superframe the segments get lengths of their own.
        let lengths_hold = asm.label();
        asm.jump_if(If::NotEqual, R8, 0, lengths_hold);
        asm.load(Size::Half, total, R10, stack::IP + 2);
        asm.host_order(total);
        asm.jump_by(If::Less, total, header, miss);
        asm.compute(Op::Add, total, ETHERNET_LEN);
        asm.jump_by(If::Greater, total, R9, miss);
        asm.copy(R9, total);
        asm.here(lengths_hold);
        asm.copy(R7, header);
        asm.compute(Op::Add, R7, ETHERNET_LEN);
        asm.load(Size::Byte, R3, R10, stack::IP + 9);

        // Of a fragment, and of ICMPv6 in IPv4, layer 4 is not looked at.
        let (nothing, whole) = (asm.label(), asm.label());
        asm.load(Size::Half, R1, R10, stack::IP + 6);
        asm.host_order(R1);
        asm.compute(Op::And, R1, 0x3fff);
        asm.jump_if(If::NotEqual, R1, 0, nothing);
        asm.jump_if(If::NotEqual, R3, 58, whole);
        asm.here(nothing);
        asm.jump_if(If::NotEqual, R8, 0, miss);
        asm.set(R7, 0);
        asm.jump(pair);
        asm.here(whole);
        asm.jump(l4);
    }

    /// Falls through to layer 4 with the protocol in R3.
    fn ipv6(&mut self, l4: Label) {
        let Places { pair, miss, .. } = self.places;
        self.read(|asm| asm.set(R2, ETHERNET_LEN), stack::IP, 40);
        let asm = &mut self.asm;
        asm.load(Size::Byte, R1, R10, stack::IP);
        asm.compute(Op::ShiftRight, R1, 4);
        asm.jump_if(If::NotEqual, R1, 6, miss);
        let lengths_hold = asm.label();
        asm.jump_if(If::NotEqual, R8, 0, lengths_hold);
        asm.load(Size::Half, R2, R10, stack::IP + 4);
        asm.host_order(R2);
        asm.compute(Op::Add, R2, ETHERNET_LEN + 40);
        asm.jump_by(If::Greater, R2, R9, miss);
        asm.copy(R9, R2);
        asm.here(lengths_hold);
        asm.set(R7, ETHERNET_LEN + 40);
        asm.load(Size::Byte, R3, R10, stack::IP + 6);
        // Extension headers are the daemon's to follow: what is behind them may be neighbour discovery.
        for extension in [0, 43, 44, 51, 60] {
            asm.jump_if(If::Equal, R3, extension, miss);
        }
        // ICMP in IPv6 is nothing that is looked at.
        asm.jump_if(If::NotEqual, R3, 1, l4);
        asm.jump_if(If::NotEqual, R8, 0, miss);
        asm.set(R7, 0);
        asm.jump(pair);
    }

    /// The protocol is in R3: is its header whole, and does each segment of a superframe fit?
    fn layer4(&mut self) {
        let Places { pair, miss, .. } = self.places;
        let (known, unknown) = (self.asm.label(), self.asm.label());
        let asm = &mut self.asm;
        for (proto, header) in [(6, 20), (17, 8), (1, 8), (58, 8), (132, 12)] {
            asm.set(R4, header);
            asm.jump_if(If::Equal, R3, proto, known);
        }
        asm.jump(unknown);

        asm.here(known);
        asm.combine(Op::Add, R4, R7);
        let whole = asm.label();
        asm.jump_by(If::LessOrEqual, R4, R9, whole);
        // Cut off; what if it was neighbour discovery?
        asm.jump_if(If::Equal, R3, 58, miss);
        asm.jump(unknown);

        asm.here(whole);
        asm.store(Size::Double, R10, stack::PROTO, R3);
        self.read(|asm| asm.copy(R2, R7), stack::L4, 8);
        let asm = &mut self.asm;
        asm.load(Size::Double, R3, R10, stack::PROTO);
        // ICMPv6 133 to 137: neighbour discovery (RFC 4861).
        let other = asm.label();
        asm.jump_if(If::NotEqual, R3, 58, other);
        asm.load(Size::Byte, R1, R10, stack::L4);
        asm.compute(Op::Sub, R1, 133);
        asm.jump_if(If::LessOrEqual, R1, 137 - 133, miss);
        asm.here(other);
        asm.jump_if(If::Equal, R8, 0, pair);

        let (sum, not_tcp) = (asm.label(), asm.label());
        asm.jump_if(If::NotEqual, R3, 6, not_tcp);
        self.read(
            |asm| {
                asm.copy(R2, R7);
                asm.compute(Op::Add, R2, 12);
            },
            stack::TCP_OFFSET,
            1,
        );
        let asm = &mut self.asm;
        asm.load(Size::Byte, R1, R10, stack::TCP_OFFSET);
        asm.compute(Op::ShiftRight, R1, 4);
        asm.compute(Op::ShiftLeft, R1, 2);
        asm.jump_if(If::Less, R1, 20, miss);
        asm.jump(sum);
        asm.here(not_tcp);
        asm.set(R1, 8);
        asm.here(sum);
        self.segment_fits();
        self.asm.jump(pair);

        self.asm.here(unknown);
        let asm = &mut self.asm;
        let single = asm.label();
        asm.jump_if(If::Equal, R8, 0, single);
        // A tunnel of the container's own: at least so much stands before each segment's payload.
        asm.set(R1, 20);
        self.segment_fits();
        self.asm.here(single);
        self.asm.set(R7, 0);
    }

    /// R1: length of the header of layer 4. IP header, that and the payload of a segment may not be more than the MTU.
    fn segment_fits(&mut self) {
        self.asm.combine(Op::Add, R1, R7);
        self.asm.combine(Op::Add, R1, R8);
        let longest = i32::from(self.plan.mtu) + ETHERNET_LEN;
        self.asm.jump_if(If::Greater, R1, longest, self.places.miss);
    }

    /// From the label `pair` on: to `pass` or to `miss`.
    fn lookups(&mut self) {
        let Places { pair, pass, miss } = self.places;
        let flow = self.asm.label();
        self.asm.here(pair);
        self.lookup(flow);
        self.asm.jump(pass);
        self.asm.here(flow);
        self.asm.jump_if(If::Equal, R7, 0, miss);
        self.fill_flow();
        self.lookup(miss);
    }

    /// Is the key open? If so goes on, with the entry in R8 and the path's value, or 0, in R9.
    fn lookup(&mut self, closed: Label) {
        let plan = self.plan;
        self.find(plan.flows, stack::KEY);
        let asm = &mut self.asm;
        asm.jump_if(If::Equal, R0, 0, closed);
        asm.copy(R8, R0);
        asm.map_value(R1, plan.epoch);
        asm.load(Size::Double, R1, R1, 0);
        asm.load(Size::Double, R2, R8, entry::EPOCH);
        asm.jump_by(If::Less, R2, R1, closed);
        let endless = asm.label();
        asm.load(Size::Double, R1, R8, entry::UNTIL);
        asm.jump_if(If::Equal, R1, 0, endless);
        asm.call(helper::KTIME_GET_NS);
        asm.load(Size::Double, R1, R8, entry::UNTIL);
        asm.jump_by(If::LessOrEqual, R1, R0, closed);
        asm.here(endless);
        let open = asm.label();
        asm.set(R9, 0);
        asm.load(Size::Word, R1, R8, entry::PATH);
        asm.jump_if(If::Equal, R1, 0, open);
        asm.store(Size::Word, R10, stack::SLOT, R1);
        self.find(plan.paths, stack::SLOT);
        let asm = &mut self.asm;
        asm.jump_if(If::Equal, R0, 0, closed);
        asm.copy(R9, R0);
        if plan.side == Side::Port {
            asm.load(Size::Double, R1, R9, path::OPEN);
            asm.jump_if(If::Equal, R1, 0, closed);
        }
        asm.here(open);
    }

    fn find(&mut self, map: RawFd, key: i16) {
        self.asm.map(R1, map);
        self.asm.copy(R2, R10);
        self.asm.compute(Op::Add, R2, i32::from(key));
        self.asm.call(helper::MAP_LOOKUP_ELEM);
    }

    /// Makes the key of the pair that of the flow.
    fn fill_flow(&mut self) {
        self.asm.store_value(Size::Byte, R10, stack::KEY_KIND, 1);
        let (ports, addresses, v4, done) = (
            self.asm.label(),
            self.asm.label(),
            self.asm.label(),
            self.asm.label(),
        );
        self.asm.load(Size::Double, R3, R10, stack::PROTO);
        self.asm.store(Size::Byte, R10, stack::KEY_IP_PROTO, R3);
        let icmp = self.asm.label();
        self.asm.jump_if(If::Equal, R3, 1, icmp);
        self.asm.jump_if(If::NotEqual, R3, 58, ports);
        self.asm.here(icmp);
        self.copy(Size::Byte, stack::L4, stack::KEY_SRC_PORT + 1);
        self.copy(Size::Byte, stack::L4 + 1, stack::KEY_DST_PORT + 1);
        self.asm.jump(addresses);
        self.asm.here(ports);
        self.copy(Size::Word, stack::L4, stack::KEY_SRC_PORT);

        self.asm.here(addresses);
        self.asm.load(Size::Byte, R1, R10, stack::IP);
        self.asm.compute(Op::ShiftRight, R1, 4);
        self.asm.jump_if(If::Equal, R1, 4, v4);
        for at in [0, 8] {
            self.copy(Size::Double, stack::IP + 8 + at, stack::KEY_SRC_IP + at);
            self.copy(Size::Double, stack::IP + 24 + at, stack::KEY_DST_IP + at);
        }
        self.asm.jump(done);
        self.asm.here(v4);
        for (from, to) in [(12, stack::KEY_SRC_IP), (16, stack::KEY_DST_IP)] {
            self.asm.store_value(Size::Half, R10, to + 10, 0xffff);
            self.copy(Size::Word, stack::IP + from, to + 12);
        }
        self.asm.here(done);
    }

    /// Counts, and lets the frame go on.
    fn pass(&mut self) {
        let side = self.plan.side;
        let asm = &mut self.asm;
        asm.here(self.places.pass);
        let (counted, some) = (asm.label(), asm.label());
        let (packets, bytes): (Reg, Reg) = (R1, R2);
        asm.load(Size::Word, packets, R6, skb::GSO_SEGS);
        asm.jump_if(If::NotEqual, packets, 0, some);
        asm.set(packets, 1);
        asm.here(some);
        asm.load(Size::Word, bytes, R6, skb::LEN);
        asm.add_atomically(R8, entry::PACKETS, packets);
        asm.add_atomically(R8, entry::BYTES, bytes);
        asm.jump_if(If::Equal, R9, 0, counted);
        match side {
            Side::Port => {
                asm.add_atomically(R9, path::SENT_PACKETS, packets);
                asm.add_atomically(R9, path::SENT_BYTES, bytes);
            }
            Side::Vxlan => {
                asm.add_atomically(R9, path::HEARD_PACKETS, packets);
                asm.add_atomically(R9, path::HEARD_BYTES, bytes);
            }
        }
        asm.here(counted);
        asm.set(R0, TC_ACT_UNSPEC);
        asm.exit();
    }
}
