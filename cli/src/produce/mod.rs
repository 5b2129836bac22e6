//! Lines as messages.
//!
//! [`input`] reads lines and finds their keys; [`assign`] decides which partition a line goes to and which of that
//! partition's lines it is, so that a run under the same name goes on where the log ends; [`receipts`] keeps count.

mod assign;
mod input;
mod receipts;

use std::path::PathBuf;
use std::time::Duration;

use alluvium_client::{Codec, Guarantee, Message, Producer};
use alluvium_runtime::clock::Clock;
use clap::{Args, ValueEnum};
use serde_json::json;

use self::assign::{Assign, Place};
use self::input::Lines;
use self::receipts::Receipts;
use crate::command::Common;
use crate::exit::{Code, Failure};
use crate::interrupt;
use crate::units::{duration, show_size, size};

#[derive(Debug, Args)]
pub(crate) struct Produce {
    /// tenant/namespace/topic
    topic: String,
    /// Read lines from this file rather than from standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Lines are JSON objects: take the key from this field. Absent, null or empty: no key
    #[arg(long, value_name = "NAME", conflicts_with = "key")]
    key_field: Option<String>,
    /// The key of every message
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// A header of every message; may be repeated
    #[arg(long = "header", alias = "headers", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Send everything to this partition
    #[arg(short, long)]
    partition: Option<u32>,
    /// Publish under a name: each line is stored once, whatever happens on the way
    #[arg(long)]
    name: Option<String>,
    /// Leave out the lines that earlier runs under this name have stored. Automatic: with a name and a file. The input, its
    /// order, the way to its keys and the number of partitions must be the same in each run
    #[arg(long, value_enum, default_value_t, requires = "name")]
    resume: Resume,
    /// At most so many messages a second
    #[arg(long, value_name = "MESSAGES", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Close batches at this size
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "64KiB")]
    batch_bytes: u64,
    /// Wait this long for company before a batch that isn't full is sent
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "0ms")]
    linger: Duration,
    /// How batches are compressed
    #[arg(long, value_enum, default_value_t)]
    codec: CodecArg,
    /// What is promised when a message is acknowledged
    #[arg(long, value_enum, default_value_t)]
    guarantee: GuaranteeArg,
    /// How long a message may take before it is given up
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "2m")]
    timeout: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
