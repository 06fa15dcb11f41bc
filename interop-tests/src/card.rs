//! The card of a virtual machine: what qemu does with the file of a macvtap.
#![allow(unsafe_code)] // ioctl(2): TUNSETIFF.

use crate::frames::frame;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Opens a macvtap's file as qemu does, without virtio-net headers; reads do not wait.
///
/// # Errors
/// If there is no such file, or it is no macvtap's.
pub fn open(path: &str) -> Result<File> {
    /// `TUNSETIFF` of linux/if_tun.h.
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("open {path}"))?;
    // struct ifreq: name 16, flags 2. IFF_TAP | IFF_NO_PI.
    let mut request = [0u8; 40];
    request[16..18].copy_from_slice(&0x1002u16.to_ne_bytes());
    // SAFETY: an open descriptor, and a request of the length that the kernel reads.
    let set = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    ensure!(set == 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
    // SAFETY: an open descriptor.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    Ok(file)
}

/// Asks for `target` by ARP through the file, as a virtual machine's card would; true if it is answered within 5 s.
///
/// # Errors
/// If the target is no IPv4 address, or a frame cannot be sent.
pub fn asks(file: &mut File, own: [u8; 6], ip: Ipv4Addr, target: IpAddr) -> Result<bool> {
    let IpAddr::V4(target) = target else {
        anyhow::bail!("not IPv4")
    };
    let body = [
        &[0, 1, 8, 0, 6, 4, 0, 1][..],
        &own,
        &ip.octets(),
        &[0; 6],
        &target.octets(),
        &[0; 18],
    ]
    .concat();
    let ask = frame([0xff; 6], own, 0x0806, &body);
    let end = Instant::now() + Duration::from_secs(5);
    let mut buffer = [0; 2048];
    while Instant::now() < end {
        file.write_all(&ask)?;
        let round = Instant::now() + Duration::from_millis(300);
        while Instant::now() < round {
            match file.read(&mut buffer) {
                Ok(n) => {
                    let heard = &buffer[..n];
                    let reply = [8, 6, 0, 1, 8, 0, 6, 4, 0, 2];
                    if heard.starts_with(&own) && heard.get(12..22) == Some(&reply) {
                        return Ok(true);
                    }
                }
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
    Ok(false)
}
