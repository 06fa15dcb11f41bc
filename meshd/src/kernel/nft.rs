//! nf_tables over netlink: transactions, dumps, and the attributes of rules.
//!
//! ```text
//!    BATCH_BEGIN | change | change | … | BATCH_END   --one datagram-->   all of it holds from one instant on, or nothing
//! ```
//!
//! Owns one socket, whose number tells our own changes from those of others. Refuses to know what the rules are for.

use super::batch::{set_receive_buffer, set_send_buffer};
use super::netlink::{self, Body};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST};
use netlink_proto::sys::{AsyncSocket, SocketAddr, TokioSocket, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;
use std::io;
use std::time::Duration;
use tokio::sync::Mutex;

/// `NFNL_SUBSYS_NFTABLES << 8` of linux/netfilter/nfnetlink.h: added to each `NFT_MSG_*`.
pub(super) const SUBSYSTEM: u16 = 10 << 8;
/// `NFPROTO_INET`: IPv4 and IPv6.
pub(super) const INET: u8 = 1;
/// `1 << (NFNLGRP_NFTABLES - 1)`.
const GROUP: u32 = 1 << 6;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NLMSG_DONE: u16 = 3;
/// The kernel answers at once; without an answer something is badly wrong.
const PATIENCE: Duration = Duration::from_secs(10);
/// Beyond what a transaction of 100,000 elements takes.
const SEND_BUFFER: usize = 16 << 20;

/// An attribute as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attribute {
    kind: u16,
    value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Bytes(Vec<u8>),
    Nested(Vec<Attribute>),
}

pub(super) fn bytes(kind: u16, value: &[u8]) -> Attribute {
    Attribute {
        kind,
        value: Value::Bytes(value.to_vec()),
    }
}

pub(super) fn text(kind: u16, value: &str) -> Attribute {
    bytes(kind, &[value.as_bytes(), b"\0"].concat())
}

pub(super) fn number(kind: u16, value: u32) -> Attribute {
    bytes(kind, &value.to_be_bytes())
}

pub(super) fn nested(kind: u16, value: Vec<Attribute>) -> Attribute {
    Attribute {
        kind,
        value: Value::Nested(value),
    }
}

impl Attribute {
    /// What is in it, if it is a nest.
    pub(super) fn inner(&self) -> Option<&[Self]> {
        match &self.value {
            Value::Nested(inner) => Some(inner),
            Value::Bytes(_) => None,
        }
    }
}

fn encode(body: Body, attributes: &[Attribute]) -> Body {
    attributes
        .iter()
        .fold(body, |body, attribute| match &attribute.value {
            Value::Bytes(value) => body.attribute(attribute.kind, value),
            Value::Nested(inner) => body.nested(attribute.kind, encode(Body::attributes(), inner)),
        })
}

/// Has `found` all of `wanted`? The kernel adds what it holds by default.
pub(super) fn agrees(wanted: &[Attribute], found: &[u8]) -> bool {
    wanted.iter().all(|wanted| {
        let there = netlink::attributes(found, 0).find(|(kind, _)| *kind == wanted.kind);
        match (&wanted.value, there) {
            (Value::Bytes(value), Some((_, found))) => value == found,
            (Value::Nested(inner), Some((_, found))) => agrees(inner, found),
            (_, None) => false,
        }
    })
}

/// One change of a transaction, or one question.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// `NFT_MSG_*`.
    pub(super) kind: u16,
    /// `NLM_F_CREATE` and the like.
    pub(super) flags: u16,
    pub(super) attributes: Vec<Attribute>,
}

impl Message {
    fn append(&self, datagram: &mut Vec<u8>, family: u8, flags: u16, sequence: u32) {
        // struct nfgenmsg: family 1, version 1, resource 2.
        let body = encode(Body::new(family, 4), &self.attributes).bytes();
        let flags = NLM_F_REQUEST | self.flags | flags;
        netlink::append(datagram, SUBSYSTEM | self.kind, flags, sequence, &body);
    }
}

/// Why a transaction did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The kernel's answer.
    pub(super) error: Errno,
    /// The place of the change that it is about; `None`: the transaction as a whole.
    pub(super) at: Option<usize>,
}

impl Refusal {
    fn whole(error: Errno) -> Self {
        Self { error, at: None }
    }

    fn socket(error: &io::Error) -> Self {
        Self::whole(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
    }
}

/// A socket in the namespace where it was opened.
pub(super) struct Nft {
    wire: Mutex<Wire>,
    port: u32,
}

struct Wire {
    socket: TokioSocket,
    sequence: u32,
}

impl Nft {
    /// In the caller's namespace.
    ///
    /// # Errors
    /// EPROTONOSUPPORT: the kernel has no netfilter.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        set_receive_buffer(&socket, 4 << 20)?;
        set_send_buffer(&socket, SEND_BUFFER)?;
        socket.socket_ref().set_cap_ack(true)?;
        let port = socket.socket_mut().bind_auto()?.port_number();
        Ok(Self {
            wire: Mutex::new(Wire {
                socket,
                sequence: 0,
            }),
            port,
        })
    }

