//! The text form of a packet: what `pkt!` reads.
//!
//! ```text
//!   tcp 10.0.0.1:4000 > 10.0.0.2:23 | syn  vlan 7 pcp 5  dscp ef ttl 1  from port 3  vni 7
//!   body: as of `meshd trace`       | words, in any order
//! ```
//!
//! Owns the words behind the body; the body itself, where `meshd trace` has it too, is read by its parser. Says of a wrong
//! word where it stands and what might stand there. The result is a frame, from whose bytes the key comes: so there is no
//! packet here that could not come over a wire.

use super::bytes::{self, Change};
use crate::Mac;
use crate::key::Direction;
use crate::wit::types::CtState;
use core::fmt;
use core::str::FromStr;
use meshd_core::flowtext;
use meshd_core::ident::MacAddr;

/// A packet to ask about: a frame, and where it comes from. Made by [`pkt!`](crate::test::pkt).
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Packet {
    pub(crate) frame: Vec<u8>,
    pub(crate) dir: Direction,
    pub(crate) port: u32,
    pub(crate) peer: u64,
    pub(crate) vni: u32,
    /// To a station that nobody has heard of.
    pub(crate) unknown: bool,
    /// As the text has it; `None`: as the host's table has it, if it has one.
    pub(crate) ct: Option<CtState>,
    pub(crate) mark: u32,
}

/// Writes a packet as text: the body, then words in any order.
///
/// | body | |
/// |---|---|
/// | `tcp 10.0.0.1:4000 > 10.0.0.2:23` | with flags behind it: `syn ack fin rst psh urg ece cwr ns` |
/// | `udp [fd00::1]:53 > [fd00::2]:5353` | |
/// | `sctp 10.0.0.1:1 > 10.0.0.2:2` | |
/// | `icmp 10.0.0.1 > 10.0.0.2` | an echo request, or `type 3 code 1`; ICMPv6 between IPv6 addresses |
/// | `ip proto 47 10.0.0.1 > 10.0.0.2` | another protocol |
/// | `arp who-has 10.0.0.2 tell 10.0.0.1` | |
/// | `arp reply 10.0.0.2 is-at 02:00:00:00:00:02 to 10.0.0.1` | |
/// | `nd who-has fd00::2 tell fd00::1` | |
/// | `ether 0x88cc` | another EtherType |
///
/// | word | |
/// |---|---|
/// | `vlan 7`, `inner-vlan 8`, `pcp 5` | tags |
/// | `dscp ef` (or a number, `cs1`, `af21`), `ecn 1`, `ttl 64` | of the IP header |
/// | `first-fragment`, `later-fragment` | |
/// | `cut` | ends in the middle of its layer 4 header |
/// | `mac 02:00:00:00:00:01 > 02:00:00:00:00:02` | those are the defaults |
/// | `unknown` | the switch does not know where the destination is |
/// | `from port 1` | on its way in, from there; the default |
/// | `to port 3`, `from peer 7` | on its way out |
/// | `vni 1` | the network |
/// | `ct new` | what the connection table says: of `new established related reply invalid untracked` one or more |
/// | `ct-mark 7` | the connection's mark |
///
/// In quotes it is a format string: `pkt!("tcp 10.0.0.1:4000 > 10.0.0.2:{port} syn")`; also where Rust's words get in the
/// way, as in `0e:…`, which is half a floating point number to it.
///
/// # Panics
/// If it is no packet; the message points at the word.
#[doc(hidden)]
#[macro_export]
macro_rules! __pkt {
    ($format:literal $(, $($args:tt)*)?) => {
        $crate::test::Packet::read(&::std::format!($format $(, $($args)*)?))
    };
    ($($word:tt)+) => {
        $crate::test::Packet::read(::core::stringify!($($word)+))
    };
}

/// A text that is no packet: what, and where in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketError {
    text: String,
    /// Byte of the first wrong word.
    at: usize,
    message: String,
}

impl fmt::Display for PacketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = self.text.get(..self.at).unwrap_or(&self.text);
        let width = before.chars().count() + 1;
        let Self { text, message, .. } = self;
        write!(f, "{message}\n  {text}\n  {:>width$}", "^")
    }
}

impl core::error::Error for PacketError {}

impl Packet {
    /// What [`pkt!`](crate::test::pkt) calls.
    ///
    /// # Panics
    /// If it is no packet.
    #[doc(hidden)]
    #[track_caller]
    pub fn read(text: &str) -> Self {
        text.parse().unwrap_or_else(|e| panic!("{e}"))
    }

    /// A frame as it is, on its way in from port 1 of network 1.
    pub fn frame(bytes: Vec<u8>) -> Self {
        Self {
            frame: bytes,
            dir: Direction::Ingress,
            port: 1,
            peer: 0,
            vni: 1,
            unknown: false,
            ct: None,
            mark: 0,
        }
    }

