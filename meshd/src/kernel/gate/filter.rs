//! How a program stands at the entry of a device: clsact, and a filter of kind bpf.
//!
//! Owns the filter. It is put in place in one step, so a frame meets the old one or the new one; it stays when the daemon
//! dies.

use super::StepError;
use crate::kernel::netlink;
use crate::kernel::netns::Netlink;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};
use nix::errno::Errno;
use std::os::fd::{AsRawFd, OwnedFd};

/// With which the names of our filters begin.
const NAME: &str = "meshd";

/// Makes `program` the judge of all frames that enter `device`, in place of the one that was it before. `name` tells what it
/// is; `meshd` is put before it.
///
/// # Errors
/// The step that the kernel refused.
pub async fn attach(
    netlink: &Netlink,
    device: u32,
    program: &OwnedFd,
    name: &str,
) -> Result<(), StepError> {
    let index = i32::try_from(device).map_err(|_| ("patch", Errno::ENODEV))?;

    let mut qdisc = TcMessage::with_index(index);
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

    let mut filter = TcMessage::with_index(index);
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
            TcOption::Bpf(TcFilterBpfOption::ProgName(format!("{NAME}{name}"))),
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
    .map_err(|error| ("attach the filter (cls_bpf) to", error))
}

/// Which program of ours stands at the entry of `device`: its number in the kernel. `None`: none.
///
/// # Errors
/// If the kernel cannot be asked.
pub async fn attached(netlink: &Netlink, device: u32) -> Result<Option<u32>, StepError> {
    // struct tcmsg: family 1, padding 3, index 4, handle 4, parent 4, info 4. The parent is the ingress of clsact.
    let parent: u32 = 0xffff_fff2;
    let body = netlink::Body::new(0, 20)
        .set(4, &device.to_ne_bytes())
        .set(12, &parent.to_ne_bytes());
    let answer = netlink
        .ask(libc::RTM_GETTFILTER, true, body.bytes())
        .await
        .map_err(|error| ("read the filters of", error))?;
    let mut ours = answer
        .iter()
        .filter_map(|body| netlink::bpf_filter(body))
        .filter(|filter| filter.name.starts_with(NAME.as_bytes()));
    Ok(ours.next().map(|filter| filter.program))
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
