//! Puts the plugin where container runtimes look for it, and takes it away again.
//!
//! ```text
//!   /opt/cni/bin/meshd-cni            a link to this program, or a copy of it
//!   /etc/cni/net.d/10-meshd.conflist  the network of containers: the first file in the order of names counts
//! ```
//!
//! Owns these two files. Refuses to write over a file of somebody else, or to remove it: a configuration is ours by its first
//! plugin, a link by the name of what it leads to, and a copy by [`MARK`], which is in the program.

use super::{PLUGIN, router};
use memchr::memmem;
use serde_json::{Value, json};
use std::fs;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Largest configuration that is looked into, in bytes.
const CONFLIST_MAX: usize = 1 << 20;

/// In each program that can be the plugin, and in nothing else.
const MARK: &[u8] = b"meshd-cni of meshd: 7f1c29d4-6a1e-4c55-9d0b-9a2f0a3e5b61";

/// What to install.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Where runtimes look for plugins.
    pub bin_dir: PathBuf,
    /// Where they look for configurations.
    pub conf_dir: PathBuf,
    /// Name of the file there.
    pub conf_name: String,
    /// meshd's network.
    pub network: String,
    /// The daemon's socket, if it is not the usual one.
    pub socket: Option<PathBuf>,
    /// The router of the containers' default route.
    pub gateways: Vec<IpAddr>,
    /// `cniVersion` of the configuration.
    pub version: String,
    /// Published ports, by the stock plugin of that name.
    pub portmap: bool,
    /// A copy, for where this program's file goes away.
    pub copy: bool,
}

/// What the daemon knows of the network that containers are to be on.
#[derive(Clone, Debug)]
pub struct KnownNetwork {
    /// Its name.
    pub name: String,
    /// Its subnets.
    pub subnets: Vec<ipnet::IpNet>,
}

/// Why that failed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The file system refused.
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Somebody else's file.
    #[error("{path} is there already and is not of meshd; remove it, or choose another place", path = path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
    },
    /// Containers could not be routed by it.
    #[error("--gateway: {why}")]
    Gateway {
        /// Which, and why.
        why: String,
    },
}

fn refused<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> InstallError + 'a {
    move |source| InstallError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

impl Wish {
    fn plugin(&self) -> PathBuf {
        self.bin_dir.join(PLUGIN)
    }

    fn conflist(&self) -> PathBuf {
        self.conf_dir.join(&self.conf_name)
    }

    /// The configuration.
    #[must_use]
    pub fn configuration(&self) -> Value {
        let mut ours = json!({
            "type": PLUGIN,
            "network": self.network,
            "capabilities": { "ips": true, "mac": true, "dns": true, "aliases": true },
        });
        if let Some(socket) = &self.socket {
            ours["socket"] = json!(socket);
        }
        if !self.gateways.is_empty() {
            ours["gateway"] = json!(self.gateways);
            ours["isDefaultGateway"] = json!(true);
        }
        let mut plugins = vec![ours];
        if self.portmap {
            plugins.push(json!({ "type": "portmap", "capabilities": { "portMappings": true } }));
        }
        json!({ "cniVersion": self.version, "name": "meshd", "plugins": plugins })
    }

    /// Can containers be routed so? `network`: if a daemon says what it is.
    ///
    /// # Errors
    /// [`InstallError::Gateway`].
    pub fn check_gateways(&self, network: Option<&KnownNetwork>) -> Result<(), InstallError> {
        let gateways = &self.gateways;
        let reachable = match network {
            Some(known) => router::on_network(gateways, &known.name, &known.subnets),
            None => Ok(()),
        };
        router::one_a_family(gateways)
            .and(reachable)
            .map_err(|why| InstallError::Gateway { why })
    }

    /// Neither file is of somebody else.
    fn check_foreign(&self) -> Result<(), InstallError> {
        let refuse = |path: PathBuf, is_ours: bool| match path.symlink_metadata() {
            Ok(_) if !is_ours => Err(InstallError::Foreign { path }),
            _ => Ok(()),
        };
        let (conflist, plugin) = (self.conflist(), self.plugin());
        let (ours, our_plugin) = (is_ours(&conflist), is_our_plugin(&plugin));
        refuse(conflist, ours).and(refuse(plugin, our_plugin))
    }

