//! What a bookie allows, by what is marked of a ledger. Pure: a table of decisions.

use alluvium_types::bookie::{Adder, Missing, OpenLedger, ReadRefusal, Refusal};
use alluvium_types::ids::{Epoch, LedgerId, RecoveryNumber};
use alluvium_types::ledger::LedgerClass;

use crate::log::{Above, MarkTable, Marks, Opened};

/// What a request needs before it can be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// Nothing new: the mark it would leave stands already, durable or on its way.
    Nothing,
    /// These marks, durable.
    Marks(Marks),
}

/// What is known of one ledger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ledger {
    /// It was opened or fenced here.
    Known(Marks),
    /// It was not, provably (B3).
    Unknown,
    /// It has no marks, but a lost group may have held them: these are what such a ledger gets with its first one.
    Doubtful(Marks),
}

impl Ledger {
    /// Looks a ledger up. `has_entries`: frames of it are here, though its marks may be lost.
    pub(crate) fn of(table: &MarkTable, ledger: LedgerId, has_entries: bool) -> Self {
        if let Some(marks) = table.get(ledger) {
            return Self::Known(*marks);
        }
        let doubts = table.doubts();
        let below = |bound: Option<LedgerId>| bound.is_some_and(|bound| ledger < bound);
        let marks = Marks {
            torn: below(doubts.torn_below).then_some(Above::Nothing),
            in_doubt: has_entries || below(doubts.in_doubt_below),
            ..Marks::default()
        };
        if marks == Marks::default() { Self::Unknown } else { Self::Doubtful(marks) }
    }

    /// The marks that a new one is added to.
    fn marks(&self) -> Marks {
        match self {
            Self::Known(marks) | Self::Doubtful(marks) => *marks,
            Self::Unknown => Marks::default(),
        }
    }

    /// Whether `open` is allowed, and what it needs.
    pub(crate) fn open(&self, open: &OpenLedger) -> Result<Need, Refusal> {
        let marks = match self {
            Self::Known(marks) => marks,
            Self::Unknown => {
                let opened = Some(Opened { epoch: open.epoch, class: open.class });
                return Ok(Need::Marks(Marks { opened, ..Marks::default() }));
            }
            // A fence may have been lost; the writer takes another bookie.
            Self::Doubtful(_) => return Err(Refusal::UnknownLedger),
        };
        if marks.deleted {
            return Err(Refusal::Deleted);
        }
        if marks.opened.is_some_and(|opened| open.epoch < opened.epoch) {
            return Err(Refusal::Stale);
        }
        if marks.fenced.is_some() || marks.closed.is_some() {
            return Err(Refusal::Fenced);
        }
        if is_doubtful(marks) {
            return Err(Refusal::UnknownLedger);
        }
        if marks.opened.is_some_and(|opened| opened.epoch == open.epoch) {
            return Ok(Need::Nothing);
        }
        Ok(Need::Marks(Marks { opened: Some(Opened { epoch: open.epoch, class: open.class }), ..*marks }))
    }

    /// Whether an entry may be added by this right.
    pub(crate) fn admit(&self, adder: &Adder) -> Result<(), Refusal> {
        match *adder {
            Adder::Writer { epoch } => self.admit_writer(epoch),
            Adder::Recovery { number } => {
                let Self::Known(marks) = self else { return Err(Refusal::UnknownLedger) };
                if marks.deleted {
                    return Err(Refusal::Deleted);
                }
                // Fenced or not, torn or not (C20); a newer recovery supersedes an older one (C69).
                if marks.fenced.is_some_and(|fence| number < fence) { Err(Refusal::Stale) } else { Ok(()) }
            }
        }
    }

