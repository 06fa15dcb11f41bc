//! Prints what a decision costs: `cargo run --release -p meshd-plugin-host --example latency`.

#[path = "../tests/guests/mod.rs"]
mod guests;

use guests::{component, instance, plugin, tcp_to};
use meshd_core::node::Question;
use meshd_plugin_host::{Engine, Instance, Limits, Plugin};
use std::hint::black_box;
use std::time::Instant;

fn main() {
    let deny = r#"{"deny":[{"proto":"tcp","port":22}]}"#;
    println!(
        "hello-plugin, 1 comparison     {:>6} ns a decision",
        decision("hello-plugin", r#"{"port":23}"#, &tcp_to(80))
    );
    println!(
        "acl, 1 rule                    {:>6} ns a decision",
        decision("acl", deny, &tcp_to(80))
    );
    let rules: Vec<String> = (1..=64)
        .map(|n| format!(r#"{{"proto":"tcp","port":{n}}}"#))
        .collect();
    println!(
        "acl, 64 rules, none matches    {:>6} ns a decision",
        decision(
            "acl",
            &format!(r#"{{"deny":[{}]}}"#, rules.join(",")),
            &tcp_to(8080)
        )
    );
    let rules: Vec<String> = (0..1000u32)
        .map(|n| {
            let host = std::net::Ipv4Addr::from_bits(0x0a00_0000 + n * 8);
            format!(r#"{{"proto":"tcp","dst":"{host}","port":22}}"#)
        })
        .collect();
    let many = format!(r#"{{"deny":[{}]}}"#, rules.join(","));
    let mut last = tcp_to(22);
    last.key.dst_ip = 0xffff_0a00_1f38;
    for (what, question) in [("none matches", &tcp_to(8080)), ("the last matches", &last)] {
        println!(
            "acl, 1000 rules, {what:<16} {:>5} ns a decision",
            decision("acl", &many, question)
        );
    }
    let acl = plugin("acl");
    println!(
        "a fresh instance               {:>6} ns",
        best(200, || drop(black_box(Instance::new(&acl, deny, 1))))
    );
    println!(
        "a hang cut by fuel             {:>6} ns at most of 50",
        hang("spin", &Limits::default())
    );
    // Fuel for a minute: the clock alone has to end it.
    let endless = Limits {
        decide_fuel: u64::MAX / 2,
        ..Limits::default()
    };
    println!(
        "a hang cut by the clock        {:>6} ns at most of 50",
        hang("spin", &endless)
    );
    for what in ["trap", "spin", "recurse", "memory", "fill"] {
        let mut guest = instance("fixture", &format!(r#"{{"on-port":666,"do":"{what}"}}"#));
        println!(
            "fault by {what:<8}              {:>6} ns, with the fresh instance",
            best(20, || drop(black_box(guest.decide(&tcp_to(666)))))
        );
    }
}

/// The longest of some decisions that hang, without the fresh instance after each.
fn hang(what: &str, limits: &Limits) -> u128 {
    let engine = Engine::new(*limits).unwrap_or_else(|e| panic!("{e}"));
    let plugin = Plugin::load(&engine, &component("fixture")).unwrap_or_else(|e| panic!("{e}"));
    let config = format!(r#"{{"on-port":666,"do":"{what}"}}"#);
    let mut guest = Instance::new(&plugin, &config, 1).unwrap_or_else(|e| panic!("{e}"));
    let round = |_| {
        // Starts the fresh one.
        drop(black_box(guest.decide(&tcp_to(1))));
        let started = Instant::now();
        drop(black_box(guest.decide(&tcp_to(666))));
        started.elapsed().as_nanos()
    };
    (0..50).map(round).max().unwrap_or_default()
}

fn decision(name: &str, config: &str, question: &Question) -> u128 {
    let mut guest = instance(name, config);
    best(20_000, || {
        drop(black_box(guest.decide(black_box(question))))
    })
}

/// Mean ns of a round of `n`, the best of five.
fn best(n: u32, mut act: impl FnMut()) -> u128 {
    let round = |_| {
        let started = Instant::now();
        (0..n).for_each(|_| act());
        started.elapsed().as_nanos() / u128::from(n)
    };
    (0..5).map(round).min().unwrap_or_default()
}
