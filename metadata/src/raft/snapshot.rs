//! Snapshots on disk: whole or not there.

use alluvium_runtime::disk::BLOCK_BYTES;
use alluvium_types::checksum::Crc32c;
use bytes::Bytes;

use super::layout::{Header, Kind, write_whole};
use super::log::{Home, read_file, remove_if_there};
use super::transport::VoterId;
use crate::error::OpenError;

/// A snapshot as it lies on disk.
#[derive(Clone, Debug)]
pub(crate) struct StoredSnapshot {
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) voters: Vec<VoterId>,
    pub(crate) body: Bytes,
}

/// Makes a snapshot durable. Until this returns, the log behind it must stay.
pub(crate) fn write(home: &Home, snapshot: &StoredSnapshot) -> std::io::Result<()> {
    let header = Header {
        first: snapshot.index,
        second: snapshot.term,
        body_bytes: snapshot.body.len() as u64,
        body_checksum: Crc32c::of(&snapshot.body),
        voters: snapshot.voters.clone(),
        ..Header::new(Kind::Snapshot, home.cluster, home.voter)
    };
    let mut block = vec![0; BLOCK_BYTES];
    header.encode(&mut block);
    let unfinished = home.folder.unfinished("snapshot");
    remove_if_there(home, &unfinished)?;
    write_whole(home.disk.as_ref(), &home.folder, &unfinished, &home.folder.snapshot(snapshot.index), &[&block, &snapshot.body])
}

/// Removes the snapshots `indices`: a newer one is durable.
pub(crate) fn remove(home: &Home, indices: &[u64]) -> std::io::Result<()> {
    for &index in indices {
        home.disk.remove(&home.folder.snapshot(index))?;
    }
    home.disk.sync_dir(&home.folder.0)
}

/// Reads a snapshot. One that is there is whole, so what doesn't match is corrupt, and refused: an older one would bring
/// back what was deleted.
pub(crate) fn read(home: &Home, index: u64) -> Result<StoredSnapshot, OpenError> {
    let path = home.folder.snapshot(index);
    let bytes = read_file(home.disk.as_ref(), &path, false)?;
    let header = Header::decode(Kind::Snapshot, &path, &bytes)?;
    header.check_whose(&path, home.cluster, home.voter)?;
    let corrupt = |problem: &str| OpenError::Corrupt { path: path.clone(), problem: problem.to_owned() };
    let end = usize::try_from(header.body_bytes).ok().and_then(|length| length.checked_add(BLOCK_BYTES));
    let body = end.and_then(|end| bytes.get(BLOCK_BYTES..end)).ok_or_else(|| corrupt("its body is cut short"))?;
    if Crc32c::of(body) != header.body_checksum {
        return Err(corrupt("the checksum of its body does not match"));
    }
    if header.first != index {
        return Err(corrupt("it says that it is of another index"));
    }
    Ok(StoredSnapshot { index, term: header.second, voters: header.voters, body: Bytes::copy_from_slice(body) })
}
