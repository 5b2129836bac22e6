//! A first reading of speed: one producer, one partition, messages of 1 KiB, each acknowledged when it is on disk; and beside
//! it, in the same minute and on the same disk, direct synced writes of 1 MiB.
//!
//! `cargo build --release && cargo run --release -p alluvium-tests --bin speed`
#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a measurement looks at the outside world and prints")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use alluvium_client::{Client, Message};
use alluvium_runtime::disk::real::RealDisk;
use alluvium_runtime::disk::{Disk, SyncMode};
use alluvium_tests::{Options, Server};
use bytes::Bytes;
use tokio::sync::mpsc;

/// How long each measurement lasts, after the same time of warming up.
const LASTS: Duration = Duration::from_secs(5);
const MESSAGE_BYTES: usize = 1 << 10;
const WRITE_BYTES: usize = 1 << 20;
/// The file that is written over, once to have its blocks written before and once to measure.
const FILE_BYTES: u64 = 3 << 30;

#[tokio::main]
async fn main() {
    let before = disk();
    let published = publishing().await;
    let after = disk();
    let mebibytes = published * MESSAGE_BYTES as f64 / f64::from(1 << 20);
    println!("published: {published:.0} messages/s of 1 KiB, one producer, one partition, synced ({mebibytes:.0} MiB/s)");
    println!("disk: {before:.0} MiB/s before and {after:.0} MiB/s after, direct synced writes of 1 MiB over written blocks");
    println!("ratio: {:.2}", 2.0 * mebibytes / (before + after));
}

/// Messages a second.
async fn publishing() -> f64 {
    let server = Server::start(&Options::default());
    server.tool(&["topic", "create", "public/default/speed"]).ok();
    let client = Client::connect(server.url()).await.expect("connected");
    let producer = client.producer("public/default/speed").build().await.expect("built");
    let done = Arc::new(AtomicU64::new(0));
    let (open, mut receipts) = mpsc::channel::<alluvium_client::Pending>(64 << 10);
    let counter = Arc::clone(&done);
    let collector = tokio::spawn(async move {
        while let Some(pending) = receipts.recv().await {
            pending.await.expect("stored");
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    // Nothing on the way looks inside or compresses, so that one payload is as good as another.
    let payload: Vec<u8> =
        (0..MESSAGE_BYTES).map(|n| if n % 2 == 0 { b'a' } else { u8::try_from(n * 7919 % 251).expect("below 256") }).collect();
    let payload = Bytes::from(payload);
    let begun = Instant::now();
    let mut measured_from = None;
    while begun.elapsed() < 2 * LASTS {
        for _ in 0..256 {
            let pending = producer.queue(Message::new(payload.clone())).await.expect("queued");
            open.send(pending).await.expect("the collector runs");
        }
        if measured_from.is_none() && begun.elapsed() >= LASTS {
            measured_from = Some((Instant::now(), done.load(Ordering::Relaxed)));
        }
    }
    let (from, at) = measured_from.expect("it lasted long enough");
    let rate = (done.load(Ordering::Relaxed) - at) as f64 / from.elapsed().as_secs_f64();
    drop(open);
    collector.await.expect("every receipt came");
    rate
}

/// MiB a second.
fn disk() -> f64 {
    let dir = tempfile::TempDir::new().expect("temporary folders can be made");
    let disk = RealDisk;
    let file = disk.create(&dir.path().join("ceiling"), FILE_BYTES, SyncMode::Direct).expect("room for 3 GiB");
    let buffer = alluvium_runtime::disk::AlignedBuf::zeroed(WRITE_BYTES);
    let pass = || {
        let begun = Instant::now();
        for at in (0..FILE_BYTES).step_by(WRITE_BYTES) {
            file.write_at(at, &buffer).expect("written");
        }
        (FILE_BYTES >> 20) as f64 / begun.elapsed().as_secs_f64()
    };
    pass();
    pass()
}
