//! The client against a peer that speaks the protocol and loses connections on purpose.

mod consumer;
mod peer;
mod producer;
