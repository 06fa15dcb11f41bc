//! `#[steering]`: writes the manifest and the component's exports.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Error, ItemImpl, Result};

pub(crate) fn expand(args: TokenStream, item: TokenStream) -> Result<TokenStream> {
    if !args.is_empty() {
        return Err(Error::new_spanned(
            args,
            "#[steering] takes no arguments: a steering plugin is in no chain, and when it fails its last choice holds",
        ));
    }
    let item: ItemImpl = syn::parse2(item)?;
    let plugin = &item.self_ty;
    let is_steering = item
        .trait_
        .as_ref()
        .and_then(|(_, path, _)| path.segments.last())
        .is_some_and(|last| last.ident == "Steering");
    if !is_steering {
        return Err(Error::new_spanned(
            plugin,
            "#[steering] stands above `impl Steering for …`",
        ));
    }
    Ok(quote! {
        #item
        impl ::meshd_sdk::steering::Described for #plugin {
            const MANIFEST: &'static [u8] = {
                const MANIFEST: ::meshd_sdk::manifest::Manifest = ::meshd_sdk::manifest::Manifest {
                    name: ::core::env!("CARGO_PKG_NAME"),
                    version: ::core::env!("CARGO_PKG_VERSION"),
                    description: ::core::env!("CARGO_PKG_DESCRIPTION"),
                    world: "steering",
                    stage: ::core::option::Option::None,
                    fail: ::core::option::Option::None,
                    rules: 0,
                    reasons: &[],
                    schema: <#plugin as ::meshd_sdk::Config>::SCHEMA,
                    capabilities: ::core::option::Option::None,
                };
                const JSON: [u8; MANIFEST.len()] = MANIFEST.json();
                &JSON
            };
        }
        ::meshd_sdk::__export_steering!(#plugin);
    })
}
