//! `meshd plugin keygen`, `sign` and `verify`: keys as files, signatures in components.

use super::super::args::Common;
use super::super::values::show_path;
use super::super::{Failure, Printed, show};
use super::{component, invalid, wrong};
use crate::bounded;
use data_encoding::BASE64;
use meshd_core::code::ErrorCode;
use meshd_core::signer::Signer;
use meshd_plugin_host as host;
use ring::rand::SecureRandom;
use ring::signature::Ed25519KeyPair;
use serde_json::json;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use zeroize::Zeroizing;

/// Before the seed: PKCS#8 version 1 with Ed25519 and no public key (RFC 8410 §7).
const PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";
/// Bytes of a key file that are read.
const MAX_KEY: usize = 64 << 10;

fn pem(seed: &[u8; 32]) -> Zeroizing<String> {
    let der = Zeroizing::new([&PKCS8[..], seed].concat());
    Zeroizing::new(format!("{BEGIN}\n{}\n{END}\n", BASE64.encode(&der)))
}

fn read_pem(text: &str) -> Option<Ed25519KeyPair> {
    let (_, rest) = text.split_once(BEGIN)?;
    let (inside, _) = rest.split_once(END)?;
    let digits: Zeroizing<String> =
        Zeroizing::new(inside.chars().filter(|c| !c.is_whitespace()).collect());
    let der = Zeroizing::new(BASE64.decode(digits.as_bytes()).ok()?);
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).ok()
}

pub(super) fn keygen(common: &Common, file: &Path) -> Result<Printed, Failure> {
    let mut seed = Zeroizing::new([0; 32]);
    ring::rand::SystemRandom::new()
        .fill(&mut seed[..])
        .map_err(|_| {
            Failure::new(
                ErrorCode::NoRandomNumbers,
                "the system gives no random numbers",
            )
        })?;
    let key = Ed25519KeyPair::from_seed_unchecked(&seed[..]).map_err(|_| {
        Failure::new(
            ErrorCode::PluginKeyInvalid,
            "the key is refused by the library that made it",
        )
    })?;
    let unwritten = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::new(
            ErrorCode::FileForeign,
            format!(
                "{} is there already, and a key is never overwritten; take another name",
                show_path(file)
            ),
        ),
        _ => Failure::new(
            ErrorCode::FileUnwritten,
            format!("write {}: {e}", show_path(file)),
        ),
    };
    let mut out = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .map_err(unwritten)?;
    out.write_all(pem(&seed).as_bytes())
        .and_then(|()| out.sync_all())
        .map_err(unwritten)?;
    let signer = host::signer_of(&key).to_string();
    let shown = show_path(file);
    match common.json {
        true => Printed::text(show::json(&json!({ "file": shown, "public_key": signer }))),
        false => Printed::text(format!(
            "{signer}\n\nThe secret key is in {shown}. Whoever has it signs in your name.\nNext:\n  \
             meshd plugin sign FILE --key {shown}\n  in the config file of those who rely on it: [plugins] trusted = [\"{signer}\"]\n"
        )),
    }
}

pub(super) fn sign(
    common: &Common,
    file: &Path,
    key: &Path,
    out: &Path,
) -> Result<Printed, Failure> {
    let wasm = component(file)?;
    let text = bounded::text(key, MAX_KEY)
        .map(Zeroizing::new)
        .map_err(|e| {
            Failure::new(
                ErrorCode::FileUnreadable,
                format!("read the key {}: {e}", show_path(key)),
            )
        })?;
    let pair = read_pem(&text).ok_or_else(|| {
        invalid(
            ErrorCode::PluginKeyInvalid,
            key,
            &"this is no Ed25519 key (PKCS#8 in PEM); `meshd plugin keygen FILE` makes one",
        )
    })?;
    let signed = host::sign(&wasm, &pair).map_err(|e| wrong(file, &e))?;
    write(out, &signed)?;
    let signer = host::signer_of(&pair).to_string();
    let digest = host::Digest::of(&signed).to_string();
    match common.json {
        true => Printed::text(show::json(&json!({
            "file": show_path(out),
            "signer": signer,
            "digest": digest,
        }))),
        false => Printed::text(format!(
            "{} is signed by {signer}\n\n  digest  {digest}\n",
            show_path(out)
        )),
    }
}

/// Whole or not at all: it may be the only copy.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let kept = tempfile::NamedTempFile::new_in(folder).and_then(|mut temporary| {
        temporary.write_all(bytes)?;
        if let Ok(old) = std::fs::metadata(path) {
            temporary.as_file().set_permissions(old.permissions())?;
        } else {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            temporary.as_file().set_permissions(mode)?;
        }
        temporary.persist(path).map_err(|e| e.error)?;
        Ok(())
    });
    kept.map_err(|e| {
        Failure::new(
            ErrorCode::FileUnwritten,
            format!("write {}: {e}", show_path(path)),
        )
    })
}

pub(super) fn verify(common: &Common, file: &Path, trusted: &[Signer]) -> Result<Printed, Failure> {
    let wasm = component(file)?;
    let signers = host::signers(&wasm).map_err(|e| wrong(file, &e))?;
    let digest = host::signed_digest(&wasm).map_err(|e| wrong(file, &e))?;
    let relied = signers.iter().any(|signer| trusted.contains(signer));
    let done = relied || (trusted.is_empty() && !signers.is_empty());
    let text = match common.json {
        true => show::json(&json!({
            "file": show_path(file),
            "signed_digest": digest.to_string(),
            "signers": signers,
            "trusted": relied,
        })),
        false => {
            let mut lines = vec![match signers.is_empty() {
                true => format!("{} is not signed.", show_path(file)),
                false => format!("{} is signed, and not changed since, by", show_path(file)),
            }];
            lines.extend(signers.iter().map(|signer| {
                let word = match trusted.contains(signer) {
                    true => " (trusted)",
                    false => "",
                };
                format!("  {signer}{word}")
            }));
            if !trusted.is_empty() && !relied {
                lines.push("None of them is one that you trust.".to_owned());
            }
            show::clean_lines(&lines)
        }
    };
    Ok(Printed { text, done })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_back_from_its_file_and_one_of_openssl_is_read_too() {
        let key = read_pem(&pem(&[7; 32])).unwrap();
        let same = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        assert_eq!(host::signer_of(&key), host::signer_of(&same));
        // RFC 8410 §10.3.
        let theirs = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        assert!(
            host::signer_of(&read_pem(theirs).unwrap())
                .to_string()
                .starts_with("ed25519:19bf44096984cdfe8541bac167dc3b96")
        );
        assert!(read_pem("-----BEGIN PRIVATE KEY-----\nnonsense").is_none());
    }
}
