//! Whose a data directory is (B11): the file that says so, and the decision under which identity a bookie may start.
//!
//! The format is `docs/formats/bookie-directory.md`.

use std::io;
use std::path::{Path, PathBuf};

use alluvium_runtime::disk::{Disk, DiskFile, SyncMode};
use alluvium_types::checksum::Crc32c;
use alluvium_types::ids::{ClusterId, Incarnation};
use alluvium_types::names::BookieName;
use uuid::Uuid;

use crate::mutation::{Mutation, Mutations};

/// The version of the directory's layout that this program reads and writes.
pub const FORMAT_VERSION: u32 = 1;
/// The file that says whose the directory is.
const FILE: &str = "identity";
/// The same while it is written; it counts for nothing.
const FILE_UNFINISHED: &str = "identity.new";
/// The folder of the log's files below the data directory.
pub const LOG_DIR: &str = "log";
/// Files that others leave in a directory before anything is stored there: the lock, the trial of the filesystem.
const HARMLESS: [&str; 3] = [FILE_UNFINISHED, "LOCK", ".probe"];
/// An identity is a few lines; a longer file is something else.
const FILE_BYTES_MAX: usize = 4096;

/// Whose a data directory is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The deployment.
    pub cluster: ClusterId,
    /// What operators call the bookie.
    pub bookie: BookieName,
    /// This life of the directory.
    pub incarnation: Incarnation,
    /// Whether a log was begun. From then on a directory without one has lost it.
    pub log_begun: bool,
}

/// Why a data directory may not be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The disk did not do as it was asked.
    #[error("cannot read or write the data directory {dir:?}")]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A newer program wrote it.
    #[error("{dir:?} has format version {found}; this program reads up to {FORMAT_VERSION}: start a newer one")]
    NewerFormat {
        /// The directory.
        dir: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The file does not say what it should.
    #[error("{dir:?} is half-written or damaged: {problem}; it is not used, so that nothing in it is lost")]
    Damaged {
        /// The directory.
        dir: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// It belongs to another deployment.
    #[error("{dir:?} belongs to cluster {found}, this is cluster {expected}: give this bookie a directory of its own")]
    OtherCluster {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        found: ClusterId,
        /// Who asks.
        expected: ClusterId,
    },
    /// It belongs to a bookie of another name.
    #[error("{dir:?} belongs to bookie {found}, this is bookie {expected}: correct the name or the directory")]
    OtherBookie {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        found: BookieName,
        /// Who asks.
        expected: BookieName,
    },
    /// Metadata knows a later life of this name.
    #[error(
        "{dir:?} holds incarnation {found} of bookie {bookie}, but metadata knows {known}: this is an old copy, or another \
         disk; empty it to join as a new bookie"
    )]
    OtherIncarnation {
        /// The directory.
        dir: PathBuf,
        /// The bookie.
        bookie: BookieName,
        /// What the directory says.
        found: Incarnation,
        /// What metadata says.
        known: Incarnation,
    },
}

/// What a bookie does about its identity before it opens its log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// Metadata and the directory agree.
    Known,
    /// Metadata knows nobody of this name: it is told.
    First,
    /// The directory is new, and the name had another life, which is lost: metadata is told.
    Replaces(Incarnation),
}

impl Identity {
    /// Reads the identity of `dir`; `None` when nothing was ever stored there.
    pub fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Self>, IdentityError> {
        let io = |source| IdentityError::Io { dir: dir.to_owned(), source };
        let damaged = |problem| IdentityError::Damaged { dir: dir.to_owned(), problem };
        disk.create_dir_all(&dir.join(LOG_DIR)).map_err(io)?;
        let files = disk.list(dir).map_err(io)?;
        let names: Vec<_> = files.iter().filter_map(|path| path.file_name()).collect();
        let has_log = !disk.list(&dir.join(LOG_DIR)).map_err(io)?.is_empty();
        if !names.iter().any(|name| *name == FILE) {
            let strange = names.iter().any(|name| !HARMLESS.iter().any(|harmless| name == harmless));
            return if strange || has_log { Err(damaged("it holds files but no identity")) } else { Ok(None) };
        }
        let file = disk.open(&dir.join(FILE), SyncMode::Buffered).map_err(io)?;
        let mut bytes = vec![0; FILE_BYTES_MAX];
        let length = file.read_at(0, &mut bytes).map_err(io)?;
        bytes.truncate(length);
        let identity = Self::parse(&bytes).map_err(|problem| match problem {
            Problem::Newer(found) => IdentityError::NewerFormat { dir: dir.to_owned(), found },
            Problem::Damaged(problem) => damaged(problem),
        })?;
        // An empty log under an old identity would "prove" that nothing was ever acknowledged (C5).
        if identity.log_begun && !has_log {
            return Err(damaged("its log is gone"));
        }
        Ok(Some(identity))
    }

