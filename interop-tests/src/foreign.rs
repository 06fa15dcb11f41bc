//! Hosts that speak VXLAN and know nothing of meshd: a plain Linux kernel, and Open vSwitch with its userspace datapath.
//!
//! ```text
//!   meshd, host a --- VXLAN, in the clear --- und0 of the host --- vxlan device, or br-phy and br-int of Open vSwitch
//! ```
//!
//! Each takes the place of one host of the lab that runs no daemon; what sends and receives there is in the host's own
//! namespace.

use crate::lab::Lab;
use crate::netns::{self, ip};
use anyhow::{Context, Result};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

/// Port 4789 (RFC 7348).
const VXLAN_PORT: u16 = 4789;

/// One network as a foreign VTEP sees it.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Its VNI.
    pub vni: u32,
    /// The other end: the host with the gateway.
    pub gateway: IpAddr,
    /// The address that the foreign host has there, in a /24.
    pub ip: IpAddr,
}

/// The host of a plain kernel VXLAN device; returns the device's MAC.
///
/// # Errors
/// If the kernel refuses.
pub fn linux(lab: &Lab, host: usize, segment: &Segment) -> Result<String> {
    let (ns, local) = (&lab.hosts[host].netns, lab.underlay(host));
    let Segment {
        vni,
        gateway,
        ip: address,
    } = segment;
    ip(&format!(
        "-n {ns} link add vx0 mtu 1450 type vxlan id {vni} local {local} remote {gateway} dstport {VXLAN_PORT} dev und0"
    ))?;
    ip(&format!("-n {ns} addr add {address}/24 dev vx0"))?;
    ip(&format!("-n {ns} link set vx0 up"))?;
    mac_of(ns, "vx0")
}

fn mac_of(ns: &str, device: &str) -> Result<String> {
    let words = ["-o", "link", "show", "dev", device];
    let text = netns::run(ns, "ip", &words)?;
    let mut words = text.split_whitespace();
    words
        .find(|word| *word == "link/ether")
        .and_then(|_| words.next())
        .map(str::to_owned)
        .with_context(|| format!("no MAC in {text}"))
}

/// Open vSwitch on one host, with a userspace datapath, whose internal port `br-int` is the station.
#[derive(Debug)]
pub struct OpenVswitch {
    /// The station's MAC.
    pub mac: String,
    daemons: Vec<Child>,
}

impl OpenVswitch {
    /// Starts it. The host's underlay address moves to `br-phy`, as Open vSwitch wants it for tunnels of its own.
    ///
    /// # Errors
    /// If it is not installed, or does not come up.
    pub fn start(lab: &Lab, host: usize, segment: &Segment) -> Result<Self> {
        let (ns, local) = (&lab.hosts[host].netns, lab.underlay(host));
        let Segment {
            vni,
            gateway,
            ip: address,
        } = segment;
        // Frames get to it by packet sockets, which see what the sender left for hardware to do; there is none here.
        for place in [ns, &lab.hosts[0].netns] {
            netns::run(place, "ethtool", &["-K", "und0", "tx", "off"])?;
        }
        let dir = lab.dir.join("ovs");
        std::fs::create_dir_all(&dir).context("make a folder")?;
        let (database, socket) = (
            dir.join("conf.db"),
            format!("unix:{}", dir.join("db.sock").display()),
        );
        netns::output(
            std::process::Command::new("ovsdb-tool")
                .arg("create")
                .arg(&database)
                .arg("/usr/share/openvswitch/vswitch.ovsschema"),
        )?;
        let mut ovs = Self {
            mac: String::new(),
            daemons: Vec::new(),
        };
        ovs.spawn(
            ns,
            &dir,
            "ovsdb-server",
            &[
                database.display().to_string(),
                format!("--remote=p{socket}"),
                format!("--unixctl={}", dir.join("ovsdb.ctl").display()),
            ],
        )?;
        crate::wait(
            "the database of Open vSwitch",
            Duration::from_secs(5),
            || Ok(dir.join("db.sock").exists()),
        )?;
        let vsctl = |words: &str| {
            let all: Vec<&str> = words.split_whitespace().collect();
            let db = format!("--db={socket}");
            netns::run(
                ns,
                "ovs-vsctl",
                &[&[db.as_str(), "--timeout=10"], all.as_slice()].concat(),
            )
        };
        vsctl("--no-wait init")?;
        ovs.spawn(
            ns,
            &dir,
            "ovs-vswitchd",
            &[
                socket.clone(),
                format!("--unixctl={}", dir.join("vs.ctl").display()),
            ],
        )?;
        vsctl("add-br br-phy -- set bridge br-phy datapath_type=netdev -- add-port br-phy und0")?;
        vsctl(&format!(
            "add-br br-int -- set bridge br-int datapath_type=netdev -- add-port br-int vx0 -- set interface vx0 type=vxlan options:remote_ip={gateway} options:key={vni} -- set interface br-int mtu_request=1450"
        ))?;
        ip(&format!("-n {ns} addr flush dev und0"))?;
        ip(&format!("-n {ns} addr add {local}/24 dev br-phy"))?;
        ip(&format!("-n {ns} link set br-phy up"))?;
        ip(&format!("-n {ns} addr add {address}/24 dev br-int"))?;
        ip(&format!("-n {ns} link set br-int up"))?;
        netns::run(ns, "ethtool", &["-K", "br-int", "tx", "off"])?;
        ovs.mac = mac_of(ns, "br-int")?;
        // Its tunnels wait until the neighbour is known.
        crate::traffic::ping_until(ns, *gateway, Duration::from_secs(5))?;
        Ok(ovs)
    }

    fn spawn(&mut self, ns: &str, dir: &PathBuf, program: &str, words: &[String]) -> Result<()> {
        let mut command = netns::command(ns, program)?;
        for name in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR"] {
            command.env(name, dir);
        }
        let log =
            std::fs::File::create(dir.join(format!("{program}.log"))).context("make a log")?;
        let child = command
            .args(words)
            .current_dir(dir)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| {
                format!("start {program}: is openvswitch-switch installed? `cargo xtask setup`")
            })?;
        self.daemons.push(child);
        Ok(())
    }
}

impl Drop for OpenVswitch {
    fn drop(&mut self) {
        for child in self.daemons.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
