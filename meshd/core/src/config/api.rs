//! `[api]`: who may use the daemon's API, and by which doors.

use crate::ident::escape;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;

/// Most of [`ApiConfig::read`], and of [`ApiConfig::change`].
const PRINCIPALS_MAX: usize = 64;
/// Most of [`ApiConfig::hosts`].
const HOSTS_MAX: usize = 16;

/// `[api]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiConfig {
    /// Who besides root may read by the Unix socket. At most 64.
    pub read: Vec<Principal>,
    /// Who besides root may also change. At most 64.
    pub change: Vec<Principal>,
    /// An address of the loopback where requests with a token are answered, too; `None`: the Unix socket only.
    pub listen: Option<SocketAddr>,
    /// Names by which the port is reached besides those of the loopback, as of a proxy in front of it. At most 16.
    pub hosts: Vec<HostName>,
}

impl ApiConfig {
    /// The key that is wrong, and what is wrong with it.
    pub(super) fn first_wrong(&self) -> Option<(&'static str, String)> {
        let most = |key, count: usize, most: usize| {
            (count > most).then(|| {
                let message = format!("{key} has {count} entries; at most {most} are possible");
                (key, message)
            })
        };
        let open = self.listen.filter(|address| !address.ip().is_loopback());
        open.map(|address| {
            let message = format!(
                "listen is {address}, which others could reach, and the API has no TLS; use an address of the loopback such as \
                 \"127.0.0.1:7651\", and let `ssh -L` or a proxy with TLS on this host lead there"
            );
            ("listen", message)
        })
        .or_else(|| most("read", self.read.len(), PRINCIPALS_MAX))
        .or_else(|| most("change", self.change.len(), PRINCIPALS_MAX))
        .or_else(|| most("hosts", self.hosts.len(), HOSTS_MAX))
    }
}

/// A user, `alice` or `1000`, or a group, `%ops` or `%1000`, as sudoers(5) writes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Principal {
    /// Name or number of a user.
    User(String),
    /// Name or number of a group.
    Group(String),
}

impl TryFrom<String> for Principal {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let (group, name) = match text.strip_prefix('%') {
            Some(name) => (true, name),
            None => (false, text.as_str()),
        };
        let is_name = (1..=256).contains(&name.len())
            && !name.contains(|c: char| {
                c.is_control() || c.is_whitespace() || matches!(c, '%' | ':' | '/' | ',')
            });
        if !is_name {
            return Err(format!(
                "\"{}\" is neither a user such as \"alice\" nor a group such as \"%ops\"",
                escape(text.as_bytes())
            ));
        }
        let name = name.to_owned();
        Ok(if group {
            Self::Group(name)
        } else {
            Self::User(name)
        })
    }
}

impl From<Principal> for String {
    fn from(principal: Principal) -> Self {
        principal.to_string()
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => f.write_str(name),
            Self::Group(name) => write!(f, "%{name}"),
        }
    }
}

/// A host's name or address as a browser writes it into `Host`, without the port, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

impl HostName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for HostName {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let folded = text.trim_end_matches('.').to_ascii_lowercase();
        let is_host = (1..=253).contains(&folded.len())
            && folded
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
        if is_host {
            Ok(Self(folded))
        } else {
            Err(format!(
                "\"{}\" is no host name; use one such as \"meshd.example.org\", without a port",
                escape(text.as_bytes())
            ))
        }
    }
}

impl From<HostName> for String {
    fn from(host: HostName) -> Self {
        host.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn users_groups_and_hosts_read_back_and_others_are_refused() {
        for good in ["alice", "%ops", "1000", "%0", "svc-x"] {
            let read = Principal::try_from(good.to_owned()).map(String::from);
            assert_eq!(read.as_deref(), Ok(good));
        }
        for bad in ["", "%", "a b", "a:b", "%%x", "x\n"] {
            assert!(Principal::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
        assert!(HostName::try_from("a.example:80".to_owned()).is_err());
        assert_eq!(
            HostName::try_from("A.Example.".to_owned()).map(String::from),
            Ok("a.example".to_owned())
        );
    }

    #[test]
    fn an_address_that_others_reach_is_refused_with_what_to_do() {
        let open = Config::parse("[api]\nlisten = \"0.0.0.0:7651\"\n");
        let told = open
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(told.contains("no TLS") && told.contains("ssh -L"), "{told}");
        assert!(told.starts_with("line 2,"), "{told}");
        assert!(Config::parse("[api]\nlisten = \"[::1]:7651\"\n").is_ok());
    }
}
