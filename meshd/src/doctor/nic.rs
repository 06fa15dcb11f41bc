//! Features and MTUs of interfaces, by the ioctls of ethtool (linux/ethtool.h) and of interfaces (netdevice(7)).
#![allow(unsafe_code)] // Two ioctls that no library of ours wraps; each buffer has the length that it states.

use meshd_core::diagnosis::nic::{Interface, WANTED};
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
/// Names of features.
const ETH_SS_FEATURES: u32 = 4;
const STRING_LEN: usize = 32;
/// More no kernel has.
const FEATURES_MAX: usize = 1024;

fn request(name: &str) -> Option<libc::ifreq> {
    // SAFETY: all zeros are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return None;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Some(request)
}

fn ioctl(what: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0").or_else(|_| UdpSocket::bind("[::]:0"))?;
    // SAFETY: the descriptor is open for the whole call; `request` is a valid `ifreq`, and what it points to is valid for the
    // length that the caller's buffer states in its head.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), what, std::ptr::from_mut(request)) };
    match done {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The MTU of an interface of the caller's network namespace; `None`: there is none of this name.
pub(super) fn mtu(name: &str) -> Option<u32> {
    let mut request = request(name)?;
    ioctl(libc::SIOCGIFMTU, &mut request).ok()?;
    // SAFETY: SIOCGIFMTU has filled this part of the union.
    u32::try_from(unsafe { request.ifr_ifru.ifru_mtu }).ok()
}

/// One call of ethtool on a buffer of 32-bit words, the first of which is the command.
fn ethtool(name: &str, buffer: &mut [u32]) -> Option<()> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_data = buffer.as_mut_ptr().cast();
    ioctl(SIOCETHTOOL, &mut request).ok()
}

/// All features of an interface that it can have and somebody may change: their names, and which are on.
fn features(name: &str) -> Option<Vec<(String, bool)>> {
    // struct ethtool_sset_info: cmd, reserved, mask (64 bit), then one length for each bit that is set.
    let mut info = [ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0, 0];
    ethtool(name, &mut info)?;
    let count = usize::try_from(info[4])
        .ok()
        .filter(|count| *count <= FEATURES_MAX)?;
    // struct ethtool_gstrings: cmd, string_set, len, then the strings.
    let mut strings = vec![0; 3 + count * STRING_LEN / 4];
    strings[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, ETH_SS_FEATURES, info[4]]);
    ethtool(name, &mut strings)?;
    let text: Vec<u8> = strings
        .iter()
        .skip(3)
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    // struct ethtool_gfeatures: cmd, size, then blocks of available, requested, active, never_changed.
    let blocks = count.div_ceil(32);
    let mut bits = vec![0; 2 + blocks * 4];
    bits[..2].copy_from_slice(&[ETHTOOL_GFEATURES, u32::try_from(blocks).ok()?]);
    ethtool(name, &mut bits)?;
    let feature = |(nth, name): (usize, &[u8])| {
        let end = name
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(name.len());
        let name = String::from_utf8_lossy(&name[..end]).into_owned();
        let block = bits.get(2 + nth / 32 * 4..)?.first_chunk::<4>()?;
        let is = |word: usize| block[word] & 1 << (nth % 32) != 0;
        let (available, active, fixed) = (is(0), is(2), is(3));
        (available && !fixed).then_some((name, active))
    };
    Some(
        text.chunks(STRING_LEN)
            .take(count)
            .enumerate()
            .filter_map(feature)
            .collect(),
    )
}

/// What the doctor wants to know of them.
pub(super) fn read(devices: &[String]) -> Vec<Interface> {
    let wanted = |name: &str| WANTED.iter().any(|(wanted, ..)| *wanted == name);
    let interface = |name: &String| {
        let mut features = features(name)?;
        features.retain(|(feature, _)| wanted(feature));
        Some(Interface {
            name: name.clone(),
            features,
        })
    };
    devices.iter().filter_map(interface).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_has_an_mtu_and_features_and_a_name_that_is_none_has_not() {
        assert!(mtu("lo").unwrap() >= 1280);
        let features = features("lo").unwrap();
        assert!(!features.is_empty());
        let is_name = |name: &String| name.chars().all(|c| c.is_ascii_graphic());
        assert!(
            features.iter().all(|(name, _)| is_name(name)),
            "{features:?}"
        );
        assert!(mtu("no-such-if").is_none() && super::features("no-such-if").is_none());
        assert!(mtu("a name that is far too long").is_none());
    }
}
