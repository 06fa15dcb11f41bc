//! A controller in its component. There is one thread, and one call at a time.

use super::{Controller, Host};
use crate::config::from_json;
use crate::wit::{events, types};
use std::sync::{Mutex, MutexGuard};

/// Where the component keeps its controller.
pub struct Seat<C>(Mutex<Option<C>>);

impl<C> Seat<C> {
    /// Nobody sits there.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    fn lock(&self) -> MutexGuard<'_, Option<C>> {
        match self.0.lock() {
            Ok(seat) => seat,
            Err(_) => panic!("it panicked before"),
        }
    }
}

/// # Errors
/// What is wrong in the config.
pub fn configure<C: Controller>(
    seat: &Seat<C>,
    config: &str,
) -> Result<(), Vec<types::ConfigError>> {
    let host = Host::new();
    let mut seat = seat.lock();
    let read = from_json::<C::Config>(config).and_then(|config| match seat.as_mut() {
        Some(controller) => controller.reconfigure(config, &host),
        None => {
            *seat = Some(C::new(config, &host)?);
            Ok(())
        }
    });
    read.map_err(|errors| {
        let send = |e: crate::ConfigError| types::ConfigError {
            pointer: e.pointer,
            message: e.message,
        };
        errors.into_iter().map(send).collect()
    })
}

/// # Panics
/// If the host has not configured the instance; that ends it.
pub fn on_event<C: Controller>(seat: &Seat<C>, event: events::Event) {
    match seat.lock().as_mut() {
        Some(controller) => controller.on_event(event.into(), &Host::new()),
        None => panic!("not configured"),
    }
}

/// Nothing, of one that is not configured.
pub fn save<C: Controller>(seat: &Seat<C>) -> Vec<u8> {
    seat.lock().as_ref().map_or_else(Vec::new, C::save)
}

/// # Errors
/// Why the state is not taken.
pub fn restore<C: Controller>(
    seat: &Seat<C>,
    state: &[u8],
    from_version: &str,
) -> Result<(), String> {
    match seat.lock().as_mut() {
        Some(controller) => controller.restore(state, from_version),
        None => Err("not configured".to_owned()),
    }
}
