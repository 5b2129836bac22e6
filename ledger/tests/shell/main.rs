//! The shell: machines over real tasks, metadata in memory, and bookies that are tables, reached directly and over gRPC.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

#[path = "../schedules/bookie.rs"]
#[expect(dead_code, reason = "schedules use more of it")]
mod bookie;
mod cluster;
mod over_grpc;
mod reading;
mod writing;
