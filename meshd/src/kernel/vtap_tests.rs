//! The TAP with virtio-net headers against the real kernel, through VXLAN.
//!
//! ```text
//!    superframe -> mu7 ==redirect==> mx7 -> VXLAN -> mu8, which stands for the underlay: outer packets are read there
//! ```
#![allow(clippy::unwrap_used)]

use super::*;
use crate::kernel::network_tests::{run, spec, vni};
use crate::kernel::tests::{kernel, on_a_host};
use crate::kernel::{FdbChange, FdbEntry, FdbTarget, gate, netns::Netlink};
use meshd_core::ident::MacAddr;
use std::time::Duration;

/// The sum of RFC 1071, not complemented.
pub(in crate::kernel) fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([
                pair[0],
                pair.get(1).copied().unwrap_or(0),
            ]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

fn pseudo(ip: &[u8], protocol: u8, len: usize) -> Vec<u8> {
    let mut pseudo = ip[12..20].to_vec();
    pseudo.extend([0, protocol]);
    pseudo.extend(u16::try_from(len).unwrap().to_be_bytes());
    pseudo
}

const TARGET: MacAddr = MacAddr([2, 7, 7, 7, 7, 7]);
/// DSCP 46 and ECT(0).
const TOS: u8 = 46 << 2 | 2;

fn ipv4(protocol: u8, from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len() + 20).unwrap().to_be_bytes();
    let mut ip = vec![0x45, TOS, len[0], len[1], 0, 1, 0x40, 0, 64, protocol, 0, 0];
    ip.extend(from);
    ip.extend(to);
    let check = !sum(&[&ip]);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    ip.extend(payload);
    ip
}

fn ethernet(to: MacAddr, payload: &[u8]) -> Vec<u8> {
    [&to.0[..], &[2, 1, 1, 1, 1, 1, 8, 0], payload].concat()
}

/// A TCP superframe with only the pseudo header summed up, as virtio has it.
fn superframe(payload: &[u8]) -> Vec<u8> {
    let mut tcp = vec![
        0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0,
    ];
    tcp.extend(payload);
    let mut ip = ipv4(6, [10, 7, 0, 2], [10, 7, 0, 3], &tcp);
    let partial = sum(&[&pseudo(&ip, 6, tcp.len())]);
    ip[36..38].copy_from_slice(&partial.to_be_bytes());
    ethernet(TARGET, &ip)
}