enum Resume {
    /// With a name and a file
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum CodecArg {
    #[default]
    None,
    Lz4,
    Zstd,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum GuaranteeArg {
    /// Nothing
    None,
    /// On disk on one bookie; may still be lost
    Leader,
    /// On disk on an ack quorum of bookies
    #[default]
    Quorum,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// How reading the input ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Complete,
    Interrupted,
}

impl Produce {
    pub(crate) async fn run(self, common: &Common) -> Result<(), Failure> {
        let client = common.server.connect().await?;
        let message_bytes_max = client.message_bytes_max();
        let mut lines = Lines::open(self.file.as_deref(), message_bytes_max).await?;
        let producer = self.producer(&client).await?;
        let mut receipts = Receipts::new(producer.partitions());
        let clock = Clock::system();
        let began = clock.mono();
        let ended = self.publish(&producer, &mut lines, &mut receipts, &clock).await;
        // What was queued is promised, however reading ended.
        let finished = interrupt::finish("all was acknowledged", async { (receipts.finish().await, producer.close().await) });
        let finished = finished.await;
        let seconds = clock.mono().since(began).as_secs_f64();
        // A run that failed before anything came of it has nothing to sum up.
        if ended.is_ok() || receipts.stored + receipts.skipped > 0 {
            self.summary(common, &receipts, seconds)?;
        }
        let interrupted = ended? == End::Interrupted;
        let (stored, closed) = finished.map_err(|failure| self.resumable(failure))?;
        stored.and(closed).map_err(|error| self.resumable(Failure::from(error)))?;
        if interrupted { Err(self.resumable(Failure::new(Code::Interrupted, "interrupted"))) } else { Ok(()) }
    }

    async fn producer(&self, client: &alluvium_client::Client) -> Result<Producer, Failure> {
        let mut builder = client
            .producer(&self.topic)
            .codec(match self.codec {
                CodecArg::None => Codec::None,
                CodecArg::Lz4 => Codec::Lz4,
                CodecArg::Zstd => Codec::Zstd,
            })
            .guarantee(match self.guarantee {
                GuaranteeArg::None => Guarantee::None,
                GuaranteeArg::Leader => Guarantee::Leader,
                GuaranteeArg::Quorum => Guarantee::Quorum,
            })
            .batch_bytes(usize::try_from(self.batch_bytes).unwrap_or(usize::MAX))
            .linger(self.linger)
            .timeout(self.timeout);
        if let Some(name) = &self.name {
            builder = builder.name(name);
        }
        Ok(builder.build().await?)
    }

    const fn resumes(&self) -> bool {
        match self.resume {
            Resume::Auto => self.name.is_some() && self.file.is_some(),
            Resume::Always => true,
            Resume::Never => false,
        }
    }

    async fn publish(
        &self,
        producer: &Producer,
        lines: &mut Lines,
        receipts: &mut Receipts,
        clock: &Clock,
    ) -> Result<End, Failure> {
        let mut assign = Assign::new(producer.partitions(), self.partition, self.name.is_some());
        let mut stored = vec![None; producer.partitions() as usize];
        let began = clock.mono();
        let mut paced = 0_u64;
        let interrupt = interrupt::told_to_stop();
        tokio::pin!(interrupt);
        loop {
            let line = tokio::select! {
                biased;
                () = &mut interrupt => return Ok(End::Interrupted),
                line = lines.next() => line?,
            };
            let Some(line) = line else { return Ok(End::Complete) };
            let key = match (&self.key_field, &self.key) {
                (Some(field), _) => input::key_of(&line, field).map_err(|problem| lines.wrong(&problem))?,
                (None, Some(key)) => Some(key.clone().into()),
                (None, None) => None,
            };
            let mut message = Message::new(line.clone());
            for (name, value) in &self.headers {
                message = message.header(name, value.clone());
            }
            let place = assign.place(key.as_ref().map(|key| producer.partition_of(key)));
            if let Some(key) = key {
                message = message.key(key);
            }
            if let Some(Place { partition, number }) = place {
                message = message.partition(partition);
                if self.resumes() {
                    if number == 0 {
                        stored[partition as usize] = producer.last_sequence(partition).await?;
                    }
                    if stored[partition as usize].is_some_and(|last| number <= last) {
                        receipts.skipped();
                        continue;
                    }
                    message = message.sequence(number);
                }
            }
            if let Some(rate) = self.rate {
                // The time at which this one is due, were all sent evenly.
                let due =
                    began.after(Duration::from_secs(paced / rate) + Duration::from_secs(1) * share(paced % rate) / share(rate));
                paced += 1;
                clock.sleep_until(due).await;
            }
            let pending = producer.queue(message).await.map_err(|error| self.resumable(Failure::from(error)))?;
            receipts.add(pending, line.len()).map_err(|error| self.resumable(Failure::from(error)))?;
        }
    }

    fn resumable(&self, failure: Failure) -> Failure {
        if self.resumes() { failure.advise("run the same command again: it goes on where the log ends") } else { failure }
    }

    fn summary(&self, common: &Common, receipts: &Receipts, seconds: f64) -> Result<(), Failure> {
        let Receipts { stored, skipped, duplicates, bytes, .. } = receipts;
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = *stored as f64 / seconds.max(0.001);
        let skipped_text = if *skipped > 0 { format!("; {skipped} were stored by earlier runs") } else { String::new() };
        let sentence = format!("{stored} messages, {} in {seconds:.1} s: {rate:.0} a second{skipped_text}", show_size(*bytes));
        let last: Vec<_> = receipts.last().map(|(p, offset)| json!({ "partition": p, "offset": offset })).collect();
        let document = json!({
            "topic": self.topic, "stored": stored, "skipped": skipped, "duplicates": duplicates, "failed": receipts.failed,
            "bytes": bytes, "seconds": seconds, "last": last,
        });
        common.output.done(&sentence, &document)
    }
}

fn share(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
