//! From a frame to what a plugin is asked about it: as on its way in from port 1 of network 1.

use meshd_core::frame::Frame;
use meshd_core::ident::{MacAddr, PortId, Vni};
use meshd_core::node::{Direction, DstClass, Question};

/// Why no plugin is asked about a frame: the daemon drops it before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotAsked(pub(crate) String);

/// The question that the daemon would ask about `frame`, by its own parser.
///
/// # Errors
/// Why it would not ask.
pub fn question(frame: &[u8]) -> Result<Question, NotAsked> {
    let wrong = |why: &dyn core::fmt::Display| NotAsked(why.to_string());
    let vni = Vni::new(1).map_err(|e| wrong(&e))?;
    let parsed = Frame::parse(frame).map_err(|e| wrong(&e))?;
    if parsed.is_malformed() {
        return Err(wrong(&"its headers contradict each other or are cut off"));
    }
    let key = parsed.flow_key(vni);
    let MacAddr([first, ..]) = key.dst_mac;
    let dst_class = match key.dst_mac {
        MacAddr([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => DstClass::Broadcast,
        _ if first & 1 == 1 => DstClass::Multicast,
        _ => DstClass::UnicastKnown,
    };
    Ok(Question {
        vni,
        direction: Direction::Ingress,
        port: PortId(1),
        peer: None,
        key,
        dst_class,
    })
}

/// A frame on one line, also one that is not asked about.
pub(crate) fn show(frame: &[u8]) -> String {
    let parsed = Vni::new(1).ok().zip(Frame::parse(frame).ok());
    match parsed {
        Some((vni, parsed)) => meshd_core::flowtext::show(&parsed.flow_key(vni)),
        None => format!("{} bytes", frame.len()),
    }
}
