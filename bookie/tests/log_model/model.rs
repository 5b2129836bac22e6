//! What should be there.

use std::collections::BTreeMap;

use alluvium_bookie::log::{Above, EntryHead, GroupNumber, LastEntry, Log, Marks, ReadError, Reader};
use alluvium_types::bookie::Adder;
use alluvium_types::entry::entry_checksum_over;
use alluvium_types::ids::{EntryId, Epoch, LedgerId, RecoveryNumber};

/// What was appended under one id.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Which try of this id it was: one that was lost before its ack is followed by one with another body.
    pub(crate) version: u32,
    pub(crate) body_bytes: usize,
    pub(crate) adder: Adder,
    pub(crate) lac: Option<EntryId>,
    /// The group it is in, until that is durable.
    pub(crate) pending: Option<GroupNumber>,
}

/// What is known of one ledger.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) entries: BTreeMap<EntryId, Entry>,
    /// The durable marks; `None` before the open is durable, and once the ledger is forgotten.
    pub(crate) marks: Option<Marks>,
    /// Later ones, by group; `None` is a forgetting.
    pub(crate) pending: Vec<(GroupNumber, Option<Marks>)>,
    /// The highest version of each id so far.
    pub(crate) versions: BTreeMap<EntryId, u32>,
    pub(crate) lac_max: Option<EntryId>,
    pub(crate) is_forgotten: bool,
    /// Whether a deletion was ever durable. Rot may take the tombstone, and then the entries are back, in doubt.
    pub(crate) was_deleted: bool,
}

impl Ledger {
    /// The marks that count for whoever appends next.
    pub(crate) fn newest(&self) -> Option<Marks> {
        self.pending.last().map_or(self.marks, |(_, marks)| *marks)
    }

    pub(crate) fn next_entry(&self) -> EntryId {
        self.entries.keys().next_back().map_or(EntryId::ZERO, |entry| entry.next())
    }
}

/// All ledgers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) ledgers: BTreeMap<LedgerId, Ledger>,
    /// Bytes rotted in some earlier state of this disk: what is missing must be explained, but may be missing.
    pub(crate) is_rotten: bool,
}

/// The body of a version of an entry.
pub(crate) fn body(ledger: LedgerId, entry: EntryId, version: u32, bytes: usize) -> Vec<u8> {
    let mut state = ledger.get().wrapping_mul(0x9E37_79B9) ^ entry.get().wrapping_mul(0x85EB_CA6B) ^ u64::from(version) << 40;
    let mut body = Vec::with_capacity(bytes + 8);
    while body.len() < bytes {
        state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        body.extend_from_slice(&(state >> 8).to_le_bytes());
    }
    body.truncate(bytes);
    body
}

impl Entry {
    pub(crate) fn body(&self, ledger: LedgerId, entry: EntryId) -> Vec<u8> {
        body(ledger, entry, self.version, self.body_bytes)
    }

    pub(crate) fn head(&self, ledger: LedgerId, entry: EntryId) -> EntryHead {
        let checksum = entry_checksum_over(ledger, entry, &self.body(ledger, entry));
        EntryHead { ledger, entry, adder: self.adder, lac: self.lac, checksum }
    }
}

fn without_doubt(marks: Marks) -> Marks {
    Marks { torn: None, in_doubt: false, ..marks }
}

impl Model {
    /// The log is durable up to here: what was appended until then is acknowledged.
    pub(crate) fn durable(&mut self, group: GroupNumber) {
        for ledger in self.ledgers.values_mut() {
            for entry in ledger.entries.values_mut() {
                if entry.pending.is_some_and(|pending| pending <= group) {
                    entry.pending = None;
                }
            }
            while ledger.pending.first().is_some_and(|(pending, _)| *pending <= group) {
                let (_, marks) = ledger.pending.remove(0);
                ledger.marks = marks;
                ledger.is_forgotten |= marks.is_none();
                ledger.was_deleted |= marks.is_some_and(|marks| marks.deleted);
            }
        }
    }