    /// Installs both; the plugin first, so that a configuration never names one that is not there.
    ///
    /// # Errors
    /// See [`InstallError`].
    pub fn install(&self, program: &Path) -> Result<[PathBuf; 2], InstallError> {
        let (plugin, conflist) = (self.plugin(), self.conflist());
        self.check_foreign()?;
        for folder in [&self.bin_dir, &self.conf_dir] {
            fs::create_dir_all(folder).map_err(refused("create", folder))?;
        }
        let new = self.bin_dir.join(format!(".{PLUGIN}.new"));
        let _ = fs::remove_file(&new);
        if self.copy {
            fs::copy(program, &new).map_err(refused("write", &new))?;
            fs::set_permissions(&new, fs::Permissions::from_mode(0o755))
                .map_err(refused("make executable", &new))?;
        } else {
            std::os::unix::fs::symlink(program, &new).map_err(refused("link", &new))?;
        }
        fs::rename(&new, &plugin).map_err(refused("put in place", &plugin))?;
        // A dot in front, and no ending that a runtime reads.
        let new = self.conf_dir.join(format!(".{}.new", self.conf_name));
        let text = format!("{:#}\n", self.configuration());
        let write = || {
            let mut file = fs::File::create(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(refused("write", &new))?;
        fs::rename(&new, &conflist).map_err(refused("put in place", &conflist))?;
        Ok([plugin, conflist])
    }

    /// Takes both away; the configuration first. What is not there is no error. Answers what was removed.
    ///
    /// # Errors
    /// See [`InstallError`].
    pub fn uninstall(&self) -> Result<Vec<PathBuf>, InstallError> {
        let (plugin, conflist) = (self.plugin(), self.conflist());
        self.check_foreign()?;
        let mut gone = Vec::new();
        for path in [conflist, plugin] {
            match fs::remove_file(&path) {
                Ok(()) => gone.push(path),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(refused("remove", &path)(e)),
            }
        }
        Ok(gone)
    }
}

/// True if it is a configuration whose first plugin is ours. One that cannot be read is not.
fn is_ours(path: &Path) -> bool {
    let text = crate::bounded::regular_text(path, CONFLIST_MAX).unwrap_or_default();
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    value["plugins"][0]["type"] == PLUGIN
}

/// True if it is a link to a program of ours, which may be gone, or a copy of one.
fn is_our_plugin(path: &Path) -> bool {
    if let Ok(target) = fs::read_link(path) {
        let name = target.file_name().unwrap_or_default();
        return name.to_string_lossy().starts_with("meshd");
    }
    let found = path.symlink_metadata();
    // A FIFO would be waited for.
    found.is_ok_and(|found| found.is_file())
        && fs::File::open(path).is_ok_and(|file| holds(file, MARK).unwrap_or_default())
}

/// Are these bytes somewhere in it?
fn holds(mut from: impl Read, wanted: &[u8]) -> io::Result<bool> {
    let finder = memmem::Finder::new(wanted);
    let mut part = vec![0; 1 << 20];
    let mut kept = 0;
    loop {
        let read = match from.read(part.get_mut(kept..).unwrap_or_default()) {
            Ok(0) => return Ok(false),
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let end = kept + read;
        if finder.find(part.get(..end).unwrap_or_default()).is_some() {
            return Ok(true);
        }
        // The end of this part may be the beginning of what is looked for.
        kept = end.min(wanted.len() - 1);
        part.copy_within(end - kept..end, 0);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn wish(dir: &Path) -> Wish {
        Wish {
            bin_dir: dir.join("bin"),
            conf_dir: dir.join("net.d"),
            conf_name: "10-meshd.conflist".to_owned(),
            network: "lan".to_owned(),
            socket: None,
            gateways: vec!["10.0.0.9".parse().unwrap()],
            version: "1.0.0".to_owned(),
            portmap: true,
            copy: false,
        }
    }

    #[test]
    fn what_was_installed_is_taken_away_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let program = temp.path().join("meshd");
        let bytes = [b"program ", MARK].concat();
        fs::write(&program, &bytes).unwrap();
        for copy in [false, true] {
            let wish = Wish {
                copy,
                ..wish(temp.path())
            };
            let [plugin, conflist] = wish.install(&program).unwrap();
            // Again, as after an upgrade.
            wish.install(&program).unwrap();
            assert_eq!(fs::read(&plugin).unwrap(), bytes);
            assert_eq!(plugin.is_symlink(), !copy);
            let text: Value = serde_json::from_slice(&fs::read(&conflist).unwrap()).unwrap();
            assert_eq!(text["plugins"][0]["gateway"], json!(["10.0.0.9"]));
            assert_eq!(text["plugins"][1]["type"], "portmap");
            assert_eq!(wish.uninstall().unwrap(), [conflist, plugin]);
            assert_eq!(wish.uninstall().unwrap(), Vec::<PathBuf>::new());
            assert_eq!(fs::read_dir(&wish.bin_dir).unwrap().count(), 0);
            assert_eq!(fs::read_dir(&wish.conf_dir).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_configuration_of_somebody_else_stays() {
        let temp = tempfile::tempdir().unwrap();
        let wish = wish(temp.path());
        fs::create_dir_all(&wish.conf_dir).unwrap();
        fs::write(wish.conflist(), r#"{"plugins":[{"type":"bridge"}]}"#).unwrap();
        assert!(matches!(
            wish.install(Path::new("/bin/true")),
            Err(InstallError::Foreign { .. })
        ));
        assert!(matches!(
            wish.uninstall(),
            Err(InstallError::Foreign { .. })
        ));
        assert!(!wish.plugin().exists(), "nothing half done");
    }

    #[test]
    fn a_plugin_of_somebody_else_stays_and_with_it_the_configuration() {
        let temp = tempfile::tempdir().unwrap();
        let program = temp.path().join("meshd");
        fs::write(&program, MARK).unwrap();
        let wish = wish(temp.path());
        let plugin = wish.plugin();
        fs::create_dir_all(&wish.bin_dir).unwrap();
        let foreign = |path: &Path| {
            let refused = wish.install(&program).unwrap_err();
            assert!(
                refused.to_string().contains("meshd-cni is there"),
                "{refused}"
            );
            assert!(matches!(
                wish.uninstall(),
                Err(InstallError::Foreign { .. })
            ));
            assert!(path.symlink_metadata().is_ok());
        };
        fs::write(&plugin, "#!/bin/sh\n").unwrap();
        foreign(&plugin);
        assert!(!wish.conflist().exists());
        fs::remove_file(&plugin).unwrap();
        std::os::unix::fs::symlink("/usr/bin/other", &plugin).unwrap();
        foreign(&plugin);
        fs::remove_file(&plugin).unwrap();
        fs::create_dir(&plugin).unwrap();
        foreign(&plugin);
        fs::remove_dir(&plugin).unwrap();
        // A link to a release that is gone is ours.
        std::os::unix::fs::symlink("/opt/meshd-0.1/meshd", &plugin).unwrap();
        wish.install(&program).unwrap();
        fs::remove_file(&plugin).unwrap();
        fs::write(&plugin, "somebody else's").unwrap();
        foreign(&wish.conflist());
    }

    #[test]
    fn a_mark_is_found_wherever_it_is_and_not_where_it_is_not() {
        for before in [0, 7, (1 << 20) - 5, (1 << 20) + 3] {
            let mut bytes = vec![b'x'; before];
            bytes.extend(b"needle");
            bytes.extend([b'y'; 99]);
            assert!(holds(&bytes[..], b"needle").unwrap(), "{before}");
            assert!(!holds(&bytes[..before + 5], b"needle").unwrap());
        }
    }

    #[test]
    fn gateways_are_refused_before_anything_is_written() {
        let temp = tempfile::tempdir().unwrap();
        let mut wish = wish(temp.path());
        let lan = KnownNetwork {
            name: "lan".to_owned(),
            subnets: vec!["10.0.0.0/24".parse().unwrap()],
        };
        assert!(wish.check_gateways(Some(&lan)).is_ok() && wish.check_gateways(None).is_ok());
        wish.gateways = vec!["10.0.0.1".parse().unwrap()];
        let refused = wish.check_gateways(Some(&lan)).unwrap_err().to_string();
        assert!(
            refused.starts_with("--gateway: 10.0.0.1 is meshd's own"),
            "{refused}"
        );
        assert!(wish.check_gateways(None).is_ok());
        wish.gateways = vec!["10.0.0.9".parse().unwrap(), "10.0.0.8".parse().unwrap()];
        assert!(wish.check_gateways(None).is_err());
    }
}
