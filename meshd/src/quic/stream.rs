//! Streams: bytes in order, with the far end's pace.

use super::connection::Connection;
use super::machine::State;
use quinn::{ConnectionError, StreamId, VarInt};

/// Why bytes could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The connection is over.
    #[error(transparent)]
    Over(#[from] ConnectionError),
    /// The far end wants no more.
    #[error("the far end reads no more (code {0})")]
    Stopped(VarInt),
    /// It has been finished.
    #[error("the stream is closed")]
    Closed,
}

/// Why bytes could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The connection is over.
    #[error(transparent)]
    Over(#[from] ConnectionError),
    /// The stream ended after so many of the bytes that were asked for.
    #[error("the stream ended after {0} bytes")]
    Ended(usize),
    /// The far end has given the stream up.
    #[error("the far end has reset the stream (code {0})")]
    Reset(VarInt),
    /// It has been stopped.
    #[error("the stream is closed")]
    Closed,
}

/// The half of a stream that this side writes. Finished when it is dropped.
pub(crate) struct SendStream {
    connection: Connection,
    id: StreamId,
}

impl SendStream {
    pub(super) fn new(connection: Connection, id: StreamId) -> Self {
        Self { connection, id }
    }

    /// Writes all of `bytes`, as fast as the far end takes them.
    ///
    /// # Errors
    /// If not all were taken; some may have been.
    pub(crate) async fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        let id = self.id;
        while !bytes.is_empty() {
            let write = |state: &mut State| {
                if let Some(over) = state.over() {
                    return Some(Err(WriteError::Over(over)));
                }
                match state.machine.send_stream(id).write(bytes) {
                    Ok(written) => {
                        state.silence.ask();
                        Some(Ok(written))
                    }
                    Err(quinn_proto::WriteError::Blocked) => None,
                    Err(quinn_proto::WriteError::Stopped(code)) => {
                        Some(Err(WriteError::Stopped(code)))
                    }
                    Err(quinn_proto::WriteError::ClosedStream) => Some(Err(WriteError::Closed)),
                }
            };
            let written = self.connection.until(write).await?;
            self.connection.flush();
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// Nothing more is written.
    ///
    /// # Errors
    /// If it has been finished or the far end wants no more.
    pub(crate) fn finish(&mut self) -> Result<(), WriteError> {
        let id = self.id;
        let finished = self
            .connection
            .with(|state| state.machine.send_stream(id).finish());
        finished.map_err(|error| match error {
            quinn_proto::FinishError::Stopped(code) => WriteError::Stopped(code),
            quinn_proto::FinishError::ClosedStream => WriteError::Closed,
        })
    }

    /// Returns once the far end has all that was written, wants no more, or the connection is over.
    pub(crate) async fn stopped(&mut self) {
        let id = self.id;
        self.connection
            .until(|state| {
                let stopped = state.machine.send_stream(id).stopped();
                (state.over().is_some() || !matches!(stopped, Ok(None))).then_some(())
            })
            .await;
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        let id = self.id;
        if self.connection.close_reason().is_none()
            && let Err(WriteError::Stopped(code)) = self.finish()
        {
            // Fails if it has ended meanwhile.
            let _ = self
                .connection
                .with(|state| state.machine.send_stream(id).reset(code));
        }
    }
}

/// The half of a stream that the far end writes. The far end is told to stop when it is dropped.
pub(crate) struct RecvStream {
    connection: Connection,
    id: StreamId,
    /// All was read that the far end wrote: the machine knows nothing of the stream any more.
    ended: bool,
}

impl RecvStream {
    pub(super) fn new(connection: Connection, id: StreamId) -> Self {
        Self {
            connection,
            id,
            ended: false,
        }
    }

    /// Fills `bytes`. What came before the end of the connection is still read after it.
    ///
    /// # Errors
    /// If the stream or the connection ended before.
    pub(crate) async fn read_exact(&mut self, bytes: &mut [u8]) -> Result<(), ReadError> {
        let (id, mut filled) = (self.id, 0);
        while filled < bytes.len() {
            if self.ended {
                return Err(ReadError::Ended(filled));
            }
            let rest = bytes.get_mut(filled..).unwrap_or_default();
            let (read, ended) = self.connection.until(|state| read(state, id, rest)).await?;
            // The far end may be told that there is room again.
            self.connection.flush();
            filled += read;
            self.ended = ended;
        }
        Ok(())
    }
}

/// Reads what is there into `bytes`: how much, and whether that was the end. `None`: nothing is there.
fn read(
    state: &mut State,
    id: StreamId,
    bytes: &mut [u8],
) -> Option<Result<(usize, bool), ReadError>> {
    let mut stream = state.machine.recv_stream(id);
    let Ok(mut chunks) = stream.read(true) else {
        return Some(Err(ReadError::Closed));
    };
    let mut filled = 0;
    let end = loop {
        let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) else {
            break Some(Ok((filled, false)));
        };
        match chunks.next(rest.len()) {
            Ok(Some(chunk)) => {
                if let Some(place) = rest.get_mut(..chunk.bytes.len()) {
                    place.copy_from_slice(&chunk.bytes);
                }
                filled += chunk.bytes.len();
            }
            Ok(None) => break Some(Ok((filled, true))),
            Err(quinn_proto::ReadError::Blocked) => {
                break (filled > 0).then_some(Ok((filled, false)));
            }
            Err(quinn_proto::ReadError::Reset(code)) => break Some(Err(ReadError::Reset(code))),
        }
    };
    // The caller sends what there is to send.
    let _ = chunks.finalize();
    match (end, state.over()) {
        (None, Some(over)) => Some(Err(over.into())),
        (end, _) => end,
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        let id = self.id;
        if self.connection.close_reason().is_none() {
            // Fails if it has ended.
            let _ = self
                .connection
                .with(|state| state.machine.recv_stream(id).stop(VarInt::from_u32(0)));
        }
    }
}
