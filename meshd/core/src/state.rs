//! What a node keeps over restarts: the keys of its store, and how values become bytes.
//!
//! ```text
//!   machine --keep(key, value)--> Output::Persist { bytes, bytes } --> store
//!   store --(bytes, bytes)--> Entry::decode --> the machine whose key it is
//! ```
//!
//! Owns the key space and the encoding (a version byte, then postcard), so that all machines persist the same way. Refuses
//! nothing fatally: an entry that it cannot read is an error for the caller to report, and stays in the store untouched.

use crate::ident::{Label, NodeId, PortId, Vni, escape};
use crate::node::Output;
use crate::outbox::Outbox;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Version of keys and values; another one is not read.
const VERSION: u8 = 1;

/// The name under which something is kept. New variants go to the end: the number of a variant is part of the stored bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StateKey {
    /// A number that only grows. Value: `u64`.
    Counter(Counter),
    /// A port. Value: [`PortRecord`](crate::command::PortRecord).
    Port(PortId),
    /// This node's part in an address pool: network, index of its subnet. Value: of `pool.rs`.
    Pool(Vni, u8),
    /// A signed record of the directory. Value: [`Signed`](crate::wire::record::Signed).
    Record(RecordKind, NodeId, Option<Vni>),
    /// An invite, by the hash of its secret. Value: of `invites.rs`.
    Invite([u8; 32]),
    /// The last serial this node signed: of its own records of this kind. Value: `u64`.
    Serial(RecordKind, Option<Vni>),
    /// Foreign VTEPs of a network. Value: [`Gateway`](crate::vteps::Gateway).
    Vteps(Vni),
    /// What a node shares of a plugin on a network: a signed record of the directory, too.
    Shared(NodeId, Vni, Label),
    /// An address that is kept for a port to come. Value: of `pool/reserved.rs`.
    Reserved(Vni, IpAddr),
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Counter {
    /// The next [`PortId`].
    NextPort,
    /// The next number of a pool request.
    NextPoolRequest,
    /// How often this node started.
    Boot,
}

/// Kinds of records of the directory, as in [`Record`](crate::wire::record::Record).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum RecordKind {
    Membership,
    Revocations,
    Network,
    Node,
    Endpoints,
}

/// An entry of the store that cannot be read; it is left as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// No bytes at all.
    #[error("empty entry in the state")]
    Empty,
    /// Written by another release.
    #[error("state entry of version {found}; this release reads version {VERSION}")]
    Version {
        /// The first byte.
        found: u8,
    },
    /// Not what its place says.
    #[error("damaged state entry \"{shown}\": {reason}")]
    Damaged {
        /// The first bytes, escaped.
        shown: String,
        /// As the decoder said.
        reason: String,
    },
}

impl StateKey {
    /// The key's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// # Errors
    /// If the bytes are no key of this release.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        decode(bytes)
    }
}

/// A value's bytes: the version, then postcard.
#[must_use]
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // The kept types are plain data of known length, for which postcard has no way to fail.
    postcard::to_extend(value, vec![VERSION]).unwrap_or_default()
}

/// What [`encode`] made; all bytes must be used up.
///
/// # Errors
/// If the bytes are of another version or no `T`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StateError> {
    let damaged = |reason: String| StateError::Damaged {
        shown: escape(bytes.get(..24).unwrap_or(bytes)),
        reason,
    };
    let (&version, body) = bytes.split_first().ok_or(StateError::Empty)?;
    if version != VERSION {
        return Err(StateError::Version { found: version });
    }
    let (value, rest) = postcard::take_from_bytes(body).map_err(|e| damaged(e.to_string()))?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(damaged(format!("{} bytes too many", rest.len())))
    }
}

/// Keeps `value` under `key`, before anything pushed to `out` later happens.
pub fn keep<T: Serialize>(out: &mut Outbox, key: &StateKey, value: &T) {
    out.push(Output::Persist {
        key: key.encode(),
        value: Some(encode(value)),
    });
}

