//! Whatever bytes arrive at an internal port, the process lives on, holds no more memory for it, and keeps what it kept.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use alluvium_tests::Cluster;
use alluvium_types::key_hash::key_hash;
use alluvium_types::limits::Limits;
use tonic::Code;

use crate::load::{Load, assert_whole, create_topic};
use crate::wire::{channel, raw_call, reason};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A frame of settings without any.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
/// How many connections bring garbage to each port.
const CONNECTIONS: u32 = 30;
/// How much more memory a process may hold afterwards.
const GROWTH_BYTES_MAX: u64 = 64 << 20;

/// Bytes from a generator of its own, so that a failure repeats.
fn garbage(seed: u32, count: u32) -> Vec<u8> {
    (0..count.div_ceil(4)).flat_map(|n| key_hash(&[seed.to_le_bytes(), n.to_le_bytes()].concat()).to_le_bytes()).collect()
}

/// What the connection of this number brings: bytes of no protocol, of no frame, or a frame that is longer than any may be, all of it.
fn nonsense(seed: u32) -> Vec<u8> {
    let begun = [PREFACE, &SETTINGS].concat();
    match seed % 3 {
        0 => garbage(seed, 800 - seed * 7),
        1 => [begun, garbage(seed, 800 - seed * 7)].concat(),
        _ => {
            // Data for stream 1: 2²⁴ − 1 bytes are announced, and a megabyte comes.
            let head = [0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1];
            [begun, head.to_vec(), vec![7; 1 << 20]].concat()
        }
    }
}

/// Sends it, and waits for the answer or the end, shortly.
fn send(url: &str, bytes: &[u8]) {
    let mut socket = TcpStream::connect(url.trim_start_matches("http://")).expect("accepts");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("settable");
    socket.set_write_timeout(Some(Duration::from_secs(2))).expect("settable");
    // The process may close at once.
    let _ = socket.write_all(bytes);
    let _ = socket.read(&mut [0; 1024]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_internal_ports_costs_nothing_and_changes_nothing() {
    let mut cluster = Cluster::start(3, 1);
    let client = create_topic(&cluster).await;
    let load = Load::start(&client).await;
    load.reach(1000).await;
    for (member, method) in
        [("bookie-0", "/alluvium.internal.v1.BookieService/Open"), ("broker-0", "/grpc.health.v1.Health/Check")]
    {
        let url = cluster.internal_url(member);
        // What its buffers grow to once, they have grown to.
        (0..CONNECTIONS).for_each(|seed| send(&url, &nonsense(seed)));
        let (pid, before) = (cluster.process(member).pid(), cluster.process(member).resident_bytes());
        (0..CONNECTIONS).for_each(|seed| send(&url, &nonsense(CONNECTIONS - 1 - seed)));
        let channel = channel(url).await;
        let malformed = raw_call(&channel, method, 3, vec![0xff; 3]).await;
        assert_eq!(
            (malformed.code(), reason(&malformed).0.as_str()),
            (Code::InvalidArgument, "REQUEST_MALFORMED"),
            "{malformed}"
        );
        for (announced, sent) in [(u32::MAX, 10), (u32::try_from(Limits::default().rpc_bytes_max() + 1).expect("small"), 1 << 20)]
        {
            let large = raw_call(&channel, method, announced, vec![7; sent]).await;
            assert_eq!((large.code(), reason(&large).0.as_str()), (Code::InvalidArgument, "REQUEST_TOO_LARGE"), "{large}");
        }
        let grown = cluster.process(member).resident_bytes().saturating_sub(before);
        println!("{member}: {CONNECTIONS} connections with garbage, {} KiB more", grown >> 10);
        assert!(grown < GROWTH_BYTES_MAX, "{grown}");
        assert_eq!(cluster.process(member).pid(), pid);
        assert!(cluster.process(member).is_ready(), "{}", cluster.logs());
    }
    load.reach(load.acknowledged() + 1000).await;
    let total = load.end().await;
    assert_whole(&client, total).await;
}
