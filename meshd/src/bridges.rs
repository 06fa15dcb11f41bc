//! The bridges that the config file names for networks: each is a port of its network, kept as the file says.
//!
//! ```text
//!   [[network]] bridge = "br0" --wish--> detach what is not wished any more, attach what is missing --> ports
//!                                          ^ again each 30 s, and each 2 s while something is refused
//! ```
//!
//! Owns the ports whose owner is `config/bridge/NETWORK`, and no other. Refuses to make bridges: `[[device.bridge]]` does, or whoever
//! else. That a bridge is not there yet is no refusal: the port waits for it.

use crate::driver::DriverHandle;
use meshd_core::command::{AttachSpec, Command, IpSpec, NetnsRef};
use meshd_core::config::Config;
use meshd_core::ident::{IfName, PortId};
use meshd_core::kind::PortKind;
use meshd_core::notice::Notice;
use meshd_core::owner::Owner;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;

/// Ports that are ours have owners that begin so.
const OWNED: &str = "config/bridge/";
/// The daemon's own network namespace.
const OWN: &[u8] = b"/proc/self/ns/net";
/// Looked at so often, so that what somebody detached comes back …
const LOOK: Duration = Duration::from_secs(30);
/// … and so often while something is refused, such as a network that is not known yet.
const AGAIN: Duration = Duration::from_secs(2);

/// One bridge of one network.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wish {
    network: String,
    bridge: IfName,
    kind: PortKind,
}

type Wishes = BTreeMap<Owner, Wish>;

/// Takes wishes; see the module.
pub(crate) struct Bridges {
    wishes: watch::Sender<Wishes>,
}

impl Bridges {
    /// Starts the task; it ends with the last sender of wishes.
    pub(crate) fn start(driver: DriverHandle, config: &Config) -> Self {
        let (wishes, heard) = watch::channel(wishes(config));
        tokio::spawn(keep(driver, heard));
        Self { wishes }
    }

    /// It is to be so from now on.
    pub(crate) fn wish(&self, config: &Config) {
        let _ = self.wishes.send(wishes(config));
    }
}

fn wishes(config: &Config) -> Wishes {
    let networks = config.networks.iter();
    networks
        .filter_map(|network| {
            let owner = format!("{OWNED}{}", network.name).parse().ok()?;
            let wish = Wish {
                network: network.name.to_string(),
                bridge: network.bridge.as_ref()?.name().clone(),
                kind: PortKind::Bridge(network.lan()),
            };
            Some((owner, wish))
        })
        .collect()
}

async fn keep(driver: DriverHandle, mut heard: watch::Receiver<Wishes>) {
    let mut told: BTreeMap<Owner, String> = BTreeMap::new();
    loop {
        let wishes = heard.borrow_and_update().clone();
        let refused = settle(&driver, &wishes).await;
        for (owner, reason) in &refused {
            if told.get(owner) != Some(reason)
                && let Some(wish) = wishes.get(owner)
            {
                let what = format!(
                    "bridge {} of network {} (config file)",
                    wish.bridge, wish.network
                );
                let reason = reason.clone();
                driver.notice(Notice::Refused { what, reason });
            }
        }
        let pause = match refused.is_empty() {
            true => LOOK,
            false => AGAIN,
        };
        told = refused;
        tokio::select! {
            changed = heard.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Makes the ports as they are wished; the answer is what was refused, and why. What goes, goes first: a bridge may have changed
/// its network.
async fn settle(driver: &DriverHandle, wishes: &Wishes) -> BTreeMap<Owner, String> {
    let mut refused = BTreeMap::new();
    let there = driver.view(|node, _, _| {
        let ours = node.ports().iter().filter_map(|(record, ..)| {
            let owner = record.owner.clone()?;
            let name = record.asked_ifname.clone();
            owner
                .as_str()
                .starts_with(OWNED)
                .then(|| (owner, (record.id, record.vni, name, record.kind.clone())))
        });
        let networks = node.directory().networks();
        let names: BTreeMap<_, _> = networks
            .map(|def| (def.vni, def.name.to_string()))
            .collect();
        ours.map(|(owner, (id, vni, name, kind))| {
            let network = names.get(&vni).cloned().unwrap_or_default();
            (
                owner,
                id,
                Wish {
                    network,
                    bridge: name,
                    kind,
                },
            )
        })
        .collect::<Vec<(Owner, PortId, Wish)>>()
    });
    // Refused only when the daemon stops.
    let Ok(there) = there.await else {
        return refused;
    };
    for (owner, _, has) in &there {
        if wishes.get(owner) != Some(has) {
            let owner = owner.clone();
            let gone = driver.command(Command::DetachOwner {
                owner: owner.clone(),
            });
            if let Err(refusal) = gone.await {
                refused.insert(owner, refusal.message);
            }
        }
    }
    for (owner, wish) in wishes {
        let is_there = |(of, _, has): &(Owner, PortId, Wish)| of == owner && has == wish;
        if there.iter().any(is_there) {
            continue;
        }
        if let Err(refusal) = driver.command(Command::Attach(spec(owner, wish))).await {
            refused.insert(owner.clone(), refusal.message);
        }
    }
    refused
}

fn spec(owner: &Owner, wish: &Wish) -> AttachSpec {
    AttachSpec {
        network: wish.network.clone(),
        netns: NetnsRef::Path(OWN.to_vec()),
        ifname: wish.bridge.clone(),
        ip: IpSpec::None,
        mac: None,
        name: None,
        labels: BTreeMap::new(),
        mtu: None,
        routes: Vec::new(),
        vrf: None,
        owner: Some(owner.clone()),
        kind: wish.kind.clone(),
    }
}
