//! What a runtime asks: the environment of the CNI specification (1.1, section 2, "Parameters").
//!
//! Owns the forms of container id, interface name and `CNI_ARGS`. Whatever comes from there is bounded and checked here,
//! before it becomes part of a path, an owner or a message.

use super::error::{CniError, Code, clean, error};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Longest container id and name of a network configuration, in bytes.
pub(super) const WORD_MAX: usize = 1024;
/// Longest value of another variable, in bytes.
const TEXT_MAX: usize = 64 << 10;
/// Longest name of an interface (`IFNAMSIZ` less its NUL).
const IFNAME_MAX: usize = 15;

/// `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Verb {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

/// One attachment: an interface of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attachment {
    pub(super) container: String,
    pub(super) ifname: String,
}

/// A request, with what its command needs.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) verb: Verb,
    /// Of ADD, DEL and CHECK.
    pub(super) attachment: Option<Attachment>,
    /// Of ADD and CHECK; of DEL if the container still has one.
    pub(super) netns: Option<String>,
    pub(super) args: Args,
    /// Where other plugins are looked for.
    pub(super) path: Vec<PathBuf>,
}

/// `CNI_ARGS`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Args {
    pub(super) pod: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) ip: Option<String>,
    pub(super) mac: Option<String>,
}

fn wrong(message: impl Into<String>) -> CniError {
    error(Code::InvalidEnvironment, message)
}

/// `[A-Za-z0-9][A-Za-z0-9_.-]*`, as the specification has container ids and names of networks.
pub(super) fn is_word(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    text.len() <= WORD_MAX
        && text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric())
        && text.bytes().all(inner)
}

pub(super) fn is_ifname(text: &str) -> bool {
    // A `%` is a pattern to the kernel, which makes another name of it.
    let bad = |c: char| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control();
    (1..=IFNAME_MAX).contains(&text.len()) && text != "." && text != ".." && !text.chars().any(bad)
}

impl Request {
    /// Reads the environment by `get`.
    pub(super) fn read(get: impl Fn(&str) -> Option<OsString>) -> Result<Self, CniError> {
        let text = |name: &str| -> Result<Option<String>, CniError> {
            let Some(value) = get(name).filter(|value| !value.is_empty()) else {
                return Ok(None);
            };
            if value.as_bytes().len() > TEXT_MAX {
                return Err(wrong(format!("{name} is longer than {TEXT_MAX} bytes")));
            }
            match value.into_string() {
                Ok(text) => Ok(Some(text)),
                Err(_) => Err(wrong(format!("{name} is no UTF-8"))),
            }
        };
        let verb = match text("CNI_COMMAND")?.as_deref() {
            Some("ADD") => Verb::Add,
            Some("DEL") => Verb::Del,
            Some("CHECK") => Verb::Check,
            Some("GC") => Verb::Gc,
            Some("STATUS") => Verb::Status,
            Some("VERSION") => Verb::Version,
            Some(other) => {
                let shown: String = clean(other).chars().take(32).collect();
                return Err(wrong(format!(
                    "CNI_COMMAND is \"{shown}\"; there are ADD, DEL, CHECK, GC, STATUS and VERSION"
                )));
            }
            None => {
                return Err(wrong(
                    "CNI_COMMAND is not set: this is a CNI plugin, which container runtimes start; `meshd cni install` sets it up",
                ));
            }
        };
        let path = match get("CNI_PATH") {
            Some(path) => std::env::split_paths(&path).collect(),
            None => Vec::new(),
        };
        let mut request = Self {
            verb,
            attachment: None,
            netns: None,
            args: Args::default(),
            path,
        };
        if !matches!(verb, Verb::Add | Verb::Del | Verb::Check) {
            return Ok(request);
        }
        let (container, ifname) = (text("CNI_CONTAINERID")?, text("CNI_IFNAME")?);
        request.netns = text("CNI_NETNS")?;
        let mut missing = Vec::new();
        if container.is_none() {
            missing.push("CNI_CONTAINERID");
        }
        if request.netns.is_none() && verb != Verb::Del {
            missing.push("CNI_NETNS");
        }
        if ifname.is_none() {
            missing.push("CNI_IFNAME");
        }
        let (Some(container), Some(ifname), true) = (container, ifname, missing.is_empty()) else {
            let missing = missing.join(", ");
            return Err(wrong(format!("{} needs {missing}, not set", verb.word())));
        };
        if !is_word(&container) {
            return Err(wrong(
                "CNI_CONTAINERID is no container id: letters, digits, `_`, `.` and `-`, first a letter or digit, at most 1024",
            ));
        }
        if !is_ifname(&ifname) {
            return Err(wrong(
                "CNI_IFNAME is no name of an interface: 1 to 15 bytes without `/`, `:`, `%` and spaces, not `.` or `..`",
            ));
        }
        if let Some(netns) = &request.netns
            && (!netns.starts_with('/')
                || netns.len() > 4095
                || netns.chars().any(char::is_control))
        {
            return Err(wrong(
                "CNI_NETNS is no absolute path of a network namespace",
            ));
        }
        request.attachment = Some(Attachment { container, ifname });
        request.args = match text("CNI_ARGS")? {
            // Nothing of it says whose attachment it is.
            Some(_) if verb == Verb::Del => Args::default(),
            Some(text) => Args::read(&text)?,
            None => Args::default(),
        };
        Ok(request)
    }
}

