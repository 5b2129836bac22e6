//! Messages on their way in, before they are there: a large one's bytes are taken from a budget when its length is known and
//! nothing of it was kept yet, and go back once whoever serves the call has counted what was decoded.
//!
//! The bound: [`Intake`]'s budget for the large ones, and [`SMALL_BYTES`] for each call that is open. Who takes room in it must
//! use it in time ([`PATIENCE`]), so nobody keeps others out by announcing what doesn't come.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use alluvium_runtime::budget::{ByteBudget, BytesHeld};
use alluvium_runtime::clock::Clock;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body::{Body, Frame};
use parking_lot::Mutex;
use tonic::Status;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

/// A message up to this size waits for nothing.
const SMALL_BYTES: u32 = 64 << 10;
/// How long a message may take to come, once there is room for it, and beside what a slow link needs for it.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a slow link carries in a second.
const SLOW_BYTES: u32 = 64 << 10;
/// What precedes a message: a flag, and its length.
const HEAD_BYTES: usize = 5;

/// A service whose calls' messages are counted before they are there.
#[derive(Clone)]
pub(crate) struct Intake<S> {
    service: S,
    budget: ByteBudget,
    clock: Clock,
}

/// What a call holds for the message that it is being sent. Among the extensions of its request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Share(Arc<Mutex<Option<BytesHeld>>>);

impl Share {
    /// The message was counted elsewhere, or let go.
    pub(super) fn counted(&self) {
        self.0.lock().take();
    }
}

impl<S> Intake<S> {
    /// Takes the messages of `service` from `budget`.
    pub(crate) const fn new(service: S, budget: ByteBudget, clock: Clock) -> Self {
        Self { service, budget, clock }
    }
}

impl<S: NamedService> NamedService for Intake<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<tonic::body::Body>> for Intake<S>
where
    S: Service<http::Request<tonic::body::Body>, Error = Infallible>,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> S::Future {
        let share = Share::default();
        let (budget, clock) = (self.budget.clone(), self.clock.clone());
        let mut request = request.map(|body| tonic::body::Body::new(Counted::new(body, budget, clock, share.clone())));
        request.extensions_mut().insert(share);
        self.service.call(request)
    }
}

/// A call's messages, as they come.
struct Counted<B> {
    body: B,
    budget: ByteBudget,
    clock: Clock,
    share: Share,
    /// What came and was not handed on.
    rest: Bytes,
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    /// What is left of the message whose head was seen.
    left: u32,
    /// For room.
    waiting: Option<BoxFuture<'static, BytesHeld>>,
    /// For the rest of a large message.
    late: Option<BoxFuture<'static, ()>>,
}

impl<B> Counted<B> {
    const fn new(body: B, budget: ByteBudget, clock: Clock, share: Share) -> Self {
        let rest = Bytes::new();
        Self { body, budget, clock, share, rest, head: [0; HEAD_BYTES], head_bytes: 0, left: 0, waiting: None, late: None }
    }

    /// What may be handed on: up to the end of the head or of the message at hand, so that whoever decodes has the message's length
    /// before its first byte, and makes room for it once. Of a large message's head the last byte is kept back,
    /// until there is room for the message here.
    fn advance(&mut self) -> Bytes {
        if self.left > 0 {
            let bytes = self.rest.len().min(self.left as usize);
            self.left -= u32::try_from(bytes).unwrap_or(self.left);
            if self.left == 0 {
                self.late = None;
            }
            return self.rest.split_to(bytes);
        }
        let bytes = self.rest.len().min(HEAD_BYTES - self.head_bytes);
        self.head[self.head_bytes..self.head_bytes + bytes].copy_from_slice(&self.rest[..bytes]);
        self.head_bytes += bytes;
        if self.head_bytes < HEAD_BYTES {
            return self.rest.split_to(bytes);
        }
        self.head_bytes = 0;
        let [_, length @ ..] = self.head;
        self.left = u32::from_be_bytes(length);
        if self.left <= SMALL_BYTES {
            return self.rest.split_to(bytes);
        }
        let (budget, large) = (self.budget.clone(), self.left as usize);
        self.waiting = Some(async move { budget.take(large).await }.boxed());
        // The head was seen; its last byte is not one of the message.
        self.rest.split_to(bytes - 1)
    }

    /// There is room for the message whose head's last byte is the first one that was kept back.
    fn begin(&mut self, held: BytesHeld) -> Bytes {
        *self.share.0.lock() = Some(held);
        let (clock, bytes) = (self.clock.clone(), self.left);
        let patience = PATIENCE + Duration::from_secs(u64::from(bytes / SLOW_BYTES));
        self.late = Some(async move { clock.sleep(patience).await }.boxed());
        self.rest.split_to(1)
    }
}

impl<B> Body for Counted<B>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            if let Some(waiting) = &mut this.waiting {
                let held = ready!(waiting.as_mut().poll(cx));
                this.waiting = None;
                return Poll::Ready(Some(Ok(Frame::data(this.begin(held)))));
            }
            if !this.rest.is_empty() {
                let ready = this.advance();
                if !ready.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(ready))));
                }
                continue;
            }
            if this.late.as_mut().is_some_and(|late| late.as_mut().poll(cx).is_ready()) {
                return Poll::Ready(Some(Err(Status::deadline_exceeded("a message that was begun did not come in time"))));
            }
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                end => return Poll::Ready(end),
            }
        }
    }
}

impl<S> fmt::Debug for Intake<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Intake({:?})", self.budget)
    }
}

#[cfg(test)]
mod tests {
    use alluvium_types::time::Timestamp;
    use proptest::prelude::*;
    use tokio::sync::mpsc;

