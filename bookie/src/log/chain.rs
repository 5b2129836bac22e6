//! What a bad group, or a missing one, was: lost, torn, or cut before. Decided by the chain of numbers over all files.

use alluvium_runtime::disk::BLOCK_BYTES;
use alluvium_types::ids::LedgerId;

use super::group::{SHUTDOWN, SNAPSHOT};
use super::place::{FileId, GroupNumber};
use super::recovery::{Cut, Held, Loss};
use super::scan::{Scan, Sighting};

/// A file, as far as the chain is concerned, in log order.
#[derive(Debug)]
pub(crate) enum Link {
    /// It has a good footer, which says what its last group was. Its first one is looked at only behind a scanned file.
    Sealed { file: FileId, first: Option<Sighting>, last: GroupNumber },
    /// It was read whole.
    Scanned(Scan),
}

/// A group of a scanned file: the place of the file among the links, and its own among that file's sightings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) link: usize,
    pub(crate) sighting: usize,
}

/// What the chain says.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Groups that were durable and can't be read whole, and where their remains are.
    pub(crate) losses: Vec<(Loss, Option<Place>)>,
    /// The last group, not whole and sealed by nothing (C59).
    pub(crate) torn: Option<(Cut, Place)>,
    /// The highest number seen anywhere.
    pub(crate) last: GroupNumber,
    /// The highest number known to have been durable.
    pub(crate) sealed: GroupNumber,
    /// Whether the last group is the mark of a shutdown.
    pub(crate) is_clean_shutdown: bool,
}

/// A bad group whose fate is open.
struct Open {
    place: Option<Place>,
    number: GroupNumber,
    flags: u8,
    file: FileId,
    offset: u64,
    end: u64,
    /// The highest number known to have been durable before it.
    after: GroupNumber,
}

/// Where the chain has come to.
struct Last {
    number: GroupNumber,
    file: FileId,
    end: u64,
}

#[derive(Default)]
struct Judge {
    verdict: Verdict,
    open: Option<Open>,
    last: Option<Last>,
}

/// Walks along the chain.
pub(crate) fn judge(links: &[Link]) -> Verdict {
    let mut judge = Judge::default();
    for (link, facts) in links.iter().enumerate() {
        match facts {
            Link::Sealed { file, first, last } => {
                if let Some(first) = first {
                    judge.see(*file, true, first.frames.previous(), first, None);
                } else {
                    // Files follow it that were once whole, so it was durable.
                    judge.lose_open(None);
                }
                judge.at(*file, *last, BLOCK_BYTES as u64);
                judge.verdict.sealed = judge.verdict.sealed.max(*last);
            }
            Link::Scanned(scan) => {
                for (sighting, seen) in scan.sightings.iter().enumerate() {
                    let previous = if sighting == 0 { scan.previous } else { None };
                    judge.see(scan.file, scan.has_snapshot, previous, seen, Some(Place { link, sighting }));
                }
            }
        }
    }
    judge.finish()
}

impl Judge {
    fn see(&mut self, file: FileId, has_snapshot: bool, previous: Option<FileId>, seen: &Sighting, place: Option<Place>) {
        // Between two files there may have been others, which went.
        let is_adjacent =
            self.last.as_ref().is_none_or(|last| previous.is_none_or(|previous| previous == last.file || last.file == file));
        if let Some(open) = &self.open {
            // In one file nothing is appended behind a cut (C58): whatever follows there was begun when this was durable.
            if open.file == file || seen.sealed >= open.number || !is_adjacent {
                let directory = if seen.sealed == open.number { seen.directory.clone() } else { None };
                self.lose_open(directory);
            } else if has_snapshot {
                // A start has cut it, and what it concluded is durable.
                self.open = None;
            }
        } else if let Some(last) = self.last.as_ref().filter(|last| is_adjacent && seen.sealed > last.number) {
            let directory = if seen.sealed == last.number.next() { seen.directory.clone() } else { None };
            let (from, to) = if last.file == file { (last.end, seen.offset) } else { (last.end, last.end) };
            let loss = Loss { file: last.file, offset: from, end: to.max(from), held: held(directory), entries: Vec::new() };
            self.verdict.losses.push((loss, None));
        }
        let before = self.verdict.sealed;
        let durable = if seen.is_whole { seen.number } else { seen.sealed };
        self.verdict.sealed = before.max(durable).max(seen.sealed);
        if !seen.is_whole && self.open.is_none() {
            let after = before.max(seen.sealed);
            let (number, flags) = (seen.number, seen.flags);
            self.open = Some(Open { place, number, flags, file, offset: seen.offset, end: seen.end, after });
        }
        self.verdict.is_clean_shutdown = seen.is_whole && seen.flags & SHUTDOWN != 0;
        self.at(file, seen.number, seen.end);
    }

    fn at(&mut self, file: FileId, number: GroupNumber, end: u64) {
        self.verdict.last = self.verdict.last.max(number);
        self.last = Some(Last { number: self.verdict.last, file, end });
    }

    /// The open group was durable once.
    fn lose_open(&mut self, directory: Option<Vec<LedgerId>>) {
        let Some(open) = self.open.take() else { return };
        let loss = Loss { file: open.file, offset: open.offset, end: open.end, held: held(directory), entries: Vec::new() };
        self.verdict.losses.push((loss, open.place));
    }

    fn finish(mut self) -> Verdict {
        // A torn snapshot is nothing that anybody relied on: the file before holds the same.
        if let Some(open) = self.open.take_if(|open| open.flags & SNAPSHOT == 0) {
            let place = open.place.expect("only scanned files hold bad groups at the end");
            self.verdict.torn = Some((Cut { file: open.file, offset: open.offset, after: open.after }, place));
        }
        self.verdict
    }
}

fn held(directory: Option<Vec<LedgerId>>) -> Held {
    directory.map_or(Held::Any, Held::Ledgers)
}
