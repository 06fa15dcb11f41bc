//! Telling a container where names are answered: `/etc/netns/NAME/resolv.conf`, which `ip netns exec` mounts over
//! `/etc/resolv.conf`.
//!
//! Owns a file only while its first line is this node's mark. A namespace may have several ports: comments keep what each is
//! told, that of the first counts, and the file goes with the last. Refuses to touch one that somebody else wrote, and does
//! nothing for namespaces that are not `ip netns`'s.

use meshd_core::command::{DnsHint, NetnsRef};
use meshd_core::ident::PortId;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

const ETC: &str = "/etc/netns";
/// Bytes of the largest file that may be ours: 4096 ports would not fill it.
const OURS_MAX: u64 = 4 << 20;

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

/// What a file of ours says, and of which ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Told {
    made_folder: bool,
    /// In the order in which they came, each with its lines; those of the first count.
    ports: Vec<(PortId, Vec<String>)>,
}

const BY: &str = "written by meshd, removed with the last of its ports";
/// Of the file of one port alone, as earlier releases wrote it.
const BY_ONE: &str = "written by meshd, removed on detach";
const FOLDER: &str = ", with its folder";

impl Told {
    /// `None`: it is somebody else's. `mark`: of this node, with a colon behind.
    fn read(text: &str, mark: &str) -> Option<Self> {
        let mut lines = text.lines();
        let first = lines.next()?.strip_prefix("# ")?.strip_prefix(mark)?;
        let made_folder = first.ends_with(FOLDER);
        let mut ports: Vec<(PortId, Vec<String>)> = Vec::new();
        if let Some(by) = first.strip_prefix(' ') {
            by.starts_with(BY).then_some(())?;
            for line in lines.filter_map(|line| line.strip_prefix("# port ")) {
                let Some((number, line)) = line.split_once(": ") else {
                    continue;
                };
                let Ok(port) = number.parse().map(PortId) else {
                    continue;
                };
                match ports.iter_mut().find(|(of, _)| *of == port) {
                    Some((_, of)) => of.push(line.to_owned()),
                    None => ports.push((port, vec![line.to_owned()])),
                }
            }
        } else {
            let (number, by) = first.split_once(": ")?;
            by.starts_with(BY_ONE).then_some(())?;
            let port = PortId(number.parse().ok()?);
            ports.push((port, lines.map(str::to_owned).collect()));
        }
        Some(Self { made_folder, ports })
    }

    fn write(&self, mark: &str) -> String {
        let folder = if self.made_folder { FOLDER } else { "" };
        let mut text = format!("# {mark} {BY}{folder}\n");
        for (port, lines) in &self.ports {
            for line in lines {
                let _ = writeln!(text, "# port {port}: {line}");
            }
        }
        for line in self.ports.first().into_iter().flat_map(|(_, lines)| lines) {
            let _ = writeln!(text, "{line}");
        }
        text
    }

    fn put(&mut self, port: PortId, hint: &DnsHint) {
        let servers = hint.servers.iter().map(|ip| format!("nameserver {ip}"));
        let mut lines: Vec<String> = servers.collect();
        lines.push(format!("search {}", hint.search));
        match self.ports.iter_mut().find(|(of, _)| *of == port) {
            Some((_, of)) => *of = lines,
            None => self.ports.push((port, lines)),
        }
    }
}

/// What a file says, if it is ours. One that cannot be read is not.
fn told(path: &Path, mark: &str) -> Option<Told> {
    // Of somebody else's, however large, no more is read.
    let mut file = fs::File::open(path).ok()?.take(OURS_MAX);
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    Told::read(&String::from_utf8_lossy(&bytes), mark)
}

/// Writes the hint of a port, unless somebody else's file is there. `mark`: of this node.
///
/// # Errors
/// If the file system refuses.
pub(super) fn write(netns: &NetnsRef, hint: &DnsHint, port: PortId, mark: &str) -> io::Result<()> {
    file(netns).map_or(Ok(()), |path| write_at(&path, hint, port, mark))
}

/// Ports of one namespace are wired and removed at the same time, and each reads the file before it writes it.
static TURN: Mutex<()> = Mutex::new(());

fn write_at(path: &Path, hint: &DnsHint, port: PortId, mark: &str) -> io::Result<()> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(folder) = path.parent() else {
        return Ok(());
    };
    let exists = path.symlink_metadata().is_ok();
    let mut told = match told(path, mark) {
        Some(told) => told,
        None if exists => return Ok(()),
        None => Told {
            made_folder: !folder.is_dir(),
            ..Told::default()
        },
    };
    told.put(port, hint);
    fs::create_dir_all(folder)?;
    fs::write(path, told.write(mark))
}

