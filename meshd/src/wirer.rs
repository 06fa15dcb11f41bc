//! The wirer: kernel work of ports and services, one job after the other, beside the driver.
//!
//! Owns the running services. Ports that go one after the other go together, since that costs the kernel as much as one. Order matters: an unwire waits for the wire before it. The driver never waits for the
//! kernel, and a slow kernel never delays a ruling.

use crate::dns::{Forwarder, NamesHandle};
use crate::driver::{Carry, DriverHandle};
use crate::kernel::Kernel;
use crate::service::Service;
use crate::telemetry::{self, operation};
use meshd_core::code::ErrorCode;
use meshd_core::command::{PortRecord, PortWiring, ServiceWiring};
use meshd_core::ident::{PortId, Vni};
use meshd_core::node::{Input, KernelEvent};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStringExt;
use tokio::sync::mpsc;
use tracing::Instrument as _;

/// Jobs that may wait: each port has at most one wire and one unwire open, and there are at most 4096 ports.
const JOBS_MAX: usize = 16_384;

/// Ports that are undone together.
const TOGETHER_MAX: usize = 32;

/// Something to do to the kernel.
pub(crate) enum Job {
    /// Make or adopt a port.
    Wire(PortWiring),
    /// Look through a port that carries frames, and mend it.
    Mend(PortWiring),
    /// Undo a port.
    Unwire(PortRecord),
    /// Make the node's presence on a network.
    Serve(ServiceWiring),
    /// Undo it.
    Unserve(Vni),
}

/// Takes jobs.
pub(crate) struct Wirer {
    jobs: mpsc::Sender<Job>,
}

/// What the wirer works with.
pub(crate) struct Tools {
    /// Netlink and namespaces.
    pub(crate) kernel: Kernel,
    /// For name services.
    pub(crate) names: NamesHandle,
    /// For name services.
    pub(crate) forward: Forwarder,
    /// Gets TAPs.
    pub(crate) driver: DriverHandle,
    /// Gets what came of a job.
    pub(crate) inputs: mpsc::Sender<Input>,
}

impl Wirer {
    /// Starts the task.
    pub(crate) fn start(tools: Tools) -> Self {
        let (jobs, queue) = mpsc::channel(JOBS_MAX);
        tokio::spawn(work(tools, queue));
        Self { jobs }
    }

    /// One more job.
    pub(crate) fn job(&self, job: Job) {
        if self.jobs.try_send(job).is_err() {
            tracing::error!(
                code = %ErrorCode::Internal, "the wirer takes no more jobs; a port will not be as configured until the daemon is restarted"
            );
        }
    }
}

async fn work(tools: Tools, mut queue: mpsc::Receiver<Job>) {
    let mut services: BTreeMap<Vni, (PortId, Service)> = BTreeMap::new();
    let mut failing: BTreeMap<Vni, String> = BTreeMap::new();
    let mut next = None;
    loop {
        let job = match next.take() {
            Some(job) => job,
            None => match queue.recv().await {
                Some(job) => job,
                None => return,
            },
        };
        match job {
            Job::Wire(wiring) => {
                let record = &wiring.port;
                let span = operation!("wire port", port = record.id.0, vni = record.vni.get());
                let event = wire(&tools, &wiring).instrument(span.clone()).await;
                if let KernelEvent::WireFailed { code, reason, .. } = &event {
                    telemetry::failed(&span, *code, reason);
                }
                let is_wired = matches!(event, KernelEvent::Wired { .. });
                tell(&tools, event).await;
                if is_wired {
                    tools.kernel.look_at_far_end(wiring.port.id);
                }
            }
            Job::Mend(wiring) => tell(&tools, mend(&tools, &wiring).await).await,
            Job::Unwire(port) => {
                let mut ports = vec![port];
                while ports.len() < TOGETHER_MAX && next.is_none() {
                    match queue.try_recv() {
                        Ok(Job::Unwire(port)) => ports.push(port),
                        Ok(other) => next = Some(other),
                        Err(_) => break,
                    }
                }
                let all = tools.kernel.unwire_all(&ports).await;
                for (port, errors) in ports.into_iter().zip(all) {
                    let port = port.id;
                    tell(&tools, KernelEvent::Unwired { port, errors }).await;
                }
            }
            Job::Serve(wiring) => {
                match Service::start(&wiring, tools.names.clone(), tools.forward.clone()).await {
                    Ok((service, tap)) => {
                        if failing.remove(&wiring.vni).is_some() {
                            tracing::info!(vni = %wiring.vni, "names are answered on this network now");
                        }
                        services.insert(wiring.vni, (wiring.port, service));
                        let carry = Carry::Port {
                            port: wiring.port,
                            vni: wiring.vni,
                            tap,
                            more: Vec::new(),
                            guarded: false,
                        };
                        tools.driver.carry(carry).await;
                        let port = wiring.port;
                        tell(&tools, KernelEvent::Served { port }).await;
                    }
                    Err(error) => {
                        let (port, reason) = (wiring.port, error.to_string());
                        // Tried again and again: the same reason is not told again.
                        let known = failing.insert(wiring.vni, reason.clone());
                        if known.as_ref() != Some(&reason) {
                            tracing::error!(code = %ErrorCode::NameServiceFailed, %error, "names are not answered on this network; it is tried again");
                        }
                        tell(&tools, KernelEvent::ServeFailed { port, reason }).await;
                    }
                }
            }
            Job::Unserve(vni) => {
                failing.remove(&vni);
                if let Some((port, _service)) = services.remove(&vni) {
                    tools.driver.carry(Carry::Gone(port)).await;
                }
            }
        }
    }
}

async fn wire(tools: &Tools, wiring: &PortWiring) -> KernelEvent {
    let port = wiring.port.id;
    match tools.kernel.wire(wiring).await {
        Ok(wired) => {
            let carry = Carry::Port {
                port,
                vni: wiring.port.vni,
                tap: wired.tap,
                more: wired.more,
                guarded: wiring.port.kind.uplink().is_some(),
            };
            tools.driver.carry(carry).await;
            KernelEvent::Wired {
                port,
                ifname: wired.ifname,
                mac: wired.mac,
                file: wired.file.map(|file| file.into_os_string().into_vec()),
            }
        }
        Err(error) => KernelEvent::WireFailed {
            port,
            code: error.code,
            reason: error.reason,
            gone: error.gone,
        },
    }
}

async fn mend(tools: &Tools, wiring: &PortWiring) -> KernelEvent {
    let port = wiring.port.id;
    match tools.kernel.mend(wiring).await {
        Ok(found) => KernelEvent::Mended {
            port,
            ifname: found.ifname,
            mac: found.mac,
            mended: found.mended,
        },
        // Its devices are there, so it leaves in order.
        Err(error) if error.gone => KernelEvent::PortGone { port },
        Err(error) => KernelEvent::WireFailed {
            port,
            code: error.code,
            reason: error.reason,
            gone: false,
        },
    }
}

async fn tell(tools: &Tools, event: KernelEvent) {
    let _ = tools.inputs.send(Input::Kernel(event)).await;
}
