//! What is told of a system, and which load shows it.

use serde::{Deserialize, Serialize};

/// One figure of a system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// TCP, one stream, Gbit/s at the receiver.
    Tcp1,
    /// TCP, four streams.
    Tcp4,
    /// TCP, one stream from the server to the client.
    Tcp1Back,
    /// TCP, four streams from the server to the client.
    Tcp4Back,
    /// UDP of 64 bytes, 1000 datagrams a second at the receiver.
    Udp64,
    /// UDP of 1400 bytes, Gbit/s at the receiver.
    Udp1400,
    /// Round trip while nothing else is sent, median, µs.
    RttP50,
    /// The same, one in a hundred is slower.
    RttP99,
    /// Round trip beside a TCP stream, median, µs.
    LoadedP50,
    /// The same, one in a hundred is slower.
    LoadedP99,
    /// Processor seconds of the whole machine by GiB that arrived, with one TCP stream.
    Cpu,
    /// Processor seconds of both daemons, likewise.
    CpuDaemons,
    /// 1000 system calls of both daemons by GiB that arrived, with one TCP stream.
    Calls,
    /// TCP, one stream, every packet received by itself, Gbit/s: what the next two are to be seen by.
    Loss0,
    /// The same where one packet of a thousand is lost on the wire.
    Loss1,
    /// The same where ten of a thousand are.
    Loss10,
    /// Resident memory of the larger daemon before it has carried anything, MiB.
    RssIdle,
    /// The most it ever was, in the end.
    RssPeak,
}

/// What is sent so that a measure can be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// TCP streams.
    Tcp {
        /// So many at once.
        streams: u8,
        /// From the server to the client.
        back: bool,
    },
    /// Datagrams of 64 bytes.
    UdpSmall,
    /// Datagrams of 1400 bytes.
    UdpLarge,
    /// Pings alone.
    Idle,
    /// Pings beside a TCP stream.
    Beside,
    /// One TCP stream while system calls are counted, which costs a little itself.
    Calls,
    /// One TCP stream while so many packets of a thousand are lost, and every packet is received by itself: what the
    /// receiver's driver has joined would be lost together.
    Loss(u32),
}

impl Measure {
    /// All, in the order of the tables.
    pub const ALL: [Self; 18] = [
        Self::Tcp1,
        Self::Tcp4,
        Self::Tcp1Back,
        Self::Tcp4Back,
        Self::Loss0,
        Self::Loss1,
        Self::Loss10,
        Self::Udp64,
        Self::Udp1400,
        Self::RttP50,
        Self::RttP99,
        Self::LoadedP50,
        Self::LoadedP99,
        Self::Cpu,
        Self::CpuDaemons,
        Self::Calls,
        Self::RssIdle,
        Self::RssPeak,
    ];

