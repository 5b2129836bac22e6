//! The commands: what is lost is never lost silently, and what is wrong is named.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use alluvium_tests::process::isolated;
use alluvium_tests::{Options, Server};
use serde_json::Value;

const TOPIC: &str = "public/default/t";

fn file(server: &Server, name: &str, lines: impl IntoIterator<Item = String>) -> String {
    let path: PathBuf = server.folder().join(name);
    let text: String = lines.into_iter().map(|line| line + "\n").collect();
    std::fs::write(&path, text).expect("writable");
    path.to_str().expect("utf-8").to_owned()
}

fn numbers(range: std::ops::Range<u32>) -> impl Iterator<Item = String> {
    range.map(|n| n.to_string())
}

/// The error of a command that must fail: exit code, and what it says as JSON.
fn failure(server: &Server, args: &[&str]) -> (i32, Value) {
    let output = server.tool(&[args, &["-o", "json"]].concat());
    let last = output.stderr.lines().last().unwrap_or_default().to_owned();
    let error: Value = serde_json::from_str(&last).unwrap_or_else(|error| panic!("{args:?}: {error}: {output:?}"));
    (output.code.expect("it ends by itself"), error["error"].clone())
}

fn refused(server: &Server, args: &[&str], code: i32, reason: &str) -> Value {
    let (found, error) = failure(server, args);
    assert_eq!((found, error["reason"].as_str()), (code, Some(reason)), "{args:?}: {error}");
    error
}

fn stored(server: &Server, topic: &str) -> Vec<String> {
    let mut lines: Vec<String> = server.tool(&["consume", topic, "--no-follow"]).ok().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// A run under a name that held messages left out as many lines as were stored, whatever stood in them.
#[test]
fn a_named_run_goes_on_only_when_told_to_and_only_with_the_same_input() {
    let server = Server::start(&Options::default());
    server.tool(&["topic", "create", TOPIC, "-p", "4"]).ok();
    let first = file(&server, "first", numbers(0..1000));
    let produce = |file: &str, more: &[&str]| -> Vec<String> {
        ["produce", TOPIC, "--name", "n", "--file", file].iter().chain(more).map(|arg| (*arg).to_owned()).collect()
    };
    let refused = |args: Vec<String>, code, reason| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        refused(&server, &args, code, reason)
    };
    let run = |args: Vec<String>| server.tool(&args.iter().map(String::as_str).collect::<Vec<_>>()).ok();

    refused(produce(&first, &["--resume"]), 1, "NOTHING_TO_RESUME");
    run(produce(&first, &[]));
    let error = refused(produce(&first, &[]), 1, "NAME_HAS_MESSAGES");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("1000")), "{error}");
    assert!(error["advice"].as_str().is_some_and(|text| text.contains("--resume")), "{error}");

    let other = file(&server, "other", numbers(0..500).chain(numbers(5000..6000)));
    refused(produce(&other, &["--resume"]), 65, "RESUME_MISMATCH");
    let short = file(&server, "short", numbers(0..300));
    refused(produce(&short, &["--resume"]), 65, "RESUME_MISMATCH");
    let longer = file(&server, "longer", numbers(0..1500));
    refused(produce(&longer, &["--resume", "--key", "k"]), 65, "RESUME_MISMATCH");
    assert_eq!(stored(&server, TOPIC).len(), 1000, "nothing was sent");

    run(produce(&first, &["--resume"]));
    run(produce(&longer, &["--resume"]));
    let mut expected: Vec<String> = numbers(0..1500).collect();
    expected.sort();
    assert_eq!(stored(&server, TOPIC), expected, "each line once");

    server.tool(&["topic", "update", TOPIC, "-p", "6"]).ok();
    let longest = file(&server, "longest", numbers(0..2000));
    refused(produce(&longest, &["--resume"]), 65, "RESUME_MISMATCH");
    assert_eq!(stored(&server, TOPIC), expected, "nothing was sent");
}

