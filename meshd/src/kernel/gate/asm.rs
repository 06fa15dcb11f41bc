//! An assembler for BPF: instructions one after the other, and jumps to labels.
//!
//! Owns how an instruction is encoded. Refuses to know what a program does, and whether it is sound: that is the kernel's
//! verifier's part. There is no compiler, at build time or at run time, so a program can be written for one device.
//!
//! Source: `linux/bpf.h`, `linux/bpf_common.h`, RFC 9669.

use nix::errno::Errno;

/// `struct bpf_insn` of linux/bpf.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A register. R0: results. R1 to R5: arguments, lost in a call. R6 to R9: kept over calls. R10: end of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reg(u8);

pub(super) const R0: Reg = Reg(0);
pub(super) const R1: Reg = Reg(1);
pub(super) const R2: Reg = Reg(2);
pub(super) const R3: Reg = Reg(3);
pub(super) const R4: Reg = Reg(4);
pub(super) const R6: Reg = Reg(6);
pub(super) const R7: Reg = Reg(7);
pub(super) const R8: Reg = Reg(8);
pub(super) const R9: Reg = Reg(9);
pub(super) const R10: Reg = Reg(10);

/// How much of memory an instruction moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// 1 byte.
    Byte,
    /// 2 bytes.
    Half,
    /// 4 bytes.
    Word,
    /// 8 bytes.
    Double,
}

impl Size {
    const fn code(self) -> u8 {
        match self {
            Self::Word => 0x00,
            Self::Half => 0x08,
            Self::Byte => 0x10,
            Self::Double => 0x18,
        }
    }
}

/// 64-bit arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Add,
    Sub,
    Mul,
    And,
    Xor,
    ShiftLeft,
    ShiftRight,
    Move,
}

impl Op {
    const fn code(self) -> u8 {
        match self {
            Self::Add => 0x00,
            Self::Sub => 0x10,
            Self::Mul => 0x20,
            Self::And => 0x50,
            Self::Xor => 0xa0,
            Self::ShiftLeft => 0x60,
            Self::ShiftRight => 0x70,
            Self::Move => 0xb0,
        }
    }
}

/// Unsigned comparison of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum If {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
}

impl If {
    const fn code(self) -> u8 {
        match self {
            Self::Equal => 0x10,
            Self::Greater => 0x20,
            Self::NotEqual => 0x50,
            Self::Less => 0xa0,
            Self::LessOrEqual => 0xb0,
        }
    }
}

/// A place to jump to, of one assembler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

/// A program that is being written.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    instructions: Vec<Instruction>,
    /// Where each label stands, once it does.
    labels: Vec<Option<usize>>,
    /// Which instruction jumps to which label.
    jumps: Vec<(usize, Label)>,
}

const ALU64: u8 = 0x07;
const JUMP: u8 = 0x05;
/// The operand is a register, not a number.
const REGISTER: u8 = 0x08;

impl Assembler {
    fn put(&mut self, code: u8, to: Reg, from: Reg, offset: i16, immediate: i32) {
        // The destination is the low half on little-endian hosts, the high half on others.
        let registers = if cfg!(target_endian = "little") {
            from.0 << 4 | to.0
        } else {
            to.0 << 4 | from.0
        };
        self.instructions.push(Instruction {
            code,
            registers,
            offset,
            immediate,
        });
    }

    /// A label, which stands nowhere yet.
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The label stands here.
    pub(super) fn here(&mut self, label: Label) {
        let at = self.instructions.len();
        if let Some(place) = self.labels.get_mut(label.0) {
            *place = Some(at);
        }
    }

    /// `to = to op value`.
    pub(super) fn compute(&mut self, op: Op, to: Reg, value: i32) {
        self.put(ALU64 | op.code(), to, R0, 0, value);
    }

    /// `to = to op from`.
    pub(super) fn combine(&mut self, op: Op, to: Reg, from: Reg) {
        self.put(ALU64 | REGISTER | op.code(), to, from, 0, 0);
    }

    /// `to = value`.
    pub(super) fn set(&mut self, to: Reg, value: i32) {
        self.compute(Op::Move, to, value);
    }

    /// `to = from`.
    pub(super) fn copy(&mut self, to: Reg, from: Reg) {
        self.combine(Op::Move, to, from);
    }

    /// Turns the lower 16 bits from network order; the others become zero.
    pub(super) fn host_order(&mut self, register: Reg) {
        self.put(0xdc, register, R0, 0, 16);
    }

    /// `to = *(base + offset)`.
    pub(super) fn load(&mut self, size: Size, to: Reg, base: Reg, offset: i16) {
        self.put(0x61 | size.code(), to, base, offset, 0);
    }

