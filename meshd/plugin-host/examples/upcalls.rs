//! Prints what an upcall costs, all of it: `cargo run --release -p meshd-plugin-host --example upcalls`.
//!
//! ```text
//!   frame -> lane: no ruling -> node -> plugin, in -> node -> plugin, out -> node -> ruling -> lane: the frame leaves
//! ```
//!
//! On one thread, without the queues and threads between. Each frame is of another flow, and the policy reads what tells it from
//! the others.
#![allow(clippy::disallowed_methods)]

#[path = "../tests/guests/mod.rs"]
mod guests;
#[path = "../../core/benches/scenes/upcall.rs"]
mod upcall;

use meshd_core::node::Question;
use meshd_core::policy::{Answer, Verdict};
use meshd_plugin_host::{Instance, Say};
use std::cell::Cell;
use std::error::Error;
use std::time::{Duration, Instant};
use upcall::Bench;

const FLOWS: u32 = 200_000;
const ROUNDS: usize = 5;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn ask(plugin: &mut Instance, question: &Question) -> Answer {
    let decided = plugin.decide(question);
    decided.map_or(Answer::of(Verdict::Failed), |decision| Answer {
        mask: decision.mask,
        ..Answer::of(match decision.say {
            Say::Drop { .. } => Verdict::Drop,
            _ => Verdict::Pass,
        })
    })
}

/// Ns an upcall, and the share of frames that needed one. `ports`: of flow `n`.
fn measure<A: FnMut(&Question) -> Answer>(
    bench: &mut Bench<A>,
    ports: impl Fn(u32) -> u32,
) -> Result<[f64; 2]> {
    let mut frame = bench.template().ok_or("there are no two ports")?;
    let (mut upcalls, mut took) = (0u32, Duration::ZERO);
    for flow in 0..FLOWS {
        frame[34..38].copy_from_slice(&ports(flow).to_be_bytes());
        let started = Instant::now();
        if bench.frame(&frame) {
            upcalls += 1;
            took += started.elapsed();
        }
    }
    let all = f64::from(upcalls.max(1));
    Ok([took.as_secs_f64() * 1e9 / all, all / f64::from(FLOWS)])
}

fn show<A: FnMut(&Question) -> Answer>(
    what: &str,
    mut bench: Bench<A>,
    ports: impl Fn(u32) -> u32,
    asked: &Cell<u64>,
) -> Result<()> {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push(measure(&mut bench, &ports)?);
    }
    rounds.sort_by(|a, b| a[0].total_cmp(&b[0]));
    let [ns, share] = rounds[ROUNDS / 2];
    println!(
        "{what:<34} {ns:>6.0} ns an upcall, {:>8.0} a second; {:.0} % of frames, {} questions",
        1e9 / ns,
        share * 100.0,
        asked.replace(0)
    );
    Ok(())
}

fn main() -> Result<()> {
    // Odd and even ports are told apart by their last bit, and the rules by all of them.
    let rules: Vec<String> = (0..1000)
        .map(|n| format!(r#"{{"proto":"tcp","port":{}}}"#, 1 + n * 64))
        .collect();
    let many = format!(r#"{{"deny":[{}]}}"#, rules.join(","));
    let asked = Cell::new(0);
    let count = || asked.set(asked.get() + 1);
    let scattered = |flow: u32| flow.wrapping_mul(40_503);
    show(
        "no plugin: the policy reads ports",
        Bench::new(|question| {
            count();
            upcall::pass(question)
        })?,
        scattered,
        &asked,
    )?;
    let mut acl = guests::instance("acl", &many);
    show(
        "acl, 1000 rules",
        Bench::new(|question| {
            count();
            ask(&mut acl, question)
        })?,
        scattered,
        &asked,
    )
}
