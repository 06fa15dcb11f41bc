//! The fence's table as nf_tables has it: what it is made of, and whether what is there is that.
//!
//! ```text
//!    table inet meshd-<id> {
//!        set members4 { ipv4_addr . mark }   set members6 { ipv6_addr . mark }   set vnis { mark }
//!        chain input { type filter hook input priority -300; policy accept;
//!            meta l4proto udp  udp dport <port>  jump vxlan }
//!        chain vxlan {
//!            meta nfproto ipv4  ip saddr . VNI @members4  accept
//!            meta nfproto ipv6  ip6 saddr . VNI @members6  accept
//!            VNI != @vnis  accept                               a foreign network's
//!            counter drop                                       ours from a stranger, or too short to tell
//!        } }
//! ```
//!
//! The VNI is the 24 bits at 96 after the UDP header's start, loaded as the lower three bytes of a word, so that sets and
//! listings show it as the number that it is. What ends before it cannot be VXLAN, and is dropped: over IPv6 a fragment
//! may end there, and the kernel puts fragments together only after this hook.

use super::netlink;
use super::nft::{Attribute, Message, agrees, bytes, nested, number, text};
use meshd_core::ident::Vni;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};
use std::net::IpAddr;

// enum nf_tables_msg_types of linux/netfilter/nf_tables.h.
pub(super) const NEWTABLE: u16 = 0;
pub(super) const GETTABLE: u16 = 1;
pub(super) const DELTABLE: u16 = 2;
pub(super) const NEWCHAIN: u16 = 3;
pub(super) const GETCHAIN: u16 = 4;
pub(super) const NEWRULE: u16 = 6;
pub(super) const GETRULE: u16 = 7;
pub(super) const NEWSET: u16 = 9;
pub(super) const GETSET: u16 = 10;
pub(super) const NEWSETELEM: u16 = 12;
pub(super) const GETSETELEM: u16 = 13;
pub(super) const DELSETELEM: u16 = 14;
pub(super) const GETGEN: u16 = 16;

/// In each message about a table, or what is in one, this attribute is the table's name.
pub(super) const TABLE: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const TABLE_USERDATA: u16 = 6;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LEN: u16 = 5;
const SET_ID: u16 = 10;
const SET_USERDATA: u16 = 13;
const ELEM_LIST_SET: u16 = 2;
const ELEM_LIST_ELEMENTS: u16 = 3;
const ELEM_KEY: u16 = 1;
const LIST_ELEM: u16 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;

/// Ports in rules are compared here.
const CMP_DATA: u16 = 3;
const COUNTER_BYTES: u16 = 1;
const COUNTER_PACKETS: u16 = 2;

const INPUT: &str = "input";
const VXLAN: &str = "vxlan";
/// Before connection tracking, and what people have for filters.
const PRIORITY: i32 = -300;

/// Registers of 16 bytes; the second word of the first.
const FIRST: u32 = 1;
const FIRST_SECOND_WORD: u32 = 9;
const SECOND: u32 = 2;

/// Elements in one message: its list must stay below 64 KiB.
const ELEMENTS: usize = 1000;

/// The three sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Set {
    Members4,
    Members6,
    Vnis,
}

impl Set {
    pub(super) const ALL: [Self; 3] = [Self::Members4, Self::Members6, Self::Vnis];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Members4 => "members4",
            Self::Members6 => "members6",
            Self::Vnis => "vnis",
        }
    }

    fn key_len(self) -> u32 {
        match self {
            Self::Members4 => 8,
            Self::Members6 => 20,
            Self::Vnis => 4,
        }
    }

    /// As the tool nft numbers data types: 7 an IPv4 address, 8 an IPv6 address, 19 a mark; six bits each.
    fn key_type(self) -> u32 {
        match self {
            Self::Members4 => 7 << 6 | 19,
            Self::Members6 => 8 << 6 | 19,
            Self::Vnis => 19,
        }
    }

    pub(super) fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::Members4,
            IpAddr::V6(_) => Self::Members6,
        }
    }
}

/// The element of a member.
pub(super) fn member_key(ip: IpAddr, vni: Vni) -> Vec<u8> {
    let vni = vni.get().to_ne_bytes();
    match ip {
        IpAddr::V4(ip) => [&ip.octets()[..], &vni].concat(),
        IpAddr::V6(ip) => [&ip.octets()[..], &vni].concat(),
    }
}

/// The element of a network.
pub(super) fn vni_key(vni: Vni) -> Vec<u8> {
    vni.get().to_ne_bytes().to_vec()
}

