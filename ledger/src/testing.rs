//! What the tests of this crate build worlds from.

use std::sync::Arc;

use alluvium_runtime::entropy::Entropy;
use alluvium_types::ids::{Epoch, Incarnation, LedgerId};
use alluvium_types::ledger::{BookieId, LedgerClass, LedgerMetadata};
use alluvium_types::names::BookieName;
use alluvium_types::replication::Replication;

use crate::placement::Candidate;

pub(crate) fn bookie(number: u8) -> BookieId {
    BookieId {
        name: BookieName::parse(&format!("b{number}")).expect("valid"),
        incarnation: Incarnation::new(Entropy::seeded(u64::from(number)).uuid()),
    }
}

pub(crate) fn zoned(bookies: &[(u8, &str)]) -> Vec<Candidate> {
    let candidate = |&(number, zone): &(u8, &str)| Candidate {
        bookie: bookie(number),
        zone: Arc::from(zone),
        writable: true,
        free_bytes: 1 << 40,
        suspect: false,
    };
    bookies.iter().map(candidate).collect()
}

/// Bookies from 0 on, each in a zone of its own.
pub(crate) fn candidates(count: u8) -> Vec<Candidate> {
    let zones: Vec<String> = (0..count).map(|number| format!("z{number}")).collect();
    zoned(&zones.iter().enumerate().map(|(n, zone)| (u8::try_from(n).expect("few"), zone.as_str())).collect::<Vec<_>>())
}

/// An open ledger over the first bookies, with the default quorums as far as they go.
pub(crate) fn ledger(members: u8) -> LedgerMetadata {
    let replication = crate::placement::degrade(Replication::DEFAULT, usize::from(members)).unwrap_or(Replication::SINGLE);
    LedgerMetadata::create(
        LedgerId::new(7),
        Epoch::new(3),
        LedgerClass::Bulk,
        replication,
        Replication::DEFAULT,
        (0..members).map(bookie).collect(),
    )
    .expect("valid")
}
