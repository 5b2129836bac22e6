//! Logs: structured, to standard error, as text for eyes or JSON for machines.

use std::io::IsTerminal;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The shape of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For eyes.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// How a process logs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Levels, in the syntax of `tracing`'s filters, such as `info` or `info,alluvium_ledger=debug`.
    pub level: String,
    /// The shape of the lines.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

impl LogConfig {
    /// Says what is wrong with the filter, if anything. A word alone must be a level: as a target it would turn all else off.
    pub fn validate(&self) -> Result<(), String> {
        let words = self.level.split(',').map(str::trim);
        if let Some(word) = words.clone().find(|word| !word.contains('=') && !LEVELS.contains(&word.to_lowercase().as_str())) {
            return Err(format!("log.level: {word:?} is not one of {}, or target=level", LEVELS.join(", ")));
        }
        self.filter().map(|_| ()).map_err(|error| format!("log.level: {error}"))
    }

    fn filter(&self) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
        let directives = self.level.split(',').map(str::trim).collect::<Vec<_>>().join(",");
        EnvFilter::try_new(format!("{QUIET},{directives}"))
    }
}

/// What a word alone may be.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// Libraries that tell of every frame and connection speak up only when they are asked by name.
const QUIET: &str = "h2=info,hyper=info,hyper_util=info,tower=info,tonic=info";

/// Starts logging for this process. A second call changes nothing.
pub fn init(config: &LogConfig) {
    let filter = config.filter().unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    // A second initialisation, as in tests, keeps the first.
    let _ = match config.format {
        LogFormat::Text => registry
            .with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()))
            .try_init(),
        LogFormat::Json => registry.with(tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr)).try_init(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        let valid = |level: &str| LogConfig { level: level.to_owned(), ..LogConfig::default() }.validate();
        for level in ["info", "DEBUG", "warn,alluvium_ledger=debug", "info, h2=trace"] {
            assert_eq!(valid(level), Ok(()), "{level}");
        }
        for level in ["loud", "warning", "", "info,alluvium_ledger=loud"] {
            assert!(valid(level).expect_err(level).starts_with("log.level: "), "{level}");
        }
    }
}
