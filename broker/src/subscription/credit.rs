//! What a consumer is ready to take: messages and bytes, granted by it, used up by deliveries (S3).

use alluvium_types::fault::Fault;

/// The most messages that may be open at a time.
pub const MESSAGES_OPEN_MAX: u64 = 1 << 31;
/// The most bytes that may be open at a time.
pub const BYTES_OPEN_MAX: u64 = 1 << 40;

/// What a consumer grants on top of what it granted before. At least one number is above 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Grant {
    /// 1 means 1.
    pub messages: u64,
    /// The size of a message is its encoded length; that of a whole batch its inflated bytes.
    pub bytes: u64,
}

/// What may be delivered now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowance {
    /// At most this many messages and bytes; both above 0.
    pub left: Grant,
    /// Nothing else is on its way: the first message may be larger than what is left.
    pub alone: bool,
}

/// Credit as sums since the stream began: what is left is derived, `granted - taken`, and so can't drift from it (S3, C44).
/// What is on its way is derived too: `taken - settled`.
///
/// A measure of which nothing was ever granted does not bound: who grants messages alone is sent messages of any size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Account {
    granted: Grant,
    taken: Grant,
    reclaimed: Grant,
    settled: u64,
}

impl Account {
    /// Opens more. Refused, with nothing changed, when it grants nothing or more would be open than the limits allow.
    pub fn grant(&mut self, more: Grant) -> Result<(), Fault> {
        if more == Grant::default() {
            return Err(Fault::invalid("credit", "CREDIT_EMPTY", "credit grants nothing; messages or bytes must be above 0"));
        }
        let gone = self.gone();
        let messages = open(self.granted.messages, gone.messages, more.messages, MESSAGES_OPEN_MAX, "credit.messages")?;
        let bytes = open(self.granted.bytes, gone.bytes, more.bytes, BYTES_OPEN_MAX, "credit.bytes")?;
        self.granted = Grant { messages, bytes };
        Ok(())
    }

    /// What is not to be used any more: taken, or reclaimed.
    const fn gone(&self) -> Grant {
        Grant { messages: self.taken.messages + self.reclaimed.messages, bytes: self.taken.bytes + self.reclaimed.bytes }
    }

    /// What is left; the maximum of a measure that doesn't bound. A message larger than the rest is owed: it shows as 0 here
    /// until later grants have covered it.
    pub const fn left(&self) -> Grant {
        if self.granted.messages == 0 && self.granted.bytes == 0 {
            return Grant { messages: 0, bytes: 0 };
        }
        let messages = match self.granted.messages {
            0 => MESSAGES_OPEN_MAX,
            granted => granted.saturating_sub(self.gone().messages),
        };
        let bytes = match self.granted.bytes {
            0 => BYTES_OPEN_MAX,
            granted => granted.saturating_sub(self.gone().bytes),
        };
        Grant { messages, bytes }
    }

    /// Whether more is used up of a measure that bounds than was granted of it.
    pub const fn is_overdrawn(&self) -> bool {
        let gone = self.gone();
        let messages = self.granted.messages > 0 && gone.messages > self.granted.messages;
        let bytes = self.granted.bytes > 0 && gone.bytes > self.granted.bytes;
        messages || bytes
    }

    /// What may be delivered now; `None` when a measure is used up.
    pub const fn allowance(&self) -> Option<Allowance> {
        let left = self.left();
        if left.messages == 0 || left.bytes == 0 {
            return None;
        }
        Some(Allowance { left, alone: self.on_their_way() == 0 })
    }

    /// A delivery uses credit.
    pub const fn take(&mut self, used: Grant) {
        self.taken.messages += used.messages;
        self.taken.bytes += used.bytes;
    }

    /// A delivery turns out larger than what was taken for it. Given if that much is left, or, when it is `alone`, if anything
    /// is.
    pub const fn take_more(&mut self, bytes: u64, alone: bool) -> bool {
        let left = self.left().bytes;
        let given = bytes <= left || (alone && left > 0);
        if given {
            self.taken.bytes += bytes;
        }
        given
    }

    /// What was taken for a delivery was not delivered after all, or was smaller.
    pub const fn refund(&mut self, unused: Grant) {
        self.taken.messages = self.taken.messages.saturating_sub(unused.messages);
        self.taken.bytes = self.taken.bytes.saturating_sub(unused.bytes);
    }

