//! Builds the guests: `plugins/` and the hello worlds of `examples/`, as components in `<target>/plugins/`.
//!
//! ```text
//!   sources --cargo, wasm32-unknown-unknown--> core module --imports none?--> ComponentEncoder --> <target>/plugins/NAME.wasm
//! ```
//!
//! Owns which guests there are and when they are built anew. How is `meshd-plugin-kit`'s, which builds the plugins of users in
//! the same way; here it may install what is missing.

use anyhow::{Context, Result};
use meshd_plugin_kit::{Lock, Missing, TARGET, Toolchain, component, package};
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::Hasher;
use std::path::{Path, PathBuf};

/// Folder with a `Cargo.toml` of its own, and the guests that it makes.
const GUESTS: &[(&str, &[&str])] = &[
    (
        "plugins",
        &[
            "acl",
            "fixture",
            "guard",
            "isolation",
            "mirror",
            "next",
            "qos",
            "stateful-firewall",
            "steer",
            "vip",
        ],
    ),
    ("examples/hello-plugin", &["hello-plugin"]),
    ("examples/hello-steering", &["hello-steering"]),
];
/// Guests that are made for the world `policy-tracked` too, as NAME-tracked: what they say must be the same.
const TRACKED: (&str, &[&str]) = ("plugins", &["acl", "fixture"]);
/// Guests that have a controller, and the file that policy and controller become. The fixture is also there without one.
const CONTROLLED: (&str, &[(&str, &str)]) = (
    "plugins",
    &[("fixture", "fixture-controlled"), ("guard", "guard")],
);
/// What goes into a guest besides its own folder.
const SHARED: &[&str] = &[
    "wit",
    "sdk",
    "Cargo.toml",
    "meshd/plugin-kit/src",
    "meshd/plugin-host/tests/next",
    "xtask/src/wasm.rs",
];

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
        let controlled = match *folder == CONTROLLED.0 {
            true => CONTROLLED.1,
            false => &[],
        };
        let print = fingerprint(&root, folder)?;
        let stamp = out.join(format!("{}.stamp", folder.replace('/', "-")));
        let fresh = fs::read_to_string(&stamp).is_ok_and(|old| old == print)
            && names
                .iter()
                .all(|name| out.join(format!("{name}.wasm")).exists())
            && tracked
                .iter()
                .all(|name| out.join(format!("{name}-tracked.wasm")).exists())
            && controlled
                .iter()
                .all(|(_, file)| out.join(format!("{file}.wasm")).exists());
        if fresh {
            continue;
        }
        let toolchain = match &toolchain {
            Some(toolchain) => toolchain,
            None => toolchain.insert(Toolchain::find(Missing::Install)?),
        };
        eprintln!(
            "plugins: building {folder} for {TARGET} with {}",
            toolchain.name()
        );
        let guests = target.join("guests");
        let places = [(root.as_path(), "/meshd")];
        let build = |choice: &[&str]| {
            toolchain
                .build(&root.join(folder), &guests, &places, choice, Lock::Fixed)
                .with_context(|| format!("the guests in {folder}"))
        };
        build(&[])?;
        for name in *names {
            make(&guests, name, &out.join(format!("{name}.wasm")))?;
        }
        if !tracked.is_empty() {
            let each = tracked.iter().flat_map(|name| ["-p", name]);
            let choice: Vec<&str> = each.chain(["--features", "tracked"]).collect();
            build(&choice)?;
        }
        for name in tracked {
            make(&guests, name, &out.join(format!("{name}-tracked.wasm")))?;
        }
        if !controlled.is_empty() {
            let each = controlled.iter().flat_map(|(name, _)| ["-p", name]);
            let choice: Vec<&str> = each.chain(["--features", "controller"]).collect();
            build(&choice)?;
        }
        for (name, file) in controlled {
            let policy = out.join(format!("{name}.wasm"));
            let policy =
                fs::read(&policy).with_context(|| format!("cannot read {}", policy.display()))?;
            let path = out.join(format!("{file}.wasm"));
            make(&guests, name, &path)?;
            let controller =
                fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            write(&path, &package(&policy, &controller))?;
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
    let bytes = fs::read(&module).with_context(|| format!("cannot read {}", module.display()))?;
    let component = component(&bytes, None).with_context(|| format!("guest {name}"))?;
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
