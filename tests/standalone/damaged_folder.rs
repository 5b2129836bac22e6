//! Configurations and data folders that must not be served.

use std::fs;
use std::path::{Path, PathBuf};

use alluvium_tests::{Options, Server};

use crate::wire::{create_topic, publish};

#[test]
fn a_config_with_an_unknown_key_ends_with_64_and_names_it() {
    let server = Server::start(&Options::default());
    let config = server.folder().join("bad.toml");
    fs::write(&config, "data = \"x\"\nnonsense = 1\n").expect("writable");
    for extra in [&["--check-config"][..], &[]] {
        let args = [&["standalone", "--config", config.to_str().expect("utf-8")][..], extra].concat();
        let output = server.tool(&args);
        assert_eq!(output.code, Some(64), "{output:?}");
        assert!(output.stderr.contains("nonsense"), "{output:?}");
    }
    fs::write(&config, "bookies = 99\ndrain_seconds = 0\n").expect("writable");
    let output = server.tool(&["standalone", "--config", config.to_str().expect("utf-8"), "--check-config"]);
    assert_eq!(output.code, Some(64), "{output:?}");
    assert!(output.stderr.contains("bookies") && output.stderr.contains("drain_seconds"), "all at once: {output:?}");
}

#[test]
fn what_print_config_prints_is_a_config() {
    let server = Server::start(&Options::default());
    let printed = server.tool(&["standalone", "--print-config"]).ok();
    let config = server.folder().join("printed.toml");
    fs::write(&config, printed).expect("writable");
    server.tool(&["standalone", "--config", config.to_str().expect("utf-8"), "--check-config"]).ok();
}

#[test]
fn a_folder_in_use_is_refused() {
    let server = Server::start(&Options::default());
    let output = server.tool(&["standalone", "--data", server.data().to_str().expect("utf-8"), "--listen", "127.0.0.1:0"]);
    assert!(output.code.is_some_and(|c| c != 0), "{output:?}");
    assert!(output.stderr.contains("in use"), "{output:?}");
}

/// Stops a server that holds a message, spoils its folder, and gives what it says when it is started again.
async fn refusal(spoil: impl FnOnce(&Path)) -> String {
    let mut server = Server::start(&Options::default());
    create_topic(&server, "public/default/t", 1).await;
    publish(&server, "public/default/t", &["x"]).await.expect("stored");
    assert_eq!(server.terminate(), Some(0));
    spoil(&server.data());
    let before = server.log().len();
    server.spawn();
    let code = server.wait_end();
    let said = server.log()[before..].to_owned();
    assert!(code.is_some_and(|c| c != 0), "{said}");
    said
}

fn files_named(dir: &Path, part: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(files_named(&path, part));
        } else if path.file_name().is_some_and(|n| n.to_string_lossy().contains(part)) {
            found.push(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bookie_folder_of_another_cluster_is_refused_b11() {
    let other = Server::start(&Options::default());
    let foreign = files_named(&other.data(), "identity");
    assert!(!foreign.is_empty(), "a bookie keeps an identity");
    let said = refusal(|data| {
        for path in &foreign {
            let relative = path.strip_prefix(other.data()).expect("below the folder");
            fs::copy(path, data.join(relative)).expect("copied");
        }
    })
    .await;
    assert!(said.contains("cluster"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_written_identity_is_refused() {
    let said = refusal(|data| {
        for path in files_named(data, "identity") {
            let bytes = fs::read(&path).expect("readable");
            fs::write(&path, &bytes[..bytes.len() / 2]).expect("writable");
        }
    })
    .await;
    assert!(said.contains("identity"), "{said}");
}

/// Makes the files of this name say that they are of a later version, in the little-endian number at each of these offsets.
fn of_the_future(data: &Path, part: &str, offsets: &[usize]) {
    let files = files_named(data, part);
    assert!(!files.is_empty(), "there are files named {part}");
    for path in files {
        let mut bytes = fs::read(&path).expect("readable");
        for offset in offsets {
            bytes[*offset..*offset + 2].copy_from_slice(&99_u16.to_le_bytes());
        }
        fs::write(&path, bytes).expect("writable");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_of_a_newer_format_is_refused() {
    let bookie = |data: &Path| data.join("bookie-0");
    type Spoil = fn(&Path);
    let kinds: [(&str, Spoil); 3] = [
        ("identity", |bookie| {
            let path = bookie.join("identity");
            let text = fs::read_to_string(&path).expect("readable");
            fs::write(path, text.replacen("directory 1", "directory 99", 1)).expect("writable");
        }),
        ("log", |bookie| of_the_future(&bookie.join("log"), "log-", &[8, 3584 + 8])),
        ("metadata", |bookie| of_the_future(&bookie.with_file_name("metadata"), "log-", &[8])),
    ];
    for (kind, spoil) in kinds {
        let said = refusal(|data| spoil(&bookie(data))).await;
        assert!(said.contains("99"), "both versions are named: {kind}: {said}");
    }
}
