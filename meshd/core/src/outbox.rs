//! Where machines put what they want done; the node hands it to the driver in order.

use crate::node::Output;
use std::collections::VecDeque;

/// Outputs in the order in which they were wished for.
#[derive(Debug, Default)]
pub struct Outbox(VecDeque<Output>);

impl Outbox {
    /// One more.
    pub fn push(&mut self, output: Output) {
        self.0.push_back(output);
    }

    /// The oldest.
    pub fn pop(&mut self) -> Option<Output> {
        self.0.pop_front()
    }
}
