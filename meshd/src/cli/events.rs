//! `meshd events`: what was, and what comes; a follower goes on when the daemon is started again.

use super::remote::Ask;
use super::{Failure, Printed, show};
use crate::api::client::{ClientError, Followed, segment};
use meshd_core::view;
use std::time::Duration;

pub(super) async fn run(
    ask: &Ask,
    follow: bool,
    after: Option<u64>,
    since: Option<Duration>,
    kinds: &[String],
) -> Result<Printed, Failure> {
    let mut query = String::new();
    let mut add = |key: &str, value: &str| {
        let mark = if query.is_empty() { '?' } else { '&' };
        query.extend([mark.to_string().as_str(), key, "=", value]);
    };
    if let Some(since) = since {
        let ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        add(
            "since",
            &crate::clock::wall().0.saturating_sub(ms).to_string(),
        );
    }
    if !kinds.is_empty() {
        add("kind", &segment(&kinds.join(",")));
    }
    if follow {
        let kinds = query;
        return go_on(ask, after, since.is_some(), &kinds).await;
    }
    if let Some(after) = after {
        add("after", &after.to_string());
        let last = last(ask).await?;
        if after > last {
            eprintln!("hint: {}", beyond(after, last));
        }
    }
    ask.rows(&format!("/v1/events{query}"), show::events).await
}

/// The number of the last event.
async fn last(ask: &Ask) -> Result<u64, Failure> {
    let events: Vec<view::Event> = ask.client.get("/v1/events?last=1").await?;
    Ok(events.last().map_or(0, |event| event.seq))
}

fn beyond(after: u64, last: u64) -> String {
    format!(
        "the last event has number {last}, and none has had {after}; numbers begin anew with a new state folder, so {after} may be of one that is gone"
    )
}

/// Each event on its line, until nobody reads any more.
async fn go_on(
    ask: &Ask,
    after: Option<u64>,
    with_past: bool,
    query: &str,
) -> Result<Printed, Failure> {
    let newest = self::last(ask).await?;
    let mut last = match after {
        Some(after) if after > newest => {
            eprintln!("hint: {}", beyond(after, newest));
            Some(newest)
        }
        Some(after) => Some(after),
        None if with_past => None,
        // Without a starting point only what is new: the past is `meshd events`.
        None => Some(newest),
    };
    let mut written = Ok(());
    loop {
        let mut path = format!("/v1/events{query}");
        path.push(if query.is_empty() { '?' } else { '&' });
        path.push_str("follow=true");
        if let Some(last) = last {
            path.push_str(&format!("&after={last}"));
        }
        let mut ended = false;
        let followed = ask.client.follow(&path, |followed| {
            let line = match (&followed, ask.json) {
                (Followed::Event(event), true) => serde_json::to_string(event).unwrap_or_default(),
                (Followed::Event(event), false) => show::event(event),
                (Followed::Missed(count), _) => {
                    eprintln!("hint: {count} events are missing here: they are kept no more, or went by faster than they were read");
                    return true;
                }
            };
            if let Followed::Event(event) = &followed {
                last = Some(event.seq);
            }
            // Here also a pipe without a reader is an end, but no failure.
            match super::write(&line) {
                Ok(()) => true,
                Err(error) => {
                    written = super::forgive(Err(error));
                    ended = true;
                    false
                }
            }
        });
        match followed.await {
            Ok(()) if ended => break,
            Ok(()) | Err(ClientError::Broken { .. }) => {
                eprintln!("hint: the daemon ended; this goes on when it is started again");
                ask.await_daemon().await?;
                let newest = self::last(ask).await?;
                if last.is_some_and(|last| last > newest) {
                    eprintln!(
                        "hint: the numbers of events begin anew: this is another state folder"
                    );
                    last = None;
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    written.map_err(|error| super::unwritten(&error))?;
    Printed::text("")
}
