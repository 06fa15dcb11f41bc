//! Trust, then check: does a decision hold for every frame that its mask says it holds for?
//!
//! ```text
//!   (question, decision) --same question, fresh instance--> same?  no: it keeps a state
//!                        \--unclaimed bits scrambled------> same?  no: it read what it did not claim
//! ```
//!
//! A mask says which bits of the key mattered, and the cache answers by it for all others. A guest that leaves one out makes
//! the cache give wrong answers, on its own networks only, and nothing else would ever tell. Owns the scrambling and the
//! comparison; who is asked, how often, and what becomes of a liar is the caller's. Scrambled keys are those of frames that
//! could be: a contradiction, such as ports behind no protocol, would only blame guests for what never comes.

use crate::convert::Decision;
use crate::fault::Fault;
use meshd_core::conntrack::CtState;
use meshd_core::flow::{Fields, FlowKey, FlowMask, Frag, IpKind};
use meshd_core::flowtext;
use meshd_core::ident::MacAddr;
use meshd_core::node::{DstClass, Question};

/// Scrambled questions of one examination.
const SCRAMBLES: usize = 6;
/// The group bit of a MAC's first byte.
const GROUP: u64 = 1 << 40;
const BROADCAST: MacAddr = MacAddr([0xff; 6]);
const PORTED: [u8; 3] = [6, 17, 132];

/// A decision does not hold where its mask says that it does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lie {
    /// Same key, other answer.
    #[error(
        "asked again about {flow}, a fresh instance answers otherwise: it keeps a state between decisions, which a policy must not"
    )]
    State {
        /// The key.
        flow: String,
    },
    /// A key that differs in unclaimed bits only, and another answer.
    #[error(
        "its answer to {flow} does not hold for {other}, though nothing differs that its mask claims: it reads fields that it does not name in `deps`"
    )]
    Mask {
        /// What it was asked.
        flow: String,
        /// What its mask says is the same.
        other: String,
    },
}

/// Compares `decision` on `question` with what a fresh instance, asked by `ask`, says to it and to some questions that the
/// decision's mask makes equal to it. A fault that says nothing about the key ends the examination without a finding.
///
/// # Errors
/// What does not hold.
pub fn examine(
    mut ask: impl FnMut(&Question) -> Result<Decision, Fault>,
    question: &Question,
    decision: &Decision,
    scramble: &mut Scramble,
) -> Result<(), Lie> {
    let show = |question: &Question| {
        let way = match question.dst_class {
            DstClass::UnicastKnown => "",
            DstClass::UnicastUnknown => " (destination unknown)",
            DstClass::Multicast => " (multicast)",
            DstClass::Broadcast => " (broadcast)",
        };
        format!("`{}`{way}", flowtext::show(&question.key))
    };
    let mut same = |question: &Question| match ask(question) {
        Ok(other) => Some(answer(&other) == answer(decision)),
        // The clock and the machine, not the key.
        Err(Fault::Deadline | Fault::Restart { .. }) => None,
        Err(_) => Some(false),
    };
    match same(question) {
        None => return Ok(()),
        Some(false) => {
            return Err(Lie::State {
                flow: show(question),
            });
        }
        Some(true) => {}
    }
    for _ in 0..SCRAMBLES {
        let other = scramble.question(question, decision);
        match same(&other) {
            None => return Ok(()),
            Some(true) => {}
            Some(false) => {
                return Err(Lie::Mask {
                    flow: show(question),
                    other: show(&other),
                });
            }
        }
    }
    Ok(())
}

/// What a decision does, without what it rests on: an honest guest may claim more on one path than on another.
fn answer(decision: &Decision) -> Decision {
    Decision {
        mask: FlowMask::default(),
        read_dst_class: false,
        ..decision.clone()
    }
}

/// A source of questions; the same seed gives the same ones.
#[derive(Clone, Debug)]
pub struct Scramble(u64);

impl Scramble {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn pick<T: Copy>(&mut self, from: &[T], or: T) -> T {
        // A length fits 64 bits, and the remainder the length.
        let at = (self.next() % (from.len().max(1) as u64)) as usize;
        from.get(at).copied().unwrap_or(or)
    }

