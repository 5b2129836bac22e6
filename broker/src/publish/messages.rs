//! A call's messages, each in memory of its own size that goes with it.
//!
//! The transport's library keeps the memory of the last message of each call until the next one comes: with hundreds of producers of
//! large messages that is all there is, and none of it is counted.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use http_body::Body;
use parking_lot::Mutex;
use prost::Message;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::{Status, Streaming};

/// What precedes a message: a flag, and its length.
const HEAD_BYTES: usize = 5;

/// A service, one of whose calls takes its messages from the body by itself.
pub struct Taken<S, M> {
    service: S,
    path: Arc<str>,
    bytes_max: usize,
    kind: PhantomData<fn() -> M>,
}

impl<S: NamedService, M> Taken<S, M> {
    /// The one whose `method` is a stream of `M`, none longer than `bytes_max`.
    pub(crate) fn new(service: S, method: &str, bytes_max: usize) -> Self {
        Self { service, path: Arc::from(format!("/{}/{method}", S::NAME)), bytes_max, kind: PhantomData }
    }
}

impl<S: NamedService, M> NamedService for Taken<S, M> {
    const NAME: &'static str = S::NAME;
}

impl<S, M> Service<http::Request<tonic::body::Body>> for Taken<S, M>
where
    S: Service<http::Request<tonic::body::Body>>,
    M: Message + Default + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<tonic::body::Body>) -> S::Future {
        if request.uri().path() == &*self.path {
            let messages = Messages::<M>::new(std::mem::take(request.body_mut()), self.bytes_max);
            let incoming: Incoming<M> = Arc::new(Mutex::new(Some(messages)));
            request.extensions_mut().insert(incoming);
        }
        self.service.call(request)
    }
}

/// The messages of a call. Among the extensions of its request.
type Incoming<M> = Arc<Mutex<Option<Messages<M>>>>;

/// The messages of a call that came by [`Taken`], and by nothing else.
pub(crate) fn messages<M: Message + 'static>(request: &tonic::Request<Streaming<M>>) -> Result<Messages<M>, Status> {
    let incoming = request.extensions().get::<Incoming<M>>().and_then(|incoming| incoming.lock().take());
    incoming.ok_or_else(|| Status::internal("the call's messages went another way"))
}

/// Messages of a body, as they come.
pub(crate) struct Messages<M> {
    body: tonic::body::Body,
    bytes_max: usize,
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    /// What came of the message whose head is complete, and how long it is.
    message: Option<(BytesMut, usize)>,
    /// What came behind it.
    rest: Bytes,
    is_over: bool,
    kind: PhantomData<fn() -> M>,
}

impl<M: Message + Default> Messages<M> {
    /// Of this body. None is longer than `bytes_max`.
    pub(super) fn new(body: tonic::body::Body, bytes_max: usize) -> Self {
        let (head, rest) = ([0; HEAD_BYTES], Bytes::new());
        Self { body, bytes_max, head, head_bytes: 0, message: None, rest, is_over: false, kind: PhantomData }
    }

    /// Takes in what came; the message that it completes, if it does.
    fn take_in(&mut self) -> Result<Option<M>, Status> {
        while !self.rest.is_empty() || self.message.as_ref().is_some_and(|(_, bytes)| *bytes == 0) {
            let Some((message, bytes)) = &mut self.message else {
                self.take_head()?;
                continue;
            };
            let more = self.rest.len().min(*bytes - message.len());
            message.extend_from_slice(&self.rest.split_to(more));
            if message.len() == *bytes
                && let Some((message, _)) = self.message.take()
            {
                let decoded = M::decode(message.freeze());
                return decoded.map(Some).map_err(|error| Status::internal(format!("a message can't be decoded: {error}")));
            }
        }
        Ok(None)
    }

    fn take_head(&mut self) -> Result<(), Status> {
        let more = self.rest.len().min(HEAD_BYTES - self.head_bytes);
        self.head[self.head_bytes..self.head_bytes + more].copy_from_slice(&self.rest.split_to(more));
        self.head_bytes += more;
        if self.head_bytes < HEAD_BYTES {
            return Ok(());
        }
        self.head_bytes = 0;
        let [compressed, length @ ..] = self.head;
        if compressed != 0 {
            return Err(Status::unimplemented("compressed messages are not taken; a batch may be compressed instead"));
        }
        let bytes = u32::from_be_bytes(length) as usize;
        if bytes > self.bytes_max {
            let text = format!("a message of {bytes} bytes is longer than the limit of {}", self.bytes_max);
            return Err(Status::out_of_range(text));
        }
        self.message = Some((BytesMut::with_capacity(bytes), bytes));
        Ok(())
    }
}

