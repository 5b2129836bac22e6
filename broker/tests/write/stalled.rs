//! Clients that do not read, of brokers that do not own what they consume.

use std::time::Duration;

use alluvium_broker::config::Config;
use alluvium_proto::v1;
use alluvium_proto::v1::Guarantee;
use alluvium_runtime::clock::Clock;

use crate::cluster::{Cluster, batch, config, eventually};
use crate::consuming::{Consuming, Reading};
use crate::forwarding::place;

/// The least that there may be for what is on its way to clients.
const DELIVERY_BYTES_MAX: usize = 16 << 20;
/// More than a connection takes in, and what may wait of one owner.
const MESSAGES: u64 = 40;
const MESSAGE_BYTES: usize = 512 << 10;
/// Longer than a client may leave unread what waits for it.
const LONG: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q6_what_clients_do_not_read_goes_back_and_makes_room_for_others() {
    // It was kept for as long as they lived, and nobody else was given anything of another broker.
    let cluster = Cluster::start(1).await;
    let here = cluster.named("here", Config { delivery_bytes_max: DELIVERY_BYTES_MAX, ..config() }).await;
    let there = cluster.named("there", config()).await;
    here.make_topic(1, v1::Policies::default()).await;
    place(&cluster, &["there"]).await;
    eventually("both see both", async || here.broker.live_brokers().len() == 2 && there.broker.live_brokers().len() == 2).await;
    let mut stream = there.open(Guarantee::Quorum, "").await;
    let payload = "x".repeat(MESSAGE_BYTES);
    for id in 0..MESSAGES {
        stream.send(id, 0, 0, batch(0, &[&payload])).await;
        assert_eq!(stream.outcome().await, (id, Ok(id)));
    }
    let mut still = Vec::new();
    for subscription in ["s", "t"] {
        let channel = here.another_channel().await;
        still.push(Consuming::open_at(channel, subscription, "", false).await.expect("opens"));
    }
    let mut reading = Reading::open_at(here.another_channel().await, None).await;
    let all: Vec<(u32, u64)> = (0..MESSAGES).map(|offset| (0, offset)).collect();
    let read = async {
        let mut other = Consuming::open_at(here.another_channel().await, "u", "", false).await.expect("opens");
        let mut taken = Vec::new();
        while taken.len() < all.len() {
            taken.extend(other.try_take(LONG).await);
        }
        taken
    };
    assert_eq!(Clock::system().timeout(LONG, read).await.expect("there is room for who reads"), all);
    for mut consuming in still {
        assert_eq!(consuming.take(all.len()).await, all, "each once and in order, once they read");
        assert_eq!(consuming.ack(0, MESSAGES - 1).await, None);
    }
    assert_eq!(reading.take(all.len()).await, all);
    drop((stream, reading));
    here.drain().await;
    there.drain().await;
}
