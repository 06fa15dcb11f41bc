use super::*;
use meshd_sdk::test::{Host, configured, manifest, pkt};

fn vip(config: &str) -> Host<Vip> {
    configured(config).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn example() -> Host<Vip> {
    vip(include_str!("../example.json"))
}

#[test]
fn a_service_goes_to_its_group_and_one_answer_serves_all_of_its_flows() {
    let p = example();
    let reads = "dir ip-kind ip-proto l4-ok dst-ip dst-port";
    p.send(pkt!(tcp 10.0.0.1:4000 > 10.0.0.2:443 syn))
        .says("group 0")
        .reads(reads);
    p.send(pkt!(tcp 10.9.9.9:5000 > 10.0.0.2:443 ack))
        .says("group 0")
        .reads(reads);
    p.send(pkt!(udp 10.0.0.1:4000 > 10.0.0.2:53))
        .says("group 1");
    p.sound(50_000);
}

#[test]
fn what_is_no_service_goes_to_the_endpoint_that_has_the_address() {
    let p = example();
    p.send(pkt!(tcp 10.0.0.1:4000 > 10.0.0.2:80 syn)).passes();
    p.send(pkt!(udp 10.0.0.1:4000 > 10.0.0.2:443)).passes();
    p.send(pkt!(tcp 10.0.0.1:4000 > 10.0.0.3:443 syn)).passes();
    p.send(pkt!(arp who-has 10.0.0.2 tell 10.0.0.1)).passes();
    p.send(pkt!(tcp 10.0.0.2:443 > 10.0.0.1:4000 ack)).passes();
    p.send(pkt!(tcp 10.0.0.1:4000 > 10.0.0.2:443 syn to port 4 from peer 7))
        .passes()
        .reads("dir");
    p.sound(50_000);
}

#[test]
fn a_wrong_config_is_refused_with_its_place() {
    let at = |config: &str| configured::<Vip>(config).err().unwrap().remove(0).pointer;
    let service = |service: &str| {
        format!(r#"{{"groups":[{{"name":"a","buckets":[]}}],"services":[{service}]}}"#)
    };
    assert_eq!(
        at(&service(r#"{"ip":"10.0.0.2","port":80,"group":"b"}"#)),
        "/services/0/group"
    );
    assert_eq!(
        at(&service(
            r#"{"ip":"10.0.0.2","port":80,"proto":1,"group":"a"}"#
        )),
        "/services/0/proto"
    );
    assert_eq!(
        at(&service(r#"{"ip":"vip","port":80,"group":"a"}"#)),
        "/services/0/ip"
    );
    let many = [r#"{"ip":"10.0.0.2","port":80,"group":"a"}"#; 65].join(",");
    assert_eq!(at(&service(&many)), "/services");
}

#[test]
fn a_recording_of_an_office_fares_as_it_did() {
    let p = example();
    assert!(manifest::<Vip>().to_string().contains("forward"));
    p.replay("../../sdk/testdata/office.pcap")
        .matches("testdata/office.golden");
    p.sound(20_000);
}
