//! What goes between the task that serves some partitions' messages and the relay that shares a client out over such tasks, here
//! and at other brokers.

use tonic::Status;

use super::membership::Spans;
use super::outbox::Hold;
use crate::subscription::Grant;

/// To the task.
#[derive(Debug)]
pub(crate) enum Ask<Q> {
    /// A client's request.
    Request(Q),
    /// Give back the credit that is left.
    Reclaim,
    /// The same, and take back these messages, which the client was not handed.
    TakeBack(Spans),
}

/// From the task.
#[derive(Debug)]
pub(crate) enum Say<R> {
    /// A response for the client, and all credit taken since the stream began.
    Response {
        /// The response.
        response: R,
        /// The credit.
        taken: Grant,
    },
    /// There are messages, and no credit to send them, though so much was granted in all. Said once, until there is more.
    Wanted(Grant),
    /// The credit that was left.
    Returned(Grant),
}

/// What a task says with what that holds of the process's memory; or its last word.
pub(crate) type Said<R> = (Result<Say<R>, Status>, Hold);
