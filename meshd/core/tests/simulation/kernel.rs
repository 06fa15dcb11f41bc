//! The kernel of a simulated host: bridges, VXLAN devices, gates and the fence, as the node planned them. It outlives the
//! node, as a kernel does.

use bytes::Bytes;
use meshd_core::frame::Frame;
use meshd_core::ident::{Epoch, MacAddr, Moment, PortId, Vni};
use meshd_core::node::PathTraffic;
use meshd_core::offload::{Entrance, GateFlow, GateL4, GateMatch, GateOp, KernelTraffic, PathSlot};
use meshd_core::plan::NetworkPlan;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// What the kernel does with a frame.
pub enum Fate {
    /// It goes to the daemon.
    Up,
    /// Out of a port of this host.
    Port(PortId),
    /// To a VTEP.
    Vtep,
    /// The gate let it pass and the bridge knew nothing of it: what must never happen.
    Lost,
}

#[derive(Default)]
pub struct Kernel {
    pub plans: BTreeMap<Vni, Arc<NetworkPlan>>,
    gates: BTreeMap<GateMatch, GateFlow>,
    epoch: Epoch,
    open: BTreeSet<PathSlot>,
    /// Sent and heard.
    counts: BTreeMap<PathSlot, (u64, u64)>,
    told: BTreeMap<PathSlot, (u64, u64)>,
}

impl Kernel {
    pub fn act(&mut self, op: GateOp) {
        match op {
            GateOp::Open(flow) => {
                self.gates.insert(flow.matches, flow);
            }
            GateOp::Close(matches) => {
                self.gates.remove(&matches);
            }
            GateOp::Epoch(epoch) => {
                assert!(epoch >= self.epoch, "the gates' epoch goes back");
                self.epoch = epoch;
            }
            GateOp::Path { slot, open: true } => {
                self.open.insert(slot);
            }
            GateOp::Path { slot, open: false } => {
                self.open.remove(&slot);
            }
        }
    }

    /// Above all paths that any entry names.
    pub fn first_slot(&self) -> u32 {
        self.gates
            .values()
            .map(|flow| flow.slot.0 + 1)
            .max()
            .unwrap_or(1)
    }

    /// For a node that starts.
    pub fn found(&self) -> (Epoch, Vec<GateMatch>) {
        let live = self.gates.values().filter(|flow| flow.epoch >= self.epoch);
        (self.epoch, live.map(|flow| flow.matches).collect())
    }

    pub fn held(&self) -> usize {
        let live = self.gates.values().filter(|flow| flow.epoch >= self.epoch);
        live.count()
    }

    fn passes(&self, entrance: Entrance, vni: Vni, frame: &[u8], now: Moment) -> Option<GateFlow> {
        let frame = Frame::parse(frame).ok()?;
        let key = frame.flow_key(vni);
        let pair = GateMatch {
            entrance,
            src_mac: key.src_mac,
            dst_mac: key.dst_mac,
            ether_type: key.ether_type,
            l4: None,
        };
        let flow = GateMatch {
            l4: Some(GateL4 {
                ip_proto: key.ip_proto,
                src_ip: key.src_ip,
                dst_ip: key.dst_ip,
                src_port: key.src_port,
                dst_port: key.dst_port,
            }),
            ..pair
        };
        [pair, flow].iter().find_map(|matches| {
            let flow = self.gates.get(matches)?;
            let path = matches!(entrance, Entrance::Vxlan(_))
                || flow.slot == PathSlot::NONE
                || self.open.contains(&flow.slot);
            let holds = flow.epoch >= self.epoch && flow.until.is_none_or(|until| now < until);
            (path && holds).then_some(*flow)
        })
    }

    /// A container sends.
    pub fn port_sends(&mut self, port: PortId, vni: Vni, frame: &Bytes, now: Moment) -> Fate {
        let Some(flow) = self.passes(Entrance::Port(port), vni, frame, now) else {
            return Fate::Up;
        };
        let fate = self.bridge(vni, flow.matches.dst_mac);
        if matches!(fate, Fate::Vtep) {
            self.counts.entry(flow.slot).or_default().0 += 1;
        }
        fate
    }

    /// VXLAN comes in; `None`: the fence drops it.
    pub fn vxlan_receives(
        &mut self,
        from: IpAddr,
        vni: Vni,
        frame: &Bytes,
        now: Moment,
    ) -> Option<Fate> {
        let vxlan = self.plans.get(&vni)?.vxlan.as_ref()?;
        if !vxlan.fence.contains(&from) {
            return None;
        }
        let Some(flow) = self.passes(Entrance::Vxlan(vni), vni, frame, now) else {
            return Some(Fate::Up);
        };
        self.counts.entry(flow.slot).or_default().1 += 1;
        Some(match self.bridge(vni, flow.matches.dst_mac) {
            Fate::Port(port) => Fate::Port(port),
            _ => Fate::Lost,
        })
    }

    fn bridge(&self, vni: Vni, dst: MacAddr) -> Fate {
        let Some(plan) = self.plans.get(&vni) else {
            return Fate::Lost;
        };
        if let Some((&port, _)) = plan.ports.iter().find(|(_, macs)| macs.contains(&dst)) {
            return Fate::Port(port);
        }
        self.vtep(vni, dst).map_or(Fate::Lost, |_| Fate::Vtep)
    }

    /// Where the VXLAN device sends frames to a MAC.
    pub fn vtep(&self, vni: Vni, dst: MacAddr) -> Option<IpAddr> {
        let vxlan = self.plans.get(&vni)?.vxlan.as_ref()?;
        let at = vxlan.endpoints.get(&dst).or_else(|| vxlan.probes.get(&dst));
        at.copied()
    }

    /// What was counted since the last call.
    pub fn traffic(&mut self) -> Vec<PathTraffic> {
        let news: Vec<PathTraffic> = self
            .counts
            .iter()
            .filter(|(slot, counts)| self.told.get(slot) != Some(counts))
            .map(|(&slot, &(sent, heard))| {
                let (sent_before, heard_before) = self.told.get(&slot).copied().unwrap_or_default();
                let passed = KernelTraffic {
                    rx_frames: heard - heard_before,
                    tx_frames: sent - sent_before,
                    ..KernelTraffic::default()
                };
                PathTraffic { slot, passed }
            })
            .collect();
        self.told = self.counts.clone();
        news
    }
}
