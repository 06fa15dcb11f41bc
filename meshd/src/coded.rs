//! Which code each error of this program has.
//!
//! Owns nothing but the table: one match an enum, and none of them has a `_`, so that a new variant without a code does not
//! compile. What each code means is in `cli/explain/codes.toml`.

use crate::api::client::ClientError;
use crate::api::socket::SocketError;
use crate::cni::install::InstallError as CniInstallError;
use crate::compiler::{CompileError, TrustError};
use crate::config_file::ConfigFileError;
use crate::controllers::ControllerError;
use crate::identity::IdentityError;
use crate::join::JoinError;
use crate::kernel::KernelError;
use crate::rulings::{
    AttachError, DetachError, InstallError, RemoveError, RollbackError, ShadowError, ShelfError,
    StartError,
};
use crate::store::StoreError;
use crate::systemd::units::UnitError;
use crate::token::TokenError;
use crate::underlay::UnderlayError;
use meshd_core::code::ErrorCode as Code;
use meshd_core::command::Refusal;
use meshd_core::state::StateError;
use meshd_core::wire::control::JoinRefusal;
use meshd_plugin_host::{ConfigureError, LoadError, SignatureError};

/// An error that a user can meet.
pub(crate) trait Coded: std::fmt::Display {
    /// Which it is.
    fn code(&self) -> Code;

    /// What may help, besides what the message says and `meshd explain` has.
    fn hint(&self) -> Option<&'static str> {
        None
    }
}

/// As a command of the API is refused.
pub(crate) fn refusal(error: &impl Coded) -> Refusal {
    Refusal::new(error.code(), error.to_string())
}

/// That of the innermost cause which has one.
pub(crate) fn of_chain(error: &anyhow::Error) -> Code {
    fn one<E: Coded + std::error::Error + 'static>(
        cause: &(dyn std::error::Error + 'static),
    ) -> Option<Code> {
        cause.downcast_ref::<E>().map(Coded::code)
    }
    let known = error.chain().filter_map(|cause| {
        None.or_else(|| one::<StoreError>(cause))
            .or_else(|| one::<IdentityError>(cause))
            .or_else(|| one::<SocketError>(cause))
            .or_else(|| one::<UnderlayError>(cause))
            .or_else(|| one::<KernelError>(cause))
            .or_else(|| one::<StartError>(cause))
            .or_else(|| one::<StateError>(cause))
            .or_else(|| one::<ConfigFileError>(cause))
            .or_else(|| one::<Refused>(cause))
    });
    known.last().unwrap_or(Code::DaemonFailed)
}

/// Words with a code, where there is no enum.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(pub(crate) Refusal);

impl Refused {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Refusal::new(code, message))
    }
}

impl Coded for Refused {
    fn code(&self) -> Code {
        self.0.code
    }
}

impl Coded for Refusal {
    fn code(&self) -> Code {
        self.code
    }
}

impl Coded for ClientError {
    fn code(&self) -> Code {
        match self {
            Self::NoDaemon { .. } => Code::DaemonUnreachable,
            Self::Stuck { .. } => Code::DaemonStuck,
            Self::Forbidden { .. } => Code::SocketForbidden,
            Self::Refused(refusal) => refusal.code,
            Self::Broken { .. } => Code::DaemonBrokeOff,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoDaemon { .. } => Some(
                "start it with `meshd run`, or set MESHD_SOCKET (or --socket) to the socket of the one you mean",
            ),
            Self::Forbidden { .. } => {
                Some("try as root, or set MESHD_SOCKET (or --socket) to a daemon of your own")
            }
            Self::Stuck { stopped: true, .. } => Some(
                "`kill -CONT` that process, or `systemctl restart meshd`; what the kernel forwards goes on meanwhile",
            ),
            Self::Stuck { .. } => Some(
                "is the host out of time or memory (`top`, `dmesg`)? Else `systemctl restart meshd`; what the kernel forwards goes on meanwhile",
            ),
            Self::Broken { .. } => {
                Some("see the daemon's log, and `meshd version` for the releases of both")
            }
            Self::Refused(_) => None,
        }
    }
}

impl Coded for ConfigFileError {
    fn code(&self) -> Code {
        match self {
            Self::Read { .. } => Code::ConfigUnreadable,
            Self::Wrong { source, .. } => source.code,
        }
    }
}

impl Coded for StoreError {
    fn code(&self) -> Code {
        match self {
            Self::Io { .. } | Self::Db { .. } => Code::StateUnusable,
            Self::Kind { .. } | Self::Owner { .. } | Self::Open { .. } => Code::StateUnsafe,
            Self::InUse { .. } => Code::StateInUse,
            Self::Damaged { .. } => Code::StateDamaged,
            Self::Newer { .. } => Code::StateNewer,
        }
    }
}

