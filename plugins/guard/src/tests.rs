//! The policy with the facts of its controller, and the controller with scripted frames.

use super::snoop::Snoop;
use super::*;
use meshd_sdk::test::{Packet, World, configured, controlled, manifest, pkt, write_pcap};

const CLIENT: &str = "02:00:00:00:00:05";

/// Port 5 with the client, to which the mesh leased 10.0.0.5; port 9 with a router.
fn office() -> World<Snoop> {
    let mut world = controlled::<Snoop>(include_str!("../example.json")).unwrap();
    world.port(5, CLIENT, &["10.0.0.5", "fd00::5"]).arrives();
    let router = world.port(9, "02:00:00:00:00:09", &["10.0.0.9"]);
    router.label("guard", "trusted").arrives();
    world
}

/// BOOTP with DHCP options; `reply` from the server to the client's port.
fn dhcp(reply: bool, kind: u8, xid: u32, given: [u8; 4], lease: u32) -> Packet {
    let (server, client) = ([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 5]);
    let (src, dst) = if reply {
        (server, client)
    } else {
        (client, [0xff; 6])
    };
    let mut body = vec![if reply { 2 } else { 1 }, 1, 6, 0];
    body.extend(xid.to_be_bytes());
    body.extend([0; 8]);
    body.extend(given);
    body.extend([0; 8]);
    body.extend(client);
    body.extend([0; 10 + 64 + 128]);
    body.extend([0x63, 0x82, 0x53, 0x63, 53, 1, kind, 51, 4]);
    body.extend(lease.to_be_bytes());
    body.push(255);
    let (from, to) = match reply {
        true => ([10, 0, 0, 9], [255; 4]),
        false => ([0; 4], [255; 4]),
    };
    let (sport, dport) = if reply { (67u16, 68u16) } else { (68, 67) };
    let udp = body.len() as u16 + 8;
    let mut ip = vec![0x45, 0];
    ip.extend((udp + 20).to_be_bytes());
    ip.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    ip.extend(from);
    ip.extend(to);
    let sum = ip
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum::<u32>();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [dst, src].concat();
    frame.extend([0x08, 0x00]);
    frame.extend(ip);
    frame.extend(sport.to_be_bytes());
    frame.extend(dport.to_be_bytes());
    frame.extend(udp.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(body);
    Packet::frame(frame)
}

#[test]
fn a_station_speaks_for_the_addresses_that_were_leased_to_it_and_for_no_other() {
    let guard = office().policy::<Guard>();
    let from = |text: &str| {
        Packet::read(&format!(
            "{text} mac {CLIENT} > 02:00:00:00:00:09 from port 5"
        ))
    };
    for fine in [
        "tcp 10.0.0.5:4000 > 10.0.0.9:80 syn",
        "tcp [fd00::5]:4000 > [fd00::9]:80 syn",
        "udp [fe80::5]:5353 > [fe80::9]:5353",
        "nd who-has fd00::9 tell fd00::5",
        "nd who-has fd00::5 tell ::",
        "ether 0x88cc",
    ] {
        guard.send(from(fine)).passes();
    }
    for (wrong, why) in [
        ("tcp 10.0.0.6:4000 > 10.0.0.9:80 syn", "source"),
        ("tcp 0.0.0.0:4000 > 10.0.0.9:80 syn", "source"),
        ("tcp [fd00::6]:4000 > [fd00::9]:80 syn", "source"),
        ("nd who-has fd00::9 tell fd00::6", "neighbor"),
        ("arp who-has 10.0.0.1 tell 10.0.0.6", "arp"),
        (
            "arp reply 10.0.0.9 is-at 02:00:00:00:00:05 to 10.0.0.1",
            "arp",
        ),
        ("udp 10.0.0.5:67 > 255.255.255.255:68", "dhcp-server"),
        ("udp [fe80::5]:547 > [fe80::9]:546", "dhcp-server"),
        ("icmp fe80::5 > ff02::1 type 134 code 0", "router"),
        ("icmp fe80::5 > ff02::1 type 137 code 0", "router"),
    ] {
        let outcome = guard.send(from(wrong));
        if why == "arp" {
            outcome.says("drop arp, meter 0");
        } else {
            outcome.drops(why);
        }
    }
    // The address is right, and the station or the port is not.
    guard.send(pkt!(tcp 10.0.0.5:4000 > 10.0.0.9:80 syn mac 02:00:00:00:00:06 > 02:00:00:00:00:09 from port 5)).drops("source");
    guard.send(pkt!(tcp 10.0.0.5:4000 > 10.0.0.9:80 syn mac 02:00:00:00:00:05 > 02:00:00:00:00:09 from port 6)).drops("source");
    // A station of the config is right on any port.
    guard.send(pkt!(tcp 10.0.0.1:4000 > 10.0.0.9:80 syn mac 02:00:00:00:00:01 > 02:00:00:00:00:09 from port 6)).passes();
    // What comes from another node was inspected there.
    guard
        .send(pkt!(tcp 10.9.9.9:4000 > 10.0.0.5:80 syn from peer 7))
        .passes();
    guard.sound(20_000);
}

#[test]
fn a_trusted_port_may_advertise_routers_and_serve_dhcp() {
    let guard = office().policy::<Guard>();
    guard
        .send(pkt!(icmp fe80::9 > ff02::1 type 134 code 0 from port 9))
        .passes();
    guard
        .send(pkt!(udp 10.0.0.9:67 > 255.255.255.255:68 from port 9))
        .passes();
    guard
        .send(pkt!(tcp 203.0.113.1:443 > 10.0.0.5:4000 ack from port 9))
        .passes();
}

#[test]
fn an_address_by_dhcp_is_the_clients_for_as_long_as_the_lease_and_over_a_restart() {
    let mut world = office();
    let mine = |world: &World<Snoop>| world.facts().contains(&"bound/10.0.0.77".to_owned());
    // An answer that nobody asked for binds nothing, nor does one at another port.
    world.punt(&dhcp(true, 5, 7, [10, 0, 0, 77], 600).to_port(5));
    world.punt(&dhcp(false, 3, 7, [0; 4], 0).from_port(5));
    world.punt(&dhcp(true, 5, 7, [10, 0, 0, 77], 600).to_port(6));
    assert!(!mine(&world));
    world.punt(&dhcp(true, 5, 7, [10, 0, 0, 77], 600).to_port(5));
    assert!(mine(&world), "{:?}", world.lines());
    world
        .policy::<Guard>()
        .send(pkt!(tcp 10.0.0.77:4000 > 10.0.0.9:80 syn mac 02:00:00:00:00:05 > 02:00:00:00:00:09 from port 5))
        .passes();
    world.reload().unwrap();
    assert!(mine(&world), "it is kept");
    world.wait_ms(599_000);
    assert!(mine(&world));
    world.wait_ms(2_000);
    assert!(!mine(&world) && world.kept().is_empty());
}

#[test]
fn a_change_makes_stale_what_rests_on_that_address_and_nothing_else() {
    use meshd_sdk::wit::flows::Change;
    let mut world = office();
    world.port(6, "02:00:00:00:00:06", &["10.0.0.6"]).arrives();
    let last = world.commits().pop().unwrap();
    let tags: Vec<u32> = last
        .iter()
        .filter_map(|change| match change {
            Change::Invalidate(tag) => Some(*tag),
            _ => None,
        })
        .collect();
    assert_eq!(tags, [address_tag(&IpAddr::from([10, 0, 0, 6]))]);
    let before = world.commits().len();
    world.wait_ms(60_000);
    assert_eq!(
        world.commits().len(),
        before,
        "nothing changed, nothing is written"
    );
}

#[test]
fn a_commit_that_is_refused_is_tried_again() {
    let mut world = office();
    world.refuse_commit("full");
    world.port(6, "02:00:00:00:00:06", &["10.0.0.6"]).arrives();
    let told = |world: &World<Snoop>| world.facts().contains(&"bound/10.0.0.6".to_owned());
    assert!(!told(&world));
    world.wait_ms(1000);
    assert!(told(&world));
    world.remove_port(6);
    assert!(!told(&world));
}

#[test]
fn any_bytes_are_read_to_their_end() {
    let whole = dhcp(true, 5, 7, [10, 0, 0, 77], 600);
    for cut in 0..whole.bytes().len() {
        assert!(
            dhcp::read(&whole.bytes()[..cut]).is_none_or(|_| cut > 280),
            "{cut}"
        );
    }
    for at in 12..whole.bytes().len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bytes = whole.bytes().to_vec();
            bytes[at] = value;
            let _ = dhcp::read(&bytes);
        }
    }
}

