//! stub
use bytes::Bytes;
use serde::{Deserialize, Serialize};
/// stub
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeFrame { pub bytes: Bytes, pub offload: Option<Offload> }
/// stub
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offload { pub segment: u16, pub header: u16, pub checksum_start: u16, pub checksum_offset: u16 }
/// stub
pub fn is_probe(_frame: &[u8]) -> bool { false }

/// stub
pub fn probe_mac(node: &crate::ident::NodeId) -> crate::ident::MacAddr { let [a,b,c,d,e,f,..]=node.0; crate::ident::MacAddr([(a&0xfc)|2,b,c,d,e,f]) }
