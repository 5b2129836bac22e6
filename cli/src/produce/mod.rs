//! Lines as messages.
//!
//! [`input`] reads lines and finds their keys; [`assign`] decides which partition a line goes to and which of that
//! partition's lines it is; [`resume`] goes on where an earlier run under the same name ended; [`receipts`] keeps count.

mod assign;
mod input;
mod receipts;
mod resume;

use std::path::PathBuf;
use std::time::Duration;

use alluvium_client::{Client, Codec, Error, Guarantee, Message, Producer, ProducerBuilder};
use alluvium_runtime::clock::Clock;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use serde_json::json;

use self::assign::{Assign, Place};
use self::input::Lines;
use self::receipts::{Failed, Receipts};
use self::resume::Stored;
use crate::command::Common;
use crate::exit::{Code, Failure, Subject};
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
    /// Publish under a name: each line is stored once, whatever happens on the way. A name is for one input: one under which
    /// something is stored already is refused, unless --resume is given. The server forgets a name that was silent for a week
    #[arg(long)]
    name: Option<String>,
    /// Go on with an interrupted run under this name: leave out the lines that it has stored. Input (more may have come at
    /// its end), order of lines, --key-field, --key, --partition and the topic's number of partitions must be the same as
    /// then. Before anything is sent, the last line that must be stored in each partition, and some before it, are compared
    /// with what the log holds there: where one differs, is gone or can't be found, nothing is sent
    #[arg(long, requires = "name", requires = "file")]
    resume: bool,
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
    /// A line has failed, and nothing may follow it.
    Failed,
}

impl Produce {
    pub(crate) async fn run(self, common: &Common) -> Result<(), Failure> {
        let client = common.server.connect().await?;
        let message_bytes_max = client.message_bytes_max();
        let open = || Lines::open(self.file.as_deref(), message_bytes_max);
        let mut lines = open().await?;
        let refused = |error| Failure::from(error).about(&Subject::new("subscription", "").of(&self.topic).creating());
        let builder = self.builder(&client);
        let mut stored = None;
        if self.name.is_some() {
            let mut history = builder.history().await.map_err(|error| {
                let what = format!("cannot learn what is stored in {} under the name {}", self.topic, self.name());
                let passes = error.is_retryable();
                if passes { refused(error).of(what) } else { refused(error) }
            })?;
            let found = Stored::of(&history);
            match (found.total(), self.resume) {
                (0, true) => return Err(self.nothing_to_resume()),
                (0, false) => {}
                (_, false) => return Err(self.name_is_taken(&found)),
                (_, true) => {
                    lines.can_be_read_twice().await?;
                    self.verify(&client, &mut history, &found, &mut lines).await?;
                    lines = open().await?;
                }
            }
            stored = Some(found);
        }
        let producer = builder.build().await.map_err(refused)?;
        if stored.as_ref().is_some_and(|stored| stored.partitions() != producer.partitions()) {
            let text = format!("{} was given partitions meanwhile: nothing was sent", self.topic);
            return Err(Failure::new(Code::Refused, text).named("PARTITIONS_CHANGED"));
        }
        if let Some(partition) = self.partition.filter(|partition| *partition >= producer.partitions()) {
            let text = format!("there is no partition {partition}; {} has {}", self.topic, producer.partitions());
            return Err(Failure::usage(text).named("PARTITION_OUT_OF_RANGE"));
        }
        let mut receipts = Receipts::new(producer.partitions());
        let clock = Clock::system();
        let began = clock.mono();
        let ended = self.publish(&producer, &mut lines, stored.as_ref(), &mut receipts, &clock).await;
        // What was queued is promised, however reading ended.
        let finished = interrupt::finish("all was acknowledged", async {
            receipts.finish().await;
            producer.close().await
        });
        let finished = finished.await;
        let seconds = clock.mono().since(began).as_secs_f64();
        // A run that failed before anything came of it has nothing to sum up.
        if ended.as_ref().is_ok_and(|end| *end != End::Failed) || receipts.stored + receipts.skipped > 0 {
            self.summary(common, &receipts, seconds)?;
        }
        if let Some(failed) = receipts.failure() {
            return Err(self.resumable(self.failed(failed)));
        }
        let ended = ended.map_err(|failure| self.resumable(failure))?;
        let closed = finished.map_err(|failure| self.resumable(failure))?;
        closed.map_err(|error| self.resumable(Failure::from(error)))?;
        match ended {
            End::Interrupted => Err(self.resumable(Failure::new(Code::Interrupted, "interrupted"))),
            End::Complete | End::Failed => Ok(()),
        }
    }

