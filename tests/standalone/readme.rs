//! The README is true: its shell and Python snippets run as they stand, in order, against a server. (The Rust snippet is
//! compiled as a documentation test of the client crate.)

use std::path::Path;
use std::process::Command;

use alluvium_tests::process::binary;
use alluvium_tests::{Options, Server};

/// A fenced block: its language and its lines.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let body: Vec<&str> = lines.by_ref().take_while(|l| *l != "```").collect();
            found.push((language.to_owned(), body.join("\n")));
        }
    }
    found
}

#[test]
fn every_snippet_of_the_readme_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in a folder of the root");
    let server = Server::start(&Options::default());
    let folder = server.folder().join("readme");
    std::fs::create_dir(&folder).expect("writable");
    for shared in ["proto", "tests"] {
        std::os::unix::fs::symlink(root.join(shared), folder.join(shared)).expect("linkable");
    }
    // `./run` builds the same binary in release first; here it is the one under test.
    let script = format!("#!/bin/sh\nexec {:?} \"$@\"\n", binary());
    std::fs::write(folder.join("run"), script).expect("writable");
    Command::new("chmod").arg("+x").arg(folder.join("run")).status().expect("chmod is there");
    // The input was fetched by ./test.
    let flights = flights(root);
    let mut ran = 0;
    for (language, body) in blocks(&std::fs::read_to_string(root.join("README.md")).expect("readable")) {
        let program = match language.as_str() {
            // The server runs already; this test is part of the other.
            "sh" if body == "./run" || body == "./test" => continue,
            "sh" => ("bash", body.replace("python3 tests/real_input/fetch.py flights", &format!("cp -r {flights:?} flights"))),
            "python" => ("python", body.replace("127.0.0.1:7650", server.url().trim_start_matches("http://"))),
            "rust,no_run" => continue,
            other => panic!("a snippet in {other:?} is run by no test"),
        };
        let output = Command::new(program.0)
            .args(if program.0 == "bash" { &["-euo", "pipefail", "-c"][..] } else { &["-c"] })
            .arg(&program.1)
            .current_dir(&folder)
            .env("ALLUVIUM_SERVER", server.url())
            .env("XDG_CONFIG_HOME", &folder)
            .output()
            .expect("./test installs what the snippets need");
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}\n--\n{stdout}\n{stderr}\n{}", program.1, server.log());
        if program.1.contains("wc -l < consumed.jsonl") {
            assert_eq!(stdout.trim().lines().last(), Some("336776"), "{stdout}");
        }
        if program.1.contains("first.txt second.txt") {
            assert!(stdout.contains("1001"), "{stdout}");
        }
        ran += 1;
    }
    assert!(ran >= 7, "{ran} snippets ran");
}

fn flights(root: &Path) -> std::path::PathBuf {
    std::env::var_os("ALLUVIUM_FLIGHTS").map_or_else(|| root.join("target/real-input"), Into::into)
}
