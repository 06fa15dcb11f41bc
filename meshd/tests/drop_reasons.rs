//! The page of drop reasons against the list that the code has.

use meshd_core::ruling::DropReason;
use std::collections::BTreeSet;

#[test]
fn each_drop_reason_has_its_paragraph_and_each_paragraph_its_reason() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/drops.md");
    let page = std::fs::read_to_string(page).unwrap_or_default();
    let mut written = BTreeSet::new();
    for section in page.split("\n### `").skip(1) {
        let (name, text) = section.split_once("`\n").unwrap_or_default();
        let text = text.split("\n## ").next().unwrap_or_default();
        let words = text.split_whitespace().count();
        assert!(
            words >= 10,
            "`{name}` is said in {words} words: what does it mean, what is to be done?"
        );
        assert!(written.insert(name.to_owned()), "`{name}` is there twice");
    }
    let reasons = DropReason::ALL.iter();
    let reasons: BTreeSet<String> = reasons.map(|reason| reason.name().to_owned()).collect();
    assert_eq!(written, reasons);
}

#[test]
fn a_reason_is_written_in_json_as_it_is_named() {
    for reason in DropReason::ALL {
        let json = serde_json::to_value(reason).unwrap_or_default();
        assert_eq!(json, reason.name());
    }
}
