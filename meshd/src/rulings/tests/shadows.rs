//! A new version beside the old one.
#![allow(clippy::unwrap_used)]

use super::super::place::Place;
use super::super::shadow::Shadow;
use super::*;
use meshd_core::flow::FlowMask;
use meshd_plugin_host::{Decision, Instance, Plugin, Say};

/// What came of it, once it has seen to so many questions.
fn tally(rulings: &Rulings, questions: u64) -> Tally {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let plugins = rulings.list();
        let shadow = plugins[0].attachments[0].shadow.clone().unwrap().tally;
        if shadow.compared + shadow.passed_over >= questions {
            return shadow;
        }
        assert!(Instant::now() < until, "{shadow:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_version_beside_another_is_compared_and_not_obeyed() {
    let (_dir, rulings, _seen) = with(&["acl"]);
    let acl = label("acl");
    rulings
        .attach(&acl, lan(), "{}", Placement::default())
        .unwrap();
    let chain = rulings.chains();
    // It refuses tcp/23 under the name `telnet`, and takes the same config: none.
    rulings
        .shadow(&acl, lan(), &component("hello-plugin"))
        .unwrap();
    assert_eq!(rulings.chains(), chain, "nothing that was decided is void");
    for n in 1..=6 {
        assert_eq!(
            now(&rulings, &tcp_to(23)).verdict,
            Verdict::Pass,
            "the old one is obeyed"
        );
        tally(&rulings, n);
    }
    let seen = tally(&rulings, 6);
    assert_eq!((seen.compared, seen.differ()), (6, 6), "{seen:?}");
    assert_eq!(seen.differences[&Difference::Verdict], 6);
    let examples = &seen.examples[&Difference::Verdict];
    assert_eq!(examples.len(), 3, "the last ones");
    assert!(
        examples[0].flow.contains("tcp")
            && examples[0].old.starts_with("pass")
            && examples[0].new.starts_with("drop, telnet"),
        "{examples:?}"
    );
    rulings.unshadow(&acl, lan()).unwrap();
    assert!(rulings.list()[0].attachments[0].shadow.is_none());
    assert!(matches!(
        rulings.unshadow(&acl, lan()),
        Err(ShadowError::None { .. })
    ));
}

#[test]
fn a_shadow_needs_a_plugin_to_run_beside_and_takes_its_config_and_ends_with_it() {
    let (_dir, rulings, _seen) = with(&["acl"]);
    let acl = label("acl");
    let wasm = component("acl");
    let error = rulings.shadow(&acl, lan(), &wasm).unwrap_err();
    assert!(matches!(error, ShadowError::NotAttached { .. }), "{error}");
    rulings
        .attach(&acl, lan(), DENY_SSH, Placement::default())
        .unwrap();
    let error = rulings
        .shadow(&acl, lan(), &component("hello-plugin"))
        .unwrap_err();
    assert!(
        error.to_string().contains("at /deny: no such field"),
        "{error}"
    );
    let error = rulings.shadow(&acl, lan(), b"junk").unwrap_err();
    assert!(matches!(error, ShadowError::Load { .. }), "{error}");
    rulings.shadow(&acl, lan(), &wasm).unwrap();
    assert_eq!(now(&rulings, &tcp_to(22)).verdict, Verdict::Drop);
    assert_eq!(tally(&rulings, 1).differ(), 0);
    rulings
        .attach(&acl, lan(), "{}", Placement::default())
        .unwrap();
    assert!(
        rulings.list()[0].attachments[0].shadow.is_none(),
        "another config, another comparison"
    );
}

#[test]
fn a_shadow_that_fails_is_counted_and_one_that_is_late_keeps_nobody_waiting() {
    let engine = Engine::new(Limits::default()).unwrap();
    let plugin = Plugin::load(&engine, &component("fixture")).unwrap();
    let instance = Instance::new(&plugin, TRAP, 1).unwrap();
    let place = Place::new(Placement::default(), None);
    let shadow = Shadow::start(plugin.digest(), instance, place.clone(), place).unwrap();
    let pass = Ok(Decision {
        mask: FlowMask {
            dst_port: u16::MAX,
            ..FlowMask::default()
        }
        .with_prerequisites(),
        ..Decision::of(Say::Next)
    });
    let until = |all: u64| {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let tally = shadow.tally();
            if tally.compared + tally.passed_over >= all {
                return tally;
            }
            assert!(Instant::now() < end, "{tally:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    for n in 1..=6 {
        shadow.offer(&tcp_to(666), &pass);
        until(n);
    }
    shadow.offer(&tcp_to(1), &pass);
    let tally = until(7);
    assert_eq!(
        tally.differences,
        BTreeMap::from([(Difference::Fails, 6)]),
        "{tally:?}"
    );
    assert!(
        tally.examples[&Difference::Fails][0]
            .new
            .contains("fails: it trapped")
    );

    let started = Instant::now();
    for _ in 0..10_000 {
        shadow.offer(&tcp_to(666), &pass);
    }
    let took = started.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    let tally = until(10_007);
    assert!(tally.passed_over > 9_000, "{tally:?}");
}
