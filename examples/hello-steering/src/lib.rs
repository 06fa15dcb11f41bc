//! Takes the quickest way that is up.

use meshd_sdk::prelude::*;
use meshd_sdk::steering::{Choice, LinkStats, SteerKey, Steering};

#[derive(Config)]
/// The quickest way.
struct Quickest {
    /// One that is quicker by less is not worth a move, in microseconds.
    #[config(default = 2000)]
    worth_us: u32,
}

#[steering]
impl Steering for Quickest {
    fn choose(&mut self, _key: &SteerKey, candidates: &[LinkStats], current: &[u32]) -> Choice {
        let mut ways: Vec<&LinkStats> = candidates.iter().filter(|way| way.up).collect();
        // The one that holds has a head start, so that two that are alike do not take turns.
        ways.sort_by_key(|way| match current.first() == Some(&way.path) {
            true => way.rtt_us.saturating_sub(self.worth_us),
            false => way.rtt_us,
        });
        Choice::of(ways.iter().map(|way| way.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_sdk::test::ways::{Way, Ways};

    #[test]
    fn the_quickest_way_is_taken_and_a_little_quicker_one_is_not_worth_a_move() {
        let ways = vec![
            Way::new("fibre", 100_000, 8_000),
            Way::new("dsl", 20_000, 30_000),
        ];
        let mut sim = Ways::new(Quickest { worth_us: 2000 }, ways);
        sim.load(0, 1_000);
        sim.run(1_000);
        assert_eq!(sim.first(0), "fibre");
        sim.ways[1].rtt_us = 7_000;
        sim.run(10_000);
        assert_eq!(sim.first(0), "fibre");
        sim.ways[1].rtt_us = 2_000;
        sim.run(1_000);
        assert_eq!(sim.first(0), "dsl");
        sim.ways[1].up = false;
        sim.run(100);
        assert_eq!(sim.first(0), "fibre");
    }
}
