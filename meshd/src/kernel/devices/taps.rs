//! Macvtaps of the host while no machine has their file open: the host's own IP stack is still there.
//!
//! Owns when. A machine that has the file gets the frames, and the host none; until then the host would answer, at the MAC of the
//! machine to come, for each of its own addresses. A macvtap that is given addresses answers for these alone.

use super::super::failure::{Failure, refused};
use super::super::still;
use super::places::Spot;
use super::{HostDevices, SCOPE_LINK};
use meshd_core::ident::IfName;

impl HostDevices {
    /// One that was just made; if it cannot be still, it is not left.
    pub(super) async fn keep_still(&self, of: &IfName) -> Result<(), Failure> {
        let done = self.silence(of).await;
        if done.is_err() {
            let _ = self.remove(of).await;
        }
        done
    }

    /// One that lost an address: if that was the last.
    pub(super) async fn still_again(&self, of: &IfName) -> Result<(), Failure> {
        let Spot {
            netlink,
            netns,
            link,
        } = self.spot(of).await?;
        let all = netlink.addresses().await;
        let all = all.map_err(refused("read the addresses of", of, &netns))?;
        let mut its = all.iter().filter(|it| it.index == link.index);
        match its.any(|it| it.scope < SCOPE_LINK) {
            true => Ok(()),
            false => self.silence(of).await,
        }
    }

    async fn silence(&self, of: &IfName) -> Result<(), Failure> {
        let Spot {
            netlink,
            netns,
            link,
        } = self.spot(of).await?;
        still::still(link.index, &link.name, (&netns, &netlink))
            .await
            .map_err(refused("keep the host's own packets off", of, &netns))
    }
}
