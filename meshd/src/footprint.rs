//! What the daemon keeps in memory beside what it works with: what only its start, or a burst of peers that came, used.
//!
//! Reading configs, opening stores, setting up TLS and the plugins' engine touch most of the binary once, and need more memory than
//! anything later. The kernel maps each touched place of the binary with its neighbours, and leaves it mapped; the allocator keeps
//! what was freed: together two thirds of an idle daemon's resident memory. [`give_back`] gives both back: soon after the start, and
//! later, in idle times or at the latest after [`BUSY_MAX`], when [`GROWTH`] was added since, so that what stays large costs nothing
//! again. What is used again of the binary comes back by a minor fault from the page cache.
//!
//! Owns no memory. Of the binary it touches what was never written, so nothing can be lost.
#![allow(unsafe_code)] // madvise(2) over addresses that the kernel told, malloc_trim(3).

use nix::sys::mman::{MmapAdvise, madvise};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use std::ffi::c_void;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

/// From ready to idle: what the first networks, ports and peers need was used by then.
const AFTER: Duration = Duration::from_secs(3);
/// Between two looks at what was added, and how busy the daemon was.
const EACH: Duration = Duration::from_secs(15);
/// Share of a core that was used between two looks, below which it was idle: load that will go on would ask for the same memory again.
const IDLE: f64 = 0.05;
/// A daemon that never is gives memory back so often.
const BUSY_MAX: Duration = Duration::from_secs(3600);
/// KiB of heap and stacks beside those that stayed when memory was last given back.
const GROWTH: u64 = 1024;

/// Gives memory back for as long as it is polled: after the start, and whenever [`idle`] returns and much was added.
pub(crate) async fn keep_small() {
    let mut kept = 0;
    tokio::time::sleep(AFTER).await;
    loop {
        // It takes milliseconds, for which nothing else of that thread would run.
        let look = tokio::task::spawn_blocking(move || -> io::Result<Option<u64>> {
            if written()? < kept + GROWTH {
                return Ok(None);
            }
            give_back()?;
            written().map(Some)
        });
        match look.await.map_err(io::Error::other).flatten() {
            Ok(now) => kept = now.unwrap_or(kept),
            Err(error) => {
                tracing::debug!(%error, "memory that is not used is kept");
                return;
            }
        }
        idle().await;
    }
}

/// Returns after [`EACH`] in which the daemon was idle, or after [`BUSY_MAX`].
async fn idle() {
    let begun = Instant::now();
    while begun.elapsed() < BUSY_MAX {
        let (before, since) = (used(), Instant::now());
        tokio::time::sleep(EACH).await;
        let busy = (used() - before).num_microseconds() as f64 / 1e6;
        if busy < IDLE * since.elapsed().as_secs_f64() {
            return;
        }
    }
}

/// Time of processors that this process has used; zero if the kernel does not say.
fn used() -> TimeVal {
    let usage = getrusage(UsageWho::RUSAGE_SELF);
    usage.map_or(TimeVal::zero(), |usage| {
        usage.user_time() + usage.system_time()
    })
}

/// Resident KiB that are of no file: heap and stacks (`RssAnon` of proc_pid_status(5)).
fn written() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok());
    number.ok_or_else(|| io::Error::other("/proc/self/status has no RssAnon"))
}

/// Unmaps what this program's file has, and what is used again is mapped again; gives freed memory back.
///
/// # Errors
/// If `/proc` cannot be read, or by madvise(2). Then all stays as it is.
fn give_back() -> io::Result<()> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let maps = std::fs::read_to_string("/proc/self/smaps")?;
    for range in unwritten(&maps, &program.to_string_lossy()) {
        let Some(start) =
            NonNull::new(std::ptr::with_exposed_provenance_mut::<c_void>(range.start))
        else {
            continue;
        };
        // SAFETY: the range is a mapping of a file without the right to write, of which no page was ever written, so its pages are
        // those of the file, and come back as they were (madvise(2), MADV_DONTNEED).
        unsafe { madvise(start, range.len(), MmapAdvise::MADV_DONTNEED) }?;
    }
    // SAFETY: it takes no pointer, and may be called at any time by any thread.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
    Ok(())
}

/// The mappings of `program` in this text of `/proc/self/smaps` (proc_pid_smaps(5)) that nobody can write and nobody has written.
/// Constants with addresses in them were: the loader did, and took the right away after (`PT_GNU_RELRO`).
fn unwritten(smaps: &str, program: &str) -> Vec<Range<usize>> {
    let (mut found, mut mapping) = (Vec::new(), None);
    for line in smaps.lines() {
        if let Some(read_only) = mapping_of(line, program) {
            mapping = read_only;
        } else if line.split_ascii_whitespace().eq(["Anonymous:", "0", "kB"]) {
            found.extend(mapping.take());
        }
    }
    found
}

/// `None`: the line does not begin a mapping. Its addresses, if it is one of `program` that nobody can write.
fn mapping_of(line: &str, program: &str) -> Option<Option<Range<usize>>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let address = |hex| usize::from_str_radix(hex, 16).ok();
    let range = address(start)?..address(end)?;
    let is_fixed = matches!(words.next()?, "r-xp" | "r--p");
    let path = words.skip(3).collect::<Vec<_>>().join(" ");
    Some((is_fixed && path == program).then_some(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_never_written_of_the_program_is_left() {
        let mapping = |rights: &str, path: &str, written: u32| {
            format!(
                "7f00a000-7f00c000 {rights} 00001000 fe:00 42    {path}\nRss:  8 kB\nAnonymous:    {written} kB\nVmFlags: rd\n"
            )
        };
        let left = |text: String| unwritten(&text, "/usr/bin/meshd");
        let all = 0x7f00_a000..0x7f00_c000;
        for rights in ["r-xp", "r--p"] {
            assert_eq!(
                left(mapping(rights, "/usr/bin/meshd", 0)),
                std::slice::from_ref(&all)
            );
            assert!(left(mapping(rights, "/usr/bin/meshd", 4)).is_empty());
        }
        for (rights, path) in [
            ("rw-p", "/usr/bin/meshd"),
            ("rwxp", "/usr/bin/meshd"),
            ("r-xp", "/usr/lib/libc.so.6"),
            ("r--p", ""),
        ] {
            let text = mapping("r--p", "/usr/bin/meshd", 4) + &mapping(rights, path, 0);
            assert!(left(text).is_empty());
        }
        assert!(left("7f00a000".to_owned()).is_empty());
    }

    #[test]
    fn what_was_written_and_freed_is_given_back() {
        // Much beside what the tests that run at the same time take.
        const HELD: u64 = 128 * 1024;
        let before = written().unwrap();
        let held = (0..HELD).map(|_| vec![1_u8; 1024]).collect::<Vec<_>>();
        assert!(written().unwrap() > before + HELD / 2);
        drop(held);
        give_back().unwrap();
        assert!(written().unwrap() < before + HELD / 2);
    }

    #[test]
    fn the_program_goes_on_after_its_text_was_left() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("RssFile:"));
            let number = line.unwrap().split_ascii_whitespace().nth(1).unwrap();
            number.parse::<u64>().unwrap()
        };
        let before = resident();
        give_back().unwrap();
        assert!(resident() < before, "{} kB, before {before}", resident());
    }
}
