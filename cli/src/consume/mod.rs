//! Messages as lines.
//!
//! [`start`] is where to begin, [`print`] the lines. Through a subscription, a message is acknowledged once its line has been
//! handed to whoever reads standard output, and the acknowledgements are durable before the command ends.

mod print;
mod start;

use std::io::Write;
use std::time::Duration;

use alluvium_client::admin::Admin;
use alluvium_client::{Client, Consumer, Delivery, Error, Reader};
use alluvium_runtime::clock::Clock;
use clap::Args;
use futures::FutureExt;

use self::print::Printer;
pub(crate) use self::start::StartAt;
use crate::command::Common;
use crate::exit::{Code, Failure};
use crate::interrupt;
use crate::subscription::Kind;

/// Lines handed over at a time.
const CHUNK: u64 = 1000;
/// Without following: how long nothing may come before the subscription is asked whether anything is left.
const IDLE: Duration = Duration::from_millis(300);

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
        let consumed = self.consume(&mut source, &mut printer).await;
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
        let Some(subscription) = &self.subscription else {
            let mut builder = client.reader(&self.topic).start(self.from.start()).partitions(self.partitions.iter().copied());
            if !self.follows() {
                builder = builder.stop_at_end();
            }
            return Ok(Source::Reader(builder.build().await?));
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
        let consumer = builder.build().await?;
        Ok(Source::Subscription { consumer, admin: client.admin(), name: subscription.clone() })
    }

    const fn follows(&self) -> bool {
        !self.no_follow
    }

    async fn consume(&self, source: &mut Source, printer: &mut Printer) -> Result<(), Failure> {
        let clock = Clock::system();
        let mut left = self.count.unwrap_or(u64::MAX);
        let mut undeliverable = 0_u64;
        let interrupt = interrupt::told_to_stop();
        tokio::pin!(interrupt);
        while left > 0 {
            let first = tokio::select! {
                biased;
                () = &mut interrupt => break,
                first = self.wait(source, &clock) => first?,
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
                        undeliverable += 1;
                        self.report(source, error).await?;
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
        if undeliverable > 0 {
            let what = format!("{undeliverable} runs of messages could not be delivered");
            return Err(Failure::new(Code::Data, what).advise("they are named above; --skip-undeliverable acknowledges such"));
        }
        Ok(())
    }

    /// The next item; `None` at the end, unless following.
    async fn wait(&self, source: &mut Source, clock: &Clock) -> Result<Option<Result<Delivery, Error>>, Failure> {
        if self.follows() {
            return Ok(source.next().await);
        }
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
            // What others hold, or what waits for its delay, is not at hand.
            let due: u64 = mine.map(|c| c.backlog.saturating_sub(c.in_flight).saturating_sub(c.delayed)).sum();
            if due == 0 {
                return Ok(source.next().now_or_never().flatten());
            }
        }
    }

    async fn report(&self, source: &Source, error: Error) -> Result<(), Failure> {
        let _ = writeln!(std::io::stderr().lock(), "warning: {error} [{}]", error.reason());
        let (Source::Subscription { consumer, .. }, true) = (source, self.skip_undeliverable) else { return Ok(()) };
        if let Error::Undeliverable { partition, first, last, .. } = error {
            consumer.acker().ack_range(partition, first, last).await?;
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