    /// The same, on its way in from this port.
    pub fn from_port(self, port: u32) -> Self {
        Self {
            dir: Direction::Ingress,
            port,
            peer: 0,
            ..self
        }
    }

    /// The same, on its way out to this port.
    pub fn to_port(self, port: u32) -> Self {
        Self {
            dir: Direction::Egress,
            port,
            ..self
        }
    }

    /// The bytes, from the destination MAC on. Checksums of layer 4 are right unless the text changed something below.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.frame
    }
}

/// Words of a text, from the back, each with the byte at which it starts.
struct Words<'a> {
    text: &'a str,
    rest: Vec<(usize, &'a str)>,
}

impl<'a> Words<'a> {
    fn of(text: &'a str) -> Self {
        let start = |word: &str| word.as_ptr() as usize - text.as_ptr() as usize;
        let rest = text.split_whitespace().rev();
        Self {
            text,
            rest: rest.map(|word| (start(word), word)).collect(),
        }
    }

    fn wrong(&self, at: usize, message: impl Into<String>) -> PacketError {
        PacketError {
            text: self.text.to_owned(),
            at,
            message: message.into(),
        }
    }

    fn next(&mut self, wanted: &str) -> Result<(usize, &'a str), PacketError> {
        let ends = || format!("the packet ends where {wanted} should stand");
        self.rest
            .pop()
            .ok_or_else(|| self.wrong(self.text.len(), ends()))
    }

    fn word(&mut self, wanted: &str) -> Result<(), PacketError> {
        let (at, word) = self.next(&format!("`{wanted}`"))?;
        if word == wanted {
            Ok(())
        } else {
            Err(self.wrong(at, format!("`{wanted}` should stand here")))
        }
    }

    fn read<T: FromStr>(&mut self, wanted: &str) -> Result<T, PacketError> {
        let (at, word) = self.next(wanted)?;
        word.parse()
            .map_err(|_| self.wrong(at, format!("this is not {wanted}")))
    }

    /// A number up to `max`.
    fn number(&mut self, what: &str, max: u16) -> Result<u16, PacketError> {
        let at = self.rest.last().map_or(self.text.len(), |(at, _)| *at);
        let wanted = format!("{what}, 0 to {max}");
        let number: u16 = self.read(&wanted)?;
        if number > max {
            return Err(self.wrong(at, format!("this is not {wanted}")));
        }
        Ok(number)
    }

    /// Up to the end of the `count`th word from here, as text.
    fn body(&mut self, count: usize) -> &'a str {
        let (mut start, mut end) = (None, self.text.len());
        for _ in 0..count {
            if let Some((at, word)) = self.rest.pop() {
                start = start.or(Some(at));
                end = at + word.len();
            }
        }
        let start = start.unwrap_or(end);
        self.text.get(start..end).unwrap_or_default()
    }
}

/// What the text says, before it is a frame.
struct Draft {
    body: Body,
    src: Option<Mac>,
    dst: Option<Mac>,
    changes: Vec<Change>,
    tags: [Option<u16>; 2],
    pcp: Option<u16>,
    packet: Packet,
}

enum Body {
    /// What the daemon's own reader knows.
    Core(flowtext::Packet),
    Ether(u16),
}

const HEADS: &str = "`tcp`, `udp`, `sctp`, `icmp`, `ip`, `arp`, `nd` or `ether`";

impl FromStr for Packet {
    type Err = PacketError;

    fn from_str(text: &str) -> Result<Self, PacketError> {
        let mut words = Words::of(text);
        let mut draft = head(&mut words)?;
        while let Some((at, word)) = words.rest.pop() {
            draft.word(at, word, &mut words)?;
        }
        draft.packet(&words)
    }
}

