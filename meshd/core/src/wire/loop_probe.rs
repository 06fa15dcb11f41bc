//! Frames that look for loops: what a node sends out of an uplink, and is to come in by no port of the network.
//!
//! ```text
//!   | dst 6 | src 6 | 0x88b6 | "mdlp" | version 1 | mesh 32 | node 32 | VNI 4 | port 4 | since 8 | at 8 | blocked 1 | signature 64 |
//!                                                                                                         all big-endian
//! ```
//!
//! Owns the bytes. The signature is the sending node's, over all from the magic on to `blocked`: nobody on a LAN can have a port
//! blocked by a probe of his own making, and an old one does not count ([`LoopProbe::at`]). Refuses to judge: that is
//! [`crate::guard`].

use crate::ident::{MacAddr, MeshId, NodeId, PortId, Vni};
use crate::wire::record::Keyring;
use bytes::{BufMut, Bytes, BytesMut};

/// EtherType of loop probes: local experimental 2 (IEEE 802 §9.2.3).
pub const ETHER_LOOP: u16 = 0x88b6;
/// Where they go: a group address of local administration, which any bridge floods.
pub const LOOP_MAC: MacAddr = MacAddr([0x03, 0x6d, 0x64, 0x6c, 0x6f, 0x70]);
/// Spoken version.
pub const LOOP_VERSION: u8 = 1;

const MAGIC: [u8; 4] = *b"mdlp";
const HEAD: usize = 14;
const SIGNED: usize = 4 + 1 + 32 + 32 + 4 + 4 + 8 + 8 + 1;
/// Bytes of the frame.
pub const LOOP_PROBE_LEN: usize = HEAD + SIGNED + 64;

/// What a loop probe says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopProbe {
    /// The mesh.
    pub mesh: MeshId,
    /// Who sent it.
    pub node: NodeId,
    /// The network that the uplink is a port of.
    pub vni: Vni,
    /// The uplink, as `node` numbers it.
    pub port: PortId,
    /// Since when it is there, ms since the Unix epoch.
    pub since: u64,
    /// When it was signed, ms since the Unix epoch.
    pub at: u64,
    /// The uplink is blocked: no frame enters or leaves the network by it.
    pub blocked: bool,
}

/// True if the frame calls itself a loop probe.
#[must_use]
pub fn is_loop_probe(frame: &[u8]) -> bool {
    frame.get(..6) == Some(&LOOP_MAC.0) && frame.get(12..HEAD) == Some(&ETHER_LOOP.to_be_bytes())
}

/// The MAC that the probes of an uplink come from: `02:6d:6c`, and of node and port.
#[must_use]
pub fn loop_source(node: &NodeId, port: PortId) -> MacAddr {
    let [a, b, ..] = node.0;
    let [_, _, c, d] = port.0.to_be_bytes();
    MacAddr([0x02, 0x6d, 0x6c, a ^ c, b, d])
}

impl LoopProbe {
    fn body(&self) -> BytesMut {
        let mut body = BytesMut::with_capacity(SIGNED);
        body.put_slice(&MAGIC);
        body.put_u8(LOOP_VERSION);
        body.put_slice(&self.mesh.0);
        body.put_slice(&self.node.0);
        body.put_u32(self.vni.get());
        body.put_u32(self.port.0);
        body.put_u64(self.since);
        body.put_u64(self.at);
        body.put_u8(self.blocked.into());
        body
    }

    /// The frame, signed.
    #[must_use]
    pub fn encode(&self, keyring: &dyn Keyring) -> Bytes {
        let body = self.body();
        let mut frame = BytesMut::with_capacity(LOOP_PROBE_LEN);
        frame.put_slice(&LOOP_MAC.0);
        frame.put_slice(&loop_source(&self.node, self.port).0);
        frame.put_u16(ETHER_LOOP);
        let signature = keyring.sign(&body);
        frame.put_slice(&body);
        frame.put_slice(&signature);
        frame.freeze()
    }

    /// Reads a frame; `None`: it is no loop probe of this version. The signature is not looked at.
    #[must_use]
    pub fn decode(frame: &[u8]) -> Option<Self> {
        if !is_loop_probe(frame) {
            return None;
        }
        let rest = frame.get(HEAD..)?;
        let (magic, rest) = rest.split_first_chunk::<4>()?;
        let (&[version], rest) = rest.split_first_chunk::<1>()?;
        if *magic != MAGIC || version != LOOP_VERSION {
            return None;
        }
        let (&mesh, rest) = rest.split_first_chunk::<32>()?;
        let (&node, rest) = rest.split_first_chunk::<32>()?;
        let (&vni, rest) = rest.split_first_chunk::<4>()?;
        let (&port, rest) = rest.split_first_chunk::<4>()?;
        let (&since, rest) = rest.split_first_chunk::<8>()?;
        let (&at, rest) = rest.split_first_chunk::<8>()?;
        let (&[blocked], rest) = rest.split_first_chunk::<1>()?;
        // A card may have padded it.
        if blocked > 1 || rest.len() < 64 {
            return None;
        }
        Some(Self {
            mesh: MeshId(mesh),
            node: NodeId(node),
            vni: Vni::new(u32::from_be_bytes(vni)).ok()?,
            port: PortId(u32::from_be_bytes(port)),
            since: u64::from_be_bytes(since),
            at: u64::from_be_bytes(at),
            blocked: blocked == 1,
        })
    }

    /// True if the frame that this was read from is signed by the node that it names.
    #[must_use]
    pub fn is_signed(&self, frame: &[u8], keyring: &dyn Keyring) -> bool {
        let signature = frame.get(HEAD + SIGNED..).and_then(<[u8]>::first_chunk);
        signature.is_some_and(|signature| keyring.verify(&self.node.0, &self.body(), signature))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::FakeKeyring;
    use proptest::prelude::*;

    fn probe(since: u64, blocked: bool) -> LoopProbe {
        LoopProbe {
            mesh: FakeKeyring::root(1).mesh(),
            node: FakeKeyring::root(1).node(),
            vni: Vni::new(77).unwrap(),
            port: PortId(3),
            since,
            at: since + 5,
            blocked,
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_again_and_a_change_of_any_byte_is_seen(since: u64, blocked: bool, at in HEAD..LOOP_PROBE_LEN, bit in 0..8u8) {
            let keyring = FakeKeyring::root(1);
            let probe = probe(since.saturating_sub(9), blocked);
            let frame = probe.encode(&keyring);
            prop_assert_eq!(frame.len(), LOOP_PROBE_LEN);
            let read = LoopProbe::decode(&frame).unwrap();
            prop_assert_eq!(read, probe);
            prop_assert!(read.is_signed(&frame, &keyring));
            let mut forged = frame.to_vec();
            forged[at] ^= 1 << bit;
            prop_assert!(LoopProbe::decode(&forged).is_none_or(|read| !read.is_signed(&forged, &keyring)));
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(bytes: Vec<u8>) {
            let frame = [&LOOP_MAC.0[..], &[2, 0, 0, 0, 0, 1], &ETHER_LOOP.to_be_bytes(), &bytes].concat();
            for frame in [&bytes, &frame] {
                if let Some(read) = LoopProbe::decode(frame) {
                    let _ = read.is_signed(frame, &FakeKeyring::root(1));
                }
            }
        }
    }
}
