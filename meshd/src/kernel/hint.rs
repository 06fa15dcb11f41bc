//! Telling a container where names are answered: `/etc/netns/NAME/resolv.conf`, which `ip netns exec` mounts over
//! `/etc/resolv.conf`.
//!
//! Owns a file only while its first line is our mark. Refuses to touch one that somebody else wrote, and does nothing for
//! namespaces that are not `ip netns`'s.

use meshd_core::command::{DnsHint, NetnsRef};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const ETC: &str = "/etc/netns";

/// The file of a namespace made by `ip netns add`.
fn file(netns: &NetnsRef) -> Option<PathBuf> {
    let NetnsRef::Path(bytes) = netns else {
        return None;
    };
    let name = [&b"/run/netns/"[..], b"/var/run/netns/"]
        .into_iter()
        .find_map(|folder| bytes.strip_prefix(folder))?;
    let plain = !name.is_empty() && !name.contains(&b'/') && name != b"." && name != b"..";
    plain.then(|| {
        Path::new(ETC)
            .join(OsStr::from_bytes(name))
            .join("resolv.conf")
    })
}

fn first_line(mark: &str, made_folder: bool) -> String {
    let folder = if made_folder { ", with its folder" } else { "" };
    format!("# {mark}: written by meshd, removed on detach{folder}")
}

fn is_ours(path: &Path, mark: &str) -> bool {
    // Only the first line counts, so a large file is not read whole for it.
    use std::io::BufRead;
    let mut line = Vec::new();
    let read = fs::File::open(path).and_then(|file| {
        io::BufReader::new(io::Read::take(file, 512)).read_until(b'\n', &mut line)
    });
    read.is_ok() && line.starts_with(format!("# {mark}: ").as_bytes())
}

/// Writes the hint, unless somebody else's file is there.
///
/// # Errors
/// If the file system refuses.
pub(super) fn write(netns: &NetnsRef, hint: &DnsHint, mark: &str) -> io::Result<()> {
    let Some(path) = file(netns) else {
        return Ok(());
    };
    let Some(folder) = path.parent() else {
        return Ok(());
    };
    let (exists, ours) = (path.symlink_metadata().is_ok(), is_ours(&path, mark));
    if exists && !ours {
        return Ok(());
    }
    let made_folder = if ours {
        fs::read_to_string(&path)?.lines().next() == Some(&first_line(mark, true))
    } else {
        !folder.is_dir()
    };
    fs::create_dir_all(folder)?;
    let mut text = first_line(mark, made_folder);
    for server in &hint.servers {
        let _ = write!(text, "\nnameserver {server}");
    }
    let _ = writeln!(text, "\nsearch {}", hint.search);
    fs::write(&path, text)
}

/// Removes the hint if it is still ours.
///
/// # Errors
/// If the file system refuses.
pub(super) fn remove(netns: &NetnsRef, mark: &str) -> io::Result<()> {
    let Some(path) = file(netns) else {
        return Ok(());
    };
    if !is_ours(&path, mark) {
        return Ok(());
    }
    let made_folder = fs::read_to_string(&path)?.lines().next() == Some(&first_line(mark, true));
    fs::remove_file(&path)?;
    if let (true, Some(folder)) = (made_folder, path.parent()) {
        // Not empty any more: somebody else uses it.
        let _ = fs::remove_dir(folder);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespaces_of_ip_netns_have_a_file() {
        let of = |path: &[u8]| file(&NetnsRef::Path(path.to_vec()));
        assert_eq!(
            of(b"/run/netns/c1"),
            Some(PathBuf::from("/etc/netns/c1/resolv.conf"))
        );
        for path in [
            &b"/proc/1/ns/net"[..],
            b"/run/netns/",
            b"/run/netns/..",
            b"/run/netns/a/b",
            b"/run/docker/netns/x",
        ] {
            assert_eq!(of(path), None);
        }
    }
}
