//! What is sent from one end to the other while something is measured: streams, datagrams, and pings beside a stream.

use crate::latency::{Latency, PingPong};
use crate::netns;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// One way from a client to a server.
#[derive(Clone, Debug)]
pub struct Way {
    /// Namespace of the client.
    pub client: String,
    /// Namespace of the server.
    pub server: String,
    /// The server's address.
    pub to: IpAddr,
}

/// What iperf3 sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// So many TCP streams with cubic; `back` is from the server to the client.
    Tcp {
        /// Streams at once.
        streams: u8,
        /// From the server to the client.
        back: bool,
    },
    /// Datagrams of so many bytes, as fast as one sender can.
    Udp {
        /// Payload, bytes.
        bytes: u32,
    },
}

impl Traffic {
    /// One TCP stream.
    pub const STREAM: Self = Self::Tcp {
        streams: 1,
        back: false,
    };
}

/// What arrived.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrived {
    /// Payload, bytes.
    pub bytes: f64,
    /// Bits a second, in 10^9.
    pub gbps: f64,
    /// Datagrams a second; 0 of TCP.
    pub pps: f64,
    /// Processor time of both ends of iperf3, percent of one core; 0 of UDP.
    pub cpu_percent: f64,
}

/// One run of iperf3.
#[derive(Clone, Copy, Debug)]
pub struct Iperf {
    /// What it sends.
    pub traffic: Traffic,
    /// For so long.
    pub seconds: u32,
    /// The server's port; one that no run used before.
    pub port: u16,
}

impl Iperf {
    /// Runs it.
    ///
    /// # Errors
    /// If iperf3 fails, or TCP ran with another congestion control than cubic.
    pub fn run(&self, way: &Way) -> Result<Arrived> {
        self.start(way)?.finish()
    }

    /// Starts it; returns once the server is ready and the client runs.
    ///
    /// # Errors
    /// If iperf3 cannot start.
    pub fn start(&self, way: &Way) -> Result<Running> {
        let port = self.port.to_string();
        let mut server = netns::command(&way.server, "iperf3")?;
        server
            .args(["-s", "-1", "-p", &port])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let server = Ended(server.spawn().context("start iperf3")?);
        std::thread::sleep(Duration::from_millis(200));
        let mut client = self.client(way)?;
        let client = client
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start iperf3")?;
        Ok(Running {
            traffic: self.traffic,
            client: Ended(client),
            _server: server,
        })
    }

    fn client(&self, way: &Way) -> Result<Command> {
        let mut client = netns::command(&way.client, "iperf3")?;
        let (to, port, time) = (way.to, self.port, self.seconds);
        let words = format!("-J -c {to} -p {port} -t {time} --connect-timeout 3000");
        client.args(words.split(' '));
        match self.traffic {
            Traffic::Tcp { streams, back } => {
                client.args(["-C", "cubic", "-P", &streams.to_string()]);
                client.args(back.then_some("-R"));
            }
            Traffic::Udp { bytes } => {
                client.args(["-u", "-b", "0", "-l", &bytes.to_string()]);
            }
        }
        Ok(client)
    }
}

/// A child that does not outlive its owner.
#[derive(Debug)]
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A run that has begun.
#[derive(Debug)]
pub struct Running {
    traffic: Traffic,
    client: Ended,
    _server: Ended,
}

impl Running {
    /// Waits for the end.
    ///
    /// # Errors
    /// As [`Iperf::run`].
    pub fn finish(mut self) -> Result<Arrived> {
        let out = self.client.0.stdout.take().context("no standard output")?;
        let report: Value = serde_json::from_reader(out).context("iperf3 printed no JSON")?;
        self.client.0.wait().context("wait for iperf3")?;
        arrived(&report, self.traffic)
    }
}

/// Reads iperf3's report.
fn arrived(report: &Value, traffic: Traffic) -> Result<Arrived> {
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3: {error}");
    }
    let end = &report["end"];
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    match traffic {
        Traffic::Tcp { .. } => {
            let control = end["sender_tcp_congestion"].as_str().unwrap_or_default();
            ensure!(control == "cubic", "congestion control was {control:?}");
            let (sum, cpu) = (&end["sum_received"], &end["cpu_utilization_percent"]);
            Ok(Arrived {
                bytes: number(&sum["bytes"]),
                gbps: number(&sum["bits_per_second"]) / 1e9,
                pps: 0.0,
                cpu_percent: number(&cpu["host_total"]) + number(&cpu["remote_total"]),
            })
        }
        Traffic::Udp { bytes } => {
            let sum = &end["sum"];
            let received = number(&sum["packets"]) - number(&sum["lost_packets"]);
            let pps = received / number(&sum["seconds"]).max(0.1);
            Ok(Arrived {
                bytes: received * f64::from(bytes),
                gbps: pps * f64::from(bytes) * 8.0 / 1e9,
                pps,
                cpu_percent: 0.0,
            })
        }
    }
}

/// Round trips over a way that carries nothing else, each end on a core of its own.
///
/// # Errors
/// If no answer comes.
pub fn idle_latency(way: &Way, port: u16, seconds: u32) -> Result<Latency> {
    let time = Duration::from_secs(seconds.into());
    let game = PingPong {
        apart: true,
        ..PingPong::lasting(time)
    };
    game.run(&way.client, &way.server, way.to, port)
}

/// Round trips, one a millisecond, beside one TCP stream that takes what it can.
///
/// # Errors
/// If no answer comes, or the stream fails.
pub fn loaded_latency(way: &Way, port: u16, seconds: u32) -> Result<Latency> {
    let stream = Iperf {
        traffic: Traffic::STREAM,
        seconds: seconds + 1,
        port,
    };
    let stream = stream.start(way)?;
    std::thread::sleep(Duration::from_millis(500));
    let game = PingPong {
        time: Duration::from_secs(seconds.into()),
        every: Duration::from_millis(1),
        apart: false,
    };
    let told = game.run(&way.client, &way.server, way.to, port)?;
    stream.finish()?;
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_arrived_counts() {
        let report =
            json!({"end": {"sum": {"packets": 1000, "lost_packets": 750, "seconds": 2.0}}});
        let told = arrived(&report, Traffic::Udp { bytes: 100 }).unwrap();
        assert_eq!((told.pps, told.bytes), (125.0, 25_000.0));
        let sums = json!({"bytes": 8, "bits_per_second": 2e9});
        let report = json!({"end": {"sum_received": sums, "sender_tcp_congestion": "cubic"}});
        assert_eq!(arrived(&report, Traffic::STREAM).unwrap().gbps, 2.0);
    }

    #[test]
    fn a_failure_and_another_congestion_control_are_told() {
        let failed = arrived(&json!({"error": "no route"}), Traffic::STREAM).unwrap_err();
        assert!(failed.to_string().contains("no route"), "{failed}");
        let report = json!({"end": {"sender_tcp_congestion": "bbr"}});
        let failed = arrived(&report, Traffic::STREAM).unwrap_err();
        assert!(failed.to_string().contains("bbr"), "{failed}");
    }
}
