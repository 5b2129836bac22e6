//! A load on a running server: topics are made, consumers subscribe, producers send, and at the end every message has been
//! verified and the topics are gone.
//!
//! Producers share one current-thread runtime, consumers have others ([`publish`], [`consume`]); whoever called collects what they
//! counted each second ([`meter`]); [`threads`] joins them. Read [`run`] first.

mod consume;
mod figures;
mod meter;
mod publish;
mod setting;
mod threads;

use std::sync::Arc;
use std::time::Duration;

use alluvium_client::Client;
use alluvium_client::admin::{Admin, Policies};
use alluvium_runtime::clock::Clock;
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::tasks::Tasks;
use alluvium_types::time::Mono;

use self::consume::Groups;
use self::figures::Side;
use self::meter::Meter;
pub use self::meter::{Second, Summary, Totals};
pub use self::setting::Setting;
use self::threads::{Consuming, Publishing};
use crate::error::Error;
use crate::result::Outcome;
use crate::workload::Workload;

/// How long what is on its way may make no progress before it is given up.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

/// Watches a run.
pub trait Observer: Send {
    /// The load begins in this setting.
    fn begins(&mut self, setting: &Setting, workload: &Workload);
    /// A second is over.
    fn second(&mut self, second: &Second);
}

/// What both sides of a run are given.
#[derive(Debug)]
struct Plan {
    server: String,
    workload: Workload,
    topics: Vec<String>,
    clock: Clock,
    entropy: Entropy,
    published: Side,
    consumed: Side,
    groups: Groups,
}

impl Plan {
    /// How many messages a producer sends at most.
    fn messages_max(&self, producer: u32) -> u64 {
        if self.workload.backlog_bytes == 0 {
            return u64::MAX;
        }
        let (all, producers) =
            (self.workload.backlog_bytes.div_ceil(self.workload.message_size as u64), self.workload.all_producers());
        all / producers + u64::from(u64::from(producer) < all % producers)
    }
}

/// Puts a load on a server and measures. When `stop` is stopped it ends early, in order, with the result so far.
///
/// # Errors
/// When there is no result. A result may itself say that messages failed or were wrong: [`Outcome::verdict`].
pub async fn run(server: &str, workload: &Workload, stop: &Tasks, observer: &mut dyn Observer) -> Result<Outcome, Error> {
    let client = Client::connect(server).await.map_err(Error::client("cannot connect"))?;
    let wrong = workload.validate(client.message_bytes_max());
    if !wrong.is_empty() {
        return Err(Error::Workload(wrong));
    }
    let (clock, entropy) = (Clock::system(), Entropy::from_os());
    let mut setting = Setting::look(&clock, &client).await?;
    let admin = client.admin();
    let run = entropy.uuid().simple().to_string();
    let names: Vec<String> =
        (0..workload.topics).map(|number| format!("{}/bench-{}-{number}", workload.namespace, &run[..8])).collect();
    let mut made = Vec::new();
    let measured = async {
        for name in &names {
            let created = admin.create_topic(name, workload.partitions, Policies::default()).await;
            let topic = created.map_err(Error::client(format!("cannot create {name}")))?;
            made.push(name.clone());
            setting.durability = setting::durability(workload.guarantee, &topic.effective_policies.unwrap_or_default());
        }
        observer.begins(&setting, workload);
        let plan = Arc::new(Plan {
            server: server.to_owned(),
            workload: workload.clone(),
            topics: names.clone(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            published: Side::default(),
            consumed: Side::default(),
            groups: Groups::new(names.len(), workload),
        });
        Box::pin(measure(plan, setting, stop, observer)).await
    }
    .await;
    let deleted = if workload.keep { Ok(()) } else { delete(&admin, &made).await };
    let outcome = measured?;
    deleted?;
    Ok(outcome)
}

async fn delete(admin: &Admin, names: &[String]) -> Result<(), Error> {
    let mut deleted = Ok(());
    for name in names {
        let gone = admin.delete_topic(name).await.map_err(Error::client(format!("cannot delete {name}")));
        deleted = deleted.and(gone);
    }
    deleted
}

async fn measure(plan: Arc<Plan>, setting: Setting, stop: &Tasks, observer: &mut dyn Observer) -> Result<Outcome, Error> {
    let begin_ms = plan.clock.wall().as_millis();
    let mut gauge = Gauge { plan: Arc::clone(&plan), observer, seconds: Vec::new(), totals: Totals::default() };
    let is_backlog = plan.workload.backlog_bytes > 0;
    let reads = plan.groups.len() > 0;
    let mut consuming = if reads && !is_backlog { Some(Consuming::start(&plan).await?) } else { None };
    let mut publishing = Publishing::start(&plan).await?;
    let begin = publishing.go(&plan.clock);
    if is_backlog {
        gauge.publish_backlog(begin, &mut publishing, stop).await;
    } else {
        gauge.publish_for_a_time(begin, &mut publishing, stop).await;
    }
    let published = publishing.finish().await?;
    plan.groups.expect(&published.tallies);
    gauge.tail();
    if is_backlog && reads && !stop.is_stopping() {
        let begin = plan.clock.mono();
        let started = Consuming::start(&plan).await?;
        gauge.read_backlog(begin, &started, stop).await;
        consuming = Some(started);
    }
    let faults = match consuming {
        Some(consuming) => {
            gauge.drain(&consuming, stop).await;
            consuming.finish().await?;
            gauge.tail();
            plan.groups.finish()
        }
        None => crate::verify::Faults::default(),
    };
    Ok(Outcome {
        workload: plan.workload.clone(),
        topics: plan.topics.clone(),
        setting,
        begin_ms,
        end_ms: plan.clock.wall().as_millis(),
        sent: published.tallies.iter().map(|tally| tally.count).sum(),
        delivered: plan.groups.count(),
        seconds: gauge.seconds,
        totals: gauge.totals,
        faults,
        is_verified: reads && !(is_backlog && stop.is_stopping()),
        is_interrupted: stop.is_stopping(),
    })
}

/// Collects what both sides count.
struct Gauge<'a> {
    plan: Arc<Plan>,
    observer: &'a mut dyn Observer,
    seconds: Vec<Second>,
    totals: Totals,
}

