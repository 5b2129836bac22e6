//! What a process needs and a simulator replaces: time, chance, tasks, disk, net, memory budgets, logs and metrics; and what
//! the machine is that it runs on.
//!
//! This crate knows nothing of topics, ledgers or bookies. It is the only one that touches the outside world; `clippy.toml`
//! bans the direct ways elsewhere.

pub mod backoff;
pub mod budget;
pub mod clock;
pub mod disk;
pub mod entropy;
pub mod lanes;
pub mod machine;
pub mod net;
pub mod pem;
pub mod simulation;
pub mod tasks;
pub mod telemetry;
pub mod ticker;
