//! What containers do with a network: ping, move bytes that are checked, probe at a steady rate.
//!
//! Every socket is made inside the container's namespace by a thread of its own, so that no helper program is needed.

use crate::frames::set_option;
use crate::netns::{self, within};
use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a TCP connection may make no progress: at 30 % loss each way, a try fails as often as not, and the kernel doubles
/// the time to the next one.
const SILENCE: Duration = Duration::from_secs(120);

/// Pings sent and answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pings {
    /// Sent.
    pub sent: u32,
    /// Answered.
    pub received: u32,
}

/// `count` pings of `size` bytes of ICMP payload, 100 ms apart; fragmentation is forbidden.
///
/// # Errors
/// If ping cannot run. No answer is a result, not an error.
pub fn ping(netns: &str, to: IpAddr, count: u32, size: u32) -> Result<Pings> {
    let (count, size, to) = (count.to_string(), size.to_string(), to.to_string());
    let args = [
        "-n", "-q", "-M", "do", "-i", "0.1", "-W", "2", "-c", &count, "-s", &size, &to,
    ];
    let out = netns::command(netns, "ping")?
        .args(args)
        .output()
        .context("start ping")?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let line = text
        .lines()
        .find(|line| line.contains("packets transmitted"));
    let Some(line) = line else {
        bail!("ping {to}: {}", String::from_utf8_lossy(&out.stderr).trim());
    };
    let number = |field: Option<&str>| {
        field
            .and_then(|f| f.split_whitespace().next())
            .and_then(|n| n.parse().ok())
            .unwrap_or(0)
    };
    let mut fields = line.split(", ");
    Ok(Pings {
        sent: number(fields.next()),
        received: number(fields.next()),
    })
}

/// Pings until an answer comes; how long that took.
///
/// # Errors
/// If none comes within `limit`.
pub fn ping_until(netns: &str, to: IpAddr, limit: Duration) -> Result<Duration> {
    crate::wait(&format!("ping {to} from {netns}"), limit, || {
        let to = to.to_string();
        let out = netns::command(netns, "ping")?
            .args(["-n", "-q", "-c", "1", "-W", "1", &to])
            .output()
            .context("start ping")?;
        Ok(out.status.success())
    })
}

/// Fails if any of `pairs` (namespace, address) does not answer; both ways to be given by the caller.
///
/// # Errors
/// Names the first silent pair.
pub fn ping_all<'a>(pairs: impl IntoIterator<Item = (&'a str, IpAddr)>) -> Result<usize> {
    let mut count = 0;
    for (netns, to) in pairs {
        ping_until(netns, to, Duration::from_secs(5))?;
        count += 1;
    }
    Ok(count)
}

/// A transfer, done.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Bytes in each direction.
    pub bytes: u64,
    /// From the first byte to the last.
    pub seconds: f64,
    /// CRC-32 (IEEE 802.3) of what the server received.
    pub crc_up: u32,
    /// CRC-32 of what the client received.
    pub crc_down: u32,
}

impl Transfer {
    /// One direction, in Gbit/s.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn gbps(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.seconds / 1e9
    }
}

/// Moves `bytes` bytes over one TCP connection in both directions at once. Each side compares the checksum of what it
/// received with that of what was sent.
///
/// # Errors
/// If the connection fails, stalls for 20 s, or a checksum differs.
pub fn transfer(client: &str, server: &str, to: IpAddr, port: u16, bytes: u64) -> Result<Transfer> {
    let listener = within(server, || {
        TcpListener::bind((to, port)).with_context(|| format!("listen on {to}:{port}"))
    })?;
    listener.set_nonblocking(true)?;
    let serving = std::thread::spawn(move || -> Result<(u32, TcpStream)> {
        let end = Instant::now() + SILENCE;
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => bail!("nobody connected: {error}"),
            }
        };
        stream.set_nonblocking(false)?;
        Ok((exchange(&stream, 0x5eed_0002, bytes)?, stream))
    });
    let stream = within(client, || connect(to, port, SILENCE))?;
    let start = Instant::now();
    let down = exchange(&stream, 0x5eed_0001, bytes).context("client");
    let up = serving
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        .context("server");
    let seconds = start.elapsed().as_secs_f64();
    // Until here both ends are open: a kernel gives up soon on what an end still owes that nobody holds any more.
    drop(stream);
    let (crc_down, (crc_up, _)) = (down?, up?);
    ensure!(
        crc_down == expected(0x5eed_0002, bytes),
        "the client received other bytes than the server sent"
    );
    ensure!(
        crc_up == expected(0x5eed_0001, bytes),
        "the server received other bytes than the client sent"
    );
    Ok(Transfer {
        bytes,
        seconds,
        crc_up,
        crc_down,
    })
}

