//! What `meshd trace` shows.

use super::NodeRef;
use crate::ident::{Label, PortId, Vni};
use crate::ruling::DropReason;
use serde::{Deserialize, Serialize};

/// `meshd trace`: what would become of a frame, step by step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct TraceReport {
    /// The network's name.
    pub network: String,
    /// The network's segment.
    pub vni: Vni,
    /// Where the frame would come from.
    pub origin: String,
    /// The frame, as the switch read it.
    pub flow: String,
    /// In the order in which the switch goes.
    pub steps: Vec<TraceStep>,
    /// What each plugin of the chain answers, question by question.
    pub plugins: Vec<TracePlugin>,
    /// `forwarded to port 3 (web)`, `dropped: …`, `answered by the switch`.
    pub verdict: String,
    /// Why it would be dropped, if it would.
    pub drop: Option<DropReason>,
    /// For which other frames the same holds, as text; absent: for no other.
    pub cached_as: Option<String>,
    /// Where it is cached at the moment, a sentence each: the lane, the kernel.
    #[serde(default)]
    pub cached: Vec<String>,
    /// The node that says so.
    #[serde(default)]
    pub node: Option<NodeRef>,
    /// The frame as it would leave, as hex digits; absent: it would not.
    #[serde(default)]
    pub leaves: Option<String>,
    /// Peers to which it would go.
    #[serde(default)]
    pub peers: Vec<NodeRef>,
    /// What these say would become of it there.
    #[serde(default)]
    pub far: Vec<FarTrace>,
}

/// A trace at the far side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct FarTrace {
    /// Who was asked.
    pub node: NodeRef,
    /// What it said.
    #[cfg_attr(feature = "schema", schema(no_recursion))]
    pub report: Option<Box<TraceReport>>,
    /// Why it said nothing.
    pub failure: Option<String>,
}

/// One step of a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct TraceStep {
    /// `parse`, `source check`, `policy ingress`, `lookup`, `flood`, `policy egress`, `forward` …
    pub what: String,
    /// What came of it, and why.
    pub detail: String,
}

/// A plugin's answer in a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct TracePlugin {
    /// `ingress` or `egress`: where the frame is asked about.
    pub direction: String,
    /// The port that asks.
    pub port: PortId,
    /// Where in the chain it stands: `guard`, `classify`, `forward` or `observe`.
    pub stage: String,
    /// Lower is asked earlier within the stage.
    pub order: u16,
    /// Its name on this node.
    pub plugin: Label,
    /// `pass`, `accept`, `drop`, `place` (it sends the frame somewhere), `failed` or `not asked`.
    pub answer: String,
    /// Of a drop: the reason's name, or the number of the rule.
    pub reason: Option<String>,
    /// Of a drop: the plugin's own number for it.
    pub code: Option<u16>,
    /// Of a failure: what happened, and what its fail mode makes of it.
    pub failure: Option<String>,
    /// What of the frame it read; absent: nothing, or it was not asked.
    pub read: Option<String>,
    /// What else it wants: changes, copies, places; absent: nothing.
    pub wants: Option<String>,
    /// Its answer is what becomes of the frame.
    pub decides: bool,
}
