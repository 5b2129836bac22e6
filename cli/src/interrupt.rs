//! Being told to stop: once is a wish to end in order, twice to end now.

use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{Code, Failure};

/// Resolves when the process is told to stop, by Ctrl-C or SIGTERM.
pub(crate) async fn told_to_stop() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        let _ = tokio::signal::ctrl_c().await;
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// Finishes something, unless told to stop meanwhile.
pub(crate) async fn finish<T>(what: &str, work: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = told_to_stop() => Err(Failure::new(Code::Interrupted, format!("interrupted before {what}"))),
    }
}
