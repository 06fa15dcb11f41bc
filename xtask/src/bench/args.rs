//! The words after `cargo xtask bench`.

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use interop_tests::bench::overlays::measure::Measure;
use interop_tests::bench::overlays::{Plan, entry};
use interop_tests::bench::setting::{Ends, Setting, Underlay};
use interop_tests::bench::system::{ENTRIES, Entry, Programs};
use std::path::PathBuf;

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask bench",
    bin_name = "cargo xtask bench",
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
/// Figures of meshd beside other overlays, in the lab (root)
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) what: Option<What>,
    #[command(flatten)]
    pub(super) overlays: Overlays,
}

/// What is measured instead.
#[derive(Debug, Subcommand)]
pub(super) enum What {
    /// What a gate costs, by nftables and by tc-bpf (root)
    Gate {
        /// One round of one second, to see that it works
        #[arg(long)]
        quick: bool,
    },
    /// What a decision, a cached ruling and a chain of five plugins cost (root)
    Policy {
        /// One round of one second, to see that it works
        #[arg(long)]
        quick: bool,
    },
    /// What new flows, a change of policy under 100,000 flows and a hanging plugin cost (root)
    Churn {
        /// One round of one second, to see that it works
        #[arg(long)]
        quick: bool,
    },
    /// What many sessions cost a node in throughput, idle time and memory (root)
    Crowd {
        /// One round of one second with a few peers, to see that it works
        #[arg(long)]
        quick: bool,
        /// Sessions of a node
        #[arg(long, value_name = "COUNT", default_value_t = 256)]
        peers: usize,
    },
    /// What metrics, top, events and a capture cost the data path (root)
    Observe {
        /// One round of one second, to see that it works
        #[arg(long)]
        quick: bool,
    },
    /// How long status, peers, FDB and metrics take with 10,000 endpoints and many peers, and what traffic feels of it (root)
    Views {
        /// Three rounds with a few peers, to see that it works
        #[arg(long)]
        quick: bool,
        /// Peers with a session
        #[arg(long, value_name = "COUNT", default_value_t = 128)]
        peers: usize,
    },
    /// What a network of 500 peers and 10,000 endpoints costs a node
    Scale,
}

