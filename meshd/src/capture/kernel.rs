//! Frames that the kernel forwards by itself, for a capture that wants them.
//!
//! ```text
//!   each second:  which devices concern the capture? -- new --> Listener --> task: frames -> place of each MAC -> filter -> Feed
//!                                                     \- gone -> its task ends
//! ```
//!
//! Owns which devices are listened at, and who a frame is from and for: by the FDB, as the kernel's own table is filled from it. Shows
//! nothing that a lane shows: the listeners' filters see to that. All of it is gone with the capture.

use crate::api::backend::Answer;
use crate::datapath::capture::{Feed, Hop, How, Seen};
use crate::driver::DriverHandle;
use crate::kernel::{Heard, Kernel, Listener};
use bytes::Bytes;
use meshd_core::capture::{Fate, Glance, Spot, Subject, Way};
use meshd_core::fdb::Place;
use meshd_core::flow::FlowKey;
use meshd_core::frame::Frame;
use meshd_core::ident::{MacAddr, NodeId, PortId, Vni};
use meshd_core::node::Node;
use meshd_core::ruling::{DropReason, Output};
use meshd_core::wire::probe::probe_mac;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::{AbortHandle, JoinSet};

/// Devices that one capture listens at, at most.
const DEVICES_MAX: usize = 64;
/// How often it is looked which devices there are, and who is where.
const LOOKED: Duration = Duration::from_secs(1);
/// Frames that are taken from a socket before others have their turn.
const BATCH: usize = 64;
/// Places of MACs that are remembered until the next look.
const PLACES_MAX: usize = 4096;
/// The longest superframe, with its outer headers.
const FRAME_MAX: usize = 1 << 17;

/// Where is listened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ear {
    /// At a port's veth.
    Port(PortId, Vni),
    /// At a network's VXLAN device.
    Vxlan(Vni),
    /// At a device of the underlay, for one network or for all.
    Underlay(Option<Vni>),
}

/// What the node says of where to listen.
struct Plan {
    kernel: Kernel,
    /// Each with its network's MTU.
    ears: Vec<(Ear, u16)>,
    /// This node's VTEP, and the UDP port of VXLAN.
    vtep: Option<(IpAddr, u16)>,
    /// Networks, and whose VTEPs may send on each.
    members: BTreeMap<Vni, BTreeMap<IpAddr, Option<NodeId>>>,
    /// MACs of probes of all nodes.
    probes: BTreeSet<MacAddr>,
    /// Places that found no room.
    left_out: usize,
}

