//! The names of the files and the block that each begins with. `docs/formats/raft.md` has the table.

use std::path::{Path, PathBuf};

use alluvium_runtime::disk::{BLOCK_BYTES, Disk, SyncMode};
use alluvium_types::checksum::Crc32c;
use alluvium_types::ids::ClusterId;
use uuid::Uuid;

use super::transport::VoterId;
use crate::error::OpenError;

/// The newest format this program reads, and the one that it writes.
pub(crate) const FORMAT_VERSION: u32 = 1;
/// A block, in file offsets.
pub(crate) const BLOCK: u64 = BLOCK_BYTES as u64;
/// The most voters.
const VOTERS_MAX: usize = 64;
const VOTERS_AT: usize = 72;

/// What a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Identity,
    Log,
    Snapshot,
}

impl Kind {
    const fn magic(self) -> &'static [u8; 8] {
        match self {
            Self::Identity => b"ALVRFTID",
            Self::Log => b"ALVRFTLG",
            Self::Snapshot => b"ALVRFTSN",
        }
    }
}

/// The block that a file begins with. What `first`, `second`, `body_bytes` and `body_checksum` mean depends on the kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) cluster: ClusterId,
    pub(crate) voter: VoterId,
    pub(crate) first: u64,
    pub(crate) second: u64,
    pub(crate) body_bytes: u64,
    pub(crate) body_checksum: Crc32c,
    pub(crate) voters: Vec<VoterId>,
}

impl Header {
    /// A header of a kind whose other fields are zero.
    pub(crate) const fn new(kind: Kind, cluster: ClusterId, voter: VoterId) -> Self {
        Self { kind, cluster, voter, first: 0, second: 0, body_bytes: 0, body_checksum: Crc32c::EMPTY, voters: Vec::new() }
    }

    /// Fills the first block of `block`.
    pub(crate) fn encode(&self, block: &mut [u8]) {
        assert!(self.voters.len() <= VOTERS_MAX, "a cluster has at most {VOTERS_MAX} voters");
        let block = &mut block[..BLOCK_BYTES];
        block.fill(0);
        block[0..8].copy_from_slice(self.kind.magic());
        block[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        block[16..32].copy_from_slice(self.cluster.get().as_bytes());
        block[32..40].copy_from_slice(&self.voter.get().to_le_bytes());
        block[40..48].copy_from_slice(&self.first.to_le_bytes());
        block[48..56].copy_from_slice(&self.second.to_le_bytes());
        block[56..64].copy_from_slice(&self.body_bytes.to_le_bytes());
        block[64..68].copy_from_slice(&self.body_checksum.get().to_le_bytes());
        let count = u32::try_from(self.voters.len()).expect("few voters");
        block[68..72].copy_from_slice(&count.to_le_bytes());
        for (voter, at) in self.voters.iter().zip((VOTERS_AT..).step_by(8)) {
            block[at..at + 8].copy_from_slice(&voter.get().to_le_bytes());
        }
        let checksum = Crc32c::of(block);
        block[12..16].copy_from_slice(&checksum.get().to_le_bytes());
    }

    /// Reads a block. The version is looked at before the checksum: a newer format may place it elsewhere.
    pub(crate) fn decode(kind: Kind, path: &Path, block: &[u8]) -> Result<Self, OpenError> {
        let corrupt = |problem: &str| OpenError::Corrupt { path: path.to_owned(), problem: problem.to_owned() };
        if block.len() < BLOCK_BYTES || &block[0..8] != kind.magic() {
            return Err(corrupt("it does not begin as such a file does"));
        }
        let found = u32_at(block, 8);
        if found > FORMAT_VERSION {
            return Err(OpenError::NewerFormat { path: path.to_owned(), found, known: FORMAT_VERSION });
        }
        let mut zeroed = block[..BLOCK_BYTES].to_vec();
        zeroed[12..16].fill(0);
        if Crc32c::of(&zeroed).get() != u32_at(block, 12) {
            return Err(corrupt("the checksum of its first block does not match"));
        }
        let count = usize::try_from(u32_at(block, 68)).unwrap_or(usize::MAX);
        if found == 0 || count > VOTERS_MAX {
            return Err(corrupt("its first block makes no sense"));
        }
        let voters = (0..count).map(|n| VoterId::new(u64_at(block, VOTERS_AT + 8 * n))).collect::<Option<_>>();
        let (voter, voters) = VoterId::new(u64_at(block, 32)).zip(voters).ok_or_else(|| corrupt("it names a voter 0"))?;
        let mut cluster = [0; 16];
        cluster.copy_from_slice(&block[16..32]);
        Ok(Self {
            kind,
            cluster: ClusterId::new(Uuid::from_bytes(cluster)),
            voter,
            first: u64_at(block, 40),
            second: u64_at(block, 48),
            body_bytes: u64_at(block, 56),
            body_checksum: Crc32c::new(u32_at(block, 64)),
            voters,
        })
    }

    /// Refuses a file of another cluster or voter.
    pub(crate) fn check_whose(&self, path: &Path, cluster: ClusterId, voter: VoterId) -> Result<(), OpenError> {
        if self.cluster != cluster {
            return Err(OpenError::OtherCluster { path: path.to_owned(), found: self.cluster, expected: cluster });
        }
        if self.voter != voter {
            return Err(OpenError::OtherVoter { path: path.to_owned(), found: self.voter, expected: voter });
        }
        Ok(())
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The names of a voter's folder.
#[derive(Clone, Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn identity(&self) -> PathBuf {
        self.0.join("identity")
    }

    pub(crate) fn log(&self, sequence: u64) -> PathBuf {
        self.0.join(format!("log-{sequence:016x}"))
    }

    pub(crate) fn spare(&self) -> PathBuf {
        self.0.join("spare")
    }

    pub(crate) fn snapshot(&self, index: u64) -> PathBuf {
        self.0.join(format!("snapshot-{index:016x}"))
    }

    pub(crate) fn unfinished(&self, what: &str) -> PathBuf {
        self.0.join(format!("{what}.tmp"))
    }
}

/// What lies in a voter's folder.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) identity: bool,
    pub(crate) spare: bool,
    /// Sequences of the log's pieces, ascending.
    pub(crate) logs: Vec<u64>,
    /// Indices of snapshots, ascending.
    pub(crate) snapshots: Vec<u64>,
    /// What was not finished.
    unfinished: Vec<PathBuf>,
}

