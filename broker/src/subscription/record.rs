//! What the state ledger keeps of subscriptions: `docs/formats/cursor.md`.

use alluvium_types::ids::{Offset, Revision};
use bytes::{BufMut, Bytes, BytesMut};

use super::cursor::Change;
use super::input::Span;

/// The version of the format that is written; a newer one is refused.
const VERSION: u8 = 1;
/// The most runs that a record holds: with two numbers of at most ten bytes each, well below the largest record.
pub const SPANS_MAX: usize = 32_768;

const PLACED: u8 = 1;
const ADVANCED: u8 = 2;
const ACKNOWLEDGED: u8 = 3;
const DROPPED: u8 = 4;

/// One record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Which subscription: the revision that created it.
    pub subscription: Revision,
    /// What happened to it.
    pub step: Step,
}

/// What happened to a subscription.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Its cursor changed.
    Changed(Change),
    /// It is no more.
    Dropped,
}

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Written by a newer version.
    #[error("version {0} of cursor records is newer than this program")]
    Version(u8),
    /// Not a kind of this version.
    #[error("{0} is not a kind of cursor record")]
    Kind(u8),
    /// The bytes end too early.
    #[error("a cursor record is cut short")]
    Short,
    /// A number contradicts another.
    #[error("the runs of a cursor record make no sense")]
    Runs,
    /// The bytes go on.
    #[error("a cursor record has bytes behind its end")]
    Trailing,
}

impl Record {
    /// The record as bytes.
    ///
    /// # Panics
    /// With more than [`SPANS_MAX`] runs.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(32);
        out.put_u8(VERSION);
        let kind = match &self.step {
            Step::Changed(Change::Placed(_)) => PLACED,
            Step::Changed(Change::Advanced(_)) => ADVANCED,
            Step::Changed(Change::Acknowledged(_)) => ACKNOWLEDGED,
            Step::Dropped => DROPPED,
        };
        out.put_u8(kind);
        put_number(&mut out, self.subscription.get());
        match &self.step {
            Step::Changed(Change::Placed(to) | Change::Advanced(to)) => put_number(&mut out, to.get()),
            Step::Changed(Change::Acknowledged(spans)) => {
                assert!(spans.len() <= SPANS_MAX, "whoever makes a record bounds its runs");
                put_number(&mut out, spans.len() as u64);
                for span in spans {
                    put_number(&mut out, span.first.get());
                    put_number(&mut out, span.count());
                }
            }
            Step::Dropped => {}
        }
        out.freeze()
    }

    /// Reads a record. Never panics, and takes no more memory than a few times the input.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, RecordError> {
        let at = &mut bytes;
        let version = take_byte(at)?;
        if version != VERSION {
            return Err(RecordError::Version(version));
        }
        let kind = take_byte(at)?;
        let subscription = Revision::new(take_number(at)?);
        let step = match kind {
            PLACED => Step::Changed(Change::Placed(Offset::new(take_number(at)?))),
            ADVANCED => Step::Changed(Change::Advanced(Offset::new(take_number(at)?))),
            ACKNOWLEDGED => Step::Changed(Change::Acknowledged(take_spans(at)?)),
            DROPPED => Step::Dropped,
            other => return Err(RecordError::Kind(other)),
        };
        if at.is_empty() { Ok(Self { subscription, step }) } else { Err(RecordError::Trailing) }
    }
}

fn take_spans(at: &mut &[u8]) -> Result<Vec<Span>, RecordError> {
    let count = usize::try_from(take_number(at)?).map_err(|_| RecordError::Runs)?;
    // Each takes two bytes at least.
    if count > SPANS_MAX || count > at.len() / 2 {
        return Err(RecordError::Runs);
    }
    let mut spans = Vec::with_capacity(count);
    for _ in 0..count {
        let first = Offset::new(take_number(at)?);
        let end = first.checked_add(take_number(at)?).ok_or(RecordError::Runs)?;
        spans.push(Span::new(first, end));
    }
    Ok(spans)
}

/// Seven bits a byte, the lowest first; the top bit says that more follow.
fn put_number(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(u8::try_from(number & 0x7f).expect("seven bits") | 0x80);
        number >>= 7;
    }
    out.put_u8(u8::try_from(number).expect("seven bits"));
}

fn take_number(at: &mut &[u8]) -> Result<u64, RecordError> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take_byte(at)?;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return Err(RecordError::Runs);
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(RecordError::Runs)
}

fn take_byte(at: &mut &[u8]) -> Result<u8, RecordError> {
    let (first, rest) = at.split_first().ok_or(RecordError::Short)?;
    *at = rest;
    Ok(*first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> impl Strategy<Value = Record> {
        let offset = any::<u64>().prop_map(Offset::new);
        let span = (any::<u64>(), any::<u64>()).prop_map(|(a, b)| Span::new(Offset::new(a.min(b)), Offset::new(a.max(b))));
        let step = prop_oneof![
            offset.clone().prop_map(|o| Step::Changed(Change::Placed(o))),
            offset.prop_map(|o| Step::Changed(Change::Advanced(o))),
            proptest::collection::vec(span, 0..20).prop_map(|s| Step::Changed(Change::Acknowledged(s))),
            Just(Step::Dropped),
        ];
        (any::<u64>(), step).prop_map(|(id, step)| Record { subscription: Revision::new(id), step })
    }

    proptest! {
        #[test]
        fn a_record_decodes_to_what_was_encoded_and_no_part_of_it_does(record in record()) {
            let bytes = record.encode();
            for length in 0..bytes.len() {
                prop_assert!(Record::decode(&bytes[..length]).is_err());
            }
            let mut longer = bytes.to_vec();
            longer.push(0);
            prop_assert!(Record::decode(&longer).is_err());
            prop_assert_eq!(Record::decode(&bytes), Ok(record));
        }

        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0_u8..6) {
            if let [version, second, ..] = bytes.as_mut_slice() { (*version, *second) = (VERSION, kind); }
            let _ = Record::decode(&bytes);
        }
    }

    #[test]
    fn a_newer_version_is_refused_by_its_number() {
        let mut bytes = Record { subscription: Revision::new(7), step: Step::Dropped }.encode().to_vec();
        bytes[0] = 2;
        assert_eq!(Record::decode(&bytes), Err(RecordError::Version(2)));
    }

    #[test]
    fn the_largest_record_fits_the_state_ledger() {
        let far = Offset::new(u64::MAX - 1);
        let step = Step::Changed(Change::Acknowledged(vec![Span::new(far, far.next()); SPANS_MAX]));
        let bytes = Record { subscription: Revision::new(u64::MAX), step }.encode();
        assert!(bytes.len() <= crate::topic::hosted::RECORD_BYTES_MAX, "{} bytes", bytes.len());
    }
}
