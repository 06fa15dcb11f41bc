//! Invites: a secret, handed over by a person, that turns a key into a member once.
//!
//! ```text
//!   invite ---> open (hash of the secret) ---join---> used (by one key) ---> membership, signed by the root
//!                    |  too late                           | the same key again: the same answer
//!                    v                                     v another key
//!                 Expired                                 Used
//! ```
//!
//! Owns the invites of this node and the count of wrong guesses. Keeps only hashes of secrets; a lookup by hash tells a
//! guesser nothing by its time. Everything that a member is made of is durable before the newcomer hears of it.

use crate::code::ErrorCode;
use crate::command::{InviteSpec, Refusal, Reply};
use crate::directory::Directory;
use crate::ident::{Label, MeshId, Moment, NodeId, Now, WallTime};
use crate::node::Output;
use crate::notice::Notice;
use crate::outbox::Outbox;
use crate::state::{self, StateKey};
use crate::wire::control::{JoinRefusal, JoinRequest, VERSION, Welcome};
use crate::wire::record::{Keyring, Membership, Record, RecordKey, Role};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Most invites that are kept, used ones among them.
const INVITES_MAX: usize = 1024;
/// Longest time to live: 30 days.
const TTL_S_MAX: u64 = 30 * 24 * 3600;
/// An expired invite is known this long, so that its holder hears what is wrong.
const KEPT_EXPIRED_MS: u64 = 24 * 3600 * 1000;
/// Wrong secrets from one address in [`WRONG_WINDOW_MS`] before it is told to slow down.
const WRONG_MAX: u32 = 5;
const WRONG_WINDOW_MS: u64 = 60_000;
/// Addresses whose wrong guesses are counted.
const WRONG_TABLE_MAX: usize = 1024;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Invite {
    role: Role,
    labels: BTreeMap<String, String>,
    expires: WallTime,
    used_by: Option<NodeId>,
}

pub(crate) struct Invites {
    mesh: MeshId,
    mesh_name: Label,
    by_hash: BTreeMap<[u8; 32], Invite>,
    wrong: BTreeMap<IpAddr, (u32, Moment)>,
}

impl Invites {
    pub(crate) fn new(mesh: MeshId, mesh_name: Label, state: &[(Vec<u8>, Vec<u8>)]) -> Self {
        let kept = state
            .iter()
            .filter_map(|(key, value)| match StateKey::decode(key) {
                Ok(StateKey::Invite(hash)) => Some((hash, state::decode(value).ok()?)),
                _ => None,
            });
        Self {
            mesh,
            mesh_name,
            by_hash: kept.take(INVITES_MAX).collect(),
            wrong: BTreeMap::new(),
        }
    }

    /// Opens an invite.
    pub(crate) fn open(
        &mut self,
        spec: &InviteSpec,
        keyring: &dyn Keyring,
        now: Now,
        out: &mut Outbox,
    ) -> Result<Reply, Refusal> {
        let refuse = |code, message: &str| {
            Err(Refusal {
                code,
                message: message.into(),
            })
        };
        if keyring.sign_as_root(b"").is_none() {
            return refuse(
                ErrorCode::RootKeyElsewhere,
                "this node cannot invite: only the node that ran `meshd init` holds the mesh's root key; invite there",
            );
        }
        if !(1..=TTL_S_MAX).contains(&spec.ttl_s) {
            return refuse(
                ErrorCode::InviteInvalid,
                "an invite lives 1 second to 30 days; give such a --ttl",
            );
        }
        let probe = Record::Membership(Membership {
            mesh: self.mesh,
            node: keyring.node(),
            name: self.mesh_name.clone(),
            role: spec.role,
            labels: spec.labels.clone(),
            serial: 0,
            issued: now.wall,
            expires: None,
        });
        if let Err(why) = probe.check_shape() {
            return refuse(
                ErrorCode::LabelInvalid,
                &format!("{why}; give fewer or shorter labels"),
            );
        }
        self.sweep(now, out);
        if self.by_hash.len() >= INVITES_MAX {
            return refuse(
                ErrorCode::InvitesFull,
                "1024 invites are kept already; wait until some have expired",
            );
        }
        let hash = keyring.hash(&spec.secret);
        let expires = WallTime(now.wall.0.saturating_add(spec.ttl_s.saturating_mul(1000)));
        self.keep(
            hash,
            Invite {
                role: spec.role,
                labels: spec.labels.clone(),
                expires,
                used_by: None,
            },
            out,
        );
        Ok(Reply::Invite { expires: expires.0 })
    }

    /// Makes `key`, which holds its session, a member if it brings a secret that counts.
    pub(crate) fn redeem(
        &mut self,
        request: &JoinRequest,
        key: NodeId,
        remote: SocketAddr,
        directory: &mut Directory,
        keyring: &dyn Keyring,
        now: Now,
        out: &mut Outbox,
    ) -> Result<Welcome, JoinRefusal> {
        let result = self.try_redeem(request, key, remote, directory, keyring, now, out);
        if let Err(why) = &result {
            out.push(Output::Notice(Notice::InviteRefused {
                remote: remote.to_string(),
                reason: why.to_string(),
            }));
        }
        result
    }

