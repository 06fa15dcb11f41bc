//! One connection: its state by what either end sent, and how long it lives without a frame.

use super::{Opener, Signal, Tuple, flag};
use crate::ident::{Epoch, Moment};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use serde::{Deserialize, Serialize};

/// How far a connection is. TCP goes from top to bottom; what is no TCP has the last two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", schema(as = ConnectionState))]
pub enum State {
    /// A SYN went out.
    SynSent,
    /// It was answered.
    SynReceived,
    /// The handshake is over, or was never seen.
    Established,
    /// One end has sent its FIN.
    Closing,
    /// Both have.
    Closed,
    /// One end broke it off.
    Reset,
    /// Heard from one end.
    OneWay,
    /// Heard from both.
    TwoWay,
}

impl State {
    const ALL: [Self; 8] = [
        Self::SynSent,
        Self::SynReceived,
        Self::Established,
        Self::Closing,
        Self::Closed,
        Self::Reset,
        Self::OneWay,
        Self::TwoWay,
    ];

    /// Over: a first segment of the same tuple is one of another connection.
    pub(crate) fn is_over(self) -> bool {
        matches!(self, Self::Closed | Self::Reset)
    }
}

impl core::fmt::Display for State {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::SynSent => "syn-sent",
            Self::SynReceived => "syn-received",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::OneWay => "one-way",
            Self::TwoWay => "two-way",
        })
    }
}

/// What frames change of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// How far it is.
    pub state: State,
    /// Frames went both ways.
    pub replied: bool,
    /// FIN of the opener, and of the other end.
    pub fins: [bool; 2],
}

impl Life {
    /// As the first frame leaves it.
    #[must_use]
    pub fn born(signal: Signal) -> Self {
        let (state, fin) = match signal {
            Signal::Tcp(_) if signal.is_syn() => (State::SynSent, false),
            Signal::Tcp(flags) if flags & flag::FIN != 0 => (State::Closing, true),
            Signal::Tcp(_) => (State::Established, false),
            Signal::EchoReply | Signal::Data => (State::OneWay, false),
        };
        Self {
            state,
            replied: false,
            fins: [fin, false],
        }
    }

    /// As the next frame leaves it; `reply`: against the direction of the first.
    #[must_use]
    pub fn after(mut self, signal: Signal, reply: bool) -> Self {
        self.replied |= reply;
        let Signal::Tcp(flags) = signal else {
            if self.replied {
                self.state = State::TwoWay;
            }
            return self;
        };
        if flags & flag::RST != 0 {
            self.state = State::Reset;
        } else if flags & flag::SYN != 0 {
            if self.state == State::SynSent && reply {
                self.state = State::SynReceived;
            }
        } else {
            if flags & flag::FIN != 0 {
                let [opener, other] = &mut self.fins;
                *(if reply { other } else { opener }) = true;
            }
            self.state = match (self.state, self.fins) {
                (_, [true, true]) => State::Closed,
                (_, [true, _] | [_, true]) => State::Closing,
                // An ACK of the handshake, and no data can come before it.
                (State::SynSent, _) if !reply => State::SynSent,
                (State::SynReceived, _) if reply => State::SynReceived,
                // Who goes on after a reset did not take it: it was none of the other end's.
                _ => State::Established,
            };
        }
        self
    }

    /// How long it lives without a frame, in ms.
    #[must_use]
    pub fn idle_ms(&self) -> u64 {
        match self.state {
            State::SynSent | State::OneWay => 30_000,
            State::SynReceived | State::Closed => 60_000,
            // Never answered: most likely nobody is there.
            State::Established if !self.replied => 300_000,
            State::Established => 24 * 3_600_000,
            State::Closing => 120_000,
            State::Reset => 10_000,
            State::TwoWay => 180_000,
        }
    }

