//! A client of a relay that does not read. Nothing that other brokers sent is kept for it then: owners take it back, for others or for
//! later, as they do with a client of their own; where they don't, a stream begins anew once the client reads.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::Stream;
use tonic::Status;

use super::allotment::Key;
use super::{Relay, Traffic};
use crate::deliver::membership::Spans;

/// A client that has not read for so long has nothing of other brokers kept for it until it does (Q6).
pub(super) const STALL: Duration = Duration::from_secs(10);

impl<T, S> Relay<T, S>
where
    T: Traffic,
    S: Stream<Item = Result<T::Request, Status>> + Unpin + Send,
{
    /// The client has not read for [`STALL`].
    pub(super) fn stall(&mut self) {
        self.stalled = true;
        self.allotment.rest(true);
        self.take_back();
    }

    /// What waits for the client of other brokers goes back, and out of memory. What answers it is kept.
    pub(super) fn take_back(&mut self) {
        let mut back: BTreeMap<Key, Spans> = BTreeMap::new();
        for (response, hold, key, used) in std::mem::take(&mut self.pending) {
            let stands = self.upstreams.get(&key);
            // What is begun anew just now was told that the client has what the last owner delivered.
            let goes_back = (stands.is_some_and(|upstream| upstream.takes_back) || (self.stalled && hold.is_forwarded()))
                && (stands.is_some() || self.beginning.is_empty());
            match if goes_back { self.traffic.take_back(&response) } else { None } {
                Some((partition, spans, credit)) => {
                    self.allotment.took_back(key, credit);
                    if let Some(upstream) = self.upstreams.get_mut(&key) {
                        upstream.delivered.messages -= credit.messages;
                        upstream.delivered.bytes -= credit.bytes;
                    }
                    match self.served.get(&partition) {
                        Some(key) => back.entry(*key).or_default().entry(partition).or_default().extend(spans),
                        None if self.set_aside.contains(&partition) => {}
                        None => self.set_aside.push(partition),
                    }
                }
                None => self.pending.push_back((response, hold, key, used)),
            }
        }
        for (key, spans) in back {
            // How much of what is left was used is not known any more.
            self.pending.iter_mut().filter(|(_, _, of, _)| *of == key).for_each(|(_, _, _, used)| *used = 0);
            if self.traffic.takes_back() {
                if self.asks.take_back(key, spans) {
                    self.returns(key);
                }
                if let Some(upstream) = self.upstreams.get_mut(&key) {
                    upstream.takes_back = true;
                }
            } else {
                let partitions = self.remove(key);
                self.set_aside.extend(partitions);
            }
        }
    }

    /// The client reads: it is served again by all.
    pub(super) fn goes_on(&mut self) {
        if std::mem::take(&mut self.stalled) {
            self.allotment.rest(false);
            let partitions = std::mem::take(&mut self.set_aside);
            if !partitions.is_empty() && !self.stops {
                self.look_for(partitions, false);
            }
        }
    }

    /// A stream will say what it gives back.
    pub(super) fn returns(&mut self, key: Key) {
        if let Some(upstream) = self.upstreams.get_mut(&key) {
            upstream.returns += 1;
        }
    }
}