async fn read(vtap: &Vtap, wanted: impl Fn(&[u8]) -> bool) -> (VnetHeader, Vec<u8>) {
    let found = async {
        loop {
            let mut frame = vec![0; 65_536];
            let (header, len) = vtap.read(&mut frame).await.unwrap();
            frame.truncate(len);
            if wanted(&frame) {
                return (header, frame);
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(3), found)
        .await
        .expect("a frame within 3 s")
}

fn is_vxlan(frame: &[u8]) -> bool {
    frame.len() > 50 && frame[12..14] == [8, 0] && frame[23] == 17 && frame[36..38] == [0x12, 0xb5]
}

#[test]
fn a_superframe_leaves_by_vxlan_in_segments_with_right_checksums_and_a_frame_comes_back() {
    on_a_host(async || {
        let (one, _events) = kernel(1).await;
        run("ip link set lo up");
        let underlay = one.make_vtap(vni(8), 1500).await.unwrap();
        run("ip addr add 192.0.2.1/24 dev mu8");
        let vtap = one.make_vtap(vni(7), 1450).await.unwrap();
        let (vxlan, _) = one.make_vxlan(&spec(7, "192.0.2.1")).await.unwrap();
        one.set_up(vni(7), NetworkRole::Vxlan, true).await.unwrap();
        let netlink = Netlink::here().unwrap();
        for (from, to) in [(vtap.index(), vxlan.index), (vxlan.index, vtap.index())] {
            gate::redirect(&netlink, from, to).await.unwrap();
        }
        let entry = FdbEntry {
            device: vxlan.index,
            mac: TARGET,
            target: FdbTarget::Vtep {
                ip: "192.0.2.2".parse().unwrap(),
                port: None,
            },
        };
        assert_eq!(one.change_fdb(vni(7), &[FdbChange::Set(entry)]).await, []);

        let payload: Vec<u8> = (0..20_000).map(|at| (at % 251) as u8).collect();
        let header = VnetHeader {
            needs_checksum: true,
            gso: meshd_core::superframe::Gso::Tcp4,
            header_len: 54,
            gso_size: 1410,
            csum_start: 34,
            csum_offset: 16,
            ..VnetHeader::default()
        };
        vtap.try_write(&header, &superframe(&payload)).unwrap();
        let (mut came, mut segments) = (Vec::<u8>::new(), 0);
        while came.len() < payload.len() {
            let (header, outer) = read(&underlay, is_vxlan).await;
            segments += 1;
            assert_eq!(header.gso, meshd_core::superframe::Gso::None);
            assert!(!header.needs_checksum && outer.len() <= 1514);
            let (ip, udp) = outer[14..].split_at(20);
            assert_eq!(sum(&[ip]), 0xffff, "the outer IP header");
            assert_eq!((ip[1], ip[6] & 0x40), (TOS, 0x40), "TOS and DF");
            assert_eq!(sum(&[&pseudo(ip, 17, udp.len()), udp]), 0xffff, "outer UDP");
            let inner = &udp[16..];
            let (ip, tcp) = inner[14..].split_at(20);
            assert_eq!(sum(&[ip]), 0xffff, "the inner IP header");
            assert_eq!(sum(&[&pseudo(ip, 6, tcp.len()), tcp]), 0xffff, "inner TCP");
            let at = u32::from_be_bytes(tcp[4..8].try_into().unwrap()) - 1;
            assert_eq!(usize::try_from(at).unwrap(), came.len());
            came.extend(&tcp[20..]);
        }
        assert_eq!(came, payload);
        println!("20 kB left in {segments} packets");

        // An ordinary frame the other way.
        let inner = ethernet(
            MacAddr([2, 1, 1, 1, 1, 1]),
            &ipv4(17, [10, 7, 0, 3], [10, 7, 0, 2], &[0; 60]),
        );
        let vxlan_payload = [&[8, 0, 0, 0, 0, 0, 7, 0][..], &inner].concat();
        let len = u16::try_from(vxlan_payload.len() + 8)
            .unwrap()
            .to_be_bytes();
        let udp = [
            &[0xc0, 0, 0x12, 0xb5, len[0], len[1], 0, 0][..],
            &vxlan_payload,
        ]
        .concat();
        let outer = ipv4(17, [192, 0, 2, 2], [192, 0, 2, 1], &udp);
        let links = netlink.link_by_index(underlay.index()).await.unwrap();
        let to = links.unwrap().mac.unwrap();
        let plain = VnetHeader::default();
        underlay.try_write(&plain, &ethernet(to, &outer)).unwrap();
        let (header, frame) = read(&vtap, |frame| frame[12..14] == [8, 0]).await;
        assert_eq!(
            (header.gso, frame),
            (meshd_core::superframe::Gso::None, inner)
        );
    });
}

#[test]
fn a_tap_outlives_its_daemon_is_adopted_and_is_opened_once() {
    on_a_host(async || {
        let first = {
            let (one, _events) = kernel(1).await;
            let vtap = one.make_vtap(vni(7), 1450).await.unwrap();
            let busy = one.make_vtap(vni(7), 1450).await.unwrap_err();
            assert!(busy.reason.contains("another process"), "{busy}");
            println!("{busy}");
            vtap.index()
        };
        let (one, _events) = kernel(1).await;
        assert_eq!(one.networks(), [vni(7)].into());
        let vtap = one.make_vtap(vni(7), 1400).await.unwrap();
        assert_eq!(vtap.index(), first);
        let device = one.observe(vni(7)).await.unwrap().devices[&NetworkRole::Vtap].clone();
        assert!(device.is_up && device.mtu == 1400 && device.name == "mu7");
        // Deleted under the daemon's feet: reading ends.
        let mut frame = [0; 2048];
        let until = Duration::from_secs(1);
        let mut reading = std::pin::pin!(vtap.read(&mut frame));
        if let Ok(read) = tokio::time::timeout(Duration::from_millis(20), &mut reading).await {
            panic!("a TAP that nobody speaks on: {read:?}");
        }
        run("ip link del mu7");
        let ended = tokio::time::timeout(until, reading).await;
        println!("{:?}", ended.as_ref().unwrap());
        assert!(ended.unwrap().is_err());
        assert!(vtap.try_write(&VnetHeader::default(), &[0; 60]).is_err());
    });
}
