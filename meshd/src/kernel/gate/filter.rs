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

/// The ingress of clsact, as a parent.
const INGRESS: u32 = 0xffff_fff2;
/// Its egress.
const EGRESS: u32 = 0xffff_fff3;

/// Where our filter is on devices of our own.
const FIRST: u16 = 1;

fn clsact(device: u32) -> Result<TcMessage, StepError> {
    let index = i32::try_from(device).map_err(|_| ("patch", Errno::ENODEV))?;
    let mut qdisc = TcMessage::with_index(index);
    qdisc.header.parent = TcHandle::CLSACT;
    qdisc.header.handle = TcHandle::from(0xffff_0000);
    qdisc.attributes = vec![TcAttribute::Kind("clsact".to_owned())];
    Ok(qdisc)
}

/// The message that names the filters of a priority at the entry of a device.
fn at(device: u32, priority: u16) -> Result<TcMessage, StepError> {
    let index = i32::try_from(device).map_err(|_| ("patch", Errno::ENODEV))?;
    let mut filter = TcMessage::with_index(index);
    filter.header.parent = TcHandle {
        major: 0xffff,
        minor: TcHandle::MIN_INGRESS,
    };
    // ETH_P_ALL in network order: the same filter again replaces the one before.
    filter.header.info =
        u32::from(priority) << 16 | u32::from(u16::try_from(libc::ETH_P_ALL).unwrap_or(3).to_be());
    Ok(filter)
}

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
    hook(netlink, device).await?;
    attach_at(netlink, device, FIRST, program, name).await
}

/// Puts the clsact qdisc on a device; true: it was not there.
///
/// # Errors
/// The kernel's.
pub(in crate::kernel) async fn hook(netlink: &Netlink, device: u32) -> Result<bool, StepError> {
    match send(
        netlink,
        RouteNetlinkMessage::NewQueueDiscipline(clsact(device)?),
        NLM_F_CREATE | NLM_F_EXCL,
    )
    .await
    {
        Ok(()) => Ok(true),
        Err(Errno::EEXIST) => Ok(false),
        Err(error) => Err(("put the clsact qdisc on", error)),
    }
}

/// Takes the clsact qdisc off a device, unless somebody's filter is at it.
///
/// # Errors
/// The kernel's.
pub(in crate::kernel) async fn unhook(netlink: &Netlink, device: u32) -> Result<(), StepError> {
    for parent in [INGRESS, EGRESS] {
        if !filters(netlink, device, parent).await?.is_empty() {
            return Ok(());
        }
    }
    let gone = RouteNetlinkMessage::DelQueueDiscipline(clsact(device)?);
    match send(netlink, gone, 0).await {
        Ok(()) | Err(Errno::ENODEV | Errno::ENOENT | Errno::EINVAL) => Ok(()),
        Err(error) => Err(("take the clsact qdisc off", error)),
    }
}

/// As [`attach`], beside filters of other priorities; the clsact qdisc must be there. Lower ones are asked first.
///
/// # Errors
/// The kernel's.
pub(in crate::kernel) async fn attach_at(
    netlink: &Netlink,
    device: u32,
    priority: u16,
    program: &OwnedFd,
    name: &str,
) -> Result<(), StepError> {
    let mut filter = at(device, priority)?;
    filter.header.handle = TcHandle::from(1);
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

/// Removes our filter of that priority, if it is there.
///
/// # Errors
/// The kernel's.
pub(in crate::kernel) async fn detach_at(
    netlink: &Netlink,
    device: u32,
    priority: u16,
) -> Result<(), StepError> {
    if attached_at(netlink, device, priority).await?.is_none() {
        return Ok(());
    }
    let gone = RouteNetlinkMessage::DelTrafficFilter(at(device, priority)?);
    match send(netlink, gone, 0).await {
        Ok(()) | Err(Errno::ENODEV | Errno::ENOENT) => Ok(()),
        Err(error) => Err(("remove the filter (cls_bpf) from", error)),
    }
}

/// The name of our filter of that priority at the entry of a device; `None`: there is none.
///
/// # Errors
/// If the kernel cannot be asked.
pub(in crate::kernel) async fn attached_at(
    netlink: &Netlink,
    device: u32,
    priority: u16,
) -> Result<Option<Vec<u8>>, StepError> {
    let found = filters(netlink, device, INGRESS).await?;
    let mut ours = found
        .into_iter()
        .filter(|(at, name)| *at == priority && name.starts_with(NAME.as_bytes()));
    Ok(ours.next().map(|(_, name)| name))
}

/// Priority and name of our filters at the entry of a device.
///
/// # Errors
/// If the kernel cannot be asked.
pub(in crate::kernel) async fn all_at(
    netlink: &Netlink,
    device: u32,
) -> Result<Vec<(u16, Vec<u8>)>, StepError> {
    let mut found = filters(netlink, device, INGRESS).await?;
    found.retain(|(_, name)| name.starts_with(NAME.as_bytes()));
    Ok(found)
}

/// Priority and name of all filters at one side of a device; of one that is not of kind bpf the name is empty.
async fn filters(
    netlink: &Netlink,
    device: u32,
    parent: u32,
) -> Result<Vec<(u16, Vec<u8>)>, StepError> {
    let answer = match netlink
        .ask(libc::RTM_GETTFILTER, true, asking(device, parent))
        .await
    {
        // No qdisc, or no device.
        Err(Errno::EINVAL | Errno::ENODEV | Errno::ENOENT) => return Ok(Vec::new()),
        answer => answer.map_err(|error| ("read the filters of", error))?,
    };
    let priority = |body: &[u8]| {
        // struct tcmsg ends with info: priority in its upper half.
        let info = body.get(16..20)?.first_chunk::<4>()?;
        u16::try_from(u32::from_ne_bytes(*info) >> 16).ok()
    };
    Ok(answer
        .iter()
        .filter_map(|body| {
            let name = netlink::bpf_filter(body).map(|filter| filter.name);
            Some((priority(body)?, name.unwrap_or_default()))
        })
        .collect())
}

// struct tcmsg: family 1, padding 3, index 4, handle 4, parent 4, info 4.
fn asking(device: u32, parent: u32) -> Vec<u8> {
    netlink::Body::new(0, 20)
        .set(4, &device.to_ne_bytes())
        .set(12, &parent.to_ne_bytes())
        .bytes()
}

/// Which program of ours stands at the entry of `device`: its number in the kernel. `None`: none.
///
/// # Errors
/// If the kernel cannot be asked.
pub async fn attached(netlink: &Netlink, device: u32) -> Result<Option<u32>, StepError> {
    let answer = netlink
        .ask(libc::RTM_GETTFILTER, true, asking(device, INGRESS))
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