/// The member of an element; `None`: no element of ours looks like that.
pub(super) fn read_member(key: &[u8]) -> Option<(IpAddr, Vni)> {
    let (ip, vni) = key.split_at_checked(key.len().checked_sub(4)?)?;
    let ip = match ip.len() {
        4 => netlink::ip(2, ip)?,
        16 => netlink::ip(10, ip)?,
        _ => return None,
    };
    Some((ip, read_vni(vni)?))
}

/// The network of an element.
pub(super) fn read_vni(key: &[u8]) -> Option<Vni> {
    Vni::new(netlink::word(key).filter(|_| key.len() == 4)?).ok()
}

fn expression(name: &str, data: Vec<Attribute>) -> Attribute {
    nested(
        LIST_ELEM,
        vec![text(EXPR_NAME, name), nested(EXPR_DATA, data)],
    )
}

fn meta(key: u32) -> Attribute {
    expression("meta", vec![number(1, FIRST), number(2, key)])
}

fn equals(value: &[u8]) -> Attribute {
    let data = nested(CMP_DATA, vec![bytes(DATA_VALUE, value)]);
    expression("cmp", vec![number(1, FIRST), number(2, 0), data])
}

/// `base` 1: the network header, 2: the transport header.
fn payload(base: u32, offset: u32, len: u32, register: u32) -> Attribute {
    let data = [register, base, offset, len];
    expression(
        "payload",
        (1..).zip(data).map(|(kind, n)| number(kind, n)).collect(),
    )
}

/// The VNI as a number in `register`.
fn vni(register: u32) -> [Attribute; 3] {
    let word = |kind, bytes_of: [u8; 4]| nested(kind, vec![bytes(DATA_VALUE, &bytes_of)]);
    [
        payload(2, 11, 4, register),
        expression(
            "bitwise",
            vec![
                number(1, register),
                number(2, register),
                number(3, 4),
                word(4, [0, 0xff, 0xff, 0xff]),
                word(5, [0; 4]),
            ],
        ),
        // From network order: source, destination, operation, length, size.
        expression(
            "byteorder",
            vec![
                number(1, register),
                number(2, register),
                number(3, 0),
                number(4, 4),
                number(5, 4),
            ],
        ),
    ]
}

fn lookup(set: Set, inverted: bool) -> Attribute {
    let mut data = vec![text(1, set.name()), number(2, FIRST)];
    if inverted {
        data.push(number(5, 1));
    }
    expression("lookup", data)
}

fn verdict(code: i32, chain: Option<&str>) -> Attribute {
    let mut verdict = vec![number(1, code.cast_unsigned())];
    verdict.extend(chain.map(|chain| text(2, chain)));
    let data = nested(2, vec![nested(DATA_VERDICT, verdict)]);
    expression("immediate", vec![number(1, 0), data])
}

