//! What administrators do.
