//! What the guest finds at its root: this machine's programs with their libraries, the kernel's modules, and what is under
//! test; packed as an initramfs.
//!
//! Owns the layout: `/usr` merged, so that a library and the loader of a program are where it looks for them, whichever of
//! `/lib` and `/usr/lib` that is here. Refuses nothing that is missing but the few programs without which no lab runs: the
//! test that needs another says so.

use super::kernel::Kernel;
use super::tell;
use anyhow::{Context, Result, bail, ensure};
use interop_tests::lab::find;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Programs without which nothing starts.
const NEEDED: &[&str] = &[
    "sh", "ip", "tc", "bridge", "nft", "ping", "kmod", "mount", "mkdir", "mknod", "rm", "cat",
    "ln", "sleep",
];
/// Programs that some tests use, or a person who looks.
const WELCOME: &[&str] = &[
    "ethtool",
    "iperf3",
    "tcpdump",
    "socat",
    "wg",
    "ss",
    "sysctl",
    "timeout",
    "ls",
    "grep",
    "dmesg",
    "uname",
    "env",
    "kill",
    "ps",
    "ovsdb-tool",
    "ovsdb-server",
    "ovs-vsctl",
    "ovs-vswitchd",
];
/// Files beside them.
const DATA: &[&str] = &["/usr/share/openvswitch/vswitch.ovsschema"];

/// Modules of the kernel, with what they need. They load when they are asked for, as on any host.
const MODULES: &[&str] = &[
    // What containers and underlays are made of.
    "veth",
    "tun",
    "tap",
    "dummy",
    "bonding",
    "team",
    "8021q",
    "bridge",
    "br_netfilter",
    "macvlan",
    "macvtap",
    "ipvlan",
    "vrf",
    "ifb",
    "vxlan",
    "geneve",
    "wireguard",
    "openvswitch",
    // Queueing, filters, actions.
    "sch_ingress",
    "sch_netem",
    "sch_tbf",
    "sch_htb",
    "sch_fq",
    "sch_fq_codel",
    "sch_prio",
    "cls_bpf",
    "cls_matchall",
    "cls_flower",
    "cls_u32",
    "act_bpf",
    "act_mirred",
    "act_gact",
    "act_vlan",
    "act_pedit",
    "act_police",
    // nftables, and iptables on top of it.
    "nf_tables",
    "nfnetlink",
    "nft_numgen",
    "nft_limit",
    "nft_ct",
    "nft_nat",
    "nft_masq",
    "nft_chain_nat",
    "nft_reject",
    "nft_reject_inet",
    "nft_reject_bridge",
    "nft_meta_bridge",
    "nft_hash",
    "nft_log",
    "nft_quota",
    "nft_fib_inet",
    "nft_compat",
    "nft_tunnel",
    "nf_conntrack",
    "nf_conntrack_bridge",
    "x_tables",
    "overlay",
    "crc32c_generic",
    "crc32c_intel",
];

/// A folder that becomes the guest's root.
#[derive(Debug)]
pub(super) struct Image {
    root: PathBuf,
}

impl Image {
    /// With programs and modules, and the script that the kernel starts.
    pub(super) fn begin(root: &Path, kernel: &Kernel) -> Result<Self> {
        let image = Self {
            root: root.to_owned(),
        };
        for folder in [
            "usr/bin",
            "usr/lib",
            "usr/lib64",
            "etc/modprobe.d",
            "proc",
            "sys",
            "dev",
            "run",
            "tmp",
            "var",
            "root",
            "meshd",
        ] {
            fs::create_dir_all(root.join(folder))
                .with_context(|| format!("cannot make {folder} in {}", root.display()))?;
        }
        for (link, to) in [
            ("bin", "usr/bin"),
            ("sbin", "usr/bin"),
            ("usr/sbin", "bin"),
            ("lib", "usr/lib"),
            ("lib64", "usr/lib64"),
            ("var/run", "../run"),
            ("var/tmp", "../tmp"),
        ] {
            symlink(to, root.join(link)).with_context(|| format!("cannot link {link}"))?;
        }
        image.write("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")?;
        image.write("/etc/group", "root:x:0:\n")?;
        image.write("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")?;
        // A module that loads brings no device of its own.
        image.write(
            "/etc/modprobe.d/quiet.conf",
            "options bonding max_bonds=0\noptions dummy numdummies=0\noptions ifb numifbs=0\n",
        )?;
        image.programs()?;
        image.modules(kernel)?;
        image.write("/init", include_str!("init.sh"))?;
        fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
        Ok(image)
    }

