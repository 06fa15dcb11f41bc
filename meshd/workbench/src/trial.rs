//! Does a plugin keep the contract? What the daemon samples of a running plugin, done of all.
//!
//! ```text
//!   every question, at the sender's port and at the receiver's
//!     -- twice, in one order and in the other, by two instances -- same answer?
//!     \- to fresh instances, bits outside of its mask scrambled --- same answer?
//!     \- fuel, faults
//! ```

use crate::names::Names;
use meshd_core::node::{Direction, Question};
use meshd_plugin_host::{
    ConfigureError, Decision, Fault, Instance, Lie, Plugin, Scramble, examine,
};
use serde::Serialize;
use std::collections::BTreeMap;

/// Examples of a trouble that are kept.
const EXAMPLES: usize = 3;

/// How a plugin breaks the contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// `fault`, `state` or `mask`.
    pub kind: &'static str,
    /// How often.
    pub times: u64,
    /// The first few, in words.
    pub examples: Vec<String>,
}

/// The outcome.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Trial {
    /// Questions.
    pub questions: usize,
    /// Of those, how many were asked again with scrambled bits.
    pub examined: usize,
    /// Units of fuel that the dearest decision took.
    pub fuel_most: u64,
    /// The same of half of them at most.
    pub fuel_median: u64,
    /// What a decision may take.
    pub fuel_limit: u64,
    /// Empty: it keeps the contract as far as was asked.
    pub troubles: Vec<Trouble>,
}

#[derive(Default)]
struct Found(BTreeMap<&'static str, Trouble>);

impl Found {
    fn add(&mut self, kind: &'static str, example: impl FnOnce() -> String) {
        let trouble = self.0.entry(kind).or_insert(Trouble {
            kind,
            times: 0,
            examples: Vec::new(),
        });
        trouble.times += 1;
        if trouble.examples.len() < EXAMPLES {
            trouble.examples.push(example());
        }
    }
}

/// Asks `plugin` with `config` about `questions`, at ingress and at egress, and scrambles up to `examined` of them.
///
/// # Errors
/// If it does not start with that config.
pub fn trial(
    plugin: &Plugin,
    config: &str,
    questions: &[Question],
    examined: usize,
) -> Result<Trial, ConfigureError> {
    let both = questions.iter().flat_map(|question| {
        let out = Question {
            direction: Direction::Egress,
            ..question.clone()
        };
        [question.clone(), out]
    });
    let questions: Vec<Question> = both.collect();
    let names = Names::default();
    let name = |code| names.get(code);
    let mut first = Instance::new(plugin, config, 1)?;
    // Another generation, as after a restart: an answer must not depend on it.
    let mut second = Instance::new(plugin, config, 2)?;
    let mut found = Found::default();
    let mut fuel = Vec::with_capacity(questions.len());
    let show = |question: &Question| {
        let at = match question.direction {
            Direction::Ingress => "",
            Direction::Egress => " at the receiver's port",
        };
        format!("{}{at}", meshd_core::flowtext::show(&question.key))
    };
    let answers: Vec<Result<Decision, Fault>> = questions
        .iter()
        .map(|question| {
            let said = first.decide_in_words(question, &name);
            said.map(|(decision, words)| {
                fuel.push(words.fuel);
                decision
            })
            .inspect_err(|fault| found.add("fault", || format!("{}: {fault}", show(question))))
        })
        .collect();
    for (question, answer) in questions.iter().zip(&answers).rev() {
        let again = second.decide(question);
        if again != *answer {
            found.add("state", || {
                format!(
                    "{}: asked in the other order, by another instance, it answers otherwise; a policy must keep no state",
                    show(question)
                )
            });
        }
    }
    let mut scramble = Scramble::new(1);
    let step = questions.len().div_ceil(examined.max(1)).max(1);
    let mut looked = 0;
    let answered = questions.iter().zip(&answers).step_by(step);
    for (question, answer) in answered {
        let Ok(decision) = answer else { continue };
        looked += 1;
        let mut fresh = first.sibling();
        let ask = |question: &Question| fresh.decide(question);
        if let Err(lie) = examine(ask, question, decision, &mut scramble) {
            let kind = match lie {
                Lie::State { .. } => "state",
                Lie::Mask { .. } => "mask",
            };
            found.add(kind, || lie.to_string());
        }
    }
    fuel.sort_unstable();
    Ok(Trial {
        questions: questions.len(),
        examined: looked,
        fuel_most: fuel.last().copied().unwrap_or_default(),
        fuel_median: fuel.get(fuel.len() / 2).copied().unwrap_or_default(),
        fuel_limit: plugin.limits().decide_fuel,
        troubles: found.0.into_values().collect(),
    })
}
