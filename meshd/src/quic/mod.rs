//! QUIC by quinn's state machines, with a loop of our own around them.
//!
//! ```text
//!    lane, session --push--> Connection (quinn-proto, one lock) --poll_transmit--> one call for up to 64 packets --+
//!         ^                        ^          |                                                                    v
//!         |                        |          +-- earlier deadline --> its timer task                         UDP socket
//!    datagrams, changed            |                                                                               |
//!         |                        +--------------- Endpoint (quinn-proto, one lock) <-- reader task <-- batches --+
//!         +------------------------------------------------------------------------------- wakes
//! ```
//!
//! Whoever has something to send encrypts and sends it, in its own thread: nothing is handed from task to task on the way out.
//! On the way in one task reads the socket, many packets at a call, and gives each connection its packets in one go. Why not
//! quinn's own loop: ADR 22.
//!
//! Owns the socket, the clock of each connection, and who is woken. Refuses nothing by itself: what a far end may do is in the
//! transport parameters, and who may connect is the caller's word on an [`Incoming`](endpoint::Incoming). Locks are taken in the order connection,
//! endpoint; none is held across an await.

mod connection;
mod endpoint;
mod machine;
mod silence;
mod socket;
mod stream;

pub(crate) use connection::{Connection, Outgoing, SendError};
pub(crate) use endpoint::Endpoint;
pub(crate) use silence::Pace;
pub(crate) use stream::{ReadError, RecvStream, SendStream, WriteError};
