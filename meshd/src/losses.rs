//! What was dropped, and how much of it lately: a look every two seconds is kept for ten.
//!
//! Owns the looks. The counts themselves are the lanes' and the kernel's.

use crate::api::backend::{Answer, DropFilter};
use crate::driver::DriverHandle;
use crate::kernel::{Kernel, KernelLosses};
use crate::views::drops::{self, Counted, Counts};
use meshd_core::ident::Moment;
use meshd_core::view::{Balance, Drops};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);
/// Looks that are kept.
const KEPT: usize = 5;

/// See the module.
#[derive(Clone)]
pub(crate) struct Losses {
    driver: DriverHandle,
    kernel: Kernel,
    looks: Arc<Mutex<VecDeque<(Moment, Counts)>>>,
}

impl Losses {
    /// Nothing was looked at yet.
    pub(crate) fn new(driver: DriverHandle, kernel: Kernel) -> Self {
        Self {
            driver,
            kernel,
            looks: Arc::default(),
        }
    }

    async fn of_kernel(&self) -> Answer<KernelLosses> {
        let ports = self
            .driver
            .view(|_, world, _| world.underlay.local_ports())
            .await?;
        Ok(self.kernel.losses(&ports).await)
    }

    /// Looks until the daemon stops.
    pub(crate) async fn look(self) {
        loop {
            let looked = async {
                let kernel = self.of_kernel().await?;
                let counted = self.driver.view(move |node, world, now| {
                    let Counted { counts, .. } = drops::count(node, world, &kernel);
                    (now.moment, counts)
                });
                counted.await
            };
            let Ok(looked) = looked.await else { return };
            {
                let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
                looks.push_back(looked);
                if looks.len() > KEPT {
                    looks.pop_front();
                }
            }
            crate::rhythm::beat(LOOK).await;
        }
    }

    /// `meshd drops`.
    pub(crate) async fn drops(&self, filter: DropFilter) -> Answer<Vec<Drops>> {
        let kernel = self.of_kernel().await?;
        let oldest = {
            let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
            looks.front().cloned()
        };
        let rows = self.driver.view(move |node, world, now| {
            let counted = drops::count(node, world, &kernel);
            let before = oldest.as_ref();
            let before = before.map(|(at, counts)| (counts, now.moment.ms_since(*at)));
            drops::rows(node, &counted, before, &filter, now)
        });
        rows.await
    }

    /// What came and what left, by network.
    pub(crate) async fn balance(&self) -> Answer<Vec<Balance>> {
        self.driver
            .view(|node, world, _| drops::balance(node, world))
            .await
    }
}
