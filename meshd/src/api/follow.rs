//! `GET /v1/events`: what is remembered, and as server-sent events what follows.

use super::access::Rights;
use super::backend::Backend;
use super::describe::{Given, Page};
use super::extract::{ApiError, Asked};
use super::{FOLLOWERS_MAX, READERS_MAX};
use crate::events::{Past, Wanted};
use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Json, Response};
use futures_util::{Stream, StreamExt, stream};
use meshd_core::code::ErrorCode;
use meshd_core::command::Refusal;
use meshd_core::view;
use serde::Deserialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Places of followers: who may only read leaves some to those who keep the node.
struct Places {
    all: Semaphore,
    readers: Semaphore,
}

/// Of the two: a follower's, and if it may only read, one of theirs.
type Place<'a> = (SemaphorePermit<'a>, Option<SemaphorePermit<'a>>);

impl Places {
    const fn new() -> Self {
        Self {
            all: Semaphore::const_new(FOLLOWERS_MAX),
            readers: Semaphore::const_new(READERS_MAX),
        }
    }

    /// One more follower; else how many there are already.
    fn take(&self, rights: Rights) -> Result<Place<'_>, usize> {
        let reader = match rights {
            Rights::Change => None,
            Rights::Read | Rights::None => {
                Some(self.readers.try_acquire().map_err(|_| READERS_MAX)?)
            }
        };
        let place = self.all.try_acquire().map_err(|_| FOLLOWERS_MAX)?;
        Ok((place, reader))
    }
}

/// What stands behind the `?`.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// Server-sent events, without end: each has its number as `id`, and `missed` with `{"missed": N}` says how many numbers were
    /// left out.
    #[serde(default)]
    #[param(required = false)]
    follow: bool,
    /// Only events behind this number. `Last-Event-ID` goes before it. Where no event has had that number yet, it is of another life
    /// of the node: a list is empty then, and who follows gets all of this one.
    after: Option<u64>,
    /// Only events from this instant on, in ms since the Unix epoch.
    since: Option<u64>,
    /// At most so many of those that are remembered, the last ones.
    last: Option<usize>,
    /// Only these: words of events, such as `peer-down`, or what they are about: `node`, `member`, `peer`, `path`, `network`,
    /// `port`, `plugin`, `device`; with commas between them.
    kind: Option<String>,
}

/// A list, or a stream.
pub(super) enum Told {
    /// Of what is remembered.
    List(Vec<view::Event>),
    /// Without end.
    Stream(Response),
}

impl IntoResponse for Told {
    fn into_response(self) -> Response {
        match self {
            Self::List(events) => Json(events).into_response(),
            Self::Stream(response) => response,
        }
    }
}

impl Given for Result<Told, ApiError> {
    fn tell(page: &mut Page) {
        page.list_or_stream::<view::Event>();
    }
}

pub(super) async fn events<B: Backend>(
    State(backend): State<B>,
    Extension(rights): Extension<Rights>,
    Asked(query): Asked<EventsQuery>,
    headers: HeaderMap,
) -> Result<Told, ApiError> {
    let last_seen = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok()?.parse().ok());
    let mut wanted = Wanted {
        after: last_seen.or(query.after),
        since_ms: query.since,
        last: query.last,
        ..Wanted::default()
    };
    if let Some(kinds) = &query.kind {
        wanted
            .kinds(kinds)
            .map_err(|why| Refusal::new(ErrorCode::RequestQueryInvalid, why))?;
    }
    let past = backend.events(&wanted);
    if !query.follow {
        // Behind a number that was not given yet there is nothing.
        let events = if past.anew { Vec::new() } else { past.events };
        return Ok(Told::List(events));
    }
    if past.anew {
        wanted.after = None;
    }
    static FOLLOWERS: Places = Places::new();
    let place = FOLLOWERS.take(rights).map_err(|taken| {
        let who = match rights {
            Rights::Change => "clients",
            Rights::Read | Rights::None => "clients that may only read",
        };
        let message = format!("{taken} {who} follow events already; end one of them");
        ApiError::new(ErrorCode::FollowersFull, message)
    })?;
    let events = follow(past, wanted).map(move |event| {
        let _held = &place;
        event
    });
    let stream = Sse::new(events)
        .keep_alive(sse::KeepAlive::default())
        .into_response();
    Ok(Told::Stream(stream))
}

/// First what is remembered, then what comes. Whoever reads too slowly, or was away for too long, is told how many were left
/// out.
fn follow(past: Past, wanted: Wanted) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    let Past {
        events,
        missed,
        coming,
        ..
    } = past;
    let missed = (missed > 0).then(|| left_out(missed));
    let state = (missed, VecDeque::from(events), coming, wanted, 0);
    stream::unfold(
        state,
        async |(mut missed, mut recent, mut coming, wanted, mut last)| {
            if let Some(told) = missed.take() {
                return Some((Ok(told), (None, recent, coming, wanted, last)));
            }
            loop {
                let event = match recent.pop_front() {
                    Some(event) => event,
                    None => match coming.recv().await {
                        Ok(event) => event,
                        Err(RecvError::Closed) => return None,
                        Err(RecvError::Lagged(missed)) => {
                            return Some((
                                Ok(left_out(missed)),
                                (None, recent, coming, wanted, last),
                            ));
                        }
                    },
                };
                // What was remembered may also be in the channel.
                if event.seq <= last || !wanted.takes(&event) {
                    continue;
                }
                last = event.seq;
                if let Ok(text) = serde_json::to_string(&event) {
                    return Some((
                        Ok(sse::Event::default().id(last.to_string()).data(text)),
                        (None, recent, coming, wanted, last),
                    ));
                }
            }
        },
    )
}

fn left_out(missed: u64) -> sse::Event {
    sse::Event::default()
        .event("missed")
        .data(format!("{{\"missed\":{missed}}}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_only_read_leaves_half_of_the_followers_places() {
        let places = Places::new();
        let take = |rights| -> Vec<Place<'_>> {
            std::iter::from_fn(|| places.take(rights).ok())
                .take(FOLLOWERS_MAX + 1)
                .collect()
        };
        let readers = take(Rights::Read);
        assert_eq!(readers.len(), READERS_MAX);
        let changers = take(Rights::Change);
        assert_eq!(changers.len(), FOLLOWERS_MAX - READERS_MAX);
        drop(readers);
        assert_eq!(take(Rights::Change).len(), READERS_MAX);
        // A reader for whom there is no place at all holds none of theirs.
        drop(changers);
        let all = take(Rights::Change);
        assert_eq!(all.len(), FOLLOWERS_MAX);
        assert_eq!(places.take(Rights::Read).err(), Some(FOLLOWERS_MAX));
        drop(all);
        assert_eq!(take(Rights::Read).len(), READERS_MAX);
    }
}
