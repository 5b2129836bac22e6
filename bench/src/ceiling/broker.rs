//! A bare broker: blobs go to three logs as entries, and are acknowledged once two have them.

use std::io;

use alluvium_runtime::tasks::{OnFailure, Tasks};
use alluvium_types::checksum::Crc32c;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::http::{self, Incoming};
use super::wire::{self, Acks, Assembler};

/// Where an entry is closed while others are on their way: more gains nothing.
const ENTRY_BYTES: usize = 256 << 10;
/// Pieces that may wait for one log's connection: what the slowest may lag behind.
const PIECES: usize = 512;
/// How many logs must have an entry.
const ACK_QUORUM: usize = 2;

/// An entry while it is filled.
#[derive(Default)]
struct Entry {
    parts: Vec<Bytes>,
    bytes: usize,
    messages: u32,
    sum: Crc32c,
}

/// What came.
enum Event {
    Piece(Option<Bytes>),
    Acked(usize, u64),
}

pub(super) async fn run(mut incoming: Incoming, acks: mpsc::Sender<Bytes>, urls: &[String], tasks: &Tasks) -> io::Result<()> {
    let (tell, mut told) = mpsc::channel(PIECES);
    let mut logs = Vec::new();
    for (number, url) in urls.iter().enumerate() {
        let (log, answers) = http::open(url, PIECES).await?;
        logs.push(log);
        tasks.spawn("answers", OnFailure::ShutDown, listen(number, answers, tell.clone()));
    }
    let (mut assembler, mut entry) = (Assembler::default(), Entry::default());
    let mut durable = vec![0_u64; logs.len()];
    let (mut sent, mut confirmed, mut ends) = (0_u64, 0_u64, false);
    while !ends || confirmed < sent || entry.messages > 0 {
        let event = tokio::select! {
            biased;
            Some((number, messages)) = told.recv() => Event::Acked(number, messages),
            piece = incoming.next_while_there(), if !ends => Event::Piece(piece),
        };
        match event {
            Event::Acked(number, messages) => {
                durable[number] = messages;
                let quorum = quorum(&durable);
                if quorum > confirmed {
                    confirmed = quorum;
                    let _ = acks.send(wire::ack(confirmed)).await;
                }
            }
            Event::Piece(None) => ends = true,
            Event::Piece(Some(mut piece)) => {
                while !piece.is_empty() {
                    if assembler.take(&mut piece).map_err(io::Error::other)? {
                        entry.add(&assembler);
                        assembler.clear();
                        if entry.bytes >= ENTRY_BYTES {
                            sent += send(&mut entry, &logs).await?;
                        }
                    }
                }
            }
        }
        if entry.messages > 0 && confirmed == sent {
            sent += send(&mut entry, &logs).await?;
        }
    }
    Ok(())
}

/// How far `ACK_QUORUM` of them are.
fn quorum(durable: &[u64]) -> u64 {
    let mut sorted = durable.to_vec();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    sorted.get(ACK_QUORUM - 1).copied().unwrap_or_default()
}

impl Entry {
    fn add(&mut self, blob: &Assembler) {
        for part in blob.parts() {
            self.sum = self.sum.then(part);
            self.bytes += part.len();
            self.parts.push(part.clone());
        }
        self.messages += blob.messages();
    }
}

/// Sends an entry to all logs; how many messages it has.
async fn send(entry: &mut Entry, logs: &[mpsc::Sender<Bytes>]) -> io::Result<u64> {
    let head = Bytes::copy_from_slice(&wire::head(entry.messages, entry.sum, entry.bytes));
    for log in logs {
        for piece in std::iter::once(&head).chain(&entry.parts) {
            log.send(piece.clone()).await.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
    }
    let messages = entry.messages.into();
    entry.parts.clear();
    (entry.bytes, entry.messages, entry.sum) = (0, 0, Crc32c::EMPTY);
    Ok(messages)
}

async fn listen(number: usize, mut answers: Incoming, tell: mpsc::Sender<(usize, u64)>) -> io::Result<()> {
    let mut acks = Acks::default();
    while let Some(mut piece) = answers.next_while_there().await {
        if let Some(messages) = acks.take(&mut piece)
            && tell.send((number, messages)).await.is_err()
        {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_of_three_have_is_confirmed() {
        for (durable, confirmed) in [([0, 0, 9], 0), ([5, 0, 9], 5), ([5, 7, 9], 7), ([9, 9, 9], 9)] {
            assert_eq!(quorum(&durable), confirmed, "{durable:?}");
        }
    }
}
