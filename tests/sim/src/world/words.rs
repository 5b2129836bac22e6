//! How messages look in a trace: short, one line.

use std::fmt;

use alluvium_ledger::call::{Answer, CasOutcome, Request};
use alluvium_types::bookie::{Adder, EntryAnswer};
use alluvium_types::ledger::LedgerMetadata;

use crate::metadata::{Ask, Told};

pub(super) struct ShortRequest<'a>(pub(super) &'a Request);
pub(super) struct ShortAnswer<'a>(pub(super) &'a Answer);
pub(super) struct ShortAsk<'a>(pub(super) &'a Ask);
pub(super) struct ShortTold<'a>(pub(super) &'a Told);
pub(super) struct ShortRecord<'a>(pub(super) &'a LedgerMetadata);

impl fmt::Display for ShortRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Request::Open(open) => write!(f, "open {:?} {:?}", open.ledger, open.epoch),
            Request::Add(add) => {
                let by = match add.adder {
                    Adder::Writer { epoch } => format!("{epoch:?}"),
                    Adder::Recovery { number } => format!("{number:?}"),
                };
                write!(f, "add {:?} {:?} lac={:?} by {by}", add.ledger, add.entry, add.lac)
            }
            Request::AdvanceLac(lac) => write!(f, "lac {:?} {:?}", lac.ledger, lac.lac),
            Request::Read(read) => {
                write!(f, "read {:?} {:?}..={:?} fence={:?}", read.ledger, read.first, read.last, read.fence)
            }
            Request::Fence(fence) => write!(f, "fence {:?} {:?}", fence.ledger, fence.number),
        }
    }
}

impl fmt::Display for ShortAnswer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Answer::Open(outcome) => write!(f, "open {outcome:?}"),
            Answer::Add(outcome) => write!(f, "add {outcome:?}"),
            Answer::Read(Ok(read)) => {
                write!(f, "read lac={:?}", read.lac)?;
                for entry in &read.entries {
                    match entry {
                        EntryAnswer::Found(found) => write!(f, " {:?}", found.entry)?,
                        EntryAnswer::Missing(entry, why) => write!(f, " {entry:?}:{why:?}")?,
                    }
                }
                Ok(())
            }
            Answer::Read(Err(refusal)) => write!(f, "read {refusal:?}"),
            Answer::Fence(Ok(fence)) => write!(f, "fenced lac={:?} last={:?}", fence.lac, fence.last),
            Answer::Fence(Err(refusal)) => write!(f, "fence {refusal:?}"),
            Answer::Lost => f.write_str("lost"),
        }
    }
}

impl fmt::Display for ShortAsk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ask::CompareAndSet { expected, new, .. } => write!(f, "CAS {expected:?} {}", ShortRecord(new)),
            Ask::Read(ledger) => write!(f, "get {ledger:?}"),
        }
    }
}

impl fmt::Display for ShortTold<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Told::Outcome(CasOutcome::Applied(revision)) => write!(f, "CAS applied {revision:?}"),
            Told::Outcome(CasOutcome::Lost(Some(now))) => {
                write!(f, "CAS lost to {:?} {}", now.revision, ShortRecord(&now.metadata))
            }
            Told::Outcome(CasOutcome::Lost(None)) => f.write_str("CAS lost, no record"),
            Told::Outcome(CasOutcome::Refused) => f.write_str("CAS refused"),
            Told::Outcome(CasOutcome::NotApplied) => f.write_str("CAS not applied"),
            Told::Outcome(CasOutcome::Unknown) => f.write_str("CAS unknown"),
            Told::Record(Some(now)) => write!(f, "record {:?} {}", now.revision, ShortRecord(&now.metadata)),
            Told::Record(None) => f.write_str("no record"),
        }
    }
}

impl fmt::Display for ShortRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} fr=[", self.0.ledger, self.0.state)?;
        for (n, fragment) in self.0.fragments.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            let members: Vec<String> = fragment.ensemble.iter().map(|b| b.name.to_string()).collect();
            write!(f, "{comma}({:?} {}", fragment.first, members.join(" "))?;
            if !fragment.short.is_empty() {
                write!(f, " short {:?}", fragment.short)?;
            }
            f.write_str(")")?;
        }
        f.write_str("]")
    }
}
