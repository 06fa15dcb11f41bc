use super::*;
use meshd_sdk::test::{Host, Packet, configured, manifest, pkt};

fn mirror(config: &str) -> Host<Mirror> {
    configured(config).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn example() -> Host<Mirror> {
    mirror(include_str!("../example.json"))
}

fn tcp(from: u16, to: u16, words: &str) -> Packet {
    pkt!("tcp 10.0.0.1:{from} > 10.0.0.2:{to} ack {words}")
}

#[test]
fn a_watched_port_is_copied_both_ways_and_cut() {
    let p = mirror(r#"{"sessions":[{"to-port":9,"ports":[3],"bytes":128}]}"#);
    p.send(tcp(4000, 80, "from port 3"))
        .says("next, mirror 9 cut 128")
        .reads("dir in-port");
    p.send(tcp(4000, 80, "to port 3 from peer 7"))
        .says("next, mirror 9 cut 128");
    p.send(tcp(4000, 80, "from port 4")).passes();
    let one_way = mirror(r#"{"sessions":[{"to-port":9,"way":"out"}]}"#);
    one_way.send(tcp(4000, 80, "from port 3")).passes();
    one_way
        .send(tcp(4000, 80, "to port 3 from peer 7"))
        .says("next, mirror 9");
    p.sound(20_000);
}

#[test]
fn a_filter_fits_at_either_end_and_a_member_is_named_by_its_id() {
    let id = format!("{:a<52}", "aerukz4jvpg66");
    let config = format!(
        r#"{{"sessions":[{{"to-peer":"{id}","only":[{{"net":"10.0.0.2","proto":6,"port":443}}]}}]}}"#
    );
    let p = mirror(&config);
    let copied = "next, mirror peer 81985529216486895";
    p.send(tcp(4000, 443, "")).says(copied);
    p.send(pkt!(tcp 10.0.0.2:443 > 10.0.0.9:4000 ack))
        .says(copied);
    p.send(tcp(4000, 80, "")).passes();
    p.send(pkt!(udp 10.0.0.1:4000 > 10.0.0.2:443)).passes();
    p.send(pkt!(arp who-has 10.0.0.2 tell 10.0.0.1)).passes();
    p.sound(50_000);
}

#[test]
fn a_sample_has_its_share_of_flows_and_both_directions_of_each() {
    let p = mirror(r#"{"sessions":[{"to-port":9,"one-in":4}]}"#);
    let mut copied = 0;
    for port in 1000..3000u16 {
        let there = p.send(tcp(port, 80, "")).verdict().to_owned();
        let back = pkt!("tcp 10.0.0.2:80 > 10.0.0.1:{port} ack");
        p.send(back).says(&there);
        copied += u32::from(there == "next, mirror 9");
    }
    assert!(
        (400..600).contains(&copied),
        "{copied} of 2000, one in four is wanted"
    );
    p.sound(20_000);
}

/// Any config and any frame: what a mirror says begins with "next", and only copies follow.
#[test]
fn no_config_makes_it_send_a_frame_elsewhere_or_drop_or_change_it() {
    let mut state = 7u64;
    let mut below = |n: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    for _ in 0..200 {
        let session = |below: &mut dyn FnMut(u64) -> u64| {
            let way = ["in", "out", "both"][below(3) as usize];
            let only = [
                "",
                r#"{"vlan":7}"#,
                r#"{"net":"10.0.0.0/29"}"#,
                r#"{"proto":6,"port":80}"#,
                r#"{"ether-type":2054}"#,
            ];
            let (to, bytes, one_in) = (below(12), [0, 14, 200][below(3) as usize], 1 + below(3));
            format!(
                r#"{{"to-port":{to},"bytes":{bytes},"way":"{way}","one-in":{one_in},"only":[{}]}}"#,
                only[below(5) as usize]
            )
        };
        let sessions: Vec<String> = (0..below(5)).map(|_| session(&mut below)).collect();
        let p = mirror(&format!(r#"{{"sessions":[{}]}}"#, sessions.join(",")));
        for _ in 0..50 {
            let (a, b, port) = (1 + below(9), 1 + below(9), [80, 443][below(2) as usize]);
            let place =
                ["from port 3", "to port 3 from peer 7", "vlan 7", "unknown"][below(4) as usize];
            let packet = match below(3) {
                0 => pkt!("arp who-has 10.0.0.{a} tell 10.0.0.{b}"),
                1 => pkt!("udp 10.0.0.{a}:4000 > 10.0.0.{b}:{port} {place}"),
                _ => pkt!("tcp 10.0.0.{a}:4000 > 10.0.0.{b}:{port} syn {place}"),
            };
            let said = p.send(packet).verdict().to_owned();
            let mut words = said.split(", ");
            assert_eq!(words.next(), Some("next"), "{said}");
            assert!(words.all(|word| word.starts_with("mirror ")), "{said}");
        }
        p.sound(200);
    }
}

#[test]
fn a_wrong_config_is_refused_with_its_place() {
    let at = |config: &str| {
        configured::<Mirror>(config)
            .err()
            .unwrap()
            .remove(0)
            .pointer
    };
    assert_eq!(at(r#"{"sessions":[{}]}"#), "/sessions/0");
    assert_eq!(
        at(r#"{"sessions":[{"to-port":1,"bytes":13}]}"#),
        "/sessions/0/bytes"
    );
    assert_eq!(
        at(r#"{"sessions":[{"to-port":1,"one-in":0}]}"#),
        "/sessions/0/one-in"
    );
    assert_eq!(
        at(r#"{"sessions":[{"to-peer":"berlin"}]}"#),
        "/sessions/0/to-peer"
    );
    assert_eq!(
        at(r#"{"sessions":[{"to-port":1,"only":[{"port":1}]}]}"#),
        "/sessions/0/only/0"
    );
    let five = [r#"{"to-port":1}"#; 5].join(",");
    assert_eq!(at(&format!(r#"{{"sessions":[{five}]}}"#)), "/sessions");
}

#[test]
fn a_recording_of_an_office_fares_as_it_did() {
    let p = example();
    assert!(manifest::<Mirror>().to_string().contains("observe"));
    p.replay("../../sdk/testdata/office.pcap")
        .matches("testdata/office.golden");
    p.sound(20_000);
}
