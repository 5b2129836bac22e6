//! What the machine would let a server do: its disk, its transport, and a pipeline with nothing in it but what cannot be left out
//! (client → gRPC → checksum → log on the disk → acknowledgement), each part a process. The product's figures are told as shares of
//! these, measured in the same minutes.
//!
//! The pipeline uses the transport's settings ([`alluvium_runtime::net`]) and the log's file policy ([`alluvium_bookie::log`]) that
//! the product uses. Read in this order: [`Kind`], `client`, `part`, `log`, `broker`, `wire`, `disk`.

mod broker;
mod client;
mod disk;
mod files;
mod http;
mod log;
mod part;
mod process;
mod report;
mod wire;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use alluvium_runtime::clock::Clock;
use alluvium_runtime::disk::SyncMode;
use alluvium_runtime::machine::{CpuTimes, Machine};
use alluvium_runtime::tasks::Tasks;
use tokio::sync::oneshot;

pub use self::client::{Load, Measured};
pub use self::disk::DiskRow;
pub use self::files::Blocks;
pub use self::part::{Part, serve};
use self::process::Process;
pub use self::process::Starter;
pub use self::report::{PipelineRow, Report};
use crate::own_thread;

/// The share of the lower ceiling that the bare pipeline must reach: a slow one would flatter.
pub const SOUND_SHARE: f64 = 0.9;
/// A run that is not ended by its bytes ends after this.
const RUN_TIME_MAX: Duration = Duration::from_secs(60);
/// What latencies are measured for.
const LATENCY_TIME: Duration = Duration::from_secs(5);
const BATCH_BYTES: usize = 64 << 10;
const BLOB_BYTES: usize = 256 << 10;
/// Group and window at saturation: twice the group is in flight, so that one is filled while the other is written.
const LARGE: (usize, usize) = (4 << 20, 8 << 20);
/// The same where 99 of 100 are to be acknowledged within 2 ms.
const PROMPT: (usize, usize) = (1 << 20, 2 << 20);
/// The window over a bare broker and three logs.
const QUORUM_WINDOW: usize = 4 << 20;

/// One load on one bare pipeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The transport alone: blobs of 256 KiB, dropped where they arrive.
    Blobs,
    /// 1 KiB, as fast as it goes.
    Saturated,
    /// The same into blocks that were never written.
    SaturatedFresh,
    /// 1 KiB, with half of a smaller group's bytes waiting.
    Prompt,
    /// 100 B.
    Small,
    /// 1 KiB, one message in flight.
    OneInFlight,
    /// 1 KiB, 20,000 a second in an open loop.
    OpenLoop,
    /// 1 KiB through a broker to three logs, acknowledged by two: five processes.
    Quorum,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Blobs,
        Self::Saturated,
        Self::SaturatedFresh,
        Self::Prompt,
        Self::Small,
        Self::OneInFlight,
        Self::OpenLoop,
        Self::Quorum,
    ];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blobs => "gRPC blobs, 256 KiB",
            Self::Saturated => "bare, 1 KiB, saturated",
            Self::SaturatedFresh => "bare, 1 KiB, saturated, fresh blocks",
            Self::Prompt => "bare, 1 KiB, 1 MiB groups",
            Self::Small => "bare, 100 B, saturated",
            Self::OneInFlight => "bare, 1 KiB, one in flight",
            Self::OpenLoop => "bare, 1 KiB, 20,000 a second",
            Self::Quorum => "bare, 1 KiB, broker and three logs",
        }
    }

    /// What it is called on a command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Blobs => "blobs",
            Self::Saturated => "saturated",
            Self::SaturatedFresh => "fresh",
            Self::Prompt => "prompt",
            Self::Small => "small",
            Self::OneInFlight => "one",
            Self::OpenLoop => "rate",
            Self::Quorum => "quorum",
        }
    }

    fn load(self, bytes: u64) -> Load {
        let load = Load {
            message_size: 1 << 10,
            batch_bytes: BATCH_BYTES,
            window_bytes: LARGE.1,
            rate: 0,
            duration: RUN_TIME_MAX,
            bytes_max: bytes,
            is_blob: false,
        };
        match self {
            Self::Blobs => Load { message_size: BLOB_BYTES, batch_bytes: BLOB_BYTES, is_blob: true, ..load },
            Self::Saturated | Self::SaturatedFresh => load,
            Self::Prompt => Load { window_bytes: PROMPT.1, ..load },
            Self::Small => Load { message_size: 100, ..load },
            Self::OneInFlight => Load { window_bytes: 1, duration: LATENCY_TIME, ..load },
            Self::OpenLoop => Load { rate: 20_000, duration: LATENCY_TIME, ..load },
            Self::Quorum => Load { window_bytes: QUORUM_WINDOW, ..load },
        }
    }

    const fn group_bytes(self) -> usize {
        if matches!(self, Self::Prompt) { PROMPT.0 } else { LARGE.0 }
    }

    const fn blocks(self) -> Blocks {
        if matches!(self, Self::SaturatedFresh) { Blocks::Fresh } else { Blocks::Recycled }
    }
}

/// Measures ceilings in one folder. What it leaves there is used again, and gone once [`Ceiling::clean`] was called.
pub struct Ceiling<'a> {
    /// The folder: on the disk that the server writes to.
    pub dir: PathBuf,
    /// Bytes of a run: fewer than 3 GiB flatter, as the disk keeps them.
    pub bytes: u64,
    /// Starts the other processes.
    pub starter: &'a dyn Starter,
    /// Where threads begin.
    pub tasks: &'a Tasks,
}

