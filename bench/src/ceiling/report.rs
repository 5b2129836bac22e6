//! What is told of ceilings.

use alluvium_runtime::disk::SyncMode;
use alluvium_runtime::machine::Machine;
use serde_json::{Value, json};

use super::{Blocks, DiskRow, Kind, LARGE, Measured};

/// One pipeline's figures.
#[derive(Clone, Debug)]
pub struct PipelineRow {
    /// Which.
    pub kind: Kind,
    /// What it came to.
    pub measured: Measured,
}

/// All figures.
#[derive(Clone, Debug)]
pub struct Report {
    /// The machine.
    pub machine: Machine,
    /// The share of its processors that was busy before.
    pub busy_before: f64,
    /// How a bookie would write here.
    pub mode: SyncMode,
    /// Bytes of a run.
    pub bytes: u64,
    /// The disk alone.
    pub disk: Vec<DiskRow>,
    /// Pipelines.
    pub pipelines: Vec<PipelineRow>,
}

const fn mode_name(mode: SyncMode) -> &'static str {
    match mode {
        SyncMode::Direct => "direct",
        SyncMode::Buffered => "through the page cache",
    }
}

const fn blocks_name(blocks: Blocks) -> &'static str {
    match blocks {
        Blocks::Recycled => "recycled",
        Blocks::Fresh => "fresh",
    }
}

impl DiskRow {
    /// What was done.
    pub fn name(&self) -> String {
        let (mode, kib) = (mode_name(self.mode), self.transfer_bytes >> 10);
        if self.is_read {
            format!("reads, {mode}, {kib} KiB")
        } else {
            format!("synced writes, {mode}, {}, {kib} KiB", blocks_name(self.blocks))
        }
    }

    /// A line.
    pub fn text(&self) -> String {
        let (p50, p99) = (self.latency.micros(0.5), self.latency.micros(0.99));
        format!("{:<55}{:>8.0} MB/s  p50 {p50:>6} p99 {p99:>6} us", self.name(), self.megabytes)
    }

    fn to_json(&self) -> Value {
        json!({
            "name": self.name(), "megabytesPerSecond": self.megabytes, "bytes": self.bytes, "transferBytes": self.transfer_bytes,
            "mode": mode_name(self.mode), "blocks": blocks_name(self.blocks), "read": self.is_read,
            "p50Micros": self.latency.micros(0.5), "p99Micros": self.latency.micros(0.99),
        })
    }
}

impl PipelineRow {
    /// A line.
    pub fn text(&self) -> String {
        let (p50, p99) = (self.measured.latency.micros(0.5), self.measured.latency.micros(0.99));
        let (name, megabytes, rate) = (self.kind.name(), self.measured.megabytes(), self.measured.rate());
        format!("{name:<55}{megabytes:>8.0} MB/s  p50 {p50:>6} p99 {p99:>6} us  {rate:>10.0} messages/s")
    }

    fn to_json(&self) -> Value {
        let Measured { messages, bytes, time, latency } = &self.measured;
        json!({
            "name": self.kind.name(), "megabytesPerSecond": self.measured.megabytes(), "messagesPerSecond": self.measured.rate(),
            "messages": messages, "bytes": bytes, "seconds": time.as_secs_f64(),
            "p50Micros": latency.micros(0.5), "p99Micros": latency.micros(0.99), "maxMicros": latency.micros(1.0),
        })
    }
}

impl Report {
    /// Megabytes a second of one pipeline.
    pub fn pipeline(&self, kind: Kind) -> Option<&Measured> {
        self.pipelines.iter().find(|row| row.kind == kind).map(|row| &row.measured)
    }

    /// The lower of what disk (at the bare pipeline's group size) and transport give: megabytes a second.
    pub fn lower_ceiling(&self) -> Option<f64> {
        let is_like_the_log = |row: &&DiskRow| {
            !row.is_read && row.mode == self.mode && row.blocks == Blocks::Recycled && row.transfer_bytes == LARGE.0
        };
        let disk = self.disk.iter().find(is_like_the_log)?.megabytes;
        Some(disk.min(self.pipeline(Kind::Blobs)?.megabytes()))
    }

    /// The bare pipeline as a share of the lower ceiling. Below [`SOUND_SHARE`](super::SOUND_SHARE) it flatters whoever is compared
    /// with it.
    pub fn share(&self) -> Option<f64> {
        let measured = self.pipeline(Kind::Saturated)?;
        // The disk carries what surrounds each message too.
        Some(measured.megabytes() * super::client::on_disk(1 << 10) / self.lower_ceiling()?)
    }

    /// The document.
    pub fn to_json(&self) -> Value {
        let Machine { host, kernel, processor, cpus, memory_bytes } = &self.machine;
        json!({
            "host": host, "kernel": kernel, "processor": processor, "cpus": cpus, "memoryBytes": memory_bytes,
            "busyBefore": self.busy_before, "mode": mode_name(self.mode), "bytes": self.bytes,
            "disk": self.disk.iter().map(DiskRow::to_json).collect::<Vec<_>>(),
            "pipelines": self.pipelines.iter().map(PipelineRow::to_json).collect::<Vec<_>>(),
            "lowerCeilingMegabytesPerSecond": self.lower_ceiling(),
            "bareShareOfLowerCeiling": self.share(),
        })
    }
}
