//! Custom sections at a component's top level, without a parser of all the rest.
//!
//! ```text
//!   \0asm 0d 00 01 00 | id size payload | id size payload | …        id 0: custom, its payload begins with its name
//! ```

use core::ops::Range;

/// Name of the section with the controller of a package, a component of the world `controller`.
pub const CONTROLLER: &str = "meshd:controller";
/// Magic, version and layer.
pub(crate) const PREAMBLE: usize = 8;

/// One top-level section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Section<'a> {
    /// All of it, with id and size.
    pub(crate) range: Range<usize>,
    /// Name and content, of a custom section.
    pub(crate) custom: Option<(&'a str, &'a [u8])>,
}

/// The top-level sections in order; `None` behind the first that does not fit the bytes.
pub(crate) fn sections(bytes: &[u8]) -> impl Iterator<Item = Option<Section<'_>>> {
    let mut at = Some(PREAMBLE);
    core::iter::from_fn(move || {
        let start = at.filter(|&start| start < bytes.len())?;
        let section = one(bytes, start);
        at = section.as_ref().map(|section| section.range.end);
        Some(section)
    })
}

fn one(bytes: &[u8], start: usize) -> Option<Section<'_>> {
    let id = *bytes.get(start)?;
    let (size, behind) = leb(bytes, start.checked_add(1)?)?;
    let end = behind.checked_add(size)?;
    let payload = bytes.get(behind..end)?;
    let custom = match id {
        0 => {
            let (length, name) = leb(payload, 0)?;
            let content = name.checked_add(length)?;
            let name = core::str::from_utf8(payload.get(name..content)?).ok()?;
            Some((name, payload.get(content..)?))
        }
        _ => None,
    };
    Some(Section {
        range: start..end,
        custom,
    })
}

/// An unsigned number of at most 32 bits, and the place behind it.
fn leb(bytes: &[u8], start: usize) -> Option<(usize, usize)> {
    let mut value = 0u64;
    for n in 0..5 {
        let byte = *bytes.get(start.checked_add(n)?)?;
        value |= u64::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            let value = u32::try_from(value).ok()?;
            return Some((usize::try_from(value).ok()?, start + n + 1));
        }
    }
    None
}

/// The content of the first custom section of this name at the top level of a component.
#[must_use]
pub fn section<'a>(component: &'a [u8], name: &str) -> Option<&'a [u8]> {
    sections(component)
        .flatten()
        .filter_map(|section| section.custom)
        .find(|(found, _)| *found == name)
        .map(|(_, content)| content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sections_are_told_apart_and_what_is_cut_off_ends_the_walk() {
        let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
        bytes.extend([1, 2, 9, 9]);
        bytes.extend([0, 5, 1, b'a', 7, 8, 9]);
        assert_eq!(section(&bytes, "a"), Some([7, 8, 9].as_slice()));
        assert_eq!(section(&bytes, "b"), None);
        bytes.extend([0, 0x80, 0x80, 0x80, 0x80, 0x80]);
        let all: Vec<_> = sections(&bytes).collect();
        assert_eq!(all.len(), 3);
        assert_eq!(all.last(), Some(&None));
    }

    proptest! {
        #[test]
        fn any_bytes_end_the_walk_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let ranges: Vec<_> = sections(&bytes).flatten().map(|s| s.range).collect();
            prop_assert!(ranges.iter().all(|range| range.end <= bytes.len()));
        }
    }
}
