//! The reconciler of host devices: looks at what the host has, has the core say what is to be done, and does it.
//!
//! ```text
//!    config file, API --book--> wishes
//!                                 v
//!                       [ observe -> shims -> plan -> steps ] x 5 --> rows: what `meshd devices` and `meshd doctor` show
//!    changes of devices --+        ^                             \-> services: what answers at their addresses
//!    every 30 s ----------+--------+
//! ```
//!
//! Owns when to look, and what is told. A step that fails ends that device's steps and those of what stands on it; the rest is
//! done. What failed is tried again when something changed on the host, and every 30 s. Nothing here keeps the daemon from
//! starting, and devices stay when it ends.

mod book;
mod rows;

#[cfg(test)]
pub(crate) use rows::told;

use crate::kernel::{DeviceError, DeviceWatch, HostDevices};
use crate::store::{Store, StoreError};
use book::Book;
use meshd_core::code::ErrorCode;
use meshd_core::command::Refusal;
use meshd_core::config::{DeviceConfig, DeviceName, DevicesConfig, Merged, unknown_device};
use meshd_core::devices::{Plan, Scene, Step, Task, Wishes, plan, with_shims};
use meshd_core::diagnosis::{Finding, warn};
use meshd_core::ident::{IfName, MeshId, NodeId};
use meshd_core::view::{Check, Device, DeviceState};
use meshd_core::wire::record::Service;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex as Turn, watch};
use tokio::time::Instant;

/// Looks in a row: what a plan sets free, the next one may take, and a station that is up has a shim.
const ROUNDS: usize = 5;
/// After a change, until the host is looked at: changes come in swarms.
const SETTLE: Duration = Duration::from_millis(200);
/// Changes that one look is for at most.
const CHANGES_MAX: usize = 10_000;
/// What failed is tried again, though nothing changed.
const AGAIN: Duration = Duration::from_secs(30);
/// Namespaces come and go, and what is in them, without a word in this one.
const ELSEWHERE: Duration = Duration::from_secs(2);

/// A change by the API is answered when the host was looked at, or after so long.
const ANSWER: Duration = Duration::from_secs(10);

/// What is wished, and how many times that changed.
type Wished = (u64, Wishes);

/// The devices of this host. Clones are the same.
#[derive(Clone)]
pub(crate) struct Devices {
    /// Held while something is declared, so that one change is after the other.
    book: Arc<Turn<Book>>,
    merged: Arc<Mutex<Merged>>,
    wishes: Arc<watch::Sender<Wished>>,
    /// For which wishes the host was looked at.
    looked: watch::Receiver<u64>,
    shown: Arc<Mutex<Vec<Device>>>,
    services: watch::Receiver<Option<Vec<Service>>>,
}

impl Devices {
    /// Makes what the file and the API declared, as far as that is possible now, and goes on with it.
    ///
    /// # Errors
    /// If what was declared by the API cannot be read.
    pub(crate) async fn start(
        mesh: MeshId,
        node: NodeId,
        store: Store,
        (path, file): (Option<&Path>, DevicesConfig),
    ) -> Result<Self, StoreError> {
        let book = Book::open(store, path, file)?;
        let merged = book.merge();
        let (tell, mut told) = watch::channel((0, merged.config.wishes()));
        let (offer, services) = watch::channel(None);
        let (see, looked) = watch::channel(0);
        let devices = Self {
            book: Arc::new(Turn::new(book)),
            merged: Arc::new(Mutex::new(merged)),
            wishes: Arc::new(tell),
            looked,
            shown: Arc::default(),
            services,
        };
        // Subscribed before the first look, so that nothing falls between.
        let opened =
            HostDevices::watch().and_then(|watch| Ok((watch, HostDevices::open(mesh, node)?)));
        match opened {
            Ok((watch, host)) => {
                let mut round = Reconciler {
                    host,
                    shown: Arc::clone(&devices.shown),
                    offer,
                    see,
                    rested: None,
                    told: BTreeMap::new(),
                };
                let (_, first) = told.borrow_and_update().clone();
                round.reconcile(&first).await;
                tokio::spawn(round.follow(watch, told));
            }
            Err(error) => {
                tracing::warn!(code = %ErrorCode::HostDeviceFailed, %error, "host devices are left as they are: netlink")
            }
        }
        Ok(devices)
    }

    /// The file says this now.
    pub(crate) async fn set_file(&self, file: DevicesConfig) {
        let mut book = self.book.lock().await;
        book.set_file(file);
        self.publish(book.merge());
    }

