//! Builds the guests: `plugins/` and `examples/hello-plugin`, as components in `<target>/plugins/`.
//!
//! ```text
//!   sources --cargo, wasm32-unknown-unknown--> core module --imports none?--> ComponentEncoder --> <target>/plugins/NAME.wasm
//! ```
//!
//! Owns the choice of toolchain: rustup's target where it is or can be added; else Debian's `rustc-web` with the library's
//! source, which builds std itself and links with rustup's `rust-lld`. Refuses a guest with imports, by the import's name.
//! The manifest, which the SDK put into the module, goes to the component's top level, where a host finds it first; names of
//! functions are left out, since no host prints a guest's backtrace.
//! Paths of this machine are mapped away, so that the same sources make the same bytes.

use anyhow::{Context, Result, bail, ensure};
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const TARGET: &str = "wasm32-unknown-unknown";
/// Folder with a `Cargo.toml` of its own, and the guests that it makes.
const GUESTS: &[(&str, &[&str])] = &[
    (
        "plugins",
        &["acl", "fixture", "isolation", "qos", "stateful-firewall"],
    ),
    ("examples/hello-plugin", &["hello-plugin"]),
];
/// Guests that are made for the world `policy-tracked` too, as NAME-tracked: what they say must be the same.
const TRACKED: (&str, &[&str]) = ("plugins", &["acl", "fixture"]);
/// The only module that a guest may import from: the key of the world `policy-tracked`.
const TRACKED_KEY: &str = "meshd:policy/tracked-key@";
/// The custom section with the manifest; docs/plugins/manifest.md has the format.
const MANIFEST: &str = "meshd:plugin";
/// What goes into a guest besides its own folder.
const SHARED: &[&str] = &["wit", "sdk", "Cargo.toml", "xtask/src/wasm.rs"];
/// Debian's packages of a Rust that can build its own standard library.
const DEBIAN: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];

/// Builds every guest whose sources have changed; returns the folder with the components.
///
/// # Errors
/// If there is no toolchain and none can be had, a guest does not compile, or it has imports.
pub(crate) fn plugins() -> Result<PathBuf> {
    let root = root();
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), |dir| root.join(dir));
    let out = target.join("plugins");
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut toolchain = None;
    for (folder, names) in GUESTS {
        let tracked = if *folder == TRACKED.0 { TRACKED.1 } else { &[] };
        let print = fingerprint(&root, folder)?;
        let stamp = out.join(format!("{}.stamp", folder.replace('/', "-")));
        let fresh = fs::read_to_string(&stamp).is_ok_and(|old| old == print)
            && names
                .iter()
                .all(|name| out.join(format!("{name}.wasm")).exists())
            && tracked
                .iter()
                .all(|name| out.join(format!("{name}-tracked.wasm")).exists());
        if fresh {
            continue;
        }
        let toolchain = match &toolchain {
            Some(toolchain) => toolchain,
            None => toolchain.insert(Toolchain::find()?),
        };
        eprintln!(
            "plugins: building {folder} for {TARGET} with {}",
            toolchain.name()
        );
        let guests = target.join("guests");
        toolchain.build(&root, folder, &guests, &[])?;
        for name in *names {
            make(&guests, name, &out.join(format!("{name}.wasm")))?;
        }
        if !tracked.is_empty() {
            toolchain.build(&root, folder, &guests, tracked)?;
        }
        for name in tracked {
            make(&guests, name, &out.join(format!("{name}-tracked.wasm")))?;
        }
        write(&stamp, print.as_bytes())?;
    }
    Ok(out)
}

