//! With the guests that `cargo xtask plugins` builds.
#![allow(clippy::unwrap_used)]

use super::*;
use meshd_core::flow::{FlowKey, IpKind};
use meshd_core::ident::PortId;
use meshd_core::node::{Direction, DstClass};
use meshd_core::policy::Verdict;
use meshd_plugin_host::Digest;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

const DENY_SSH: &str = r#"{"deny":[{"proto":"tcp","port":22}]}"#;
const TRAP: &str = r#"{"on-port":666,"do":"trap"}"#;

fn component(name: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), |dir| root.join(dir));
    let folder =
        std::env::var_os("MESHD_PLUGINS").map_or_else(|| target.join("plugins"), PathBuf::from);
    let path = folder.join(format!("{name}.wasm"));
    std::fs::read(&path)
        .unwrap_or_else(|e| panic!("{}: {e}: run `cargo xtask plugins` first", path.display()))
}

fn label(text: &str) -> Label {
    text.parse().unwrap()
}

fn lan() -> Vni {
    Vni::new(7).unwrap()
}

fn tcp_to(port: u16) -> Question {
    let mut key = FlowKey::blank(lan());
    (
        key.ether_type,
        key.ip_kind,
        key.ip_proto,
        key.l4_ok,
        key.dst_port,
    ) = (0x0800, IpKind::V4, 6, true, port);
    Question {
        vni: lan(),
        direction: Direction::Ingress,
        port: PortId(1),
        peer: None,
        key,
        dst_class: DstClass::UnicastKnown,
    }
}

fn start(dir: &Path, room: usize) -> (Rulings, mpsc::Receiver<Input>) {
    let (inputs, seen) = mpsc::channel(room);
    (
        Rulings::start_with(Store::open(dir).unwrap(), dir, inputs, Compiler::here()).unwrap(),
        seen,
    )
}

/// A node with these plugins installed.
fn with(plugins: &[&str]) -> (tempfile::TempDir, Rulings, mpsc::Receiver<Input>) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let (rulings, seen) = start(dir.path(), 64);
    for name in plugins {
        rulings.install(&label(name), &component(name)).unwrap();
    }
    (dir, rulings, seen)
}

fn fail(fail: FailMode) -> Placement {
    Placement {
        fail: Some(fail),
        order: None,
    }
}

#[test]
fn a_question_is_answered_by_the_chain_of_its_network_with_the_plugins_rule() {
    let (_dir, rulings, mut seen) = with(&["acl"]);
    rulings
        .attach(&label("acl"), lan(), DENY_SSH, Placement::default())
        .unwrap();
    for (n, question) in [
        tcp_to(22),
        tcp_to(80),
        Question {
            vni: Vni::new(8).unwrap(),
            ..tcp_to(22)
        },
    ]
    .into_iter()
    .enumerate()
    {
        rulings.ask(QueryId(n as u64), Epoch(3), question);
    }
    let mut next = || match seen.blocking_recv().unwrap() {
        Input::Answer {
            query,
            epoch: Epoch(3),
            answer,
        } => (query.0, answer),
        other => panic!("{other:?}"),
    };
    let (query, ssh) = next();
    assert_eq!(
        (
            query,
            ssh.verdict,
            ssh.why.as_str(),
            ssh.cacheable,
            ssh.mask.dst_port
        ),
        (0, Verdict::Drop, "acl: rule 1", true, 0xffff)
    );
    let (query, web) = next();
    assert_eq!(
        (query, web.verdict, web.why.as_str()),
        (1, Verdict::Pass, "acl: pass")
    );
    let (query, other) = next();
    assert_eq!(
        (query, other.verdict, other.why.as_str(), other.mask),
        (2, Verdict::Pass, "no policy", Default::default())
    );
    let info = &rulings.list()[0].attachments[0];
    assert_eq!((info.asked, info.dropped, info.failed), (2, 1, 0));
    assert!(info.ns > 0);
}