    /// `*(base + offset) = from`.
    pub(super) fn store(&mut self, size: Size, base: Reg, offset: i16, from: Reg) {
        self.put(0x63 | size.code(), base, from, offset, 0);
    }

    /// `*(base + offset) = value`.
    pub(super) fn store_value(&mut self, size: Size, base: Reg, offset: i16, value: i32) {
        self.put(0x62 | size.code(), base, R0, offset, value);
    }

    /// `*(base + offset) += from`, 8 bytes, against other processors too.
    pub(super) fn add_atomically(&mut self, base: Reg, offset: i16, from: Reg) {
        self.put(0xc3 | Size::Double.code(), base, from, offset, 0);
    }

    /// `to = ` the map with this descriptor.
    pub(super) fn map(&mut self, to: Reg, descriptor: i32) {
        // BPF_PSEUDO_MAP_FD.
        self.wide(to, Reg(1), descriptor);
    }

    /// `to = ` address of the only value of the array with this descriptor.
    pub(super) fn map_value(&mut self, to: Reg, descriptor: i32) {
        // BPF_PSEUDO_MAP_VALUE.
        self.wide(to, Reg(2), descriptor);
    }

    fn wide(&mut self, to: Reg, kind: Reg, low: i32) {
        self.put(0x18, to, kind, 0, low);
        self.put(0, R0, R0, 0, 0);
    }

    /// Calls a helper of the kernel; its number is from `enum bpf_func_id`.
    pub(super) fn call(&mut self, helper: i32) {
        self.put(0x85, R0, R0, 0, helper);
    }

    /// Ends with the result in R0.
    pub(super) fn exit(&mut self) {
        self.put(0x95, R0, R0, 0, 0);
    }

    /// Goes on at the label.
    pub(super) fn jump(&mut self, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.put(JUMP, R0, R0, 0, 0);
    }

    /// Goes on at the label if the comparison of register and value holds.
    pub(super) fn jump_if(&mut self, condition: If, register: Reg, value: i32, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.put(JUMP | condition.code(), register, R0, 0, value);
    }

    /// Goes on at the label if the comparison of both registers holds.
    pub(super) fn jump_by(&mut self, condition: If, register: Reg, with: Reg, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.put(JUMP | REGISTER | condition.code(), register, with, 0, 0);
    }

    /// The program, with all jumps in place.
    ///
    /// # Errors
    /// EINVAL: a label stands nowhere, or further away than a jump reaches.
    pub(super) fn finish(mut self) -> Result<Vec<Instruction>, Errno> {
        for (at, label) in self.jumps {
            let target = self.labels.get(label.0).copied().flatten();
            // Counted from the instruction behind the jump.
            let distance = target.and_then(|target| target.checked_signed_diff(at + 1));
            let offset = distance.and_then(|distance| i16::try_from(distance).ok());
            let instruction = self.instructions.get_mut(at);
            let (Some(offset), Some(instruction)) = (offset, instruction) else {
                return Err(Errno::EINVAL);
            };
            instruction.offset = offset;
        }
        Ok(self.instructions)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_leads_to_its_label_forwards_and_backwards() {
        let mut asm = Assembler::default();
        let (start, end) = (asm.label(), asm.label());
        asm.here(start);
        asm.jump_if(If::Equal, R1, 7, end);
        asm.jump(start);
        asm.here(end);
        asm.exit();
        let offsets: Vec<i16> = asm.finish().unwrap().iter().map(|i| i.offset).collect();
        assert_eq!(offsets, [1, -2, 0]);
    }

    #[test]
    fn a_label_that_stands_nowhere_is_refused() {
        let mut asm = Assembler::default();
        let nowhere = asm.label();
        asm.jump(nowhere);
        assert_eq!(asm.finish(), Err(Errno::EINVAL));
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn instructions_are_encoded_as_the_kernel_reads_them() {
        let mut asm = Assembler::default();
        asm.copy(R6, R1);
        asm.load(Size::Word, R0, R6, 16);
        asm.add_atomically(R8, 24, R1);
        asm.store_value(Size::Double, R10, -8, 0);
        let bytes: Vec<_> = asm
            .finish()
            .unwrap()
            .iter()
            .map(|i| (i.code, i.registers, i.offset))
            .collect();
        assert_eq!(
            bytes,
            [
                (0xbf, 0x16, 0),
                (0x61, 0x60, 16),
                (0xdb, 0x18, 24),
                (0x7a, 0x0a, -8)
            ]
        );
    }
}
