//! Commands and images in protobuf: what raft's entries and snapshots carry.

use std::time::Duration;

use alluvium_proto::internal::v1 as wire;
use alluvium_types::ids::{Revision, SessionId};
use bytes::Bytes;
use prost::Message;

use crate::policies::millis;
use crate::record::{uuid_bytes, uuid_from};
use crate::state::{Command, Image};
use crate::store::{Compare, Condition, KeyValue, Op, Txn};

/// The data of an entry.
pub(crate) fn encode_command(command: &Command) -> Vec<u8> {
    use wire::store_command::Command as Wire;
    let command = match command {
        Command::Txn(txn) => Wire::Txn(txn_to_wire(txn)),
        Command::CreateSession { session, ttl } => Wire::CreateSession(session_to_wire((*session, *ttl))),
        Command::EndSession { session } => Wire::EndSession(uuid_bytes(session.get())),
        Command::Compact { revision } => Wire::Compact(revision.get()),
    };
    wire::StoreCommand { command: Some(command) }.encode_to_vec()
}

/// The command in an entry; the error says what is wrong.
pub(crate) fn decode_command(data: Bytes) -> Result<Command, String> {
    use wire::store_command::Command as Wire;
    let wire = wire::StoreCommand::decode(data).map_err(|error| error.to_string())?;
    Ok(match wire.command.ok_or("a command of no known kind")? {
        Wire::Txn(txn) => Command::Txn(txn_from_wire(txn)?),
        Wire::CreateSession(session) => {
            let (session, ttl) = session_from_wire(&session)?;
            Command::CreateSession { session, ttl }
        }
        Wire::EndSession(session) => Command::EndSession { session: SessionId::new(uuid_from(&session)?) },
        Wire::Compact(revision) => Command::Compact { revision: Revision::new(revision) },
    })
}

/// The body of a snapshot.
pub(crate) fn encode_image(image: &Image) -> Vec<u8> {
    let records = image.records.iter().map(|record| wire::StoreRecord {
        key: record.key.clone(),
        value: record.value.clone(),
        create_revision: record.create_revision.get(),
        mod_revision: record.mod_revision.get(),
        version: record.version,
        session_id: optional_to_wire(record.session),
    });
    wire::StoreImage {
        revision: image.revision.get(),
        records: records.collect(),
        sessions: image.sessions.iter().copied().map(session_to_wire).collect(),
    }
    .encode_to_vec()
}

/// The image in a snapshot's body.
pub(crate) fn decode_image(body: Bytes) -> Result<Image, String> {
    let wire = wire::StoreImage::decode(body).map_err(|error| error.to_string())?;
    let record = |record: wire::StoreRecord| -> Result<KeyValue, String> {
        Ok(KeyValue {
            key: record.key,
            value: record.value,
            create_revision: Revision::new(record.create_revision),
            mod_revision: Revision::new(record.mod_revision),
            version: record.version,
            session: optional_from_wire(&record.session_id)?,
        })
    };
    Ok(Image {
        revision: Revision::new(wire.revision),
        records: wire.records.into_iter().map(record).collect::<Result<_, _>>()?,
        sessions: wire.sessions.iter().map(session_from_wire).collect::<Result<_, _>>()?,
    })
}

fn txn_to_wire(txn: &Txn) -> wire::StoreTxn {
    use wire::store_compare::Condition as Wire;
    let compare = |compare: &Compare| wire::StoreCompare {
        key: compare.key.clone(),
        condition: Some(match compare.condition {
            Condition::ModRevision(revision) => Wire::ModRevision(revision.get()),
            Condition::CreateRevision(revision) => Wire::CreateRevision(revision.get()),
            Condition::Absent => Wire::Present(false),
            Condition::Present => Wire::Present(true),
        }),
    };
    let op = |op: &Op| match op {
        Op::Put { key, value, session } => {
            wire::StoreOp { key: key.clone(), value: Some(value.clone()), session_id: optional_to_wire(*session) }
        }
        Op::Delete { key } => wire::StoreOp { key: key.clone(), value: None, session_id: Bytes::new() },
    };
    wire::StoreTxn { compares: txn.compares.iter().map(compare).collect(), ops: txn.ops.iter().map(op).collect() }
}

fn txn_from_wire(wire: wire::StoreTxn) -> Result<Txn, String> {
    use wire::store_compare::Condition as Wire;
    let compare = |compare: wire::StoreCompare| -> Result<Compare, String> {
        let condition = match compare.condition.ok_or("a condition of no known kind")? {
            Wire::ModRevision(revision) => Condition::ModRevision(Revision::new(revision)),
            Wire::CreateRevision(revision) => Condition::CreateRevision(Revision::new(revision)),
            Wire::Present(false) => Condition::Absent,
            Wire::Present(true) => Condition::Present,
        };
        Ok(Compare { key: compare.key, condition })
    };
    let op = |op: wire::StoreOp| -> Result<Op, String> {
        Ok(match op.value {
            Some(value) => Op::Put { key: op.key, value, session: optional_from_wire(&op.session_id)? },
            None => Op::Delete { key: op.key },
        })
    };
    Ok(Txn {
        compares: wire.compares.into_iter().map(compare).collect::<Result<_, _>>()?,
        ops: wire.ops.into_iter().map(op).collect::<Result<_, _>>()?,
    })
}

fn session_to_wire((session, ttl): (SessionId, Duration)) -> wire::StoreSession {
    wire::StoreSession { session_id: uuid_bytes(session.get()), ttl_ms: millis(ttl) }
}

fn session_from_wire(wire: &wire::StoreSession) -> Result<(SessionId, Duration), String> {
    Ok((SessionId::new(uuid_from(&wire.session_id)?), Duration::from_millis(wire.ttl_ms)))
}

fn optional_to_wire(session: Option<SessionId>) -> Bytes {
    session.map_or_else(Bytes::new, |session| uuid_bytes(session.get()))
}

fn optional_from_wire(bytes: &Bytes) -> Result<Option<SessionId>, String> {
    if bytes.is_empty() {
        return Ok(None);
    }
    uuid_from(bytes).map(|id| Some(SessionId::new(id)))
}
