//! What leaves this host in an archive: no secrets, and no addresses if they are to be hidden.
//!
//! Owns what counts as a secret: the tokens of this state folder and their encodings, whatever looks like an invite, an API token
//! or a private key, the values of keys that sound like one, and all text in the configs of plugins. Refuses to be clever: what may
//! be a secret is taken out.

use super::hide::hidden;
use data_encoding::{BASE64, BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER};
use ipnet::IpNet;
use meshd_core::ident::MacAddr;
use ring::hmac;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// In place of what was taken out.
const REMOVED: &str = "[removed]";
/// Words in the names of keys whose values are secrets, without regard to case.
const SECRET_WORDS: [&str; 13] = [
    "secret",
    "token",
    "passw",
    "passphrase",
    "psk",
    "private",
    "credential",
    "apikey",
    "api_key",
    "api-key",
    "auth",
    "cookie",
    "bearer",
];
/// Shorter ones would be found in harmless text.
const KNOWN_MIN: usize = 8;
/// Of a file with a token, in bytes.
const TOKEN_FILE_MAX: usize = 4096;

/// Takes secrets out of text and JSON.
pub(crate) struct Redactor {
    /// Secrets that are known, in each form in which they may be met; the longest first.
    known: Vec<String>,
    /// Under which addresses are hidden; another one in each archive.
    hide: Option<hmac::Key>,
}

impl Redactor {
    /// With the tokens of a state folder. Its other secrets are in a file that is never read for an archive.
    pub(crate) fn new(state: &Path, hide_addresses: bool) -> Self {
        let tokens = ["change.token", "read.token"].map(|name| {
            let file = state.join("api").join(name);
            crate::bounded::text(&file, TOKEN_FILE_MAX).unwrap_or_default()
        });
        let tokens: Vec<&str> = tokens.iter().map(|token| token.trim()).collect();
        Self::of(&tokens, hide_addresses)
    }

    fn of(secrets: &[&str], hide_addresses: bool) -> Self {
        let mut known = Vec::new();
        for secret in secrets.iter().filter(|secret| secret.len() >= KNOWN_MIN) {
            let bytes = secret.as_bytes();
            // A token of the API is itself the text of random bytes, behind a prefix.
            let tail = secret.strip_prefix("meshd-api-").unwrap_or_default();
            known.extend([(*secret).to_owned(), HEXLOWER.encode(bytes)]);
            known.extend([
                BASE64.encode(bytes),
                BASE64_NOPAD.encode(bytes),
                BASE64URL_NOPAD.encode(bytes),
            ]);
            if tail.len() >= 16 {
                known.push(tail.to_owned());
            }
        }
        known.sort_by_key(|text| std::cmp::Reverse(text.len()));
        let hide = hide_addresses.then(|| {
            let mut salt = [0; 32];
            // Without random numbers the names could be guessed: then all are one.
            let random =
                ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut salt);
            hmac::Key::new(hmac::HMAC_SHA256, if random.is_ok() { &salt } else { &[] })
        });
        Self { known, hide }
    }

    /// Text of any kind, line by line.
    pub(crate) fn text(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut in_key = false;
        for line in text.split_inclusive('\n') {
            if line.contains("-----BEGIN") && line.contains("PRIVATE KEY") {
                in_key = true;
                out.push_str(REMOVED);
                out.push('\n');
            }
            if !in_key {
                out.push_str(&self.line(line));
            }
            in_key &= !line.contains("-----END");
        }
        out
    }

    fn line(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for secret in &self.known {
            if line.contains(secret.as_str()) {
                line = line.replace(secret.as_str(), REMOVED);
            }
        }
        let line = assignments(&words(&line));
        match &self.hide {
            Some(key) => hidden(&line, key),
            None => line,
        }
    }

    /// JSON: values of keys that sound like a secret go, and so does text in configs of plugins.
    pub(crate) fn json(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    if sounds_secret(key)
                        && !matches!(value, Value::Number(_) | Value::Bool(_) | Value::Null)
                    {
                        *value = REMOVED.into();
                    } else if key == "config" {
                        // That of a plugin is text, with JSON in it.
                        let inner = value.as_str().map(serde_json::from_str::<Value>);
                        if let Some(Ok(mut inner)) = inner {
                            without_text(&mut inner);
                            *value = inner.to_string().into();
                        } else {
                            without_text(value);
                        }
                    } else {
                        self.json(value);
                    }
                }
            }
            Value::Array(list) => list.iter_mut().for_each(|value| self.json(value)),
            Value::String(text) => *text = self.text(text),
            _ => {}
        }
    }

    /// A config file: what it says, without its comments.
    ///
    /// # Errors
    /// It is no TOML. The parser's message would quote it.
    pub(crate) fn toml(&self, text: &str) -> Result<String, String> {
        let mut table: toml::Table = text
            .parse()
            .map_err(|_| "it is no TOML, so nobody can tell what in it is a secret".to_owned())?;
        table.iter_mut().for_each(|(_, value)| undated(value));
        let mut value = serde_json::to_value(&table).map_err(|error| error.to_string())?;
        self.json(&mut value);
        let table: toml::Table =
            serde_json::from_value(value).map_err(|error| error.to_string())?;
        let text = toml::to_string(&table).map_err(|error| error.to_string())?;
        Ok(self.text(&text))
    }
}

