//! What lanes had counted that have ended: nothing that was dropped is forgotten with the port or the session.

use super::{LaneReport, read};
use meshd_core::flow::Origin;
use meshd_core::tally::Tallies;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::task::JoinHandle;

/// Ports and peers that are told apart once their lanes have ended.
const ORIGINS_MAX: usize = 1024;

/// See the module.
#[derive(Default)]
pub(super) struct Ended {
    /// `None`: of all beyond [`ORIGINS_MAX`].
    origins: BTreeMap<Option<Origin>, Tallies>,
    /// Told to end, and at their last words perhaps.
    ending: Vec<(Origin, Arc<Mutex<LaneReport>>, JoinHandle<()>)>,
}

impl Ended {
    /// A lane was told to end.
    pub(super) fn add(
        &mut self,
        origin: Origin,
        report: Arc<Mutex<LaneReport>>,
        task: JoinHandle<()>,
    ) {
        self.ending.push((origin, report, task));
        for (origin, report, _) in self.ending.extract_if(.., |(.., task)| task.is_finished()) {
            let known =
                self.origins.len() < ORIGINS_MAX || self.origins.contains_key(&Some(origin));
            let place = self.origins.entry(known.then_some(origin)).or_default();
            place.merge(&read(&report).tallies);
        }
    }

    /// All that ended lanes have counted.
    pub(super) fn tallies(&self) -> BTreeMap<Option<Origin>, Tallies> {
        let mut all = self.origins.clone();
        for (origin, report, _) in &self.ending {
            let report = read(report);
            all.entry(Some(*origin)).or_default().merge(&report.tallies);
        }
        all
    }
}
