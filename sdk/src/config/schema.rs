//! What a config may hold, as a constant, and as JSON Schema (draft 2020-12).
//!
//! A tree of constants and not text, since the schema of a list is made from that of its elements, and constants of generic
//! types can be referred to but not joined.

use crate::emit::Writer;

/// Of one type of [`crate::Config`].
#[derive(Clone, Copy, Debug)]
pub enum Schema {
    /// `true` or `false`.
    Bool,
    /// A whole number from `min` to `max`.
    Integer {
        /// The least.
        min: i128,
        /// The greatest.
        max: i128,
    },
    /// A text.
    Text {
        /// What of; empty: anything.
        doc: &'static str,
    },
    /// Any number of values of one kind.
    List(&'static Schema),
    /// Values of one kind under names of the author's choice.
    Map(&'static Schema),
    /// Fields.
    Object {
        /// The type's name.
        title: &'static str,
        /// The type's doc comment.
        doc: &'static str,
        /// In their order.
        fields: &'static [Field],
    },
    /// One of these, told apart by its name.
    OneOf {
        /// The type's name.
        title: &'static str,
        /// The type's doc comment.
        doc: &'static str,
        /// In their order.
        variants: &'static [Variant],
    },
    /// One of these, told apart by its kind.
    AnyOf {
        /// What of.
        doc: &'static str,
        /// In their order.
        of: &'static [Schema],
    },
}

/// A field of [`Schema::Object`].
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// As in the config.
    pub name: &'static str,
    /// Its doc comment.
    pub doc: &'static str,
    /// What may be in it.
    pub schema: &'static Schema,
    /// What if it is absent.
    pub absent: Absent,
}

/// What holds if a field is absent.
#[derive(Clone, Copy, Debug)]
pub enum Absent {
    /// It must not be.
    Refused,
    /// Nothing is in it.
    Nothing,
    /// This, in JSON, is in it.
    Default(&'static str),
}

/// A variant of [`Schema::OneOf`]: `"name"`, or `{"name": …}` if something is in it.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// As in the config.
    pub name: &'static str,
    /// Its doc comment.
    pub doc: &'static str,
    /// What is in it.
    pub of: Option<&'static Schema>,
}

impl Schema {
    /// The schema of a whole config.
    pub(crate) const fn write<const N: usize>(&self, w: &mut Writer<N>) {
        w.raw("{\"$schema\":\"https://json-schema.org/draft/2020-12/schema\",");
        self.members(w, "");
        w.raw("}");
    }

    const fn nested<const N: usize>(&self, w: &mut Writer<N>) {
        w.raw("{");
        self.members(w, "");
        w.raw("}");
    }

    /// Without the braces, so that more can follow. `doc` of the place stands before that of the type.
    const fn members<const N: usize>(&self, w: &mut Writer<N>, doc: &str) {
        let own = match self {
            Self::Text { doc }
            | Self::Object { doc, .. }
            | Self::OneOf { doc, .. }
            | Self::AnyOf { doc, .. } => *doc,
            _ => "",
        };
        let doc = if doc.is_empty() { own } else { doc };
        if let Self::Object { title, .. } | Self::OneOf { title, .. } = self {
            w.name(true, "title");
            w.string(title);
            w.raw(",");
        }
        if !doc.is_empty() {
            w.name(true, "description");
            w.string(doc);
            w.raw(",");
        }
        match self {
            Self::Bool => w.raw("\"type\":\"boolean\""),
            Self::Integer { min, max } => {
                w.raw("\"type\":\"integer\",\"minimum\":");
                w.number(*min);
                w.raw(",\"maximum\":");
                w.number(*max);
            }
            Self::Text { .. } => w.raw("\"type\":\"string\""),
            Self::List(of) => {
                w.raw("\"type\":\"array\",\"items\":");
                of.nested(w);
            }
            Self::Map(of) => {
                w.raw("\"type\":\"object\",\"additionalProperties\":");
                of.nested(w);
            }
            Self::Object { fields, .. } => object(w, fields),
            Self::OneOf { variants, .. } => {
                w.raw("\"oneOf\":[");
                let mut at = 0;
                while at < variants.len() {
                    if at > 0 {
                        w.raw(",");
                    }
                    variant(w, &variants[at]);
                    at += 1;
                }
                w.raw("]");
            }
            Self::AnyOf { of, .. } => {
                w.raw("\"anyOf\":[");
                let mut at = 0;
                while at < of.len() {
                    if at > 0 {
                        w.raw(",");
                    }
                    of[at].nested(w);
                    at += 1;
                }
                w.raw("]");
            }
        }
    }
}

const fn object<const N: usize>(w: &mut Writer<N>, fields: &[Field]) {
    w.raw("\"type\":\"object\",\"properties\":{");
    let mut at = 0;
    while at < fields.len() {
        let field = &fields[at];
        w.name(at == 0, field.name);
        w.raw("{");
        field.schema.members(w, field.doc);
        if let Absent::Default(json) = field.absent {
            w.raw(",\"default\":");
            w.raw(json);
        }
        w.raw("}");
        at += 1;
    }
    w.raw("},\"required\":[");
    let (mut at, mut first) = (0, true);
    while at < fields.len() {
        if matches!(fields[at].absent, Absent::Refused) {
            if !first {
                w.raw(",");
            }
            w.string(fields[at].name);
            first = false;
        }
        at += 1;
    }
    w.raw("],\"additionalProperties\":false");
}

const fn variant<const N: usize>(w: &mut Writer<N>, variant: &Variant) {
    w.raw("{");
    if !variant.doc.is_empty() {
        w.name(true, "description");
        w.string(variant.doc);
        w.raw(",");
    }
    match variant.of {
        None => {
            w.raw("\"const\":");
            w.string(variant.name);
        }
        Some(of) => {
            w.raw("\"type\":\"object\",\"properties\":{");
            w.name(true, variant.name);
            of.nested(w);
            w.raw("},\"required\":[");
            w.string(variant.name);
            w.raw("],\"additionalProperties\":false");
        }
    }
    w.raw("}");
}
