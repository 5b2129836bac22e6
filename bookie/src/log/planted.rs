//! Bugs of this field's past, which the tests must find when one is planted. Not in any build but the tests'.

use std::sync::Arc;

use alluvium_runtime::disk::AlignedBuf;

use super::chain::Verdict;
use super::config::Config;
use super::files::Prepared;
use super::footer::Seal;
use super::group::{Filling, GroupPlace, GroupWrite};
use super::marks::MarkTable;
use super::place::{FileId, GroupNumber};
use super::writer::Writer;

/// One planted bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Planted {
    /// Every life of a file has the same salt (C57).
    NoSalt,
    /// A start goes on in the old file, behind its cut (C58).
    AppendBehindCut,
    /// A group begins in the block in which the last one ended (C60).
    RewriteBlock,
    /// A bad last group counts as if it had never been (C59).
    TornIsAbsent,
    /// A group counts as durable when its write begins (B1).
    AckBeforeSync,
    /// A compacted file may go before the copies are durable (C29).
    ReleaseBeforeCopies,
    /// A bad group with a good one behind it is skipped in silence (C31).
    SkipBadGroup,
    /// A new file begins without the marks of the others (C27).
    NoSnapshot,
}

/// The last group's bytes, when [`Planted::RewriteBlock`] makes the next one begin with its frames, in its place.
#[derive(Debug)]
pub(crate) struct Rewritten {
    place: GroupPlace,
    bytes: Vec<u8>,
}

impl Rewritten {
    /// A small group of frames; larger ones fill their block.
    pub(crate) fn of(write: &GroupWrite) -> Option<Self> {
        (write.length == 4096).then(|| Self { place: write.place, bytes: write.bytes().to_vec() })
    }

    pub(crate) fn start(self, next: GroupPlace, buf: AlignedBuf) -> Filling {
        let place = GroupPlace { number: next.number, ..self.place };
        Filling::resume(place, buf, &self.bytes)
    }
}

impl Writer {
    /// A writer that goes on in an old file, for [`Planted::AppendBehindCut`].
    pub(crate) fn behind_cut(
        config: Config,
        seal: Seal,
        previous: Option<FileId>,
        marks: MarkTable,
        last: GroupNumber,
        end: u64,
    ) -> Self {
        let file = Prepared { file: Arc::clone(&seal.file) };
        let mut writer = Self::start(config, file, previous, marks, last, last);
        writer.go_back_to(last, end, seal);
        writer
    }
}

/// A verdict that leaves out what a planted bug overlooks.
pub(crate) fn overlook(config: &Config, mut verdict: Verdict) -> Verdict {
    if config.plants(Planted::TornIsAbsent) {
        verdict.torn = None;
    }
    if config.plants(Planted::SkipBadGroup) {
        verdict.losses.clear();
    }
    verdict
}
