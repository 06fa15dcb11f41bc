//! What a controller may call. In a component these are the imports of `wit/host.wit`, and one that is never called is not
//! imported; in a test they are the simulated host's.

use super::commit::Commit;
use super::event::{Endpoint, Peer, Port, TimerId};
use crate::mac::Mac;
use crate::wit::flows::{FlowError, RuleStats};
use crate::wit::http::{self, HttpError};
use crate::wit::kv::{Entry, KvError, Scope};
use crate::wit::packet_out::{self, OutError};
use crate::wit::types::{LinkStats, LogLevel};
use core::fmt::Debug;

/// The host of a controller.
#[derive(Clone)]
pub struct Host(#[cfg(not(target_arch = "wasm32"))] crate::test::Shared);

/// Calls a function of the contract, here or there.
macro_rules! ask {
    ($host:ident, $interface:ident::$function:ident($($arg:expr),*)) => {{
        #[cfg(target_arch = "wasm32")]
        {
            // It is nothing but the right to call.
            let _ = $host;
            crate::wit::$interface::$function($($arg),*)
        }
        #[cfg(not(target_arch = "wasm32"))]
        {
            $host.0.borrow_mut().$function($($arg),*)
        }
    }};
}

/// Where a frame of the plugin's own goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutTo {
    /// Where its destination MAC is; a group address floods.
    Network,
    /// Out of this port of this node.
    Port(u32),
    /// To this member.
    Peer(u64),
}

/// A request to a host that was granted.
#[derive(Clone, Debug)]
pub struct Request {
    /// GET, POST and so on.
    pub method: String,
    /// With scheme and host.
    pub url: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// At most 256 KiB.
    pub body: Vec<u8>,
    /// Until it counts as failed; at most a minute.
    pub timeout_ms: u32,
}

impl Request {
    /// Asks for what is at `url`, and waits ten seconds.
    #[must_use]
    pub fn get(url: impl Into<String>) -> Self {
        Self {
            method: "GET".to_owned(),
            url: url.into(),
            headers: Vec::new(),
            body: Vec::new(),
            timeout_ms: 10_000,
        }
    }
}

impl Host {
    #[cfg(controlling)]
    pub(crate) fn new() -> Self {
        Self()
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn of(world: crate::test::Shared) -> Self {
        Self(world)
    }

    /// A line for `meshd plugin logs`.
    pub fn log(&self, level: LogLevel, text: &str) {
        ask!(self, log::log(level, text));
    }

    /// A line of the level `info`.
    pub fn info(&self, text: &str) {
        self.log(LogLevel::Info, text);
    }

    /// A line of the level `warn`.
    pub fn warn(&self, text: &str) {
        self.log(LogLevel::Warn, text);
    }

    /// Says what went wrong, if something did.
    pub fn warn_if<T, E: Debug>(&self, outcome: Result<T, E>) {
        if let Err(error) = outcome {
            self.warn(&format!("{error:?}"));
        }
    }

    /// Adds to a figure of `meshd plugin stats` that only grows.
    pub fn count(&self, name: &str, n: u64) {
        ask!(self, metrics::count(name, n));
    }

    /// Sets a figure of `meshd plugin stats`.
    pub fn gauge(&self, name: &str, value: i64) {
        ask!(self, metrics::gauge(name, value));
    }

    /// Ms since the host started.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        ask!(self, clock::monotonic_ms())
    }

    /// Seconds since 1970, UTC.
    #[must_use]
    pub fn wall(&self) -> u64 {
        ask!(self, clock::wall())
    }

    /// 64 bits that nobody can foresee.
    #[must_use]
    pub fn random(&self) -> u64 {
        ask!(self, random::next())
    }

    /// An event after so many ms, at least 10. None: there are 256 timers already.
    pub fn once(&self, after_ms: u32) -> Option<TimerId> {
        ask!(self, timers::once(after_ms))
    }

    /// An event every so many ms, at least 10, until cancelled. None: as [`Host::once`].
    pub fn every(&self, period_ms: u32) -> Option<TimerId> {
        ask!(self, timers::every(period_ms))
    }

