//! Traces of real daemons, as a collector of OpenTelemetry gets them; and what a collector that is not there costs.

use anyhow::{Context, Result, ensure};
use interop_tests::cni::Runtime;
use interop_tests::collector::{Collector, Span, URL};
use interop_tests::lab::{Lab, LabSpec, scene};
use std::time::{Duration, Instant};

/// All hosts name a collector at the usual port of their own loopback.
fn configured(lab: &Lab, hosts: usize) -> Result<()> {
    for host in 0..hosts {
        std::fs::write(
            &lab.node(host).config,
            format!("[telemetry]\notlp = \"{URL}\"\n"),
        )?;
    }
    Ok(())
}

fn named(name: &str) -> impl Fn(&Span) -> bool {
    move |span| span.name == name
}

/// The span whose child this one is.
fn parent(collector: &Collector, child: &Span) -> Result<Span> {
    let found = collector.find("its parent", |span| span.id == child.parent)?;
    ensure!(found.trace == child.trace, "{found:?} is of another trace");
    Ok(found)
}

#[test]
fn a_collector_gets_spans_of_what_daemons_did_and_of_what_failed() {
    scene(LabSpec::hosts(2).containers(1), |lab| {
        configured(lab, 2)?;
        let (a, b) = (lab.node(0), lab.node(1));
        let (at_a, at_b) = (Collector::start(&a.netns)?, Collector::start(&b.netns)?);
        lab.mesh()?;
        lab.network("lan", &["--subnet", "10.7.0.0/24"])?;

        // A node came: who invited it tells that, it dialed, and both have a session.
        let joined = at_a.find("the join", named("invite-used"))?;
        ensure!(
            joined.get("peer") == "b" && joined.error.is_none(),
            "{joined:?}"
        );
        ensure!(joined.service == "meshd", "{joined:?}");
        let dial = at_b.find("the dial", |span| {
            span.name == "dial" && span.error.is_none()
        })?;
        ensure!(
            !dial.get("addresses").is_empty() && dial.took_ns > 0,
            "{dial:?}"
        );

        // A network: a command in the course of a request.
        let added = at_a.find("the network", named("network-add"))?;
        let request = parent(&at_a, &added)?;
        ensure!(
            request.name == "POST /v1/networks"
                && request.parent.is_empty()
                && request.get("http.response.status_code") == "200"
                && request.get("user_agent.original").starts_with("meshd/"),
            "{request:?}"
        );

        // CNI: the plugin's command is in the request's name of who asked; the kernel's work is a span, too.
        let runtime = Runtime::new(lab)?;
        let conf = Runtime::conf(a, "1.0.0", "lan");
        runtime.add(a, lab.container(0, 0), &conf)?;
        let attach = at_a.find("the attach of CNI", named("attach"))?;
        let request = parent(&at_a, &attach)?;
        ensure!(
            request.get("user_agent.original").ends_with(" ADD"),
            "{request:?}"
        );
        let wired = at_a.find("the wiring", |span| {
            span.name == "wire port" && span.error.is_none()
        })?;
        ensure!(
            !wired.get("port").is_empty() && wired.took_ns > 0,
            "{wired:?}"
        );

        // What is refused, with its code, at the request and at the command; in the trace of who asked.
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let mut command = a.command()?;
        command.args(["network", "rm", "nix"]);
        command.env("TRACEPARENT", format!("00-{trace}-b7ad6b7169203331-01"));
        ensure!(
            !command.output()?.status.success(),
            "there is no such network"
        );
        let refused = at_a.find("the refusal", named("network-remove"))?;
        ensure!(refused.get("code") == "network-unknown", "{refused:?}");
        let error = refused.error.as_deref().context("it is no error")?;
        ensure!(error.contains("nix"), "{error}");
        let request = parent(&at_a, &refused)?;
        ensure!(request.error.is_some() && request.get("http.response.status_code") == "404");
        let hex: String = request
            .trace
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        ensure!(hex == trace && !request.parent.is_empty(), "{request:?}");

        // The peer is lost, and found again.
        lab.cut(0, 1)?;
        let lost = at_a.find("the lost session", named("peer-down"))?;
        ensure!(
            lost.get("peer") == "b" && lost.get("text").contains("is over"),
            "{lost:?}"
        );
        let failed = at_a.find("a dial that failed", |span| {
            span.name == "dial" && span.error.is_some()
        });
        let failed = failed.or_else(|_| {
            at_b.find("a dial that failed", |span| {
                span.name == "dial" && span.error.is_some()
            })
        })?;
        ensure!(failed.get("code") == "peer-silent", "{failed:?}");
        lab.heal()?;

        // What only looks is no operation, and the log has nothing of spans.
        let all = at_a.spans();
        ensure!(!all.iter().any(|span| span.name.starts_with("GET ")));
        let log = a.log_tail(1000);
        ensure!(
            !log.contains("wire port") && !log.contains("api request"),
            "{log}"
        );
        // Nothing that opens a door is told.
        let told = format!("{all:?}");
        ensure!(!told.contains("meshd1"), "an invite is in a trace");
        Ok(())
    });
}

#[test]
fn a_collector_that_is_not_there_costs_nothing_and_is_told_once() {
    scene(LabSpec::hosts(1).containers(1), |lab| {
        configured(lab, 1)?;
        let node = lab.node(0);
        node.init("lab")?;
        node.run()?;
        node.ok(&["network", "add", "lan", "--subnet", "10.7.0.0/24"])?;
        let told = || node.log_tail(1000).matches("traces-unsent").count();
        interop_tests::wait("the trouble is told", Duration::from_secs(15), || {
            Ok(told() > 0)
        })?;
        let start = Instant::now();
        let port = node.attach("lan", lab.container(0, 0), &[])?;
        node.ok(&["detach", &port.id.to_string()])?;
        let took = start.elapsed();
        ensure!(
            took < Duration::from_secs(5) * interop_tests::slow(),
            "{took:?}"
        );
        // Batches later.
        for number in 0..3 {
            node.ok(&[
                "network",
                "add",
                &format!("n{number}"),
                "--subnet",
                &format!("10.8.{number}.0/24"),
            ])?;
            std::thread::sleep(Duration::from_millis(1200));
        }
        ensure!(told() == 1, "told {} times:\n{}", told(), node.log_tail(50));
        // From when it is there on, it gets what is done.
        let collector = Collector::start(&node.netns)?;
        node.ok(&["network", "add", "late", "--subnet", "10.9.0.0/24"])?;
        collector.find("a span", named("network-add"))?;
        let again = "traces are taken by the collector again";
        interop_tests::wait("that is told", Duration::from_secs(10), || {
            Ok(node.log_tail(1000).contains(again))
        })?;
        node.stop()
    });
}