    /// A question that a cache answers by `decision` on `question`: equal in what its mask has, and otherwise of any frame
    /// that could be. Where it comes from and which way it goes are always matched, so they stay.
    #[must_use]
    pub fn question(&mut self, question: &Question, decision: &Decision) -> Question {
        let mask = decision.mask.with_prerequisites();
        let mut out = Question::clone(question);
        self.tags(&mut out.key, &mask);
        self.layer3(&mut out.key, &mask);
        out.key.src_mac = self.mac(question.key.src_mac, mask.src_mac, Some(false));
        let class = question.dst_class;
        let group = decision
            .read_dst_class
            .then_some(matches!(class, DstClass::Multicast | DstClass::Broadcast));
        if !(decision.read_dst_class && class == DstClass::Broadcast) {
            out.key.dst_mac = self.mac(question.key.dst_mac, mask.dst_mac, group);
        }
        if !decision.read_dst_class {
            let MacAddr([first, ..]) = out.key.dst_mac;
            out.dst_class = match out.key.dst_mac {
                BROADCAST => DstClass::Broadcast,
                _ if first & 1 == 1 => DstClass::Multicast,
                _ => self.pick(&[DstClass::UnicastKnown, DstClass::UnicastUnknown], class),
            };
        }
        out
    }

    fn tag(&mut self) -> u16 {
        0x1000 | (self.next() & 0xfff) as u16
    }

    fn tags(&mut self, key: &mut FlowKey, mask: &FlowMask) {
        let claimed = |field| mask.fields.has(field);
        if !claimed(Fields::VLAN) {
            key.vlan = match self.next() & 1 {
                0 => 0,
                _ => self.tag(),
            };
            (key.pcp, key.inner_vlan) = (0, 0);
        }
        if key.vlan == 0 {
            return;
        }
        if !claimed(Fields::PCP) {
            key.pcp = (self.next() & 7) as u8;
        }
        if !claimed(Fields::INNER_VLAN) {
            key.inner_vlan = match self.next() & 3 {
                0 => self.tag(),
                _ => 0,
            };
        }
    }

    /// Each layer is made anew as soon as what says what it is was not claimed: prerequisites see to it that nothing below
    /// was claimed then.
    fn layer3(&mut self, key: &mut FlowKey, mask: &FlowMask) {
        let claimed = |field| mask.fields.has(field);
        let new_kind = !claimed(Fields::IP_KIND);
        if !claimed(Fields::ETHER_TYPE) {
            let kinds = [
                (0x88b5, IpKind::None),
                (0x0800, IpKind::V4),
                (0x86dd, IpKind::V6),
                (0x0806, IpKind::ArpV4),
                (0x86dd, IpKind::NdV6),
            ];
            (key.ether_type, key.ip_kind) = self.pick(&kinds, (0x88b5, IpKind::None));
        } else if new_kind && key.ether_type == 0x86dd {
            key.ip_kind = self.pick(&[IpKind::V6, IpKind::NdV6], key.ip_kind);
        }
        if key.ip_kind == IpKind::None {
            if new_kind {
                let mut blank = FlowKey::blank(key.vni);
                (blank.ether_type, blank.vlan, blank.pcp, blank.inner_vlan) =
                    (key.ether_type, key.vlan, key.pcp, key.inner_vlan);
                *key = blank;
            }
            return;
        }
        key.src_ip = self.ip(key.ip_kind, key.src_ip, mask.src_ip);
        key.dst_ip = self.ip(key.ip_kind, key.dst_ip, mask.dst_ip);
        let is_packet = key.ip_kind != IpKind::ArpV4;
        if !claimed(Fields::DSCP) {
            key.dscp = if is_packet {
                (self.next() & 63) as u8
            } else {
                0
            };
        }
        if !claimed(Fields::ECN) {
            key.ecn = if is_packet {
                (self.next() & 3) as u8
            } else {
                0
            };
        }
        if !claimed(Fields::TTL) {
            key.ttl = match key.ip_kind {
                IpKind::ArpV4 => 0,
                IpKind::NdV6 => 255,
                _ => (self.next() & 0xff) as u8,
            };
        }
        if !claimed(Fields::IP_PROTO) {
            key.ip_proto = match key.ip_kind {
                IpKind::ArpV4 => self.pick(&[1, 2], 1),
                IpKind::NdV6 => 58,
                IpKind::V4 => self.pick(&[6, 17, 1, 132, 47, 50], 6),
                _ => self.pick(&[6, 17, 58, 132, 47, 50], 6),
            };
        }
        if !claimed(Fields::FRAG) {
            key.frag = match key.ip_kind {
                IpKind::V4 | IpKind::V6 => self.pick(
                    &[Frag::None, Frag::None, Frag::First, Frag::Later],
                    Frag::None,
                ),
                _ => Frag::None,
            };
        }
        self.layer4(key, mask);
        self.connection(key, mask);
    }

