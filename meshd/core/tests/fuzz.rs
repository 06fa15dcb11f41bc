//! What comes from a container or a peer, hammered: each target runs over its committed corpus and its neighbourhood, and
//! then over random bytes for a moment. The same targets run under a fuzzer: `cargo bolero test -p meshd-core <name>`.
#![allow(clippy::unwrap_used, missing_docs)]

use bytes::Bytes;
use meshd_core::flow::FlowMask;
use meshd_core::frame::Frame;
use meshd_core::ident::{Label, MacAddr, Moment, NodeId, Vni};
use meshd_core::multicast::control::Control;
use meshd_core::superframe::{self, Cut, Joined, Mender, Repair, Run, SUPERFRAME_MAX, Slice};
use meshd_core::wire::control::{JoinRequest, Message, PoolGrant, PoolRequest};
use meshd_core::wire::datagram::{self, Header, Pushed, Reassembly};
use meshd_core::wire::probe::{self, Fault, Heard, Plain, Probe};
use meshd_core::wire::record::{Signature, Signed};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(target)
}

/// The corpus of `target`: each input, each beginning of it, and it with one byte changed.
fn corpus(target: &str, check: impl Fn(&[u8])) {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no corpus for {target}");
    for file in files {
        let input = std::fs::read(file).unwrap();
        for end in 0..=input.len() {
            check(&input[..end]);
        }
        let mut changed = input.clone();
        for at in 0..input.len() {
            for value in [
                0,
                1,
                0x7f,
                0xff,
                input[at] ^ 0x80,
                input[at].wrapping_add(1),
            ] {
                changed[at] = value;
                check(&changed);
            }
            changed[at] = input[at];
        }
    }
}

fn a_frame_reads_without_panic(input: &[u8]) {
    let Ok(frame) = Frame::parse(input) else {
        return assert!(input.len() < 14);
    };
    let key = frame.flow_key(Vni::new(7).unwrap());
    assert_eq!(FlowMask::exact().apply(&key), key);
    let _ = (
        frame.is_malformed(),
        frame.arp(),
        frame.nd().map(|nd| nd.speaks_for(frame.src())),
        frame.subject(&key),
        Control::of(&frame),
    );
}

fn a_datagram_that_decodes_encodes_to_itself(input: &[u8]) {
    let Ok((header, payload)) = datagram::decode(&Bytes::copy_from_slice(input)) else {
        return;
    };
    let mut again = Vec::new();
    header.encode_into(&mut again);
    again.extend_from_slice(&payload);
    assert_eq!(again, input);
}

fn a_message_that_decodes_encodes_to_what_decodes_to_it(input: &[u8]) {
    let Ok(message) = Message::decode(input) else {
        return;
    };
    let again = message.encode().unwrap();
    assert_eq!(Message::decode(&again[4..]).unwrap(), message);
}

fn a_probe_that_counts_is_as_it_was_sent(input: &[u8]) {
    match probe::parse(input) {
        Some(Ok(Probe::Plain(plain))) => assert_eq!(plain.encode().bytes, input),
        Some(Ok(Probe::Segment(segment))) => {
            assert!(segment.len > 0 && segment.offset + segment.len <= segment.total);
            assert_eq!(input.len(), 66 + usize::from(segment.len));
        }
        Some(Err(_)) | None => {}
    }
}

/// Reads the input as datagrams behind 2-byte lengths.
fn reassembly_stays_within_its_bounds(input: &[u8]) {
    let (mut reassembly, mut rest, mut now) = (Reassembly::new(), input, Moment(0));
    while let Some((len, behind)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes(*len)).min(behind.len());
        let (one, others) = behind.split_at(len);
        rest = others;
        now = now.plus_ms(one.len() as u64 % 300);
        reassembly.handle_timeout(now);
        let Ok((header, payload)) = datagram::decode(&Bytes::copy_from_slice(one)) else {
            continue;
        };
        if let (Header::Piece { total, .. }, Pushed::Frame(_, frame)) =
            (header, reassembly.push(&header, &payload, now))
        {
            assert_eq!(frame.len(), usize::from(total));
        }
        let (frames, bytes) = reassembly.sizes();
        assert!(frames <= datagram::UNFINISHED_MAX && bytes <= datagram::UNFINISHED_BYTES_MAX);
    }
}

