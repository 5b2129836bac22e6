//! What publishing costs in a broker: from the bytes of a stream to the entry that is appended, and from the confirmation to the receipt.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use alluvium_proto::batch::BatchBuilder;
use alluvium_proto::v1;
use alluvium_proto::v1::publish_stream_request::Request;
use alluvium_runtime::budget::ByteBudget;
use alluvium_test_costs::{Cost, check};
use alluvium_types::batch::Codec;
use alluvium_types::limits::Limits;
use alluvium_types::time::Timestamp;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{FutureExt, StreamExt};
use http_body::{Body, Frame};
use prost::Message as _;
use tonic::Status;

use super::admission;
use super::messages::Messages;
use crate::topic::owner::tests::World;

const BATCH_MESSAGES: u64 = 16;
const MESSAGE_BYTES: usize = 1024;
/// A frame of HTTP/2.
const FRAME_BYTES: usize = 16 << 10;
/// Batches whose receipts are taken together.
const TOGETHER: u64 = 8;

const PUBLISH: Cost = Cost { instructions: 594.0, allocations: 0.35, copied: 2091.0 };

/// What comes over a connection.
struct Frames(VecDeque<Bytes>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.0.pop_front().map(|frame| Ok(Frame::data(frame))))
    }
}

/// A stream of so many batches, in frames.
fn stream(batches: u64) -> Frames {
    let mut sent = BytesMut::new();
    for id in 0..batches {
        let mut builder = BatchBuilder::with_capacity(0);
        for _ in 0..BATCH_MESSAGES {
            builder.push(&v1::Message { payload: Bytes::from(vec![7; MESSAGE_BYTES]), ..Default::default() });
        }
        let batch = Some(builder.finish(Codec::None, 0, Timestamp::from_millis(1)));
        let batch = v1::PublishBatch { id, partition: 0, producer_epoch: 0, batch };
        let request = v1::PublishStreamRequest { request: Some(Request::Batch(batch)) }.encode_to_vec();
        sent.put_u8(0);
        sent.put_u32(u32::try_from(request.len()).expect("short"));
        sent.extend_from_slice(&request);
    }
    let mut sent = sent.freeze();
    Frames(std::iter::from_fn(|| (!sent.is_empty()).then(|| sent.split_to(sent.len().min(FRAME_BYTES)))).collect())
}

#[test]
fn a_publish_costs_what_is_committed() {
    let prepare = |messages| stream(messages / BATCH_MESSAGES);
    check("publish::costs::a_publish_costs_what_is_committed", PUBLISH, prepare, |stream, messages| {
        let batches = messages / BATCH_MESSAGES;
        let limits = Limits::default();
        let budget = ByteBudget::new(1 << 30);
        let mut requests = Messages::<v1::PublishStreamRequest>::new(tonic::body::Body::new(stream), 1 << 20);
        let mut world = World::new();
        let mut receipts = 0;
        for number in 1..=batches {
            let request = requests.next().now_or_never().flatten().expect("it came").expect("it is sound");
            let Some(Request::Batch(batch)) = request.request else { panic!("a batch was sent") };
            let (id, batch) = (batch.id, batch.batch.expect("it has one"));
            let held = budget.try_take(batch.blob.len()).expect("there is room");
            world.publish(id, admission::batch(batch, None, limits, held).expect("it is sound"));
            if number.is_multiple_of(TOGETHER) || number == batches {
                world.serve_all();
                receipts += world.receipts().len() as u64;
            }
        }
        assert_eq!(receipts, batches);
    });
}
