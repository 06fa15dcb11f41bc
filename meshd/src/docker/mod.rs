//! Docker's network and IPAM driver, served by the daemon on a plugin socket.
//!
//! ```text
//!   dockerd --HTTP, JSON--> /run/docker/plugins/meshd.sock
//!                               server   limits, which method it is
//!                                 |-- network   networks        wishes: what was written by -o
//!                                 |-- endpoint  ports whose far end Docker takes into the container
//!                                 |-- ipam      reservations in the node's pools
//!                               book     what Docker made here, over restarts
//!   dockerd <--names, what there still is-- engine   <-- tidy: what Docker removed while nobody listened
//! ```
//!
//! Owns the plugin socket, whether it is served (`meshd docker enable`, remembered), and the two tables of the book. A
//! client of the node as the API is one: it asks by commands and views, and decides nothing of the mesh.

mod book;
mod endpoint;
mod engine;
mod ipam;
mod network;
mod protocol;
mod server;
mod tidy;
mod wishes;

use crate::api::socket::Socket;
use crate::coded::refusal;
use crate::driver::DriverHandle;
use crate::store::Store;
pub use tidy::Tidied;

use book::Book;
use endpoint::owner_of;
use engine::Engine;
use meshd_core::code::ErrorCode;
use meshd_core::command::Refusal;
use protocol::Id;
use serde::{Deserialize, Serialize};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard as StdMutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinHandle;

/// Where Docker looks for plugins; the file's name is the driver's.
pub const SOCKET: &str = "/run/docker/plugins/meshd.sock";
/// Where Docker answers.
pub const ENGINE: &str = "/var/run/docker.sock";
/// Under which `enable` is remembered.
const SETTINGS: &str = "docker/settings";
/// The socket's file is looked after so often: /run is cleaned up by others, too.
const LOOK: Duration = Duration::from_millis(500);
/// Networks and endpoints that are worked on at once, at most; the same one never twice.
const LANES: usize = 32;

/// `PUT /v1/docker`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DockerSettings)]
pub struct Settings {
    /// The plugin socket, an absolute path that ends in `/NAME.sock`; NAME is the driver's.
    #[schema(value_type = String)]
    pub socket: PathBuf,
    /// Docker's own socket, an absolute path.
    #[schema(value_type = String)]
    pub engine: PathBuf,
}

/// `meshd docker status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = DockerStatus)]
pub struct Status {
    /// The driver is served, or is to be.
    pub enabled: bool,
    /// Name of the driver, as in `docker network create -d NAME`.
    pub driver: Option<String>,
    /// Where, if it is enabled.
    pub settings: Option<Settings>,
    /// Why it is not served although it is enabled.
    pub problem: Option<String>,
    /// Docker's version.
    pub engine: Option<String>,
    /// Why Docker itself cannot be asked: names of containers and what to clean up are then not known.
    pub engine_problem: Option<String>,
    /// Networks of Docker.
    pub networks: Vec<NetworkRow>,
    /// Their endpoints.
    pub endpoints: Vec<EndpointRow>,
}

/// One network of Docker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = DockerNetwork)]
pub struct NetworkRow {
    /// Docker's id of it.
    pub id: String,
    /// The network of the mesh that it is.
    pub network: String,
    /// Containers also have an interface on `docker_gwbridge`.
    pub egress: bool,
    /// Endpoints on it.
    pub endpoints: usize,
}

/// One endpoint of Docker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = DockerEndpoint)]
pub struct EndpointRow {
    /// Docker's id of it.
    pub id: String,
    /// Docker's id of its network.
    pub network_id: String,
    /// Its port; `None`: it has none (yet).
    pub port: Option<meshd_core::ident::PortId>,
    /// Its name on the network.
    pub name: Option<meshd_core::ident::Label>,
    /// Its MAC.
    pub mac: meshd_core::ident::MacAddr,
    /// Its addresses.
    #[schema(value_type = Vec<String>)]
    pub ips: Vec<ipnet::IpNet>,
}

/// The drivers: what a request is answered by.
struct Driver {
    driver: DriverHandle,
    book: Book,
    engine: Engine,
    lanes: [Mutex<()>; LANES],
}

impl Driver {
    /// Held while a network or an endpoint is worked on.
    async fn lane(&self, id: &Id) -> MutexGuard<'_, ()> {
        let sum = id.as_str().bytes().fold(0usize, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(byte.into())
        });
        let [first, ..] = &self.lanes;
        self.lanes.get(sum % LANES).unwrap_or(first).lock().await
    }
}

/// Serves, or does not. Clones are the same.
#[derive(Clone)]
pub(crate) struct Docker(Arc<Inner>);

struct Inner {
    store: Store,
    driver: DriverHandle,
    book: Book,
    running: StdMutex<Running>,
    /// Held while it is switched on or off.
    switch: Mutex<()>,
}

#[derive(Default)]
struct Running {
    settings: Option<Settings>,
    problem: Option<String>,
    driver: Option<Arc<Driver>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let running = self
            .running
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for task in running.tasks.drain(..) {
            task.abort();
        }
    }
}

