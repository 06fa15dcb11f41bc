//! Routes of plugins. Compiling a component takes a while, so these run on blocking threads; and each change is told to the
//! node before it is answered, so that no ruling of the old chain outlives the answer.

use super::backend::Backend;
use super::extract::{Answer, ApiError, Asked, Body, Segments};
use super::plugin_views::{self, ChainLink, PluginStats};
use super::requests::{PluginWish, RollbackWish};
use super::trace;
use crate::coded::refusal;
use crate::rulings::{DetachError, LogLine, Placement, PluginInfo, Rulings};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Json;
use meshd_core::code::ErrorCode;
use meshd_core::command::{Command, Refusal};
use meshd_core::ident::{Label, Vni, escape};
use meshd_core::view;
use serde::Deserialize;

pub(super) async fn list<B: Backend>(State(backend): State<B>) -> Answer<Vec<view::Plugin>> {
    let networks = backend.networks().await?;
    Ok(Json(
        installed(&backend)
            .await?
            .iter()
            .map(|info| show(info, &networks))
            .collect(),
    ))
}

pub(super) async fn install<B: Backend>(
    State(backend): State<B>,
    Segments(plugin): Segments<String>,
    Asked(query): Asked<InstallQuery>,
    component: Bytes,
) -> Answer<view::Plugin> {
    let name = name(&plugin)?;
    if query
        .from
        .as_ref()
        .is_some_and(|from| from.len() > SOURCE_MAX)
    {
        return Err(Refusal::new(
            ErrorCode::RequestQueryInvalid,
            format!("the name of the file has more than {SOURCE_MAX} bytes"),
        )
        .into());
    }
    change(&backend, move |rulings| {
        rulings
            .install(&name, &component, query.from)
            .map_err(|error| refusal(&error))
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
        stage: wish.stage,
    };
    let grant = wish.grant;
    change(&backend, move |rulings| {
        rulings
            .attach_granting(
                &name,
                vni,
                wish.config.as_deref(),
                placement,
                grant.as_ref(),
            )
            .map_err(|error| refusal(&error))
    })
    .await
}

pub(super) async fn detach<B: Backend>(
    State(backend): State<B>,
    Segments((network, plugin)): Segments<(String, String)>,
) -> Answer<view::Plugin> {
    let vni = match number(&network) {
        Some(vni) => vni,
        None => vni(&backend, &network).await?,
    };
    let name = name(&plugin)?;
    change(&backend, move |rulings| {
        rulings.detach(&name, vni).map_err(|error| refusal(&error))
    })
    .await
}

/// Another version beside the one in use; nothing of what it says is obeyed.
pub(super) async fn shadow<B: Backend>(
    State(backend): State<B>,
    Segments((network, plugin)): Segments<(String, String)>,
    component: Bytes,
) -> Answer<view::Plugin> {
    let (vni, name) = (vni(&backend, &network).await?, name(&plugin)?);
    change(&backend, move |rulings| {
        rulings
            .shadow(&name, vni, &component)
            .map_err(|error| refusal(&error))
    })
    .await
}

pub(super) async fn unshadow<B: Backend>(
    State(backend): State<B>,
    Segments((network, plugin)): Segments<(String, String)>,
) -> Answer<view::Plugin> {
    let (vni, name) = (vni(&backend, &network).await?, name(&plugin)?);
    change(&backend, move |rulings| {
        rulings
            .unshadow(&name, vni)
            .map_err(|error| refusal(&error))
    })
    .await
}

pub(super) async fn roll_back<B: Backend>(
    State(backend): State<B>,
    Segments(plugin): Segments<String>,
    Body(wish): Body<RollbackWish>,
) -> Answer<view::Plugin> {
    let name = name(&plugin)?;
    change(&backend, move |rulings| {
        rulings
            .roll_back(&name, wish.to.as_deref())
            .map_err(|error| refusal(&error))
    })
    .await
}

pub(super) async fn remove<B: Backend>(
    State(backend): State<B>,
    Segments(plugin): Segments<String>,
) -> Result<StatusCode, ApiError> {
    let name = name(&plugin)?;
    let rulings = backend.rulings();
    let networks = backend.networks().await?;
    let _turn = rulings.turn().await;
    let worker = rulings.clone();
    tokio::task::spawn_blocking(move || worker.remove(&name).map_err(|error| refusal(&error)))
        .await
        .map_err(broke_off)?
        .map_err(|refusal| by_name(refusal, &networks))?;
    Ok(StatusCode::NO_CONTENT)
}

/// In the order in which they are asked.
pub(super) async fn chain<B: Backend>(
    State(backend): State<B>,
    Segments(network): Segments<String>,
) -> Answer<Vec<ChainLink>> {
    let networks = backend.networks().await?;
    let vni = number(&network).map_or_else(|| vni_of(&networks, &network), Ok)?;
    let plugins = installed(&backend).await?;
    let mut links: Vec<ChainLink> = plugins
        .iter()
        .filter(|plugin| !plugin.steers)
        .flat_map(|plugin| {
            let place = plugin.attachments.iter().find(|at| at.vni == vni);
            place.map(|at| plugin_views::link(plugin, at))
        })
        .collect();
    // They come by name, and the sort is stable.
    links.sort_by_key(|link| (link.stage, link.order));
    Ok(Json(links))
}

pub(super) async fn stats<B: Backend>(
    State(backend): State<B>,
    Asked(query): Asked<StatsQuery>,
) -> Answer<Vec<PluginStats>> {
    let networks = backend.networks().await?;
    let wanted = query.plugin.as_deref().map(name).transpose()?;
    let plugins = installed(&backend).await?;
    if let Some(wanted) = &wanted
        && !plugins.iter().any(|plugin| plugin.name == *wanted)
    {
        return Err(refusal(&DetachError::NotInstalled {
            name: wanted.clone(),
        })
        .into());
    }
    let rows = plugins
        .iter()
        .filter(|plugin| wanted.as_ref().is_none_or(|wanted| plugin.name == *wanted))
        .flat_map(|plugin| {
            let places = plugin.attachments.iter();
            places.map(|at| {
                plugin_views::stats(plugin, at, plugin_views::network_name(&networks, at.vni))
            })
        });
    Ok(Json(rows.collect()))
}

/// What a controller has told.
pub(super) async fn log<B: Backend>(
    State(backend): State<B>,
    Segments((network, plugin)): Segments<(String, String)>,
    Asked(query): Asked<LogQuery>,
) -> Answer<Vec<LogLine>> {
    let (vni, name) = (vni(&backend, &network).await?, name(&plugin)?);
    let rulings = backend.rulings();
    let after = query.after.unwrap_or(0);
    let (asked, at) = (name.clone(), vni);
    // A change under way may hold it up.
    let lines = tokio::task::spawn_blocking(move || rulings.log(&asked, at, after))
        .await
        .map_err(broke_off)?;
    match lines {
        Some(lines) => Ok(Json(lines)),
        None => Err(Refusal {
            code: ErrorCode::PluginNoController,
            message: format!(
                "{name} has no controller at work on network {network}; `meshd plugin ls` shows what is attached where"
            ),
        }
        .into()),
    }
}

/// What stands behind the `?` of the route of a controller's log.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct LogQuery {
    /// Lines behind this one.
    after: Option<u64>,
}

