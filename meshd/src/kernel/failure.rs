//! What a failed step means for the operator: the step, the device, the namespace, and what to do.
//!
//! Owns the wording of the kernel's refusals.

use super::netlink;
use super::netns::Netns;
use meshd_core::code::ErrorCode;
use nix::errno::Errno;
use std::fmt;

/// A failed step.
pub(super) struct Failure {
    pub(super) code: ErrorCode,
    pub(super) reason: String,
    pub(super) gone: bool,
    /// Another process holds the TAP: nothing is to be undone under its feet.
    pub(super) keep: bool,
}

pub(super) fn failure(code: ErrorCode, reason: impl fmt::Display) -> Failure {
    Failure {
        code,
        reason: reason.to_string(),
        gone: false,
        keep: false,
    }
}

/// What the kernel's refusal means here, and what to do.
fn advice(step: &str, error: Errno) -> &'static str {
    match error {
        Errno::EPERM | Errno::EACCES if step.contains("open netlink") => {
            ": needs CAP_SYS_ADMIN (run meshd as root)"
        }
        Errno::EPERM if step.contains("bpf") => {
            ": needs CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN (run meshd as root)"
        }
        Errno::EACCES if step.contains("address") => {
            ": IPv6 is off there (sysctl net.ipv6.conf.*.disable_ipv6)"
        }
        Errno::EPERM | Errno::EACCES => ": needs CAP_NET_ADMIN (run meshd as root)",
        Errno::ENOENT | Errno::ENODEV | Errno::ENXIO if step.contains("/dev/net/tun") => {
            ": no /dev/net/tun; load the module tun or build the kernel with CONFIG_TUN, and in a container pass the device in"
        }
        Errno::ENODEV | Errno::ENXIO => ": it went away meanwhile",
        Errno::EOPNOTSUPP if step.contains("veth") => ": the kernel has no veth (CONFIG_VETH)",
        Errno::ENOENT | Errno::EOPNOTSUPP if step.contains("clsact") => {
            ": the kernel has no clsact (CONFIG_NET_SCH_INGRESS)"
        }
        Errno::ENOENT | Errno::EOPNOTSUPP if step.contains("cls_bpf") => {
            ": the kernel has no cls_bpf (CONFIG_NET_CLS_BPF, CONFIG_NET_CLS_ACT)"
        }
        Errno::ENOSYS if step.contains("bpf") => ": the kernel has no bpf (CONFIG_BPF_SYSCALL)",
        Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP if step.contains("address") => {
            ": the kernel has no IPv6 there"
        }
        Errno::EINVAL if step.contains("address") => {
            ": an IPv6 address needs an MTU of 1280 or more there"
        }
        Errno::EINVAL if step.contains("veth") => ": the kernel refuses the name, MAC or MTU",
        Errno::EADDRINUSE if !step.starts_with("raise") => ": another program has the UDP port",
        Errno::EOPNOTSUPP if step.contains("dummy") => ": the kernel has no dummy (CONFIG_DUMMY)",
        Errno::EOPNOTSUPP if step.contains("make the bond") => {
            ": the kernel has no bonding (CONFIG_BONDING)"
        }
        Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT if step.contains("make the vlan") => {
            ": the kernel has no VLAN devices (CONFIG_VLAN_8021Q)"
        }
        Errno::EOPNOTSUPP if step.contains("make the macvlan") => {
            ": the kernel has no macvlan (CONFIG_MACVLAN)"
        }
        Errno::EOPNOTSUPP if step.contains("make the macvtap") => {
            ": the kernel has no macvtap (CONFIG_MACVTAP)"
        }
        Errno::EBUSY if step.contains("make the macv") => {
            ": another takes the frames of what it stands on, such as a bond, a bridge or an ipvlan"
        }
        Errno::EINVAL if step.contains("make the macv") => {
            ": what it stands on has a macvlan in mode passthru, or has others and cannot have one"
        }
        Errno::EBUSY if step.starts_with("put ") => {
            ": it carries a macvlan, or is in use otherwise"
        }
        Errno::EADDRINUSE if step.starts_with("raise") => ": a sibling has its MAC",
        Errno::EOPNOTSUPP if step.contains("VLANs") => {
            ": the kernel has no VLANs on bridges (CONFIG_BRIDGE_VLAN_FILTERING)"
        }
        Errno::EEXIST if step.contains("make the vlan") => {
            ": its parent has a device of this VLAN already"
        }
        Errno::ENETDOWN => ": what it stands on is down; raise that (ip link set … up)",
        Errno::ERANGE | Errno::EINVAL if step.contains("set the MTU") => {
            ": more than what it stands on can carry (`ip link` shows the MTU of that), or less than it needs"
        }
        Errno::ENOTUNIQ if step.contains("into") => ": it is in another bond or bridge",
        Errno::EOPNOTSUPP if step.contains("bridge") => {
            ": the kernel has no bridge (CONFIG_BRIDGE)"
        }
        Errno::EOPNOTSUPP if step.contains("VXLAN") => ": the kernel has no VXLAN (CONFIG_VXLAN)",
        Errno::EAFNOSUPPORT if step.contains("VXLAN") => ": the kernel has no IPv6",
        Errno::EBUSY => ": another process has it open; is a second meshd running?",
        _ => "",
    }
}

/// Which fault a refusal of the kernel is. Beside [`advice`], which says it in words.
fn code(step: &str, error: Errno) -> ErrorCode {
    match error {
        // With this one the kernel says that IPv6 is off.
        Errno::EACCES if step.contains("address") => ErrorCode::KernelRefused,
        Errno::EPERM | Errno::EACCES => ErrorCode::KernelNotPermitted,
        Errno::ENOENT | Errno::ENODEV | Errno::ENXIO if step.contains("/dev/net/tun") => {
            ErrorCode::KernelLacks
        }
        Errno::ENODEV | Errno::ENXIO => ErrorCode::InterfaceMissing,
        Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT | Errno::ENOSYS => {
            ErrorCode::KernelLacks
        }
        Errno::ENOENT if step.contains("clsact") || step.contains("cls_bpf") => {
            ErrorCode::KernelLacks
        }
        Errno::EEXIST => ErrorCode::InterfaceExists,
        Errno::EADDRINUSE if !step.starts_with("raise") => ErrorCode::UdpPortTaken,
        Errno::EBUSY | Errno::ENOTUNIQ => ErrorCode::DeviceBusy,
        _ => ErrorCode::KernelRefused,
    }
}

/// Names the step, the device and the namespace.
pub(super) fn refused<'a>(
    step: &'a str,
    device: &'a (dyn fmt::Display + Sync),
    netns: &'a Netns,
) -> impl Fn(Errno) -> Failure + 'a {
    move |error| {
        let reason = format!(
            "{step} {device} in {}: {}{}",
            netns.shown(),
            error.desc(),
            advice(step, error)
        );
        failure(code(step, error), reason)
    }
}

pub(super) fn refused_rt<'a>(
    step: &'a str,
    device: &'a (dyn fmt::Display + Sync),
    netns: &'a Netns,
) -> impl Fn(rtnetlink::Error) -> Failure + 'a {
    let refused = refused(step, device, netns);
    move |error| refused(netlink::errno(&error))
}
