//! From a folder to a voter: checks whose it is, reads snapshot and log, refuses what is not whole.

use std::path::Path;
use std::sync::Arc;

use alluvium_runtime::disk::{BLOCK_BYTES, Disk};
use alluvium_runtime::entropy::Entropy;
use alluvium_types::ids::ClusterId;

use super::RaftConfig;
use super::codec;
use super::layout::{Contents, Folder, Header, Kind, write_whole};
use super::log::{self, Home, Log, read_file};
use super::replica::Replica;
use super::snapshot;
use crate::error::OpenError;
use crate::state::State;

/// What a folder gives.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) home: Home,
    pub(crate) log: Log,
    pub(crate) replica: Replica,
    pub(crate) state: State,
    /// The index that the state is of: that of the newest snapshot, or 0.
    pub(crate) applied: u64,
    /// The size of that snapshot's body.
    pub(crate) image_bytes: u64,
}

/// Opens a voter's folder, or makes it.
pub(crate) fn open(config: &RaftConfig, disk: &Arc<dyn Disk>, entropy: &Entropy) -> Result<Opened, OpenError> {
    let folder = Folder(config.dir.clone());
    let failed = |path: &Path, source| OpenError::Disk { path: path.to_owned(), source };
    disk.create_dir_all(&folder.0).map_err(|e| failed(&folder.0, e))?;
    let contents = Contents::read(disk.as_ref(), &folder)?;
    let home = |cluster| Home {
        disk: Arc::clone(disk),
        folder: folder.clone(),
        cluster,
        voter: config.voter,
        sync: config.sync,
        file_bytes: config.log_file_bytes,
    };
    if contents.identity {
        let identity = read_identity(disk.as_ref(), &folder)?;
        identity.check_whose(&folder.identity(), config.cluster.unwrap_or(identity.cluster), config.voter)?;
        return reopen(home(identity.cluster), &identity, &contents);
    }
    if !contents.snapshots.is_empty() || log::holds_groups(disk.as_ref(), &folder, &contents.logs)? {
        return Err(OpenError::HalfWritten { dir: folder.0, problem: "it has a log but no identity".to_owned() });
    }
    if !config.voters.contains(&config.voter) {
        let problem = format!("voter {} is not among {:?}", config.voter, config.voters);
        return Err(OpenError::Voters { problem });
    }
    // An earlier start ended before it had made the folder; nothing was promised.
    contents.tidy(disk.as_ref(), &folder)?;
    for &sequence in &contents.logs {
        disk.remove(&folder.log(sequence)).map_err(|e| failed(&folder.0, e))?;
    }
    create(config, home(config.cluster.unwrap_or_else(|| ClusterId::new(entropy.uuid()))))
}

fn create(config: &RaftConfig, home: Home) -> Result<Opened, OpenError> {
    let log = Log::create(home.clone())?;
    // Last: what has an identity is whole.
    let header = Header { voters: config.voters.clone(), ..Header::new(Kind::Identity, home.cluster, home.voter) };
    let mut block = vec![0; BLOCK_BYTES];
    header.encode(&mut block);
    let path = home.folder.identity();
    write_whole(home.disk.as_ref(), &home.folder, &home.folder.unfinished("identity"), &path, &[&block])
        .map_err(|source| OpenError::Disk { path, source })?;
    tracing::info!(cluster = %home.cluster, voter = %home.voter, dir = ?home.folder.0, "made a metadata folder");
    let replica = Replica::new(&config.voters, (0, 0));
    Ok(Opened { home, log, replica, state: State::new(), applied: 0, image_bytes: 0 })
}

fn read_identity(disk: &dyn Disk, folder: &Folder) -> Result<Header, OpenError> {
    let path = folder.identity();
    let bytes = read_file(disk, &path, false)?;
    Header::decode(Kind::Identity, &path, &bytes)
}

fn reopen(home: Home, identity: &Header, contents: &Contents) -> Result<Opened, OpenError> {
    let (mut state, mut image_bytes) = (State::new(), 0);
    let (mut base, mut voters) = ((0, 0), identity.voters.clone());
    if let Some(&index) = contents.snapshots.last() {
        let stored = snapshot::read(&home, index)?;
        image_bytes = stored.body.len() as u64;
        (base, voters) = ((stored.index, stored.term), stored.voters);
        let image = codec::decode_image(stored.body)
            .map_err(|problem| OpenError::Corrupt { path: home.folder.snapshot(index), problem })?;
        state = State::from_image(image);
    }
    let read = Log::read(&home, &contents.logs)?;
    let mut replica = Replica::new(&voters, base);
    replica.replay(read.records).map_err(|problem| OpenError::Corrupt { path: home.folder.0.clone(), problem })?;
    // All is well: only now is anything changed.
    contents.tidy(home.disk.as_ref(), &home.folder)?;
    let log = Log::resume(home.clone(), read.end, contents.spare)?;
    Ok(Opened { home, log, replica, state, applied: base.0, image_bytes })
}