/// Reads the input as datagrams behind 2-byte lengths.
fn slices_become_frames_that_are_well_formed(input: &[u8]) {
    let (mut run, mut rest) = (Run::default(), input);
    let (mut mender, mut out) = (Mender::default(), VecDeque::new());
    let whole = |(_, framed, segment): Joined| {
        let unit = &framed[datagram::WHOLE_LEN..];
        assert!(unit.len() <= SUPERFRAME_MAX);
        if segment == 0 {
            assert!(!Frame::parse(unit).unwrap().is_malformed());
        } else {
            let cut = superframe::segments(unit, segment, &mut Vec::new(), |frame| {
                assert!(!Frame::parse(frame).unwrap().is_malformed());
            });
            assert!(cut);
        }
    };
    while let Some((len, behind)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes(*len)).min(behind.len());
        let (one, others) = behind.split_at(len);
        rest = others;
        let one = Bytes::copy_from_slice(one);
        if datagram::is_repair(&one) {
            if let Ok(repair) = Repair::decode(&one) {
                mender.repair(&repair, Moment(0), &mut out);
            }
        } else if let Ok(slice) = Slice::decode(&one) {
            mender.slice(slice, Moment(0), &mut out);
        }
        while let Some(slice) = out.pop_front() {
            run.push(&slice).into_iter().for_each(whole);
            if run.is_complete() {
                run.end().into_iter().for_each(whole);
            }
        }
    }
    run.end().into_iter().for_each(whole);
}

macro_rules! target {
    ($name:ident, $corpus:literal, $check:path) => {
        #[test]
        fn $name() {
            corpus($corpus, $check);
            bolero::check!()
                .with_test_time(Duration::from_millis(300))
                .for_each(|input: &[u8]| $check(input));
        }
    };
}

target!(frames, "frame", a_frame_reads_without_panic);
target!(
    datagrams,
    "datagram",
    a_datagram_that_decodes_encodes_to_itself
);
target!(
    messages,
    "control",
    a_message_that_decodes_encodes_to_what_decodes_to_it
);
target!(probes, "probe", a_probe_that_counts_is_as_it_was_sent);
target!(pieces, "reassembly", reassembly_stays_within_its_bounds);
target!(slices, "slice", slices_become_frames_that_are_well_formed);

