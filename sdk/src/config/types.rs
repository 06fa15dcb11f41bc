//! Types that configs are made of.

use super::{Absent, Config, Errors, Schema, Value};
use crate::{Mac, Net};
use core::str::FromStr;
use std::collections::BTreeMap;
use std::net::IpAddr;

impl Config for bool {
    const SCHEMA: Schema = Schema::Bool;
    fn read(value: &Value<'_>, errors: &mut Errors) -> Option<Self> {
        if let Value::Bool(yes) = value {
            return Some(*yes);
        }
        errors.wanted("true or false", value);
        None
    }
}

macro_rules! integers {
    ($($ty:ty)*) => { $(impl Config for $ty {
        const SCHEMA: Schema = Schema::Integer { min: <$ty>::MIN as i128, max: <$ty>::MAX as i128 };
        fn read(value: &Value<'_>, errors: &mut Errors) -> Option<Self> {
            let Value::Number(text) = value else {
                integer_wanted(&Self::SCHEMA, value, errors);
                return None;
            };
            let read = text.parse().ok();
            if read.is_none() {
                integer_wanted(&Self::SCHEMA, value, errors);
            }
            read
        }
    })* };
}
integers!(u8 u16 u32 u64 i8 i16 i32 i64);

fn integer_wanted(schema: &Schema, got: &Value<'_>, errors: &mut Errors) {
    if let Schema::Integer { min, max } = schema {
        errors.wanted(&format!("a whole number from {min} to {max}"), got);
    }
}

impl Config for String {
    const SCHEMA: Schema = Schema::Text { doc: "" };
    fn read(value: &Value<'_>, errors: &mut Errors) -> Option<Self> {
        let text = value.text();
        if text.is_none() {
            errors.wanted("a text", value);
        }
        text.map(str::to_owned)
    }
}

/// Reads a type that has a text form.
fn from_text<T: FromStr>(value: &Value<'_>, wanted: &str, errors: &mut Errors) -> Option<T> {
    let read = value.text().and_then(|text| text.parse().ok());
    if read.is_none() {
        errors.wanted(wanted, value);
    }
    read
}

impl Config for Net {
    const SCHEMA: Schema = Schema::Text {
        doc: "A range of addresses, such as 10.0.0.0/24, fd00::/8 or 10.0.0.7.",
    };
    fn read(value: &Value<'_>, errors: &mut Errors) -> Option<Self> {
        // Its own error says more, of a slip in the length for example.
        match value.text().map(str::parse) {
            Some(Ok(net)) => return Some(net),
            Some(Err(error)) => errors.add(crate::net::ParseNetError::to_string(&error)),
            None => errors.wanted("a range of addresses, such as \"10.0.0.0/24\",", value),
        }
        None
    }
}

impl Config for Mac {
    const SCHEMA: Schema = Schema::Text {
        doc: "A MAC address, such as 02:00:00:00:00:01.",
    };
    fn read(value: &Value<'_>, errors: &mut Errors) -> Option<Self> {
        from_text(
            value,
            "a MAC address, such as \"02:00:00:00:00:01\",",
            errors,
        )
    }
}

impl Config for IpAddr {
    const SCHEMA: Schema = Schema::Text {
        doc: "An IP address.",
    };
    fn read(value: &Value<'_>, errors: &mut Errors) -> Option<Self> {
        from_text(
            value,
            "an IP address, such as \"10.0.0.1\" or \"fd00::1\",",
            errors,
        )
    }
}

impl<T: Config> Config for Option<T> {
    const SCHEMA: Schema = T::SCHEMA;
    const ABSENT: Absent = Absent::Nothing;
    fn read(value: &Value<'_>, errors: &mut Errors) -> Option<Self> {
        T::read(value, errors).map(Some)
    }
    fn absent() -> Option<Self> {
        Some(None)
    }
}

impl<T: Config> Config for Vec<T> {
    const SCHEMA: Schema = Schema::List(&T::SCHEMA);
    fn read(value: &Value<'_>, errors: &mut Errors) -> Option<Self> {
        let Value::List(values) = value else {
            errors.wanted("a list", value);
            return None;
        };
        let read: Vec<T> = values
            .iter()
            .enumerate()
            .filter_map(|(at, value)| errors.within(&at.to_string(), |e| T::read(value, e)))
            .collect();
        (read.len() == values.len()).then_some(read)
    }
}

impl<T: Config> Config for BTreeMap<String, T> {
    const SCHEMA: Schema = Schema::Map(&T::SCHEMA);
    fn read(value: &Value<'_>, errors: &mut Errors) -> Option<Self> {
        let Value::Object(fields) = value else {
            errors.wanted("an object, such as {},", value);
            return None;
        };
        let read: Self = fields
            .iter()
            .filter_map(|(name, value)| {
                errors
                    .within(name, |e| T::read(value, e))
                    .map(|read| (name.to_string(), read))
            })
            .collect();
        (read.len() == fields.len()).then_some(read)
    }
}