/// Forgets what is kept under `key`.
pub fn forget(out: &mut Outbox, key: &StateKey) {
    out.push(Output::Persist {
        key: key.encode(),
        value: None,
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::command::{NetnsRef, PortRecord, PortRoute};
    use crate::ident::{IfName, MacAddr};
    use crate::kind::{MacvlanSpec, PortKind};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn a_key() -> impl Strategy<Value = StateKey> {
        let vni = (1u32..1 << 24).prop_map(|n| Vni::new(n).unwrap());
        let kind = prop_oneof![
            Just(RecordKind::Membership),
            Just(RecordKind::Network),
            Just(RecordKind::Endpoints)
        ];
        prop_oneof![
            Just(StateKey::Counter(Counter::NextPort)),
            any::<u32>().prop_map(|n| StateKey::Port(PortId(n))),
            (vni.clone(), any::<u8>()).prop_map(|(v, s)| StateKey::Pool(v, s)),
            (
                kind.clone(),
                any::<[u8; 32]>(),
                proptest::option::of(vni.clone())
            )
                .prop_map(|(k, n, v)| StateKey::Record(k, NodeId(n), v)),
            any::<[u8; 32]>().prop_map(StateKey::Invite),
            (vni.clone(), any::<IpAddr>()).prop_map(|(v, ip)| StateKey::Reserved(v, ip)),
            (kind, proptest::option::of(vni.clone())).prop_map(|(k, v)| StateKey::Serial(k, v)),
            (any::<[u8; 32]>(), vni, "[a-z0-9]{1,63}").prop_map(|(n, v, plugin)| {
                StateKey::Shared(NodeId(n), v, plugin.parse().unwrap())
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_key_reads_back_as_itself(key in a_key()) {
            prop_assert_eq!(StateKey::decode(&key.encode()).unwrap(), key);
        }

        #[test]
        fn different_keys_have_different_bytes(keys in proptest::collection::btree_set(a_key(), 0..50)) {
            let bytes: BTreeSet<_> = keys.iter().map(StateKey::encode).collect();
            prop_assert_eq!(bytes.len(), keys.len());
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(bytes: Vec<u8>) {
            let _ = StateKey::decode(&bytes);
            let _ = decode::<PortRecord>(&bytes);
        }
    }

    #[test]
    fn a_port_record_survives_the_store_with_odd_bytes_in_its_names() {
        let record = PortRecord {
            id: PortId(7),
            vni: Vni::new(9).unwrap(),
            kind: PortKind::Macvtap(MacvlanSpec::default()),
            netns: NetnsRef::Path(b"/run/netns/\xff x".to_vec()),
            ifname: IfName::new(b"\xfe\xff").unwrap(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            ips: vec![
                "10.0.0.2/24".parse().unwrap(),
                "fd00::2/64".parse().unwrap(),
            ],
            leased: vec!["10.0.0.2".parse().unwrap()],
            name: Some("web".parse().unwrap()),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            since: 5,
            ready: true,
            file: None,
            asked_ifname: IfName::new(b"eth%d").unwrap(),
            mtu: Some(1400),
            routes: vec![PortRoute {
                to: "::/0".parse().unwrap(),
                via: Some("fd00::9".parse().unwrap()),
            }],
            vrf: Some(IfName::new(b"red").unwrap()),
            owner: Some("cni/demo/1a2b/eth0".parse().unwrap()),
        };
        assert_eq!(decode::<PortRecord>(&encode(&record)).unwrap(), record);
    }

    #[test]
    fn an_entry_of_another_release_names_both_versions() {
        let mut bytes = StateKey::Port(PortId(1)).encode();
        bytes[0] = 9;
        assert_eq!(
            StateKey::decode(&bytes).unwrap_err().to_string(),
            "state entry of version 9; this release reads version 1"
        );
        let mut bytes = StateKey::Port(PortId(1)).encode();
        bytes.push(0);
        assert!(
            StateKey::decode(&bytes)
                .unwrap_err()
                .to_string()
                .contains("1 bytes too many")
        );
    }
}