    /// Bits 0 to 7 the state, then flags, from bit 16 on when the last frame came, in ms. Bit 15 is [`GONE`].
    fn pack(self, seen_ms: u64) -> u64 {
        let [opener, other] = self.fins;
        self.state as u64
            | u64::from(self.replied) << 8
            | u64::from(opener) << 9
            | u64::from(other) << 10
            | seen_ms << 16
    }

    fn unpack(word: u64) -> (Self, u64) {
        let bit = |at: u32| word >> at & 1 == 1;
        let state = State::ALL.get((word & 0xff) as usize);
        let life = Self {
            state: state.copied().unwrap_or(State::Reset),
            replied: bit(8),
            fins: [bit(9), bit(10)],
        };
        (life, word >> 16)
    }
}

/// The table has given the connection up; who still holds it must look again.
const GONE: u64 = 1 << 15;

const NS_PER_MS: u64 = 1_000_000;

/// One connection, shared by the table and the lanes that have seen it.
#[derive(Debug)]
pub(crate) struct Conn {
    /// As its first frame had it.
    pub(crate) tuple: Tuple,
    pub(crate) opener: Opener,
    pub(crate) born: Moment,
    life: AtomicU64,
    /// Of the ruling that ordered it last.
    epoch: AtomicU64,
    mark: AtomicU32,
}

impl Conn {
    pub(crate) fn new(
        tuple: Tuple,
        opener: Opener,
        signal: Signal,
        epoch: Epoch,
        mark: u32,
        now: Moment,
    ) -> Self {
        Self {
            tuple,
            opener,
            born: now,
            life: AtomicU64::new(Life::born(signal).pack(now.0 / NS_PER_MS)),
            epoch: AtomicU64::new(epoch.0),
            mark: AtomicU32::new(mark),
        }
    }

    /// What there is of it at `now`, and when its last frame came, in ms; `None`: it is over, or was given up.
    pub(crate) fn life(&self, now: Moment) -> Option<(Life, u64)> {
        let word = self.life.load(Relaxed);
        if word & GONE != 0 {
            return None;
        }
        let (life, seen) = Life::unpack(word);
        let idle = (now.0 / NS_PER_MS).saturating_sub(seen);
        (idle < life.idle_ms()).then_some((life, seen))
    }

    /// What it would be after a frame. `None`: it is over, or the frame is the first of another connection.
    pub(crate) fn look(&self, signal: Signal, reply: bool, now: Moment) -> Option<Life> {
        let (life, _) = self.life(now)?;
        let another = life.state.is_over() && signal.is_syn();
        (!another).then(|| life.after(signal, reply))
    }

    /// A frame of it goes its way. `None`: as of [`Self::look`].
    pub(crate) fn frame(&self, signal: Signal, reply: bool, now: Moment) -> Option<Life> {
        let ms = now.0 / NS_PER_MS;
        let mut before = self.life.load(Relaxed);
        loop {
            let (life, seen) = Life::unpack(before);
            let over = before & GONE != 0 || ms.saturating_sub(seen) >= life.idle_ms();
            if over || (life.state.is_over() && signal.is_syn()) {
                return None;
            }
            let after = life.after(signal, reply);
            let word = after.pack(ms.max(seen));
            if word == before {
                return Some(after);
            }
            // Another lane has a frame of it at the same time: once more, after that one.
            match self
                .life
                .compare_exchange_weak(before, word, Relaxed, Relaxed)
            {
                Ok(_) => return Some(after),
                Err(found) => before = found,
            }
        }
    }

    pub(crate) fn give_up(&self) {
        self.life.fetch_or(GONE, Relaxed);
    }

    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Relaxed))
    }

    pub(crate) fn mark(&self) -> u32 {
        self.mark.load(Relaxed)
    }

    /// The mark first: who sees the new epoch sees the mark that belongs to it.
    pub(crate) fn decided(&self, epoch: Epoch, mark: Option<u32>) {
        if let Some(mark) = mark {
            self.mark.store(mark, Relaxed);
        }
        self.epoch
            .fetch_max(epoch.0, core::sync::atomic::Ordering::Release);
    }
}