/// What all listeners of a capture share.
struct Common {
    driver: DriverHandle,
    feed: Feed,
    places: Mutex<BTreeMap<(Vni, MacAddr), Option<Output>>>,
    members: Mutex<BTreeMap<Vni, BTreeMap<IpAddr, Option<NodeId>>>>,
    probes: Mutex<BTreeSet<MacAddr>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Both tables are whole between any two statements that change them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins to listen for the frames of a capture, if the kernel forwards any; with what it cannot hear, in words.
///
/// # Errors
/// The daemon stops.
pub(super) async fn listen(
    driver: &DriverHandle,
    feed: Feed,
) -> Answer<(JoinSet<()>, Vec<String>)> {
    let common = Arc::new(Common {
        driver: driver.clone(),
        feed,
        places: Mutex::default(),
        members: Mutex::default(),
        probes: Mutex::default(),
    });
    let mut ears = Ears {
        common,
        open: BTreeMap::new(),
        tasks: JoinSet::new(),
    };
    // Before the capture is said to run: what is sent after that is to be seen.
    let notes = ears.look().await?;
    let mut all = JoinSet::new();
    all.spawn(async move {
        loop {
            tokio::time::sleep(LOOKED).await;
            if ears.look().await.is_err() {
                return;
            }
        }
    });
    Ok((all, notes))
}

struct Ears {
    common: Arc<Common>,
    open: BTreeMap<Ear, (Arc<Listener>, AbortHandle)>,
    /// They end with this.
    tasks: JoinSet<()>,
}

impl Ears {
    /// Listens where it should be, and no longer where not. What cannot be heard, in words.
    async fn look(&mut self) -> Answer<Vec<String>> {
        let subject = self.common.feed.wish().subject;
        let plan = self
            .common
            .driver
            .view(move |node, world, _| plan(node, world.kernel.clone(), &subject));
        let plan = plan.await?;
        lock(&self.common.places).clear();
        *lock(&self.common.members) = plan.members.clone();
        lock(&self.common.probes).clone_from(&plan.probes);
        for (listener, _) in self.open.values() {
            self.common.feed.miss(listener.missed());
        }
        let underlay = match plan.vtep {
            Some((ip, _)) => plan.kernel.device_of(ip).await,
            None => None,
        };
        let mut notes = Vec::new();
        if plan.left_out > 0 {
            notes.push(format!(
                "not seen: what the kernel forwards at {} more ports; name one of them to see it",
                plan.left_out
            ));
        }
        let wanted: BTreeSet<Ear> = plan.ears.iter().map(|(ear, _)| *ear).collect();
        self.open.retain(|ear, (listener, task)| {
            let device = match *ear {
                Ear::Port(port, _) => plan.kernel.port_device(port),
                Ear::Vxlan(vni) => plan.kernel.vxlan_device(vni),
                Ear::Underlay(_) => underlay,
            };
            let stays =
                wanted.contains(ear) && device == Some(listener.device()) && !task.is_finished();
            if !stays {
                task.abort();
            }
            stays
        });
        while self.tasks.try_join_next().is_some() {}
        for (ear, mtu) in plan.ears {
            if self.open.contains_key(&ear) {
                continue;
            }
            let opened = match (ear, plan.vtep, underlay) {
                (Ear::Port(port, _), ..) => plan.kernel.listen_at_port(port, mtu),
                (Ear::Vxlan(vni), ..) => plan.kernel.listen_at_vxlan(vni, mtu),
                (Ear::Underlay(vni), Some((_, port)), Some(device)) => {
                    Some(plan.kernel.listen_on_underlay(device, port, vni))
                }
                (Ear::Underlay(_), ..) => None,
            };
            match opened {
                Some(Ok(listener)) => self.start(ear, listener),
                Some(Err((step, error))) => notes.push(format!(
                    "not seen: what the kernel forwards {}: {step} it: {}",
                    place_of(ear),
                    error.desc()
                )),
                None => {}
            }
        }
        Ok(notes)
    }

