//! Opening a log: what survived, what is uncertain, and a new end to append at.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alluvium_runtime::disk::{AlignedBuf, BLOCK_BYTES, Disk, SyncMode};
use alluvium_runtime::entropy::Entropy;
use alluvium_types::ids::{EntryId, LedgerId};

use super::chain::{Link, Place, Verdict, judge};
use super::config::Config;
use super::error::{PrepareError, RecoverError};
use super::file::{FORMAT, Identity};
use super::files::{Files, LogFile, OpenFilesError, Prepared, Release};
use super::footer::{FileIndex, Footer, Seal};
use super::index::Index;
use super::marks::{Above, Doubts, MarkTable, Marks};
use super::place::{FileId, GroupNumber};
use super::scan::{Change, Scan, Sighting, first_group, scan};
use super::writer::Writer;

/// An open log.
#[derive(Debug)]
pub struct Log {
    /// The end to append at. Its marks hold what recovery found and concluded: `torn`, `in_doubt` (C31, C59), durable already.
    pub writer: Writer,
    /// The files.
    pub files: Arc<Files>,
    /// Where every entry is.
    pub index: Index,
    /// What was found.
    pub report: Report,
}

/// What recovery found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Log files.
    pub files: usize,
    /// Those of them without a good footer, which were scanned.
    pub scanned: usize,
    /// Whether the log ends with the mark of a shutdown.
    pub clean_shutdown: bool,
    /// The log ends in a bad group: it is cut, and every ledger not known to be Closed is torn (C59).
    pub torn: Option<Cut>,
    /// Durable groups that are not readable (C31). Each is worth an alarm.
    pub losses: Vec<Loss>,
    /// Files of which not even the header is readable; kept as they are (C30). Each is worth an alarm.
    pub unreadable: Vec<FileId>,
}

/// Where a log was cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// In which file.
    pub file: FileId,
    /// From which offset on.
    pub offset: u64,
    /// The last group before it that is known to have been durable.
    pub after: GroupNumber,
}

/// A durable group, or some, that could not be read whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loss {
    /// In which file.
    pub file: FileId,
    /// From which offset.
    pub offset: u64,
    /// To which.
    pub end: u64,
    /// What may have been in it.
    pub held: Held,
    /// Entries that are known to have been in it and are not readable. The index names them unless it knows another copy;
    /// reading them says `Corrupt`.
    pub entries: Vec<(LedgerId, EntryId)>,
}

/// The ledgers that a lost group may have held frames of; they are `in_doubt` from now on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Held {
    /// At most these.
    Ledgers(Vec<LedgerId>),
    /// Any ledger that existed then, known here or not ([`Doubts`](super::Doubts)).
    Any,
}

