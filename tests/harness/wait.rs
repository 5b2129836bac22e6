//! Waiting on a level, with a deadline.

use std::future::Future;
use std::time::{Duration, Instant};

/// Asks until the answer is `Some`, at most for `limit`.
///
/// # Panics
/// When the time is up; says what was waited for.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, limit: Duration, mut ask: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
