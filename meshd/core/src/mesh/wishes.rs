//! What an operator asks of the mesh: networks, invites, revocations.

use super::Mesh;
use crate::code::ErrorCode;
use crate::command::{InviteSpec, NetworkSpec, Refusal, Reply};
use crate::ident::{Now, WallTime};
use crate::networks::{self, Added, Author};
use crate::node::Output;
use crate::notice::Notice;
use crate::outbox::Outbox;
use crate::wire::record::{
    Membership, NETWORKS_MAX, NetworkDef, REVOKED_MAX, Record, Revocations, Role,
};

impl Mesh {
    fn author(&self, wall: WallTime) -> Author {
        let node = self.directory.me();
        let role = self.directory.member(node).map_or(Role::Member, |m| m.role);
        Author { node, role, wall }
    }

    /// Defines a network, or finds that it is defined so already.
    ///
    /// # Errors
    /// If this node is no admin, the name or VNI is taken, or subnets or MTU cannot be.
    pub fn add_network(
        &mut self,
        spec: &NetworkSpec,
        now: Now,
        out: &mut Outbox,
    ) -> Result<Added, Refusal> {
        let (directory, author) = (&self.directory, self.author(now.wall));
        let added = networks::add(spec, author, directory.networks(), directory.own_networks())?;
        if let Added::New(def) = &added {
            if self.directory.networks().count() >= NETWORKS_MAX {
                return refuse(
                    ErrorCode::NetworksFull,
                    format!("the mesh has {NETWORKS_MAX} networks already; remove one"),
                );
            }
            if let Err(why) = self
                .directory
                .publish(Record::Network(def.clone()), now, out)
            {
                return refuse(
                    ErrorCode::RecordRefused,
                    format!("network {}: {why}", def.name),
                );
            }
            out.push(Output::Notice(Notice::NetworkAdded {
                vni: def.vni,
                name: def.name.to_string(),
            }));
            self.follow_up(now, out);
        }
        Ok(added)
    }

    /// Removes a network that no reachable node has a port on; the answer is its tombstone.
    ///
    /// # Errors
    /// If it is unknown, of another author, or in use.
    pub fn remove_network(
        &mut self,
        text: &str,
        now: Now,
        out: &mut Outbox,
    ) -> Result<NetworkDef, Refusal> {
        let (directory, author) = (&self.directory, self.author(now.wall));
        let users = |vni| {
            let here = self
                .own_advert()
                .is_some_and(|a| a.networks.contains(&vni))
                .then_some(author.node);
            here.into_iter()
                .chain(directory.members_with_network(vni))
                .map(|node| directory.show(node))
                .collect()
        };
        let def = networks::remove(
            text,
            author,
            directory.networks(),
            directory.own_networks(),
            users,
        )?;
        if let Err(why) = self
            .directory
            .publish(Record::Network(def.clone()), now, out)
        {
            return refuse(
                ErrorCode::RecordRefused,
                format!("network {}: {why}", def.name),
            );
        }
        out.push(Output::Notice(Notice::NetworkRemoved {
            vni: def.vni,
            name: def.name.to_string(),
        }));
        self.follow_up(now, out);
        Ok(def)
    }

    /// Opens an invite.
    ///
    /// # Errors
    /// Without the root key, with a strange time to live or labels, or if 1024 are kept.
    pub fn invite(
        &mut self,
        spec: &InviteSpec,
        now: Now,
        out: &mut Outbox,
    ) -> Result<Reply, Refusal> {
        self.invites.open(spec, &*self.keyring, now, out)
    }

    /// Takes a member's rights, everywhere, for good.
    ///
    /// # Errors
    /// Without the root key, for oneself, for nobody.
    pub fn revoke(&mut self, member: &str, now: Now, out: &mut Outbox) -> Result<Reply, Refusal> {
        let Some(Membership { node, name, .. }) = self.directory.find_member(member).cloned()
        else {
            let already = self
                .directory
                .revoked()
                .iter()
                .any(|node| member.len() >= 6 && node.to_string().starts_with(member));
            return if already {
                Ok(Reply::Done)
            } else {
                refuse(
                    ErrorCode::MemberUnknown,
                    format!(
                        "no member is called {member:?}, and no id begins so in only one way; `meshd members` shows all"
                    ),
                )
            };
        };
        if node == self.directory.me() {
            return refuse(
                ErrorCode::RevokeSelf,
                format!("{name} is this node; a node cannot revoke itself"),
            );
        }
        if self.keyring.sign_as_root(b"").is_none() {
            return refuse(ErrorCode::RootKeyElsewhere, "this node cannot revoke: only the node that ran `meshd init` holds the mesh's root key; revoke there".into());
        }
        let mut nodes = self.directory.revoked().clone();
        nodes.insert(node);
        if nodes.len() > REVOKED_MAX {
            return refuse(
                ErrorCode::RevocationsFull,
                format!("the list of revocations is full ({REVOKED_MAX} keys)"),
            );
        }
        let list = Revocations {
            mesh: self.mesh,
            serial: 0,
            nodes: nodes.into_iter().collect(),
        };
        if let Err(why) = self.directory.publish(Record::Revocations(list), now, out) {
            return refuse(ErrorCode::RecordRefused, format!("revoke {name}: {why}"));
        }
        self.follow_up(now, out);
        Ok(Reply::Done)
    }

    /// Does this node hold the mesh's root key?
    #[must_use]
    pub fn has_root(&self) -> bool {
        self.keyring.sign_as_root(&[]).is_some()
    }
}

pub(super) fn refuse<T>(code: ErrorCode, message: String) -> Result<T, Refusal> {
    Err(Refusal { code, message })
}
