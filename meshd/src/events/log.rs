//! Events in the log, each with what it is about as fields of its own: `event`, `subject`, `peer`, `network`, `port`, `plugin`, and
//! `code` if it is a trouble.
//!
//! Owns which events are troubles. Their words are `meshd_core::notice`'s.

use crate::telemetry::{self, operation};
use meshd_core::code::ErrorCode;
use meshd_core::ident::Vni;
use meshd_core::notice::{Notice, PluginStep};
use meshd_core::view::Event;

/// What a notice names.
#[derive(Debug, Default, PartialEq, Eq)]
struct Named<'a> {
    /// A node, by its name; a stranger by its address.
    peer: Option<&'a str>,
    vni: Option<Vni>,
    /// Where its name is known.
    network: Option<&'a str>,
    port: Option<u64>,
    plugin: Option<&'a str>,
    device: Option<&'a str>,
}

fn named(notice: &Notice) -> Named<'_> {
    let none = Named::default();
    match notice {
        Notice::Plugin { plugin, vni, .. } => Named {
            plugin: Some(plugin),
            vni: *vni,
            ..none
        },
        Notice::PluginQuarantined { plugin, vni, .. } => Named {
            plugin: Some(plugin),
            vni: Some(*vni),
            ..none
        },
        Notice::Device { name, .. } => Named {
            device: Some(name),
            ..none
        },
        Notice::ServiceRefused { .. }
        | Notice::ServiceDiffers { .. }
        | Notice::ServiceHidden { .. } => none,
        Notice::PeerUp { name, .. }
        | Notice::PeerDown { name, .. }
        | Notice::PathShrank { name, .. }
        | Notice::LinkUp { name, .. }
        | Notice::LinkDown { name, .. }
        | Notice::MemberJoined { name, .. }
        | Notice::MemberRevoked { name, .. }
        | Notice::NodeAlive { name, .. }
        | Notice::NodeDead { name, .. }
        | Notice::InviteUsed { name, .. } => Named {
            peer: Some(name),
            ..none
        },
        Notice::PeerRefused { remote, .. } | Notice::InviteRefused { remote, .. } => Named {
            peer: Some(remote),
            ..none
        },
        Notice::Path { name, vni, .. } => Named {
            peer: Some(name),
            vni: Some(*vni),
            ..none
        },
        Notice::NetworkAdded { vni, name }
        | Notice::NetworkRemoved { vni, name }
        | Notice::NetworkConflict { vni, name, .. }
        | Notice::KernelTrouble {
            vni, network: name, ..
        }
        | Notice::KernelRepaired {
            vni, network: name, ..
        } => Named {
            vni: Some(*vni),
            network: Some(name),
            ..none
        },
        Notice::MacConflict { vni, .. }
        | Notice::IpConflict { vni, .. }
        | Notice::NameConflict { vni, .. }
        | Notice::PoolGranted { vni, .. } => Named {
            vni: Some(*vni),
            ..none
        },
        Notice::PortReady { port, network } => Named {
            port: Some(port.0.into()),
            network: Some(network),
            ..none
        },
        Notice::PortFailed { port, .. }
        | Notice::PortMended { port, .. }
        | Notice::PortNarrow { port, .. }
        | Notice::PortFarEnd { port, .. }
        | Notice::PortGone { port, .. }
        | Notice::PortBlocked { port, .. }
        | Notice::PortUnblocked { port } => Named {
            port: Some(port.0.into()),
            ..none
        },
        Notice::MacFlaps { vni, port, .. } => Named {
            vni: Some(*vni),
            port: Some(port.0.into()),
            ..none
        },
        Notice::Started { .. }
        | Notice::Refused { .. }
        | Notice::StateUnkept { .. }
        | Notice::StateKept {}
        | Notice::HeldBack { .. }
        | Notice::Epoch { .. }
        | Notice::BridgeFiltered { .. }
        | Notice::BridgeUnfiltered {} => none,
    }
}

