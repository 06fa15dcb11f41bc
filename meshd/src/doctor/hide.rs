//! Names in the place of addresses, for an archive that is not to tell any.
//!
//! Owns what counts as an address: IP addresses and MACs, alone or inside of words. Its tests are those of `redact.rs`.

use data_encoding::HEXLOWER;
use meshd_core::ident::MacAddr;
use ring::hmac;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Addresses become names that are the same for the same address, in one archive.
pub(super) fn hidden(line: &str, key: &hmac::Key) -> String {
    let is_part = |c: char| c.is_ascii_hexdigit() || matches!(c, ':' | '.');
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    let mut before: Option<char> = None;
    while !rest.is_empty() {
        let len = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(len);
        let alone = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
        // What touches a letter is another word's end or beginning, up to the colon: `via:fd00::1`.
        let (mut from, mut to) = (0, len);
        if !alone(before) {
            from = word.find(':').map_or(len, |at| at + 1);
        }
        if !alone(after.chars().next()) {
            to = word.rfind(':').unwrap_or(0);
        }
        match (word.get(..from), word.get(from..to), word.get(to..)) {
            (Some(head), Some(word), Some(tail)) => {
                out.extend([head, &address(word, key), tail]);
            }
            _ => out.push_str(word),
        }
        let mut chars = after.chars();
        before = chars.next();
        out.extend(before);
        rest = chars.as_str();
    }
    embedded(&out, key)
}

/// Dotted quads and MACs inside of words, as in `ip=192.0.2.10::192.0.2.1:…` and `BOOTIF=01-aa-bb-cc-dd-ee-ff`.
fn embedded(line: &str, key: &hmac::Key) -> String {
    let mut out = String::with_capacity(line.len());
    let (mut rest, mut before) = (line, None::<char>);
    while let Some(c) = rest.chars().next() {
        let found = match before {
            Some(before) if before.is_ascii_digit() => None,
            _ => quad(rest, key).or_else(|| mac(rest, key)),
        };
        let taken = match found {
            Some((name, len)) => {
                out.push_str(&name);
                len
            }
            None => {
                out.push(c);
                c.len_utf8()
            }
        };
        before = rest.get(..taken).and_then(|taken| taken.chars().last());
        rest = rest.get(taken..).unwrap_or_default();
    }
    out
}

/// The name of the IPv4 address that `text` begins with, and the address's length.
fn quad(text: &str, key: &hmac::Key) -> Option<(String, usize)> {
    let mut dots = 0;
    let ends = |c: char| {
        dots += usize::from(c == '.');
        dots > 3 || !(c.is_ascii_digit() || c == '.')
    };
    let len = text.find(ends).unwrap_or(text.len());
    let ip = text.get(..len)?.parse::<Ipv4Addr>().ok()?;
    Some((ip_name(ip.into(), key), len))
}

/// The name of the MAC that `text` begins with, and its length. Of seven bytes the first is the kind of hardware.
fn mac(text: &str, key: &hmac::Key) -> Option<(String, usize)> {
    let separator = *text.as_bytes().get(2)?;
    if !matches!(separator, b':' | b'-') {
        return None;
    }
    let mut bytes = Vec::new();
    let mut len = 0;
    for group in text.as_bytes().chunks(3) {
        let [high, low, end @ ..] = group else { break };
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (Some(high), Some(low)) = (digit(*high), digit(*low)) else {
            break;
        };
        bytes.push(u8::try_from(high * 16 + low).ok()?);
        len = bytes.len() * 3 - 1;
        if end != [separator] {
            break;
        }
    }
    let (kind, address) = match bytes.as_slice() {
        [_, address @ ..] if address.len() == 6 => (text.get(..3)?, address),
        address if address.len() >= 6 => ("", address),
        _ => return None,
    };
    Some((format!("{kind}{}", name("mac", address, key)), len))
}

fn name(what: &str, bytes: &[u8], key: &hmac::Key) -> String {
    let tag = hmac::sign(key, bytes);
    format!(
        "{what}-{}",
        HEXLOWER.encode(tag.as_ref().get(..4).unwrap_or_default())
    )
}

fn ip_name(ip: IpAddr, key: &hmac::Key) -> String {
    match ip {
        _ if ip.is_unspecified() || ip.is_loopback() => ip.to_string(),
        IpAddr::V4(v4) => name("ip4", &v4.octets(), key),
        IpAddr::V6(v6) => name("ip6", &v6.octets(), key),
    }
}

fn address(word: &str, key: &hmac::Key) -> String {
    // A sentence may end behind it, but the end of `fd00::` is the address's own.
    let mut bare = word;
    while bare.parse::<IpAddr>().is_err()
        && let Some(cut) = bare.strip_suffix(['.', ':'])
    {
        bare = cut;
    }
    let tail = word.get(bare.len()..).unwrap_or_default();
    if let Ok(mac) = bare.parse::<MacAddr>() {
        return format!("{}{tail}", name("mac", &mac.0, key));
    }
    if let Ok(at) = bare.parse::<IpAddr>() {
        return format!("{}{tail}", ip_name(at, key));
    }
    if let Ok(SocketAddr::V4(at)) = bare.parse::<SocketAddr>() {
        return format!("{}:{}{tail}", ip_name((*at.ip()).into(), key), at.port());
    }
    word.to_owned()
}
