//! How a record becomes a value and back, and the version it was read at.

use alluvium_proto::internal::v1 as wire;
use alluvium_types::ids::{Nonce, Revision};
use bytes::Bytes;
use prost::Message;
use uuid::Uuid;

use crate::error::ReadError;
use crate::store::{KeyValue, Page};

/// A record as it was read. Every update carries it back (C18).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Versioned<T> {
    /// What the record says.
    pub value: T,
    /// The revision that wrote it.
    pub mod_revision: Revision,
    /// The revision that created its key.
    pub create_revision: Revision,
}

impl<T> Versioned<T> {
    /// The same version of another view of the record.
    pub fn map<U>(self, view: impl FnOnce(T) -> U) -> Versioned<U> {
        Versioned { value: view(self.value), mod_revision: self.mod_revision, create_revision: self.create_revision }
    }

    /// What was written over this one.
    pub(crate) const fn rewritten(&self, value: T, revision: Revision) -> Self {
        Self { value, mod_revision: revision, create_revision: self.create_revision }
    }

    /// What was created.
    pub(crate) const fn created(value: T, revision: Revision) -> Self {
        Self { value, mod_revision: revision, create_revision: revision }
    }
}

/// A page of records, and where the next one begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listing<T, A> {
    /// The records, in key order.
    pub records: Vec<T>,
    /// Ask on behind this; `None` when there are no more.
    pub next: Option<A>,
}

/// A domain value that stands in a record.
pub(crate) trait Record: Sized {
    /// Its protobuf form.
    type Wire: Message + Default;

    /// What to write.
    fn to_wire(&self) -> Self::Wire;

    /// Checks what was read; the error says what is wrong.
    fn from_wire(wire: Self::Wire) -> Result<Self, String>;
}

/// The value of a key.
pub(crate) fn encode<R: Record>(record: &R, nonce: Nonce) -> Bytes {
    let envelope = wire::Envelope { nonce: uuid_bytes(nonce.get()), record: record.to_wire().encode_to_vec().into() };
    envelope.encode_to_vec().into()
}

/// The record in a key's value.
pub(crate) fn decode<R: Record>(found: &KeyValue) -> Result<Versioned<R>, ReadError> {
    let value = wire::Envelope::decode(found.value.clone())
        .and_then(|envelope| R::Wire::decode(envelope.record))
        .map_err(|error| error.to_string())
        .and_then(R::from_wire)
        .map_err(|problem| ReadError::Corrupt { key: String::from_utf8_lossy(&found.key).into_owned(), problem })?;
    Ok(Versioned { value, mod_revision: found.mod_revision, create_revision: found.create_revision })
}

/// The records of a page with the names in their keys.
pub(crate) fn listing<R: Record, A: Clone>(
    page: Page,
    name: impl Fn(&KeyValue) -> Option<A>,
) -> Result<Listing<(A, Versioned<R>), A>, ReadError> {
    let mut records = Vec::with_capacity(page.records.len());
    for found in &page.records {
        let name = name(found).ok_or_else(|| ReadError::Corrupt {
            key: String::from_utf8_lossy(&found.key).into_owned(),
            problem: "not a key of its kind".to_owned(),
        })?;
        records.push((name, decode(found)?));
    }
    let next = page.more.then(|| records.last().map(|(name, _)| name.clone())).flatten();
    Ok(Listing { records, next })
}

/// The nonce in a key's value, whatever the record.
pub(crate) fn nonce_of(value: &Bytes) -> Option<Nonce> {
    let envelope = wire::Envelope::decode(value.clone()).ok()?;
    uuid_from(&envelope.nonce).ok().map(Nonce::new)
}

/// A UUID's bytes on disk.
pub(crate) fn uuid_bytes(id: Uuid) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

/// A UUID from its 16 bytes.
pub(crate) fn uuid_from(bytes: &Bytes) -> Result<Uuid, String> {
    Uuid::from_slice(bytes).map_err(|_| format!("an id of {} bytes instead of 16", bytes.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_record<R: Record>(value: &Bytes) {
        let found = KeyValue {
            key: Bytes::from_static(b"key"),
            value: value.clone(),
            create_revision: Revision::ZERO,
            mod_revision: Revision::ZERO,
            version: 1,
            session: None,
        };
        // Whatever it is, it is a record or an error.
        let _ = decode::<R>(&found);
    }

    proptest! {
        #[test]
        fn random_values_never_panic(record in proptest::collection::vec(any::<u8>(), 0..100), whole in any::<bool>()) {
            let value: Bytes = if whole {
                wire::Envelope { nonce: Bytes::new(), record: record.into() }.encode_to_vec().into()
            } else {
                record.into()
            };
            nonce_of(&value);
            any_record::<crate::clusters::Cluster>(&value);
            any_record::<crate::tenants::Holder>(&value);
            any_record::<crate::topics::Topic>(&value);
            any_record::<crate::topics::DeletedTopic>(&value);
            any_record::<crate::subscriptions::Subscription>(&value);
            any_record::<crate::ownership::Owner>(&value);
            any_record::<crate::placements::Placement>(&value);
            any_record::<crate::segments::Segment>(&value);
            any_record::<crate::state_pointer::StatePointer>(&value);
            any_record::<crate::ledgers::LedgerRecord>(&value);
            any_record::<crate::bookies::BookieIdentity>(&value);
            any_record::<crate::bookies::LiveBookie>(&value);
            any_record::<crate::brokers::Broker>(&value);
            any_record::<crate::auditor::Auditor>(&value);
        }
    }
}
