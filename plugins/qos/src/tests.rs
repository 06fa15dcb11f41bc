use super::*;
use meshd_sdk::test::{Host, Packet, configured, manifest, pkt};

fn qos(config: &str) -> Host<Qos> {
    configured(config).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn example() -> Host<Qos> {
    qos(include_str!("../example.json"))
}

/// From one station to another, by the last byte of their MACs.
fn unicast(from: u8, to: u8, words: &str) -> Packet {
    pkt!(
        "tcp 10.0.0.{from}:4000 > 10.0.0.{to}:80 syn mac 02:00:00:00:00:{from:02x} > 02:00:00:00:00:{to:02x} {words}"
    )
}

#[test]
fn a_station_is_charged_for_what_it_sends_and_for_what_it_gets_to_different_meters() {
    let p = example();
    p.send(unicast(1, 9, "from port 3"))
        .says("next, meter 0, meter 1");
    p.send(unicast(9, 1, "from port 3")).says("next, meter 0");
    p.send(unicast(9, 1, "to port 4 from peer 7"))
        .says("next, meter 2");
    p.send(unicast(1, 9, "to port 4 from peer 7")).says("next");
    p.send(unicast(9, 8, "from port 3 vni 2")).says("next");
    p.sound(50_000);
}

#[test]
fn a_flood_is_charged_to_the_storm_meter_of_its_class_and_known_unicast_to_none() {
    let p = qos(
        r#"{"meters":[{"name":"b","pps":10},{"name":"u","pps":5}],"storm":{"broadcast":"b","unknown":"u"}}"#,
    );
    p.send(pkt!(arp who-has 10.0.0.9 tell 10.0.0.3 mac 02:00:00:00:00:03 > ff:ff:ff:ff:ff:ff))
        .says("next, meter 0")
        .reads("dir dst-class");
    p.send(unicast(1, 2, "unknown")).says("next, meter 1");
    p.send(unicast(1, 2, "")).passes();
    p.send(pkt!(
        "udp 10.0.0.3:1 > 224.0.0.251:5353 mac 02:00:00:00:00:03 > 01:00:5e:00:00:fb"
    ))
    .passes();
    p.sound(50_000);
}

#[test]
fn of_one_kind_the_first_limit_applies_and_one_of_each_kind() {
    let p = qos(
        r#"{"meters":[{"name":"a","pps":1},{"name":"b","pps":1},{"name":"c","pps":1}],"limits":[
            {"meter":"a","port":3},{"meter":"b","port":3},{"meter":"c","tenant":1},{"meter":"b","port":4}]}"#,
    );
    p.send(unicast(1, 2, "from port 3"))
        .says("next, meter 0, meter 2");
    p.send(unicast(1, 2, "from port 4"))
        .says("next, meter 2, meter 1");
    p.send(unicast(1, 2, "from port 5")).says("next, meter 2");
    p.sound(20_000);
}

#[test]
fn markings_of_a_port_that_is_not_trusted_are_reset_and_of_a_trusted_one_mapped() {
    let p = example();
    p.send(unicast(9, 8, "from port 5 dscp ef"))
        .says("next, meter 0, set-dscp 0, set-pcp 0");
    p.send(unicast(9, 8, "from port 3 dscp ef"))
        .says("next, meter 0, set-pcp 5");
    p.send(unicast(9, 8, "from port 3 dscp cs1"))
        .says("next, meter 0");
    p.send(unicast(9, 8, "to port 5 from peer 7 dscp ef"))
        .says("next");
    p.sound(50_000);
    let by_pcp = qos(r#"{"map":{"by":"pcp","pairs":[{"dscp":46,"pcp":5}]}}"#);
    by_pcp
        .send(unicast(9, 8, "vlan 7 pcp 5"))
        .says("next, set-dscp 46");
    by_pcp.send(unicast(9, 8, "vlan 7 pcp 4")).passes();
    by_pcp.send(unicast(9, 8, "")).passes().reads("dir vlan");
    by_pcp.sound(20_000);
}

#[test]
fn a_config_that_asks_for_nothing_reads_nothing_and_changes_nothing() {
    let p = qos("{}");
    p.send(unicast(1, 2, "dscp ef")).passes().reads("dir");
    p.sound(10_000);
}

#[test]
fn a_wrong_config_is_refused_with_its_place() {
    let at = |config: &str| configured::<Qos>(config).err().unwrap().remove(0);
    let meters = r#""meters":[{"name":"a","pps":1}]"#;
    for (rest, pointer, said) in [
        (
            r#""limits":[{"meter":"b","port":1}]"#,
            "/limits/0/meter",
            "there are a",
        ),
        (r#""limits":[{"meter":"a"}]"#, "/limits/0", "one of"),
        (
            r#""limits":[{"meter":"a","port":1,"tenant":2}]"#,
            "/limits/0",
            "one of",
        ),
        (
            r#""storm":{"unknown":"c"}"#,
            "/storm/unknown",
            "no meter is called \"c\"",
        ),
        (r#""trust":{"dscp":64}"#, "/trust/dscp", "at most 63"),
        (
            r#""map":{"pairs":[{"dscp":1,"pcp":8}]}"#,
            "/map/pairs/0/pcp",
            "at most 7",
        ),
    ] {
        let error = at(&format!("{{{meters},{rest}}}"));
        assert_eq!(error.pointer, pointer);
        assert!(error.message.contains(said), "{error:?}");
    }
}

#[test]
fn the_manifest_has_the_meters_in_its_schema() {
    let manifest = manifest::<Qos>().to_string();
    assert!(
        manifest.contains("burst-ms") && manifest.contains("classify"),
        "{manifest}"
    );
}

#[test]
fn a_recording_of_an_office_fares_as_it_did() {
    let p = example();
    p.replay("../../sdk/testdata/office.pcap")
        .matches("testdata/office.golden");
    p.sound(20_000);
}
