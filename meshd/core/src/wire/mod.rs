//! What travels between nodes, byte by byte: `datagram` carries frames, `control` carries messages, `probe` proves a network's
//! VXLAN device, `loop_probe` looks for loops behind uplinks, `record` is what the directory spreads. Encode and decode only; no state. `docs/PROTOCOL.md` says the same
//! in prose.

pub mod control;
pub mod datagram;
pub mod inquiry;
pub mod loop_probe;
pub mod probe;
pub mod record;