#[test]
#[ignore = "writes the well-formed part of the corpus"]
fn write_the_corpus() {
    use etherparse::PacketBuilder;
    let put = |target: &str, name: &str, bytes: &[u8]| {
        std::fs::write(folder(target).join(name), bytes).unwrap()
    };
    let ethernet = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let v4 = || ethernet().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
    let v6 = || ethernet().ipv6([0xfd; 16], [0xfe; 16], 255);
    let mut out = Vec::new();
    v4().tcp(4000, 22, 1, 1000)
        .syn()
        .write(&mut out, &[])
        .unwrap();
    put("frame", "tcp4-syn", &out);
    out.clear();
    v6().udp(4000, 53).write(&mut out, &[1, 2, 3]).unwrap();
    put("frame", "udp6", &out);
    out.clear();
    v4().icmpv4_echo_request(1, 1)
        .write(&mut out, &[0; 8])
        .unwrap();
    put("frame", "ping4", &out);
    out.clear();
    let solicitation = [&[0xfd; 16][..], &[1, 1, 2, 0, 0, 0, 0, 1]].concat();
    v6().icmpv6_raw(135, 0, [0; 4])
        .write(&mut out, &solicitation)
        .unwrap();
    put("frame", "nd-solicitation", &out);
    out.clear();
    let tag = |vid: u16| vid.try_into().unwrap();
    ethernet()
        .double_vlan(tag(5), tag(6))
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 1)
        .udp(1, 2)
        .write(&mut out, &[])
        .unwrap();
    put("frame", "udp4-two-tags", &out);
    let arp = [
        &[0xff; 6][..],
        &[
            2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0,
            0, 0, 0, 10, 0, 0, 2,
        ],
    ]
    .concat();
    put("frame", "arp-request", &arp);
    let hops = [
        &[58, 0, 1, 4, 0, 0, 0, 0][..],
        &[135, 0, 0, 0, 0, 0, 0, 0],
        &[0xfd; 16],
    ]
    .concat();
    let behind = [
        &out[..12],
        &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 60, 255],
        &[0xfd; 16],
        &[0xfe; 16],
        &hops,
    ]
    .concat();
    put("frame", "nd-behind-options", &behind);

    let vni = Vni::new(7).unwrap();
    for (name, tcp) in [("tcp4", true), ("udp6", false)] {
        let mut unit = Vec::new();
        let built = match tcp {
            true => v4().tcp(4000, 80, 1, 1000).write(&mut unit, &[7; 150]),
            false => v6().udp(4000, 53).write(&mut unit, &[7; 150]),
        };
        built.unwrap();
        let mut stream = Vec::new();
        let (cut, mut room) = (Cut::of(&unit, 50, 140).unwrap(), bytes::BytesMut::new());
        for (number, one) in cut.datagrams(vni, 3, 1, &mut room).enumerate() {
            // The second is lost, and made again.
            if number != 1 {
                stream.extend_from_slice(&(one.len() as u16).to_be_bytes());
                stream.extend_from_slice(&one);
            }
        }
        put("slice", name, &stream);
    }
    let frame = vec![9; 700];
    let mut stream = Vec::new();
    for (i, max) in [800, 400, 300].into_iter().enumerate() {
        let mut cut: Vec<Vec<u8>> = Vec::new();
        for (header, range) in datagram::split(vni, i as u32, frame.len(), max, i % 2 == 1) {
            let mut one = Vec::new();
            header.encode_into(&mut one);
            one.extend_from_slice(&frame[range]);
            cut.push(one);
        }
        put(
            "datagram",
            &format!("first-of-{}", cut.len()),
            &cut[0][..cut[0].len().min(40)],
        );
        for one in cut.iter().rev() {
            stream.extend_from_slice(&(one.len() as u16).to_be_bytes());
            stream.extend_from_slice(one);
        }
    }
    put("datagram", "whole", &[1, 0, 0, 7, 1, 2, 3]);
    put("reassembly", "backwards", &stream);

    let (dst, src) = (MacAddr([2; 6]), MacAddr([6; 6]));
    for (name, size) in [("plain-small", 64), ("plain-longer", 200)] {
        let heard = Heard {
            seq_max: 70,
            window: 0xf7,
            delay_us: 1234,
            data: 99,
            altered: 1,
            super_ok: 4,
            super_bad: 3,
            super_fault: Some(Fault::TcpChecksum),
        };
        let plain = Plain {
            dst,
            src,
            token: 0x0102_0304_0506_0708,
            seq: 77,
            size,
            heard,
        };
        put("probe", name, &plain.encode().bytes);
    }
    // The last segment, as the kernel cuts it.
    let whole = probe::superframe(dst, src, 0x0102_0304_0506_0708, 5, 576);
    let cut = whole.segmentation.unwrap();
    let (headers, payload) = whole.bytes.split_at(usize::from(cut.hdr_len));
    let offset = 3 * usize::from(cut.gso_size);
    let (mut ip, _) = etherparse::Ipv4Header::from_slice(&headers[14..]).unwrap();
    let (mut tcp, _) = etherparse::TcpHeader::from_slice(&headers[34..]).unwrap();
    ip.set_payload_len(32 + payload[offset..].len()).unwrap();
    ip.header_checksum = ip.calc_header_checksum();
    tcp.sequence_number = offset as u32;
    tcp.checksum = tcp.calc_checksum_ipv4(&ip, &payload[offset..]).unwrap();
    out.clear();
    out.extend_from_slice(&headers[..14]);
    ip.write(&mut out).unwrap();
    tcp.write(&mut out).unwrap();
    out.extend_from_slice(&payload[offset..]);
    assert!(matches!(probe::parse(&out), Some(Ok(Probe::Segment(_)))));
    put("probe", "segment", &out);

    let signed = Signed {
        body: vec![1, 2, 3],
        signature: Signature([4; 32], [5; 32]),
    };
    let name: Label = "web".parse().unwrap();
    let mesh = meshd_core::ident::MeshId([6; 32]);
    let messages = [
        (
            "join",
            Message::Join(JoinRequest {
                version: 1,
                mesh,
                secret: [7; 16],
                name,
            }),
        ),
        ("swim", Message::Swim(vec![1, 2, 3, 4])),
        ("records", Message::Records(vec![signed.clone(), signed])),
        (
            "pool-request",
            Message::PoolRequest(PoolRequest {
                vni,
                subnet: 0,
                request: 9,
                urgent: true,
                within: Some((0x0a00_0040, 0x0a00_007f)),
            }),
        ),
        (
            "pool-grant",
            Message::PoolGrant(PoolGrant {
                vni,
                subnet: 0,
                request: 9,
                range: Some((1, 2)),
                ask: vec![NodeId([8; 32])],
            }),
        ),
    ];
    for (name, message) in messages {
        put("control", name, &message.encode().unwrap()[4..]);
    }
}
