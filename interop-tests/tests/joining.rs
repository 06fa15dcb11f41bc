//! Who may be here: invites, membership, revocation.

use anyhow::{Context, Result, ensure};
use interop_tests::lab::{LabSpec, scene};
use interop_tests::traffic::{ping, ping_until};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn an_invite_is_good_for_one_node_once() {
    scene(LabSpec::hosts(3), |lab| {
        let (root, second, third) = (lab.node(0), lab.node(1), lab.node(2));
        root.init("lab")?;
        root.run()?;
        let token = root.invite(&[])?;
        second.join(&token)?;
        let words = third.refused(&["join", &token, "--name", "c"])?;
        ensure!(words.contains("used"), "says that it was used: {words}");
        // The first guest is not hurt by that.
        second.run()?;
        interop_tests::wait("a and b meet", Duration::from_secs(10), || {
            Ok(root.peers_up()? == 1)
        })?;
        ensure!(
            !third.state.join("meshd.redb").exists() || third.refused(&["run"]).is_ok(),
            "c is not a member"
        );
        Ok(())
    });
}

#[test]
fn an_expired_invite_says_that_it_expired() {
    scene(LabSpec::hosts(2), |lab| {
        lab.node(0).init("lab")?;
        lab.node(0).run()?;
        let token = lab.node(0).invite(&["--ttl", "1s"])?;
        std::thread::sleep(Duration::from_millis(1500));
        let words = lab.node(1).refused(&["join", &token, "--name", "b"])?;
        ensure!(words.contains("expired"), "says that it expired: {words}");
        Ok(())
    });
}

#[test]
fn an_invite_for_another_mesh_says_so() {
    scene(LabSpec::hosts(3), |lab| {
        let (old, guest, other) = (lab.node(0), lab.node(1), lab.node(2));
        old.init("old")?;
        old.run()?;
        let token = old.invite(&[])?;
        // A member of one mesh does not become a member of a second one by the way.
        other.init("other")?;
        let words = other.refused(&["join", &token, "--name", "c"])?;
        ensure!(
            words.contains("member of mesh other"),
            "says of which mesh it is: {words}"
        );
        // The host starts over with a new mesh at the same address: another key answers there.
        old.stop()?;
        std::fs::remove_dir_all(&old.state).context("remove the state folder")?;
        old.init("new")?;
        old.run()?;
        let words = guest.refused(&["join", &token, "--name", "b"])?;
        ensure!(
            words.contains("another node answers there"),
            "says that it is not the inviter: {words}"
        );
        Ok(())
    });
}

#[test]
fn text_that_is_no_invite_and_an_inviter_that_is_gone_are_told_apart() {
    scene(LabSpec::hosts(2), |lab| {
        lab.node(0).init("lab")?;
        lab.node(0).run()?;
        let token = lab.node(0).invite(&[])?;
        for wrong in [
            "",
            "meshd1",
            "not-a-token",
            &token[..token.len() - 4],
            &format!("{token}aaaa"),
        ] {
            let told = lab.node(1).tell(&["join", wrong, "--name", "b"])?;
            ensure!(
                told.code == 1 || told.code == 2,
                "`join {wrong}` ended with {}: {}",
                told.code,
                told.stderr
            );
            ensure!(!told.stderr.contains("panicked"), "{}", told.stderr);
        }
        lab.node(0).stop()?;
        let words = lab.node(1).refused(&["join", &token, "--name", "b"])?;
        ensure!(
            words.contains("192.0.2.1") || words.contains("2001:db8::1"),
            "names the addresses that it tried: {words}"
        );
        Ok(())
    });
}

#[test]
fn a_revoked_node_is_out_at_once_and_stays_out() {
    scene(LabSpec::hosts(3), |lab| {
        lab.mesh()?;
        let stations = lab.segment("lan", &["--subnet", "10.10.0.0/24"])?;
        let (a, c) = (&stations[0], &stations[2]);
        ping_until(&a.netns, c.port.v4()?, Duration::from_secs(5))?;
        lab.node(0).ok(&["revoke", "c"])?;
        for index in [0, 1] {
            let node = lab.node(index);
            interop_tests::wait("sessions to c are closed", Duration::from_secs(5), || {
                Ok(node.peers_up()? == 1)
            })?;
            interop_tests::wait("c is withdrawn", Duration::from_secs(5), || {
                Ok(!node.knows_mac(&c.port.mac)?)
            })?;
            ensure!(node.member_state("c")? == "revoked" || node.member_state("c")?.is_empty());
        }
        ensure!(
            ping(&a.netns, c.port.v4()?, 3, 56)?.received == 0,
            "a revoked node's container answers"
        );
        ping_until(&a.netns, stations[1].port.v4()?, Duration::from_secs(5))?;
        // Not by a restart either, nor by asking a member that is not the root.
        lab.node(2).restart()?;
        std::thread::sleep(Duration::from_secs(3));
        ensure!(
            lab.node(0).peers_up()? == 1 && lab.node(1).peers_up()? == 1,
            "the revoked node is back"
        );
        ensure!(ping(&stations[1].netns, c.port.v4()?, 2, 56)?.received == 0);
        // And it says so itself, with the way back.
        let (c, container) = (lab.node(2), lab.container(2, 0));
        let attach = ["attach", "lan", "--netns", container, "--ifname", "eth7"];
        for words in [c.refused(&["status"])?, c.refused(&attach)?, {
            let token = lab.node(0).invite(&[])?;
            c.stop()?;
            c.refused(&["join", &token])?
        }] {
            ensure!(
                words.contains("revoked") && words.contains("state folder"),
                "{words}"
            );
        }
        Ok(())
    });
}