/// Which trouble it is, if it is one.
fn trouble(notice: &Notice) -> Option<ErrorCode> {
    Some(match notice {
        Notice::PeerRefused { .. } => ErrorCode::PeerRefused,
        Notice::InviteRefused { .. } => ErrorCode::InviteRefused,
        Notice::PortFailed { .. } => ErrorCode::PortFailed,
        Notice::PathShrank { .. } => ErrorCode::PathShrank,
        Notice::LinkDown { .. } => ErrorCode::LinkDown,
        Notice::HeldBack { .. } => ErrorCode::EventsHeldBack,
        Notice::KernelTrouble { .. } => ErrorCode::KernelTrouble,
        Notice::KernelRepaired { .. } => ErrorCode::DeviceMeddled,
        Notice::BridgeFiltered { .. } => ErrorCode::FirewallFiltersBridges,
        Notice::StateUnkept { .. } => ErrorCode::StateUnkept,
        Notice::PluginQuarantined { .. } => ErrorCode::PluginQuarantined,
        Notice::Plugin {
            state: PluginStep::Failing,
            ..
        } => ErrorCode::PluginFailed,
        Notice::Started { clean: false, .. } => ErrorCode::DaemonCrashed,
        Notice::Refused { .. } => ErrorCode::NotTaken,
        Notice::MacConflict { .. } => ErrorCode::MacConflict,
        Notice::IpConflict { .. } => ErrorCode::AddressConflict,
        Notice::NameConflict { .. } => ErrorCode::NameConflict,
        Notice::NetworkConflict { .. } => ErrorCode::NetworkConflict,
        Notice::MacFlaps { .. } => ErrorCode::MacFlaps,
        Notice::PortNarrow { .. } => ErrorCode::PortNarrow,
        Notice::ServiceRefused { .. }
        | Notice::ServiceDiffers { .. }
        | Notice::ServiceHidden { .. } => ErrorCode::ServiceConflict,
        Notice::PortBlocked { .. } => ErrorCode::PortBlocked,
        Notice::Started { clean: true, .. }
        | Notice::Plugin { .. }
        | Notice::Device { .. }
        | Notice::PeerUp { .. }
        | Notice::PeerDown { .. }
        | Notice::LinkUp { .. }
        | Notice::Path { .. }
        | Notice::MemberJoined { .. }
        | Notice::MemberRevoked { .. }
        | Notice::NodeAlive { .. }
        | Notice::NodeDead { .. }
        | Notice::InviteUsed { .. }
        | Notice::NetworkAdded { .. }
        | Notice::NetworkRemoved { .. }
        | Notice::PoolGranted { .. }
        | Notice::PortReady { .. }
        | Notice::PortMended { .. }
        | Notice::PortFarEnd { .. }
        | Notice::PortGone { .. }
        | Notice::PortUnblocked { .. }
        | Notice::StateKept {}
        | Notice::Epoch { .. }
        | Notice::BridgeUnfiltered {} => return None,
    })
}

/// Once for each event.
pub(super) fn log(event: &Event) {
    // One macro a level, since the level of a line is fixed where it is written.
    macro_rules! tell {
        ($log:ident, $($code:tt)*) => {{
            let (word, subject) = event.notice.names();
            let named = named(&event.notice);
            tracing::$log!(
                target: "meshd::events",
                $($code)*
                event = word,
                subject = subject.word(),
                seq = event.seq,
                peer = named.peer,
                vni = named.vni.map(Vni::get),
                network = named.network,
                port = named.port,
                plugin = named.plugin,
                device = named.device,
                "{}",
                event.text
            );
        }};
    }
    let (word, about) = (event.notice.names().0, named(&event.notice));
    // An instant of the trace: begun and ended.
    let span = operation!(
        "event",
        otel.name = word,
        event = word,
        peer = about.peer,
        vni = about.vni.map(Vni::get),
        network = about.network,
        port = about.port,
        plugin = about.plugin,
        text = event.text.as_str()
    );
    if let Some(code) = trouble(&event.notice) {
        telemetry::failed(&span, code, &event.text);
    }
    drop(span);
    match (trouble(&event.notice), &event.notice) {
        (Some(code), _) => tell!(warn, code = %code,),
        (None, Notice::Epoch { .. }) => tell!(debug,),
        (None, _) => tell!(info,),
    }
}
