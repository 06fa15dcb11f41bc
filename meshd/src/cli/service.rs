//! `meshd install` and `meshd uninstall`.

use super::args::Common;
use super::{Failure, Printed, show};
use crate::systemd::units::Plan;
use meshd_core::code::ErrorCode;
use serde_json::json;
use std::path::{Path, PathBuf};

fn plan(common: &Common, folder: &Path, program: Option<PathBuf>) -> Result<Plan, Failure> {
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|error| Failure::new(ErrorCode::FileUnreadable, error))
    };
    Ok(Plan {
        program: match program {
            Some(program) => absolute(&program)?,
            None => std::env::current_exe()
                .map_err(|error| Failure::new(ErrorCode::ProgramFailed, error))?,
        },
        state: absolute(&common.state)?,
        socket: absolute(&common.socket)?,
        folder: absolute(folder)?,
    })
}

pub(super) fn install(
    common: &Common,
    folder: &Path,
    program: Option<PathBuf>,
    now: bool,
    dry_run: bool,
) -> Result<Printed, Failure> {
    let plan = plan(common, folder, program)?;
    if dry_run {
        let units = plan.units()?;
        if common.json {
            let units: serde_json::Map<_, _> = units
                .into_iter()
                .map(|(name, text)| (name.to_owned(), text.into()))
                .collect();
            return Printed::text(show::json(&units));
        }
        let files = units
            .iter()
            .map(|(name, text)| format!("==> {}\n{text}\n", plan.folder.join(name).display()));
        return Printed::text(files.collect::<String>());
    }
    let done = plan.install(now)?;
    told(common, "installed", &done)
}

pub(super) fn uninstall(common: &Common, folder: &Path) -> Result<Printed, Failure> {
    let done = plan(common, folder, None)?.uninstall()?;
    told(common, "uninstalled", &done)
}

fn told(common: &Common, verb: &str, done: &[String]) -> Result<Printed, Failure> {
    if common.json {
        return Printed::text(show::json(&json!({ verb: done })));
    }
    match done {
        [] => Printed::text("nothing of ours is there\n"),
        lines => Printed::text(show::clean(&lines.join("\n"))),
    }
}