    fn programs(&self) -> Result<()> {
        for name in NEEDED.iter().chain(WELCOME) {
            match find(name) {
                // The link's target under the link's name: `sh` is dash here and bash there.
                Some(program) => self.put(&program, &format!("/usr/bin/{name}"))?,
                None if NEEDED.contains(name) => {
                    bail!(
                        "`{name}` is not on this machine, and the guest needs it: `cargo xtask setup`"
                    )
                }
                None => {}
            }
        }
        for name in ["modprobe", "insmod", "rmmod", "lsmod", "depmod"] {
            symlink("kmod", self.root.join("usr/bin").join(name))?;
        }
        for file in DATA.iter().filter(|file| Path::new(file).exists()) {
            self.put(Path::new(file), file)?;
        }
        Ok(())
    }

    fn modules(&self, kernel: &Kernel) -> Result<()> {
        let from = kernel.modules();
        let to = self.root.join("usr/lib/modules").join(&kernel.release);
        let list = [
            "modules.builtin",
            "modules.builtin.modinfo",
            "modules.order",
        ];
        let list = list.into_iter().map(str::to_owned);
        for file in kernel.files(MODULES)?.into_iter().chain(list) {
            let place = to.join(&file);
            if let Some(folder) = place.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::copy(from.join(&file), &place)
                .with_context(|| format!("cannot copy {file} of the kernel's modules"))?;
        }
        tell(
            Command::new("depmod")
                .arg("-b")
                .arg(&self.root)
                .arg(&kernel.release),
        )?;
        Ok(())
    }

    fn place(&self, path: &str) -> Result<PathBuf> {
        let place = self.root.join(path.trim_start_matches('/'));
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(place)
    }

    /// A file of this machine under `path` in the guest, and the libraries that it needs.
    pub(super) fn put(&self, file: &Path, path: &str) -> Result<()> {
        fs::copy(file, self.place(path)?)
            .with_context(|| format!("cannot copy {} into the image", file.display()))?;
        let told = Command::new("ldd")
            .arg(file)
            .stderr(Stdio::null())
            .output()
            .context("start ldd")?;
        // It fails for what is no program, or needs no library.
        for library in libraries(&String::from_utf8_lossy(&told.stdout)) {
            let place = self.place(library)?;
            if !place.exists() {
                fs::copy(library, &place)
                    .with_context(|| format!("cannot copy {library} into the image"))?;
            }
        }
        Ok(())
    }

    /// The files of a folder.
    pub(super) fn put_folder(&self, folder: &Path, path: &str) -> Result<()> {
        for entry in
            fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
        {
            let file = entry?.path();
            if file.is_file() {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                fs::copy(&file, self.place(&format!("{path}/{name}"))?)
                    .with_context(|| format!("cannot copy {} into the image", file.display()))?;
            }
        }
        Ok(())
    }

    /// A file with this text.
    pub(super) fn write(&self, path: &str, text: &str) -> Result<()> {
        fs::write(self.place(path)?, text)
            .with_context(|| format!("cannot write {path} in the image"))
    }

    /// Packs all of it as the kernel takes it; how many bytes.
    pub(super) fn pack(&self, file: &Path) -> Result<u64> {
        let mut names = Vec::new();
        collect(&self.root, Path::new("."), &mut names)?;
        let out =
            fs::File::create(file).with_context(|| format!("cannot write {}", file.display()))?;
        let mut cpio = Command::new("cpio")
            .args(["--null", "-o", "-H", "newc", "-R", "0:0", "--quiet"])
            .current_dir(&self.root)
            .stdin(Stdio::piped())
            .stdout(out)
            .spawn()
            .context("start cpio")?;
        let mut list = cpio.stdin.take().context("cpio has no input")?;
        // A name that the pipe has no room for waits until cpio took one: it reads them as it goes.
        std::io::Write::write_all(&mut list, &names).context("cpio reads no names")?;
        drop(list);
        let status = cpio.wait()?;
        ensure!(status.success(), "cpio ended with {status}");
        Ok(fs::metadata(file)?.len())
    }
}

/// Names below `folder`, each with a 0 after it, a folder before what is in it.
fn collect(root: &Path, folder: &Path, names: &mut Vec<u8>) -> Result<()> {
    let mut entries = fs::read_dir(root.join(folder))?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = folder.join(entry.file_name());
        names.extend_from_slice(name.as_os_str().as_encoded_bytes());
        names.push(0);
        if entry.file_type()?.is_dir() {
            collect(root, &name, names)?;
        }
    }
    Ok(())
}

/// From ldd: `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, and `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn libraries(told: &str) -> impl Iterator<Item = &str> {
    told.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found() {
        let told = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x2)\n\t/lib64/ld-linux-x86-64.so.2 (0x3)\n";
        let found: Vec<_> = libraries(told).collect();
        assert_eq!(
            found,
            [
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
    }
}
