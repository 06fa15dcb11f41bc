//! `meshd attach` and `meshd ports`: what can be typed of ports, and what is asked of the daemon for it.

use super::values::{self, Ips};
use super::{Failure, show};
use crate::api::client::Client;
use crate::api::requests::{AttachWish, ByteInput};
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use meshd_core::code::ErrorCode;
use meshd_core::command::{IpSpec, PortRoute};
use meshd_core::ident::{IfName, Label, MacAddr};
use meshd_core::kind::{Crossing, MacvlanMode, MacvlanSpec, PortKind, UplinkSpec};
use meshd_core::owner::Owner;
use meshd_core::view::{Port, PortState};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

/// How often a port that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// `meshd attach`.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("place").required(true).args(["netns", "uplink", "bridge"])))]
pub(super) struct AttachArgs {
    /// Name or VNI of the network.
    #[arg(value_parser = values::word)]
    network: String,
    /// The namespace: NAME (as `ip netns` has it), a path, pid:N, or `self` for this process's own.
    #[arg(long, value_name = "NAME|PATH|pid:N", value_parser = clap::value_parser!(OsString))]
    netns: Option<OsString>,
    /// Join the LAN behind this interface of the host to the network. It keeps its name, and is put back as it was by `detach`.
    #[arg(
        long,
        value_name = "IFNAME",
        value_parser = values::IfNameParser,
        group = "lan",
        conflicts_with_all = ["netns", "kind", "ifname", "ip", "mac", "mtu", "routes", "vrf"]
    )]
    uplink: Option<IfName>,
    /// Join all that is in this bridge of the host, made by libvirt, Docker, systemd-networkd or by hand, to the network. meshd puts one
    /// port into it and changes nothing else; while the bridge is not there the port waits for it.
    #[arg(
        long,
        value_name = "BRIDGE",
        value_parser = values::IfNameParser,
        group = "lan",
        conflicts_with_all = ["netns", "kind", "ifname", "ip", "mac", "mtu", "routes", "vrf"]
    )]
    bridge: Option<IfName>,
    /// Only this VLAN of the uplink (802.1Q, 1 to 4094), without its tag; others of the interface stay, or are uplinks of their own.
    #[arg(long, value_name = "ID", requires = "uplink", conflicts_with = "netns", value_parser = clap::value_parser!(u16).range(1..=4094))]
    vlan: Option<u16>,
    /// What may cross between the LAN of an uplink or bridge and other sites, which otherwise stays where it is; may be repeated.
    #[arg(
        long,
        value_name = "WHAT",
        requires = "lan",
        conflicts_with = "netns",
        value_enum,
        value_delimiter = ','
    )]
    allow: Vec<CrossingArg>,
    /// Source MACs behind the uplink or in the bridge, at most [default: 1024].
    #[arg(long, value_name = "NUMBER", requires = "lan", conflicts_with = "netns", value_parser = clap::value_parser!(u16).range(1..=4096))]
    macs: Option<u16>,
    /// What the port is made of.
    #[arg(long, value_enum, default_value = "veth")]
    kind: KindArg,
    /// How the kernel treats frames of a macvlan or macvtap [default: bridge].
    #[arg(long, value_enum, value_name = "MODE")]
    mode: Option<ModeArg>,
    /// MAC whose frames a macvlan or macvtap of mode `source` takes; may be repeated.
    #[arg(long = "source", value_name = "MAC", value_parser = values::mac)]
    sources: Vec<MacAddr>,
    /// Name of the interface in the namespace; any bytes that the kernel takes, `%d` counts.
    #[arg(long, value_name = "IFNAME", default_value = "eth%d", value_parser = values::IfNameParser)]
    ifname: IfName,
    /// `auto` leases an address of each subnet, `none` sets none, or CIDR[,CIDR...].
    #[arg(long, value_name = "auto|none|CIDR[,CIDR]", default_value = "auto", value_parser = values::ips)]
    ip: Ips,
    /// MAC of the interface [default: made by the node].
    #[arg(long, value_parser = values::mac)]
    mac: Option<MacAddr>,
    /// Name of the endpoint: found as NAME.NETWORK.DOMAIN by all on the network.
    #[arg(long, value_name = "NAME", value_parser = values::new_name)]
    name: Option<Label>,
    /// Label of the endpoint, seen by policy; may be repeated.
    #[arg(long = "label", value_name = "K=V", value_parser = values::pair)]
    labels: Vec<(String, String)>,
    /// MTU of the interface in bytes [default: the network's].
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u16>,
    /// Route through the interface, besides those to its subnets; may be repeated. A default route is `0.0.0.0/0,ROUTER`.
    #[arg(long = "route", value_name = "CIDR[,ROUTER]", value_parser = values::route)]
    routes: Vec<PortRoute>,
    /// The VRF of the namespace to put the interface into; its routes go to the VRF's table.
    #[arg(long, value_name = "VRF", value_parser = values::IfNameParser)]
    vrf: Option<IfName>,
    /// A word by which whoever attaches finds the port again; one port has it. Its resolv.conf is then theirs to write.
    #[arg(long, value_name = "WORD", value_parser = values::owner)]
    owner: Option<Owner>,
}

