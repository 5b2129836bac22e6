//! Why nothing could be measured.

use std::io;

/// Why a measurement ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The load makes no sense, or the server does not take it: correct it.
    #[error("the load is wrong: {}", .0.join("; "))]
    Workload(Vec<String>),
    /// The server refused something, or can't be reached.
    #[error("{what}")]
    Client {
        /// What was being done.
        what: String,
        /// What the client said.
        source: alluvium_client::Error,
    },
    /// The system refused something.
    #[error("{what}")]
    System {
        /// What was being done.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// What was read back is not what was written.
    #[error("a replay is wrong: {0}")]
    Replay(String),
    /// A thread of the load ended before its time: a bug of the benchmark.
    #[error("the {0} stopped without a word")]
    Stopped(&'static str),
}

impl Error {
    pub(crate) fn client(what: impl Into<String>) -> impl FnOnce(alluvium_client::Error) -> Self {
        let what = what.into();
        move |source| Self::Client { what, source }
    }

    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }
}
