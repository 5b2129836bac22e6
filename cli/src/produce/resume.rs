//! Going on where an earlier run under the same name has stopped, once it is shown that the input is still the same.
//!
//! All that the log knows of an earlier run is how many messages of the name each partition holds. That they are the first
//! lines of *this* input follows from the input, its order, the way to keys and the number of partitions being the same; so
//! before anything is sent, lines that must be stored are looked up and compared with what stands in the log: the last one of
//! each partition, and some before it, ever further apart, for inputs whose lines are much alike.

use alluvium_client::{Client, Error, History, Start};
use bytes::Bytes;

use super::Produce;
use super::assign::Place;
use super::input::Lines;
use crate::exit::{Code, Failure, program};

/// Lines that are compared, of all partitions together; of each one, at least the last.
const SAMPLES: u64 = 512;
/// Lines that are compared, of one partition.
const SAMPLES_EACH: u64 = 24;

/// How many lines of each partition earlier runs have stored.
#[derive(Debug)]
pub(super) struct Stored(Vec<u64>);

impl Stored {
    pub(super) fn of(history: &History) -> Self {
        Self((0..history.partitions()).map(|p| history.last_sequence(p).map_or(0, |last| last + 1)).collect())
    }

    pub(super) fn partitions(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Whether an earlier run has stored the line of this place.
    pub(super) fn has(&self, place: Place) -> bool {
        self.0.get(place.partition as usize).is_some_and(|count| place.number < *count)
    }
}

/// The numbers to compare of a partition that holds so many: the last one, and ever larger steps back from it.
fn samples(count: u64, each: u64) -> impl Iterator<Item = u64> {
    (0..each.min(60)).map_while(move |n| count.checked_sub(1 << n))
}

impl Produce {
    /// Reads the input up to where all that is stored is accounted for. Fails unless what is compared on the way is equal.
    pub(super) async fn verify(
        &self,
        client: &Client,
        history: &mut History,
        stored: &Stored,
        lines: &mut Lines,
    ) -> Result<(), Failure> {
        let partitions = history.partitions();
        let used = stored.0.iter().filter(|count| **count > 0).count() as u64;
        let each = (SAMPLES / used.max(1)).clamp(1, SAMPLES_EACH);
        let mut open = used;
        let mut assign = self.assign(partitions);
        let mut seen = vec![0; stored.0.len()];
        while open > 0 {
            let Some(line) = lines.next().await? else { return Err(self.too_short(stored, &seen)) };
            let key = self.key(&line, lines)?;
            let Some(place) = assign.place(key.as_ref().map(|key| history.partition_of(key))) else { continue };
            let Some(count) = stored.0.get(place.partition as usize).copied() else { continue };
            seen[place.partition as usize] += 1;
            if !stored.has(place) || !samples(count, each).any(|number| number == place.number) {
                continue;
            }
            let is_last = place.number + 1 == count;
            self.compare(client, history, place, &line, key, is_last, lines.number()).await?;
            open -= u64::from(is_last);
        }
        Ok(())
    }

    async fn compare(
        &self,
        client: &Client,
        history: &mut History,
        place: Place,
        line: &Bytes,
        key: Option<Bytes>,
        must: bool,
        number: u64,
    ) -> Result<(), Failure> {
        let Place { partition, number: sequence } = place;
        let input = self.input_name();
        let unproven = |why: String| {
            Failure::new(
                Code::Refused,
                format!("cannot make sure that {input} is what was stored under the name {}", self.name()),
            )
            .because(format!("line {number} must stand in partition {partition}, but {why}"))
            .advise("see what is stored, and send the rest under another --name")
            .named("RESUME_UNPROVEN")
        };
        let differs = |what: String| {
            Failure::new(Code::Data, format!("{input} is not what was stored under the name {}", self.name()))
                .because(format!("line {number} must be {what}"))
                .advise(format!(
                    "resume with the same input in the same order, the same keys and the same number of partitions; or store \
                     all of it under another --name. Nothing was sent. See {} produce --help",
                    program()
                ))
                .named("RESUME_MISMATCH")
        };
        let offset = history.offset(partition, sequence, &self.message(line.clone(), key.clone())).await?;
        let Some(offset) = offset else {
            return if must { Err(unproven("the server has forgotten where".to_owned())) } else { Ok(()) };
        };
        let reader = client.reader(&self.topic).partitions([partition]).start(Start::Offset(offset)).prefetch(1, 1);
        match reader.stop_at_end().build().await?.next().await {
            Some(Ok(found)) if found.offset == offset => {
                if found.key() != key.as_ref() {
                    Err(differs(format!("message {offset} of partition {partition}, which has another key")))
                } else if found.payload() != line {
                    Err(differs(format!("message {offset} of partition {partition}, which reads otherwise")))
                } else {
                    Ok(())
                }
            }
            Some(Err(error)) if !matches!(error, Error::Undeliverable { .. }) => Err(error.into()),
            // One of those before the last proves nothing that the last one doesn't.
            _ if !must => Ok(()),
            Some(Err(error)) => Err(unproven(format!("its message {offset} can't be read: {error}"))),
            Some(Ok(_)) | None => Err(unproven(format!("its message {offset} is no longer kept"))),
        }
    }

    fn too_short(&self, stored: &Stored, seen: &[u64]) -> Failure {
        let short = (0_u32..).zip(stored.0.iter().zip(seen)).find(|(_, (stored, seen))| stored > seen);
        let because = short.map(|(partition, (stored, seen))| {
            format!("{stored} of its lines are stored in partition {partition}, but only {seen} of these belong there")
        });
        Failure::new(Code::Data, format!("{} is not what was stored under the name {}", self.input_name(), self.name()))
            .because(because.unwrap_or_default())
            .advise("resume with the same input, the same keys and the same number of partitions; or take another --name")
            .named("RESUME_MISMATCH")
    }

    /// Without `--resume`: a name under which something is stored can't be told from one whose run was interrupted.
    pub(super) fn name_is_taken(&self, stored: &Stored) -> Failure {
        let what = format!("{} messages are stored in {} under the name {} already", stored.total(), self.topic, self.name());
        let advice = "take another --name; or, to go on with an interrupted run of the same input, add --resume";
        Failure::new(Code::Refused, what).advise(advice).named("NAME_HAS_MESSAGES")
    }

    /// With `--resume`: nothing to go on from, perhaps because it was forgotten.
    pub(super) fn nothing_to_resume(&self) -> Failure {
        let what = format!("nothing is known to be stored in {} under the name {}", self.topic, self.name());
        Failure::new(Code::Refused, what)
            .because("no run under this name stored anything, or the last one is so long ago that the server forgot it")
            .advise("to begin at the first line, leave out --resume")
            .named("NOTHING_TO_RESUME")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_compared_and_others_ever_further_back() {
        assert_eq!(samples(1, 24).collect::<Vec<_>>(), [0]);
        assert_eq!(samples(10, 24).collect::<Vec<_>>(), [9, 8, 6, 2]);
        assert_eq!(samples(1_000_000, 3).collect::<Vec<_>>(), [999_999, 999_998, 999_996]);
        assert_eq!(samples(0, 24).count(), 0);
    }
}
