//! Who is asked in which order, and what manifests have to do with it. `acl` says of itself that it is a guard; the fixture has
//! no manifest, so it stands wherever it is put.
#![allow(clippy::unwrap_used)]

use super::*;
use meshd_core::edit::Edit;
use meshd_core::policy::Punt;

fn at(stage: Stage, order: u16) -> Placement {
    Placement {
        stage: Some(stage),
        order: Some(order),
        fail: None,
    }
}

fn fixture(what: &str, port: u16) -> String {
    format!(r#"{{"on-port":{port},"do":"{what}","to":9}}"#)
}

/// The fixture under names of one letter, each with what it does on a port and where it stands.
fn chain(links: &[(&str, &str, u16, Stage, u16)]) -> (tempfile::TempDir, Rulings) {
    let (dir, rulings, _seen) = with(&[]);
    let wasm = component("fixture");
    for (name, what, port, stage, order) in links {
        rulings.install(&label(name), &wasm, None).unwrap();
        rulings
            .attach(
                &label(name),
                lan(),
                &*fixture(what, *port),
                at(*stage, *order),
            )
            .unwrap();
    }
    (dir, rulings)
}

fn asked(rulings: &Rulings, question: &Question) -> Vec<(String, Said, bool)> {
    let (_, asked) = rulings.ask_now(question);
    let asked = asked.into_iter();
    asked
        .map(|one| (one.plugin.to_string(), one.said, one.decides))
        .collect()
}

#[test]
fn the_order_is_stage_then_order_then_name() {
    let (_dir, rulings) = chain(&[
        ("a", "nothing", 1, Stage::Observe, 1),
        ("b", "nothing", 1, Stage::Forward, 1),
        ("c", "nothing", 1, Stage::Guard, 50),
        ("e", "nothing", 1, Stage::Guard, 9),
        ("d", "nothing", 1, Stage::Guard, 9),
        ("f", "nothing", 1, Stage::Classify, 60000),
    ]);
    assert_eq!(
        now(&rulings, &tcp_to(1)).why,
        "d: pass, e: pass, c: pass, f: pass, b: pass, a: pass"
    );
}

#[test]
fn accept_ends_its_own_stage_and_no_other() {
    let (_dir, rulings) = chain(&[
        ("a", "accept", 22, Stage::Guard, 1),
        ("b", "drop", 22, Stage::Guard, 2),
        ("c", "nothing", 22, Stage::Classify, 1),
        ("d", "drop", 22, Stage::Forward, 1),
    ]);
    let (answer, _) = rulings.ask_now(&tcp_to(22));
    assert_eq!((answer.verdict, &*answer.why), (Verdict::Drop, "d: code 7"));
    let reason = "code 7".to_owned();
    assert_eq!(
        asked(&rulings, &tcp_to(22)),
        [
            ("a".to_owned(), Said::Accept, false),
            ("b".to_owned(), Said::Skipped, false),
            ("c".to_owned(), Said::Next, false),
            ("d".to_owned(), Said::Drop { code: 7, reason }, true),
        ]
    );
}

#[test]
fn the_mask_is_of_those_that_were_asked_and_of_nobody_else() {
    let (_dir, rulings) = chain(&[
        ("a", "accept", 22, Stage::Guard, 1),
        ("b", "nothing", 22, Stage::Guard, 2),
    ]);
    // `accept` of the fixture reads nothing, and b, which reads the port, was not asked.
    assert_eq!(now(&rulings, &tcp_to(22)).mask.dst_port, 0);
    assert_eq!(now(&rulings, &tcp_to(80)).mask.dst_port, u16::MAX);
    let (_dir, rulings) = chain(&[
        ("a", "accept", 22, Stage::Guard, 1),
        ("b", "nothing", 22, Stage::Forward, 1),
    ]);
    assert_eq!(now(&rulings, &tcp_to(22)).mask.dst_port, u16::MAX);
}

#[test]
fn the_first_place_holds_and_trace_says_whose_it_is() {
    let (_dir, rulings) = chain(&[
        ("a", "nothing", 666, Stage::Forward, 1),
        ("b", "redirect", 666, Stage::Forward, 2),
        ("c", "redirect", 666, Stage::Forward, 3),
        ("d", "mirror", 666, Stage::Observe, 1),
    ]);
    let (answer, steps) = rulings.ask_now(&tcp_to(666));
    assert_eq!(answer.verdict, Verdict::Pass);
    assert!(answer.orders.redirect.is_some() && answer.orders.mirrors.len() == 1);
    let said: Vec<(&str, &Said, bool)> = steps
        .iter()
        .map(|one| (one.orders.as_str(), &one.said, one.decides))
        .collect();
    assert_eq!(
        said,
        [
            ("", &Said::Next, false),
            ("to port 9", &Said::Place, true),
            ("to port 9", &Said::Place, false),
            ("a copy to port 9", &Said::Next, false),
        ]
    );
}

#[test]
fn who_observes_copies_and_has_no_other_say() {
    for what in ["drop", "redirect", "edit"] {
        let (_dir, rulings) = chain(&[("a", what, 666, Stage::Observe, 1)]);
        let (answer, steps) = rulings.ask_now(&tcp_to(666));
        assert_eq!(answer, now(&rulings, &tcp_to(666)));
        assert_eq!(answer.verdict, Verdict::Pass, "{what}: it fails open");
        assert_eq!(answer.orders, Default::default(), "{what}");
        assert!(
            matches!(&steps[0].said, Said::Failed { fail: FailMode::Open, why } if why.contains("stage observe")),
            "{what}: {steps:?}"
        );
        let stats = &rulings.list()[0].attachments[0];
        assert_eq!((stats.failed, stats.dropped), (1, 0), "{what}");
    }
    let (_dir, rulings) = chain(&[("a", "mirror", 666, Stage::Observe, 1)]);
    assert_eq!(now(&rulings, &tcp_to(666)).orders.mirrors.len(), 1);
}

#[test]
fn a_manifest_names_the_plugin_its_stage_its_fail_mode_and_its_reasons() {
    let (_dir, rulings, _seen) = with(&["acl", "fixture"]);
    rulings
        .attach(
            &label("acl"),
            lan(),
            r#"{"deny":[{"proto":"tcp","port":22}],"default":"drop"}"#,
            Placement::default(),
        )
        .unwrap();
    for (port, reason) in [(22, "rule 1"), (80, "default"), (81, "default")] {
        let (answer, steps) = rulings.ask_now(&tcp_to(port));
        assert_eq!(answer, now(&rulings, &tcp_to(port)));
        assert_eq!(answer.why, format!("acl: {reason}"));
        assert!(
            matches!(&steps[0].said, Said::Drop { reason: said, .. } if said == reason),
            "{steps:?}"
        );
    }
    let list = rulings.list();
    let about = list[0].about.as_ref().unwrap();
    assert_eq!((&*about.name, &*about.version), ("acl", "0.1.0"));
    assert!(list[1].about.is_none(), "the fixture has no manifest");
    let place = &list[0].attachments[0];
    assert_eq!((place.stage, place.fail), (Stage::Guard, FailMode::Closed));
    let reasons: Vec<(&str, u64)> = place.reasons.iter().map(|(r, n)| (&**r, *n)).collect();
    assert_eq!(reasons, [("default", 2), ("rule 1", 1)]);
}

#[test]
fn the_schema_is_checked_before_the_plugin_is_asked() {
    let (_dir, rulings, _seen) = with(&["acl"]);
    let attach = |config| rulings.attach(&label("acl"), lan(), config, Placement::default());
    let error = attach(r#"{"deny":[{"port":70000}]}"#)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("schema allows: at /deny/0/port: a whole number from 0 to 65535"),
        "{error}"
    );
    let error = attach(r#"{"denny":[]}"#).unwrap_err().to_string();
    assert!(error.contains("at /denny: no such field"), "{error}");
    // What the schema cannot say, the plugin does.
    let error = attach(r#"{"deny":[{"proto":"carrier-pigeon"}]}"#)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("refuses its config") && error.contains("/deny/0"),
        "{error}"
    );
}

#[test]
fn a_guard_stands_where_it_is_made_for_or_later_and_not_among_observers() {
    let (_dir, rulings, _seen) = with(&["acl"]);
    let attach = |stage| rulings.attach(&label("acl"), lan(), DENY_SSH, at(stage, 1));
    let error = attach(Stage::Observe).unwrap_err().to_string();
    assert!(
        error.contains("made for the stage guard and cannot stand in observe"),
        "{error}"
    );
    assert!(rulings.list()[0].attachments.is_empty());
    let moved = attach(Stage::Forward).unwrap();
    assert_eq!(
        (moved.attachments[0].stage, moved.attachments[0].fail),
        (Stage::Forward, FailMode::Closed),
        "its manifest says closed, wherever it stands"
    );
    let again = rulings
        .attach(&label("acl"), lan(), None, Placement::default())
        .unwrap();
    assert_eq!(again.attachments[0].stage, Stage::Forward, "it stays there");
}

#[test]
fn a_group_and_a_flood_set_are_those_of_the_config_and_others_are_a_fault() {
    let (_dir, rulings, _seen) = with(&["fixture"]);
    let fixture = label("fixture");
    let attach = |config: &str| {
        rulings
            .attach(&fixture, lan(), config, Placement::default())
            .unwrap();
        now(&rulings, &tcp_to(666))
    };
    let groups = r#""groups":[{"name":"a","buckets":[{"port":3},{"port":4}]}],"flood-sets":[{"name":"b","ports":[3]}]"#;
    let of = |what: &str, to: u32| format!(r#"{{"on-port":666,"do":"{what}","to":{to},{groups}}}"#);
    let group = attach(&of("group", 0)).orders.group.unwrap();
    assert_eq!((&*group.name, group.buckets.len()), ("fixture/a", 2));
    let set = attach(&of("flood-set", 0)).orders.flood.unwrap();
    assert_eq!(set.ports, [PortId(3)].into());
    for what in ["group", "flood-set"] {
        let answer = attach(&of(what, 1));
        assert_eq!(answer.verdict, Verdict::Failed);
        assert!(
            answer.why.contains("1, which its config does not declare"),
            "{}",
            answer.why
        );
    }
    let bad = r#"{"do":"nothing","on-port":1,"groups":[{"name":"a","buckets":[{}]}]}"#;
    let error = rulings
        .attach(&fixture, lan(), bad, Placement::default())
        .unwrap_err();
    assert!(error.to_string().contains("/groups/0/buckets/0"), "{error}");
}

#[test]
fn behind_one_that_takes_a_tag_off_others_see_the_frame_without_it_if_they_can_be_told_what_it_is()
{
    let tagged = |vlan, inner_vlan| {
        let plain = tcp_to(1);
        let key = FlowKey {
            vlan,
            inner_vlan,
            ..plain.key
        };
        Question { key, ..plain }
    };
    let (_dir, rulings) = chain(&[
        ("a", "pop", 1, Stage::Forward, 1),
        ("b", "untagged", 1, Stage::Forward, 2),
    ]);
    let one = now(&rulings, &tagged(0x1007, 0));
    let seen = (Verdict::Pass, "a: pass, pop VLAN, b: pass");
    assert_eq!((one.verdict, &*one.why), seen);
    assert_eq!(one.orders.edits, [Edit::PopVlan]);
    let two = now(&rulings, &tagged(0x1007, 0x1008));
    assert_eq!(two.verdict, Verdict::Failed);
    assert!(two.why.contains("put it last in the chain"), "{}", two.why);
    // The other way round both can be asked.
    let (_dir, rulings) = chain(&[
        ("a", "nothing", 1, Stage::Forward, 1),
        ("b", "pop", 1, Stage::Forward, 2),
    ]);
    let two = now(&rulings, &tagged(0x1007, 0x1008));
    let seen = (Verdict::Pass, "a: pass, b: pass, pop VLAN");
    assert_eq!((two.verdict, &*two.why), seen);
}

#[test]
fn punts_and_tags_bear_the_number_of_the_attachment_which_is_its_own_as_long_as_it_lasts() {
    let (_dir, rulings) = chain(&[
        ("a", "tag", 666, Stage::Forward, 1),
        ("b", "punt", 666, Stage::Forward, 2),
    ]);
    let number = |name: &str| rulings.punt_box(&label(name), lan()).unwrap().id();
    let (a, b) = (number("a"), number("b"));
    assert_ne!(a, b);
    let answer = now(&rulings, &tcp_to(666));
    assert_eq!(answer.verdict, Verdict::Drop);
    let parts: Vec<_> = answer
        .parts
        .iter()
        .map(|part| (part.of, &part.tags[..]))
        .collect();
    assert_eq!(parts, [(a, &[9][..]), (b, &[])]);
    assert_eq!(answer.orders.punts, [Punt { to: b, bytes: 9 }]);
    let other = r#"{"on-port":667,"do":"punt"}"#;
    rulings
        .attach(&label("b"), lan(), other, Placement::default())
        .unwrap();
    assert_eq!(number("b"), b);
    rulings.detach(&label("b"), lan()).unwrap();
    assert!(rulings.punt_box(&label("b"), lan()).is_none());
    rulings
        .attach(&label("b"), lan(), other, Placement::default())
        .unwrap();
    assert_ne!(number("b"), b);
}
