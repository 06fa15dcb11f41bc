//! Recordings of traffic: pcap and pcapng in, pcap out.

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, PcapError};
use std::borrow::Cow;
use std::time::Duration;

/// The longest recording that is read, in bytes.
pub const MAX_RECORDING: usize = 1 << 30;

/// A frame, and when it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// Since whatever the recorder counts from.
    pub at: Duration,
    /// From the destination MAC on; as much as was recorded.
    pub frame: Vec<u8>,
    /// How long it was on the wire, in bytes.
    pub length: u32,
}

/// Frames in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// All of them.
    pub frames: Vec<Captured>,
}

/// Bytes that are no recording of Ethernet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordingError {
    /// Neither pcap nor pcapng, or cut off.
    #[error("this is no recording (pcap or pcapng): {0}")]
    Format(String),
    /// Of another link layer.
    #[error(
        "it was not recorded on Ethernet, but on {0}; record on the port itself (`tcpdump -i IFNAME -w FILE`)"
    )]
    Link(String),
}

impl Recording {
    /// Reads pcap or pcapng.
    ///
    /// # Errors
    /// If it is neither, or not of Ethernet.
    pub fn read(bytes: &[u8]) -> Result<Self, RecordingError> {
        // A section header block of pcapng.
        let frames = match bytes.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]) {
            true => pcapng(bytes),
            false => pcap(bytes),
        };
        Ok(Self { frames: frames? })
    }

    /// As pcap.
    ///
    /// # Errors
    /// If a frame is longer than a recording can say.
    pub fn write(&self) -> Result<Vec<u8>, RecordingError> {
        let header = PcapHeader {
            endianness: pcap_file::Endianness::Little,
            datalink: DataLink::ETHERNET,
            ..PcapHeader::default()
        };
        let mut writer = PcapWriter::with_header(Vec::new(), header).map_err(wrong)?;
        for captured in &self.frames {
            let packet = PcapPacket {
                timestamp: captured.at,
                orig_len: captured.length,
                data: Cow::Borrowed(&captured.frame),
            };
            writer.write_packet(&packet).map_err(wrong)?;
        }
        Ok(writer.into_writer())
    }
}

fn wrong(error: PcapError) -> RecordingError {
    RecordingError::Format(error.to_string())
}

fn ethernet(link: DataLink) -> Result<(), RecordingError> {
    match link {
        DataLink::ETHERNET => Ok(()),
        other => Err(RecordingError::Link(format!("{other:?}"))),
    }
}

fn pcap(bytes: &[u8]) -> Result<Vec<Captured>, RecordingError> {
    let mut reader = PcapReader::new(bytes).map_err(wrong)?;
    ethernet(reader.header().datalink)?;
    let mut out = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.map_err(wrong)?;
        out.push(Captured {
            at: packet.timestamp,
            length: packet.orig_len,
            frame: packet.data.into_owned(),
        });
    }
    Ok(out)
}

/// How many ticks a second has (`if_tsresol` of pcapng).
#[derive(Clone, Copy)]
struct Tick(u128);

impl Default for Tick {
    fn default() -> Self {
        Self(1_000_000)
    }
}

impl Tick {
    fn of(interface: &InterfaceDescriptionBlock<'_>) -> Self {
        let named = interface.options.iter().find_map(|option| match option {
            InterfaceDescriptionOption::IfTsResol(exponent) => Some(*exponent),
            _ => None,
        });
        let Some(exponent) = named else {
            return Self::default();
        };
        // The first bit tells powers of two from powers of ten.
        let (base, power) = (
            if exponent & 0x80 == 0 { 10u128 } else { 2 },
            exponent & 0x7f,
        );
        Self(base.checked_pow(power.into()).unwrap_or(u128::MAX))
    }

    fn time(self, ticks: u128) -> Duration {
        let ns = ticks.saturating_mul(1_000_000_000) / self.0;
        Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }
}

fn pcapng(bytes: &[u8]) -> Result<Vec<Captured>, RecordingError> {
    let mut reader = PcapNgReader::new(bytes).map_err(wrong)?;
    let mut out: Vec<Captured> = Vec::new();
    // Of each interface of the section, how long a tick of its clock is.
    let mut ticks = Vec::new();
    while let Some(block) = reader.next_block() {
        match block.map_err(wrong)? {
            Block::SectionHeader(_) => ticks.clear(),
            Block::InterfaceDescription(interface) => {
                ethernet(interface.linktype)?;
                ticks.push(Tick::of(&interface));
            }
            Block::EnhancedPacket(packet) => out.push(Captured {
                // The reader takes ticks for ns, whatever they are.
                at: ticks
                    .get(packet.interface_id as usize)
                    .copied()
                    .unwrap_or_default()
                    .time(packet.timestamp.as_nanos()),
                length: packet.original_len,
                frame: packet.data.into_owned(),
            }),
            Block::SimplePacket(packet) => out.push(Captured {
                // It has no time; it came after the one before.
                at: out.last().map_or(Duration::ZERO, |last| last.at),
                length: packet.original_len,
                frame: packet.data.into_owned(),
            }),
            _ => {}
        }
    }
    Ok(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// One interface with these options, and one frame so many ticks after 1970.
    fn recording(options: &[u8], ticks: u64) -> Vec<u8> {
        let mut out = Vec::new();
        let mut block = |kind: u32, body: &[u8]| {
            let length = (body.len() as u32 + 12).to_le_bytes();
            out.extend([&kind.to_le_bytes()[..], &length, body, &length].concat());
        };
        block(
            0x0a0d_0d0a,
            &[&0x1a2b_3c4du32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat(),
        );
        block(1, &[&[1, 0, 0, 0, 0, 0, 0, 0], options].concat());
        let [a, b, c, d, rest @ ..] = ticks.to_be_bytes();
        let high = u32::from_be_bytes([a, b, c, d]).to_le_bytes();
        let low = u32::from_be_bytes(rest).to_le_bytes();
        let length = 16u32.to_le_bytes();
        block(
            6,
            &[&[0; 4][..], &high, &low, &length, &length, &[2; 16]].concat(),
        );
        out
    }

    #[test]
    fn the_time_of_a_frame_is_in_ticks_of_its_interface_and_those_are_us_unless_said() {
        let at = |options: &[u8], ticks| {
            let read = Recording::read(&recording(options, ticks)).unwrap();
            read.frames[0].at
        };
        let seconds = 1_500_000_000;
        assert_eq!(at(&[], seconds * 1_000_000), Duration::from_secs(seconds));
        let resolution = |exponent| [9, 0, 1, 0, exponent, 0, 0, 0, 0, 0, 0, 0];
        let ns = at(&resolution(9), seconds * 1_000_000_000 + 5);
        assert_eq!(ns, Duration::new(seconds, 5));
        let half = at(&resolution(0x81), 3);
        assert_eq!(half, Duration::from_millis(1500));
        let finest = at(&resolution(0x7f), u64::MAX);
        assert_eq!(finest, Duration::ZERO, "and nothing overflows");
    }
}