    /// A socket that hears of each change of the rule set, subscribed from now on.
    ///
    /// # Errors
    /// If it cannot be opened or bound.
    pub(super) fn subscribe() -> io::Result<TokioSocket> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        set_receive_buffer(&socket, 4 << 20)?;
        socket.socket_mut().bind(&SocketAddr::new(0, GROUP))?;
        Ok(socket)
    }

    /// The number that the kernel's news of our own changes bear.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Makes all changes at one instant, or none. With a `generation`, only while the rule set still has that one.
    ///
    /// # Errors
    /// ERESTART: the generation is another by now.
    pub(super) async fn commit(
        &self,
        generation: Option<u32>,
        changes: &[Message],
    ) -> Result<(), Refusal> {
        const NFNL_BATCH_GENID: u16 = 1;
        if changes.is_empty() {
            return Ok(());
        }
        let mut wire = self.wire.lock().await;
        let begin = wire.next();
        let mut datagram = Vec::new();
        // struct nfgenmsg: here the resource is the subsystem, in network order.
        let mut head = Body::new(0, 4).set(2, &(SUBSYSTEM >> 8).to_be_bytes());
        if let Some(generation) = generation {
            head = head.attribute(NFNL_BATCH_GENID, &generation.to_be_bytes());
        }
        let head = head.bytes();
        netlink::append(
            &mut datagram,
            NFNL_MSG_BATCH_BEGIN,
            NLM_F_REQUEST,
            begin,
            &head,
        );
        let mut last = begin;
        for (at, change) in changes.iter().enumerate() {
            last = wire.next();
            // Failures are told in any case; the last one's success is that of all.
            let flags = if at + 1 == changes.len() {
                NLM_F_ACK
            } else {
                0
            };
            change.append(&mut datagram, INET, flags, last);
        }
        let end = wire.next();
        let tail = Body::new(0, 4)
            .set(2, &(SUBSYSTEM >> 8).to_be_bytes())
            .bytes();
        netlink::append(&mut datagram, NFNL_MSG_BATCH_END, NLM_F_REQUEST, end, &tail);
        wire.send(&datagram).await?;
        let mut refused: Option<Refusal> = None;
        loop {
            let datagram = wire.receive().await?;
            for part in netlink::parts(&datagram) {
                let at = usize::try_from(part.sequence.wrapping_sub(begin)).unwrap_or(usize::MAX);
                let (Some(answer), true) = (part.answer(), at <= changes.len() + 1) else {
                    continue;
                };
                let place = at.checked_sub(1).filter(|at| *at < changes.len());
                if let Err(error) = answer {
                    // A change's own refusal says more than that of the whole.
                    if refused.is_none_or(|before| before.at.is_none()) {
                        refused = Some(Refusal { error, at: place });
                    }
                    if place.is_none() {
                        return Err(refused.unwrap_or(Refusal { error, at: place }));
                    }
                }
                if part.sequence == last {
                    return refused.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Asks for all that `question` selects: the bodies after `struct nfgenmsg`.
    ///
    /// # Errors
    /// The kernel's answer; EAGAIN: it was disturbed by changes, again and again.
    pub(super) async fn dump(&self, question: &Message) -> Result<Vec<Vec<u8>>, Errno> {
        self.dump_of(INET, question).await
    }

    /// As [`Self::dump`], of the tables of another family (`NFPROTO_*`).
    pub(super) async fn dump_of(
        &self,
        family: u8,
        question: &Message,
    ) -> Result<Vec<Vec<u8>>, Errno> {
        let mut wire = self.wire.lock().await;
        for _ in 0..5 {
            if let Some(bodies) = wire.ask(family, question, NLM_F_DUMP).await? {
                return Ok(bodies);
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Asks for one thing.
    ///
    /// # Errors
    /// ENOENT: there is none.
    pub(super) async fn get(&self, question: &Message) -> Result<Vec<u8>, Errno> {
        let bodies = self.wire.lock().await.ask(INET, question, 0).await?;
        bodies
            .and_then(|bodies| bodies.into_iter().next())
            .ok_or(Errno::ENOENT)
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::socket(&error)
    }
}

impl Wire {
    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    async fn send(&self, datagram: &[u8]) -> io::Result<()> {
        let kernel = SocketAddr::new(0, 0);
        std::future::poll_fn(|cx| self.socket.poll_send_to(cx, datagram, &kernel)).await?;
        Ok(())
    }

    async fn receive(&self) -> io::Result<Vec<u8>> {
        let read = std::future::poll_fn(|cx| self.socket.poll_recv_from_full(cx));
        let read = tokio::time::timeout(PATIENCE, read).await;
        let (datagram, _) = read.map_err(|_| io::Error::from(Errno::ETIMEDOUT))??;
        Ok(datagram)
    }

    /// `None`: disturbed by a change.
    async fn ask(
        &mut self,
        family: u8,
        question: &Message,
        flags: u16,
    ) -> Result<Option<Vec<Vec<u8>>>, Errno> {
        let errno = |error: io::Error| Refusal::socket(&error).error;
        let (mut datagram, sequence) = (Vec::new(), self.next());
        question.append(&mut datagram, family, flags, sequence);
        self.send(&datagram).await.map_err(errno)?;
        let (mut bodies, mut torn) = (Vec::new(), false);
        loop {
            let datagram = self.receive().await.map_err(errno)?;
            for part in netlink::parts(&datagram) {
                if part.sequence != sequence {
                    continue;
                }
                torn |= part.flags & NLM_F_DUMP_INTR != 0;
                if part.kind == NLMSG_DONE {
                    return Ok((!torn).then_some(bodies));
                }
                match part.answer() {
                    Some(Err(error)) => return Err(error),
                    Some(Ok(())) => return Ok(Some(bodies)),
                    None => bodies.push(part.body.get(4..).unwrap_or_default().to_vec()),
                }
                if flags & NLM_F_DUMP != NLM_F_DUMP {
                    return Ok(Some(bodies));
                }
            }
        }
    }
}
