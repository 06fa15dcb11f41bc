//! `#[derive(Config)]`: a schema constant, and a reader that goes over the fields in their order.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Error, Expr, ExprLit, Fields, Lit, LitStr, Result, UnOp};

pub(crate) fn derive(input: &DeriveInput) -> Result<TokenStream> {
    if let Some(param) = input.generics.params.first() {
        return Err(Error::new_spanned(param, "a config has no parameters"));
    }
    let (schema, read) = match &input.data {
        Data::Struct(data) => object(input, &data.fields)?,
        Data::Enum(data) => choice(input, data)?,
        Data::Union(data) => {
            return Err(Error::new_spanned(
                data.union_token,
                "a config is a struct or an enum",
            ));
        }
    };
    let name = &input.ident;
    Ok(quote! {
        impl ::meshd_sdk::Config for #name {
            const SCHEMA: ::meshd_sdk::config::Schema = #schema;
            fn read(
                value: &::meshd_sdk::config::Value<'_>,
                errors: &mut ::meshd_sdk::config::Errors,
            ) -> ::core::option::Option<Self> {
                #read
            }
        }
    })
}

fn object(input: &DeriveInput, fields: &Fields) -> Result<(TokenStream, TokenStream)> {
    if let Fields::Unnamed(fields) = fields {
        return Err(Error::new_spanned(
            fields,
            "the fields of a config have names",
        ));
    }
    let (mut schema, mut reads, mut fills) = (Vec::new(), Vec::new(), Vec::new());
    for field in fields {
        let attr = Attr::of(&field.attrs)?;
        let (Some(ident), ty) = (&field.ident, &field.ty) else {
            continue;
        };
        if attr.skip {
            fills.push(quote!(#ident: ::core::default::Default::default()));
            continue;
        }
        let name = attr.name.unwrap_or_else(|| kebab(&ident.to_string()));
        let doc = doc(&field.attrs);
        let (absent, default) = match attr.default {
            None => (
                quote!(<#ty as ::meshd_sdk::Config>::ABSENT),
                quote!(::core::option::Option::None),
            ),
            Some(json) => (
                quote!(::meshd_sdk::config::Absent::Default(#json)),
                quote!(::core::option::Option::Some(#json)),
            ),
        };
        schema.push(quote!(::meshd_sdk::config::Field {
            name: #name,
            doc: #doc,
            schema: &<#ty as ::meshd_sdk::Config>::SCHEMA,
            absent: #absent,
        }));
        reads.push(quote!(let #ident = object.field::<#ty>(#name, #default, errors);));
        // All are read before the first that is missing ends it, so that all errors are told.
        fills.push(quote!(#ident: #ident?));
    }
    let (title, doc) = (input.ident.to_string(), doc(&input.attrs));
    let schema = quote!(::meshd_sdk::config::Schema::Object {
        title: #title,
        doc: #doc,
        fields: &[#(#schema),*],
    });
    let read = quote! {
        #[allow(unused_variables)]
        let object = ::meshd_sdk::config::Object::of(value, &Self::SCHEMA, errors)?;
        #(#reads)*
        ::core::option::Option::Some(Self { #(#fills),* })
    };
    Ok((schema, read))
}

fn choice(input: &DeriveInput, data: &syn::DataEnum) -> Result<(TokenStream, TokenStream)> {
    let (mut schema, mut arms) = (Vec::new(), Vec::new());
    for (at, variant) in data.variants.iter().enumerate() {
        let attr = Attr::of(&variant.attrs)?;
        let ident = &variant.ident;
        let name = attr.name.unwrap_or_else(|| kebab(&ident.to_string()));
        let doc = doc(&variant.attrs);
        let of = match &variant.fields {
            Fields::Unit => {
                arms.push(quote!(#at => ::core::option::Option::Some(Self::#ident),));
                quote!(::core::option::Option::None)
            }
            Fields::Unnamed(fields) if fields.unnamed.len() == 1 => {
                let ty = fields.unnamed.first().map(|field| &field.ty);
                arms.push(quote!(#at => errors
                    .within(#name, |errors| <#ty as ::meshd_sdk::Config>::read(of, errors))
                    .map(Self::#ident),));
                quote!(::core::option::Option::Some(&<#ty as ::meshd_sdk::Config>::SCHEMA))
            }
            other => {
                return Err(Error::new_spanned(
                    other,
                    "a variant of a config holds nothing, or one value: Deny(Rule)",
                ));
            }
        };
        schema.push(quote!(::meshd_sdk::config::Variant { name: #name, doc: #doc, of: #of }));
    }
    let (title, doc) = (input.ident.to_string(), doc(&input.attrs));
    let schema = quote!(::meshd_sdk::config::Schema::OneOf {
        title: #title,
        doc: #doc,
        variants: &[#(#schema),*],
    });
    let read = quote! {
        #[allow(unused_variables)]
        let (number, of) = ::meshd_sdk::config::variant(value, &Self::SCHEMA, errors)?;
        match number {
            #(#arms)*
            _ => ::core::option::Option::None,
        }
    };
    Ok((schema, read))
}

/// What `#[config(…)]` says.
#[derive(Default)]
struct Attr {
    /// As JSON.
    default: Option<String>,
    name: Option<String>,
    skip: bool,
}

impl Attr {
    fn of(attrs: &[syn::Attribute]) -> Result<Self> {
        let mut out = Self::default();
        for attr in attrs.iter().filter(|attr| attr.path().is_ident("config")) {
            attr.parse_nested_meta(|meta| {
                if meta.path.is_ident("default") {
                    let value: Expr = meta.value()?.parse()?;
                    out.default = Some(json(&value)?);
                } else if meta.path.is_ident("name") {
                    out.name = Some(meta.value()?.parse::<LitStr>()?.value());
                } else if meta.path.is_ident("skip") {
                    out.skip = true;
                } else {
                    return Err(
                        meta.error("`default = …`, `name = \"…\"` or `skip` is wanted here")
                    );
                }
                Ok(())
            })?;
        }
        Ok(out)
    }
}

/// A value as JSON.
fn json(value: &Expr) -> Result<String> {
    match value {
        Expr::Lit(ExprLit { lit, .. }) => match lit {
            Lit::Int(number) => return Ok(number.base10_digits().to_owned()),
            Lit::Bool(yes) => return Ok(yes.value.to_string()),
            Lit::Str(text) => return Ok(json_text(&text.value())),
            _ => {}
        },
        Expr::Unary(unary) if matches!(unary.op, UnOp::Neg(_)) => {
            return Ok(format!("-{}", json(&unary.expr)?));
        }
        // An empty object, which Rust takes for an empty block.
        Expr::Block(block) if block.block.stmts.is_empty() => return Ok("{}".to_owned()),
        Expr::Array(array) => {
            let values: Vec<String> = array.elems.iter().map(json).collect::<Result<_>>()?;
            return Ok(format!("[{}]", values.join(",")));
        }
        _ => {}
    }
    Err(Error::new_spanned(
        value,
        "a default is a value as in the config: a whole number, a text, true, false, {}, or a list of such",
    ))
}

fn json_text(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The doc comment: lines of a paragraph are joined, paragraphs stay apart.
fn doc(attrs: &[syn::Attribute]) -> String {
    let mut out = String::new();
    for attr in attrs.iter().filter(|attr| attr.path().is_ident("doc")) {
        let syn::Meta::NameValue(pair) = &attr.meta else {
            continue;
        };
        let Expr::Lit(ExprLit {
            lit: Lit::Str(line),
            ..
        }) = &pair.value
        else {
            continue;
        };
        let line = line.value();
        let line = line.trim();
        if line.is_empty() {
            out.push_str("\n\n");
        } else {
            if !out.is_empty() && !out.ends_with('\n') {
                out.push(' ');
            }
            out.push_str(line);
        }
    }
    out.trim().to_owned()
}

/// `src_port` and `SrcPort` are `src-port`.
fn kebab(ident: &str) -> String {
    let mut out = String::new();
    for c in ident.trim_start_matches("r#").chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.extend(if c == '_' {
            vec!['-']
        } else {
            c.to_lowercase().collect()
        });
    }
    out
}