    /// No event of this timer comes any more.
    pub fn cancel(&self, timer: TimerId) {
        ask!(self, timers::cancel(timer));
    }

    /// What is kept under a key on this node.
    ///
    /// # Errors
    /// Not now.
    pub fn get(&self, key: &str) -> Result<Option<Entry>, KvError> {
        Kv(self, Scope::Node).get(key)
    }

    /// Keeps a value on this node; gives its version.
    ///
    /// # Errors
    /// It is too large, or there is no room.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<u64, KvError> {
        Kv(self, Scope::Node).set(key, value)
    }

    /// Keeps a value on this node for so many ms (0: without end), if `expect` is the version there (0: there is none).
    ///
    /// # Errors
    /// There is another version; or as [`Host::set`].
    pub fn set_if(
        &self,
        key: &str,
        value: &[u8],
        expect: Option<u64>,
        ttl_ms: u32,
    ) -> Result<u64, KvError> {
        Kv(self, Scope::Node).set_if(key, value, expect, ttl_ms)
    }

    /// Forgets a key.
    ///
    /// # Errors
    /// Not now.
    pub fn delete(&self, key: &str) -> Result<(), KvError> {
        Kv(self, Scope::Node).delete(key)
    }

    /// All keys that begin so, in order.
    ///
    /// # Errors
    /// Not now.
    pub fn keys(&self, prefix: &str) -> Result<Vec<String>, KvError> {
        Kv(self, Scope::Node).keys(prefix)
    }

    /// What is kept for all nodes of the network, where that is granted (`kv(mesh_bytes = …)`, `--grant kv-mesh`). The last writer
    /// holds; what others write is the event [`MeshChanged`](super::Event::MeshChanged).
    ///
    /// ```
    /// use meshd_sdk::prelude::*;
    /// use meshd_sdk::controller::{Event, Host};
    ///
    /// #[derive(Config)]
    /// struct Nothing {}
    ///
    /// /// Says what was banned elsewhere, and bans who sends a frame here.
    /// struct Bans;
    ///
    /// #[controller(kv(mesh_bytes = 4096))]
    /// impl Controller for Bans {
    ///     type Config = Nothing;
    ///     fn new(_: Nothing, _: &Host) -> Result<Self, Vec<ConfigError>> { Ok(Self) }
    ///     fn on_event(&mut self, event: Event, host: &Host) {
    ///         match event {
    ///             Event::PortAdded(port) => {
    ///                 host.warn_if(host.mesh().set(&format!("ban/{}", port.mac), b""));
    ///             }
    ///             Event::MeshChanged(keys) => keys.iter().for_each(|key| host.info(key)),
    ///             _ => {}
    ///         }
    ///     }
    /// }
    ///
    /// let mut world = meshd_sdk::test::controlled::<Bans>("{}").unwrap();
    /// world.mesh_set("ban/02:00:00:00:00:09", b"");
    /// assert_eq!(world.lines(), ["ban/02:00:00:00:00:09"]);
    /// world.port(3, "02:00:00:00:00:03", &[]).arrives();
    /// assert_eq!(world.mesh_get("ban/02:00:00:00:00:03"), Some(Vec::new()));
    /// ```
    #[must_use]
    pub fn mesh(&self) -> Kv<'_> {
        Kv(self, Scope::Mesh)
    }

    /// The ports of this node on the network.
    #[must_use]
    pub fn ports(&self) -> Vec<Port> {
        let ports = ask!(self, topology::ports());
        ports.into_iter().map(Into::into).collect()
    }

    /// The members on the network.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        let peers = ask!(self, topology::peers());
        peers.into_iter().map(Into::into).collect()
    }

    /// Ways to a member.
    #[must_use]
    pub fn paths(&self, peer: u64) -> Vec<LinkStats> {
        ask!(self, topology::paths(peer))
    }

    /// All stations of the network, in the order of their MACs.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Endpoint> {
        const AT_ONCE: u32 = 1024;
        let mut all: Vec<Endpoint> = Vec::new();
        loop {
            let after = all.last().map(|last| halves(last.mac));
            let more = ask!(self, topology::endpoints(after, AT_ONCE));
            if more.is_empty() {
                return all;
            }
            all.extend(more.into_iter().map(Endpoint::from));
        }
    }

    /// Writes, all or nothing; gives the generation from which on every frame obeys it.
    ///
    /// # Errors
    /// Nothing has changed.
    pub fn commit(&self, commit: Commit) -> Result<u64, FlowError> {
        let changes = commit.changes();
        ask!(self, flows::commit(&changes))
    }

    /// Decisions that the rules made.
    #[must_use]
    pub fn rule_stats(&self, tagged: Option<u32>) -> Vec<RuleStats> {
        const AT_ONCE: u32 = 1024;
        let mut all: Vec<RuleStats> = Vec::new();
        loop {
            let after = all.last().map(|last| last.id);
            let more = ask!(self, flows::stats(tagged, after, AT_ONCE));
            if more.is_empty() {
                return all;
            }
            all.extend(more);
        }
    }

    /// Sends a frame of the plugin's own; no plugin is asked about it.
    ///
    /// # Errors
    /// It is none, or there are more than granted, or nobody to send it to.
    pub fn send(&self, frame: &[u8], to: OutTo) -> Result<(), OutError> {
        let to = match to {
            OutTo::Network => packet_out::OutTo::Network,
            OutTo::Port(port) => packet_out::OutTo::Port(port),
            OutTo::Peer(peer) => packet_out::OutTo::Peer(peer),
        };
        ask!(self, packet_out::send(frame, to))
    }

    /// Asks a host that was granted; the answer is the event [`Fetched`](super::Event::Fetched) with this number.
    ///
    /// # Errors
    /// The host was not granted, or eight calls are on their way.
    pub fn fetch(&self, request: Request) -> Result<u64, HttpError> {
        let request = http::Request {
            method: request.method,
            url: request.url,
            headers: request.headers,
            body: request.body,
            timeout_ms: request.timeout_ms,
        };
        ask!(self, http::start(&request))
    }
}

