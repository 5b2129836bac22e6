//! Replays of history: how fast it is read by itself, and what a publish notices of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alluvium_client::Client;
use alluvium_runtime::clock::Clock;
use alluvium_runtime::tasks::Tasks;
use alluvium_types::time::Mono;
use tokio::sync::oneshot;

use super::sound;
use crate::content;
use crate::error::Error;
use crate::load::{Observer, Second, Setting, run};
use crate::own_thread;
use crate::result::Outcome;
use crate::workload::Workload;

/// The least share of its speed alone that a replay must keep beside a publish.
const SPEED_KEPT_MIN: f64 = 0.4;
/// How many partitions are replayed, each by itself, where one of many is asked for.
const REPLAYED: usize = 16;
/// How long what is told to end may take.
const END_LIMIT: Duration = Duration::from_secs(30);

/// A figure and what it is held against, or why there is none.
pub(super) type Compared = Result<(f64, f64), String>;

/// The 90th percentile of a publish at half its maximum, in microseconds: beside a replay, and without one.
///
/// `publish` is as fast as it goes; the history is of `backlog_bytes`.
pub(super) async fn beside_a_publish(
    server: &str,
    publish: &Workload,
    backlog_bytes: u64,
    stop: &Tasks,
    quiet: &mut dyn Observer,
) -> Result<Compared, Error> {
    let history = written(server, &Workload { backlog_bytes, keep: true, ..publish.clone() }, stop, quiet).await?;
    let compared = Box::pin(compare(server, publish, &history, stop, quiet)).await;
    history.delete().await?;
    compared
}

async fn compare(
    server: &str,
    publish: &Workload,
    history: &History,
    stop: &Tasks,
    quiet: &mut dyn Observer,
) -> Result<Compared, Error> {
    let alone = history.replay(&[]).await?;
    let most = run(server, publish, stop, quiet).await?;
    let millis = u64::try_from(most.totals.publish_time.as_millis()).unwrap_or(u64::MAX).max(1);
    let half = Workload { rate: (most.totals.published * 1000 / millis / 2).max(1), ..publish.clone() };
    let without = run(server, &half, stop, quiet).await?;
    let replaying = history.replay_until_told();
    let mut watch = Watch { read: Arc::clone(&replaying.read), clock: Clock::system(), marks: Vec::new() };
    let beside = run(server, &half, stop, &mut watch).await;
    replaying.end().await?;
    let beside = beside?;
    for outcome in [&most, &without, &beside] {
        if let Err(why) = sound(outcome) {
            return Ok(Err(why));
        }
    }
    let kept = watch.speed() / alone;
    if kept < SPEED_KEPT_MIN {
        return Ok(Err(format!("the replay kept {kept:.2} of its speed beside the publish: less than {SPEED_KEPT_MIN}")));
    }
    let p90 = |outcome: &Outcome| outcome.totals.publish.micros(0.9) as f64;
    Ok(Ok((p90(&beside), p90(&without))))
}

/// Megabytes a second of partitions that were written together with others, each replayed by itself, from when it is asked for.
pub(super) async fn one_of_many(
    server: &str,
    written_together: &Workload,
    stop: &Tasks,
    quiet: &mut dyn Observer,
) -> Result<Result<f64, String>, Error> {
    let history = written(server, written_together, stop, quiet).await?;
    let step = usize::try_from(written_together.partitions).unwrap_or(1).div_ceil(REPLAYED);
    let some: Vec<u32> = (0..written_together.partitions).step_by(step.max(1)).collect();
    let speed = history.replay(&some).await;
    history.delete().await?;
    Ok(Ok(speed? / 1e6))
}

/// A topic that was written and kept.
struct History {
    client: Client,
    topic: String,
    message_size: usize,
    messages: u64,
}

async fn written(server: &str, load: &Workload, stop: &Tasks, quiet: &mut dyn Observer) -> Result<History, Error> {
    let client = Client::connect(server).await.map_err(Error::client("cannot connect to replay"))?;
    let outcome = run(server, load, stop, quiet).await?;
    let [topic] = outcome.topics.as_slice() else { return Err(Error::Workload(vec!["history is of one topic".to_owned()])) };
    Ok(History { client, topic: topic.clone(), message_size: load.message_size, messages: outcome.sent })
}