#[test]
fn a_change_moves_the_number_of_its_chain_and_a_refused_config_changes_nothing() {
    let (_dir, rulings, _seen) = with(&["acl"]);
    let acl = label("acl");
    assert!(matches!(
        rulings.attach(&label("nobody"), lan(), "", Placement::default()),
        Err(AttachError::NotInstalled { .. })
    ));
    rulings
        .attach(&acl, lan(), DENY_SSH, Placement::default())
        .unwrap();
    let first = rulings.chains()[&lan()];
    let error = rulings
        .attach(
            &acl,
            lan(),
            r#"{"deny":[{"proto":"tcp","port":70000}]}"#,
            Placement::default(),
        )
        .unwrap_err();
    assert!(error.to_string().contains("/deny/0/port"), "{error}");
    assert_eq!(
        (
            rulings.chains()[&lan()],
            rulings.ask_now(&tcp_to(22)).verdict
        ),
        (first, Verdict::Drop)
    );
    rulings
        .attach(&acl, lan(), "{}", Placement::default())
        .unwrap();
    assert_ne!(rulings.chains()[&lan()], first);
    assert_eq!(rulings.ask_now(&tcp_to(22)).verdict, Verdict::Pass);
    rulings.detach(&acl, lan()).unwrap();
    assert_eq!(rulings.chains()[&lan()], 0);
    assert!(matches!(
        rulings.detach(&acl, lan()),
        Err(DetachError::NotAttached { .. })
    ));
}

#[test]
fn a_restart_finds_plugins_and_chains_and_a_changed_file_fails_by_its_mode() {
    let (dir, rulings, seen) = with(&["acl", "fixture"]);
    rulings
        .attach(&label("acl"), lan(), DENY_SSH, Placement::default())
        .unwrap();
    let before = rulings.list();
    drop((rulings, seen));
    let (rulings, seen) = start(dir.path(), 64);
    assert_eq!(
        rulings.list()[0].attachments[0].config,
        before[0].attachments[0].config
    );
    assert_eq!(
        (
            rulings.ask_now(&tcp_to(22)).verdict,
            rulings.chains()[&lan()] > 0
        ),
        (Verdict::Drop, true)
    );
    drop((rulings, seen));

    let file = dir
        .path()
        .join("plugins")
        .join(format!("{}.wasm", before[0].digest));
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    std::fs::write(&file, component("fixture")).unwrap();
    let (rulings, _seen) = start(dir.path(), 64);
    let info = &rulings.list()[0];
    assert!(
        info.trouble.as_ref().unwrap().contains("was changed since"),
        "{info:?}"
    );
    assert_eq!(rulings.ask_now(&tcp_to(80)).verdict, Verdict::Failed);
    rulings.install(&label("acl"), &component("acl")).unwrap();
    assert_eq!(
        rulings.ask_now(&tcp_to(80)).verdict,
        Verdict::Pass,
        "installed again, it works again"
    );
}

