//! What stands before each frame of a TAP that was opened with `IFF_VNET_HDR`.

/// `struct virtio_net_hdr` of linux/virtio_net.h: what the kernel is to know of a frame before it. All zero: nothing.
/// Numbers are in the host's byte order, as TUN has them unless told otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// The checksum at `csum_start + csum_offset` covers the pseudo header only: the rest is to be added from
    /// `csum_start` on (VIRTIO_NET_HDR_F_NEEDS_CSUM).
    pub needs_checksum: bool,
    /// The checksum was checked by who gave us the frame (VIRTIO_NET_HDR_F_DATA_VALID).
    pub is_valid: bool,
    /// What kind of superframe it is.
    pub gso: Gso,
    /// Congestion was experienced on the way, so only the first segment has CWR (VIRTIO_NET_HDR_GSO_ECN).
    pub ecn: bool,
    /// The frame's headers, in bytes; a hint.
    pub header_len: u16,
    /// Bytes of payload in each segment.
    pub gso_size: u16,
    /// From the frame's start, in bytes.
    pub csum_start: u16,
    /// From `csum_start`, in bytes.
    pub csum_offset: u16,
}

/// Kinds of superframes (`VIRTIO_NET_HDR_GSO_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gso {
    /// An ordinary frame.
    #[default]
    None,
    /// TCP over IPv4.
    Tcp4,
    /// UDP, to be cut into IP fragments.
    Ufo,
    /// TCP over IPv6.
    Tcp6,
    /// UDP, to be cut into datagrams.
    Udp,
}

impl VnetHeader {
    /// Bytes of it before each frame.
    pub const LEN: usize = 10;

    const NEEDS_CSUM: u8 = 1;
    const DATA_VALID: u8 = 2;
    const ECN: u8 = 0x80;

    /// As it is before the frame.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut flags = 0;
        if self.needs_checksum {
            flags |= Self::NEEDS_CSUM;
        }
        if self.is_valid {
            flags |= Self::DATA_VALID;
        }
        let gso = match self.gso {
            Gso::None => 0,
            Gso::Tcp4 => 1,
            Gso::Ufo => 3,
            Gso::Tcp6 => 4,
            Gso::Udp => 5,
        };
        let gso = if self.ecn { gso | Self::ECN } else { gso };
        let [a, b] = self.header_len.to_ne_bytes();
        let [c, d] = self.gso_size.to_ne_bytes();
        let [e, f] = self.csum_start.to_ne_bytes();
        let [g, h] = self.csum_offset.to_ne_bytes();
        [flags, gso, a, b, c, d, e, f, g, h]
    }

    /// `None`: a kind of superframe that we do not know.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Option<Self> {
        let [flags, gso, a, b, c, d, e, f, g, h] = bytes;
        Some(Self {
            needs_checksum: flags & Self::NEEDS_CSUM != 0,
            is_valid: flags & Self::DATA_VALID != 0,
            gso: match gso & !Self::ECN {
                0 => Gso::None,
                1 => Gso::Tcp4,
                3 => Gso::Ufo,
                4 => Gso::Tcp6,
                5 => Gso::Udp,
                _ => return None,
            },
            ecn: gso & Self::ECN != 0,
            header_len: u16::from_ne_bytes([a, b]),
            gso_size: u16::from_ne_bytes([c, d]),
            csum_start: u16::from_ne_bytes([e, f]),
            csum_offset: u16::from_ne_bytes([g, h]),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_header_that_is_read_is_written_alike(mut bytes in any::<[u8; VnetHeader::LEN]>()) {
            if let Some(header) = VnetHeader::from_bytes(bytes) {
                // Flags that have no meaning here are left out.
                bytes[0] &= 3;
                prop_assert_eq!(header.to_bytes(), bytes);
            }
        }
    }

    #[test]
    fn a_tcp_superframe_is_said_as_virtio_says_it() {
        let header = VnetHeader {
            needs_checksum: true,
            gso: Gso::Tcp4,
            header_len: 54,
            gso_size: 1400,
            csum_start: 34,
            csum_offset: 16,
            ..VnetHeader::default()
        };
        let mut wanted = vec![1, 1];
        for number in [54u16, 1400, 34, 16] {
            wanted.extend(number.to_ne_bytes());
        }
        assert_eq!(header.to_bytes().to_vec(), wanted);
    }
}
