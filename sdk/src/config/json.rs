//! JSON (RFC 8259) as far as configs need it: numbers are whole, names occur once, nesting ends.
//!
//! Own, and not serde's: a policy's component has a reader of 10 KB this way and one of 50 KB that way, and a reader with a
//! tree in hand can tell all that is wrong in a config at once. Work is bounded by the text's length, recursion by
//! [`DEPTH`].

use std::borrow::Cow;
use std::collections::BinaryHeap;

/// Lists and objects in each other.
const DEPTH: u32 = 32;

/// A value with the text that it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A number as it is written.
    Number(&'a str),
    /// `"…"`
    Text(Cow<'a, str>),
    /// `[…]`
    List(Vec<Value<'a>>),
    /// `{…}`; no name occurs twice.
    Object(Vec<(Cow<'a, str>, Value<'a>)>),
}

impl Value<'_> {
    /// What it is, for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }

    /// The text, if it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number, if it is one.
    #[must_use]
    pub fn whole(&self) -> Option<i64> {
        match self {
            Self::Number(text) => text.parse().ok(),
            _ => None,
        }
    }
}

/// Reads a whole text.
///
/// # Errors
/// What is wrong, with line and column.
pub(crate) fn parse(text: &str) -> Result<Value<'_>, String> {
    let mut reader = Reader { text, at: 0 };
    let value = reader.value(0).and_then(|value| {
        reader.blanks();
        if reader.at == text.len() {
            Ok(value)
        } else {
            Err("something follows behind the end of the config")
        }
    });
    value.map_err(|what| reader.place(what))
}

struct Reader<'a> {
    text: &'a str,
    /// A character's first byte.
    at: usize,
}

type Read<T> = Result<T, &'static str>;

const ENDS: &str = "the text ends in the middle";

