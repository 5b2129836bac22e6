//! Our keys, values and sessions as etcd holds them. Pure.
//!
//! A key is the prefix and our key. A value stands as it is; that of a key bound to a session is followed by the session's
//! 16 bytes, because etcd knows a lease by 63 bits alone. A key's lease tells the two apart.

use alluvium_types::ids::{Revision, SessionId};
use bytes::Bytes;
use etcd_client as etcd;
use uuid::Uuid;

use crate::store::{Condition, Event, KeyValue, Op, Range, Txn};

const SESSION_BYTES: usize = 16;

/// The keys of one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    prefix: Bytes,
}

impl Layout {
    pub(crate) const fn new(prefix: Bytes) -> Self {
        Self { prefix }
    }

    /// The first key, which is nobody's.
    pub(crate) fn first(&self) -> Vec<u8> {
        self.prefix.to_vec()
    }

    /// The key behind all of ours.
    pub(crate) fn end(&self) -> Vec<u8> {
        behind(self.first())
    }

    /// Our key in etcd.
    pub(crate) fn key(&self, key: &[u8]) -> Vec<u8> {
        [self.prefix.as_ref(), key].concat()
    }

    /// From where to where a page is read.
    pub(crate) fn bounds(&self, range: &Range) -> (Vec<u8>, Vec<u8>) {
        let start = match &range.after {
            Some(after) if *after >= range.prefix => [self.prefix.as_ref(), after, &[0]].concat(),
            _ => self.key(&range.prefix),
        };
        (start, behind(self.key(&range.prefix)))
    }

    /// A transaction in etcd's words.
    pub(crate) fn txn(&self, txn: &Txn) -> etcd::Txn {
        let compares: Vec<etcd::Compare> = txn.compares.iter().map(|c| self.compare(&c.key, c.condition)).collect();
        let ops: Vec<etcd::TxnOp> = txn.ops.iter().map(|op| self.op(op)).collect();
        etcd::Txn::new().when(compares).and_then(ops)
    }

    fn compare(&self, key: &Bytes, condition: Condition) -> etcd::Compare {
        let key = self.key(key);
        // A key that isn't there has revision 0 in etcd; to us it has none.
        let never = |key| etcd::Compare::version(key, etcd::CompareOp::Less, 0);
        match condition {
            Condition::ModRevision(revision) => match number(revision) {
                Some(revision) => etcd::Compare::mod_revision(key, etcd::CompareOp::Equal, revision),
                None => never(key),
            },
            Condition::CreateRevision(revision) => match number(revision) {
                Some(revision) => etcd::Compare::create_revision(key, etcd::CompareOp::Equal, revision),
                None => never(key),
            },
            Condition::Absent => etcd::Compare::version(key, etcd::CompareOp::Equal, 0),
            Condition::Present => etcd::Compare::version(key, etcd::CompareOp::Greater, 0),
        }
    }

    fn op(&self, op: &Op) -> etcd::TxnOp {
        match op {
            Op::Put { key, value, session: None } => etcd::TxnOp::put(self.key(key), value.to_vec(), None),
            Op::Put { key, value, session: Some(session) } => {
                let bound = [value.as_ref(), session.get().as_bytes()].concat();
                etcd::TxnOp::put(self.key(key), bound, Some(etcd::PutOptions::new().with_lease(lease(*session))))
            }
            Op::Delete { key } => etcd::TxnOp::delete(self.key(key), None),
        }
    }

    /// What etcd holds, as ours; `None` for a key that isn't.
    pub(crate) fn record(&self, found: etcd::KeyValue) -> Option<KeyValue> {
        let (create_revision, mod_revision) = (revision(found.create_revision()), revision(found.mod_revision()));
        let (version, bound_to) = (u64::try_from(found.version()).unwrap_or(0), found.lease());
        let (key, value) = found.into_key_value();
        let key = Bytes::from(key);
        let key = key.starts_with(&self.prefix).then(|| key.slice(self.prefix.len()..))?;
        let (value, session) = unbind(Bytes::from(value), bound_to);
        Some(KeyValue { key, value, create_revision, mod_revision, version, session })
    }