/// A TCP connection from inside the calling thread's namespace.
fn connect(to: IpAddr, port: u16, limit: Duration) -> Result<TcpStream> {
    let address = SocketAddr::new(to, port);
    TcpStream::connect_timeout(&address, limit).with_context(|| format!("connect to {address}"))
}

/// True if a TCP connection to `to` opens within `limit`: something listens there, and nothing is in the way.
///
/// # Errors
/// If the namespaces are missing or the port is taken.
pub fn tcp_opens(
    client: &str,
    server: &str,
    to: IpAddr,
    port: u16,
    limit: Duration,
) -> Result<bool> {
    let _listener = within(server, || {
        TcpListener::bind((to, port)).with_context(|| format!("listen on {to}:{port}"))
    })?;
    within(client, || Ok(connect(to, port, limit).is_ok()))
}

fn exchange(stream: &TcpStream, seed: u64, bytes: u64) -> Result<u32> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let mut writer = stream.try_clone()?;
    let sending = std::thread::spawn(move || -> Result<()> {
        let (mut source, mut left) = (Source::new(seed), bytes);
        let mut block = vec![0; 65_536];
        while left > 0 {
            let len = usize::try_from(left.min(65_536))?;
            source.fill(&mut block[..len]);
            writer.write_all(&block[..len]).context("send")?;
            left -= len as u64;
        }
        writer.shutdown(Shutdown::Write).context("shutdown")
    });
    let (mut reader, mut crc, mut got) = (stream, Crc::new(), 0u64);
    let mut block = vec![0; 65_536];
    let received = loop {
        match reader.read(&mut block) {
            Ok(0) => break Ok(()),
            Ok(len) => {
                crc.update(&block[..len]);
                got += len as u64;
            }
            Err(error) => {
                break Err(error).with_context(|| format!("receive, after {got} of {bytes} bytes"));
            }
        }
    };
    let sent = sending
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    received.and(sent)?;
    ensure!(got == bytes, "received {got} bytes of {bytes}");
    Ok(crc.value())
}

/// The bytes of a transfer, the same for the same seed; every position differs, so that a shift or a swap shows.
struct Source {
    state: u64,
}

impl Source {
    fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn fill(&mut self, block: &mut [u8]) {
        for chunk in block.chunks_mut(8) {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            chunk.copy_from_slice(&self.state.to_le_bytes()[..chunk.len()]);
        }
    }
}

fn expected(seed: u64, bytes: u64) -> u32 {
    let (mut source, mut crc, mut left) = (Source::new(seed), Crc::new(), bytes);
    let mut block = vec![0; 65_536];
    while left > 0 {
        let len = usize::try_from(left.min(65_536)).unwrap_or(65_536);
        source.fill(&mut block[..len]);
        crc.update(&block[..len]);
        left -= len as u64;
    }
    crc.value()
}

/// CRC-32, reflected polynomial 0xedb88320, eight bytes a step.
struct Crc {
    table: Box<[[u32; 256]; 8]>,
    state: u32,
}

impl Crc {
    fn new() -> Self {
        let mut table = Box::new([[0u32; 256]; 8]);
        for byte in 0..256usize {
            let mut value = byte as u32;
            for _ in 0..8 {
                value = if value & 1 == 1 {
                    0xedb8_8320 ^ (value >> 1)
                } else {
                    value >> 1
                };
            }
            table[0][byte] = value;
        }
        for byte in 0..256 {
            for row in 1..8 {
                let below = table[row - 1][byte];
                table[row][byte] = (below >> 8) ^ table[0][(below & 255) as usize];
            }
        }
        Self {
            table,
            state: u32::MAX,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        let at =
            |row: usize, word: u32, shift: u32| self.table[row][(word >> shift & 255) as usize];
        let mut state = self.state;
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let low = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]) ^ state;
            let high = u32::from_le_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]);
            state = at(7, low, 0)
                ^ at(6, low, 8)
                ^ at(5, low, 16)
                ^ at(4, low, 24)
                ^ at(3, high, 0)
                ^ at(2, high, 8)
                ^ at(1, high, 16)
                ^ at(0, high, 24);
        }
        for byte in chunks.remainder() {
            state = (state >> 8) ^ at(0, state ^ u32::from(*byte), 0);
        }
        self.state = state;
    }

    fn value(&self) -> u32 {
        !self.state
    }
}

