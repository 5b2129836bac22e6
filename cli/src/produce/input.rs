//! Lines, and the keys in them.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};

use crate::exit::{Code, Failure};

/// What is read at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// The lines of a file or of standard input. Memory is bounded by the longest line that is allowed.
pub(super) struct Lines {
    input: Pin<Box<dyn AsyncBufRead + Send>>,
    name: String,
    number: u64,
    bytes_max: usize,
}

impl Lines {
    pub(super) async fn open(path: Option<&Path>, bytes_max: usize) -> Result<Self, Failure> {
        let (input, name): (Pin<Box<dyn AsyncBufRead + Send>>, _) = match path {
            Some(path) => {
                let name = path.display().to_string();
                let file = tokio::fs::File::open(path).await;
                let file = file.map_err(|error| Failure::io(format!("cannot read {name}"), &error))?;
                (Box::pin(BufReader::with_capacity(BUFFER_BYTES, file)), name)
            }
            None => (Box::pin(BufReader::with_capacity(BUFFER_BYTES, tokio::io::stdin())), "standard input".to_owned()),
        };
        Ok(Self { input, name, number: 0, bytes_max })
    }

    #[cfg(test)]
    fn of(text: &'static [u8], bytes_max: usize) -> Self {
        Self { input: Box::pin(text), name: "test".to_owned(), number: 0, bytes_max }
    }

    /// The next line, without its end. The last one need not have any. Cancel safe only at the end of a line.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let mut line = BytesMut::new();
        self.number += 1;
        loop {
            let buffer = self.input.fill_buf().await;
            let buffer = buffer.map_err(|error| Failure::io(format!("cannot read {}", self.name), &error))?;
            if buffer.is_empty() {
                return Ok((!line.is_empty()).then(|| line.freeze()));
            }
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let taken = end.unwrap_or(buffer.len());
            line.extend_from_slice(&buffer[..taken]);
            self.input.as_mut().consume(end.map_or(taken, |end| end + 1));
            if end.is_some() && line.last() == Some(&b'\r') {
                line.truncate(line.len() - 1);
            }
            if line.len() > self.bytes_max + usize::from(end.is_none()) {
                let text = format!("it is longer than the limit of {} bytes for a message", self.bytes_max);
                return Err(self.wrong(&text).named("MESSAGE_TOO_LARGE"));
            }
            if end.is_some() {
                return Ok(Some(line.freeze()));
            }
        }
    }

    /// Fails unless another reading of it gives the same lines.
    pub(super) async fn can_be_read_twice(&self) -> Result<(), Failure> {
        let found = tokio::fs::metadata(&self.name).await;
        if found.is_ok_and(|found| found.is_file()) {
            return Ok(());
        }
        let text = format!("{} is no file that can be read twice, which --resume does: to compare, then to send", self.name);
        Err(Failure::usage(text).advise("put the input into a file"))
    }

    /// The number of the line that was read last, counted from 1.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// Where the line stands that was read last.
    pub(super) fn place(&self) -> String {
        format!("{} of {}", self.number, self.name)
    }

    /// What is wrong with the line that was read last.
    pub(super) fn wrong(&self, problem: &str) -> Failure {
        Failure::new(Code::Data, format!("line {} can't be sent", self.place())).because(problem)
    }
}

/// The key in a field of a JSON object: a string's text, or a number or boolean as it is written. `None` if the field is
/// absent, null or empty.
pub(super) fn key_of(line: &[u8], field: &str) -> Result<Option<Bytes>, String> {
    let mut json = serde_json::Deserializer::from_slice(line);
    let key = json.deserialize_map(Finder(field)).and_then(|key| json.end().map(|()| key));
    let key = key.map_err(|error| format!("it is no JSON object with a usable field {field}: {error}"))?;
    Ok(key.filter(|key| !key.is_empty()).map(Bytes::from))
}

/// Looks for one field of an object and skips the others.
struct Finder<'a>(&'a str);

impl<'de> Visitor<'de> for Finder<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            if name != self.0 {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            found = match map.next_value::<serde_json::Value>()? {
                serde_json::Value::Null => None,
                serde_json::Value::String(text) => Some(text),
                value @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => Some(value.to_string()),
                _ => return Err(A::Error::custom("a key is a string, a number or a boolean")),
            };
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn lines(text: &'static [u8], bytes_max: usize) -> Vec<Result<String, Code>> {
        let mut lines = Lines::of(text, bytes_max);
        let mut found = Vec::new();
        loop {
            match lines.next().now_or_never().expect("memory is ready") {
                Ok(Some(line)) => found.push(Ok(String::from_utf8_lossy(&line).into_owned())),
                Ok(None) => return found,
                Err(failure) => {
                    found.push(Err(failure.code()));
                    return found;
                }
            }
        }
    }

    #[test]
    fn lines_end_with_or_without_a_carriage_return_and_may_be_empty() {
        let expected = ["a", "b", "", "c"].map(|line| Ok(line.to_owned()));
        assert_eq!(lines(b"a\nb\r\n\nc", 100), expected);
        assert_eq!(lines(b"", 100), []);
    }

    #[test]
    fn a_line_past_the_limit_is_refused() {
        assert_eq!(lines(b"ok\ntoo long\n", 5), [Ok("ok".to_owned()), Err(Code::Data)]);
    }

    #[test]
    fn a_key_is_found_wherever_it_stands_and_may_be_missing() {
        for (line, key) in [
            (r#"{"k":"N14228","x":[1,{"k":"inner"}]}"#, Some("N14228")),
            (r#"{"x":1,"k":"a\u0062"}"#, Some("ab")),
            (r#"{"k":17}"#, Some("17")),
            (r#"{"k":true}"#, Some("true")),
            (r#"{"k":null}"#, None),
            (r#"{"k":""}"#, None),
            (r#"{"x":1}"#, None),
            (r"{}", None),
        ] {
            assert_eq!(key_of(line.as_bytes(), "k"), Ok(key.map(Bytes::from)), "{line}");
        }
        for wrong in ["", "17", "[]", r#"{"k":"#, r#"{"k":[1]}"#, r#"{"k":1} x"#] {
            assert!(key_of(wrong.as_bytes(), "k").is_err(), "{wrong}");
        }
    }
}