    fn try_redeem(
        &mut self,
        request: &JoinRequest,
        key: NodeId,
        remote: SocketAddr,
        directory: &mut Directory,
        keyring: &dyn Keyring,
        now: Now,
        out: &mut Outbox,
    ) -> Result<Welcome, JoinRefusal> {
        if request.version != VERSION {
            return Err(JoinRefusal::Version);
        }
        if request.mesh != self.mesh {
            return Err(JoinRefusal::OtherMesh);
        }
        if keyring.sign_as_root(b"").is_none() {
            return Err(JoinRefusal::NoRoot);
        }
        if self.is_slowed(remote.ip(), now.moment) {
            return Err(JoinRefusal::SlowDown);
        }
        let hash = keyring.hash(&request.secret);
        let Some(invite) = self.by_hash.get(&hash).cloned() else {
            self.count_wrong(remote.ip(), now.moment);
            return Err(JoinRefusal::Unknown);
        };
        if directory.is_revoked(key) {
            return Err(JoinRefusal::Revoked);
        }
        match invite.used_by {
            // The answer was lost.
            Some(user) if user == key && directory.member(key).is_some() => {
                return self.welcome(key, directory).ok_or(JoinRefusal::NoRoot);
            }
            Some(user) if user != key => return Err(JoinRefusal::Used),
            _ if key == directory.me() => return Err(JoinRefusal::Used),
            _ if invite.expires <= now.wall => return Err(JoinRefusal::Expired),
            _ => {}
        }
        let before = directory.member(key);
        let name = before.map_or_else(|| unique_name(&request.name, directory), |m| m.name.clone());
        let membership = Membership {
            mesh: self.mesh,
            node: key,
            name: name.clone(),
            role: invite.role,
            labels: invite.labels.clone(),
            serial: 0,
            issued: before.map_or(now.wall, |m| m.issued),
            expires: None,
        };
        self.keep(
            hash,
            Invite {
                used_by: Some(key),
                ..invite
            },
            out,
        );
        directory
            .publish(Record::Membership(membership), now, out)
            .map_err(|_| JoinRefusal::NoRoot)?;
        out.push(Output::Notice(Notice::InviteUsed {
            node: key,
            name: name.to_string(),
        }));
        self.welcome(key, directory).ok_or(JoinRefusal::NoRoot)
    }

    fn welcome(&self, key: NodeId, directory: &Directory) -> Option<Welcome> {
        let me = directory.me();
        let records = [RecordKey::Membership(me), RecordKey::Node(me)]
            .iter()
            .filter_map(|key| directory.signed(key).cloned())
            .collect();
        Some(Welcome {
            mesh_name: self.mesh_name.clone(),
            membership: directory.signed(&RecordKey::Membership(key))?.clone(),
            records,
        })
    }

    fn keep(&mut self, hash: [u8; 32], invite: Invite, out: &mut Outbox) {
        state::keep(out, &StateKey::Invite(hash), &invite);
        self.by_hash.insert(hash, invite);
    }

    /// Forgets what expired a day ago.
    pub(crate) fn sweep(&mut self, now: Now, out: &mut Outbox) {
        let over = |invite: &Invite| invite.expires.0.saturating_add(KEPT_EXPIRED_MS) <= now.wall.0;
        let mut old: Vec<[u8; 32]> = self
            .by_hash
            .iter()
            .filter(|(_, invite)| over(invite))
            .map(|(hash, _)| *hash)
            .collect();
        if self.by_hash.len() - old.len() >= INVITES_MAX {
            // No room: those that expired at all go.
            old = self
                .by_hash
                .iter()
                .filter(|(_, invite)| invite.expires <= now.wall)
                .map(|(hash, _)| *hash)
                .collect();
        }
        for hash in old {
            self.by_hash.remove(&hash);
            state::forget(out, &StateKey::Invite(hash));
        }
        self.wrong
            .retain(|_, (_, since)| now.moment.ms_since(*since) < WRONG_WINDOW_MS);
    }

    fn is_slowed(&self, ip: IpAddr, now: Moment) -> bool {
        self.wrong
            .get(&neighbourhood(ip))
            .is_some_and(|&(count, since)| {
                count >= WRONG_MAX && now.ms_since(since) < WRONG_WINDOW_MS
            })
    }

    fn count_wrong(&mut self, ip: IpAddr, now: Moment) {
        let ip = neighbourhood(ip);
        self.wrong
            .retain(|_, (_, since)| now.ms_since(*since) < WRONG_WINDOW_MS);
        if self.wrong.len() >= WRONG_TABLE_MAX
            && !self.wrong.contains_key(&ip)
            && let Some(oldest) = self
                .wrong
                .iter()
                .min_by_key(|(_, (_, since))| *since)
                .map(|(ip, _)| *ip)
        {
            self.wrong.remove(&oldest);
        }
        self.wrong.entry(ip).or_insert((0, now)).0 += 1;
    }
}

/// One guesser has one IPv4 address, or a whole /64.
fn neighbourhood(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        },
        IpAddr::V4(_) => ip,
    }
}

/// The name, or the first of `name-2`, `name-3` … that no member has; a name that could be taken for an id is had by its owner.
fn unique_name(wish: &Label, directory: &Directory) -> Label {
    if directory.name_is_free(wish) {
        return wish.clone();
    }
    let taken: std::collections::BTreeSet<&Label> = directory.members().map(|m| &m.name).collect();
    // There is no dash in an id, so none begins like these.
    let numbered = (2u32..).find_map(|n| {
        let suffix = format!("-{n}");
        let stem: String = wish.as_str().chars().take(63 - suffix.len()).collect();
        format!("{}{suffix}", stem.trim_end_matches('-'))
            .parse::<Label>()
            .ok()
            .filter(|label| !taken.contains(label))
    });
    // There are fewer members than numbers.
    numbered.unwrap_or_else(|| wish.clone())
}
