//! Probes of a peer's UDP port, from a socket of their own: does anything come back, and to packets of which size?
//!
//! ```text
//!   a QUIC packet of a version that nobody speaks, N bytes  -->  endpoint
//!   <--  the versions that it speaks, with our connection id back (RFC 8999 §6)
//! ```
//!
//! A round sends several sizes at once, each twice and with an id of its own, and the next round looks between the largest that was
//! answered and the smallest above it that was not. Nothing is remembered at the far side, and no session is touched.
//!
//! Owns the packets and the rounds; `meshd_core::diagnosis::reach` says what the outcome means.
#![allow(unsafe_code)] // Two socket options without a safe wrapper in our dependencies.

mod echo;

use meshd_core::diagnosis::host::Address;
use meshd_core::diagnosis::reach::{Answer, Echo, PROBE_MIN, Probed};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Reserved for exercising version negotiation (RFC 9000 §15: `0x?a?a?a?a`), so no endpoint will ever speak it.
const VERSION: u32 = 0x6a6a_6a6a;
/// Sizes in a round.
const SIZES: u16 = 12;
/// Larger packets are not looked for.
const SIZE_MAX: u16 = 8972;
/// When the first one is sent again, from the start.
const AGAIN: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(250),
    Duration::from_millis(600),
];
/// In which the first answer comes, or none does.
const FIRST: Duration = Duration::from_millis(1200);
/// A round takes twice the time there and back, but at least and at most so long.
const ROUND: (Duration, Duration) = (Duration::from_millis(150), Duration::from_millis(500));
const ID_LEN: usize = 8;

/// What is to be probed.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Name of the peer.
    pub(crate) peer: String,
    /// Of its endpoint.
    pub(crate) address: SocketAddr,
    /// There is a session with it.
    pub(crate) session: bool,
}

/// Probes one address, on the caller's thread, until `until` at the latest.
pub(crate) fn probe(target: &Target, own: &[Address], until: Instant) -> Probed {
    let mut probed = Probed {
        peer: target.peer.clone(),
        address: target.address,
        session: target.session,
        answer: Answer::Unfinished,
        echo: Echo::Untried,
        device: None,
    };
    let socket = match connect(target.address) {
        Ok(socket) => socket,
        Err(error) => {
            probed.answer = Answer::Unreachable(error.to_string());
            return probed;
        }
    };
    let local = socket.local_addr().map(|at| at.ip().to_canonical()).ok();
    let device = own.iter().find(|one| Some(one.address.ip()) == local);
    probed.device = device.map(|one| (one.device.clone(), one.mtu));
    let headers = if target.address.is_ipv6() { 48 } else { 28 };
    let fits = probed.device.as_ref().map_or(1500, |(_, mtu)| *mtu);
    let fits = u16::try_from(fits.saturating_sub(headers)).unwrap_or(u16::MAX);
    let mut prober = Prober {
        socket,
        nonce: nonce(),
        told: false,
        sent: 0,
    };
    probed.answer = prober.run(fits.clamp(PROBE_MIN, SIZE_MAX), until);
    if probed.answer == Answer::Silent {
        probed.echo = echo::ask(target.address.ip(), until).unwrap_or(Echo::Untried);
    }
    probed
}