/// What a controller keeps, here or for all nodes of the network.
#[derive(Clone, Copy)]
pub struct Kv<'a>(&'a Host, Scope);

impl Kv<'_> {
    /// What is kept under a key.
    ///
    /// # Errors
    /// Not now, or not granted.
    pub fn get(self, key: &str) -> Result<Option<Entry>, KvError> {
        let Self(host, of) = self;
        ask!(host, kv::get(of, key))
    }

    /// Keeps a value; gives its version.
    ///
    /// # Errors
    /// It is too large, there is no room, or it is not granted.
    pub fn set(self, key: &str, value: &[u8]) -> Result<u64, KvError> {
        self.set_if(key, value, None, 0)
    }

    /// Keeps a value for so many ms (0: without end), if `expect` is the version there (0: there is none), as this node sees it.
    ///
    /// # Errors
    /// There is another version; or as [`Kv::set`].
    pub fn set_if(
        self,
        key: &str,
        value: &[u8],
        expect: Option<u64>,
        ttl_ms: u32,
    ) -> Result<u64, KvError> {
        let Self(host, of) = self;
        ask!(host, kv::set(of, key, value, expect, ttl_ms))
    }

    /// Forgets a key.
    ///
    /// # Errors
    /// Not now, or not granted.
    pub fn delete(self, key: &str) -> Result<(), KvError> {
        let Self(host, of) = self;
        ask!(host, kv::delete(of, key))
    }

    /// All keys that begin so, in order.
    ///
    /// # Errors
    /// Not now, or not granted.
    pub fn keys(self, prefix: &str) -> Result<Vec<String>, KvError> {
        const AT_ONCE: u32 = 1024;
        let Self(host, of) = self;
        let mut all: Vec<String> = Vec::new();
        loop {
            let after = all.last().map(String::as_str);
            let more = ask!(host, kv::list_keys(of, prefix, after, AT_ONCE))?;
            if more.is_empty() {
                return Ok(all);
            }
            all.extend(more);
        }
    }
}

fn halves(mac: Mac) -> crate::wit::types::Mac {
    let [a, b, c, d, e, f] = mac.octets();
    crate::wit::types::Mac {
        hi: u16::from_be_bytes([a, b]),
        lo: u32::from_be_bytes([c, d, e, f]),
    }
}