fn head(words: &mut Words<'_>) -> Result<Draft, PacketError> {
    let Some(&(at, head)) = words.rest.last() else {
        return Err(words.wrong(0, format!("a packet starts with {HEADS}")));
    };
    let mut changes = Vec::new();
    let mut src = None;
    let body = match head {
        "tcp" | "udp" | "icmp" => core(words, at, |words| words.body(4).to_owned())?,
        "nd" => core(words, at, |words| words.body(5).to_owned())?,
        "sctp" => {
            changes.push(Change::Sctp);
            // As wide, so that a mistake is pointed at where it is.
            core(words, at, |words| words.body(4).replacen("sctp", "udp ", 1))?
        }
        "ip" => {
            words.rest.pop();
            words.word("proto")?;
            changes.push(Change::Protocol(
                words.number("an IP protocol", 255)?.to_be_bytes()[1],
            ));
            let at = words.rest.last().map_or(words.text.len(), |(at, _)| *at);
            core(words, at.saturating_sub(5), |words| {
                format!("icmp {}", words.body(3))
            })?
        }
        "arp" if words.rest.iter().rev().nth(1).map(|(_, word)| *word) == Some("reply") => {
            words.rest.truncate(words.rest.len() - 2);
            let at = words.rest.last().map_or(words.text.len(), |(at, _)| *at);
            let (_, who) = words.next("an IPv4 address")?;
            words.word("is-at")?;
            src = Some(words.read("a MAC address, such as 02:00:00:00:00:01")?);
            words.word("to")?;
            let (_, whom) = words.next("an IPv4 address")?;
            changes.push(Change::ArpReply);
            core(words, at, |_| format!("arp who-has {whom} tell {who}"))?
        }
        "arp" => core(words, at, |words| words.body(5).to_owned())?,
        "ether" => {
            words.rest.pop();
            let (at, word) = words.next("an EtherType, such as 0x88cc")?;
            let hex = word.strip_prefix("0x");
            let read = hex.map_or_else(
                || word.parse().ok(),
                |hex| u16::from_str_radix(hex, 16).ok(),
            );
            Body::Ether(
                read.ok_or_else(|| words.wrong(at, "this is not an EtherType, such as 0x88cc"))?,
            )
        }
        _ => return Err(words.wrong(at, format!("a packet starts with {HEADS}"))),
    };
    Ok(Draft {
        body,
        src,
        dst: None,
        changes,
        tags: [None; 2],
        pcp: None,
        packet: Packet::frame(Vec::new()),
    })
}

