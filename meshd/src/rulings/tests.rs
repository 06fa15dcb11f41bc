//! With the guests that `cargo xtask plugins` builds.
#![allow(clippy::unwrap_used)]

mod chains;
mod controlled;
mod shadows;
mod steering;
mod versions;

use super::*;
use meshd_core::flow::{FlowKey, IpKind};
use meshd_core::ident::PortId;
use meshd_core::node::{Direction, DstClass};
use meshd_core::policy::Verdict;
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
        Rulings::start_with(
            Store::open(dir).unwrap(),
            dir,
            inputs,
            Compiler::here(),
            crate::compiler::Trust::default(),
            Arc::new(crate::controllers::Nowhere),
        )
        .unwrap(),
        seen,
    )
}

/// A node with these plugins installed.
fn with(plugins: &[&str]) -> (tempfile::TempDir, Rulings, mpsc::Receiver<Input>) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let (rulings, seen) = start(dir.path(), 64);
    for name in plugins {
        rulings
            .install(&label(name), &component(name), None)
            .unwrap();
    }
    (dir, rulings, seen)
}

/// As the worker asks.
fn now(rulings: &Rulings, question: &Question) -> Answer {
    let chains = rulings.0.chains.load();
    chains.answer(question, Instant::now())
}

fn fail(fail: FailMode) -> Placement {
    Placement {
        fail: Some(fail),
        order: None,
        stage: None,
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
        (rulings.chains()[&lan()], now(&rulings, &tcp_to(22)).verdict),
        (first, Verdict::Drop)
    );
    rulings
        .attach(&acl, lan(), "{}", Placement::default())
        .unwrap();
    assert_ne!(rulings.chains()[&lan()], first);
    assert_eq!(now(&rulings, &tcp_to(22)).verdict, Verdict::Pass);
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
            now(&rulings, &tcp_to(22)).verdict,
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
    assert_eq!(now(&rulings, &tcp_to(80)).verdict, Verdict::Failed);
    rulings
        .install(&label("acl"), &component("acl"), None)
        .unwrap();
    assert_eq!(
        now(&rulings, &tcp_to(80)).verdict,
        Verdict::Pass,
        "installed again, it works again"
    );
}

#[test]
fn a_fault_is_answered_by_the_fail_mode_and_kept_by_nobody() {
    let (_dir, rulings, _seen) = with(&["fixture"]);
    let fixture = label("fixture");
    rulings
        .attach(&fixture, lan(), TRAP, Placement::default())
        .unwrap();
    let closed = now(&rulings, &tcp_to(666));
    assert_eq!((closed.verdict, closed.cacheable), (Verdict::Failed, false));
    assert!(
        closed.why.starts_with("fixture: it trapped") && closed.why.ends_with("it fails closed"),
        "{}",
        closed.why
    );
    rulings
        .attach(&fixture, lan(), TRAP, fail(FailMode::Open))
        .unwrap();
    let open = now(&rulings, &tcp_to(666));
    assert_eq!((open.verdict, open.cacheable), (Verdict::Pass, false));
    assert_eq!(now(&rulings, &tcp_to(1)).why, "fixture: pass");
}

#[test]
fn five_faults_and_the_plugin_is_left_alone_for_a_while() {
    let (_dir, rulings, _seen) = with(&["fixture"]);
    rulings
        .attach(&label("fixture"), lan(), TRAP, Placement::default())
        .unwrap();
    for _ in 0..5 {
        assert!(now(&rulings, &tcp_to(666)).why.contains("it trapped"));
    }
    let good = now(&rulings, &tcp_to(1));
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
fn a_trace_tells_how_a_plugin_fails_and_leaves_nothing_behind() {
    let (_dir, rulings, _seen) = with(&["fixture"]);
    rulings
        .attach(&label("fixture"), lan(), TRAP, Placement::default())
        .unwrap();
    for _ in 0..9 {
        let (traced, asked) = rulings.ask_now(&tcp_to(666));
        assert_eq!(traced.verdict, Verdict::Failed);
        assert!(traced.why.contains("it trapped"), "{}", traced.why);
        assert_eq!(asked.len(), 1);
    }
    let info = &rulings.list()[0].attachments[0];
    assert_eq!((info.asked, info.failed, &info.last_fault), (0, 0, &None));
    assert_eq!(now(&rulings, &tcp_to(1)).verdict, Verdict::Pass);
}

#[test]
fn a_failure_speaks_of_the_very_flow_that_was_asked_about() {
    let (_dir, rulings, _seen) = with(&["fixture"]);
    rulings
        .attach(&label("fixture"), lan(), TRAP, Placement::default())
        .unwrap();
    let failed = now(&rulings, &tcp_to(666));
    assert_eq!(failed.mask, meshd_core::flow::FlowMask::exact());
    assert!(failed.read_dst_class);
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
        rulings.install(&acl, &component("fixture"), None),
        Err(InstallError::Configure { .. })
    ));
    assert!(matches!(
        rulings.install(&acl, b"garbage", None),
        Err(InstallError::Load { .. })
    ));
    assert_eq!(rulings.list(), before);
    assert_eq!(now(&rulings, &tcp_to(22)).verdict, Verdict::Drop);
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
        stage: None,
    };
    let first = rulings.attach(&acl, lan(), None, at(1)).unwrap();
    assert_eq!(first.attachments[0].config, "{}");
    rulings.attach(&acl, lan(), DENY_SSH, at(50)).unwrap();
    let moved = rulings.attach(&acl, lan(), None, at(60)).unwrap();
    let place = &moved.attachments[0];
    assert_eq!((place.order, place.config.as_str()), (60, DENY_SSH));
    assert_eq!(now(&rulings, &tcp_to(22)).verdict, Verdict::Drop);
    let opened = rulings
        .attach(&acl, lan(), None, fail(FailMode::Open))
        .unwrap();
    assert_eq!(opened.attachments[0].config, DENY_SSH);
    assert_eq!(now(&rulings, &tcp_to(22)).verdict, Verdict::Drop);
    let emptied = rulings
        .attach(&acl, lan(), "{}", Placement::default())
        .unwrap();
    assert_eq!(emptied.attachments[0].config, "{}");
}
