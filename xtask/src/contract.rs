//! `docs/reference/wit.md`: the plugin contract as a page, made of `wit/` so that it cannot say anything else.
//!
//! ```text
//!   wit/*.wit --wit-parser--> worlds, interfaces, types, functions with their doc comments --> one page
//! ```
//!
//! Owns the page's shape. What an item means stands in `wit/`.

use crate::shell::root;
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::path::PathBuf;
use wit_parser::{
    Docs, Function, Handle, Interface, Resolve, Type, TypeDef, TypeDefKind, TypeId, World,
    WorldItem,
};

const HEAD: &str = "\
# The contract, item by item

<!-- Made by `cargo xtask wit`; a test compares. -->

What stands in [`wit/`](../../wit), and nothing else. How to use it: [the contract](../plugins/contract.md) for policies,
[controllers](../plugins/controllers.md), [steering](../plugins/steering.md).
";

fn file() -> PathBuf {
    root().join("docs/reference/wit.md")
}

/// Writes the page.
pub(crate) fn write() -> Result<()> {
    let file = file();
    std::fs::write(&file, page()?).with_context(|| format!("write {}", file.display()))
}

fn page() -> Result<String> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve
        .push_dir(root().join("wit"))
        .map_err(|error| anyhow::Error::msg(error.to_string()))
        .context("wit/ does not parse")?;
    let package = resolve
        .packages
        .get(package)
        .context("wit/ has no package")?;
    let mut out = format!("{HEAD}\nPackage `{}`.\n\n## Worlds\n\n", package.name);
    out += "| world | imports | exports | |\n|---|---|---|---|\n";
    for world in package.worlds.values() {
        let world = resolve.worlds.get(*world).context("a world is missing")?;
        world_row(&resolve, world, &mut out)?;
    }
    // In the order in which worlds name them.
    let mut told = Vec::new();
    for world in package.worlds.values() {
        let world = resolve.worlds.get(*world).context("a world is missing")?;
        for item in world.imports.values().chain(world.exports.values()) {
            if let WorldItem::Interface { id, .. } = item
                && !told.contains(id)
            {
                told.push(*id);
            }
        }
    }
    for id in told {
        let interface = resolve
            .interfaces
            .get(id)
            .context("an interface is missing")?;
        let name = interface.name.as_deref().unwrap_or_default();
        one(&resolve, name, interface, &mut out)?;
    }
    Ok(out)
}

fn world_row(resolve: &Resolve, world: &World, out: &mut String) -> Result<()> {
    let names = |items: &mut dyn Iterator<Item = &WorldItem>| {
        let name = |item: &WorldItem| match item {
            WorldItem::Interface { id, .. } => {
                let name = resolve.interfaces.get(*id)?.name.as_ref()?;
                Some(format!("[`{name}`](#{name})"))
            }
            WorldItem::Function(function) => Some(format!("`{}`", signature(resolve, function))),
            // Those that a function of it names.
            WorldItem::Type { .. } => None,
        };
        items.filter_map(name).collect::<Vec<_>>().join(", ")
    };
    let (imports, exports) = (
        names(&mut world.imports.values()),
        names(&mut world.exports.values()),
    );
    writeln!(
        out,
        "| `{}` | {imports} | {exports} | {} |",
        world.name,
        cell(&world.docs)
    )?;
    Ok(())
}

fn one(resolve: &Resolve, name: &str, interface: &Interface, out: &mut String) -> Result<()> {
    write!(out, "\n## {name}\n\n{}\n", text(&interface.docs))?;
    for (name, id) in &interface.types {
        let ty = type_of(resolve, *id)?;
        definition(resolve, name, ty, out)?;
        let methods = interface.functions.values();
        for function in methods.filter(|function| function.kind.resource() == Some(*id)) {
            call(resolve, function, out)?;
        }
    }
    let free = interface.functions.values();
    for function in free.filter(|function| function.kind.resource().is_none()) {
        call(resolve, function, out)?;
    }
    Ok(())
}

fn call(resolve: &Resolve, function: &Function, out: &mut String) -> Result<()> {
    let (signature, docs) = (signature(resolve, function), text(&function.docs));
    write!(
        out,
        "\n### {}\n\n```wit\n{signature}\n```\n\n{docs}\n",
        function.item_name()
    )?;
    Ok(())
}

