//! What this kernel can do, found out by doing it: in a network namespace that exists only for the trial.
//!
//! Owns the trials. Refuses to read version numbers or module lists: a kernel may lack what its version has.

use super::fence::{Fence, FenceError, FenceState};
use super::netns::Netlink;
use super::shelf::Shelf;
use super::vxlan::VxlanSpec;
use super::{bridge, device, devices, gate, netlink, tap, vtap};
pub use meshd_core::diagnosis::host::UseOf;
use meshd_core::ident::Vni;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use std::io;
use std::net::IpAddr;

/// Something of the kernel that meshd uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// As the kernel calls it.
    pub name: &'static str,
    /// The option that it is built with.
    pub option: &'static str,
    /// What meshd uses it for.
    pub use_of: UseOf,
    /// What happened: `Err` has the kernel's answer.
    pub tried: Result<(), String>,
}

/// Tries what host devices need. Where a kernel has it as a module that is loaded by this.
///
/// # Errors
/// If no namespace can be made for the trial: then nothing is known.
pub async fn try_devices() -> io::Result<Vec<Feature>> {
    elsewhere(async || {
        let netlink = Netlink::here()?;
        // What a VLAN stands on.
        let _ = make(&netlink, "trial0", InfoKind::Veth).await;
        let tried = devices::try_here(&netlink).await.into_iter();
        let feature = |(name, option, tried)| Feature {
            name,
            option,
            use_of: UseOf::Devices,
            tried,
        };
        Ok(tried.map(feature).collect())
    })
    .await
}

/// Tries all that ports and networks need.
///
/// # Errors
/// If no namespace can be made for the trial: then nothing is known.
pub async fn try_features() -> io::Result<Vec<Feature>> {
    elsewhere(try_here).await
}

async fn elsewhere<T: Send + 'static>(
    trial: impl AsyncFnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
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
                    runtime.block_on(trial())
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
        let use_of = match needed {
            true => UseOf::Ports,
            false => UseOf::FastPath,
        };
        features.push(Feature {
            name,
            option,
            use_of,
            tried,
        })
    };

    // veth needs a pair of names, which the kernel makes up.
    let veth = make(&netlink, "trial0", InfoKind::Veth).await;
    say("veth", "CONFIG_VETH", true, veth.clone());
    let data = tokio::runtime::Handle::current();
    let tun = tap::open(
        &netlink,
        &data,
        &Shelf::default(),
        tap::Wish {
            name: "trial1",
            alias: "trial",
            mtu: 1500,
            superframes: false,
            queues: 1,
        },
    )
    .await
    .map_err(|(step, error)| format!("{step}: {}", error.desc()));
    say(
        "tap",
        "CONFIG_TUN",
        true,
        tun.as_ref().map(|_| ()).map_err(Clone::clone),
    );
    let patched = match (netlink.link_by_name(b"trial0").await, &tun) {
        (Ok(Some(veth)), Ok(tap)) => gate::redirect(&netlink, veth.index, tap.index)
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
    say("bridge", "CONFIG_BRIDGE", false, bridge(&netlink).await);
    say("vxlan", "CONFIG_VXLAN", false, vxlan(&netlink).await);
    let vtap = vtap::open("trial5").map(drop);
    say(
        "tap with virtio-net header",
        "CONFIG_TUN",
        false,
        vtap.map_err(|(step, error)| format!("{step}: {}", error.desc())),
    );
    let superframes = vtap::open("trial6").and_then(|file| vtap::offload(&file));
    say(
        "tap with superframes",
        "CONFIG_TUN",
        false,
        superframes.map_err(|(step, error)| format!("{step}: {}", error.desc())),
    );
    let spread = vtap::has_queues().and_then(|()| {
        let file = vtap::open_as("trial7", vtap::Kind::Queues)?;
        vtap::spread(&file, &gate::spreader()?)
    });
    say(
        "tap with several queues",
        "CONFIG_TUN, CONFIG_BPF_SYSCALL",
        false,
        spread.map_err(|(step, error)| format!("{step}: {}", error.desc())),
    );
    say(
        "nftables",
        "CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET",
        false,
        fence().await.map_err(|error| error.to_string()),
    );
    Ok(features)
}

async fn make(netlink: &Netlink, name: &str, kind: InfoKind) -> Result<(), String> {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]),
    ];
    netlink
        .rt
        .link()
        .add(message)
        .execute()
        .await
        .map_err(|error| netlink::errno(&error).desc().to_owned())
}

/// A bridge with our settings, and a port in it with our flags.
async fn bridge(netlink: &Netlink) -> Result<(), String> {
    let refused = |error: Errno| error.desc().to_owned();
    let body = device::creation(
        "trial2",
        &[2, 0, 0, 0, 0, 2],
        1450,
        "bridge",
        bridge::wanted(),
    );
    netlink
        .change(libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)
        .await
        .map_err(refused)?;
    let find = async |name: &[u8]| netlink.link_by_name(name).await.map_err(refused);
    let (Some(port), Some(bridge)) = (find(b"trial1").await?, find(b"trial2").await?) else {
        return Err("not tried, since tap is missing".to_owned());
    };
    for request in bridge::join_requests(port.index, bridge.index) {
        let set = netlink.change(request.kind, request.flags, request.body);
        set.await
            .map_err(|error| format!("a port without learning and flooding: {}", error.desc()))?;
    }
    match find(b"trial1").await? {
        Some(port) if bridge::port_odds(&port).is_empty() => Ok(()),
        _ => Err("a port without learning and flooding: it is set, and reads otherwise".to_owned()),
    }
}

/// A VXLAN device with our settings.
async fn vxlan(netlink: &Netlink) -> Result<(), String> {
    let spec = VxlanSpec {
        vni: Vni::new(1).map_err(|error| error.to_string())?,
        local: IpAddr::from([192, 0, 2, 1]),
        port: 4789,
        mtu: 1450,
        checksum: true,
    };
    let body = device::creation(
        "trial3",
        &[2, 0, 0, 0, 0, 3],
        spec.mtu,
        "vxlan",
        spec.data(),
    );
    netlink
        .change(libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)
        .await
        .map_err(|error| error.desc().to_owned())?;
    let made = netlink.link_by_name(b"trial3").await;
    match made.map_err(|error| error.desc().to_owned())? {
        Some(link) if VxlanSpec::read(&link) == Some(spec) => Ok(()),
        _ => Err("nolearning, tos inherit, df set: it is set, and reads otherwise".to_owned()),
    }
}

/// The fence, whole: table, sets, chains, rules.
async fn fence() -> Result<(), FenceError> {
    let fence = Fence::open("trial", "trial".to_owned());
    let wanted = FenceState {
        port: 4789,
        vnis: Vni::new(1).into_iter().collect(),
        members: Vni::new(1)
            .map(|vni| (IpAddr::from([192, 0, 2, 2]), vni))
            .into_iter()
            .collect(),
        dropped: 0,
    };
    fence.write(&wanted).await?;
    fence.read_whole().await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_this_kernel_can_do_is_told_by_doing_it() {
        let Ok(features) = try_features().await else {
            eprintln!("SKIPPED, NOT TESTED: needs root for network namespaces");
            return;
        };
        for feature in &features {
            println!("{} ({}): {:?}", feature.name, feature.option, feature.tried);
        }
        let is_there = |name| {
            features
                .iter()
                .any(|feature| feature.name == name && feature.tried.is_ok())
        };
        assert!(is_there("bridge") && is_there("vxlan") && is_there("nftables"));
        assert!(is_there("tap with virtio-net header") && is_there("tap with superframes"));
        assert!(is_there("tap with several queues"));
    }
}
