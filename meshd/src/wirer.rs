//! The wirer: kernel work of ports and services, one job after the other, beside the driver.
//!
//! Owns the running services. Order matters: an unwire waits for the wire before it. The driver never waits for the
//! kernel, and a slow kernel never delays a ruling.

use crate::dns::{Forwarder, NamesHandle};
use crate::driver::{Carry, DriverHandle};
use crate::kernel::Kernel;
use crate::service::Service;
use meshd_core::command::{PortRecord, PortWiring, ServiceWiring};
use meshd_core::ident::{PortId, Vni};
use meshd_core::node::{Input, KernelEvent};
use std::collections::BTreeMap;
use tokio::sync::mpsc;

/// Jobs that may wait: each port has at most one wire and one unwire open, and there are at most 4096 ports.
const JOBS_MAX: usize = 16_384;

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
                "the wirer takes no more jobs; a port will not be as configured until the daemon is restarted"
            );
        }
    }
}

async fn work(tools: Tools, mut queue: mpsc::Receiver<Job>) {
    let mut services: BTreeMap<Vni, (PortId, Service)> = BTreeMap::new();
    while let Some(job) = queue.recv().await {
        match job {
            Job::Wire(wiring) => tell(&tools, wire(&tools, &wiring).await).await,
            Job::Mend(wiring) => tell(&tools, mend(&tools, &wiring).await).await,
            Job::Unwire(port) => {
                let errors = tools.kernel.unwire(&port).await;
                tell(
                    &tools,
                    KernelEvent::Unwired {
                        port: port.id,
                        errors,
                    },
                )
                .await;
            }
            Job::Serve(wiring) => {
                match Service::start(&wiring, tools.names.clone(), tools.forward.clone()).await {
                    Ok((service, tap)) => {
                        services.insert(wiring.vni, (wiring.port, service));
                        let carry = Carry::Port {
                            port: wiring.port,
                            vni: wiring.vni,
                            tap,
                        };
                        tools.driver.carry(carry).await;
                    }
                    Err(error) => {
                        tracing::error!(%error, "names will not be answered on this network")
                    }
                }
            }
            Job::Unserve(vni) => {
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
            };
            tools.driver.carry(carry).await;
            KernelEvent::Wired {
                port,
                ifname: wired.ifname,
                mac: wired.mac,
            }
        }
        Err(error) => KernelEvent::WireFailed {
            port,
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
            reason: error.reason,
            gone: false,
        },
    }
}

async fn tell(tools: &Tools, event: KernelEvent) {
    let _ = tools.inputs.send(Input::Kernel(event)).await;
}
