//! What the doctor says of routes, of VXLAN devices of others, and of somebody who takes meshd's own things out of the kernel.

use super::{SOON, finds, finds_none};
use anyhow::Result;
use interop_tests::lab::{LabSpec, scene};
use interop_tests::netns::{self, ip};
use interop_tests::wait;

#[test]
fn a_wrong_interface_a_foreign_vxlan_device_and_a_fence_that_somebody_took_away_are_found() {
    scene(LabSpec::hosts(2).trusted(), |lab| {
        lab.mesh()?;
        let (a, host) = (lab.node(0), &lab.hosts[0].netns);
        // Another overlay is there first, with the VNI that the network will have.
        let there = "type vxlan id 4242 dstport 4789 local";
        ip(&format!(
            "-n {host} link add vx9 {there} {}",
            lab.hosts[0].v4
        ))?;
        ip(&format!("-n {host} link set vx9 up"))?;
        lab.network("lan", &["--subnet", "10.10.0.0/24", "--vni", "4242"])?;
        for node in &lab.nodes {
            node.attach("lan", lab.container(usize::from(node.name == "b"), 0), &[])?;
        }
        finds(
            a,
            "vxlan-foreign",
            &["vx9", "4242", "lan", "ip link del vx9"],
        )?;
        ip(&format!("-n {host} link del vx9"))?;
        wait("the foreign device is forgotten", SOON, || {
            Ok(finds_none(a, &["vxlan-foreign"]).is_ok())
        })?;
        // With a device of one's own nothing is foreign.
        a.waits_for_kernel_path("b", true, std::time::Duration::from_secs(90))?;
        finds_none(a, &["vxlan-foreign", "underlay-route"])?;

        // The route to the peer leads out by a second interface, without an address of its own.
        let wire = &lab.wire;
        ip(&format!(
            "-n {host} link add und1 type veth peer name a1 netns {wire}"
        ))?;
        ip(&format!("-n {wire} link set dev a1 master br0 up"))?;
        ip(&format!("-n {host} link set und1 up"))?;
        let (v4, v6) = (lab.hosts[1].v4, lab.hosts[1].v6);
        ip(&format!("-n {host} route add {v4}/32 dev und1"))?;
        ip(&format!("-n {host} -6 route add {v6}/128 dev und1"))?;
        finds(a, "underlay-route", &["und0", "und1", "VXLAN to b"])?;
        ip(&format!("-n {host} link del und1"))?;
        wait("the route is right again", SOON, || {
            Ok(finds_none(a, &["underlay-route"]).is_ok())
        })?;

        finds_none(a, &["kernel-meddled"]).or_else(|_| repaired_before(a))?;
        netns::run(host, "nft", &["flush", "ruleset"])?;
        finds(a, "kernel-meddled", &["was put right", "the fence"])?;
        let tables = netns::run(host, "nft", &["list", "tables", "inet"])?;
        anyhow::ensure!(tables.contains("meshd-"), "no fence in {tables}");
        Ok(())
    });
}

/// The foreign device was in the way of ours, so something may have been put right already; then the flush makes it more.
fn repaired_before(node: &interop_tests::node::Node) -> Result<()> {
    anyhow::ensure!(!node.events("kernel-repaired")?.is_empty());
    Ok(())
}
