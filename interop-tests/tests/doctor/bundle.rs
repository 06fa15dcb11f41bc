//! `meshd doctor --bundle`: the archive has what it says, and none of the secrets that are put everywhere first.

use anyhow::{Context, Result, ensure};
use interop_tests::lab::{LabSpec, find, plugin, scene};
use std::path::Path;
use std::process::Command;

#[test]
fn the_archive_has_what_is_asked_for_and_no_secret() {
    ensure_tar();
    scene(LabSpec::hosts(2), |lab| {
        let secret = "hunter2-in-a-config";
        let a = lab.node(0);
        lab.mesh()?;
        lab.segment("lan", &["--subnet", "10.10.0.0/24"])?;
        let token = a.ok(&["api", "token"])?.trim().to_owned();
        let invite = a.invite(&[])?;
        let file = plugin("acl")?;
        a.ok(&[
            "plugin",
            "install",
            "acl",
            file.to_str().context("its path")?,
        ])?;
        // Refused or not: the word is in a command and may be in an event.
        let config = format!("{{\"rules\":[],\"note\":\"{secret}\"}}");
        let _ = a.tell(&["plugin", "attach", "acl", "lan", "--config", &config])?;
        std::fs::write(
            &a.config,
            format!("# {secret} {token} {invite}\n[log]\nlevel = \"info\"\n"),
        )?;
        let bundle = lab.dir.join("bundle.tar.gz");
        let shown = bundle.display().to_string();
        a.ok(&["doctor", "--bundle", &shown])?;
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&bundle)?.permissions());
        ensure!(mode & 0o777 == 0o600, "{mode:o}");
        let all = unpacked(&bundle)?;
        for part in [
            "README.txt",
            "meshd doctor --bundle",
            "level = \"info\"",
            "\"peers_up\": 1",
            "meshd_",
            "Linux version",
            "192.0.2.2",
            "quic-direct",
            "\"checks\"",
        ] {
            ensure!(all.contains(part), "{part} is not in the archive");
        }
        let tail = |text: &str| text.trim_start_matches("meshd-api-").to_owned();
        for gone in [
            secret.to_owned(),
            token.clone(),
            invite.clone(),
            tail(&token),
        ] {
            ensure!(!all.contains(&gone), "{gone} is in the archive");
            // In base64 text may begin at any of three places.
            for skip in 0..3 {
                let form = base64(&gone.as_bytes()[skip..]);
                let core = &form[..form.len() - form.len() % 4 - 4];
                ensure!(!all.contains(core), "{gone} is in the archive as {core}");
            }
        }
        // The keys of the node are in its state file, and nothing of that is here.
        let state = std::fs::read(a.state.join("meshd.redb")).or_else(|_| first_file(&a.state))?;
        ensure!(state.len() > 1000, "no state file was looked at");
        let key = pkcs8(&state);
        ensure!(!key.is_empty(), "no key was found in the state file");
        for key in key {
            let forms = [
                base64(key),
                key.iter().map(|byte| format!("{byte:02x}")).collect(),
            ];
            ensure!(
                forms
                    .iter()
                    .all(|form| !all.contains(form.trim_end_matches('='))),
                "a key is in the archive"
            );
        }

        // Once more to the same file: it is left alone. And with addresses hidden.
        let refused = a.refused(&["doctor", "--bundle", &shown])?;
        ensure!(refused.contains("not there yet"), "{refused}");
        std::fs::remove_file(&bundle)?;
        a.ok(&["doctor", "--bundle", &shown, "--hide-addresses"])?;
        let all = unpacked(&bundle)?;
        ensure!(
            !all.contains("192.0.2.") && !all.contains("10.10.0."),
            "an address is in the archive"
        );
        ensure!(all.contains("ip4-"), "no name of an address");
        Ok(())
    });
}

fn ensure_tar() {
    assert!(find("tar").is_some(), "`tar` is missing");
}

/// All files of an archive, as one text with their names.
fn unpacked(archive: &Path) -> Result<String> {
    let names = Command::new("tar").arg("-tzf").arg(archive).output()?;
    let texts = Command::new("tar").arg("-xzOf").arg(archive).output()?;
    ensure!(
        names.status.success() && texts.status.success(),
        "tar does not read it"
    );
    Ok(String::from_utf8_lossy(&names.stdout).into_owned()
        + &String::from_utf8_lossy(&texts.stdout))
}

fn first_file(folder: &Path) -> std::io::Result<Vec<u8>> {
    let mut files = std::fs::read_dir(folder)?
        .flatten()
        .filter(|entry| entry.path().is_file());
    let largest = files
        .by_ref()
        .max_by_key(|entry| entry.metadata().map(|meta| meta.len()).unwrap_or_default());
    std::fs::read(largest.ok_or(std::io::ErrorKind::NotFound)?.path())
}

/// The seeds of Ed25519 keys in PKCS#8 (RFC 8410 §7): 32 bytes behind this.
fn pkcs8(bytes: &[u8]) -> Vec<&[u8]> {
    const HEAD: [u8; 9] = [0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    let found = bytes
        .windows(HEAD.len() + 32)
        .filter(|window| window.starts_with(&HEAD));
    found.map(|window| &window[HEAD.len()..]).collect()
}

/// RFC 4648 §4, without a crate for it.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .fold(0u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for nth in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * nth) & 63) as usize];
            out.push(if nth <= chunk.len() {
                char::from(digit)
            } else {
                '='
            });
        }
    }
    out
}
