//! Name servers, asked as a stub resolver asks them (RFC 1035 §4).

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// Servers that are asked.
const SERVERS_MAX: usize = 8;
/// A server is asked so often, and waited for so long each time.
const TRIES: u32 = 2;
const PATIENCE: Duration = Duration::from_millis(700);

/// SOA.
const TYPE_SOA: u16 = 6;

/// A question for the SOA of `name` (empty: the root), with recursion desired.
fn question(id: u16, name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [id, 1 << 8, 1, 0, 0, 0] {
        out.extend(word.to_be_bytes());
    }
    for label in name.split('.').filter(|label| !label.is_empty()) {
        // A longer one is no name; the server says so.
        let label = &label.as_bytes()[..label.len().min(63)];
        out.push(u8::try_from(label.len()).unwrap_or(63));
        out.extend(label);
    }
    out.push(0);
    out.extend(TYPE_SOA.to_be_bytes());
    // IN.
    out.extend(1u16.to_be_bytes());
    out
}

/// Asks one server; how long the answer took, whatever it says. `None`: nothing came, in all tries.
pub(super) fn one(server: SocketAddr, name: &str) -> Option<Duration> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(server).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut answer = [0; 512];
    for id in (0..TRIES).map(|n| 0x6d65 + u16::try_from(n).unwrap_or_default()) {
        let begun = Instant::now();
        if socket.send(&question(id, name)).is_err() {
            continue;
        }
        // An error is of ICMP: nobody listens there.
        let Ok(len) = socket.recv(&mut answer) else {
            continue;
        };
        if len >= 12 && answer[..2] == id.to_be_bytes() && answer[2] & 0x80 != 0 {
            return Some(begun.elapsed());
        }
    }
    None
}

/// The chosen servers, or those of `/etc/resolv.conf`, and whether each answered.
pub(super) fn ask(chosen: Vec<SocketAddr>) -> Vec<(SocketAddr, bool)> {
    let servers = match chosen.is_empty() {
        false => chosen,
        true => {
            let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
            servers(&text)
                .into_iter()
                .map(|ip| (ip, 53).into())
                .collect()
        }
    };
    let asking: Vec<_> = servers
        .into_iter()
        .take(SERVERS_MAX)
        .map(|server| {
            (
                server,
                std::thread::spawn(move || one(server, "").is_some()),
            )
        })
        .collect();
    let told = asking.into_iter();
    told.map(|(server, answers)| (server, answers.join().unwrap_or(false)))
        .collect()
}

/// Lines `nameserver ADDRESS` of resolv.conf(5); zones of addresses are left out.
pub(super) fn servers(resolv_conf: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let address = line.trim_start().strip_prefix("nameserver")?.trim();
        address.split('%').next()?.parse().ok()
    };
    resolv_conf.lines().filter_map(server).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_a_resolv_conf_are_read() {
        let text = "# nameserver 1.1.1.1\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver\nsearch x\n";
        assert_eq!(
            servers(text),
            [
                "10.0.0.1".parse::<IpAddr>().unwrap(),
                "fe80::1".parse().unwrap()
            ]
        );
    }

    #[test]
    fn a_server_that_answers_is_told_from_one_that_does_not() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = server.local_addr().unwrap();
        let serving = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            let (len, from) = server.recv_from(&mut buffer).unwrap();
            buffer[2] |= 0x80;
            server.send_to(&buffer[..len], from).unwrap();
        });
        assert!(one(at, "a.lan").is_some());
        serving.join().unwrap();
        // Its socket is closed: the kernel says that nobody listens.
        assert!(one(at, "a.lan").is_none());
    }
}
