//! Tests of a policy as native code: no daemon, no WASM, no root.
//!
//! ```text
//!   pkt!(…) --> Packet: frame --daemon's parser--> key --decide--> Outcome: .drops("…") .reads("…")
//!   FILE.pcap -----------------------------------^           \--> Replay:  .matches(FILE.golden)
//! ```

mod bytes;
mod connections;
pub(crate) mod keys;
mod packet;
mod replay;
pub(crate) mod sound;
pub mod ways;
mod world;

pub use crate::__pkt as pkt;
use connections::Connections;
pub use packet::{Packet, PacketError};
pub use replay::{Replay, write_pcap};
#[doc(hidden)]
pub use world::Shared;
pub use world::{NewPort, World, controlled};

use Host as PolicyHost;

use crate::config::ConfigError;
use crate::key::Key;
use crate::policy::{self, Policy};
use crate::verdict::{Say, Verdict};
use crate::wit::types::{DepMask, FlowKey};
use core::cell::RefCell;
use std::path::Path;

/// A policy with somebody to ask it.
pub struct Host<P> {
    policy: P,
    sent: RefCell<Vec<FlowKey>>,
    connections: Option<Connections>,
}

/// Takes a policy, checked as a config is.
///
/// # Panics
/// If `check` refuses it.
#[track_caller]
pub fn host<P: Policy>(mut policy: P) -> Host<P> {
    if let Err(errors) = policy.check() {
        panic!("the policy refuses its config: {errors:?}");
    }
    Host {
        policy,
        sent: RefCell::default(),
        connections: None,
    }
}

/// Reads and checks a config as the daemon has it done.
///
/// # Errors
/// Everything that is wrong in the config.
pub fn configured<P: Policy>(config: &str) -> Result<Host<P>, Vec<ConfigError>> {
    policy::read(config).map(|policy| Host {
        policy,
        sent: RefCell::default(),
        connections: None,
    })
}

/// The manifest that the component carries, as JSON.
///
/// # Panics
/// If it is no JSON: a mistake of the SDK.
#[must_use]
pub fn manifest<P: Policy>() -> serde_json::Value {
    serde_json::from_slice(P::MANIFEST).unwrap_or_else(|e| panic!("{e}"))
}

impl<P: Policy> Host<P> {
    /// Asks about the first frame of a flow.
    ///
    /// # Panics
    /// If the daemon would drop the frame without asking, since its headers contradict each other.
    #[track_caller]
    pub fn send(&self, packet: Packet) -> Outcome {
        let text = keys::show(&packet);
        let (_, verdict, deps) = match self.ask(&packet) {
            Ok(asked) => asked,
            Err(why) => panic!("no policy is asked about {text}: {why}"),
        };
        Outcome {
            text,
            said: said::<P>(&verdict),
            deps,
        }
    }

    /// Checks that the verdict rests on nothing but what was read: takes the packets sent so far and `rounds` others like
    /// them, scrambles every bit that was not read, and asks again. The same rounds each time.
    ///
    /// # Panics
    /// If a verdict or what was read differs: the policy keeps state, or looks at the frame by another way than [`Key`].
    pub fn sound(&self, rounds: usize) {
        sound::check(&self.sent.borrow(), rounds, |key| self.decide(key));
    }

    /// Asks about every frame of a recording (pcap or pcapng), as on its way in from port 1 of network 1. The path is seen
    /// from the crate's folder.
    ///
    /// # Panics
    /// If the file cannot be read.
    #[track_caller]
    pub fn replay(&self, pcap: impl AsRef<Path>) -> Replay {
        replay::replay(self, pcap.as_ref())
    }

    /// With the host's own connection table behind it: packets that say no `ct` are looked up, and connections are entered
    /// as verdicts have it.
    #[must_use]
    pub fn tracked(self) -> Self {
        Self {
            connections: Some(Connections::new()),
            ..self
        }
    }

    /// Time passes for the connections.
    ///
    /// # Panics
    /// Unless the host is [`Self::tracked`].
    #[track_caller]
    pub fn wait_s(&self, seconds: u64) {
        self.table().wait_s(seconds);
    }

    /// The chain changes: all connections are to be decided anew. Returns the table behind another policy.
    ///
    /// # Panics
    /// If `check` refuses the policy, or the host is not [`Self::tracked`].
    #[must_use]
    #[track_caller]
    pub fn change_to<Q: Policy>(self, policy: Host<Q>) -> Host<Q> {
        self.table().decide_anew();
        Host {
            connections: self.connections,
            ..policy
        }
    }

    #[track_caller]
    fn table(&self) -> &Connections {
        match &self.connections {
            Some(table) => table,
            None => panic!("this host has no connection table: host(…).tracked()"),
        }
    }

    /// As the daemon does with a frame: looks it up, asks, and does what the verdict wants of its connection.
    fn ask(&self, packet: &Packet) -> Result<(FlowKey, Verdict, DepMask), String> {
        let mut key = keys::key(packet)?;
        let table = self.connections.as_ref().filter(|_| packet.ct.is_none());
        if let Some(table) = table {
            (key.ct, key.ct_mark) = table.look(packet);
        }
        self.sent.borrow_mut().push(key);
        let (verdict, deps) = self.decide(&key);
        if let Some(table) = table {
            table.order(packet, &verdict);
        }
        Ok((key, verdict, deps))
    }

