//! Who may do what: by the kernel's word on the Unix socket, by a token over TCP.
//!
//! ```text
//!   Unix   uid, groups --Rules--> nothing | read | change       once a connection
//!   TCP    Host, Origin, token --Gate--> nothing | read | change   each request
//! ```
//!
//! Owns the rules, and the words of each refusal: who was refused, and what would let them in.

use super::credentials::Peer;
use super::extract::ApiError;
use super::rates::Whose;
use super::tokens::Tokens;
use axum::http::{HeaderMap, Uri, header, uri::Authority};
use meshd_core::code::ErrorCode;
use meshd_core::config::{ApiConfig, HostName, Principal};
use meshd_core::ident::escape;
use nix::unistd::{Group, User};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rights {
    /// Nothing.
    None,
    /// Read.
    Read,
    /// All.
    Change,
}

/// Who may use the Unix socket besides root and the daemon's own user.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    readers: Named,
    changers: Named,
}

#[derive(Clone, Debug, Default)]
struct Named {
    users: BTreeSet<u32>,
    groups: BTreeSet<u32>,
}

impl Named {
    /// By name or number; of those that this host does not know, a line each in the log.
    fn find(principals: &[Principal], key: &str) -> Self {
        let mut named = Self::default();
        for principal in principals {
            let found = match principal {
                Principal::User(name) => {
                    let id = name.parse().ok().or_else(|| {
                        let user = User::from_name(name).ok().flatten();
                        user.map(|user| user.uid.as_raw())
                    });
                    id.map(|id| named.users.insert(id))
                }
                Principal::Group(name) => {
                    let id = name.parse().ok().or_else(|| {
                        let group = Group::from_name(name).ok().flatten();
                        group.map(|group| group.gid.as_raw())
                    });
                    id.map(|id| named.groups.insert(id))
                }
            };
            if found.is_none() {
                tracing::warn!(
                    code = %ErrorCode::ApiPrincipalUnknown, "`{key}` under [api] names {principal}, whom this host does not know; nobody is let in by it until the daemon is restarted"
                );
            }
        }
        named
    }

    fn has(&self, peer: &Peer) -> bool {
        self.users.contains(&peer.uid) || peer.groups.iter().any(|gid| self.groups.contains(gid))
    }
}

impl Rules {
    /// As the config says.
    #[must_use]
    pub fn of(config: &ApiConfig) -> Self {
        Self {
            readers: Named::find(&config.read, "read"),
            changers: Named::find(&config.change, "change"),
        }
    }

    /// True if others than root may connect.
    #[must_use]
    pub fn have_guests(&self) -> bool {
        let some = |named: &Named| !named.users.is_empty() || !named.groups.is_empty();
        some(&self.readers) || some(&self.changers)
    }

    fn rights(&self, peer: &Peer) -> Rights {
        if is_own(peer.uid) || self.changers.has(peer) {
            Rights::Change
        } else if self.readers.has(peer) {
            Rights::Read
        } else {
            Rights::None
        }
    }
}

fn is_own(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}

/// Who made a request.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    /// By the Unix socket.
    Local {
        /// The user.
        uid: u32,
        /// What it may do.
        rights: Rights,
    },
    /// By TCP.
    Remote {
        /// From where.
        from: SocketAddr,
        /// What decides.
        gate: Arc<Gate>,
    },
}

impl Caller {
    /// Of a connection by the Unix socket.
    pub(super) fn local(peer: &Peer, rules: &Rules) -> Self {
        Self::Local {
            uid: peer.uid,
            rights: rules.rights(peer),
        }
    }

    /// Root, or the daemon's own user: places are kept for these.
    pub(super) fn is_own(&self) -> bool {
        matches!(self, Self::Local { uid, .. } if is_own(*uid))
    }

    /// May this request be answered, by which rights, and in whose name is it counted? `changes`: it is for who may change.
    pub(super) fn admit(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        changes: bool,
    ) -> (Whose, Result<Rights, ApiError>) {
        let wanted = if changes {
            Rights::Change
        } else {
            Rights::Read
        };
        match self {
            Self::Local { uid, rights } => {
                let whose = if is_own(*uid) {
                    Whose::Own
                } else {
                    Whose::User(*uid)
                };
                let refused = match rights {
                    rights if *rights >= wanted => None,
                    Rights::None => Some(format!(
                        "user {uid} may not use this daemon; name the user or one of its groups in `read` or `change` under [api] in the config file, or ask as root"
                    )),
                    _ => Some(format!(
                        "user {uid} may read here and change nothing; name the user or one of its groups in `change` under [api] in the config file, or ask as root"
                    )),
                };
                let done = refused.map_or(Ok(*rights), |message| {
                    Err(ApiError::new(ErrorCode::UserForbidden, message))
                });
                (whose, done)
            }
            Self::Remote { from, gate } => {
                let ip = from.ip();
                match gate.rights(uri, headers) {
                    Err(refusal) => (Whose::Stranger(ip), Err(refusal)),
                    Ok(rights) if rights >= wanted => (Whose::Token(ip, rights), Ok(rights)),
                    Ok(rights) => {
                        let message =
                            "this token may read and change nothing; use that of `meshd api token`";
                        let refusal = ApiError::new(ErrorCode::TokenReadOnly, message);
                        (Whose::Token(ip, rights), Err(refusal))
                    }
                }
            }
        }
    }
}

/// What stands before the TCP port.
#[derive(Debug)]
pub struct Gate {
    tokens: Tokens,
    hosts: Vec<HostName>,
}

impl Gate {
    /// Of tokens, and of names beside those of the loopback.
    #[must_use]
    pub fn new(tokens: Tokens, hosts: Vec<HostName>) -> Self {
        Self { tokens, hosts }
    }

