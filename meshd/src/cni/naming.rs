//! Names that are made of what a runtime says: the owner of a port, and the name of its endpoint.
//!
//! ```text
//!   network configuration, container id, interface  -->  cni/demo/1a2b/eth0         always the same, always another
//!   pod and namespace, or container id              -->  web--default, or cleaned and with a hash where that is no name
//! ```

use super::request::{Args, Attachment};
use data_encoding::{BASE32_NOPAD, HEXLOWER};
use meshd_core::ident::Label;
use meshd_core::owner::{OWNER_MAX, Owner};
use ring::digest::{SHA256, digest};
use std::fmt::Write as _;

/// Longest label of DNS (RFC 1035 §2.3.4), in bytes.
const LABEL_MAX: usize = 63;
/// Characters of a hash in a name: 50 bits.
const HASH_LEN: usize = 10;

/// What all owners of a network configuration begin with. `name`: checked.
pub(super) fn prefix(name: &str) -> String {
    format!("cni/{}/", short(name, 100))
}

/// What the owners of a container begin with, by whichever interface.
pub(super) fn prefix_of(name: &str, container: &str) -> String {
    format!("{}{}/", prefix(name), short(container, 100))
}

/// The owner of an attachment.
pub(super) fn owner(name: &str, attachment: &Attachment) -> Option<Owner> {
    // An interface's name may be any UTF-8; an owner is printable ASCII.
    let mut ifname = String::new();
    for byte in attachment.ifname.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            ifname.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(ifname, "%{byte:02x}");
        }
    }
    let text = format!("{}{ifname}", prefix_of(name, &attachment.container));
    debug_assert!(text.len() <= OWNER_MAX);
    text.parse().ok()
}

/// The text, or its beginning and a hash of all of it if it is longer than `max`. `:` is in no container id and in no name.
fn short(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let hash = digest(&SHA256, text.as_bytes());
    let hash = HEXLOWER.encode(hash.as_ref().get(..16).unwrap_or_default());
    let head = text.get(..max.saturating_sub(33)).unwrap_or_default();
    format!("{head}:{hash}")
}

fn hash(parts: &[&str]) -> String {
    let all = digest(&SHA256, parts.join("\0").as_bytes());
    let text = BASE32_NOPAD.encode(all.as_ref()).to_ascii_lowercase();
    text.get(..HASH_LEN).unwrap_or_default().to_owned()
}

/// The name that somebody gave: the first alias, but for the container's own id, which Podman always says.
pub(super) fn alias(aliases: &[String], attachment: &Attachment) -> Option<Label> {
    let mut given = aliases
        .iter()
        .filter(|alias| !attachment.container.starts_with(alias.as_str()));
    let first: Label = given.next()?.parse().ok()?;
    Some(first).filter(|name| !name.is_number())
}

/// What the endpoint is called: by the pod and its namespace, else by the container's id, and by the interface if that is
/// not the first. What is a name of DNS as it is stays so; else it is cleaned and gets a hash of what it was.
pub(super) fn endpoint(args: &Args, attachment: &Attachment) -> Option<Label> {
    let mut parts: Vec<&str> = match (args.pod.as_deref(), args.namespace.as_deref()) {
        // Podman says the container's name twice.
        (Some(pod), Some(namespace)) if pod != namespace => vec![pod, namespace],
        (Some(pod), _) => vec![pod],
        (None, _) => vec![&attachment.container],
    };
    if attachment.ifname != "eth0" {
        parts.push(&attachment.ifname);
    }
    join(&parts)
}

/// The same with a mark of this very container, for when the name is taken by one that went without a word.
pub(super) fn endpoint_beside(name: &Label, attachment: &Attachment) -> Option<Label> {
    with_hash(name.as_str(), &[name.as_str(), &attachment.container])
}

fn join(parts: &[&str]) -> Option<Label> {
    let plain = parts.join("--");
    // Hyphens at the seams could be of either part.
    let clear = |part: &&str| {
        !part.contains("--")
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(|b| !b.is_ascii_uppercase())
    };
    if parts.iter().all(clear)
        && let Ok(label) = plain.parse::<Label>()
        && !label.is_number()
    {
        return Some(label);
    }
    with_hash(&plain, parts)
}

