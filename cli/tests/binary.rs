//! The binary without a server: exit codes, failures, contexts, completion. What it does with one is tested with the real
//! one, in `tests/`.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// Nobody listens on the first port.
const NOBODY: &str = "http://127.0.0.1:1";

struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(TempDir::new().expect("temporary folders can be made"))
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_alluvium"))
            .args(args)
            .env("XDG_CONFIG_HOME", self.0.path())
            .env_remove("ALLUVIUM_SERVER")
            .output()
            .expect("the binary starts")
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["-o", "json"]].concat());
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("one document")
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_server_that_can_not_be_reached_ends_every_tool_with_69_and_advice() {
    let home = Home::new();
    let commands: [&[&str]; 5] =
        [&["topic", "get", "a/b/c"], &["tenant", "list"], &["produce", "a/b/c"], &["consume", "a/b/c"], &["ledger", "get", "7"]];
    for command in commands {
        let output = home.run(&[command, &["--server", NOBODY]].concat());
        assert_eq!(output.status.code(), Some(69), "{output:?}");
        let text = stderr(&output);
        assert!(text.contains(NOBODY) && text.contains("because") && text.contains("alluvium standalone"), "{text}");
    }
    let output = home.run(&["topic", "get", "a/b/c", "--server", NOBODY, "-o", "json"]);
    let error: Value = serde_json::from_slice(&output.stderr).expect("one document");
    assert_eq!(error["error"]["exit_code"], 69);
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    let home = Home::new();
    let commands: [&[&str]; 6] = [
        &["topic", "create"],
        &["topic", "create", "a/b/c", "--partitions", "0"],
        &["topic", "update", "a/b/c", "--retention", "soon", "--server", NOBODY],
        &["consume", "a/b/c", "--from", "yesterday"],
        &["consume", "a/b/c", "--count", "0"],
        &["tenant", "list", "--context", "nowhere"],
    ];
    for command in commands {
        assert_eq!(home.run(command).status.code(), Some(2), "{command:?}");
    }
}

#[test]
fn contexts_are_kept_and_the_current_one_is_used() {
    let home = Home::new();
    home.json(&["context", "add", "first", NOBODY]);
    home.json(&["context", "add", "second", "http://127.0.0.1:2"]);
    let listed = home.json(&["context", "list"]);
    assert_eq!(listed["contexts"][0]["current"], true, "the first one added: {listed}");
    home.json(&["context", "use", "second"]);
    assert!(stderr(&home.run(&["tenant", "list"])).contains("127.0.0.1:2"), "the current one");
    assert!(stderr(&home.run(&["tenant", "list", "--context", "first"])).contains("127.0.0.1:1"), "the one named");
    home.json(&["context", "delete", "second"]);
    assert_eq!(home.run(&["context", "use", "second"]).status.code(), Some(2));
    assert_eq!(home.json(&["context", "list"])["contexts"].as_array().map(Vec::len), Some(1));
}

#[test]
fn completion_is_a_script() {
    let home = Home::new();
    let script = home.json(&["completion", "bash"]);
    assert!(script["script"].as_str().is_some_and(|script| script.contains("alluvium")), "{script}");
}

#[cfg(feature = "server")]
#[test]
fn a_bad_configuration_ends_with_64_and_names_what_is_wrong() {
    let home = Home::new();
    let file = home.0.path().join("bad.toml");
    let path = file.to_str().expect("utf-8");
    let check = |text: &str| {
        #[expect(clippy::disallowed_methods, reason = "a test writes files")]
        std::fs::write(&file, text).expect("writable");
        home.run(&["standalone", "--config", path, "--check-config"])
    };
    let unknown = check("nonsense = 1");
    assert_eq!(unknown.status.code(), Some(64), "{unknown:?}");
    assert!(stderr(&unknown).contains("nonsense"), "{unknown:?}");
    let wrong = check("bookies = 99\ndrain_seconds = 0");
    assert_eq!(wrong.status.code(), Some(64), "{wrong:?}");
    assert!(stderr(&wrong).contains("bookies") && stderr(&wrong).contains("drain_seconds"), "all at once: {wrong:?}");
    assert_eq!(home.run(&["standalone", "--config", "/nonexistent.toml"]).status.code(), Some(64));
    let printed = home.run(&["standalone", "--print-config"]);
    assert_eq!(check(&String::from_utf8_lossy(&printed.stdout)).status.code(), Some(0), "what is printed is sound");
    assert!(home.json(&["standalone", "--print-config"])["listen"]["client"].is_string());
}

#[cfg(feature = "server")]
#[test]
fn a_cluster_is_not_made_where_no_etcd_answers_or_none_can_be_meant() {
    let home = Home::new();
    let file = home.0.path().join("hasty.toml");
    #[expect(clippy::disallowed_methods, reason = "a test writes files")]
    std::fs::write(&file, "[metadata]\nconnect_timeout_ms = 300\nrequest_timeout_ms = 300").expect("writable");
    let path = file.to_str().expect("utf-8");
    let away = home.run(&["cluster", "init", "--config", path, "--metadata", "http://127.0.0.1:1"]);
    assert_eq!(away.status.code(), Some(69), "{away:?}");
    assert!(stderr(&away).contains("127.0.0.1:1"), "{away:?}");
    let wrong = home.run(&["cluster", "init", "--metadata", "127.0.0.1:1", "--prefix", "x"]);
    assert_eq!(wrong.status.code(), Some(64), "{wrong:?}");
    assert!(stderr(&wrong).contains("metadata.endpoints") && stderr(&wrong).contains("metadata.prefix"), "{wrong:?}");
}

#[test]
fn a_part_of_a_bare_pipeline_ends_with_whoever_started_it() {
    let mut part = Command::new(env!("CARGO_BIN_EXE_alluvium"))
        .args(["bench", "part", "sink"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut line = String::new();
    BufReader::new(part.stdout.take().expect("piped")).read_line(&mut line).expect("readable");
    let address: SocketAddr = line.trim().parse().unwrap_or_else(|error| panic!("{error}: {line}"));
    assert!(TcpStream::connect(address).is_ok(), "it serves there");
    drop(part.stdin.take());
    assert!(part.wait().expect("it ends").success());
}
