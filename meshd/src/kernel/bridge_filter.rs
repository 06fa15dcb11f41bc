//! The host's own filter of bridged frames: what of it would drop or rewrite what the kernel forwards for us.
//!
//! ```text
//!    port -> gate -> bridge --br_netfilter--> FORWARD of ip, ip6, inet --> port or VXLAN device
//!                                             Docker, kube, ufw: policy drop
//! ```
//!
//! With `br_netfilter` loaded, a bridge sends IPv4 and IPv6 through the host's netfilter hooks, and no setting of a bridge
//! takes that back. Frames that the daemon forwards do not pass there. So does its address translation: a frame that the host
//! has routed to a port of ours, and has rewritten then, is a second connection of the same addresses to it on the bridge, and
//! gets another source port.
//!
//! Owns the look at those hooks. Refuses to read rules one by one: whether they would let our frames pass depends on
//! frames that are not there yet, so a chain with rules counts as one that may drop. Changes nothing of the host's.

use super::fence_rules::{self as rules, GETCHAIN, TABLE};
use super::netlink;
use super::nft::{INET, Message, Nft};
use netlink_proto::sys::{AsyncSocket, TokioSocket};
use nix::errno::Errno;
use std::time::Duration;

/// `NFPROTO_IPV4`, `NFPROTO_IPV6` of linux/netfilter.h.
const IPV4: u8 = 2;
const IPV6: u8 = 10;
// enum nft_chain_attributes of linux/netfilter/nf_tables.h.
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_USE: u16 = 6;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
/// `NF_INET_FORWARD`, `NF_DROP` of linux/netfilter.h.
const FORWARD: u32 = 2;
const DROP: u32 = 0;
/// Without news it is looked again all the same: the switches of br_netfilter tell nobody.
const PERIOD: Duration = Duration::from_secs(1);
/// A burst of changes is one look.
const GAP: Duration = Duration::from_millis(20);

/// One chain at a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Chain {
    table: String,
    name: String,
    hook: u32,
    drops: bool,
    /// It translates addresses.
    nat: bool,
    /// Rules in it: no base chain is ever jumped to, so its uses are those.
    rules: u32,
}

/// A base chain of a `NFT_MSG_NEWCHAIN`; `None`: no base chain.
fn chain(body: &[u8]) -> Option<Chain> {
    let word = |body, kind| {
        let value = rules::value(body, kind)?;
        Some(u32::from_be_bytes(*value.first_chunk::<4>()?))
    };
    let text = |kind| {
        let name = netlink::text(rules::value(body, kind)?);
        Some(String::from_utf8_lossy(&name).into_owned())
    };
    let hook = rules::value(body, CHAIN_HOOK)?;
    Some(Chain {
        table: text(TABLE)?,
        name: text(CHAIN_NAME)?,
        hook: word(hook, HOOK_NUMBER)?,
        drops: word(body, CHAIN_POLICY) == Some(DROP),
        nat: text(CHAIN_TYPE).as_deref() == Some("nat"),
        rules: word(body, CHAIN_USE).unwrap_or(0),
    })
}

/// Why it may drop or rewrite a frame that a bridge forwards.
fn may_disturb(chain: &Chain) -> Option<&'static str> {
    match chain {
        Chain { drops: true, .. } => Some("drops by default"),
        Chain {
            hook: FORWARD,
            rules: 1..,
            ..
        } => Some("has rules"),
        Chain {
            nat: true,
            rules: 1..,
            ..
        } => Some("translates addresses"),
        _ => None,
    }
}

/// Is this switch of br_netfilter on?
fn is_on(tables: &str) -> bool {
    let switch = format!("/proc/sys/net/bridge/bridge-nf-call-{tables}");
    std::fs::read_to_string(switch).is_ok_and(|value| value.trim() != "0")
}

/// Looks, in the namespace of the socket and of the caller.
async fn look(nft: &Nft) -> Result<Option<String>, Errno> {
    let (v4, v6) = (is_on("iptables"), is_on("ip6tables"));
    for (family, shown, on) in [
        (IPV4, "ip", v4),
        (IPV6, "ip6", v6),
        (INET, "inet", v4 || v6),
    ] {
        if !on {
            continue;
        }
        let question = Message {
            kind: GETCHAIN,
            flags: 0,
            attributes: Vec::new(),
        };
        for body in nft.dump_of(family, &question).await? {
            let Some(chain) = chain(&body) else { continue };
            // At the hooks of input and output no forwarded frame passes.
            let forwarded = matches!(chain.hook, 0 | FORWARD | 4);
            if let (true, Some(why)) = (forwarded, may_disturb(&chain)) {
                return Ok(Some(format!(
                    "chain {} of table {shown} {} {why}",
                    chain.name, chain.table
                )));
            }
        }
        // Rules of the older iptables are not in nf_tables.
        let legacy = match family {
            IPV4 => "/proc/thread-self/net/ip_tables_names",
            IPV6 => "/proc/thread-self/net/ip6_tables_names",
            _ => continue,
        };
        let tables = std::fs::read_to_string(legacy).unwrap_or_default();
        if let Some(table) = tables
            .lines()
            .find(|table| matches!(*table, "filter" | "nat"))
        {
            return Ok(Some(format!(
                "iptables-legacy has a {table} table ({shown})"
            )));
        }
    }
    Ok(None)
}

