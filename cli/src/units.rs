//! Sizes, durations and times as people write them.

use std::time::Duration;

const SIZES: [(&str, u64); 10] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("b", 1),
    ("", 1),
];

const DURATIONS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

fn split(text: &str) -> (&str, String) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim().to_ascii_lowercase())
}

fn scaled(text: &str, units: &[(&str, u64)], expected: &str) -> Result<u64, String> {
    let (number, unit) = split(text.trim());
    let wrong = || format!("expected {expected}");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    number.checked_mul(*factor).ok_or_else(|| "it does not fit 64 bits".to_owned())
}

/// Parses a size such as `64KiB`, `10MB` or `4096`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    scaled(text, &SIZES, "a size such as 4096, 64KiB, 10MB or 1GiB")
}

/// Parses a duration such as `250ms`, `30s`, `5m`, `2h` or `7d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    scaled(text, &DURATIONS, "a duration such as 250ms, 30s, 5m, 2h or 7d").map(Duration::from_millis)
}

/// A size for people.
pub(crate) fn show_size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in units {
        let one = 1_u64 << shift;
        if bytes >= one {
            let tenths = u128::from(bytes) * 10 / u128::from(one);
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes} B")
}

/// A duration for people, in the largest unit that shows all of it.
pub(crate) fn show_duration(millis: u64) -> String {
    let unit = DURATIONS.iter().rev().find(|(_, factor)| millis.is_multiple_of(*factor)).unwrap_or(&DURATIONS[0]);
    format!("{}{}", millis / unit.1, unit.0)
}

/// Milliseconds since 1970 as a time in UTC.
pub(crate) fn show_time(millis: u64) -> String {
    let (days, of_day) = (millis / 86_400_000, millis % 86_400_000);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Parses a time such as `2013-01-31`, `2013-01-31T12:00:00Z` or `2013-01-31T12:00:00.5+02:00`: milliseconds since 1970.
pub(crate) fn time(text: &str) -> Option<u64> {
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00:00Z"));
    let date: Vec<u64> = numbers(date, '-')?;
    let [year, month, day] = date.as_slice() else { return None };
    if !(1970..=9999).contains(year) || !(1..=12).contains(month) || !(1..=month_days(*year, *month)).contains(day) {
        return None;
    }
    let (time, west_ms, east_ms) = zone(time)?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let time: Vec<u64> = numbers(time, ':')?;
    let (hour, minute, second) = match time.as_slice() {
        [hour, minute] => (*hour, *minute, 0),
        [hour, minute, second] => (*hour, *minute, *second),
        _ => return None,
    };
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let millis: u64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let of_day = ((hour * 60 + minute) * 60 + second) * 1000 + millis;
    (days(*year, *month, *day) * 86_400_000 + of_day + west_ms).checked_sub(east_ms)
}

/// Cuts the zone off: how far it lies west and east of UTC, in milliseconds.
fn zone(time: &str) -> Option<(&str, u64, u64)> {
    if let Some(time) = time.strip_suffix(['Z', 'z']) {
        return Some((time, 0, 0));
    }
    let Some(at) = time.rfind(['+', '-']) else { return Some((time, 0, 0)) };
    let offset: Vec<u64> = numbers(&time[at + 1..], ':')?;
    let [hours, minutes] = offset.as_slice() else { return None };
    let millis = (hours * 60 + minutes) * 60_000;
    Some(if time[at..].starts_with('-') { (&time[..at], millis, 0) } else { (&time[..at], 0, millis) })
}

fn numbers(text: &str, separator: char) -> Option<Vec<u64>> {
    text.split(separator).map(|part| part.parse().ok()).collect()
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
const fn days(year: u64, month: u64, day: u64) -> u64 {
    // Years begin in March, so that the leap day comes last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468
}

/// How many days a month has.
const fn month_days(year: u64, month: u64) -> u64 {
    let (next_year, next) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    days(next_year, next, 1) - days(year, month, 1)
}

/// The date so many days after 1970-01-01.
fn civil(since_1970: u64) -> (u64, u64, u64) {
    // No year is longer than 366 days, so this is at most a little early.
    let mut year = 1970 + since_1970 / 366;
    while days(year + 1, 1, 1) <= since_1970 {
        year += 1;
    }
    let month = (1..=12).rev().find(|month| days(year, *month, 1) <= since_1970).unwrap_or(1);
    (year, month, since_1970 - days(year, month, 1) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_have_units() {
        for (text, bytes) in [("4096", 4096), ("64KiB", 65_536), ("10 mb", 10_000_000), ("1GiB", 1 << 30), ("7b", 7)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for (text, millis) in [("250ms", 250), ("30s", 30_000), ("5m", 300_000), ("2h", 7_200_000), ("7d", 604_800_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
            assert_eq!(show_duration(millis), text);
        }
        for wrong in ["", "x", "-1", "1x", "99999999999TiB"] {
            assert!(size(wrong).is_err() && duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(show_size((3 << 30) + (1 << 29)), "3.5 GiB");
    }

    #[test]
    fn times_are_read_and_shown_in_utc() {
        for (text, millis) in [
            ("1970-01-01", 0),
            ("2013-01-31T12:00:00Z", 1_359_633_600_000),
            ("2013-01-31 12:00", 1_359_633_600_000),
            ("2013-01-31T14:00:00.25+02:00", 1_359_633_600_250),
            ("2024-02-29T23:59:59Z", 1_709_251_199_000),
        ] {
            assert_eq!(time(text), Some(millis), "{text}");
        }
        for millis in [0, 1_359_633_600_000, 1_709_251_199_000, 1_709_164_800_000, 4_102_444_799_000] {
            assert_eq!(time(&show_time(millis)), Some(millis));
        }
        for wrong in ["", "yesterday", "2013-13-01", "2013-01", "2013-01-01T25:00:00Z", "2013-02-31", "2023-02-29", "2013-04-31"]
        {
            assert_eq!(time(wrong), None, "{wrong}");
        }
    }
}
