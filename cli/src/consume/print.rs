//! The lines.

use std::io::{self, Write};

use alluvium_client::Delivery;
use serde_json::{Map, Value, json};

use crate::exit::Failure;
use crate::output::Output;

/// Collects lines and writes them out together.
#[derive(Debug)]
pub(super) struct Printer {
    output: Output,
    long: bool,
    lines: Vec<u8>,
}

impl Printer {
    pub(super) const fn new(output: Output, long: bool) -> Self {
        Self { output, long, lines: Vec::new() }
    }

    /// Adds the line of a message.
    pub(super) fn add(&mut self, delivery: &Delivery) {
        match self.output {
            Output::Json => self.lines.extend_from_slice(json_line(delivery).to_string().as_bytes()),
            Output::Table => {
                if self.long {
                    let key = delivery.key().map_or("-".into(), |key| String::from_utf8_lossy(key));
                    let place = format!("{}\t{}\t{key}\t", delivery.partition, delivery.offset);
                    self.lines.extend_from_slice(place.as_bytes());
                }
                self.lines.extend_from_slice(delivery.payload());
            }
        }
        self.lines.push(b'\n');
    }

    /// Writes what was added. `false` when nobody reads standard output any more.
    pub(super) fn flush(&mut self) -> Result<bool, Failure> {
        let mut out = io::stdout().lock();
        let written = out.write_all(&self.lines).and_then(|()| out.flush());
        self.lines.clear();
        match written {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(Failure::io("cannot write to standard output", &error)),
        }
    }
}

/// A message as a document. Bytes that are no text are in base64, under a name that says so.
fn json_line(delivery: &Delivery) -> Value {
    let mut line = Map::new();
    line.insert("partition".to_owned(), json!(delivery.partition));
    line.insert("offset".to_owned(), json!(delivery.offset));
    match delivery.key() {
        None => {
            line.insert("key".to_owned(), Value::Null);
        }
        Some(key) => put(&mut line, "key", key),
    }
    let headers = delivery.headers().map(|(name, value)| {
        let mut header = Map::from_iter([("name".to_owned(), json!(name))]);
        put(&mut header, "value", value);
        Value::Object(header)
    });
    line.insert("headers".to_owned(), headers.collect());
    put(&mut line, "payload", delivery.payload());
    line.insert("server_time_ms".to_owned(), json!(delivery.server_time_ms));
    line.insert("event_time_ms".to_owned(), json!(delivery.event_time_ms()));
    line.insert("attempt".to_owned(), json!(delivery.attempt));
    Value::Object(line)
}

fn put(into: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => into.insert(name.to_owned(), json!(text)),
        Err(_) => into.insert(format!("{name}_base64"), json!(base64(bytes))),
    };
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, at| bits << 8 | u32::from(group.get(at).copied().unwrap_or(0)));
        for digit in 0..4 {
            let index = usize::try_from(bits >> (18 - 6 * digit) & 63).expect("six bits");
            text.push(if digit <= group.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_matches_the_vectors_of_rfc_4648() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xff, 0xfe]), "//4=");
    }

    #[test]
    fn bytes_that_are_no_text_say_so() {
        let mut line = Map::new();
        put(&mut line, "payload", b"text");
        put(&mut line, "key", &[0xff]);
        assert_eq!(Value::Object(line), json!({ "payload": "text", "key_base64": "/w==" }));
    }
}
