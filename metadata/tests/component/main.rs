//! Component tests of the metadata plane: every backend, the raft store's disk and its voters, the repositories.

#![expect(clippy::unwrap_used, reason = "what fails here fails a test")]

mod backends;
mod cluster;
mod disk;
mod etcd;
mod placements;
mod repositories;
mod sessions;
mod topic_changes;
mod voters;
