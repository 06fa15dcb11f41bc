//! Hosts that speak VXLAN and are no members take part in a network through the node that declares them.

use anyhow::{Context, Result, ensure};
use interop_tests::foreign::{OpenVswitch, Segment, linux};
use interop_tests::lab::{Lab, LabSpec, plugin, scene};
use interop_tests::node::Attached;
use interop_tests::traffic::{ping, ping_until, tcp_opens, transfer};
use std::net::IpAddr;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);
const FOREIGN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 10, 0, 200));

/// Two members with a container each; the third host is the foreign one.
fn members(lab: &Lab) -> Result<(Vec<Attached>, Segment)> {
    lab.mesh_of(2)?;
    lab.network("lan", &["--subnet", "10.10.0.0/24"])?;
    let attach = |host: usize| lab.node(host).attach("lan", lab.container(host, 0), &[]);
    let ports = vec![attach(0)?, attach(1)?];
    for node in &lab.nodes[..2] {
        for port in &ports {
            node.learns(&port.mac)?;
        }
    }
    let vni = lab.node(0).list("network ls")?[0]["vni"].as_u64();
    let segment = Segment {
        vni: u32::try_from(vni.context("vni")?)?,
        gateway: lab.underlay(0),
        ip: FOREIGN,
    };
    Ok((ports, segment))
}

/// What a foreign host may and may not do, from before it is declared until after it is no more.
fn takes_part(lab: &Lab, ports: &[Attached], mac: &str) -> Result<()> {
    let (gateway, ns) = (lab.node(0), lab.hosts[2].netns.as_str());
    let to: Vec<IpAddr> = ports.iter().map(Attached::v4).collect::<Result<_>>()?;
    ensure!(
        ping(ns, to[0], 2, 56)?.received == 0,
        "who is not declared was heard"
    );
    let there = lab.underlay(2).to_string();
    gateway.ok(&["network", "vtep", "add", "lan", &there, "--mac", mac])?;
    for &to in &to {
        ping_until(ns, to, SOON)?;
    }
    for (host, _) in ports.iter().enumerate() {
        ping_until(lab.container(host, 0), FOREIGN, SOON)?;
    }
    for (host, &to) in to.iter().enumerate() {
        let port = 5000 + u16::try_from(host)?;
        transfer(ns, lab.container(host, 0), to, port, 8 << 20)?;
        transfer(lab.container(host, 0), ns, FOREIGN, port, 8 << 20)?;
    }
    // The kernel has taken over what goes on between it and the gateway's containers.
    interop_tests::wait("its flows live in the kernel", SOON, || {
        ping(ns, to[0], 3, 56)?;
        let flows = gateway.flows("kernel")?;
        let from = |mac: &str| {
            let text = |flow: &serde_json::Value| flow["flow"].as_str().map(str::to_owned);
            flows
                .iter()
                .filter_map(text)
                .any(|text| text.starts_with(mac))
        };
        Ok(from(mac) && from(&ports[0].mac))
    })?;
    // Policy is asked about it as about everybody.
    let acl = plugin("acl")?;
    let deny = r#"{"deny":[{"proto":"tcp","port":22}]}"#;
    gateway.ok(&["plugin", "install", "acl", &acl.to_string_lossy()])?;
    gateway.ok(&["plugin", "attach", "acl", "lan", "--config", deny])?;
    let opens = |port: u16| tcp_opens(ns, lab.container(0, 0), to[0], port, Duration::from_secs(1));
    ensure!(!opens(22)?, "policy was not asked about a foreign host");
    ensure!(opens(80)?, "policy refuses what it should not");
    gateway.ok(&["plugin", "detach", "acl", "lan"])?;
    gateway.restart()?;
    lab.converged(SOON)?;
    for &to in &to {
        ping_until(ns, to, SOON)?;
    }
    while_its_subnet_is_not_trusted(lab)?;
    gateway.ok(&["network", "vtep", "rm", "lan", &there])?;
    interop_tests::wait("it is out again", SOON, || {
        Ok(ping(ns, to[0], 1, 56)?.received == 0 && ping(ns, to[1], 1, 56)?.received == 0)
    })?;
    let fdb = gateway.list("fdb")?;
    ensure!(
        !fdb.iter().any(|entry| entry["mac"] == mac),
        "its MAC is still there: {fdb:?}"
    );
    Ok(())
}

/// What the other side is to have is told; and who is trusted no more gets nothing, which is told, too.
fn while_its_subnet_is_not_trusted(lab: &Lab) -> Result<()> {
    let gateway = lab.node(0);
    let row = || Ok::<_, anyhow::Error>(gateway.list("network vtep ls")?.remove(0));
    let ours = format!("{}:4789", lab.underlay(0));
    ensure!(
        row()?["remote"] == ours && row()?["trouble"].is_null(),
        "{}",
        row()?
    );
    let table = gateway.ok(&["network", "vtep", "ls"])?;
    ensure!(
        table.contains(&ours) && table.contains("reached"),
        "{table}"
    );
    let (config, container) = (&gateway.config, lab.container(0, 0));
    let before = std::fs::read_to_string(config)?;
    // The gateway's own address stays trusted, the foreign one's does not.
    std::fs::write(config, before.replace("192.0.2.0/24", "192.0.2.0/31"))?;
    interop_tests::wait("it is told not to be reached", SOON, || {
        let why = row()?["trouble"].as_str().map(str::to_owned);
        Ok(why.is_some_and(|why| why.contains("`trusted` of [underlay]")))
    })?;
    let dropped = gateway.drops("port-absent")?;
    interop_tests::wait("frames to it have a reason of their own", SOON, || {
        ping(container, FOREIGN, 2, 56)?;
        Ok(gateway.drops("port-absent")? > dropped)
    })?;
    ensure!(
        ping(container, FOREIGN, 1, 56)?.received == 0,
        "it was sent to"
    );
    let table = gateway.ok(&["network", "vtep", "ls"])?;
    ensure!(
        table.contains("not reached") && table.contains("\n! "),
        "{table}"
    );
    std::fs::write(config, before)?;
    ping_until(container, FOREIGN, SOON)?;
    Ok(())
}

#[test]
fn a_plain_linux_host_takes_part_by_vxlan() {
    scene(LabSpec::hosts(3).trusted(), |lab| {
        let (ports, segment) = members(lab)?;
        let mac = linux(lab, 2, &segment)?;
        takes_part(lab, &ports, &mac)
    });
}

#[test]
fn open_vswitch_takes_part_by_vxlan() {
    scene(LabSpec::hosts(3).trusted(), |lab| {
        let (ports, segment) = members(lab)?;
        let ovs = OpenVswitch::start(lab, 2, &segment)?;
        takes_part(lab, &ports, &ovs.mac)
    });
}