/// A refusal as Docker shows it: in one line, and at its end how to read on.
fn told(refusal: &Refusal) -> String {
    format!("{} (meshd explain {})", refusal.message, refusal.code)
}

/// A refusal, with what it is about in front.
fn of(what: &str, refusal: &Refusal) -> Refusal {
    Refusal::new(refusal.code, format!("{what}{}", refusal.message))
}

/// The name of the driver behind this socket.
fn driver_name(socket: &Path) -> Option<String> {
    let name = socket.file_stem()?.to_str()?;
    let fits = socket.extension().is_some_and(|end| end == "sock")
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    fits.then(|| name.to_owned())
}

impl Settings {
    fn check(&self) -> Result<(), Refusal> {
        for path in [&self.socket, &self.engine] {
            if !path.is_absolute() {
                return Err(Refusal::new(
                    ErrorCode::DockerSettingsInvalid,
                    format!("{} is no absolute path", path.display()),
                ));
            }
        }
        if driver_name(&self.socket).is_none() {
            return Err(Refusal::new(
                ErrorCode::DockerSettingsInvalid,
                format!(
                    "{}: Docker takes a driver's name from its socket, so that is to end in /NAME.sock, NAME of letters, digits, - and _",
                    self.socket.display()
                ),
            ));
        }
        Ok(())
    }
}

impl Docker {
    /// As it was when the daemon ended: served, if it was enabled.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub(crate) fn start(store: Store, driver: DriverHandle) -> anyhow::Result<Self> {
        let book = Book::open(store.clone())?;
        let kept = store.get(SETTINGS)?;
        let docker = Self(Arc::new(Inner {
            store,
            driver,
            book,
            running: StdMutex::default(),
            switch: Mutex::default(),
        }));
        match kept.map(|kept| serde_json::from_slice::<Settings>(&kept)) {
            None => {}
            Some(Ok(settings)) => docker.serve(settings, None),
            Some(Err(error)) => {
                tracing::warn!(code = %ErrorCode::DockerStateDamaged, %error, "the settings of the Docker driver cannot be read; enable it again");
            }
        }
        Ok(docker)
    }

    fn running(&self) -> StdMutexGuard<'_, Running> {
        // Whole between any two statements that change it.
        self.0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves from now on, and after each start.
    ///
    /// # Errors
    /// If the settings are wrong, the socket cannot be made, or it cannot be remembered: then all is as before.
    pub(crate) async fn enable(&self, settings: Settings) -> Result<(), Refusal> {
        settings.check()?;
        let _switch = self.0.switch.lock().await;
        let before = self.running().settings.clone();
        let same = before.as_ref() == Some(&settings);
        if same && self.running().problem.is_none() {
            return Ok(());
        }
        // At the same place our own listener would be in the way of the new one.
        let shared = before.filter(|before| before.socket == settings.socket);
        if shared.is_some() {
            self.stop().await;
        }
        // The new socket first: if that fails, the old one goes on.
        match self.listen(&settings).await {
            Ok(socket) => {
                self.stop().await;
                self.serve(settings, Some(socket));
                Ok(())
            }
            Err(refusal) => {
                if let Some(before) = shared {
                    self.serve(before, None);
                }
                Err(refusal)
            }
        }
    }

    /// Binds the socket, and remembers that it is to be served.
    async fn listen(&self, settings: &Settings) -> Result<Socket, Refusal> {
        let socket = Socket::bind(&settings.socket).map_err(|error| refusal(&error))?;
        self.keep(Some(settings)).await?;
        Ok(socket)
    }

    /// Serves no more. Ports of containers stay until the containers go.
    ///
    /// # Errors
    /// If it cannot be remembered.
    pub(crate) async fn disable(&self) -> Result<(), Refusal> {
        let _switch = self.0.switch.lock().await;
        self.keep(None).await?;
        self.stop().await;
        Ok(())
    }

    async fn keep(&self, settings: Option<&Settings>) -> Result<(), Refusal> {
        let value = settings.map(|settings| serde_json::to_vec(settings).unwrap_or_default());
        let store = self.0.store.clone();
        let kept =
            tokio::task::spawn_blocking(move || store.put_all(&[(SETTINGS, value.as_deref())]));
        let kept = kept.await;
        kept.map_err(|error| Refusal::new(ErrorCode::Internal, error.to_string()))?
            .map_err(|error| refusal(&error))
    }

    async fn stop(&self) {
        let tasks = std::mem::take(&mut *self.running()).tasks;
        for task in tasks {
            task.abort();
            // The socket's file goes with the task.
            let _ = task.await;
        }
    }

    fn serve(&self, settings: Settings, socket: Option<Socket>) {
        let driver = Arc::new(Driver {
            driver: self.0.driver.clone(),
            book: self.0.book.clone(),
            engine: Engine::new(&settings.engine),
            lanes: Default::default(),
        });
        let listening = tokio::spawn(listen(
            Arc::downgrade(&self.0),
            settings.socket.clone(),
            socket,
            driver.clone(),
        ));
        let tidying = tokio::spawn(tidy::follow(driver.clone()));
        tracing::info!(socket = %settings.socket.display(), "Docker driver");
        let mut running = self.running();
        running.settings = Some(settings);
        running.driver = Some(driver);
        running.tasks = vec![listening, tidying];
    }

    /// Removes at once what Docker has no more.
    ///
    /// # Errors
    /// If the driver is not enabled, or Docker does not answer.
    pub(crate) async fn tidy(&self) -> Result<Tidied, Refusal> {
        let driver = self.running().driver.clone().ok_or_else(|| Refusal {
            code: ErrorCode::DockerDisabled,
            message: "the Docker driver is not enabled: `meshd docker enable`".to_owned(),
        })?;
        driver.tidy(&mut tidy::Seen::new(), 0).await
    }

    /// `meshd docker status`.
    ///
    /// # Errors
    /// If the daemon stops.
    pub(crate) async fn status(&self) -> Result<Status, Refusal> {
        let (settings, problem) = {
            let running = self.running();
            (running.settings.clone(), running.problem.clone())
        };
        let (engine, engine_problem) = match &settings {
            None => (None, None),
            Some(settings) => match Engine::new(&settings.engine).version().await {
                Ok(version) => (Some(version), None),
                Err(reason) => (None, Some(reason)),
            },
        };
        let (networks, endpoints) = (self.0.book.networks(), self.0.book.endpoints());
        let named: Vec<_> = networks
            .iter()
            .map(|(id, network)| (id.clone(), network.clone()))
            .collect();
        let known = self.0.driver.view(move |node, _, _| {
            let name = |vni| {
                let def = node.directory().network_by_vni(vni);
                def.map_or_else(|| format!("VNI {vni}, removed"), |def| def.name.to_string())
            };
            let names: Vec<String> = named.iter().map(|(_, n)| name(n.vni)).collect();
            let ports = node.ports().iter().map(|(record, ..)| record);
            let owned: std::collections::BTreeMap<_, _> = ports
                .filter_map(|record| Some((record.owner.clone()?, record.clone())))
                .collect();
            (names, owned)
        });
        let (names, owned) = known.await?;
        let rows = networks
            .iter()
            .zip(names)
            .map(|((id, network), name)| NetworkRow {
                id: id.clone(),
                network: name,
                egress: network.egress,
                endpoints: endpoints.values().filter(|e| e.network == *id).count(),
            });
        let rows = rows.collect();
        let endpoints = endpoints.into_iter().map(|(id, endpoint)| {
            let owner = Id::new(&id).ok().and_then(|id| owner_of(&id).ok());
            let port = owner.and_then(|owner| owned.get(&owner));
            EndpointRow {
                id,
                network_id: endpoint.network,
                port: port.map(|port| port.id),
                name: port.map_or(endpoint.name, |port| port.name.clone()),
                mac: endpoint.mac,
                ips: endpoint.ips,
            }
        });
        Ok(Status {
            enabled: settings.is_some(),
            driver: settings.as_ref().and_then(|s| driver_name(&s.socket)),
            settings,
            problem,
            engine,
            engine_problem,
            networks: rows,
            endpoints: endpoints.collect(),
        })
    }
}