impl Contents {
    /// Lists a folder.
    pub(crate) fn read(disk: &dyn Disk, folder: &Folder) -> Result<Self, OpenError> {
        let mut contents = Self::default();
        let found = disk.list(&folder.0).map_err(|source| OpenError::Disk { path: folder.0.clone(), source })?;
        for path in found {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if name == "identity" {
                contents.identity = true;
            } else if name == "spare" {
                contents.spare = true;
            } else if name.ends_with(".tmp") {
                contents.unfinished.push(folder.0.join(name));
            } else if let Some(sequence) = numbered(name, "log-") {
                contents.logs.push(sequence);
            } else if let Some(index) = numbered(name, "snapshot-") {
                contents.snapshots.push(index);
            }
        }
        contents.logs.sort_unstable();
        contents.snapshots.sort_unstable();
        Ok(contents)
    }

    /// Removes what was not finished, and all snapshots but the newest.
    pub(crate) fn tidy(&self, disk: &dyn Disk, folder: &Folder) -> Result<(), OpenError> {
        let older = &self.snapshots[..self.snapshots.len().saturating_sub(1)];
        let superfluous = self.unfinished.iter().cloned().chain(older.iter().map(|&index| folder.snapshot(index)));
        for path in superfluous {
            disk.remove(&path).map_err(|source| OpenError::Disk { path, source })?;
        }
        disk.sync_dir(&folder.0).map_err(|source| OpenError::Disk { path: folder.0.clone(), source })
    }
}

fn numbered(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

/// Writes a whole file under a name that nobody reads, then gives it its own: it is there entirely or not at all.
pub(crate) fn write_whole(
    disk: &dyn Disk,
    folder: &Folder,
    unfinished: &Path,
    path: &Path,
    parts: &[&[u8]],
) -> std::io::Result<()> {
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    let file = disk.create(unfinished, bytes as u64, SyncMode::Buffered)?;
    let mut at = 0;
    for part in parts {
        file.write_at(at, part)?;
        at += part.len() as u64;
    }
    file.sync()?;
    disk.rename(unfinished, path)?;
    disk.sync_dir(&folder.0)
}
