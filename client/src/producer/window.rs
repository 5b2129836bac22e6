//! What a producer may have queued and in flight: a little of its own at any time, and beyond that a part of what all producers of its
//! client share.

use alluvium_runtime::budget::{ByteBudget, BytesHeld};

/// What a producer may have whatever others have.
const OWN_BYTES: usize = 64 << 10;

/// A producer's window.
#[derive(Debug)]
pub(super) struct Window {
    own: ByteBudget,
    /// What it may have beyond its own.
    more: ByteBudget,
    /// What all producers of the client may have beyond their own.
    shared: ByteBudget,
}

/// Bytes of a window; they go back when this is dropped.
#[derive(Debug, Default)]
#[must_use = "the bytes go back at once when this is dropped"]
pub(super) struct Held {
    own: Option<BytesHeld>,
    more: Option<(BytesHeld, BytesHeld)>,
    own_bytes: usize,
    more_bytes: usize,
}

impl Held {
    /// How many they are.
    pub(super) const fn bytes(&self) -> usize {
        self.own_bytes + self.more_bytes
    }

    /// Holds `other` as well, which is of the same window.
    pub(super) fn join(&mut self, other: Self) {
        match (&mut self.own, other.own) {
            (Some(own), Some(other)) => own.join(other),
            (_, None) => {}
            (own, other) => *own = other,
        }
        match (&mut self.more, other.more) {
            (Some((more, shared)), Some((other_more, other_shared))) => {
                more.join(other_more);
                shared.join(other_shared);
            }
            (_, None) => {}
            (more, other) => *more = other,
        }
        self.own_bytes += other.own_bytes;
        self.more_bytes += other.more_bytes;
    }

    /// Holds no more than `bytes` from now on; the rest goes back, first of what is shared.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        self.more_bytes = self.more_bytes.min(bytes.saturating_sub(self.own_bytes));
        self.own_bytes = self.own_bytes.min(bytes);
        if let Some((more, shared)) = &mut self.more {
            more.shrink_to(self.more_bytes);
            shared.shrink_to(self.more_bytes);
        }
        if let Some(own) = &mut self.own {
            own.shrink_to(self.own_bytes);
        }
    }
}

impl Window {
    /// Of so many bytes.
    pub(super) fn new(bytes: usize, shared: ByteBudget) -> Self {
        let own = bytes.min(OWN_BYTES);
        Self { own: ByteBudget::new(own), more: ByteBudget::new(bytes - own), shared }
    }

    /// Takes so many bytes if they are free now.
    pub(super) fn try_take(&self, bytes: usize) -> Option<Held> {
        if let Some(own) = self.own.try_take(bytes) {
            return Some(Held { own: Some(own), own_bytes: bytes, ..Held::default() });
        }
        let more = if self.more.total() == 0 { None } else { self.more.try_take(bytes) };
        let held = (more?, self.shared.try_take(bytes)?);
        Some(Held { more: Some(held), more_bytes: bytes, ..Held::default() })
    }

    /// Waits until so many bytes are free. What is larger than a budget waits for all of it. Cancel safe.
    pub(super) async fn take(&self, bytes: usize) -> Held {
        let more = async {
            if self.more.total() == 0 {
                std::future::pending::<()>().await;
            }
            let more = self.more.take(bytes).await;
            (more, self.shared.take(bytes).await)
        };
        tokio::select! {
            biased;
            own = self.own.take(bytes) => Held { own: Some(own), own_bytes: bytes, ..Held::default() },
            more = more => Held { more: Some(more), more_bytes: bytes, ..Held::default() },
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const MIB: usize = 1 << 20;

    fn fill(window: &Window) -> Vec<Held> {
        std::iter::from_fn(|| window.try_take(1024)).collect()
    }

    #[test]
    fn q6_a_thousand_producers_hold_what_their_client_may_and_a_little_each() {
        let shared = ByteBudget::new(4 * MIB);
        let windows: Vec<Window> = (0..1000).map(|_| Window::new(8 * MIB, shared.clone())).collect();
        let held: Vec<Vec<Held>> = windows.iter().map(fill).collect();
        let sum: usize = held.iter().map(|held| held.len() * 1024).sum();
        assert_eq!(sum, 4 * MIB + 1000 * OWN_BYTES);
        drop(held);
        assert_eq!(shared.held(), 0);
    }

    #[test]
    fn a_window_is_what_was_asked_for() {
        for bytes in [1, 100 << 10, MIB] {
            let window = Window::new(bytes, ByteBudget::new(64 * MIB));
            assert_eq!(fill(&window).len(), bytes.div_ceil(1024), "{bytes}");
        }
    }

    #[test]
    fn what_was_taken_too_much_goes_back_first_of_what_is_shared() {
        let shared = ByteBudget::new(MIB);
        let window = Window::new(MIB, shared.clone());
        let mut held = window.try_take(OWN_BYTES).expect("its own");
        held.join(window.try_take(10_240).expect("more"));
        assert_eq!((held.bytes(), shared.held()), (OWN_BYTES + 10_240, 10_240));
        held.shrink_to(OWN_BYTES + 5000);
        assert_eq!((held.bytes(), shared.held()), (OWN_BYTES + 5000, 5120));
        held.shrink_to(MIB);
        held.shrink_to(1000);
        assert_eq!((held.bytes(), shared.held(), window.own.held()), (1000, 0, 1024));
    }

    #[test]
    fn whoever_waits_goes_on_with_whatever_is_free_first() {
        let shared = ByteBudget::new(MIB);
        let (stuck, window) = (Window::new(8 * MIB, shared.clone()), Window::new(8 * MIB, shared));
        let kept = fill(&stuck);
        let mut own = fill(&window);
        assert_eq!(own.len() * 1024, OWN_BYTES, "who is stuck has all that is shared");
        let mut waiting = Box::pin(window.take(1024));
        assert!((&mut waiting).now_or_never().is_none());
        own.pop();
        let mut held = waiting.now_or_never().expect("of its own");
        let mut waiting = Box::pin(window.take(1024));
        assert!((&mut waiting).now_or_never().is_none());
        drop(kept);
        held.join(waiting.now_or_never().expect("of what is shared"));
        drop((held, own));
        assert!(window.take(8 * MIB).now_or_never().is_some(), "all is free again, and one larger than all fits");
    }
}
