//! What the kernel does by itself: bridge and VXLAN, without anybody in between.

use super::Way;
use crate::lab::Lab;
use crate::netns::ip;
use crate::traffic;
use anyhow::Result;
use std::net::IpAddr;
use std::time::Duration;

/// A bridge with a kernel VXLAN device and the second container on each of two hosts, MTU 1450; on another port than
/// meshd's, so that both can be in one host.
///
/// # Errors
/// If the kernel refuses.
pub fn kernel_vxlan(lab: &Lab) -> Result<Way> {
    for (here, there) in [(0, 1), (1, 0)] {
        let (host, far) = (&lab.hosts[here], &lab.hosts[there]);
        let (ns, container) = (&host.netns, lab.container(here, 1));
        ip(&format!(
            "-n {ns} link add bv0 mtu 1450 type bridge mcast_snooping 0"
        ))?;
        ip(&format!(
            "-n {ns} link add vx0 mtu 1450 type vxlan id 77 dstport 14789 local {} remote {} dev und0",
            host.v4, far.v4
        ))?;
        ip(&format!(
            "-n {ns} link add vc0 mtu 1450 type veth peer name eth0 mtu 1450 netns {container}"
        ))?;
        for device in ["vx0", "vc0"] {
            ip(&format!("-n {ns} link set dev {device} master bv0 up"))?;
        }
        ip(&format!("-n {ns} link set dev bv0 up"))?;
        ip(&format!(
            "-n {container} addr add 10.77.0.{}/24 dev eth0",
            here + 1
        ))?;
        ip(&format!("-n {container} link set dev eth0 up"))?;
    }
    let way = Way {
        name: "kernel VXLAN",
        client: lab.container(0, 1).into(),
        server: lab.container(1, 1).into(),
        to: IpAddr::from([10, 77, 0, 2]),
    };
    traffic::ping_until(&way.client, way.to, Duration::from_secs(5))?;
    Ok(way)
}
