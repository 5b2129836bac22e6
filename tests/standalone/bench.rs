//! `alluvium bench`: what it tells is true, and it leaves nothing behind.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use alluvium_tests::process::isolated;
use alluvium_tests::{Options, Server};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn document(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn topics(server: &Server) -> usize {
    let listed = document(&server.tool(&["topic", "list", "public/default", "-o", "json"]).ok());
    listed["topics"].as_array().expect("a list").len()
}

fn number(json: &Value, name: &str) -> f64 {
    json[name].as_f64().unwrap_or_else(|| panic!("{name} is no number: {json}"))
}

#[test]
fn a_load_is_verified_counted_and_told_in_open_messagings_names() {
    let server = Server::start(&Options::default());
    let args = "bench -o json --duration 1s --warm-up 0ms --message-size 100 --topics 2 --partitions 3 --producers 2 \
                --subscriptions 2 --consumers 2 --keys 50";
    let json = document(&server.tool(&args.split_whitespace().collect::<Vec<_>>()).ok());
    let about = &json["alluvium"];
    let (sent, delivered) = (number(about, "sent"), number(about, "delivered"));
    assert!(sent > 0.0 && (delivered - 2.0 * sent).abs() < 0.5, "each of two subscriptions gets all: {json}");
    assert_eq!(about["verified"], true, "{json}");
    assert_eq!(about["faults"]["first"], Value::Null, "{json}");
    assert_eq!(about["durability"], "on disk on 1 of 1 bookies before the receipt", "{json}");
    for list in ["publishRate", "consumeRate", "publishLatency99pct", "endToEndLatency50pct", "backlog"] {
        assert!(json[list].as_array().is_some_and(|values| !values.is_empty()), "{list}: {json}");
    }
    let published = number(&json, "aggregatedPublishRate") * number(about, "publishSeconds");
    assert!(published > 0.0 && published <= sent + 0.5, "{json}");
    for kind in ["aggregatedPublishLatency", "aggregatedEndToEndLatency"] {
        let quantiles = ["50pct", "75pct", "90pct", "95pct", "99pct", "999pct", "9999pct", "Max"];
        let told: Vec<f64> = quantiles.iter().map(|suffix| number(&json, &format!("{kind}{suffix}"))).collect();
        assert!(told[0] > 0.0 && told.is_sorted(), "{kind}: {told:?}");
    }
    assert_eq!(topics(&server), 0, "what it made is gone");
}

#[test]
fn an_open_loop_sends_what_is_due_and_knows_its_delay() {
    let server = Server::start(&Options::default());
    let args = "bench -o json --rate 2000 --duration 1s --warm-up 0ms --producers 3 --keep";
    let json = document(&server.tool(&args.split_whitespace().collect::<Vec<_>>()).ok());
    let sent = number(&json["alluvium"], "sent");
    let seconds = (number(&json, "endTime") - number(&json, "beginTime")) / 1000.0;
    assert!(sent > 0.0 && sent <= 2000.0 * seconds + 1.0, "nothing goes before it is due: {json}");
    assert!(number(&json, "aggregatedPublishDelayLatencyMax") >= number(&json, "aggregatedPublishDelayLatency50pct"), "{json}");
    assert!(number(&json, "aggregatedPublishDelayLatencyMax") > 0.0, "{json}");
    assert_eq!(topics(&server), 1, "it was told to keep it");
}

#[test]
fn a_backlog_is_published_first_and_read_back_whole() {
    let server = Server::start(&Options::default());
    let args = "bench -o json --backlog 8MiB --partitions 2 --consumers 3";
    let json = document(&server.tool(&args.split_whitespace().collect::<Vec<_>>()).ok());
    let about = &json["alluvium"];
    assert_eq!((&about["sent"], &about["delivered"]), (&8192.into(), &8192.into()), "{json}");
    assert!(number(&json, "aggregatedConsumeRate") > 0.0 && number(&json, "aggregatedPublishRate") > 0.0, "{json}");
}

#[test]
fn an_interrupted_run_tells_what_it_has_and_cleans_up() {
    let server = Server::start(&Options::default());
    let mut child = isolated(server.folder())
        .args(["bench", "-o", "json", "--duration", "1h", "--warm-up", "0ms"])
        .env("ALLUVIUM_SERVER", server.url())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut said = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("published") {
        line.clear();
        assert!(said.read_line(&mut line).expect("readable") > 0, "it ended by itself");
    }
    kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("readable");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130), "{rest}");
    let json = document(&String::from_utf8_lossy(&output.stdout));
    assert_eq!((&json["alluvium"]["interrupted"], &json["alluvium"]["verified"]), (&true.into(), &true.into()), "{json}");
    assert!(number(&json["alluvium"], "sent") > 0.0, "{json}");
    assert_eq!(topics(&server), 0, "what it made is gone");
}

#[test]
fn a_load_that_makes_no_sense_is_refused_with_its_limits() {
    let server = Server::start(&Options::default());
    let output = server.tool(&["bench", "-o", "json", "--message-size", "8", "--tick-us", "50"]);
    assert_eq!(output.code, Some(2), "{output:?}");
    let error = document(output.stderr.lines().last().unwrap_or_default());
    let because = error["error"]["because"].to_string();
    assert!(because.contains("message-size is 8: it must be 32 to") && because.contains("250"), "{error}");
}
