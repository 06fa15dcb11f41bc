//! A project of one plugin: a Cargo package with a `cdylib`.

use crate::component::{component, decides, package};
use crate::program::{clean, read, run};
use crate::toolchain::{Lock, TARGET, Toolchain};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// The feature with which a crate is built as its controller.
const CONTROLLER: &str = "controller";

/// A folder whose `Cargo.toml` makes one plugin.
#[derive(Clone, Debug)]
pub struct Project {
    folder: PathBuf,
    /// Of the package.
    name: String,
    /// Of the library, which names the module.
    library: String,
    target_dir: PathBuf,
    /// It has a controller: a feature of that name.
    controls: bool,
    /// Other folders of sources that are not of a registry, such as the SDK's.
    others: Vec<PathBuf>,
}

/// What a build made.
#[derive(Clone, Debug)]
pub struct Built {
    /// Where it lies.
    pub path: PathBuf,
    /// Its bytes.
    pub component: Vec<u8>,
}

impl Built {
    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self) -> Result<()> {
        if let Some(parent) = self.path.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot make {}", parent.display()))?;
        }
        write(&self.path, &self.component)
    }
}

impl Project {
    /// Reads what cargo says about `folder`.
    ///
    /// # Errors
    /// If that is no Cargo package with one `cdylib`.
    pub fn open(folder: &Path) -> Result<Self> {
        let manifest = folder.join("Cargo.toml");
        if !manifest.is_file() {
            bail!(
                "{} has no Cargo.toml. Give the folder of a plugin; `meshd plugin new NAME` makes one",
                folder.display()
            );
        }
        let folder = folder
            .canonicalize()
            .with_context(|| format!("cannot read {}", folder.display()))?;
        let text = read(
            clean("cargo")
                .current_dir(&folder)
                .args(["metadata", "--format-version", "1"])
                .args(["--filter-platform", TARGET]),
        )
        .with_context(|| format!("cargo does not read {}", manifest.display()))?;
        let metadata: Value =
            serde_json::from_str(&text).context("what `cargo metadata` says is no JSON")?;
        let target_dir = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => std::env::current_dir()?.join(dir),
            None => metadata
                .get("target_directory")
                .and_then(Value::as_str)
                .map(PathBuf::from)
                .context("`cargo metadata` names no target directory")?,
        };
        Self::of(folder, target_dir, &metadata)
    }

    fn of(folder: PathBuf, target_dir: PathBuf, metadata: &Value) -> Result<Self> {
        let packages = metadata
            .get("packages")
            .and_then(Value::as_array)
            .context("`cargo metadata` names no packages")?;
        let place = |package: &Value| {
            let manifest = Path::new(package.get("manifest_path")?.as_str()?);
            manifest.parent().map(Path::to_owned)
        };
        // Sources of a registry have a `source`.
        let others = packages
            .iter()
            .filter(|package| package.get("source").is_none_or(Value::is_null))
            .filter_map(place)
            .filter(|other| *other != folder)
            .collect();
        let package = packages
            .iter()
            .find(|package| place(package).is_some_and(|at| at == folder))
            .with_context(|| {
                format!(
                    "{} is a workspace, not a plugin. Give the folder of one of its members",
                    folder.join("Cargo.toml").display()
                )
            })?;
        let text = |value: &Value, field: &str| {
            value
                .get(field)
                .and_then(Value::as_str)
                .map(str::to_owned)
                .with_context(|| format!("`cargo metadata` names no {field}"))
        };
        let name = text(package, "name")?;
        let is_cdylib = |target: &&Value| {
            target
                .get("crate_types")
                .and_then(Value::as_array)
                .is_some_and(|types| types.iter().any(|kind| kind == "cdylib"))
        };
        let library = package
            .get("targets")
            .and_then(Value::as_array)
            .and_then(|targets| targets.iter().find(is_cdylib))
            .with_context(|| {
                format!(
                    "{name} is no plugin: it makes no WASM library. Put `crate-type = [\"cdylib\"]` under [lib] in its Cargo.toml"
                )
            })?;
        let features = package.get("features").and_then(Value::as_object);
        Ok(Self {
            controls: features.is_some_and(|all| all.contains_key(CONTROLLER)),
            library: text(library, "name")?.replace('-', "_"),
            folder,
            name,
            target_dir,
            others,
        })
    }

    /// Of the package.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its `Cargo.toml` is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Builds the component, for `out` or the target folder. Nothing is written there yet: what is there stays until somebody
    /// has looked at the new one.
    ///
    /// # Errors
    /// If it does not build, or is no policy.
    pub fn build(&self, toolchain: &Toolchain, out: Option<&Path>) -> Result<Built> {
        let mut places: Vec<(&Path, &str)> = self
            .others
            .iter()
            .map(|other| (other.as_path(), "/sdk"))
            .collect();
        places.push((&self.folder, "/plugin"));
        let build = |choice: &[&str]| {
            toolchain.build(&self.folder, &self.target_dir, &places, choice, Lock::Free)?;
            let module = self
                .target_dir
                .join(TARGET)
                .join("release")
                .join(format!("{}.wasm", self.library));
            fs::read(&module).with_context(|| format!("cannot read {}", module.display()))
        };
        let name = &self.name;
        let policy = build(&[])?;
        let component = match self.controls {
            false => component(&policy, None).with_context(|| format!("{name} is no policy"))?,
            true => {
                let controller = build(&["--features", CONTROLLER])?;
                let controller = component(&controller, None)
                    .with_context(|| format!("the controller of {name}"))?;
                match decides(&policy)? {
                    true => {
                        let policy = component(&policy, None)
                            .with_context(|| format!("the policy of {name}"))?;
                        package(&policy, &controller)
                    }
                    false => controller,
                }
            }
        };
        let path = match out {
            Some(out) => out.to_owned(),
            None => self
                .target_dir
                .join("plugins")
                .join(format!("{}.wasm", self.name)),
        };
        Ok(Built { path, component })
    }

    /// Runs its tests as native code; they tell their outcome on stderr.
    ///
    /// # Errors
    /// If one fails, or they do not build.
    pub fn test(&self) -> Result<()> {
        let mut cargo = clean("cargo");
        cargo
            .current_dir(&self.folder)
            .env("CARGO_TARGET_DIR", &self.target_dir)
            .args(["test", "--quiet"])
            // What this program says of itself is the only thing on stdout.
            .stdout(std::io::stderr());
        run(&mut cargo).with_context(|| format!("the tests of {} do not pass", self.name))
    }
}

/// Whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn metadata(kind: &str) -> Value {
        json!({ "packages": [
            { "name": "meshd-sdk", "source": null, "manifest_path": "/repo/sdk/Cargo.toml", "targets": [] },
            { "name": "quote", "source": "registry", "manifest_path": "/cargo/quote/Cargo.toml", "targets": [] },
            { "name": "no-telnet", "source": null, "manifest_path": "/p/Cargo.toml",
              "targets": [{ "name": "no-telnet", "crate_types": [kind] }] },
        ]})
    }

    #[test]
    fn a_project_is_the_package_of_the_folder_and_knows_which_sources_are_of_this_machine() {
        let project = Project::of("/p".into(), "/t".into(), &metadata("cdylib")).unwrap();
        assert_eq!(
            (project.name(), project.library.as_str()),
            ("no-telnet", "no_telnet")
        );
        assert_eq!(project.others, [PathBuf::from("/repo/sdk")]);
    }

    #[test]
    fn a_workspace_and_a_library_for_rust_are_no_plugins_and_are_told_what_is_missing() {
        let error = Project::of("/q".into(), "/t".into(), &metadata("cdylib")).unwrap_err();
        assert!(error.to_string().contains("one of its members"), "{error}");
        let error = Project::of("/p".into(), "/t".into(), &metadata("lib")).unwrap_err();
        assert!(error.to_string().contains("crate-type"), "{error}");
    }
}
