//! The operating system's filesystem.
