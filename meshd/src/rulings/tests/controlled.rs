//! Plugins with a controller, without a node around them.

use super::*;
use crate::controllers::{Heard, Nowhere, Surroundings};
use meshd_core::ident::AttachmentId;
use meshd_core::node::{PacketOut, SendError};
use meshd_core::wire::record::SharedValue;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn config(control: &str) -> String {
    format!(r#"{{"do":"facts","to":666,"control":"{control}"}}"#)
}

fn all() -> BTreeSet<Capability> {
    Capability::ALL.into_iter().collect()
}

fn fixture() -> Label {
    label("fixture")
}

fn attach(rulings: &Rulings, control: &str) -> Result<PluginInfo, AttachError> {
    let place = Placement::default();
    rulings.attach_granting(&fixture(), lan(), &*config(control), place, Some(&all()))
}

/// A node with the fixture attached, its controller doing so.
fn at_work(control: &str) -> (tempfile::TempDir, Rulings, mpsc::Receiver<Input>) {
    let (dir, rulings, seen) = with(&[]);
    let wasm = component("fixture-controlled");
    rulings.install(&fixture(), &wasm, None).unwrap();
    attach(&rulings, control).unwrap();
    (dir, rulings, seen)
}

fn controller(rulings: &Rulings) -> ControllerInfo {
    let list = rulings.list();
    let found = list.iter().find(|plugin| plugin.name == fixture());
    let at = found.and_then(|plugin| plugin.attachments.first()).cloned();
    at.and_then(|at| at.controller).unwrap()
}

fn lines(rulings: &Rulings) -> Vec<String> {
    let log = rulings.log(&fixture(), lan(), 0).unwrap();
    log.into_iter().map(|line| line.text).collect()
}

#[track_caller]
fn until(what: &str, rulings: &Rulings, holds: impl Fn(&Rulings) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds(rulings) {
        assert!(
            Instant::now() < end,
            "{what} does not come: {:#?}\n{:?}",
            lines(rulings),
            controller(rulings)
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[track_caller]
fn says(rulings: &Rulings, line: &str) {
    until(line, rulings, |rulings| {
        lines(rulings).iter().any(|said| said.contains(line))
    });
}

fn drops(rulings: &Rulings, port: u16) -> bool {
    now(rulings, &tcp_to(port)).verdict == Verdict::Drop
}

#[test]
fn an_import_that_is_not_granted_is_refused_at_attach_with_its_name_and_what_it_needs() {
    let (_dir, rulings, _) = with(&[]);
    let wasm = component("fixture-controlled");
    rulings.install(&fixture(), &wasm, None).unwrap();
    let place = Placement::default();
    let error = rulings
        .attach(&fixture(), lan(), &*config("all"), place)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("imports random, which is not granted"),
        "{error}"
    );
    assert!(
        error.contains("--grant random,timers,kv,topology,flows,packet-out,http"),
        "{error}"
    );
    assert!(rulings.log(&fixture(), lan(), 0).is_none());
    assert!(
        rulings
            .list()
            .iter()
            .all(|plugin| plugin.attachments.is_empty())
    );
}

#[test]
fn every_function_of_the_host_answers() {
    let (_dir, rulings, _) = at_work("all");
    says(&rulings, "done");
    let lines = lines(&rulings);
    for wanted in [
        "a line",
        "clock true",
        "random true",
        r#"kv true true Ok(["all/1"]) Ok(Some([120]))"#,
        "kv true Ok(false)",
        "the node does not answer: it starts or stops",
        "topology 0 0 0 0",
        "committed",
        "stats 1",
    ] {
        assert!(
            lines.iter().any(|line| line.contains(wanted)),
            "{wanted}: {lines:#?}"
        );
    }
    let commits = lines.iter().filter(|line| line.contains("committed"));
    assert_eq!(commits.count(), 2, "facts and rules, and a group");
    let its = controller(&rulings);
    assert_eq!(its.figures.get("counted"), Some(&2));
    assert_eq!(its.figures.get("gauge"), Some(&-3));
    assert_eq!((its.facts, its.rules), ((1, 3), 1));
    until("committed", &rulings, |rulings| {
        let its = controller(rulings).figures;
        its.get("committed")
            .is_some_and(|at| Some(at) == its.get("generation"))
    });
    assert!(drops(&rulings, 666));
}

/// Counts how often answers of before a commit were said to be void.
struct Published(Arc<AtomicU32>);

impl Surroundings for Published {
    fn look(&self, vni: Vni) -> Option<crate::controllers::Snapshot> {
        Nowhere.look(vni)
    }

    fn invalidate(&self, _: Vni, _: AttachmentId, tag: Option<u32>) -> Result<(), String> {
        assert_eq!(tag, None);
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn shared(&self, vni: Vni, plugin: &Label, since: Option<u64>) -> Option<Heard> {
        Nowhere.shared(vni, plugin, since)
    }

    fn share(&self, vni: Vni, plugin: &Label, list: Vec<SharedValue>) -> Result<(), String> {
        Nowhere.share(vni, plugin, list)
    }

    fn send(&self, packet: PacketOut) -> Result<(), SendError> {
        Nowhere.send(packet)
    }

    fn fetch(&self, fetch: crate::controllers::Fetch, done: crate::controllers::Done) {
        Nowhere.fetch(fetch, done);
    }
}

#[test]
fn facts_bind_the_policy_and_the_node_is_told_before_the_controller_is() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let published = Arc::new(AtomicU32::new(0));
    let (inputs, _seen) = mpsc::channel(64);
    let rulings = Rulings::start_with(
        Store::open(dir.path()).unwrap(),
        dir.path(),
        inputs,
        Compiler::here(),
        crate::compiler::Trust::default(),
        Arc::new(Published(Arc::clone(&published))),
    )
    .unwrap();
    let wasm = component("fixture-controlled");
    rulings.install(&fixture(), &wasm, None).unwrap();
    attach(&rulings, "ban").unwrap();
    says(&rulings, "committed");
    assert_eq!(published.load(Ordering::SeqCst), 1);
    assert!(drops(&rulings, 666) && !drops(&rulings, 667));
    // Another config is another instance, and it has the facts too.
    let other = r#"{"do":"facts","to":1,"control":"nothing"}"#;
    rulings
        .attach(&fixture(), lan(), other, Placement::default())
        .unwrap();
    assert!(drops(&rulings, 666));
}

#[test]
fn facts_that_the_policy_fails_at_change_nothing_and_later_ones_do() {
    let (_dir, rulings, _) = at_work("bad-fact");
    says(&rulings, "the policy does not take the facts");
    says(&rulings, "committed");
    assert!(!drops(&rulings, 666), "it was in the commit that failed");
    assert!(drops(&rulings, 667));
    let failed = rulings.list()[0].attachments[0].failed;
    assert_eq!(failed, 0, "no frame met the policy that failed");
}

#[test]
fn a_rule_is_asked_before_the_policy_and_one_that_cannot_be_carried_out_changes_nothing() {
    let (_dir, rulings, _) = at_work("rule");
    says(&rulings, "committed");
    let answer = now(&rulings, &tcp_to(666));
    assert!(answer.why.contains("code 9"), "{}", answer.why);
    assert_eq!(
        now(&rulings, &tcp_to(80)).mask.dst_port,
        u16::MAX,
        "the rule read it"
    );
    let outward = Question {
        direction: Direction::Egress,
        ..tcp_to(666)
    };
    assert_eq!(now(&rulings, &outward).verdict, Verdict::Pass);
    let (_dir, rulings, _) = at_work("bad-rule");
    says(&rulings, "change 1");
    assert_eq!(controller(&rulings).rules, 0);
    assert!(!drops(&rulings, 666));
}

#[test]
fn a_rule_names_a_group_that_is_there_and_a_group_that_a_rule_names_does_not_go() {
    let (_dir, rulings, _) = at_work("group-rule");
    until("all three", &rulings, |rulings| {
        lines(rulings)
            .iter()
            .filter(|l| l.contains("rule 1: "))
            .count()
            == 2
    });
    let lines = lines(&rulings);
    let refused = lines
        .iter()
        .filter(|line| line.contains("it names group 666"));
    assert_eq!(refused.count(), 2, "{lines:#?}");
    assert_eq!(controller(&rulings).rules, 1);
    let answer = now(&rulings, &tcp_to(666));
    assert_eq!(answer.verdict, Verdict::Pass, "{}", answer.why);
    assert!(answer.orders.group.is_some());
}

#[test]
fn one_that_commits_for_ever_ends_as_one_that_hangs_and_keeps_nobody_from_detaching_it() {
    let (_dir, rulings, _) = at_work("commit-flood");
    says(&rulings, "did not return from an event in time");
    let (_dir, rulings, _) = at_work("commit-flood");
    let began = Instant::now();
    rulings.detach(&fixture(), lan()).unwrap();
    assert!(began.elapsed() < PATIENCE / 4, "{:?}", began.elapsed());
}

#[test]
fn one_that_traps_hangs_or_eats_memory_is_started_again_and_then_less_and_less_often() {
    for (control, why) in [
        ("trap", "it trapped"),
        ("spin", "did not return from an event in time"),
        ("memory", "bytes of memory"),
    ] {
        let (_dir, rulings, _) = at_work(control);
        until(why, &rulings, |rulings| controller(rulings).faults >= 2);
        says(&rulings, why);
        // The policy beside it decides.
        assert_eq!(now(&rulings, &tcp_to(1)).verdict, Verdict::Pass);
    }
    let (_dir, rulings, _) = at_work("trap");
    until("a pause", &rulings, |rulings| {
        let its = controller(rulings);
        its.faults >= 5
            && its
                .trouble
                .is_some_and(|why| why.contains("started again in"))
    });
}

#[test]
fn floods_of_lines_and_timers_stay_within_their_bounds() {
    let (_dir, rulings, _) = at_work("log-flood");
    says(&rulings, "lines were left out");
    assert!(lines(&rulings).len() <= 1000);
    let (_dir, rulings, _) = at_work("timer-flood");
    says(&rulings, "255 timers");
    // It is always busy, and a change gets its turn all the same.
    attach(&rulings, "nothing").unwrap();
    rulings.detach(&fixture(), lan()).unwrap();
}

#[test]
fn what_it_keeps_survives_the_daemon_and_ends_with_the_attachment() {
    let (dir, rulings, _seen) = at_work("count");
    let kept = |rulings: &Rulings| controller(rulings).figures.get("kept").copied();
    until("three ticks", &rulings, |rulings| kept(rulings) >= Some(3));
    rulings.stop();
    drop(rulings);
    let (rulings, _seen) = start(dir.path(), 64);
    until("a fourth tick", &rulings, |rulings| {
        kept(rulings) >= Some(4)
    });
    let its = controller(&rulings).figures;
    assert!(
        its.get("ticks") < its.get("kept"),
        "the memory began anew: {its:?}"
    );
    rulings.detach(&fixture(), lan()).unwrap();
    attach(&rulings, "count").unwrap();
    until("a first tick", &rulings, |rulings| kept(rulings).is_some());
    let its = controller(&rulings).figures;
    assert_eq!(its.get("ticks"), its.get("kept"), "nothing was kept");
}

/// The same guest by another digest: a section more.
fn another(wasm: &[u8]) -> Vec<u8> {
    [wasm, &[0, 2, 1, b'x'][..]].concat()
}

#[test]
fn a_reload_hands_its_state_over_and_one_that_does_not_take_it_changes_nothing() {
    let (_dir, rulings, _) = at_work("count");
    let ticks = |rulings: &Rulings| controller(rulings).figures.get("ticks").copied();
    until("three ticks", &rulings, |rulings| ticks(rulings) >= Some(3));
    let wasm = component("fixture-controlled");
    rulings.install(&fixture(), &another(&wasm), None).unwrap();
    says(&rulings, "took over");
    let seen = ticks(&rulings);
    until("one tick more", &rulings, |rulings| ticks(rulings) > seen);
    rulings.roll_back(&fixture(), None).unwrap();
    attach(&rulings, "count-anew").unwrap();
    let before = rulings.list()[0].digest;
    let error = rulings
        .install(&fixture(), &another(&wasm), None)
        .unwrap_err();
    assert!(error.to_string().contains("as asked"), "{error}");
    assert_eq!(rulings.list()[0].digest, before);
    let seen = ticks(&rulings);
    until("the old one goes on", &rulings, |rulings| {
        ticks(rulings) > seen
    });
    // One that cannot even say its state must not keep its place for that.
    attach(&rulings, "spin-in-save").unwrap();
    rulings.install(&fixture(), &another(&wasm), None).unwrap();
    says(&rulings, "its state is not handed over");
    // One that has too much goes on without, and the one before has not failed.
    attach(&rulings, "long-state").unwrap();
    let faults = controller(&rulings).faults;
    rulings.install(&fixture(), &wasm, None).unwrap();
    says(&rulings, "at most 262144 are handed over");
    assert_eq!(controller(&rulings).faults, faults);
}

#[test]
fn a_config_that_the_controller_refuses_changes_nothing() {
    let (_dir, rulings, _) = at_work("count");
    let error = attach(&rulings, "refuse").unwrap_err().to_string();
    assert!(
        error.contains("its controller") && error.contains("/control: as asked"),
        "{error}"
    );
    assert!(rulings.list()[0].attachments[0].config.contains("count"));
    let place = Placement::default();
    let refused = rulings.attach_granting(&fixture(), lan(), None, place, Some(&BTreeSet::new()));
    assert!(
        matches!(refused, Err(AttachError::Grant { .. })),
        "{refused:?}"
    );
    let seen = controller(&rulings).figures.get("ticks").copied();
    until("it goes on", &rulings, |rulings| {
        controller(rulings).figures.get("ticks").copied() > seen
    });
}
