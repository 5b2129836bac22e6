//! A load on a running server.

use std::io::Write;
use std::time::Duration;

use alluvium_bench::latency::{Latencies, QUANTILES};
use alluvium_bench::load::{Observer, Second, Setting};
use alluvium_bench::{Error, Outcome, Workload};
use alluvium_client::Guarantee;
use alluvium_runtime::tasks::Tasks;
use clap::{Args, ValueEnum};

use crate::command::Common;
use crate::exit::{Code, Failure};
use crate::interrupt;
use crate::output::{Output, warn};
use crate::units::{duration, size};

#[derive(Debug, Args)]
pub(super) struct Load {
    /// Messages a second, all producers together; 0 for as many as go. With a rate, messages are sent when they are due, whatever
    /// the server does, and measured from then
    #[arg(long, value_name = "MESSAGES", default_value_t = 0)]
    rate: u64,
    /// How often messages that are due are sent, in microseconds: at least 250
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 250)]
    tick_us: u64,
    /// Bytes of a message: at least 32, which say what it is
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "1KiB")]
    message_size: u64,
    /// Topics, made for the run
    #[arg(long, default_value_t = 1)]
    topics: u32,
    /// Partitions of each topic
    #[arg(short, long, default_value_t = 1)]
    partitions: u32,
    /// Producers of each topic
    #[arg(long, default_value_t = 1)]
    producers: u32,
    /// Subscriptions of each topic; each gets every message
    #[arg(long, default_value_t = 1)]
    subscriptions: u32,
    /// Consumers of each subscription; 0 for none. More of them than partitions share them, and the order is not verified then
    #[arg(long, default_value_t = 1)]
    consumers: u32,
    /// Different keys, in turn; 0 for messages without a key
    #[arg(long, default_value_t = 0)]
    keys: u32,
    /// Close batches at this size
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "64KiB")]
    batch_bytes: u64,
    /// Wait this long for company before a batch that isn't full is sent
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "0ms")]
    linger: Duration,
    /// The most bytes of each producer that are queued or in flight; of all together, this or 64 MiB, and 64 KiB each
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "8MiB")]
    window_bytes: u64,
    /// The most bytes of each consumer that are on their way or wait
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "8MiB")]
    prefetch_bytes: u64,
    /// What is promised when a message is acknowledged
    #[arg(long, value_enum, default_value_t)]
    guarantee: GuaranteeArg,
    /// How long to measure
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30s")]
    duration: Duration,
    /// How long the load runs before it is measured
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5s")]
    warm_up: Duration,
    /// Publish so many bytes first, as fast as it goes, and measure how fast they are read back
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "0")]
    backlog: u64,
    /// Where the topics are made: tenant/namespace
    #[arg(long, value_name = "NAMESPACE", default_value = "public/default")]
    namespace: String,
    /// Leave the topics there
    #[arg(long)]
    keep: bool,
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

impl Load {
    pub(super) async fn run(self, common: &Common) -> Result<(), Failure> {
        let server = common.server.connect().await?.server().to_owned();
        let workload = self.workload();
        let (stop, _failures) = Tasks::new();
        let mut teller = Teller { output: common.output };
        let outcome = {
            let mut running = Box::pin(alluvium_bench::run(&server, &workload, &stop, &mut teller));
            tokio::select! {
                biased;
                outcome = &mut running => outcome,
                () = interrupt::told_to_stop() => {
                    stop.stop();
                    interrupt::finish("the result was there", running).await?
                }
            }
        };
        let outcome = outcome.map_err(failure)?;
        common.output.done(&text(&outcome), &outcome.to_json())?;
        match outcome.verdict() {
            Err(why) => Err(Failure::new(Code::Data, "the run is no good").because(why).named("BENCH_FAILED")),
            Ok(()) if outcome.is_interrupted => Err(Failure::new(Code::Interrupted, "interrupted")),
            Ok(()) => Ok(()),
        }
    }

    fn workload(&self) -> Workload {
        let whole = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        Workload {
            rate: self.rate,
            tick: Duration::from_micros(self.tick_us),
            message_size: whole(self.message_size),
            topics: self.topics,
            partitions: self.partitions,
            producers: self.producers,
            subscriptions: self.subscriptions,
            consumers: self.consumers,
            keys: self.keys,
            batch_bytes: whole(self.batch_bytes),
            linger: self.linger,
            window_bytes: whole(self.window_bytes),
            prefetch_bytes: self.prefetch_bytes,
            guarantee: match self.guarantee {
                GuaranteeArg::None => Guarantee::None,
                GuaranteeArg::Leader => Guarantee::Leader,
                GuaranteeArg::Quorum => Guarantee::Quorum,
            },
            duration: self.duration,
            warm_up: self.warm_up,
            backlog_bytes: self.backlog,
            namespace: self.namespace.clone(),
            keep: self.keep,
        }
    }
}

