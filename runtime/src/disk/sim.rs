//! A filesystem in memory that can tear, lose, fill and rot.