    fn builder(&self, client: &Client) -> ProducerBuilder {
        let builder = client
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
            .timeout(self.timeout)
            .stop_on_failure();
        match &self.name {
            Some(name) => builder.name(name),
            None => builder,
        }
    }

    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    fn input_name(&self) -> String {
        self.file.as_ref().map_or_else(|| "standard input".to_owned(), |file| file.display().to_string())
    }

    fn assign(&self, partitions: u32) -> Assign {
        Assign::new(partitions, self.partition, self.name.is_some())
    }

    fn key(&self, line: &Bytes, lines: &Lines) -> Result<Option<Bytes>, Failure> {
        match (&self.key_field, &self.key) {
            (Some(field), _) => input::key_of(line, field).map_err(|problem| lines.wrong(&problem)),
            (None, Some(key)) => Ok(Some(key.clone().into())),
            (None, None) => Ok(None),
        }
    }

    fn message(&self, line: Bytes, key: Option<Bytes>) -> Message {
        let message = Message::new(line);
        let message = self.headers.iter().fold(message, |message, (name, value)| message.header(name, value.clone()));
        match key {
            Some(key) => message.key(key),
            None => message,
        }
    }

    async fn publish(
        &self,
        producer: &Producer,
        lines: &mut Lines,
        stored: Option<&Stored>,
        receipts: &mut Receipts,
        clock: &Clock,
    ) -> Result<End, Failure> {
        let mut assign = self.assign(producer.partitions());
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
            let key = self.key(&line, lines)?;
            let place = assign.place(key.as_ref().map(|key| producer.partition_of(key)));
            if place.is_some_and(|place| stored.is_some_and(|stored| stored.has(place))) {
                receipts.skipped();
                continue;
            }
            let bytes = line.len();
            let mut message = self.message(line, key);
            if let Some(Place { partition, number }) = place {
                message = message.partition(partition);
                if self.name.is_some() {
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
            let pending = match producer.queue(message).await {
                Ok(pending) => pending,
                Err(error @ Error::Invalid { .. }) => return Err(lines.wrong(&error.to_string()).named(error.reason())),
                // A line before it failed; its receipt says why.
                Err(Error::Behind { .. }) => return Ok(End::Failed),
                Err(error) => return Err(Failure::from(error).of(format!("line {} was not sent", lines.place()))),
            };
            if !receipts.add(pending, bytes, lines.number()) {
                return Ok(End::Failed);
            }
        }
    }

    /// The first line that failed, and what is true of those behind it.
    fn failed(&self, failed: Failed) -> Failure {
        let Failed { line, error, stored_behind, unknown_behind } = failed;
        let known = if error.outcome_unknown() { "may or may not be stored" } else { "is not stored" };
        let failure = Failure::from(error).of(format!("line {line} of {} {known}", self.input_name()));
        match (stored_behind, unknown_behind) {
            (0, 0) => failure.because("those before it are stored, those behind it are not"),
            (stored, unknown) => failure.because(format!(
                "those before it are stored; of those behind it, which were on their way, {stored} are stored and {unknown} may be"
            )),
        }
    }

    fn resumable(&self, failure: Failure) -> Failure {
        match (&self.name, &self.file) {
            (Some(_), Some(_)) if self.resume => failure.advise("run the same command again: it goes on where the log ends"),
            (Some(_), Some(_)) => failure.advise("run the same command again with --resume: it goes on where the log ends"),
            _ => failure,
        }
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
