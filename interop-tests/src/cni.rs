//! A container runtime's end of CNI: runs plugins as the specification says, one by one or in a chain.
//!
//! Owns the folder with `meshd-cni`, a link to the daemon under test. Decides nothing about networks: what a plugin prints is
//! handed on as it is.

use crate::lab::{Lab, meshd_binary};
use crate::netns;
use crate::node::Node;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Where Debian's `containernetworking-plugins` are.
pub const STOCK: &str = "/usr/lib/cni";

/// What a plugin printed.
#[derive(Clone, Debug)]
pub struct Told {
    /// Exit code; -1 after a signal.
    pub code: i32,
    /// What it printed to stdout, if that was JSON; else null.
    pub out: Value,
    /// Standard output as it was.
    pub text: String,
    /// Standard error.
    pub stderr: String,
}

impl Told {
    /// The result of a plugin that succeeded.
    ///
    /// # Errors
    /// If it failed.
    pub fn ok(self) -> Result<Value> {
        ensure!(
            self.code == 0,
            "exit code {}: {}{}",
            self.code,
            self.text,
            self.stderr
        );
        Ok(self.out)
    }

    /// The code of the error object; the plugin must have printed one, in words, and ended with 1.
    ///
    /// # Errors
    /// If it did not.
    pub fn refused(&self) -> Result<u64> {
        let object = &self.out;
        let words = object["msg"].as_str().is_some_and(|msg| !msg.is_empty());
        let whole = words && object["cniVersion"].is_string() && !self.stderr.contains("panicked");
        ensure!(
            self.code == 1 && whole,
            "no error object: exit code {}: {}{}",
            self.code,
            self.text,
            self.stderr
        );
        object["code"]
            .as_u64()
            .context("an error object without a code")
    }
}

/// One call of a plugin.
#[derive(Clone, Debug)]
pub struct Call {
    /// The plugin's file.
    pub program: PathBuf,
    /// The environment: names and values.
    pub env: Vec<(String, String)>,
    /// Standard input.
    pub stdin: Vec<u8>,
}

impl Call {
    /// The same with another value of a variable; `None` unsets it.
    #[must_use]
    pub fn env(mut self, name: &str, value: Option<&str>) -> Self {
        self.env.retain(|(known, _)| known != name);
        if let Some(value) = value {
            self.env.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// The same with these bytes on stdin.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Runs it in a host's namespace.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn run(&self, host: &str) -> Result<Told> {
        let mut command = netns::command(host, &self.program)?;
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let program = self.program.display();
        let mut child = command
            .spawn()
            .with_context(|| format!("start {program}"))?;
        let (mut pipe, bytes) = (child.stdin.take().context("stdin")?, self.stdin.clone());
        // One that reads no more than it wants closes the pipe.
        let writer = std::thread::spawn(move || drop(pipe.write_all(&bytes)));
        let out = child.wait_with_output()?;
        let _ = writer.join();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        Ok(Told {
            code: out.status.code().unwrap_or(-1),
            out: serde_json::from_str(&text).unwrap_or_default(),
            text,
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        })
    }
}

/// Runs plugins for the containers of a lab.
#[derive(Debug)]
pub struct Runtime {
    /// With `meshd-cni` in it.
    pub bin: PathBuf,
}

impl Runtime {
    /// Links the plugin into the lab's folder.
    ///
    /// # Errors
    /// If the daemon was not built.
    pub fn new(lab: &Lab) -> Result<Self> {
        let bin = lab.dir.join("cni");
        fs::create_dir_all(&bin)?;
        let link = bin.join("meshd-cni");
        if !link.exists() {
            std::os::unix::fs::symlink(meshd_binary()?, &link).context("link meshd-cni")?;
        }
        Ok(Self { bin })
    }

    /// A configuration of `meshd-cni` for a node's daemon.
    #[must_use]
    pub fn conf(node: &Node, version: &str, network: &str) -> Value {
        json!({
            "cniVersion": version, "name": network, "type": "meshd-cni", "network": network, "socket": node.socket,
        })
    }

    /// A call for `container` (a namespace; also the container's id), not run.
    #[must_use]
    pub fn call(&self, verb: &str, container: &str, conf: &Value) -> Call {
        let plugin = conf["type"].as_str().unwrap_or_default();
        let own = self.bin.join(plugin);
        let program = if own.exists() {
            own
        } else {
            Path::new(STOCK).join(plugin)
        };
        let path = format!("{}:{STOCK}", self.bin.display());
        let pairs = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", container),
            ("CNI_NETNS", &format!("/run/netns/{container}")),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", &path),
        ];
        Call {
            program,
            env: pairs
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            stdin: conf.to_string().into_bytes(),
        }
    }

    /// ADD of one plugin that must succeed; its result.
    ///
    /// # Errors
    /// If it fails.
    pub fn add(&self, node: &Node, container: &str, conf: &Value) -> Result<Value> {
        self.call("ADD", container, conf).run(&node.netns)?.ok()
    }

    /// DEL of one plugin that must succeed.
    ///
    /// # Errors
    /// If it fails.
    pub fn del(&self, node: &Node, container: &str, conf: &Value) -> Result<()> {
        self.call("DEL", container, conf)
            .run(&node.netns)?
            .ok()
            .map(drop)
    }

    /// Runs a list of plugins as runtimes do: forward for ADD and CHECK, backward for DEL; each gets the result so far, or the
    /// last one. `runtime`: what the runtime knows of each capability.
    ///
    /// # Errors
    /// If one fails.
    pub fn chain(
        &self,
        verb: &str,
        node: &Node,
        container: &str,
        list: &Value,
        runtime: &Value,
        result: &Value,
    ) -> Result<Value> {
        let mut plugins = list["plugins"].as_array().context("no plugins")?.clone();
        if verb == "DEL" {
            plugins.reverse();
        }
        let mut result = result.clone();
        for mut conf in plugins {
            conf["cniVersion"] = list["cniVersion"].clone();
            conf["name"] = list["name"].clone();
            if let Some(wanted) = conf["capabilities"].as_object().cloned() {
                for key in wanted.keys().filter(|key| !runtime[key.as_str()].is_null()) {
                    conf["runtimeConfig"][key] = runtime[key].clone();
                }
            }
            if !result.is_null() {
                conf["prevResult"] = result.clone();
            }
            let told = self.call(verb, container, &conf).run(&node.netns)?;
            let printed = told
                .ok()
                .with_context(|| format!("{verb} of {}", conf["type"]))?;
            if verb == "ADD" {
                result = printed;
            }
        }
        Ok(result)
    }
}

/// The addresses of a result.
///
/// # Errors
/// If it has none.
pub fn addresses(result: &Value) -> Result<Vec<IpAddr>> {
    let ips = result["ips"]
        .as_array()
        .with_context(|| format!("no addresses: {result}"))?;
    let ip = |value: &Value| value["address"].as_str()?.split('/').next()?.parse().ok();
    let all: Vec<IpAddr> = ips.iter().filter_map(ip).collect();
    if all.is_empty() {
        bail!("no addresses: {result}");
    }
    Ok(all)
}
