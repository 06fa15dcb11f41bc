//! A policy's config: what may be in it, how it is read, and what is wrong with one, all of it at once.
//!
//! ```text
//!   text --json--> Value --Config::read--> the policy's fields
//!                              |               Errors: (JSON pointer, message) of everything that is wrong
//!                          Config::SCHEMA --> manifest
//! ```
//!
//! Owns the rules by which Rust types are read from JSON; `#[derive(Config)]` follows them. Refuses unknown fields.

mod json;
mod schema;
mod types;

pub use json::Value;
pub use schema::{Absent, Field, Schema, Variant};

/// More than a host shows.
const MAX_ERRORS: usize = 16;

/// One thing that is wrong in a config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// JSON pointer to the place (RFC 6901), such as `/rules/2/port`; empty: the whole.
    pub pointer: String,
    /// What is wrong there, and what would be right.
    pub message: String,
}

impl ConfigError {
    /// `message` about the place `pointer`.
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            pointer: pointer.into(),
            message: message.into(),
        }
    }
}

/// What can be read from a config. Derive it for structs and enums:
///
/// ```
/// # use meshd_sdk::prelude::*;
/// /// Doc comments go into the schema.
/// #[derive(Config)]
/// struct Example {
///     /// Must be there.
///     port: u16,
///     /// Need not be; the value is JSON.
///     #[config(default = "10.0.0.0/8")]
///     inside: Net,
///     /// Need not be.
///     src_port: Option<u16>, // called `src-port` in the config
///     #[config(default = [], name = "do")]
///     what: Vec<What>,
///     /// Not of the config: `Default::default()`, for `check` to fill.
///     #[config(skip)]
///     prepared: u32,
/// }
///
/// #[derive(Config)]
/// enum What {
///     LetPass,   // "let-pass"
///     Deny(Net), // {"deny": "10.0.0.0/24"}
/// }
/// ```
///
/// There are implementations for `bool`, integers, `String`, `Vec`, `Option`, `BTreeMap<String, _>`, [`crate::Net`],
/// [`crate::Mac`] and `IpAddr`; not for floating point, which a decision has no use for.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read from a config",
    note = "put `#[derive(Config)]` above it"
)]
pub trait Config: Sized {
    /// What may be in it.
    const SCHEMA: Schema;
    /// What a field of this type is if it is absent and has no default.
    const ABSENT: Absent = Absent::Refused;

    /// Reads it. `None`: something is wrong, and `errors` has it.
    fn read(value: &Value<'_>, errors: &mut Errors) -> Option<Self>;

    /// For fields that are absent and have no default; `None`: they must not be.
    fn absent() -> Option<Self> {
        None
    }
}

/// Reads a config from JSON.
///
/// # Errors
/// Everything that is wrong in it.
pub fn from_json<C: Config>(text: &str) -> Result<C, Vec<ConfigError>> {
    let value = json::parse(text).map_err(|e| vec![ConfigError::new("", e)])?;
    let mut errors = Errors::default();
    let read = C::read(&value, &mut errors);
    match read {
        Some(read) if errors.found.is_empty() => Ok(read),
        _ => Err(errors.found),
    }
}

/// Collects what is wrong, and knows where.
#[derive(Debug, Default)]
pub struct Errors {
    at: String,
    found: Vec<ConfigError>,
}

impl Errors {
    /// Something is wrong here.
    pub fn add(&mut self, message: impl Into<String>) {
        if self.found.len() < MAX_ERRORS {
            self.found.push(ConfigError::new(self.at.clone(), message));
        }
    }

    /// A value of another kind is wanted here, such as `"a port up to 65535"`.
    pub fn wanted(&mut self, wanted: &str, got: &Value<'_>) {
        let got = match got {
            // Long ones are known by their place.
            Value::Text(text) if text.len() <= 60 => format!("the text {text:?}"),
            Value::Number(text) if text.len() <= 60 => (*text).to_owned(),
            Value::Bool(yes) => yes.to_string(),
            other => other.kind().to_owned(),
        };
        self.add(format!("{wanted} is wanted, and this is {got}"));
    }

    /// Goes to a member of this place, by name or number.
    pub fn within<T>(&mut self, name: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        let len = self.at.len();
        self.at.push('/');
        for c in name.chars() {
            match c {
                '~' => self.at.push_str("~0"),
                '/' => self.at.push_str("~1"),
                c => self.at.push(c),
            }
        }
        let read = read(self);
        self.at.truncate(len);
        read
    }
}

/// An object whose fields are taken one by one: what `#[derive(Config)]` reads a struct with.
pub struct Object<'v> {
    fields: &'v [(std::borrow::Cow<'v, str>, Value<'v>)],
}

impl<'v> Object<'v> {
    /// If it is one, and holds nothing but fields of `schema`.
    pub fn of(value: &'v Value<'v>, schema: &Schema, errors: &mut Errors) -> Option<Self> {
        let Value::Object(fields) = value else {
            errors.wanted("an object, such as {},", value);
            return None;
        };
        let Schema::Object { fields: known, .. } = schema else {
            return None;
        };
        for (name, _) in fields {
            if !known.iter().any(|field| field.name == name) {
                errors.within(name, |errors| errors.add(no_such_field(known)));
            }
        }
        Some(Self { fields })
    }

    /// The value of a field, or else its default, or else nothing if that will do.
    pub fn field<T: Config>(
        &self,
        name: &str,
        default: Option<&'static str>,
        errors: &mut Errors,
    ) -> Option<T> {
        let value = self.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v);
        match (value, default) {
            (Some(value), _) => errors.within(name, |errors| T::read(value, errors)),
            (None, Some(json)) => errors.within(name, |errors| {
                let value = json::parse(json).map_err(|e| errors.add(e)).ok()?;
                T::read(&value, errors)
            }),
            (None, None) => {
                let absent = T::absent();
                if absent.is_none() {
                    errors.add(format!("the field {name:?} is missing"));
                }
                absent
            }
        }
    }
}

fn no_such_field(known: &[Field]) -> String {
    let mut names = String::new();
    for field in known {
        names.push_str(if names.is_empty() { "" } else { ", " });
        names.push_str(field.name);
    }
    if names.is_empty() {
        names.push_str("none");
    }
    format!("there is no such field; there are: {names}")
}

/// The variant that a value is, by its number, and what is in it: what `#[derive(Config)]` reads an enum with.
pub fn variant<'v>(
    value: &'v Value<'v>,
    schema: &Schema,
    errors: &mut Errors,
) -> Option<(usize, &'v Value<'v>)> {
    let Schema::OneOf { variants, .. } = schema else {
        return None;
    };
    let (name, of) = match value {
        Value::Text(name) => (name, None),
        Value::Object(fields) => match fields.as_slice() {
            [(name, of)] => (name, Some(of)),
            _ => (&std::borrow::Cow::Borrowed(""), None),
        },
        _ => (&std::borrow::Cow::Borrowed(""), None),
    };
    let found = variants
        .iter()
        .position(|v| v.name == name && v.of.is_some() == of.is_some());
    if found.is_none() {
        let mut wanted = String::new();
        for (at, v) in variants.iter().enumerate() {
            wanted.push_str(if at == 0 { "" } else { " or " });
            wanted.push_str(&match v.of {
                None => format!("{:?}", v.name),
                Some(_) => format!("{{{:?}: …}}", v.name),
            });
        }
        errors.wanted(&wanted, value);
    }
    Some((found?, of.unwrap_or(&Value::Null)))
}

#[cfg(test)]
mod tests;