/// Lines of two kinds only: the last one of each partition may be equal by chance, those before it aren't.
#[test]
fn added_partitions_are_noticed_though_lines_are_alike() {
    let server = Server::start(&Options::default());
    server.tool(&["topic", "create", TOPIC]).ok();
    let lines = |count: usize| (0..count).map(|n| format!("{{\"k\":\"{}\"}}", ["a", "b"][n % 2]));
    let (first, second) = (file(&server, "first", lines(5)), file(&server, "second", lines(40)));
    server.tool(&["produce", TOPIC, "--name", "n", "--key-field", "k", "--file", &first]).ok();
    server.tool(&["topic", "update", TOPIC, "-p", "2"]).ok();
    let args = ["produce", TOPIC, "--name", "n", "--key-field", "k", "--file", &second, "--resume"];
    refused(&server, &args, 65, "RESUME_MISMATCH");
}

/// What was queued behind a failed line was sent to the server that came next.
#[test]
fn nothing_is_sent_behind_a_line_that_failed() {
    let mut server = Server::start(&Options::default());
    server.tool(&["topic", "create", TOPIC]).ok();
    let input = file(&server, "input", numbers(0..100_000));
    let child = isolated(server.folder())
        .args(["produce", TOPIC, "--file", &input, "--rate", "5000"])
        .env("ALLUVIUM_SERVER", server.url())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let begun = Instant::now();
    while stored(&server, TOPIC).len() < 1000 {
        assert!(begun.elapsed() < Duration::from_secs(30), "it does not publish");
    }
    assert_eq!(server.terminate(), Some(0), "{}", server.log());
    server.restart();
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(0 | 69 | 75)), "{said}");
    let mut found: Vec<u32> = stored(&server, TOPIC).iter().map(|line| line.parse().expect("a number")).collect();
    found.sort_unstable();
    let dense = found.iter().copied().eq(0..u32::try_from(found.len()).expect("few"));
    assert!(dense, "{} lines are stored, with a hole", found.len());
    if output.status.success() {
        // The stop fell between two lines: none failed, and it went on with the next server.
        assert_eq!(found.len(), 100_000, "{said}");
        return;
    }
    let line: usize = said.split_whitespace().nth(2).and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{said}"));
    assert!(line <= found.len() + 1, "line {line} is the first that failed: {} are stored", found.len());
}

#[test]
fn a_line_that_is_too_long_is_named_on_either_side_of_the_frame() {
    let server = Server::start(&Options::default());
    server.tool(&["topic", "create", TOPIC]).ok();
    for (name, bytes) in [("framed", (5 << 20) - 3), ("long", (5 << 20) + 3)] {
        let input = file(&server, name, ["ok".to_owned(), "x".repeat(bytes)]);
        let error = refused(&server, &["produce", TOPIC, "--file", &input], 65, "MESSAGE_TOO_LARGE");
        assert!(error["message"].as_str().is_some_and(|text| text.contains("line 2 of")), "{error}");
    }
}

#[test]
fn a_timeout_says_what_kept_it() {
    let server = Server::start(&Options::default());
    server.tool(&["topic", "create", TOPIC, "--replication", "3/3/2"]).ok();
    let input = file(&server, "input", numbers(0..3));
    let args = ["produce", TOPIC, "--file", &input, "--timeout", "8s"];
    let error = refused(&server, &args, 69, "STORAGE_UNAVAILABLE");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("line 1 of")), "{error}");
    assert!(error.to_string().contains("too few bookies"), "{error}");
}

#[test]
fn a_port_that_is_not_for_clients_is_named() {
    let server = Server::start(&Options::default());
    for port in &server.ports()[1..] {
        let there = format!("127.0.0.1:{port}");
        let error = refused(&server, &["topic", "list", "public/default", "--server", &there], 69, "WRONG_SERVER");
        assert!(error["message"].as_str().is_some_and(|text| text.contains("not the clients' port")), "{error}");
    }
    refused(&server, &["topic", "list", "public/default", "--server", "https://x:1"], 2, "INVALID_ADDRESS");
}

