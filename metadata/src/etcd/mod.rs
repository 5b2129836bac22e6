//! The store on etcd: what a cluster of several machines uses.
//!
//! etcd decides and keeps everything; here is only how our trait is said in its words, and what its words don't promise. It
//! never takes a lost answer for a refusal (M3), never lets a watch skip a change (M5), and never takes a renewal for
//! confirmed that a deposed leader may have given (M4). `docs/formats/metadata.md` has the key space.
//!
//! Read in this order: [`config`], `layout` (keys, values and leases in etcd, pure), `fault` (what an answer means, pure),
//! `members` (who is asked, and whether it is still the same etcd), `reads` (asked for
//! together), `writes` (decided together), `feed` (the one watch), `lease`, `store`.

pub mod config;
mod fault;
mod feed;
mod layout;
mod lease;
mod members;
mod reads;
mod store;
mod writes;

pub use config::{EtcdConfig, EtcdTls, Password};
pub use store::EtcdStore;
