//! What can be typed: every command, option and its help. `docs/reference/cli.md` is made of this.

use super::capture::{self, CaptureArgs};
use super::config::ConfigCommand;
use super::device::DeviceCommand;
use super::doctor::DoctorArgs;
use super::drops::DropsArgs;
use super::explain;
use super::ports::{AttachArgs, PortsCommand};
use super::top::TopArgs;
use super::values::{self, Grant};
use super::workshop::WorkCommand;
use crate::rulings::{FailMode, Stage};
use clap::{Args, Parser, Subcommand, ValueEnum};
use meshd_core::ident::{Label, MacAddr, Vni};
use meshd_core::wire::record::Role;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where the daemon answers, unless told otherwise.
pub(super) const SOCKET: &str = "/run/meshd/meshd.sock";
/// Where the state is, unless told otherwise.
pub(super) const STATE: &str = "/var/lib/meshd";

/// Networks for containers and machines: one Ethernet segment over many hosts, encrypted, with names and policy.
#[derive(Debug, Parser)]
#[command(
    name = "meshd",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    before_help = "Start here: `meshd init && meshd run` makes a mesh of this host; what comes then is at the end of this help.",
    after_help = "From here on, on two hosts:\n  \
        host1# meshd init && meshd run\n  \
        host1# meshd network add demo --subnet 10.0.0.0/24\n  \
        host1# meshd invite                       prints a token\n  \
        host2# meshd join TOKEN && meshd run\n  \
        host1# meshd attach demo --netns web --name web\n  \
        host2# meshd attach demo --netns db --name db\n\n\
        Exit codes: 0 done, 1 refused or failed (message on stderr), 2 wrong usage."
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What every command takes.
#[derive(Args, Clone, Debug)]
pub(super) struct Common {
    /// Unix socket of the daemon.
    #[arg(long, global = true, env = "MESHD_SOCKET", default_value = SOCKET, value_name = "PATH", hide_env_values = true)]
    pub(super) socket: PathBuf,
    /// State folder: keys, members, leases, plugins.
    #[arg(long, global = true, env = "MESHD_STATE", default_value = STATE, value_name = "DIR", hide_env_values = true)]
    pub(super) state: PathBuf,
    /// Print one JSON document to stdout, and nothing else (`events --follow`: one a line).
    #[arg(long, global = true)]
    pub(super) json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a new mesh; this node becomes its first member and holds its root key.
    #[command(after_help = "Examples:\n  meshd init\n  meshd init --mesh homelab --name attic")]
    Init {
        /// Name of the mesh; names are found under NAME.internal.
        #[arg(long, value_name = "NAME", default_value = "mesh", value_parser = values::label)]
        mesh: Label,
        /// Name of this node in the mesh [default: the host's name].
        #[arg(long, value_name = "NAME", value_parser = values::new_name)]
        name: Option<Label>,
    },
    /// Run the daemon, in the foreground, with its log on stderr.
    #[command(
        after_help = "Examples:\n  meshd run\n  MESHD_STATE=/tmp/b/state MESHD_SOCKET=/tmp/b/sock meshd run      a second one beside it\n\n\
        Stops at SIGTERM and SIGINT; ports stay wired and are found again at the next start.\n\
        RUST_LOG (such as RUST_LOG=info,meshd=debug) sets what is logged, whatever the config file says."
    )]
    Run {
        /// Config file (TOML), read again when it changes [default: /etc/meshd/meshd.toml if it is there].
        #[arg(
            long,
            env = "MESHD_CONFIG",
            value_name = "FILE",
            hide_env_values = true
        )]
        config: Option<PathBuf>,
    },
    /// Make a one-time token that lets another node join.
    #[command(
        after_help = "Examples:\n  meshd invite\n  meshd invite --ttl 10m --label zone=attic\n  TOKEN=$(meshd invite --role admin)\n\n\
        Only the token goes to stdout. Who holds it can join, once: hand it over as you would a password.\n\
        It works on the node that made it, and that holds the mesh's root key."
    )]
    Invite {
        /// How long the token is good: 90s, 30m, 1h, 2d; at most 30d.
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = values::ttl)]
        ttl: Duration,
        /// Label of the newcomer, seen by policy; may be repeated.
        #[arg(long = "label", value_name = "K=V", value_parser = values::pair)]
        labels: Vec<(String, String)>,
        /// What the newcomer may do: have ports, or also define networks.
        #[arg(long, value_enum, default_value = "member")]
        role: RoleArg,
    },
    /// Join a mesh with a token of `meshd invite`; start the node with `meshd run` after it.
    #[command(
        after_help = "Examples:\n  meshd join meshd1qk...\n  ssh host1 meshd invite | meshd join -"
    )]
    Join {
        /// The token; `-` reads it from stdin, where no process list shows it.
        token: String,
        /// Name of this node in the mesh [default: the host's name].
        #[arg(long, value_name = "NAME", value_parser = values::new_name)]
        name: Option<Label>,
    },
    /// List the members of the mesh and how they are.
    Members,
    /// Take a member's rights for good and close its sessions.
    #[command(
        after_help = "Examples:\n  meshd revoke attic\n\nThere is no way back: the node can only join again, with a new key and a new invite."
    )]
    Revoke {
        /// Its name, its id, or the first 6 or more characters of its id.
        #[arg(value_parser = values::word)]
        member: String,
    },
    /// Define, list and remove networks.
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Give a network a port: an interface in a network namespace, or the LAN behind an interface or a bridge of this host.
    #[command(after_help = "Examples:\n  \
        meshd attach demo --netns web --name web\n  \
        meshd attach demo --netns pid:4242 --ip 10.0.0.7/24 --ifname eth1\n  \
        meshd attach demo --netns /run/docker/netns/1a2b --ip none --label app=db\n  \
        meshd attach demo --netns self --kind macvtap --ifname vm0 --ip none     a virtual machine's /dev/tapN\n  \
        meshd attach demo --uplink eth1 --name attic-lan                         a whole LAN\n  \
        meshd attach guests --uplink eth1 --vlan 20 --allow mdns                 one VLAN of it\n  \
        meshd attach demo --bridge virbr0                                        all that is in a bridge\n\n\
        The same command again changes nothing and prints the same port.\n\
        A bridge that is not there yet is waited for (`meshd ports wait`). Uplinks and bridges are guarded: one that would close a loop is blocked, its broadcasts have a limit (`bum_per_second` under [limits]),\n\
        and DHCP answers, router advertisements, mDNS and SSDP stay at their site unless `--allow` says otherwise.")]
    Attach(AttachArgs),
    /// Undo an attach, completely.
    #[command(
        after_help = "Examples:\n  meshd detach 3\n  meshd detach web\n  meshd detach web.demo"
    )]
    Detach {
        /// The port's number, or NAME or NAME.NETWORK of its endpoint.
        #[arg(value_parser = values::word)]
        port: String,
    },
    /// List the ports of this node, show one, or wait for one.
    Ports {
        #[command(subcommand)]
        command: Option<PortsCommand>,
    },
    /// List the devices of this host that meshd makes: how each is, and why one is not there.
    #[command(
        after_help = "Examples:\n  meshd devices\n  meshd devices --json | jq '.[] | select(.state != \"ready\")'\n\n\
        `meshd device add`, and [[device.dummy]], [[device.bond]], [[device.vlan]], [[device.bridge]],\n\
        [[device.macvlan]] and [[device.macvtap]] in the config file declare them: see\n\
        docs/howto/host-devices.md and docs/howto/lan-stations.md."
    )]
    Devices,
    /// Declare and remove devices of this host: dummies, bonds, VLANs, bridges, macvlans and macvtaps.
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Show this node and what is wrong, if anything.
    Status,
    /// List the nodes that this one has, or wants, a session with.
    Peers,
    /// List the ways to each peer, and why one is taken.
    Paths,
    /// List where each MAC is: behind which port or node.
    #[command(
        after_help = "Examples:\n  meshd fdb\n  meshd fdb --network demo --json | jq -r '.[].mac'"
    )]
    Fdb {
        /// Only this network (name or VNI).
        #[arg(long, value_name = "NETWORK", value_parser = values::word)]
        network: Option<String>,
    },
    /// List the rulings that hold for many frames: where each lives, and what keeps it out of the kernel.
    #[command(
        after_help = "Examples:\n  meshd flows\n  meshd flows --why\n  meshd flows --network demo --json | jq '.[] | select(.lives == \"kernel\")'\n\n\
        A flow lives in the kernel (the daemon sees none of its frames), in the datapath (by a cached ruling), or is slow (each\n\
        frame is a question). Its counts are of all three together."
    )]
    Flows {
        /// Only this network (name or VNI).
        #[arg(long, value_name = "NETWORK")]
        network: Option<String>,
        /// Only those that the kernel does not hold, each with what keeps it out.
        #[arg(long)]
        why: bool,
    },
    /// List the connections of networks whose policy looks at them: how far each is, its mark, and who decided.
    #[command(
        after_help = "Examples:\n  meshd connections\n  meshd connections --network demo --json | jq '.[] | select(.stale)'\n\n\
        A network has a connection table as soon as one of its plugins reads the state of connections, or enters them; its last\n\
        plugin takes it along. Each node has a table of its own, with the connections that passed it. Of a network the first\n\
        4096 are shown."
    )]
    Connections {
        /// Only this network (name or VNI).
        #[arg(long, value_name = "NETWORK", value_parser = values::word)]
        network: Option<String>,
    },
    /// List why frames were dropped: how many, how fast, where, and the last of each.
    #[command(
        after_help = "Examples:\n  meshd drops\n  meshd drops --port web --watch\n  meshd drops --reason policy --json | jq '.[].last'\n  meshd drops --balance\n\n\
        docs/reference/drops.md says of each reason what it means and what to do. Counts begin with the daemon; those of the\n\
        kernel (tap-overrun, socket-overrun, fenced) with the device, socket or table."
    )]
    Drops(DropsArgs),
    /// List what happened lately, or what happens.
    #[command(
        after_help = "Examples:\n  meshd events --since 1h\n  meshd events --kind port,peer-down\n  meshd events --follow\n  \
        meshd events --follow --json | jq 'select(.event==\"peer-down\")'\n\n\
        The last 10,000 events are kept, also over restarts of the daemon. Kinds: node, member, peer, path, network, port, plugin,\n\
        device; or the word of an event, as --json has it."
    )]
    Events {
        /// Go on with events as they happen, until Ctrl-C; also when the daemon is started again.
        #[arg(long, short)]
        follow: bool,
        /// Only events behind this number.
        #[arg(long, value_name = "NUMBER")]
        after: Option<u64>,
        /// Only events of the last 90s, 30m, 1h, 2d.
        #[arg(long, value_name = "TIME", value_parser = values::duration)]
        since: Option<Duration>,
        /// Only events of this kind; may be repeated.
        #[arg(long = "kind", value_name = "KIND", value_delimiter = ',')]
        kinds: Vec<String>,
    },
    /// Watch peers, paths, ports, flows, plugins, drops and events live, in a terminal.
    #[command(
        after_help = "Examples:\n  meshd top\n  meshd top --page drops\n  meshd top --page flows --filter 10.0.0.7\n\n\
        Keys: 1 to 7 or Tab another page, up and down choose a line, Enter its details, / only lines with a text,\n\
        s order by load or name, p stop, ? help, q end. NO_COLOR is heeded."
    )]
    Top(TopArgs),
    /// Explain the code of an error, the reason of a drop, path or flow, or a plugin's fault.
    #[command(
        after_help = "Examples:\n  meshd explain address-taken\n  meshd explain mtu-hole\n  meshd explain\n\nAsks no daemon."
    )]
    Explain {
        /// The word; without it, all words are listed.
        word: Option<String>,
        /// Print a reference page.
        #[arg(long, hide = true, value_name = "PAGE", num_args = 0..=1, require_equals = true, default_missing_value = "errors")]
        markdown: Option<explain::Page>,
    },
    /// See and set what the running daemon logs.
    #[command(subcommand)]
    Log(LogCommand),
    /// The API of the daemon: tokens for its TCP port, and its description.
    #[command(subcommand)]
    Api(ApiCommand),
    /// Show frames as they come and go, with what becomes of each; or write them to a file for Wireshark.
    #[command(after_help = capture::HELP)]
    Capture(CaptureArgs),
    /// Say what would become of a packet, and why; nothing is sent.
    #[command(after_help = "Examples:\n  \
        meshd trace demo 'tcp 10.0.0.1:4000 > 10.0.0.2:22 syn'\n  \
        meshd trace demo 'udp [fd00::1]:53 > [fd00::2]:53'\n  \
        meshd trace demo 'icmp 10.0.0.1 > 10.0.0.2'\n  \
        meshd trace demo 'arp who-has 10.0.0.2 tell 10.0.0.1'\n  \
        meshd trace demo 'tcp 10.0.0.9:1 > 10.0.0.2:22 syn from web'       from port web, whoever has 10.0.0.9\n  \
        meshd trace demo 'udp 10.0.0.1:1 > 192.0.2.1:53 via 10.0.0.254'    by a router on the network\n\n\
        Words that may follow: TCP flags (syn ack fin rst psh urg ece cwr ns), `type N` and `code N` for icmp,\n\
        `vlan N`, `via ADDRESS`, `from PORT`, `from peer NODE`. A frame that was captured is given in hex digits, from the\n\
        destination MAC on: `hex 0200… from PORT`.\n\n\
        From an uplink, a bridge or the port of foreign VTEPs the frame has a MAC that was heard there. Who is not known to have\n\
        an address may be on a LAN: then the question for it (ARP, ND) is traced, and the answer says so.\n\n\
        Where the frame would go to peers, these are asked what would become of it there.\n\n  \
        meshd trace demo --on berlin 'tcp 10.0.0.2:22 > 10.0.0.1:4000 ack'   the answer, from a port of node berlin\n  \
        meshd trace demo --live tcp :22 syn                                   real frames, as they come")]
    Trace {
        /// Name or VNI of the network.
        #[arg(value_parser = values::word)]
        network: String,
        /// The packet, as one argument; with --live a filter of `meshd capture`.
        #[arg(required_unless_present = "live", num_args = 1..)]
        packet: Vec<String>,
        /// Ask this node (name or id) instead: the packet comes from one of its ports.
        #[arg(long, value_name = "NODE", value_parser = values::word, conflicts_with = "live")]
        on: Option<String>,
        /// Show real frames as they come, with what becomes of each and why, until Ctrl-C; some a second.
        #[arg(long)]
        live: bool,
        /// With --live: show at most so many frames a second.
        #[arg(long, value_name = "FRAMES", default_value_t = 10, requires = "live", value_parser = clap::value_parser!(u32).range(1..))]
        rate: u32,
    },
    /// Serve a web page of this node and its mesh on the loopback, until Ctrl-C.
    #[command(
        after_help = "Examples:\n  meshd ui\n  ssh -L 7652:127.0.0.1:7652 HOST meshd ui      from elsewhere; then open what it printed\n\n\
        It prints the page's address with a token of this run; without the token nothing is told. The page\n\
        reads what you may read and changes nothing. All of it is in this program."
    )]
    Ui {
        /// TCP port on 127.0.0.1; 0 takes a free one.
        #[arg(long, default_value_t = 7652)]
        port: u16,
    },
    /// Install policy plugins and attach them to networks.
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Set up the CNI plugin, by which containerd, Podman and Kubernetes attach containers.
    #[command(subcommand)]
    Cni(CniCommand),
    /// Be a network and IPAM driver of Docker: `docker network create -d meshd`.
    #[command(subcommand)]
    Docker(DockerCommand),
    /// Check a config file, or print what one may hold.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Check what this host, the daemon and the ways to its peers need, and say what to do.
    #[command(
        after_help = "Examples:\n  meshd doctor\n  meshd explain underlay-mtu-hole\n  meshd doctor --bundle /tmp/meshd.tar.gz --hide-addresses\n\n\
        Each line that is not ok has a word in brackets, which `meshd explain` knows, what was found, and what to do. Works without a\n\
        daemon too, for this host alone. Ends within 5 s; what is not known by then is said. Exit code 1 if something does not work."
    )]
    Doctor(DoctorArgs),
    /// Write the units of systemd for this program: a service with a watchdog, and its socket.
    #[command(
        after_help = "Examples:\n  meshd install --dry-run\n  meshd init && meshd install --now\n\n\
        The units name this program where it is, and the state and socket of --state and --socket. Files that somebody else wrote are\n\
        left alone."
    )]
    Install {
        /// Folder for the units.
        #[arg(long, value_name = "DIR", default_value = crate::systemd::units::FOLDER)]
        unit_dir: PathBuf,
        /// The program that the service runs [default: this one].
        #[arg(long, value_name = "PATH")]
        program: Option<PathBuf>,
        /// Enable and start them, too.
        #[arg(long)]
        now: bool,
        /// Print what would be written, and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Stop the service and remove the units that `meshd install` wrote; state and config stay.
    Uninstall {
        /// Folder of the units.
        #[arg(long, value_name = "DIR", default_value = crate::systemd::units::FOLDER)]
        unit_dir: PathBuf,
    },
    /// Write man pages of all commands into a folder.
    #[command(hide = true)]
    Man {
        /// The folder; it is made.
        dir: PathBuf,
    },
    /// Print shell completions.
    #[command(
        after_help = "Examples:\n  meshd completions bash > /etc/bash_completion.d/meshd\n  meshd completions zsh > \"${fpath[1]}/_meshd\"\n  meshd completions fish > ~/.config/fish/completions/meshd.fish"
    )]
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the version of this program, and of the daemon if one answers.
    Version,
    /// Print the reference page of all commands.
    #[command(hide = true)]
    HelpMarkdown,
    /// Compile a component, stdin to stdout, with limits and without rights: what `meshd run` has its plugins compiled by.
    #[command(hide = true, name = crate::compiler::SUBCOMMAND)]
    CompilePlugin,
}

