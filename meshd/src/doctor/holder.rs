//! Who holds a UDP port of this host: by the kernel's tables, and the descriptors of all processes.

use meshd_core::diagnosis::sockets;
use meshd_core::ident::escape;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Sockets at this port, in the caller's network namespace; those of the kernel have an inode as others have, and no process.
fn inodes(port: u16) -> Vec<u64> {
    let tables = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"];
    let tables = tables.map(|path| fs::read_to_string(path).unwrap_or_default());
    let sockets = tables.iter().flat_map(|table| sockets::parse(table));
    let held = sockets.filter(|socket| socket.port == port);
    held.map(|socket| socket.inode).collect()
}

/// `name (pid N)` of the first process found that holds the port; `None`: nobody, the kernel itself, or somebody into whom the caller
/// may not look.
pub(super) fn of_port(port: u16) -> Option<String> {
    let wanted: Vec<String> = inodes(port)
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if wanted.is_empty() {
        return None;
    }
    let is_process = |name: &std::ffi::OsStr| name.as_bytes().iter().all(u8::is_ascii_digit);
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut processes = processes.filter(|entry| is_process(&entry.file_name()));
    processes.find_map(|process| holds(&process.path(), &wanted))
}

fn holds(process: &Path, wanted: &[String]) -> Option<String> {
    let files = fs::read_dir(process.join("fd")).ok()?.flatten();
    let mut targets = files.filter_map(|file| fs::read_link(file.path()).ok());
    targets.find(|target| {
        wanted
            .iter()
            .any(|socket| target.as_os_str() == socket.as_str())
    })?;
    let comm = fs::read(process.join("comm")).unwrap_or_default();
    let pid = process.file_name()?.to_string_lossy().into_owned();
    Some(format!("{} (pid {pid})", escape(comm.trim_ascii_end())))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_port_is_named() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let holder = of_port(port).unwrap();
        assert!(
            holder.contains(&format!("(pid {})", std::process::id())),
            "{holder}"
        );
        drop(socket);
        assert_eq!(of_port(port), None);
    }
}