/// A [`Crossing`].
#[derive(Clone, Copy, Debug, ValueEnum)]
enum CrossingArg {
    /// Answers of DHCP servers.
    Dhcp,
    /// IPv6 router advertisements and redirects.
    Ra,
    /// Multicast DNS.
    Mdns,
    /// SSDP of UPnP.
    Ssdp,
}

impl From<CrossingArg> for Crossing {
    fn from(arg: CrossingArg) -> Self {
        match arg {
            CrossingArg::Dhcp => Self::Dhcp,
            CrossingArg::Ra => Self::Ra,
            CrossingArg::Mdns => Self::Mdns,
            CrossingArg::Ssdp => Self::Ssdp,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KindArg {
    /// A veth.
    Veth,
    /// A macvlan over a veth of its own.
    Macvlan,
    /// A macvtap over a veth of its own: `/dev/tapN` for a virtual machine.
    Macvtap,
}

/// A [`MacvlanMode`].
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeArg {
    Bridge,
    Private,
    Vepa,
    /// It may change its MAC and have many: for bridges in virtual machines.
    Passthru,
    /// It takes frames of the MACs given by `--source` only.
    Source,
}

impl From<ModeArg> for MacvlanMode {
    fn from(arg: ModeArg) -> Self {
        match arg {
            ModeArg::Bridge => Self::Bridge,
            ModeArg::Private => Self::Private,
            ModeArg::Vepa => Self::Vepa,
            ModeArg::Passthru => Self::Passthru,
            ModeArg::Source => Self::Source,
        }
    }
}

impl AttachArgs {
    /// What the daemon is asked for.
    pub(super) fn wish(self) -> Result<AttachWish, Failure> {
        if self.kind == KindArg::Veth && (self.mode.is_some() || !self.sources.is_empty()) {
            return Err(Failure::new(
                ErrorCode::MacvlanInvalid,
                "--mode and --source are for --kind macvlan and --kind macvtap",
            ));
        }
        let netns = match &self.netns {
            Some(netns) => {
                let path = values::netns(netns).map_err(|error| {
                    let hint = error.hint;
                    Failure::new(ErrorCode::NetnsInvalid, error).hint(hint)
                })?;
                Some(ByteInput::of(path.as_os_str().as_bytes()))
            }
            None => None,
        };
        let macvlan = || MacvlanSpec {
            mode: self.mode.map(MacvlanMode::from).unwrap_or_default(),
            sources: self.sources.iter().copied().collect(),
        };
        let lan = UplinkSpec {
            vlan: self.vlan,
            allow: self.allow.iter().copied().map(Crossing::from).collect(),
            macs: self.macs,
        };
        let kind = match (&self.uplink, &self.bridge, self.kind) {
            (Some(_), ..) => PortKind::Uplink(lan),
            (None, Some(_), _) => PortKind::Bridge(lan),
            (None, None, KindArg::Veth) => PortKind::Veth,
            (None, None, KindArg::Macvlan) => PortKind::Macvlan(macvlan()),
            (None, None, KindArg::Macvtap) => PortKind::Macvtap(macvlan()),
        };
        let lan = self.uplink.as_ref().or(self.bridge.as_ref());
        let ifname = lan.unwrap_or(&self.ifname);
        Ok(AttachWish {
            network: self.network,
            netns,
            ifname: ByteInput::of(ifname.as_bytes()),
            ip: match lan {
                Some(_) => IpSpec::None,
                None => self.ip.0,
            },
            mac: self.mac,
            name: self.name,
            labels: self.labels.into_iter().collect(),
            mtu: self.mtu,
            routes: self.routes,
            vrf: self.vrf.map(|vrf| ByteInput::of(vrf.as_bytes())),
            owner: self.owner,
            kind,
        })
    }
}

/// `meshd ports`.
#[derive(Debug, Subcommand)]
pub(super) enum PortsCommand {
    /// Show one port: where it is, its addresses, and the devices of this host that are its.
    #[command(
        after_help = "Examples:\n  meshd ports show web\n  tcpdump -i $(meshd ports show web --json | jq -r '.devices[0]')\n  meshd ports show web.demo --json"
    )]
    Show {
        /// The port's number, or NAME or NAME.NETWORK of its endpoint.
        #[arg(value_parser = values::word)]
        port: String,
    },
    /// Wait until a port is ready and its far end is up: until frames can flow.
    #[command(
        after_help = "Examples:\n  meshd ports wait web\n  meshd ports wait web.demo --timeout 5s && docker start web\n\n\
        A port that is not there yet may come. Exit code 1 if it is not ready in time; the message says what is missing."
    )]
    Wait {
        /// The port's number, or NAME or NAME.NETWORK of its endpoint.
        #[arg(value_parser = values::word)]
        port: String,
        /// Give up after so long: 5s, 1m.
        #[arg(long, value_name = "TIME", default_value = "30s", value_parser = values::duration)]
        timeout: Duration,
    },
}