/// `meshd log`.
#[derive(Debug, Subcommand)]
pub(super) enum LogCommand {
    /// Print what is logged, or have something else logged from now on.
    #[command(
        after_help = "Examples:\n  meshd log level\n  meshd log level debug\n  meshd log level info,meshd::underlay=debug\n\n\
        It holds until the daemon is started again or its config file changes; for longer set `level` under [log] there."
    )]
    Level {
        /// off, error, warn, info, debug, trace, or a filter such as info,meshd::underlay=debug; libraries stay at info unless named.
        #[arg(value_name = "LEVEL")]
        level: Option<String>,
    },
}

/// `meshd api`.
#[derive(Debug, Subcommand)]
pub(super) enum ApiCommand {
    /// Print the token for the API's TCP port (`listen` under [api] in the config file); one is made if there is none.
    #[command(after_help = "Examples:\n  meshd api token --read\n  \
        curl -H \"Authorization: Bearer $(meshd api token --read)\" http://127.0.0.1:7651/v1/status\n\n\
        Tokens are files in the folder `api` of the state folder. Who has one can do, from this host, what it allows.")]
    Token {
        /// The token that may read and change nothing.
        #[arg(long)]
        read: bool,
        /// Make a new one; the old one is good no more.
        #[arg(long)]
        renew: bool,
    },
    /// Print the table of metrics, as docs/reference/metrics.md has it; asks no daemon.
    #[command(hide = true)]
    Metrics,
    /// Print the OpenAPI document; asks no daemon.
    Openapi {
        /// As a page of Markdown, as docs/reference/api-routes.md has it.
        #[arg(long)]
        markdown: bool,
    },
}