/// Removes what a port is told; the file goes with the last, if it is still ours.
///
/// # Errors
/// If the file system refuses.
pub(super) fn remove(netns: &NetnsRef, port: PortId, mark: &str) -> io::Result<()> {
    file(netns).map_or(Ok(()), |path| remove_at(&path, port, mark))
}

fn remove_at(path: &Path, port: PortId, mark: &str) -> io::Result<()> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(mut told) = told(path, mark) else {
        return Ok(());
    };
    let before = told.ports.len();
    told.ports.retain(|(of, _)| *of != port);
    if !told.ports.is_empty() {
        return match told.ports.len() < before {
            true => fs::write(path, told.write(mark)),
            false => Ok(()),
        };
    }
    fs::remove_file(path)?;
    if let (true, Some(folder)) = (told.made_folder, path.parent()) {
        // Not empty any more: somebody else uses it.
        let _ = fs::remove_dir(folder);
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MARK: &str = "meshd:mesh:node:";

    fn hint(last: u8, search: &str) -> DnsHint {
        DnsHint {
            servers: vec![[10, 0, last, 1].into(), [10, 0, last, 2].into()],
            search: search.to_owned(),
        }
    }

    /// What a resolver reads of it.
    fn plain(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn a_port_that_goes_leaves_the_names_of_the_others_in_its_namespace() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("c1/resolv.conf");
        let of = |last: u8, search: &str| {
            vec![
                format!("nameserver 10.0.{last}.1"),
                format!("nameserver 10.0.{last}.2"),
                format!("search {search}"),
            ]
        };
        write_at(&path, &hint(1, "one"), PortId(7), MARK).unwrap();
        write_at(&path, &hint(2, "two"), PortId(3), MARK).unwrap();
        // Once more, as after a restart: the order stays.
        write_at(&path, &hint(2, "two"), PortId(3), MARK).unwrap();
        write_at(&path, &hint(1, "one"), PortId(7), MARK).unwrap();
        assert_eq!(plain(&path), of(1, "one"));
        // Of no port that is told there.
        remove_at(&path, PortId(9), MARK).unwrap();
        assert_eq!(plain(&path), of(1, "one"));
        remove_at(&path, PortId(7), MARK).unwrap();
        assert_eq!(plain(&path), of(2, "two"));
        remove_at(&path, PortId(3), MARK).unwrap();
        assert!(!path.exists() && !temp.path().join("c1").exists());
    }

    #[test]
    fn ports_that_come_and_go_at_once_are_all_told() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("c1/resolv.conf");
        std::thread::scope(|scope| {
            for port in 0..16 {
                let path = &path;
                scope.spawn(move || {
                    write_at(path, &hint(1, "one"), PortId(port), MARK).unwrap();
                    if port % 2 == 0 {
                        remove_at(path, PortId(port), MARK).unwrap();
                    }
                });
            }
        });
        let told = told(&path, MARK).unwrap();
        let mut ports: Vec<u32> = told.ports.iter().map(|(port, _)| port.0).collect();
        ports.sort_unstable();
        assert_eq!(
            ports,
            (0..16).filter(|port| port % 2 == 1).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_file_of_another_node_or_of_a_person_is_left_alone_and_a_folder_too() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("resolv.conf");
        for text in [
            "nameserver 192.0.2.1\n".to_owned(),
            format!("# meshd:mesh:other: {BY}\n# port 1: nameserver 192.0.2.1\n"),
            format!("# meshd:mesh:other:1: {BY_ONE}\nnameserver 192.0.2.1\n"),
            format!("# {MARK} is what meshd would write\n"),
            String::new(),
        ] {
            fs::write(&path, &text).unwrap();
            write_at(&path, &hint(1, "one"), PortId(1), MARK).unwrap();
            remove_at(&path, PortId(1), MARK).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        fs::remove_file(&path).unwrap();
        write_at(&path, &hint(1, "one"), PortId(1), MARK).unwrap();
        remove_at(&path, PortId(1), MARK).unwrap();
        assert!(!path.exists() && temp.path().exists());
    }

    #[test]
    fn a_file_of_an_earlier_release_is_taken_over_with_its_port() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("c1/resolv.conf");
        fs::create_dir(temp.path().join("c1")).unwrap();
        let text = format!("# {MARK}4: {BY_ONE}{FOLDER}\nnameserver 10.0.1.1\nsearch one\n");
        fs::write(&path, text).unwrap();
        write_at(&path, &hint(2, "two"), PortId(5), MARK).unwrap();
        assert_eq!(plain(&path), ["nameserver 10.0.1.1", "search one"]);
        remove_at(&path, PortId(4), MARK).unwrap();
        let left = ["nameserver 10.0.2.1", "nameserver 10.0.2.2", "search two"];
        assert_eq!(plain(&path), left);
        remove_at(&path, PortId(5), MARK).unwrap();
        assert!(!path.parent().unwrap().exists());
    }

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
