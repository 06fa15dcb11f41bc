//! Podman with its CNI backend, as Debian 12 has it (4.3); later ones have netavark alone, and no CNI.

use super::{addresses_of, skipped};
use anyhow::{Context, Result, ensure};
use interop_tests::containers::busybox;
use interop_tests::lab::{Lab, LabSpec, find, scene};
use interop_tests::netns;
use interop_tests::node::Node;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One host's Podman: its folders are its own.
struct Podman {
    host: String,
    dir: PathBuf,
}

impl Podman {
    fn new(node: &Node, dir: PathBuf, plugins: &Path) -> Result<Self> {
        fs::create_dir_all(&dir)?;
        let text = format!(
            "[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"{plugins}\"]\nnetwork_config_dir = \"{dir}/net.d\"\ndefault_network = \"meshd\"\n\
             [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nlock_type = \"file\"\ntmp_dir = \"{dir}/tmp\"\nstatic_dir = \"{dir}/static\"\n",
            plugins = plugins.display(),
            dir = dir.display()
        );
        fs::write(dir.join("containers.conf"), text)?;
        Ok(Self {
            host: node.netns.clone(),
            dir,
        })
    }

    fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = netns::command(&self.host, "podman")?;
        command.env("CONTAINERS_CONF", self.dir.join("containers.conf"));
        for (option, folder) in [("--root", "root"), ("--runroot", "run")] {
            command.arg(option).arg(self.dir.join(folder));
        }
        command.args(["--storage-driver", "vfs"]).args(words);
        Ok(command)
    }

    fn ok(&self, words: &str) -> Result<String> {
        let words: Vec<&str> = words.split_whitespace().collect();
        netns::output(&mut self.command(&words)?)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.ok("rm -f -t 0 -a");
    }
}

/// Whether there is one that can do this; if not, says so loudly.
fn is_here(podman: &Podman) -> bool {
    let backend = podman.ok("info --format {{.Host.NetworkBackend}}");
    let here = backend.is_ok_and(|said| said.trim() == "cni");
    if !here {
        skipped("no podman with the backend \"cni\" (Debian 12: apt-get install podman)");
    }
    here
}

#[test]
fn containers_of_podman_have_the_name_address_and_mac_that_they_were_given() {
    scene(LabSpec::hosts(2), |lab| {
        if find("podman").is_none() {
            skipped("no podman (Debian 12: apt-get install podman)");
            return Ok(());
        }
        super::mesh(lab)?;
        let start = |at: usize| -> Result<Podman> {
            let dir = lab.dir.join(format!("podman{at}"));
            let (bin, conf) = (dir.join("bin"), dir.join("net.d"));
            fs::create_dir_all(&bin)?;
            fs::create_dir_all(&conf)?;
            let (bin_dir, conf_dir) = (bin.display().to_string(), conf.display().to_string());
            let words = ["cni", "install", "--network", "lan", "--bin-dir", &bin_dir];
            lab.node(at)
                .ok(&[&words[..], &["--conf-dir", &conf_dir]].concat())?;
            Podman::new(lab.node(at), dir, &bin)
        };
        let (one, other) = (start(0)?, start(1)?);
        if !is_here(&one) {
            return Ok(());
        }
        let root = lab.dir.join("podman-root");
        busybox(&root)?;
        let root = root.display().to_string();
        // Limits below those that are here, since not every root may raise them.
        let limits = "--ulimit nofile=1024:1024 --ulimit nproc=1024:1024";
        let run = |podman: &Podman, words: &str| {
            podman.ok(&format!(
                "run -d {limits} --cap-add NET_RAW {words} --rootfs {root}:O /bin/sleep 1000"
            ))
        };
        run(&one, "--name web")?;
        run(
            &other,
            "--name db --ip 10.10.0.77 --mac-address 02:00:00:00:00:77",
        )?;
        let port = port(lab, 1)?;
        ensure!(
            port["name"] == "db" && port["mac"] == "02:00:00:00:00:77",
            "{port}"
        );
        ensure!(
            addresses_of(&port)?.contains(&"10.10.0.77".to_owned()),
            "{port}"
        );
        ensure!(self::port(lab, 0)?["name"] == "web");
        let said = one.ok("exec web /bin/ping -c 2 -W 5 10.10.0.77")?;
        ensure!(said.contains("2 packets received"), "{said}");
        // The result's DNS is in its resolv.conf.
        let said = one.ok("exec web /bin/nslookup db.lan.lab.internal")?;
        ensure!(said.contains("10.10.0.77"), "{said}");
        one.ok("rm -f -t 0 web")?;
        other.ok("rm -f -t 0 db")?;
        for at in [0, 1] {
            super::gone(lab.node(at))?;
        }
        Ok(())
    });
}

fn port(lab: &Lab, host: usize) -> Result<serde_json::Value> {
    let ports = lab.node(host).list("ports")?;
    ports.into_iter().next().context("no port")
}