    use super::*;

    /// What a peer sends, as it is put in.
    struct Wire(mpsc::Receiver<Bytes>);

    impl Body for Wire {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            self.0.poll_recv(cx).map(|data| data.map(|data| Ok(Frame::data(data))))
        }
    }

    const LARGE: u32 = 1 << 20;

    struct Call {
        wire: mpsc::Sender<Bytes>,
        counted: Counted<Wire>,
        share: Share,
    }

    fn call(budget: &ByteBudget, clock: &Clock) -> Call {
        let (wire, rx) = mpsc::channel(16);
        let share = Share::default();
        Call { wire, counted: Counted::new(Wire(rx), budget.clone(), clock.clone(), share.clone()), share }
    }

    fn message(bytes: u32) -> Vec<u8> {
        let mut message = vec![0];
        message.extend(bytes.to_be_bytes());
        message.resize(HEAD_BYTES + bytes as usize, 7);
        message
    }

    impl Call {
        fn send(&self, bytes: &[u8]) {
            self.wire.try_send(Bytes::copy_from_slice(bytes)).expect("room");
        }

        /// All that comes without waiting, or why nothing more does.
        fn take(&mut self) -> Result<Vec<u8>, tonic::Code> {
            self.pieces().map(|pieces| pieces.concat())
        }

        /// The same, in the pieces in which it is handed on.
        fn pieces(&mut self) -> Result<Vec<Bytes>, tonic::Code> {
            let mut pieces = Vec::new();
            loop {
                let frame = std::future::poll_fn(|cx| Pin::new(&mut self.counted).poll_frame(cx)).now_or_never();
                match frame {
                    Some(Some(Ok(frame))) => pieces.push(frame.into_data().expect("data")),
                    Some(Some(Err(status))) => return Err(status.code()),
                    Some(None) | None => return Ok(pieces),
                }
            }
        }
    }

    proptest! {
        #[test]
        fn pieces_end_with_heads_and_messages_however_they_were_cut(
            lengths in proptest::collection::vec(
                prop_oneof![Just(0), 1..100_u32, Just(SMALL_BYTES), Just(SMALL_BYTES + 1)], 1..8),
            cuts in proptest::collection::vec(prop_oneof![1..8_usize, 1..50_000_usize], 1..6),
        ) {
            let (budget, clock) = (ByteBudget::new(1 << 20), Clock::manual(Timestamp::default()));
            let mut call = call(&budget, &clock);
            let sent: Vec<u8> = lengths.iter().flat_map(|length| message(*length)).collect();
            let (mut rest, mut taken) = (&sent[..], Vec::new());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, behind) = rest.split_at((*cut).min(rest.len()));
                call.send(piece);
                rest = behind;
                taken.extend(call.pieces().expect("in time"));
                call.share.counted();
            }
            prop_assert_eq!(taken.concat(), sent);
            let ends = |lengths: &[u32]| {
                let mut at = 0;
                lengths.iter().flat_map(|length| {
                    at += HEAD_BYTES;
                    let head = at;
                    at += *length as usize;
                    [head, at]
                }).collect::<Vec<usize>>()
            };
            let mut at = 0;
            for piece in taken {
                let (begin, end) = (at, at + piece.len());
                prop_assert!(!ends(&lengths).iter().any(|mark| begin < *mark && *mark < end), "{}..{}", begin, end);
                at = end;
            }
            prop_assert_eq!(budget.held(), 0);
        }
    }

    #[tokio::test]
    async fn q6_a_large_message_has_room_before_it_is_taken_in() {
        // Each stream took a message of up to 6 MiB in before anything was counted.
        let (budget, clock) = (ByteBudget::new(LARGE as usize), Clock::manual(Timestamp::default()));
        let (mut one, mut other) = (call(&budget, &clock), call(&budget, &clock));
        let (small, large) = (message(100), message(LARGE));
        // In pieces that respect nothing: a small one and three bytes of a head, the rest of the head and a little, the rest.
        let sent = [&small[..], &large[..3]].concat();
        for call in [&one, &other] {
            call.send(&sent);
            call.send(&large[3..10]);
        }
        assert_eq!(one.take().expect("fine").len(), small.len() + 10);
        assert_eq!(budget.held(), LARGE as usize);
        let taken = other.take().expect("fine");
        assert_eq!(taken.len(), small.len() + 4, "its head is not complete, so nobody makes room for it");
        one.send(&[&large[10..], &small[..]].concat());
        assert_eq!(one.take().expect("fine").len(), large.len() - 10 + small.len());
        assert_eq!(other.take().expect("fine"), [0; 0], "the first one is decoded, and not counted yet");
        one.share.counted();
        other.send(&large[10..]);
        let rest = other.take().expect("fine");
        assert_eq!([&taken[small.len()..], &rest[..]].concat(), large, "as it was sent");
        drop(other);
        assert_eq!(budget.held(), 0);
    }

    #[tokio::test]
    async fn q6_who_announces_a_message_and_does_not_send_it_makes_room_for_others() {
        let (budget, clock) = (ByteBudget::new(LARGE as usize), Clock::manual(Timestamp::default()));
        let mut call = call(&budget, &clock);
        call.send(&message(LARGE)[..20]);
        assert_eq!(call.take().map(|bytes| bytes.len()), Ok(20));
        clock.advance(PATIENCE);
        assert_eq!(call.take(), Ok(Vec::new()), "a slow link has its time");
        clock.advance(Duration::from_secs(u64::from(LARGE / SLOW_BYTES)));
        assert_eq!(call.take(), Err(tonic::Code::DeadlineExceeded));
    }
}