    /// Whether the writer of `epoch` may write, be it an entry or its LAC.
    pub(crate) fn admit_writer(&self, epoch: Epoch) -> Result<(), Refusal> {
        let Self::Known(marks) = self else { return Err(Refusal::UnknownLedger) };
        if marks.deleted {
            return Err(Refusal::Deleted);
        }
        if marks.opened.is_some_and(|opened| epoch < opened.epoch) {
            return Err(Refusal::Stale);
        }
        if marks.fenced.is_some() || marks.closed.is_some() {
            return Err(Refusal::Fenced);
        }
        // A newer claim has to open the ledger first.
        if is_doubtful(marks) || marks.opened.is_none_or(|opened| opened.epoch != epoch) {
            return Err(Refusal::UnknownLedger);
        }
        Ok(())
    }

    /// Whether `number` may fence, and what that needs. A ledger that was never seen is created, fenced (C7).
    pub(crate) fn fence(&self, number: RecoveryNumber) -> Result<Need, ReadRefusal> {
        let marks = self.marks();
        if marks.deleted {
            return Err(ReadRefusal::Deleted);
        }
        match marks.fenced {
            Some(fence) if number < fence => Err(ReadRefusal::Stale),
            Some(fence) if number == fence => Ok(Need::Nothing),
            _ => Ok(Need::Marks(Marks { fenced: Some(number), ..marks })),
        }
    }

    /// What is said of an entry that is not here (B3, C31, C59).
    pub(crate) fn missing(&self) -> Missing {
        let marks = self.marks();
        if marks.in_doubt {
            Missing::Unknown
        } else if marks.torn.is_some() {
            // Also below the last entry that is here: a recovery may have added there, in the group that was lost.
            Missing::Torn
        } else {
            Missing::Absent
        }
    }

    /// What it is for. What nobody opened here is known by its fence alone, and recoveries write to it whatever it is for.
    pub(crate) fn class(&self) -> LedgerClass {
        self.marks().opened.map_or(LedgerClass::Bulk, |opened| opened.class)
    }
}

/// The marks of a ledger that metadata shows to be Closed: torn ends (C59). What was torn away stays unknown: this bookie may
/// have acknowledged it.
pub(crate) fn closed(marks: &Marks, last: crate::log::LastEntry) -> Marks {
    Marks { closed: Some(last), in_doubt: is_doubtful(marks), torn: None, ..*marks }
}

