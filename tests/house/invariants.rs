//! Holds `docs/invariants.md` against the code: every row has a test that exists, or says what brings it, or why it isn't ours.

use std::collections::{BTreeMap, BTreeSet};

use crate::sources::{root, rust_files};

/// How many there are of each kind, and the odd one.
const INVARIANTS: &[(&str, u32)] =
    &[("B", 11), ("L", 8), ("M", 7), ("T", 6), ("S", 4), ("D", 7), ("X", 7), ("O", 7), ("G", 5), ("Q", 10), ("C", 69)];
const ODD: &str = "C22b";

struct Row {
    status: String,
    proof: String,
}

fn table() -> BTreeMap<String, Row> {
    let text = std::fs::read_to_string(root().join("docs/invariants.md")).expect("docs/invariants.md is there");
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|l| l.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [id, _what, status, proof] = cells.as_slice() else { panic!("a row has four cells: {line}") };
        if matches!(*id, "id" | "---") {
            continue;
        }
        let row = Row { status: (*status).to_owned(), proof: (*proof).to_owned() };
        assert!(rows.insert((*id).to_owned(), row).is_none(), "{id} stands twice");
    }
    rows
}

#[test]
fn every_invariant_and_corner_case_has_one_row() {
    let mut wanted: BTreeSet<String> =
        INVARIANTS.iter().flat_map(|(kind, count)| (1..=*count).map(move |n| format!("{kind}{n}"))).collect();
    wanted.insert(ODD.to_owned());
    let found: BTreeSet<String> = table().into_keys().collect();
    assert_eq!(found, wanted);
}

#[test]
fn every_row_has_a_test_that_exists_or_a_reason() {
    let files = rust_files();
    let tests: BTreeSet<&str> = files.iter().flat_map(|(_, text)| tests_of(text)).collect();
    for (id, row) in table() {
        match row.status.as_str() {
            "test" => {
                let named: Vec<&str> = row.proof.split('`').skip(1).step_by(2).collect();
                assert!(!named.is_empty(), "{id} names no test");
                for test in named {
                    assert!(tests.contains(test), "{id} names the test {test}, which does not exist");
                }
            }
            "later" | "not ours" => assert!(row.proof.len() > 10, "{id} is {} without a reason", row.status),
            other => panic!("{id} has the status {other:?}"),
        }
    }
}

/// The names of the functions that are tests by their attributes.
fn tests_of(text: &str) -> Vec<&str> {
    let mut is_test = false;
    let mut tests = Vec::new();
    for line in text.lines().map(str::trim_start) {
        let name = line.trim_start_matches("async ").strip_prefix("fn ").and_then(|rest| rest.split(['(', '<']).next());
        match name {
            Some(name) if is_test => tests.push(name),
            _ => {}
        }
        is_test = line.starts_with("#[test]") || line.starts_with("#[tokio::test") || (is_test && line.starts_with("#["));
    }
    tests
}

#[test]
fn every_row_with_a_test_is_named_in_the_code() {
    let files = rust_files();
    for (id, row) in table() {
        if row.status == "test" {
            let named = files.iter().any(|(path, text)| !path.ends_with("tests/house/invariants.rs") && mentions(text, &id));
            assert!(named, "{id} has a test, but no code or test names it");
        }
    }
}

/// Whether `text` holds `id` as a word of its own, or as a word of a test's name.
fn mentions(text: &str, id: &str) -> bool {
    stands_in(text, id) || stands_in(text, &id.to_lowercase())
}

fn stands_in(text: &str, id: &str) -> bool {
    let word = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.match_indices(id).any(|(at, _)| !word(text[..at].chars().next_back()) && !word(text[at + id.len()..].chars().next()))
}
