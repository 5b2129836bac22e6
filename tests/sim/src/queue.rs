//! Virtual time: what happens next, and when.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

use alluvium_types::time::Mono;

/// Events in order of time; those of the same time in the order in which they were put.
#[derive(Debug)]
pub struct Queue<E> {
    now: Mono,
    puts: u64,
    heap: BinaryHeap<Due<E>>,
}

#[derive(Debug)]
struct Due<E> {
    at: Mono,
    put: u64,
    event: E,
}

impl<E> PartialEq for Due<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<E> Eq for Due<E> {}

impl<E> PartialOrd for Due<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Due<E> {
    /// The earliest is the greatest: that is what a heap gives first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.put).cmp(&(self.at, self.put))
    }
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { now: Mono::default(), puts: 0, heap: BinaryHeap::new() }
    }
}

impl<E> Queue<E> {
    /// The time of the event taken last.
    pub const fn now(&self) -> Mono {
        self.now
    }

    /// Puts an event at a time; the past means now.
    pub fn put_at(&mut self, at: Mono, event: E) {
        self.puts += 1;
        self.heap.push(Due { at: at.max(self.now), put: self.puts, event });
    }

    /// Puts an event `after` from now.
    pub fn put(&mut self, after: Duration, event: E) {
        self.put_at(self.now.after(after), event);
    }

    /// Takes the next event, and moves time to it.
    pub fn take(&mut self) -> Option<E> {
        let due = self.heap.pop()?;
        self.now = due.at;
        Some(due.event)
    }

    /// When the next event is due.
    pub fn next_at(&self) -> Option<Mono> {
        self.heap.peek().map(|due| due.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_by_turn() {
        let mut queue = Queue::default();
        for (millis, name) in [(5, 'c'), (1, 'a'), (5, 'd'), (2, 'b')] {
            queue.put(Duration::from_millis(millis), name);
        }
        let order: String = std::iter::from_fn(|| queue.take()).collect();
        assert_eq!(order, "abcd");
        assert_eq!(queue.now(), Mono::from_duration(Duration::from_millis(5)));
    }
}