/// Opens the log in `dir`, or begins one in an empty folder. The caller holds the folder's lock. Blocks.
///
/// It can be interrupted at any point and run again. Nothing is ever appended to an old file (C58): on return a new one is
/// active, its snapshot durable, and the old ones have their footers.
///
/// # Panics
/// With a configuration that [`Config::validate`] objects to.
pub fn open(
    disk: Arc<dyn Disk>,
    dir: &Path,
    mode: SyncMode,
    config: Config,
    identity: Identity,
    entropy: &Entropy,
) -> Result<Log, RecoverError> {
    assert_eq!(config.validate(), Vec::<String>::new(), "the configuration was validated");
    let failed = |path: PathBuf| move |source| RecoverError::Io { path, source };
    disk.create_dir_all(dir).map_err(failed(dir.to_owned()))?;
    let (files, found) = Files::open(disk, dir, mode, config.clone(), identity, entropy.clone())?;
    let read_ahead = config.read_bytes;

    // A process that was killed leaves groups that it wrote and did not sync. Reading finds them, so they are made durable
    // before anybody is told of them (B1).
    for file in files.used() {
        file.sync().map_err(failed(file.path.clone()))?;
    }
    let mut survey = Survey::of(files.used(), read_ahead);
    let verdict = survey.verdict();
    #[cfg(feature = "planted")]
    let verdict = super::planted::overlook(&config, verdict);
    let mut marks = survey.marks(read_ahead, !found.unreadable.is_empty());
    let (index, losses) = survey.index(&verdict, &mut marks);
    let report = Report {
        files: survey.files.len() + found.unreadable.len(),
        scanned: survey.scanned(),
        clean_shutdown: verdict.is_clean_shutdown,
        torn: verdict.torn.map(|(cut, _)| cut),
        losses,
        unreadable: found.unreadable,
    };

    files.remove_useless().map_err(failed(dir.to_owned()))?;
    for file in survey.unused.drain(..) {
        let _ = files.release(Release { file }).map_err(failed(dir.to_owned()))?;
    }
    #[cfg(feature = "planted")]
    if config.plants(super::planted::Planted::AppendBehindCut)
        && let Some(writer) = survey.append_behind_cut(&config, &verdict, &index, &marks)
    {
        return Ok(Log { writer, files: Arc::new(files), index, report });
    }
    let mut index = index;
    let first = begin_file(&files, &mut index, survey.snapshot_file())?;
    let previous = survey.files.last().map(|file| file.header.file);
    let mut writer = Writer::start(config, first, previous, marks, verdict.last, verdict.sealed);
    while let Some(write) = writer.begin() {
        files.write(&write).map_err(failed(dir.to_owned()))?;
        writer.complete(write);
    }
    // The snapshot is durable, with all that was concluded: only now may the old files lose what led to it.
    for seal in survey.seals(&verdict, &index) {
        let path = seal.file.path.clone();
        files.write_seal(&seal).map_err(failed(path))?;
    }
    let dead: Vec<FileId> = index.files().filter(|(_, usage)| usage.entries == 0).map(|(file, _)| file).collect();
    for file in dead {
        if let Ok(release) = writer.release(file, &index) {
            let released = files.release(release).map_err(failed(dir.to_owned()))?;
            index.remove_file(released);
        }
    }
    index.note_file(writer.active_file());
    Ok(Log { writer, files: Arc::new(files), index, report })
}

/// Prepares the new file. On a full disk dead files make room: those older than a durable snapshot.
fn begin_file(files: &Files, index: &mut Index, snapshot: Option<FileId>) -> Result<Prepared, RecoverError> {
    loop {
        match files.prepare_next() {
            Ok(prepared) => return Ok(prepared),
            Err(PrepareError::Io { path, source }) => return Err(RecoverError::Io { path, source }),
            Err(PrepareError::NoSpace) => {}
        }
        let dead = index.files().find(|(file, usage)| usage.entries == 0 && snapshot.is_some_and(|s| *file < s));
        let Some((file, _)) = dead else { return Err(RecoverError::NoSpace) };
        let path = files.get(file).map_or_else(PathBuf::new, |f| f.path.clone());
        let released = files.release(Release { file }).map_err(|source| RecoverError::Io { path, source })?;
        index.remove_file(released);
    }
}

impl From<OpenFilesError> for RecoverError {
    fn from(error: OpenFilesError) -> Self {
        match error {
            OpenFilesError::Newer(path, version) => Self::NewerFormat { path, version, known: FORMAT },
            OpenFilesError::Foreign(path) => Self::Foreign { path },
            OpenFilesError::Io(path, source) => Self::Io { path, source },
        }
    }
}

/// All files, each by its footer or by a scan.
struct Survey {
    /// In log order, without those that were prepared and never used.
    files: Vec<Arc<LogFile>>,
    unused: Vec<FileId>,
    links: Vec<Link>,
    /// What the footers say, by the place of the file.
    footers: Vec<Option<FileIndex>>,
    /// The newest file whose snapshot is whole.
    snapshot: Option<usize>,
}

