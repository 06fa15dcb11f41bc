//! `GET /v1/events`: what is remembered, and as server-sent events what follows.

use super::FOLLOWERS_MAX;
use super::backend::Backend;
use super::describe::{Given, Page};
use super::extract::{ApiError, Asked};
use crate::events::{Past, Wanted};
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
use tokio::sync::Semaphore;
use tokio::sync::broadcast::error::RecvError;

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
    static FOLLOWERS: Semaphore = Semaphore::const_new(FOLLOWERS_MAX);
    let Ok(place) = FOLLOWERS.try_acquire() else {
        let message = format!("{FOLLOWERS_MAX} clients follow events already; end one of them");
        return Err(ApiError::new(ErrorCode::FollowersFull, message));
    };
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