/// Why there is no result, as a command's failure.
pub(super) fn failure(error: Error) -> Failure {
    match error {
        Error::Workload(wrong) => wrong.into_iter().fold(Failure::usage("the load is wrong"), Failure::because),
        Error::Client { what, source } => Failure::from(source).of(what),
        Error::System { what, source } => Failure::io(what, &source),
        error @ Error::Replay(_) => Failure::new(Code::Data, error.to_string()),
        error @ Error::Stopped(_) => Failure::new(Code::Internal, error.to_string()),
    }
}

/// Says on standard error how it goes.
pub(super) struct Teller {
    pub(super) output: Output,
}

impl Observer for Teller {
    fn begins(&mut self, setting: &Setting, workload: &Workload) {
        let percent = setting.busy_before * 100.0;
        if !setting.was_idle() {
            let sentence = format!("the machine was not idle: {percent:.0} % of its processors were busy before the load began");
            warn(self.output, &sentence, &serde_json::json!({ "busyBefore": setting.busy_before }));
        }
        say(&format!("{}\n{}; durability: {}", workload.describe(), place(setting), setting.durability));
    }

    fn second(&mut self, second: &Second) {
        let length = second.length.as_secs_f64().max(1e-9);
        let rate = |count: u64| count as f64 / length;
        let warm_up = if second.is_measured { "" } else { "  (warming up)" };
        say(&format!(
            "{:>6.1} s  published {:>9.0}/s  p50 {:>8.3} p99 {:>8.3} ms  delivered {:>9.0}/s  p50 {:>8.3} p99 {:>8.3} ms  behind {}  \
             errors {}{warm_up}",
            second.elapsed.as_secs_f64(),
            rate(second.published),
            millis(second.publish.micros[0]),
            millis(second.publish.micros[4]),
            rate(second.consumed),
            millis(second.end_to_end.micros[0]),
            millis(second.end_to_end.micros[4]),
            second.backlog,
            second.publish_errors,
        ));
    }
}

pub(super) fn say(text: &str) {
    // With standard error gone there is nobody left to tell.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

fn place(setting: &Setting) -> String {
    let machine = &setting.machine;
    format!(
        "{} ({} x {}, {:.0} GiB, Linux {}), {:.0} % busy before; server {} at {}",
        machine.host,
        machine.cpus,
        machine.processor,
        machine.memory_bytes as f64 / f64::from(1 << 30),
        machine.kernel,
        setting.busy_before * 100.0,
        setting.server_version,
        setting.server
    )
}

fn millis(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

/// What is shown to people at the end.
fn text(outcome: &Outcome) -> String {
    let load = &outcome.workload;
    let megabytes = |rate: f64| rate * load.message_size as f64 / 1e6;
    let (published, consumed) = (outcome.publish_rate(), outcome.consume_rate());
    let mut lines = vec![
        load.describe(),
        format!("{}; durability: {}", place(&outcome.setting), outcome.setting.durability),
        format!(
            "published {published:.0} messages/s ({:.1} MB/s) over {:.1} s, {} errors",
            megabytes(published),
            outcome.totals.publish_time.as_secs_f64(),
            outcome.totals.publish_errors
        ),
    ];
    if outcome.delivered > 0 {
        let time = outcome.totals.consume_time.as_secs_f64();
        lines.push(format!("delivered {consumed:.0} messages/s ({:.1} MB/s) over {time:.1} s", megabytes(consumed)));
    }
    let names = QUANTILES.map(|(quantile, _)| if quantile >= 1.0 { "max".to_owned() } else { format!("{}", quantile * 100.0) });
    lines.push(format!("{:<15}{:>10}{}", "ms", "mean", names.map(|name| format!("{name:>10}")).concat()));
    let kinds = [
        ("publish", &outcome.totals.publish),
        ("schedule delay", &outcome.totals.delay),
        ("end to end", &outcome.totals.end_to_end),
    ];
    lines.extend(kinds.into_iter().filter(|(_, latencies)| latencies.count() > 0).map(|(name, latencies)| row(name, latencies)));
    lines.push(match (outcome.is_verified, outcome.faults.is_empty()) {
        (false, _) => "nobody consumed: content, order and count are not verified".to_owned(),
        (true, true) => {
            let order =
                if load.is_ordered() { ", in order" } else { "; several consumers share a partition: order not verified" };
            format!("verified: {} sent, {} delivered, whole and once{order}", outcome.sent, outcome.delivered)
        }
        (true, false) => format!("WRONG: {}", outcome.faults),
    });
    lines.join("\n")
}

fn row(name: &str, latencies: &Latencies) -> String {
    let cells = QUANTILES.map(|(quantile, _)| format!("{:>10.3}", millis(latencies.micros(quantile)))).concat();
    format!("{name:<15}{:>10.3}{cells}", latencies.mean_micros() / 1000.0)
}
