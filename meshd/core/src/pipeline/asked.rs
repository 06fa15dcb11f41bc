//! The chain of plugins on a frame's way: what it is asked, and what of its answer the walk remembers.

use super::{FAILED_MS, Learn, Stop, Walk};
use crate::conntrack::Order;
use crate::ident::{Epoch, PortId};
use crate::neighbor::claimed;
use crate::node::{Direction, DstClass, Question};
use crate::policy::{Answer, Known, Orders, Punt, Verdict};
use crate::ruling::{DropReason, PuntOrder};
use std::sync::Arc;

impl Walk<'_> {
    /// Asks the chain, if there is one; its orders are carried out as far as they do not say where to.
    pub(super) fn pass(
        &mut self,
        direction: Direction,
        port: PortId,
        dst_class: DstClass,
    ) -> Result<Option<Arc<Answer>>, Stop> {
        if !self.chain {
            return Ok(None);
        }
        let peer = self.sender;
        let question = Question {
            vni: self.key.vni,
            direction,
            port,
            peer,
            key: self.key,
            dst_class,
        };
        let Some(Known { answer, hard_ms }) = (self.oracle)(&question) else {
            return Err(Stop::Ask(Box::new(question)));
        };
        self.mask = self.mask.union(&answer.mask.with_prerequisites());
        // A failure is kept for a moment, so that a broken plugin does not run for each frame of a burst.
        self.cacheable &= answer.cacheable || answer.verdict == Verdict::Failed;
        self.step(
            if direction == Direction::Ingress {
                "policy in"
            } else {
                "policy out"
            },
            || {
                let said = match answer.verdict {
                    Verdict::Pass => "pass",
                    Verdict::Drop => "drop",
                    Verdict::Failed => "failed",
                };
                format!("port {port}: {said} ({})", answer.why)
            },
        );
        if let Some(ms) = hard_ms {
            self.hold(self.now.plus_ms(u64::from(ms)));
        }
        if let Some(ms) = answer.idle_ms {
            self.idle_ms = Some(self.idle_ms.map_or(ms, |least| least.min(ms)));
        }
        // What a flood costs one receiver holds it back from no other.
        let lenient = direction == Direction::Egress && dst_class != DstClass::UnicastKnown;
        self.dues.add(&answer.orders.dues, lenient);
        for meter in answer.orders.dues.meters() {
            self.step("meter", || {
                let (name, rate) = (meter.name(), meter.rate());
                let lenient = match lenient {
                    true => "; a flood is charged, and not held back",
                    false => "",
                };
                format!("{name}, {rate}{lenient}")
            });
        }
        self.punt(&question, &answer.orders.punts);
        match answer.verdict {
            Verdict::Pass => {
                self.mirrors.extend(&answer.orders.mirrors);
                for edit in &answer.orders.edits {
                    edit.rekey(&mut self.key);
                    self.mask.fields = self.mask.fields.with(edit.needs());
                    self.edits.push(*edit);
                }
                self.track(&answer);
                self.learn(&answer);
                Ok(Some(answer))
            }
            Verdict::Drop => {
                // In a flood one receiver's refusal is nothing that the sender is told.
                self.reject = answer.orders.reject && dst_class == DstClass::UnicastKnown;
                Err(Stop::Drop(DropReason::Policy, Some(answer.why.clone())))
            }
            Verdict::Failed => {
                self.hold(self.now.plus_ms(FAILED_MS));
                Err(Stop::Drop(
                    DropReason::PolicyFailed,
                    Some(answer.why.clone()),
                ))
            }
        }
    }

    /// A controller gets one copy of a frame, also if its policy was asked for many receivers: the longest, under the first
    /// question.
    pub(super) fn punt(&mut self, question: &Question, punts: &[Punt]) {
        for &punt in punts {
            let there = self.punts.iter_mut().find(|order| order.punt.to == punt.to);
            match there.map(|order| &mut order.punt.bytes) {
                Some(bytes) if *bytes == 0 || punt.bytes == 0 => *bytes = 0,
                Some(bytes) => *bytes = punt.bytes.max(*bytes),
                None => self.punts.push(PuntOrder {
                    punt,
                    question: question.clone(),
                }),
            }
            self.step("punt", || match punt.bytes {
                0 => "a copy to the controller".to_owned(),
                bytes => format!("a copy to the controller, {bytes} bytes at most"),
            });
        }
    }

    /// What the asked want of the connection, together: entered if one wants it so, with the last mark.
    pub(super) fn track(&mut self, answer: &Answer) {
        let Orders {
            commit, ct_mark, ..
        } = answer.orders;
        if !commit && ct_mark.is_none() {
            return;
        }
        let order = self.track.get_or_insert_with(|| Order {
            commit: false,
            mark: None,
            epoch: Epoch(0),
            why: String::new(),
        });
        order.mark = ct_mark.or(order.mark);
        if commit {
            order.commit = true;
            order.why.clone_from(&answer.why);
        }
    }

    /// The source's bits are in the mask in any case. The answer itself is kept for all that it holds for: it is asked for again
    /// with each upcall, and these come in time to keep what is learned young.
    pub(super) fn learn(&mut self, answer: &Answer) {
        let Some(ms) = answer.orders.learn_ms else {
            return;
        };
        let learn = Learn {
            ms: ms.into(),
            ip: claimed(&self.frame),
        };
        if !self.own_source {
            self.hold(self.now.plus_ms(learn.ms / 2));
        }
        let (src, own_source) = (self.frame.src(), self.own_source);
        self.step("learn", || {
            let own = match own_source {
                true => " (the port's own MAC: it is known anyway)",
                false => "",
            };
            match learn.ip {
                Some(ip) => format!("{src}{own} and {ip} for {ms} ms"),
                None => format!("{src}{own} for {ms} ms"),
            }
        });
        self.learn = Some(learn);
    }
}
