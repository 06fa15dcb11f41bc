//! Multicast goes to those who listen, and to nobody else: real IGMP and MLD of the kernel, on three nodes.

use anyhow::{Context, Result, ensure};
use interop_tests::frames::Tap;
use interop_tests::lab::{Lab, LabSpec, scene};
use interop_tests::netns::{self, ip};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(15);
const PORT: u16 = 5000;
/// Datagrams of one burst, and the time between two.
const BURST: u32 = 25;
const PACE: Duration = Duration::from_millis(10);

const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(239, 1, 2, 3));
const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0, 0x4242));
/// Of 224.0.0.0/24, which always floods.
const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 77));

/// The destination MAC of a group (RFC 1112 §6.4, RFC 2464 §7).
fn mac(group: IpAddr) -> [u8; 6] {
    match group {
        IpAddr::V4(ip) => {
            let [_, a, b, c] = ip.octets();
            [0x01, 0x00, 0x5e, a & 0x7f, b, c]
        }
        IpAddr::V6(ip) => {
            let [.., a, b, c, d] = ip.octets();
            [0x33, 0x33, a, b, c, d]
        }
    }
}

/// A membership of a container; it ends with the socket.
fn join(container: &str, group: IpAddr) -> Result<UdpSocket> {
    let index = netns::run(container, "cat", &["/sys/class/net/eth0/ifindex"]);
    let link = netns::run(container, "ip", &["-o", "link", "show", "eth0"])?;
    let number = link.split(':').next().context("no index")?.trim();
    let number: u32 = number.parse().with_context(|| format!("{index:?}"))?;
    netns::within(container, || {
        let socket = match group {
            IpAddr::V4(ip) => {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
                let own = netns_address(container)?;
                socket.join_multicast_v4(&ip, &own)?;
                socket
            }
            IpAddr::V6(ip) => {
                let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT))?;
                socket.join_multicast_v6(&ip, number)?;
                socket
            }
        };
        Ok(socket)
    })
}

/// The container's IPv4 address.
fn netns_address(container: &str) -> Result<Ipv4Addr> {
    let shown = netns::run(container, "ip", &["-4", "-o", "addr", "show", "eth0"])?;
    let address = shown.split_whitespace().nth(3).context("no address")?;
    Ok(address.split('/').next().unwrap_or_default().parse()?)
}

