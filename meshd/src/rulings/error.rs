//! Why a change of the plugins is not made: one enum an operation, and each sentence says what, where and what to do.

use super::registry::{MAX_ATTACHMENTS, MAX_PLUGINS, MAX_SHADOWS};
use super::shelf::ShelfError;
use crate::compiler::CompileError;
use crate::controllers::{ControllerError, MAX_CONTROLLERS};
use meshd_core::ident::{Label, Vni};
use meshd_plugin_host::{Capability, ConfigureError, LoadError};
use std::io;

/// Why the plugins of this node cannot be brought up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] LoadError),
    /// The system has no thread to give.
    #[error("cannot start the policy thread: {0}")]
    Thread(io::Error),
}

/// Why a component is not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// It is no policy component.
    #[error("{name} cannot be installed: {source}")]
    Load {
        /// The plugin.
        name: Label,
        /// What is wrong with it.
        source: CompileError,
    },
    /// A network where the name is attached has a config that this component refuses.
    #[error(
        "{name} cannot replace the installed one on network {vni}: {source}. The installed one goes on; change the config there first, or detach it"
    )]
    Configure {
        /// The plugin.
        name: Label,
        /// The network.
        vni: Vni,
        /// What it says.
        source: ConfigureError,
    },
    /// It imports what was not granted to the one before.
    #[error(
        "{name} cannot replace the installed one on network {vni}: this one imports {capability}, which is not granted there. Look at what it does with it, then `meshd plugin attach {name} {vni} --grant …` with {capability} among the rest, or detach it"
    )]
    Grant {
        /// The plugin.
        name: Label,
        /// The network.
        vni: Vni,
        /// What is missing.
        capability: Capability,
    },
    /// Its controller does not start, or does not take over.
    #[error(
        "{name} cannot replace the installed one on network {vni}: {source}. The installed one goes on"
    )]
    Controller {
        /// The plugin.
        name: Label,
        /// The network.
        vni: Vni,
        /// What it says.
        source: ControllerError,
    },
    /// An operator moved the one that is installed to where this one cannot stand.
    #[error(
        "{name} cannot replace the installed one on network {vni}: this one is made for the stage {from}, and stands in {to} there; {why}. Attach it there with `--stage {from}` first, or detach it"
    )]
    Stage {
        /// The plugin.
        name: Label,
        /// The network.
        vni: Vni,
        /// By its manifest.
        from: &'static str,
        /// By the operator.
        to: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// Another kind than what is attached.
    #[error(
        "{name} cannot be installed: the new version is of the world {world}, the one that is attached is not. Detach that one first"
    )]
    World {
        /// The plugin.
        name: Label,
        /// Of the new version.
        world: &'static str,
    },
    /// Too many.
    #[error("{name} cannot be installed: this node has {MAX_PLUGINS} plugins already")]
    Full {
        /// The plugin.
        name: Label,
    },
    /// The state cannot be written.
    #[error("{name} cannot be kept: {source}")]
    Keep {
        /// The plugin.
        name: Label,
        /// What fails.
        source: ShelfError,
    },
}

/// Why a plugin is not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// No such plugin.
    #[error(
        "no plugin {name} is installed on this node; `meshd plugin install {name} FILE.wasm` first"
    )]
    NotInstalled {
        /// The plugin.
        name: Label,
    },
    /// It did not load when the daemon started.
    #[error("{name} is installed, but cannot be used: {reason}")]
    Broken {
        /// The plugin.
        name: Label,
        /// Why it does not load.
        reason: String,
    },
    /// It refuses the config.
    #[error("{name} is not attached to network {vni} with this config: {source}")]
    Configure {
        /// The plugin.
        name: Label,
        /// The network.
        vni: Vni,
        /// What it says.
        source: ConfigureError,
    },
    /// Its controller imports what was not granted.
    #[error(
        "{name} is not attached to network {vni}: its controller imports {capability}, which is not granted. It needs `--grant {asks}`; docs/plugins/controllers.md says what each lets it do"
    )]
    Grant {
        /// The plugin.
        name: Label,
        /// The network.
        vni: Vni,
        /// What is missing.
        capability: Capability,
        /// All that it imports, but for what is granted in any case.
        asks: String,
    },
    /// Its controller does not start.
    #[error("{name} is not attached to network {vni}: {source}")]
    Controller {
        /// The plugin.
        name: Label,
        /// The network.
        vni: Vni,
        /// What it says.
        source: ControllerError,
    },
    /// Too many controllers.
    #[error("{name} is not attached: this node runs {MAX_CONTROLLERS} controllers already")]
    Controllers {
        /// The plugin.
        name: Label,
    },
    /// Its config declares meters that are none.
    #[error("{name} is not attached to network {vni} with this config: {reason}")]
    Declared {
        /// The plugin.
        name: Label,
        /// The network.
        vni: Vni,
        /// What is wrong, and where.
        reason: String,
    },
    /// It cannot stand there.
    #[error(
        "{name} is not attached to network {vni}: it is made for the stage {from} and cannot stand in {to}; {why}. A plugin may go to a later stage, and neither into observe nor out of it"
    )]
    Stage {
        /// The plugin.
        name: Label,
        /// The network.
        vni: Vni,
        /// By its manifest.
        from: &'static str,
        /// By the operator.
        to: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// It has no place in a chain.
    #[error(
        "{name} chooses ways, and is in no chain: leave --stage, --order and --fail out. When it fails, its last choice holds"
    )]
    SteeringPlace {
        /// The plugin.
        name: Label,
    },
    /// A network has one steering plugin.
    #[error(
        "{name} is not attached to network {vni}: {other} chooses ways there, and a network has one steering plugin. Detach {other} first"
    )]
    SteeringTaken {
        /// The plugin.
        name: Label,
        /// The network.
        vni: Vni,
        /// Who is there.
        other: Label,
    },
    /// Too many.
    #[error("{name} is attached to {MAX_ATTACHMENTS} networks already")]
    Full {
        /// The plugin.
        name: Label,
    },
    /// The state cannot be written.
    #[error("the attachment of {name} cannot be kept: {source}")]
    Keep {
        /// The plugin.
        name: Label,
        /// What fails.
        source: ShelfError,
    },
}