impl Coded for StateError {
    fn code(&self) -> Code {
        Code::StateDamaged
    }
}

impl Coded for IdentityError {
    fn code(&self) -> Code {
        match self {
            Self::Store(error) => error.code(),
            Self::Member { .. } => Code::MemberAlready,
            Self::Damaged { .. } => Code::StateDamaged,
            Self::Random => Code::NoRandomNumbers,
            Self::Sign(_) => Code::RecordRefused,
        }
    }
}

impl Coded for TokenError {
    fn code(&self) -> Code {
        match self {
            Self::NoToken | Self::Long => Code::TokenInvalid,
            Self::OtherVersion { .. } => Code::TokenOtherVersion,
            Self::Character { .. } | Self::Cut | Self::Mistyped => Code::TokenMistyped,
        }
    }
}

impl Coded for JoinRefusal {
    fn code(&self) -> Code {
        match self {
            Self::Used => Code::InviteUsed,
            Self::Expired => Code::InviteExpired,
            Self::OtherMesh => Code::InviteOtherMesh,
            Self::Unknown => Code::InviteUnknown,
            Self::Version => Code::InviterOtherVersion,
            Self::Revoked => Code::NodeRevoked,
            Self::NoRoot => Code::InviteNoRoot,
            Self::SlowDown => Code::InviteGuessing,
        }
    }
}

