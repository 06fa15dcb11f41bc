//! What the API asks of the daemon: commands and views. The daemon implements it once; tests implement it small.

use crate::api::requests::{Invite, InviteWish};
use crate::rulings::Rulings;
use meshd_core::command::{Command, Refusal, Reply, TraceSpec};
use meshd_core::view;
use std::future::Future;
use tokio::sync::broadcast;

/// What an API call comes to.
pub type Answer<T> = Result<T, Refusal>;

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
    /// `meshd network vtep ls`, all networks.
    fn vteps(&self) -> impl Future<Output = Answer<Vec<view::VtepRow>>> + Send;
    /// `meshd ports`.
    fn ports(&self) -> impl Future<Output = Answer<Vec<view::Port>>> + Send;
    /// `meshd connections`, all networks.
    fn connections(&self) -> impl Future<Output = Answer<Vec<view::Connection>>> + Send;
    /// `meshd fdb`, all networks.
    fn fdb(&self) -> impl Future<Output = Answer<Vec<view::FdbEntry>>> + Send;
    /// `meshd flows`, all networks.
    fn flows(&self) -> impl Future<Output = Answer<Vec<view::Flow>>> + Send;
    /// `meshd drops`; reasons with a count of zero may be left out.
    fn drops(&self) -> impl Future<Output = Answer<Vec<view::Drops>>> + Send;
    /// What only the running daemon knows for `meshd doctor`: underlay, sessions, MTU.
    fn doctor(&self) -> impl Future<Output = Answer<view::Doctor>> + Send;
    /// What would become of a frame; changes nothing.
    fn trace(&self, spec: TraceSpec) -> impl Future<Output = Answer<view::TraceReport>> + Send;
    /// Events that are remembered, oldest first, and all that follow.
    fn events(&self) -> (Vec<view::Event>, broadcast::Receiver<view::Event>);
    /// The plugins of this node.
    fn rulings(&self) -> Rulings;
}