/// `meshd docker`.
#[derive(Debug, Subcommand)]
pub(super) enum DockerCommand {
    /// Have the running daemon serve Docker's plugin socket, now and after each of its starts.
    #[command(after_help = "Examples:\n  \
        meshd docker enable\n  \
        docker network create -d meshd --ipam-driver meshd --ipam-opt meshd.network=lan -o meshd.network=lan lan\n  \
        docker run --network lan --name web nginx\n\n\
        Options of `docker network create`: -o meshd.network=NAME (the network of the mesh; a new one is defined with --subnet),\n\
        -o meshd.egress=false (no second interface on docker_gwbridge), -o meshd.label.KEY=VALUE (label of all endpoints).\n\
        Of a container: labels meshd.name=NAME and meshd.label.KEY=VALUE, or the same as --driver-opt of `docker network connect`.")]
    Enable {
        /// The plugin socket; the name of its file, without .sock, is the driver's name.
        #[arg(long, value_name = "PATH", default_value = crate::docker::SOCKET)]
        plugin: PathBuf,
        /// Docker's own socket: asked for names of containers, and for what there still is.
        #[arg(long, value_name = "PATH", default_value = crate::docker::ENGINE)]
        engine: PathBuf,
    },
    /// Serve it no more. Containers that run keep their ports, and lose them as they end.
    Disable,
    /// Show whether the driver is served, and what Docker made by it.
    Status,
    /// Remove at once what Docker has no more; the daemon does so by itself a minute later.
    Tidy,
}