    fn decide(&self, key: &FlowKey) -> (Verdict, DepMask) {
        let egress = key.dir == crate::Direction::Egress;
        let key = Key::new(key);
        let verdict = self.policy.decide(&key);
        assert!(
            !egress || verdict.holds_at_egress(),
            "at egress a frame is at its receiver already, and a verdict that changes it or sends it elsewhere is a fault: look at key.dir() first. It was: {verdict:?}"
        );
        (verdict, key.deps())
    }
}

/// What a policy said, with the name of its reason, as a golden trace has it: `next`, `drop telnet`, `reject 7`,
/// `port 3 for 1000 ms`, `next, set-dscp 46, mirror 4`, `accept uncached`.
///
/// # Panics
/// If a code is neither the number of a rule nor interned.
#[track_caller]
fn said<P: Policy>(verdict: &Verdict) -> String {
    let mut out = match verdict.say {
        Say::Next => "next".to_owned(),
        Say::Accept => "accept".to_owned(),
        Say::Port(port) => format!("port {port}"),
        Say::Peer(peer) => format!("peer {peer}"),
        Say::Group(group) => format!("group {group}"),
        Say::FloodSet(set) => format!("flood set {set}"),
        Say::Drop { code, reject } => {
            let behind = usize::from(code).checked_sub(usize::from(P::RULES) + 1);
            let name = behind.and_then(|at| P::REASONS.get(at)).copied();
            let known = name.is_some() || (1..=P::RULES).contains(&code);
            assert!(
                known,
                "drop({code}) is in nobody's manifest: rules are numbered from 1 to {}; say #[policy(…, rules = …)], or give the reason a name",
                P::RULES
            );
            let word = if reject { "reject" } else { "drop" };
            name.map_or_else(|| format!("{word} {code}"), |name| format!("{word} {name}"))
        }
    };
    for act in verdict.acts.iter().flatten() {
        out += &format!(", {act}");
    }
    if !verdict.cacheable {
        out += " uncached";
    }
    for tag in verdict.tags.iter().flatten() {
        out += &format!(" tag {tag}");
    }
    for (word, ms) in [("for", verdict.hard_ms), ("idle", verdict.idle_ms)] {
        if ms != 0 {
            out += &format!(" {word} {ms} ms");
        }
    }
    out
}

/// A reason as a test names it: by its name, or by the number of the rule.
pub trait Named {
    /// As in a golden trace.
    fn named(&self) -> String;
}

impl Named for &str {
    fn named(&self) -> String {
        (*self).to_owned()
    }
}

impl Named for u16 {
    fn named(&self) -> String {
        self.to_string()
    }
}

/// What a policy said about one packet.
pub struct Outcome {
    text: String,
    said: String,
    deps: DepMask,
}

#[allow(clippy::must_use_candidate, clippy::return_self_not_must_use)]
impl Outcome {
    /// # Panics
    /// Unless the packet was left to the next plugin.
    #[track_caller]
    pub fn passes(self) -> Self {
        self.says("next")
    }

    /// # Panics
    /// Unless the packet was accepted past later plugins.
    #[track_caller]
    pub fn accepts(self) -> Self {
        self.says("accept")
    }

    /// # Panics
    /// Unless the packet was dropped for this reason.
    #[track_caller]
    pub fn drops(self, why: impl Named) -> Self {
        self.says(&format!("drop {}", why.named()))
    }

    /// # Panics
    /// Unless the packet was refused for this reason, and its sender told.
    #[track_caller]
    pub fn rejects(self, why: impl Named) -> Self {
        self.says(&format!("reject {}", why.named()))
    }

    /// # Panics
    /// Unless the packet was sent there: `"port 3"` or `"peer 7"`.
    #[track_caller]
    pub fn goes_to(self, place: &str) -> Self {
        self.says(place)
    }

    /// Compares what was read: names as in `wit/types.wit`, in its order, separated by blanks; partial reads of addresses
    /// with the number of leading bits (`dst-ip/120`, IPv4 has 96 before it), of ports with the mask (`dst-port/0x8000`).
    ///
    /// # Panics
    /// If it is not that.
    #[track_caller]
    pub fn reads(self, names: &str) -> Self {
        let read = keys::names(&self.deps);
        let wanted = names.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            read == wanted,
            "of {}\n  the policy read {read:?}\n  and not         {wanted:?}",
            self.text
        );
        self
    }

    /// Compares the whole verdict as a golden trace has it, also how long it is kept: `"drop telnet for 1000 ms"`, `"next
    /// uncached"`. The other checks want an answer that is kept as long as nothing changes. Tags count where some are named.
    ///
    /// # Panics
    /// If it is not that.
    #[track_caller]
    pub fn says(self, wanted: &str) -> Self {
        const TAG: &str = " tag ";
        let said = match (wanted.contains(TAG), self.said.split_once(TAG)) {
            (false, Some((untagged, _))) => untagged,
            _ => self.said.as_str(),
        };
        assert!(
            said == wanted,
            "of {}\n  the policy says {said:?}\n  and not         {wanted:?}",
            self.text
        );
        self
    }

    /// What the policy says, as in a golden trace: `next, mirror 9`.
    pub fn verdict(&self) -> &str {
        &self.said
    }
}

#[cfg(test)]
mod tests;
