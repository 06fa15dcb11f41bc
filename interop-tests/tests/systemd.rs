//! The daemon as a service of a real systemd: its unit, its watchdog, its socket, and frames over a restart.

use anyhow::{Context, Result, ensure};
use interop_tests::lab::meshd_binary;
use interop_tests::systemd::{Systemd, is_here};
use interop_tests::{debian, package, page};
use serde_json::Value;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// The program without its symbols: less to copy.
fn program() -> Result<PathBuf> {
    let stripped = std::env::temp_dir().join(format!("meshd-stripped{}", std::process::id()));
    package::strip(&meshd_binary()?, &stripped)?;
    Ok(stripped)
}

fn active(systemd: &Systemd, limit: u64) -> Result<()> {
    interop_tests::wait(
        "meshd.service is active",
        Duration::from_secs(limit),
        || Ok(systemd.tell("systemctl is-active meshd")?.1 == "active"),
    )
    .with_context(|| {
        systemd
            .tell("systemctl status meshd; tail -30 /log")
            .unwrap_or_default()
            .1
    })?;
    Ok(())
}

fn pid(systemd: &Systemd) -> Result<String> {
    systemd.ok("systemctl show -p MainPID --value meshd")
}

/// Two containers on a network; what one sends to the other passes the daemon.
fn two_containers(systemd: &Systemd) -> Result<()> {
    systemd.ok("meshd network add lan --subnet 10.5.0.0/24")?;
    for name in ["c1", "c2"] {
        systemd.ok(&format!(
            "ip netns add {name} && meshd attach lan --netns {name} --name {name}"
        ))?;
    }
    systemd.ok("ip netns exec c1 ping -c 1 -w 10 10.5.0.3")?;
    Ok(())
}

const PAGE: &str = "docs/howto/systemd.md";

/// Types the page's blocks for such a box, in order, in `folder` of it.
fn page_typed(systemd: &Systemd, host: &str, folder: &str) -> Result<()> {
    let mut typed = 0;
    for block in page::read(PAGE)? {
        if matches!(&block.kind, page::Kind::Typed(hosts) if hosts.iter().any(|at| at == host)) {
            let line = block.line;
            systemd
                .ok(&format!("set -e; cd {folder}; {}", block.text))
                .with_context(|| format!("{PAGE}:{line}"))?;
            typed += 1;
        }
    }
    ensure!(typed > 0, "{PAGE} has nothing for {host}");
    Ok(())
}

fn run(body: impl FnOnce() -> Result<()>) {
    if let Err(error) = body() {
        panic!("{error:#}");
    }
}

#[test]
fn the_installed_service_is_watched_hardened_and_loses_no_frame_over_a_restart() {
    if !is_here() {
        return;
    }
    run(|| {
        let binary = program()?;
        let systemd = Systemd::start(&binary);
        std::fs::remove_file(&binary)?;
        let systemd = systemd?;
        systemd.ok("mkdir -p /etc/meshd && printf '[kernel]\\nfast_path = false\\n' > /etc/meshd/meshd.toml")?;
        let dry = systemd.ok("meshd install --dry-run")?;
        ensure!(
            dry.contains("==> /etc/systemd/system/meshd.service") && dry.contains("WatchdogSec=")
        );
        ensure!(
            !systemd.tell("test -e /etc/systemd/system/meshd.service")?.0,
            "a dry run writes nothing"
        );
        systemd.ok("mkdir -p /etc/systemd/system/meshd.service.d && printf '[Service]\\nWatchdogSec=3\\nStandardError=append:/log\\n' > /etc/systemd/system/meshd.service.d/test.conf")?;
        page_typed(&systemd, "box", "/")?;
        active(&systemd, 10)?;
        systemd.ok("systemd-analyze verify meshd.service meshd.socket")?;
        let exposure =
            systemd.tell("systemd-analyze security meshd.service --no-pager --threshold=50")?;
        ensure!(exposure.0, "{}", exposure.1);
        two_containers(&systemd)?;
        what_needs_a_right_of_its_own(&systemd)?;

        over_a_restart(&systemd)?;
        a_daemon_that_stands_still_is_started_anew(&systemd)?;
        the_socket_starts_the_daemon(&systemd)?;

        systemd.ok("printf '[Unit]\\n' > /etc/systemd/system/meshd.socket")?;
        let foreign = systemd.tell("meshd uninstall")?;
        ensure!(
            !foreign.0 && foreign.1.contains("somebody else's"),
            "{}",
            foreign.1
        );
        systemd.ok("rm /etc/systemd/system/meshd.socket && meshd uninstall")?;
        ensure!(!systemd.tell("test -e /etc/systemd/system/meshd.service")?.0);
        ensure!(systemd.tell("systemctl is-active meshd")?.1 != "active");
        ensure!(
            systemd.tell("test -e /var/lib/meshd/meshd.redb")?.0,
            "the state stays"
        );
        Ok(())
    });
}