/// `meshd network`.
#[derive(Debug, Subcommand)]
pub(super) enum NetworkCommand {
    /// Define a network for the whole mesh; the same definition again changes nothing.
    #[command(
        after_help = "Examples:\n  meshd network add demo --subnet 10.0.0.0/24\n  meshd network add v6 --subnet fd00:1::/64 --mtu 9000 --vni 4242"
    )]
    Add {
        /// Its name: letters, digits, hyphens; part of DNS names.
        #[arg(value_parser = values::new_name)]
        name: Label,
        /// Number of the segment, 1 to 16777215 [default: made from the name].
        #[arg(long, value_parser = values::vni)]
        vni: Option<Vni>,
        /// Subnet, IPv4 or IPv6; may be repeated. Its first address is the node's name server.
        #[arg(long = "subnet", value_name = "CIDR", value_parser = values::subnet)]
        subnets: Vec<ipnet::IpNet>,
        /// Largest packet in bytes, without the Ethernet header: 576 to 9000 [default: 1380].
        #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(576..=9000))]
        mtu: Option<u16>,
    },
    /// List the networks of the mesh.
    Ls,
    /// List who listens to which multicast group, by the group's MAC.
    #[command(
        after_help = "Heard from IGMP and MLD. Multicast to a group goes to those who listen and to routers alone; 224.0.0.0/24, IPv6 groups of the\n\
        link's scope, and ports that were not asked yet get all. `multicast_snooping = false` under [[network]] in the config floods it."
    )]
    Groups,
    /// Declare hosts that speak plain VXLAN (Linux, Open vSwitch, hardware) as part of a network, on this node.
    #[command(subcommand)]
    Vtep(VtepCommand),
    /// Remove a network that has no ports any more.
    Rm {
        /// Its name or VNI.
        #[arg(value_parser = values::word)]
        network: String,
    },
}