/// Has the daemon's reader read the text that `take` makes; its complaints are moved by `offset`.
fn core(
    words: &mut Words<'_>,
    offset: usize,
    take: impl FnOnce(&mut Words<'_>) -> String,
) -> Result<Body, PacketError> {
    let text = take(words);
    text.parse()
        .map(Body::Core)
        .map_err(|e: flowtext::PacketError| words.wrong(offset + e.at, e.message))
}

impl Draft {
    fn word(&mut self, at: usize, word: &str, words: &mut Words<'_>) -> Result<(), PacketError> {
        let ip = match &self.body {
            Body::Core(packet) => packet.body != flowtext::Body::WhoHas || packet.src.is_ipv6(),
            Body::Ether(_) => false,
        };
        match word {
            "vlan" => self.tags[0] = Some(words.number("a VLAN number", 4094)?),
            "inner-vlan" => self.tags[1] = Some(words.number("a VLAN number", 4094)?),
            "pcp" => self.pcp = Some(words.number("a priority", 7)?),
            "mac" => {
                const WANTED: &str = "a MAC address, such as 02:00:00:00:00:01";
                self.src = Some(words.read(WANTED)?);
                words.word(">")?;
                self.dst = Some(words.read(WANTED)?);
            }
            "unknown" => self.packet.unknown = true,
            "ct" => self.ct(words)?,
            "ct-mark" => self.packet.mark = words.read("a mark")?,
            "vni" => self.packet.vni = words.read("a network's number")?,
            "from" | "to" => self.place(at, word, words)?,
            "dscp" if ip => self.changes.push(Change::Dscp(dscp(words)?)),
            "ecn" if ip => self.changes.push(Change::Ecn(
                words.number("an ECN code", 3)?.to_be_bytes()[1],
            )),
            "ttl" if ip => self
                .changes
                .push(Change::Ttl(words.number("a TTL", 255)?.to_be_bytes()[1])),
            "first-fragment" if ip => self.changes.push(Change::Fragment { later: false }),
            "later-fragment" if ip => self.changes.push(Change::Fragment { later: true }),
            "cut" if ip => self.changes.push(Change::Cut),
            word => self.of_the_body(at, word, ip, words)?,
        }
        Ok(())
    }

    /// One or more states.
    fn ct(&mut self, words: &mut Words<'_>) -> Result<(), PacketError> {
        let (mut at, mut word) =
            words.next("one of new, established, related, reply, invalid and untracked")?;
        loop {
            let state = match word {
                "new" => CtState::NEW,
                "established" => CtState::ESTABLISHED,
                "related" => CtState::RELATED,
                "reply" => CtState::REPLY,
                "invalid" => CtState::INVALID,
                "untracked" => CtState::UNTRACKED,
                _ if self.packet.ct.is_some() => {
                    words.rest.push((at, word));
                    return Ok(());
                }
                _ => {
                    let wanted =
                        "one of new, established, related, reply, invalid and untracked is wanted";
                    return Err(words.wrong(at, wanted));
                }
            };
            let before = self.packet.ct.unwrap_or(CtState::empty());
            self.packet.ct = Some(before | state);
            match words.rest.pop() {
                Some(next) => (at, word) = next,
                None => return Ok(()),
            }
        }
    }

    fn place(&mut self, at: usize, word: &str, words: &mut Words<'_>) -> Result<(), PacketError> {
        let (kind_at, kind) = words.next("`port` or `peer`")?;
        let number = |words: &mut Words<'_>| words.read("a number");
        match (word, kind) {
            ("from", "port") => {
                (self.packet.dir, self.packet.port) =
                    (Direction::Ingress, words.read("a port's number")?)
            }
            ("to", "port") => {
                (self.packet.dir, self.packet.port) =
                    (Direction::Egress, words.read("a port's number")?)
            }
            ("from", "peer") => {
                self.packet.dir = Direction::Egress;
                self.packet.peer = number(words)?;
                if self.packet.peer == 0 {
                    return Err(words.wrong(at, "peer 0 is no peer, but a port of this node"));
                }
            }
            _ => {
                return Err(words.wrong(
                    kind_at,
                    "`from port N`, `from peer N` and `to port N` are the places",
                ));
            }
        }
        Ok(())
    }

    /// TCP's flags, ICMP's type and code; else the word is wrong.
    fn of_the_body(
        &mut self,
        at: usize,
        word: &str,
        ip: bool,
        words: &mut Words<'_>,
    ) -> Result<(), PacketError> {
        const FLAGS: [&str; 9] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns"];
        let byte = |words: &mut Words<'_>, what| Ok(words.number(what, 255)?.to_be_bytes()[1]);
        let others = self
            .changes
            .iter()
            .any(|c| matches!(c, Change::Protocol(_)));
        let mut more = "";
        if let Body::Core(packet) = &mut self.body {
            match &mut packet.body {
                flowtext::Body::Tcp { flags, .. } => {
                    if let Some(bit) = FLAGS.iter().position(|flag| *flag == word) {
                        *flags |= 1 << bit;
                        return Ok(());
                    }
                    more = "a TCP flag (syn ack fin rst psh urg ece cwr ns), ";
                }
                flowtext::Body::Icmp { kind, code } if !others => {
                    match word {
                        "type" => *kind = byte(words, "an ICMP type")?,
                        "code" => *code = byte(words, "an ICMP code")?,
                        _ => more = "type, code, ",
                    }
                    if more.is_empty() {
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
        let of_ip = if ip {
            "dscp, ecn, ttl, first-fragment, later-fragment, cut, "
        } else {
            ""
        };
        Err(words.wrong(
            at,
            format!("what may follow here: {more}{of_ip}vlan, inner-vlan, pcp, mac, unknown, from, to, vni, ct, ct-mark"),
        ))
    }

    fn packet(self, words: &Words<'_>) -> Result<Packet, PacketError> {
        let src = self.src.unwrap_or(Mac::new([2, 0, 0, 0, 0, 1]));
        let dst = Mac::new([2, 0, 0, 0, 0, 2]);
        let mut frame = match &self.body {
            Body::Ether(kind) => bytes::ether(*kind, src, self.dst.unwrap_or(dst)),
            Body::Core(packet) => {
                // A reply goes to who asked.
                let reply = self.changes.contains(&Change::ArpReply);
                let group = packet.group_mac().filter(|_| !reply);
                let dst = self.dst.map(|mac| MacAddr(mac.octets())).or(group);
                packet.frame(
                    MacAddr(src.octets()),
                    dst.unwrap_or(MacAddr([2, 0, 0, 0, 0, 2])),
                )
            }
        };
        for change in &self.changes {
            bytes::change(&mut frame, *change);
        }
        let priority = self.pcp.map(|pcp| pcp << 13);
        let outer = match (self.tags, priority) {
            ([Some(vid), _], priority) => Some(priority.unwrap_or(0) | vid),
            // A priority alone is a tag with VID 0.
            ([None, None], Some(priority)) => Some(priority),
            ([None, Some(_)], _) => {
                return Err(words.wrong(words.text.len(), "an inner-vlan needs a vlan"));
            }
            _ => None,
        };
        bytes::tag(&mut frame, outer, self.tags[1]);
        Ok(Packet {
            frame,
            ..self.packet
        })
    }
}

fn dscp(words: &mut Words<'_>) -> Result<u8, PacketError> {
    const WANTED: &str = "a DSCP: 0 to 63, ef, cs0 to cs7 or af11 to af43";
    let (at, word) = words.next(WANTED)?;
    let digits: Vec<u8> = word.bytes().skip(2).map(|b| b.wrapping_sub(b'0')).collect();
    let code = match (word.get(..2), digits.as_slice()) {
        (Some("ef"), []) => Some(46),
        (Some("cs"), [class @ 0..=7]) => Some(class * 8),
        (Some("af"), [class @ 1..=4, drop @ 1..=3]) => Some(class * 8 + drop * 2),
        _ => word.parse().ok().filter(|code| *code < 64),
    };
    code.ok_or_else(|| words.wrong(at, format!("this is not {WANTED}")))
}