/// The unit leaves the daemon the right to make device nodes: a macvtap's file is one.
fn what_needs_a_right_of_its_own(systemd: &Systemd) -> Result<()> {
    systemd.ok("meshd attach lan --netns self --kind macvtap --ifname vm0 --ip none --name vm")?;
    let ports: Value = serde_json::from_str(&systemd.ok("meshd ports --json")?)?;
    let mut ports = ports.as_array().into_iter().flatten();
    let port = ports.find(|port| port["name"] == "vm").context("port vm")?;
    let file = port["device"]["text"].as_str().context("no device")?;
    systemd.ok(&format!("test -c {file} && exec 3<>{file}"))?;
    systemd.ok("meshd detach vm")?;
    ensure!(
        !systemd.tell(&format!("test -e {file}"))?.0,
        "{file} is left"
    );
    Ok(())
}

/// Frames wait in the TAPs, whose descriptors systemd holds meanwhile.
fn over_a_restart(systemd: &Systemd) -> Result<()> {
    let held = systemd.ok("systemctl show -p NFileDescriptorStore --value meshd")?;
    ensure!(held == "2", "two ports, two descriptors held: {held}");
    let before = pid(systemd)?;
    let ping = systemd
        .command("ip netns exec c1 ping -i 0.1 -c 35 -W 10 10.5.0.3")
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    std::thread::sleep(Duration::from_millis(800));
    systemd.ok("systemctl kill -s KILL meshd")?;
    let out = ping.wait_with_output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    active(systemd, 10)?;
    ensure!(pid(systemd)? != before, "it was started anew");
    ensure!(
        text.contains("35 packets transmitted, 35 received"),
        "every echo came back, some late: {text}"
    );
    // A port that goes takes its descriptor along.
    systemd.ok("meshd detach c2")?;
    interop_tests::wait("the descriptor goes", Duration::from_secs(5), || {
        Ok(systemd.ok("systemctl show -p NFileDescriptorStore --value meshd")? == "1")
    })?;
    systemd.ok("meshd attach lan --netns c2 --name c2")?;
    Ok(())
}

fn a_daemon_that_stands_still_is_started_anew(systemd: &Systemd) -> Result<()> {
    let before = pid(systemd)?;
    systemd.ok(&format!("kill -STOP {before}"))?;
    interop_tests::wait("the watchdog", Duration::from_secs(20), || {
        Ok(pid(systemd)? != before && pid(systemd)? != "0")
    })?;
    active(systemd, 10)?;
    systemd.ok("ip netns exec c1 ping -c 1 -w 10 10.5.0.1")?;
    Ok(())
}

fn the_socket_starts_the_daemon(systemd: &Systemd) -> Result<()> {
    systemd.ok("systemctl stop meshd")?;
    ensure!(
        systemd.ok("systemctl is-active meshd.socket")? == "active",
        "the socket stays"
    );
    systemd.ok("meshd status")?;
    active(systemd, 5)
}

/// A line past the capture of the test harness: what was left out must be seen.
fn skipped(what: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}");
}