impl Ceiling<'_> {
    fn folder(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Makes the files that are written again and again, so that no measurement waits for it.
    pub async fn prepare(&self) -> io::Result<()> {
        let (dir, bytes) = (self.folder("log-0"), self.bytes);
        self.tasks.block(move || files::Files::open(&dir, bytes, files::mode_of(&dir)?, Blocks::Recycled).map(drop)).await
    }

    /// Measures one pipeline.
    pub async fn pipeline(&self, kind: Kind) -> io::Result<PipelineRow> {
        let log = |number: usize, bytes: u64| {
            let folder = if kind.blocks() == Blocks::Fresh { "fresh".to_owned() } else { format!("log-{number}") };
            Part::Log { dir: self.folder(&folder), bytes, blocks: kind.blocks(), group_bytes: kind.group_bytes() }
        };
        let mut processes = Vec::new();
        match kind {
            Kind::Blobs => processes.push(self.start(Part::Sink)?),
            // A third of the bytes on each of three: as many for the disk.
            Kind::Quorum => {
                for number in 0..3 {
                    processes.push(self.start(log(number, self.bytes / 3))?);
                }
                let logs = processes.iter().map(|process| process.url().to_owned()).collect();
                processes.push(self.start(Part::Broker { logs })?);
            }
            _ => processes.push(self.start(log(0, self.bytes))?),
        }
        let url = processes.last().map(|process| process.url().to_owned()).unwrap_or_default();
        // The transport is far faster than the disk, and needs no file.
        let bytes = match kind {
            Kind::Quorum => self.bytes / 3,
            _ => self.bytes,
        };
        let load = kind.load(bytes);
        let (tell, told) = oneshot::channel();
        own_thread(self.tasks, "bare-client", async move {
            // Whoever waits for it may be gone.
            let _ = tell.send(client::run(&url, load).await);
        });
        let measured = told.await.map_err(|_| io::Error::other("the bare client's thread is gone"))??;
        // Who sends goes before who is sent to.
        while let Some(process) = processes.pop() {
            drop(process);
        }
        Ok(PipelineRow { kind, measured })
    }

    fn start(&self, part: Part) -> io::Result<Process> {
        Process::start(self.starter, &part)
    }

    /// Measures synced writes of one size.
    pub async fn write(&self, mode: SyncMode, blocks: Blocks, transfer_bytes: usize) -> io::Result<DiskRow> {
        let dir = self.folder(if blocks == Blocks::Fresh { "fresh" } else { "log-0" });
        let bytes = self.bytes;
        self.tasks.block(move || disk::write(&dir, bytes, mode, blocks, transfer_bytes)).await
    }

    /// Measures sequential reads.
    pub async fn read(&self, mode: SyncMode) -> io::Result<DiskRow> {
        let (dir, bytes) = (self.folder("log-0"), self.bytes);
        self.tasks.block(move || disk::read(&dir, bytes, mode)).await
    }

    /// Measures sequential reads in the way in which a bookie reads here.
    pub async fn read_as_a_bookie(&self) -> io::Result<DiskRow> {
        self.read(files::mode_of(&self.dir)?).await
    }

    /// Measures these pipelines, and the disk alone unless it is left out; `seen` is told of each figure as it comes.
    pub async fn measure(&self, kinds: &[Kind], with_disk: bool, seen: &mut (dyn FnMut(&str) + Send)) -> io::Result<Report> {
        let clock = Clock::system();
        let before = CpuTimes::now()?;
        clock.sleep(Duration::from_millis(500)).await;
        let busy_before = CpuTimes::now()?.busy_since(before);
        if with_disk || kinds.iter().any(|kind| *kind != Kind::Blobs) {
            seen("making files");
            self.prepare().await?;
        }
        let mode = files::mode_of(&self.dir)?;
        let mut report =
            Report { machine: Machine::here(), busy_before, mode, bytes: self.bytes, disk: Vec::new(), pipelines: Vec::new() };
        if with_disk {
            self.disk_rows(&mut report, seen).await?;
        }
        for kind in kinds {
            let row = self.pipeline(*kind).await?;
            seen(&row.text());
            report.pipelines.push(row);
        }
        Ok(report)
    }

    async fn disk_rows(&self, report: &mut Report, seen: &mut (dyn FnMut(&str) + Send)) -> io::Result<()> {
        let modes =
            if report.mode == SyncMode::Direct { &[SyncMode::Direct, SyncMode::Buffered][..] } else { &[SyncMode::Buffered] };
        for (mode, blocks) in modes.iter().flat_map(|mode| [(*mode, Blocks::Fresh), (*mode, Blocks::Recycled)]) {
            for transfer_bytes in disk::WRITE_BYTES {
                let row = self.write(mode, blocks, transfer_bytes).await?;
                seen(&row.text());
                report.disk.push(row);
            }
        }
        for mode in modes {
            let row = self.read(*mode).await?;
            seen(&row.text());
            report.disk.push(row);
        }
        Ok(())
    }

    /// Removes all that measurements made.
    pub fn clean(&self) -> io::Result<()> {
        files::remove(&self.dir, &["log-0", "log-1", "log-2", "fresh"])
    }
}
