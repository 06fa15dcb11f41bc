//! Values of options: from what was typed to the types of the core, with messages that show what is wanted.

use crate::bounded;
use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use meshd_core::command::{IpSpec, PortRoute};
use meshd_core::ident::{IfName, Label, MacAddr, Vni, escape};
use meshd_core::owner::Owner;
use meshd_plugin_host::{Capability, MAX_CONFIG};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// [`IpSpec`], so that clap takes it for one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ips(pub(super) IpSpec);

pub(super) fn label(text: &str) -> Result<Label, String> {
    text.parse()
        .map_err(|_| "wanted: 1 to 63 letters, digits or inner hyphens".to_owned())
}

/// A name that is to be given: it must not be taken for a number, as ports, VNIs and ids have them.
pub(super) fn new_name(text: &str) -> Result<Label, String> {
    let name = label(text)?;
    match name.is_number() {
        true => Err("digits alone could be taken for a number; put a letter in it".to_owned()),
        false => Ok(name),
    }
}

/// Somebody's name or number; what it may be is the daemon's to say.
pub(super) fn word(text: &str) -> Result<String, String> {
    match text {
        "" => Err("it is empty".to_owned()),
        text => Ok(text.to_owned()),
    }
}

pub(super) fn mac(text: &str) -> Result<MacAddr, String> {
    let mac: MacAddr = text
        .parse()
        .map_err(|_| "wanted: a MAC such as 02:00:00:00:00:01".to_owned())?;
    if mac.is_source() {
        Ok(mac)
    } else {
        Err("a port's MAC must be neither zero nor a group address".to_owned())
    }
}

/// A name in a folder, with the ending that runtimes read.
pub(super) fn file_name(text: &str) -> Result<String, String> {
    let plain = !text.contains('/') && !text.starts_with('.') && text.ends_with(".conflist");
    match plain {
        true => Ok(text.to_owned()),
        false => Err("wanted: a file's name that ends in .conflist".to_owned()),
    }
}

pub(super) fn owner(text: &str) -> Result<Owner, String> {
    text.parse()
        .map_err(|_| "wanted: 1 to 256 printable ASCII characters without a space".to_owned())
}

/// `CIDR` or `CIDR,ROUTER`.
pub(super) fn route(text: &str) -> Result<PortRoute, String> {
    let wanted = || "wanted: CIDR or CIDR,ROUTER, such as 0.0.0.0/0,10.0.0.9".to_owned();
    let (to, via) = match text.split_once(',') {
        Some((to, via)) => (to, Some(via)),
        None => (text, None),
    };
    Ok(PortRoute {
        to: to.parse().map_err(|_| wanted())?,
        via: via.map(str::parse).transpose().map_err(|_| wanted())?,
    })
}

pub(super) fn vni(text: &str) -> Result<Vni, String> {
    let number: u32 = text
        .parse()
        .map_err(|_| "wanted: a number, 1 to 16777215".to_owned())?;
    Vni::new(number).map_err(|_| "wanted: a number, 1 to 16777215".to_owned())
}

pub(super) fn subnet(text: &str) -> Result<ipnet::IpNet, String> {
    let net: ipnet::IpNet = text
        .parse()
        .map_err(|_| "wanted: a subnet such as 10.0.0.0/24 or fd00:1::/64".to_owned())?;
    if net == net.trunc() {
        Ok(net)
    } else {
        Err(format!(
            "bits behind the prefix are set; is {} meant?",
            net.trunc()
        ))
    }
}

pub(super) fn ips(text: &str) -> Result<Ips, String> {
    match text {
        "auto" => Ok(Ips(IpSpec::Auto)),
        "none" => Ok(Ips(IpSpec::None)),
        list => {
            let one = |part: &str| {
                part.trim().parse().map_err(|_| {
                    format!(
                        "\"{}\" is no address with prefix length; wanted: `auto`, `none`, or such as 10.0.0.5/24,fd00::5/64",
                        escape(part.as_bytes())
                    )
                })
            };
            list.split(',')
                .map(one)
                .collect::<Result<_, _>>()
                .map(|nets| Ips(IpSpec::Fixed(nets)))
        }
    }
}

