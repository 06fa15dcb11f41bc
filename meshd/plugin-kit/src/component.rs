//! A core module becomes a component: nothing imported but the key of the world `policy-tracked`, or what the world `controller`
//! has; the manifest on top, names of functions left out. A policy and its controller become one file.
//!
//! ```text
//!   module of the policy     --component--> component ----package----> component [meshd:controller = component]
//!   module of the controller --component--> component --/
//! ```
//!
//! A module that does not say which world it is for, as one that was written by hand against the canonical ABI, is for `policy`.
//! The manifest, which the SDK put into the module, goes to the component's top level, where a host finds it first. Names of
//! functions are left out, since no host prints a guest's backtrace; before that they tell who calls an import.

use crate::world;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use wasmparser::{Name, Operator, Parser, Payload};

/// The custom section with the manifest; docs/plugins/manifest.md has the format.
pub const MANIFEST: &str = "meshd:plugin";
/// The custom section with the controller of a package.
pub const CONTROLLER: &str = "meshd:controller";
/// The only module that a policy may import from: the key of the world `policy-tracked`.
const TRACKED_KEY: &str = "meshd:policy/tracked-key@";
/// What a controller may import from.
const CONTRACT: &str = "meshd:policy/";
/// What a controller exports; nothing else does.
const EVENTS: &str = "meshd:policy/events@";
/// Callers of an import that are named.
const CALLERS: usize = 3;

/// Makes a component of a core module without imports. `manifest` is JSON, for a module that brings none.
///
/// # Errors
/// If the module imports something, by the import's name and that of its callers; if it is for another world or none; if a
/// manifest is no JSON or there are two.
pub fn component(bytes: &[u8], manifest: Option<&[u8]>) -> Result<Vec<u8>> {
    let (mut module, own) = split(bytes)?;
    if !names_a_world(&module) {
        world::name(&mut module)?;
    }
    ensure!(
        own.is_none() || manifest.is_none(),
        "the module brings a manifest of its own; give no other"
    );
    let mut component = wit_component::ComponentEncoder::default()
        .validate(true)
        .module(&module)?
        .encode()?;
    if let Some(manifest) = own.as_deref().or(manifest) {
        let json: serde_json::Result<serde_json::Value> = serde_json::from_slice(manifest);
        json.with_context(|| format!("the manifest (section {MANIFEST}) is no JSON"))?;
        let section = wasm_encoder::CustomSection {
            name: MANIFEST.into(),
            data: manifest.into(),
        };
        wasm_encoder::ComponentSection::append_to_component(&section, &mut component);
    }
    Ok(component)
}

/// The policy's component with its controller's in it: one file.
#[must_use]
pub fn package(policy: &[u8], controller: &[u8]) -> Vec<u8> {
    let mut out = policy.to_vec();
    let section = wasm_encoder::CustomSection {
        name: CONTROLLER.into(),
        data: controller.into(),
    };
    wasm_encoder::ComponentSection::append_to_component(&section, &mut out);
    out
}

/// Does the core module export what the world `policy` or `policy-tracked` has?
///
/// # Errors
/// It is no core module.
pub fn decides(module: &[u8]) -> Result<bool> {
    exports(module, "meshd:policy/decide")
}