impl Survey {
    fn of(files: Vec<Arc<LogFile>>, read_ahead: usize) -> Self {
        let mut survey = Self { files: Vec::new(), unused: Vec::new(), links: Vec::new(), footers: Vec::new(), snapshot: None };
        for file in files {
            let (link, footer) = match read_footer(&file) {
                Some(footer) => {
                    let is_behind_scanned = matches!(survey.links.last(), Some(Link::Scanned(_)));
                    let first = if is_behind_scanned { first_group(&file, read_ahead) } else { None };
                    (Link::Sealed { file: file.header.file, first, last: footer.last }, Some(footer.index))
                }
                None => {
                    let scan = scan(&file, read_ahead);
                    if scan.sightings.is_empty() {
                        survey.unused.push(file.header.file);
                        continue;
                    }
                    (Link::Scanned(scan), None)
                }
            };
            survey.files.push(file);
            survey.links.push(link);
            survey.footers.push(footer);
        }
        survey
    }

    fn scanned(&self) -> usize {
        self.footers.iter().filter(|footer| footer.is_none()).count()
    }

    fn verdict(&self) -> Verdict {
        judge(&self.links)
    }

    fn snapshot_file(&self) -> Option<FileId> {
        self.snapshot.map(|place| self.files[place].header.file)
    }

    /// The marks: the newest whole snapshot, and what was marked after it. In doubt if snapshots were lost that nothing makes
    /// up for.
    fn marks(&mut self, read_ahead: usize, is_file_lost: bool) -> MarkTable {
        let mut extra: Vec<Option<Scan>> = self.files.iter().map(|_| None).collect();
        let mut snapshots_lost = 0;
        let mut is_marks_lost = is_file_lost;
        for place in (0..self.files.len()).rev() {
            let of_footer;
            let found = match &self.links[place] {
                Link::Scanned(scan) => scan,
                Link::Sealed { last, .. } => {
                    of_footer = scan(&self.files[place], read_ahead);
                    // The chain has not looked into this file: nobody else says if a mark of it is lost.
                    is_marks_lost |= !of_footer.is_unbroken_to(*last);
                    extra[place].insert(of_footer)
                }
            };
            if found.has_snapshot {
                self.snapshot = Some(place);
                break;
            }
            snapshots_lost += usize::from(found.has_more_than_a_snapshot());
        }
        let mut table = MarkTable::default();
        for found in self.links.iter().zip(&extra).skip(self.snapshot.unwrap_or(0)) {
            let found = match found {
                (Link::Scanned(scan), _) | (_, Some(scan)) => scan,
                _ => continue,
            };
            for change in found.sightings.iter().flat_map(|sighting| &sighting.frames.changes) {
                match change {
                    Change::Marks(ledger, marks) => table.set(*ledger, *marks),
                    Change::Doubts(doubts) => table.set_doubts(*doubts),
                }
            }
        }
        // One lost snapshot is made up for by the file before, which is always kept.
        let is_made_up_for = snapshots_lost == 0 || snapshots_lost == 1 && self.snapshot.is_some();
        if is_marks_lost || !is_made_up_for {
            doubt_all(&mut table);
        }
        table
    }

