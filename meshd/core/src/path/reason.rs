//! Why a path is as it is: the words of `meshd paths` and of events.

use serde::{Deserialize, Serialize};

/// Why a kernel path is in its state. The evidence beside it has the figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", schema(as = PathReason))]
pub enum Reason {
    /// This node does not trust the underlay between the two.
    NotTrustedHere,
    /// The peer does not.
    NotTrustedThere,
    /// This node has no VXLAN.
    NoVxlanHere,
    /// The peer has none.
    NoVxlanThere,
    /// One has IPv4, the other IPv6.
    NoCommonFamily,
    /// No session, so nothing that a probe says could be believed.
    NoSession,
    /// Probes have not said enough yet.
    Proving,
    /// Probes of all kinds arrived.
    Proved,
    /// It was open before this daemon started; proof follows.
    Adopted,
    /// Nothing arrives on either side, while the session stands.
    UdpBlocked,
    /// The peer's probes arrive here, ours do not arrive there.
    OneWay,
    /// Small probes arrive, those of the network's MTU do not.
    MtuHole,
    /// The superframe does not arrive as it was sent.
    OffloadBad,
    /// Plain probes do not arrive as they were sent.
    Altered,
    /// Too many probes are lost.
    Lossy,
    /// The peer says nothing on any way, so nobody can tell.
    Silent,
    /// The network's VXLAN device is not there.
    DeviceGone,
    /// The session was down for long.
    SessionDown,
    /// This host had no time for its daemon; for the record.
    HostBusy,
    /// It failed lately, and waits before it is tried again.
    Held,
    /// Address, MTU or device became another: it is proved anew.
    Changed,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::NotTrustedHere,
        Self::NotTrustedThere,
        Self::NoVxlanHere,
        Self::NoVxlanThere,
        Self::NoCommonFamily,
        Self::NoSession,
        Self::Proving,
        Self::Proved,
        Self::Adopted,
        Self::UdpBlocked,
        Self::OneWay,
        Self::MtuHole,
        Self::OffloadBad,
        Self::Altered,
        Self::Lossy,
        Self::Silent,
        Self::DeviceGone,
        Self::SessionDown,
        Self::HostBusy,
        Self::Held,
        Self::Changed,
    ];

    /// What it means, in a sentence.
    #[must_use]
    pub fn explain(self) -> &'static str {
        match self {
            Self::NotTrustedHere => {
                "this node does not trust the underlay to this peer with frames in the clear"
            }
            Self::NotTrustedThere => {
                "the peer does not trust the underlay to this node with frames in the clear"
            }
            Self::NoVxlanHere => {
                "this node's kernel lacks something that VXLAN with a fence needs, or its firewall filters bridged frames"
            }
            Self::NoVxlanThere => "the peer says that it has no VXLAN device",
            Self::NoCommonFamily => {
                "one end of the tunnel would have an IPv4 address, the other an IPv6 address"
            }
            Self::NoSession => "there is no session with the peer, over which probes are agreed",
            Self::Proving => "probes are on their way; frames travel by QUIC until enough arrived",
            Self::Proved => {
                "probes of the network's MTU, small ones and a superframe arrived as they were sent"
            }
            Self::Adopted => "it was open when this daemon started, and is being proved again",
            Self::UdpBlocked => "the peer answers over QUIC, but VXLAN arrives on neither side",
            Self::OneWay => "VXLAN of the peer arrives here, but ours does not arrive there",
            Self::MtuHole => "small VXLAN packets arrive, those of the network's MTU do not",
            Self::OffloadBad => {
                "a frame that the kernel or the NIC cut into segments is not whole at the peer"
            }
            Self::Altered => "frames arrive at the peer, but not as they were sent",
            Self::Lossy => "more than a fifth of the probes are lost",
            Self::Silent => "the peer answers neither over VXLAN nor over QUIC",
            Self::DeviceGone => "the network's VXLAN device is gone",
            Self::SessionDown => "the session with the peer has been down for too long",
            Self::HostBusy => "this host gave its daemon no time; its deadlines were moved",
            Self::Held => "the path failed lately and is left alone for a while",
            Self::Changed => "an address, the MTU or the device became another; it is proved anew",
        }
    }

    /// What a person could do about it; `None`: nothing, all is well or goes on by itself.
    #[must_use]
    pub fn remedy(self) -> Option<&'static str> {
        Some(match self {
            Self::NotTrustedHere => {
                "if the underlay is yours, put the subnets of both nodes into `[underlay] trusted` here"
            }
            Self::NotTrustedThere => {
                "if the underlay is yours, put the subnets of both nodes into `[underlay] trusted` on the peer"
            }
            Self::NoVxlanHere => {
                "`meshd doctor` says which: load the kernel's module for it, or let the firewall leave bridges alone"
            }
            Self::NoVxlanThere => "run `meshd doctor` on the peer",
            Self::NoCommonFamily => "give both nodes trusted addresses of one family",
            Self::NoSession | Self::SessionDown => "see `meshd peers` for why there is no session",
            Self::UdpBlocked => {
                "let UDP of the VXLAN port (4789 unless set otherwise) pass between the two hosts, in both directions"
            }
            Self::OneWay => {
                "let UDP of the VXLAN port (4789 unless set otherwise) pass from this host to the peer"
            }
            Self::MtuHole => {
                "raise the underlay's MTU to the network's plus 50 bytes (70 over IPv6), or lower the network's to the path MTU shown"
            }
            Self::OffloadBad => {
                "turn the offload off that the evidence names, on the NICs of both hosts: `ethtool -K NIC tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off`"
            }
            Self::Altered => {
                "something between the hosts changes packets: look for a faulty NIC, cable or middlebox"
            }
            Self::Lossy => "look for congestion or a faulty link between the hosts",
            Self::Silent => "see whether the peer's daemon runs and has time",
            Self::DeviceGone => {
                "meshd makes it anew; if it does not come back, `meshd doctor` says why"
            }
            Self::HostBusy => "give the daemon more processor time",
            Self::Proving | Self::Proved | Self::Adopted | Self::Held | Self::Changed => {
                return None;
            }
        })
    }
}
