//! "I am alive", said to the service manager in time, while it is so (sd_watchdog_enabled(3)).
//!
//! Owns the beat. It is not said by a timer alone: each time the driver has answered a question, and the data threads have
//! taken a task. A daemon that stands still is so started anew, and its ports go on.

use crate::driver::DriverHandle;
use meshd_core::code::ErrorCode;
use sd_notify::NotifyState;
use std::time::Duration;
use tokio::runtime::Handle;

/// Beats until it is dropped; for ever quiet where nobody listens.
pub(crate) async fn beat(driver: DriverHandle, data: Handle) {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    tracing::debug!(limit_ms = limit.as_millis(), "watchdog");
    loop {
        if is_alive(&driver, &data, limit / 2).await {
            let _ = sd_notify::notify(&[NotifyState::Watchdog]);
        } else {
            tracing::error!(
                code = %ErrorCode::DaemonStuck, "the driver or the data threads do not answer; the service manager's watchdog will end this daemon"
            );
        }
        tokio::time::sleep(limit / 4).await;
    }
}

async fn is_alive(driver: &DriverHandle, data: &Handle, within: Duration) -> bool {
    let asked = async {
        let driver = driver.view(|_, _, _| ()).await.is_ok();
        driver && data.spawn(async {}).await.is_ok()
    };
    tokio::time::timeout(within, asked).await.unwrap_or(false)
}
