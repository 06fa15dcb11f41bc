//! `meshd top`: what goes on, live in a terminal.
//!
//! ```text
//!   keys (a thread) ---+
//!   answers (a task) --+--> loop --> model (what is looked at, rates) --> screen (drawn, differences go over the line)
//!   each second -------+      \--> asks for the status and for what the page shows, nothing else
//! ```
//!
//! Owns the terminal while it runs, and gives it back as it was however it ends. It is a client of the API like any other: a slow
//! daemon leaves keys at work, one that is gone is said and asked again.

mod model;
mod pages;
mod screen;

use super::{Failure, Printed};
use crate::api::client::{Client, ClientError};
use meshd_core::code::ErrorCode;
use meshd_core::view::Status;
use model::{Done, Model, Seen};
use pages::{Content, Page};
use ratatui::crossterm::event::{self, Event};
use std::ffi::OsStr;
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// For one round of answers.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How soon the keys' thread sees that nobody reads any more.
const KEY_POLL: Duration = Duration::from_millis(200);
/// Events that are looked back at.
const EVENTS_SHOWN: usize = 512;

/// Words of `meshd top`.
#[derive(clap::Args, Debug)]
pub(super) struct TopArgs {
    /// Seconds between two looks, from 1 to 60.
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
    every: u64,
    /// What to begin with.
    #[arg(long, value_enum, default_value_t = Page::Peers)]
    page: Page,
    /// Only lines that have this text.
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
}

type Answer = Result<Seen, ClientError>;

/// Runs until somebody ends it.
pub(super) async fn run(client: &Client, args: &TopArgs) -> Result<Printed, Failure> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            ErrorCode::NoTerminal,
            "`meshd top` draws on a terminal, and this is none",
        )
        .hint(
            "for programs: `meshd status --json`, and the same of peers, paths, flows and drops",
        ));
    }
    if let Some(term) = std::env::var_os("TERM").filter(|term| cannot_draw(term)) {
        return Err(Failure::new(
            ErrorCode::NoTerminal,
            format!(
                "`meshd top` draws on a terminal, and TERM is \"{}\", one that cannot be drawn on",
                term.display()
            ),
        )
        .hint("set TERM to what it is, such as xterm-256color; or `meshd status`, `meshd peers`, `meshd drops --watch`"));
    }
    let start = Instant::now();
    let colors = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut model = Model::new(args.page, &args.filter, colors);
    // Before the terminal is taken: a daemon that is not there is an ordinary error.
    model.take(ask(client, args.page, start).await?);
    let ended = follow(client, &mut model, Duration::from_secs(args.every), start).await;
    ratatui::restore();
    ended.map_err(|error| {
        Failure::new(ErrorCode::TerminalFailed, format!("the terminal: {error}"))
    })?;
    Printed::text("")
}

/// What programs and editors set for a terminal that only writes line below line (terminfo(5)). Where nothing is set, it is tried.
fn cannot_draw(term: &OsStr) -> bool {
    term.is_empty() || term == "dumb"
}

/// Puts the terminal back, also when something panics or returns early.
struct Terminal(ratatui::DefaultTerminal);

impl Drop for Terminal {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

async fn follow(
    client: &Client,
    model: &mut Model,
    every: Duration,
    start: Instant,
) -> std::io::Result<()> {
    let mut terminal = Terminal(ratatui::try_init()?);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut keys = keys();
    let (tell, mut told) = mpsc::channel::<Answer>(1);
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut asking = false;
    loop {
        terminal.0.draw(|frame| screen::draw(frame, model))?;
        let ask_now = tokio::select! {
            key = keys.recv() => {
                let Some(event) = key else { return Ok(()) };
                let page = model.page();
                if model.key(&event) == Done::Quit {
                    return Ok(());
                }
                model.page() != page
            }
            Some(answer) = told.recv() => {
                asking = false;
                match answer {
                    Ok(seen) => model.take(seen),
                    Err(error) => model.fail(&error.to_string()),
                }
                // Another page was turned to meanwhile.
                model.is_behind()
            }
            _ = ticks.tick() => !model.paused(),
            _ = terminate.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
        };
        if ask_now && !asking {
            asking = true;
            let (client, page, tell) = (client.clone(), model.page(), tell.clone());
            tokio::spawn(async move {
                let asked = tokio::time::timeout(ANSWER_WITHIN, ask(&client, page, start)).await;
                let answer = asked.unwrap_or_else(|_| {
                    Err(client.broken(format!("no answer within {} s", ANSWER_WITHIN.as_secs())))
                });
                // Who asked may have ended.
                let _ = tell.send(answer).await;
            });
        }
    }
}

/// What is typed, and how large the terminal becomes. The thread ends when nobody reads any more.
fn keys() -> mpsc::Receiver<Event> {
    let (tell, told) = mpsc::channel(64);
    std::thread::spawn(move || {
        while !tell.is_closed() {
            match event::poll(KEY_POLL) {
                Ok(false) => {}
                Ok(true) => {
                    let read = event::read().ok();
                    if read.is_none_or(|event| tell.blocking_send(event).is_err()) {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    });
    told
}

async fn ask(client: &Client, page: Page, start: Instant) -> Answer {
    let status: Status = client.get("/v1/status").await?;
    let content = match page {
        Page::Peers => Content::Peers(client.get("/v1/peers").await?),
        Page::Paths => Content::Paths(client.get("/v1/paths").await?),
        Page::Ports => Content::Ports(client.get("/v1/ports").await?),
        Page::Flows => Content::Flows(client.get("/v1/flows").await?),
        Page::Plugins => Content::Plugins(client.get("/v1/plugin-stats").await?),
        Page::Drops => Content::Drops(client.get("/v1/drops").await?),
        Page::Events => {
            let mut events: Vec<_> = client.get("/v1/events?last=1000").await?;
            events.drain(..events.len().saturating_sub(EVENTS_SHOWN));
            Content::Events(events)
        }
    };
    Ok(Seen {
        at_ms: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
        status,
        content,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_that_only_writes_line_below_line_is_not_drawn_on() {
        assert!(cannot_draw(OsStr::new("dumb")) && cannot_draw(OsStr::new("")));
        assert!(!cannot_draw(OsStr::new("xterm-256color")) && !cannot_draw(OsStr::new("linux")));
    }
}