fn with_hash(plain: &str, parts: &[&str]) -> Option<Label> {
    let fold = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9') => c,
        _ => '-',
    };
    let clean: String = plain
        .chars()
        .take(LABEL_MAX - HASH_LEN - 1)
        .map(fold)
        .collect();
    let clean = clean.trim_matches('-');
    let mark = hash(parts);
    let text = match clean {
        "" => format!("c-{mark}"),
        clean => format!("{clean}-{mark}"),
    };
    // Digits alone would be taken for a port's number.
    let text = match text.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
        true => format!("c-{mark}"),
        false => text,
    };
    text.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn at(container: &str, ifname: &str) -> Attachment {
        Attachment {
            container: container.to_owned(),
            ifname: ifname.to_owned(),
        }
    }

    fn pod(pod: &str, namespace: &str) -> Args {
        Args {
            pod: Some(pod.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..Args::default()
        }
    }

    #[test]
    fn pods_are_found_by_pod_and_namespace_and_containers_by_their_id() {
        let named = |args: &Args, attachment| endpoint(args, &attachment).unwrap().to_string();
        assert_eq!(
            named(&pod("web-0", "default"), at("x", "eth0")),
            "web-0--default"
        );
        assert_eq!(named(&pod("web", "web"), at("x", "eth0")), "web");
        assert_eq!(named(&Args::default(), at("k1", "eth0")), "k1");
        assert_eq!(named(&Args::default(), at("k1", "net1")), "k1--net1");
        let ambiguous = [
            named(&pod("a--b", "c"), at("x", "eth0")),
            named(&pod("a", "b--c"), at("x", "eth0")),
            named(&pod("a.b", "c"), at("x", "eth0")),
            named(&pod("a-b", "c"), at("x", "eth0")),
        ];
        let all: std::collections::BTreeSet<_> = ambiguous.iter().collect();
        assert_eq!(all.len(), 4, "{ambiguous:?}");
        assert!(
            named(&Args::default(), at("12345", "eth0"))
                .contains(|c: char| c.is_ascii_alphabetic())
        );
        let long = named(&pod(&"p".repeat(253), &"n".repeat(63)), at("x", "eth0"));
        assert_eq!(long.len(), 63, "{long}");
    }

    #[test]
    fn an_alias_is_a_name_and_the_containers_id_is_no_alias() {
        let of = |aliases: &[&str]| {
            let aliases: Vec<String> = aliases.iter().map(|&alias| alias.to_owned()).collect();
            let name = alias(&aliases, &at("38dedbfac22df7955f5f", "eth0"));
            name.map(|name| name.to_string())
        };
        assert_eq!(of(&["db", "second"]).as_deref(), Some("db"));
        assert_eq!(of(&["38dedbfac22d", "db"]).as_deref(), Some("db"));
        for none in [&["38dedbfac22d"][..], &[], &["no name"], &["42", "db"]] {
            assert_eq!(of(none), None, "{none:?}");
        }
    }

    #[test]
    fn an_owner_is_bounded_and_names_one_attachment_only() {
        let text = |name: &str, container: &str, ifname: &str| {
            owner(name, &at(container, ifname)).unwrap().to_string()
        };
        assert_eq!(text("demo", "1a2b", "eth0"), "cni/demo/1a2b/eth0");
        assert_eq!(text("demo", "1", "\u{1f980}"), "cni/demo/1/%f0%9f%a6%80");
        let long = "a".repeat(1000);
        assert!(text(&long, &long, "\u{1f980}\u{1f980}\u{1f980}").len() <= OWNER_MAX);
        assert_ne!(
            text("n", &long, "eth0"),
            text("n", &"a".repeat(1001), "eth0")
        );
        assert!(text(&long, "x", "eth0").starts_with(&prefix(&long)));
        assert_ne!(text("n", "a", "%41"), text("n", "a", "A"));
    }

    proptest! {
        #[test]
        fn different_pods_have_different_names(pods in proptest::collection::btree_set(("[a-c-]{1,4}", "[a-c-]{1,4}"), 1..60)) {
            let mut seen = BTreeMap::new();
            for (a, b) in pods.into_iter().filter(|(a, b)| a != b) {
                let label = endpoint(&pod(&a, &b), &at("x", "eth0")).unwrap();
                if let Some(before) = seen.insert(label, (a.clone(), b.clone())) {
                    prop_assert_eq!(before, (a, b));
                }
            }
        }

        #[test]
        fn any_text_becomes_a_name(a: String, b: String, c: String) {
            let args = Args { pod: Some(a), namespace: Some(b), ..Args::default() };
            let label = endpoint(&args, &at(&c, "eth0")).unwrap();
            prop_assert!(!label.is_number());
            prop_assert!(endpoint(&Args::default(), &at(&c, &c)).is_some());
        }
    }
}