    /// Compares an opened log with what should be there.
    pub(crate) fn check(&self, log: &Log) -> Result<(), String> {
        let has_losses = !log.report.losses.is_empty() || !log.report.unreadable.is_empty();
        if has_losses && !self.is_rotten {
            return Err(format!("nothing rotted, but the log reports losses: {:?}", log.report));
        }
        self.check_marks(log)?;
        self.check_no_phantoms(log)?;
        self.check_nothing_lost(log)
    }

    fn check_marks(&self, log: &Log) -> Result<(), String> {
        let doubts = log.writer.marks().doubts();
        for (id, ledger) in &self.ledgers {
            let found = log.writer.marks().get(*id).copied();
            let mut candidates: Vec<Option<Marks>> = vec![ledger.marks];
            candidates.extend(ledger.pending.iter().map(|(_, marks)| *marks));
            let is_explained = match found {
                None => {
                    let below = doubts.torn_below.max(doubts.in_doubt_below);
                    candidates.contains(&None) || self.is_rotten && below.is_some_and(|below| *id < below)
                }
                Some(found) => {
                    let is_known = candidates.iter().flatten().any(|c| {
                        without_doubt(*c) == without_doubt(found)
                            && (found.in_doubt || !c.in_doubt)
                            && (c.torn.is_none() || found.torn.is_some_and(|torn| Some(torn) <= c.torn))
                    });
                    let is_old_tombstone = self.is_rotten && found.deleted;
                    // Of an unacknowledged group an entry may have arrived and its ledger's open not.
                    let torn = Marks { torn: Some(Above::Nothing), ..Marks::default() };
                    let is_torn_off = ledger.marks.is_none() && !ledger.is_forgotten && found == torn;
                    // A closed ledger is not torn by a lost last group; what was marked on it later is marked again.
                    let is_closed = self.is_rotten && found.closed.is_some();
                    let is_known = is_known || is_torn_off || is_closed;
                    is_known || self.is_rotten && (found.torn.is_some() || found.in_doubt) || is_old_tombstone
                }
            };
            if !is_explained {
                return Err(format!("the marks of {id:?} are {found:?}; they should be one of {candidates:?}"));
            }
        }
        for (id, found) in log.writer.marks().iter() {
            let is_known = self.ledgers.get(&id).is_some_and(|ledger| !ledger.is_forgotten || !ledger.pending.is_empty());
            if !is_known && !self.is_rotten {
                return Err(format!("{id:?} has marks {found:?}, but was never opened, or is forgotten"));
            }
        }
        Ok(())
    }

    /// B4, C57, C58: what is there was appended, byte for byte, and was not lost before.
    fn check_no_phantoms(&self, log: &Log) -> Result<(), String> {
        let reader = Reader::new(log.files.clone());
        for id in log.index.ledgers() {
            let Some(ledger) = self.ledgers.get(&id).filter(|ledger| !ledger.is_forgotten) else {
                if self.is_rotten {
                    continue;
                }
                return Err(format!("{id:?} is in the index, but is unknown or forgotten"));
            };
            if self.is_rotten && ledger.was_deleted {
                continue;
            }
            let stored = log.index.stored(id);
            if stored.lac > ledger.lac_max {
                return Err(format!("the LAC of {id:?} is {:?}; the highest ever sent is {:?}", stored.lac, ledger.lac_max));
            }
            let wanted: Vec<_> = log.index.range(id, EntryId::ZERO, EntryId::new(u64::MAX)).collect();
            for ((entry, location), answer) in wanted.iter().zip(reader.read_many(id, &wanted)) {
                let Some(expected) = ledger.entries.get(entry) else {
                    if self.is_rotten && matches!(answer, Err(ReadError::Corrupt(_))) {
                        continue;
                    }
                    return Err(format!("{id:?} {entry:?} at {location:?} was never appended, or lost before"));
                };
                match answer {
                    Ok(frame) if frame.head == expected.head(id, *entry) && frame.body == expected.body(id, *entry) => {}
                    Ok(frame) => return Err(format!("{id:?} {entry:?} is {:?}, not {expected:?}", frame.head)),
                    Err(ReadError::Corrupt(_)) if self.is_rotten => {}
                    Err(error) => return Err(format!("{id:?} {entry:?}: {error}")),
                }
            }
        }
        Ok(())
    }