#[test]
fn a_member_that_may_not_define_networks_is_told_so() {
    scene(LabSpec::hosts(2), |lab| {
        lab.mesh()?;
        let words = lab
            .node(1)
            .refused(&["network", "add", "mine", "--subnet", "10.66.0.0/24"])?;
        ensure!(!words.is_empty());
        ensure!(!lab.node(0).knows_network("mine")?);
        let words = lab.node(1).refused(&["invite"])?;
        ensure!(words.contains("root"), "says where to ask: {words}");
        Ok(())
    });
}

#[test]
fn a_command_right_behind_the_daemons_start_waits_for_it_and_one_without_a_daemon_does_not() {
    scene(LabSpec::hosts(1), |lab| {
        let node = lab.node(0);
        let failed = |what: &str| -> Result<(Duration, String)> {
            let begun = Instant::now();
            let told = node.tell(&["status"])?;
            ensure!(told.code == 1, "{what}: {}", told.code);
            Ok((begun.elapsed(), told.stderr))
        };
        let (_, said) = failed("there is no state")?;
        ensure!(
            said.contains("no daemon answers") && !said.contains("waited"),
            "{said}"
        );
        node.init("lab")?;
        let (took, said) = failed("nobody runs")?;
        ensure!(
            said.contains("waited 0.") && said.contains("for one that starts"),
            "{said}"
        );
        ensure!(took >= Duration::from_millis(450), "{took:?}");
        for _ in 0..3 {
            let mut daemon = node.command()?;
            let mut daemon = daemon.arg("run").stderr(Stdio::null()).spawn()?;
            let told = node.ok(&["network", "ls"]);
            let ended = Command::new("kill").arg(daemon.id().to_string()).status();
            daemon.wait()?;
            ensure!(ended?.success());
            told?;
        }
        Ok(())
    });
}

#[test]
fn of_two_hosts_with_one_key_one_stays_the_other_is_told_and_the_doctor_names_both() {
    scene(LabSpec::hosts(3), |lab| {
        let (a, b, copy) = (lab.node(0), lab.node(1), lab.node(2));
        a.init("lab")?;
        a.run()?;
        b.join(&a.invite(&[])?)?;
        b.run()?;
        let soon = Duration::from_secs(20);
        interop_tests::wait("a and b meet", soon, || Ok(a.peers_up()? == 1))?;
        b.stop()?;
        let copied = Command::new("cp")
            .arg("-aT")
            .args([&b.state, &copy.state])
            .status()?;
        ensure!(copied.success(), "cp: {copied}");
        b.run()?;
        copy.run()?;
        let found = |wanted: bool| {
            interop_tests::wait("what the doctor says", 3 * soon, || {
                // Its exit code is 1 where something does not work.
                let told = a.tell(&["doctor", "--json"])?;
                let told: serde_json::Value = serde_json::from_str(&told.stdout)?;
                let checks = told["checks"].as_array().context("no checks")?;
                Ok(checks.iter().any(|check| check["code"] == "key-twice") == wanted)
            })
        };
        found(true)?;
        let problems = a.json(&["status"])?["problems"].to_string();
        ensure!(
            problems.contains("two hosts run with the key of"),
            "{problems}"
        );
        // One of them is kept, and it is the same one all the time.
        let place = || Ok::<_, anyhow::Error>(a.list("peers")?[0]["remote"].to_string());
        let first = place()?;
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(100));
            ensure!(place()? == first && a.peers_up()? == 1, "it stays: {first}");
        }
        // The copy goes, or the other one: whoever is left has the session.
        copy.stop()?;
        interop_tests::wait("b is back", 2 * soon, || Ok(a.peers_up()? == 1))?;
        Ok(())
    });
}
