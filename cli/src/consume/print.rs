//! The lines.

use std::io::{self, Write};

use alluvium_client::Delivery;
use serde::ser::{Serialize, SerializeMap, Serializer};

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
            Output::Json => {
                serde_json::to_writer(&mut self.lines, &Line(delivery)).expect("memory takes it, and keys are strings");
            }
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

/// A message as a document, its place first. Bytes that are no text are in base64, under a name that says so.
struct Line<'a>(&'a Delivery);

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let delivery = self.0;
        let mut line = serializer.serialize_map(None)?;
        line.serialize_entry("partition", &delivery.partition)?;
        line.serialize_entry("offset", &delivery.offset)?;
        match delivery.key() {
            None => line.serialize_entry("key", &())?,
            Some(key) => put(&mut line, ("key", "key_base64"), key)?,
        }
        let headers: Vec<Header<'_>> = delivery.headers().map(|(name, value)| Header(name, value)).collect();
        line.serialize_entry("headers", &headers)?;
        put(&mut line, ("payload", "payload_base64"), delivery.payload())?;
        line.serialize_entry("server_time_ms", &delivery.server_time_ms)?;
        line.serialize_entry("event_time_ms", &delivery.event_time_ms())?;
        line.serialize_entry("attempt", &delivery.attempt)?;
        line.end()
    }
}

struct Header<'a>(&'a str, &'a [u8]);

impl Serialize for Header<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut header = serializer.serialize_map(None)?;
        header.serialize_entry("name", self.0)?;
        put(&mut header, ("value", "value_base64"), self.1)?;
        header.end()
    }
}

/// Bytes as text under the first name, or in base64 under the second.
fn put<M: SerializeMap>(into: &mut M, (text, coded): (&str, &str), bytes: &[u8]) -> Result<(), M::Error> {
    match std::str::from_utf8(bytes) {
        Ok(plain) => into.serialize_entry(text, plain),
        Err(_) => into.serialize_entry(coded, &base64(bytes)),
    }
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
        let header = |value: &[u8]| serde_json::to_string(&Header("h", value)).expect("serializes");
        assert_eq!(header(b"text"), r#"{"name":"h","value":"text"}"#);
        assert_eq!(header(&[0xff]), r#"{"name":"h","value_base64":"/w=="}"#);
    }
}
