//! JSON written while the plugin is compiled: the manifest is a constant, and costs the component no code.
//!
//! Writing happens twice. The first time the bytes are only counted, the second time there is an array of that size.

/// Takes bytes as far as it has room, and counts all of them.
pub(crate) struct Writer<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Writer<N> {
    pub(crate) const fn new() -> Self {
        Self {
            bytes: [0; N],
            len: 0,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn bytes(self) -> [u8; N] {
        self.bytes
    }

    const fn byte(&mut self, byte: u8) {
        if self.len < N {
            self.bytes[self.len] = byte;
        }
        self.len += 1;
    }

    /// JSON as it stands.
    pub(crate) const fn raw(&mut self, text: &str) {
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            self.byte(bytes[at]);
            at += 1;
        }
    }

    /// A JSON string.
    pub(crate) const fn string(&mut self, text: &str) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        self.byte(b'"');
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            match bytes[at] {
                b'"' => self.raw("\\\""),
                b'\\' => self.raw("\\\\"),
                b'\n' => self.raw("\\n"),
                byte if byte < 0x20 => {
                    self.raw("\\u00");
                    self.byte(HEX[(byte >> 4) as usize]);
                    self.byte(HEX[(byte & 15) as usize]);
                }
                byte => self.byte(byte),
            }
            at += 1;
        }
        self.byte(b'"');
    }

    /// `,"name":`, without the comma if it is the first of its object.
    pub(crate) const fn name(&mut self, first: bool, name: &str) {
        if !first {
            self.byte(b',');
        }
        self.string(name);
        self.byte(b':');
    }

    pub(crate) const fn number(&mut self, number: i128) {
        if number < 0 {
            self.byte(b'-');
        }
        let mut rest = number.unsigned_abs();
        let mut digits = [0u8; 39];
        let mut count = 0;
        loop {
            digits[count] = b'0' + (rest % 10) as u8;
            rest /= 10;
            count += 1;
            if rest == 0 {
                break;
            }
        }
        while count > 0 {
            count -= 1;
            self.byte(digits[count]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_json() {
        const fn all<const N: usize>() -> Writer<N> {
            let mut w = Writer::new();
            w.raw("{");
            w.name(true, "a\"\\\n\u{1}ü");
            w.number(i128::MIN + 1);
            w.name(false, "b");
            w.number(0);
            w.raw("}");
            w
        }
        const LEN: usize = all::<0>().len();
        let bytes = all::<LEN>().bytes();
        let text = core::str::from_utf8(&bytes).expect("UTF-8");
        assert_eq!(
            text,
            format!("{{\"a\\\"\\\\\\n\\u0001ü\":{},\"b\":0}}", i128::MIN + 1)
        );
    }
}
