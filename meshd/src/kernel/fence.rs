//! The fence: VXLAN for our networks is taken from members' VTEPs only, by a table of nf_tables.
//!
//! ```text
//!    UDP to the VXLAN port --hook input, priority -300--> (source address, VNI) in our set?  accept
//!                                                          VNI not one of ours?              accept: another's network
//!                                                          else                              counted, dropped
//! ```
//!
//! Owns the table `inet meshd-<node>`, as long as it bears our mark. It belongs to no process, so it stays when the daemon
//! dies. Each change is one transaction: there is no instant without the fence. Refuses to touch a table of that name
//! that is not marked, and to decide who is a member.

use super::fence_rules::{self as rules, Set};
use super::netlink;
use super::nft::{INET, Message, Nft, Refusal, SUBSYSTEM};
use meshd_core::ident::Vni;
use netlink_proto::sys::{AsyncSocket, TokioSocket};
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// A read or a change that others keep disturbing is tried so often.
const TRIES: u32 = 10;
/// After one change of somebody else's, the rest of it is waited for so long, and this much between two pieces.
const REST: Duration = Duration::from_millis(50);
const GAP: Duration = Duration::from_millis(2);

/// What the fence lets in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FenceState {
    /// The UDP port that is fenced.
    pub port: u16,
    /// Our networks: of these, only members' packets are let in.
    pub vnis: BTreeSet<Vni>,
    /// Members' VTEPs, and for which network.
    pub members: BTreeSet<(IpAddr, Vni)>,
    /// Packets dropped so far. In what is written: where the count begins, if it cannot be kept.
    pub dropped: u64,
}

/// What is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FenceReading {
    /// The fence, as we make it.
    Whole(FenceState),
    /// Nothing.
    Missing,
    /// A table with our mark that is not as we make it: it may let anything in. What is wrong, in words.
    Altered(String),
    /// A table of our name without our mark: it is somebody else's, and so is left alone.
    Foreign,
}

/// Why the fence could not be read or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{step} the fence (nf_tables, {table}): {reason}")]
pub struct FenceError {
    step: &'static str,
    table: String,
    reason: String,
    /// The kernel has no nf_tables, or lacks a part of it: there can be no fence on this host.
    pub unsupported: bool,
}

/// The fence of this node, in the namespace where it was opened.
pub struct Fence {
    nft: Result<Nft, Errno>,
    table: String,
    mark: String,
}

impl Fence {
    /// `id`: eight characters, of which the table's name is made. That the kernel has no netfilter is told by the first
    /// use.
    pub(super) fn open(id: &str, mark: String) -> Self {
        Self {
            nft: Nft::open().map_err(|error| errno(&error)),
            table: format!("meshd-{id}"),
            mark,
        }
    }

    fn nft(&self, step: &'static str) -> Result<&Nft, FenceError> {
        self.nft
            .as_ref()
            .map_err(|error| self.failed(step)(Refusal::from(io::Error::from(*error))))
    }