impl<M: Message + Default> Stream for Messages<M> {
    type Item = Result<M, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if this.is_over {
                return Poll::Ready(None);
            }
            match this.take_in() {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Ok(None) => {}
                Err(status) => {
                    this.is_over = true;
                    return Poll::Ready(Some(Err(status)));
                }
            }
            let came = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    this.rest = frame.into_data().unwrap_or_default();
                    continue;
                }
                Some(Err(status)) => Some(Err(status)),
                None if this.message.is_some() || this.head_bytes > 0 => {
                    Some(Err(Status::internal("the call ended within a message")))
                }
                None => None,
            };
            this.is_over = true;
            return Poll::Ready(came);
        }
    }
}

impl<M> fmt::Debug for Messages<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages").field("bytes_max", &self.bytes_max).finish_non_exhaustive()
    }
}

impl<S: Clone, M> Clone for Taken<S, M> {
    fn clone(&self) -> Self {
        Self { service: self.service.clone(), path: Arc::clone(&self.path), bytes_max: self.bytes_max, kind: PhantomData }
    }
}

impl<S, M> fmt::Debug for Taken<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Taken({})", self.path)
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};
    use proptest::prelude::*;

    use super::*;

    /// What a peer sends, in these pieces.
    struct Pieces(std::vec::IntoIter<Bytes>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.next().map(|piece| Ok(http_body::Frame::data(piece))))
        }
    }

    const BYTES_MAX: usize = 100;

    fn messages(pieces: Vec<Bytes>) -> Messages<Vec<u8>> {
        Messages::new(tonic::body::Body::new(Pieces(pieces.into_iter())), BYTES_MAX)
    }

    /// As it is sent: a field of bytes.
    fn sent(payload: &Vec<u8>) -> Vec<u8> {
        let message = payload.encode_to_vec();
        let length = u32::try_from(message.len()).expect("short");
        [&[0][..], &length.to_be_bytes(), &message].concat()
    }

    proptest! {
        #[test]
        fn messages_come_whole_however_they_were_cut(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..90), 0..6),
            cut in 1..40_usize,
        ) {
            let all: Vec<u8> = payloads.iter().flat_map(sent).collect();
            let pieces = all.chunks(cut).map(Bytes::copy_from_slice).collect();
            let came: Option<Vec<Vec<u8>>> = messages(pieces).map(|came| came.expect("sound")).collect().now_or_never();
            prop_assert_eq!(came, Some(payloads));
        }
    }

    #[test]
    fn what_is_no_message_ends_the_call_with_what_is_wrong() {
        let code = |bytes: Vec<u8>| {
            let came: Option<Vec<Result<Vec<u8>, Status>>> = messages(vec![Bytes::from(bytes)]).collect().now_or_never();
            came.expect("nothing is waited for")
                .into_iter()
                .map(|came| came.err().map(|status| status.code()))
                .collect::<Vec<_>>()
        };
        let good = sent(&vec![1, 2, 3]);
        assert_eq!(code(good.clone()), [None]);
        assert_eq!(code([&good[..], &good[..6]].concat()), [None, Some(tonic::Code::Internal)], "it ends too early");
        assert_eq!(code(vec![0, 0, 0, 0, 101]), [Some(tonic::Code::OutOfRange)]);
        assert_eq!(code(vec![1, 0, 0, 0, 1, 1]), [Some(tonic::Code::Unimplemented)]);
        assert_eq!(code(vec![0, 0, 0, 0, 2, 10, 200]), [Some(tonic::Code::Internal)], "not in the protocol's words");
    }

    #[test]
    fn q6_a_message_holds_no_memory_but_its_own() {
        let payload = vec![7; 50];
        let mut came = messages(vec![Bytes::from([sent(&payload), sent(&payload)].concat())]);
        let first = came.next().now_or_never().flatten();
        assert!(first.is_some_and(|first| first.is_ok()));
        assert!(came.message.is_none(), "nothing is kept for the next one");
    }
}
