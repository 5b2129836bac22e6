//! What a takeover does that does not fence: only where a test has planted it ([`crate::mutation`]).

use std::time::Duration;

use alluvium_ledger::client::LedgerClient;
use alluvium_metadata::Versioned;
use alluvium_types::ids::LedgerId;
use alluvium_types::ledger::{LedgerMetadata, LedgerState};

use super::hosted::CorruptState;
use crate::error::OpenError;

/// A ledger's record as if it ended at what its bookies know to be confirmed; whoever writes it goes on.
pub(super) async fn as_it_stands(ledgers: &LedgerClient, ledger: LedgerId) -> Result<Versioned<LedgerMetadata>, OpenError> {
    let gone = || OpenError::Corrupt(CorruptState(format!("ledger {ledger} has no record")));
    let record = ledgers.ledgers().get(ledger).await?.ok_or_else(gone)?;
    if record.value.closed_at().is_some() {
        return Ok(record);
    }
    let mut last = None;
    for bookie in record.value.fragments.iter().flat_map(|fragment| &fragment.ensemble) {
        let Some(client) = ledgers.pool().get(bookie) else { continue };
        last = last.max(client.read_lac(ledger, None, Duration::ZERO).await.ok().flatten());
    }
    Ok(record.map(|value| LedgerMetadata { state: LedgerState::Closed { last }, ..value }))
}

/// The same, written to its record.
pub(super) async fn closed_as_it_stands(
    ledgers: &LedgerClient,
    ledger: LedgerId,
) -> Result<Versioned<LedgerMetadata>, OpenError> {
    let known = as_it_stands(ledgers, ledger).await?;
    match ledgers.ledgers().get(ledger).await? {
        Some(record) if record.value.closed_at().is_none() => Ok(ledgers.ledgers().update(&record, known.value).await?),
        _ => Ok(known),
    }
}