impl Gauge<'_> {
    async fn publish_for_a_time(&mut self, begin: Mono, publishing: &mut Publishing, stop: &Tasks) {
        let (plan, load) = (Arc::clone(&self.plan), self.plan.workload.clone());
        let warm = begin.after(load.warm_up);
        let end = warm.after(load.duration);
        let mut meter = Meter::new(begin, load.readers().into(), 0);
        let mut now = begin;
        while now < end && !stop.is_stopping() && !publishing.has_ended() {
            let is_measured = now >= warm;
            let until = now.after(SECOND).min(if is_measured { end } else { warm });
            tokio::select! {
                biased;
                () = stop.stopping() => {}
                () = publishing.ended() => {}
                () = plan.clock.sleep_until(until) => {}
            }
            now = plan.clock.mono();
            let length = self.second(&mut meter, now, is_measured);
            if is_measured {
                self.totals.publish_time += length;
                self.totals.consume_time += length;
            }
        }
    }

    /// Publishes all of the backlog; that is measured too.
    async fn publish_backlog(&mut self, begin: Mono, publishing: &mut Publishing, stop: &Tasks) {
        let plan = Arc::clone(&self.plan);
        let mut meter = Meter::new(begin, plan.workload.readers().into(), 0);
        while !stop.is_stopping() && !publishing.has_ended() {
            let until = plan.clock.mono().after(SECOND);
            tokio::select! {
                biased;
                () = stop.stopping() => {}
                () = publishing.ended() => {}
                () = plan.clock.sleep_until(until) => {}
            }
            let length = self.second(&mut meter, plan.clock.mono(), true);
            self.totals.publish_time += length;
        }
    }

    /// Measures how fast all of it is read back, from when consumers began to subscribe: a small one may be there at once.
    async fn read_backlog(&mut self, begin: Mono, consuming: &Consuming, stop: &Tasks) {
        let plan = Arc::clone(&self.plan);
        let owed = self.totals.published * u64::from(plan.workload.readers());
        let mut meter = Meter::new(begin, plan.workload.readers().into(), owed);
        let mut last = begin;
        let mut is_over = false;
        while !is_over {
            // What came before it was over is counted once more.
            is_over = plan.groups.are_complete() || stop.is_stopping() || consuming.has_ended();
            if !is_over {
                let until = plan.clock.mono().after(SECOND);
                tokio::select! {
                    biased;
                    () = plan.groups.advanced() => {}
                    () = stop.stopping() => {}
                    () = plan.clock.sleep_until(until) => {}
                }
            }
            let before = self.totals.consumed;
            self.second(&mut meter, plan.clock.mono(), true);
            if self.totals.consumed > before {
                last = plan.clock.mono();
            } else if plan.clock.mono().since(last) > DRAIN_LIMIT {
                break;
            }
        }
        self.totals.consume_time = last.since(begin);
    }

    /// Waits until every subscription has what was sent, as long as that gets on.
    async fn drain(&mut self, consuming: &Consuming, stop: &Tasks) {
        let plan = Arc::clone(&self.plan);
        let (mut count, mut since) = (plan.groups.count(), plan.clock.mono());
        let unread = plan.workload.backlog_bytes > 0 && stop.is_stopping();
        while !unread && !plan.groups.are_complete() && !consuming.has_ended() {
            tokio::select! {
                biased;
                () = plan.groups.advanced() => {}
                () = plan.clock.sleep(SECOND) => {}
            }
            let (now, counted) = (plan.clock.mono(), plan.groups.count());
            if counted > count {
                (count, since) = (counted, now);
            } else if now.since(since) > DRAIN_LIMIT {
                return;
            }
        }
    }

    /// Ends a second; how long it was.
    fn second(&mut self, meter: &mut Meter, now: Mono, is_measured: bool) -> Duration {
        let (published, consumed) = (self.plan.published.take(), self.plan.consumed.take());
        let second = meter.second(now, is_measured, &published, &consumed);
        self.totals.errors(&published, &consumed);
        if is_measured {
            self.totals.published += published.messages;
            self.totals.consumed += consumed.messages;
            self.totals.latencies(&published, &consumed);
            self.seconds.push(second);
        }
        self.observer.second(&second);
        second.length
    }

    /// What came when nothing is measured any more.
    fn tail(&mut self) {
        let (published, consumed) = (self.plan.published.take(), self.plan.consumed.take());
        self.totals.errors(&published, &consumed);
        self.totals.latencies(&published, &consumed);
    }
}
