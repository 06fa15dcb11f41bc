//! The patch between a veth and a TAP: each frame that enters one leaves the other, in the kernel, without a bridge.
//!
//! ```text
//!    mvN: clsact ingress -> bpf: return bpf_redirect(mtN, 0)         mtN: clsact ingress -> bpf: return bpf_redirect(mvN, 0)
//! ```
//!
//! Owns the program and its filter. A filter is put in place in one step, so a frame meets the old one or the new one; it
//! stays when the daemon dies.
#![allow(unsafe_code)] // bpf(2) has no safe wrapper without a dependency.

use super::netlink;
use super::netns::Netlink;
use super::tap::StepError;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};
use nix::errno::Errno;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Frames that enter `from` leave `to`.
///
/// # Errors
/// The step that the kernel refused.
pub(super) async fn redirect(netlink: &Netlink, from: u32, to: u32) -> Result<(), StepError> {
    let program = load(to).map_err(|error| ("load the redirect program (bpf) for", error))?;
    let device = i32::try_from(from).map_err(|_| ("patch", Errno::ENODEV))?;

    let mut qdisc = TcMessage::with_index(device);
    qdisc.header.parent = TcHandle::CLSACT;
    qdisc.header.handle = TcHandle::from(0xffff_0000);
    qdisc.attributes = vec![TcAttribute::Kind("clsact".to_owned())];
    match send(
        netlink,
        RouteNetlinkMessage::NewQueueDiscipline(qdisc),
        NLM_F_CREATE | NLM_F_EXCL,
    )
    .await
    {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(error) => return Err(("put the clsact qdisc on", error)),
    }

    let mut filter = TcMessage::with_index(device);
    filter.header.parent = TcHandle {
        major: 0xffff,
        minor: TcHandle::MIN_INGRESS,
    };
    filter.header.handle = TcHandle::from(1);
    // Priority 1 and ETH_P_ALL in network order: the same filter again replaces the one before.
    filter.header.info = (1 << 16) | u32::from(u16::try_from(libc::ETH_P_ALL).unwrap_or(3).to_be());
    let fd = program.as_raw_fd().cast_unsigned();
    filter.attributes = vec![
        TcAttribute::Kind("bpf".to_owned()),
        TcAttribute::Options(vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(fd)),
            TcOption::Bpf(TcFilterBpfOption::ProgName("meshd".to_owned())),
            // TCA_BPF_FLAG_ACT_DIRECT: the program's answer is the verdict.
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::from_bits_retain(1))),
        ]),
    ];
    send(
        netlink,
        RouteNetlinkMessage::NewTrafficFilter(filter),
        NLM_F_CREATE | NLM_F_REPLACE,
    )
    .await
    .map_err(|error| ("attach the redirect filter (cls_bpf) to", error))
}

/// Is there a filter of ours at the entry of the device?
pub(super) async fn is_in_place(netlink: &Netlink, index: u32) -> bool {
    // struct tcmsg: family 1, padding 3, index 4, handle 4, parent 4, info 4. The parent is the ingress of clsact.
    let parent: u32 = 0xffff_fff2;
    let body = netlink::Body::new(0, 20)
        .set(4, &index.to_ne_bytes())
        .set(12, &parent.to_ne_bytes());
    let answer = netlink
        .ask(libc::RTM_GETTFILTER, true, body.bytes())
        .await
        .unwrap_or_default();
    answer.iter().any(|filter| netlink::is_bpf(filter))
}

async fn send(netlink: &Netlink, message: RouteNetlinkMessage, flags: u16) -> Result<(), Errno> {
    use futures_util::StreamExt;
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut answers = netlink
        .rt
        .clone()
        .request(request)
        .map_err(|error| netlink::errno(&error))?;
    while let Some(answer) = answers.next().await {
        if let netlink_packet_core::NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            return Err(Errno::from_raw(error.raw_code().wrapping_neg()));
        }
    }
    Ok(())
}

/// `struct bpf_insn` of linux/bpf.h.
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// The head of `union bpf_attr` for BPF_PROG_LOAD, to `prog_name`; what follows is zero by its size.
#[repr(C)]
struct ProgramLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

/// `return bpf_redirect(ifindex, 0);`
fn load(ifindex: u32) -> Result<OwnedFd, Errno> {
    const MOV64_IMM: u8 = 0xb7;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    const BPF_FUNC_REDIRECT: i32 = 23;
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
    // The destination register is the low half on little-endian hosts, the high half on others.
    let register = |number: u8| {
        if cfg!(target_endian = "little") {
            number
        } else {
            number << 4
        }
    };
    let instruction = |code, registers, immediate| Instruction {
        code,
        registers,
        offset: 0,
        immediate,
    };
    let program = [
        instruction(MOV64_IMM, register(1), ifindex.cast_signed()),
        instruction(MOV64_IMM, register(2), 0),
        instruction(CALL, 0, BPF_FUNC_REDIRECT),
        instruction(EXIT, 0, 0),
    ];
    let mut attributes = ProgramLoad {
        prog_type: BPF_PROG_TYPE_SCHED_CLS,
        insn_cnt: 4,
        insns: program.as_ptr().expose_provenance() as u64,
        license: c"Dual MIT/GPL".as_ptr().expose_provenance() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: *b"meshd_patch\0\0\0\0\0",
    };
    // SAFETY: `attributes` lives over the call and its size is given; it points to `program` and to a literal, which both
    // live over the call too, and the kernel only reads them.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw mut attributes,
            size_of::<ProgramLoad>(),
        )
    };
    let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just returned the descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
