//! `#[controller]`: writes down what a controller asks for, and the component's exports.
//!
//! ```text
//!   #[controller(timers, kv(bytes = 65536))]  -->  "capabilities":{"timers":{},"kv":{"node-bytes":65536}}
//! ```

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::Parser;
use syn::{Error, ExprArray, ItemImpl, LitInt, LitStr, Result};

/// Those without figures.
const PLAIN: [&str; 6] = ["log", "metrics", "clock", "random", "timers", "topology"];
/// Those with some: as it is written in Rust, as the manifest calls it, its figures in both.
type Counted = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);
const COUNTED: [Counted; 3] = [
    (
        "kv",
        "kv",
        &[("bytes", "node-bytes"), ("mesh_bytes", "mesh-bytes")],
    ),
    ("flows", "flows", &[("rules", "max-rules")]),
    ("packet_out", "packet-out", &[("pps", "pps")]),
];

pub(crate) fn expand(args: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let capabilities = capabilities(args)?;
    let item: ItemImpl = syn::parse2(item)?;
    let controller = &item.self_ty;
    let is_controller = item
        .trait_
        .as_ref()
        .and_then(|(_, path, _)| path.segments.last())
        .is_some_and(|last| last.ident == "Controller");
    if !is_controller {
        return Err(Error::new_spanned(
            controller,
            "#[controller] stands above `impl Controller for …`",
        ));
    }
    Ok(quote! {
        #item
        impl ::meshd_sdk::manifest::Controls for #controller {
            const MANIFEST: &'static [u8] = {
                const MANIFEST: ::meshd_sdk::manifest::Manifest = ::meshd_sdk::manifest::Manifest {
                    name: ::core::env!("CARGO_PKG_NAME"),
                    version: ::core::env!("CARGO_PKG_VERSION"),
                    description: ::core::env!("CARGO_PKG_DESCRIPTION"),
                    world: "controller",
                    stage: ::core::option::Option::None,
                    fail: ::core::option::Option::None,
                    rules: 0,
                    reasons: &[],
                    schema: <<#controller as ::meshd_sdk::Controller>::Config as ::meshd_sdk::Config>::SCHEMA,
                    capabilities: ::core::option::Option::Some(#capabilities),
                };
                const JSON: [u8; MANIFEST.len()] = MANIFEST.json();
                &JSON
            };
        }
        ::meshd_sdk::__export_controller!(#controller);
    })
}

/// As JSON.
fn capabilities(args: TokenStream) -> Result<String> {
    let mut all: Vec<String> = Vec::new();
    syn::meta::parser(|meta| {
        let Some(name) = meta.path.get_ident().map(ToString::to_string) else {
            return Err(meta.error(wanted()));
        };
        if PLAIN.contains(&name.as_str()) {
            all.push(format!("\"{name}\":{{}}"));
            return Ok(());
        }
        if let Some((_, name, figures)) = COUNTED.iter().find(|(rust, ..)| *rust == name) {
            let mut json: Vec<String> = Vec::new();
            if meta.input.peek(syn::token::Paren) {
                meta.parse_nested_meta(|inner| {
                    let known = figures.iter().find(|(rust, _)| inner.path.is_ident(rust));
                    let Some((_, key)) = known else {
                        let all: Vec<String> = figures
                            .iter()
                            .map(|(rust, _)| format!("`{rust} = …`"))
                            .collect();
                        return Err(inner.error(format!("{} is wanted here", all.join(" or "))));
                    };
                    let value: u32 = inner.value()?.parse::<LitInt>()?.base10_parse()?;
                    json.push(format!("\"{key}\":{value}"));
                    Ok(())
                })?;
            }
            all.push(format!("\"{name}\":{{{}}}", json.join(",")));
            return Ok(());
        }
        if name == "http" {
            let mut hosts = Vec::new();
            meta.parse_nested_meta(|inner| {
                if !inner.path.is_ident("hosts") {
                    return Err(inner.error("`hosts = [\"…\"]` is wanted here"));
                }
                for host in inner.value()?.parse::<ExprArray>()?.elems {
                    let host: LitStr = syn::parse2(quote!(#host))?;
                    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-:".contains(&b);
                    if host.value().is_empty() || !host.value().bytes().all(plain) {
                        return Err(Error::new_spanned(
                            host,
                            "a host is wanted here: \"api.example.org\" or \"10.0.0.1:8080\"",
                        ));
                    }
                    hosts.push(format!("\"{}\"", host.value()));
                }
                Ok(())
            })?;
            all.push(format!("\"http\":{{\"hosts\":[{}]}}", hosts.join(",")));
            return Ok(());
        }
        Err(meta.error(wanted()))
    })
    .parse2(args)?;
    Ok(format!("{{{}}}", all.join(",")))
}

fn wanted() -> String {
    let counted = COUNTED.iter().map(|(name, ..)| *name);
    let all: Vec<&str> = PLAIN.into_iter().chain(counted).chain(["http"]).collect();
    format!("one of these is wanted here: {}", all.join(", "))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_a_controller_asks_for_is_written_as_the_manifest_has_it() {
        let all = quote!(
            log,
            timers,
            kv(bytes = 65536, mesh_bytes = 4096),
            flows,
            packet_out(pps = 5),
            http(hosts = ["a.b", "10.0.0.1:80"])
        );
        assert_eq!(
            capabilities(all).unwrap(),
            r#"{"log":{},"timers":{},"kv":{"node-bytes":65536,"mesh-bytes":4096},"flows":{},"packet-out":{"pps":5},"http":{"hosts":["a.b","10.0.0.1:80"]}}"#
        );
        assert_eq!(capabilities(quote!()).unwrap(), "{}");
        for wrong in [
            quote!(files),
            quote!(kv(size = 1)),
            quote!(http(hosts = ["a/b"])),
        ] {
            assert!(capabilities(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