/// What of the host's filter stands in the way of frames that its bridges forward; `None`: nothing. Of what cannot be read
/// nothing is said: a kernel without nf_tables has no such chain.
pub async fn bridge_filter() -> Option<String> {
    look(&Nft::open().ok()?).await.ok().flatten()
}

/// Hears of each change.
pub struct BridgeFilterWatch {
    nft: Option<Nft>,
    news: Option<TokioSocket>,
    found: Option<String>,
}

impl BridgeFilterWatch {
    /// In the caller's namespace. `found`: what [`bridge_filter`] said.
    #[must_use]
    pub fn new(found: Option<String>) -> Self {
        Self {
            nft: Nft::open().ok(),
            news: Nft::subscribe().ok(),
            found,
        }
    }

    /// Waits until it is otherwise than it was, and says how it is. May be dropped and called again at any time.
    pub async fn changed(&mut self) -> Option<String> {
        loop {
            self.wait().await;
            let Some(nft) = &self.nft else { continue };
            // Disturbed by a storm of changes: the next look sees what came of it.
            let Ok(found) = look(nft).await else { continue };
            if found != self.found {
                self.found.clone_from(&found);
                return found;
            }
        }
    }

    async fn wait(&self) {
        let until = crate::rhythm::upcoming(PERIOD);
        let Some(news) = &self.news else {
            return tokio::time::sleep_until(until).await;
        };
        let mut heard = false;
        loop {
            let read = std::future::poll_fn(|cx| news.poll_recv_from_full(cx));
            let patience = if heard {
                until.min(tokio::time::Instant::now() + GAP)
            } else {
                until
            };
            match tokio::time::timeout_at(patience, read).await {
                Err(_) => return,
                Ok(Ok(_)) => heard = true,
                // Events were lost (ENOBUFS), or the socket is broken: look at the next period.
                Ok(Err(_)) => return tokio::time::sleep_until(until).await,
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::network_tests::run;
    use super::super::tests::on_a_host;
    use super::*;

    /// False: this kernel has no br_netfilter, so nothing can stand in the way.
    fn switch(on: bool) -> bool {
        ["iptables", "ip6tables"].iter().all(|tables| {
            let path = format!("/proc/sys/net/bridge/bridge-nf-call-{tables}");
            std::fs::write(path, if on { "1" } else { "0" }).is_ok()
        })
    }

    fn forward(family: &str, policy: &str) {
        run(&format!("nft add table {family} filter"));
        run(&format!(
            "nft add chain {family} filter FORWARD {{ type filter hook forward priority 0 ; policy {policy} ; }}"
        ));
    }

    #[test]
    fn only_a_chain_that_forwarded_frames_meet_and_that_may_drop_stands_in_the_way() {
        on_a_host(async || {
            let there = switch(true);
            assert_eq!(bridge_filter().await, None, "no rules at all");
            run("nft add table ip other");
            run("nft add chain ip other in { type filter hook input priority 0 ; policy drop ; }");
            run("nft add chain ip other called");
            run("nft add rule ip other called drop");
            run("nft add chain ip other nat { type nat hook postrouting priority 100 ; }");
            forward("ip", "accept");
            forward("ip6", "accept");
            assert_eq!(bridge_filter().await, None, "nothing that drops");

            run("nft add rule ip6 filter FORWARD meta mark 1 drop");
            let rules = "chain FORWARD of table ip6 filter has rules".to_owned();
            assert_eq!(bridge_filter().await, there.then_some(rules));
            run("nft flush chain ip6 filter FORWARD");
            assert_eq!(bridge_filter().await, None, "rules are gone");
            run("nft add rule ip other nat masquerade");
            let rewrites = "chain nat of table ip other translates addresses".to_owned();
            assert_eq!(bridge_filter().await, there.then_some(rewrites));
            run("nft flush chain ip other nat");
            forward("inet", "drop");
            let drops = "chain FORWARD of table inet filter drops by default".to_owned();
            assert_eq!(bridge_filter().await, there.then_some(drops));
            switch(false);
            assert_eq!(bridge_filter().await, None, "br_netfilter is off");
        });
    }

    #[test]
    fn a_change_is_heard_at_once_and_that_of_a_switch_within_the_period() {
        on_a_host(async || {
            if !switch(true) {
                return;
            }
            let mut watch = BridgeFilterWatch::new(None);
            let soon = Duration::from_millis(500);
            assert!(tokio::time::timeout(soon, watch.changed()).await.is_err());
            forward("ip", "drop");
            let found = tokio::time::timeout(soon, watch.changed()).await.unwrap();
            assert!(found.unwrap().contains("drops by default"));
            switch(false);
            let late = 3 * PERIOD;
            assert_eq!(tokio::time::timeout(late, watch.changed()).await, Ok(None));
        });
    }
}
