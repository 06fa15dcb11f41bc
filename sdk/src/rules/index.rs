//! Many rules of one class, by field: which of them a value leaves.
//!
//! ```text
//!   rule 0   src  |---------------|                    a field's values in spans, each with one bit a rule
//!   rule 1   src       |----|
//!   rule 2   any  ...................................
//!   spans         101  111   101   100
//! ```
//!
//! A step looks a value up by halving and keeps the rules whose bit is set. What is noted of the value are the leading bits that
//! tell it from the nearest value of each neighbouring span, so every value that agrees in those is in the same span.

use super::matching::{Match, Opening, Way};
use super::{FEW, RULES_MAX, Rule};
use crate::{Frag, IpKind};

/// Words of bits, one bit a rule.
const WORDS: usize = RULES_MAX.div_ceil(64);

/// Rules that are left.
pub(super) type Left = [u64; WORDS];

/// The rules whose bits are set, in order.
pub(super) fn places(left: &Left) -> impl Iterator<Item = usize> + '_ {
    left.iter().enumerate().flat_map(|(word, bits)| {
        let mut bits = *bits;
        core::iter::from_fn(move || {
            let bit = bits.trailing_zeros() as usize;
            bits &= bits.wrapping_sub(1);
            (bit < 64).then_some(word * 64 + bit)
        })
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Proto,
    Way,
    Src,
    Dst,
    SrcPort,
    DstPort,
}

impl Field {
    /// The values that a rule lets, of all that there are for frames of this kind; `None`: all.
    fn range(self, asks: &Match, kind: IpKind) -> Option<(u128, u128)> {
        let port = |ports: Option<super::Ports>| {
            ports.map(|ports| (u128::from(ports.low), u128::from(ports.high)))
        };
        match self {
            Self::Proto => asks.number(kind).map(|n| (n.into(), n.into())),
            Self::Way => asks.way.map(|way| (number(way), number(way))),
            Self::Src => asks.src.map(crate::Net::range),
            Self::Dst => asks.dst.map(crate::Net::range),
            Self::SrcPort => port(asks.src_port),
            Self::DstPort => port(asks.port),
        }
    }

    fn is_port(self) -> bool {
        matches!(self, Self::SrcPort | Self::DstPort)
    }
}

fn number(way: Way) -> u128 {
    match way {
        Way::Out => 0,
        Way::In => 1,
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Index {
    /// All of the class.
    all: Vec<u64>,
    /// Those that ask for no port.
    portless: Vec<u64>,
    /// And those that a header which hides its ports counts as a match for.
    wary: Vec<u64>,
    /// In the order in which they are taken.
    steps: Vec<(Field, Spans)>,
}

impl Index {
    /// Of the rules of the class of frames of this kind, in their order.
    pub(super) fn new<'a>(kind: IpKind, rules: impl Iterator<Item = &'a Rule>) -> Self {
        let rules: Vec<&Rule> = rules.collect();
        let set = |test: &dyn Fn(&Rule) -> bool| {
            let mut bits = vec![0u64; rules.len().div_ceil(64)];
            for (n, _) in rules.iter().enumerate().filter(|(_, rule)| test(rule)) {
                put(&mut bits, n, true);
            }
            bits
        };
        let portless = |rule: &Rule| !rule.asks().asks_for_ports();
        let step = |field: Field| {
            let ranges = rules.iter().map(|rule| field.range(rule.asks(), kind));
            let ranges: Vec<_> = ranges.collect();
            let asked = ranges.iter().any(Option::is_some);
            asked.then(|| (field, Spans::new(&ranges)))
        };
        // What the protocol is tells what the ports are, so it is first; then what leaves least.
        let first = [Field::Proto, Field::Way].into_iter().filter_map(step);
        let rest = [Field::Src, Field::Dst, Field::SrcPort, Field::DstPort];
        let mut rest: Vec<_> = rest.into_iter().filter_map(step).collect();
        rest.sort_by_key(|(field, spans)| (spans.leaves(), *field as u8));
        Self {
            all: set(&|_| true),
            portless: set(&portless),
            wary: set(&|rule| portless(rule) || !rule.allows()),
            steps: first.chain(rest).collect(),
        }
    }

    /// The rules that the frame may match. Either few, or every one of them matches.
    pub(super) fn search(&self, frame: &Opening<'_, '_>) -> Left {
        let mut left = [0; WORDS];
        for (left, all) in left.iter_mut().zip(&self.all) {
            *left = *all;
        }
        for (field, spans) in &self.steps {
            let bits = if !field.is_port() {
                spans.step(*field, frame)
            } else if frame.key.frag() == Frag::Later {
                &self.portless
            } else if !frame.key.l4_ok() {
                &self.wary
            } else {
                spans.step(*field, frame)
            };
            let mut count = 0;
            for (left, bits) in left.iter_mut().zip(bits) {
                *left &= bits;
                count += left.count_ones() as usize;
            }
            if count <= FEW {
                break;
            }
        }
        left
    }
}

fn put(bits: &mut [u64], n: usize, on: bool) {
    if let Some(word) = bits.get_mut(n / 64) {
        let bit = 1 << (n % 64);
        *word = if on { *word | bit } else { *word & !bit };
    }
}

/// A field's values in spans.
#[derive(Clone, Debug)]
struct Spans {
    /// The first value of each, ascending; that of the first span is 0.
    starts: Vec<u128>,
    /// Of all spans one after the other, `words` each.
    bits: Vec<u64>,
    words: usize,
}

impl Spans {
    /// Of what each rule lets; `None`: everything.
    fn new(ranges: &[Option<(u128, u128)>]) -> Self {
        let words = ranges.len().div_ceil(64);
        let mut now = vec![0u64; words];
        // Where a rule begins to match, and where it ends.
        let mut turns: Vec<(u128, usize, bool)> = Vec::new();
        for (n, range) in ranges.iter().enumerate() {
            match range {
                None => put(&mut now, n, true),
                Some((low, high)) => {
                    turns.push((*low, n, true));
                    // What matches up to the highest value there is never ends.
                    turns.extend(high.checked_add(1).map(|end| (end, n, false)));
                }
            }
        }
        turns.sort_unstable();
        let mut spans = Self {
            starts: vec![0],
            bits: Vec::new(),
            words,
        };
        let mut at = 0;
        for (value, n, on) in turns {
            if value != at {
                spans.bits.extend(&now);
                spans.starts.push(value);
                at = value;
            }
            put(&mut now, n, on);
        }
        spans.bits.extend(&now);
        spans
    }

    /// Rules that a span leaves, on average.
    fn leaves(&self) -> usize {
        let ones: usize = self
            .bits
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum();
        ones / self.starts.len().max(1)
    }

    fn step(&self, field: Field, frame: &Opening<'_, '_>) -> &[u64] {
        let key = frame.key;
        match (field, frame.turned) {
            (Field::Proto, _) => self.look(key.ip_proto().into(), u128::BITS).0,
            (Field::Way, _) => self.look(number(frame.way()), u128::BITS).0,
            (Field::Src, false) | (Field::Dst, true) => {
                key.look_src_ip(|bits| self.look(bits, 128))
            }
            (Field::Dst, false) | (Field::Src, true) => {
                key.look_dst_ip(|bits| self.look(bits, 128))
            }
            (Field::SrcPort, false) | (Field::DstPort, true) => {
                key.look_src_port(|port| self.look(port.into(), 16))
            }
            (Field::DstPort, false) | (Field::SrcPort, true) => {
                key.look_dst_port(|port| self.look(port.into(), 16))
            }
        }
    }

    /// What the span of a value leaves, and how many leading bits of the value's `width` tell it from its neighbours.
    fn look(&self, value: u128, width: u32) -> (&[u64], u8) {
        let behind = self.starts.partition_point(|start| *start <= value);
        // The first starts at 0.
        let at = behind.saturating_sub(1);
        // How many leading bits tell two values apart that differ.
        let apart = |other: u128| {
            let bits = (value ^ other).leading_zeros() + 1;
            bits.saturating_sub(u128::BITS - width)
        };
        let below = self.starts.get(at).and_then(|start| start.checked_sub(1));
        let above = self.starts.get(behind);
        let noted = below
            .map_or(0, apart)
            .max(above.map_or(0, |start| apart(*start)));
        let bits = self.bits.get(at * self.words..behind * self.words);
        // At most 128.
        (bits.unwrap_or_default(), noted as u8)
    }
}