/// Dates become text: on their way through JSON they would be tables with a private key.
fn undated(value: &mut toml::Value) {
    match value {
        toml::Value::Datetime(at) => *value = toml::Value::String(at.to_string()),
        toml::Value::Array(list) => list.iter_mut().for_each(undated),
        toml::Value::Table(table) => table.iter_mut().for_each(|(_, value)| undated(value)),
        _ => {}
    }
}

fn sounds_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    // Says who wrote a network, and that is no secret.
    key != "author" && SECRET_WORDS.iter().any(|word| key.contains(word))
}

/// All text in a plugin's config goes, that of keys too, except addresses: nobody but its author knows what is a secret.
fn without_text(value: &mut Value) {
    match value {
        Value::Object(map) => {
            let told = std::mem::take(map).into_iter().zip(1..);
            map.extend(told.map(|((key, mut value), n)| {
                without_text(&mut value);
                // By its place, so that no two are one.
                let key = if is_address(&key) {
                    key
                } else {
                    format!("[key {n}]")
                };
                (key, value)
            }));
        }
        Value::Array(list) => list.iter_mut().for_each(without_text),
        Value::String(text) if !is_address(text) => {
            *text = format!("[text of {} bytes]", text.len());
        }
        _ => {}
    }
}

fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
        || text.parse::<IpNet>().is_ok()
        || text.parse::<SocketAddr>().is_ok()
        || text.parse::<MacAddr>().is_ok()
}

