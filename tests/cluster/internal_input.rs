//! Nonsense on a bookie's internal port is refused for what it is, and changes nothing.

use alluvium_client::{Client, Message};
use alluvium_proto::internal::v1::bookie_service_client::BookieServiceClient;
use alluvium_proto::internal::v1::{self as wire, Missing, ReadRefusal, Refusal};
use alluvium_tests::Cluster;
use alluvium_types::entry::entry_checksum_over;
use alluvium_types::ids::{EntryId, LedgerId};
use alluvium_types::limits::Limits;
use bytes::Bytes;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::load::{PARTITIONS, TOPIC, assert_whole, create_topic};
use crate::wire::{channel, reason};

/// How many messages are there before, and come afterwards.
const MESSAGES: usize = 200;
/// How many requests of nonsense are made while memory is watched.
const NONSENSE: u64 = 100;
/// How much more memory a process may hold after all that it refused.
const GROWTH_BYTES_MAX: u64 = 64 << 20;

/// A bookie, its incarnation, and an open ledger of which it keeps entries.
struct Target {
    bookie: BookieServiceClient<Channel>,
    incarnation: Bytes,
    ledger: u64,
    epoch: u64,
    /// The last entry that is there.
    last: u64,
}

/// Publishes messages, their numbers from `from` on, to the partitions in turn.
async fn publish(client: &Client, from: usize) {
    let producer = client.producer(TOPIC).name("p").build().await.expect("built");
    for number in from..from + MESSAGES {
        let partition = u32::try_from(number).expect("small") % PARTITIONS;
        producer.send(Message::new(number.to_string()).partition(partition)).await.expect("stored");
    }
    producer.close().await.expect("closed");
}

async fn bookie(cluster: &Cluster) -> BookieServiceClient<Channel> {
    BookieServiceClient::new(channel(cluster.internal_url("bookie-0")).await)
}

impl Target {
    async fn find(cluster: &Cluster, client: &Client) -> Self {
        let mut bookie = bookie(cluster).await;
        let bookies = client.admin().list_bookies().await.expect("listed");
        let said = bookies.iter().find(|bookie| bookie.name == "bookie-0").expect("it lives").incarnation.replace('-', "");
        let bytes = (0..16).map(|at| u8::from_str_radix(&said[2 * at..2 * at + 2], 16).expect("hexadecimal digits"));
        let incarnation: Bytes = bytes.collect::<Vec<u8>>().into();
        let ledgers = client.admin().list_ledgers(false).await.expect("listed");
        let list = wire::ListRequest { incarnation: incarnation.clone(), after: None, limit: 1000 };
        let here = bookie.list(list).await.expect("listed").into_inner().ledgers;
        let open = |id| ledgers.iter().find(|l| l.id == id && l.last_entry.is_none() && !l.essential);
        let found = here.iter().find_map(|l| Some((l, open(l.ledger)?, l.last?)));
        let (here, ledger, last) = found.expect("an open ledger with entries");
        assert_eq!(here.fenced, None);
        Self { bookie, incarnation, ledger: ledger.id, epoch: ledger.epoch, last }
    }

    /// Adds an entry to a ledger on a stream of its own; how it was refused.
    async fn add(&mut self, ledger: u64, entry: wire::AddEntry) -> Result<Refusal, Status> {
        let add = Some(wire::add_request::Add::Entry(entry));
        let request = wire::AddRequest { incarnation: self.incarnation.clone(), ledger, add };
        let mut answers = self.bookie.add(futures::stream::iter([request])).await?.into_inner();
        let answer = answers.message().await?.expect("an answer");
        Ok(answer.added.first().expect("it is about the one").refusal())
    }

    /// The same, by a writer of this epoch, with the checksum that it must have.
    async fn write(&mut self, ledger: u64, epoch: u64, entry: u64, body: Bytes) -> Refusal {
        self.add(ledger, sound(ledger, entry, wire::add_entry::Adder::WriterEpoch(epoch), body)).await.expect("answered")
    }

    async fn read(&mut self, ledger: u64, first: u64, last: u64, bytes_max: u64) -> wire::ReadResponse {
        let incarnation = self.incarnation.clone();
        let read = wire::ReadRequest { incarnation, ledger, first, last, bytes_max, fence: None };
        self.bookie.read(read).await.expect("answered").into_inner()
    }

    async fn fence(&mut self, ledger: u64, recovery_number: u64) -> wire::FenceResponse {
        let fence = wire::FenceRequest { incarnation: self.incarnation.clone(), ledger, recovery_number };
        self.bookie.fence(fence).await.expect("answered").into_inner()
    }
}

fn sound(ledger: u64, entry: u64, adder: wire::add_entry::Adder, body: Bytes) -> wire::AddEntry {
    let checksum = entry_checksum_over(LedgerId::new(ledger), EntryId::new(entry), &body).get();
    wire::AddEntry { entry, adder: Some(adder), lac: None, checksum, body }
}