    /// Declares a device, or declares it otherwise; the answer is how it is, looked at.
    ///
    /// # Errors
    /// As [`meshd_core::config::Declared::put`], or if it cannot be kept: all is as before then.
    pub(crate) async fn put(&self, device: DeviceConfig) -> Result<Device, Refusal> {
        let name = device.name().clone();
        // To its end, also if whoever asked does not wait for it: what is on the disk is what holds.
        let work = self.clone();
        let done = tokio::spawn(async move {
            let mut book = work.book.lock().await;
            book.put(device).await?;
            work.publish(book.merge());
            Ok(())
        });
        finished(done.await)?;
        self.settled().await;
        self.one(&name.to_string())
    }

    /// Declares a device of the API no more.
    ///
    /// # Errors
    /// As [`meshd_core::config::Declared::remove`], or if it cannot be kept: all is as before then.
    pub(crate) async fn remove(&self, name: DeviceName) -> Result<(), Refusal> {
        let work = self.clone();
        let done = tokio::spawn(async move {
            let mut book = work.book.lock().await;
            book.remove(&name).await?;
            work.publish(book.merge());
            Ok(())
        });
        finished(done.await)?;
        self.settled().await;
        Ok(())
    }

    fn publish(&self, merged: Merged) {
        let wishes = merged.config.wishes();
        *self.merged.lock().unwrap_or_else(PoisonError::into_inner) = merged;
        self.wishes.send_if_modified(|(count, before)| {
            let differs = *before != wishes;
            *count += u64::from(differs);
            *before = wishes;
            differs
        });
    }

    /// Returns when the host was looked at for what is wished now; after a while in any case.
    async fn settled(&self) {
        let wanted = self.wishes.borrow().0;
        let mut looked = self.looked.clone();
        // Without a reconciler nobody looks.
        let _ = tokio::time::timeout(ANSWER, looked.wait_for(|count| *count >= wanted)).await;
    }

    /// One row of [`Self::show`].
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn one(&self, name: &str) -> Result<Device, Refusal> {
        let mut rows = self.show().into_iter();
        let row = rows.find(|row| row.name.text == name);
        row.ok_or_else(|| unknown_device(name))
    }

    /// Something is wished.
    pub(crate) fn are_wished(&self) -> bool {
        !self.wishes.borrow().1.is_empty()
    }

    /// What answers at addresses that the devices have now, each time that changes; `None`: not looked at yet.
    pub(crate) fn services(&self) -> watch::Receiver<Option<Vec<Service>>> {
        self.services.clone()
    }

    /// `meshd devices`.
    pub(crate) fn show(&self) -> Vec<Device> {
        let merged = self.merged.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        rows::told(&shown, &merged)
    }

    /// For `meshd doctor`: what is not as it should be.
    pub(crate) fn checks(&self) -> Vec<Check> {
        let shown = self.show();
        let odd = shown
            .iter()
            .filter(|device| device.state != DeviceState::Ready);
        odd.map(|device| {
            warn(
                Finding::DeviceOdd,
                format!("device {}", device.name.text),
                device.why.join("; "),
                "see `meshd devices` and docs/howto/host-devices.md",
            )
        })
        .collect()
    }
}

/// How a task of ours ended.
fn finished<T>(done: Result<Result<T, Refusal>, tokio::task::JoinError>) -> Result<T, Refusal> {
    done.map_err(|error| Refusal::new(ErrorCode::Internal, error.to_string()))?
}

/// Those that wishes name and that are there.
type Namespaces = BTreeMap<IfName, (u64, u64)>;

struct Reconciler {
    host: HostDevices,
    shown: Arc<Mutex<Vec<Device>>>,
    offer: watch::Sender<Option<Vec<Service>>>,
    see: watch::Sender<u64>,
    /// What was wished, and how the host was, when nothing more could be done, if something was left to do.
    rested: Option<(Wishes, Scene, Namespaces, Instant)>,
    /// What was said in the log.
    told: BTreeMap<IfName, Vec<String>>,
}

impl Reconciler {
    async fn follow(mut self, mut changes: DeviceWatch, mut wishes: watch::Receiver<Wished>) {
        loop {
            let idle = wishes.borrow().1.is_empty() && self.is_done();
            let placed = wishes.borrow().1.values().any(|wish| wish.place.is_some());
            let pause = if placed { ELSEWHERE } else { AGAIN };
            tokio::select! {
                // The daemon ends.
                told = wishes.changed() => if told.is_err() {
                    return;
                },
                () = changes.changed() => if idle {
                    continue;
                },
                () = tokio::time::sleep(pause), if !idle => {}
            }
            tokio::time::sleep(SETTLE).await;
            // What came meanwhile is seen by one look.
            for _ in 0..CHANGES_MAX {
                let more = tokio::time::timeout(Duration::ZERO, changes.changed());
                if more.await.is_err() {
                    break;
                }
            }
            // Wishes that came since are among them, whatever woke us.
            let (count, wished) = wishes.borrow_and_update().clone();
            self.reconcile(&wished).await;
            self.see.send_replace(count);
        }
    }