/// What a controller may import; clap takes a list for a repeated option, so it has a type of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grant(pub(super) BTreeSet<Capability>);

pub(super) fn grant(text: &str) -> Result<Grant, String> {
    let words = text.split(',').map(str::trim);
    let words = words.filter(|word| !word.is_empty() && *word != "none");
    let all = words.map(|word| {
        word.parse::<Capability>()
            .map_err(|error| error.to_string())
    });
    all.collect::<Result<_, _>>().map(Grant)
}

pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("wanted: KEY=VALUE".to_owned()),
    }
}

/// `90s`, `30m`, `1h30m`, `2d`; a number alone would leave open what of.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "wanted: a time such as 90s, 30m, 1h30m or 2d".to_owned();
    let (mut total, mut number) = (0u64, None::<u64>);
    for c in text.chars() {
        match (c, c.to_digit(10), number) {
            (_, Some(digit), _) => {
                let so_far = number.unwrap_or_default();
                number = Some(
                    so_far
                        .checked_mul(10)
                        .and_then(|n| n.checked_add(digit.into()))
                        .ok_or_else(wrong)?,
                );
            }
            (unit, None, Some(count)) => {
                let seconds = match unit {
                    's' => 1,
                    'm' => 60,
                    'h' => 3600,
                    'd' => 86400,
                    _ => return Err(wrong()),
                };
                total = count
                    .checked_mul(seconds)
                    .and_then(|s| total.checked_add(s))
                    .ok_or_else(wrong)?;
                number = None;
            }
            _ => return Err(wrong()),
        }
    }
    if number.is_some() || total == 0 {
        Err(wrong())
    } else {
        Ok(Duration::from_secs(total))
    }
}

/// How long an invite lives.
pub(super) fn ttl(text: &str) -> Result<Duration, String> {
    match text {
        "0" | "0s" | "0m" | "0h" | "0d" => Err("an invite lives for a second at least".to_owned()),
        text => match duration(text)? {
            long if long > Duration::from_secs(30 * 86400) => {
                Err("an invite lives for 30d at most".to_owned())
            }
            fits => Ok(fits),
        },
    }
}

/// Interface names are bytes.
#[derive(Clone, Debug)]
pub(super) struct IfNameParser;

impl TypedValueParser for IfNameParser {
    type Value = IfName;

    fn parse_ref(
        &self,
        cmd: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<IfName, clap::Error> {
        IfName::new(value.as_bytes()).map_err(|error| {
            let of = arg.map_or_else(
                || "the name of an interface".to_owned(),
                |arg| format!("'{arg}'"),
            );
            clap::Error::raw(
                ErrorKind::ValueValidation,
                format!(
                    "invalid value \"{}\" for {of}: {error}\n",
                    escape(value.as_bytes())
                ),
            )
            .with_cmd(cmd)
        })
    }
}

/// Why a namespace cannot be meant.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub(super) struct NetnsError {
    what: String,
    /// What to do.
    pub(super) hint: &'static str,
}

