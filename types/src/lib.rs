//! The shared words of Alluvium.
//!
//! Plain values with their invariants: ids, names, replication, ledger metadata, the bytes of an entry, what a bookie is
//! asked and answers. No I/O, no async, no clock and no wire format of a protocol: whoever needs those has them above.
//!
//! Read in this order: [`ids`], [`names`], [`replication`], [`ledger`], [`checksum`], [`batch`], [`entry`], [`bookie`].

pub mod batch;
pub mod bookie;
pub mod checksum;
pub mod entry;
pub mod fault;
pub mod ids;
pub mod key_hash;
pub mod ledger;
pub mod limits;
pub mod names;
pub mod policy;
pub mod replication;
pub mod time;