    /// A change that etcd reports, as ours.
    pub(crate) fn event(&self, event: &etcd::Event) -> Option<Event> {
        let record = self.record(event.kv()?.clone())?;
        Some(match event.event_type() {
            etcd::EventType::Put => Event::Put(record),
            etcd::EventType::Delete => Event::Delete { key: record.key, revision: record.mod_revision },
        })
    }
}

/// The lease of a session: of its 122 random bits, 63 stay.
pub(crate) fn lease(session: SessionId) -> i64 {
    let (high, low) = session.get().as_u64_pair();
    // 0 is no lease.
    ((high ^ low) & i64::MAX.unsigned_abs()).max(1).cast_signed()
}

/// A revision of etcd's.
pub(crate) fn revision(number: i64) -> Revision {
    Revision::new(u64::try_from(number).unwrap_or(0))
}

/// A revision in etcd's words; `None` for one that no key has.
pub(crate) fn number(revision: Revision) -> Option<i64> {
    i64::try_from(revision.get()).ok().filter(|number| *number > 0)
}

fn unbind(value: Bytes, bound_to: i64) -> (Bytes, Option<SessionId>) {
    let Some(at) = value.len().checked_sub(SESSION_BYTES).filter(|_| bound_to != 0) else { return (value, None) };
    match Uuid::from_slice(&value[at..]).map(SessionId::new) {
        Ok(session) if lease(session) == bound_to => (value.slice(..at), Some(session)),
        // Bound by somebody else: whoever reads the record finds out what it is.
        _ => (value, None),
    }
}

/// The first key that does not begin with `prefix`; etcd's "all" where there is none.
fn behind(mut prefix: Vec<u8>) -> Vec<u8> {
    while let Some(last) = prefix.pop() {
        if last < u8::MAX {
            prefix.push(last + 1);
            return prefix;
        }
    }
    vec![0]
}

#[cfg(test)]
mod tests {
    use alluvium_runtime::entropy::Entropy;
    use proptest::prelude::*;

    use super::*;
    use crate::etcd::config::PREFIX_BYTES_MAX;
    use crate::store::{FRAMING_BYTES_MAX, TXN_OPS_MAX};

    #[test]
    fn a_page_begins_behind_the_last_key_and_ends_with_the_prefix() {
        let layout = Layout::new(Bytes::from_static(b"c/"));
        let range = |prefix: &'static [u8], after: Option<&'static [u8]>| {
            layout.bounds(&Range { prefix: Bytes::from_static(prefix), after: after.map(Bytes::from_static), limit: 1 })
        };
        assert_eq!(range(b"t/", None), (b"c/t/".to_vec(), b"c/t0".to_vec()));
        assert_eq!(range(b"t/", Some(b"t/a")), (b"c/t/a\0".to_vec(), b"c/t0".to_vec()));
        assert_eq!(range(b"t/", Some(b"a")), (b"c/t/".to_vec(), b"c/t0".to_vec()), "an earlier key is before all");
        assert_eq!(range(b"", None), (b"c/".to_vec(), b"c0".to_vec()));
        assert_eq!(range(b"\xFF", None), (b"c/\xFF".to_vec(), b"c0".to_vec()));
        assert_eq!((layout.first(), layout.end()), (b"c/".to_vec(), b"c0".to_vec()));
    }

    /// The limit that every backend keeps leaves room for what this one adds, whatever the transaction.
    #[test]
    fn framing_fits_beside_the_largest_transaction() {
        // Lengths, tags, a lease and a session's bytes: 64 are enough for an operation or a compare.
        const { assert!(2 * TXN_OPS_MAX * (PREFIX_BYTES_MAX + 64 + SESSION_BYTES) <= FRAMING_BYTES_MAX) };
    }

    proptest! {
        #[test]
        fn a_bound_value_comes_back_with_its_session(value in proptest::collection::vec(any::<u8>(), 0..60), seed in any::<u64>()) {
            let (value, session) = (Bytes::from(value), SessionId::new(Entropy::seeded(seed).uuid()));
            let bound = Bytes::from([value.as_ref(), session.get().as_bytes()].concat());
            prop_assert!(lease(session) > 0);
            prop_assert_eq!(unbind(bound.clone(), lease(session)), (value.clone(), Some(session)));
            prop_assert_eq!(unbind(bound.clone(), 0), (bound.clone(), None));
            // Whatever somebody else has bound stays as it is.
            prop_assert_eq!(unbind(value.clone(), 7), (value, None));
        }
    }
}