    /// The word by which `--only` knows it.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::Tcp1 => "tcp1",
            Self::Tcp4 => "tcp4",
            Self::Tcp1Back => "tcp1-back",
            Self::Tcp4Back => "tcp4-back",
            Self::Udp64 => "udp64",
            Self::Udp1400 => "udp1400",
            Self::RttP50 => "rtt-p50",
            Self::RttP99 => "rtt-p99",
            Self::LoadedP50 => "loaded-p50",
            Self::LoadedP99 => "loaded-p99",
            Self::Cpu => "cpu",
            Self::CpuDaemons => "cpu-daemons",
            Self::Calls => "calls",
            Self::Loss0 => "loss0",
            Self::Loss1 => "loss1",
            Self::Loss10 => "loss10",
            Self::RssIdle => "rss-idle",
            Self::RssPeak => "rss-peak",
        }
    }

    /// Its name for people.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Tcp1 => "TCP 1 stream",
            Self::Tcp4 => "TCP 4 streams",
            Self::Tcp1Back => "1 stream back",
            Self::Tcp4Back => "4 streams back",
            Self::Udp64 => "UDP 64 B",
            Self::Udp1400 => "UDP 1400 B",
            Self::RttP50 => "RTT p50",
            Self::RttP99 => "RTT p99",
            Self::LoadedP50 => "RTT p50 beside TCP",
            Self::LoadedP99 => "RTT p99 beside TCP",
            Self::Cpu => "CPU, machine",
            Self::CpuDaemons => "CPU, daemons",
            Self::Calls => "system calls",
            Self::Loss0 => "1 stream, no GRO",
            Self::Loss1 => "at 0.1 % loss",
            Self::Loss10 => "at 1 % loss",
            Self::RssIdle => "RSS idle",
            Self::RssPeak => "RSS peak",
        }
    }

    /// Its unit.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::Tcp1 | Self::Tcp4 | Self::Tcp1Back | Self::Tcp4Back => "Gbit/s",
            Self::Loss0 | Self::Loss1 | Self::Loss10 | Self::Udp1400 => "Gbit/s",
            Self::Udp64 => "kpps",
            Self::RttP50 | Self::RttP99 | Self::LoadedP50 | Self::LoadedP99 => "µs",
            Self::Cpu | Self::CpuDaemons => "s/GiB",
            Self::Calls => "1000/GiB",
            Self::RssIdle | Self::RssPeak => "MiB",
        }
    }

    /// A value of it, as precise as it is worth.
    #[must_use]
    pub fn number(self, value: f64) -> String {
        let digits = match self.unit() {
            // Long ways carry a hundredth of what the machine does.
            "Gbit/s" if value < 0.1 => 4,
            "Gbit/s" | "s/GiB" => 2,
            "1000/GiB" if value < 10.0 => 1,
            _ => 0,
        };
        format!("{value:.digits$}")
    }

    /// The same with unit.
    #[must_use]
    pub fn show(self, value: f64) -> String {
        format!("{} {}", self.number(value), self.unit())
    }

    pub(super) fn of_stream(streams: u8, back: bool) -> Self {
        match (streams, back) {
            (1, false) => Self::Tcp1,
            (1, true) => Self::Tcp1Back,
            (_, false) => Self::Tcp4,
            (_, true) => Self::Tcp4Back,
        }
    }

    pub(super) fn under_loss(share: u32) -> Self {
        match share {
            0 => Self::Loss0,
            1 => Self::Loss1,
            _ => Self::Loss10,
        }
    }

    /// What has to be sent for it; nothing for what is read off.
    fn load(self) -> Option<Load> {
        let tcp = |streams, back| Some(Load::Tcp { streams, back });
        match self {
            Self::Tcp1 | Self::Cpu | Self::CpuDaemons => tcp(1, false),
            Self::Tcp4 => tcp(4, false),
            Self::Tcp1Back => tcp(1, true),
            Self::Tcp4Back => tcp(4, true),
            Self::Udp64 => Some(Load::UdpSmall),
            Self::Udp1400 => Some(Load::UdpLarge),
            Self::RttP50 | Self::RttP99 => Some(Load::Idle),
            Self::LoadedP50 | Self::LoadedP99 => Some(Load::Beside),
            Self::Calls => Some(Load::Calls),
            Self::Loss0 => Some(Load::Loss(0)),
            Self::Loss1 => Some(Load::Loss(1)),
            Self::Loss10 => Some(Load::Loss(10)),
            Self::RssIdle | Self::RssPeak => None,
        }
    }
}

impl Load {
    /// The loads that show these measures, each once.
    pub(super) fn of(measures: &[Measure]) -> Vec<Self> {
        let mut loads: Vec<Self> = Vec::new();
        for load in measures.iter().filter_map(|measure| measure.load()) {
            if !loads.contains(&load) {
                loads.push(load);
            }
        }
        loads
    }

    /// Its name for people.
    pub(super) fn title(self) -> String {
        match self {
            Self::Tcp { streams, back } => {
                let way = if back { " back" } else { "" };
                format!("TCP, streams: {streams}{way}")
            }
            Self::UdpSmall => "UDP, 64 bytes".into(),
            Self::UdpLarge => "UDP, 1400 bytes".into(),
            Self::Idle => "round trip".into(),
            Self::Beside => "round trip, loaded".into(),
            Self::Calls => "system calls".into(),
            Self::Loss(share) => format!("TCP, loss: {share}/1000"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_runs_once_for_all_that_it_shows() {
        let loads = Load::of(&[
            Measure::Tcp1,
            Measure::Cpu,
            Measure::RssPeak,
            Measure::CpuDaemons,
        ]);
        assert_eq!(loads.len(), 1);
        assert_eq!(Load::of(&Measure::ALL).len(), 12);
    }

    #[test]
    fn the_word_of_a_measure_is_the_one_in_the_file() {
        for measure in Measure::ALL {
            let text = serde_json::to_string(&measure).unwrap();
            assert_eq!(text.trim_matches('"'), measure.id());
        }
    }
}