    fn failed(&self, step: &'static str) -> impl Fn(Refusal) -> FenceError + '_ {
        move |Refusal { error, .. }| {
            let unsupported = matches!(
                error,
                Errno::EPROTONOSUPPORT
                    | Errno::EAFNOSUPPORT
                    | Errno::EOPNOTSUPP
                    | Errno::ENOSYS
                    | Errno::EINVAL
            );
            let hint = match error {
                Errno::EPERM | Errno::EACCES => ": needs CAP_NET_ADMIN (run meshd as root)",
                _ if unsupported => {
                    ": the kernel lacks nf_tables or a part of it (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET)"
                }
                Errno::ERESTART | Errno::EAGAIN => ": others change the rule set all the time",
                _ => "",
            };
            FenceError {
                step,
                table: format!("inet {}", self.table),
                reason: format!("{}{hint}", error.desc()),
                unsupported,
            }
        }
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// Without nf_tables, or without the rights.
    pub async fn read(&self) -> Result<FenceReading, FenceError> {
        let (reading, _) = self.read_generation("read").await?;
        Ok(reading)
    }

    /// The fence as we make it; anything else is a failure. For the trial of what the kernel can do.
    pub(super) async fn read_whole(&self) -> Result<FenceState, FenceError> {
        match self.read().await? {
            FenceReading::Whole(state) => Ok(state),
            other => Err(FenceError {
                step: "read back",
                table: format!("inet {}", self.table),
                reason: format!("it is written, and reads otherwise: {other:?}"),
                unsupported: true,
            }),
        }
    }

    /// What is there, and the generation of the rule set that it is from.
    async fn read_generation(&self, step: &'static str) -> Result<(FenceReading, u32), FenceError> {
        let nft = self.nft(step)?;
        let failed = |error| self.failed(step)(Refusal { error, at: None });
        for _ in 0..TRIES {
            let before = generation(nft).await.map_err(failed)?;
            let reading = match self.read_once(nft).await {
                // It went away meanwhile.
                Err(Errno::ENOENT) => FenceReading::Missing,
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                reading => reading.map_err(failed)?,
            };
            if generation(nft).await.map_err(failed)? == before {
                return Ok((reading, before));
            }
        }
        Err(failed(Errno::EAGAIN))
    }

    async fn read_once(&self, nft: &Nft) -> Result<FenceReading, Errno> {
        let table = nft
            .get(&rules::question(rules::GETTABLE, &self.table, None))
            .await?;
        if !rules::is_marked(&table, &self.mark) {
            return Ok(FenceReading::Foreign);
        }
        let all = async |kind| -> Result<Vec<Vec<u8>>, Errno> {
            let mut all = nft.dump(&rules::question(kind, &self.table, None)).await?;
            all.retain(|body| rules::is_of_table(body, &self.table));
            Ok(all)
        };
        let (chains, sets) = (all(rules::GETCHAIN).await?, all(rules::GETSET).await?);
        let fault = rules::table_fault(&table)
            .or_else(|| rules::chains_fault(&chains))
            .or_else(|| rules::sets_fault(&sets));
        if let Some(fault) = fault {
            return Ok(FenceReading::Altered(fault.to_owned()));
        }
        let Some((port, dropped)) = rules::read_rules(&all(rules::GETRULE).await?) else {
            return Ok(FenceReading::Altered(
                "a rule is missing or otherwise".to_owned(),
            ));
        };
        let mut state = FenceState {
            port,
            dropped,
            ..FenceState::default()
        };
        for set in Set::ALL {
            let question = rules::question(rules::GETSETELEM, &self.table, Some(set));
            let dump = nft.dump(&question).await?;
            for key in rules::read_elements(&dump) {
                let known = match set {
                    Set::Vnis => rules::read_vni(key).map(|vni| state.vnis.insert(vni)),
                    _ => rules::read_member(key).map(|member| state.members.insert(member)),
                };
                if known.is_none() {
                    let fault = format!("the set {} has an element that means nothing", set.name());
                    return Ok(FenceReading::Altered(fault));
                }
            }
        }
        Ok(FenceReading::Whole(state))
    }

    /// Makes it so, in one transaction, whatever of ours is there. If the fence is whole, only elements are added and
    /// removed. The count is kept; only that of an altered fence begins at [`FenceState::dropped`].
    ///
    /// # Errors
    /// Nothing is changed then: without nf_tables or the rights, or if the table is another's.
    pub async fn write(&self, wanted: &FenceState) -> Result<(), FenceError> {
        let step = "write";
        let nft = self.nft(step)?;
        for _ in 0..TRIES {
            let (reading, generation) = self.read_generation(step).await?;
            let changes = match &reading {
                FenceReading::Foreign => {
                    return Err(FenceError {
                        step,
                        table: format!("inet {}", self.table),
                        reason: "a table of that name is there that is not this node's: remove it"
                            .to_owned(),
                        unsupported: false,
                    });
                }
                FenceReading::Whole(there) if there.port == wanted.port => {
                    self.difference(there, wanted)
                }
                FenceReading::Whole(there) => self.anew(wanted, there.dropped),
                FenceReading::Missing | FenceReading::Altered(_) => {
                    self.anew(wanted, wanted.dropped)
                }
            };
            match nft.commit(Some(generation), &changes).await {
                Ok(()) => return Ok(()),
                // Somebody changed the rule set since it was read; or it was: look again.
                Err(refusal) if refusal.error == Errno::ERESTART => {}
                Err(refusal) => return Err(self.failed(step)(refusal)),
            }
        }
        Err(self.failed(step)(Refusal {
            error: Errno::ERESTART,
            at: None,
        }))
    }

    fn anew(&self, wanted: &FenceState, dropped: u64) -> Vec<Message> {
        let mut changes = rules::creation(&self.table, &self.mark, wanted.port, dropped);
        let nothing = FenceState::default();
        changes.extend(self.difference(&nothing, wanted));
        changes
    }

    /// Removals come last within the transaction; there is no order in it that a packet could see.
    fn difference(&self, there: &FenceState, wanted: &FenceState) -> Vec<Message> {
        let vnis = |from: &FenceState, without: &FenceState| {
            let vnis = from.vnis.difference(&without.vnis);
            vnis.map(|vni| rules::vni_key(*vni)).collect::<Vec<_>>()
        };
        let members = |from: &FenceState, without: &FenceState| {
            let members = from.members.difference(&without.members);
            members.copied().collect::<Vec<_>>()
        };
        let mut changes = rules::elements(&self.table, Set::Vnis, &vnis(wanted, there), true);
        changes.extend(self.member_changes(&members(wanted, there), true));
        changes.extend(self.member_changes(&members(there, wanted), false));
        let gone = vnis(there, wanted);
        changes.extend(rules::elements(&self.table, Set::Vnis, &gone, false));
        changes
    }

    fn member_changes(&self, members: &[(IpAddr, Vni)], add: bool) -> Vec<Message> {
        let of = |set| {
            let keys: Vec<_> = members
                .iter()
                .filter(|(ip, _)| Set::of(*ip) == set)
                .map(|(ip, vni)| rules::member_key(*ip, *vni))
                .collect();
            rules::elements(&self.table, set, &keys, add)
        };
        [of(Set::Members4), of(Set::Members6)].concat()
    }

    /// Adds and removes members in one transaction, without reading first. Adding one that is there is no error.
    ///
    /// # Errors
    /// As [`Self::write`]; also if the fence or a member to be removed is not there. Nothing is changed then: read again.
    pub async fn change(
        &self,
        add: &[(IpAddr, Vni)],
        remove: &[(IpAddr, Vni)],
    ) -> Result<(), FenceError> {
        let step = "change the members of";
        let nft = self.nft(step)?;
        let mut changes = self.member_changes(add, true);
        changes.extend(self.member_changes(remove, false));
        nft.commit(None, &changes).await.map_err(self.failed(step))
    }

    /// Removes the table if it is ours. VXLAN devices must be down or gone before.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn remove(&self) -> Result<(), FenceError> {
        let step = "remove";
        let nft = self.nft(step)?;
        for _ in 0..TRIES {
            let (reading, generation) = self.read_generation(step).await?;
            if matches!(reading, FenceReading::Missing | FenceReading::Foreign) {
                return Ok(());
            }
            let table = rules::question(rules::DELTABLE, &self.table, None);
            match nft.commit(Some(generation), &[table]).await {
                Ok(()) => return Ok(()),
                Err(refusal) if refusal.error == Errno::ERESTART => {}
                Err(refusal) => return Err(self.failed(step)(refusal)),
            }
        }
        Err(self.failed(step)(Refusal {
            error: Errno::ERESTART,
            at: None,
        }))
    }

    /// Watches from now on. Read after this, so that nothing falls between.
    ///
    /// # Errors
    /// Without nf_tables, or without the rights.
    pub fn watch(&self) -> Result<FenceWatch, FenceError> {
        let own = self.nft("watch")?.port();
        let socket =
            Nft::subscribe().map_err(|error| self.failed("watch")(Refusal::from(error)))?;
        Ok(FenceWatch {
            socket,
            own,
            table: self.table.clone(),
        })
    }
}

async fn generation(nft: &Nft) -> Result<u32, Errno> {
    const GEN_ID: u16 = 1;
    let answer = nft.get(&rules::question(rules::GETGEN, "", None)).await?;
    rules::value(&answer, GEN_ID)
        .and_then(|id| id.first_chunk::<4>().copied())
        .map(u32::from_be_bytes)
        .ok_or(Errno::EBADMSG)
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// Hears what others do to the fence.
pub struct FenceWatch {
    socket: TokioSocket,
    own: u32,
    table: String,
}

impl FenceWatch {
    /// Waits until somebody else changed the fence, or may have: read it then. May be dropped and called again at any
    /// time.
    ///
    /// # Errors
    /// If the socket fails.
    pub async fn changed(&mut self) -> io::Result<()> {
        while !self.next().await? {}
        // The rest of the same change, so that one transaction is one piece of news.
        let until = tokio::time::Instant::now() + REST;
        while tokio::time::Instant::now() < until {
            if tokio::time::timeout(GAP, self.next()).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn next(&mut self) -> io::Result<bool> {
        let read = std::future::poll_fn(|cx| self.socket.poll_recv_from_full(cx)).await;
        match read {
            Ok((datagram, _)) => Ok(netlink::parts(&datagram).any(|part| {
                let is_ours = part.body.first() == Some(&INET)
                    && part
                        .body
                        .get(4..)
                        .is_some_and(|body| rules::is_of_table(body, &self.table));
                part.kind & 0xff00 == SUBSYSTEM && part.port != self.own && is_ours
            })),
            // Some were lost.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
#[path = "fence_tests.rs"]
mod tests;
