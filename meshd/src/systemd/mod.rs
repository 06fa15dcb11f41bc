//! The daemon as a service of systemd.
//!
//! ```text
//!   units      meshd.service, meshd.socket: their text, `meshd install` and `uninstall`
//!   inherited  what systemd hands over at the start: the API's socket, TAPs of an earlier run
//!   watchdog   "I am alive", said only while the driver answers and the data threads take work
//! ```
//!
//! Owns what is particular to systemd (sd_notify(3), sd_listen_fds(3)). Without it, all of this does nothing.

pub(crate) mod inherited;
pub(crate) mod units;
pub(crate) mod watchdog;
