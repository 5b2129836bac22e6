//! Blobs on a bare gRPC stream, framed by hand: no codec stands between the socket's bytes and the log, so that each is copied once.
//!
//! ```text
//! a blob:            0 compressed u8 = 0 | 1 length u32 BE | 5 messages u32 LE | 9 checksum of the body u32 LE | 13 body
//! an acknowledgement: 0 compressed u8 = 0 | 1 length u32 BE = 8 | 5 messages so far u64 LE
//! ```

use alluvium_types::checksum::Crc32c;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes before a blob's body.
pub(super) const HEAD_BYTES: usize = 13;
/// Bytes of the head that gRPC does not count.
const PREFIX_BYTES: usize = 5;
/// The largest body.
pub(super) const BODY_BYTES_MAX: usize = 16 << 20;
const ACK_BYTES: usize = 13;

/// What comes is none of this.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Wrong {
    #[error("a blob's length is out of bounds")]
    Length,
    #[error("a blob's body is not what was sent")]
    Body,
}

/// The head of a blob.
pub(super) fn head(messages: u32, sum: Crc32c, body_bytes: usize) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    let length = u32::try_from(body_bytes + HEAD_BYTES - PREFIX_BYTES).expect("bodies are bounded");
    head[1..5].copy_from_slice(&length.to_be_bytes());
    head[5..9].copy_from_slice(&messages.to_le_bytes());
    head[9..13].copy_from_slice(&sum.get().to_le_bytes());
    head
}

/// An acknowledgement of all messages up to this one.
pub(super) fn ack(messages: u64) -> Bytes {
    let mut ack = BytesMut::with_capacity(ACK_BYTES);
    ack.put_u8(0);
    ack.put_u32(8);
    ack.put_u64_le(messages);
    ack.freeze()
}

/// Puts blobs together from whatever pieces the connection gives.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    head: [u8; HEAD_BYTES],
    head_length: usize,
    messages: u32,
    sum: Crc32c,
    missing: usize,
    parts: Vec<Bytes>,
}

impl Assembler {
    /// Takes what belongs to the blob at hand; `true` when it is whole, with a body that is what was sent.
    pub(super) fn take(&mut self, piece: &mut Bytes) -> Result<bool, Wrong> {
        if !self.take_unread(piece)? {
            return Ok(false);
        }
        let found = self.parts.iter().fold(Crc32c::EMPTY, |sum, part| sum.then(part));
        if found == self.sum { Ok(true) } else { Err(Wrong::Body) }
    }

    /// The same, without a look at the body.
    pub(super) fn take_unread(&mut self, piece: &mut Bytes) -> Result<bool, Wrong> {
        if self.head_length < HEAD_BYTES {
            let count = (HEAD_BYTES - self.head_length).min(piece.len());
            piece.copy_to_slice(&mut self.head[self.head_length..self.head_length + count]);
            self.head_length += count;
            if self.head_length < HEAD_BYTES {
                return Ok(false);
            }
            let u32_at = |at: usize| [self.head[at], self.head[at + 1], self.head[at + 2], self.head[at + 3]];
            let length = u32::from_be_bytes(u32_at(1)) as usize;
            self.missing =
                (length + PREFIX_BYTES).checked_sub(HEAD_BYTES).filter(|b| *b <= BODY_BYTES_MAX).ok_or(Wrong::Length)?;
            self.messages = u32::from_le_bytes(u32_at(5));
            self.sum = Crc32c::new(u32::from_le_bytes(u32_at(9)));
        }
        let part = piece.split_to(self.missing.min(piece.len()));
        self.missing -= part.len();
        if !part.is_empty() {
            self.parts.push(part);
        }
        Ok(self.missing == 0)
    }

    /// How many messages the blob holds.
    pub(super) const fn messages(&self) -> u32 {
        self.messages
    }

    /// Its body.
    pub(super) fn parts(&self) -> &[Bytes] {
        &self.parts
    }

    /// Goes on to the next blob.
    pub(super) fn clear(&mut self) {
        self.parts.clear();
        self.head_length = 0;
    }
}

/// Reads acknowledgements from whatever pieces the connection gives.
#[derive(Debug, Default)]
pub(super) struct Acks {
    bytes: [u8; ACK_BYTES],
    length: usize,
}

impl Acks {
    /// The newest acknowledgement that ends in this piece.
    pub(super) fn take(&mut self, piece: &mut Bytes) -> Option<u64> {
        let mut newest = None;
        while !piece.is_empty() {
            let count = (ACK_BYTES - self.length).min(piece.len());
            piece.copy_to_slice(&mut self.bytes[self.length..self.length + count]);
            self.length += count;
            if self.length == ACK_BYTES {
                self.length = 0;
                newest = Some(u64::from_le_bytes(self.bytes[PREFIX_BYTES..].try_into().expect("eight bytes")));
            }
        }
        newest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blob(messages: u32, body: &[u8]) -> Vec<u8> {
        [&head(messages, Crc32c::of(body), body.len())[..], body].concat()
    }

    /// Cuts bytes into pieces of these lengths, over and over.
    fn cut(bytes: &[u8], lengths: &[usize]) -> Vec<Bytes> {
        let (mut rest, mut pieces) = (Bytes::copy_from_slice(bytes), Vec::new());
        for length in lengths.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            pieces.push(rest.split_to((*length).min(rest.len())));
        }
        pieces
    }

    proptest! {
        #[test]
        fn blobs_and_acks_survive_any_cut(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..10),
            lengths in proptest::collection::vec(1_usize..100, 1..5),
        ) {
            let wire: Vec<u8> = bodies.iter().zip(1..).flat_map(|(body, number)| blob(number, body)).collect();
            let (mut assembler, mut found) = (Assembler::default(), Vec::new());
            for mut piece in cut(&wire, &lengths) {
                while !piece.is_empty() {
                    if assembler.take(&mut piece).expect("sound") {
                        found.push((assembler.messages(), assembler.parts().concat()));
                        assembler.clear();
                    }
                }
            }
            let expected: Vec<(u32, Vec<u8>)> = (1..).zip(bodies).collect();
            prop_assert_eq!(found, expected);
            let wire: Vec<u8> = (1..=20).flat_map(|number| ack(number * 1000)).collect();
            let mut acks = Acks::default();
            let told: Vec<u64> = cut(&wire, &lengths).iter_mut().filter_map(|piece| acks.take(piece)).collect();
            prop_assert_eq!(told.last(), Some(&20_000));
            prop_assert!(told.is_sorted());
        }
    }

    #[test]
    fn what_is_none_of_ours_is_refused() {
        let mut rotten = blob(1, b"body");
        rotten[HEAD_BYTES] ^= 1;
        assert_eq!(Assembler::default().take(&mut rotten.into()), Err(Wrong::Body));
        let mut endless = blob(1, b"body");
        endless[1] = 0x7f;
        assert_eq!(Assembler::default().take(&mut endless.into()), Err(Wrong::Length));
        assert_eq!(Assembler::default().take(&mut vec![0; HEAD_BYTES].into()), Err(Wrong::Length));
    }
}
