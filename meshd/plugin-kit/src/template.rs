//! A new project: the hello world, which builds and passes its test as it stands.
//!
//! The sources of a policy are those of `examples/hello-plugin`, those of a steering plugin of `examples/hello-steering`, so that
//! what is taught is what is tested; those with a controller
//! are in `template/`, and the lab makes a project of each. The SDK is not on a registry;
//! the project names the folder of a checkout, and where none is found that is said before anything is written.

use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};

const LIB: &str = include_str!("../../../examples/hello-plugin/src/lib.rs");
const CARGO: &str = include_str!("../../../examples/hello-plugin/Cargo.toml");
const BOTH: &str = include_str!("../template/both.rs");
const CONTROLLER: &str = include_str!("../template/controller.rs");
const STEERING: &str = include_str!("../../../examples/hello-steering/src/lib.rs");
const FEATURES: &str = "[features]\n# The controller of this crate: `meshd plugin build` makes it beside the policy.\ncontroller = [\"meshd-sdk/controller\"]\n\n";
const PROFILE_LINE: &str = "[profile.release]";
const PCAP: &[u8] = include_bytes!("../../../examples/hello-plugin/testdata/office.pcap");
const GOLDEN: &str = include_str!("../../../examples/hello-plugin/testdata/office.golden");
const README: &str = include_str!("../template/README.md");
const STEERING_README: &str = include_str!("../template/README-steering.md");
const CONTROLLER_README: &str = include_str!("../template/README-controller.md");
const IGNORE: &str = "/target\n";
const EXAMPLE: &str = "{ \"port\": 23 }\n";
/// Lines of [`CARGO`] that are of the example alone.
const NAME_LINE: &str = "name = \"hello-plugin\"";
const DESCRIPTION_LINE: &str =
    "description = \"The smallest policy: refuses connections to one TCP port\"";
const SDK_LINE: &str = "meshd-sdk = { path = \"../../sdk\" }";
/// The longest name, as the daemon takes it.
const NAME_MAX: usize = 63;
/// Names that cargo or Rust refuse for a package or its library.
const TAKEN: &[&str] = &[
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "build",
    "const",
    "continue",
    "core",
    "crate",
    "deps",
    "do",
    "dyn",
    "else",
    "enum",
    "examples",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "incremental",
    "let",
    "loop",
    "macro",
    "match",
    "meshd-sdk",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "proc-macro",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yield",
];

/// What is in a new project.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// A policy.
    #[default]
    Policy,
    /// A controller alone.
    Controller,
    /// A policy and its controller.
    Both,
    /// A steering plugin.
    Steering,
}

/// What a new project is made of.
#[derive(Clone, Debug)]
pub struct Template {
    name: String,
    kind: Kind,
    /// Folder with the SDK's `Cargo.toml`.
    sdk: PathBuf,
}

impl Template {
    /// For a plugin called `name`, with the SDK in `sdk`.
    ///
    /// # Errors
    /// If the name is none for a package, or the SDK is not there.
    pub fn new(name: &str, sdk: &Path) -> Result<Self> {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        ensure!(
            name.len() <= NAME_MAX
                && name.starts_with(|c: char| c.is_ascii_lowercase())
                && name.chars().all(inner)
                && !name.ends_with('-')
                && !name.contains("--"),
            "{name:?} is no name for a plugin: 1 to {NAME_MAX} small letters, digits and inner hyphens, a letter first"
        );
        ensure!(
            !TAKEN.contains(&name),
            "{name:?} means something to Rust or cargo; take another name for the plugin"
        );
        ensure!(
            is_sdk(sdk),
            "{} is not the folder of meshd's SDK (its Cargo.toml says `name = \"meshd-sdk\"`)",
            sdk.display()
        );
        let sdk = sdk
            .canonicalize()
            .with_context(|| format!("cannot read {}", sdk.display()))?;
        ensure!(
            !sdk.to_string_lossy().contains(['"', '\\', '\n']),
            "the SDK's folder {} has a quote, a backslash or a line break in its name; move it",
            sdk.display()
        );
        Ok(Self {
            name: name.to_owned(),
            kind: Kind::default(),
            sdk,
        })
    }