fn exports(module: &[u8], prefix: &str) -> Result<bool> {
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::ExportSection(exports) = payload? {
            for export in exports {
                if export?.name.starts_with(prefix) {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

/// The manifest that a core module brings, as it stands there.
///
/// # Errors
/// As [`component`].
pub fn module_manifest(bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    Ok(split(bytes)?.1)
}

/// The module without its manifest and the names of its functions, and the manifest.
fn split(bytes: &[u8]) -> Result<(Vec<u8>, Option<Vec<u8>>)> {
    let (mut module, mut manifest) = (wasm_encoder::Module::new(), None);
    let controls = exports(bytes, EVENTS)?;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        match &payload {
            Payload::Version { encoding, .. } => ensure!(
                *encoding == wasmparser::Encoding::Module,
                "it is a component already, and not a core module"
            ),
            Payload::ImportSection(imports) => {
                let mut function = 0;
                for import in imports.clone().into_imports() {
                    let import = import?;
                    let granted = controls && import.module.starts_with(CONTRACT);
                    if granted || import.module.starts_with(TRACKED_KEY) {
                        function += u32::from(matches!(import.ty, wasmparser::TypeRef::Func(_)));
                        continue;
                    }
                    bail!(
                        "it imports {}::{}, and a policy gets no imports.{} Look for a crate that wants a clock, files, randomness or JavaScript \
                         (`cargo tree --target wasm32-unknown-unknown`; wasm-bindgen and getrandom are the usual ones)",
                        import.module,
                        import.name,
                        match callers(bytes, function).unwrap_or_default() {
                            callers if callers.is_empty() => String::new(),
                            callers => format!(" It is called by {}.", callers.join(", ")),
                        }
                    );
                }
            }
            Payload::CustomSection(section) if section.name() == MANIFEST => {
                ensure!(
                    manifest.is_none(),
                    "it has two sections {MANIFEST}: one crate, one policy"
                );
                manifest = Some(section.data().to_vec());
                continue;
            }
            Payload::CustomSection(section) if section.name() == "name" => continue,
            _ => {}
        }
        if let Some((id, range)) = payload.as_section() {
            let data = bytes
                .get(range)
                .context("a section ends behind its module")?;
            module.section(&wasm_encoder::RawSection { id, data });
        }
    }
    Ok((module.finish(), manifest))
}

/// Binding generators write down the world in a section of this name and a suffix.
fn names_a_world(module: &[u8]) -> bool {
    let payloads = Parser::new(0).parse_all(module);
    payloads.flatten().any(|payload| {
        matches!(payload, Payload::CustomSection(section) if section.name().starts_with("component-type"))
    })
}

/// Functions that call the imported function of this number, by the names that the linker gave them.
fn callers(bytes: &[u8], function: u32) -> Result<Vec<String>> {
    let (mut calling, mut names) = (Vec::new(), BTreeMap::new());
    let (mut imported, mut at) = (0u32, 0u32);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    if let wasmparser::TypeRef::Func(_) = import?.ty {
                        imported += 1;
                    }
                }
            }
            Payload::CodeSectionEntry(body) => {
                for operator in body.get_operators_reader()? {
                    if matches!(operator?, Operator::Call { function_index } if function_index == function)
                    {
                        calling.push(imported + at);
                        break;
                    }
                }
                at += 1;
            }
            Payload::CustomSection(section) => {
                if let wasmparser::KnownCustom::Name(reader) = section.as_known() {
                    for name in reader {
                        if let Name::Function(map) = name? {
                            for naming in map {
                                let naming = naming?;
                                names.insert(naming.index, naming.name.to_owned());
                            }
                        }
                    }
                }
            }
            _ => {}
        }
    }
    if imported == 0 {
        return Ok(Vec::new());
    }
    let named = calling.iter().filter_map(|index| names.get(index).cloned());
    Ok(named.take(CALLERS).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use wasm_encoder::{
        CodeSection, CustomSection, EntityType, Function, FunctionSection, ImportSection, Module,
        NameMap, NameSection, TypeSection,
    };

    fn module(sections: &[(&str, &str)]) -> Vec<u8> {
        let mut module = Module::new();
        for (name, data) in sections {
            module.section(&CustomSection {
                name: (*name).into(),
                data: data.as_bytes().into(),
            });
        }
        module.finish()
    }

    /// `env::now`, and a function `clock::read` that calls it.
    fn importer() -> Vec<u8> {
        let mut module = Module::new();
        let mut types = TypeSection::new();
        types.ty().function([], []);
        let mut imports = ImportSection::new();
        imports.import("env", "now", EntityType::Function(0));
        let mut functions = FunctionSection::new();
        functions.function(0).function(0);
        let mut code = CodeSection::new();
        let mut idle = Function::new([]);
        idle.instructions().end();
        let mut reads = Function::new([]);
        reads.instructions().call(0).end();
        code.function(&idle).function(&reads);
        let mut map = NameMap::new();
        map.append(1, "idle");
        map.append(2, "clock::read");
        let mut names = NameSection::new();
        names.functions(&map);
        module
            .section(&types)
            .section(&imports)
            .section(&functions)
            .section(&code)
            .section(&names);
        module.finish()
    }

    #[test]
    fn the_manifest_leaves_the_module_and_other_sections_stay() {
        let all = [("a", "1"), (MANIFEST, "{}"), ("name", "x"), ("b", "2")];
        let (rest, manifest) = split(&module(&all)).unwrap();
        assert_eq!(manifest.as_deref(), Some(b"{}".as_slice()));
        assert_eq!(rest, module(&[("a", "1"), ("b", "2")]));
        assert_eq!(split(&rest).unwrap(), (rest.clone(), None));
    }

    #[test]
    fn an_import_is_refused_with_its_name_and_that_of_its_caller() {
        let error = split(&importer()).unwrap_err().to_string();
        assert!(error.contains("it imports env::now"), "{error}");
        assert!(error.contains("called by clock::read."), "{error}");
    }

    #[test]
    fn a_second_manifest_and_a_component_are_refused() {
        let two = [(MANIFEST, "{}"), (MANIFEST, "{}")];
        let error = split(&module(&two)).unwrap_err().to_string();
        assert!(error.contains("two sections"), "{error}");
        let error = split(&wasm_encoder::Component::new().finish())
            .unwrap_err()
            .to_string();
        assert!(error.contains("a component already"), "{error}");
    }
}