    fn start(&mut self, ear: Ear, listener: Listener) {
        let listener = Arc::new(listener);
        let (common, own) = (Arc::clone(&self.common), Arc::clone(&listener));
        let task = self.tasks.spawn(async move {
            let mut buffer = vec![0; FRAME_MAX];
            loop {
                let heard = own.hear(BATCH, &mut buffer).await;
                if heard.is_empty() || common.show(ear, own.device(), heard).await.is_err() {
                    return;
                }
                tokio::task::consume_budget().await;
            }
        });
        self.open.insert(ear, (listener, task));
    }
}

fn place_of(ear: Ear) -> String {
    match ear {
        Ear::Port(port, _) => format!("at port {port}"),
        Ear::Vxlan(vni) => format!("at the VXLAN device of VNI {vni}"),
        Ear::Underlay(_) => "on the underlay".to_owned(),
    }
}

/// Where frames of a subject may be heard.
fn plan(node: &Node, kernel: Kernel, subject: &Subject) -> Plan {
    let place = subject.place;
    let of_node = node.directory().networks();
    let networks = of_node.filter(|def| subject.vni.is_none_or(|vni| vni == def.vni));
    let networks: Vec<(Vni, u16)> = networks.map(|def| (def.vni, def.mtu)).collect();
    let mtu_of = |vni| networks.iter().find(|(other, _)| *other == vni);
    let mut ears = Vec::new();
    let mut members = BTreeMap::new();
    for &(vni, mtu) in &networks {
        if kernel.vxlan_device(vni).is_none() {
            continue;
        }
        ears.push((Ear::Vxlan(vni), mtu));
        members.insert(vni, vteps(node, vni));
    }
    if !ears.is_empty() {
        ears.push((Ear::Underlay(subject.vni), 0));
    }
    let ports = node.ports().iter();
    let ports = ports.filter(|(record, ..)| match place {
        Some(Output::Port(port)) => record.id == port,
        Some(Output::Peer(_)) => false,
        None => true,
    });
    ears.extend(ports.filter_map(|(record, ..)| {
        let &(vni, mtu) = mtu_of(record.vni)?;
        kernel.port_device(record.id)?;
        Some((Ear::Port(record.id, vni), mtu))
    }));
    let left_out = ears.len().saturating_sub(DEVICES_MAX);
    ears.truncate(DEVICES_MAX);
    let vtep = node.planes().vtep();
    Plan {
        kernel,
        ears,
        vtep: vtep.map(|vtep| (vtep.ip, vtep.port)),
        members,
        probes: node
            .directory()
            .members()
            .map(|member| probe_mac(&member.node))
            .collect(),
        left_out,
    }
}

/// Who may send VXLAN of a network to this node, and which node that is; `None`: a foreign VTEP.
fn vteps(node: &Node, vni: Vni) -> BTreeMap<IpAddr, Option<NodeId>> {
    let directory = node.directory();
    let members = directory.members_with_network(vni);
    let peers = members.filter(|id| *id != node.id()).filter_map(|id| {
        let vtep = directory.advert(id)?.vtep?;
        Some((vtep.ip, Some(id)))
    });
    let foreign = node.vteps().of(vni).into_iter();
    let foreign = foreign.flat_map(|gateway| gateway.list.keys().map(|ip| (*ip, None)));
    foreign.chain(peers).collect()
}

/// A frame that was heard, read.
struct Read {
    heard: Heard,
    vni: Vni,
    /// Where the frame begins: behind the outer headers, on the underlay.
    inner: usize,
    /// The other VTEP, on the underlay.
    vtep: Option<IpAddr>,
    key: Option<FlowKey>,
}

impl Read {
    fn new(ear: Ear, heard: Heard) -> Option<Self> {
        let (vni, inner, vtep) = match ear {
            Ear::Port(_, vni) | Ear::Vxlan(vni) => (vni, 0, None),
            Ear::Underlay(_) => {
                let outer = Outer::parse(&heard.bytes)?;
                let vtep = if heard.outgoing { outer.to } else { outer.from };
                (outer.vni, outer.length, Some(vtep))
            }
        };
        let frame = heard.bytes.get(inner..)?;
        let key = Frame::parse(frame).ok().map(|frame| frame.flow_key(vni));
        Some(Self {
            heard,
            vni,
            inner,
            vtep,
            key,
        })
    }

    /// Source and destination MAC.
    fn macs(&self) -> Option<[MacAddr; 2]> {
        let frame = self.heard.bytes.get(self.inner..)?;
        let to = frame.first_chunk::<6>()?;
        let from = frame.get(6..)?.first_chunk::<6>()?;
        Some([MacAddr(*from), MacAddr(*to)])
    }
}

impl Common {
    /// Shows what is wanted of these.
    async fn show(&self, ear: Ear, device: u32, heard: Vec<Heard>) -> Answer<()> {
        let heard = heard.into_iter().filter_map(|heard| Read::new(ear, heard));
        let all: Vec<Read> = heard.collect();
        self.learn(&all).await?;
        let spot = match ear {
            Ear::Port(port, _) => Spot::Port(port),
            Ear::Vxlan(vni) => Spot::Vxlan(vni),
            Ear::Underlay(_) => Spot::Underlay(device),
        };
        for read in &all {
            self.show_one(spot, read);
        }
        Ok(())
    }

