//! Which Rust builds for WASM here, and how it is called.
//!
//! rustup's target where it is; else Debian's `rustc-web` with the library's source, which builds std itself and links with
//! rustup's `rust-lld`. Paths of this machine are mapped away, so that the same sources make the same bytes.

use crate::program::{clean, find, quiet, read, run};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// What guests are built for.
pub const TARGET: &str = "wasm32-unknown-unknown";
/// Debian's packages of a Rust that can build its own standard library.
const DEBIAN: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];

/// What may be done where no toolchain can build for WASM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Say what to install.
    Say,
    /// Install it, by rustup or apt-get.
    Install,
}

/// May the build change `Cargo.lock`?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// It must be right as it is.
    Fixed,
    /// As cargo does it.
    Free,
}

/// A Rust that builds for [`TARGET`].
#[derive(Clone, Debug)]
pub struct Toolchain(Kind);

#[derive(Clone, Debug)]
enum Kind {
    /// The one that runs us has the target.
    Rustup,
    /// Debian's, and the linker that comes with rustup's.
    Debian { lld: PathBuf },
}

impl Toolchain {
    /// The one that this machine has.
    ///
    /// # Errors
    /// If there is none and `missing` forbids to install one, or that fails: what to do.
    pub fn find(missing: Missing) -> Result<Self> {
        let may_install = missing == Missing::Install;
        ensure!(
            find("rustc").is_some() && find("cargo").is_some(),
            "cargo is not in PATH. Install Rust (https://rustup.rs), then `rustup target add {TARGET}`"
        );
        if has_target()
            || (may_install
                && find("rustup").is_some()
                && run(quiet("rustup").args(["target", "add", TARGET])).is_ok())
        {
            return Ok(Self(Kind::Rustup));
        }
        if !debian_is_there() {
            let how = install_line();
            ensure!(
                may_install,
                "no Rust toolchain here can build for {TARGET}. Run `rustup target add {TARGET}`, or on Debian as root: {how}"
            );
            install_debian(&how)?;
        }
        Ok(Self(Kind::Debian { lld: lld()? }))
    }

    /// For people.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.0 {
            Kind::Rustup => "rustup's toolchain",
            Kind::Debian { .. } => "Debian's rustc-web (builds std first, about a minute once)",
        }
    }

    /// Builds the crates in `folder` in release mode into `target_dir`. `places` are folders whose names must not get into the
    /// result, with what stands for them there. `choice` are cargo's words for which packages and features; empty: all as they
    /// are.
    ///
    /// # Errors
    /// If they do not build; the compiler has told why on stderr.
    pub fn build(
        &self,
        folder: &Path,
        target_dir: &Path,
        places: &[(&Path, &str)],
        choice: &[&str],
        lock: Lock,
    ) -> Result<()> {
        let mut cargo = match &self.0 {
            Kind::Rustup => clean("cargo"),
            Kind::Debian { lld } => {
                let mut cargo = clean("/usr/bin/cargo");
                cargo
                    .env("RUSTC", "/usr/bin/rustc")
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", lld);
                cargo.arg("-Zbuild-std=std,panic_abort");
                cargo
            }
        };
        cargo
            .current_dir(folder)
            .env("CARGO_TARGET_DIR", target_dir)
            .env("CARGO_ENCODED_RUSTFLAGS", self.remap(places)?)
            .args(["build", "--quiet", "--release", "--target", TARGET])
            .args(choice);
        if lock == Lock::Fixed {
            cargo.arg("--locked");
        }
        run(&mut cargo).with_context(|| format!("{} does not build", folder.display()))
    }

    /// `--remap-path-prefix` for the sources, the registry and the standard library.
    fn remap(&self, places: &[(&Path, &str)]) -> Result<String> {
        let rustc = match self.0 {
            Kind::Rustup => "rustc",
            Kind::Debian { .. } => "/usr/bin/rustc",
        };
        let sysroot = read(clean(rustc).args(["--print", "sysroot"]))?;
        let home = std::env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(std::env::home_dir()?.join(".cargo")));
        // Of several that fit, rustc takes the last.
        let mut flags = vec![format!("--remap-path-prefix={sysroot}=/rust")];
        flags.extend(home.map(|home| format!("--remap-path-prefix={}=/cargo", home.display())));
        flags.extend(
            places
                .iter()
                .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())),
        );
        Ok(flags.join("\u{1f}"))
    }
}

fn has_target() -> bool {
    let sysroot = read(clean("rustc").args(["--print", "sysroot"])).ok();
    sysroot.is_some_and(|sysroot| {
        Path::new(&sysroot)
            .join("lib/rustlib")
            .join(TARGET)
            .join("lib")
            .is_dir()
    })
}

fn lld() -> Result<PathBuf> {
    let sysroot = read(clean("rustc").args(["--print", "sysroot"]))?;
    let version = read(clean("rustc").arg("-vV"))?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("`rustc -vV` names no host")?;
    let lld = Path::new(&sysroot)
        .join("lib/rustlib")
        .join(host)
        .join("bin/rust-lld");
    ensure!(
        lld.is_file(),
        "{} is missing. Run `rustup target add {TARGET}` where there is a network",
        lld.display()
    );
    Ok(lld)
}

fn debian_is_there() -> bool {
    let source = read(clean("/usr/bin/rustc").args(["--print", "sysroot"]))
        .map(|sysroot| Path::new(&sysroot).join("lib/rustlib/src/rust/library"));
    Path::new("/usr/bin/cargo").exists() && source.is_ok_and(|source| source.is_dir())
}

fn install_line() -> String {
    format!(
        "apt-get install --no-install-recommends {}",
        DEBIAN.join(" ")
    )
}

fn install_debian(how: &str) -> Result<()> {
    ensure!(
        find("apt-get").is_some(),
        "no Rust toolchain here can build for {TARGET}. Run `rustup target add {TARGET}`"
    );
    // The owner of our own process's folder is who we are.
    let root = fs::metadata("/proc/self")
        .is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
    ensure!(
        root,
        "no Rust toolchain here can build for {TARGET}. Run `rustup target add {TARGET}`, or as root: {how}"
    );
    eprintln!("plugins: {how}");
    let install = || {
        run(quiet("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-qq", "-y", "install", "--no-install-recommends"])
            .args(DEBIAN))
    };
    if install().is_err() {
        // The lists of a fresh machine are empty or old.
        run(quiet("apt-get").args(["-qq", "update"]))?;
        install().with_context(|| {
            format!("`{how}` failed; rustc-web is in Debian's security archive")
        })?;
    }
    ensure!(
        debian_is_there(),
        "`{how}` went well, but /usr/bin/cargo or the library source is not there"
    );
    Ok(())
}
