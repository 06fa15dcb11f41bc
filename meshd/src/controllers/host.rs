//! What a controller may call, each interface of `wit/host.wit` in one `impl`. Whether it may is known: an import that is not
//! granted keeps an attachment from being made, so what is left to look at here are figures.

use super::Shared;
use super::fetch::{Fetch, Slot};
use super::shares::Mesh;
use super::surroundings::Snapshot;
use super::timers::Timers;
use meshd_core::code::ErrorCode;
use meshd_core::ident::{MacAddr, Moment, PortId};
use meshd_core::node::{PacketOut, PacketTo, SendError};
use meshd_plugin_host::contract::events::Event;
use meshd_plugin_host::contract::flows::{Change, FlowError, RuleStats};
use meshd_plugin_host::contract::http::{HttpError, Request};
use meshd_plugin_host::contract::kv::{Entry, KvError, Scope};
use meshd_plugin_host::contract::packet_out::{OutError, OutTo};
use meshd_plugin_host::contract::topology::{Endpoint, PeerInfo, PortInfo};
use meshd_plugin_host::contract::types::{LinkStats, LogLevel, Mac};
use meshd_plugin_host::contract::{
    clock, flows, http, kv, log, metrics, packet_out, random, timers, topology,
};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Requests of one attachment that may be on their way.
const CALLS: u32 = 8;
/// Stations that are told at once.
const STATIONS: u32 = 1024;

/// The host of one instance.
pub(super) struct Host {
    pub(super) shared: Arc<Shared>,
    pub(super) timers: Arc<Mutex<Timers>>,
}

impl Host {
    fn network(&self) -> Arc<Snapshot> {
        self.shared.house.look(self.shared.vni).unwrap_or_default()
    }
}

impl log::Host for Host {
    fn log(&mut self, level: LogLevel, message: String) {
        self.shared.journal.line(level, &message, Instant::now());
    }
}

impl metrics::Host for Host {
    fn count(&mut self, name: String, n: u64) {
        self.shared.figures().count(&name, n);
    }

    fn gauge(&mut self, name: String, value: i64) {
        self.shared.figures().gauge(&name, value);
    }
}

impl clock::Host for Host {
    fn monotonic_ms(&mut self) -> u64 {
        let passed = self.shared.house.started.elapsed().as_millis();
        u64::try_from(passed).unwrap_or(u64::MAX)
    }

    fn wall(&mut self) -> u64 {
        crate::clock::wall().0 / 1000
    }
}

impl random::Host for Host {
    fn next(&mut self) -> u64 {
        let mut bytes = [0; 8];
        let filled = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
        if filled.is_err() {
            // Since Linux 3.17 that does not happen once the system is up.
            tracing::error!(code = %ErrorCode::NoRandomNumbers, "the system gave no random numbers to a plugin");
        }
        u64::from_ne_bytes(bytes)
    }
}

impl timers::Host for Host {
    fn once(&mut self, after_ms: u32) -> Option<u64> {
        self.start(after_ms, false)
    }

    fn every(&mut self, period_ms: u32) -> Option<u64> {
        self.start(period_ms, true)
    }

    fn cancel(&mut self, id: u64) {
        let mut timers = self.timers.lock().unwrap_or_else(PoisonError::into_inner);
        timers.cancel(id);
    }
}

impl Host {
    fn start(&self, ms: u32, again: bool) -> Option<u64> {
        let mut timers = self.timers.lock().unwrap_or_else(PoisonError::into_inner);
        timers.start(ms, again, Instant::now())
    }
}

impl kv::Host for Host {
    fn get(&mut self, of: Scope, key: String) -> Result<Option<Entry>, KvError> {
        match of {
            Scope::Node => Ok(self.shared.kv().get(&key, crate::clock::wall().0)),
            Scope::Mesh => Mesh::open(&self.shared)?.get(&key),
        }
    }

    fn set(
        &mut self,
        of: Scope,
        key: String,
        value: Vec<u8>,
        expect: Option<u64>,
        ttl_ms: u32,
    ) -> Result<u64, KvError> {
        if of == Scope::Mesh {
            return Mesh::open(&self.shared)?.set(&key, value, expect, ttl_ms);
        }
        let most = self.shared.grants().amounts.kv_bytes as usize;
        let wall = crate::clock::wall().0;
        self.shared
            .kv()
            .set(&key, value, expect, ttl_ms, most, wall)
    }