/// The absolute path of the namespace that was typed: NAME, PATH, `pid:N` or `self`.
pub(super) fn netns(typed: &OsStr) -> Result<PathBuf, NetnsError> {
    let bytes = typed.as_bytes();
    let shown = escape(bytes);
    let (path, hint) = if bytes.is_empty() {
        return Err(NetnsError {
            what: "--netns is empty".to_owned(),
            hint: "give a name, a path or pid:N",
        });
    } else if matches!(
        bytes,
        b"self" | b"/proc/self/ns/net" | b"/proc/thread-self/ns/net"
    ) {
        // This process ends at once and its number is nobody's then; a name stays.
        let own = PathBuf::from(format!("/proc/{}/ns/net", std::process::id()));
        (named(&own).unwrap_or(own), "is /proc mounted?")
    } else if let Some(pid) = bytes.strip_prefix(b"pid:") {
        let pid: Option<u32> = std::str::from_utf8(pid)
            .ok()
            .and_then(|text| text.parse().ok());
        let pid = pid.filter(|pid| *pid > 0).ok_or_else(|| NetnsError {
            what: format!("\"{shown}\" is no process"),
            hint: "give the number of a process that is in the namespace, such as pid:4242",
        })?;
        (
            PathBuf::from(format!("/proc/{pid}/ns/net")),
            "is the process still running?",
        )
    } else if bytes.contains(&b'/') {
        (
            PathBuf::from(typed),
            "`ip netns` and Docker keep them in /run/netns and /run/docker/netns",
        )
    } else if bytes == b"." || bytes == b".." {
        return Err(NetnsError {
            what: format!("\"{shown}\" is no namespace"),
            hint: "give a name, a path or pid:N",
        });
    } else {
        (
            Path::new("/run/netns").join(typed),
            "`ip netns ls` shows the names there are, `ip netns add NAME` makes one",
        )
    };
    // The daemon may run in another folder.
    let path = std::path::absolute(&path).unwrap_or(path);
    let fail = |why: String| NetnsError {
        what: format!("there is no network namespace \"{shown}\": {why}"),
        hint,
    };
    match path.metadata() {
        Ok(meta) if meta.is_dir() => Err(fail(format!("{} is a folder", show_path(&path)))),
        Ok(_) => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(NetnsError {
            what: format!("{}: permission denied", show_path(&path)),
            hint: "try as root",
        }),
        Err(_) => Err(fail(format!("{} does not exist", show_path(&path)))),
    }
}

/// The file below /run/netns that is the same namespace as `path`.
fn named(path: &Path) -> Option<PathBuf> {
    let id = |path: &Path| path.metadata().ok().map(|meta| (meta.dev(), meta.ino()));
    let wanted = id(path)?;
    let names = std::fs::read_dir("/run/netns").ok()?;
    names
        .flatten()
        .map(|entry| entry.path())
        .find(|name| id(name) == Some(wanted))
}