    /// The same, of another kind.
    #[must_use]
    pub fn of_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// Writes the project into `folder`, which must not be there yet.
    ///
    /// # Errors
    /// If it is there, or cannot be written; nothing is left then.
    pub fn make(&self, folder: &Path) -> Result<()> {
        // Without a slash at its end, as a shell completes it: what is beside it must not be in it.
        let folder: &Path = &folder.components().collect::<PathBuf>();
        if fs::symlink_metadata(folder).is_ok() {
            bail!(
                "{} is there already; take another name or folder",
                folder.display()
            );
        }
        // Beside its place first, so that half a project is never there.
        let mut beside = folder.as_os_str().to_owned();
        beside.push(format!(".{}.tmp", std::process::id()));
        let beside = PathBuf::from(beside);
        let made = self.write(&beside).and_then(|()| {
            fs::rename(&beside, folder).with_context(|| format!("cannot make {}", folder.display()))
        });
        if made.is_err() {
            // What cannot be removed was most likely never made.
            let _ = fs::remove_dir_all(&beside);
        }
        made
    }

    fn write(&self, folder: &Path) -> Result<()> {
        let put = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            let parent = path.parent().unwrap_or(folder);
            fs::create_dir_all(parent)
                .and_then(|()| fs::write(&path, bytes))
                .with_context(|| format!("cannot write {}", path.display()))
        };
        put("Cargo.toml", self.cargo()?.as_bytes())?;
        let (lib, example) = match self.kind {
            Kind::Policy => (LIB, EXAMPLE),
            Kind::Both => (BOTH, "{}\n"),
            Kind::Controller => (CONTROLLER, "{}\n"),
            Kind::Steering => (STEERING, "{}\n"),
        };
        put("src/lib.rs", lib.as_bytes())?;
        if self.kind == Kind::Policy {
            put("testdata/office.pcap", PCAP)?;
            put("testdata/office.golden", GOLDEN.as_bytes())?;
        }
        put("example.json", example.as_bytes())?;
        let readme = match self.kind {
            Kind::Policy => README.to_owned(),
            Kind::Steering => STEERING_README.to_owned(),
            Kind::Both => CONTROLLER_README
                .replace(
                    "WHAT",
                    "a controller that sees the ports, and a policy that\n\
                     lets nobody speak but the stations of those with the label `speaker`.",
                )
                .replace("GRANT", "topology,flows"),
            Kind::Controller => CONTROLLER_README
                .replace("WHAT", "it says in its log which ports come and go.")
                .replace("GRANT", "topology"),
        };
        put("README.md", readme.replace("NAME", &self.name).as_bytes())?;
        put(".gitignore", IGNORE.as_bytes())?;
        // The versions that this SDK is tested with.
        let lock = self.sdk.join("../examples/hello-plugin/Cargo.lock");
        if let Ok(lock) = fs::read_to_string(lock) {
            let own = format!("name = \"{}\"", self.name);
            put("Cargo.lock", lock.replace(NAME_LINE, &own).as_bytes())?;
        }
        Ok(())
    }

    fn cargo(&self) -> Result<String> {
        let mut out = CARGO.to_owned();
        let sdk = format!("meshd-sdk = {{ path = \"{}\" }}", self.sdk.display());
        let about = match self.kind {
            Kind::Policy => "The smallest policy: refuses connections to one TCP port",
            Kind::Controller => "The smallest controller: says which ports come and go",
            Kind::Both => "Lets nobody speak but the stations of ports with a label",
            Kind::Steering => "The smallest steering plugin: the quickest way that is up",
        };
        for (old, new) in [
            (NAME_LINE, format!("name = \"{}\"", self.name)),
            (DESCRIPTION_LINE, format!("description = \"{about}\"")),
            (SDK_LINE, sdk),
        ] {
            ensure!(
                out.contains(old),
                "the template has no line {old:?}: a mistake of this release"
            );
            out = out.replace(old, &new);
        }
        if matches!(self.kind, Kind::Both | Kind::Controller) {
            let with = format!("{FEATURES}{PROFILE_LINE}");
            out = out.replace(PROFILE_LINE, &with);
        }
        Ok(out)
    }
}

fn is_sdk(folder: &Path) -> bool {
    fs::read_to_string(folder.join("Cargo.toml"))
        .is_ok_and(|text| text.lines().any(|line| line == "name = \"meshd-sdk\""))
}