#[test]
fn the_chain_is_asked_in_order_until_somebody_drops_or_accepts() {
    let (_dir, rulings, _seen) = with(&["acl", "fixture"]);
    let (acl, fixture) = (label("acl"), label("fixture"));
    let at = |order| Placement {
        order: Some(order),
        fail: None,
    };
    rulings.attach(&acl, lan(), DENY_SSH, at(50)).unwrap();
    rulings
        .attach(&fixture, lan(), r#"{"on-port":22,"do":"accept"}"#, at(60))
        .unwrap();
    assert_eq!(rulings.ask_now(&tcp_to(22)).why, "acl: rule 1");
    let both = rulings.ask_now(&tcp_to(80));
    assert_eq!(
        (both.why.as_str(), both.mask.dst_port),
        ("acl: pass, fixture: pass", 0xffff),
        "the mask is of both"
    );
    rulings
        .attach(&fixture, lan(), r#"{"on-port":22,"do":"accept"}"#, at(40))
        .unwrap();
    let accepted = rulings.ask_now(&tcp_to(22));
    assert_eq!(
        (accepted.why.as_str(), accepted.verdict),
        ("fixture: accept", Verdict::Pass)
    );
    rulings
        .attach(
            &fixture,
            lan(),
            r#"{"on-port":80,"do":"drop"}"#,
            Placement::default(),
        )
        .unwrap();
    assert_eq!(
        rulings.ask_now(&tcp_to(80)).why,
        "fixture: rule 7",
        "it stays first unless it is told to move"
    );
}

#[test]
fn a_fault_is_answered_by_the_fail_mode_and_kept_by_nobody() {
    let (_dir, rulings, _seen) = with(&["fixture"]);
    let fixture = label("fixture");
    rulings
        .attach(&fixture, lan(), TRAP, Placement::default())
        .unwrap();
    let closed = rulings.ask_now(&tcp_to(666));
    assert_eq!((closed.verdict, closed.cacheable), (Verdict::Failed, false));
    assert!(
        closed.why.starts_with("fixture: it trapped") && closed.why.ends_with("it fails closed"),
        "{}",
        closed.why
    );
    rulings
        .attach(&fixture, lan(), TRAP, fail(FailMode::Open))
        .unwrap();
    let open = rulings.ask_now(&tcp_to(666));
    assert_eq!((open.verdict, open.cacheable), (Verdict::Pass, false));
    assert_eq!(rulings.ask_now(&tcp_to(1)).why, "fixture: pass");
}

#[test]
fn five_faults_and_the_plugin_is_left_alone_for_a_while() {
    let (_dir, rulings, _seen) = with(&["fixture"]);
    rulings
        .attach(&label("fixture"), lan(), TRAP, Placement::default())
        .unwrap();
    for _ in 0..5 {
        assert!(rulings.ask_now(&tcp_to(666)).why.contains("it trapped"));
    }
    let good = rulings.ask_now(&tcp_to(1));
    assert!(
        good.verdict == Verdict::Failed && good.why.contains("not asked for 10 s"),
        "{}",
        good.why
    );
    let info = &rulings.list()[0].attachments[0];
    assert!(
        info.trouble.as_ref().unwrap().contains("trapped"),
        "{info:?}"
    );
    assert_eq!((info.asked, info.failed), (6, 6));
    let later = Instant::now() + Duration::from_secs(11);
    assert_eq!(
        rulings.0.chains.load().answer(&tcp_to(1), later).verdict,
        Verdict::Pass
    );
}

#[test]
fn new_code_that_refuses_a_config_in_use_changes_nothing() {
    let (_dir, rulings, _seen) = with(&["acl"]);
    let acl = label("acl");
    rulings
        .attach(&acl, lan(), DENY_SSH, Placement::default())
        .unwrap();
    let before = rulings.list();
    assert!(matches!(
        rulings.install(&acl, &component("fixture")),
        Err(InstallError::Configure { .. })
    ));
    assert!(matches!(
        rulings.install(&acl, b"garbage"),
        Err(InstallError::Load { .. })
    ));
    assert_eq!(rulings.list(), before);
    assert_eq!(rulings.ask_now(&tcp_to(22)).verdict, Verdict::Drop);
}

#[test]
fn a_driver_that_does_not_listen_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let (rulings, mut seen) = start(dir.path(), 1);
    let started = Instant::now();
    for n in 0..3000 {
        rulings.ask(QueryId(n), Epoch(1), tcp_to(22));
    }
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
    drop(rulings);
    let mut answers = 0;
    while seen.blocking_recv().is_some() {
        answers += 1;
    }
    assert!((QUEUE..3000).contains(&answers), "{answers} answers");
}

#[test]
fn a_new_place_without_a_config_leaves_the_config_as_it_was() {
    let (_dir, rulings, _seen) = with(&["acl"]);
    let acl = label("acl");
    let at = |order| Placement {
        order: Some(order),
        fail: None,
    };
    let first = rulings.attach(&acl, lan(), None, at(1)).unwrap();
    assert_eq!(first.attachments[0].config, "{}");
    rulings.attach(&acl, lan(), DENY_SSH, at(50)).unwrap();
    let moved = rulings.attach(&acl, lan(), None, at(60)).unwrap();
    let place = &moved.attachments[0];
    assert_eq!((place.order, place.config.as_str()), (60, DENY_SSH));
    assert_eq!(rulings.ask_now(&tcp_to(22)).verdict, Verdict::Drop);
    let opened = rulings
        .attach(&acl, lan(), None, fail(FailMode::Open))
        .unwrap();
    assert_eq!(opened.attachments[0].config, DENY_SSH);
    assert_eq!(rulings.ask_now(&tcp_to(22)).verdict, Verdict::Drop);
    let emptied = rulings
        .attach(&acl, lan(), "{}", Placement::default())
        .unwrap();
    assert_eq!(emptied.attachments[0].config, "{}");
}

/// Another component that does the same: a custom section holds `salt`.
fn salted(wasm: &[u8], salt: u8) -> Vec<u8> {
    [wasm, &[0, 3, 1, b's', salt]].concat()
}

#[test]
fn a_restart_with_twenty_plugins_compiles_nothing() {
    let (dir, rulings, seen) = with(&[]);
    let acl = component("acl");
    for n in 0..20 {
        let name = label(&format!("acl{n}"));
        rulings.install(&name, &salted(&acl, n)).unwrap();
        rulings
            .attach(&name, lan(), DENY_SSH, Placement::default())
            .unwrap();
    }
    assert_eq!(rulings.compiled(), 20);
    drop((rulings, seen));
    let started = Instant::now();
    let (rulings, _seen) = start(dir.path(), 64);
    println!("20 plugins are there again after {:?}", started.elapsed());
    assert_eq!(rulings.compiled(), 0);
    assert_eq!(rulings.ask_now(&tcp_to(22)).why, "acl0: rule 1");
}

#[test]
fn what_a_plugin_cannot_decide_its_last_good_version_does_and_without_one_it_is_dropped() {
    let (dir, rulings, seen) = with(&["fixture"]);
    let fixture = label("fixture");
    let last_good = fail(FailMode::LastGood);
    rulings.attach(&fixture, lan(), TRAP, last_good).unwrap();
    let first = rulings.ask_now(&tcp_to(666));
    assert_eq!(first.verdict, Verdict::Failed, "{}", first.why);
    assert!(first.why.contains("no last good version"), "{}", first.why);

    let drops = r#"{"on-port":666,"do":"drop"}"#;
    rulings.attach(&fixture, lan(), drops, last_good).unwrap();
    let good = rulings.list()[0].digest;
    rulings
        .install(&fixture, &salted(&component("fixture"), 1))
        .unwrap();
    rulings.attach(&fixture, lan(), TRAP, last_good).unwrap();
    let decided = |rulings: &Rulings| {
        let answer = rulings.ask_now(&tcp_to(666));
        let named = answer.why.contains("last good version") && answer.why.contains("rule 7");
        (answer.verdict, answer.cacheable, named)
    };
    assert_eq!(decided(&rulings), (Verdict::Drop, false, true));
    assert_eq!(rulings.ask_now(&tcp_to(1)).why, "fixture: pass");
    let info = &rulings.list()[0].attachments[0];
    assert_eq!((info.failed, info.fell_back), (2, 1));
    assert_ne!(
        info.last_good,
        Some(good),
        "code and config that were together, here the newer code"
    );
    drop((rulings, seen));
    let (rulings, seen) = start(dir.path(), 64);
    assert_eq!(
        decided(&rulings),
        (Verdict::Drop, false, true),
        "after a restart too"
    );
    drop((rulings, seen));

    let digest = Digest::of(&salted(&component("fixture"), 1));
    let records = Store::open(dir.path()).unwrap().list("plugin/").unwrap();
    assert!(String::from_utf8_lossy(&records[0].1).contains(&digest.to_string()));
}

#[test]
fn a_version_whose_file_is_gone_is_replaced_by_the_last_good_one() {
    let (dir, rulings, seen) = with(&["acl"]);
    let acl = label("acl");
    rulings
        .attach(&acl, lan(), DENY_SSH, fail(FailMode::LastGood))
        .unwrap();
    let newer = salted(&component("acl"), 1);
    rulings.install(&acl, &newer).unwrap();
    drop((rulings, seen));
    let file = format!("plugins/{}.wasm", Digest::of(&newer));
    std::fs::remove_file(dir.path().join(file)).unwrap();
    let (rulings, _seen) = start(dir.path(), 64);
    assert_eq!(rulings.ask_now(&tcp_to(22)).verdict, Verdict::Drop);
    assert_eq!(rulings.ask_now(&tcp_to(80)).verdict, Verdict::Pass);
}

#[test]
fn going_back_takes_the_version_before_and_again_the_one_before_that() {
    let (_dir, rulings, _seen) = with(&["acl"]);
    let acl = label("acl");
    let bytes = component("acl");
    let digest = |salt| Digest::of(&salted(&bytes, salt));
    assert!(matches!(
        rulings.roll_back(&acl, None),
        Err(RollbackError::NoVersion { .. })
    ));
    rulings
        .attach(&acl, lan(), DENY_SSH, Placement::default())
        .unwrap();
    for salt in 1..=4 {
        rulings.install(&acl, &salted(&bytes, salt)).unwrap();
    }
    let compiled = rulings.compiled();
    let info = &rulings.list()[0];
    assert_eq!(
        info.earlier,
        [digest(3), digest(2), digest(1)],
        "three stay"
    );
    let moved = rulings.chains()[&lan()];
    assert_eq!(rulings.roll_back(&acl, None).unwrap().digest, digest(3));
    assert_ne!(rulings.chains()[&lan()], moved, "old answers go stale");
    let info = rulings.roll_back(&acl, None).unwrap();
    assert_eq!(
        (info.digest, info.earlier),
        (digest(2), vec![digest(1), digest(4), digest(3)])
    );
    let wanted = digest(4).short();
    assert_eq!(
        rulings.roll_back(&acl, Some(&wanted)).unwrap().digest,
        digest(4)
    );
    assert_eq!(rulings.compiled(), compiled, "they stayed ready");
    assert_eq!(rulings.ask_now(&tcp_to(22)).verdict, Verdict::Drop);
    let error = rulings
        .roll_back(&acl, Some("beef"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no earlier version beef") && error.contains(&digest(2).short()),
        "{error}"
    );
}

#[test]
fn going_back_to_code_that_refuses_a_config_in_use_changes_nothing() {
    let (_dir, rulings, _seen) = with(&["fixture"]);
    let name = label("fixture");
    rulings.install(&name, &component("acl")).unwrap();
    rulings
        .attach(&name, lan(), DENY_SSH, Placement::default())
        .unwrap();
    let before = rulings.list();
    assert!(matches!(
        rulings.roll_back(&name, None),
        Err(RollbackError::Install(InstallError::Configure { .. }))
    ));
    assert_eq!(rulings.list(), before);
}

#[test]
fn a_plugin_is_removed_with_its_files_but_not_while_it_decides() {
    let (dir, rulings, _seen) = with(&["acl"]);
    let acl = label("acl");
    rulings
        .install(&acl, &salted(&component("acl"), 1))
        .unwrap();
    rulings
        .attach(&acl, lan(), DENY_SSH, Placement::default())
        .unwrap();
    let error = rulings.remove(&acl).unwrap_err().to_string();
    assert!(error.contains("attached to network 7"), "{error}");
    assert_eq!(rulings.ask_now(&tcp_to(22)).verdict, Verdict::Drop);
    rulings.detach(&acl, lan()).unwrap();
    rulings.remove(&acl).unwrap();
    assert!(rulings.list().is_empty());
    for folder in ["plugins", "compiled"] {
        let left = std::fs::read_dir(dir.path().join(folder)).unwrap().count();
        assert_eq!(left, 0, "{folder}");
    }
    assert!(matches!(
        rulings.remove(&acl),
        Err(RemoveError::NotInstalled { .. })
    ));
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_plugin_that_lies_about_what_it_reads_answers_for_equal_frames_only_until_it_changes() {
    let (dir, rulings, seen) = with(&["fixture"]);
    let fixture = label("fixture");
    let mut findings = rulings.findings().unwrap();
    // It reads the port and claims nothing.
    let lies = r#"{"on-port":666,"do":"accept"}"#;
    rulings
        .attach(&fixture, lan(), lies, Placement::default())
        .unwrap();
    let before = rulings.chains()[&lan()];
    assert_eq!(rulings.ask_now(&tcp_to(666)).mask, Default::default());
    let quarantined = |rulings: &Rulings| rulings.list()[0].attachments[0].quarantine.clone();
    until("it is caught", || quarantined(&rulings).is_some());
    let finding = findings.blocking_recv().unwrap();
    assert_eq!((&finding.plugin, finding.vni), (&fixture, lan()));
    assert!(
        finding.reason.contains("does not name in `deps`"),
        "{}",
        finding.reason
    );
    assert_ne!(rulings.chains()[&lan()], before, "what was kept goes stale");
    let exact = |rulings: &Rulings| {
        let answer = rulings.ask_now(&tcp_to(666));
        (
            answer.why,
            answer.read_dst_class,
            answer
                .mask
                .is_superset(&meshd_core::flow::FlowMask::exact()),
        )
    };
    assert_eq!(exact(&rulings), ("fixture: accept".to_owned(), true, true));
    let place = rulings
        .attach(&fixture, lan(), None, fail(FailMode::Open))
        .unwrap();
    assert!(
        place.attachments[0].quarantine.is_some(),
        "another place is no other code"
    );
    drop((rulings, seen, findings));

    let (rulings, _seen) = start(dir.path(), 64);
    assert!(exact(&rulings).2, "a restart does not forget it");
    rulings
        .attach(
            &fixture,
            lan(),
            r#"{"on-port":666,"do":"drop"}"#,
            Placement::default(),
        )
        .unwrap();
    assert_eq!(quarantined(&rulings), None);
    assert_eq!(rulings.ask_now(&tcp_to(666)).mask.src_port, 0);
}

#[test]
fn a_plugin_with_moods_is_caught_and_an_honest_one_is_not() {
    let (_dir, rulings, _seen) = with(&["fixture", "acl"]);
    let (fixture, acl) = (label("fixture"), label("acl"));
    let moody = r#"{"on-port":666,"do":"moody"}"#;
    rulings
        .attach(&fixture, lan(), moody, Placement::default())
        .unwrap();
    rulings
        .attach(&acl, lan(), DENY_SSH, Placement::default())
        .unwrap();
    for n in 0..2000 {
        rulings.ask_now(&tcp_to(600 + n % 100));
    }
    let of = |name: &Label| {
        let list = rulings.list();
        let info = list.iter().find(|info| info.name == *name).unwrap();
        info.attachments[0].clone()
    };
    until("both are examined", || {
        of(&fixture).quarantine.is_some() || of(&fixture).examined > 2
    });
    for n in 0..20_000 {
        rulings.ask_now(&tcp_to(if n % 2 == 0 { 666 } else { n }));
        if n % 512 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    until("the moody one is caught", || {
        of(&fixture).quarantine.is_some()
    });
    assert!(
        of(&acl).examined > 0 && of(&acl).quarantine.is_none(),
        "{:?}",
        of(&acl)
    );
}