    fn delete(&mut self, of: Scope, key: String) -> Result<(), KvError> {
        match of {
            Scope::Node => self.shared.kv().delete(&key),
            Scope::Mesh => Mesh::open(&self.shared)?.delete(&key)?,
        }
        Ok(())
    }

    fn list_keys(
        &mut self,
        of: Scope,
        prefix: String,
        after: Option<String>,
        limit: u32,
    ) -> Result<Vec<String>, KvError> {
        let after = after.as_deref();
        match of {
            Scope::Node => {
                let wall = crate::clock::wall().0;
                Ok(self.shared.kv().list(&prefix, after, limit, wall))
            }
            Scope::Mesh => Mesh::open(&self.shared)?.list(&prefix, after, limit),
        }
    }
}

impl topology::Host for Host {
    fn ports(&mut self) -> Vec<PortInfo> {
        let network = self.network();
        network
            .ports
            .keys()
            .filter_map(|&id| network.port(id))
            .collect()
    }

    fn peers(&mut self) -> Vec<PeerInfo> {
        let network = self.network();
        network
            .peers
            .keys()
            .filter_map(|&id| network.peer(id))
            .collect()
    }

    fn paths(&mut self, peer: u64) -> Vec<LinkStats> {
        self.network().links(peer)
    }

    fn endpoints(&mut self, after: Option<Mac>, limit: u32) -> Vec<Endpoint> {
        let after = after.map(|after| {
            let ([a, b], [c, d, e, f]) = (after.hi.to_be_bytes(), after.lo.to_be_bytes());
            MacAddr([a, b, c, d, e, f])
        });
        self.network()
            .endpoints(after, limit.min(STATIONS) as usize)
    }
}

impl flows::Host for Host {
    fn commit(&mut self, changes: Vec<Change>) -> Result<u64, FlowError> {
        let most = self.shared.grants().amounts.rules as usize;
        let generation = self.shared.writer().commit(changes, &self.shared, most)?;
        self.shared.committed(generation);
        Ok(generation)
    }

    fn stats(&mut self, tagged: Option<u32>, after: Option<u64>, limit: u32) -> Vec<RuleStats> {
        self.shared.writer().stats(tagged, after, limit)
    }
}

impl packet_out::Host for Host {
    fn send(&mut self, frame: Vec<u8>, to: OutTo) -> Result<(), OutError> {
        let vni = self.shared.vni;
        let budget = Arc::clone(&self.shared.budget());
        let now = Moment(
            u64::try_from(self.shared.house.started.elapsed().as_nanos()).unwrap_or(u64::MAX),
        );
        if budget.pay(frame.len(), now).is_err() {
            return Err(OutError::Budget);
        }
        let packet = PacketOut {
            vni,
            to: match to {
                OutTo::Network => PacketTo::Network,
                OutTo::Port(port) => PacketTo::Port(PortId(port)),
                OutTo::Peer(peer) => PacketTo::Peer(peer),
            },
            frame: frame.into(),
        };
        self.shared
            .house
            .surroundings
            .send(packet)
            .map_err(|error| match error {
                SendError::NoTarget { .. } | SendError::UnknownVni { .. } => OutError::NoSuchTarget,
                SendError::BadFrame { .. } | SendError::Stopping => {
                    OutError::BadFrame(error.to_string())
                }
            })
    }
}

impl http::Host for Host {
    fn start(&mut self, req: Request) -> Result<u64, HttpError> {
        let fetch = Fetch::new(req, &self.shared.grants().amounts.hosts)?;
        let slot = Slot::take(&self.shared.under_way, CALLS).ok_or(HttpError::Busy)?;
        let fetch = fetch.in_slot(slot);
        let call = self.shared.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let shared = Arc::downgrade(&self.shared);
        let done = move |answer| {
            if let Some(shared) = shared.upgrade() {
                shared.queue.push(Event::HttpDone((call, answer)));
            }
        };
        self.shared.house.surroundings.fetch(fetch, Box::new(done));
        Ok(call)
    }
}