/// The rules in their order, by chain.
fn rules(port: u16) -> [(&'static str, Vec<Attribute>); 5] {
    const NFPROTO: u32 = 15;
    const L4PROTO: u32 = 16;
    const ACCEPT: i32 = 1;
    const DROP: i32 = 0;
    const JUMP: i32 = -3;
    let with_vni = |before: Vec<Attribute>, register, after: [Attribute; 2]| {
        before
            .into_iter()
            .chain(vni(register))
            .chain(after)
            .collect::<Vec<_>>()
    };
    [
        (
            INPUT,
            vec![
                meta(L4PROTO),
                equals(&[17]),
                payload(2, 2, 2, FIRST),
                equals(&port.to_be_bytes()),
                verdict(JUMP, Some(VXLAN)),
            ],
        ),
        (
            VXLAN,
            with_vni(
                vec![meta(NFPROTO), equals(&[2]), payload(1, 12, 4, FIRST)],
                FIRST_SECOND_WORD,
                [lookup(Set::Members4, false), verdict(ACCEPT, None)],
            ),
        ),
        (
            VXLAN,
            with_vni(
                vec![meta(NFPROTO), equals(&[10]), payload(1, 8, 16, FIRST)],
                SECOND,
                [lookup(Set::Members6, false), verdict(ACCEPT, None)],
            ),
        ),
        (
            VXLAN,
            with_vni(
                Vec::new(),
                FIRST,
                [lookup(Set::Vnis, true), verdict(ACCEPT, None)],
            ),
        ),
        (
            VXLAN,
            vec![expression("counter", Vec::new()), verdict(DROP, None)],
        ),
    ]
}

/// The comment that makes the table ours, as the tool nft stores one: type, length, text.
fn userdata(mark: &str) -> Vec<u8> {
    let text = [mark.as_bytes(), b"\0"].concat();
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    [&[0, length], text.as_slice()].concat()
}

/// The messages that make the table anew, whatever was there of that name; its counter begins at `dropped`.
pub(super) fn creation(table: &str, mark: &str, port: u16, dropped: u64) -> Vec<Message> {
    let message = |kind, flags, mut attributes: Vec<Attribute>| {
        attributes.insert(0, text(TABLE, table));
        Message {
            kind,
            flags,
            attributes,
        }
    };
    let mut all = vec![
        // So that there is one to be removed.
        message(NEWTABLE, NLM_F_CREATE, vec![number(TABLE_FLAGS, 0)]),
        message(DELTABLE, 0, Vec::new()),
        message(
            NEWTABLE,
            NLM_F_CREATE,
            vec![
                number(TABLE_FLAGS, 0),
                bytes(TABLE_USERDATA, &userdata(mark)),
            ],
        ),
    ];
    for (id, set) in (1..).zip(Set::ALL) {
        let mut attributes = vec![
            text(SET_NAME, set.name()),
            number(SET_FLAGS, 0),
            number(SET_KEY_TYPE, set.key_type()),
            number(SET_KEY_LEN, set.key_len()),
            number(SET_ID, id),
        ];
        if set == Set::Vnis {
            // For the tool nft: keys are in the host's byte order. Type 0, length 4, 1.
            let byte_order = [&[0, 4][..], &1u32.to_ne_bytes()].concat();
            attributes.push(bytes(SET_USERDATA, &byte_order));
        }
        all.push(message(NEWSET, NLM_F_CREATE, attributes));
    }
    all.push(message(
        NEWCHAIN,
        NLM_F_CREATE,
        vec![text(CHAIN_NAME, VXLAN)],
    ));
    let mut base = vec![text(CHAIN_NAME, INPUT)];
    base.extend(input_chain());
    all.push(message(NEWCHAIN, NLM_F_CREATE, base));
    for (chain, mut expressions) in rules(port) {
        if let Some(first) = expressions.first_mut()
            && *first == expression("counter", Vec::new())
        {
            *first = expression(
                "counter",
                vec![
                    bytes(COUNTER_BYTES, &[0; 8]),
                    bytes(COUNTER_PACKETS, &dropped.to_be_bytes()),
                ],
            );
        }
        all.push(message(
            NEWRULE,
            NLM_F_CREATE | NLM_F_APPEND,
            vec![
                text(RULE_CHAIN, chain),
                nested(RULE_EXPRESSIONS, expressions),
            ],
        ));
    }
    all
}

fn input_chain() -> Vec<Attribute> {
    // NF_INET_LOCAL_IN is 1, NF_ACCEPT is 1.
    let hook = vec![number(1, 1), number(2, PRIORITY.cast_unsigned())];
    vec![
        nested(CHAIN_HOOK, hook),
        number(CHAIN_POLICY, 1),
        text(CHAIN_TYPE, "filter"),
    ]
}

/// The messages that add elements to a set, or take them out.
pub(super) fn elements(table: &str, set: Set, keys: &[Vec<u8>], add: bool) -> Vec<Message> {
    let message = |keys: &[Vec<u8>]| {
        let list = keys.iter().map(|key| {
            let key = nested(ELEM_KEY, vec![bytes(DATA_VALUE, key)]);
            nested(LIST_ELEM, vec![key])
        });
        Message {
            kind: if add { NEWSETELEM } else { DELSETELEM },
            flags: if add { NLM_F_CREATE } else { 0 },
            attributes: vec![
                text(TABLE, table),
                text(ELEM_LIST_SET, set.name()),
                nested(ELEM_LIST_ELEMENTS, list.collect()),
            ],
        }
    };
    keys.chunks(ELEMENTS).map(message).collect()
}

/// The question for the table, or what is in it; `set` for the elements of one.
pub(super) fn question(kind: u16, table: &str, set: Option<Set>) -> Message {
    let mut attributes = Vec::new();
    if kind != GETGEN {
        attributes.push(text(TABLE, table));
    }
    attributes.extend(set.map(|set| text(ELEM_LIST_SET, set.name())));
    Message {
        kind,
        flags: 0,
        attributes,
    }
}

/// The value of one attribute.
pub(super) fn value(body: &[u8], kind: u16) -> Option<&[u8]> {
    netlink::attributes(body, 0)
        .find(|(found, _)| *found == kind)
        .map(|(_, value)| value)
}

pub(super) fn is_of_table(body: &[u8], table: &str) -> bool {
    value(body, TABLE).is_some_and(|name| netlink::text(name) == table.as_bytes())
}

/// Does the table bear the mark?
pub(super) fn is_marked(table: &[u8], mark: &str) -> bool {
    value(table, TABLE_USERDATA).is_some_and(|data| data == userdata(mark))
}

/// What of the table is not as we make it.
pub(super) fn table_fault(table: &[u8]) -> Option<&'static str> {
    (!agrees(&[number(TABLE_FLAGS, 0)], table)).then_some("the table is dormant or owned")
}