/// Invites and tokens, by how they begin.
fn words(line: &str) -> String {
    /// Beginning, and how many letters and digits follow at least.
    const STEMS: [(&str, usize); 2] = [("meshd1", 24), ("meshd-api-", 16)];
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((at, stem, least)) = STEMS
        .iter()
        .filter_map(|(stem, least)| Some((rest.find(stem)?, *stem, *least)))
        .min()
    {
        let after = rest.get(at + stem.len()..).unwrap_or_default();
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let len = after.find(|c| !is_part(c)).unwrap_or(after.len());
        out.push_str(rest.get(..at).unwrap_or_default());
        out.push_str(if len >= least { REMOVED } else { stem });
        let taken = at + stem.len() + if len >= least { len } else { 0 };
        rest = rest.get(taken..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// `password=x`, `token: x`, `"secret":"x"`, `Authorization: Bearer x`: what follows to the end of the word, or of the quotes.
fn assignments(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    // Where letters outside of ASCII are, both have the same bytes at the same places.
    let mut cuts: Vec<(usize, usize)> = Vec::new();
    for word in SECRET_WORDS {
        let mut from = 0;
        while let Some(at) = lower.get(from..).and_then(|rest| rest.find(word)) {
            let begin = from + at;
            from = begin + word.len();
            // Who wrote something, and whose zone it is, are no secrets.
            let rest = lower.get(begin..).unwrap_or_default();
            let harmless = rest.starts_with("authority")
                || rest.starts_with("author") && !rest.starts_with("authori");
            cuts.extend(value(&lower, from).filter(|_| !harmless));
        }
    }
    cuts.sort_unstable();
    let (mut out, mut done) = (String::with_capacity(line.len()), 0);
    for (begin, end) in cuts {
        if begin >= done {
            out.push_str(line.get(done..begin).unwrap_or_default());
            out.push_str(REMOVED);
            done = end;
        }
    }
    out.push_str(line.get(done..).unwrap_or_default());
    out
}

/// Where the value is that is given to a name which goes on at `from`, if one is.
fn value(line: &str, from: usize) -> Option<(usize, usize)> {
    let rest = line.get(from..)?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let name = rest.find(|c| !is_name(c))?;
    let after = rest.get(name..)?;
    let quoted = after.trim_start_matches(['"', '\'', ' ', '\\']);
    let given = quoted.strip_prefix(['=', ':'])?;
    // Of `a::b` and `a: b` only the second gives something.
    let given = given.trim_start();
    if given.starts_with(':') {
        return None;
    }
    let bearer = ["bearer ", "basic "]
        .iter()
        .find_map(|scheme| given.strip_prefix(scheme));
    let given = bearer.unwrap_or(given).trim_start_matches('\\');
    let (value, end) = match given.chars().next()? {
        quote @ ('"' | '\'') => {
            let inner = given.get(1..)?;
            (inner, closing(inner, quote))
        }
        // What is in braces has names of its own.
        '{' | '[' => return None,
        _ => {
            let end = given.find(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '}' | ']'));
            (given, end.unwrap_or(given.len()))
        }
    };
    let begin = line.len() - value.len();
    let given = value.get(..end)?;
    let counts = given.parse::<f64>().is_ok() || matches!(given, "true" | "false" | "null");
    (end > 0 && !counts).then_some((begin, begin + end))
}

/// Where the quotes end; one behind a backslash does not.
fn closing(inner: &str, quote: char) -> usize {
    let mut escaped = false;
    let end = inner.find(|c: char| {
        let ends = c == quote && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    end.unwrap_or(inner.len())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn redactor() -> Redactor {
        Redactor::of(&["meshd-api-c2VjcmV0LXNlY3JldC1zZWNyZXQ"], false)
    }

    #[test]
    fn what_is_a_secret_goes_and_the_rest_stays() {
        let redactor = redactor();
        for (text, wanted) in [
            (
                "joined by meshd1abcdefghijklmnopqrstuvwxyz234567 just now",
                "joined by [removed] just now",
            ),
            (
                "meshd1 is the beginning of an invite",
                "meshd1 is the beginning of an invite",
            ),
            (
                "curl -H 'Authorization: Bearer abc.def' x",
                "curl -H 'Authorization: Bearer [removed] x",
            ),
            ("password=hunter2, next", "password=[removed], next"),
            (
                "db_password = \"hunter2 and more\"",
                "db_password = \"[removed]\"",
            ),
            (
                "{\"api_key\":\"k\",\"n\":1}",
                "{\"api_key\":\"[removed]\",\"n\":1}",
            ),
            (
                "meshd::token::read is a path",
                "meshd::token::read is a path",
            ),
            ("token is no assignment", "token is no assignment"),
        ] {
            assert_eq!(redactor.text(text), wanted);
        }
        let key = "a\n-----BEGIN PRIVATE KEY-----\nMC4CAQAw\n-----END PRIVATE KEY-----\nb\n";
        assert_eq!(redactor.text(key), "a\n[removed]\nb\n");
    }

    #[test]
    fn json_that_was_gone_through_is_json() {
        let value = serde_json::json!({
            "author": {"id": "x"}, "tokens": 3, "secret": "a\"b", "auth": null, "log": "password=\"x\\\"y\" z", "token_kinds": ["read"]
        });
        let told = redactor().text(&serde_json::to_string_pretty(&value).unwrap());
        let told: Value = serde_json::from_str(&told).unwrap();
        assert_eq!(
            (&told["tokens"], &told["author"]["id"]),
            (&3.into(), &"x".into())
        );
        assert_eq!(told["secret"], REMOVED);
        assert!(!told["log"].to_string().contains('y'), "{told}");
    }

    #[test]
    fn a_known_token_goes_in_each_of_its_forms() {
        let token = "meshd-api-c2VjcmV0LXNlY3JldC1zZWNyZXQ";
        let forms = [
            token.to_owned(),
            "c2VjcmV0LXNlY3JldC1zZWNyZXQ".to_owned(),
            BASE64.encode(token.as_bytes()),
            HEXLOWER.encode(token.as_bytes()),
        ];
        for form in forms {
            let told = redactor().text(&format!("x {form} y"));
            assert_eq!(told, "x [removed] y");
        }
    }

    #[test]
    fn configs_of_plugins_keep_numbers_and_addresses_only() {
        let mut value = serde_json::json!({
            "name": "fw",
            "config": "{\"allow\":[\"10.0.0.0/8\",\"hunter2\"],\"port\":22,\"deep\":{\"x\":\"s3cr3t\"}}",
            "author": {"id": "x"},
            "token": {"any": "thing"},
            "tokens": 3
        });
        redactor().json(&mut value);
        let text = value.to_string();
        assert!(
            !text.contains("hunter2") && !text.contains("s3cr3t") && !text.contains("thing"),
            "{text}"
        );
        assert!(
            text.contains("10.0.0.0/8") && text.contains("22") && text.contains("\"tokens\":3"),
            "{text}"
        );
        assert_eq!(value["author"]["id"], "x");
    }

    #[test]
    fn configs_of_plugins_keep_no_keys_and_no_text_that_looks_like_json() {
        let inner = r#"{"hunter2":["[s3cr3t","{s3cr3t}"],"10.0.0.1":{"hunter3":1},"n":22}"#;
        let mut value = serde_json::json!({ "a": {"config": inner}, "b": {"config": {"hunter2": "{s3cr3t"}}, "c": {"config": "[s3cr3t"} });
        redactor().json(&mut value);
        let text = value.to_string();
        assert!(
            !text.contains("hunter") && !text.contains("s3cr3t"),
            "{text}"
        );
        let told: Value = serde_json::from_str(value["a"]["config"].as_str().unwrap()).unwrap();
        assert_eq!(told["10.0.0.1"].as_object().unwrap().len(), 1, "{told}");
        assert_eq!(told.as_object().unwrap().len(), 3, "{told}");
        assert!(told.to_string().contains(":22"), "{told}");
    }

    #[test]
    fn a_config_file_loses_its_comments_and_its_secrets() {
        let text = "# the password is hunter2\n[underlay]\nlisten = \"[::]:7650\"\n[x]\nsecret = \"s3cr3t\"\nwhen = 2026-01-01\n";
        let told = redactor().toml(text).unwrap();
        assert!(
            !told.contains("hunter2") && !told.contains("s3cr3t"),
            "{told}"
        );
        assert!(told.contains("listen = \"[::]:7650\""), "{told}");
        assert!(
            redactor()
                .toml("token = hunter2")
                .is_err_and(|why| !why.contains("hunter2"))
        );
    }

    #[test]
    fn prefixes_and_addresses_that_end_in_colons_are_hidden_too() {
        let redactor = Redactor::of(&[], true);
        for text in [
            "fd12:3456:789a:bcde::/64",
            "[\"fd12:3456:789a:bcde::/64\", \"10.0.0.0/8\"]",
            "at fd12:3456:789a:bcde::",
            "fd12:3456:789a:bcde::: it is",
            "ends in fd12:3456:789a:bcde::.",
            "ends in fd12:3456:789a:bcde::.: so",
            "fd12:3456:789a:bcde::1: refused",
            "FD12:3456:789A:BCDE::",
            "fd12:3456:789a:bcde::10.0.0.1,",
            "[fd12:3456:789a:bcde::]:7650",
            "fd12:3456:789a:bcde::%eth0",
            "a=fd12:3456:789a:bcde:1:2:3:4:",
            "fd12:3456:789a:bcde::-fd12:3456:789a:bcde::ff",
        ] {
            let told = redactor.text(text);
            assert!(!told.to_lowercase().contains("fd12"), "{text}: {told}");
            assert!(told.contains("ip6-"), "{told}");
        }
        assert_eq!(redactor.text("meshd::daemon: ::/0"), "meshd::daemon: ::/0");
    }

    #[test]
    fn addresses_inside_of_words_are_hidden_too() {
        let redactor = Redactor::of(&[], true);
        for text in [
            "ip=192.0.2.10::192.0.2.1:255.255.255.0:host:eth0:none",
            "BOOTIF=01-aa-bb-cc-dd-ee-ff",
            "via:192.0.2.1",
            "7:192.0.2.0/24:x",
            "x192.0.2.1y",
            "192.0.2.1.in-addr.arpa",
            "dev_aa:bb:cc:dd:ee:ff_x",
            "eth:aa:bb:cc:dd:ee:ff:up",
            "via:fd12:3456::1",
            "fd12:3456::1:via",
        ] {
            let told = redactor.text(text);
            for gone in ["192.0", "aa:bb", "aa-bb", "ee-ff", "ee:ff", "fd12"] {
                assert!(!told.contains(gone), "{text}: {told}");
            }
        }
        for kept in [
            "meshd::daemon::face: x",
            "at 2026-11-29-08-27-18",
            "127.0.0.1:x",
            "1.2.3 é 12:34:56:78",
        ] {
            assert_eq!(redactor.text(kept), kept);
        }
    }

    #[test]
    fn hidden_addresses_are_the_same_name_each_time() {
        let redactor = Redactor::of(&[], true);
        let told = redactor.text("192.0.2.7:7650 and 192.0.2.7, [2001:db8::1]:7650, 02:00:00:00:00:01, 10.1.0.0/24 at 13:31:17 meshd::daemon 127.0.0.1 ::.\n");
        for gone in ["192.0.2.7", "2001:db8", "02:00", "10.1.0"] {
            assert!(!told.contains(gone), "{told}");
        }
        for kept in [":7650", "/24", "13:31:17", "meshd::daemon", "127.0.0.1"] {
            assert!(told.contains(kept), "{kept}: {told}");
        }
        let names: Vec<_> = told
            .match_indices("ip4-")
            .map(|(at, _)| &told[at..at + 12])
            .collect();
        assert_eq!(names[0], names[1], "{told}");
        assert_ne!(names[0], names[2], "{told}");
        let other = Redactor::of(&[], true).text("192.0.2.7");
        assert!(!told.contains(&other), "a name must not hold over archives");
    }

    proptest! {
        #[test]
        fn any_text_is_gone_through_without_harm(text: String) {
            let _ = Redactor::of(&["a secret that is long"], true).text(&text);
            let _ = redactor().toml(&text);
        }

        #[test]
        fn a_secret_in_the_middle_of_anything_goes(before in "[a-z ]{0,20}", after in "[ ,;\"].{0,20}") {
            let told = redactor().text(&format!("{before} meshd-api-c2VjcmV0LXNlY3JldC1zZWNyZXQ{after}"));
            prop_assert!(!told.contains("c2VjcmV0"));
        }
    }
}