    /// What a connection table may say of such a packet. A claimed state keeps an unclaimed mark possible.
    fn connection(&mut self, key: &mut FlowKey, mask: &FlowMask) {
        const STATES: [CtState; 6] = [
            CtState::UNTRACKED,
            CtState::NEW,
            CtState::ESTABLISHED,
            CtState::ESTABLISHED.with(CtState::REPLY),
            CtState::RELATED.with(CtState::REPLY),
            CtState::INVALID,
        ];
        if !mask.fields.has(Fields::CT) {
            key.ct = match key.ip_kind {
                IpKind::V4 | IpKind::V6 => self.pick(&STATES, CtState::UNTRACKED),
                _ => CtState::UNTRACKED,
            };
        }
        if !mask.fields.has(Fields::CT_MARK) {
            key.ct_mark = match key.ct {
                CtState::UNTRACKED | CtState::INVALID => 0,
                _ => self.next() as u32,
            };
        }
    }

    fn layer4(&mut self, key: &mut FlowKey, mask: &FlowMask) {
        let claimed = |field| mask.fields.has(field);
        let is_ported = PORTED.contains(&key.ip_proto);
        let is_icmp = matches!(key.ip_proto, 1 | 58);
        if !claimed(Fields::L4_OK) {
            key.l4_ok = key.ip_kind != IpKind::ArpV4
                && key.frag != Frag::Later
                && (is_ported || is_icmp)
                && (key.ip_kind == IpKind::NdV6 || self.next() & 7 != 0);
        }
        let mut fill = |wide: bool, old: u16, kept: u16| match wide && key.l4_ok {
            true => old & kept | (self.next() & 0xffff) as u16 & !kept,
            false => old & kept,
        };
        key.src_port = fill(is_ported, key.src_port, mask.src_port);
        key.dst_port = fill(is_ported, key.dst_port, mask.dst_port);
        if !claimed(Fields::TCP_FLAGS) {
            key.tcp_flags = fill(key.ip_proto == 6, 0, 0) & 0x1ff;
        }
        let (kind, code) = (fill(is_icmp, 0, 0), fill(is_icmp, 0, 0));
        if !claimed(Fields::ICMP_TYPE) {
            key.icmp_type = match key.ip_kind {
                IpKind::NdV6 => 133 + (kind % 5) as u8,
                _ => (kind & 0x7f) as u8,
            };
        }
        if !claimed(Fields::ICMP_CODE) {
            key.icmp_code = (code & 3) as u8;
        }
    }

    /// With the leading bits of `old`; IPv4 stays IPv4.
    fn ip(&mut self, kind: IpKind, old: u128, kept: u8) -> u128 {
        let random = u128::from(self.next()) << 64 | u128::from(self.next());
        let random = match kind {
            IpKind::V4 | IpKind::ArpV4 => 0xffff_0000_0000 | random & 0xffff_ffff,
            _ => random,
        };
        let kept = match kept {
            0 => 0,
            bits => u128::MAX << (128 - u32::from(bits.min(128))),
        };
        old & kept | random & !kept
    }

