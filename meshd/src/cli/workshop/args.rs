//! What is typed for the workshop.

use clap::{Subcommand, ValueEnum};
use meshd_core::signer::Signer;
use std::ffi::OsString;
use std::path::PathBuf;

/// What is in a new project.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::cli) enum KindArg {
    /// A policy.
    Policy,
    /// A controller alone.
    Controller,
    /// A policy and its controller.
    Both,
    /// A choice among the ways to a peer.
    Steering,
}

/// Parts of `meshd plugin` that ask no daemon.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum WorkCommand {
    /// Make a project: a policy of twenty lines, with a test that passes.
    #[command(
        after_help = "Examples:\n  meshd plugin new no-telnet\n  meshd plugin new no-telnet --sdk ~/src/meshd\n  meshd plugin new speakers --kind both\n\n\
        The SDK is not published: the project names the folder of a checkout of meshd. Without --sdk, the checkout around the\n\
        working folder is taken, else the one that this program was built in."
    )]
    New {
        /// Name of the plugin; also of its folder.
        name: String,
        /// Folder to make [default: NAME].
        #[arg(long, value_name = "FOLDER")]
        dir: Option<PathBuf>,
        /// Language; Rust is the one with an SDK.
        #[arg(long, default_value = "rust", value_parser = ["rust"])]
        lang: String,
        /// What is in it.
        #[arg(long, value_enum, default_value = "policy")]
        kind: KindArg,
        /// A checkout of meshd, or its `sdk` folder.
        #[arg(long, value_name = "PATH", env = "MESHD_SDK", hide_env_values = true)]
        sdk: Option<PathBuf>,
    },
    /// Make the component of a project, or of a core module.
    #[command(
        after_help = "Examples:\n  meshd plugin build\n  meshd plugin build no-telnet -o no-telnet.wasm\n  meshd plugin build policy.wasm --manifest manifest.json -o policy-component.wasm\n\n\
        A project is built by cargo for wasm32-unknown-unknown. A file is a core module that another compiler made; if its binding\n\
        generator wrote down no world, it is taken for one of `policy`. Either must import nothing."
    )]
    Build {
        /// Folder of a project, or a core module (.wasm).
        #[arg(default_value = ".")]
        from: PathBuf,
        /// Where to write the component [default: plugins/NAME.wasm in cargo's target folder].
        #[arg(long, short, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Manifest (JSON) for a core module that brings none.
        #[arg(long, value_name = "FILE")]
        manifest: Option<PathBuf>,
    },
    /// Say whether a component is a policy plugin, without a daemon: contract, imports, size, and that it compiles.
    #[command(
        after_help = "Examples:\n  meshd plugin check acl.wasm\n  meshd plugin check acl.wasm --config @acl.json\n\n\
        It is compiled as the daemon does it: in a process of its own, with limits and without rights."
    )]
    Check {
        /// The component (.wasm).
        file: PathBuf,
        /// Config to try, as JSON or @FILE; `@-` reads stdin.
        #[arg(long, value_name = "JSON|@FILE", value_parser = clap::value_parser!(OsString))]
        config: Option<OsString>,
    },
    /// Test a project or a component: its own tests, then the component under the daemon's engine.
    #[command(
        after_help = "Examples:\n  meshd plugin test\n  meshd plugin test acl.wasm --config @acl.json --pcap office.pcap\n\n\
        Of a project: `cargo test`, a build, and the recordings of testdata/ against their golden traces, with example.json as\n\
        config. Of every component: the same answer in another order and by another instance, the same answer to whatever its\n\
        mask calls the same, no fault, and fuel within the limit; on the recordings and on 2,000 frames of made-up traffic."
    )]
    Test {
        /// Folder of a project, or a component (.wasm).
        #[arg(default_value = ".")]
        from: PathBuf,
        /// Config, as JSON or @FILE; `@-` reads stdin [default: example.json of the project, or {}].
        #[arg(long, value_name = "JSON|@FILE", value_parser = clap::value_parser!(OsString))]
        config: Option<OsString>,
        /// A recording (pcap or pcapng) to ask about besides; may be repeated.
        #[arg(long = "pcap", value_name = "FILE")]
        pcaps: Vec<PathBuf>,
    },
    /// Measure a component: time and fuel of a decision, and how much of the traffic it has to decide.
    #[command(
        after_help = "Examples:\n  meshd plugin bench acl.wasm --config @acl.json --save before.json\n  meshd plugin bench acl.wasm --config @acl.json --compare before.json\n\n\
        Without a recording, on 100,000 frames of made-up traffic, the same each time. Times are those of this machine now."
    )]
    Bench {
        /// The component (.wasm).
        file: PathBuf,
        /// Config, as JSON or @FILE; `@-` reads stdin [default: {}].
        #[arg(long, value_name = "JSON|@FILE", value_parser = clap::value_parser!(OsString))]
        config: Option<OsString>,
        /// A recording (pcap or pcapng).
        #[arg(long, value_name = "FILE")]
        pcap: Option<PathBuf>,
        /// Keep the figures here.
        #[arg(long, value_name = "FILE")]
        save: Option<PathBuf>,
        /// Show what changed since these figures were kept.
        #[arg(long, value_name = "FILE")]
        compare: Option<PathBuf>,
    },
    /// Show what a plugin would do to recorded traffic, before it is attached.
    #[command(
        after_help = "Examples:\n  meshd capture lan in -w office.pcap -c 10000\n  meshd plugin replay acl.wasm office.pcap --config @acl.json\n  meshd plugin replay acl.wasm office.pcap --golden acl.golden --bless\n\n\
        Frames are asked about as on their way in from one port. Frames that the daemon's cache would answer are asked about all\n\
        the same, and must get the same answer. A golden trace has one line a frame; the SDK's tests read and write the same.\n\
        Exit code 1 if the cache would answer wrongly, the plugin fails, or a golden trace says otherwise."
    )]
    Replay {
        /// The component (.wasm).
        file: PathBuf,
        /// The recording (pcap or pcapng).
        pcap: PathBuf,
        /// Config, as JSON or @FILE; `@-` reads stdin [default: {}].
        #[arg(long, value_name = "JSON|@FILE", value_parser = clap::value_parser!(OsString))]
        config: Option<OsString>,
        /// Golden trace to compare with.
        #[arg(long, value_name = "FILE")]
        golden: Option<PathBuf>,
        /// Write the golden trace instead of comparing.
        #[arg(long, requires = "golden")]
        bless: bool,
        /// Write what passes, changed as the plugin wants it, as pcap.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Make a key to sign plugins with.
    #[command(after_help = "Examples:\n  meshd plugin keygen release.key\n\n\
        The file is PKCS#8 in PEM, readable by its owner only; `openssl genpkey -algorithm ed25519` makes such keys too. What is\n\
        printed is the public key: it goes under [plugins] trusted in the config file of those who rely on it.")]
    Keygen {
        /// Where to write the secret key; nothing may be there.
        file: PathBuf,
    },
    /// Sign a component: its file carries one signature more.
    #[command(
        after_help = "Examples:\n  meshd plugin sign acl.wasm --key release.key\n  meshd plugin sign acl.wasm --key release.key -o acl-signed.wasm\n\n\
        A signature is of all of the component but its signatures, so several can sign, in any order."
    )]
    Sign {
        /// The component (.wasm).
        file: PathBuf,
        /// The secret key, as `keygen` wrote it.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Where to write the signed component [default: in its place].
        #[arg(long, short, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Show who has signed a component, and whether that is one of those who are trusted.
    #[command(
        after_help = "Examples:\n  meshd plugin verify acl.wasm\n  meshd plugin verify acl.wasm --trusted ed25519:…\n\n\
        Exit code 1 if a signature does not hold, there is none, or none is of a key given by --trusted."
    )]
    Verify {
        /// The component (.wasm).
        file: PathBuf,
        /// A public key, as `keygen` prints it; may be repeated.
        #[arg(long, value_name = "KEY")]
        trusted: Vec<Signer>,
    },
}