#[test]
fn a_refusal_names_the_thing_and_the_next_step() {
    let server = Server::start(&Options::default());
    server.tool(&["topic", "create", TOPIC]).ok();
    for (args, reason, message, advice) in [
        (&["topic", "create", TOPIC][..], "EXISTS", TOPIC, "topic get public/default/t"),
        (&["tenant", "delete", "public"], "NOT_EMPTY", "public", "namespace list public"),
        (&["namespace", "delete", "public/default"], "NOT_EMPTY", "public/default", "topic list public/default"),
        (&["topic", "delete", "public/default/no"], "TOPIC_NOT_FOUND", "public/default/no", "topic list public/default"),
        (&["consume", "public/default/no"], "TOPIC_NOT_FOUND", "public/default/no", "topic create public/default/no"),
        (&["namespace", "create", "public"], "INVALID_NAME", "expected tenant/namespace, found 1 part", ""),
        (&["topic", "list", "public"], "INVALID_NAME", "expected tenant/namespace, found 1 part", ""),
    ] {
        let error = refused(&server, args, 1, reason);
        assert!(error["message"].as_str().is_some_and(|text| text.contains(message)), "{error}");
        assert!(error["advice"].as_str().unwrap_or_default().contains(advice), "{error}");
    }
    refused(&server, &["topic", "lst"], 2, "USAGE");
    refused(&server, &["consume", TOPIC, "--from", "2013-02-31"], 2, "USAGE");
    let version: Value = serde_json::from_str(&server.tool(&["--version", "-o", "json"]).ok()).expect("json");
    assert!(version["version"].is_string(), "{version}");
}

#[test]
fn a_context_is_named_where_it_leads_nowhere() {
    let server = Server::start(&Options::default());
    refused(&server, &["context", "add", "a", "notaurl"], 2, "INVALID_ADDRESS");
    let said = server.tool(&["context", "add", "away", "http://127.0.0.1:1"]).ok();
    assert!(said.contains("used from now on"), "{said}");
    let error = refused(&server, &["topic", "list", "public/default", "--context", "away"], 69, "UNREACHABLE");
    assert!(error.to_string().contains("context away, from ") && error.to_string().contains("contexts.toml"), "{error}");
}

/// A consumer, a reader and a producer of a topic went on with, or created things on, the next topic of that name.
#[test]
fn what_runs_on_a_deleted_topic_ends_though_the_name_is_there_again() {
    const PRODUCER: usize = 2;
    let server = Server::start(&Options::default());
    server.tool(&["topic", "create", TOPIC]).ok();
    server.tool_with_input(&["produce", TOPIC], "a\nb\n").ok();
    let mut running: Vec<_> = [&["consume", TOPIC, "-s", "s"][..], &["consume", TOPIC], &["produce", TOPIC]]
        .iter()
        .map(|args| {
            isolated(server.folder())
                .args(*args)
                .env("ALLUVIUM_SERVER", server.url())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("the binary starts")
        })
        .collect();
    let mut input = running[PRODUCER].stdin.take().expect("piped");
    let feeder = std::thread::spawn(move || {
        use std::io::Write;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(60) && input.write_all(b"x\n").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let begun = Instant::now();
    while stored(&server, TOPIC).len() < 20 {
        assert!(begun.elapsed() < Duration::from_secs(30), "it does not publish");
    }
    server.tool(&["topic", "delete", TOPIC]).ok();
    server.tool(&["topic", "create", TOPIC]).ok();
    for (number, child) in running.into_iter().enumerate() {
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if number == PRODUCER && output.status.code() == Some(75) {
            // A line was on its way when the topic went, and nobody knows what became of it: that is said before all else.
            assert!(said.contains("may or may not be stored"), "{said}");
            continue;
        }
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("was deleted meanwhile"), "{said}");
    }
    feeder.join().expect("it ends with the producer");
    let text = server.tool(&["subscription", "list", TOPIC, "-o", "json"]).ok();
    assert_eq!(text.trim(), r#"{"subscriptions":[]}"#, "none was created on the new topic");
}