    /// Writes the identity, durably: after a crash it is there whole, or not at all.
    pub fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<(), IdentityError> {
        let write = || -> io::Result<()> {
            let unfinished = dir.join(FILE_UNFINISHED);
            match disk.remove(&unfinished) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let bytes = self.encode();
            let file: Box<dyn DiskFile> = disk.create(&unfinished, bytes.len() as u64, SyncMode::Buffered)?;
            file.write_at(0, &bytes)?;
            file.set_len(bytes.len() as u64)?;
            file.sync()?;
            disk.rename(&unfinished, &dir.join(FILE))?;
            disk.sync_dir(dir)
        };
        write().map_err(|source| IdentityError::Io { dir: dir.to_owned(), source })
    }

    fn encode(&self) -> Vec<u8> {
        let mut text = format!(
            "alluvium bookie directory {FORMAT_VERSION}\ncluster {}\nbookie {}\nincarnation {}\nlog {}\n",
            self.cluster,
            self.bookie,
            self.incarnation,
            if self.log_begun { "begun" } else { "none" },
        );
        let checksum = Crc32c::of(text.as_bytes());
        text.push_str(&format!("crc32c {:08x}\n", checksum.get()));
        text.into_bytes()
    }

    fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let text = std::str::from_utf8(bytes).map_err(|_| Problem::Damaged("the identity is not text"))?;
        let version = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("alluvium bookie directory "))
            .and_then(|version| version.parse().ok())
            .ok_or(Problem::Damaged("the identity has no version"))?;
        // The rest of a newer version may look otherwise.
        if version > FORMAT_VERSION {
            return Err(Problem::Newer(version));
        }
        let (covered, checksum) = text.rsplit_once("crc32c ").ok_or(Problem::Damaged("the identity has no checksum"))?;
        let checksum = u32::from_str_radix(checksum.trim_end_matches('\n'), 16).ok();
        if checksum != Some(Crc32c::of(covered.as_bytes()).get()) {
            return Err(Problem::Damaged("the identity's checksum does not match"));
        }
        let field = |name: &str| {
            let value = covered.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value.ok_or(Problem::Damaged("the identity lacks a field"))
        };
        let uuid = |text: &str| Uuid::parse_str(text).map_err(|_| Problem::Damaged("the identity has a bad id"));
        Ok(Self {
            cluster: ClusterId::new(uuid(field("cluster")?)?),
            bookie: BookieName::parse(field("bookie")?).map_err(|_| Problem::Damaged("the identity has a bad name"))?,
            incarnation: Incarnation::new(uuid(field("incarnation")?)?),
            log_begun: match field("log")? {
                "begun" => true,
                "none" => false,
                _ => return Err(Problem::Damaged("the identity says nothing of the log")),
            },
        })
    }
}

enum Problem {
    Newer(u32),
    Damaged(&'static str),
}

/// Decides under which identity a bookie starts, from what stands in its directory and the incarnation that metadata knows
/// of its name. `fresh` is an incarnation that nobody has.
///
/// An empty directory never takes an incarnation that was there before: what that one acknowledged is gone, and it would
/// "prove" absences (C5).
pub fn decide(
    dir: &Path,
    found: Option<Identity>,
    wanted: &Identity,
    known: Option<Incarnation>,
    mutations: Mutations,
) -> Result<(Identity, Claim), IdentityError> {
    let Some(found) = found else {
        let mut new = wanted.clone();
        if let Some(known) = known.filter(|_| mutations.has(Mutation::WipedBookieRejoins)) {
            new.incarnation = known;
        }
        let claim = match known {
            None => Claim::First,
            Some(known) if known == new.incarnation => Claim::Known,
            Some(known) => Claim::Replaces(known),
        };
        return Ok((new, claim));
    };
    let dir_path = || dir.to_owned();
    if found.cluster != wanted.cluster {
        let (found, expected) = (found.cluster, wanted.cluster);
        return Err(IdentityError::OtherCluster { dir: dir_path(), found, expected });
    }
    if found.bookie != wanted.bookie {
        let (found, expected) = (found.bookie, wanted.bookie.clone());
        return Err(IdentityError::OtherBookie { dir: dir_path(), found, expected });
    }
    match known {
        None => Ok((found, Claim::First)),
        Some(known) if known == found.incarnation => Ok((found, Claim::Known)),
        // A start that ended between writing the identity and telling metadata.
        Some(known) if !found.log_begun => Ok((found, Claim::Replaces(known))),
        Some(known) => {
            let (bookie, found) = (found.bookie, found.incarnation);
            Err(IdentityError::OtherIncarnation { dir: dir_path(), bookie, found, known })
        }
    }
}

#[cfg(test)]
mod tests {
    use alluvium_runtime::disk::real::RealDisk;

