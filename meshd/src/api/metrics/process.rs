//! The process itself, by the names that all exporters use for it.

use super::families::{CPU, MEMORY, OPEN_FDS, Rows, Value};
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{SysconfVar, sysconf};

/// What `/proc` and the kernel tell; what they do not is left out.
pub(super) fn gather(rows: &mut Rows) {
    if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
        let seconds = [usage.user_time(), usage.system_time()]
            .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6);
        rows.put(&CPU, &[], Value::Seconds(seconds.iter().sum()));
    }
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    if let (Some(pages), Some(page)) = (pages, page) {
        rows.put(&MEMORY, &[], Value::Gauge(pages as f64 * page as f64));
    }
    if let Ok(folder) = std::fs::read_dir("/proc/self/fd") {
        // One of them is the folder's own.
        let count = folder.count().saturating_sub(1);
        rows.put(&OPEN_FDS, &[], Value::Gauge(count as f64));
    }
}
