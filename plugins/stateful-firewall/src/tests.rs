use super::*;
use meshd_sdk::test::{Host, configured, pkt};

const OUT_AND_SSH: &str = r#"{"rules":[{"allow":{"way":"out"}},
    {"allow":{"way":"in","proto":"tcp","port":22,"src":"10.0.0.0/24"}}]}"#;

fn firewall(config: &str) -> Host<Firewall> {
    configured(config).unwrap_or_else(|errors| panic!("{errors:?}"))
}

#[test]
fn what_goes_out_is_answered_and_what_wants_in_is_refused() {
    let wall = firewall(OUT_AND_SSH).tracked();
    wall.send(pkt!(tcp 10.0.0.9:80 > 10.0.0.1:4000 syn ack to port 1))
        .drops("invalid");
    wall.send(pkt!(tcp 10.0.0.1:4000 > 10.0.0.9:80 syn from port 1))
        .says("next, ct-commit, set-ct-mark 1")
        .reads("dir ip-kind ct");
    wall.send(pkt!(tcp 10.0.0.9:80 > 10.0.0.1:4000 syn ack to port 1))
        .passes()
        .reads("ip-kind ct");
    wall.send(pkt!(tcp 10.0.0.1:4000 > 10.0.0.9:80 ack from port 1))
        .passes();
    wall.send(pkt!(tcp 10.0.0.9:81 > 10.0.0.1:4000 syn to port 1))
        .drops("default");
    wall.send(pkt!(udp 10.0.0.9:53 > 10.0.0.1:4000 to port 1))
        .drops("default");
    wall.sound(20_000);
}

#[test]
fn ssh_is_let_in_from_the_net_that_may_and_its_answers_go_out_though_nothing_else_may() {
    let rule = r#"{"rules":[{"allow":{"way":"in","proto":"tcp","port":22,"src":"10.0.0.0/24"}}]}"#;
    let wall = firewall(rule).tracked();
    wall.send(pkt!(tcp 10.0.0.9:4000 > 10.0.0.1:22 syn to port 1))
        .says("next, ct-commit, set-ct-mark 1");
    wall.send(pkt!(tcp 10.0.0.1:22 > 10.0.0.9:4000 syn ack from port 1))
        .passes();
    wall.send(pkt!(tcp 10.0.1.9:4000 > 10.0.0.1:22 syn to port 1))
        .drops("default");
    wall.send(pkt!(tcp 10.0.0.1:4000 > 10.0.0.9:22 syn from port 1))
        .drops("default");
    wall.sound(20_000);
}

#[test]
fn a_refusal_can_be_told_and_bears_the_number_of_its_rule() {
    let wall = firewall(
        r#"{"rules":[{"deny":{"proto":"udp","port":"100-199"}}],"default":"pass","refuse":"reject"}"#,
    )
    .tracked();
    wall.send(pkt!(udp 10.0.0.1:4000 > 10.0.0.2:150)).rejects(1);
    wall.send(pkt!(udp 10.0.0.1:4000 > 10.0.0.2:200))
        .says("next, ct-commit, set-ct-mark 0");
    wall.send(pkt!(ether 0x88cc)).passes();
    wall.send(pkt!(arp who-has 10.0.0.2 tell 10.0.0.1)).passes();
    wall.sound(20_000);
}

