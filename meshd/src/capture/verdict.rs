//! What became of a frame, in words.

use crate::datapath::capture::{Hop, How, Left, Seen};
use meshd_core::capture::{Fate, Spot, Way};
use meshd_core::ruling::Output;
use std::fmt::Write as _;

/// What became of a frame, in words.
pub(super) fn words(seen: &Seen, name: &dyn Fn(Spot) -> String) -> String {
    let mut out = String::new();
    if seen.frames > 1 {
        let _ = write!(out, "a superframe of {} frames; ", seen.frames);
    }
    match &seen.how {
        How::Made(_) => out.push_str("made by this node; "),
        How::Copied(_) => out.push_str("a mirror's copy; "),
        _ => {}
    }
    match (seen.fate, &seen.how) {
        (Fate::Dropped(reason), _) => {
            let _ = write!(out, "dropped: {}: {}", reason.name(), reason.explain());
        }
        (Fate::Answered, _) => out.push_str("answered by this node"),
        (
            Fate::Forwarded,
            How::Goes {
                to,
                receivers,
                cached,
                edited,
            },
        ) => {
            let names: Vec<String> = to.iter().map(|to| name((*to).into())).collect();
            let _ = write!(out, "forwarded to {}", names.join(", "));
            if *receivers > to.len() {
                let _ = write!(out, " and {} more", receivers - to.len());
            }
            out.push_str(match cached {
                true => ", by a cached ruling",
                false => ", by a ruling that it waited for",
            });
            if *edited {
                out.push_str(", changed");
            }
        }
        (Fate::Forwarded, How::Left(left) | How::Made(left) | How::Copied(left)) => match left {
            Left::Port => out.push_str("left by the port"),
            Left::Session(by) => {
                let way = match by.link {
                    None => "the session".to_owned(),
                    Some(link) => format!("link {link}"),
                };
                let _ = write!(out, "left by {way} (quic-direct) to {}, ", by.remote);
                let _ = match by.datagrams {
                    1 => {
                        write!(out, "in one datagram of at most {} bytes", by.datagram_max)
                    }
                    many => write!(
                        out,
                        "in {many} datagrams of at most {} bytes",
                        by.datagram_max
                    ),
                };
            }
            Left::Not => out.push_str("left, and its way is gone"),
        },
        (Fate::Forwarded, How::Kernel(hop)) => out.push_str(&by_kernel(seen, hop, name)),
        (Fate::Forwarded, How::Ends) => out.push_str("forwarded"),
    }
    out
}

/// What the kernel does with a frame, by where it was seen.
fn by_kernel(seen: &Seen, hop: &Hop, name: &dyn Fn(Spot) -> String) -> String {
    let called = |place: Option<Output>, strange: &str| {
        place.map_or_else(|| strange.to_owned(), |place| name(place.into()))
    };
    let from = called(hop.from, "nobody that is known");
    let vxlan = match hop.to {
        Some(Output::Peer(_)) => ", by VXLAN",
        _ => "",
    };
    let on = match hop.to {
        Some(to) => format!("forwarded by the kernel to {}{vxlan}", name(to.into())),
        None => "let in by the gate, and the kernel knows no place of its destination".to_owned(),
    };
    match (seen.spot, seen.way) {
        (Spot::Vxlan(_), _) if hop.probe => {
            "a probe by which meshd proves this path; no endpoint's".to_owned()
        }
        (Spot::Vxlan(_), Way::In) => format!("came by kernel-vxlan from {from}; {on}"),
        (Spot::Vxlan(_), Way::Out) => {
            let to = called(hop.to, "nobody that is known");
            format!("left by kernel-vxlan to {to}, forwarded by the kernel from {from}")
        }
        (Spot::Underlay(_), way) => {
            let word = match way {
                Way::In => "from",
                Way::Out => "to",
            };
            let vtep = hop
                .vtep
                .map_or_else(String::new, |vtep| format!(" {word} VTEP {vtep}"));
            let what = match hop.probe {
                true => "a probe by which meshd proves this path, no endpoint's".to_owned(),
                false => format!("a frame from {from}"),
            };
            format!(
                "as it is on the wire: VXLAN of VNI {}{vtep}; {what}",
                seen.vni
            )
        }
        (_, Way::Out) => format!("left by the port, forwarded by the kernel from {from}"),
        (_, Way::In) => on,
    }
}
