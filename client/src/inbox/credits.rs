//! What was granted for deliveries, and what of it is free again. Plain code.

use alluvium_proto::v1;

/// Credit: messages, and bytes as the server counts them: a message by its encoded length, a whole batch by its inflated
/// bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

/// Credit to be granted again: collected until it is worth a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Credits {
    pub(super) window: Cost,
    free: Cost,
    due: bool,
}

impl Credits {
    pub(super) const fn new(window: Cost) -> Self {
        Self { window, free: Cost { messages: 0, bytes: 0 }, due: false }
    }

    /// Takes back what an item had used. Says whether it is time to grant.
    pub(super) const fn release(&mut self, cost: Cost) -> bool {
        self.free.messages += cost.messages;
        self.free.bytes += cost.bytes;
        if 2 * self.free.messages >= self.window.messages || 2 * self.free.bytes >= self.window.bytes {
            self.due = true;
        }
        self.due
    }

    /// The application waits: whatever is free is granted, so that the server can't wait for it in turn.
    pub(super) fn hurry(&mut self) -> bool {
        self.due |= self.free != Cost::default();
        self.due
    }

    /// What to grant now, if it is time.
    pub(super) fn grant(&mut self) -> Option<v1::Credit> {
        if !self.due {
            return None;
        }
        self.due = false;
        let free = std::mem::take(&mut self.free);
        (free != Cost::default()).then_some(v1::Credit { messages: free.messages, bytes: free.bytes })
    }

    /// A new stream begins: nothing granted to the old one counts, and `held` of the window is in use here. What is left is
    /// granted at once, unless a measure is used up: granting the other one alone would not bound it.
    pub(super) fn restart(&mut self, held: Cost) -> Option<v1::Credit> {
        let messages = self.window.messages.saturating_sub(held.messages);
        let bytes = self.window.bytes.saturating_sub(held.bytes);
        *self = Self::new(self.window);
        if messages == 0 || bytes == 0 {
            self.free = Cost { messages, bytes };
            return None;
        }
        Some(v1::Credit { messages, bytes })
    }
}
