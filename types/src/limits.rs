//! One limit, derived downward: what a client may send fits an entry, what an entry holds fits a bookie's frame (C36).

/// The largest message (key, payload, headers and all, as encoded in a batch), unless configured.
pub const MESSAGE_BYTES_MAX: usize = 5 << 20;
/// The largest value that `message_bytes_max` may be configured to.
pub const MESSAGE_BYTES_CEILING: usize = 64 << 20;
/// What a batch of one largest message adds to it: the framing of the batch.
pub const BATCH_OVERHEAD_BYTES: usize = 64;
/// What a batch is closed at by clients, unless one message is larger.
pub const BATCH_BYTES_TARGET: usize = 64 << 10;
/// The most messages in a batch.
pub const BATCH_MESSAGES_MAX: u32 = 1 << 16;
/// The most batches in an entry.
pub const ENTRY_BATCHES_MAX: usize = 4096;
/// What an entry is closed at by the broker, unless one batch is larger.
pub const ENTRY_BYTES_TARGET: usize = 256 << 10;
/// How many times its size on the wire a batch may inflate to, at most.
pub const INFLATION_MAX: usize = 1024;
/// The largest key, in bytes.
pub const KEY_BYTES_MAX: usize = 64 << 10;
/// The most headers of a message.
pub const HEADERS_MAX: usize = 256;

/// The limits of one deployment, all derived from the largest message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    message_bytes_max: usize,
}

impl Limits {
    /// Derives the limits; `None` when `message_bytes_max` is 0 or past [`MESSAGE_BYTES_CEILING`].
    pub const fn new(message_bytes_max: usize) -> Option<Self> {
        if message_bytes_max == 0 || message_bytes_max > MESSAGE_BYTES_CEILING {
            return None;
        }
        Some(Self { message_bytes_max })
    }

    /// The largest message, as encoded in a batch.
    pub const fn message_bytes_max(self) -> usize {
        self.message_bytes_max
    }

    /// The largest batch, on the wire and inflated.
    pub const fn batch_bytes_max(self) -> usize {
        let one = self.message_bytes_max + BATCH_OVERHEAD_BYTES;
        if one > 4 * BATCH_BYTES_TARGET { one } else { 4 * BATCH_BYTES_TARGET }
    }

    /// The largest body of an entry: one largest batch and the entry's header, or a full target.
    pub const fn entry_bytes_max(self) -> usize {
        self.batch_bytes_max() + ENTRY_BYTES_TARGET + (64 << 10)
    }

    /// The largest frame of a bookie's log file: an entry and the frame's header.
    pub const fn frame_bytes_max(self) -> usize {
        self.entry_bytes_max() + 4096
    }

    /// The largest gRPC message, in either direction: a frame and its envelope.
    pub const fn rpc_bytes_max(self) -> usize {
        self.frame_bytes_max() + (64 << 10)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { message_bytes_max: MESSAGE_BYTES_MAX }
    }
}
