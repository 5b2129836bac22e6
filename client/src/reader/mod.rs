//! Readers: messages without a subscription. The place is kept here, one for each partition ([`place`]), and each partition
//! is a stream of its own ([`drive`]), so that each resumes where it was.

mod builder;
mod drive;
mod handle;
mod place;

pub use builder::ReaderBuilder;
pub use handle::Reader;
