//! Where to begin, as people write it.

use std::str::FromStr;

use alluvium_client::Start;
use alluvium_runtime::clock::Clock;

use crate::units::{duration, time};

/// `earliest`, `latest`, an offset, a time such as `2013-01-31T12:00:00Z`, or how long ago, such as `10m`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StartAt {
    At(Start),
    /// So many milliseconds ago.
    Ago(u64),
}

impl StartAt {
    /// As it is meant now.
    pub(crate) fn start(self) -> Start {
        match self {
            Self::At(start) => start,
            Self::Ago(millis) => Start::TimeMs(Clock::system().wall().as_millis().saturating_sub(millis)),
        }
    }
}

impl FromStr for StartAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => return Ok(Self::At(Start::Earliest)),
            "latest" => return Ok(Self::At(Start::Latest)),
            _ => {}
        }
        if let Ok(offset) = text.parse() {
            return Ok(Self::At(Start::Offset(offset)));
        }
        if let Some(millis) = time(text) {
            return Ok(Self::At(Start::TimeMs(millis)));
        }
        if let Ok(ago) = duration(text) {
            return Ok(Self::Ago(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)));
        }
        Err("expected earliest, latest, an offset, a time such as 2013-01-31T12:00:00Z, or how long ago, such as 10m".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_say_where_is_understood() {
        for (text, start) in [
            ("earliest", StartAt::At(Start::Earliest)),
            ("latest", StartAt::At(Start::Latest)),
            ("1000", StartAt::At(Start::Offset(1000))),
            ("2013-01-31", StartAt::At(Start::TimeMs(1_359_590_400_000))),
            ("10m", StartAt::Ago(600_000)),
        ] {
            assert_eq!(text.parse(), Ok(start), "{text}");
        }
        assert!("yesterday".parse::<StartAt>().is_err());
    }
}