    fn rights(&self, uri: &Uri, headers: &HeaderMap) -> Result<Rights, ApiError> {
        self.right_host(uri, headers)?;
        let told = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| {
                let (scheme, token) = value.split_once(' ')?;
                scheme
                    .eq_ignore_ascii_case("bearer")
                    .then_some(token.trim())
            });
        let Some(told) = told else {
            let message = "a token is needed here: `Authorization: Bearer TOKEN`, with TOKEN of `meshd api token` on the daemon's host";
            return Err(ApiError::new(ErrorCode::TokenMissing, message));
        };
        match self.tokens.rights(told) {
            Ok(Rights::None) => {
                let message =
                    "this is not the daemon's token; `meshd api token` on its host prints it";
                Err(ApiError::new(ErrorCode::TokenWrong, message))
            }
            Ok(rights) => Ok(rights),
            Err(message) => Err(ApiError::new(ErrorCode::TokenMissing, message)),
        }
    }

    /// Somebody's web page cannot have a browser speak to the daemon: neither by a name that came to mean the loopback (DNS
    /// rebinding: `Host` is that name) nor from its own site (`Origin` is that site).
    fn right_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let host = match (uri.authority(), hosts.next(), hosts.next()) {
            (Some(authority), _, None) => authority.as_str().to_owned(),
            (None, Some(host), None) => String::from_utf8_lossy(host.as_bytes()).into_owned(),
            _ => String::new(),
        };
        if !self.is_ours(&host) {
            let message = format!(
                "\"{}\" is no name of this daemon; ask by 127.0.0.1 or localhost, or put the name into `hosts` under [api]",
                escape(host.as_bytes())
            );
            return Err(ApiError::new(ErrorCode::HostForbidden, message));
        }
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let foreign = origins.find(|origin| {
            let origin = origin.to_str().unwrap_or_default();
            let site = origin
                .strip_prefix("http://")
                .or_else(|| origin.strip_prefix("https://"));
            // A page of the daemon's own, by the name and port that the request is for.
            site.is_none_or(|site| !site.eq_ignore_ascii_case(&host))
        });
        match foreign {
            None => Ok(()),
            Some(origin) => {
                let message = format!(
                    "pages of \"{}\" may not ask this daemon",
                    escape(origin.as_bytes())
                );
                Err(ApiError::new(ErrorCode::OriginForbidden, message))
            }
        }
    }

    fn is_ours(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else {
            return false;
        };
        // `user@host` is nothing that a client writes.
        if host.contains('@') {
            return false;
        }
        let name = authority.host().trim_end_matches('.').to_ascii_lowercase();
        let bare = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'))
            .unwrap_or(&name);
        name == "localhost"
            || bare
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback())
            || self.hosts.iter().any(|ours| ours.as_str() == name)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn peer(uid: u32, groups: &[u32]) -> Peer {
        Peer {
            uid,
            groups: groups.to_vec(),
        }
    }

    #[test]
    fn users_and_groups_have_the_rights_that_the_config_gives() {
        let config = ApiConfig {
            read: vec![
                Principal::User("4001".to_owned()),
                Principal::Group("5001".to_owned()),
            ],
            change: vec![
                Principal::Group("5002".to_owned()),
                Principal::Group("no-such-group-here".to_owned()),
            ],
            ..ApiConfig::default()
        };
        let rules = Rules::of(&config);
        assert!(rules.have_guests() && !Rules::default().have_guests());
        for (peer, rights) in [
            (peer(0, &[0]), Rights::Change),
            (peer(4001, &[1]), Rights::Read),
            (peer(4002, &[1, 5001]), Rights::Read),
            (peer(4002, &[5002, 5001]), Rights::Change),
            (peer(4003, &[4001]), Rights::None),
        ] {
            assert_eq!(rules.rights(&peer), rights, "{peer:?}");
        }
    }

    #[test]
    fn only_names_of_this_daemon_are_answered_to() {
        let folder = tempfile::tempdir().unwrap();
        let hosts = vec![HostName::try_from("mesh.example".to_owned()).unwrap()];
        let gate = Gate::new(Tokens::new(folder.path()), hosts);
        for ours in [
            "127.0.0.1",
            "127.0.0.1:7651",
            "[::1]:7651",
            "localhost:1",
            "LOCALHOST.",
            "mesh.example",
            "mesh.example:443",
        ] {
            assert!(gate.is_ours(ours), "{ours}");
        }
        for foreign in [
            "",
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example:7651",
            "10.0.0.1",
            "127.0.0.1@evil.example",
            "evil@127.0.0.1",
            "[::1",
            "a b",
        ] {
            assert!(!gate.is_ours(foreign), "{foreign}");
        }
    }

    #[test]
    fn a_page_of_another_site_is_refused_and_one_of_our_own_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let gate = Gate::new(Tokens::new(folder.path()), Vec::new());
        let uri = Uri::from_static("/v1/status");
        for (origin, fine) in [
            (None, true),
            (Some("http://127.0.0.1:7651"), true),
            (Some("http://127.0.0.1:80"), false),
            (Some("https://evil.example"), false),
            (Some("null"), false),
            (Some(""), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("127.0.0.1:7651"));
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            }
            assert_eq!(gate.right_host(&uri, &headers).is_ok(), fine, "{origin:?}");
        }
        let mut two = HeaderMap::new();
        two.append(header::HOST, HeaderValue::from_static("127.0.0.1"));
        two.append(header::HOST, HeaderValue::from_static("evil.example"));
        assert!(gate.right_host(&uri, &two).is_err());
    }
}
