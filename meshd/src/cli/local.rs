//! Commands that need no daemon: they act on the state folder, or are the daemon.

use super::args::Common;
use super::values::{host_label, show_path};
use super::{Failure, Printed, show};
use crate::coded::{self, Coded};
use crate::daemon::{self, RunOptions};
use crate::identity::Identity;
use crate::store::Store;
use crate::token::Token;
use meshd_core::code::ErrorCode;
use meshd_core::ident::Label;
use meshd_core::wire::record::Record;
use serde_json::json;
use std::path::PathBuf;

/// Far more than a token has, in bytes.
const TOKEN_MAX: usize = 64 << 10;

pub(super) fn init(common: &Common, mesh: &Label, name: Option<Label>) -> Result<Printed, Failure> {
    let name = name.unwrap_or_else(host_label);
    let store = Store::open(&common.state)?;
    let identity = Identity::init(&store, mesh, &name)?;
    member(
        common,
        &identity,
        &name,
        &format!("mesh {mesh} is made, and {name} is its first member"),
        || {
            "Next:\n  meshd run                                      the daemon, in the foreground\n  \
         meshd network add demo --subnet 10.0.0.0/24    a network\n  \
         meshd invite                                   a token for the next node\n\n\
         The mesh's root key is in the state folder: keep a copy of it in a safe place."
        },
    )
}

pub(super) fn join(common: &Common, token: &str, name: Option<Label>) -> Result<Printed, Failure> {
    let text = match token {
        "-" => {
            let bytes = crate::bounded::stdin(TOKEN_MAX).map_err(|e| {
                Failure::new(
                    ErrorCode::FileUnreadable,
                    format!("read the token from stdin: {e}"),
                )
            })?;
            String::from_utf8(bytes).map_err(|_| {
                Failure::new(
                    ErrorCode::TokenInvalid,
                    "what stdin gives is no token, and not even text",
                )
            })?
        }
        token => token.to_owned(),
    };
    let token: Token = text.parse::<Token>()?;
    let wanted = name.unwrap_or_else(host_label);
    let store = Store::open(&common.state)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(ErrorCode::NoThreads, format!("cannot start: {e}")))?;
    let joined = runtime.block_on(crate::join::join(&store, &token, &wanted));
    if joined.as_ref().is_err_and(|e| e.is_without_trace())
        // A state without an identity would have systemd start a daemon that cannot run.
        && let Err(error) = store.discard_if_made()
    {
        tracing::warn!(code = %error.code(), %error, "the state file of a join that failed stays; remove it, or join again");
    }
    let identity = joined?;
    // The inviter may have given another name, where the wanted one is taken.
    let name = given_name(&identity).unwrap_or(wanted);
    member(
        common,
        &identity,
        &name,
        &format!("{name} is a member of mesh {}", identity.mesh_name()),
        || {
            "Next:\n  meshd run                                      the daemon, in the foreground\n  \
         meshd attach NETWORK --netns NAME --name NAME  a port\n  \
         meshd status"
        },
    )
}

fn given_name(identity: &Identity) -> Option<Label> {
    match identity.membership().decode() {
        Ok(Record::Membership(membership)) => Some(membership.name),
        _ => None,
    }
}

fn member(
    common: &Common,
    identity: &Identity,
    name: &Label,
    sentence: &str,
    next: impl FnOnce() -> &'static str,
) -> Result<Printed, Failure> {
    let state = show_path(&common.state);
    if common.json {
        let document = json!({
            "mesh": identity.mesh(),
            "mesh_name": identity.mesh_name(),
            "node": identity.node_id(),
            "name": name,
            "has_root": identity.has_root(),
            "state": state,
        });
        return Printed::text(show::json(&document));
    }
    Printed::text(format!(
        "{sentence}.\n\n  node   {}\n  mesh   {}\n  state  {state}\n\n{}\n",
        identity.node_id(),
        identity.mesh(),
        next()
    ))
}

pub(super) fn run(common: &Common, config: Option<PathBuf>) -> Result<Printed, Failure> {
    let options = RunOptions {
        state: common.state.clone(),
        socket: common.socket.clone(),
        config,
    };
    daemon::run(&options).map_err(|error| Failure::new(coded::of_chain(&error), chain(&error)))?;
    Printed::text("")
}

/// The error and its causes; a cause that is told already is not told again.
fn chain(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |told, cause| {
        let cause = cause.to_string();
        match told.is_empty() {
            true => cause,
            false if told.contains(&cause) => told,
            false => format!("{told}: {cause}"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let source = std::io::Error::from_raw_os_error(13);
        let error = crate::store::StoreError::Io {
            doing: "open",
            path: "/s".into(),
            source,
        };
        let error = anyhow::Error::from(error).context("start");
        assert_eq!(
            chain(&error),
            "start: cannot open /s: Permission denied (os error 13)"
        );
    }
}