    /// The index, and what the losses and the tear mean for the marks.
    fn index(&self, verdict: &Verdict, marks: &mut MarkTable) -> (Index, Vec<Loss>) {
        let mut index = Index::default();
        let torn_at = verdict.torn.map(|(_, place)| place);
        for (link, file) in self.files.iter().enumerate() {
            index.note_file(file.header.file);
            if let Some(footer) = &self.footers[link] {
                note(&mut index, file.header.file, footer);
            }
            self.sightings(link).filter(|(_, seen)| seen.is_whole).for_each(|(place, _)| self.note_good(&mut index, place));
        }
        // What is left of bad groups comes after: a copy that a compaction wrote there must not replace the entry that it copied.
        for link in 0..self.links.len() {
            let bad = self.sightings(link).filter(|(place, seen)| !seen.is_whole && torn_at != Some(*place));
            bad.for_each(|(place, _)| self.note_good(&mut index, place));
        }
        let mut losses = Vec::new();
        for (loss, remains) in &verdict.losses {
            let mut loss = loss.clone();
            let remains = remains.and_then(|place| Some((self.files[place.link].header.file, self.sighting(place)?)));
            if let Some((file, sighting)) = remains {
                for row in &sighting.frames.bad_rows {
                    loss.entries.push((row.ledger, row.entry));
                    if index.get(row.ledger, row.entry).is_none() {
                        index.insert(row.ledger, row.entry, row.location(file));
                    }
                }
            }
            match &loss.held {
                Held::Any => doubt_all(marks),
                Held::Ledgers(ledgers) => ledgers.iter().for_each(|ledger| doubt(marks, *ledger)),
            }
            losses.push(loss);
        }
        if let Some(place) = torn_at {
            self.tear(place, &mut index, marks);
        }
        for ledger in strangers(&mut index, marks) {
            // Its open was lost with something; what else was, nobody knows.
            doubt(marks, ledger);
        }
        for (ledger, _) in marks.iter().filter(|(_, marks)| marks.deleted) {
            index.remove_ledger(ledger);
        }
        (index, losses)
    }

    /// The last group is bad and nothing seals it: what it may have held is torn (C59). What is good in it stays.
    fn tear(&self, place: Place, index: &mut Index, marks: &mut MarkTable) {
        let torn: Vec<(LedgerId, Marks)> =
            marks.iter().filter(|(_, marks)| !marks.is_settled()).map(|(ledger, marks)| (ledger, *marks)).collect();
        for (ledger, old) in torn {
            let above = index.stored(ledger).last.map_or(Above::Nothing, Above::Entry);
            let torn = Some(old.torn.map_or(above, |before| before.min(above)));
            marks.set(ledger, Some(Marks { torn, ..old }));
        }
        marks.set_doubts(Doubts { torn_below: Some(ALL), ..marks.doubts() });
        self.note_good(index, place);
        for ledger in strangers(index, marks) {
            marks.set(ledger, Some(Marks { torn: Some(Above::Nothing), ..Marks::default() }));
        }
    }

    fn sighting(&self, place: Place) -> Option<&Sighting> {
        match &self.links[place.link] {
            Link::Scanned(scan) => scan.sightings.get(place.sighting),
            Link::Sealed { .. } => None,
        }
    }

    fn sightings(&self, link: usize) -> impl Iterator<Item = (Place, &Sighting)> {
        let sightings = match &self.links[link] {
            Link::Scanned(scan) => &scan.sightings[..],
            Link::Sealed { .. } => &[],
        };
        sightings.iter().enumerate().map(move |(sighting, seen)| (Place { link, sighting }, seen))
    }

    fn note_good(&self, index: &mut Index, place: Place) {
        let file = self.files[place.link].header.file;
        let Some(seen) = self.sighting(place) else { return };
        for (row, lac) in &seen.frames.rows {
            if seen.is_whole || index.get(row.ledger, row.entry).is_none() {
                index.insert(row.ledger, row.entry, row.location(file));
            } else {
                index.note_dead(row.ledger, file);
            }
            if let Some(lac) = lac {
                index.note_lac(row.ledger, *lac);
            }
        }
        for (ledger, lac) in &seen.frames.lacs {
            index.note_lac(*ledger, *lac);
        }
    }

