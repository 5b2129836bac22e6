//! Tests of the house itself: who may import whom, and that every invariant has its test or its reason.

mod edges;
mod invariants;
mod sources;
