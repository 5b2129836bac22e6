//! What appending costs: from a request's bytes to the group that is handed to the disk, and durable.

mod support;

use alluvium_bookie::store::AddOutcome;
use alluvium_proto::convert::bookie::{AddItem, add_from_wire, add_to_wire};
use alluvium_proto::internal::v1 as wire;
use alluvium_test_costs::{Cost, check};
use alluvium_types::ids::Incarnation;
use bytes::Bytes;
use prost::Message;
use support::rig::Rig;
use support::{L, add, body};

/// Messages in an entry, which is about what a busy partition's entries hold, and entries in a group.
const ENTRY_MESSAGES: u64 = 16;
const GROUP_ENTRIES: usize = 5;
const ENTRY_BYTES: usize = 16 << 10;

const APPEND: Cost = Cost { instructions: 411.0, allocations: 0.11, copied: 1045.0 };

/// Requests as they come, for so many messages.
fn requests(messages: u64) -> Vec<Bytes> {
    let incarnation = Incarnation::new(uuid::Uuid::from_u128(1));
    let request = |entry| add_to_wire(incarnation, AddItem::Entry(add(L, entry, body(L, entry, ENTRY_BYTES))));
    (0..messages / ENTRY_MESSAGES).map(|entry| request(entry).encode_to_vec().into()).collect()
}

#[test]
fn an_append_costs_what_is_committed() {
    check("an_append_costs_what_is_committed", APPEND, requests, |requests, messages| {
        let mut rig = Rig::new().opened(L);
        let entries = usize::try_from(messages / ENTRY_MESSAGES).expect("few");
        for group in requests[..entries].chunks(GROUP_ENTRIES) {
            for request in group {
                let request = wire::AddRequest::decode(request.clone()).expect("it was encoded");
                let AddItem::Entry(add) = add_from_wire(request).expect("well formed") else { panic!("an entry") };
                assert!(matches!(rig.try_add(add), AddOutcome::Durable(_)));
            }
            rig.flush();
        }
    });
}