fn connect(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => ([0; 4], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    whole(&socket, to.is_ipv6())?;
    socket.connect(to)?;
    Ok(socket)
}

/// Packets leave in one piece, whatever the kernel believes of the path (ip(7), `IP_PMTUDISC_PROBE`).
fn whole(socket: &impl AsRawFd, v6: bool) -> io::Result<()> {
    let (level, name, value) = match v6 {
        false => (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_PROBE,
        ),
        true => (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_PROBE,
        ),
    };
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and `value` is an int of the stated length, for the whole call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            len,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// So that nobody who does not see the packets can answer in the peer's name.
fn nonce() -> [u8; 4] {
    let mut bytes = [0; 4];
    // Without random numbers it is only guessable.
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
    bytes
}

struct Prober {
    socket: UdpSocket,
    nonce: [u8; 4],
    /// A router said that a packet was too large.
    told: bool,
    sent: u16,
}

/// What one look at the socket brought.
enum Came {
    Size(u16),
    Nothing,
    Fault(Answer),
}

impl Prober {
    fn run(&mut self, fits: u16, until: Instant) -> Answer {
        let trip = match self.first(until) {
            Ok(trip) => trip,
            Err(answer) => return answer,
        };
        let patience = (trip * 2).clamp(ROUND.0, ROUND.1);
        let (mut passes, mut lost) = (PROBE_MIN, None);
        while lost.unwrap_or(fits) > passes + u16::from(lost.is_some()) {
            if Instant::now() + patience > until {
                break;
            }
            let above = lost.map_or(fits, |lost| lost - 1);
            let sizes = between(passes, above);
            let answered = match self.round(&sizes, patience) {
                Ok(answered) => answered,
                Err(answer) => return answer,
            };
            passes = passes.max(answered);
            if passes >= fits {
                break;
            }
            if let Some(size) = sizes.iter().copied().find(|size| *size > passes) {
                lost = Some(size);
            }
        }
        let told = self.told;
        Answer::Sizes { passes, lost, told }
    }

    /// Until the first answer: the time there and back.
    fn first(&mut self, until: Instant) -> Result<Duration, Answer> {
        let begun = Instant::now();
        let end = (begun + FIRST).min(until);
        let mut times = AGAIN.iter();
        let mut next = times.next();
        while Instant::now() < end {
            if next.is_some_and(|due| begun.elapsed() >= *due) {
                self.send(PROBE_MIN)?;
                next = times.next();
            }
            match self.hear(Duration::from_millis(50)) {
                Came::Size(_) => return Ok(begun.elapsed()),
                Came::Fault(answer) => return Err(answer),
                Came::Nothing => {}
            }
        }
        match end < begun + FIRST {
            true => Err(Answer::Unfinished),
            false => Err(Answer::Silent),
        }
    }

    /// The largest of these that was answered; 0: none.
    fn round(&mut self, sizes: &[u16], patience: Duration) -> Result<u16, Answer> {
        let mut best = 0;
        for _ in 0..2 {
            for size in sizes.iter().filter(|size| **size > best) {
                self.send(*size)?;
            }
            let end = Instant::now() + patience / 2;
            while let Some(left) = end.checked_duration_since(Instant::now()) {
                match self.hear(left.max(Duration::from_millis(1))) {
                    Came::Size(size) => best = best.max(size),
                    Came::Fault(answer) => return Err(answer),
                    Came::Nothing => {}
                }
                if sizes.last() == Some(&best) {
                    return Ok(best);
                }
            }
        }
        Ok(best)
    }

    fn send(&mut self, size: u16) -> Result<(), Answer> {
        self.sent = self.sent.wrapping_add(1);
        match self.socket.send(&packet(size, self.id(size), self.sent)) {
            Ok(_) => Ok(()),
            Err(error) => match fault(&error) {
                // Of this host's own interface, or what a router said of an earlier one.
                None => Ok(()),
                Some(answer) => Err(answer),
            },
        }
    }

    /// An id that only an answer to a packet of this size has.
    fn id(&self, size: u16) -> [u8; ID_LEN] {
        let [a, b, c, d] = self.nonce;
        let [high, low] = size.to_be_bytes();
        [a, b, c, d, b'm', b'd', high, low]
    }

    fn hear(&mut self, patience: Duration) -> Came {
        let _ = self.socket.set_read_timeout(Some(patience));
        let mut buffer = [0; 1500];
        let len = match self.socket.recv(&mut buffer) {
            Ok(len) => len,
            Err(error) => {
                self.told |= error.raw_os_error() == Some(libc::EMSGSIZE);
                return fault(&error).map_or(Came::Nothing, Came::Fault);
            }
        };
        let size = answered(&buffer[..len]).filter(|id| *id == self.id(size_of_id(*id)));
        size.map_or(Came::Nothing, |id| Came::Size(size_of_id(id)))
    }
}

/// What an error of the socket says of the address; `None`: nothing.
fn fault(error: &io::Error) -> Option<Answer> {
    Some(match error.raw_os_error()? {
        libc::ECONNREFUSED => Answer::Refused,
        libc::EPERM | libc::EACCES => Answer::Forbidden,
        libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENETDOWN => {
            Answer::Unreachable(error.to_string())
        }
        _ => return None,
    })
}

/// Sizes above `passes` up to `top`, evenly, `top` among them.
fn between(passes: u16, top: u16) -> Vec<u16> {
    let room = top - passes;
    let count = room.min(SIZES);
    let size = |nth: u16| {
        let part = u32::from(room) * u32::from(nth) / u32::from(count.max(1));
        passes + u16::try_from(part).unwrap_or(room)
    };
    (1..=count).map(size).collect()
}

/// A long header (RFC 8999 §5.1), and zeros up to `size`.
fn packet(size: u16, id: [u8; ID_LEN], count: u16) -> Vec<u8> {
    let mut out = Vec::with_capacity(usize::from(size));
    out.push(0xc0);
    out.extend(VERSION.to_be_bytes());
    out.push(ID_LEN as u8);
    out.extend([b'm', b'e', b's', b'h', b'd', b'?']);
    out.extend(count.to_be_bytes());
    out.push(ID_LEN as u8);
    out.extend(id);
    out.resize(usize::from(size), 0);
    out
}

/// The id that a version negotiation brings back, if that is one (RFC 8999 §6).
fn answered(packet: &[u8]) -> Option<[u8; ID_LEN]> {
    let head = packet.first_chunk::<6>()?;
    let is_negotiation = head[0] & 0x80 != 0 && head[1..5] == [0; 4];
    (is_negotiation && usize::from(head[5]) == ID_LEN)
        .then(|| packet.get(6..)?.first_chunk::<ID_LEN>().copied())
        .flatten()
}

fn size_of_id(id: [u8; ID_LEN]) -> u16 {
    u16::from_be_bytes([id[6], id[7]])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn target(address: SocketAddr) -> Target {
        Target {
            peer: "b".to_owned(),
            address,
            session: true,
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    /// Answers as an endpoint does, but only what is of at most `most` bytes.
    fn endpoint(most: usize) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 65_535];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                if len <= most {
                    let mut answer = vec![0xc0, 0, 0, 0, 0, 8];
                    answer.extend(&buffer[15..23]);
                    answer.push(8);
                    answer.extend(&buffer[6..14]);
                    answer.extend(1u32.to_be_bytes());
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        at
    }

    #[test]
    fn the_size_of_a_hole_is_found_to_the_byte() {
        for most in [1200, 1201, 1372, 1471] {
            let probed = probe(&target(endpoint(most.into())), &[], soon());
            let wanted = Answer::Sizes {
                passes: most,
                lost: Some(most + 1),
                told: false,
            };
            assert_eq!(probed.answer, wanted);
        }
    }

    #[test]
    fn a_path_that_takes_all_is_seen_in_one_round() {
        let whole = Answer::Sizes {
            passes: 1472,
            lost: None,
            told: false,
        };
        assert_eq!(probe(&target(endpoint(9000)), &[], soon()).answer, whole);
    }

    #[test]
    fn a_port_where_nobody_listens_is_told_from_one_that_is_silent() {
        let gone = UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        assert_eq!(probe(&target(gone), &[], soon()).answer, Answer::Refused);
        let deaf = UdpSocket::bind("127.0.0.1:0").unwrap();
        let probed = probe(&target(deaf.local_addr().unwrap()), &[], soon());
        assert_eq!(probed.answer, Answer::Silent);
        if nix::unistd::geteuid().is_root() {
            assert_eq!(probed.echo, Echo::All);
        }
        let late = probe(&target(deaf.local_addr().unwrap()), &[], Instant::now());
        assert_eq!(late.answer, Answer::Unfinished);
    }

    #[test]
    fn a_probe_is_no_answer_to_itself() {
        let packet = packet(1200, [1; 8], 7);
        assert_eq!((packet.len(), packet[0] & 0x80), (1200, 0x80));
        assert!(answered(&packet).is_none());
        for cut in 0..23 {
            let _ = answered(&packet[..cut]);
        }
    }

    #[test]
    fn sizes_of_a_round_are_between_and_the_last_is_the_top() {
        assert_eq!(between(1200, 1203), [1201, 1202, 1203]);
        let many = between(1200, 8972);
        assert!(many.len() == 12 && many.last() == Some(&8972) && many[0] > 1200);
        assert!(between(1200, 1200).is_empty());
    }
}
