//! Messages as lines.
//!
//! [`start`] is where to begin, [`print`] the lines. Through a subscription, a message is acknowledged once its line has been
//! handed to whoever reads standard output, and the acknowledgements are durable before the command ends.

mod print;
mod start;

use std::collections::BTreeSet;
use std::time::Duration;

use alluvium_client::admin::Admin;
use alluvium_client::{Client, Consumer, Delivery, Error, Reader};
use alluvium_runtime::clock::Clock;
use clap::Args;
use futures::FutureExt;
use serde_json::json;

use self::print::Printer;
pub(crate) use self::start::StartAt;
use crate::command::Common;
use crate::exit::{Code, Failure, Subject, about};
use crate::interrupt;
use crate::output::{Output, warn};
use crate::subscription::Kind;

/// Lines handed over at a time.
const CHUNK: u64 = 1000;
/// Without following: how long nothing may come before the subscription is asked whether anything is left.
const IDLE: Duration = Duration::from_millis(300);
/// Without following: how long nothing may come of what is left before it is given up.
const STALL: Duration = Duration::from_secs(30);
/// The same, while messages wait for their delay: what can't be read waits a minute until it is tried and reported again, and
/// what may not overtake it waits behind it.
const STALL_BEHIND_DELAY: Duration = Duration::from_secs(75);
/// The same, once something was reported that can't be delivered.
const STALL_BEHIND_DAMAGE: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub(crate) struct Consume {
    /// tenant/namespace/topic
    topic: String,
    /// Through this subscription, created if it does not exist; without one, nothing is acknowledged
    #[arg(short, long, value_name = "NAME")]
    subscription: Option<String>,
    /// Who gets which message, of a new subscription; an existing one keeps its own
    #[arg(long = "type", value_enum, requires = "subscription")]
    kind: Option<Kind>,
    /// What this consumer is called in figures
    #[arg(long, value_name = "NAME", requires = "subscription")]
    consumer: Option<String>,
    /// Take an exclusive subscription over from whoever holds it
    #[arg(long, requires = "subscription")]
    takeover: bool,
    /// Where to begin: earliest, latest, an offset, a time, or how long ago. A subscription that exists goes on where it is
    #[arg(long, default_value = "earliest")]
    from: StartAt,
    /// These partitions only
    #[arg(short, long = "partition", value_delimiter = ',')]
    partitions: Vec<u32>,
    /// Stop after so many messages
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Wait for more at the end, which is what happens unless --no-follow is given
    #[arg(long, overrides_with = "no_follow")]
    follow: bool,
    /// Stop at the end rather than wait for more
    #[arg(long)]
    no_follow: bool,
    /// Print partition, offset and key before each payload
    #[arg(short, long)]
    long: bool,
    /// Acknowledge what can't be delivered, after reporting it
    #[arg(long, requires = "subscription")]
    skip_undeliverable: bool,
}

/// What could not be delivered so far.
#[derive(Debug, Default)]
struct Damage {
    runs: u64,
    /// Of these, those that wait to be acknowledged by somebody.
    left: BTreeSet<(u32, u64, u64)>,
}

/// Where messages come from.
enum Source {
    Reader(Reader),
    Subscription { consumer: Consumer, admin: Admin, name: String },
}

impl Source {
    async fn next(&mut self) -> Option<Result<Delivery, Error>> {
        match self {
            Self::Reader(reader) => reader.next().await,
            Self::Subscription { consumer, .. } => consumer.next().await,
        }
    }
}

impl Consume {
    pub(crate) async fn run(self, common: &Common) -> Result<(), Failure> {
        let client = common.server.connect().await?;
        let mut source = self.source(&client).await?;
        let mut printer = Printer::new(common.output, self.long);
        let consumed = self.consume(&mut source, &mut printer, common.output).await;
        // Whatever happened, what was handed over is acknowledged.
        let closed = match source {
            Source::Reader(_) => Ok(()),
            Source::Subscription { consumer, .. } => {
                interrupt::finish("all acknowledgements were durable", consumer.close()).await?
            }
        };
        consumed?;
        closed.map_err(Failure::from)
    }

    async fn source(&self, client: &Client) -> Result<Source, Failure> {
        // What is asked for is enough.
        let messages = self.count.unwrap_or(CHUNK).min(CHUNK);
        let subject = Subject::new("subscription", "").of(&self.topic).creating();
        let Some(subscription) = &self.subscription else {
            let mut builder = client.reader(&self.topic).start(self.from.start()).partitions(self.partitions.iter().copied());
            if !self.follows() {
                builder = builder.stop_at_end();
            }
            return Ok(Source::Reader(builder.build().await.map_err(about(subject))?));
        };
        let mut builder = client
            .consumer(&self.topic)
            .subscription(subscription)
            .start(self.from.start())
            .partitions(self.partitions.iter().copied())
            .prefetch(messages, 8 << 20);
        builder = match self.kind {
            Some(Kind::Exclusive) => builder.exclusive(),
            Some(Kind::Shared) => builder.shared(),
            None => builder,
        };
        if let Some(name) = &self.consumer {
            builder = builder.name(name);
        }
        if self.takeover {
            builder = builder.takeover();
        }
        let consumer = builder.build().await.map_err(about(subject))?;
        Ok(Source::Subscription { consumer, admin: client.admin(), name: subscription.clone() })
    }

