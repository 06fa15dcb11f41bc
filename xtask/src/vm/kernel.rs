//! A kernel of Debian or its kin: its image and its modules, by `apt-get download`, kept unpacked.
//!
//! Owns `<target>/vm/kernel-*`; remove the folder to have a newer one. Nothing is installed, and no address of an archive is
//! written here: this machine's apt knows its own.

use super::tell;
use anyhow::{Context, Result, ensure};
use interop_tests::lab::is_root;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A kernel, unpacked.
#[derive(Debug)]
pub(super) struct Kernel {
    /// As `uname -r` has it.
    pub(super) release: String,
    /// What qemu boots.
    pub(super) vmlinuz: PathBuf,
    /// The folder that has `lib/modules/<release>`.
    tree: PathBuf,
}

impl Kernel {
    /// The kernel `name` (`cloud`, `generic`, or a package), from `debian`'s suite or this machine's; fetched unless it was.
    pub(super) fn get(cache: &Path, name: &str, debian: Option<&str>) -> Result<Self> {
        let suffix = debian.map(|suite| format!("-{suite}")).unwrap_or_default();
        let folder = cache.join(format!("kernel-{name}{suffix}"));
        if !folder.exists() {
            let package = match name {
                "cloud" => "linux-image-cloud-amd64",
                "generic" => "linux-image-amd64",
                other => other,
            };
            let apt = Apt::of(cache, debian)?;
            // Whole or not at all.
            let half = cache.join(format!("fetch-{}", std::process::id()));
            let mut fetched = fetch(&apt, package, &half);
            if fetched.is_err() && debian.is_none() && is_root() {
                // The package lists may be old, or absent as in a container image.
                println!("vm: apt-get update");
                tell(apt.program("apt-get").args(["-q", "update"]))?;
                let _ = fs::remove_dir_all(&half);
                fetched = fetch(&apt, package, &half);
            }
            if fetched.is_ok() {
                fs::rename(&half, &folder)
                    .with_context(|| format!("cannot make {}", folder.display()))?;
            }
            let _ = fs::remove_dir_all(&half);
            fetched?;
        }
        let tree = folder.join("tree");
        let modules = tree.join("lib/modules");
        let release = fs::read_dir(&modules)
            .ok()
            .and_then(|mut list| Some(list.next()?.ok()?.file_name()));
        let release = release
            .map(|name| name.to_string_lossy().into_owned())
            .with_context(|| {
                format!(
                    "{} holds no kernel: remove it and run again",
                    folder.display()
                )
            })?;
        Ok(Self {
            vmlinuz: folder.join("vmlinuz"),
            release,
            tree,
        })
    }

    /// The folder with the modules.
    pub(super) fn modules(&self) -> PathBuf {
        self.tree.join("lib/modules").join(&self.release)
    }

    /// The files of `wanted` and of all that they need, relative to [`modules`](Self::modules). What this kernel has built in
    /// or does not have at all is no file.
    pub(super) fn files(&self, wanted: &[&str]) -> Result<BTreeSet<String>> {
        let list = self.modules().join("modules.dep");
        let text =
            fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
        Ok(closure(&text, wanted))
    }
}

/// `modules.dep`: `kernel/net/a.ko: kernel/net/b.ko kernel/lib/c.ko`, with all that it needs after the colon.
fn closure(dep: &str, wanted: &[&str]) -> BTreeSet<String> {
    let by_name: BTreeMap<String, (&str, &str)> = dep
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| (module_name(file), (file, needs)))
        .collect();
    wanted
        .iter()
        .filter_map(|name| by_name.get(*name))
        .flat_map(|(file, needs)| std::iter::once(*file).chain(needs.split_whitespace()))
        .map(str::to_owned)
        .collect()
}

/// `kernel/net/sched/sch_netem.ko.xz` is `sch_netem`; the kernel takes `-` for `_`.
fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split('.').next().unwrap_or(name).replace('-', "_")
}

/// apt's programs, for this machine's suite or another.
struct Apt {
    /// A file with settings, if they are not the machine's own.
    config: Option<PathBuf>,
}

