//! What `meshd doctor` shows.

use crate::diagnosis::Finding;
use serde::{Deserialize, Serialize};

/// `meshd doctor`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Doctor {
    /// In the order of what depends on what.
    pub checks: Vec<Check>,
}

/// One thing that meshd needs or likes to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Check {
    /// What is checked.
    pub name: String,
    /// What is wrong with it, as a word that stays: `meshd explain` knows it. Absent: it is well.
    pub code: Option<Finding>,
    /// How it is.
    pub state: CheckState,
    /// What was found: names and figures.
    pub found: String,
    /// What to do, if it is not well.
    pub advice: Option<String>,
}

/// How a checked thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum CheckState {
    /// As it should be.
    Ok,
    /// It works, with something missing or at risk.
    Warn,
    /// Something does not work.
    Fail,
}