/// The component of a guest that was built last.
fn make(guests: &Path, name: &str, path: &Path) -> Result<()> {
    let module = guests
        .join(TARGET)
        .join("release")
        .join(format!("{}.wasm", name.replace('-', "_")));
    let component = component(&module).with_context(|| format!("guest {name}"))?;
    write(path, &component)?;
    eprintln!("plugins: {} ({} bytes)", path.display(), component.len());
    Ok(())
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Whole or not at all: tests may read while another task writes.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Of the contents of all that goes into the guests of `folder`, and of the place: sources elsewhere are other sources.
fn fingerprint(root: &Path, folder: &str) -> Result<String> {
    let mut files = Vec::new();
    for part in SHARED.iter().chain([&folder]) {
        collect(&root.join(part), &mut files)?;
    }
    files.sort();
    let mut hasher = DefaultHasher::new();
    for path in files {
        hasher.write(path.as_os_str().as_encoded_bytes());
        hasher.write(&fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if path.is_file() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))? {
        let path = entry?.path();
        if path.file_name().is_none_or(|name| name != "target") {
            collect(&path, files)?;
        }
    }
    Ok(())
}

enum Toolchain {
    /// The one that runs us has the target.
    Rustup,
    /// Debian's, and the linker that comes with rustup's.
    Debian { lld: PathBuf },
}

impl Toolchain {
    fn find() -> Result<Self> {
        if has_target()
            || (command("rustup").is_some()
                && run(quiet("rustup").args(["target", "add", TARGET])).is_ok())
        {
            return Ok(Self::Rustup);
        }
        let lld = lld()?;
        if !debian_is_there() {
            install_debian()?;
        }
        Ok(Self::Debian { lld })
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Rustup => "rustup's toolchain",
            Self::Debian { .. } => "Debian's rustc-web (builds std first, about a minute once)",
        }
    }

    /// All of `folder`; or these of it, with the feature `tracked`.
    fn build(&self, root: &Path, folder: &str, target_dir: &Path, tracked: &[&str]) -> Result<()> {
        let mut cargo = match self {
            Self::Rustup => clean("cargo"),
            Self::Debian { lld } => {
                let mut cargo = clean("/usr/bin/cargo");
                cargo
                    .env("RUSTC", "/usr/bin/rustc")
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", lld);
                cargo.arg("-Zbuild-std=std,panic_abort");
                cargo
            }
        };
        cargo
            .current_dir(root.join(folder))
            .env("CARGO_TARGET_DIR", target_dir)
            .env("CARGO_ENCODED_RUSTFLAGS", self.remap(root)?);
        cargo.args([
            "build",
            "--quiet",
            "--release",
            "--locked",
            "--target",
            TARGET,
        ]);
        if !tracked.is_empty() {
            cargo.args(["--features", "tracked"]);
            cargo.args(tracked.iter().flat_map(|name| ["-p", name]));
        }
        run(&mut cargo).with_context(|| format!("the guests in {folder} do not build"))
    }

    /// `--remap-path-prefix` for the sources, the registry and the standard library.
    fn remap(&self, root: &Path) -> Result<String> {
        let rustc = match self {
            Self::Rustup => "rustc",
            Self::Debian { .. } => "/usr/bin/rustc",
        };
        let sysroot = read(clean(rustc).args(["--print", "sysroot"]))?;
        let home = std::env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(std::env::home_dir()?.join(".cargo")));
        let mut flags = vec![
            format!("--remap-path-prefix={}=/meshd", root.display()),
            format!("--remap-path-prefix={sysroot}=/rust"),
        ];
        flags.extend(home.map(|home| format!("--remap-path-prefix={}=/cargo", home.display())));
        Ok(flags.join("\u{1f}"))
    }
}

fn has_target() -> bool {
    let sysroot = read(clean("rustc").args(["--print", "sysroot"])).ok();
    sysroot.is_some_and(|sysroot| {
        Path::new(&sysroot)
            .join("lib/rustlib")
            .join(TARGET)
            .join("lib")
            .is_dir()
    })
}

fn lld() -> Result<PathBuf> {
    let sysroot = read(clean("rustc").args(["--print", "sysroot"]))?;
    let version = read(clean("rustc").arg("-vV"))?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("`rustc -vV` names no host")?;
    let lld = Path::new(&sysroot)
        .join("lib/rustlib")
        .join(host)
        .join("bin/rust-lld");
    ensure!(
        lld.is_file(),
        "{} is missing. Run `rustup target add {TARGET}` where there is a network",
        lld.display()
    );
    Ok(lld)
}

fn debian_is_there() -> bool {
    let source = read(clean("/usr/bin/rustc").args(["--print", "sysroot"]))
        .map(|sysroot| Path::new(&sysroot).join("lib/rustlib/src/rust/library"));
    Path::new("/usr/bin/cargo").exists() && source.is_ok_and(|source| source.is_dir())
}

fn install_debian() -> Result<()> {
    let how = format!(
        "apt-get install --no-install-recommends {}",
        DEBIAN.join(" ")
    );
    ensure!(
        command("apt-get").is_some(),
        "no Rust toolchain here can build for {TARGET}. Run `rustup target add {TARGET}`"
    );
    // The owner of our own process's folder is who we are.
    let root = fs::metadata("/proc/self")
        .is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
    ensure!(
        root,
        "no Rust toolchain here can build for {TARGET}. Run `rustup target add {TARGET}`, or as root: {how}"
    );
    eprintln!("plugins: {how}");
    let install = || {
        run(quiet("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-qq", "-y", "install", "--no-install-recommends"])
            .args(DEBIAN))
    };
    if install().is_err() {
        // The lists of a fresh machine are empty or old.
        run(quiet("apt-get").args(["-qq", "update"]))?;
        install().with_context(|| {
            format!("`{how}` failed; rustc-web is in Debian's security archive")
        })?;
    }
    ensure!(
        debian_is_there(),
        "`{how}` went well, but /usr/bin/cargo or the library source is not there"
    );
    Ok(())
}

