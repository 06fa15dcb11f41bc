//! `meshd plugin` without a daemon: what authors make plugins with, and what operators judge them by.
//!
//! Owns how it is asked for and told. Projects and components are `meshd-plugin-kit`'s, judgement is `meshd-workbench`'s.

mod args;
mod judge;
mod make;
mod sign;

pub(super) use args::WorkCommand;

use super::args::Common;
use super::values::{self, show_path};
use super::{Failure, Printed, show};
use crate::bounded;
use crate::coded::Coded;
use crate::compiler::{Compiler, Loader};
use crate::rulings::check_config;
use meshd_core::code::ErrorCode;
use meshd_plugin_host::{
    Digest, Engine, Instance, Limits, MAX_COMPONENT, Manifest, Plugin, Schema, WIT, World,
};
use serde_json::json;
use std::ffi::OsString;
use std::path::Path;
use std::time::Instant;

/// Names of reasons that `check` lists.
const REASONS_LISTED: usize = 20;

pub(super) fn run(common: &Common, command: WorkCommand) -> Result<Printed, Failure> {
    match command {
        WorkCommand::New {
            name,
            dir,
            lang: _,
            kind,
            sdk,
        } => make::new(common, &name, dir, kind, sdk.as_deref()),
        WorkCommand::Build {
            from,
            out,
            manifest,
        } => make::build(common, &from, out.as_deref(), manifest.as_deref()),
        WorkCommand::Check { file, config } => check(common, &file, config.as_ref()),
        WorkCommand::Keygen { file } => sign::keygen(common, &file),
        WorkCommand::Sign { file, key, out } => {
            sign::sign(common, &file, &key, out.as_deref().unwrap_or(&file))
        }
        WorkCommand::Verify { file, trusted } => sign::verify(common, &file, &trusted),
        WorkCommand::Test {
            from,
            config,
            pcaps,
        } => judge::test(common, &from, config.as_ref(), &pcaps),
        WorkCommand::Bench {
            file,
            config,
            pcap,
            save,
            compare,
        } => judge::bench(
            common,
            &file,
            config.as_ref(),
            pcap.as_deref(),
            save.as_deref(),
            compare.as_deref(),
        ),
        WorkCommand::Replay {
            file,
            pcap,
            config,
            golden,
            bless,
            out,
        } => judge::replay(
            common,
            &file,
            &pcap,
            config.as_ref(),
            golden.as_deref(),
            bless,
            out.as_deref(),
        ),
    }
}

fn component(file: &Path) -> Result<Vec<u8>, Failure> {
    bounded::file(file, MAX_COMPONENT).map_err(|e| {
        Failure::new(
            ErrorCode::FileUnreadable,
            format!("read the component {}: {e}", show_path(file)),
        )
    })
}

fn wrong(file: &Path, error: &impl Coded) -> Failure {
    invalid(error.code(), file, error)
}

fn invalid(code: ErrorCode, file: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(code, format!("{}: {error}", show_path(file)))
}

/// As the daemon does it: compiled in a process of its own, with limits.
fn load(file: &Path, wasm: &[u8]) -> Result<Plugin, Failure> {
    let engine = Engine::new(Limits::default())?;
    Loader::uncached(engine, Compiler::itself())
        .load(wasm)
        .map_err(|e| wrong(file, &e))
}

/// What the daemon would take it with.
fn start(file: &Path, plugin: &Plugin, config: &str) -> Result<Instance, Failure> {
    let hint = "give its config by --config JSON or --config @FILE";
    let instance = Instance::new(plugin, config, 1).map_err(|e| wrong(file, &e).hint(hint))?;
    check_config(config)
        .map_err(|reason| invalid(ErrorCode::PluginMeterInvalid, file, &reason).hint(hint))?;
    Ok(instance)
}

/// A policy: what is asked about frames.
fn load_policy(file: &Path, wasm: &[u8]) -> Result<Plugin, Failure> {
    let plugin = load(file, wasm)?;
    match plugin.shape().world {
        World::Policy | World::PolicyTracked | World::Controller => Ok(plugin),
        World::Steering => Err(Failure::new(
            ErrorCode::PluginSteers,
            format!(
                "{} is a steering plugin, which is asked about ways and not about frames; its tests are those of `cargo test`",
                show_path(file)
            ),
        )),
    }
}

