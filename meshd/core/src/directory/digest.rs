//! What is known, in few bytes: one number for all of it, or a line a record; and what another lacks.

use super::{DIGEST_LINES, Directory, in_chunks};
use crate::wire::control::Have;
use crate::wire::record::{RecordKey, Signed};
use std::collections::{BTreeMap, BTreeSet};

impl Directory {
    /// All that is known, as one number.
    #[must_use]
    pub fn summary(&self) -> u64 {
        self.summary
    }

    /// All that is known, as digests of consecutive ranges: first key, last key, lines.
    #[must_use]
    pub fn digest(&self) -> Vec<(u64, u64, Vec<Have>)> {
        self.digest_in_chunks(DIGEST_LINES)
    }

    pub(super) fn digest_in_chunks(&self, size: usize) -> Vec<(u64, u64, Vec<Have>)> {
        let lines: Vec<Have> = self.lines(0, u64::MAX).map(|(have, _)| have).collect();
        let mut chunks: Vec<(u64, u64, Vec<Have>)> = Vec::new();
        let mut from = 0;
        for chunk in lines.chunks(size) {
            let to = chunk.last().map_or(u64::MAX, |have| have.key);
            chunks.push((from, to, chunk.to_vec()));
            from = to.saturating_add(1);
        }
        match chunks.last_mut() {
            Some(last) => last.1 = u64::MAX,
            None => chunks.push((0, u64::MAX, Vec::new())),
        }
        chunks
    }

    /// What is known of a range of key hashes.
    #[must_use]
    pub fn digest_of(&self, from: u64, to: u64) -> Vec<Have> {
        self.lines(from, to)
            .map(|(have, _)| have)
            .take(DIGEST_LINES * 2)
            .collect()
    }

    pub(super) fn lines(&self, from: u64, to: u64) -> impl Iterator<Item = (Have, RecordKey)> {
        let range = if from <= to {
            Some(self.prints.range(from..=to))
        } else {
            None
        };
        range.into_iter().flatten().filter_map(|(&print, key)| {
            let entry = self.records.get(key)?;
            Some((
                Have {
                    key: print,
                    serial: entry.record.serial(),
                    tag: entry.tag,
                },
                key.clone(),
            ))
        })
    }

    /// What the sender of a digest lacks, in the order in which it can take it, in messages of about 250 kB, at most `most`
    /// of them; its next digest gets the rest.
    #[must_use]
    pub fn newer_than(&self, from: u64, to: u64, have: &[Have], most: u64) -> Vec<Vec<Signed>> {
        let theirs: BTreeMap<u64, (u64, u32)> =
            have.iter().map(|h| (h.key, (h.serial, h.tag))).collect();
        let newer = |ours: &Have| {
            theirs.get(&ours.key).is_none_or(|&(serial, tag)| {
                serial < ours.serial || (serial == ours.serial && tag != ours.tag)
            })
        };
        let keys: BTreeSet<RecordKey> = self
            .lines(from, to)
            .filter(|(have, _)| newer(have))
            .map(|(_, key)| key)
            .collect();
        let mut chunks = in_chunks(
            keys.iter()
                .filter_map(|key| self.records.get(key))
                .map(|entry| entry.signed.clone()),
        );
        chunks.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        chunks
    }
}
