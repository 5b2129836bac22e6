//! A log file of the only bookie is gone: what it held is reported, and everything else is still there.

use std::fs;
use std::path::PathBuf;

use alluvium_proto::v1;
use alluvium_tests::{Options, Server};

use crate::wire::{PLENTY, Reading, create_topic, message, publish_messages};

const TOPIC: &str = "public/default/t";

/// How many messages a reader is given, and the runs that it is told are lost; to the end.
async fn read(server: &Server) -> (u64, Vec<(u64, u64)>) {
    let (mut all, mut faults) = (Vec::new(), Vec::new());
    Reading::open(server, TOPIC, Some(PLENTY)).await.read_on(&mut all, &mut faults).await;
    let lost = |fault: v1::DeliveryFault| {
        assert_eq!(fault.fault.expect("why").reason, "MESSAGES_UNREADABLE");
        let run = fault.offsets.expect("the offsets are named");
        (run.first, run.last)
    };
    (all.len() as u64, faults.into_iter().map(lost).collect())
}

#[tokio::test]
async fn t6_what_a_missing_log_file_held_is_reported_and_the_rest_is_read() {
    // A reader stopped there for ever, and said nothing.
    let mut server = Server::start(&Options::default());
    create_topic(&server, TOPIC, 1).await;
    let mut total = 0;
    for _ in 0..36 {
        let messages = vec![message(vec![b'x'; 500 << 10]); 8];
        total += publish_messages(&server, TOPIC, messages).await.expect("stored").len() as u64;
    }
    server.kill();
    let folder = server.data().join("bookie-0").join("log");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder).expect("readable").map(|entry| entry.expect("readable").path()).collect();
    files.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("log-")));
    files.sort();
    assert!(files.len() >= 4, "{files:?}");
    fs::remove_file(&files[2]).expect("removed");
    server.restart();
    let (messages, lost) = read(&server).await;
    let gone: u64 = lost.iter().map(|(first, last)| last - first + 1).sum();
    assert!(gone > 0 && messages > 0, "{lost:?}");
    assert_eq!(messages + gone, total, "each is given or reported, once: {lost:?}");
    // The metrics and the log say so.
    let (_, metrics) = server.http("/metrics").expect("answered");
    let counted = metrics.lines().find_map(|line| line.strip_prefix("alluvium_broker_unreadable_entries_total "));
    assert!(counted.is_some_and(|count| count != "0"), "{counted:?}");
    assert_eq!(server.log().matches("messages can't be read from any bookie").count(), 1, "now and then:\n{}", server.log());
}
