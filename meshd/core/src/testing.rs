//! A keyring without cryptography, for tests and the simulator: deterministic, fast, and forgeable by whoever wants to.
//!
//! Owns the fake only. Behind the feature `testing`, so that no daemon carries it.

use crate::ident::{MeshId, NodeId};
use crate::wire::record::Keyring;

/// Signs by a keyed checksum: the "secret" key is the public one.
#[derive(Clone, Debug)]
pub struct FakeKeyring {
    node: NodeId,
    mesh: MeshId,
    root: bool,
}

impl FakeKeyring {
    /// The node that made mesh number `mesh` and holds its root key: member number 1.
    #[must_use]
    pub fn root(mesh: u64) -> Self {
        Self {
            root: true,
            ..Self::member(mesh, 1)
        }
    }

    /// Node number `node` of mesh number `mesh`.
    #[must_use]
    pub fn member(mesh: u64, node: u64) -> Self {
        Self {
            node: NodeId(digest(&[b"node", &node.to_be_bytes()])),
            mesh: MeshId(digest(&[b"mesh", &mesh.to_be_bytes()])),
            root: false,
        }
    }

    /// The mesh.
    #[must_use]
    pub fn mesh(&self) -> MeshId {
        self.mesh
    }
}

impl Keyring for FakeKeyring {
    fn node(&self) -> NodeId {
        self.node
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        checksum(&self.node.0, message)
    }

    fn sign_as_root(&self, message: &[u8]) -> Option<[u8; 64]> {
        self.root.then(|| checksum(&self.mesh.0, message))
    }

    fn verify(&self, key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
        checksum(key, message) == *signature
    }

    fn hash(&self, message: &[u8]) -> [u8; 32] {
        digest(&[message])
    }
}

fn checksum(key: &[u8; 32], message: &[u8]) -> [u8; 64] {
    let mut out = [0; 64];
    out[..32].copy_from_slice(&digest(&[b"a", key, message]));
    out[32..].copy_from_slice(&digest(&[b"b", key, message]));
    out
}

/// Four rounds of a 64-bit mix, each over all bytes.
fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut out = [0; 32];
    for (seed, chunk) in (1u64..).zip(out.chunks_exact_mut(8)) {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for part in parts {
            for &byte in *part {
                state = (state ^ u64::from(byte))
                    .wrapping_mul(0x0000_0100_0000_01b3)
                    .rotate_left(29);
            }
            state = (state ^ part.len() as u64).wrapping_mul(0xff51_afd7_ed55_8ccd);
            state ^= state >> 33;
        }
        chunk.copy_from_slice(&state.to_be_bytes());
    }
    out
}