/// A core module without imports but the key becomes a component.
fn component(module: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(module).with_context(|| format!("cannot read {}", module.display()))?;
    let (module, manifest) = split(&bytes)?;
    let mut component = wit_component::ComponentEncoder::default()
        .validate(true)
        .module(&module)?
        .encode()?;
    if let Some(manifest) = manifest {
        let json: serde_json::Result<serde_json::Value> = serde_json::from_slice(&manifest);
        json.with_context(|| format!("the section {MANIFEST} is no JSON"))?;
        let section = wasm_encoder::CustomSection {
            name: MANIFEST.into(),
            data: manifest.as_slice().into(),
        };
        wasm_encoder::ComponentSection::append_to_component(&section, &mut component);
    }
    Ok(component)
}

/// The module without its manifest and the names of its functions, and the manifest.
fn split(bytes: &[u8]) -> Result<(Vec<u8>, Option<Vec<u8>>)> {
    let (mut module, mut manifest) = (wasm_encoder::Module::new(), None);
    for payload in wasmparser::Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        match &payload {
            wasmparser::Payload::ImportSection(imports) => {
                let allowed =
                    |import: &wasmparser::Import<'_>| import.module.starts_with(TRACKED_KEY);
                for import in imports.clone().into_imports() {
                    let import = import?;
                    if allowed(&import) {
                        continue;
                    }
                    bail!(
                        "it imports {}::{}, and a policy gets no imports. Look for a crate that wants a clock, files, randomness or JavaScript \
                         (`cargo tree --target {TARGET}`; wasm-bindgen and getrandom are the usual ones)",
                        import.module,
                        import.name
                    );
                }
            }
            wasmparser::Payload::CustomSection(section) if section.name() == MANIFEST => {
                ensure!(
                    manifest.is_none(),
                    "it has two sections {MANIFEST}: one crate, one policy"
                );
                manifest = Some(section.data().to_vec());
                continue;
            }
            wasmparser::Payload::CustomSection(section) if section.name() == "name" => continue,
            _ => {}
        }
        if let Some((id, range)) = payload.as_section() {
            let data = bytes
                .get(range)
                .context("a section ends behind its module")?;
            module.section(&wasm_encoder::RawSection { id, data });
        }
    }
    Ok((module.finish(), manifest))
}

/// Without what cargo and rustup tell their children: these builds are another toolchain's and another target's.
fn clean(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        let from_cargo = name_text.starts_with("CARGO")
            && !matches!(
                &*name_text,
                "CARGO_HOME" | "CARGO_HTTP_PROXY" | "CARGO_NET_OFFLINE"
            );
        if from_cargo
            || name_text.starts_with("RUSTC")
            || name_text == "RUSTFLAGS"
            || name_text == "RUSTDOCFLAGS"
        {
            command.env_remove(&name);
        }
    }
    command
}

fn quiet(program: &str) -> Command {
    let mut command = clean(program);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Where `program` is in PATH.
fn command(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

fn read(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}",
        output.status
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasm_encoder::{CustomSection, EntityType, ImportSection, Module};

    fn module(sections: &[(&str, &str)], import: bool) -> Vec<u8> {
        let mut module = Module::new();
        if import {
            let mut imports = ImportSection::new();
            let memory = wasm_encoder::MemoryType {
                minimum: 1,
                maximum: None,
                memory64: false,
                shared: false,
                page_size_log2: None,
            };
            imports.import("env", "memory", EntityType::Memory(memory));
            module.section(&imports);
        }
        for (name, data) in sections {
            module.section(&CustomSection {
                name: (*name).into(),
                data: data.as_bytes().into(),
            });
        }
        module.finish()
    }

    #[test]
    fn the_manifest_leaves_the_module_and_other_sections_stay() {
        let all = [("a", "1"), (MANIFEST, "{}"), ("name", "x"), ("b", "2")];
        let (rest, manifest) = split(&module(&all, false)).unwrap();
        assert_eq!(manifest.as_deref(), Some(b"{}".as_slice()));
        assert_eq!(rest, module(&[("a", "1"), ("b", "2")], false));
        assert_eq!(split(&rest).unwrap(), (rest.clone(), None));
    }

    #[test]
    fn an_import_and_a_second_manifest_are_refused() {
        let error = split(&module(&[], true)).unwrap_err().to_string();
        assert!(error.contains("it imports env::memory"), "{error}");
        let two = [(MANIFEST, "{}"), (MANIFEST, "{}")];
        let error = split(&module(&two, false)).unwrap_err().to_string();
        assert!(error.contains("two sections"), "{error}");
    }
}
