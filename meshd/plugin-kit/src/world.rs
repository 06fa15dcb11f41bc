//! The contract of `wit/`, for modules that do not carry it.

use anyhow::{Context, Result};
use wit_component::StringEncoding;
use wit_parser::{Resolve, SourceMap};

const FILES: [(&str, &str); 7] = [
    ("types.wit", include_str!("../../../wit/types.wit")),
    ("policy.wit", include_str!("../../../wit/policy.wit")),
    ("tracked.wit", include_str!("../../../wit/tracked.wit")),
    ("host.wit", include_str!("../../../wit/host.wit")),
    (
        "controller.wit",
        include_str!("../../../wit/controller.wit"),
    ),
    ("steering.wit", include_str!("../../../wit/steering.wit")),
    ("worlds.wit", include_str!("../../../wit/worlds.wit")),
];

/// Writes into a core module that it is for the world `policy`.
pub(crate) fn name(module: &mut Vec<u8>) -> Result<()> {
    let mut sources = SourceMap::default();
    for (name, text) in FILES {
        sources.push(name.as_ref(), text);
    }
    let group = sources
        .parse()
        .map_err(|(_, error)| anyhow::Error::msg(error.to_string()))
        .context("the contract does not parse: a mistake of this release")?;
    let mut resolve = Resolve::default();
    let package = resolve
        .push_group(group)
        .map_err(|error| anyhow::Error::msg(error.to_string()))?;
    let world = resolve.select_world(&[package], Some("policy"))?;
    wit_component::embed_component_metadata(module, &resolve, world, StringEncoding::UTF8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_of_this_release_parses_and_has_the_world() {
        let mut module = wasm_encoder::Module::new().finish();
        let before = module.len();
        name(&mut module).unwrap_or_else(|e| panic!("{e:#}"));
        assert!(module.len() > before + 1000);
    }
}
