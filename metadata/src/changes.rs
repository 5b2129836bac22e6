//! A bounded piece of history: changes in order, whole revisions at a time, the oldest let go first.

use std::collections::VecDeque;

use alluvium_types::ids::Revision;
use bytes::Bytes;

use crate::error::StoreError;
use crate::store::Event;

/// How much history is kept for watches; older revisions are compacted by themselves.
const EVENTS_MAX: usize = 64 << 10;
/// The same in bytes of keys and values.
const BYTES_MAX: usize = 32 << 20;

/// The changes behind a revision.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    compacted: Revision,
    events: VecDeque<Event>,
    bytes: usize,
}

impl Changes {
    /// None yet; those up to and including `compacted` are not held.
    pub(crate) fn behind(compacted: Revision) -> Self {
        Self { compacted, ..Self::default() }
    }

    /// A change; of the same revision as the one before, or a newer one.
    pub(crate) fn push(&mut self, event: Event) {
        self.bytes += weight(&event);
        self.events.push_back(event);
    }

    /// Revision `newest` is whole: keeps within the bounds by letting older ones go.
    pub(crate) fn trim(&mut self, newest: Revision) {
        while self.events.len() > EVENTS_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.events.front().map(Event::revision) else { break };
            if oldest == newest {
                break;
            }
            self.compact(oldest);
        }
    }

    /// Lets what is up to and including `revision` go.
    pub(crate) fn compact(&mut self, revision: Revision) {
        while let Some(event) = self.events.front()
            && event.revision() <= revision
        {
            self.bytes -= weight(event);
            self.events.pop_front();
        }
        self.compacted = self.compacted.max(revision);
    }

    /// The events under `prefix` from revision `from` on: whole revisions, about `events_max` of them, and the revision to
    /// go on from. `newest` is the newest whole revision.
    pub(crate) fn read(
        &self,
        prefix: &Bytes,
        from: Revision,
        events_max: usize,
        newest: Revision,
    ) -> Result<(Vec<Event>, Revision), StoreError> {
        if from <= self.compacted && self.compacted > Revision::ZERO {
            return Err(StoreError::Compacted { oldest: self.compacted.next() });
        }
        let start = self.events.partition_point(|event| event.revision() < from);
        let mut events: Vec<Event> = Vec::new();
        for event in self.events.range(start..) {
            if events.len() >= events_max && events.last().is_some_and(|last| last.revision() < event.revision()) {
                return Ok((events, event.revision()));
            }
            if event.key().starts_with(prefix) {
                events.push(event.clone());
            }
        }
        Ok((events, from.max(newest.next())))
    }
}

fn weight(event: &Event) -> usize {
    match event {
        Event::Put(record) => record.key.len() + record.value.len(),
        Event::Delete { key, .. } => key.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(changes: &mut Changes, revision: u64, bytes: usize) {
        let revision = Revision::new(revision);
        changes.push(Event::Put(crate::store::KeyValue {
            key: Bytes::from_static(b"k"),
            value: vec![0; bytes].into(),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            session: None,
        }));
        changes.trim(revision);
    }

    #[test]
    fn history_is_bounded_in_events_and_in_bytes() {
        let mut changes = Changes::default();
        let events = u64::try_from(EVENTS_MAX).expect("fits");
        for n in 1..=events + 10 {
            put(&mut changes, n, 1);
        }
        assert_eq!(changes.events.len(), EVENTS_MAX);
        for n in 1..=40 {
            put(&mut changes, events + 10 + n, 1 << 20);
        }
        assert!(changes.bytes <= BYTES_MAX);
        let bytes: usize = changes.events.iter().map(weight).sum();
        assert_eq!(changes.bytes, bytes);
        let gone = changes.read(&Bytes::new(), Revision::new(1), 10, Revision::new(events + 50));
        assert_eq!(gone, Err(StoreError::Compacted { oldest: changes.events[0].revision() }));
    }

    #[test]
    fn a_revision_is_never_cut() {
        let mut changes = Changes::default();
        for revision in [1, 1, 1, 2] {
            put(&mut changes, revision, 1);
        }
        let (events, next) = changes.read(&Bytes::new(), Revision::new(1), 1, Revision::new(2)).expect("held");
        assert_eq!((events.len(), next), (3, Revision::new(2)));
    }
}
