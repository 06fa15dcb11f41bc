//! What can be typed: every command, option and its help. `docs/reference/cli.md` is made of this.

use super::values::{self, Grant, Ips};
use super::workshop::WorkCommand;
use crate::rulings::{FailMode, Stage};
use clap::{Args, Parser, Subcommand, ValueEnum};
use meshd_core::ident::{IfName, Label, MacAddr, Vni};
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
    after_help = "Start here:\n  \
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
    /// Give a network namespace an interface on a network.
    #[command(after_help = "Examples:\n  \
        meshd attach demo --netns web --name web\n  \
        meshd attach demo --netns pid:4242 --ip 10.0.0.7/24 --ifname eth1\n  \
        meshd attach demo --netns /run/docker/netns/1a2b --ip none --label app=db\n\n\
        The same command again changes nothing and prints the same port.")]
    Attach {
        /// Name or VNI of the network.
        #[arg(value_parser = values::word)]
        network: String,
        /// The namespace: NAME (as `ip netns` has it), a path, pid:N, or `self` for this process's own.
        #[arg(long, value_name = "NAME|PATH|pid:N", value_parser = clap::value_parser!(OsString))]
        netns: OsString,
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
    },
    /// Undo an attach, completely.
    #[command(
        after_help = "Examples:\n  meshd detach 3\n  meshd detach web\n  meshd detach web.demo"
    )]
    Detach {
        /// The port's number, or NAME or NAME.NETWORK of its endpoint.
        #[arg(value_parser = values::word)]
        port: String,
    },
    /// List the ports of this node.
    Ports,
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
    /// List why frames were dropped, how many, and the last of each.
    Drops,
    /// List what happened lately, or what happens.
    #[command(
        after_help = "Examples:\n  meshd events\n  meshd events --follow\n  meshd events --follow --json | jq 'select(.event==\"peer-down\")'"
    )]
    Events {
        /// Go on with events as they happen, until Ctrl-C.
        #[arg(long, short)]
        follow: bool,
        /// Only events behind this number.
        #[arg(long, value_name = "NUMBER")]
        after: Option<u64>,
    },
    /// Say what would become of a packet, and why; nothing is sent.
    #[command(after_help = "Examples:\n  \
        meshd trace demo 'tcp 10.0.0.1:4000 > 10.0.0.2:22 syn'\n  \
        meshd trace demo 'udp [fd00::1]:53 > [fd00::2]:53'\n  \
        meshd trace demo 'icmp 10.0.0.1 > 10.0.0.2'\n  \
        meshd trace demo 'arp who-has 10.0.0.2 tell 10.0.0.1'\n  \
        meshd trace demo 'tcp 10.0.0.9:1 > 10.0.0.2:22 syn from web'       from port web, whoever has 10.0.0.9\n  \
        meshd trace demo 'udp 10.0.0.1:1 > 192.0.2.1:53 via 10.0.0.254'    by a router on the network\n\n\
        Words that may follow: TCP flags (syn ack fin rst psh urg ece cwr ns), `type N` and `code N` for icmp,\n\
        `vlan N`, `via ADDRESS`, `from PORT`, `from peer NODE`.")]
    Trace {
        /// Name or VNI of the network.
        #[arg(value_parser = values::word)]
        network: String,
        /// The packet, as one argument.
        #[arg(required = true, num_args = 1..)]
        packet: Vec<String>,
    },
    /// Install policy plugins and attach them to networks.
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Check what this host and the daemon need, and say what to do.
    #[command(
        after_help = "Works without a daemon too. Exit code 1 if something that meshd needs is missing."
    )]
    Doctor {
        /// Config file to check, and to take the underlay's port from [default: /etc/meshd/meshd.toml if it is there].
        #[arg(
            long,
            env = "MESHD_CONFIG",
            value_name = "FILE",
            hide_env_values = true
        )]
        config: Option<PathBuf>,
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
        /// Largest packet in bytes, without the Ethernet header: 576 to 9000 [default: 1450].
        #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(576..=9000))]
        mtu: Option<u16>,
    },
    /// List the networks of the mesh.
    Ls,
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