/// True if frames can flow.
fn is_ready(port: &Port) -> bool {
    port.state == PortState::Ready && port.link
}

fn absent(wanted: &str) -> String {
    format!("there is no port \"{wanted}\" on this node")
}

/// The port that is meant, if it is there.
fn find<'a>(ports: &'a [Port], wanted: &str) -> Result<Option<&'a Port>, Failure> {
    let mut found = ports.iter().filter(|port| is(port, wanted));
    match (found.next(), found.next()) {
        (_, Some(_)) => Err(Failure::new(
            ErrorCode::PortAmbiguous,
            format!("several ports are called \"{wanted}\"; say NAME.NETWORK, or the number"),
        )),
        (one, None) => Ok(one),
    }
}

/// One port, as it is now.
pub(super) async fn one(client: &Client, wanted: &str) -> Result<Port, Failure> {
    let ports: Vec<Port> = client.get("/v1/ports").await?;
    let found = find(&ports, wanted)?.cloned();
    found.ok_or_else(|| {
        let message = format!("{}; `meshd ports` lists those there are", absent(wanted));
        Failure::new(ErrorCode::PortUnknown, message)
    })
}

/// Waits until the port is ready.
pub(super) async fn wait(
    client: &Client,
    wanted: &str,
    timeout: Duration,
) -> Result<Port, Failure> {
    let end = Instant::now() + timeout;
    loop {
        let ports: Vec<Port> = client.get("/v1/ports").await?;
        let missing = match find(&ports, wanted)? {
            Some(port) if is_ready(port) => return Ok(port.clone()),
            None => absent(wanted),
            Some(port) => match &port.reason {
                Some(reason) => {
                    format!("port {} is {}: {reason}", port.id, show::state(port.state))
                }
                None => format!("port {} is {}", port.id, show::state(port.state)),
            },
        };
        if Instant::now() >= end {
            return Err(Failure::new(
                ErrorCode::PortNotReady,
                format!("not ready within {} s: {missing}", timeout.as_secs()),
            ));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Is it the port of this number, `name` or `name.network`?
fn is(port: &Port, wanted: &str) -> bool {
    if wanted.parse() == Ok(port.id.0) {
        return true;
    }
    let wanted = wanted.to_ascii_lowercase();
    port.name.as_ref().is_some_and(|name| {
        let name = name.as_str();
        wanted == name
            || wanted == format!("{name}.{}", port.network)
            || port
                .domain_name
                .as_ref()
                .is_some_and(|full| *full == wanted)
    })
}
