//! Inquiries at other nodes: traces that go on there, and testimonies for the doctor; what this node asks of peers, and what
//! they ask of it.
//!
//! ```text
//!   meshd trace  -> frame would go to peer b -> Ask over the control stream -> b traces it as if it had come from us -> Told
//!   meshd doctor -> each peer                -> Ask                         -> how b sees us, its clock, its networks -> Told
//! ```
//!
//! Owns who waits for an answer, and how much is answered: a few questions a second of each member, one after the other. An answer
//! asks nobody else, so no question goes round.

use crate::api::trace;
use crate::backend::Live;
use crate::driver::DriverHandle;
use meshd_core::code::ErrorCode;
use meshd_core::command::{Refusal, TraceSpec};
use meshd_core::flow::Origin;
use meshd_core::ident::NodeId;
use meshd_core::wire::control::Message;
use meshd_core::wire::datagram::FRAME_MAX;
use meshd_core::wire::inquiry::{ANSWER_MAX, Inquiry, InquiryWhat, InquiryWord, TEXT_MAX};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Questions of a member that are answered in a second.
const PER_S: u32 = 10;
/// Questions that wait.
const WAITING_MAX: usize = 32;
/// Answers that are waited for.
const ASKED_MAX: usize = 256;
/// An answer is waited for so long. Plugins are asked there.
const WITHIN: Duration = Duration::from_secs(3);

type Answered = Result<Vec<u8>, String>;

#[derive(Default)]
struct Waiting {
    next: u64,
    answers: BTreeMap<u64, (NodeId, oneshot::Sender<Answered>)>,
    /// In the second that began then.
    second: Option<Instant>,
    asked: BTreeMap<NodeId, u32>,
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Far {
    waiting: Arc<Mutex<Waiting>>,
    asked: mpsc::Sender<(NodeId, Inquiry)>,
}

/// What peers ask, for [`answer`].
pub(crate) type Asked = mpsc::Receiver<(NodeId, Inquiry)>;

impl Far {
    /// Nobody was asked yet.
    pub(crate) fn new() -> (Self, Asked) {
        let (give, asked) = mpsc::channel(WAITING_MAX);
        let far = Self {
            waiting: Arc::default(),
            asked: give,
        };
        (far, asked)
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A member asks or answers. What is too much is left unanswered.
    pub(crate) fn heard(&self, node: NodeId, word: InquiryWord) {
        let mut waiting = self.waiting();
        match word {
            InquiryWord::Ask(ask) => {
                let now = Instant::now();
                if waiting
                    .second
                    .is_none_or(|begun| now - begun >= Duration::from_secs(1))
                {
                    waiting.second = Some(now);
                    waiting.asked.clear();
                }
                let count = waiting.asked.entry(node).or_default();
                *count += 1;
                if *count <= PER_S {
                    let _ = self.asked.try_send((node, ask));
                }
            }
            InquiryWord::Told { id, answer: report } => {
                // Only who was asked may answer.
                let is_asked = waiting
                    .answers
                    .get(&id)
                    .is_some_and(|(asked, _)| *asked == node);
                if is_asked && let Some((_, tell)) = waiting.answers.remove(&id) {
                    let _ = tell.send(report);
                }
            }
        }
    }

    /// What a peer says; or why that is not known.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        driver: &DriverHandle,
        node: NodeId,
        what: InquiryWhat,
    ) -> Result<T, String> {
        let (tell, told) = oneshot::channel();
        let id = {
            let mut waiting = self.waiting();
            if waiting.answers.len() >= ASKED_MAX {
                return Err("too many questions wait for answers at the moment".to_owned());
            }
            waiting.next += 1;
            let id = waiting.next;
            waiting.answers.insert(id, (node, tell));
            id
        };
        let message = Message::Inquiry(InquiryWord::Ask(Inquiry { id, what }));
        let sent = say(driver, node, message).await;
        let report = match sent {
            true => tokio::time::timeout(WITHIN, told).await,
            false => {
                self.waiting().answers.remove(&id);
                return Err(
                    "there is no session with it at the moment; see `meshd peers`".to_owned(),
                );
            }
        };
        self.waiting().answers.remove(&id);
        let report = match report {
            Ok(Ok(report)) => report?,
            _ => {
                return Err(format!(
                    "it has not answered within {} s; is it of this version, or busy?",
                    WITHIN.as_secs()
                ));
            }
        };
        if report.len() > ANSWER_MAX {
            return Err("its answer is too long".to_owned());
        }
        serde_json::from_slice(&report)
            .map_err(|_| "its answer is in other words than this version knows".to_owned())
    }
}

/// Sends a message to a peer; false: there is no session.
async fn say(driver: &DriverHandle, node: NodeId, message: Message) -> bool {
    let said = driver.view(move |own, world, _| match own.mesh().session_of(node) {
        Some(session) => {
            world.underlay.send(session, message);
            true
        }
        None => false,
    });
    said.await.unwrap_or(false)
}

/// Answers peers until the daemon stops.
pub(crate) async fn answer(live: Live, mut asked: Asked) {
    while let Some((node, ask)) = asked.recv().await {
        let id = ask.id;
        let report = tokio::time::timeout(WITHIN, serve(&live, node, ask)).await;
        let report = report.unwrap_or_else(|_| Err("it took too long".to_owned()));
        say(
            &live.driver,
            node,
            Message::Inquiry(InquiryWord::Told { id, answer: report }),
        )
        .await;
    }
}

async fn serve(live: &Live, asker: NodeId, ask: Inquiry) -> Answered {
    let spec = match ask.what {
        InquiryWhat::Testimony => return written(&live.testimony(asker).await?),
        InquiryWhat::Frame { frame, .. } if frame.len() > FRAME_MAX => {
            return Err("the frame is too long".to_owned());
        }
        InquiryWhat::Frame { vni, from, frame } => TraceSpec::of(vni, Origin::Peer(from), frame),
        InquiryWhat::Packet { text, .. } if text.len() > TEXT_MAX => {
            return Err("the packet is too long".to_owned());
        }
        InquiryWhat::Packet { vni, text } => trace::resolve(live, &vni.to_string(), &text)
            .await
            .map_err(|refusal| told(&refusal))?,
    };
    let report = live.trace_here(spec).await;
    written(&report.map_err(|refusal| told(&refusal))?)
}

/// A refusal as it travels, with its code.
fn told(refusal: &Refusal) -> String {
    serde_json::to_string(refusal).unwrap_or_else(|_| refusal.message.clone())
}

/// Why a peer that was asked gave no report: what it refuses by name, else that it does not say.
pub(crate) fn refusal(why: String) -> Refusal {
    serde_json::from_str(&why).unwrap_or_else(|_| {
        Refusal::new(
            ErrorCode::PeerSilent,
            format!("that node does not say: {why}"),
        )
    })
}

fn written(answer: &impl Serialize) -> Answered {
    let json = serde_json::to_vec(answer).map_err(|error| error.to_string())?;
    match json.len() <= ANSWER_MAX {
        true => Ok(json),
        false => Err("the answer is too long; ask on that node".to_owned()),
    }
}
