use super::*;
use meshd_sdk::test::{Host, Packet, configured, manifest, pkt};

fn isolation(config: &str) -> Host<Isolation> {
    configured(config).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn example() -> Host<Isolation> {
    isolation(include_str!("../example.json"))
}

/// Between two stations, by the last byte of their MACs.
fn unicast(from: u8, to: u8, words: &str) -> Packet {
    pkt!(
        "tcp 10.0.0.{from}:4000 > 10.0.0.{to}:80 syn mac 02:00:00:00:00:{from:02x} > 02:00:00:00:00:{to:02x} {words}"
    )
}

#[test]
fn no_unicast_passes_between_isolated_members_and_all_reach_the_promiscuous() {
    let p = example();
    // 1 is the gateway, 2 and 5 are printers, 3 is isolated, 9 is not listed.
    for from in [1, 2, 3, 5, 9] {
        p.send(unicast(from, 1, "")).passes();
        p.send(unicast(1, from, "")).passes();
    }
    p.send(unicast(3, 9, "")).drops("isolated");
    p.send(unicast(9, 3, "")).drops("isolated");
    p.send(unicast(3, 2, "")).drops("isolated");
    p.send(unicast(2, 5, "")).passes();
    p.send(unicast(2, 3, "")).drops("community");
    p.send(unicast(5, 9, "unknown")).drops("community");
    p.send(pkt!(arp reply 10.0.0.3 is-at 02:00:00:00:00:03 to 10.0.0.9 mac 02:00:00:00:00:03 > 02:00:00:00:00:09))
        .drops("isolated");
    p.sound(50_000);
}

#[test]
fn two_communities_do_not_reach_each_other() {
    let p = isolation(
        r#"{"communities":{"a":["02:00:00:00:00:01","02:00:00:00:00:02"],"b":["02:00:00:00:00:03"]},"others":"promiscuous"}"#,
    );
    p.send(unicast(1, 2, "")).passes();
    p.send(unicast(1, 3, "")).drops("community");
    p.send(unicast(3, 1, "")).drops("community");
    p.send(unicast(3, 9, "")).passes();
    p.sound(20_000);
}

#[test]
fn a_port_decides_for_its_own_end_whatever_the_mac_says() {
    let p = example();
    // Port 4 is isolated; its container pretends to be the gateway.
    p.send(unicast(1, 3, "from port 4")).drops("isolated");
    p.send(unicast(3, 1, "to port 4 from peer 7"))
        .drops("isolated");
    p.send(unicast(1, 9, "to port 4 from peer 7")).passes();
    p.send(unicast(9, 1, "to port 5 from peer 7")).passes();
    p.sound(50_000);
}

#[test]
fn a_group_is_kept_from_a_listed_port_and_goes_to_others() {
    let p = example();
    let broadcast = |words: &str| -> Packet {
        pkt!("arp who-has 10.0.0.9 tell 10.0.0.3 mac 02:00:00:00:00:03 > ff:ff:ff:ff:ff:ff {words}")
    };
    p.send(broadcast("")).passes();
    p.send(broadcast("to port 5 from peer 7")).passes();
    p.send(broadcast("to port 4 from peer 7"))
        .drops("isolated")
        .reads("dir in-port src-mac");
    p.sound(50_000);
}

#[test]
fn as_little_is_read_as_will_do() {
    let p = isolation(r#"{"promiscuous":["02:00:00:00:00:01"]}"#);
    // The sender alone decides, and no port matters.
    p.send(unicast(1, 3, "")).passes().reads("dir src-mac");
    // Strangers of another vendor are known by their first bits.
    p.send(pkt!(tcp 10.0.0.3:1 > 10.0.0.4:2 syn mac 52:54:00:00:00:03 > 52:54:00:00:00:04))
        .drops("isolated")
        .reads("dir src-mac/2 dst-mac/8");
    p.send(pkt!(
        "udp 10.0.0.3:1 > 224.0.0.251:5353 mac 52:54:00:00:00:03 > 01:00:5e:00:00:fb"
    ))
    .passes()
    .reads("dir src-mac/2 dst-mac/8");
    p.sound(20_000);
}

#[test]
fn without_a_config_nobody_reaches_anybody() {
    let p = isolation("{}");
    p.send(unicast(1, 2, ""))
        .drops("isolated")
        .reads("dir dst-mac/8");
    p.sound(10_000);
}

#[test]
fn a_wrong_config_is_refused_with_its_place() {
    let at = |config: &str| configured::<Isolation>(config).err().unwrap().remove(0);
    assert_eq!(at(r#"{"isolated":["02:00"]}"#).pointer, "/isolated/0");
    assert_eq!(at(r#"{"isolated":[-1]}"#).pointer, "/isolated/0");
    assert_eq!(at(r#"{"others":"community"}"#).pointer, "/others");
    assert_eq!(
        at(r#"{"isolated":[3],"communities":{"a/b":[4,3]}}"#),
        ConfigError::new(
            "/communities/a~1b/1",
            "this member is at /isolated/0 too; it can be only one of both"
        )
    );
    assert_eq!(
        at(r#"{"isolated":["ff:ff:ff:ff:ff:ff"]}"#).pointer,
        "/isolated/0"
    );
    let many: Vec<String> = (0..=MAX_MEMBERS).map(|n| n.to_string()).collect();
    assert!(
        at(&format!(r#"{{"isolated":[{}]}}"#, many.join(",")))
            .message
            .contains("at most 4096")
    );
}

#[test]
fn a_recording_of_an_office_is_decided_as_before() {
    let p = example();
    p.replay("../../sdk/testdata/office.pcap")
        .matches("testdata/office.golden");
    p.sound(20_000);
}

#[test]
fn the_manifest_names_both_reasons() {
    let manifest = manifest::<Isolation>().to_string();
    let reasons = r#""reasons":[{"code":1,"name":"community"},{"code":2,"name":"isolated"}]"#;
    assert!(manifest.contains(reasons), "{manifest}");
}
