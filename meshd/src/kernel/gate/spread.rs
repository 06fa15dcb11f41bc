//! The program that spreads the frames of a port over the queues of its TAP (`TUNSETSTEERINGEBPF`): by flow.
//!
//! ```text
//!   for a group --------------------------------------------------------------> queue 0: one lane sees all floods, in order
//!   IPv4, IPv6; below one tag at most --> addresses; TCP, UDP, whole: and ports --+
//!   anything else ----------------------> MACs -----------------------------------+--> number; the kernel: modulo queues
//! ```
//!
//! Owns which frames stay together. The number is of the frame alone and of nothing that was before it, so a flow never changes its
//! queue, and its frames stay in order. The kernel's own way (`tun_automq_select_queue`) has them change it when the first answer is
//! written, and again when none was for three seconds. Fragments go by addresses, all of them, as there are ports in the first
//! only: those of a datagram stay together, and not always with the flow's whole datagrams.

use super::asm::{
    Assembler, If, Instruction, Label, Op, R0, R1, R2, R3, R4, R6, R7, R8, R10, Size,
};
use super::program::helper;
use nix::errno::Errno;

/// Places on the stack, from its end.
mod stack {
    pub(super) const ETHERNET: i16 = -16;
    /// The fixed part of the IP header, 20 or 40 bytes; before that the EtherType behind a tag.
    pub(super) const IP: i16 = -56;
    pub(super) const PORTS: i16 = -64;
}

const ETHERNET_LEN: i32 = 14;
/// IEEE 802.1Q, and 802.1ad.
const TAGS: [i32; 2] = [0x8100, 0x88a8];
const TAG_LEN: i32 = 4;
/// 2^32 by the golden ratio, odd: each bit of a word moves all above it.
const MULTIPLIER: i32 = 0x9e37_79b1_u32.cast_signed();

/// R6 is the frame's `__sk_buff`, R7 the number, R8 where the header is that is read next.
struct Writer {
    asm: Assembler,
    /// The number is whole.
    end: Label,
}

/// The program: for a socket filter, answers a number.
pub(super) fn by_flow() -> Result<Vec<Instruction>, Errno> {
    let mut asm = Assembler::default();
    let (group, untagged, v4, v6, ports, end) = (
        asm.label(),
        asm.label(),
        asm.label(),
        asm.label(),
        asm.label(),
        asm.label(),
    );
    asm.copy(R6, R1);
    asm.set(R7, 0);
    asm.set(R8, 0);
    let mut writer = Writer { asm, end };
    writer.read(stack::ETHERNET, ETHERNET_LEN);
    let asm = &mut writer.asm;
    asm.load(Size::Byte, R1, R10, stack::ETHERNET);
    asm.compute(Op::And, R1, 1);
    asm.jump_if(If::NotEqual, R1, 0, group);
    asm.set(R8, ETHERNET_LEN);
    asm.load(Size::Half, R1, R10, stack::ETHERNET + 12);
    asm.host_order(R1);
    let tagged = asm.label();
    for tag in TAGS {
        asm.jump_if(If::Equal, R1, tag, tagged);
    }
    asm.jump(untagged);
    asm.here(tagged);
    asm.compute(Op::Add, R8, 2);
    writer.read(stack::IP, 2);
    let asm = &mut writer.asm;
    asm.set(R8, ETHERNET_LEN + TAG_LEN);
    asm.load(Size::Half, R1, R10, stack::IP);
    asm.host_order(R1);
    asm.here(untagged);
    asm.jump_if(If::Equal, R1, 0x0800, v4);
    asm.jump_if(If::Equal, R1, 0x86dd, v6);
    for at in [0, 4, 8] {
        writer.mix(stack::ETHERNET + at);
    }
    writer.asm.jump(end);
    writer.asm.here(v4);
    writer.ipv4(ports);
    writer.asm.here(v6);
    writer.ipv6();
    writer.asm.here(ports);
    writer.read(stack::PORTS, 4);
    writer.mix(stack::PORTS);

    let mut asm = writer.asm;
    asm.here(end);
    // The upper half is where all bits have come to; once more, so that the last word's low ones do.
    asm.copy(R0, R7);
    asm.compute(Op::ShiftRight, R0, 32);
    asm.combine(Op::Xor, R0, R7);
    asm.compute(Op::Mul, R0, MULTIPLIER);
    asm.compute(Op::ShiftRight, R0, 32);
    asm.exit();
    asm.here(group);
    asm.set(R0, 0);
    asm.exit();
    asm.finish()
}

impl Writer {
    /// Copies bytes of the frame from where R8 says to the stack. What is not there ends it.
    fn read(&mut self, to: i16, len: i32) {
        self.asm.copy(R1, R6);
        self.asm.copy(R2, R8);
        self.asm.copy(R3, R10);
        self.asm.compute(Op::Add, R3, i32::from(to));
        self.asm.set(R4, len);
        self.asm.call(helper::SKB_LOAD_BYTES);
        self.asm.jump_if(If::NotEqual, R0, 0, self.end);
    }

    /// Four bytes of the stack more.
    fn mix(&mut self, at: i16) {
        self.asm.load(Size::Word, R1, R10, at);
        self.asm.combine(Op::Xor, R7, R1);
        self.asm.compute(Op::Mul, R7, MULTIPLIER);
    }

    /// Goes on if the protocol in R1 has its ports in the first four bytes.
    fn has_ports(&mut self) {
        let yes = self.asm.label();
        for protocol in [libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_SCTP] {
            self.asm.jump_if(If::Equal, R1, protocol, yes);
        }
        self.asm.jump(self.end);
        self.asm.here(yes);
    }

    /// To the label `ports`, with R8 there.
    fn ipv4(&mut self, ports: Label) {
        self.read(stack::IP, 20);
        self.mix(stack::IP + 12);
        self.mix(stack::IP + 16);
        // More fragments, or not the first.
        self.asm.load(Size::Half, R1, R10, stack::IP + 6);
        self.asm.host_order(R1);
        self.asm.compute(Op::And, R1, 0x3fff);
        self.asm.jump_if(If::NotEqual, R1, 0, self.end);
        self.asm.load(Size::Byte, R1, R10, stack::IP + 9);
        self.has_ports();
        self.asm.load(Size::Byte, R1, R10, stack::IP);
        self.asm.compute(Op::And, R1, 15);
        self.asm.compute(Op::ShiftLeft, R1, 2);
        self.asm.combine(Op::Add, R8, R1);
        self.asm.jump(ports);
    }

    /// On, with R8 at the ports. Behind extension headers, that of fragments among them, none are looked for.
    fn ipv6(&mut self) {
        self.read(stack::IP, 40);
        for at in (8..40).step_by(4) {
            self.mix(stack::IP + at);
        }
        self.asm.load(Size::Byte, R1, R10, stack::IP + 6);
        self.has_ports();
        self.asm.compute(Op::Add, R8, 40);
    }
}
