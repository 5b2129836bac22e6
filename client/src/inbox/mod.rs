//! From the wire to the application: deliveries are decoded as they come ([`arrival`]), wait here within the credit that was
//! granted for them ([`credits`]), and give it back as they are taken.

mod arrival;
mod credits;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use alluvium_proto::v1;
use futures::Stream;
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::Notify;

pub(crate) use self::arrival::Arrival;
pub(crate) use self::credits::Cost;
use self::credits::Credits;
use crate::error::Error;
use crate::message::Delivery;

/// Reports of undeliverable messages, which use no credit, that may wait here.
const FAULTS_MAX: u64 = 1024;

/// What both ends share.
#[derive(Debug)]
struct Shelf {
    state: Mutex<State>,
    reader: AtomicWaker,
    /// Wakes the task: credit is due, or the application's end is gone.
    task: Arc<Notify>,
}

#[derive(Debug)]
struct State {
    arrivals: VecDeque<Arrival>,
    credits: Credits,
    /// What the item used that the application has now.
    taken: Cost,
    ended: bool,
    dropped: bool,
}

/// The application's end: a stream.
#[derive(Debug)]
pub(crate) struct Inbox {
    shelf: Arc<Shelf>,
}

/// The task's end.
#[derive(Debug)]
pub(crate) struct Feed(Arc<Shelf>);

/// Two ends. `task` is notified when the feed has something to do.
pub(crate) fn inbox(window: Cost, task: Arc<Notify>) -> (Feed, Inbox) {
    let credits = Credits::new(window);
    let state = State { arrivals: VecDeque::new(), credits, taken: Cost::default(), ended: false, dropped: false };
    let shelf = Arc::new(Shelf { state: Mutex::new(state), reader: AtomicWaker::new(), task });
    (Feed(Arc::clone(&shelf)), Inbox { shelf })
}

impl Feed {
    /// Begins a new stream that repeats what was not acknowledged: forgets what came on the last one and was not handed over.
    /// Gives the credit to open with.
    pub(crate) fn restart(&self) -> Option<v1::Credit> {
        let mut state = self.0.state.lock();
        state.arrivals.clear();
        state.taken = Cost::default();
        state.credits.restart(Cost::default())
    }

    /// Begins a new stream that goes on behind what came on the last one. Gives the credit to open with.
    pub(crate) fn resume(&self) -> Option<v1::Credit> {
        let mut state = self.0.state.lock();
        let mut held = state.taken;
        for arrival in &state.arrivals {
            held.messages += arrival.cost.messages;
            held.bytes += arrival.cost.bytes;
        }
        state.credits.restart(held)
    }

    /// Hands over what came. An error if it is more than was granted: then the server can't be trusted with this stream.
    pub(crate) fn push(&self, arrival: Arrival) -> Result<(), Error> {
        let mut state = self.0.state.lock();
        // Each has at least one message, but for faults.
        if state.arrivals.len() as u64 > state.credits.window.messages + FAULTS_MAX {
            return Err(Error::Unexpected("more deliveries than were granted"));
        }
        state.arrivals.push_back(arrival);
        drop(state);
        self.0.reader.wake();
        Ok(())
    }

    /// Credit to be granted now.
    pub(crate) fn grant(&self) -> Option<v1::Credit> {
        self.0.state.lock().credits.grant()
    }

    /// Whether nobody reads any more.
    pub(crate) fn is_dropped(&self) -> bool {
        self.0.state.lock().dropped
    }

    /// Ends the application's stream, behind what was handed over: with an error, or just so.
    pub(crate) fn end(&self, error: Option<Error>) {
        let mut state = self.0.state.lock();
        if state.ended {
            return;
        }
        if let Some(error) = error {
            state.arrivals.push_back(Arrival { items: VecDeque::from([Err(error)]), cost: Cost::default() });
        }
        state.ended = true;
        drop(state);
        self.0.reader.wake();
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.end(None);
    }
}

impl Inbox {
    /// Tells the task that nobody will read any more.
    pub(crate) fn close(&self) {
        self.shelf.state.lock().dropped = true;
        self.shelf.task.notify_one();
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.close();
    }
}