/// Is this a policy plugin that would be taken here?
fn check(common: &Common, file: &Path, config: Option<&OsString>) -> Result<Printed, Failure> {
    let wasm = component(file)?;
    let config = config
        .map(values::config)
        .transpose()
        .map_err(|error| Failure::new(ErrorCode::PluginConfigRefused, error))?;
    let started = Instant::now();
    let plugin = load(file, &wasm)?;
    let compile_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    if let Some(config) = &config {
        start(file, &plugin, config)?;
    }
    let digest = Digest::of(&wasm).to_string();
    let (shape, terms) = (plugin.shape(), plugin.terms());
    let manifest = plugin.manifest();
    if common.json {
        return Printed::text(show::json(&json!({
            "file": show_path(file),
            "digest": digest,
            "size": wasm.len(),
            "manifest": manifest.map(|manifest| json!({
                "name": manifest.name,
                "version": manifest.version,
                "description": manifest.description,
                "sdk": manifest.sdk,
                "stage": manifest.stage,
                "fail": manifest.fail,
                "rules": manifest.rules,
                "reasons": manifest.reasons,
                "config-schema": manifest.schema.as_ref().map(Schema::json),
            })),
            "wit": WIT,
            "needs": terms.needs,
            "adapters": terms.adapters,
            "world": shape.world.name(),
            "imports": shape.imports,
            "exports": shape.exports,
            "controller": plugin.has_controller().then(|| plugin.wants().map(|one| one.word()).collect::<Vec<_>>()),
            "compile_ms": compile_ms,
            "config_taken": config.is_some().then_some(true),
        })));
    }
    let names = |names: &[String]| match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    };
    let mut lines = vec![
        match (plugin.has_policy(), plugin.has_controller()) {
            _ if shape.world == World::Steering => {
                format!("{} is a steering plugin.", show_path(file))
            }
            (true, true) => format!("{} is a policy plugin with a controller.", show_path(file)),
            (true, false) => format!("{} is a policy plugin.", show_path(file)),
            _ => format!("{} is a controller.", show_path(file)),
        },
        String::new(),
    ];
    lines.extend(about(manifest.map(AsRef::as_ref)));
    lines.extend([
        format!("  digest    {digest}"),
        format!("  size      {} bytes", wasm.len()),
        format!("  needs     {}", terms.needs),
        format!("  offers    {} (this release)", terms.offers),
        format!(
            "  adapters  {}",
            match terms.adapters.is_empty() {
                true => "none: both speak the same".to_owned(),
                false => terms.adapters.join(", "),
            }
        ),
        format!("  imports   {}", names(&shape.imports)),
        format!("  exports   {}", names(&shape.exports)),
    ]);
    if plugin.has_controller() {
        let wants: Vec<String> = plugin.wants().map(ToString::to_string).collect();
        lines.push(format!("  controls  imports {}", names(&wants)));
    }
    lines.extend([
        format!("  compiles  in {compile_ms} ms, in a process with limits"),
        match config {
            Some(_) => "  config    taken".to_owned(),
            None => "  config    not tried; `--config @FILE` does".to_owned(),
        },
    ]);
    Printed::text(show::clean_lines(&lines))
}

/// What the plugin's author says of it.
fn about(manifest: Option<&Manifest>) -> Vec<String> {
    let Some(manifest) = manifest else {
        return vec!["  manifest  none: stage guard, fails closed, reasons are numbers".to_owned()];
    };
    let mut lines = vec![format!(
        "  name      {} {}",
        manifest.name, manifest.version
    )];
    if !manifest.description.is_empty() {
        lines.push(format!("  is        {}", manifest.description));
    }
    if manifest.world != World::Steering.name() {
        let stage = manifest.stage.unwrap_or_default();
        let fail = manifest.fail.unwrap_or_else(|| stage.fail());
        lines.push(format!(
            "  stage     {}, fails {}",
            stage.word(),
            fail.word()
        ));
    }
    let mut reasons: Vec<String> = match manifest.rules {
        0 => Vec::new(),
        rules => vec![format!("rule 1 to {rules}")],
    };
    reasons.extend(manifest.reasons.values().take(REASONS_LISTED).cloned());
    if manifest.reasons.len() > REASONS_LISTED {
        reasons.push("...".to_owned());
    }
    if !reasons.is_empty() {
        lines.push(format!("  reasons   {}", reasons.join(", ")));
    }
    lines
}