/// Bytes of the name of the file that a plugin is installed from.
const SOURCE_MAX: usize = 4096;

/// What stands behind the `?` of `POST /v1/plugins/{plugin}`.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct InstallQuery {
    /// The file, for who installs it again; not opened.
    from: Option<String>,
}

/// What stands behind the `?` of `GET /v1/plugin-stats`.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct StatsQuery {
    /// Of this plugin alone.
    plugin: Option<String>,
}

fn broke_off(error: tokio::task::JoinError) -> Refusal {
    Refusal {
        code: ErrorCode::Internal,
        message: format!("the work broke off: {error}; the daemon's log says more"),
    }
}

/// A network that is gone may still have a chain; its number finds it.
fn number(network: &str) -> Option<Vni> {
    network
        .parse()
        .ok()
        .and_then(|number| Vni::new(number).ok())
}

async fn change<B: Backend>(
    backend: &B,
    work: impl FnOnce(&Rulings) -> Result<PluginInfo, Refusal> + Send + 'static,
) -> Answer<view::Plugin> {
    let rulings = backend.rulings();
    let worker = rulings.clone();
    let before = backend.networks().await?;
    // Until the node is told of it, or it could be told of a later one first.
    let _turn = rulings.turn().await;
    let span = tracing::Span::current();
    let work = move || {
        let _span = span.enter();
        work(&worker).map(|info| (info, worker.chains()))
    };
    let (info, chains) = tokio::task::spawn_blocking(work)
        .await
        .map_err(broke_off)?
        .map_err(|refusal| by_name(refusal, &before))?;
    for (vni, plugins) in chains {
        backend
            .command(Command::PolicyChain { vni, plugins })
            .await?;
    }
    for (vni, revision) in rulings.steering() {
        backend
            .command(Command::SteeringPlugin { vni, revision })
            .await?;
    }
    let attachments = rulings.attachments();
    backend.command(Command::ShareOnly { attachments }).await?;
    let networks = backend.networks().await?;
    Ok(Json(show(&info, &networks)))
}

