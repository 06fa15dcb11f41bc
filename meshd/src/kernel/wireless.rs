//! Which interfaces are wireless. An access point takes frames of one MAC from each of its stations, and drops the others without a
//! word, so that more than one MAC behind such an interface looks well and never works.
//!
//! Owns the question. The kernel says it by folders under `/sys/class/net` (Documentation/ABI/testing/sysfs-class-net); netlink does not.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Is the device of this name and number one? What cannot be looked at is none.
pub(super) fn is_wireless(name: &[u8], index: u32) -> bool {
    within(Path::new("/sys/class/net"), name, index)
}

/// sysfs shows the namespace that it was mounted in, which need not be ours: so the number has to be the same.
fn within(classes: &Path, name: &[u8], index: u32) -> bool {
    let folder = classes.join(OsStr::from_bytes(name));
    let words = ["phy80211", "wireless"];
    if !words.iter().any(|word| folder.join(word).exists()) {
        return false;
    }
    let number = std::fs::read_to_string(folder.join("ifindex"));
    number.is_ok_and(|number| number.trim() == index.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_wireless_interface_is_known_by_its_folder_and_by_its_number() {
        let classes = tempfile::tempdir().unwrap();
        let make = |name: &[u8], index: &str, folder: Option<&str>| {
            let at = classes.path().join(OsStr::from_bytes(name));
            std::fs::create_dir_all(at.join(folder.unwrap_or("queues"))).unwrap();
            std::fs::write(at.join("ifindex"), index).unwrap();
        };
        make(b"wl\xff", "3\n", Some("phy80211"));
        make(b"wl1", "4\n", Some("wireless"));
        make(b"eth0", "2\n", None);
        let look = |name: &[u8], index| within(classes.path(), name, index);
        assert!(look(b"wl\xff", 3) && look(b"wl1", 4));
        assert!(!look(b"eth0", 2), "a cable");
        assert!(!look(b"wl1", 5), "of another namespace");
        assert!(!look(b"gone", 9));
    }
}
