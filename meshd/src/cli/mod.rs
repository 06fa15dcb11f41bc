//! The command line: reads what was typed, asks the daemon or acts on the state folder, prints.
//!
//! ```text
//!   args --> local   init, join, run, completions      on the state folder, no daemon
//!        \-> remote  all else                          over the socket
//!                       \--> show: tables for people, or one JSON document
//! ```
//!
//! Owns exit codes (0 done, 1 refused or failed, 2 usage) and the form of errors: `error: …`, `hint: …`. Whatever comes
//! from elsewhere is printed without control characters.

mod args;
mod doctor;
mod local;
mod plugins;
mod reference;
mod remote;
mod show;
mod values;
mod workshop;

use crate::api::client::ClientError;
use args::{Cli, Command, PluginCommand};
use clap::{CommandFactory, Parser};
use meshd_core::command::RefusalCode;
use std::io::Write;
use std::process::ExitCode;

/// Why a command failed, as it is told.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    /// As in the API's errors.
    code: RefusalCode,
    message: String,
    hint: Option<String>,
}

impl Failure {
    fn new(message: impl ToString) -> Self {
        Self {
            code: RefusalCode::Failed,
            message: message.to_string(),
            hint: None,
        }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let hint = match &error {
            ClientError::NoDaemon { .. } => Some(
                "start it with `meshd run`, or set MESHD_SOCKET (or --socket) to the socket of the one you mean",
            ),
            ClientError::Forbidden { .. } => {
                Some("try as root, or set MESHD_SOCKET (or --socket) to a daemon of your own")
            }
            ClientError::Refused(refusal) if refusal.code == RefusalCode::Failed => {
                Some("the daemon's log and `meshd events` say more")
            }
            ClientError::Broken { .. } => {
                Some("see the daemon's log, and `meshd version` for the releases of both")
            }
            ClientError::Refused(_) => None,
        };
        let code = match &error {
            ClientError::NoDaemon { .. } => RefusalCode::Unavailable,
            ClientError::Forbidden { .. } => RefusalCode::Forbidden,
            ClientError::Refused(refusal) => refusal.code,
            ClientError::Broken { .. } => RefusalCode::Failed,
        };
        Self {
            code,
            message: error.to_string(),
            hint: hint.map(str::to_owned),
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
        // Wrong usage: ends with 2.
        Err(error) if error.use_stderr() => error.exit(),
        // Help and version.
        Err(error) => forgive(error.print())
            .map(|()| true)
            .map_err(|e| unwritten(&e)),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            if json {
                let error = serde_json::json!({ "code": failure.code, "message": failure.message });
                // If stdout is what failed, stderr says so.
                let _ = print(&show::json(&serde_json::json!({ "error": error })));
            }
            eprintln!("error: {}", show::clean(&failure.message));
            if let Some(hint) = failure.hint {
                eprintln!("hint: {}", show::clean(&hint));
            }
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
    Failure::new(format!("the output could not be written: {error}"))
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
        Command::HelpMarkdown => Printed::text(reference::page()),
        Command::Plugin(PluginCommand::Work(command)) => workshop::run(&cli.common, command),
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|e| Failure::new(format!("cannot start: {e}")))?;
            runtime.block_on(remote::run(&cli.common, command))
        }
    }
}
