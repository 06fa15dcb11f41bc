//! What a plugin says when it fails: the error object of the CNI specification (1.1, section 5, "Error").
//!
//! Owns the codes and the way from the daemon's refusals to them.

use crate::api::client::ClientError;
use crate::coded::Coded as _;
use meshd_core::code::{ErrorCode, RefusalKind};
use serde_json::{Value, json};

/// The code of an error. Below 100: those of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// `cniVersion` is none that this plugin speaks.
    IncompatibleVersion,
    /// The container is not there; nothing has to be cleaned up for it.
    UnknownContainer,
    /// A variable of the environment is missing or wrong.
    InvalidEnvironment,
    /// Reading or writing failed.
    Io,
    /// No JSON, or other JSON than a network configuration.
    Decode,
    /// The configuration asks for what cannot be.
    InvalidConfig,
    /// It may work later.
    TryAgainLater,
    /// The answer to STATUS: ADD would fail.
    NotAvailable,
    /// The daemon refused.
    Refused,
    /// What CHECK found.
    NotAsItWas,
    /// A delegated plugin failed, or could not be run.
    Delegate,
}

impl Code {
    pub(super) fn number(self) -> u32 {
        match self {
            Self::IncompatibleVersion => 1,
            Self::UnknownContainer => 3,
            Self::InvalidEnvironment => 4,
            Self::Io => 5,
            Self::Decode => 6,
            Self::InvalidConfig => 7,
            Self::TryAgainLater => 11,
            Self::NotAvailable => 50,
            Self::Refused => 100,
            Self::NotAsItWas => 101,
            Self::Delegate => 102,
        }
    }
}

impl Code {
    /// The same for people, as `meshd explain` has it.
    fn word(self) -> ErrorCode {
        match self {
            Self::IncompatibleVersion => ErrorCode::CniVersionUnknown,
            Self::UnknownContainer => ErrorCode::NetnsMissing,
            Self::InvalidEnvironment => ErrorCode::CniEnvironmentInvalid,
            Self::Decode | Self::InvalidConfig => ErrorCode::CniConfigInvalid,
            Self::Io | Self::Refused => ErrorCode::CniFailed,
            Self::TryAgainLater => ErrorCode::NetworkUnknown,
            Self::NotAvailable => ErrorCode::DaemonUnreachable,
            Self::NotAsItWas => ErrorCode::CniNotAsItWas,
            Self::Delegate => ErrorCode::CniDelegateFailed,
        }
    }
}

/// Why a command of CNI came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CniError {
    code: u32,
    word: ErrorCode,
    msg: String,
    details: Option<String>,
}

/// An error, short.
pub(super) fn error(code: Code, msg: impl Into<String>) -> CniError {
    CniError {
        code: code.number(),
        word: code.word(),
        msg: msg.into(),
        details: None,
    }
}

impl CniError {
    /// With what may help.
    pub(super) fn details(mut self, details: impl Into<String>) -> Self {
        self.details = Some(details.into());
        self
    }

    /// As another code.
    pub(super) fn with_code(mut self, code: Code) -> Self {
        self.code = code.number();
        self
    }

    pub(super) fn is(&self, code: Code) -> bool {
        self.code == code.number()
    }

    pub(super) fn message(&self) -> &str {
        &self.msg
    }

    /// What a delegated plugin printed, if that is an error object.
    pub(super) fn of_delegate(plugin: &str, printed: &Value) -> Option<Self> {
        let code = u32::try_from(printed.get("code")?.as_u64()?).ok()?;
        let msg = printed.get("msg")?.as_str()?;
        let details = printed.get("details").and_then(Value::as_str);
        Some(Self {
            code,
            word: ErrorCode::CniDelegateFailed,
            msg: format!("IPAM plugin {plugin}: {}", clean(msg)),
            details: details.filter(|text| !text.is_empty()).map(clean),
        })
    }

    /// The object, for stdout.
    pub(super) fn object(&self, version: &str) -> Value {
        let explain = format!("meshd explain {}", self.word);
        let details = match &self.details {
            Some(details) => format!("{details} ({explain})"),
            None => explain,
        };
        json!({
            "cniVersion": version,
            "code": self.code,
            "msg": self.msg,
            "details": details,
        })
    }
}

/// Foreign text on one line and of bounded length.
pub(super) fn clean(text: &str) -> String {
    let shown = text.chars().take(1000);
    shown
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

impl From<ClientError> for CniError {
    fn from(cause: ClientError) -> Self {
        let word = cause.code();
        let told = match cause {
            ClientError::Refused(refusal) => {
                let code = match refusal.kind {
                    // A namespace that is gone does not come back.
                    RefusalKind::NotFound if refusal.code == ErrorCode::NetnsMissing => {
                        Code::Refused
                    }
                    // A network that is defined elsewhere may not have come here yet.
                    RefusalKind::NotFound | RefusalKind::Unavailable | RefusalKind::TooMany => {
                        Code::TryAgainLater
                    }
                    RefusalKind::Invalid => Code::InvalidConfig,
                    RefusalKind::Conflict
                    | RefusalKind::Forbidden
                    | RefusalKind::Unauthorized
                    | RefusalKind::Failed => Code::Refused,
                };
                error(code, refusal.message)
            }
            other @ ClientError::NoDaemon { .. } => error(Code::TryAgainLater, other.to_string())
                .details(
                    "start it with `meshd run`, or give \"socket\" in the network configuration",
                ),
            other @ ClientError::Forbidden { .. } => error(Code::Io, other.to_string()),
            other @ (ClientError::Broken { .. } | ClientError::Stuck { .. }) => {
                error(Code::TryAgainLater, other.to_string())
                    .details("see the daemon's log, and `meshd version` for the releases of both")
            }
        };
        Self { word, ..told }
    }
}
