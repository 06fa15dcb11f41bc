//! Who runs when: the yardstick beside each, and there and back.

/// The turns of one round, each of two systems with the yardstick between them, or of one with the yardstick after it. Rounds
/// count from 1; each even one is the one before backwards.
pub(super) fn turns(systems: usize, yardstick: usize, round: usize) -> Vec<Vec<usize>> {
    let others: Vec<usize> = (0..systems).filter(|index| *index != yardstick).collect();
    let mut turns: Vec<Vec<usize>> = others
        .chunks(2)
        .map(|pair| match *pair {
            [one, other] => vec![one, yardstick, other],
            _ => pair.iter().copied().chain([yardstick]).collect(),
        })
        .collect();
    if turns.is_empty() {
        turns.push(vec![yardstick]);
    }
    if round.is_multiple_of(2) {
        turns.reverse();
        turns.iter_mut().for_each(|turn| turn.reverse());
    }
    turns
}

#[cfg(test)]
mod tests {
    use super::turns;

    #[test]
    fn each_system_runs_once_a_round_beside_the_yardstick() {
        for systems in 2..9 {
            for yardstick in 0..systems {
                for round in [1, 2] {
                    let turns = turns(systems, yardstick, round);
                    let mut seen: Vec<usize> = turns.concat();
                    seen.retain(|index| *index != yardstick);
                    seen.sort_unstable();
                    let all: Vec<usize> = (0..systems).filter(|i| *i != yardstick).collect();
                    assert_eq!(seen, all);
                    for turn in turns {
                        let at = turn.iter().position(|index| *index == yardstick).unwrap();
                        assert!(
                            (0..turn.len()).all(|other| other.abs_diff(at) <= 1),
                            "{turn:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn an_even_round_goes_back_the_way_of_an_odd_one() {
        let there = turns(6, 1, 1);
        let mut back: Vec<usize> = turns(6, 1, 2).concat();
        back.reverse();
        assert_eq!(there.concat(), back);
        assert_eq!(turns(1, 0, 1), [[0]]);
    }
}
