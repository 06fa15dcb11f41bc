//! What a failed step means for the operator: the step, the device, the namespace, and what to do.
//!
//! Owns the wording of the kernel's refusals.

use super::netlink;
use super::netns::Netns;
use nix::errno::Errno;
use std::fmt;

/// A failed step.
pub(super) struct Failure {
    pub(super) reason: String,
    pub(super) gone: bool,
    /// Another process holds the TAP: nothing is to be undone under its feet.
    pub(super) keep: bool,
}

pub(super) fn failure(reason: impl fmt::Display) -> Failure {
    Failure {
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
        Errno::EADDRINUSE => ": another program has the UDP port",
        Errno::EOPNOTSUPP if step.contains("bridge") => {
            ": the kernel has no bridge (CONFIG_BRIDGE)"
        }
        Errno::EOPNOTSUPP if step.contains("VXLAN") => ": the kernel has no VXLAN (CONFIG_VXLAN)",
        Errno::EAFNOSUPPORT if step.contains("VXLAN") => ": the kernel has no IPv6",
        Errno::EBUSY => ": another process has it open; is a second meshd running?",
        _ => "",
    }
}

/// Names the step, the device and the namespace.
pub(super) fn refused<'a>(
    step: &'a str,
    device: &'a (dyn fmt::Display + Sync),
    netns: &'a Netns,
) -> impl Fn(Errno) -> Failure + 'a {
    move |error| {
        failure(format!(
            "{step} {device} in {}: {}{}",
            netns.shown(),
            error.desc(),
            advice(step, error)
        ))
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