    /// B1, B3: what was acknowledged is there, or the log says that it doesn't know.
    fn check_nothing_lost(&self, log: &Log) -> Result<(), String> {
        for (id, ledger) in &self.ledgers {
            // A deletion that was acknowledged let its files go; one that wasn't may have arrived.
            let is_deleted = |marks: &Marks| marks.deleted;
            let pending_deletion = ledger.pending.iter().any(|(_, marks)| marks.as_ref().is_none_or(is_deleted));
            let found = log.writer.marks().get(*id);
            if ledger.is_forgotten || ledger.marks.as_ref().is_some_and(is_deleted) {
                continue;
            }
            if pending_deletion && found.is_some_and(is_deleted) {
                continue;
            }
            for (entry, expected) in &ledger.entries {
                if expected.pending.is_some() || log.index.get(*id, *entry).is_some() {
                    continue;
                }
                let doubts = log.writer.marks().doubts();
                let is_unsure = match found {
                    // What a tear takes of a closed ledger is not marked (C59): no recovery asks for it any more.
                    Some(marks) => {
                        marks.in_doubt || marks.closed.is_some() || marks.torn.is_some_and(|above| above.covers(*entry))
                    }
                    None => [doubts.torn_below, doubts.in_doubt_below].iter().flatten().any(|below| id < below),
                };
                if !(self.is_rotten && is_unsure) {
                    return Err(format!(
                        "{id:?} {entry:?} was acknowledged, is gone, and the log claims to know that: {found:?}, {:?}",
                        log.report
                    ));
                }
            }
        }
        Ok(())
    }

    /// From now on the opened log is the truth: what it doesn't have of the unacknowledged is gone for good.
    pub(crate) fn adopt(&mut self, log: &Log) {
        for (id, ledger) in &mut self.ledgers {
            ledger.entries.retain(|entry, e| {
                let is_here = log.index.get(*id, *entry).is_some();
                let is_owed = e.pending.is_none();
                e.pending = None;
                is_here || is_owed
            });
            ledger.marks = log.writer.marks().get(*id).copied();
            ledger.is_forgotten |= ledger.marks.is_none() && ledger.pending.iter().any(|(_, marks)| marks.is_none());
            ledger.pending.clear();
        }
        self.ledgers.retain(|_, ledger| ledger.marks.is_some() || ledger.is_forgotten || !ledger.entries.is_empty());
        // Closing and deleting end all doubt about a ledger; until then what is owed stays owed.
        for ledger in self.ledgers.values_mut() {
            if ledger.marks.is_some_and(|marks| marks.deleted) {
                ledger.was_deleted = true;
                ledger.entries.clear();
            }
        }
    }
}

/// A writer's marks, opened.
pub(crate) fn opened(epoch: u64) -> Marks {
    let class = alluvium_types::ledger::LedgerClass::Bulk;
    Marks { opened: Some(alluvium_bookie::log::Opened { epoch: Epoch::new(epoch), class }), ..Marks::default() }
}

/// Fenced by this recovery.
pub(crate) fn fenced(marks: Marks, number: u64) -> Marks {
    Marks { fenced: Some(RecoveryNumber::new(number)), ..marks }
}

/// Closed after this entry; a tear is of no consequence any more.
pub(crate) fn closed(marks: Marks, last: Option<EntryId>) -> Marks {
    Marks { closed: Some(last.map_or(LastEntry::None, LastEntry::At)), torn: None, in_doubt: false, ..marks }
}
