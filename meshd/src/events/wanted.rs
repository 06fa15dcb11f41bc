//! Which events somebody wants: behind a number, from an instant on, of some kinds.

use meshd_core::ident::escape;
use meshd_core::notice::{Notice, Subject};
use meshd_core::view::Event;
use std::collections::BTreeSet;

/// Words of one wish.
const KINDS_MAX: usize = 64;
/// Letters of a word.
const WORD_MAX: usize = 64;

/// How alike a word and a known one have to be, of 1.
const ALIKE: f64 = 0.8;

/// What of the events is wanted; by default all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Behind this number.
    pub after: Option<u64>,
    /// From this instant on, ms since the Unix epoch.
    pub since_ms: Option<u64>,
    /// Of those, so many at most, the last ones.
    pub last: Option<usize>,
    /// About these; with `words` also empty: about anything.
    pub subjects: BTreeSet<Subject>,
    /// Of these words.
    pub words: BTreeSet<String>,
}

/// That there is no such kind, and which one may be meant, or which there are.
fn unknown(word: &str) -> String {
    let shown: String = word.chars().take(WORD_MAX).collect();
    let subjects = Subject::ALL.iter().map(|one| one.word());
    let all: BTreeSet<&str> = subjects.chain(Notice::WORDS).collect();
    let near = all
        .iter()
        .map(|known| (strsim::jaro_winkler(&shown, known), *known))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let meant = match near {
        Some((_, known)) => format!("did you mean {known}?"),
        None => "give what an event is about, or the word of one.".to_owned(),
    };
    format!(
        "\"{}\" is no kind of event; {meant} There are {}",
        escape(shown.as_bytes()),
        all.into_iter().collect::<Vec<_>>().join(", ")
    )
}

impl Wanted {
    /// Nothing of what was, only what comes.
    #[must_use]
    pub fn none() -> Self {
        Self {
            since_ms: Some(u64::MAX),
            ..Self::default()
        }
    }

    /// Only these, with commas between them: words of events, or what they are about.
    ///
    /// # Errors
    /// If one is no word of an event.
    pub fn kinds(&mut self, text: &str) -> Result<(), String> {
        for word in text
            .split(',')
            .filter(|word| !word.is_empty())
            .take(KINDS_MAX)
        {
            if let Some(subject) = Subject::ALL.iter().find(|one| one.word() == word) {
                self.subjects.insert(*subject);
                // `path` and `plugin` and `device` are also events: all of that subject are meant.
                continue;
            }
            if !Notice::WORDS.contains(&word) {
                return Err(unknown(word));
            }
            self.words.insert(word.to_owned());
        }
        Ok(())
    }

    /// Is this one wanted?
    #[must_use]
    pub fn takes(&self, event: &Event) -> bool {
        let (word, subject) = event.notice.names();
        let of_kind = (self.subjects.is_empty() && self.words.is_empty())
            || self.subjects.contains(&subject)
            || self.words.contains(word);
        of_kind
            && self.after.is_none_or(|after| event.seq > after)
            && self.since_ms.is_none_or(|since| event.at_ms >= since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_there_is_not_is_refused_with_those_there_are() {
        let mut wanted = Wanted::default();
        assert_eq!(wanted.kinds("peer,path-shrank,,started"), Ok(()));
        for (typed, meant) in [
            ("peer-donw", "did you mean peer-down?"),
            ("nix", "give what an event is about"),
        ] {
            let refused = wanted.kinds(typed).err().unwrap_or_default();
            assert!(refused.contains(meant), "{refused}");
            assert!(refused.contains("port, port-blocked"), "{refused}");
        }
    }
}