/// `meshd network vtep`.
#[derive(Debug, Subcommand)]
pub(super) enum VtepCommand {
    /// Declare a foreign VTEP, or change what is behind it; the fence lets it in, and this node joins it to the network.
    #[command(
        after_help = "Examples:\n  meshd network vtep add demo 10.20.0.9\n  meshd network vtep add demo 10.20.0.9 --mac 02:00:00:00:00:09\n\n\
        The address must be in a subnet that this node trusts (`trusted` under [underlay] in the config file). Of the foreign\n\
        VTEP's side: VNI and UDP port as `meshd network ls` and the config have them, this node's address as remote."
    )]
    Add {
        /// Name or VNI of the network.
        network: String,
        /// The VTEP's address on the underlay.
        ip: IpAddr,
        /// MAC behind it; may be repeated. Others are learned if it is the only foreign VTEP of the network here.
        #[arg(long = "mac", value_parser = values::mac)]
        macs: Vec<MacAddr>,
    },
    /// List the foreign VTEPs that were declared on this node.
    Ls,
    /// Take the declaration back.
    Rm {
        /// Name or VNI of the network.
        network: String,
        /// The VTEP's address.
        ip: IpAddr,
    },
}

/// `meshd cni`.
#[derive(Debug, Subcommand)]
pub(super) enum CniCommand {
    /// Put this program as `meshd-cni` where runtimes look for plugins, with a configuration that names a network.
    #[command(
        after_help = "Examples:\n  meshd cni install --network lan\n  meshd cni install --network lan --gateway 10.0.0.9 --portmap\n  \
        meshd cni install --network lan --bin-dir /usr/lib/cni --cni-version 1.1.0\n\n\
        The same command again puts the new wish in the place of the old one. A file of somebody else is not touched."
    )]
    Install {
        #[command(flatten)]
        place: CniPlace,
        /// Name or VNI of the network that containers are attached to.
        #[arg(long, value_name = "NETWORK", value_parser = values::word)]
        network: String,
        /// Router on the network for the containers' default route; may be repeated, one a family [default: no default route].
        #[arg(long = "gateway", value_name = "IP")]
        gateways: Vec<IpAddr>,
        /// Version of the configuration: 0.3.1, 0.4.0, 1.0.0, or 1.1.0 for runtimes that know GC and STATUS.
        #[arg(long, value_name = "VERSION", default_value = "1.0.0", value_parser = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])]
        cni_version: String,
        /// Also publish ports, by the stock plugin `portmap` after this one.
        #[arg(long)]
        portmap: bool,
        /// Copy this program, not link to it: for where its own file goes away, as in an image.
        #[arg(long)]
        copy: bool,
    },
    /// Take the plugin and its configuration away. Containers that are attached stay so.
    Uninstall {
        #[command(flatten)]
        place: CniPlace,
    },
}

