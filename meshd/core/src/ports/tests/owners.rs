//! Ports with an owner, and what an engine wishes of an interface.

use super::*;
use crate::command::PortRoute;

fn owned(network: &str, netns: &str, owner: &str) -> AttachSpec {
    AttachSpec {
        owner: Some(owner.parse().unwrap()),
        ..spec(network, netns)
    }
}

#[test]
fn an_owner_has_one_port_and_finds_it_again() {
    let mut lab = Lab::new(ME);
    let port = lab.up(owned("blue", "a", "cni/blue/1/eth0"));
    assert_eq!(port.owner.as_ref().unwrap().as_str(), "cni/blue/1/eth0");
    lab.attach(owned("blue", "a", "cni/blue/1/eth0"));
    lab.outputs();
    lab.mended(&port, &[]);
    assert_eq!(lab.ports.records().count(), 1, "the same port");
    for (other, what) in [
        (
            owned("blue", "b", "cni/blue/1/eth0"),
            "already, interface eth0 of",
        ),
        (owned("red", "a", "cni/blue/1/eth0"), "on network blue"),
        (owned("blue", "a", "cni/blue/2/eth0"), "other owner"),
        (
            AttachSpec {
                mtu: Some(1000),
                ..owned("blue", "a", "cni/blue/1/eth0")
            },
            "other MTU",
        ),
    ] {
        let refused = lab.refused(other);
        assert_eq!(refused.kind(), RefusalKind::Conflict);
        assert!(refused.message.contains(what), "{}", refused.message);
    }
}

#[test]
fn a_port_is_detached_by_its_owner() {
    let mut lab = Lab::new(ME);
    let port = lab.up(owned("blue", "a", "x"));
    lab.detach_owner("y");
    let answers = replies(&lab.outputs());
    assert_eq!(
        answers[0].1.as_ref().unwrap_err().kind(),
        RefusalKind::NotFound
    );
    let id = lab.detach_owner("x");
    lab.unwired(port.id, &[]);
    assert_eq!(replies(&lab.outputs()), [(id, Ok(Reply::Done))]);
    assert_eq!(lab.ports.records().count(), 0);
}

#[test]
fn routes_and_mtu_are_checked_before_anything_is_made() {
    let mut lab = Lab::new(ME);
    let routes = |routes: &[(&str, Option<&str>)]| AttachSpec {
        routes: routes
            .iter()
            .map(|(to, via)| PortRoute {
                to: to.parse().unwrap(),
                via: via.map(|via| via.parse().unwrap()),
            })
            .collect(),
        ..spec("blue", "a")
    };
    let mtu = |mtu| AttachSpec {
        mtu: Some(mtu),
        ..spec("blue", "a")
    };
    let many = vec![("10.9.0.0/16", None); crate::attach::ROUTES_MAX + 1];
    for (bad, what) in [
        (routes(&[("10.9.0.1/16", None)]), "use 10.9.0.0/16"),
        (routes(&[("::/0", Some("10.0.0.9"))]), "address family"),
        (routes(&[("0.0.0.0/0", Some("10.7.0.9"))]), "in no subnet"),
        (routes(&[("0.0.0.0/0", Some("10.0.0.1"))]), "routes nothing"),
        (routes(&many), "at most 32"),
        (mtu(9000), "may be 576 to"),
        (mtu(100), "may be 576 to"),
    ] {
        let refused = lab.refused(bad);
        assert_eq!(refused.kind(), RefusalKind::Invalid);
        assert!(refused.message.contains(what), "{}", refused.message);
    }
    let good = routes(&[("10.7.0.9/32", None), ("0.0.0.0/0", Some("10.7.0.9"))]);
    assert_eq!(lab.up(good.clone()).routes, good.routes);
}

#[test]
fn who_attaches_a_port_that_is_detached_meanwhile_is_told_to_come_again_and_that_nothing_is_taken()
{
    // While it waits for an address, and while it is wired.
    for author in [OTHER, ME] {
        let mut lab = Lab::new(author);
        let attach = lab.attach(owned("red", "a", "cni/red/1a2b/eth0"));
        lab.outputs();
        lab.detach_owner("cni/red/1a2b/eth0");
        let told = lab.outputs().into_iter().find_map(|output| match output {
            Output::Reply { id, result } if id == attach => result.err(),
            _ => None,
        });
        let told = told.unwrap();
        assert_eq!(told.kind(), RefusalKind::Unavailable, "{author:?}: {told}");
    }
}
