//! The compiler's own process: component in at stdin, machine code out at stdout, a sentence at stderr if there is none.
//!
//! ```text
//!   start --> first to go when memory is short --> limits --> no network --> nobody --> no descriptors --> read, compile, write
//! ```
//!
//! Everything is given up before the first byte of the component is read: privileges, groups, capabilities, the network, the
//! right to open a file or to start a process. What is left is memory, processor time and three pipes. Whatever cannot be
//! limited ends the child; whatever cannot be given up because it is not there is no loss.
#![allow(unsafe_code)] // Four system calls without a safe wrapper in our dependencies.

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};
use std::io::Write;
use std::process::ExitCode;

/// Address space of the child, in bytes.
pub(crate) const MEMORY: u64 = 2 << 30;
/// Processor time of the child, in seconds, and one more for each MiB of the component: honest code of 29 MB takes 20.
pub(crate) const CPU_S: u64 = 5;
/// Descriptors: stdin, stdout, stderr and no other, so no file and no socket.
const DESCRIPTORS: u64 = 3;
/// How much it gives way to others, 0 to 19.
const NICE: libc::c_int = 10;
/// Exit code for a component that does not compile.
pub(crate) const REFUSED: i32 = 3;
/// Exit code for a child that could not be confined.
const UNCONFINED: u8 = 4;
/// The user and group that own nothing.
const NOBODY: u32 = 65_534;

/// The whole life of the child.
pub(crate) fn main() -> ExitCode {
    if let Err((what, error)) = confine() {
        eprintln!("the compiler cannot be confined: {what}: {error}");
        return ExitCode::from(UNCONFINED);
    }
    let wasm = match crate::bounded::stdin(meshd_plugin_host::MAX_COMPONENT) {
        Ok(wasm) => wasm,
        Err(error) => {
            eprintln!("read the component: {error}");
            return ExitCode::FAILURE;
        }
    };
    // What reading took is in it.
    if let Err(error) = limit_cpu(CPU_S + (wasm.len() as u64 >> 20)) {
        eprintln!("the compiler cannot be confined: limit processor time: {error}");
        return ExitCode::from(UNCONFINED);
    }
    match meshd_plugin_host::precompile(&wasm) {
        Ok(code) => {
            let mut out = std::io::stdout().lock();
            match out.write_all(&code).and_then(|()| out.flush()) {
                Ok(()) => ExitCode::SUCCESS,
                // The parent has gone, or has enough.
                Err(_) => ExitCode::FAILURE,
            }
        }
        Err(meshd_plugin_host::LoadError::Compile { reason }) => {
            eprintln!("{reason}");
            // The code is one byte.
            ExitCode::from(REFUSED as u8)
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// One second lies between the signal that says so and the one that ends it.
fn limit_cpu(seconds: u64) -> Result<(), Errno> {
    setrlimit(Resource::RLIMIT_CPU, seconds, seconds + 1)
}

fn confine() -> Result<(), (&'static str, Errno)> {
    // Nothing that was left open by mistake is inherited; there is nothing of our own yet.
    // SAFETY: no descriptor of this process is in use but the three.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, DESCRIPTORS, libc::c_uint::MAX, 0) };
    if closed < 0 && Errno::last() != Errno::ENOSYS {
        return Err(("close descriptors", Errno::last()));
    }
    // Rather this one than the daemon; where /proc is not there, the kernel's own judgement has to do.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    // SAFETY: numbers in, number out. Where it fails, the child is only less polite.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    for (resource, most, what) in [
        (Resource::RLIMIT_AS, MEMORY, "limit memory"),
        (Resource::RLIMIT_CORE, 0, "limit core files"),
        (Resource::RLIMIT_FSIZE, 0, "limit files"),
        (Resource::RLIMIT_MEMLOCK, 0, "limit locked memory"),
    ] {
        setrlimit(resource, most, most).map_err(|e| (what, e))?;
    }
    if geteuid().is_root() {
        // Without a descriptor there is no socket anyway; where namespaces are not to be had, that is enough.
        let _ = unshare(CloneFlags::CLONE_NEWNET);
        let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        let became = setgroups(&[])
            .and_then(|()| setresgid(group, group, group))
            .and_then(|()| setresuid(user, user, user));
        match became {
            Ok(()) => {}
            // A root of a user namespace that has no nobody: without capabilities it is one.
            Err(Errno::EINVAL | Errno::EPERM) => {}
            Err(error) => return Err(("become nobody", error)),
        }
    }
    drop_capabilities().map_err(|e| ("drop capabilities", e))?;
    prctl::set_no_new_privs().map_err(|e| ("set no_new_privs", e))?;
    prctl::set_dumpable(false).map_err(|e| ("refuse tracers", e))?;
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| ("end with the daemon", e))?;
    for (resource, most, what) in [
        (Resource::RLIMIT_NPROC, 0, "limit processes"),
        (Resource::RLIMIT_NOFILE, DESCRIPTORS, "limit descriptors"),
    ] {
        setrlimit(resource, most, most).map_err(|e| (what, e))?;
    }
    Ok(())
}

/// None in any set that counts: a daemon with a few capabilities and no root leaves them here too. The ambient set follows.
fn drop_capabilities() -> Result<(), Errno> {
    /// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h: two words of 32 capabilities each, in three sets.
    const VERSION_3: u32 = 0x2008_0522;
    let (header, none) = ([VERSION_3, 0], [0u32; 6]);
    // SAFETY: both are as long as the kernel reads at this version, and it writes only to the header.
    let answer = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    Errno::result(answer).map(drop)
}
