//! Files that go: dead ones at once, mostly dead ones once what lives in them was moved (B6).

use alluvium_types::bookie::Refusal;

use super::Store;
use super::answer::{Outcome, append_failed};
use crate::log::{self, Compaction, FileId, Frame, Release, Released};

impl Store {
    /// The rights to let go of files in which nothing is alive and whose marks stand in a later one.
    pub fn release_dead(&mut self) -> Vec<Release> {
        let moving = self.compaction.as_ref().map(|(file, _)| *file);
        let dead = self.index.files().filter(|(file, usage)| usage.entries == 0 && Some(*file) != moving);
        let rights: Vec<Release> = dead
            .filter(|(file, _)| !self.releasing.contains(file))
            .filter_map(|(file, _)| self.writer.release(file, &self.index).ok())
            .collect();
        self.releasing.extend(rights.iter().map(|release| release.file));
        rights
    }

    /// A file went.
    pub fn released(&mut self, released: Released) {
        self.releasing.remove(&released.file);
        self.index.remove_file(released);
    }

    /// Begins to move what is alive out of the file of which the least is, if that is at most `share_percent` of
    /// `file_bytes` and it isn't the active one. Says which; one that is being emptied is gone on with.
    pub fn begin_compaction(&mut self, file_bytes: u64, share_percent: u8) -> Option<FileId> {
        if let Some((file, _)) = &self.compaction {
            return Some(*file);
        }
        let active = self.writer.active_file();
        let limit = file_bytes / 100 * u64::from(share_percent);
        let (file, _) = self
            .index
            .files()
            .filter(|(file, usage)| *file < active && usage.entries > 0 && usage.bytes <= limit)
            .filter(|(file, _)| !self.not_movable.contains(file))
            .min_by_key(|(_, usage)| usage.bytes)?;
        self.compaction = Some((file, Compaction::of(file, &self.index)));
        Some(file)
    }

    /// The next entry to move, to be read by the caller.
    pub fn next_copy(&mut self) -> Option<log::Copy> {
        self.compaction.as_mut()?.1.next(&self.index)
    }

    /// The entry was read: it is appended like any other.
    pub fn copy(&mut self, frame: &Frame) -> Outcome<Result<(), Refusal>> {
        let Some((_, compaction)) = &mut self.compaction else { return Outcome::Now(Ok(())) };
        match self.writer.append_entry(&frame.head, &frame.body) {
            Ok(placed) => {
                self.last_copy = placed.group;
                compaction.copied(placed);
                Outcome::Now(Ok(()))
            }
            Err(error) => append_failed(error, self.out_of_files, |refusal| refusal),
        }
    }

    /// The entry can't be read: it stays, and its file with it (C30).
    pub fn skip_copy(&mut self) {
        if let Some((_, compaction)) = &mut self.compaction {
            compaction.skipped();
        }
    }

    /// Ends a compaction, once all that was copied is durable and sealed.
    pub fn finish_compaction(&mut self) -> Outcome<Result<(), Refusal>> {
        if let Some((file, compaction)) = &self.compaction {
            if !compaction.is_done() {
                if self.last_copy > self.writer.durable() {
                    return Outcome::After(self.last_copy);
                }
                // What was copied last counts once a later group seals it; where nobody writes, a mark does.
                self.writer.mark(log::Mark::Idle);
                return Outcome::After(self.writer.durable().next());
            }
            if compaction.unreadable() > 0 {
                self.not_movable.insert(*file);
            }
        }
        self.compaction = None;
        Outcome::Now(Ok(()))
    }
}