    fn is_done(&self) -> bool {
        self.shown
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    async fn reconcile(&mut self, wishes: &Wishes) {
        let mut failures: BTreeMap<IfName, String> = BTreeMap::new();
        for round in 0..=ROUNDS {
            let scene = match self.host.observe(wishes).await {
                Ok(scene) => scene,
                Err(error) => {
                    tracing::warn!(code = %ErrorCode::HostDeviceFailed, "host devices: {error}");
                    return;
                }
            };
            let wishes = &with_shims(&scene, wishes);
            let mut next = plan(&scene, wishes);
            if self.rests(wishes, &scene) {
                return;
            }
            let is_open = |task: &&Task| {
                let member = member(&task.step);
                !failures.contains_key(&task.of)
                    && !member.is_some_and(|member| failures.contains_key(member))
            };
            let open: Vec<Task> = next.tasks.iter().filter(is_open).cloned().collect();
            if open.is_empty() || round == ROUNDS {
                for task in &next.tasks {
                    if let Step::Enslave { member } = &task.step
                        && failures.contains_key(member)
                    {
                        let lacks = next.lacks.entry(task.of.clone()).or_default();
                        lacks.push(format!("{member} is not there: it could not be made"));
                    }
                }
                for task in open {
                    let unsettled = "it is set, and reads otherwise".to_owned();
                    failures.insert(task.of, unsettled);
                }
                self.rested = (!failures.is_empty()).then(|| {
                    (
                        wishes.clone(),
                        scene.clone(),
                        self.host.namespaces(),
                        Instant::now(),
                    )
                });
                self.tell(&scene, wishes, &next, &failures);
                return;
            }
            self.carry_out(wishes, &open, &mut failures).await;
        }
    }

    /// All of it was tried on just such a host, a moment ago.
    fn rests(&self, wishes: &Wishes, scene: &Scene) -> bool {
        let rested = self.rested.as_ref();
        rested.is_some_and(|(wished, then, there, at)| {
            wished == wishes
                && then == scene
                && *there == self.host.namespaces()
                && at.elapsed() < AGAIN
        })
    }

    /// Goes on after a failure, with what does not need the device that failed.
    async fn carry_out(
        &self,
        wishes: &Wishes,
        tasks: &[Task],
        failures: &mut BTreeMap<IfName, String>,
    ) {
        for task in tasks {
            if failures.contains_key(&task.of) {
                continue;
            }
            let wish = wishes.get(&task.of);
            let below = wish
                .and_then(|wish| wish.shape.parent())
                .filter(|parent| failures.contains_key(parent));
            if let Some(below) = below {
                let why = format!("waits for {below}, which is not as it should be");
                failures.insert(task.of.clone(), why);
                continue;
            }
            // A member that could not be made does not keep the others out.
            if member(&task.step).is_some_and(|member| failures.contains_key(member)) {
                continue;
            }
            if let Err(DeviceError { reason }) = self.host.do_step(task).await {
                failures.insert(task.of.clone(), reason);
            } else if matches!(task.step, Step::Make { .. } | Step::Remove) {
                let verb = match task.step {
                    Step::Remove => "removed",
                    _ => "made",
                };
                tracing::info!(device = %task.of, "host device {verb}");
            }
        }
    }

    fn tell(
        &mut self,
        scene: &Scene,
        wishes: &Wishes,
        plan: &Plan,
        failures: &BTreeMap<IfName, String>,
    ) {
        let mut shown = Vec::new();
        let mut told = BTreeMap::new();
        let ours = scene
            .iter()
            .filter(|(_, seen)| seen.ours)
            .map(|(name, _)| name);
        let names: BTreeSet<&IfName> = wishes.keys().chain(ours).collect();
        for name in names {
            let row = rows::row(name, scene, wishes.get(name), plan, failures.get(name));
            if !row.why.is_empty() {
                if self.told.get(name) != Some(&row.why) {
                    tracing::warn!(code = %ErrorCode::HostDeviceFailed, device = %name, "host device: {}", row.why.join("; "));
                }
                told.insert(name.clone(), row.why.clone());
            }
            shown.push(row);
        }
        let mended = |name: &&IfName| !told.contains_key(*name) && wishes.contains_key(*name);
        for name in self.told.keys().filter(mended) {
            tracing::info!(device = %name, "host device is as it should be");
        }
        self.told = told;
        let services = rows::services(scene, wishes);
        self.offer.send_if_modified(|before| {
            let differs = before.as_ref() != Some(&services);
            *before = Some(services);
            differs
        });
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = shown;
    }
}

/// The other device that a step is about.
fn member(step: &Step) -> Option<&IfName> {
    match step {
        Step::Enslave { member }
        | Step::RaiseMember { member }
        | Step::SetVlans { port: member, .. } => Some(member),
        Step::Prefer { member } => member.as_ref(),
        _ => None,
    }
}