impl Apt {
    /// For another suite: a state of its own under `cache`, beside this machine's, which stays as it is.
    fn of(cache: &Path, debian: Option<&str>) -> Result<Self> {
        let machine = Self { config: None };
        let Some(suite) = debian else {
            return Ok(machine);
        };
        let words = ["indextargets", "--format", "$(REPO_URI)"];
        let archives = tell(machine.program("apt-get").args(words))?;
        let archive = archives
            .lines()
            .find(|line| !line.contains("security"))
            .context("apt has no archive: see /etc/apt/sources.list")?;
        let own = cache.join(format!("apt-{suite}"));
        for folder in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(own.join(folder))
                .with_context(|| format!("cannot make {}", own.display()))?;
        }
        let sources = own.join("sources.list");
        let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
        fs::write(
            &sources,
            format!("deb [signed-by={keys}] {archive} {suite} main\n"),
        )?;
        let config = own.join("apt.conf");
        fs::write(
            &config,
            format!(
                "Dir::State::lists \"{own}/lists\";\nDir::Cache \"{own}/cache\";\nDir::Etc::sourcelist \"{list}\";\n\
                 Dir::Etc::sourceparts \"/dev/null\";\nAcquire::Languages \"none\";\nAPT::Sandbox::User \"\";\n",
                own = own.display(),
                list = sources.display()
            ),
        )?;
        let other = Self {
            config: Some(config),
        };
        println!("vm: package lists of {suite}");
        tell(other.program("apt-get").args(["-q", "update"]))?;
        Ok(other)
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        if let Some(config) = &self.config {
            command.env("APT_CONFIG", config);
        }
        command
    }

    /// `package`, and what it depends on of the kernel: a package without a version names one with it, and some archives
    /// keep the modules apart.
    fn parts(&self, package: &str) -> Result<BTreeSet<String>> {
        let (mut parts, mut open) = (BTreeSet::new(), vec![package.to_owned()]);
        while let Some(next) = open.pop() {
            let text = tell(self.program("apt-cache").args(["depends", &next])).with_context(|| {
                format!("no package {next}: run `apt-get update` as root, or take another by --kernel (`apt-cache search linux-image`)")
            })?;
            if parts.insert(next) {
                open.extend(kernel_parts(&text));
            }
        }
        Ok(parts)
    }
}

/// From `apt-cache depends`.
fn kernel_parts(depends: &str) -> Vec<String> {
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .filter(|name| name.starts_with("linux-image-") || name.starts_with("linux-modules-"))
        .map(str::to_owned)
        .collect()
}

fn fetch(apt: &Apt, package: &str, folder: &Path) -> Result<()> {
    let parts = apt.parts(package)?;
    let (debs, unpacked, tree) = (
        folder.join("debs"),
        folder.join("unpacked"),
        folder.join("tree"),
    );
    for folder in [&debs, &unpacked] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let names: Vec<&str> = parts.iter().map(String::as_str).collect();
    println!("vm: apt-get download {}", names.join(" "));
    let mut download = apt.program("apt-get");
    // Root's apt would fetch as a user who cannot write here.
    download
        .args(["-q", "-o", "APT::Sandbox::User=", "download"])
        .args(&names)
        .current_dir(&debs);
    tell(&mut download)?;
    for deb in fs::read_dir(&debs)? {
        tell(
            Command::new("dpkg-deb")
                .arg("-x")
                .arg(deb?.path())
                .arg(&unpacked),
        )?;
    }
    let images: Vec<PathBuf> = fs::read_dir(unpacked.join("boot"))
        .with_context(|| format!("{package} has no /boot: it is no kernel"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
        })
        .collect();
    ensure!(
        images.len() == 1,
        "{package} has {} kernels, one was wanted: name it by --kernel",
        images.len()
    );
    let release = images[0]
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .trim_start_matches("vmlinuz-")
        .to_owned();
    fs::rename(&images[0], folder.join("vmlinuz"))?;
    let modules = ["lib/modules", "usr/lib/modules"]
        .map(|place| unpacked.join(place).join(&release))
        .into_iter()
        .find(|place| place.is_dir())
        .with_context(|| format!("{package} has no modules of {release}"))?;
    let place = tree.join("lib/modules");
    fs::create_dir_all(&place)?;
    fs::rename(modules, place.join(&release))?;
    tell(Command::new("depmod").arg("-b").arg(&tree).arg(&release))?;
    fs::remove_dir_all(&debs)?;
    fs::remove_dir_all(&unpacked)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_brings_what_it_needs() {
        let dep = "kernel/net/bridge/br_netfilter.ko: kernel/net/bridge/bridge.ko kernel/net/llc/llc.ko\n\
                   kernel/net/bridge/bridge.ko: kernel/net/llc/llc.ko\n\
                   kernel/net/sched/sch-netem.ko.xz:\n";
        let files = closure(dep, &["br_netfilter", "sch_netem", "absent"]);
        assert_eq!(
            files.into_iter().collect::<Vec<_>>(),
            [
                "kernel/net/bridge/br_netfilter.ko",
                "kernel/net/bridge/bridge.ko",
                "kernel/net/llc/llc.ko",
                "kernel/net/sched/sch-netem.ko.xz"
            ]
        );
    }

    #[test]
    fn only_the_parts_of_a_kernel_are_followed() {
        let text = "linux-image-virtual\n  Depends: linux-image-6.8.0-1-generic\n  Depends: linux-modules-6.8.0-1-generic\n \
                    |Depends: <x>\n  Depends: kmod\n  Suggests: linux-image-y\n";
        assert_eq!(
            kernel_parts(text),
            [
                "linux-image-6.8.0-1-generic",
                "linux-modules-6.8.0-1-generic"
            ]
        );
    }
}
