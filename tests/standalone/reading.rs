//! Reading without a subscription.

use alluvium_proto::v1;
use alluvium_tests::{Options, Server};

use crate::wire::{PLENTY, Reading, create_topic, message, publisher};

const TOPIC: &str = "public/default/t";
const PARTITIONS: u32 = 2;

async fn publish_everywhere(server: &Server, partitions: u32, payload: &str) {
    for partition in 0..partitions {
        let messages = vec![message(payload.to_owned())];
        let request = v1::PublishRequest { topic: TOPIC.to_owned(), partition: Some(partition), messages, ..Default::default() };
        publisher(server).await.publish(request).await.expect("published");
    }
}

#[tokio::test]
async fn a_reader_to_the_end_gets_all_that_there_was_and_nothing_of_what_came_meanwhile() {
    let server = Server::start(&Options::default());
    create_topic(&server, TOPIC, PARTITIONS).await;
    for _ in 0..3 {
        publish_everywhere(&server, PARTITIONS, "before").await;
    }
    // Nothing is read before there is credit: what is read then goes beyond where it was to end.
    let mut reading = Reading::open(&server, TOPIC, None).await;
    for _ in 0..3 {
        publish_everywhere(&server, PARTITIONS, "meanwhile").await;
    }
    let (mut all, mut faults) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        reading.grant(v1::Credit { messages: 1, bytes: 1000 }).await;
        assert!(reading.next(&mut all, &mut faults).await, "it goes on");
    }
    reading.grant(PLENTY).await;
    reading.read_on(&mut all, &mut faults).await;
    assert!(faults.is_empty() && all.iter().all(|(_, _, payload)| payload == "before"), "{faults:?} {all:?}");
    let mut places: Vec<(u32, u64)> = all.iter().map(|(partition, offset, _)| (*partition, *offset)).collect();
    places.sort_unstable();
    assert_eq!(places, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]);
}

#[tokio::test]
async fn a_reader_of_many_partitions_gets_on_in_all_of_them() {
    const MANY: u32 = 12;
    const EACH: u64 = 48;
    let server = Server::start(&Options::default());
    create_topic(&server, TOPIC, MANY).await;
    let payload = "x".repeat(64 << 10);
    for _ in 0..EACH {
        publish_everywhere(&server, MANY, &payload).await;
    }
    let mut reading = Reading::open(&server, TOPIC, None).await;
    reading.grant(PLENTY).await;
    let (mut all, mut faults) = (Vec::new(), Vec::new());
    reading.read_on(&mut all, &mut faults).await;
    assert_eq!((all.len() as u64, faults.len()), (u64::from(MANY) * EACH, 0));
    let half_way = |of| all.iter().position(|(partition, offset, _)| (*partition, *offset) == (of, EACH / 2)).expect("it came");
    let (first, last) = (0..MANY).map(half_way).fold((usize::MAX, 0), |(first, last), at| (first.min(at), last.max(at)));
    assert!(last - first < all.len() / 4, "from one to the next: {first} to {last} of {}", all.len());
}