/// A cluster with messages in it, and what there is to attack.
async fn begin() -> (Cluster, Client, Target) {
    let cluster = Cluster::start(3, 1);
    let client = create_topic(&cluster).await;
    publish(&client, 0).await;
    let target = Target::find(&cluster, &client).await;
    (cluster, client, target)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adds_that_nobody_may_make_are_refused_and_change_nothing() {
    let (mut cluster, client, mut target) = begin().await;
    let (ledger, epoch, next) = (target.ledger, target.epoch, target.last + 1);
    let body = Bytes::from_static(b"nonsense");
    assert_eq!(target.write(ledger, epoch - 1, next, body.clone()).await, Refusal::Stale, "an old epoch");
    assert_eq!(target.write(ledger, 0, u64::MAX, body.clone()).await, Refusal::Stale, "no epoch at all");
    assert_eq!(
        target.write(ledger, u64::MAX, next, body.clone()).await,
        Refusal::UnknownLedger,
        "an epoch that nobody opened it with"
    );
    for unknown in [0, ledger + 1_000_000, u64::MAX] {
        assert_eq!(target.write(unknown, epoch, 0, body.clone()).await, Refusal::UnknownLedger, "ledger {unknown}");
        let add = sound(unknown, 0, wire::add_entry::Adder::RecoveryNumber(u64::MAX), body.clone());
        assert_eq!(target.add(unknown, add).await.expect("answered"), Refusal::UnknownLedger, "a recovery of ledger {unknown}");
    }
    assert_eq!(target.write(ledger, epoch, 0, body.clone()).await, Refusal::Conflict, "another body under an entry's number");
    let large = vec![0; Limits::default().entry_bytes_max() + 1];
    assert_eq!(target.write(ledger, epoch, next, large.into()).await, Refusal::TooLarge);
    let writer = wire::add_entry::Adder::WriterEpoch(epoch);
    let damaged = wire::AddEntry { checksum: 7, ..sound(ledger, next, writer, body.clone()) };
    assert_eq!(target.add(ledger, damaged).await.expect("answered"), Refusal::Corrupt);

    let nobody = wire::AddEntry { adder: None, ..sound(ledger, next, writer, body.clone()) };
    let status = target.add(ledger, nobody).await.expect_err("nobody adds it");
    assert_eq!((status.code(), reason(&status)), (Code::InvalidArgument, ("MALFORMED".to_owned(), "adder".to_owned())));
    for (incarnation, code, said) in [
        (Bytes::from(vec![7; 16]), Code::FailedPrecondition, "WRONG_INCARNATION"),
        (Bytes::from(vec![7; 5]), Code::InvalidArgument, "MALFORMED"),
        (Bytes::new(), Code::InvalidArgument, "MALFORMED"),
    ] {
        let right = std::mem::replace(&mut target.incarnation, incarnation.clone());
        let status = target.add(ledger, sound(ledger, next, writer, body.clone())).await.expect_err("meant for another");
        assert_eq!((status.code(), reason(&status).0.as_str()), (code, said), "{status}");
        let fence = wire::FenceRequest { incarnation: incarnation.clone(), ledger, recovery_number: u64::MAX };
        let status = target.bookie.fence(fence).await.expect_err("meant for another");
        assert_eq!((status.code(), reason(&status).0.as_str()), (code, said), "{status}");
        let delete = wire::DeleteRequest { incarnation, ledger };
        let status = target.bookie.delete(delete).await.expect_err("meant for another");
        assert_eq!((status.code(), reason(&status).0.as_str()), (code, said), "{status}");
        target.incarnation = right;
    }
    let open = |epoch, class: wire::LedgerClass| wire::OpenRequest {
        incarnation: target.incarnation.clone(),
        ledger,
        epoch,
        class: class.into(),
    };
    let stale = target.bookie.open(open(epoch - 1, wire::LedgerClass::Bulk)).await.expect("answered").into_inner();
    assert_eq!(stale.refusal(), Refusal::Stale);
    let classless = target.bookie.open(open(epoch, wire::LedgerClass::Unspecified)).await.expect_err("of no class");
    assert_eq!(reason(&classless), ("MALFORMED".to_owned(), "class".to_owned()));

    // The log's own writer did not notice: its ledger is the same.
    publish(&client, MESSAGES).await;
    let now = target.read(ledger, 0, 0, 1).await;
    assert_eq!(now.refusal(), ReadRefusal::Unspecified);
    let ledgers = client.admin().list_ledgers(false).await.expect("listed");
    assert!(ledgers.iter().any(|l| l.id == ledger && l.last_entry.is_none()), "it is open still: {ledgers:?}");
    assert_whole(&client, 2 * MESSAGES).await;
    assert!(cluster.process("bookie-0").is_ready());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_and_fences_of_nonsense_are_answered_with_what_is_so() {
    let (mut cluster, client, mut target) = begin().await;
    let (ledger, last) = (target.ledger, target.last);
    let beyond = target.read(ledger, last + 1, last + 3, 1 << 20).await;
    let missing: Vec<_> = beyond.entries.iter().map(|entry| (entry.entry, entry.missing())).collect();
    assert_eq!(missing, [1, 2, 3].map(|n| (last + n, Missing::Absent)), "behind the end there is nothing");
    for (first, last, bytes_max) in [(5, 4, 1 << 20), (u64::MAX, 0, 1), (0, 1, 0)] {
        assert_eq!(target.read(ledger, first, last, bytes_max).await.refusal(), ReadRefusal::Invalid, "{first} to {last}");
    }
    let all = target.read(ledger, 0, u64::MAX, u64::MAX).await;
    assert!(all.entries.len() <= 4096, "one answer is bounded whatever is asked for: {}", all.entries.len());
    assert_eq!(target.read(ledger, u64::MAX, u64::MAX, u64::MAX).await.entries.len(), 1);
    assert_eq!(target.read(u64::MAX, 0, u64::MAX, 1).await.refusal(), ReadRefusal::NoSuchLedger);
    for up_to in [last, u64::MAX] {
        let key = Some(wire::find_request::Key::Offset(u64::MAX));
        let find = wire::FindRequest { incarnation: target.incarnation.clone(), ledger, key, up_to };
        assert_eq!(target.bookie.find(find).await.expect("answered").into_inner().entry, Some(last));
    }
    let keyless = wire::FindRequest { incarnation: target.incarnation.clone(), ledger, key: None, up_to: 0 };
    let status = target.bookie.find(keyless).await.expect_err("nothing to find by");
    assert_eq!(reason(&status), ("MALFORMED".to_owned(), "key".to_owned()));

    // A ledger that nobody knows is fenced all the same (C7), the highest number wins, and nothing can be added to it.
    let strange = u64::MAX;
    let fenced = target.fence(strange, u64::MAX).await;
    assert_eq!((fenced.refusal(), fenced.lac, fenced.last), (ReadRefusal::Unspecified, None, None));
    assert_eq!(target.fence(strange, 0).await.refusal(), ReadRefusal::Stale);
    let incarnation = target.incarnation.clone();
    let open = wire::OpenRequest { incarnation, ledger: strange, epoch: u64::MAX, class: wire::LedgerClass::Bulk.into() };
    assert_eq!(target.bookie.open(open).await.expect("answered").into_inner().refusal(), Refusal::Fenced);
    assert_eq!(target.write(strange, u64::MAX, u64::MAX, Bytes::new()).await, Refusal::Fenced);
    // Nor is anything forgotten that metadata does not show to be deleted (B9).
    let delete = wire::DeleteRequest { incarnation: target.incarnation.clone(), ledger };
    assert!(!target.bookie.delete(delete).await.expect("answered").into_inner().deleted);

    let (pid, before) = (cluster.process("bookie-0").pid(), cluster.process("bookie-0").resident_bytes());
    for number in 0..NONSENSE {
        target.fence(u64::MAX / 2 + number, number).await;
        let read = target.read(ledger, number, u64::MAX, u64::MAX).await;
        assert!(read.entries.len() <= 4096);
    }
    let grown = cluster.process("bookie-0").resident_bytes().saturating_sub(before);
    println!("{NONSENSE} fences of unknown ledgers and boundless reads: {} KiB more", grown >> 10);
    assert!(grown < GROWTH_BYTES_MAX, "{grown}");

    publish(&client, MESSAGES).await;
    assert_whole(&client, 2 * MESSAGES).await;
    assert_eq!(cluster.process("bookie-0").pid(), pid);
    cluster.kill("bookie-0");
    cluster.restart("bookie-0");
    target.bookie = bookie(&cluster).await;
    assert_eq!(target.fence(strange, 1).await.refusal(), ReadRefusal::Stale, "a fence outlives a kill (B2)");
    assert_whole(&client, 2 * MESSAGES).await;
}

/// Who may fence is not asked on an internal port; a fence by nobody's recovery, above all that will ever be, costs the ledger and no
/// message (C69).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_by_nobodys_recovery_costs_no_message() {
    let (cluster, client, mut target) = begin().await;
    assert_eq!(target.fence(target.ledger, u64::MAX).await.refusal(), ReadRefusal::Unspecified);
    publish(&client, MESSAGES).await;
    assert_whole(&client, 2 * MESSAGES).await;
    let ledgers = client.admin().list_ledgers(false).await.expect("listed");
    let fenced = ledgers.iter().find(|l| l.id == target.ledger).expect("it is listed");
    assert!(fenced.last_entry.is_some(), "it is closed, and another one goes on: {fenced:?}\n{}", cluster.logs());
}
