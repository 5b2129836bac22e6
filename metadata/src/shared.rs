//! Watches over a history that is kept in one place: a watch is a position in it, so a slow one holds nothing.

use alluvium_types::ids::Revision;
use bytes::Bytes;
use futures::stream;
use tokio::sync::watch;

use crate::error::StoreError;
use crate::store::{Event, Watch};

/// About how many events a watch gives at a time.
const EVENTS_MAX: usize = 256;

/// A history that can be read from a revision on.
pub(crate) trait History: Send + Sync + 'static {
    /// The events under `prefix` from `from` on, and where to go on.
    fn read(&self, prefix: &Bytes, from: Revision, events_max: usize) -> Result<(Vec<Event>, Revision), StoreError>;
}

/// A watch over `history`, woken by `revision`. Fails at once when the history is gone.
pub(crate) fn watch(
    history: impl History,
    revision: watch::Receiver<Revision>,
    prefix: Bytes,
    from: Revision,
) -> Result<Watch, StoreError> {
    // Refused at once rather than at the first event.
    history.read(&prefix, from, 1)?;
    let position = Some(Position { history, revision, prefix, from });
    Ok(Watch::new(stream::unfold(position, |position| async move {
        let mut position = position?;
        let next = position.next().await;
        let ended = next.is_err();
        Some((next, (!ended).then_some(position)))
    })))
}

struct Position<H> {
    history: H,
    revision: watch::Receiver<Revision>,
    prefix: Bytes,
    from: Revision,
}

impl<H: History> Position<H> {
    async fn next(&mut self) -> Result<Vec<Event>, StoreError> {
        loop {
            let newest = *self.revision.borrow_and_update();
            let (events, from) = self.history.read(&self.prefix, self.from, EVENTS_MAX)?;
            self.from = from;
            if !events.is_empty() {
                return Ok(events);
            }
            if from <= newest {
                continue;
            }
            self.revision.changed().await.map_err(|_| StoreError::Stopped)?;
        }
    }
}