impl History {
    /// Replays these partitions, one after the other; without any, all of them at once. Bytes of payload a second.
    async fn replay(&self, partitions: &[u32]) -> Result<f64, Error> {
        let clock = Clock::system();
        let (begin, read) = (clock.mono(), Arc::new(AtomicU64::new(0)));
        let replay = self.reader(Arc::clone(&read));
        if partitions.is_empty() {
            replay.pass(None).await?;
            let expected = self.messages * self.message_size as u64;
            let bytes = read.load(Ordering::Relaxed);
            if bytes != expected {
                return Err(Error::Replay(format!("{bytes} bytes were read of {expected}")));
            }
        }
        for partition in partitions {
            replay.pass(Some(*partition)).await?;
        }
        let took = clock.mono().since(begin).as_secs_f64();
        Ok(read.load(Ordering::Relaxed) as f64 / took.max(1e-9))
    }

    /// Replays all of it over and over, on a thread of its own.
    fn replay_until_told(&self) -> Replaying {
        let (tasks, _failures) = Tasks::new();
        let (end, ended) = oneshot::channel();
        let read = Arc::new(AtomicU64::new(0));
        let (replay, stop) = (self.reader(Arc::clone(&read)), tasks.clone());
        own_thread(&tasks, "replay", async move {
            let over_and_over = async {
                loop {
                    replay.pass(None).await?;
                }
            };
            let result = tokio::select! {
                biased;
                () = stop.stopping() => Ok(()),
                failed = over_and_over => failed,
            };
            // Whoever waits for it may have failed meanwhile.
            let _ = end.send(result);
        });
        Replaying { tasks, read, ended }
    }

    fn reader(&self, read: Arc<AtomicU64>) -> Replay {
        Replay { client: self.client.clone(), topic: self.topic.clone(), message_size: self.message_size, read }
    }

    async fn delete(self) -> Result<(), Error> {
        let what = format!("cannot delete {}", self.topic);
        self.client.admin().delete_topic(&self.topic).await.map_err(Error::client(what))
    }
}

/// A replay that goes on until it is told to end.
struct Replaying {
    tasks: Tasks,
    /// Bytes of payload so far.
    read: Arc<AtomicU64>,
    ended: oneshot::Receiver<Result<(), Error>>,
}

impl Replaying {
    async fn end(self) -> Result<(), Error> {
        self.tasks.stop();
        let result = self.ended.await.unwrap_or(Err(Error::Stopped("replay")));
        self.tasks.join(END_LIMIT).await;
        result
    }
}

/// Reads a topic and looks at every message.
struct Replay {
    client: Client,
    topic: String,
    message_size: usize,
    read: Arc<AtomicU64>,
}

impl Replay {
    /// From the oldest message to what is the last one now.
    async fn pass(&self, partition: Option<u32>) -> Result<(), Error> {
        let failed = || Error::client(format!("cannot replay {}", self.topic));
        let mut reader = self.client.reader(&self.topic).partitions(partition).stop_at_end().build().await.map_err(failed())?;
        while let Some(delivery) = reader.next().await {
            let delivery = delivery.map_err(failed())?;
            let payload = delivery.payload();
            content::read(payload, self.message_size)
                .map_err(|why| Error::Replay(format!("offset {} of partition {}: {why}", delivery.offset, delivery.partition)))?;
            self.read.fetch_add(payload.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Notes how far a replay has come at the end of each second of a load.
struct Watch {
    read: Arc<AtomicU64>,
    clock: Clock,
    marks: Vec<(Mono, u64)>,
}

impl Watch {
    /// Bytes a second while the load was measured.
    fn speed(&self) -> f64 {
        let (Some((begin, before)), Some((end, after))) = (self.marks.first(), self.marks.last()) else { return 0.0 };
        (after - before) as f64 / end.since(*begin).as_secs_f64().max(1e-9)
    }
}

impl Observer for Watch {
    fn begins(&mut self, _: &Setting, _: &Workload) {}

    fn second(&mut self, second: &Second) {
        if !second.is_measured {
            // The last one of the warm-up ends where what is measured begins.
            self.marks.clear();
        }
        self.marks.push((self.clock.mono(), self.read.load(Ordering::Relaxed)));
    }
}