    /// The footers of the files that were scanned: what is good in them, and what is known to be lost.
    fn seals(&self, verdict: &Verdict, index: &Index) -> Vec<Seal> {
        let mut seals = Vec::new();
        for (link, file) in self.files.iter().enumerate() {
            let Link::Scanned(scan) = &self.links[link] else { continue };
            let mut file_index = FileIndex::default();
            for (place, seen) in self.sightings(link) {
                let is_lost = verdict.losses.iter().any(|(_, lost)| *lost == Some(place));
                let bad_rows = if is_lost { &seen.frames.bad_rows[..] } else { &[] };
                let good_rows = seen.frames.rows.iter().copied();
                for (row, lac) in good_rows.chain(bad_rows.iter().map(|row| (*row, None))) {
                    if seen.is_whole || index.get(row.ledger, row.entry) == Some(row.location(file.header.file)) {
                        file_index.add(row, lac);
                    } else {
                        file_index.note_ledger(row.ledger);
                    }
                }
                seen.frames.lacs.iter().for_each(|(ledger, lac)| file_index.note_lac(*ledger, *lac));
            }
            let numbers = || scan.sightings.iter().map(|sighting| sighting.number);
            let first = numbers().next().unwrap_or_default();
            let last = numbers().max().unwrap_or_default();
            seals.push(Seal { file: Arc::clone(file), first, last, index: file_index });
        }
        seals
    }

    #[cfg(feature = "planted")]
    fn append_behind_cut(&self, config: &Config, verdict: &Verdict, index: &Index, marks: &MarkTable) -> Option<Writer> {
        let Link::Scanned(scan) = self.links.last()? else { return None };
        let cut = scan.sightings.iter().rfind(|sighting| sighting.is_whole)?;
        let seal = self.seals(verdict, index).pop()?;
        let previous = self.files.len().checked_sub(2).map(|place| self.files[place].header.file);
        Some(Writer::behind_cut(config.clone(), seal, previous, marks.clone(), cut.number, cut.end))
    }
}

/// Ledgers that have entries and no marks. LACs without either are what a forgotten ledger leaves: they go.
fn strangers(index: &mut Index, marks: &MarkTable) -> Vec<LedgerId> {
    let unmarked: Vec<LedgerId> = index.ledgers().filter(|ledger| marks.get(*ledger).is_none()).collect();
    let (strangers, forgotten) = unmarked.into_iter().partition(|ledger| index.stored(*ledger).entries > 0);
    let forgotten: Vec<LedgerId> = forgotten;
    forgotten.into_iter().for_each(|ledger| index.remove_ledger(ledger));
    strangers
}

/// More than any ledger.
const ALL: LedgerId = LedgerId::new(u64::MAX);

fn doubt(marks: &mut MarkTable, ledger: LedgerId) {
    let old = marks.get(ledger).copied().unwrap_or_default();
    marks.set(ledger, Some(Marks { in_doubt: true, ..old }));
}

fn doubt_all(marks: &mut MarkTable) {
    let all: Vec<LedgerId> = marks.iter().map(|(ledger, _)| ledger).collect();
    for ledger in all {
        doubt(marks, ledger);
    }
    marks.set_doubts(Doubts { in_doubt_below: Some(ALL), ..marks.doubts() });
}

fn note(index: &mut Index, file: FileId, footer: &FileIndex) {
    for row in footer.rows() {
        index.insert(row.ledger, row.entry, row.location(file));
    }
    for (ledger, lac) in footer.ledgers() {
        index.note_dead(ledger, file);
        if let Some(lac) = lac {
            index.note_lac(ledger, lac);
        }
    }
}

/// The footer of a file, if it has a good one. What the disk does not give is not good.
fn read_footer(file: &LogFile) -> Option<Footer> {
    let block = BLOCK_BYTES as u64;
    let read = |offset: u64, bytes: usize| -> io::Result<AlignedBuf> {
        let mut buf = AlignedBuf::zeroed(bytes);
        let count = file.read(offset, &mut buf)?;
        if count < bytes { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(buf) }
    };
    let last = read(file.header.bytes - block, BLOCK_BYTES).ok()?;
    let head = Footer::find(file, &last)?;
    let offset = head.words[2];
    if !offset.is_multiple_of(block) {
        return None;
    }
    let body_bytes = head.body_bytes as usize;
    let body = read(offset, body_bytes.next_multiple_of(BLOCK_BYTES)).ok()?;
    Footer::decode(&head, &body[..body_bytes])
}
