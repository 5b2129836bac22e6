//! Who is alive: a listing followed by a watch (M5), shared as one value that is never half of a change.
//!
//! The view may be behind. It is for placement and routing; it decides nothing (M6).

use std::collections::BTreeMap;
use std::sync::Arc;

use alluvium_runtime::tasks::OnFailure;
use alluvium_types::ids::Revision;
use bytes::Bytes;
use tokio::sync::watch;

use crate::client::Metadata;
use crate::error::{ReadError, StoreError};
use crate::keys::{Key, rest_of};
use crate::record::{self, Record};
use crate::store::{Event, KeyValue};

/// All records of a kind at one revision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Live<N: Ord, T> {
    /// The revision up to which it is true.
    pub revision: Revision,
    /// The records, by name.
    pub members: Arc<BTreeMap<N, T>>,
}

/// What a view is of.
pub(crate) struct View<N, T> {
    pub(crate) prefix: Key<'static>,
    pub(crate) name: fn(&str) -> Option<N>,
    pub(crate) record: std::marker::PhantomData<T>,
}

impl<N, T> View<N, T>
where
    N: Ord + Clone + Send + Sync + 'static,
    T: Record + Clone + Send + Sync + 'static,
{
    /// Lists, then follows in a task until the process stops. The first value is the listing.
    pub(crate) async fn follow(self, metadata: &Metadata) -> Result<watch::Receiver<Live<N, T>>, ReadError> {
        let mut follower = Follower { view: self, metadata: metadata.clone(), known: BTreeMap::new(), revision: Revision::ZERO };
        follower.list().await?;
        let (tx, rx) = watch::channel(follower.live());
        metadata.tasks().spawn("metadata-live", OnFailure::ShutDown, async move {
            follower.run(&tx).await;
            Ok::<(), String>(())
        });
        Ok(rx)
    }
}

struct Follower<N, T> {
    view: View<N, T>,
    metadata: Metadata,
    /// By key, with the revision that wrote it: an event that is not newer is not applied twice.
    known: BTreeMap<Bytes, (Revision, Option<(N, T)>)>,
    revision: Revision,
}

impl<N, T> Follower<N, T>
where
    N: Ord + Clone + Send + Sync + 'static,
    T: Record + Clone + Send + Sync + 'static,
{
    fn live(&self) -> Live<N, T> {
        let members = self.known.values().filter_map(|(_, member)| member.clone()).collect();
        Live { revision: self.revision, members: Arc::new(members) }
    }

    async fn list(&mut self) -> Result<(), ReadError> {
        let at = self.metadata.all(self.view.prefix).await?;
        self.known.clear();
        for found in &at.value {
            self.put(found);
        }
        self.revision = at.revision;
        Ok(())
    }

    fn put(&mut self, found: &KeyValue) {
        let member =
            rest_of(&found.key, &self.view.prefix).and_then(|name| (self.view.name)(&name)).and_then(
                |name| match record::decode::<T>(found) {
                    Ok(record) => Some((name, record.value)),
                    Err(error) => {
                        tracing::error!(%error, "a live record makes no sense; it is left out");
                        None
                    }
                },
            );
        self.known.insert(found.key.clone(), (found.mod_revision, member));
    }

    fn apply(&mut self, event: &Event) {
        if self.known.get(event.key()).is_some_and(|(revision, _)| *revision >= event.revision()) {
            return;
        }
        match event {
            Event::Put(found) => self.put(found),
            Event::Delete { key, .. } => {
                self.known.remove(key);
            }
        }
    }

    async fn run(&mut self, tx: &watch::Sender<Live<N, T>>) {
        let mut backoff = self.metadata.backoff();
        let tasks = self.metadata.tasks().clone();
        loop {
            let followed = tokio::select! {
                biased;
                () = tasks.stopping() => return,
                () = tx.closed() => return,
                followed = self.follow_once(tx) => followed,
            };
            match followed {
                StoreError::Stopped => return,
                StoreError::Compacted { .. } => match self.list().await {
                    Ok(()) => {
                        tx.send_replace(self.live());
                        continue;
                    }
                    Err(error) => tracing::warn!(%error, "cannot list who is alive, trying again"),
                },
                error => tracing::debug!(%error, "the watch of who is alive ended, resuming"),
            }
            if !self.metadata.pause(&mut backoff).await {
                return;
            }
        }
    }

    /// Follows until the watch ends, and says why.
    async fn follow_once(&mut self, tx: &watch::Sender<Live<N, T>>) -> StoreError {
        let prefix = self.view.prefix.encode();
        let mut changes = match self.metadata.store().watch(&prefix, self.revision.next()).await {
            Ok(changes) => changes,
            Err(error) => return error,
        };
        loop {
            let events = match changes.next().await {
                Ok(events) => events,
                Err(error) => return error,
            };
            for event in &events {
                self.apply(event);
                self.revision = self.revision.max(event.revision());
            }
            tx.send_replace(self.live());
        }
    }
}