/// What a UDP probe saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Probed {
    /// Datagrams sent.
    pub sent: u64,
    /// Different ones received.
    pub received: u64,
    /// Received once more.
    pub duplicated: u64,
    /// Received after a later one.
    pub reordered: u64,
    /// Longest time without any.
    pub gap: Duration,
}

impl Probed {
    /// Never received.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }
}

/// A stream of numbered UDP datagrams at a fixed rate, from one container to another.
#[derive(Debug)]
pub struct Probe {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<()>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    numbers: std::collections::HashSet<u64>,
    highest: u64,
    last: Option<Instant>,
    probed: Probed,
}

impl Probe {
    /// Starts `rate` datagrams a second from `client` to `to`, which is inside `server`; fewer on a
    /// [slow](crate::slow) machine.
    ///
    /// # Errors
    /// If a socket cannot be made.
    pub fn start(client: &str, server: &str, to: IpAddr, port: u16, rate: u32) -> Result<Self> {
        let inbox = within(server, || UdpSocket::bind((to, port)).context("bind"))?;
        inbox.set_read_timeout(Some(Duration::from_millis(100)))?;
        // Whoever reads may have to wait for a processor: what is lost in front of it is not lost by the network.
        set_option(&inbox, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 8 << 20)?;
        let outbox = within(client, || UdpSocket::bind(any(to)).context("bind"))?;
        let (stop, seen) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(Mutex::new(Seen::default())),
        );
        let rate = f64::from(rate) / f64::from(crate::slow());
        let (halt, target) = (Arc::clone(&stop), SocketAddr::new(to, port));
        let sender = std::thread::spawn(move || {
            let (start, mut sent) = (Instant::now(), 0u64);
            while !halt.load(Ordering::Relaxed) {
                sent += 1;
                // While the way is down the kernel may answer a send with an error; the number counts as sent.
                let _ = outbox.send_to(&sent.to_be_bytes(), target);
                let due = start + Duration::from_secs_f64(sent as f64 / rate);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            sent
        });
        let (halt, notes) = (Arc::clone(&stop), Arc::clone(&seen));
        let receiver = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            loop {
                match inbox.recv(&mut buffer) {
                    Ok(8) => {
                        let number = u64::from_be_bytes(std::array::from_fn(|index| buffer[index]));
                        if let Ok(mut seen) = notes.lock() {
                            seen.note(number);
                        }
                    }
                    Ok(_) => {}
                    // Nothing for 100 ms after the end: all that was on its way is here.
                    Err(_) if halt.load(Ordering::Relaxed) => return,
                    Err(_) => {}
                }
            }
        });
        Ok(Self {
            stop,
            sender,
            receiver,
            seen,
        })
    }

    /// Different datagrams received so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.seen
            .lock()
            .map(|seen| seen.probed.received)
            .unwrap_or_default()
    }

    /// Ends the stream and tells.
    #[must_use]
    pub fn finish(self) -> Probed {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().unwrap_or_default();
        let _ = self.receiver.join();
        let probed = self.seen.lock().map(|seen| seen.probed).unwrap_or_default();
        Probed { sent, ..probed }
    }
}

impl Seen {
    fn note(&mut self, number: u64) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.probed.gap = self.probed.gap.max(now - last);
        }
        if !self.numbers.insert(number) {
            self.probed.duplicated += 1;
            return;
        }
        self.probed.received += 1;
        if number < self.highest {
            self.probed.reordered += 1;
        }
        self.highest = self.highest.max(number);
    }
}

/// Any address of the same family.
pub(crate) fn any(like: IpAddr) -> SocketAddr {
    if like.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_of_the_standard() {
        let mut crc = Crc::new();
        crc.update(b"123456789");
        assert_eq!(crc.value(), 0xcbf4_3926);
        let (mut whole, mut parts) = (Crc::new(), Crc::new());
        let bytes: Vec<u8> = (0..=255).collect();
        whole.update(&bytes);
        parts.update(&bytes[..3]);
        parts.update(&bytes[3..]);
        assert_eq!(whole.value(), parts.value());
    }

    #[test]
    fn a_late_and_a_repeated_datagram_are_told_apart() {
        let mut seen = Seen::default();
        for number in [1, 2, 4, 3, 3] {
            seen.note(number);
        }
        assert_eq!(
            (
                seen.probed.received,
                seen.probed.reordered,
                seen.probed.duplicated
            ),
            (4, 1, 1)
        );
    }
}