/// Not on a thread of the runtime: a change may hold them for as long as a plugin takes to read its config.
async fn installed<B: Backend>(backend: &B) -> Result<Vec<PluginInfo>, Refusal> {
    let rulings = backend.rulings();
    tokio::task::spawn_blocking(move || rulings.list())
        .await
        .map_err(broke_off)
}

async fn vni<B: Backend>(backend: &B, network: &str) -> Result<Vni, ApiError> {
    vni_of(&backend.networks().await?, network)
}

fn vni_of(networks: &[view::Network], network: &str) -> Result<Vni, ApiError> {
    Ok(trace::network(networks, network)?.vni)
}

fn name(text: &str) -> Result<Label, ApiError> {
    text.parse().map_err(|_| {
        let shown = escape(text.as_bytes());
        Refusal::new(
            ErrorCode::PluginNameInvalid,
            format!(
                "\"{shown}\" is no name of a plugin (1 to 63 letters, digits or inner hyphens)"
            ),
        )
        .into()
    })
}

fn show(info: &PluginInfo, networks: &[view::Network]) -> view::Plugin {
    view::Plugin {
        name: info.name.clone(),
        manifest: info.about.as_ref().map(|about| view::PluginManifest {
            name: about.name.clone(),
            version: about.version.clone(),
            description: about.description.clone(),
        }),
        digest: info.digest.to_string(),
        size: info.size,
        source: info.source.clone(),
        trouble: info.trouble.clone(),
        signers: info.signers.iter().map(ToString::to_string).collect(),
        needs: info.needs.clone(),
        earlier: info.earlier.iter().map(ToString::to_string).collect(),
        calls: info.attachments.iter().map(|at| at.asked).sum(),
        attachments: info
            .attachments
            .iter()
            .map(|at| view::PluginAttachment {
                network: plugin_views::network_name(networks, at.vni),
                vni: at.vni,
                stage: if info.steers {
                    "steering"
                } else {
                    at.stage.word()
                }
                .to_owned(),
                order: at.order,
                fail: if info.steers {
                    "last-choice"
                } else {
                    at.fail.word()
                }
                .to_owned(),
                config: at.config.clone(),
                trouble: at.trouble.clone().or_else(|| {
                    let controller = at.controller.as_ref()?;
                    controller.trouble.clone()
                }),
                last_fault: at.last_fault.clone(),
                asked: at.asked,
                dropped: at.dropped,
                failed: at.failed,
                busy_us: at.ns / 1000,
                quarantine: at.quarantine.clone(),
                shadow: at.shadow.as_ref().map(|shadow| view::PluginShadow {
                    digest: shadow.digest.to_string(),
                    compared: shadow.tally.compared,
                    differ: shadow.tally.differ(),
                }),
            })
            .collect(),
    }
}

/// The plugins know networks by VNI; people know them by name.
fn by_name(refusal: Refusal, networks: &[view::Network]) -> Refusal {
    let mut message = format!("{} ", refusal.message);
    for network in networks {
        for end in [" ", ";", ":", ".", ","] {
            let number = format!("network {}{end}", network.vni);
            message = message.replace(&number, &format!("network {}{end}", network.name));
        }
    }
    Refusal {
        message: message.trim_end().to_owned(),
        ..refusal
    }
}
