//! meshd as a CNI plugin: `meshd-cni` is this program under another name.
//!
//! ```text
//!   containerd, podman, kubelet --environment, JSON on stdin--> meshd-cni --API--> meshd run
//!                               <--JSON on stdout-------------
//! ```
//!
//! Speaks the CNI specification 1.1 and the versions from 0.3.0 on: ADD, DEL, CHECK, GC, STATUS, VERSION. Owns no state: an
//! attachment is found again by the owner of its port, `cni/CONFIGURATION/CONTAINER/IFNAME`. Refuses to touch the kernel; the
//! daemon does.

mod config;
mod error;
mod garbage;
mod inside;
pub mod install;
mod ipam;
mod naming;
mod outcome;
mod port;
mod request;
mod router;
mod verbs;

use config::{Config, VERSIONS, Version};
use error::{CniError, Code, error};
use request::{Request, Verb};
use serde_json::{Value, json};
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use verbs::Work;

/// What the plugin is called, and found by.
pub const PLUGIN: &str = "meshd-cni";
/// Most of a network configuration, in bytes.
const CONFIG_MAX: usize = 4 << 20;
/// Where the daemon answers, unless told otherwise.
const SOCKET: &str = "/run/meshd/meshd.sock";

/// True if the program was started as the plugin.
#[must_use]
pub fn is_plugin(program: Option<&OsStr>) -> bool {
    program.and_then(|path| Path::new(path).file_name()) == Some(OsStr::new(PLUGIN))
}

/// Does what the environment and stdin ask for.
pub fn main() -> ExitCode {
    let get = |name: &str| std::env::var_os(name);
    let mut version = Version::NEWEST;
    let (printed, code) = match work(get, &mut version) {
        Ok(printed) => (printed, ExitCode::SUCCESS),
        Err(why) => (Some(why.object(version.text())), ExitCode::FAILURE),
    };
    let Some(printed) = printed else { return code };
    let mut out = io::stdout().lock();
    match writeln!(out, "{printed:#}").and_then(|()| out.flush()) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

/// What is to be printed, if anything. `answer`: the version that an error is told in.
fn work(
    get: impl Fn(&str) -> Option<OsString>,
    answer: &mut Version,
) -> Result<Option<Value>, CniError> {
    let request = Request::read(&get)?;
    let raw = crate::bounded::stdin(CONFIG_MAX).map_err(|e| {
        error(
            Code::Io,
            format!("read the network configuration from stdin: {e}"),
        )
    })?;
    if request.verb == Verb::Version {
        return Ok(Some(versions(&raw)));
    }
    let (map, version) = config::object(&raw)?;
    *answer = version;
    let map = match request.verb {
        Verb::Del => config::for_del(map),
        _ => map,
    };
    let config = Config::read(map, version, &request.args, raw)?;
    let socket = get("MESHD_SOCKET").map_or_else(|| PathBuf::from(SOCKET), PathBuf::from);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| error(Code::Io, format!("cannot start: {e}")))?;
    runtime.block_on(async {
        let work = Work::new(&request, &config, &socket);
        match request.verb {
            Verb::Add => work.add().await.map(Some),
            Verb::Del => work.del().await.map(|()| None),
            Verb::Check => work.check().await.map(|()| None),
            Verb::Gc => work.gc().await.map(|()| None),
            Verb::Status => work.status().await.map(|()| None),
            Verb::Version => Ok(None),
        }
    })
}

/// The answer to VERSION, in the version that was asked in.
fn versions(raw: &[u8]) -> Value {
    let asked = serde_json::from_slice::<Value>(raw).ok();
    let asked = asked.as_ref().and_then(|conf| conf["cniVersion"].as_str());
    let version = asked.and_then(Version::find).unwrap_or(Version::NEWEST);
    json!({ "cniVersion": version.text(), "supportedVersions": VERSIONS })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_program_decides() {
        for (program, is) in [
            ("/opt/cni/bin/meshd-cni", true),
            ("meshd-cni", true),
            ("/usr/bin/meshd", false),
            ("meshd-cni/meshd", false),
        ] {
            assert_eq!(is_plugin(Some(OsStr::new(program))), is, "{program}");
        }
        assert!(!is_plugin(None));
    }

    #[test]
    fn version_answers_in_the_version_that_it_was_asked_in() {
        for (raw, answer) in [
            (&br#"{"cniVersion":"0.4.0"}"#[..], "0.4.0"),
            (br#"{"cniVersion":"9.9"}"#, "1.1.0"),
            (b"", "1.1.0"),
            (b"\xff[", "1.1.0"),
        ] {
            assert_eq!(versions(raw)["cniVersion"], answer);
        }
    }
}