    fn show_one(&self, spot: Spot, read: &Read) {
        let wish = self.feed.wish();
        let macs = read.macs();
        let probe = macs.is_some_and(|macs| {
            let probes = lock(&self.probes);
            macs.iter().all(|mac| probes.contains(mac))
        });
        // A sample is of what endpoints send.
        if probe && wish.per_s.is_some() {
            return;
        }
        let [from, to] = macs.map_or([None, None], |macs| {
            let places = lock(&self.places);
            macs.map(|mac| places.get(&(read.vni, mac)).copied().flatten())
        });
        let way = if read.heard.outgoing {
            Way::Out
        } else {
            Way::In
        };
        let (mut fate, mut sender) = (Fate::Forwarded, None);
        if let Spot::Underlay(_) = spot {
            let members = lock(&self.members);
            // Of another network of the same UDP port, which is not ours.
            let Some(members) = members.get(&read.vni) else {
                return;
            };
            let known = read.vtep.and_then(|vtep| members.get(&vtep));
            sender = known.copied().flatten().map(Output::Peer);
            if known.is_none() && way == Way::In {
                fate = Fate::Dropped(DropReason::Fenced);
            } else if wish.per_s.is_some() {
                // A sample has room for each frame once, and the VXLAN device shows it, too.
                return;
            }
        }
        let wanted = |place: Output| [from, to, sender].contains(&Some(place));
        if !wish.subject.place.is_none_or(wanted) {
            return;
        }
        let glance = Glance {
            key: read.key.as_ref(),
            way,
            fate,
        };
        if !wish.filter.is_open() && !wish.filter.lets(&glance) {
            return;
        }
        let seen = Seen {
            at_ns: read.heard.at_ns,
            vni: read.vni,
            spot,
            way,
            fate,
            how: How::Kernel(Hop {
                from,
                to,
                vtep: read.vtep,
                probe,
            }),
            frames: 1,
            bytes: Bytes::new(),
            length: u32::try_from(read.heard.bytes.len()).unwrap_or(u32::MAX),
        };
        self.feed.offer(&seen, &read.heard.bytes);
    }

    /// Asks the node where the MACs of these are, if that is not known.
    async fn learn(&self, all: &[Read]) -> Answer<()> {
        let unknown: BTreeSet<(Vni, MacAddr)> = {
            let mut places = lock(&self.places);
            if places.len() > PLACES_MAX {
                places.clear();
            }
            let macs = all.iter().filter_map(|read| Some((read.vni, read.macs()?)));
            let macs = macs.flat_map(|(vni, macs)| macs.map(|mac| (vni, mac)));
            macs.filter(|at| !places.contains_key(at)).collect()
        };
        if unknown.is_empty() {
            return Ok(());
        }
        let found = self.driver.view(move |node, _, _| {
            let found = unknown.into_iter().map(|(vni, mac)| {
                let output = node.switch().place(vni, mac).map(|place| match place {
                    Place::Port(port) | Place::Service(port) => Output::Port(port),
                    Place::Node(node) => Output::Peer(node),
                });
                ((vni, mac), output)
            });
            found.collect::<Vec<_>>()
        });
        let found = found.await?;
        lock(&self.places).extend(found);
        Ok(())
    }
}

/// The outer headers of a VXLAN packet (RFC 7348), of which the kernel's filter has seen that it is one.
struct Outer {
    from: IpAddr,
    to: IpAddr,
    vni: Vni,
    /// Bytes before the inner frame.
    length: usize,
}

impl Outer {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let packet = bytes.get(14..)?;
        let four = |at: usize| packet.get(at..)?.first_chunk::<4>().copied();
        let sixteen = |at: usize| packet.get(at..)?.first_chunk::<16>().copied();
        let first = *packet.first()?;
        let (from, to, header): (IpAddr, IpAddr, usize) = match first >> 4 {
            4 => (
                four(12)?.into(),
                four(16)?.into(),
                usize::from(first & 15) * 4,
            ),
            6 => (sixteen(8)?.into(), sixteen(24)?.into(), 40),
            _ => return None,
        };
        let [high, middle, low, _] = *packet.get(header + 12..)?.first_chunk::<4>()?;
        let vni = Vni::new(u32::from_be_bytes([0, high, middle, low])).ok()?;
        Some(Self {
            from,
            to,
            vni,
            length: 14 + header + 16,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_outer_header_says_who_sent_what_and_where_the_frame_begins() {
        let mut packet = vec![0; 14];
        packet.extend_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0]);
        packet.extend_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2]);
        packet.extend_from_slice(&[0; 8]);
        packet.extend_from_slice(&[8, 0, 0, 0, 0, 0x10, 0x92, 0]);
        let outer = Outer::parse(&packet).unwrap();
        assert_eq!(outer.from, IpAddr::from([192, 0, 2, 1]));
        assert_eq!(outer.to, IpAddr::from([192, 0, 2, 2]));
        assert_eq!((outer.vni.get(), outer.length), (4242, 50));
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..120), outgoing: bool) {
            let heard = Heard { at_ns: 0, outgoing, bytes };
            for ear in [Ear::Underlay(None), Ear::Vxlan(Vni::new(7).unwrap())] {
                if let Some(read) = Read::new(ear, heard.clone()) {
                    let _ = read.macs();
                }
            }
        }
    }
}
