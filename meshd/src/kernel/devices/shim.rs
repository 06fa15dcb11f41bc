//! Shims in the kernel: host routes by them, addresses that they answer for, and how they are set.
//!
//! Owns the routes of protocol 0x6d on a shim. Why all this is so is in `meshd_core::devices`.

use super::super::failure::{Failure, failure, refused};
use super::super::netlink::{self, Body};
use super::{HostDevices, PROTO};
use meshd_core::code::ErrorCode;
use meshd_core::devices::HostRoute;
use meshd_core::ident::IfName;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `NTF_PROXY` of linux/neighbour.h.
const NTF_PROXY: u8 = 1 << 3;
/// `NUD_PERMANENT`.
const PERMANENT: u16 = 0x80;
/// `RTN_UNICAST`, `RT_TABLE_MAIN` and `RT_SCOPE_LINK` of linux/rtnetlink.h.
const UNICAST: u8 = 1;
const MAIN: u8 = 254;
const LINK: u8 = 253;

fn family(ip: IpAddr) -> (u8, u8, Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => (2, 32, ip.octets().to_vec()),
        IpAddr::V6(ip) => (10, 128, ip.octets().to_vec()),
    }
}

/// What a host route of ours leads to, of the body of RTM_NEWROUTE.
fn read_route(body: &[u8], index: u32) -> Option<HostRoute> {
    // struct rtmsg: family, length of dst, of src, TOS, table, protocol, scope, type; flags 4.
    let &[family, length, _, _, table, protocol, _, _] = body.first_chunk::<8>()?;
    let (mut to, mut src, mut out) = (None, None, None);
    for (kind, value) in netlink::attributes(body, 12) {
        match kind {
            libc::RTA_DST => to = netlink::ip(family, value),
            libc::RTA_PREFSRC => src = netlink::ip(family, value),
            libc::RTA_OIF => out = netlink::word(value),
            _ => {}
        }
    }
    let to = to?;
    let whole = if to.is_ipv4() { 32 } else { 128 };
    let ours = (length, table, protocol, out) == (whole, MAIN, PROTO, Some(index));
    ours.then_some(HostRoute { to, src })
}

impl HostDevices {
    /// Host routes of ours by the device, and addresses that it answers for.
    pub(super) async fn read_shim(
        &self,
        index: u32,
    ) -> Result<(BTreeSet<HostRoute>, BTreeSet<Ipv6Addr>), Errno> {
        let mut routes = BTreeSet::new();
        for family in [2, 10] {
            // Filtered by the kernel: a host may have a million routes.
            let body = Body::new(family, 12).attribute(libc::RTA_OIF, &index.to_ne_bytes());
            let found = self
                .strict
                .ask(libc::RTM_GETROUTE, true, body.bytes())
                .await;
            let found = match found {
                // No IPv6 here, or no route by it.
                Err(Errno::EOPNOTSUPP | Errno::ENOENT | Errno::EAFNOSUPPORT) => continue,
                found => found?,
            };
            routes.extend(found.iter().filter_map(|body| read_route(body, index)));
        }
        let body = Body::new(10, 12).set(10, &[NTF_PROXY]);
        let found = self.own.ask(libc::RTM_GETNEIGH, true, body.bytes()).await;
        let read = |body: &Vec<u8>| {
            if body.get(4..).and_then(netlink::word) != Some(index) {
                return None;
            }
            let mut all = netlink::attributes(body, 12);
            let (_, value) = all.find(|(kind, _)| *kind == libc::NDA_DST)?;
            match netlink::ip(10, value) {
                Some(IpAddr::V6(ip)) => Some(ip),
                _ => None,
            }
        };
        let proxies = found.unwrap_or_default().iter().filter_map(read).collect();
        Ok((routes, proxies))
    }

    pub(super) async fn route(
        &self,
        of: &IfName,
        route: HostRoute,
        is_new: bool,
    ) -> Result<(), Failure> {
        let link = self.find(of).await?;
        let (family, length, to) = family(route.to);
        let scope = if route.to.is_ipv4() { LINK } else { 0 };
        let mut body = Body::new(family, 12)
            .set(1, &[length])
            .set(4, &[MAIN, PROTO, scope, UNICAST])
            .attribute(libc::RTA_DST, &to)
            .attribute(libc::RTA_OIF, &link.index.to_ne_bytes());
        if let Some(src) = route.src {
            body = body.attribute(libc::RTA_PREFSRC, &self::family(src).2);
        }
        let done = match is_new {
            true => {
                let flags = NLM_F_CREATE | NLM_F_EXCL;
                self.own
                    .change(libc::RTM_NEWROUTE, flags, body.bytes())
                    .await
            }
            false => self.own.change(libc::RTM_DELROUTE, 0, body.bytes()).await,
        };
        match done {
            Ok(()) => Ok(()),
            Err(Errno::ESRCH) if !is_new => Ok(()),
            Err(Errno::EEXIST) => Err(failure(
                ErrorCode::HostDeviceFailed,
                format!(
                    "there is a route to {} that meshd did not make: remove it, so that {of} leads there",
                    route.to
                ),
            )),
            Err(error) => {
                let verb = if is_new { "add" } else { "remove" };
                let step = format!("{verb} the route to {} by", route.to);
                Err(refused(&step, of, &self.netns)(error))
            }
        }
    }

    pub(super) async fn proxy(
        &self,
        of: &IfName,
        address: Ipv6Addr,
        is_new: bool,
    ) -> Result<(), Failure> {
        let link = self.find(of).await?;
        let body = Body::new(10, 12)
            .set(4, &link.index.to_ne_bytes())
            .set(8, &PERMANENT.to_ne_bytes())
            .set(10, &[NTF_PROXY])
            .attribute(libc::NDA_DST, &address.octets());
        let (kind, flags) = match is_new {
            true => (libc::RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE),
            false => (libc::RTM_DELNEIGH, 0),
        };
        match self.own.change(kind, flags, body.bytes()).await {
            Ok(()) => Ok(()),
            Err(Errno::ENOENT) if !is_new => Ok(()),
            Err(error) => {
                let step = format!("have {address} answered for by");
                Err(refused(&step, of, &self.netns)(error))
            }
        }
    }

    /// It answers ARP only to those whom the host reaches by it; and IPv6 as a proxy, at once.
    pub(super) fn tune_shim(&self, of: &IfName) -> Result<(), Failure> {
        let set = |folder: &str, key: &str, value: &str| {
            let path = Path::new("/proc/sys/net").join(folder);
            let path = path.join(OsStr::from_bytes(of.as_bytes())).join(key);
            std::fs::write(&path, value).map_err(|error| {
                failure(
                    ErrorCode::HostDeviceFailed,
                    format!("write {value} to {}: {error}", path.display()),
                )
            })
        };
        // Else the LAN would have two answers for the host's address.
        set("ipv4/conf", "arp_filter", "1")?;
        if Path::new("/proc/sys/net/ipv6").is_dir() {
            set("ipv6/conf", "accept_ra", "0")?;
            set("ipv6/conf", "autoconf", "0")?;
            // Of this device alone: the kernel answers for others only where it forwards (RFC 4861 §7.2.8).
            set("ipv6/conf", "forwarding", "1")?;
            set("ipv6/conf", "proxy_ndp", "1")?;
            set("ipv6/neigh", "proxy_delay", "0")?;
        }
        Ok(())
    }
}