#[test]
fn a_reply_of_dhcpv6_gives_each_address_with_its_time() {
    let mut message = vec![7, 0, 0, 9];
    let address = |last: u8, valid: u32| {
        let mut out = vec![0, 5, 0, 24, 0xfd];
        out.extend([0; 14]);
        out.push(last);
        out.extend([0, 0, 0, 1]);
        out.extend(valid.to_be_bytes());
        out
    };
    let inner = [address(1, 60), address(2, 0)].concat();
    message.extend([0, 1, 0, 2, 9, 9, 0, 3, 0, 12 + inner.len() as u8]);
    message.extend([0; 12]);
    message.extend(inner);
    let mut frame = [[2, 0, 0, 0, 0, 5], [2, 0, 0, 0, 0, 9]].concat();
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 17, 64]);
    frame.extend([0; 32]);
    frame.extend([2, 0x23, 2, 0x22, 0, 0, 0, 0]);
    frame.extend(message);
    let leases = vec![
        ("fd00::1".parse().unwrap(), 60),
        ("fd00::2".parse().unwrap(), 0),
    ];
    let give = dhcp::Message::Give {
        xid: 9,
        mac: None,
        leases,
    };
    assert_eq!(dhcp::read(&frame), Some(give));
}

#[test]
fn a_wrong_config_is_refused_with_its_place() {
    let at = |config: &str| configured::<Guard>(config).err().unwrap().remove(0);
    assert_eq!(
        at(r#"{"stations":[{"mac":"ff:ff:ff:ff:ff:ff","ips":[]}]}"#).pointer,
        "/stations/0/mac"
    );
    let twice = r#"{"stations":[{"mac":"02:00:00:00:00:01","ips":["10.0.0.1"]},{"mac":"02:00:00:00:00:02","ips":["10.0.0.1"]}]}"#;
    assert_eq!(at(twice).pointer, "/stations/1/ips/0");
}

#[test]
fn a_recording_of_an_attack_is_decided_as_before() {
    let office = office();
    let guard = office.policy::<Guard>();
    if std::env::var_os("MESHD_BLESS").is_some() {
        let of = |text: &str| Packet::read(&format!("{text} mac {CLIENT} > 02:00:00:00:00:09"));
        write_pcap(
            "testdata/attack.pcap",
            &[
                of("arp who-has 10.0.0.1 tell 10.0.0.6"),
                of("arp reply 10.0.0.1 is-at 02:00:00:00:00:05 to 10.0.0.9"),
                of("tcp 10.0.0.6:4000 > 10.0.0.9:22 syn"),
                of("icmp fe80::5 > ff02::1 type 134 code 0"),
                of("udp 10.0.0.5:67 > 255.255.255.255:68"),
                dhcp(false, 3, 7, [0; 4], 0),
                of("nd who-has fd00::9 tell fd00::6"),
                of("udp [fe80::5]:5353 > [ff02::fb]:5353"),
            ],
        );
    }
    guard
        .replay("testdata/attack.pcap")
        .matches("testdata/attack.golden");
    guard.sound(10_000);
}

#[test]
fn the_manifest_names_what_is_refused() {
    let manifest = manifest::<Guard>().to_string();
    for name in ["dhcp-server", "router", "neighbor", "arp", "source"] {
        assert!(
            manifest.contains(&format!("\"name\":\"{name}\"")),
            "{manifest}"
        );
    }
}