/// The comparison.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Overlays {
    /// One round of one second, to see that it works
    #[arg(long)]
    quick: bool,
    /// Every setting: both ends, MTUs 1500 and 9000, offloads and wire mode, and long ways; what is not between containers at 1500 in brief
    #[arg(long)]
    all: bool,
    /// Only these systems or measures; may be repeated. `--list` has their names; the yardstick is always there
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Only these MTUs of the underlay
    #[arg(long, value_name = "BYTES", value_delimiter = ',')]
    mtu: Vec<u32>,
    /// Only these underlays: `offloads` passes superframes whole, `wire` none; the others are long ways, simulated
    #[arg(long, value_enum, value_delimiter = ',')]
    underlay: Vec<UnderlayWord>,
    /// Only between these
    #[arg(long, value_enum, value_delimiter = ',')]
    ends: Vec<EndsWord>,
    /// The system that runs beside all others, and that ratios are by
    #[arg(long, value_name = "SYSTEM", default_value = "vxlan")]
    against: String,
    /// Rounds, there and back in turns
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    rounds: usize,
    /// Length of a run
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    seconds: u32,
    /// Where a program is that is not in the search path; may be repeated
    #[arg(long, value_name = "PROGRAM=PATH")]
    peer_bin: Vec<String>,
    /// Writes every value there
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Writes a chart there
    #[arg(long, value_name = "FILE")]
    pub(super) svg: Option<PathBuf>,
    /// Writes a flame graph of each system's daemons into target/bench, after the last round of each setting
    #[arg(long)]
    pub(super) profile: bool,
    /// Puts the figures into docs/performance.*, in the place of those of the same setting
    #[arg(long)]
    pub(super) write: bool,
    /// Measures nothing: takes the values of an earlier --json
    #[arg(long, value_name = "FILE")]
    pub(super) from: Option<PathBuf>,
    /// Shows what can be measured, and what is missing for it
    #[arg(long)]
    pub(super) list: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum UnderlayWord {
    /// Superframes of 64 KiB pass whole
    Offloads,
    /// Packets of the MTU pass
    Wire,
    /// 100 Mbit/s, 100 ms there and back
    Far,
    /// The same, and one packet of a thousand is lost
    FarLossy,
    /// 20 Mbit/s, 30 ms, and one packet of fifty is late
    Reordered,
    /// 1 Mbit/s, 40 ms
    Narrow,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EndsWord {
    Containers,
    Hosts,
}

/// The long ways.
const LINKS: [Underlay; 4] = [
    Underlay::Far,
    Underlay::FarLossy,
    Underlay::Reordered,
    Underlay::Narrow,
];

/// What is told of a long way: it decides what is carried and how long that takes, and not the machine.
const OF_A_LINK: [Measure; 4] = [
    Measure::Tcp1,
    Measure::Tcp4,
    Measure::LoadedP50,
    Measure::LoadedP99,
];

/// What is told where little is asked.
const BRIEF: [Measure; 5] = [
    Measure::Tcp1,
    Measure::Tcp4,
    Measure::RttP50,
    Measure::Cpu,
    Measure::CpuDaemons,
];

impl Args {
    /// None if they only asked for help, which was shown.
    pub(super) fn read(words: &[String]) -> Result<Option<Self>> {
        let all = std::iter::once("bench").chain(words.iter().map(String::as_str));
        match Self::try_parse_from(all) {
            Ok(args) => Ok(Some(args)),
            Err(error) if error.use_stderr() => bail!("{error}"),
            Err(help) => {
                print!("{help}");
                Ok(None)
            }
        }
    }
}

impl Overlays {
    /// Where programs are.
    pub(super) fn programs(&self) -> Result<Programs> {
        let told = self.peer_bin.iter().map(|word| {
            let (name, path) = word
                .split_once('=')
                .with_context(|| format!("--peer-bin takes PROGRAM=PATH, not {word:?}"))?;
            let path = PathBuf::from(path);
            ensure!(path.is_file(), "{} is not there", path.display());
            Ok((name.to_owned(), path))
        });
        told.collect()
    }

    /// One plan for each setting; systems whose program is missing are not in them.
    pub(super) fn plans(
        &self,
        programs: &Programs,
        profiles: Option<PathBuf>,
    ) -> Result<Vec<Plan>> {
        let systems = self.systems(programs)?;
        let plan = |setting: Setting| {
            let main = setting.ends == Ends::Containers && setting.mtu == 1500;
            let usual: &[Measure] = match setting.underlay.link() {
                Some(_) => &OF_A_LINK,
                None if main => &Measure::ALL,
                None => &BRIEF,
            };
            Ok(Plan {
                setting,
                systems: systems.clone(),
                yardstick: entry(&self.against).context("no such yardstick")?.id,
                measures: self.measures().unwrap_or_else(|| usual.to_vec()),
                rounds: if self.quick { 1 } else { self.rounds.max(1) },
                seconds: if self.quick { 1 } else { self.seconds.max(1) },
                programs: programs.clone(),
                profiles: profiles.clone(),
            })
        };
        self.settings().into_iter().map(plan).collect()
    }

    fn settings(&self) -> Vec<Setting> {
        let or = |told: Vec<u32>, all: &[u32], usual: u32| match told {
            told if !told.is_empty() => told,
            _ if self.all => all.to_vec(),
            _ => vec![usual],
        };
        let mtus = or(self.mtu.clone(), &[1500, 9000], 1500);
        let underlays: Vec<Underlay> = match self.underlay.as_slice() {
            [] => vec![Underlay::Offloads, Underlay::Wire],
            told => told.iter().map(|word| word.meant()).collect(),
        };
        let ends: Vec<Ends> = match self.ends.as_slice() {
            [] if self.all => vec![Ends::Containers, Ends::Hosts],
            [] => vec![Ends::Containers],
            told => told.iter().map(|word| word.meant()).collect(),
        };
        let mut settings = Vec::new();
        if self.all && self.underlay.is_empty() {
            settings.extend(LINKS.map(|underlay| Setting {
                ends: Ends::Containers,
                mtu: 1500,
                underlay,
            }));
        }
        for ends in ends {
            for mtu in &mtus {
                for underlay in &underlays {
                    settings.push(Setting {
                        ends,
                        mtu: *mtu,
                        underlay: *underlay,
                    });
                }
            }
        }
        settings
    }

    fn systems(&self, programs: &Programs) -> Result<Vec<&'static Entry>> {
        let known = |word: &String| {
            entry(word).is_some() || Measure::ALL.iter().any(|measure| measure.id() == word)
        };
        if let Some(word) = self.only.iter().find(|word| !known(word)) {
            bail!("no system and no measure is called {word:?}: see --list");
        }
        ensure!(
            entry(&self.against).is_some(),
            "no system is called {:?}: see --list",
            self.against
        );
        let any = self.only.iter().any(|word| entry(word).is_some());
        let wanted = |entry: &&Entry| {
            !any || entry.id == self.against || self.only.iter().any(|word| word == entry.id)
        };
        let there = ENTRIES.iter().filter(wanted);
        Ok(there
            .filter(|entry| entry.missing(programs).is_none())
            .collect())
    }

    fn measures(&self) -> Option<Vec<Measure>> {
        let told = |measure: &Measure| self.only.iter().any(|word| word == measure.id());
        let measures: Vec<Measure> = Measure::ALL.into_iter().filter(told).collect();
        (!measures.is_empty()).then_some(measures)
    }
}

