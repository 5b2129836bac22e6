//! Clients in other languages, with nothing but generated stubs.

use std::path::Path;
use std::process::Command;

use alluvium_tests::{Options, Server};

#[test]
fn a_python_program_of_plain_stubs_does_it_all() {
    let server = Server::start(&Options::default());
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("python")
        .arg(tests.join("python/client.py"))
        .arg(server.url().trim_start_matches("http://"))
        .arg(tests.join("../proto"))
        .output()
        .expect("./test installs python and its packages");
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), server.log());
    println!("{}", String::from_utf8_lossy(&output.stdout));
}
