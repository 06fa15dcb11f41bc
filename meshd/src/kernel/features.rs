//! What this kernel can do, found out by doing it: in a network namespace that exists only for the trial.
//!
//! Owns the trials. Refuses to read version numbers or module lists: a kernel may lack what its version has.

use super::netns::Netlink;
use super::{gate, netlink, tap};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use std::io;

/// Something of the kernel that meshd uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// As the kernel calls it.
    pub name: &'static str,
    /// The option that it is built with.
    pub option: &'static str,
    /// Nothing works without it; the others are for the kernel's fast path.
    pub needed: bool,
    /// What happened: `Err` has the kernel's answer.
    pub tried: Result<(), String>,
}

/// Tries all of them.
///
/// # Errors
/// If no namespace can be made for the trial: then nothing is known.
pub async fn try_features() -> io::Result<Vec<Feature>> {
    let (tell, told) = tokio::sync::oneshot::channel();
    // A thread of its own: its namespace ends with it, and whatever was made there.
    std::thread::Builder::new()
        .name("features".to_owned())
        .spawn(move || {
            let tried = unshare(CloneFlags::CLONE_NEWNET)
                .map_err(io::Error::from)
                .and_then(|()| {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()?;
                    runtime.block_on(try_here())
                });
            let _ = tell.send(tried);
        })?;
    told.await
        .map_err(|_| io::Error::other("the trial ended early"))?
}

async fn try_here() -> io::Result<Vec<Feature>> {
    let netlink = Netlink::here()?;
    let mut features = Vec::new();
    let mut say = |name, option, needed, tried: Result<(), String>| {
        features.push(Feature {
            name,
            option,
            needed,
            tried,
        })
    };

    // veth needs a pair of names, which the kernel makes up.
    let veth = make(&netlink, "trial0", InfoKind::Veth).await;
    say("veth", "CONFIG_VETH", true, veth.clone());
    let tun = tap::open(&netlink, "trial1", "trial", 1500)
        .await
        .map_err(|(step, error)| format!("{step}: {}", error.desc()));
    say(
        "tap",
        "CONFIG_TUN",
        true,
        tun.as_ref().map(|_| ()).map_err(Clone::clone),
    );
    let patched = match (netlink.link_by_name(b"trial0").await, &tun) {
        (Ok(Some(veth)), Ok((_, tap))) => gate::redirect(&netlink, veth.index, *tap)
            .await
            .map_err(|(step, error)| format!("{step} a device: {}", error.desc())),
        _ => Err("not tried, since veth or tap is missing".to_owned()),
    };
    say(
        "clsact and cls_bpf",
        "CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_BPF, CONFIG_NET_CLS_ACT, CONFIG_BPF_SYSCALL",
        true,
        patched,
    );
    say(
        "bridge",
        "CONFIG_BRIDGE",
        false,
        make(&netlink, "trial2", InfoKind::Bridge).await,
    );
    say(
        "vxlan",
        "CONFIG_VXLAN",
        false,
        make(&netlink, "trial3", InfoKind::Vxlan).await,
    );
    say(
        "macvlan",
        "CONFIG_MACVLAN",
        false,
        make(&netlink, "trial4", InfoKind::MacVlan).await,
    );
    say(
        "nftables",
        "CONFIG_NF_TABLES",
        false,
        nftables().map_err(|error| error.to_string()),
    );
    Ok(features)
}

async fn make(netlink: &Netlink, name: &str, kind: InfoKind) -> Result<(), String> {
    use netlink_packet_route::link::{InfoData, InfoVxlan};
    let mut message = LinkMessage::default();
    let mut info = vec![LinkInfo::Kind(kind.clone())];
    if kind == InfoKind::Vxlan {
        info.push(LinkInfo::Data(InfoData::Vxlan(vec![
            InfoVxlan::Id(1),
            InfoVxlan::Port(4789),
        ])));
    }
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(info),
    ];
    if kind == InfoKind::MacVlan {
        let lower = netlink
            .link_by_name(b"trial0")
            .await
            .ok()
            .flatten()
            .ok_or("not tried, since veth is missing")?;
        message.attributes.push(LinkAttribute::Link(lower.index));
    }
    netlink
        .rt
        .link()
        .add(message)
        .execute()
        .await
        .map_err(|error| netlink::errno(&error).desc().to_owned())
}

/// Asks nf_tables for its generation, which changes nothing.
fn nftables() -> io::Result<()> {
    const NFNL_SUBSYS_NFTABLES: u16 = 10;
    const NFT_MSG_GETGEN: u16 = 16;
    const NLMSG_ERROR: u16 = 2;
    let socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_NETFILTER)?;
    let body = netlink::Body::new(0, 4).bytes();
    let mut message = netlink::request(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN, false, body);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send_to(&bytes, &netlink_sys::SocketAddr::new(0, 0), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let error = netlink::messages(&answer).find(|(kind, _)| *kind == NLMSG_ERROR);
    match error.and_then(|(_, body)| {
        body.first_chunk::<4>()
            .map(|code| i32::from_ne_bytes(*code))
    }) {
        Some(code) if code != 0 => Err(Errno::from_raw(code.wrapping_neg()).into()),
        _ => Ok(()),
    }
}