    /// Takes back what is left of the measures that bound; answers how much it was.
    pub const fn reclaim(&mut self) -> Grant {
        let gone = self.gone();
        let left = Grant {
            messages: self.granted.messages.saturating_sub(gone.messages),
            bytes: self.granted.bytes.saturating_sub(gone.bytes),
        };
        // What was granted stays granted: a measure that bounds goes on to.
        self.reclaimed.messages += left.messages;
        self.reclaimed.bytes += left.bytes;
        left
    }

    /// So many messages are no longer on their way: acknowledged, given back, or handed over where nothing is acknowledged.
    pub const fn settle(&mut self, messages: u64) {
        self.settled += messages;
    }

    /// Messages taken and not settled.
    pub const fn on_their_way(&self) -> u64 {
        self.taken.messages.saturating_sub(self.settled)
    }

    /// All that was granted.
    pub const fn granted(&self) -> Grant {
        self.granted
    }

    /// All that deliveries used.
    pub const fn taken(&self) -> Grant {
        self.taken
    }
}

/// What is granted with `more`, unless more than `max` would be open.
fn open(granted: u64, taken: u64, more: u64, max: u64, field: &str) -> Result<u64, Fault> {
    let left = granted.saturating_sub(taken);
    if more > max.saturating_sub(left) {
        let text = format!("{more} on top of {left} still open is more than the limit of {max}");
        return Err(Fault::invalid(field, "CREDIT_TOO_LARGE", text));
    }
    // The first grant of a measure bounds from here on.
    let base = if granted == 0 && more > 0 { taken } else { granted };
    Ok(base.saturating_add(more))
}

#[cfg(test)]
mod tests {
    use alluvium_types::fault::FaultKind;

    use super::*;

    const fn grant(messages: u64, bytes: u64) -> Grant {
        Grant { messages, bytes }
    }

    #[test]
    fn credit_of_nothing_or_past_the_limit_is_refused_and_changes_nothing() {
        for (more, field, reason) in [
            (grant(0, 0), "credit", "CREDIT_EMPTY"),
            (grant(1 << 63, 1), "credit.messages", "CREDIT_TOO_LARGE"),
            (grant(1, 1 << 63), "credit.bytes", "CREDIT_TOO_LARGE"),
            (grant(MESSAGES_OPEN_MAX, 1), "credit.messages", "CREDIT_TOO_LARGE"),
            (grant(1, BYTES_OPEN_MAX), "credit.bytes", "CREDIT_TOO_LARGE"),
        ] {
            let mut account = Account::default();
            account.grant(grant(1, 1)).expect("small");
            let before = account;
            let fault = account.grant(more).expect_err("refused");
            assert_eq!((fault.kind, fault.reason), (FaultKind::InvalidArgument, reason));
            assert_eq!(fault.field.as_deref(), Some(field));
            assert_eq!(account, before);
        }
        Account::default().grant(grant(MESSAGES_OPEN_MAX, BYTES_OPEN_MAX)).expect("exactly the limits");
    }

    #[test]
    fn what_is_left_and_what_was_taken_make_up_what_was_granted() {
        let mut account = Account::default();
        account.grant(grant(10, 1000)).expect("fine");
        account.take(grant(3, 400));
        account.refund(grant(1, 100));
        assert_eq!(account.left(), grant(8, 700));
        account.grant(grant(0, 5)).expect("bytes alone");
        assert_eq!(account.left(), grant(8, 705));
    }

    #[test]
    fn a_message_larger_than_the_rest_is_owed() {
        let mut account = Account::default();
        account.grant(grant(10, 100)).expect("fine");
        account.take(grant(1, 150));
        assert_eq!(account.left().bytes, 0);
        account.grant(grant(0, 60)).expect("fine");
        assert_eq!(account.left().bytes, 10);
    }

    #[test]
    fn a_message_is_alone_once_the_others_are_settled() {
        let mut account = Account::default();
        account.grant(grant(10, 100)).expect("fine");
        account.take(grant(2, 10));
        assert_eq!(account.allowance().map(|a| a.alone), Some(false));
        account.settle(2);
        assert_eq!(account.allowance().map(|a| a.alone), Some(true));
    }

    #[test]
    fn a_measure_that_was_never_granted_does_not_bound() {
        let mut account = Account::default();
        assert_eq!(account.left(), grant(0, 0));
        account.grant(grant(1, 0)).expect("fine");
        assert_eq!(account.left(), grant(1, BYTES_OPEN_MAX));
        account.take(grant(1, 999));
        assert_eq!(account.left().messages, 0);
        account.grant(grant(1, 10)).expect("fine");
        assert_eq!(account.left(), grant(1, 10), "bytes bound once some were granted");
    }
}
