//! What the API asks of the daemon: commands and views. The daemon implements it once; tests implement it small.

use crate::api::capture::CaptureWish;
use crate::api::requests::{Invite, InviteWish};
use crate::docker;
use crate::events::{Past, Wanted};
use crate::rulings::Rulings;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use meshd_core::command::{Command, Refusal, Reply, TraceSpec};
use meshd_core::config::{DeviceConfig, DeviceName};
use meshd_core::flow::Origin;
use meshd_core::ident::{NodeId, Vni};
use meshd_core::ruling::DropReason;
use meshd_core::view;
use std::convert::Infallible;
use std::future::Future;

/// What an API call comes to.
pub type Answer<T> = Result<T, Refusal>;

/// Which drops are wanted; all that is given must hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropFilter {
    /// Frames of this network.
    pub vni: Option<Vni>,
    /// Frames that came from there.
    pub origin: Option<Origin>,
    /// Frames that were dropped for this reason.
    pub reason: Option<DropReason>,
}

/// The daemon, as the API sees it.
pub trait Backend: Clone + Send + Sync + 'static {
    /// Has the node do `command`; durable and, for ports, wired when it returns.
    fn command(&self, command: Command) -> impl Future<Output = Answer<Reply>> + Send;
    /// A one-time invite, as a token.
    fn invite(&self, wish: InviteWish) -> impl Future<Output = Answer<Invite>> + Send;
    /// `meshd status`.
    fn status(&self) -> impl Future<Output = Answer<view::Status>> + Send;
    /// `meshd members`.
    fn members(&self) -> impl Future<Output = Answer<Vec<view::Member>>> + Send;
    /// `meshd peers`.
    fn peers(&self) -> impl Future<Output = Answer<Vec<view::Peer>>> + Send;
    /// `meshd paths`.
    fn paths(&self) -> impl Future<Output = Answer<Vec<view::Path>>> + Send;
    /// `meshd network ls`.
    fn networks(&self) -> impl Future<Output = Answer<Vec<view::Network>>> + Send;
    /// `meshd network groups`, all networks.
    fn groups(&self) -> impl Future<Output = Answer<Vec<view::Listeners>>> + Send;
    /// `meshd network vtep ls`, all networks.
    fn vteps(&self) -> impl Future<Output = Answer<Vec<view::VtepRow>>> + Send;
    /// `meshd ports`.
    fn ports(&self) -> impl Future<Output = Answer<Vec<view::Port>>> + Send;
    /// `meshd devices`.
    fn devices(&self) -> impl Future<Output = Answer<Vec<view::Device>>> + Send;
    /// One row of it, by name as it is shown there.
    fn device(&self, name: &str) -> impl Future<Output = Answer<view::Device>> + Send;
    /// Declares a host device; durable, and the host was looked at, when it returns.
    fn put_device(&self, device: DeviceConfig)
    -> impl Future<Output = Answer<view::Device>> + Send;
    /// Declares it no more.
    fn remove_device(&self, name: DeviceName) -> impl Future<Output = Answer<()>> + Send;
    /// `meshd connections`, all networks.
    fn connections(&self) -> impl Future<Output = Answer<Vec<view::Connection>>> + Send;
    /// `meshd fdb`, all networks.
    fn fdb(&self) -> impl Future<Output = Answer<Vec<view::FdbEntry>>> + Send;
    /// `meshd flows`, all networks.
    fn flows(&self) -> impl Future<Output = Answer<Vec<view::Flow>>> + Send;
    /// `meshd drops`; reasons with a count of zero may be left out.
    fn drops(&self) -> impl Future<Output = Answer<Vec<view::Drops>>> + Send {
        self.drops_where(DropFilter::default())
    }
    /// The same, of what a filter lets through.
    fn drops_where(
        &self,
        filter: DropFilter,
    ) -> impl Future<Output = Answer<Vec<view::Drops>>> + Send;
    /// Frames as they come and go, as a stream that ends with its reader.
    fn capture(
        &self,
        wish: CaptureWish,
    ) -> impl Future<Output = Answer<BoxStream<'static, Result<Bytes, Infallible>>>> + Send;
    /// What came and what left, network by network.
    fn balance(&self) -> impl Future<Output = Answer<Vec<view::Balance>>> + Send;
    /// What only the running daemon knows for `meshd doctor`: underlay, sessions, MTU.
    fn doctor(&self) -> impl Future<Output = Answer<view::Doctor>> + Send;
    /// What would become of a frame; changes nothing.
    fn trace(&self, spec: TraceSpec) -> impl Future<Output = Answer<view::TraceReport>> + Send;
    /// The same on another node, which is asked; `packet` as in [`TraceWish`](crate::api::requests::TraceWish).
    fn trace_on(
        &self,
        node: NodeId,
        vni: Vni,
        packet: String,
    ) -> impl Future<Output = Answer<view::TraceReport>> + Send;
    /// Events that are remembered and wanted, oldest first, and all that follow.
    fn events(&self, wanted: &Wanted) -> Past;
    /// `meshd docker status`.
    fn docker(&self) -> impl Future<Output = Answer<docker::Status>> + Send;
    /// Removes what Docker has no more.
    fn docker_tidy(&self) -> impl Future<Output = Answer<docker::Tidied>> + Send;
    /// Serves Docker's driver, or (`None`) does not any more.
    fn set_docker(
        &self,
        settings: Option<docker::Settings>,
    ) -> impl Future<Output = Answer<()>> + Send;
    /// The plugins of this node.
    fn rulings(&self) -> Rulings;
}
