//! The input: JSON lines that `fetch.py` made.

use std::path::PathBuf;

use bytes::Bytes;

/// A line of the input.
pub(crate) struct Flight {
    /// The tail number, if it is known.
    pub(crate) key: Option<String>,
    /// The whole line.
    pub(crate) line: Bytes,
}

/// The folder that `./test` fills.
pub(crate) fn folder() -> PathBuf {
    let folder = std::env::var_os("ALLUVIUM_FLIGHTS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/real-input"), PathBuf::from);
    assert!(folder.join("flights.jsonl").is_file(), "run ./test, or tests/real_input/fetch.py {}", folder.display());
    folder
}

/// All flights, in the order of the CSV.
pub(crate) fn load() -> Vec<Flight> {
    let text = Bytes::from(std::fs::read(folder().join("flights.jsonl")).expect("readable"));
    let mut flights = Vec::new();
    let mut from = 0;
    for (at, _) in text.iter().enumerate().filter(|(_, b)| **b == b'\n') {
        let line = text.slice(from..at);
        let value: serde_json::Value = serde_json::from_slice(&line).expect("a line is JSON");
        flights.push(Flight { key: value["tailnum"].as_str().map(str::to_owned), line });
        from = at + 1;
    }
    flights
}

/// The row that a line says it is.
pub(crate) fn row(line: &[u8]) -> u64 {
    let value: serde_json::Value = serde_json::from_slice(line).expect("a line is JSON");
    value["row"].as_u64().expect("each line has its row")
}
