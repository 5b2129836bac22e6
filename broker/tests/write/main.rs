//! The write side of a broker, as its clients see it, over bookies and metadata in memory.

mod audit;
mod bookie;
mod changes;
mod cluster;
mod consuming;
mod deaf;
mod forwarding;
mod losses;
mod operate;
mod path;
mod publishing;
mod reading;
mod retention;
mod silence;
mod stalled;
mod subscribing;
mod takeover;
