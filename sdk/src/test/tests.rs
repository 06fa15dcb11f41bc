//! Of the packet language, the harness and recordings.

use super::packet::Packet;
use super::*;
use crate::prelude::*;

fn shown(packet: Packet) -> String {
    keys::show(&packet)
}

fn key_of(packet: &Packet) -> FlowKey {
    keys::key(packet).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn a_packet_is_what_its_text_says() {
    assert_eq!(
        shown(pkt!(tcp 10.0.0.1:4000 > 10.0.0.2:23 syn)),
        "tcp 10.0.0.1:4000 > 10.0.0.2:23 syn"
    );
    assert_eq!(
        shown(pkt!(udp [fd00::1]:53 > [fd00::2]:5353 vlan 7 dscp ef)),
        "udp [fd00::1]:53 > [fd00::2]:5353 vlan 7"
    );
    assert_eq!(
        shown(pkt!(arp who-has 10.0.0.2 tell 10.0.0.1)),
        "arp who-has 10.0.0.2 tell 10.0.0.1"
    );
    assert_eq!(
        shown(pkt!(arp reply 10.0.0.2 is-at 02:00:00:00:00:02 to 10.0.0.1)),
        "arp reply 10.0.0.2 is-at 02:00:00:00:00:02 to 10.0.0.1"
    );
    assert_eq!(
        shown(pkt!(nd who-has fd00::2 tell fd00::1)),
        "nd who-has fd00::2 tell fd00::1"
    );
    assert_eq!(
        shown(pkt!(icmp 10.0.0.1 > 10.0.0.2)),
        "icmp 10.0.0.1 > 10.0.0.2 type 8 code 0"
    );
    assert_eq!(
        shown(pkt!(icmp fd00::1 > fd00::2 type 1 code 4)),
        "icmp fd00::1 > fd00::2 type 1 code 4"
    );
    assert_eq!(
        shown(pkt!(ip proto 47 10.0.0.1 > 10.0.0.2)),
        "ip proto 47 10.0.0.1 > 10.0.0.2"
    );
    assert_eq!(
        shown(pkt!(sctp 10.0.0.1:1 > 10.0.0.2:2 to port 3 from peer 7)),
        "sctp 10.0.0.1:1 > 10.0.0.2:2 from peer 7 to port 3"
    );
    assert_eq!(
        shown(pkt!(
            "ether 0x88cc mac 02:00:00:00:00:0a > 01:80:c2:00:00:0e"
        )),
        "ether 0x88cc 02:00:00:00:00:0a > 01:80:c2:00:00:0e"
    );
    let port = 24;
    assert_eq!(
        shown(pkt!("tcp 10.0.0.1:4000 > 10.0.0.2:{port} from port {}", 9)),
        "tcp 10.0.0.1:4000 > 10.0.0.2:24 from port 9"
    );
}

#[test]
fn every_word_lands_in_its_field_of_the_key() {
    for text in [
        "udp 10.0.0.1:1 > 10.0.0.2:2",
        "udp [fd00::1]:1 > [fd00::2]:2",
    ] {
        let key = key_of(&pkt!(
            "{text} vlan 7 inner-vlan 8 pcp 5 dscp af21 ecn 1 ttl 3 from port 3 vni 7 unknown mac 02:00:00:00:00:03 > 02:00:00:00:00:04"
        ));
        assert_eq!(
            (key.vlan, key.inner_vlan, key.pcp),
            (0x1007, 0x1008, 5),
            "{text}"
        );
        assert_eq!((key.dscp, key.ecn, key.ttl), (18, 1, 3), "{text}");
        assert_eq!((key.in_port, key.tenant), (3, 7), "{text}");
        assert_eq!(key.dst_class, DstClass::UnicastUnknown, "{text}");
        assert_eq!((key.src_mac.lo, key.dst_mac.lo), (3, 4), "{text}");
        assert!(key.l4_ok && key.frag == Frag::None, "{text}");
        let first = key_of(&pkt!("{text} first-fragment"));
        assert!(
            first.l4_ok && first.frag == Frag::First && first.dst_port == 2,
            "{text}"
        );
        let cut = key_of(&pkt!("{text} first-fragment cut"));
        assert!(!cut.l4_ok && cut.frag == Frag::First, "{text}");
        let later = key_of(&pkt!("{text} later-fragment"));
        assert!(
            !later.l4_ok && later.frag == Frag::Later && later.dst_port == 0,
            "{text}"
        );
        assert!(!key_of(&pkt!("{text} cut")).l4_ok, "{text}");
    }
    let multicast = key_of(&pkt!(udp 10.0.0.1:1 > 224.0.0.251:5353));
    assert_eq!(multicast.dst_class, DstClass::Multicast);
    let arp = key_of(&pkt!(arp who-has 10.0.0.2 tell 10.0.0.1));
    assert_eq!(arp.dst_class, DstClass::Broadcast);
    assert_eq!(key_of(&pkt!(ether 0x88cc pcp 6)).vlan, 0x1000);
}

#[test]
fn a_mistake_is_pointed_at() {
    for (text, at, says) in [
        ("", "", "a packet starts with"),
        ("tpc 10.0.0.1:1 > 10.0.0.2:2", "tpc", "a packet starts with"),
        (
            "tcp 10.0.0.1:1 > 10.0.0:2",
            "10.0.0:2",
            "an address with port",
        ),
        (
            "tcp 10.0.0.1:1 > fd00::1 syn",
            "fd00::1",
            "an address with port",
        ),
        (
            "sctp 10.0.0.1:1 > 10.0.0.2",
            "10.0.0.2",
            "an address with port",
        ),
        ("ip proto 300 10.0.0.1 > 10.0.0.2", "300", "0 to 255"),
        ("ip proto 47 10.0.0.1 > nobody", "nobody", "an IP address"),
        (
            "ip proto 47 10.0.0.1 > 10.0.0.2 type 1",
            "type",
            "may follow",
        ),
        ("tcp 10.0.0.1:1 > 10.0.0.2:2 sin", "sin", "a TCP flag"),
        ("udp 10.0.0.1:1 > 10.0.0.2:2 syn", "syn", "may follow"),
        ("udp 10.0.0.1:1 > 10.0.0.2:2 vlan 4095", "4095", "0 to 4094"),
        ("udp 10.0.0.1:1 > 10.0.0.2:2 dscp af44", "af44", "a DSCP"),
        (
            "udp 10.0.0.1:1 > 10.0.0.2:2 from bridge 1",
            "bridge",
            "from port N",
        ),
        (
            "udp 10.0.0.1:1 > 10.0.0.2:2 from peer 0",
            "from",
            "is no peer",
        ),
        (
            "arp who-has 10.0.0.2 tell 10.0.0.1 ttl 1",
            "ttl",
            "may follow",
        ),
        (
            "arp reply 10.0.0.2 is-at me to 10.0.0.1",
            "me",
            "a MAC address",
        ),
        ("ether cc", "cc", "an EtherType"),
        ("ether 1 inner-vlan 3", "", "needs a vlan"),
        ("udp 10.0.0.1:1 > 10.0.0.2:2 ttl", "", "ends where a TTL"),
    ] {
        let error = text.parse::<Packet>().expect_err(text).to_string();
        assert!(error.contains(says), "{text}: {error}");
        let caret = error.lines().last().map_or(0, str::len) - 3;
        let there = text.get(caret..).unwrap_or_default();
        assert!(there.starts_with(at), "{text}: {error}");
    }
}

#[derive(Config)]
struct Ranges {}

#[policy(stage = "guard", rules = 2)]
impl Policy for Ranges {
    fn decide(&self, key: &Key<'_>) -> Verdict {
        let net = |text: &str| text.parse().unwrap_or_else(|e| panic!("{e}"));
        if key.is_tcp() && key.dst_port_in(22..=25) {
            return drop(1);
        }
        if key.is_udp() && key.src_ip_in(net("10.0.0.0/24")) && !key.dst_ip_in(net("10.0.0.128/25"))
        {
            return drop(2);
        }
        if key.src_mac_is(Mac::new([2, 0, 0, 0, 0, 9])) && key.is_group() {
            return drop("group");
        }
        if key.src_ip().is_some_and(|ip| ip.is_loopback()) {
            drop("loopback")
        } else if key.in_port() == 100 {
            drop(100)
        } else {
            next()
        }
    }
}

#[test]
fn a_policy_that_reads_through_the_key_is_sound() {
    let p = host(Ranges {});
    p.send(pkt!(tcp 10.0.0.1:4000 > 10.0.0.2:22 syn))
        .drops(1)
        .reads("ip-kind ip-proto l4-ok dst-port/0xfffe");
    p.send(pkt!(udp 10.0.0.1:53 > 10.0.0.2:53))
        .drops(2)
        .reads("ip-kind ip-proto l4-ok src-ip/120 dst-ip/121");
    p.send(pkt!(udp 10.0.0.1:53 > 10.0.0.200:53)).passes();
    p.send(pkt!(icmp ::1 > ::2)).drops("loopback");
    p.send(pkt!(arp who-has 10.0.0.2 tell 10.0.0.1))
        .passes()
        .reads("in-port ip-kind src-mac/45 src-ip");
    p.send(pkt!(ether 0x88cc mac 02:00:00:00:00:09 > ff:ff:ff:ff:ff:ff))
        .drops("group")
        .reads("ip-kind src-mac dst-mac/8");
    p.sound(50_000);
}

#[test]
#[should_panic(expected = "drop(100) is in nobody's manifest")]
fn a_number_that_the_manifest_does_not_have_is_found() {
    host(Ranges {}).send(pkt!(ether 1 from port 100));
}

#[test]
#[should_panic(expected = "the policy says \"drop 1\"\n  and not         \"next\"")]
fn another_verdict_fails_the_test_and_is_shown() {
    host(Ranges {})
        .send(pkt!(tcp 10.0.0.1:4000 > 10.0.0.2:22 syn))
        .passes();
}

#[derive(Config)]
struct Words {}

#[policy(stage = "forward")]
impl Policy for Words {
    fn decide(&self, key: &Key<'_>) -> Verdict {
        match key.ether_type() {
            1 => reject("closed"),
            2 | 3 | 6 if key.dir() == Direction::Egress => next(),
            2 => to_port(3),
            3 => to_peer(7),
            4 => drop("closed").for_ms(1000).idle_ms(10),
            5 => accept().uncached(),
            6 => next()
                .set_dst_mac(Mac::new([2, 0, 0, 0, 0, 9]))
                .push_vlan(7)
                .set_dscp(46)
                .mirror(4),
            _ => accept(),
        }
    }
}

#[test]
#[should_panic(expected = "look at key.dir() first")]
fn a_change_at_the_receivers_port_is_found() {
    #[derive(Config)]
    struct Voice {}
    #[policy(stage = "classify")]
    impl Policy for Voice {
        fn decide(&self, _: &Key<'_>) -> Verdict {
            next().set_dscp(46)
        }
    }
    host(Voice {}).send(pkt!(udp 10.0.0.1:1 > 10.0.0.2:2 to port 3));
}

#[test]
fn every_word_of_a_policy_can_be_tested() {
    let p = host(Words {});
    p.send(pkt!(ether 1)).rejects("closed");
    p.send(pkt!(ether 2)).goes_to("port 3");
    p.send(pkt!(ether 3)).goes_to("peer 7");
    p.send(pkt!(ether 4))
        .says("drop closed for 1000 ms idle 10 ms");
    p.send(pkt!(ether 5)).says("accept uncached");
    p.send(pkt!(ether 6))
        .says("next, set-dst-mac 02:00:00:00:00:09, push-vlan 7, set-dscp 46, mirror 4");
    p.send(pkt!(ether 7)).accepts();
    p.sound(10_000);
}

/// A bit of all that an office has: what the reference plugins are replayed with.
fn office() -> Vec<Packet> {
    vec![
        pkt!(arp who-has 10.0.0.2 tell 10.0.0.1),
        pkt!(arp reply 10.0.0.2 is-at 02:00:00:00:00:02 to 10.0.0.1 mac 02:00:00:00:00:02 > 02:00:00:00:00:01),
        pkt!(tcp 10.0.0.1:4000 > 10.0.0.2:443 syn),
        pkt!(tcp 10.0.0.2:443 > 10.0.0.1:4000 syn ack mac 02:00:00:00:00:02 > 02:00:00:00:00:01),
        pkt!(tcp 10.0.0.1:4000 > 10.0.0.2:443 ack),
        pkt!(tcp 10.0.0.1:4001 > 10.0.0.2:23 syn),
        pkt!(tcp 10.0.0.3:4002 > 10.0.0.2:22 syn mac 02:00:00:00:00:03 > 02:00:00:00:00:02),
        pkt!(tcp [fd00::1]:4003 > [fd00::2]:22 syn),
        pkt!(udp 10.0.0.1:5353 > 224.0.0.251:5353 ttl 255),
        pkt!(udp 10.0.0.1:68 > 255.255.255.255:67),
        pkt!(udp 10.0.0.1:4004 > 10.0.0.53:53 dscp ef mac 02:00:00:00:00:01 > 02:00:00:00:00:35),
        pkt!(icmp 10.0.0.1 > 10.0.0.2),
        pkt!(icmp fd00::1 > fd00::2),
        pkt!(nd who-has fd00::2 tell fd00::1),
        pkt!(udp 10.0.0.1:4005 > 10.0.0.2:4006 first-fragment),
        pkt!(udp 10.0.0.1:4005 > 10.0.0.2:4006 later-fragment),
        pkt!(tcp 10.0.0.1:4007 > 10.0.0.2:22 syn cut),
        pkt!(tcp 10.0.0.3:4008 > 10.0.0.1:80 syn mac 02:00:00:00:00:03 > 02:00:00:00:00:01),
        pkt!(tcp 10.0.0.1:4009 > 10.0.0.2:80 syn vlan 7 pcp 3),
        pkt!(ip proto 47 10.0.0.1 > 10.0.0.2),
        pkt!("ether 0x88cc mac 02:00:00:00:00:01 > 01:80:c2:00:00:0e"),
    ]
}

const OFFICE: &str = "testdata/office.pcap";

#[test]
fn the_recording_of_an_office_is_what_the_code_says() {
    if std::env::var_os("MESHD_BLESS").is_some() {
        write_pcap(OFFICE, &office());
    }
    let there = std::fs::read(OFFICE).unwrap_or_else(|e| panic!("{OFFICE}: {e}"));
    assert!(
        there == replay::recording(&office()),
        "{OFFICE} is another one; MESHD_BLESS=1 writes it"
    );
}

#[test]
fn a_replay_matches_its_golden_trace() {
    let p = host(Ranges {});
    p.replay(OFFICE).matches("testdata/office.golden");
    p.sound(10_000);
}

#[test]
#[should_panic(expected = "+ {\"n\":2,\"packet\":\"3 bytes\",\"not-asked\":")]
fn a_replay_that_differs_shows_the_lines() {
    let folder = std::env::temp_dir().join(format!("meshd-sdk-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{e}"));
    let (pcap, golden) = (folder.join("a.pcap"), folder.join("a.golden"));
    let one = pkt!(tcp 10.0.0.1:4000 > 10.0.0.2:22 syn);
    write_pcap(&pcap, std::slice::from_ref(&one));
    let p = host(Ranges {});
    let lines = p.replay(&pcap).lines.join("\n");
    std::fs::write(&golden, format!("{{\"golden\":1}}\n{lines}\n"))
        .unwrap_or_else(|e| panic!("{e}"));
    p.replay(&pcap).matches(&golden);
    write_pcap(&pcap, &[one, Packet::frame(vec![1, 2, 3])]);
    let replay = p.replay(&pcap);
    let _ = std::fs::remove_file(&pcap);
    let difference = replay.difference(&std::fs::read_to_string(&golden).unwrap_or_default());
    let _ = std::fs::remove_dir_all(&folder);
    panic!("{}", difference.unwrap_or_default());
}

#[test]
fn a_packet_says_the_state_of_its_connection_and_a_wrong_one_is_pointed_at() {
    use crate::wit::types::CtState;
    let key =
        key_of(&pkt!(tcp 10.0.0.1:80 > 10.0.0.2:4000 ack ct established reply ct-mark 7 to port 3));
    assert_eq!(key.ct, CtState::ESTABLISHED | CtState::REPLY);
    assert_eq!((key.ct_mark, key.in_port), (7, 3));
    assert_eq!(
        key_of(&pkt!(udp 10.0.0.1:1 > 10.0.0.2:2)).ct,
        CtState::UNTRACKED
    );
    let wrong = "udp 10.0.0.1:1 > 10.0.0.2:2 ct old".parse::<Packet>();
    let message = wrong.map_or_else(|e| e.to_string(), |_| String::new());
    assert!(message.contains("one of new, established"), "{message}");
}
