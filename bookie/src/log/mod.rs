//! The log: the one place where entries are, in files of one data directory.
//!
//! It owns every byte of those files (`docs/formats/log-file.md`): frames in groups, one synced write each; marks of ledgers;
//! indexes; recovery by scan; recycling and compaction. It knows nothing of requests, quorums or metadata, never acknowledges
//! anything, and never does I/O where bytes are decided: [`Writer`], [`Index`], [`Compaction`] are plain code; a shell (a
//! thread in production, the event loop in the simulator) moves [`GroupWrite`]s to the disk.
//!
//! Read in this order: `place`, `frame`, `head`, `group`, [`Writer`], `file`, [`Files`], `tail`, `chunks`, [`Reader`], `marks`, [`Index`],
//! `footer`, `scan`, `chain`, [`open`], [`Compaction`].

mod blocks;
mod chain;
mod chunks;
mod compaction;
mod config;
mod error;
mod file;
mod files;
mod footer;
mod frame;
mod group;
mod head;
mod index;
mod marks;
mod place;
#[cfg(feature = "planted")]
pub mod planted;
mod reader;
mod recovery;
mod scan;
mod tail;
mod window;
mod writer;

pub use blocks::{prewrite, write_blocks};
pub use compaction::{Compaction, Copy};
pub use config::Config;
pub use error::{AppendError, KeepReason, PrepareError, ReadError, RecoverError};
pub use file::Identity;
pub use files::{Files, Prepared, Release, Released};
pub use footer::Seal;
pub use frame::{EntryHead, Frame};
pub use group::GroupWrite;
pub use index::{Index, Stored, Usage};
pub use marks::{Above, Doubts, LastEntry, MarkTable, Marks, Opened};
pub use place::{FileId, GroupNumber, Location, Placed};
pub use reader::Reader;
pub use recovery::{Cut, Held, Log, Loss, Report, open};
pub use writer::{Mark, Writer};
