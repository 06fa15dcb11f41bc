//! A refusal at the other end of the API, as whoever asked reads it.
//!
//! Owns what becomes of codes and kinds of a later release.

use meshd_core::code::{ErrorCode, RefusalKind};
use serde::Deserialize;

/// A refusal that another process told, perhaps of a later release: its kind holds also where its code is not known here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Told {
    /// [`ErrorCode::CodeUnknown`] for one of a later release.
    pub code: ErrorCode,
    /// What a program does about it.
    pub kind: RefusalKind,
    /// For people.
    pub message: String,
}

impl Told {
    /// Reads the JSON of a refusal. `otherwise`: the kind, where neither the one in the JSON nor the code is known here. What
    /// cannot be read is never taken for "not there".
    ///
    /// # Errors
    /// If it is no refusal.
    pub fn read(json: &[u8], otherwise: RefusalKind) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Body {
            code: String,
            kind: Option<String>,
            message: String,
        }
        let body: Body = serde_json::from_slice(json)?;
        let code = ErrorCode::of(&body.code);
        let kind = body.kind.as_deref().and_then(RefusalKind::of);
        Ok(Self {
            code: code.unwrap_or(ErrorCode::CodeUnknown),
            kind: kind.unwrap_or(code.map_or(otherwise, ErrorCode::kind)),
            message: body.message,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use meshd_core::command::Refusal;

    #[test]
    fn a_code_that_is_not_known_here_has_the_kind_beside_it_and_never_that_of_a_thing_that_is_not_there()
     {
        let told = |json: &str| {
            let told = Told::read(json.as_bytes(), RefusalKind::Unavailable).unwrap();
            (told.code, told.kind)
        };
        let unknown = ErrorCode::CodeUnknown;
        assert_eq!(
            told(r#"{"code":"sunspots","kind":"conflict","message":"m"}"#),
            (unknown, RefusalKind::Conflict)
        );
        for none in ["", r#""kind":null,"#, r#""kind":"cosmic","#] {
            assert_eq!(
                told(&format!(r#"{{"code":"sunspots",{none}"message":"m"}}"#)),
                (unknown, RefusalKind::Unavailable)
            );
        }
        assert_eq!(
            told(r#"{"code":"port-unknown","message":"m"}"#),
            (ErrorCode::PortUnknown, RefusalKind::NotFound)
        );
        let refusal = Refusal::new(ErrorCode::PortBusy, "m");
        assert_eq!(
            told(&serde_json::to_string(&refusal).unwrap()),
            (ErrorCode::PortBusy, RefusalKind::Unavailable)
        );
        assert!(Told::read(b"{}", RefusalKind::Failed).is_err());
    }
}