/// The folder of the SDK: `given` (a checkout of meshd, or its `sdk` folder), or the checkout around one of `starts`.
///
/// # Errors
/// If there is none: what to do.
pub fn find_sdk(given: Option<&Path>, starts: &[&Path]) -> Result<PathBuf> {
    if let Some(given) = given {
        return [given.to_owned(), given.join("sdk")]
            .into_iter()
            .find(|folder| is_sdk(folder))
            .with_context(|| {
                format!(
                    "{} is neither a checkout of meshd nor its `sdk` folder",
                    given.display()
                )
            });
    }
    starts
        .iter()
        .flat_map(|start| start.ancestors())
        .map(|folder| folder.join("sdk"))
        .find(|folder| is_sdk(folder))
        .context(
            "meshd's SDK is not found: it is not published, so a plugin is built beside a checkout of meshd. Clone the \
             repository and give its folder: --sdk PATH (or MESHD_SDK=PATH)",
        )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn checkout() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    #[test]
    fn a_project_is_made_whole_under_its_name_and_never_over_another() {
        let room = tempfile::tempdir().unwrap();
        let sdk = find_sdk(Some(&checkout()), &[]).unwrap();
        let folder = room.path().join("no-ssh");
        Template::new("no-ssh", &sdk)
            .unwrap()
            .make(&folder)
            .unwrap();
        let cargo = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        assert!(cargo.contains("name = \"no-ssh\""), "{cargo}");
        assert!(!cargo.contains("../../sdk"), "{cargo}");
        let lock = fs::read_to_string(folder.join("Cargo.lock")).unwrap();
        assert!(lock.contains("name = \"no-ssh\"") && !lock.contains("hello-plugin"));
        let error = Template::new("no-ssh", &sdk)
            .unwrap()
            .make(&folder)
            .unwrap_err();
        assert!(error.to_string().contains("there already"), "{error}");
        assert_eq!(fs::read_dir(room.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_project_says_what_it_is_and_what_has_to_be_granted_to_it() {
        let room = tempfile::tempdir().unwrap();
        let sdk = find_sdk(Some(&checkout()), &[]).unwrap();
        for (kind, name, about, attach) in [
            (
                Kind::Policy,
                "a",
                "one TCP port",
                "attach a NETWORK --config",
            ),
            (
                Kind::Controller,
                "b",
                "come and go",
                "NETWORK --grant topology --",
            ),
            (
                Kind::Both,
                "c",
                "with a label",
                "NETWORK --grant topology,flows --",
            ),
            (
                Kind::Steering,
                "d",
                "quickest way",
                "attach d NETWORK --config",
            ),
        ] {
            let folder = room.path().join(name);
            let template = Template::new(name, &sdk).unwrap().of_kind(kind);
            template.make(&folder).unwrap();
            let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
            assert!(read("Cargo.toml").contains(about), "{name}");
            let readme = read("README.md");
            assert!(readme.contains(attach), "{readme}");
            assert!(
                !["GRANT", "WHAT", "NAME "]
                    .iter()
                    .any(|word| readme.contains(word))
            );
        }
    }

    #[test]
    fn a_steering_project_is_that_of_the_example() {
        let room = tempfile::tempdir().unwrap();
        let sdk = find_sdk(Some(&checkout()), &[]).unwrap();
        let folder = room.path().join("quickest");
        Template::new("quickest", &sdk)
            .unwrap()
            .of_kind(Kind::Steering)
            .make(&folder)
            .unwrap();
        let lib = fs::read_to_string(folder.join("src/lib.rs")).unwrap();
        assert!(lib.contains("#[steering]"), "{lib}");
        let cargo = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        assert!(cargo.contains("name = \"quickest\"") && !cargo.contains("controller"));
        assert!(!folder.join("testdata").exists());
    }

    #[test]
    fn names_that_cargo_or_the_daemon_would_refuse_are_refused_first() {
        let sdk = checkout().join("sdk");
        for name in [
            "",
            "1st",
            "No",
            "a_b",
            "a-",
            "a--b",
            "../x",
            "test",
            "fn",
            &"a".repeat(64),
        ] {
            assert!(Template::new(name, &sdk).is_err(), "{name}");
        }
        assert!(Template::new("a1-b", &sdk).is_ok());
    }

    #[test]
    fn the_sdk_is_found_from_inside_a_checkout_and_its_absence_says_what_to_give() {
        let inside = checkout().join("docs/plugins");
        assert!(is_sdk(&find_sdk(None, &[&inside]).unwrap()));
        assert!(is_sdk(
            &find_sdk(Some(&checkout().join("sdk")), &[]).unwrap()
        ));
        let room = tempfile::tempdir().unwrap();
        let error = find_sdk(None, &[room.path()]).unwrap_err().to_string();
        assert!(error.contains("--sdk PATH"), "{error}");
        let error = find_sdk(Some(room.path()), &[]).unwrap_err().to_string();
        assert!(error.contains("neither"), "{error}");
    }
}
