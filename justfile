# Quick commands; `just` lists them. CI runs ./test.

_list:
    @just --list

# Formats, checks and lints.
check:
    cargo fmt --all
    cargo clippy --workspace --all-targets -- -D warnings

# Everything that CI runs.
test:
    ./test

# A million seeds of the simulator, 100,000 of several brokers, and their power reports.
sim:
    cargo run -p alluvium-sim --release -- --seeds 1000000
    cargo run -p alluvium-sim --release -- --mutations
    cargo run -p alluvium-sim --release -- --brokers --seeds 100000
    cargo run -p alluvium-sim --release -- --brokers --mutations

# Crash states of the log engine against the reference model.
crash:
    cargo test -p alluvium-bookie --test log_crash_states -- --nocapture

# A hundred processes of a cluster killed under load, one at a time, and how long partitions did not serve.
kills:
    cargo build -p alluvium-cli
    cargo test -p alluvium-tests --test cluster hundred_kills -- --ignored --nocapture

# What this machine would let a server do: its disk, its transport, a bare pipeline.
ceiling:
    cargo build --release
    cargo run --release -- bench ceiling

# Starts a server to play with.
dev:
    ./run

# Starts a cluster to play with: etcd, three bookies, two brokers.
cluster:
    scripts/cluster