impl Coded for JoinError {
    fn code(&self) -> Code {
        match self {
            Self::Identity(error) => error.code(),
            Self::Store(error) => error.code(),
            Self::Revoked { .. } => Code::NodeRevoked,
            Self::Already { .. } => Code::MemberAlready,
            Self::OtherMesh { .. } => Code::MemberOfAnother,
            Self::Expired { .. } => Code::InviteExpired,
            Self::Refused(refusal) => refusal.code(),
            Self::Ended { .. } => Code::InviterEnded,
            Self::Unreachable { .. } => Code::InviterUnreachable,
            Self::Welcome(_) => Code::InviterDistrusted,
            Self::Underlay(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<&'static str> {
        matches!(self, Self::Unreachable { .. }).then_some(
            "is `meshd run` running there, and does UDP get through? The addresses are in the token",
        )
    }
}

impl Coded for UnderlayError {
    fn code(&self) -> Code {
        match self {
            Self::Bind { .. } | Self::Link { .. } => Code::UnderlayPortTaken,
            Self::Tls(_) => Code::UnderlaySetUp,
        }
    }
}

impl Coded for SocketError {
    fn code(&self) -> Code {
        match self {
            Self::Io { .. } => Code::SocketFailed,
            Self::NoSocket { .. } | Self::Long { .. } => Code::SocketPathInvalid,
            Self::InUse { .. } => Code::SocketInUse,
        }
    }
}

impl Coded for KernelError {
    fn code(&self) -> Code {
        Code::KernelRefused
    }
}

impl Coded for UnitError {
    fn code(&self) -> Code {
        match self {
            Self::Io { .. } => Code::FileUnwritten,
            Self::Foreign { .. } => Code::FileForeign,
            Self::Path { .. } => Code::UnitPathInvalid,
            Self::Systemctl { .. } => Code::SystemdFailed,
        }
    }
}

impl Coded for CniInstallError {
    fn code(&self) -> Code {
        match self {
            Self::Io { .. } => Code::FileUnwritten,
            Self::Foreign { .. } => Code::FileForeign,
            Self::Gateway { .. } => Code::RouteInvalid,
        }
    }
}

impl Coded for LoadError {
    fn code(&self) -> Code {
        match self {
            Self::Engine { .. } => Code::PluginCompilerFailed,
            Self::TooLarge { .. } => Code::PluginTooHeavy,
            Self::Manifest(_) => Code::PluginManifestInvalid,
            Self::NotWasm { .. } | Self::CoreModule | Self::Compile { .. } => Code::PluginInvalid,
            Self::Stale { .. } => Code::PluginCacheFailed,
            Self::Import { .. }
            | Self::NoDecide { .. }
            | Self::ControllerImport { .. }
            | Self::NoEvents
            | Self::Version { .. }
            | Self::Newer { .. }
            | Self::Contract { .. } => Code::PluginContract,
        }
    }
}

impl Coded for SignatureError {
    fn code(&self) -> Code {
        match self {
            Self::Load(error) => error.code(),
            Self::Damaged
            | Self::TooMany
            | Self::Form
            | Self::Wrong { .. }
            | Self::Again { .. } => Code::PluginSignatureBad,
        }
    }
}

impl Coded for TrustError {
    fn code(&self) -> Code {
        match self {
            Self::Signature(error) => error.code(),
            Self::Unsigned => Code::PluginUnsigned,
            Self::Untrusted { .. } => Code::PluginUntrusted,
        }
    }
}

impl Coded for CompileError {
    fn code(&self) -> Code {
        match self {
            Self::Load(error) => error.code(),
            Self::Start { .. } => Code::PluginCompilerFailed,
            Self::TooLong | Self::Memory | Self::TooMuch => Code::PluginTooHeavy,
            Self::Trust(error) => error.code(),
            Self::Crashed { .. } => Code::PluginInvalid,
        }
    }
}

impl Coded for ConfigureError {
    fn code(&self) -> Code {
        match self {
            Self::TooLong { .. } | Self::Schema(_) | Self::Refused(_) => Code::PluginConfigRefused,
            Self::Fault(_) | Self::Facts(_) | Self::FirstDecision(_) => Code::PluginFailsAtOnce,
        }
    }
}

impl Coded for ControllerError {
    fn code(&self) -> Code {
        match self {
            Self::Configure(error) => error.code(),
            Self::State(_) => Code::PluginStateRefused,
            Self::Kept(_) => Code::PluginStateDamaged,
            Self::Thread(_) => Code::NoThreads,
        }
    }
}

impl Coded for ShelfError {
    fn code(&self) -> Code {
        match self {
            Self::Store(_) | Self::Io { .. } => Code::PluginUnkept,
            Self::Record { .. } => Code::PluginStateDamaged,
        }
    }
}

impl Coded for StartError {
    fn code(&self) -> Code {
        match self {
            Self::Shelf(error) => error.code(),
            Self::Engine(error) => error.code(),
            Self::Thread(_) => Code::NoThreads,
        }
    }
}

impl Coded for InstallError {
    fn code(&self) -> Code {
        match self {
            Self::Load { source, .. } => source.code(),
            Self::Configure { source, .. } => source.code(),
            Self::Controller { source, .. } => source.code(),
            Self::Grant { .. } => Code::PluginNotGranted,
            Self::Stage { .. } => Code::PluginStage,
            Self::World { .. } => Code::PluginWorld,
            Self::Full { .. } => Code::PluginsFull,
            Self::Keep { source, .. } => source.code(),
        }
    }
}

impl Coded for AttachError {
    fn code(&self) -> Code {
        match self {
            Self::NotInstalled { .. } => Code::PluginUnknown,
            Self::Broken { .. } => Code::PluginBroken,
            Self::Configure { source, .. } => source.code(),
            Self::Controller { source, .. } => source.code(),
            Self::Grant { .. } => Code::PluginNotGranted,
            Self::Controllers { .. } => Code::PluginControllersFull,
            Self::Declared { .. } => Code::PluginMeterInvalid,
            Self::Stage { .. } => Code::PluginStage,
            Self::SteeringPlace { .. } => Code::PluginPlaceInvalid,
            Self::SteeringTaken { .. } => Code::PluginSteeringTaken,
            Self::Full { .. } => Code::PluginAttachmentsFull,
            Self::Keep { source, .. } => source.code(),
        }
    }
}

impl Coded for DetachError {
    fn code(&self) -> Code {
        match self {
            Self::NotInstalled { .. } => Code::PluginUnknown,
            Self::NotAttached { .. } => Code::PluginNotAttached,
            Self::Keep(error) => error.code(),
        }
    }
}

impl Coded for RollbackError {
    fn code(&self) -> Code {
        match self {
            Self::NotInstalled { .. } => Code::PluginUnknown,
            Self::NoVersion { .. } => Code::PluginVersionUnknown,
            Self::Install(error) => error.code(),
            Self::Broken { .. } => Code::PluginBroken,
        }
    }
}

impl Coded for ShadowError {
    fn code(&self) -> Code {
        match self {
            Self::Steering { .. } => Code::PluginSteers,
            Self::NotInstalled { .. } => Code::PluginUnknown,
            Self::NotAttached { .. } => Code::PluginNotAttached,
            Self::None { .. } => Code::PluginNoShadow,
            Self::Load { source, .. } => source.code(),
            Self::Configure { source, .. } => source.code(),
            Self::Full => Code::PluginShadowsFull,
            Self::Thread(_) => Code::NoThreads,
        }
    }
}

impl Coded for RemoveError {
    fn code(&self) -> Code {
        match self {
            Self::NotInstalled { .. } => Code::PluginUnknown,
            Self::Attached { .. } => Code::PluginAttached,
            Self::Keep { source, .. } => source.code(),
        }
    }
}
