//! The command line: reads what was typed, asks the daemon or acts on the state folder, prints.
//!
//! ```text
//!   args --> local   init, join, run, completions      on the state folder, no daemon
//!        \-> remote  all else                          over the socket
//!                       \--> show: tables for people, or one JSON document
//! ```
//!
//! Owns exit codes (0 done, 1 refused or failed, 2 usage) and the form of errors: `error[CODE]: …`, `hint: …` (that of the
//! message, else that CODE can be explained). Whatever comes
//! from elsewhere is printed without control characters.

mod api;
mod args;
mod capture;
mod cni;
mod config;
mod device;
mod docker;
mod doctor;
mod drops;
mod events;
mod explain;
mod local;
mod plugins;
mod ports;
mod reference;
mod remote;
mod service;
mod show;
mod top;
mod ui;
mod usage;
mod values;
mod workshop;

use crate::coded::Coded;
use args::{Cli, Command, PluginCommand};
use clap::{CommandFactory, Parser};
use meshd_core::code::ErrorCode;
use meshd_core::command::Refusal;
use std::io::Write;
use std::process::ExitCode;

/// Why a command failed, as it is told.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    /// As in the API's errors.
    code: ErrorCode,
    message: String,
    hint: Option<String>,
}

impl Failure {
    fn new(code: ErrorCode, message: impl ToString) -> Self {
        Self {
            code,
            message: message.to_string(),
            hint: None,
        }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// To stderr, and with `--json` to stdout as well.
    fn tell(&self, json: bool) {
        let (code, message) = (self.code, &self.message);
        if json {
            let error = Refusal::new(code, message.as_str());
            // If stdout is what failed, stderr says so.
            let _ = print(&show::json(&serde_json::json!({ "error": error })));
        }
        eprintln!("error[{code}]: {}", show::clean(message));
        match &self.hint {
            Some(hint) => eprintln!("hint: {}", show::clean(hint)),
            None => eprintln!("hint: `meshd explain {code}` says more"),
        }
    }
}

impl<E: Coded> From<E> for Failure {
    fn from(error: E) -> Self {
        Self {
            code: error.code(),
            message: error.to_string(),
            hint: error.hint().map(str::to_owned),
        }
    }
}

/// What a command prints to stdout, and whether it counts as done.
struct Printed {
    text: String,
    done: bool,
}

impl Printed {
    fn text(text: impl Into<String>) -> Result<Self, Failure> {
        Ok(Self {
            text: text.into(),
            done: true,
        })
    }
}

/// Runs what was typed.
pub fn main() -> ExitCode {
    let mut json = false;
    let outcome = match Cli::try_parse() {
        // Before anything else is opened or started.
        Ok(Cli {
            command: Command::CompilePlugin,
            ..
        }) => return crate::compiler::child::main(),
        Ok(cli) => {
            json = cli.common.json;
            run(cli)
        }
        .and_then(|printed| {
            print(&printed.text).map_err(|e| unwritten(&e))?;
            Ok(printed.done)
        }),
        Err(error) if error.use_stderr() => {
            usage::tell(error);
            return ExitCode::from(usage::EXIT);
        }
        // Help and version.
        Err(error) => forgive(error.print())
            .map(|()| true)
            .map_err(|e| unwritten(&e)),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            failure.tell(json);
            ExitCode::FAILURE
        }
    }
}

/// To stdout. Whoever does not read on (`| head -1`) has what they wanted.
fn print(text: &str) -> std::io::Result<()> {
    forgive(write(text))
}

fn write(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.is_empty() && !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()
}

fn forgive(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Work that was done and not told: for a token, that is as good as not done.
fn unwritten(error: &std::io::Error) -> Failure {
    Failure::new(
        ErrorCode::OutputUnwritten,
        format!("the output could not be written: {error}"),
    )
    .hint("what was asked for may be done all the same; what it printed is lost")
}

fn run(cli: Cli) -> Result<Printed, Failure> {
    match cli.command {
        Command::Init { mesh, name } => local::init(&cli.common, &mesh, name),
        Command::Join { token, name } => local::join(&cli.common, &token, name),
        Command::Run { config } => local::run(&cli.common, config),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "meshd", &mut script);
            Printed::text(String::from_utf8_lossy(&script))
        }
        Command::Install {
            unit_dir,
            program,
            now,
            dry_run,
        } => service::install(&cli.common, &unit_dir, program, now, dry_run),
        Command::Uninstall { unit_dir } => service::uninstall(&cli.common, &unit_dir),
        Command::Man { dir } => reference::man(&dir),
        Command::HelpMarkdown => Printed::text(reference::page()),
        Command::Explain {
            markdown: Some(page),
            ..
        } => Printed::text(explain::page(page)),
        Command::Explain { word, .. } => explain::run(cli.common.json, word.as_deref()),
        Command::Api(command) => api::run(&cli.common, &command),
        Command::Config(command) => config::run(&cli.common, &command),
        Command::Cni(command) => cni::run(&cli.common, command),
        Command::Plugin(PluginCommand::Work(command)) => workshop::run(&cli.common, command),
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|e| Failure::new(ErrorCode::NoThreads, format!("cannot start: {e}")))?;
            runtime.block_on(remote::run(&cli.common, command))
        }
    }
}
