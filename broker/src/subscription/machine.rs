//! All subscriptions of one partition: what the owner task hosts.

use std::collections::BTreeMap;

use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::{Offset, Revision};
use alluvium_types::names::SubscriptionName;
use alluvium_types::time::Mono;
use bytes::Bytes;

use super::cursor::{Change, Cursor};
#[cfg(test)]
use super::input::ConsumerId;
use super::input::{AckRequest, Input, JoinRequest, Output, Span};
use super::place::Place;
use super::record::{Record, Step};
use super::state::Bound;
use crate::topic::{Bounds, CorruptState, Effects, Hosted, SubscriptionSpec};

/// The subscriptions of a partition.
#[derive(Debug, Default)]
pub struct Machine {
    bounds: Bounds,
    /// How much may be unacknowledged (C43).
    pub(super) unacknowledged: Bound,
    places: BTreeMap<SubscriptionName, Place>,
    /// Cursors of the state ledger whose subscriptions are not known yet.
    restored: BTreeMap<Revision, Cursor>,
}

impl Hosted for Machine {
    type Input = Input;
    type Output = Output;

    fn restore(records: &[Bytes]) -> Result<Self, CorruptState> {
        let mut restored: BTreeMap<Revision, Cursor> = BTreeMap::new();
        for bytes in records {
            let record = Record::decode(bytes).map_err(|error| CorruptState(error.to_string()))?;
            match record.step {
                Step::Changed(change @ Change::Placed(_)) => {
                    restored.entry(record.subscription).or_default().apply(&change);
                }
                Step::Changed(change) => {
                    let cursor = restored.get_mut(&record.subscription);
                    let id = record.subscription;
                    cursor.ok_or_else(|| CorruptState(format!("cursor {id} changes and was never placed")))?.apply(&change);
                }
                Step::Dropped => {
                    restored.remove(&record.subscription);
                }
            }
        }
        Ok(Self { restored, ..Self::default() })
    }

