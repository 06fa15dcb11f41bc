//! Stories of underlay links: several ways between two hosts, some of which are cut.

use crate::link::Weather;
use crate::scenarios::{all_pairs, mesh_in, seed, with_seed};
use crate::world::World;
use meshd_core::links::LinkView;
use meshd_core::steering::WayId;

fn links(world: &World) -> Vec<LinkView> {
    let up = world.up();
    let pairs = up.iter().flat_map(|&at| up.iter().map(move |&to| (at, to)));
    pairs
        .filter(|(at, to)| at != to)
        .flat_map(|(at, to)| {
            let node = world.hosts[at].node.as_ref().unwrap();
            node.mesh().links_with(world.id(to))
        })
        .collect()
}

fn all_up(world: &World, hosts: usize, each: usize) -> bool {
    let links = links(world);
    links.len() == hosts * (hosts - 1) * each && links.iter().all(|link| link.session.is_some())
}

#[test]
fn links_of_one_name_are_connected_and_the_cheapest_carries_all() {
    with_seed(seed(), |seed| {
        let mut mesh = mesh_in(World::linked(seed, Weather::fair(), 2), 3);
        assert!(mesh.world.run_until(30_000, |w| all_up(w, 3, 2)));
        mesh.world.run(2_000);
        mesh.world.crossed.clear();
        let (arrived, sent) = all_pairs(&mut mesh);
        assert_eq!(arrived, sent);
        let first = WayId::link(0).unwrap();
        assert_eq!(mesh.world.crossed.keys().collect::<Vec<_>>(), [&first]);
    });
}

#[test]
fn a_link_that_falls_silent_is_left_and_taken_again() {
    with_seed(seed() + 1, |seed| {
        let mut mesh = mesh_in(World::linked(seed, Weather::fair(), 2), 3);
        assert!(mesh.world.run_until(30_000, |w| all_up(w, 3, 2)));
        mesh.world.run(2_000);
        let (first, second) = (WayId::link(0).unwrap(), WayId::link(1).unwrap());
        mesh.world.cut_ways.insert(first);
        // Silent for 0.8 s, and seen within 0.1 s; its connection does not end for four.
        mesh.world.run(1_000);
        mesh.world.crossed.clear();
        let (arrived, sent) = all_pairs(&mut mesh);
        assert_eq!(arrived, sent);
        assert_eq!(mesh.world.crossed.keys().collect::<Vec<_>>(), [&second]);
        mesh.world.run(20_000);
        assert!(!all_up(&mesh.world, 3, 2));
        mesh.world.cut_ways.clear();
        assert!(mesh.world.run_until(60_000, |w| all_up(w, 3, 2)));
        mesh.world.run(1_000);
        mesh.world.crossed.clear();
        let (arrived, sent) = all_pairs(&mut mesh);
        assert_eq!(arrived, sent);
        assert_eq!(mesh.world.crossed.keys().collect::<Vec<_>>(), [&first]);
    });
}

#[test]
fn without_its_session_a_peer_is_reached_by_links() {
    with_seed(seed() + 2, |seed| {
        let mut mesh = mesh_in(World::linked(seed, Weather::fair(), 1), 3);
        assert!(mesh.world.run_until(30_000, |w| all_up(w, 3, 1)));
        mesh.world.cut_ways.insert(WayId::MAIN);
        // Long enough for session and SWIM to give a node up.
        mesh.world.run(30_000);
        let (arrived, sent) = all_pairs(&mut mesh);
        assert_eq!(arrived, sent);
        // What one says of itself still gets to all.
        let vni = mesh.vni;
        let port = mesh.world.attach(1, vni, "late").unwrap();
        let known = mesh.world.run_until(5_000, |w| {
            let node = w.hosts[2].node.as_ref().unwrap();
            node.directory().mac(vni, port.mac).is_some()
        });
        assert!(known, "an endpoint is not known by way of links");
        mesh.world.cut_ways.clear();
        let session = mesh.world.run_until(60_000, |w| {
            let id = w.id(1);
            let node = w.hosts[0].node.as_ref().unwrap();
            node.mesh().session_of(id).is_some()
        });
        assert!(session, "the session does not come back");
    });
}