#[test]
fn the_debian_package_installs_in_a_clean_root_is_upgraded_in_place_and_leaves_what_policy_says() {
    if !is_here() {
        return;
    }
    let (Some(root), true) = (debian::root(), package::cargo_deb().is_some()) else {
        skipped(
            "no cargo-deb or no clean Debian in the target folder; `cargo xtask lab` makes both",
        );
        return;
    };
    run(|| {
        let folder = std::env::temp_dir().join(format!("meshd-deb{}", std::process::id()));
        let built = package::build(&meshd_binary()?, &folder);
        let one = built?.context("cargo-deb is gone")?;
        let debs = [package::successor(&one)?, one];
        let systemd = Systemd::start_in(&root)?;
        for (deb, name) in debs.iter().zip(["/tmp/two.deb", "/tmp/one.deb"]) {
            systemd.copy(deb, name)?;
        }
        std::fs::remove_dir_all(&folder)?;
        let apt = |words: &str| {
            let options = "-y -q -o APT::Install-Recommends=0";
            systemd.ok(&format!(
                "DEBIAN_FRONTEND=noninteractive apt-get {options} {words}"
            ))
        };

        apt("install /tmp/one.deb")?;
        all_is_there(&systemd)?;
        ensure!(
            systemd.tell("systemctl is-active meshd.socket meshd")?.1 == "inactive\ninactive",
            "without a mesh there is nothing to run"
        );
        systemd.ok("systemctl is-enabled meshd.socket meshd")?;
        // As the page has it, which installs what is there already.
        systemd
            .ok("mkdir -p /srv/target/debian && cp /tmp/one.deb /srv/target/debian/meshd.deb")?;
        page_typed(&systemd, "debian", "/srv")?;
        systemd.ok("rm -r /srv/target")?;
        active(&systemd, 10)?;
        systemd.ok("meshd status")?;
        two_containers(&systemd)?;

        let (before, members) = (pid(&systemd)?, systemd.ok("meshd members --json")?);
        let ports = systemd.ok("meshd ports")?;
        apt("install /tmp/two.deb")?;
        active(&systemd, 10)?;
        ensure!(
            pid(&systemd)? != before,
            "an upgrade starts the new program"
        );
        let version = systemd.ok("dpkg-query -W -f '${Version}' meshd")?;
        ensure!(version.ends_with("-2"), "{version}");
        ensure!(
            systemd.ok("meshd members --json")? == members,
            "the same node"
        );
        systemd.ok("ip netns exec c1 ping -c 1 -w 10 10.5.0.3")?;
        let after = systemd.ok("meshd ports")?;
        ensure!(ports == after, "the same ports: {ports}\n{after}");

        apt("remove meshd")?;
        ensure!(systemd.tell("systemctl is-active meshd.socket meshd")?.1 == "inactive\ninactive");
        ensure!(
            systemd.ok(
                "ls /usr/bin /usr/lib/systemd/system /usr/share/man/man1 | grep -c meshd || true"
            )? == "0"
        );
        systemd.ok("test -e /var/lib/meshd/meshd.redb")?;
        // Who comes back finds all as it was.
        apt("install /tmp/two.deb")?;
        active(&systemd, 10)?;
        ensure!(
            systemd.ok("meshd members --json")? == members,
            "the same node"
        );

        systemd.ok("mkdir -p /etc/meshd && echo '# mine' > /etc/meshd/meshd.toml")?;
        apt("purge meshd")?;
        let left =
            systemd.ok("find / -xdev -name '*meshd*' ! -path '/tmp/*' ! -path '/var/log/*'")?;
        ensure!(
            left == "/etc/meshd\n/etc/meshd/meshd.toml",
            "an administrator's file and nothing else: {left}"
        );
        systemd.ok("rm -r /etc/meshd && dpkg --audit")?;
        Ok(())
    });
}

/// Files of the package, whole and of use.
fn all_is_there(systemd: &Systemd) -> Result<()> {
    let differs = systemd.ok("dpkg -V meshd")?;
    ensure!(differs.is_empty(), "{differs}");
    let files = systemd.ok("dpkg -L meshd")?;
    for file in [
        "/usr/bin/meshd",
        "/usr/share/man/man1/meshd.1.gz",
        "/usr/share/man/man1/meshd-attach.1.gz",
        "/usr/share/bash-completion/completions/meshd",
        "/usr/share/zsh/vendor-completions/_meshd",
        "/usr/share/fish/vendor_completions.d/meshd.fish",
        "/usr/lib/systemd/system/meshd.service",
        "/usr/lib/systemd/system/meshd.socket",
        "/usr/share/doc/meshd/copyright",
        "/usr/share/doc/meshd/changelog.Debian.gz",
        "/usr/share/doc/meshd/examples/meshd.toml",
    ] {
        ensure!(
            files.lines().any(|line| line == file),
            "{file} is not in {files}"
        );
        systemd.ok(&format!("test -s {file}"))?;
    }
    systemd.ok("for page in /usr/share/man/man1/meshd*.1.gz; do zcat $page | grep -q '^.TH meshd' || exit 1; done")?;
    systemd.ok("bash -c '. /usr/share/bash-completion/completions/meshd && complete -p meshd'")?;
    systemd.ok("systemd-analyze verify meshd.service meshd.socket")?;
    Ok(())
}
