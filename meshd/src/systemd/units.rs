//! `meshd install` and `meshd uninstall`: the units, and telling systemd of them.
//!
//! Owns the files that begin with its first line. Refuses to overwrite or remove any other.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How our files begin.
const FIRST: &str = "# Written by `meshd install`; `meshd uninstall` removes it.\n";
/// Where an administrator's units are.
pub(crate) const FOLDER: &str = "/etc/systemd/system";

const SERVICE: &str = "meshd.service";
const SOCKET: &str = "meshd.socket";

/// What the units are made of.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The program.
    pub(crate) program: PathBuf,
    /// The state folder.
    pub(crate) state: PathBuf,
    /// The API's socket.
    pub(crate) socket: PathBuf,
    /// Where the units go.
    pub(crate) folder: PathBuf,
}

/// Why the units are not as they should be.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub(crate) enum UnitError {
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{path} is somebody else's: it does not begin with \"{first}\"; move it away first", path = path.display(), first = FIRST.trim_end())]
    Foreign { path: PathBuf },
    #[error("the path {path} cannot stand in a unit: it has a character other than letters, digits and /._-", path = path.display())]
    Path { path: PathBuf },
    #[error("`systemctl {words}` failed: {reason}")]
    Systemctl { words: String, reason: String },
}

/// A path as it can stand in a unit.
fn plain(path: &Path) -> Result<&str, UnitError> {
    let text = path.to_str().filter(|text| {
        text.starts_with('/')
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b))
    });
    text.ok_or_else(|| UnitError::Path {
        path: path.to_owned(),
    })
}

impl Plan {
    /// Names and texts of the units.
    ///
    /// # Errors
    /// If a path cannot stand in a unit.
    pub(crate) fn units(&self) -> Result<[(&'static str, String); 2], UnitError> {
        Ok([(SERVICE, self.service()?), (SOCKET, self.socket()?)])
    }

    fn service(&self) -> Result<String, UnitError> {
        let (program, state, socket) = (
            plain(&self.program)?,
            plain(&self.state)?,
            plain(&self.socket)?,
        );
        let keep = match state.strip_prefix("/var/lib/") {
            Some(name) => format!("StateDirectory={name}\nStateDirectoryMode=0700"),
            None => format!("ReadWritePaths={state}"),
        };
        let unit = include_str!("meshd.service")
            .replace("@PROGRAM@", program)
            .replace("@STATE@", state)
            .replace("@SOCKET@", socket)
            .replace("@KEEP@", &keep);
        Ok(format!("{FIRST}{unit}"))
    }

    fn socket(&self) -> Result<String, UnitError> {
        let unit = include_str!("meshd.socket")
            .replace("@STATE@", plain(&self.state)?)
            .replace("@SOCKET@", plain(&self.socket)?);
        Ok(format!("{FIRST}{unit}"))
    }

    /// Writes the units and has systemd read them. Answers what was done, line by line.
    ///
    /// # Errors
    /// See [`UnitError`]; a foreign file is found before anything is written.
    pub(crate) fn install(&self, enable: bool) -> Result<Vec<String>, UnitError> {
        let units = self.units()?;
        for (name, _) in &units {
            self.check_ours(name)?;
        }
        std::fs::create_dir_all(&self.folder).map_err(io_error("make", &self.folder))?;
        let mut done = Vec::new();
        for (name, text) in units {
            let path = self.folder.join(name);
            let fresh = self.folder.join(format!(".{name}.new"));
            std::fs::write(&fresh, text).map_err(io_error("write", &fresh))?;
            std::fs::rename(&fresh, &path).map_err(io_error("write", &path))?;
            done.push(format!("wrote {}", path.display()));
        }
        if self.is_live() {
            systemctl(&["daemon-reload"])?;
            if enable {
                systemctl(&["enable", "--now", SOCKET, SERVICE])?;
                done.push("enabled and started meshd.service and meshd.socket".to_owned());
            }
        }
        Ok(done)
    }

    /// Stops the service and removes the units.
    ///
    /// # Errors
    /// See [`UnitError`].
    pub(crate) fn uninstall(&self) -> Result<Vec<String>, UnitError> {
        for name in [SERVICE, SOCKET] {
            self.check_ours(name)?;
        }
        let there: Vec<&str> = [SERVICE, SOCKET]
            .into_iter()
            .filter(|name| self.folder.join(name).exists())
            .collect();
        if self.is_live() && !there.is_empty() {
            systemctl(&[&["disable", "--now"], there.as_slice()].concat())?;
        }
        let mut done = Vec::new();
        for name in there {
            let path = self.folder.join(name);
            std::fs::remove_file(&path).map_err(io_error("remove", &path))?;
            done.push(format!("removed {}", path.display()));
        }
        if self.is_live() {
            systemctl(&["daemon-reload"])?;
        }
        Ok(done)
    }

    /// True if these are units of a running systemd, and not to be packed.
    fn is_live(&self) -> bool {
        self.folder == Path::new(FOLDER) && sd_notify::booted().unwrap_or(false)
    }

    fn check_ours(&self, name: &str) -> Result<(), UnitError> {
        let path = self.folder.join(name);
        match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(io_error("read", &path)(source)),
            Ok(text) if text.starts_with(FIRST.as_bytes()) => Ok(()),
            Ok(_) => Err(UnitError::Foreign { path }),
        }
    }
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> UnitError {
    let path = path.to_owned();
    move |source| UnitError::Io {
        doing,
        path,
        source,
    }
}

fn systemctl(words: &[&str]) -> Result<(), UnitError> {
    let failed = |reason: String| UnitError::Systemctl {
        words: words.join(" "),
        reason,
    };
    let out = Command::new("systemctl").args(words).output();
    let out = out.map_err(|error| failed(error.to_string()))?;
    match out.status.success() {
        true => Ok(()),
        false => Err(failed(
            String::from_utf8_lossy(&out.stderr).trim().to_owned(),
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn plan(folder: &Path) -> Plan {
        Plan {
            program: "/usr/bin/meshd".into(),
            state: "/var/lib/meshd".into(),
            socket: "/run/meshd/meshd.sock".into(),
            folder: folder.to_owned(),
        }
    }

    #[test]
    fn units_name_the_program_and_its_places_and_nothing_is_left_to_fill_in() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in plan(dir.path()).units().unwrap() {
            // A set of system calls has one, too.
            let places = text.replace("@system-service", "");
            assert!(
                text.starts_with(FIRST) && !places.contains('@'),
                "{name}: {text}"
            );
        }
        let mut odd = plan(dir.path());
        odd.state = "/srv/mesh".into();
        let [(_, service), _] = odd.units().unwrap();
        assert!(
            service.contains("ReadWritePaths=/srv/mesh") && !service.contains("StateDirectory=")
        );
        odd.program = "/opt/a b/meshd\nExecStartPre=/bin/x".into();
        assert!(odd.units().is_err());
        odd.program = "/opt/%h/meshd".into();
        assert!(odd.units().is_err());
    }

    #[test]
    fn a_foreign_unit_is_neither_overwritten_nor_removed() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(dir.path());
        std::fs::write(dir.path().join(SOCKET), "[Socket]\n").unwrap();
        assert!(matches!(
            plan.install(false),
            Err(UnitError::Foreign { .. })
        ));
        assert!(!dir.path().join(SERVICE).exists());
        assert!(plan.uninstall().is_err());
        assert_eq!(
            std::fs::read(dir.path().join(SOCKET)).unwrap(),
            b"[Socket]\n"
        );
    }
}
