//! What a component says of itself without being run: a custom section with JSON, described in `docs/plugins/manifest.md`.
//!
//! Owns the format. It is written while the plugin is compiled and read by nobody in here.

use crate::config::Schema;
use crate::emit::Writer;

/// Name of the custom section.
pub const SECTION: &str = "meshd:plugin";

/// Puts a manifest, as bytes, into the custom section [`SECTION`].
#[doc(hidden)]
#[macro_export]
macro_rules! __manifest_section {
    ($manifest:expr) => {
        const MANIFEST: &[u8] = $manifest;
        #[allow(unsafe_code)]
        #[used]
        #[unsafe(link_section = "meshd:plugin")]
        static SECTION: [u8; MANIFEST.len()] = {
            let mut bytes = [0; MANIFEST.len()];
            bytes.copy_from_slice(MANIFEST);
            bytes
        };
    };
}

/// The contract that this SDK is made for; a test compares it with `wit/`.
pub(crate) const WIT: &str = "meshd:policy@0.1.0";

/// The world of policies, as this build of the SDK makes them.
pub const POLICY: &str = if cfg!(asked) {
    "policy-tracked"
} else {
    "policy"
};

/// What `#[policy]`, `#[controller]` or `#[steering]` writes down.
#[derive(Clone, Copy, Debug)]
pub struct Manifest {
    /// Of the crate.
    pub name: &'static str,
    /// Of the crate.
    pub version: &'static str,
    /// Of the crate.
    pub description: &'static str,
    /// As `wit/worlds.wit` names it.
    pub world: &'static str,
    /// Of a policy: `guard`, `classify`, `forward` or `observe`.
    pub stage: Option<&'static str>,
    /// Of a policy: `closed`, `open` or `last-good`.
    pub fail: Option<&'static str>,
    /// Codes of drops from 1 to this are numbers of rules.
    pub rules: u16,
    /// Names of the codes behind those.
    pub reasons: &'static [&'static str],
    /// Of the config.
    pub schema: Schema,
    /// Of a controller: what it asks for, as JSON.
    pub capabilities: Option<&'static str>,
}

impl Manifest {
    /// Bytes of the JSON.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub const fn len(&self) -> usize {
        self.write::<0>().len()
    }

    /// The JSON.
    #[must_use]
    pub const fn json<const N: usize>(&self) -> [u8; N] {
        self.write::<N>().bytes()
    }

    const fn write<const N: usize>(&self) -> Writer<N> {
        let mut w = Writer::new();
        w.raw("{\"manifest\":1");
        let texts = [
            ("name", self.name),
            ("version", self.version),
            ("description", self.description),
            ("wit", WIT),
            ("world", self.world),
            ("sdk", concat!("rust ", env!("CARGO_PKG_VERSION"))),
        ];
        let mut at = 0;
        while at < texts.len() {
            w.name(false, texts[at].0);
            w.string(texts[at].1);
            at += 1;
        }
        if let Some(stage) = self.stage {
            w.name(false, "stage");
            w.string(stage);
        }
        if let Some(fail) = self.fail {
            w.name(false, "fail");
            w.string(fail);
        }
        if let Some(capabilities) = self.capabilities {
            w.name(false, "capabilities");
            w.raw(capabilities);
        }
        w.name(false, "rules");
        w.number(self.rules as i128);
        w.name(false, "reasons");
        w.raw("[");
        let mut at = 0;
        while at < self.reasons.len() {
            w.raw(if at == 0 { "{\"code\":" } else { ",{\"code\":" });
            w.number(self.rules as i128 + 1 + at as i128);
            w.name(false, "name");
            w.string(self.reasons[at]);
            w.raw("}");
            at += 1;
        }
        w.raw("]");
        w.name(false, "config-schema");
        self.schema.write(&mut w);
        w.raw("}");
        w
    }
}

/// What `#[policy]` knows of a policy.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no manifest",
    note = "put `#[policy(stage = \"guard\", fail = \"closed\")]` above `impl Policy for {Self}`"
)]
pub trait Described {
    /// Codes of drops from 1 to this are numbers of rules.
    const RULES: u16;
    /// Names of the codes behind those.
    const REASONS: &'static [&'static str];
    /// The manifest, as JSON.
    const MANIFEST: &'static [u8];
}

/// What `#[controller]` knows of a controller.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no manifest",
    note = "put `#[controller(…)]`, with what it asks for, above `impl Controller for {Self}`"
)]
pub trait Controls {
    /// The manifest, as JSON.
    const MANIFEST: &'static [u8];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_names_the_contract_in_wit() {
        let wit = include_str!("../../wit/worlds.wit");
        assert_eq!(wit.lines().next(), Some(&*format!("package {WIT};")));
        assert!(wit.contains("world policy {"));
    }
}