/// A path, printable.
pub(super) fn show_path(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

/// This host's name as a node's name: its first label, with anything else turned into hyphens.
pub(super) fn host_label() -> Label {
    let name = std::fs::read("/proc/sys/kernel/hostname").unwrap_or_default();
    label_of(&name)
}

fn label_of(name: &[u8]) -> Label {
    let first = name
        .split(|b| matches!(b, b'.' | b'\n'))
        .next()
        .unwrap_or_default();
    let fitted: String = first
        .iter()
        .take(63)
        .map(|&b| {
            if b.is_ascii_alphanumeric() {
                char::from(b)
            } else {
                '-'
            }
        })
        .collect();
    let fallback = || "node".parse().expect("\"node\" is a label");
    let name = fitted.trim_matches('-').parse::<Label>();
    match name {
        Ok(name) if name.is_number() => format!("node-{name}")
            .parse()
            .unwrap_or_else(|_| fallback()),
        name => name.unwrap_or_else(|_| fallback()),
    }
}

/// JSON text as it was typed, or of the file behind `@`.
pub(super) fn config(typed: &OsString) -> Result<String, String> {
    let bytes = match typed.as_bytes().strip_prefix(b"@") {
        None => typed.as_bytes().to_vec(),
        Some(b"-") => bounded::stdin(MAX_CONFIG).map_err(|e| format!("read stdin: {e}"))?,
        Some(path) => {
            let path = Path::new(OsStr::from_bytes(path));
            bounded::file(path, MAX_CONFIG)
                .map_err(|e| format!("read the config {}: {e}", show_path(path)))?
        }
    };
    let text = String::from_utf8(bytes).map_err(|e| format!("the config is no UTF-8: {e}"))?;
    match serde_json::from_str::<serde::de::IgnoredAny>(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(format!("the config is no JSON: {error}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_are_numbers_with_units() {
        assert_eq!(duration("1h30m").unwrap(), Duration::from_secs(5400));
        assert_eq!(duration("2d").unwrap(), Duration::from_secs(172_800));
        for wrong in [
            "",
            "5",
            "h",
            "1h5",
            "0s",
            "-1h",
            "1 h",
            "1y",
            "99999999999999999999d",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_invite_lives_from_a_second_to_thirty_days() {
        assert!(ttl("1s").is_ok() && ttl("30d").is_ok());
        assert!(ttl("0").unwrap_err().contains("a second at least"));
        assert!(ttl("31d").unwrap_err().contains("30d at most"));
    }

    #[test]
    fn addresses_are_auto_none_or_a_list_and_an_error_names_the_wrong_one() {
        assert_eq!(ips("auto").unwrap().0, IpSpec::Auto);
        assert_eq!(ips("none").unwrap().0, IpSpec::None);
        assert_eq!(
            ips("10.0.0.5/24,fd00::5/64").unwrap().0,
            IpSpec::Fixed(vec![
                "10.0.0.5/24".parse().unwrap(),
                "fd00::5/64".parse().unwrap()
            ])
        );
        assert!(
            ips("10.0.0.5/24,10.0.0.6")
                .unwrap_err()
                .starts_with("\"10.0.0.6\"")
        );
        assert!(ips("").is_err());
    }

    #[test]
    fn a_subnet_with_host_bits_is_asked_back() {
        assert_eq!(
            subnet("10.0.0.7/24").unwrap_err(),
            "bits behind the prefix are set; is 10.0.0.0/24 meant?"
        );
    }

    #[test]
    fn a_namespace_is_a_name_a_path_or_a_process() {
        let me = std::process::id();
        assert_eq!(
            netns(OsStr::new(&format!("pid:{me}"))).unwrap(),
            PathBuf::from(format!("/proc/{me}/ns/net"))
        );
        assert_eq!(
            netns(OsStr::new("self")).unwrap(),
            PathBuf::from(format!("/proc/{me}/ns/net"))
        );
        // Not what the daemon would take it for.
        assert_eq!(
            netns(OsStr::new("/proc/self/ns/net")).unwrap(),
            PathBuf::from(format!("/proc/{me}/ns/net"))
        );
        let odd = OsStr::from_bytes(b"no\xffne");
        let error = netns(odd).unwrap_err().to_string();
        assert!(
            error.contains("\"no\\xffne\"")
                && error.contains("/run/netns/no\\xffne does not exist"),
            "{error}"
        );
        for wrong in [
            "",
            ".",
            "..",
            "pid:",
            "pid:0",
            "pid:x",
            "/tmp",
            "./nothing-here",
        ] {
            assert!(netns(OsStr::new(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn any_host_name_makes_a_node_name() {
        assert_eq!(label_of(b"Attic-1.example.org\n").as_str(), "attic-1");
        assert_eq!(label_of(b"my_box\n").as_str(), "my-box");
        assert_eq!(label_of(b"42.example.org\n").as_str(), "node-42");
        assert!(new_name("42").is_err() && new_name("42a").is_ok());
        for odd in [&b""[..], b"\n", b"---", b"\xff\xfe", &[b'x'; 200]] {
            assert!(!label_of(odd).as_str().is_empty());
        }
    }

    #[test]
    fn config_is_json_and_an_error_says_where() {
        assert_eq!(config(&OsString::from("{\"a\":1}")).unwrap(), "{\"a\":1}");
        assert!(
            config(&OsString::from("{\"a\":"))
                .unwrap_err()
                .contains("line 1 column")
        );
        assert!(
            config(&OsString::from("@/nonexistent/x"))
                .unwrap_err()
                .contains("/nonexistent/x")
        );
    }
}