    const fn follows(&self) -> bool {
        !self.no_follow
    }

    async fn consume(&self, source: &mut Source, printer: &mut Printer, output: Output) -> Result<(), Failure> {
        let clock = Clock::system();
        let mut left = self.count.unwrap_or(u64::MAX);
        let mut damage = Damage::default();
        let interrupt = interrupt::told_to_stop();
        tokio::pin!(interrupt);
        while left > 0 {
            let first = tokio::select! {
                biased;
                () = &mut interrupt => break,
                first = self.wait(source, &clock, &damage) => first?,
            };
            let Some(first) = first else { break };
            let mut next = Some(first);
            let mut chunk = Vec::new();
            while let Some(item) = next.take() {
                match item {
                    Ok(delivery) => {
                        printer.add(&delivery);
                        chunk.push(delivery);
                        left -= 1;
                    }
                    Err(error @ Error::Undeliverable { .. }) => {
                        self.report(source, error, &mut damage, output).await?;
                    }
                    Err(error) => {
                        hand_over(source, printer, &chunk)?;
                        return Err(error.into());
                    }
                }
                if left > 0 && (chunk.len() as u64) < CHUNK {
                    next = source.next().now_or_never().flatten();
                }
            }
            if !hand_over(source, printer, &chunk)? {
                break;
            }
        }
        if damage.runs == 0 {
            return Ok(());
        }
        let advice = match source {
            Source::Reader(_) => "they are named above",
            Source::Subscription { .. } if self.skip_undeliverable => {
                "they are named above, and acknowledged: they won't come again"
            }
            Source::Subscription { .. } => "they are named above; --skip-undeliverable acknowledges such",
        };
        let what = format!("{} runs of messages could not be delivered", damage.runs);
        Err(Failure::new(Code::Data, what).advise(advice).named("UNDELIVERABLE"))
    }

    /// The next item; `None` at the end, unless following.
    async fn wait(
        &self,
        source: &mut Source,
        clock: &Clock,
        damage: &Damage,
    ) -> Result<Option<Result<Delivery, Error>>, Failure> {
        if self.follows() {
            return Ok(source.next().await);
        }
        let began = clock.mono();
        loop {
            if matches!(source, Source::Reader(_)) {
                return Ok(source.next().await);
            }
            if let Ok(item) = clock.timeout(IDLE, source.next()).await {
                return Ok(item);
            }
            let Source::Subscription { consumer, admin, name } = source else { return Ok(None) };
            consumer.acker().flush().await?;
            let (_, cursors) = admin.subscription_stats(&self.topic, name).await?;
            let mine = cursors.iter().filter(|c| self.partitions.is_empty() || self.partitions.contains(&c.partition));
            // What others hold, what waits for its delay or behind what can't be read is not at hand.
            let due: u64 = mine.clone().map(|c| c.backlog.saturating_sub(c.in_flight + c.delayed + c.blocked)).sum();
            let delayed: u64 = mine.map(|c| c.delayed).sum();
            if due == 0 {
                return Ok(source.next().now_or_never().flatten());
            }
            let stalled_for = clock.mono().since(began);
            if !damage.left.is_empty() && stalled_for >= STALL_BEHIND_DAMAGE {
                // What is left is what can't be delivered, and what may not overtake it.
                return Ok(None);
            }
            let patience = if delayed > 0 { STALL_BEHIND_DELAY } else { STALL };
            if stalled_for >= patience {
                let what = format!("{due} messages are left, but none has come for {} s", patience.as_secs());
                let because = match delayed {
                    0 => "the server can't read them now, and has not said why".to_owned(),
                    _ => format!("{delayed} others wait for their delay, and may have to come first"),
                };
                let failure = Failure::new(Code::Unavailable, what).because(because).named("NOTHING_COMES");
                return Err(failure.advise("see the server's log; try again later"));
            }
        }
    }

    async fn report(&self, source: &Source, error: Error, damage: &mut Damage, output: Output) -> Result<(), Failure> {
        let (text, reason) = (error.to_string(), error.reason().to_owned());
        let Error::Undeliverable { partition, first, last, producer, .. } = error else { return Err(error.into()) };
        // It is reported again and again as long as it is not acknowledged.
        if damage.left.contains(&(partition, first, last)) {
            return Ok(());
        }
        damage.runs += 1;
        let document = json!({
            "message": text, "reason": reason, "partition": partition, "first": first, "last": last, "producer": producer,
        });
        warn(output, &format!("{text} [{reason}]"), &document);
        if let (Source::Subscription { consumer, .. }, true) = (source, self.skip_undeliverable) {
            consumer.acker().ack_range(partition, first, last).await?;
        } else {
            damage.left.insert((partition, first, last));
        }
        Ok(())
    }
}

/// Writes lines out, then acknowledges them. Says whether anybody still reads.
fn hand_over(source: &Source, printer: &mut Printer, chunk: &[Delivery]) -> Result<bool, Failure> {
    if !printer.flush()? {
        return Ok(false);
    }
    if let Source::Subscription { consumer, .. } = source {
        for delivery in chunk {
            consumer.ack_later(delivery);
        }
    }
    Ok(true)
}
