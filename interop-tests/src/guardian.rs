//! The end of a lab, however it comes: namespaces, processes inside them, and the folder.
//!
//! Owns the process that waits on a pipe and removes everything as soon as the pipe is closed, and what happens on Ctrl-C.
//! Refuses to touch what no lab made: names carry the id of the process that did.
#![allow(unsafe_code)]

use anyhow::{Context, Result};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, Once, PoisonError};

/// Removes labs whose process is gone, should both it and its guardian have been killed.
pub(crate) fn bury_the_dead() {
    let Ok(list) = std::fs::read_dir("/run/netns") else {
        return;
    };
    let mut dead: Vec<String> = Vec::new();
    for name in list
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
    {
        let digits: String = name
            .strip_prefix("ml")
            .unwrap_or_default()
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        let kept = std::env::temp_dir()
            .join(format!("ml{digits}"))
            .join("down.sh")
            .exists();
        if !digits.is_empty()
            && !kept
            && !Path::new("/proc").join(&digits).exists()
            && !dead.contains(&digits)
        {
            dead.push(digits);
        }
    }
    for pid in dead {
        let prefix = format!("ml{pid}");
        let dir = std::env::temp_dir().join(&prefix);
        let _ = Command::new("sh")
            .args(["-c", GUARDIAN, "guardian", &prefix])
            .arg(dir)
            .stdin(Stdio::null())
            .status();
    }
}

/// Ends everything whose name starts with `$1` and a letter, then removes folder `$2`. Nothing else is touched: the
/// processes are those inside the namespaces, the namespaces are those of one process id.
pub(crate) const GUARDIAN: &str = r#"
names() { for f in /run/netns/"$1"[a-z]*; do [ -e "$f" ] && echo "${f##*/}"; done; }
for n in $(names "$1"); do for p in $(ip netns pids "$n" 2>/dev/null); do kill -9 "$p" 2>/dev/null; done; done
for n in $(names "$1"); do ip netns del "$n" 2>/dev/null; rm -rf "/etc/netns/$n"; done
rm -rf "$2"
"#;

pub(crate) struct Guardian {
    child: Child,
}

static GUARD: Mutex<Option<Guardian>> = Mutex::new(None);

impl Guardian {
    /// Starts the guardian in a session of its own, where Ctrl-C does not reach it.
    pub(crate) fn begin(prefix: &str, dir: &Path) -> Result<()> {
        watch_signals();
        let script =
            format!("trap '' INT TERM HUP; read word; [ \"$word\" = keep ] && exit; {GUARDIAN}");
        let mut command = Command::new("sh");
        command
            .args(["-c", &script, "guardian", prefix])
            .arg(dir)
            .stdin(Stdio::piped())
            .process_group(0);
        let child = command.spawn().context("start the lab's guardian")?;
        *GUARD.lock().unwrap_or_else(PoisonError::into_inner) = Some(Self { child });
        Ok(())
    }

    fn take() -> Option<Self> {
        GUARD.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Lets the guardian do its work, and waits for it.
    pub(crate) fn finish() {
        if let Some(mut guardian) = Self::take() {
            drop(guardian.child.stdin.take());
            let _ = guardian.child.wait();
        }
    }

    /// Sends the guardian home.
    pub(crate) fn dismiss() {
        if let Some(mut guardian) = Self::take() {
            if let Some(mut pipe) = guardian.child.stdin.take() {
                let _ = pipe.write_all(b"keep\n");
            }
            let _ = guardian.child.wait();
        }
    }
}

static SIGNAL_PIPE: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(-1);

extern "C" fn on_signal(signal: libc::c_int) {
    let byte = u8::try_from(signal).unwrap_or(0);
    // SAFETY: write is async-signal-safe; the descriptor stays open for the life of the process.
    unsafe {
        libc::write(
            SIGNAL_PIPE.load(std::sync::atomic::Ordering::Relaxed),
            (&raw const byte).cast(),
            1,
        );
    }
}

/// On Ctrl-C and SIGTERM: remove the lab, then exit as a shell would say it.
fn watch_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let mut ends = [0; 2];
        // SAFETY: `ends` has room for two descriptors.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
            return;
        }
        SIGNAL_PIPE.store(ends[1], std::sync::atomic::Ordering::Relaxed);
        let reader = ends[0];
        std::thread::spawn(move || {
            let mut byte = 0u8;
            // SAFETY: one byte into a live variable.
            if unsafe { libc::read(reader, (&raw mut byte).cast(), 1) } == 1 {
                Guardian::finish();
                std::process::exit(128 + i32::from(byte));
            }
        });
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            // SAFETY: the handler only calls write.
            unsafe {
                libc::signal(signal, on_signal as *const () as libc::sighandler_t);
            }
        }
    });
}
