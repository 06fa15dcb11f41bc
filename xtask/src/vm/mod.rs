//! `cargo xtask vm`: tests of the lab under a stock kernel, in a guest that is thrown away.
//!
//! ```text
//!   apt-get download --> kernel.rs: vmlinuz, modules ----+
//!   ip, nft, sh … of this machine, meshd, the tests -----+--> image.rs: a folder --cpio--> guest.rs: qemu --> init.sh
//!                                                        |                                    console <--------+
//!   order.rs: which tests -------------------------------+
//! ```
//!
//! The lab's other tests run on the kernel of whoever develops. This tier is for what that kernel may lack (bonds, VLAN
//! devices, netem, br_netfilter), for other kernels than that one, and for what a test may do only to a machine of its own:
//! take a module away, filter all bridges.
//!
//! Owns the steps and their order. Refuses hardware acceleration unless asked: what it may be is different on each machine,
//! emulation is the same on all.

mod guest;
mod image;
mod kernel;
mod order;

use crate::shell::{cargo, run, target};
use crate::{setup, wasm};
use anyhow::{Context, Result, bail, ensure};
use guest::Guest;
use image::Image;
use kernel::Kernel;
use order::{Order, Suite};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The tests that run nowhere else.
const OWN: &str = "vm";

/// `cargo xtask vm WORDS`.
pub(crate) fn vm(words: &[String]) -> Result<()> {
    let order = Order::read(words, &suites()?)?;
    let passed = boot(&order, |line| println!("{line}"))?;
    ensure!(passed, "tests failed in the guest; what they said is above");
    Ok(())
}

/// The VM's own tests, for the gate: each line that the guest prints goes to `read`; true if all passed.
pub(crate) fn own_tests(read: impl FnMut(&str)) -> Result<bool> {
    let order = Order {
        // Three times what it takes where the guest has a core to itself: by emulation it may be slow.
        limit: Duration::from_secs(720),
        ..Order::of(OWN)
    };
    boot(&order, read)
}

/// The kernel that guests boot, for tests of the lab that start one themselves: fetched unless it was.
pub(crate) fn fetch_kernel() -> Result<()> {
    if let Some(why) = obstacle() {
        println!("no kernel for guests here: {why}");
        return Ok(());
    }
    setup::for_vm()?;
    Kernel::get(&target()?.join("vm"), &Order::of(OWN).kernel, None).map(drop)
}

/// Why this machine cannot run a guest, if it is of a kind that never will.
pub(crate) fn obstacle() -> Option<&'static str> {
    if cfg!(not(all(target_os = "linux", target_arch = "x86_64"))) {
        Some(
            "the guest is made of this machine's programs and an amd64 kernel: it needs Linux on x86_64",
        )
    } else if interop_tests::lab::find("apt-get").is_none() {
        Some(
            "kernels come by `apt-get download`, which is not here: use Debian or its kin, or a container of it",
        )
    } else {
        None
    }
}

fn boot(order: &Order, read: impl FnMut(&str)) -> Result<bool> {
    if let Some(why) = obstacle() {
        bail!("no VM here: {why}");
    }
    let start = Instant::now();
    setup::for_vm()?;
    let cache = target()?.join("vm");
    let kernel = Kernel::get(&cache, &order.kernel, order.debian.as_deref())?;
    let meshd = daemon()?;
    let plugins = match std::env::var_os("MESHD_PLUGINS") {
        Some(folder) => PathBuf::from(folder),
        None => wasm::plugins()?,
    };
    let tests = test_programs(&order.suites)?;
    let work = Work::make(&cache)?;
    let image = Image::begin(&work.0.join("root"), &kernel)?;
    image.put(&meshd, "/meshd/meshd")?;
    image.put_folder(&plugins, "/meshd/plugins")?;
    for (suite, program) in order.suites.iter().zip(&tests) {
        image.put(program, &format!("/meshd/tests/{}", suite.name))?;
    }
    image.write("/meshd/job", &order.job())?;
    let initrd = work.0.join("initrd");
    let bytes = image.pack(&initrd)?;
    println!(
        "vm: Linux {}, image of {} MiB made in {:.1} s",
        kernel.release,
        bytes >> 20,
        start.elapsed().as_secs_f64()
    );
    let guest = Guest {
        vmlinuz: &kernel.vmlinuz,
        initrd: &initrd,
        kvm: order.kvm,
        verbose: order.verbose,
        limit: order.limit,
    };
    let start = Instant::now();
    let status = guest.run(read)?;
    println!("vm: {:.1} s", start.elapsed().as_secs_f64());
    Ok(status == 0)
}

/// The names of the lab's test files.
fn suites() -> Result<Vec<String>> {
    let folder = crate::shell::root().join("interop-tests/tests");
    let list =
        std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names: Vec<String> = list
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|kind| kind == "rs"))
        .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// The daemon under test: `MESHD_BIN` as for the lab, else it is built.
fn daemon() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("MESHD_BIN") {
        return Ok(path.into());
    }
    // As for tests, with the features that they ask for: else everything would be built once more.
    run(&mut cargo("test --quiet --workspace --no-run"))?;
    Ok(target()?.join("debug/meshd"))
}

/// Builds the tests; the program of each suite, in order.
fn test_programs(suites: &[Suite]) -> Result<Vec<PathBuf>> {
    let mut command = cargo("test --quiet --workspace --no-run --message-format=json");
    for suite in suites {
        command.args(["--test", &suite.name]);
    }
    let found = crate::suites::executables(&crate::shell::output(&mut command)?);
    suites
        .iter()
        .map(|suite| {
            let program = found.get(&suite.name).cloned();
            program.with_context(|| format!("cargo built no program of the tests {}", suite.name))
        })
        .collect()
}

/// A folder for one run, removed when it ends.
struct Work(PathBuf);

impl Work {
    fn make(cache: &Path) -> Result<Self> {
        // Those of runs that were killed.
        for entry in std::fs::read_dir(cache).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(pid) = name
                .strip_prefix("run-")
                .or_else(|| name.strip_prefix("fetch-"))
                && !Path::new("/proc").join(pid).exists()
            {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let folder = cache.join(format!("run-{}", std::process::id()));
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The standard output of a program of the machine; its errors are part of ours.
fn tell(command: &mut Command) -> Result<String> {
    let out = command
        .output()
        .with_context(|| format!("start {command:?}"))?;
    ensure!(
        out.status.success(),
        "{command:?} ended with {}: {}",
        out.status,
        String::from_utf8_lossy(&out.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
