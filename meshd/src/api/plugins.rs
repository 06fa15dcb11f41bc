//! Routes of plugins. Compiling a component takes a while, so these run on blocking threads; and each change is told to the
//! node before it is answered, so that no ruling of the old chain outlives the answer.

use super::backend::Backend;
use super::requests::{PluginWish, invalid};
use super::routes::{Answer, ApiError, Body, Segments};
use super::trace;
use crate::rulings::{
    AttachError, DetachError, FailMode, InstallError, Placement, PluginInfo, Rulings,
};
use axum::body::Bytes;
use axum::extract::State;
use axum::response::Json;
use meshd_core::command::{Command, Refusal, RefusalCode};
use meshd_core::ident::{Label, Vni, escape};
use meshd_core::view;

pub(super) async fn list<B: Backend>(State(backend): State<B>) -> Answer<Vec<view::Plugin>> {
    let networks = backend.networks().await?;
    Ok(Json(
        backend
            .rulings()
            .list()
            .iter()
            .map(|info| show(info, &networks))
            .collect(),
    ))
}

pub(super) async fn install<B: Backend>(
    State(backend): State<B>,
    Segments(plugin): Segments<String>,
    component: Bytes,
) -> Answer<view::Plugin> {
    let name = name(&plugin)?;
    change(&backend, move |rulings| {
        rulings.install(&name, &component).map_err(refuse_install)
    })
    .await
}

pub(super) async fn attach<B: Backend>(
    State(backend): State<B>,
    Segments((network, plugin)): Segments<(String, String)>,
    Body(wish): Body<PluginWish>,
) -> Answer<view::Plugin> {
    let (vni, name) = (vni(&backend, &network).await?, name(&plugin)?);
    let placement = Placement {
        order: wish.order,
        fail: wish.fail,
    };
    change(&backend, move |rulings| {
        rulings
            .attach(&name, vni, wish.config.as_deref(), placement)
            .map_err(refuse_attach)
    })
    .await
}

pub(super) async fn detach<B: Backend>(
    State(backend): State<B>,
    Segments((network, plugin)): Segments<(String, String)>,
) -> Answer<view::Plugin> {
    // A network that is gone may still have a chain; its number finds it.
    let vni = match network
        .parse()
        .ok()
        .and_then(|number| Vni::new(number).ok())
    {
        Some(vni) => vni,
        None => vni(&backend, &network).await?,
    };
    let name = name(&plugin)?;
    change(&backend, move |rulings| {
        rulings.detach(&name, vni).map_err(refuse_detach)
    })
    .await
}

async fn change<B: Backend>(
    backend: &B,
    work: impl FnOnce(&Rulings) -> Result<PluginInfo, Refusal> + Send + 'static,
) -> Answer<view::Plugin> {
    let rulings = backend.rulings();
    let worker = rulings.clone();
    let before = backend.networks().await?;
    let info = tokio::task::spawn_blocking(move || work(&worker))
        .await
        .map_err(|e| Refusal {
            code: RefusalCode::Failed,
            message: format!("the work broke off: {e}; the daemon's log says more"),
        })?
        .map_err(|refusal| by_name(refusal, &before))?;
    for (vni, plugins) in rulings.chains() {
        backend
            .command(Command::PolicyChain { vni, plugins })
            .await?;
    }
    let networks = backend.networks().await?;
    Ok(Json(show(&info, &networks)))
}

async fn vni<B: Backend>(backend: &B, network: &str) -> Result<Vni, ApiError> {
    Ok(trace::network(&backend.networks().await?, network)?.vni)
}

fn name(text: &str) -> Result<Label, ApiError> {
    text.parse().map_err(|_| {
        let shown = escape(text.as_bytes());
        invalid(format!(
            "\"{shown}\" is no name of a plugin (1 to 63 letters, digits or inner hyphens)"
        ))
        .into()
    })
}

fn show(info: &PluginInfo, networks: &[view::Network]) -> view::Plugin {
    let network = |vni: Vni| {
        networks
            .iter()
            .find(|n| n.vni == vni)
            .map_or_else(|| vni.to_string(), |n| n.name.to_string())
    };
    view::Plugin {
        name: info.name.clone(),
        digest: info.digest.to_string(),
        size: info.size,
        trouble: info.trouble.clone(),
        calls: info.attachments.iter().map(|at| at.asked).sum(),
        attachments: info
            .attachments
            .iter()
            .map(|at| view::PluginAttachment {
                network: network(at.vni),
                vni: at.vni,
                order: at.order,
                fail: match at.fail {
                    FailMode::Closed => "closed",
                    FailMode::Open => "open",
                }
                .to_owned(),
                config: at.config.clone(),
                trouble: at.trouble.clone(),
                last_fault: at.last_fault.clone(),
                asked: at.asked,
                dropped: at.dropped,
                failed: at.failed,
                busy_us: at.ns / 1000,
            })
            .collect(),
    }
}

/// The plugins know networks by VNI; people know them by name.
fn by_name(refusal: Refusal, networks: &[view::Network]) -> Refusal {
    let mut message = format!("{} ", refusal.message);
    for network in networks {
        for end in [" ", ";", ":", "."] {
            let number = format!("network {}{end}", network.vni);
            message = message.replace(&number, &format!("network {}{end}", network.name));
        }
    }
    Refusal {
        message: message.trim_end().to_owned(),
        ..refusal
    }
}

fn refuse_install(error: InstallError) -> Refusal {
    let code = match &error {
        InstallError::Load { .. } | InstallError::Configure { .. } => RefusalCode::Invalid,
        InstallError::Full { .. } => RefusalCode::Conflict,
        InstallError::Keep { .. } => RefusalCode::Failed,
    };
    Refusal {
        code,
        message: error.to_string(),
    }
}

fn refuse_attach(error: AttachError) -> Refusal {
    let code = match &error {
        AttachError::NotInstalled { .. } => RefusalCode::NotFound,
        AttachError::Broken { .. } | AttachError::Full { .. } => RefusalCode::Conflict,
        AttachError::Configure { .. } => RefusalCode::Invalid,
        AttachError::Keep { .. } => RefusalCode::Failed,
    };
    Refusal {
        code,
        message: error.to_string(),
    }
}

fn refuse_detach(error: DetachError) -> Refusal {
    let code = match &error {
        DetachError::NotInstalled { .. } | DetachError::NotAttached { .. } => RefusalCode::NotFound,
        DetachError::Keep(_) => RefusalCode::Failed,
    };
    Refusal {
        code,
        message: error.to_string(),
    }
}
