//! Three bookies in one process: the same path with one bookie or three, by call or by gRPC.

use alluvium_tests::{Options, Server};
use serde_json::Value;

use crate::wire::{create_topic, publish, read_all};

fn options(transport: &str) -> Options {
    Options { top: format!("bookies = 3\ntransport = \"{transport}\""), ..Options::default() }
}

fn json(server: &Server, args: &[&str]) -> Value {
    serde_json::from_str(&server.tool(&[args, &["-o", "json"]].concat()).ok()).expect("json")
}

/// Publishes, restarts and reads back; gives the ledgers' records without what differs by chance.
async fn story(transport: &str) -> Vec<(String, String, usize, usize)> {
    let mut server = Server::start(&options(transport));
    assert_eq!(json(&server, &["bookie", "list"])["bookies"].as_array().map(Vec::len), Some(3));
    create_topic(&server, "public/default/t", 1).await;
    for n in 0..20 {
        publish(&server, "public/default/t", &[&format!("m{n}")]).await.expect("stored");
    }
    server.kill();
    server.restart();
    publish(&server, "public/default/t", &["last"]).await.expect("stored");
    assert_eq!(read_all(&server, "public/default/t").await.len(), 21);
    let (_, metrics) = server.http("/metrics").expect("answers");
    assert!(metrics.contains("alluvium_bookie_"), "{metrics}");
    let listed = json(&server, &["ledger", "list"]);
    let ledgers = listed["ledgers"].as_array().expect("a list");
    ledgers
        .iter()
        .map(|ledger| {
            let replication = &ledger["replication"];
            let quorum = format!("{}/{}/{}", replication["ensemble"], replication["write_quorum"], replication["ack_quorum"]);
            let fragments = ledger["fragments"].as_array().expect("a list");
            let members = fragments[0]["bookies"].as_array().map_or(0, Vec::len);
            (ledger["state"].to_string(), quorum, fragments.len(), members)
        })
        .collect()
}

#[tokio::test]
async fn in_process_and_grpc_take_the_same_path() {
    let (by_call, by_grpc) = (story("in-process").await, story("grpc").await);
    assert_eq!(by_call, by_grpc);
    assert!(by_call.iter().all(|(_, quorum, _, members)| quorum == "3/3/2" && *members == 3), "{by_call:?}");
}
