//! Groups: several ways for the frames that one verdict speaks of, and which of them a flow takes.
//!
//! ```text
//!   select    flow --hash--+-- with the seed of way 1 -> score        the best score of those that are there; if one goes away,
//!                          +-- with the seed of way 2 -> score        only its flows move, and come back with it
//!                          '-- with the seed of way 3 -> score
//!   failover  the first that is there
//! ```
//!
//! Owns what a group is and the choice (rendezvous hashing, Thaler and Ravishankar 1998, with weights by the logarithmic
//! method). The choice is made in the lane, frame by frame, so that one ruling serves all flows of its mask. It rests on the key
//! and on what a way is, on nothing else: not on the order of the ways, nor on which others there are, nor on the node. Refuses
//! to know whether a way is there: that is the walk's.

use crate::edit::Edit;
use crate::flow::{FlowKey, Frag, IpKind};
use crate::ident::PortId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// Most ways of one group.
pub const BUCKETS_MAX: usize = 64;

/// Several ways, and how one is chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// For people.
    pub name: Arc<str>,
    /// How.
    pub kind: GroupKind,
    /// In the order that counts for [`GroupKind::Failover`]; at most [`BUCKETS_MAX`].
    pub buckets: Vec<Bucket>,
}

/// How a group chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupKind {
    /// By the hash of the flow.
    Select,
    /// The first that is there.
    Failover,
}

/// One way of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// Its share against the others; 0: it is not used.
    pub weight: u16,
    /// Where it leads.
    pub to: BucketTarget,
    /// What is changed of a frame on it.
    pub edits: Vec<Edit>,
}

/// Where a way of a group leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BucketTarget {
    /// To where the destination MAC is, after the changes.
    Next,
    /// Out of a port of this node.
    Port(PortId),
    /// To a member, by its [`NodeId::handle`](crate::ident::NodeId::handle).
    Peer(u64),
    /// Nowhere.
    Drop,
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to {
            BucketTarget::Next => f.write_str("where its destination is")?,
            BucketTarget::Port(port) => write!(f, "port {port}")?,
            BucketTarget::Peer(peer) => write!(f, "peer {peer:#018x}")?,
            BucketTarget::Drop => f.write_str("nowhere")?,
        }
        self.edits.iter().try_for_each(|edit| write!(f, ", {edit}"))
    }
}

impl Bucket {
    /// Tells it from other ways: the same for the same way, wherever and whenever.
    #[must_use]
    pub fn seed(&self) -> u64 {
        // FNV-1a: a fingerprint, mixed again with each flow.
        let words = self.to_string();
        words.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }
}

/// Of ways with these seeds and weights, the place of the one that the flow takes; `None`: there is none of any weight.
pub fn choose(flow: u64, ways: impl Iterator<Item = (u64, u16)>) -> Option<usize> {
    let mut best: Option<(f64, usize)> = None;
    for (at, (seed, weight)) in ways.enumerate() {
        if weight == 0 {
            continue;
        }
        // Uniform in (0, 1]: 53 bits are what the number holds.
        let uniform = ((mix(flow ^ seed) >> 11) + 1) as f64 / (1u64 << 53) as f64;
        let score = -uniform.ln() / f64::from(weight);
        if best.is_none_or(|(least, _)| score < least) {
            best = Some((score, at));
        }
    }
    best.map(|(_, at)| at)
}

/// One number for a flow: of IP both addresses, the protocol and the ports, of fragments without ports, so that all of a packet
/// go one way; of all else the MACs and what is in the frame.
#[must_use]
pub fn flow_hash(key: &FlowKey) -> u64 {
    let halves = |bits: u128| [(bits >> 64) as u64, bits as u64];
    let mac = |mac: crate::ident::MacAddr| {
        let bytes = mac.0.iter();
        bytes.fold(0, |all, &byte| all << 8 | u64::from(byte))
    };
    let absorb = |hash: u64, word: u64| mix(hash ^ word);
    match key.ip_kind {
        IpKind::V4 | IpKind::V6 => {
            let ports = match key.l4_ok && key.frag == Frag::None {
                true => u64::from(key.src_port) << 16 | u64::from(key.dst_port),
                false => 0,
            };
            let words = halves(key.src_ip).into_iter().chain(halves(key.dst_ip));
            words
                .chain([u64::from(key.ip_proto) << 32 | ports])
                .fold(1, absorb)
        }
        IpKind::None | IpKind::ArpV4 | IpKind::NdV6 => {
            let kind = u64::from(key.ether_type) << 16 | u64::from(key.vlan);
            [mac(key.src_mac), mac(key.dst_mac), kind]
                .into_iter()
                .fold(2, absorb)
        }
    }
}

