//! Any process of a cluster is killed at any moment, one at a time, under a steady load.

use std::time::{Duration, Instant};

use alluvium_client::Client;
use alluvium_tests::{Cluster, eventually};
use alluvium_types::key_hash::key_hash;

use crate::gaps::{Event, Gaps};
use crate::load::LIMIT;
use crate::traffic::{Rate, Traffic, owned};

const RATE: Rate = Rate { topic: "public/default/many", partitions: 100, messages: 5_000 };
const BROKERS: [&str; 2] = ["broker-0", "broker-1"];
const BOOKIES: usize = 3;
/// What is killed: its kind, and its names.
const VICTIMS: [(&str, &[&str]); 3] =
    [("broker", &BROKERS), ("bookie", &["bookie-0", "bookie-1", "bookie-2"]), ("etcd", &["etcd"])];
/// When as many partitions are owned as so long before, none is on the move.
const SETTLED: Duration = Duration::from_millis(500);
/// How long the load runs before a kill, at most.
const BEFORE_MS: u64 = 1_000;
/// How long a victim stays away, at most: longer than its session.
const AWAY_MS: u64 = 3_000;

/// A generator of its own, so that a run repeats its choices.
struct Dice(u32);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        u64::from(key_hash(&self.0.to_le_bytes())) % limit
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[usize::try_from(self.below(all.len() as u64)).expect("small")]
    }
}

async fn kill_one_at_a_time(kills: usize, seed: u32) {
    println!("{kills} kills, seed {seed}");
    let mut cluster = Cluster::prepare(BOOKIES, BROKERS.len());
    // Who is back is given its part before the next one goes.
    BROKERS.iter().for_each(|broker| cluster.configure(broker, "rebalance_after_ms = 500\n"));
    cluster.start_members();
    let mut dice = Dice(seed);
    let client = Client::connect(cluster.reach_in_turn(&BROKERS)).await.expect("connected");
    let traffic = Traffic::start(&client, RATE).await;
    traffic.flows("at first").await;
    let begun = Instant::now();
    let mut events = Vec::new();
    for turn in 0..kills {
        let (kind, names) = VICTIMS[turn % VICTIMS.len()];
        let mut victim = *dice.of(names);
        let (before, away) = (dice.below(BEFORE_MS), dice.below(AWAY_MS));
        tokio::time::sleep(Duration::from_millis(before)).await;
        let mut of = None;
        if kind == "broker" {
            // One that owns nothing would not be missed.
            victim = names.iter().copied().max_by_key(|name| owned(&cluster, RATE.topic, name).len()).unwrap_or(victim);
            of = Some(owned(&cluster, RATE.topic, victim));
        }
        events.push(Event { at: Instant::now(), kind, of });
        cluster.kill(victim);
        tokio::time::sleep(Duration::from_millis(away)).await;
        cluster.restart(victim);
        traffic.flows(&format!("after {victim} was away for {away} ms")).await;
        for broker in BROKERS {
            cluster.wait_bookies(broker, BOOKIES);
        }
        if kind == "broker" {
            is_given_its_part(&cluster, victim).await;
        }
    }
    let took = begun.elapsed();
    let outcome = traffic.end(&client).await;
    let gaps = Gaps::measure(&events, &outcome.acknowledged, RATE.interval());
    let (total, again) = (outcome.total(), outcome.again);
    println!("{kills} kills in {took:.1?}: {total} acknowledged, all there once and in order; {again} delivered again");
    println!("unavailability of a partition at its publisher, by what was killed:\n{}", gaps.lines());
}

/// Waits until a broker that is back has what it is preferred for.
async fn is_given_its_part(cluster: &Cluster, broker: &str) {
    let mut before = 0;
    eventually("what was taken over goes back", LIMIT, || {
        let now = owned(cluster, RATE.topic, broker).len();
        let is_settled = now > 0 && now == std::mem::replace(&mut before, now);
        async move {
            tokio::time::sleep(SETTLED).await;
            is_settled.then_some(())
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_doubled_or_reordered_whatever_is_killed() {
    kill_one_at_a_time(9, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the long form of the one above: just kills"]
async fn nothing_is_lost_doubled_or_reordered_in_a_hundred_kills() {
    kill_one_at_a_time(100, 2).await;
}