impl UnderlayWord {
    fn meant(self) -> Underlay {
        match self {
            Self::Offloads => Underlay::Offloads,
            Self::Wire => Underlay::Wire,
            Self::Far => Underlay::Far,
            Self::FarLossy => Underlay::FarLossy,
            Self::Reordered => Underlay::Reordered,
            Self::Narrow => Underlay::Narrow,
        }
    }
}

impl EndsWord {
    fn meant(self) -> Ends {
        match self {
            Self::Containers => Ends::Containers,
            Self::Hosts => Ends::Hosts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlays(line: &str) -> Overlays {
        let words: Vec<String> = line.split_whitespace().map(Into::into).collect();
        Args::read(&words).unwrap().unwrap().overlays
    }

    fn plans(line: &str) -> Vec<Plan> {
        overlays(line).plans(&Programs::new(), None).unwrap()
    }

    #[test]
    fn the_yardstick_is_there_whatever_else_is() {
        let plans = plans("--only meshd-quic,tcp1 --underlay wire");
        assert_eq!(plans.len(), 1);
        let ids: Vec<&str> = plans[0].systems.iter().map(|entry| entry.id).collect();
        assert_eq!(ids, ["vxlan", "meshd-quic"]);
        assert_eq!(plans[0].measures, [Measure::Tcp1]);
    }

    #[test]
    fn all_is_every_setting_and_most_of_them_in_brief() {
        let plans = plans("--all");
        let brief = plans.iter().filter(|plan| plan.measures == BRIEF).count();
        assert_eq!((plans.len(), brief), (12, 6));
    }

    #[test]
    fn a_name_that_nobody_has_is_refused() {
        let error = overlays("--only tpc1")
            .plans(&Programs::new(), None)
            .unwrap_err();
        assert!(error.to_string().contains("tpc1"), "{error}");
        assert!(overlays("--peer-bin fastd").programs().is_err());
    }
}
