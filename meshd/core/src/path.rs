//! stub
use crate::ident::{Moment, NodeId, Vni};
use crate::wire::probe::ProbeFrame;
use crate::wire::record::Vtep;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
/// s
#[derive(Clone, Debug, Default)]
pub struct Side { pub vtep: Option<Vtep>, pub trusted: Vec<IpNet> }
/// s
#[derive(Clone, Debug)]
pub struct Candidate { pub here: Side, pub there: Side, pub kernel: Result<(), String>, pub fast_path: bool, pub device: bool, pub session: bool, pub mtu: u16 }
/// s
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathReport { pub vni: Vni }
/// s
pub struct PathView;
/// s
pub struct Transition { pub from: String, pub to: String, pub reason: String, pub evidence: String }
/// s
pub enum PathOutput { Probe { peer: NodeId, vni: Vni, probe: ProbeFrame }, Report { peer: NodeId, reports: Vec<PathReport> }, Open { peer: NodeId, vni: Vni }, Close { peer: NodeId, vni: Vni }, Gone { peer: NodeId, vni: Vni }, Moved { peer: NodeId, vni: Vni, transition: Transition } }
/// s
pub struct Paths;
impl Paths {
    pub fn new(_: NodeId, _: u64) -> Self { Self }
    pub fn set(&mut self, _: NodeId, _: Vni, _: Candidate, _: Moment) {}
    pub fn remove(&mut self, _: NodeId, _: Vni, _: Moment) {}
    pub fn poll_output(&mut self) -> Option<PathOutput> { None }
    pub fn frame(&mut self, _: Vni, _: &[u8], _: Moment) {}
    pub fn report(&mut self, _: NodeId, _: &PathReport, _: Moment) {}
    pub fn traffic(&mut self, _: NodeId, _: Vni, _: u64, _: u64, _: Moment) {}
    pub fn handle_timeout(&mut self, _: Moment) {}
    pub fn poll_timeout(&self) -> Option<(Moment, &'static str)> { None }
    pub fn is_proving(&self) -> bool { false }
    pub fn views(&self, _: Moment) -> Vec<PathView> { vec![] }
}