/// Sends a burst from one container, and counts the frames to the group that come to each of the others.
fn burst(from: &str, group: IpAddr, to: &[&str]) -> Result<Vec<usize>> {
    let taps: Vec<Tap> = to
        .iter()
        .map(|container| Tap::open(container, "eth0"))
        .collect::<Result<_>>()?;
    let sender = netns::within(from, || {
        let any: SocketAddr = match group {
            IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        Ok(UdpSocket::bind(any)?)
    })?;
    for _ in 0..BURST {
        sender.send_to(b"to all who listen", (group, PORT))?;
        std::thread::sleep(PACE);
    }
    let mut counts = Vec::new();
    for tap in &taps {
        let is_it = |frame: &[u8]| frame.starts_with(&mac(group));
        let mut count = 0;
        tap.hear(Duration::from_millis(200), |frame| {
            count += usize::from(is_it(frame));
            count >= BURST as usize
        })?;
        counts.push(count);
    }
    Ok(counts)
}

/// Bursts until the counts are as wanted.
fn until(
    what: &str,
    from: &str,
    group: IpAddr,
    to: &[&str],
    wanted: impl Fn(&[usize]) -> bool,
) -> Result<()> {
    let mut last = Vec::new();
    let done = interop_tests::wait(what, SOON, || {
        last = burst(from, group, to)?;
        Ok(wanted(&last))
    });
    done.with_context(|| format!("{what}: the last counts are {last:?}"))?;
    Ok(())
}

fn ready(lab: &Lab) -> Result<()> {
    // Watched if it is there from the start.
    for node in &lab.nodes {
        std::fs::write(&node.config, "")?;
    }
    lab.mesh()?;
    lab.network(
        "lan",
        &["--subnet", "10.10.0.0/24", "--subnet", "fd10::/64"],
    )?;
    for host in 0..3 {
        let container = lab.container(host, 0);
        lab.node(host).attach("lan", container, &[])?;
        ip(&format!("-n {container} route add 224.0.0.0/4 dev eth0"))?;
    }
    Ok(())
}

const ALL: usize = BURST as usize;

#[test]
fn a_group_reaches_its_members_and_no_node_without_one() {
    scene(LabSpec::hosts(3), |lab| {
        ready(lab)?;
        let (sender, member, other) = (
            lab.container(0, 0),
            lab.container(1, 0),
            lab.container(2, 0),
        );
        let both = [member, other];
        for group in [V4, V6] {
            // A port floods until it was asked.
            until("nobody listens", sender, group, &both, |n| n == [0, 0])?;
            let membership = join(member, group)?;
            until("the member hears it", sender, group, &both, |n| n[0] == ALL)?;
            let counts = burst(sender, group, &both)?;
            ensure!(counts == [ALL, 0], "{group}: {counts:?}");
            let mut datagram = [0; 64];
            membership.set_read_timeout(Some(SOON))?;
            membership.recv(&mut datagram)?;
            // The node without a member is not sent it: the sender's own switch says so.
            let source = netns_address(sender)?;
            if group.is_ipv4() {
                let packet = format!("udp {source}:1 > {group}:{PORT}");
                let report = lab.node(0).json(&["trace", "lan", &packet])?;
                let verdict = report["verdict"].as_str().unwrap_or_default();
                ensure!(
                    verdict.contains("to b (") && !verdict.contains("c ("),
                    "{report}"
                );
            }
            // A second member, then the first leaves, then both.
            let second = join(other, group)?;
            until("both hear it", sender, group, &both, |n| n == [ALL, ALL])?;
            drop(membership);
            until("it left", sender, group, &both, |n| n == [0, ALL])?;
            drop(second);
            until("both left", sender, group, &both, |n| n == [0, 0])?;
        }
        // What a link needs goes to all.
        let counts = burst(sender, LOCAL, &both)?;
        ensure!(counts == [ALL, ALL], "224.0.0.0/24: {counts:?}");

        // A router gets all, once it has asked.
        let query = query_of(Ipv4Addr::new(10, 10, 0, 250));
        Tap::open(other, "eth0")?.send(&query)?;
        until("the router hears it", sender, V4, &both, |n| n == [0, ALL])?;

        // Switches that are told to flood do, the sender's and the receiver's.
        let config = "[[network]]\nname = \"lan\"\nmulticast_snooping = false\n";
        for node in &lab.nodes[..2] {
            std::fs::write(&node.config, config)?;
        }
        until("all hear it", sender, V6, &both, |n| n == [ALL, ALL])?;
        Ok(())
    });
}

/// An IGMPv2 general query (RFC 2236 §2) from a router.
fn query_of(router: Ipv4Addr) -> Vec<u8> {
    fn checksum(bytes: &[u8]) -> [u8; 2] {
        let words = bytes
            .chunks(2)
            .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
        let sum: u32 = words.sum();
        (!(((sum & 0xffff) + (sum >> 16)) as u16)).to_be_bytes()
    }
    let [a, b, c, d] = router.octets();
    let mut header = [
        0x46, 0xc0, 0, 32, 0, 0, 0, 0, 1, 2, 0, 0, a, b, c, d, 224, 0, 0, 1, 0x94, 4, 0, 0,
    ];
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    let mut message = [0x11, 100, 0, 0, 0, 0, 0, 0];
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum);
    let packet = [&header[..], &message].concat();
    interop_tests::frames::frame(
        [0x01, 0x00, 0x5e, 0, 0, 1],
        [0x02, 0, 0, 0, 0x0a, 0xfa],
        0x0800,
        &packet,
    )
}