    use super::*;

    fn identity(incarnation: u128) -> Identity {
        Identity {
            cluster: ClusterId::new(Uuid::from_u128(1)),
            bookie: BookieName::parse("b1").expect("valid"),
            incarnation: Incarnation::new(Uuid::from_u128(incarnation)),
            log_begun: false,
        }
    }

    fn decide_for(found: Option<Identity>, known: Option<u128>) -> Result<(Identity, Claim), IdentityError> {
        let known = known.map(|known| Incarnation::new(Uuid::from_u128(known)));
        decide(Path::new("/data"), found, &identity(9), known, Mutations::NONE)
    }

    #[test]
    fn an_identity_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(Identity::read(&RealDisk, dir.path()).expect("empty"), None);
        identity(2).write(&RealDisk, dir.path()).expect("written");
        assert_eq!(Identity::read(&RealDisk, dir.path()).expect("whole"), Some(identity(2)));
        identity(3).write(&RealDisk, dir.path()).expect("written over");
        assert_eq!(Identity::read(&RealDisk, dir.path()).expect("whole"), Some(identity(3)));
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_of_an_identity_is_refused() {
        let whole = identity(2).encode();
        for length in 0..whole.len() - 1 {
            assert!(Identity::parse(&whole[..length]).is_err(), "{length} bytes");
        }
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            // A digit of the version may become that of a newer one, and letters of the checksum may change case.
            let same = Identity::parse(&bytes).is_ok_and(|parsed| parsed == identity(2));
            assert!(same || Identity::parse(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_format_is_named_and_refused() {
        let newer = String::from_utf8(identity(2).encode()).expect("text").replace("directory 1", "directory 7");
        assert!(matches!(Identity::parse(newer.as_bytes()), Err(Problem::Newer(7))));
    }

    #[test]
    fn c5_a_directory_that_lost_its_log_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        Identity { log_begun: true, ..identity(2) }.write(&RealDisk, dir.path()).expect("written");
        let refused = Identity::read(&RealDisk, dir.path()).expect_err("its log is gone");
        assert!(matches!(refused, IdentityError::Damaged { .. }), "{refused}");
    }

    #[test]
    fn b11_an_empty_directory_is_another_bookie_whatever_its_name_was() {
        assert!(matches!(decide_for(None, None), Ok((new, Claim::First)) if new == identity(9)));
        let (new, claim) = decide_for(None, Some(2)).expect("joins");
        assert_eq!((new, claim), (identity(9), Claim::Replaces(identity(2).incarnation)));
    }

    #[test]
    fn b11_a_directory_that_metadata_does_not_know_any_more_is_refused() {
        let used = Identity { log_begun: true, ..identity(2) };
        assert!(matches!(decide_for(Some(used.clone()), Some(2)), Ok((_, Claim::Known))));
        assert!(matches!(decide_for(Some(used.clone()), None), Ok((_, Claim::First))));
        assert!(matches!(decide_for(Some(used), Some(3)), Err(IdentityError::OtherIncarnation { .. })));
        assert!(matches!(decide_for(Some(identity(2)), Some(3)), Ok((_, Claim::Replaces(_)))));
    }

    #[test]
    fn a_directory_of_another_cluster_or_name_is_refused() {
        let other_cluster = Identity { cluster: ClusterId::new(Uuid::from_u128(7)), ..identity(2) };
        assert!(matches!(decide_for(Some(other_cluster), None), Err(IdentityError::OtherCluster { .. })));
        let other_name = Identity { bookie: BookieName::parse("b2").expect("valid"), ..identity(2) };
        assert!(matches!(decide_for(Some(other_name), None), Err(IdentityError::OtherBookie { .. })));
    }
}
