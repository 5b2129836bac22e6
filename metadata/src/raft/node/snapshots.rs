//! What the node does about snapshots: its own, those it offers, and one that it is sent.

use raft::eraftpb::Snapshot;
use raft::{ProgressState, SnapshotStatus};

use super::super::codec;
use super::super::group::LogRecord;
use super::super::snapshot::{self, StoredSnapshot};
use super::super::transport::VoterId;
use super::{Node, NodeError};
use crate::state::State;

/// After how many ticks without a word a voter that was sent a snapshot is sent it again.
const SNAPSHOT_PATIENCE_TICKS: u32 = 40;

impl Node {
    /// Replaces everything by another voter's snapshot: first the snapshot is durable, then the log begins behind it.
    pub(super) fn install(&mut self, received: &Snapshot) -> Result<(), NodeError> {
        let metadata = received.get_metadata();
        let image = codec::decode_image(received.data.clone()).map_err(NodeError::Snapshot)?;
        let conf_state = metadata.get_conf_state().clone();
        let stored = StoredSnapshot {
            index: metadata.index,
            term: metadata.term,
            voters: conf_state.voters.iter().filter_map(|&voter| VoterId::new(voter)).collect(),
            body: received.data.clone(),
        };
        snapshot::write(&self.home, &stored)?;
        self.raw.mut_store().install(metadata.index, metadata.term, conf_state);
        let beginning = LogRecord::Beginning { index: metadata.index, term: metadata.term };
        self.log.append(&[beginning, LogRecord::HardState(self.raw.store().hard().clone())])?;
        self.forget_before(metadata.index, received.data.len() as u64);
        self.applied = metadata.index;
        let state = State::from_image(image);
        let revision = state.revision();
        *self.around.shared.state.write() = state;
        self.around.shared.show(revision);
        tracing::info!(index = metadata.index, "caught up by a snapshot");
        Ok(())
    }

    /// With everybody answered: takes space for what comes, and lets go what is not needed. A full disk only postpones it.
    pub(super) fn look_ahead(&mut self) {
        if !self.is_disk_full {
            self.is_disk_full = !self.log.prepare();
        }
        if !self.is_disk_full {
            self.is_disk_full = !self.snapshot_if_due();
        }
        self.offer_snapshot();
    }

    /// Makes a snapshot for voters that are too far behind, and frees it when nobody asks any more.
    pub(super) fn offer_snapshot(&mut self) {
        if self.raw.store().wants_snapshot() {
            let body = codec::encode_image(&self.around.shared.state.read().image());
            self.raw.mut_store().offer(self.applied, body);
            self.offered_ticks = 0;
        }
        if self.offered_ticks > SNAPSHOT_PATIENCE_TICKS {
            self.raw.mut_store().withdraw();
        }
    }

    /// Writes a snapshot and lets the log behind it go, once the log has grown enough. `false`: the disk gave no space.
    pub(super) fn snapshot_if_due(&mut self) -> bool {
        let due = self.snapshot_after_bytes.max(2 * self.image_bytes);
        if self.log.bytes() < due || self.applied <= self.snapshot_index {
            return true;
        }
        let body = codec::encode_image(&self.around.shared.state.read().image());
        let term = self.raw.store().term_of(self.applied).expect("what is applied is kept or is the base");
        let stored = StoredSnapshot { index: self.applied, term, voters: self.raw.store().voters(), body: body.into() };
        if let Err(error) = snapshot::write(&self.home, &stored) {
            tracing::warn!(%error, "no snapshot of metadata yet; trying again");
            return false;
        }
        let kept = self.applied.saturating_sub(self.trailing_entries);
        self.raw.mut_store().compact(kept);
        self.forget_before(self.applied, stored.body.len() as u64);
        true
    }

    /// A durable snapshot of `index` covers what was before.
    pub(super) fn forget_before(&mut self, index: u64, image_bytes: u64) {
        let older = std::mem::replace(&mut self.snapshot_index, index);
        self.image_bytes = image_bytes;
        let removed = if older > 0 && older != index { snapshot::remove(&self.home, &[older]) } else { Ok(()) };
        if let Err(error) = removed.and_then(|()| self.log.release(index)) {
            tracing::warn!(%error, "an old piece of the metadata log is still there");
        }
    }

    /// A snapshot may have been lost on its way: raft waits for its fate, so it is told after a while that it failed.
    pub(super) fn resend_snapshots(&mut self) {
        if self.leading.is_none() {
            self.waiting_for_snapshot.clear();
            return;
        }
        let waiting: Vec<u64> = self
            .raw
            .raft
            .prs()
            .iter()
            .filter(|(_, progress)| progress.state == ProgressState::Snapshot)
            .map(|(&id, _)| id)
            .collect();
        let before = std::mem::take(&mut self.waiting_for_snapshot);
        for id in waiting {
            let ticks = before.iter().find(|(known, _)| *known == id).map_or(0, |(_, ticks)| ticks + 1);
            if ticks > SNAPSHOT_PATIENCE_TICKS {
                self.raw.report_snapshot(id, SnapshotStatus::Failure);
            } else {
                self.waiting_for_snapshot.push((id, ticks));
            }
        }
    }
}