/// Serves for ever; makes the socket anew when its file is gone.
async fn listen(
    of: std::sync::Weak<Inner>,
    path: PathBuf,
    mut bound: Option<Socket>,
    driver: Arc<Driver>,
) {
    let mut told: Option<String> = None;
    loop {
        let made = bound.take().map_or_else(|| Socket::bind(&path), Ok);
        let problem = match made {
            Ok(socket) => {
                tell(&of, None);
                told = None;
                tokio::select! {
                    () = server::serve(socket, driver.clone()) => {}
                    () = gone(&path) => {}
                }
                continue;
            }
            Err(error) => error.to_string(),
        };
        if told.as_ref() != Some(&problem) {
            tracing::warn!(code = %ErrorCode::DockerUnreachable, "Docker driver: {problem}");
            tell(&of, Some(problem.clone()));
            told = Some(problem);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn tell(of: &std::sync::Weak<Inner>, problem: Option<String>) {
    if let Some(inner) = of.upgrade() {
        let mut running = inner.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.problem = problem;
    }
}

/// Returns when another file is at the path, or none.
async fn gone(path: &Path) {
    let id = |path: &Path| {
        path.symlink_metadata()
            .ok()
            .map(|meta| (meta.dev(), meta.ino()))
    };
    let ours = id(path);
    while ours.is_some() && id(path) == ours {
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_name_is_that_of_its_socket() {
        let name = |path: &str| driver_name(Path::new(path));
        assert_eq!(name(SOCKET).as_deref(), Some("meshd"));
        assert_eq!(name("/x/lab-b.sock").as_deref(), Some("lab-b"));
        for bad in ["/x/meshd", "/x/a b.sock", "/x/..", "/x/.sock", "/"] {
            assert_eq!(name(bad), None, "{bad}");
        }
    }
}
