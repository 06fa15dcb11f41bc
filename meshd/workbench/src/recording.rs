//! Recordings of traffic: pcap and pcapng in, pcap out.

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
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

fn pcapng(bytes: &[u8]) -> Result<Vec<Captured>, RecordingError> {
    let mut reader = PcapNgReader::new(bytes).map_err(wrong)?;
    let mut out: Vec<Captured> = Vec::new();
    while let Some(block) = reader.next_block() {
        match block.map_err(wrong)? {
            Block::InterfaceDescription(interface) => ethernet(interface.linktype)?,
            Block::EnhancedPacket(packet) => out.push(Captured {
                at: packet.timestamp,
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