    /// With the leading bits of `old`, of a group or not as `group` says, where those bits leave that open.
    fn mac(&mut self, old: MacAddr, kept: u8, group: Option<bool>) -> MacAddr {
        let wide =
            |MacAddr([a, b, c, d, e, f]): MacAddr| u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        let mut random = self.next();
        match group {
            Some(true) => random |= GROUP,
            Some(false) => random &= !GROUP,
            None => {}
        }
        let kept = match kept {
            0 => 0,
            bits => (u64::MAX << (48 - u32::from(bits.min(48)))) & 0xffff_ffff_ffff,
        };
        let [_, _, a, b, c, d, e, f] = (wide(old) & kept | random & !kept).to_be_bytes();
        MacAddr([a, b, c, d, e, f])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::convert::Say;
    use meshd_core::ident::{PortId, Vni};
    use meshd_core::node::Direction;
    use proptest::prelude::*;

    fn blank() -> Question {
        let vni = Vni::new(7).unwrap();
        Question {
            vni,
            direction: Direction::Ingress,
            port: PortId(1),
            peer: None,
            key: FlowKey::blank(vni),
            dst_class: DstClass::UnicastKnown,
        }
    }

    fn decision(say: Say, mask: FlowMask, read_dst_class: bool) -> Decision {
        Decision {
            say,
            mask: mask.with_prerequisites(),
            read_dst_class,
            cacheable: true,
            hard_ms: None,
            idle_ms: None,
            orders: meshd_core::policy::Orders::default(),
            meters: Vec::new(),
            counts: Vec::new(),
            punt: None,
            tags: Vec::new(),
            group: None,
            flood_set: None,
        }
    }

    /// Any frame that could be.
    fn any_question(seed: u64) -> Question {
        Scramble::new(seed).question(&blank(), &decision(Say::Next, FlowMask::default(), false))
    }

    fn ports() -> FlowMask {
        FlowMask {
            dst_port: 0xffff,
            ..FlowMask::default()
        }
    }

    /// Drops SSH. `claims` is what it says it read.
    fn no_ssh(question: &Question, claims: FlowMask) -> Decision {
        match question.key.dst_port {
            22 => decision(Say::Drop { code: 1 }, claims, false),
            _ => decision(Say::Next, claims, false),
        }
    }

    proptest! {
        #[test]
        fn what_the_mask_has_stays_as_it_was(
            seed in any::<u64>(), parts in any::<(u8, u8, u32, u8, u8, u16, u16, bool)>()
        ) {
            let (src_mac, dst_mac, fields, src_ip, dst_ip, src_port, dst_port, class) = parts;
            let mask = FlowMask {
                src_mac, dst_mac, fields: Fields(fields), src_ip, dst_ip, src_port, dst_port,
            };
            let decision = decision(Say::Next, mask, class);
            let question = any_question(seed);
            let mut scramble = Scramble::new(!seed);
            for _ in 0..16 {
                let other = scramble.question(&question, &decision);
                prop_assert_eq!(decision.mask.apply(&other.key), decision.mask.apply(&question.key));
                prop_assert!(!class || other.dst_class == question.dst_class);
                prop_assert_eq!((other.vni, other.port, other.direction), (question.vni, question.port, question.direction));
                let MacAddr([first, ..]) = other.key.dst_mac;
                let group = matches!(other.dst_class, DstClass::Multicast | DstClass::Broadcast);
                prop_assert!(first & 1 == u8::from(group) || mask.dst_mac >= 8 || class, "{:?}", other);
            }
        }

        #[test]
        fn a_policy_that_claims_what_it_reads_is_never_blamed(seed in any::<u64>()) {
            let mut question = any_question(seed);
            if seed & 1 == 0 {
                question.key.dst_port = 22;
            }
            let said = no_ssh(&question, ports());
            prop_assert_eq!(examine(|q| Ok(no_ssh(q, ports())), &question, &said, &mut Scramble::new(seed)), Ok(()));
        }

        #[test]
        fn a_policy_that_hides_a_port_is_caught_at_the_first_frame_that_it_drops(seed in any::<u64>()) {
            let mut question = any_question(0);
            (question.key.ether_type, question.key.ip_kind, question.key.ip_proto) = (0x0800, IpKind::V4, 6);
            (question.key.frag, question.key.l4_ok, question.key.dst_port) = (Frag::None, true, 22);
            let hides = |q: &Question| Ok(no_ssh(q, FlowMask::default()));
            let found = examine(hides, &question, &hides(&question).unwrap(), &mut Scramble::new(seed));
            prop_assert!(matches!(found, Err(Lie::Mask { .. })), "{:?}", found);
        }
    }

    #[test]
    fn a_policy_that_keeps_a_state_is_caught() {
        let mut count = 0;
        let mut moody = |_: &Question| {
            count += 1;
            Ok(match count % 2 {
                0 => decision(Say::Drop { code: 1 }, FlowMask::exact(), true),
                _ => decision(Say::Next, FlowMask::exact(), true),
            })
        };
        let question = any_question(1);
        let first = moody(&question).unwrap();
        let found = examine(&mut moody, &question, &first, &mut Scramble::new(1));
        assert!(matches!(found, Err(Lie::State { .. })), "{found:?}");
    }

    #[test]
    fn a_fault_by_the_clock_blames_nobody_and_one_by_the_key_does() {
        let question = any_question(1);
        let said = no_ssh(&question, ports());
        let mut scramble = Scramble::new(1);
        let slow = |_: &Question| Err(Fault::Deadline);
        assert_eq!(examine(slow, &question, &said, &mut scramble), Ok(()));
        let traps = |q: &Question| match *q == question {
            true => Ok(said.clone()),
            false => Err(Fault::Stack),
        };
        let found = examine(traps, &question, &said, &mut scramble);
        assert!(matches!(found, Err(Lie::Mask { .. })), "{found:?}");
    }
}
