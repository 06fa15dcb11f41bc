//! Messages that wait to leave on one session: bounded in number and in bytes, closed once.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Most messages that wait.
const COUNT_MAX: usize = 4096;
/// Most bytes that wait.
const BYTES_MAX: usize = 8 << 20;
/// The same towards one who has not proven to be a member: a `Hello`, or the answer to a `Join`.
const UNPROVEN_BYTES_MAX: usize = 512 << 10;

#[derive(Default)]
struct State {
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    proven: bool,
    /// Why nothing more is taken.
    closed: Option<String>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Notify,
    closed: Notify,
}

/// The queue is full: the far end does not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more, unless the queue is closed.
    pub(super) fn push(&self, message: Vec<u8>) -> Result<(), Full> {
        let mut state = self.state();
        if state.closed.is_some() {
            return Ok(());
        }
        let bytes_max = if state.proven {
            BYTES_MAX
        } else {
            UNPROVEN_BYTES_MAX
        };
        if state.waiting.len() >= COUNT_MAX || state.bytes + message.len() > bytes_max {
            return Err(Full);
        }
        state.bytes += message.len();
        state.waiting.push_back(message);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// From now on as much may wait as for a member.
    pub(super) fn prove(&self) {
        self.state().proven = true;
    }

    /// Takes nothing more; what waits still leaves. The first reason stays.
    pub(super) fn close(&self, reason: &str) {
        self.state().closed.get_or_insert_with(|| reason.to_owned());
        self.changed.notify_one();
        self.closed.notify_one();
    }

    /// Why the queue was closed, if it was.
    pub(super) fn reason(&self) -> Option<String> {
        self.state().closed.clone()
    }

    /// The oldest; `None` once the queue is closed and empty. For one reader.
    pub(super) async fn pop(&self) -> Option<Vec<u8>> {
        loop {
            {
                let mut state = self.state();
                if let Some(message) = state.waiting.pop_front() {
                    state.bytes -= message.len();
                    return Some(message);
                }
                if state.closed.is_some() {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }

    /// Returns once the queue is closed. For one waiter.
    pub(super) async fn until_closed(&self) {
        while self.state().closed.is_none() {
            self.closed.notified().await;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_leave_in_order_also_after_closing_and_none_are_taken_then() {
        let queue = Queue::default();
        queue.push(vec![1]).unwrap();
        queue.push(vec![2]).unwrap();
        queue.close("first");
        queue.close("second");
        queue.push(vec![3]).unwrap();
        assert_eq!(
            (queue.pop().await, queue.pop().await, queue.pop().await),
            (Some(vec![1]), Some(vec![2]), None)
        );
        assert_eq!(queue.reason().as_deref(), Some("first"));
        queue.until_closed().await;
    }

    #[test]
    fn no_more_bytes_and_messages_wait_than_allowed() {
        let queue = Queue::default();
        queue.push(vec![0; UNPROVEN_BYTES_MAX]).unwrap();
        assert_eq!(queue.push(vec![0]), Err(Full));
        queue.prove();
        queue.push(vec![0; BYTES_MAX - UNPROVEN_BYTES_MAX]).unwrap();
        assert_eq!(queue.push(vec![0]), Err(Full));
        let queue = Queue::default();
        (0..COUNT_MAX).for_each(|_| queue.push(vec![0]).unwrap());
        assert_eq!(queue.push(vec![0]), Err(Full));
    }
}