impl<'a> Reader<'a> {
    fn place(&self, what: &str) -> String {
        let before = self.text.get(..self.at).unwrap_or(self.text);
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        let last = before.rsplit('\n').next().unwrap_or_default();
        let column = last.chars().count() + 1;
        format!("this is not JSON: {what} (line {line}, column {column})")
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn word(&mut self, word: &str, value: Value<'a>) -> Read<Value<'a>> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        if rest.starts_with(word) {
            self.at += word.len();
            Ok(value)
        } else {
            Err("a value is wanted here; texts stand in quotes")
        }
    }

    fn value(&mut self, depth: u32) -> Read<Value<'a>> {
        if depth > DEPTH {
            return Err("lists and objects are nested too deep");
        }
        self.blanks();
        match self.peek() {
            None => Err(ENDS),
            Some(b'n') => self.word("null", Value::Null),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'"') => self.string().map(Value::Text),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'[') => self.list(depth),
            Some(b'{') => self.object(depth),
            Some(_) => self.word("?", Value::Null),
        }
    }

    fn list(&mut self, depth: u32) -> Read<Value<'a>> {
        self.at += 1;
        let mut out = Vec::new();
        self.blanks();
        if self.take(b']') {
            return Ok(Value::List(out));
        }
        loop {
            out.push(self.value(depth + 1)?);
            self.blanks();
            if self.take(b']') {
                return Ok(Value::List(out));
            }
            self.comma("`,` or `]` is wanted here")?;
        }
    }

    fn object(&mut self, depth: u32) -> Read<Value<'a>> {
        self.at += 1;
        let mut out: Vec<(Cow<'a, str>, Value<'a>)> = Vec::new();
        self.blanks();
        if self.take(b'}') {
            return Ok(Value::Object(out));
        }
        loop {
            self.blanks();
            match self.peek() {
                Some(b'"') => {}
                Some(_) => return Err("a name in quotes is wanted here"),
                None => return Err(ENDS),
            }
            let name = self.string()?;
            self.blanks();
            if !self.take(b':') {
                return Err("`:` is wanted here");
            }
            let value = self.value(depth + 1)?;
            out.push((name, value));
            self.blanks();
            if self.take(b'}') {
                break;
            }
            self.comma("`,` or `}` is wanted here")?;
        }
        // A heap: quick enough for any config, and a tenth of the code of a sort.
        let mut names: BinaryHeap<&str> = out.iter().map(|(name, _)| &**name).collect();
        while let Some(name) = names.pop() {
            if names.peek() == Some(&name) {
                return Err("the object that ends here has a name twice");
            }
        }
        Ok(Value::Object(out))
    }

    fn comma(&mut self, wanted: &'static str) -> Read<()> {
        match self.peek() {
            None => Err(ENDS),
            Some(b',') => {
                self.at += 1;
                Ok(())
            }
            Some(_) => Err(wanted),
        }
    }

    fn digits(&mut self) -> Read<()> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err("a digit is wanted here");
        }
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Read<Value<'a>> {
        let start = self.at;
        self.take(b'-');
        if self.take(b'0') {
            if matches!(self.peek(), Some(b'0'..=b'9')) {
                return Err("a number does not begin with 0");
            }
        } else {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _sign = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok(Value::Number(
            self.text.get(start..self.at).unwrap_or_default(),
        ))
    }

    fn string(&mut self) -> Read<Cow<'a, str>> {
        self.at += 1;
        let (mut start, mut out) = (self.at, String::new());
        loop {
            let so_far = self.text.get(start..self.at).unwrap_or_default();
            match self.peek() {
                None => return Err(ENDS),
                Some(b'"') => {
                    self.at += 1;
                    if out.is_empty() {
                        return Ok(Cow::Borrowed(so_far));
                    }
                    out.push_str(so_far);
                    return Ok(Cow::Owned(out));
                }
                Some(b'\\') => {
                    out.push_str(so_far);
                    self.at += 1;
                    out.push(self.escape()?);
                    start = self.at;
                }
                Some(..=0x1f) => return Err("a text does not go over the end of a line"),
                Some(_) => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Read<char> {
        let byte = self.peek().ok_or(ENDS)?;
        self.at += 1;
        Ok(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = self.hex()?;
                let code = match first {
                    // A pair of surrogates is one character.
                    0xd800..=0xdbff if self.take(b'\\') && self.take(b'u') => {
                        let second = self.hex()?;
                        let low = second.checked_sub(0xdc00).filter(|low| *low < 0x400);
                        low.map_or(first, |low| 0x1_0000 + ((first - 0xd800) << 10) + low)
                    }
                    _ => first,
                };
                char::from_u32(code).ok_or("this is half a character")?
            }
            _ => {
                self.at -= 1;
                return Err("there is no such escape");
            }
        })
    }

    fn hex(&mut self) -> Read<u32> {
        let digits = self.text.get(self.at..self.at + 4).unwrap_or_default();
        let all = digits.bytes().all(|b| b.is_ascii_hexdigit());
        let code = u32::from_str_radix(digits, 16).ok().filter(|_| all);
        let code = code.ok_or("four hexadecimal digits are wanted here")?;
        self.at += 4;
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_json_reads() {
        let text = |s: &'static str| Value::Text(Cow::Borrowed(s));
        assert_eq!(parse(" {} "), Ok(Value::Object(Vec::new())));
        assert_eq!(
            parse("[null, true,false,-0,1.5e+7,[]]"),
            Ok(Value::List(vec![
                Value::Null,
                Value::Bool(true),
                Value::Bool(false),
                Value::Number("-0"),
                Value::Number("1.5e+7"),
                Value::List(Vec::new())
            ]))
        );
        assert_eq!(
            parse(r#"{"a":"x","\u00e4\n":"\ud83d\ude00y"}"#),
            Ok(Value::Object(vec![
                (Cow::Borrowed("a"), text("x")),
                (Cow::Borrowed("ä\n"), text("😀y"))
            ]))
        );
    }

    #[test]
    fn what_is_not_json_is_refused_with_its_place() {
        for (wrong, says) in [
            ("", "ends in the middle (line 1, column 1)"),
            ("{", "ends in the middle"),
            ("not json", "a value is wanted here"),
            ("{\n \"a\" 1}", "`:` is wanted here (line 2, column 6)"),
            ("{\"a\":1,}", "a name in quotes"),
            ("{\"a\":1,\"a\":2}", "a name twice"),
            ("[1 2]", "`,` or `]`"),
            ("[01]", "begin with 0"),
            ("[1.]", "a digit"),
            ("\"\\x\"", "no such escape"),
            ("\"\\ud800\"", "half a character"),
            ("\"\\u00g0\"", "four hexadecimal"),
            ("\"a\nb\"", "end of a line"),
            ("{} {}", "follows behind the end"),
        ] {
            let error = parse(wrong).expect_err(wrong);
            assert!(error.contains(says), "{wrong}: {error}");
        }
        let deep = "[".repeat(100_000);
        assert!(parse(&deep).expect_err("deep").contains("too deep"));
    }
}