impl Stream for Inbox {
    type Item = Result<Delivery, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Registered before looking, so that what comes in between wakes it.
        self.shelf.reader.register(context.waker());
        let mut state = self.shelf.state.lock();
        // Whoever comes for the next one is done with the last: 1 means 1.
        let taken = std::mem::take(&mut state.taken);
        let mut wake = taken != Cost::default() && state.credits.release(taken);
        let next = loop {
            let Some(arrival) = state.arrivals.front_mut() else { break None };
            match arrival.pop() {
                Some(popped) => break Some(popped),
                None => {
                    let _ = state.arrivals.pop_front();
                }
            }
        };
        let polled = match next {
            Some((item, cost)) => {
                state.taken = cost;
                Poll::Ready(Some(item))
            }
            None if state.ended => Poll::Ready(None),
            None => {
                wake |= state.credits.hurry();
                Poll::Pending
            }
        };
        drop(state);
        if wake {
            self.shelf.task.notify_one();
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use alluvium_proto::batch::BatchBuilder;
    use alluvium_types::batch::Codec;
    use alluvium_types::limits::Limits;
    use alluvium_types::time::Timestamp;
    use futures::{FutureExt, StreamExt};

    use super::*;

    const WINDOW: Cost = Cost { messages: 4, bytes: 1000 };

    fn delivered(offset: u64) -> v1::Delivery {
        let message = v1::Message { payload: vec![b'x'; 8].into(), ..Default::default() };
        let message = v1::DeliveredMessage { offset, message: Some(message), attempt: 1, ..Default::default() };
        v1::Delivery { partition: 2, messages: vec![message], batches: Vec::new() }
    }

    fn batch(count: u32) -> v1::Batch {
        let mut builder = BatchBuilder::with_capacity(0);
        for n in 0..count {
            builder.push(&v1::Message { payload: n.to_string().into(), ..Default::default() });
        }
        builder.finish(Codec::Zstd, 0, Timestamp::from_millis(1))
    }

    fn delivered_batch(batch: v1::Batch) -> v1::Delivery {
        let batch = v1::DeliveredBatch { first_offset: 100, batch: Some(batch), attempt: 1, ..Default::default() };
        v1::Delivery { partition: 2, messages: Vec::new(), batches: vec![batch] }
    }

    fn ends() -> (Feed, Inbox) {
        inbox(WINDOW, Arc::new(Notify::new()))
    }

    #[test]
    fn a_batch_is_handed_over_message_by_message_with_dense_offsets() {
        let (feed, mut inbox) = ends();
        feed.push(Arrival::decode(delivered_batch(batch(3)), Limits::default())).expect("granted");
        let got: Vec<(u64, String)> = std::iter::from_fn(|| inbox.next().now_or_never().flatten())
            .map(|item| item.expect("sound"))
            .map(|d| (d.offset, String::from_utf8_lossy(d.payload()).into_owned()))
            .collect();
        assert_eq!(got, [(100, "0".to_owned()), (101, "1".to_owned()), (102, "2".to_owned())]);
    }

    #[test]
    fn a_batch_that_lies_is_reported_in_its_place_and_does_not_stop_the_stream() {
        let (feed, mut inbox) = ends();
        let mut lies = batch(3);
        lies.count = 2;
        let mut rotten = batch(1);
        rotten.checksum ^= 1;
        for bad in [lies, rotten] {
            feed.push(Arrival::decode(delivered_batch(bad), Limits::default())).expect("granted");
        }
        feed.push(Arrival::decode(delivered(200), Limits::default())).expect("granted");
        let items: Vec<_> = std::iter::from_fn(|| inbox.next().now_or_never().flatten()).collect();
        assert!(matches!(items[0], Err(Error::Undeliverable { partition: 2, first: 100, last: 101, .. })));
        assert!(matches!(&items[1], Err(Error::Undeliverable { reason, .. }) if reason == "BATCH_CHECKSUM"));
        assert_eq!(items[2].as_ref().map(|d| d.offset).ok(), Some(200));
    }

    #[test]
    fn credit_comes_back_once_the_application_asks_for_more() {
        let (feed, mut inbox) = ends();
        assert_eq!(feed.restart(), Some(v1::Credit { messages: 4, bytes: 1000 }));
        for offset in 0..3 {
            feed.push(Arrival::decode(delivered(offset), Limits::default())).expect("granted");
        }
        let bytes = Arrival::decode(delivered(0), Limits::default()).cost.bytes;
        inbox.next().now_or_never().flatten().expect("there").expect("sound");
        assert_eq!(feed.grant(), None, "the application has it");
        inbox.next().now_or_never().flatten().expect("there").expect("sound");
        assert_eq!(feed.grant(), None, "one of four is not worth a request");
        inbox.next().now_or_never().flatten().expect("there").expect("sound");
        assert_eq!(feed.grant(), Some(v1::Credit { messages: 2, bytes: 2 * bytes }));
        assert!(inbox.next().now_or_never().is_none());
        assert_eq!(feed.grant(), Some(v1::Credit { messages: 1, bytes }), "it waits, so whatever is free is granted");
    }

    #[test]
    fn a_new_stream_forgets_what_will_come_again_and_its_credit() {
        let (feed, mut inbox) = ends();
        for offset in 0..3 {
            feed.push(Arrival::decode(delivered(offset), Limits::default())).expect("granted");
        }
        inbox.next().now_or_never().flatten().expect("there").expect("sound");
        feed.restart();
        assert!(inbox.next().now_or_never().is_none());
        assert_eq!(feed.grant(), None, "the old stream's credit is void");
    }

    #[test]
    fn a_stream_that_goes_on_keeps_what_came_and_is_granted_the_rest() {
        let (feed, mut inbox) = ends();
        let bytes = Arrival::decode(delivered(0), Limits::default()).cost.bytes;
        for offset in 0..3 {
            feed.push(Arrival::decode(delivered(offset), Limits::default())).expect("granted");
        }
        inbox.next().now_or_never().flatten().expect("there").expect("sound");
        assert_eq!(feed.resume(), Some(v1::Credit { messages: 1, bytes: 1000 - 3 * bytes }));
        feed.push(Arrival::decode(delivered(3), Limits::default())).expect("granted");
        assert_eq!(feed.resume(), None, "nothing is left to grant");
        for offset in 1..4 {
            let next = inbox.next().now_or_never().flatten().expect("there").expect("sound");
            assert_eq!(next.offset, offset);
        }
        assert_eq!(feed.grant(), Some(v1::Credit { messages: 3, bytes: 1000 - bytes }));
    }

    #[test]
    fn what_exceeds_the_credit_is_refused() {
        let (feed, _inbox) = ends();
        let refused =
            (0..2000).map(|offset| feed.push(Arrival::decode(delivered(offset), Limits::default()))).find(Result::is_err);
        assert!(refused.is_some());
    }
}
