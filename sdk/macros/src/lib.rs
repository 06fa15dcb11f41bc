//! `#[derive(Config)]`, `#[policy]`, `#[controller]` and `#[steering]`. Use them through `meshd_sdk`, whose types they write.
//!
//! Owns what the attributes may say, and refuses the rest where it stands. What the written code means is `meshd-sdk`'s.

mod config;
mod controller;
mod policy;
mod steering;

use proc_macro::TokenStream;

/// Reads a struct or an enum from a config, and describes it by a schema; see `meshd_sdk::Config`.
///
/// `#[config(default = …)]` gives a JSON value to a field that is absent: a number, a text, `true`, `false` or a list of
/// such. `#[config(name = "…")]` names a field or variant otherwise than its Rust name with `-` for `_`.
/// `#[config(skip)]` leaves a field out of the config.
#[proc_macro_derive(Config, attributes(config))]
pub fn derive_config(input: TokenStream) -> TokenStream {
    let input = syn::parse_macro_input!(input as syn::DeriveInput);
    config::derive(&input)
        .unwrap_or_else(|e| e.to_compile_error())
        .into()
}

/// Stands above `impl Policy for …` and makes it the crate's component, with its manifest.
///
/// `stage` is where in a chain it belongs: `guard`, `classify`, `forward` or `observe`. `fail` is what holds while it cannot
/// answer: `closed` drops, `open` leaves the frame to the next plugin, `last-good` goes on with the answers that are kept;
/// without it, `closed` for the first two stages and `open` for the others. `rules` is the greatest number of a rule, for
/// policies that drop by number.
#[proc_macro_attribute]
pub fn policy(args: TokenStream, item: TokenStream) -> TokenStream {
    policy::expand(args.into(), item.into())
        .unwrap_or_else(|e| e.to_compile_error())
        .into()
}

/// Stands above `impl Controller for …` and makes it the crate's controller component, with its manifest.
///
/// In the brackets stands what it asks an operator for: `log`, `metrics`, `clock`, `random`, `timers`, `topology`,
/// `kv(bytes = 65536)`, `flows(rules = 64)`, `packet_out(pps = 100)`, `http(hosts = ["api.example.org"])`; the figures may be left
/// out, but for hosts.
#[proc_macro_attribute]
pub fn controller(args: TokenStream, item: TokenStream) -> TokenStream {
    controller::expand(args.into(), item.into())
        .unwrap_or_else(|e| e.to_compile_error())
        .into()
}

/// Stands above `impl Steering for …` and makes it the crate's component, with its manifest.
#[proc_macro_attribute]
pub fn steering(args: TokenStream, item: TokenStream) -> TokenStream {
    steering::expand(args.into(), item.into())
        .unwrap_or_else(|e| e.to_compile_error())
        .into()
}
