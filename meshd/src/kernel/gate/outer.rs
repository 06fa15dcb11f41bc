//! The filter of a socket at a device of the underlay: VXLAN packets (RFC 7348) of our networks, and nothing else.
//!
//! ```text
//!   Ethernet 14 | IPv4 20.. or IPv6 40 | UDP 8: to our port? | VXLAN 8: this VNI?
//! ```
//!
//! Owns the reading of an outer header in the kernel. Later fragments and IPv6 extension headers are not followed: the kernel's
//! VXLAN sends neither.

use super::asm::{Assembler, If, Instruction, Label, Op, R0, R1, R2, R3, R4, R6, R7, R10, Size};
use super::program::{helper, skb};
use meshd_core::ident::Vni;
use nix::errno::Errno;

/// Places on the stack, from its end.
mod stack {
    pub(super) const ETHERNET: i16 = -16;
    pub(super) const IP: i16 = -56;
    /// UDP and VXLAN headers.
    pub(super) const UDP: i16 = -72;
}

const ETHERNET_LEN: i32 = 14;
/// `PACKET_OTHERHOST` of linux/if_packet.h.
const PACKET_OTHERHOST: i32 = 3;

/// Copies bytes of the frame to the stack. What is not there is not heard.
fn read(asm: &mut Assembler, to: i16, len: i32, other: Label) {
    asm.copy(R1, R6);
    asm.copy(R3, R10);
    asm.compute(Op::Add, R3, i32::from(to));
    asm.set(R4, len);
    asm.call(helper::SKB_LOAD_BYTES);
    asm.jump_if(If::NotEqual, R0, 0, other);
}

/// So many bytes at most of what is VXLAN to UDP port `port`, either way, of one network or of all.
pub(super) fn listen(port: u16, vni: Option<Vni>, snaplen: i32) -> Result<Vec<Instruction>, Errno> {
    let mut asm = Assembler::default();
    let (other, v6, udp) = (asm.label(), asm.label(), asm.label());
    asm.copy(R6, R1);
    asm.load(Size::Word, R0, R6, skb::PKT_TYPE);
    asm.jump_if(If::Equal, R0, PACKET_OTHERHOST, other);
    asm.set(R2, 0);
    read(&mut asm, stack::ETHERNET, ETHERNET_LEN, other);
    asm.load(Size::Half, R1, R10, stack::ETHERNET + 12);
    asm.host_order(R1);
    asm.jump_if(If::Equal, R1, 0x86dd, v6);
    asm.jump_if(If::NotEqual, R1, 0x0800, other);

    asm.set(R2, ETHERNET_LEN);
    read(&mut asm, stack::IP, 20, other);
    asm.load(Size::Byte, R1, R10, stack::IP + 9);
    asm.jump_if(If::NotEqual, R1, libc::IPPROTO_UDP, other);
    asm.load(Size::Half, R1, R10, stack::IP + 6);
    asm.host_order(R1);
    asm.compute(Op::And, R1, 0x1fff);
    asm.jump_if(If::NotEqual, R1, 0, other);
    asm.load(Size::Byte, R7, R10, stack::IP);
    asm.compute(Op::And, R7, 15);
    asm.compute(Op::ShiftLeft, R7, 2);
    asm.jump(udp);

    asm.here(v6);
    asm.set(R2, ETHERNET_LEN);
    read(&mut asm, stack::IP, 40, other);
    asm.load(Size::Byte, R1, R10, stack::IP + 6);
    asm.jump_if(If::NotEqual, R1, libc::IPPROTO_UDP, other);
    asm.set(R7, 40);

    asm.here(udp);
    asm.copy(R2, R7);
    asm.compute(Op::Add, R2, ETHERNET_LEN);
    read(&mut asm, stack::UDP, 16, other);
    asm.load(Size::Half, R1, R10, stack::UDP + 2);
    asm.host_order(R1);
    asm.jump_if(If::NotEqual, R1, port.into(), other);
    if let Some(vni) = vni {
        let [_, high, middle, low] = vni.get().to_be_bytes();
        for (at, byte) in [(12, high), (13, middle), (14, low)] {
            asm.load(Size::Byte, R1, R10, stack::UDP + at);
            asm.jump_if(If::NotEqual, R1, byte.into(), other);
        }
    }
    asm.set(R0, snaplen);
    asm.exit();
    asm.here(other);
    asm.set(R0, 0);
    asm.exit();
    asm.finish()
}