impl Args {
    /// `KEY=VALUE;KEY=VALUE`. Others than ours are refused, unless `IgnoreUnknown` is true.
    fn read(text: &str) -> Result<Self, CniError> {
        let mut args = Self::default();
        let (mut unknown, mut ignore) = (None, false);
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let shown = || clean(pair).chars().take(64).collect::<String>();
            let Some((key, value)) = pair.split_once('=') else {
                return Err(wrong(format!("CNI_ARGS: \"{}\" is no KEY=VALUE", shown())));
            };
            let value = (!value.is_empty()).then(|| value.to_owned());
            match key {
                "IgnoreUnknown" => {
                    ignore = matches!(
                        value.as_deref(),
                        Some("1" | "t" | "T" | "true" | "TRUE" | "True")
                    )
                }
                "K8S_POD_NAME" => args.pod = value,
                "K8S_POD_NAMESPACE" => args.namespace = value,
                "K8S_POD_INFRA_CONTAINER_ID" | "K8S_POD_UID" => {}
                "IP" => args.ip = value,
                "MAC" => args.mac = value,
                _ => unknown = Some(shown()),
            }
        }
        match unknown.filter(|_| !ignore) {
            Some(shown) => Err(wrong(format!(
                "CNI_ARGS: \"{shown}\" is not known here; IgnoreUnknown=true has such passed over"
            ))),
            None => Ok(args),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Request, CniError> {
        Request::read(|name| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    const GOOD: [(&str, &str); 4] = [
        ("CNI_CONTAINERID", "1a2b"),
        ("CNI_NETNS", "/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_COMMAND", "ADD"),
    ];

    #[test]
    fn what_is_missing_is_named() {
        let refused = read(&[("CNI_COMMAND", "ADD"), ("CNI_IFNAME", "eth0")]).unwrap_err();
        assert!(
            refused.message().contains("CNI_CONTAINERID, CNI_NETNS"),
            "{refused:?}"
        );
        assert!(read(&[]).unwrap_err().is(Code::InvalidEnvironment));
        let del = read(&[
            ("CNI_COMMAND", "DEL"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_CONTAINERID", "a"),
            ("CNI_NETNS", ""),
        ]);
        assert_eq!(del.unwrap().netns, None, "a DEL without a namespace");
        let mut odd = vec![("CNI_COMMAND", "DEL"), ("CNI_ARGS", "COLOR=red")];
        odd.extend(GOOD);
        assert!(read(&odd).is_ok(), "what ADD was refused for");
    }

    #[test]
    fn tricks_with_paths_are_refused() {
        for (name, value) in [
            ("CNI_CONTAINERID", "../../etc/passwd"),
            ("CNI_CONTAINERID", "-rf"),
            ("CNI_CONTAINERID", "a b"),
            ("CNI_CONTAINERID", "a\0b"),
            ("CNI_CONTAINERID", &"a".repeat(WORD_MAX + 1)),
            ("CNI_IFNAME", "../eth0"),
            ("CNI_IFNAME", ".."),
            ("CNI_IFNAME", "a:b"),
            ("CNI_IFNAME", "a%d"),
            ("CNI_IFNAME", "sixteen-bytes-xx"),
            ("CNI_NETNS", "run/netns/x"),
            ("CNI_NETNS", "/run/\n"),
            ("CNI_COMMAND", "add"),
            ("CNI_ARGS", "nothing"),
            ("CNI_ARGS", "COLOR=red"),
        ] {
            let mut pairs = vec![(name, value)];
            pairs.extend(GOOD);
            let refused = read(&pairs).unwrap_err();
            assert!(refused.is(Code::InvalidEnvironment), "{name}={value}");
        }
        assert!(read(&GOOD).is_ok());
    }

    #[test]
    fn the_args_of_kubernetes_are_read_and_others_may_be_passed_over() {
        let mut pairs = vec![(
            "CNI_ARGS",
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;COLOR=red;K8S_POD_UID=1",
        )];
        pairs.extend(GOOD);
        let args = read(&pairs).unwrap().args;
        assert_eq!(
            (args.pod.as_deref(), args.namespace.as_deref()),
            (Some("web"), Some("default"))
        );
    }

    proptest! {
        #[test]
        fn any_environment_is_read_or_refused_without_a_panic(a: String, b: String, c: String, d: String) {
            let _ = read(&[
                ("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", &a), ("CNI_NETNS", &b), ("CNI_IFNAME", &c), ("CNI_ARGS", &d),
            ]);
            let _ = Args::read(&a);
        }
    }
}
