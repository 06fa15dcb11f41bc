//! Figures, measured in the lab.
//!
//! ```text
//!   overlays   meshd beside other ways from one host to another, in one lab and in turns    what it carries and costs
//!   policy     a network with a chain of five plugins beside one without                     what ruled traffic loses
//!   churn      new flows, a change of policy, a plugin that hangs                            what is not in any cache
//!   crowd      a node with 256 sessions beside one with a single one                         what a session costs
//!   observe    metrics, top, events and a capture beside nobody                              what looking costs
//!   views      status, peers, FDB and metrics of a node that knows 10,000 endpoints         how long a client waits
//!   gate       nftables beside tc-bpf                                                        what a look-up costs
//! ```
//!
//! [`overlays`] owns the comparison, [`system`] what is compared, [`load`] what containers send for it, [`meter`] what that
//! costs. All hosts, all daemons and the load share the cores of one machine, so only ratios within one run mean something.

pub mod churn;
pub mod crowd;
pub mod gate;
pub mod load;
pub mod meter;
pub mod observe;
pub mod overlays;
pub mod policy;
pub mod setting;
pub mod system;
pub mod views;

/// The middle one; of an even number, the upper of both in the middle. NaN of none.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