/// Where runtimes look.
#[derive(Args, Clone, Debug)]
pub(super) struct CniPlace {
    /// Folder of plugins.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub(super) bin_dir: PathBuf,
    /// Folder of configurations.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub(super) conf_dir: PathBuf,
    /// Name of the file there; runtimes take the first in the order of names.
    #[arg(long, value_name = "FILE", default_value = "10-meshd.conflist", value_parser = values::file_name)]
    pub(super) conf_name: String,
}

/// `meshd plugin`.
#[derive(Debug, Subcommand)]
pub(super) enum PluginCommand {
    /// What asks no daemon.
    #[command(flatten)]
    Work(WorkCommand),
    /// Check a component and keep it under a name; one of that name is replaced where it is attached, all or nowhere.
    #[command(after_help = "Examples:\n  meshd plugin install acl acl.wasm")]
    Install {
        /// Its name on this node.
        #[arg(value_parser = values::label)]
        name: Label,
        /// The component (.wasm).
        file: PathBuf,
    },
    /// Read the file of an installed plugin again and put it in its place, wherever it is attached, all or nowhere.
    #[command(
        after_help = "Examples:\n  meshd plugin reload acl\n  meshd plugin reload acl target/acl.wasm\n\n\
        This command reads the file, with your rights; the daemon never does. No frame is lost: those that come meanwhile are\n\
        decided by the old version or by the new one."
    )]
    Reload {
        /// The plugin.
        #[arg(value_parser = values::label)]
        name: Label,
        /// The component (.wasm) [default: the file that it was installed from].
        file: Option<PathBuf>,
    },
    /// Run a new version of a plugin beside the one in use, which is obeyed, and count where they differ.
    #[command(
        after_help = "Examples:\n  meshd plugin shadow acl acl-2.wasm --network demo\n  meshd plugin shadow acl --network demo\n  meshd plugin shadow acl --network demo --stop\n\n\
        It is asked what the plugin in use is asked, with the same config. Without FILE the differences are shown: their number by kind\n\
        (`fails`, `mends`, `verdict`, `reason`, `wants`, `life`, `mask`) and the last frames of each. It takes a tenth of one processor at most\n\
        and passes questions over where that is not enough. It ends with the next change of the plugin there, and with the daemon."
    )]
    Shadow {
        /// The plugin in use.
        #[arg(value_parser = values::label)]
        name: Label,
        /// The component (.wasm) of the new version; left out: show what came of it.
        file: Option<PathBuf>,
        /// Name or VNI of the network.
        #[arg(long, value_name = "NETWORK", value_parser = values::word)]
        network: String,
        /// End it.
        #[arg(long, conflicts_with = "file")]
        stop: bool,
    },
    /// Put a plugin into a network's policy chain on this node, or change its config there.
    #[command(
        after_help = "Examples:\n  meshd plugin attach acl demo --config @acl.json\n  meshd plugin attach acl demo --config '{\"deny\":[{\"proto\":\"tcp\",\"port\":22}]}'\n  meshd plugin attach guard demo --grant topology,flows,kv,timers"
    )]
    Attach {
        /// The plugin.
        #[arg(value_parser = values::label)]
        name: Label,
        /// Name or VNI of the network.
        #[arg(value_parser = values::word)]
        network: String,
        /// Config as JSON, or @FILE; `@-` reads stdin [default: as it was, or {}].
        #[arg(long, value_name = "JSON|@FILE", value_parser = clap::value_parser!(OsString))]
        config: Option<OsString>,
        /// Place within the stage, lower is asked earlier [default: as it was, or 100].
        #[arg(long, value_name = "NUMBER")]
        order: Option<u16>,
        /// What holds for frames when the plugin fails, or is not asked because it failed [default: as it was, or as its manifest says; else closed for guard and classify, open for forward and observe].
        #[arg(long, value_enum)]
        fail: Option<FailArg>,
        /// Stage of the chain, a later one than it was made for and not observe [default: as it was, or as its manifest says, or guard].
        #[arg(long, value_enum)]
        stage: Option<StageArg>,
        /// What its controller may import, separated by commas: random, timers, kv, kv-mesh (values that reach the other nodes), topology, flows, packet-out, http; log, metrics and clock it may in any case, and `none` is nothing more [default: as it was, or none].
        #[arg(long, value_name = "LIST", value_parser = values::grant)]
        grant: Option<Grant>,
    },
    /// Take a plugin out of a network's policy chain.
    Detach {
        /// The plugin.
        #[arg(value_parser = values::label)]
        name: Label,
        /// Name or VNI of the network.
        #[arg(value_parser = values::word)]
        network: String,
    },
    /// List what is installed, where it decides and how it does.
    Ls,
    /// Show the policy chain of a network on this node: who is asked, in order, and what each does.
    #[command(
        after_help = "Examples:\n  meshd plugin chain demo\n  meshd plugin chain demo --json | jq -r '.[] | select(.state != \"answers\") | .plugin'\n\n\
        STATE is `answers`; `quarantined`: an answer did not hold for all frames that its mask named, so its answers hold for\n\
        exactly equal frames only until its code or config changes; `paused`: it failed 5 times within 10 s and is not asked\n\
        for 10 s; or `broken`: it cannot be used. The fail mode answers for one that is paused or broken."
    )]
    Chain {
        /// Name or VNI of the network.
        #[arg(value_parser = values::word)]
        network: String,
    },
    /// Put an earlier version in the place of a plugin's code, wherever it is attached, all or nowhere.
    #[command(
        after_help = "Examples:\n  meshd plugin rollback acl\n  meshd plugin rollback acl --to 9e107d9d372b\n\n\
        Three earlier versions stay ready; `meshd plugin ls --json` shows their digests. Configs stay as they are. The version\n\
        that is left goes to the end of the earlier ones, so going back again goes further back."
    )]
    Rollback {
        /// The plugin.
        #[arg(value_parser = values::label)]
        name: Label,
        /// First digits of the version's digest [default: the version before].
        #[arg(long, value_name = "DIGEST", value_parser = values::word)]
        to: Option<String>,
    },
    /// Remove a plugin that is attached nowhere, with all its versions.
    #[command(after_help = "Examples:\n  meshd plugin detach acl demo && meshd plugin rm acl")]
    Rm {
        /// The plugin.
        #[arg(value_parser = values::label)]
        name: Label,
    },
    /// Show what the controller of a plugin has told: its last 1000 lines, and how it failed.
    #[command(
        after_help = "Examples:\n  meshd plugin logs guard\n  meshd plugin logs guard --network demo --follow"
    )]
    Logs {
        /// The plugin.
        #[arg(value_parser = values::label)]
        name: Label,
        /// Name or VNI of the network [default: where it is attached, if that is one].
        #[arg(long, value_name = "NETWORK", value_parser = values::word)]
        network: Option<String>,
        /// Go on with lines as they come.
        #[arg(long, short)]
        follow: bool,
    },
    /// Show what plugins had to do since the daemon started: questions, time, faults by kind.
    #[command(
        after_help = "Examples:\n  meshd plugin stats\n  meshd plugin stats acl\n  meshd plugin stats --json | jq '.[].times'\n\n\
        Times are counted by powers of two, so P50 and P99 are the bounds that half and 99 of 100 calls stayed below. Frames\n\
        that a cached answer decides are no calls."
    )]
    Stats {
        /// Only this plugin.
        #[arg(value_parser = values::label)]
        name: Option<Label>,
    },
}

