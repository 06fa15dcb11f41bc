//! What a lane says is to be done: with a frame, with those that waited, with those that controllers asked for.

#[allow(unused_imports, reason = "named in the docs")]
use super::Lane;
use crate::capture::Fate;
use crate::conntrack::Tracked;
use crate::edit::Edit;
use crate::flow::FlowKey;
use crate::ident::{UpcallId, Vni};
use crate::ruling::{Copied, DropReason, Output, PuntOrder};
use crate::steering::Route;
use bytes::Bytes;
use core::ops::Deref;
use std::sync::Arc;

/// Who gets a frame; never nobody. Nearly all frames go to one, and for these nothing is counted or shared.
#[derive(Clone, Debug)]
pub enum Receivers {
    /// This one.
    One(Output),
    /// Each of these.
    Many(Arc<[Output]>),
}

impl Deref for Receivers {
    type Target = [Output];

    fn deref(&self) -> &[Output] {
        match self {
            Self::One(one) => core::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

impl PartialEq for Receivers {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Receivers {}

/// What to do with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send it to each, as it came.
    Forward {
        /// Never empty.
        to: Receivers,
        /// To be done to the frame first.
        edits: Option<Arc<[Edit]>>,
        /// By which way to the peer, if it goes to one.
        route: Route,
        /// Copies of it as it goes, each if [`Lane::may_copy`] lets it.
        copies: Option<Arc<[Copied]>>,
        /// The kernel could hold this flow: tell the node of it ([`Input::Offer`](crate::node::Input::Offer)). If that
        /// fails, call [`Lane::offer_refused`].
        offer: bool,
    },
    /// It is a superframe, and something is to be done to each of its frames: cut it, and come with each. Nothing was counted.
    Cut,
    /// It waits for a ruling that is on its way.
    Parked,
    /// It waits; send this upcall to the node. If that fails, call [`Lane::upcall_refused`].
    Upcall {
        /// To be named in the ruling.
        upcall: UpcallId,
        /// As it came.
        frame: Bytes,
        /// What is known of its connection.
        ct: Tracked,
    },
    /// Counted and gone.
    Dropped(DropReason),
    /// By a cached ruling nothing is to be done with it.
    Consumed,
}

/// Frames whose ruling came, in order of arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// The network of the frames.
    pub vni: Vni,
    /// The receivers of each frame.
    pub to: Arc<[Output]>,
    /// To be done to each frame first.
    pub edits: Option<Arc<[Edit]>>,
    /// By which way to the peer, if they go to one.
    pub route: Route,
    /// Copies of each as it goes, each if [`Lane::may_copy`] lets it.
    pub copies: Option<Arc<[Copied]>>,
    /// Those that are to be forwarded.
    pub frames: Vec<Bytes>,
}

/// A frame that waited, and went no further; see [`Lane::fallen`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallen {
    /// Its fields.
    pub key: FlowKey,
    /// As it came.
    pub frame: Bytes,
    /// What became of it.
    pub fate: Fate,
}

/// A frame for controllers; see [`Lane::punted`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Punted {
    /// Its fields.
    pub key: FlowKey,
    /// As it came.
    pub frame: Bytes,
    /// Whose, and what they were asked.
    pub to: Arc<[PuntOrder]>,
}
