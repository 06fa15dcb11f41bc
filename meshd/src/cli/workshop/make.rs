//! `meshd plugin new` and `meshd plugin build`.

use super::super::args::Common;
use super::super::values::show_path;
use super::super::{Failure, Printed, show};
use super::args::KindArg;
use super::load;
use crate::bounded;
use meshd_core::code::ErrorCode;
use meshd_plugin_host::{Digest, MAX_COMPONENT};
use meshd_plugin_kit::{Built, Kind, Missing, Project, Template, Toolchain, component, find_sdk};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Bytes of a manifest file that are read.
const MAX_MANIFEST: usize = 1 << 20;

/// The error and its causes; the kit's are sentences.
fn invalid(error: &anyhow::Error) -> Failure {
    Failure::new(ErrorCode::PluginProjectInvalid, format!("{error:#}"))
}

pub(super) fn new(
    common: &Common,
    name: &str,
    dir: Option<PathBuf>,
    kind: KindArg,
    sdk: Option<&Path>,
) -> Result<Printed, Failure> {
    let here = std::env::current_dir()
        .map_err(|e| Failure::new(ErrorCode::FileUnreadable, format!("no folder: {e}")))?;
    let program = std::env::current_exe().unwrap_or_default();
    let sdk = find_sdk(sdk, &[&here, &program]).map_err(|e| invalid(&e))?;
    let template = Template::new(name, &sdk).map_err(|e| invalid(&e))?;
    let template = template.of_kind(match kind {
        KindArg::Policy => Kind::Policy,
        KindArg::Controller => Kind::Controller,
        KindArg::Both => Kind::Both,
        KindArg::Steering => Kind::Steering,
    });
    let folder = dir.unwrap_or_else(|| PathBuf::from(name));
    template.make(&folder).map_err(|e| invalid(&e))?;
    let (folder, sdk) = (show_path(&folder), show_path(&sdk));
    if common.json {
        return Printed::text(show::json(
            &json!({ "name": name, "folder": folder, "sdk": sdk }),
        ));
    }
    Printed::text(format!(
        "{name} is made, with the SDK in {sdk}.\n\nNext:\n  cd {folder}\n  cargo test            the plugin as native code\n  \
         meshd plugin build    the component\n  meshd plugin test     all of it, under the daemon's engine\n"
    ))
}

pub(super) fn build(
    common: &Common,
    from: &Path,
    out: Option<&Path>,
    manifest: Option<&Path>,
) -> Result<Printed, Failure> {
    let built = match from.is_file() {
        true => of_module(from, out, manifest)?,
        false => {
            if manifest.is_some() {
                return Err(Failure::new(
                    ErrorCode::UsageConflict,
                    "--manifest is for a core module; a project's manifest is written by the SDK",
                ));
            }
            let project = Project::open(from).map_err(|e| invalid(&e))?;
            let toolchain = Toolchain::find(Missing::Say).map_err(|e| invalid(&e))?;
            project.build(&toolchain, out).map_err(|e| invalid(&e))?
        }
    };
    // What would be refused at install takes no place of what was there.
    load(&built.path, &built.component)?;
    built.write().map_err(|e| invalid(&e))?;
    let Built { path, component } = built;
    let digest = Digest::of(&component).to_string();
    if common.json {
        return Printed::text(show::json(&json!({
            "file": show_path(&path),
            "digest": digest,
            "size": component.len(),
        })));
    }
    Printed::text(format!(
        "{}\n\n  size    {} bytes\n  digest  {digest}\n",
        show_path(&path),
        component.len()
    ))
}

fn of_module(from: &Path, out: Option<&Path>, manifest: Option<&Path>) -> Result<Built, Failure> {
    let read = |path: &Path, max| {
        bounded::file(path, max).map_err(|e| {
            Failure::new(
                ErrorCode::FileUnreadable,
                format!("read {}: {e}", show_path(path)),
            )
        })
    };
    let out = out.ok_or_else(|| {
        Failure::new(
            ErrorCode::UsageMissingArgument,
            "say where the component goes: --out FILE",
        )
    })?;
    let module = read(from, MAX_COMPONENT)?;
    let manifest = manifest.map(|path| read(path, MAX_MANIFEST)).transpose()?;
    let component = component(&module, manifest.as_deref())
        .map_err(|e| invalid(&e.context(format!("{} is no policy", show_path(from)))))?;
    Ok(Built {
        path: out.to_owned(),
        component,
    })
}

/// Of a project: its own tests, and then its component.
pub(super) fn test_and_build(folder: &Path) -> Result<(Project, Built), Failure> {
    let project = Project::open(folder).map_err(|e| invalid(&e))?;
    let toolchain = Toolchain::find(Missing::Say).map_err(|e| invalid(&e))?;
    project.test().map_err(|e| invalid(&e))?;
    let built = project.build(&toolchain, None).map_err(|e| invalid(&e))?;
    built.write().map_err(|e| invalid(&e))?;
    Ok((project, built))
}