const fn is_doubtful(marks: &Marks) -> bool {
    marks.torn.is_some() || marks.in_doubt
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn open(epoch: u64) -> OpenLedger {
        OpenLedger { ledger: LedgerId::new(1), epoch: Epoch::new(epoch), class: LedgerClass::Bulk }
    }

    const fn writer(epoch: u64) -> Adder {
        Adder::Writer { epoch: Epoch::new(epoch) }
    }

    const fn recovery(number: u64) -> Adder {
        Adder::Recovery { number: RecoveryNumber::new(number) }
    }

    fn opened() -> Marks {
        Marks { opened: Some(Opened { epoch: Epoch::new(5), class: LedgerClass::Bulk }), ..Marks::default() }
    }

    fn fenced(number: u64) -> Ledger {
        Ledger::Known(Marks { fenced: Some(RecoveryNumber::new(number)), ..opened() })
    }

    #[test]
    fn an_older_epoch_is_stale_and_a_newer_one_has_to_open_first() {
        let ledger = Ledger::Known(opened());
        assert_eq!(ledger.admit(&writer(4)), Err(Refusal::Stale));
        assert_eq!(ledger.admit(&writer(5)), Ok(()));
        assert_eq!(ledger.admit(&writer(6)), Err(Refusal::UnknownLedger));
        assert_eq!(ledger.open(&open(4)), Err(Refusal::Stale));
        assert_eq!(ledger.open(&open(5)), Ok(Need::Nothing));
        assert!(matches!(ledger.open(&open(6)), Ok(Need::Marks(_))));
    }

    #[test]
    fn c20_a_fence_stops_the_writer_and_not_the_recovery() {
        let ledger = fenced(3);
        assert_eq!(ledger.admit(&writer(5)), Err(Refusal::Fenced));
        assert_eq!(ledger.open(&open(5)), Err(Refusal::Fenced));
        assert_eq!(ledger.admit(&recovery(3)), Ok(()));
    }

    #[test]
    fn c69_the_newer_recovery_supersedes_the_older() {
        let ledger = fenced(3);
        assert_eq!(ledger.admit(&recovery(2)), Err(Refusal::Stale));
        assert_eq!(ledger.admit(&recovery(4)), Ok(()));
        assert_eq!(ledger.fence(RecoveryNumber::new(2)), Err(ReadRefusal::Stale));
        assert_eq!(ledger.fence(RecoveryNumber::new(3)), Ok(Need::Nothing));
        assert!(matches!(ledger.fence(RecoveryNumber::new(4)), Ok(Need::Marks(_))));
    }

    #[test]
    fn c59_a_torn_ledger_refuses_its_writer_as_unknown_and_not_as_fenced() {
        let torn = Marks { torn: Some(Above::Nothing), ..opened() };
        let ledger = Ledger::Known(torn);
        assert_eq!(ledger.admit(&writer(5)), Err(Refusal::UnknownLedger));
        assert_eq!(ledger.open(&open(5)), Err(Refusal::UnknownLedger));
        assert_eq!(ledger.admit(&recovery(1)), Ok(()));
        assert_eq!(ledger.missing(), Missing::Torn);
        let closed = Ledger::Known(closed(&torn, crate::log::LastEntry::None));
        assert_eq!(closed.missing(), Missing::Unknown, "what was torn away stays unknown");
    }

    #[test]
    fn c31_a_ledger_that_lost_frames_to_rot_proves_nothing_and_takes_no_adds() {
        let ledger = Ledger::Known(Marks { in_doubt: true, ..opened() });
        assert_eq!(ledger.missing(), Missing::Unknown);
        assert_eq!(ledger.admit(&writer(5)), Err(Refusal::UnknownLedger));
    }

    #[test]
    fn c59_an_unknown_ledger_whose_marks_may_be_lost_is_not_opened_and_keeps_the_doubt_when_fenced() {
        let marks = Marks { torn: Some(Above::Nothing), ..Marks::default() };
        let ledger = Ledger::Doubtful(marks);
        assert_eq!(ledger.open(&open(1)), Err(Refusal::UnknownLedger));
        let number = RecoveryNumber::new(1);
        assert_eq!(ledger.fence(number), Ok(Need::Marks(Marks { fenced: Some(number), ..marks })));
        assert_eq!(ledger.missing(), Missing::Torn);
    }

    #[test]
    fn c7_fencing_an_unknown_ledger_creates_it_fenced() {
        let number = RecoveryNumber::new(1);
        let needed = Marks { fenced: Some(number), ..Marks::default() };
        assert_eq!(Ledger::Unknown.fence(number), Ok(Need::Marks(needed)));
        assert_eq!(Ledger::Known(needed).open(&open(9)), Err(Refusal::Fenced));
    }

    #[test]
    fn c27_a_deleted_ledger_refuses_everybody() {
        let ledger = Ledger::Known(Marks { deleted: true, ..opened() });
        assert_eq!(ledger.open(&open(9)), Err(Refusal::Deleted));
        assert_eq!(ledger.admit(&writer(9)), Err(Refusal::Deleted));
        assert_eq!(ledger.admit(&recovery(9)), Err(Refusal::Deleted));
        assert_eq!(ledger.fence(RecoveryNumber::new(9)), Err(ReadRefusal::Deleted));
    }

    #[test]
    fn an_unknown_ledger_takes_no_adds() {
        assert_eq!(Ledger::Unknown.admit(&writer(1)), Err(Refusal::UnknownLedger));
        assert_eq!(Ledger::Unknown.admit(&recovery(1)), Err(Refusal::UnknownLedger));
    }
}
