//! Borrowed views of an Ethernet frame: tags, ARP, IPv4, IPv6, ND, TCP, UDP, ICMP.
use crate::flow::FlowKey;
use crate::ident::Vni;

/// A frame whose Ethernet header is there.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    bytes: &'a [u8],
}

impl Frame<'_> {
    pub(crate) fn flow_key(&self, _vni: Vni) -> FlowKey {
        let _ = self.bytes;
        unreachable!("to be written")
    }
}