/// [`Role`] as a word.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum RoleArg {
    /// Ports on networks that exist.
    Member,
    /// May also define and remove networks.
    Admin,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Member => Self::Member,
            RoleArg::Admin => Self::Admin,
        }
    }
}

/// [`FailMode`] as a word.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum FailArg {
    /// Frames are dropped.
    Closed,
    /// Frames go to the next plugin.
    Open,
    /// What was in place before the last change of code or config, and worked, decides; if there is none: closed.
    LastGood,
}

/// [`Stage`] as a word.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum StageArg {
    /// Refuses; asked first.
    Guard,
    /// Marks and changes.
    Classify,
    /// Says where to.
    Forward,
    /// Copies; has no say in what becomes of a frame.
    Observe,
}

impl From<StageArg> for Stage {
    fn from(stage: StageArg) -> Self {
        match stage {
            StageArg::Guard => Self::Guard,
            StageArg::Classify => Self::Classify,
            StageArg::Forward => Self::Forward,
            StageArg::Observe => Self::Observe,
        }
    }
}

impl From<FailArg> for FailMode {
    fn from(fail: FailArg) -> Self {
        match fail {
            FailArg::Closed => Self::Closed,
            FailArg::Open => Self::Open,
            FailArg::LastGood => Self::LastGood,
        }
    }
}