/// Each bit of the result depends on all of the argument (the finalizer of SplitMix64, Steele et al. 2014).
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ident::Vni;
    use proptest::prelude::*;

    fn ways(n: usize) -> Vec<(u64, u16)> {
        let bucket = |at: usize| Bucket {
            weight: 1,
            to: BucketTarget::Port(PortId(u32::try_from(at).unwrap())),
            edits: Vec::new(),
        };
        (0..n).map(|at| (bucket(at).seed(), 1)).collect()
    }

    fn key(src: u128, port: u16) -> FlowKey {
        FlowKey {
            ip_kind: IpKind::V4,
            ip_proto: 6,
            l4_ok: true,
            src_ip: src,
            src_port: port,
            ..FlowKey::blank(Vni::new(7).unwrap())
        }
    }

    proptest! {
        #[test]
        fn when_a_way_goes_only_its_own_flows_move_and_when_it_comes_back_so_do_they(n in 2usize..20, gone in 0usize..20, flows in proptest::collection::vec(any::<u64>(), 200)) {
            let all = ways(n);
            let gone = gone % n;
            let mut left = all.clone();
            left.remove(gone);
            for flow in flows {
                let before = choose(flow, all.iter().copied()).unwrap();
                let after = choose(flow, left.iter().copied()).unwrap();
                if before != gone {
                    prop_assert_eq!(all[before], left[after]);
                }
            }
        }

        #[test]
        fn the_order_of_the_ways_and_those_of_weight_0_say_nothing(n in 1usize..20, turn in 0usize..20, flow: u64) {
            let all = ways(n);
            let mut other = all.clone();
            other.rotate_left(turn % n);
            other.insert(0, (99, 0));
            let chosen = all[choose(flow, all.iter().copied()).unwrap()];
            prop_assert_eq!(other[choose(flow, other.iter().copied()).unwrap()], chosen);
        }
    }

    #[test]
    fn each_way_gets_its_weights_share_of_flows_that_differ_by_little() {
        let weights = [1u16, 1, 2, 4];
        let ways: Vec<(u64, u16)> = ways(4)
            .into_iter()
            .zip(weights)
            .map(|((seed, _), weight)| (seed, weight))
            .collect();
        let mut got = [0u32; 4];
        for port in 0..40_000u16 {
            let flow = flow_hash(&key(0x0a00_0001, port));
            got[choose(flow, ways.iter().copied()).unwrap()] += 1;
        }
        for (weight, got) in weights.iter().zip(got) {
            let wanted = 5000 * u32::from(*weight);
            assert!(got.abs_diff(wanted) < wanted / 20, "{got} of {wanted}");
        }
        assert_eq!(choose(7, [(1, 0)].into_iter()), None);
    }

    #[test]
    fn all_fragments_of_a_packet_are_one_flow_and_other_ports_another() {
        let whole = key(1, 80);
        let first = FlowKey {
            frag: Frag::First,
            ..whole
        };
        let later = FlowKey {
            frag: Frag::Later,
            l4_ok: false,
            src_port: 0,
            ..whole
        };
        assert_eq!(flow_hash(&first), flow_hash(&later));
        assert_ne!(flow_hash(&whole), flow_hash(&key(1, 81)));
        assert_ne!(flow_hash(&whole), flow_hash(&key(2, 80)));
        let marked = FlowKey {
            ct_mark: 7,
            dscp: 3,
            ..whole
        };
        assert_eq!(
            flow_hash(&whole),
            flow_hash(&marked),
            "what changes within a flow says nothing"
        );
    }
}