    fn configure(&mut self, now: Mono, specs: &[SubscriptionSpec], bounds: Bounds, effects: &mut Effects<Output>) {
        self.bounds = bounds;
        let gone: Vec<SubscriptionName> = self
            .places
            .iter()
            .filter(|(name, place)| !specs.iter().any(|s| s.name == **name && s.id == place.id()))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            let mut place = self.places.remove(&name).expect("it was just found");
            place.end(&Fault::not_found("subscription", "SUBSCRIPTION_NOT_FOUND", &name), effects);
            effects.records.push(Record { subscription: place.id(), step: Step::Dropped }.encode());
        }
        for spec in specs {
            if self.places.contains_key(&spec.name) {
                continue;
            }
            let cursor = self.restored.remove(&spec.id).unwrap_or_else(|| {
                let start = bounds.clamp(spec.start);
                let step = Step::Changed(Change::Placed(start));
                effects.records.push(Record { subscription: spec.id, step }.encode());
                Cursor::at(start)
            });
            self.places.insert(spec.name.clone(), Place::new(spec, cursor, self.unacknowledged));
        }
        // What no subscription claims at the first call, none ever will: a re-created one has another id.
        for id in std::mem::take(&mut self.restored).into_keys() {
            effects.records.push(Record { subscription: id, step: Step::Dropped }.encode());
        }
        self.log_moved(now, bounds, effects);
    }

    fn apply(&mut self, now: Mono, input: Input, effects: &mut Effects<Output>) {
        let end = self.bounds.end;
        match input {
            Input::Join(request) => self.join(now, request, effects),
            Input::Leave { subscription, consumer, kept, unsent } => {
                self.with(&subscription, |place| place.leave(now, consumer, &kept, &unsent, end, effects));
            }
            Input::Refilled { subscription, .. } => {
                self.with(&subscription, |place| place.dispatch(now, end, effects));
            }
            Input::Entries { subscription, consumer, from, result } => {
                self.with(&subscription, |place| place.entries(now, consumer, from, result, end, effects));
            }
            Input::Ack(request) => self.acknowledge(now, request, effects),
            Input::Nack { subscription, consumer, spans, delay, reply } => {
                let found = self.with(&subscription, |place| {
                    place.give_back(now, &spans, consumer, delay, end, effects);
                });
                if let Some(reply) = reply {
                    let answer = found.ok_or_else(|| unknown(&subscription));
                    effects.now.push(Output::Answer(reply, answer));
                }
            }
            Input::Undeliverable { subscription, consumer, span } => {
                self.with(&subscription, |place| place.undeliverable(now, consumer, span, end, effects));
            }
            Input::Unsent { subscription, consumer, spans } => {
                self.with(&subscription, |place| place.unsent(now, consumer, &spans, end, effects));
            }
            Input::Seek { subscription, to, reply } => {
                let to = self.bounds.clamp(to);
                match self.with(&subscription, |place| place.seek(to, effects)) {
                    Some(()) => effects.when_durable.push(Output::Moved(reply, Ok(to))),
                    None => effects.now.push(Output::Moved(reply, Err(unknown(&subscription)))),
                }
            }
            Input::Stats { subscription, reply } => {
                let stats = self.with(&subscription, |place| place.stats(end)).ok_or_else(|| unknown(&subscription));
                effects.now.push(Output::Stats(reply, stats));
            }
        }
    }

    fn log_moved(&mut self, now: Mono, bounds: Bounds, effects: &mut Effects<Output>) {
        self.bounds = bounds;
        for place in self.places.values_mut() {
            place.trimmed(bounds.first);
            place.dispatch(now, bounds.end, effects);
        }
    }

    fn tick(&mut self, now: Mono, effects: &mut Effects<Output>) {
        for place in self.places.values_mut() {
            place.tick(now, self.bounds.end, effects);
        }
    }

    fn next_wakeup(&self) -> Option<Mono> {
        self.places.values().filter_map(Place::next_wakeup).min()
    }

    fn snapshot(&self) -> Vec<Bytes> {
        self.places.values().flat_map(Place::snapshot).collect()
    }

    fn needs(&self, first: Offset, end: Offset) -> bool {
        self.places.values().any(|place| place.needs(Span::new(first, end)))
    }

    fn is_idle(&self) -> bool {
        self.places.values().all(Place::is_idle)
    }

    fn ended(&mut self, fault: &Fault, effects: &mut Effects<Output>) {
        for place in self.places.values_mut() {
            place.end(fault, effects);
        }
    }
}

impl Machine {
    fn with<T>(&mut self, name: &SubscriptionName, act: impl FnOnce(&mut Place) -> T) -> Option<T> {
        self.places.get_mut(name).map(act)
    }

    fn join(&mut self, now: Mono, request: JoinRequest, effects: &mut Effects<Output>) {
        match self.places.get_mut(&request.subscription) {
            Some(place) => place.join(now, request, self.bounds.end, effects),
            None => {
                let fault = unknown(&request.subscription);
                effects.now.push(Output::Answer(request.reply, Err(fault)));
            }
        }
    }

    fn acknowledge(&mut self, now: Mono, request: AckRequest, effects: &mut Effects<Output>) {
        match self.places.get_mut(&request.subscription) {
            Some(place) => place.acknowledge(now, request, self.bounds.end, effects),
            None => {
                let fault = unknown(&request.subscription);
                effects.now.push(Output::Receipt(request.target, Err(fault)));
            }
        }
    }

    /// The consumers connected to a subscription.
    #[cfg(test)]
    pub(crate) fn consumers(&self, name: &SubscriptionName) -> Vec<ConsumerId> {
        self.places.get(name).map(Place::consumers).unwrap_or_default()
    }
}

fn unknown(name: &SubscriptionName) -> Fault {
    Fault::not_found("subscription", "SUBSCRIPTION_NOT_FOUND", name)
}

/// The fault that ends the streams of a subscription whose cursor was moved.
pub(super) fn moved(name: &SubscriptionName) -> Fault {
    Fault::new(
        FaultKind::Unavailable,
        "SUBSCRIPTION_MOVED",
        format!("the cursor of subscription {name} was moved; subscribe again to go on from there"),
    )
}