fn definition(resolve: &Resolve, name: &str, ty: &TypeDef, out: &mut String) -> Result<()> {
    let row = |name: &str, ty: Option<&Type>, docs: &Docs| {
        let ty = ty.map_or(String::new(), |ty| format!("`{}`", spell(resolve, ty)));
        format!("| `{name}` | {ty} | {} |\n", cell(docs))
    };
    let plain = |name: &str, docs: &Docs| format!("| `{name}` | {} |\n", cell(docs));
    let (kind, rows, typed): (String, String, bool) = match &ty.kind {
        TypeDefKind::Record(record) => {
            let fields = record.fields.iter();
            let rows = fields.map(|field| row(&field.name, Some(&field.ty), &field.docs));
            ("record".to_owned(), rows.collect(), true)
        }
        TypeDefKind::Variant(variant) => {
            let cases = variant.cases.iter();
            let rows = cases.map(|case| row(&case.name, case.ty.as_ref(), &case.docs));
            ("variant".to_owned(), rows.collect(), true)
        }
        TypeDefKind::Enum(all) => {
            let rows = all.cases.iter().map(|case| plain(&case.name, &case.docs));
            ("enum".to_owned(), rows.collect(), false)
        }
        TypeDefKind::Flags(flags) => {
            let rows = flags.flags.iter().map(|flag| plain(&flag.name, &flag.docs));
            ("flags".to_owned(), rows.collect(), false)
        }
        TypeDefKind::Resource => ("resource".to_owned(), String::new(), false),
        // Taken over from another interface, where it is described.
        TypeDefKind::Type(Type::Id(_)) => return Ok(()),
        other => (
            format!("= {}", spell_kind(resolve, other)),
            String::new(),
            false,
        ),
    };
    write!(out, "\n### {name}\n\n`{kind}`. {}\n", text(&ty.docs))?;
    if !rows.is_empty() {
        out.push_str(match typed {
            true => "\n| | type | |\n|---|---|---|\n",
            false => "\n| | |\n|---|---|\n",
        });
        out.push_str(&rows);
    }
    Ok(())
}

fn signature(resolve: &Resolve, function: &Function) -> String {
    let params = function.params.iter();
    let params: Vec<String> = params
        .filter(|param| param.name != "self")
        .map(|param| format!("{}: {}", param.name, spell(resolve, &param.ty)))
        .collect();
    let result = function.result.as_ref();
    let result = result.map_or(String::new(), |ty| format!(" -> {}", spell(resolve, ty)));
    format!(
        "{}: func({}){result}",
        function.item_name(),
        params.join(", ")
    )
}

fn type_of(resolve: &Resolve, id: TypeId) -> Result<&TypeDef> {
    resolve.types.get(id).context("a type is missing")
}

/// As WIT has it.
fn spell(resolve: &Resolve, ty: &Type) -> String {
    let Type::Id(id) = ty else {
        return format!("{ty:?}").to_lowercase();
    };
    match resolve.types.get(*id) {
        Some(TypeDef {
            name: Some(name), ..
        }) => name.clone(),
        Some(ty) => spell_kind(resolve, &ty.kind),
        None => "?".to_owned(),
    }
}

fn spell_kind(resolve: &Resolve, kind: &TypeDefKind) -> String {
    let spell = |ty: &Type| spell(resolve, ty);
    match kind {
        TypeDefKind::List(ty) => format!("list<{}>", spell(ty)),
        TypeDefKind::Option(ty) => format!("option<{}>", spell(ty)),
        TypeDefKind::Result(result) => {
            let or = |ty: &Option<Type>| ty.as_ref().map_or("_".to_owned(), spell);
            format!("result<{}, {}>", or(&result.ok), or(&result.err))
        }
        TypeDefKind::Tuple(tuple) => {
            let types: Vec<String> = tuple.types.iter().map(spell).collect();
            format!("tuple<{}>", types.join(", "))
        }
        TypeDefKind::Handle(Handle::Borrow(id)) => format!("borrow<{}>", spell(&Type::Id(*id))),
        TypeDefKind::Handle(Handle::Own(id)) => spell(&Type::Id(*id)),
        TypeDefKind::Type(ty) => spell(ty),
        other => other.as_str().to_owned(),
    }
}

fn text(docs: &Docs) -> &str {
    docs.contents.as_deref().unwrap_or_default().trim()
}

/// In one line of a table.
fn cell(docs: &Docs) -> String {
    text(docs).replace('\n', " ").replace('|', "\\|")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_each_item_with_its_words() {
        let page = page().unwrap();
        for wanted in [
            "| `policy-tracked` | ",
            "\n## types\n",
            "\n### flow-key\n",
            "| `src-mac` | `mac` | Source. |",
            "set: func(of: scope, key: string, value: list<u8>, expect: option<u64>, ttl-ms: u32) -> result<u64, kv-error>",
            "| `syn` | Synchronise sequence numbers: the first segment each way. |",
        ] {
            assert!(page.contains(wanted), "{wanted}");
        }
    }

    #[test]
    fn the_reference_page_is_current() {
        let there = std::fs::read_to_string(file()).unwrap();
        assert!(
            there == page().unwrap(),
            "docs/reference/wit.md is not what wit/ says: run `cargo xtask wit`"
        );
    }
}