/// What of the chains is not as we make them.
pub(super) fn chains_fault(chains: &[Vec<u8>]) -> Option<&'static str> {
    let named = |name: &str| {
        let wanted = [text(CHAIN_NAME, name)];
        chains.iter().find(|chain| agrees(&wanted, chain))
    };
    let (Some(input), Some(vxlan), 2) = (named(INPUT), named(VXLAN), chains.len()) else {
        return Some("a chain is missing, or there is one too many");
    };
    if !agrees(&input_chain(), input) || value(vxlan, CHAIN_HOOK).is_some() {
        return Some("a chain has another hook, priority or policy");
    }
    None
}

/// What of the sets is not as we make them.
pub(super) fn sets_fault(sets: &[Vec<u8>]) -> Option<&'static str> {
    let as_made = |set: &Set| {
        let wanted = [
            text(SET_NAME, set.name()),
            number(SET_KEY_LEN, set.key_len()),
        ];
        let plain = |found: &[u8]| {
            value(found, SET_FLAGS).is_none_or(|flags| flags.iter().all(|&byte| byte == 0))
        };
        sets.iter()
            .any(|found| agrees(&wanted, found) && plain(found))
    };
    (sets.len() != 3 || !Set::ALL.iter().all(as_made)).then_some("a set is missing or otherwise")
}

/// The port that the rules are for, and what they dropped; `None`: they are not those that we make.
pub(super) fn read_rules(found: &[Vec<u8>]) -> Option<(u16, u64)> {
    let of = |chain: &str| -> Vec<&Vec<u8>> {
        let wanted = [text(RULE_CHAIN, chain)];
        found.iter().filter(|rule| agrees(&wanted, rule)).collect()
    };
    let in_order: Vec<&Vec<u8>> = [of(INPUT), of(VXLAN)].concat();
    let port = expressions(in_order.first()?)
        .nth(3)
        .and_then(|data| value(data, EXPR_DATA))
        .and_then(|data| value(data, CMP_DATA))
        .and_then(|data| value(data, DATA_VALUE))
        .and_then(|data| data.first_chunk::<2>().copied())
        .map(u16::from_be_bytes)?;
    let wanted = rules(port);
    let same = in_order.len() == found.len()
        && in_order.len() == wanted.len()
        && in_order.iter().zip(&wanted).all(|(found, (_, wanted))| {
            expressions(found).count() == wanted.len()
                && expressions(found)
                    .zip(wanted)
                    .all(|(found, wanted)| is_expression(wanted, found))
        });
    let counter = expressions(in_order.last()?).next()?;
    let dropped = value(counter, EXPR_DATA)
        .and_then(|data| value(data, COUNTER_PACKETS))
        .and_then(|data| data.first_chunk::<8>().copied())
        .map(u64::from_be_bytes);
    same.then_some((port, dropped.unwrap_or_default()))
}

fn expressions(rule: &[u8]) -> impl Iterator<Item = &[u8]> {
    netlink::attributes(value(rule, RULE_EXPRESSIONS).unwrap_or_default(), 0)
        .map(|(_, expression)| expression)
}

fn is_expression(wanted: &Attribute, found: &[u8]) -> bool {
    wanted
        .inner()
        .is_some_and(|wanted| agrees(wanted, found) && !is_inverted_unasked(wanted, found))
}

/// A lookup has the flag "not in the set" only where it is wanted: an attribute too many would go unseen otherwise.
fn is_inverted_unasked(wanted: &[Attribute], found: &[u8]) -> bool {
    const LOOKUP_FLAGS: u16 = 5;
    let flags = value(found, EXPR_DATA)
        .and_then(|data| value(data, LOOKUP_FLAGS))
        .is_some_and(|flags| flags.iter().any(|&byte| byte != 0));
    let is_lookup = agrees(&[text(EXPR_NAME, "lookup")], found);
    let asked = agrees_with_flag(wanted);
    is_lookup && flags && !asked
}

fn agrees_with_flag(wanted: &[Attribute]) -> bool {
    wanted.iter().any(|attribute| {
        attribute
            .inner()
            .is_some_and(|data| data.contains(&number(5, 1)))
    })
}

/// The keys of the elements in a dump.
pub(super) fn read_elements(dump: &[Vec<u8>]) -> impl Iterator<Item = &[u8]> {
    dump.iter()
        .filter_map(|body| value(body, ELEM_LIST_ELEMENTS))
        .flat_map(|list| netlink::attributes(list, 0))
        .filter_map(|(_, element)| value(value(element, ELEM_KEY)?, DATA_VALUE))
}
