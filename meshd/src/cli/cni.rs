//! `meshd cni`: sets the plugin up, and takes it away. Needs no daemon; one that answers says what it knows better.

use super::args::{CniCommand, Common, SOCKET};
use super::{Failure, Printed, show};
use crate::api::client::Client;
use crate::cni::install::{KnownNetwork, Wish};
use meshd_core::code::ErrorCode;
use meshd_core::view;
use serde_json::json;
use std::path::Path;
use std::time::Duration;

/// A daemon that does not answer in time is as good as none: the runtime may be set up before it.
const WITHIN: Duration = Duration::from_secs(3);

/// All networks that a daemon knows; `None`: none answers.
fn networks(socket: &Path) -> Option<Vec<view::Network>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    let client = Client::new(socket);
    runtime.block_on(async {
        let asked = client.get::<Vec<view::Network>>("/v1/networks");
        tokio::time::timeout(WITHIN, asked).await.ok()?.ok()
    })
}

/// What the daemon knows of the network that is meant. A network may be defined later; that it is not there yet is told.
fn known(socket: &Path, wanted: &str) -> Option<KnownNetwork> {
    let networks = networks(socket)?;
    let fits = |net: &&view::Network| net.name.as_str() == wanted || net.vni.to_string() == wanted;
    let Some(net) = networks.iter().find(fits) else {
        let names: Vec<String> = networks.iter().map(|net| net.name.to_string()).collect();
        let names = match names.is_empty() {
            true => "none".to_owned(),
            false => names.join(", "),
        };
        let told = format!(
            "warning: there is no network {wanted} on this node; there are: {names}. No container starts until it is defined"
        );
        eprintln!("{}", show::clean(&told));
        return None;
    };
    Some(KnownNetwork {
        name: net.name.to_string(),
        subnets: net.subnets.clone(),
    })
}

pub(super) fn run(common: &Common, command: CniCommand) -> Result<Printed, Failure> {
    match command {
        CniCommand::Install {
            place,
            network,
            gateways,
            cni_version,
            portmap,
            copy,
        } => {
            let socket = (common.socket != Path::new(SOCKET)).then(|| common.socket.clone());
            let wish = Wish {
                bin_dir: place.bin_dir,
                conf_dir: place.conf_dir,
                conf_name: place.conf_name,
                network,
                socket,
                gateways,
                version: cni_version,
                portmap,
                copy,
            };
            let program = std::env::current_exe().map_err(|e| {
                Failure::new(
                    ErrorCode::ProgramFailed,
                    format!("cannot find this program's own file: {e}"),
                )
            })?;
            wish.check_gateways(known(&common.socket, &wish.network).as_ref())?;
            let [plugin, conflist] = wish.install(&program)?;
            if common.json {
                return Printed::text(show::json(
                    &json!({ "plugin": plugin, "configuration": conflist }),
                ));
            }
            Printed::text(show::clean(&format!(
                "installed {} and {}; containers that start from now on are on network {}",
                plugin.display(),
                conflist.display(),
                wish.network
            )))
        }
        CniCommand::Uninstall { place } => {
            let wish = Wish {
                bin_dir: place.bin_dir,
                conf_dir: place.conf_dir,
                conf_name: place.conf_name,
                network: String::new(),
                socket: None,
                gateways: Vec::new(),
                version: String::new(),
                portmap: false,
                copy: false,
            };
            let gone = wish.uninstall()?;
            if common.json {
                return Printed::text(show::json(&json!({ "removed": gone })));
            }
            let shown: Vec<String> = gone.iter().map(|path| path.display().to_string()).collect();
            Printed::text(show::clean(&match shown.is_empty() {
                true => "there was nothing to remove".to_owned(),
                false => format!("removed {}", shown.join(" and ")),
            }))
        }
    }
}
