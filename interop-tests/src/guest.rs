//! What a test may do only to a machine that is thrown away: `cargo xtask vm` makes one.
//!
//! Owns the modules of the guest's kernel: which load, and which are taken away for a while. Refuses to do anything
//! elsewhere: a test that comes here on a real host fails, and says where it belongs. A feature that is missing is a
//! failure too, never a test that passes.

use crate::netns::output;
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// What `xtask/src/vm/init.sh` sets.
const MARK: &str = "MESHD_GUEST";
/// Where modprobe reads what it must not load.
const RULES: &str = "/etc/modprobe.d";

/// True inside of the guest.
#[must_use]
pub fn here() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Loads modules.
///
/// # Errors
/// Outside of the guest, or if the kernel has no such module.
pub fn needs(modules: &[&str]) -> Result<()> {
    only_here()?;
    for module in modules {
        output(Command::new("modprobe").arg(module)).with_context(|| {
            format!("the guest's kernel has no {module}: see MODULES in xtask/src/vm/image.rs")
        })?;
    }
    Ok(())
}

fn only_here() -> Result<()> {
    ensure!(
        here(),
        "this test changes what the kernel can do for everybody on the machine: run it by `cargo xtask vm`"
    );
    Ok(())
}

/// A kernel without some of its modules: unloaded, and not loaded again by whoever asks. They may be loaded again when
/// this is dropped.
#[derive(Debug)]
pub struct Without {
    rule: PathBuf,
}

impl Without {
    /// Takes `module` away, and all that stands on it.
    ///
    /// # Errors
    /// Outside of the guest, or if something still uses it after 10 s.
    pub fn module(module: &str) -> Result<Self> {
        only_here()?;
        let rule = PathBuf::from(format!("{RULES}/without-{module}.conf"));
        // For whoever asks by name, and for the kernel, which asks by alias.
        std::fs::write(&rule, format!("install {module} /bin/false\n"))
            .with_context(|| format!("write {}", rule.display()))?;
        let without = Self { rule };
        let mut last = String::new();
        crate::wait(
            &format!("{module} is unloaded"),
            Duration::from_secs(10),
            || {
                if !loaded(module)? {
                    return Ok(true);
                }
                // Namespaces that are gone let go of it a little later.
                let mut remove = Command::new("modprobe");
                if let Err(error) = output(remove.args(["-r", "--remove-holders", module])) {
                    last = format!("{error:#}");
                }
                Ok(false)
            },
        )
        .with_context(|| last)?;
        Ok(without)
    }
}

impl Drop for Without {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.rule);
    }
}

/// True if the kernel has it in memory now.
///
/// # Errors
/// If the list cannot be read.
pub fn loaded(module: &str) -> Result<bool> {
    let list = std::fs::read_to_string("/proc/modules").context("read /proc/modules")?;
    Ok(list
        .lines()
        .any(|line| line.split(' ').next() == Some(module)))
}
