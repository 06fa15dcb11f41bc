//! `#[policy]`: gives the names of reasons their codes, and writes the manifest and the component's exports.
//!
//! ```text
//!   drop("telnet")  -->  drop(Reason::interned(RULES + 1))      1, 2, … in the order of first appearance
//! ```
//!
//! The same for `reject`. Goes over tokens and not over expressions, so that a `drop` inside of another macro's arguments has its code too. A name
//! outside of the `impl` does not compile: nobody would know its code.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::parse::Parser;
use syn::{Error, Expr, ItemImpl, LitStr, Result};

const STAGES: [&str; 4] = ["guard", "classify", "forward", "observe"];
const FAILS: [&str; 3] = ["closed", "open", "last-good"];
/// Longer ones do not fit a line of a trace.
const NAME_MAX: usize = 48;

pub(crate) fn expand(args: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let args = Args::parse(args)?;
    let mut names = Vec::new();
    let item = intern(item, &mut names)?;
    let item: ItemImpl = syn::parse2(item)?;
    let policy = &item.self_ty;
    let is_policy = item
        .trait_
        .as_ref()
        .and_then(|(_, path, _)| path.segments.last())
        .is_some_and(|last| last.ident == "Policy");
    if !is_policy {
        return Err(Error::new_spanned(
            policy,
            "#[policy] stands above `impl Policy for …`",
        ));
    }
    let Args { stage, fail, rules } = args;
    Ok(quote! {
        #item
        impl ::meshd_sdk::manifest::Described for #policy {
            const RULES: u16 = #rules;
            const REASONS: &'static [&'static str] = &[#(#names),*];
            const MANIFEST: &'static [u8] = {
                const MANIFEST: ::meshd_sdk::manifest::Manifest = ::meshd_sdk::manifest::Manifest {
                    name: ::core::env!("CARGO_PKG_NAME"),
                    version: ::core::env!("CARGO_PKG_VERSION"),
                    description: ::core::env!("CARGO_PKG_DESCRIPTION"),
                    world: ::meshd_sdk::manifest::POLICY,
                    stage: ::core::option::Option::Some(#stage),
                    fail: ::core::option::Option::Some(#fail),
                    rules: <#policy as ::meshd_sdk::manifest::Described>::RULES,
                    reasons: <#policy as ::meshd_sdk::manifest::Described>::REASONS,
                    schema: <#policy as ::meshd_sdk::Config>::SCHEMA,
                    capabilities: ::core::option::Option::None,
                };
                const JSON: [u8; MANIFEST.len()] = MANIFEST.json();
                &JSON
            };
        }
        ::meshd_sdk::__export_policy!(#policy);
    })
}

/// What stands behind `#[policy`.
struct Args {
    stage: String,
    fail: String,
    rules: TokenStream,
}

impl Args {
    fn parse(args: TokenStream) -> Result<Self> {
        let (mut stage, mut fail, mut rules) = (None, None, None);
        let all = args.clone();
        syn::meta::parser(|meta| {
            if meta.path.is_ident("stage") {
                stage = Some(word(&meta.value()?.parse()?, &STAGES)?);
            } else if meta.path.is_ident("fail") {
                fail = Some(word(&meta.value()?.parse()?, &FAILS)?);
            } else if meta.path.is_ident("rules") {
                rules = Some(meta.value()?.parse::<Expr>()?.into_token_stream());
            } else {
                return Err(meta.error("`stage`, `fail` or `rules` is wanted here"));
            }
            Ok(())
        })
        .parse2(args)?;
        let Some(stage) = stage else {
            return Err(Error::new_spanned(
                all,
                "`stage = \"…\"` is missing: guard (refuses), classify (marks), forward (says where) or observe (copies)",
            ));
        };
        let default = match stage.as_str() {
            "guard" | "classify" => "closed",
            _ => "open",
        };
        Ok(Self {
            fail: fail.unwrap_or_else(|| default.to_owned()),
            stage,
            rules: rules.unwrap_or_else(|| quote!(0)),
        })
    }
}

fn word(text: &LitStr, of: &[&str]) -> Result<String> {
    let value = text.value();
    if of.contains(&value.as_str()) {
        Ok(value)
    } else {
        let message = format!("one of these is wanted here: {}", of.join(", "));
        Err(Error::new_spanned(text, message))
    }
}

/// Puts codes in place of names.
fn intern(tokens: TokenStream, names: &mut Vec<String>) -> Result<TokenStream> {
    let mut out = TokenStream::new();
    let mut behind_drop = false;
    for token in tokens {
        let token = match token {
            TokenTree::Group(group) => {
                let name = (behind_drop && group.delimiter() == Delimiter::Parenthesis)
                    .then(|| syn::parse2::<LitStr>(group.stream()).ok())
                    .flatten();
                let inner = match name {
                    Some(name) => code(&name, names)?,
                    None => intern(group.stream(), names)?,
                };
                let mut new = Group::new(group.delimiter(), inner);
                new.set_span(group.span());
                behind_drop = false;
                TokenTree::Group(new)
            }
            other => {
                behind_drop = matches!(&other, TokenTree::Ident(ident) if ident == "drop" || ident == "reject");
                other
            }
        };
        out.extend([token]);
    }
    Ok(out)
}

fn code(name: &LitStr, names: &mut Vec<String>) -> Result<TokenStream> {
    let text = name.value();
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if text.is_empty() || text.len() > NAME_MAX || !text.chars().all(fits) {
        let message = format!(
            "the name of a reason is made of a to z, 0 to 9 and hyphens, at most {NAME_MAX} of them"
        );
        return Err(Error::new_spanned(name, message));
    }
    let at = names.iter().position(|n| *n == text).unwrap_or_else(|| {
        names.push(text);
        names.len() - 1
    });
    let number = u16::try_from(at + 1)
        .map_err(|_| Error::new_spanned(name, "there are more reasons than codes"))?;
    Ok(quote! {
        ::meshd_sdk::Reason::interned(<Self as ::meshd_sdk::manifest::Described>::RULES + #number)
    })
}
