//! The way of a publish stream's requests to an owner, and room on it for one of them.

use alluvium_proto::internal::v1 as wire;
use alluvium_proto::v1;
use alluvium_runtime::budget::BytesHeld;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;

use super::doors::Door;
use super::lane::Weighs;
use super::upstream::Upstream;
use crate::topic::PartitionHandle;
use crate::topic::command::PublishCommand;

/// What is sent on: to a partition of this broker, or of another one.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// With the stream's number for this owner of it.
    Here(PartitionHandle, u64),
    There(Upstream),
}

/// Room for one request.
pub(super) enum Room {
    Here(mpsc::OwnedPermit<PublishCommand>),
    There(mpsc::OwnedPermit<wire::ForwardPublishRequest>),
}

/// Why there is no room now.
pub(super) enum NoRoom {
    /// Others have it.
    Full,
    /// It leads nowhere any more.
    Ended,
}

/// Room on a way; `None` if it leads nowhere any more.
pub(super) type Made = (Way, Option<Room>);

impl Way {
    /// The door that it goes through.
    pub(super) fn door(&self) -> Door {
        match self {
            Self::Here(_, number) => Door::Here(*number),
            Self::There(upstream) => Door::There(upstream.number()),
        }
    }

    /// Room for one request, if there is some now.
    pub(super) fn try_room(&self) -> Result<Room, NoRoom> {
        match self {
            Self::Here(handle, _) => handle.publishes().clone().try_reserve_owned().map(Room::Here).map_err(NoRoom::from),
            Self::There(upstream) => upstream.requests().clone().try_reserve_owned().map(Room::There).map_err(NoRoom::from),
        }
    }

    /// Room for one request, once there is some. Others may wait for what it holds: whoever has it uses it or lets it go at once.
    pub(super) fn room(self) -> BoxFuture<'static, Made> {
        let made = async move {
            let room = match &self {
                Self::Here(handle, _) => handle.publishes().clone().reserve_owned().await.ok().map(Room::Here),
                Self::There(upstream) => upstream.requests().clone().reserve_owned().await.ok().map(Room::There),
            };
            (self, room)
        };
        made.boxed()
    }
}

impl<T> From<mpsc::error::TrySendError<T>> for NoRoom {
    fn from(error: mpsc::error::TrySendError<T>) -> Self {
        match error {
            mpsc::error::TrySendError::Full(_) => Self::Full,
            mpsc::error::TrySendError::Closed(_) => Self::Ended,
        }
    }
}

/// A batch, and its memory while its session holds it: until it is handed to the owner here, or answered by one elsewhere.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) batch: v1::PublishBatch,
    pub(super) held: Option<BytesHeld>,
}

impl Weighs for Parked {
    fn bytes(&self) -> usize {
        self.batch.batch.as_ref().map_or(0, |batch| batch.blob.len())
    }
}
