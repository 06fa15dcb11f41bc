//! Claims about services of the hosts: who tells of them, and how long.

use super::*;
use crate::wire::record::Service;

fn service(name: &str, ips: &[&str]) -> Service {
    Service {
        name: label(name),
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
    }
}

fn known(world: &World, n: u64) -> Vec<(NodeId, Service)> {
    let services = world.mesh(n).directory.services();
    let mut all: Vec<_> = services.map(|(node, it)| (node, it.clone())).collect();
    all.sort();
    all
}

fn of(all: &[u64], service: &Service) -> Vec<(NodeId, Service)> {
    let mut rows: Vec<_> = all.iter().map(|&n| (id(n), service.clone())).collect();
    rows.sort();
    rows
}

#[test]
fn an_address_of_several_nodes_is_no_conflict_and_each_goes_with_its_node() {
    let mut world = lab(4);
    let dns = service("dns", &["10.9.0.53", "fd09::53"]);
    for n in [2, 3] {
        world.with(n, |m, now, out| {
            m.advertise_services(vec![dns.clone()], now, out)
        });
    }
    world.run(3_000);
    for n in 1..=4 {
        assert_eq!(known(&world, n), of(&[2, 3], &dns), "node {n}");
    }
    let conflict = |notice: &Notice| format!("{notice:?}").contains("Conflict");
    assert!(!world.notices.iter().any(|(_, notice)| conflict(notice)));

    world.kill(3);
    world.run(4_000);
    world.idle_out();
    world.run(950);
    for n in [1, 2, 4] {
        assert_eq!(known(&world, n), of(&[2], &dns), "node {n}");
    }
    // And with its device.
    world.with(2, |m, now, out| m.advertise_services(vec![], now, out));
    world.run(3_000);
    for n in [1, 2, 4] {
        assert_eq!(known(&world, n), [], "node {n}");
    }
}

#[test]
fn what_a_node_says_of_its_services_is_bounded_here_and_there() {
    let mut world = lab(2);
    let many = (0..100u8).map(|n| service(&format!("s{n}"), &["10.9.0.1"; 40]));
    let many: Vec<Service> = many.chain([service("empty", &[])]).collect();
    world.with(2, |m, now, out| m.advertise_services(many, now, out));
    world.run(3_000);
    let known = known(&world, 1);
    assert_eq!(known.len(), crate::wire::record::SERVICES_MAX);
    assert!(known.iter().all(|(_, service)| service.ips.len() == 16));

    let advert = world.mesh(2).directory.advert(id(2)).unwrap().clone();
    let [a, b] = [service("a", &["10.9.0.1"]), service("b", &["10.9.0.1"])];
    for odd in [
        vec![service("a", &[])],
        vec![service("a", &["10.9.0.1"; 17])],
        vec![b, a.clone()],
        vec![a.clone(), a],
    ] {
        let record = Record::Node(crate::wire::record::NodeAdvert {
            services: odd,
            ..advert.clone()
        });
        assert!(record.sign(keys(2).mesh(), &keys(2)).is_err());
    }
}

#[test]
fn a_name_that_is_listed_is_answered_by_those_nodes_and_what_others_say_is_told_once() {
    use crate::services::{ServiceRules, Services};
    let mut world = lab(3);
    let say = |world: &mut World, n: u64, ip: &str| {
        let all = vec![service("dns", &[ip]), service("web", &[ip])];
        world.with(n, |m, now, out| m.advertise_services(all, now, out));
    };
    say(&mut world, 2, "10.9.0.2");
    say(&mut world, 3, "10.9.0.3");
    world.run(3_000);
    let directory = &world.mesh(1).directory;
    let look = |services: &mut Services| {
        let mut out = Outbox::default();
        let is_new = services.look(directory, &mut out);
        let told = std::iter::from_fn(|| out.pop()).filter_map(|output| match output {
            Output::Notice(Notice::ServiceRefused { name, node }) => Some((name, node, None)),
            Output::Notice(Notice::ServiceDiffers {
                name,
                holder,
                other,
            }) => Some((name, holder, Some(other))),
            _ => None,
        });
        let told: Vec<_> = told.collect();
        let answered: Vec<String> = services
            .iter()
            .map(|service| format!("{} {}", service.name, service.ips[0]))
            .collect();
        (is_new, told, answered)
    };
    // Anybody: both are answered, and that they differ is told.
    let mut services = Services::default();
    let (is_new, told, answered) = look(&mut services);
    assert!(is_new);
    assert_eq!(answered.len(), 4);
    let (low, high) = (id(2).min(id(3)), id(2).max(id(3)));
    for name in ["dns", "web"] {
        assert!(
            told.contains(&(name.to_owned(), low, Some(high))),
            "{told:?}"
        );
    }
    assert_eq!(look(&mut services), (false, vec![], answered));
    // One name for one node, by its name or how its id begins; others as they were.
    let member = directory.member(id(2)).unwrap();
    let ways = [member.name.to_string(), id(2).to_string()[..8].to_owned()];
    for (nth, way) in ways.into_iter().enumerate() {
        let mut rules = ServiceRules::default();
        rules.nodes.insert(label("dns"), [way].into());
        services.set_rules(rules.clone());
        let (_, told, answered) = look(&mut services);
        assert_eq!(
            answered
                .iter()
                .filter(|it| it.starts_with("dns"))
                .collect::<Vec<_>>(),
            ["dns 10.9.0.2"]
        );
        assert_eq!(answered.len(), 3);
        let of_dns = told.iter().filter(|(name, ..)| name == "dns");
        let of_dns: Vec<_> = of_dns.map(|(_, node, other)| (*node, *other)).collect();
        // Still so with the other way to say it.
        let news = [(id(3), None)];
        assert_eq!(of_dns, news[..usize::from(nth == 0)], "{told:?}");
        rules.only_listed = true;
        services.set_rules(rules);
        let (is_new, _, answered) = look(&mut services);
        assert!(is_new);
        assert_eq!(answered, ["dns 10.9.0.2"]);
        assert_eq!(look(&mut services), (false, vec![], answered));
    }
}

#[test]
fn a_service_that_has_a_networks_name_is_told_once_and_again_when_it_was_otherwise_meanwhile() {
    use crate::services::Services;
    let mut world = lab(2);
    let add = crate::command::NetworkSpec {
        name: "lan".parse().unwrap(),
        vni: None,
        subnets: Vec::new(),
        mtu: None,
    };
    let mut services = Services::default();
    let hidden = |world: &World, services: &mut Services| {
        let mut out = Outbox::default();
        services.look(&world.mesh(1).directory, &mut out);
        let told = std::iter::from_fn(|| out.pop()).filter_map(|output| match output {
            Output::Notice(Notice::ServiceHidden { name, node }) => Some((name, node)),
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    let all = vec![service("lan", &["10.9.9.9"]), service("dns", &["10.9.9.9"])];
    world.with(2, |m, now, out| m.advertise_services(all, now, out));
    world.run(3_000);
    assert_eq!(hidden(&world, &mut services), []);
    world
        .with(1, |m, now, out| m.add_network(&add, now, out))
        .unwrap();
    world.run(3_000);
    assert_eq!(hidden(&world, &mut services), [("lan".to_owned(), id(2))]);
    assert_eq!(hidden(&world, &mut services), []);
}
