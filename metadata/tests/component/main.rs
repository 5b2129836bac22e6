//! Component tests of the metadata plane: every backend, the raft store's disk and its voters, the repositories.

mod backends;
mod cluster;
mod disk;
mod repositories;
mod sessions;
mod voters;