/// Why a plugin is not detached.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// No such plugin.
    #[error("no plugin {name} is installed on this node; `meshd plugin ls` shows those that are")]
    NotInstalled {
        /// The plugin.
        name: Label,
    },
    /// It is not there.
    #[error("{name} is not attached to network {vni}; `meshd plugin ls` shows where it is")]
    NotAttached {
        /// The plugin.
        name: Label,
        /// The network.
        vni: Vni,
    },
    /// The state cannot be written.
    #[error("the change cannot be kept: {0}")]
    Keep(ShelfError),
}

/// Why a plugin does not go back to an earlier version.
#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    /// No such plugin.
    #[error("no plugin {name} is installed on this node; `meshd plugin ls` shows those that are")]
    NotInstalled {
        /// The plugin.
        name: Label,
    },
    /// Nothing to go back to.
    #[error(
        "{name} has no earlier version{wanted} on this node; those it has: {have}. `meshd plugin install {name} FILE.wasm` installs any"
    )]
    NoVersion {
        /// The plugin.
        name: Label,
        /// Which one was asked for, with a space before it, or nothing.
        wanted: String,
        /// Short digests, or `none`.
        have: String,
    },
    /// The earlier version is not what it was, or a config is none for it.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// The file is gone or damaged.
    #[error("{name} stays as it is: {reason}")]
    Broken {
        /// The plugin.
        name: Label,
        /// What is wrong with the file.
        reason: String,
    },
}

/// Why no version runs beside another, or none ends.
#[derive(Debug, thiserror::Error)]
pub enum ShadowError {
    /// Only policies run beside each other.
    #[error(
        "{name}: a version can be run beside another one of a policy, and not of a steering plugin"
    )]
    Steering {
        /// The plugin.
        name: Label,
    },
    /// No such plugin.
    #[error("no plugin {name} is installed on this node; `meshd plugin ls` shows those that are")]
    NotInstalled {
        /// The plugin.
        name: Label,
    },
    /// It is not there.
    #[error("{name} is not attached to network {vni}; `meshd plugin ls` shows where it is")]
    NotAttached {
        /// The plugin.
        name: Label,
        /// The network.
        vni: Vni,
    },
    /// Nothing to stop.
    #[error(
        "no version runs beside {name} on network {vni}; `meshd plugin ls` shows where one does"
    )]
    None {
        /// The plugin.
        name: Label,
        /// The network.
        vni: Vni,
    },
    /// The component is no plugin.
    #[error("this version cannot run beside {name}: {source}")]
    Load {
        /// The plugin.
        name: Label,
        /// What is wrong with it.
        source: CompileError,
    },
    /// The config in use is none for it.
    #[error(
        "this version cannot run beside {name} with the config that it has on network {vni}: {source}"
    )]
    Configure {
        /// The plugin.
        name: Label,
        /// The network.
        vni: Vni,
        /// What the version says.
        source: ConfigureError,
    },
    /// Too many.
    #[error(
        "{MAX_SHADOWS} versions run beside others on this node already; `meshd plugin shadow NAME --network N --stop` ends one"
    )]
    Full,
    /// The system has no thread to give.
    #[error("cannot start a thread for it: {0}")]
    Thread(io::Error),
}

/// Why a plugin is not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// No such plugin.
    #[error("no plugin {name} is installed on this node; `meshd plugin ls` shows those that are")]
    NotInstalled {
        /// The plugin.
        name: Label,
    },
    /// It decides somewhere.
    #[error(
        "{name} is attached to {}, so it is not removed; `meshd plugin detach {name} NETWORK` first",
        places(.networks)
    )]
    Attached {
        /// The plugin.
        name: Label,
        /// Where, at least one.
        networks: Vec<Vni>,
    },
    /// The state cannot be written.
    #[error("{name} cannot be removed: {source}")]
    Keep {
        /// The plugin.
        name: Label,
        /// What fails.
        source: ShelfError,
    },
}

/// Networks that are named in a message; the rest is a number.
const NAMED: usize = 8;

fn places(networks: &[Vni]) -> String {
    let named: Vec<String> = networks
        .iter()
        .take(NAMED)
        .map(|vni| format!("network {vni} "))
        .collect();
    let named = named.join("and ");
    match networks.len().saturating_sub(NAMED) {
        0 => named.trim_end().to_owned(),
        more => format!("{named}and {more} more"),
    }
}