#[test]
fn what_is_of_no_connection_is_invalid_and_left_to_the_receiver_where_ways_differ() {
    let wall = firewall(OUT_AND_SSH).tracked();
    wall.send(pkt!(tcp 10.0.0.1:4000 > 10.0.0.9:80 rst))
        .drops("invalid");
    wall.send(pkt!(tcp 10.0.0.1:4000 > 10.0.0.9:80 syn fin))
        .drops("invalid");
    wall.send(pkt!(tcp 10.0.0.1:4000 > 10.0.0.9:80 syn cut))
        .drops("invalid");
    wall.send(pkt!(icmp 10.0.0.1 > 10.0.0.9 type 0))
        .drops("invalid");
    wall.sound(20_000);
    let wall = firewall(r#"{"rules":[{"allow":{"way":"out"}}],"asymmetric":true}"#).tracked();
    wall.send(pkt!(tcp 10.0.0.1:80 > 10.0.0.9:4000 syn ack from port 1))
        .passes();
    wall.send(pkt!(tcp 10.0.0.1:80 > 10.0.0.9:4000 syn ack to port 1))
        .drops("invalid");
    wall.sound(20_000);
}

#[test]
fn errors_about_a_connection_pass_and_later_fragments_as_the_config_has_it() {
    let wall = firewall(OUT_AND_SSH);
    wall.send(pkt!(icmp 10.0.0.9 > 10.0.0.1 type 3 code 3 to port 1 ct related reply))
        .passes()
        .reads("ip-kind ct");
    wall.send(pkt!(icmp 10.0.0.9 > 10.0.0.1 type 3 code 3 to port 1 ct invalid))
        .drops("invalid");
    wall.send(pkt!(udp 10.0.0.9:1 > 10.0.0.1:2 later-fragment to port 1))
        .passes();
    firewall(r#"{"fragments":"drop"}"#)
        .send(pkt!(udp 10.0.0.9:1 > 10.0.0.1:2 later-fragment))
        .drops("fragment");
    wall.sound(20_000);
}

#[test]
fn after_a_change_old_connections_are_decided_by_the_new_rules_whichever_end_speaks_first() {
    let start = || {
        let wall = firewall(OUT_AND_SSH).tracked();
        wall.send(pkt!(tcp 10.0.0.1:4000 > 10.0.0.9:80 syn from port 1));
        wall.send(pkt!(tcp 10.0.0.9:80 > 10.0.0.1:4000 syn ack to port 1))
            .passes();
        wall
    };
    // Still allowed, by another rule: an answer comes first, and the connection goes on.
    let rule = r#"{"rules":[{"deny":{"way":"in"}},{"allow":{"way":"out","proto":"tcp","dst":"10.0.0.9","port":80}}]}"#;
    let wall = start().change_to(firewall(rule));
    wall.send(pkt!(tcp 10.0.0.9:80 > 10.0.0.1:4000 ack to port 1))
        .says("next, ct-commit, set-ct-mark 2");
    wall.send(pkt!(tcp 10.0.0.1:4000 > 10.0.0.9:80 ack from port 1))
        .passes();
    wall.sound(20_000);
    // Not any more: neither way.
    let rule = r#"{"rules":[{"deny":{"way":"out","port":80,"proto":"tcp"}},{"allow":{}}]}"#;
    let wall = start().change_to(firewall(rule));
    wall.send(pkt!(tcp 10.0.0.9:80 > 10.0.0.1:4000 ack to port 1))
        .drops(1);
    wall.send(pkt!(tcp 10.0.0.1:4000 > 10.0.0.9:80 ack from port 1))
        .drops(1);
    wall.sound(20_000);
}

#[test]
fn a_connection_that_nobody_uses_is_forgotten() {
    let wall = firewall(OUT_AND_SSH).tracked();
    wall.send(pkt!(udp 10.0.0.1:4000 > 10.0.0.9:53 from port 1));
    wall.wait_s(29);
    wall.send(pkt!(udp 10.0.0.9:53 > 10.0.0.1:4000 to port 1))
        .passes();
    wall.wait_s(180);
    wall.send(pkt!(udp 10.0.0.9:53 > 10.0.0.1:4000 to port 1))
        .drops("default");
}

#[test]
fn a_recording_of_an_office_is_decided_as_before() {
    let wall = firewall(include_str!("../example.json")).tracked();
    wall.replay("../../sdk/testdata/office.pcap")
        .matches("testdata/office.golden");
    wall.sound(20_000);
}

#[test]
fn a_wrong_config_is_refused_with_its_place() {
    let at = |config: &str| configured::<Firewall>(config).err().unwrap().remove(0);
    assert_eq!(
        at(r#"{"rules":[{"allow":{"port":22}}]}"#),
        ConfigError::new("/rules/0/allow", "a port needs \"proto\": tcp, udp or sctp")
    );
    assert_eq!(
        at(r#"{"rules":[{"allow":{"way":"up"}}]}"#).pointer,
        "/rules/0/allow/way"
    );
    assert_eq!(at(r#"{"default":"maybe"}"#).pointer, "/default");
    let many = format!(
        r#"{{"rules":[{}]}}"#,
        vec![r#"{"allow":{}}"#; 1025].join(",")
    );
    assert!(at(&many).message.contains("at most 1024"));
    assert_eq!(
        at(r#"{"rules":[{"allow":{}},{"allow":{"proto":"arp"}}]}"#),
        ConfigError::new(
            "/rules/1",
            "arp and nd are of no connection, and always pass"
        )
    );
}
