//! Batches: built by whoever publishes, decoded by whoever first looks inside, within bounds.

use std::fmt;

use alluvium_types::batch::{BatchHeader, Codec};
use alluvium_types::checksum::Crc32c;
use alluvium_types::limits::{BATCH_MESSAGES_MAX, HEADERS_MAX, INFLATION_MAX, KEY_BYTES_MAX, Limits};
use alluvium_types::time::Timestamp;
use bytes::{Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint, encoded_len_varint, key_len};

use crate::v1;

/// The field number of `MessageBatch.messages`.
const MESSAGES: u32 = 1;
/// The field number of `Message.payload`.
const PAYLOAD: u32 = 1;
/// What may stand before a payload: twice a key and a length.
const HEAD_BYTES_MAX: usize = 2 * (1 + 10);

/// A batch being filled: messages are encoded as they come.
#[derive(Debug)]
pub struct BatchBuilder {
    encoded: BytesMut,
    count: u32,
    event_times: Option<(u64, u64)>,
}

impl BatchBuilder {
    /// An empty one, with room for `bytes`.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { encoded: BytesMut::with_capacity(bytes), count: 0, event_times: None }
    }

    /// What a message adds to a batch.
    pub fn cost(message: &v1::Message) -> usize {
        let bytes = message.encoded_len();
        key_len(MESSAGES) + encoded_len_varint(bytes as u64) + bytes
    }

    /// Adds a message. The caller keeps to the limits.
    pub fn push(&mut self, message: &v1::Message) {
        let payload = &message.payload;
        if message.key.is_none() && message.headers.is_empty() && message.event_time_ms == 0 && !payload.is_empty() {
            // Most are nothing but a payload: what is before it is put together first.
            let bytes = key_len(PAYLOAD) + encoded_len_varint(payload.len() as u64) + payload.len();
            let mut head = [0; HEAD_BYTES_MAX];
            let mut rest = &mut head[..];
            encode_key(MESSAGES, WireType::LengthDelimited, &mut rest);
            encode_varint(bytes as u64, &mut rest);
            encode_key(PAYLOAD, WireType::LengthDelimited, &mut rest);
            encode_varint(payload.len() as u64, &mut rest);
            let unused = rest.len();
            self.encoded.reserve(HEAD_BYTES_MAX - unused + payload.len());
            self.encoded.extend_from_slice(&head[..HEAD_BYTES_MAX - unused]);
            self.encoded.extend_from_slice(payload);
        } else {
            encode_key(MESSAGES, WireType::LengthDelimited, &mut self.encoded);
            encode_varint(message.encoded_len() as u64, &mut self.encoded);
            message.encode_raw(&mut self.encoded);
        }
        self.count += 1;
        let time = message.event_time_ms;
        if time != 0 {
            let (min, max) = self.event_times.unwrap_or((time, time));
            self.event_times = Some((min.min(time), max.max(time)));
        }
    }

    /// Messages so far.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Bytes so far, before compression.
    pub fn bytes(&self) -> usize {
        self.encoded.len()
    }

    /// Closes the batch. A codec that doesn't make it smaller isn't used.
    ///
    /// # Panics
    /// If it is empty, or larger than 4 GiB.
    pub fn finish(self, codec: Codec, first_sequence: u64, publish_time: Timestamp) -> v1::Batch {
        assert!(self.count > 0, "an empty batch is never sent");
        let inflated_bytes = u32::try_from(self.encoded.len()).expect("a batch is bounded far below 4 GiB");
        let plain = self.encoded.freeze();
        let packed = match codec {
            Codec::None => None,
            Codec::Lz4 => Some(lz4_flex::block::compress(&plain)),
            Codec::Zstd => zstd::bulk::compress(&plain, 1).ok(),
        };
        let (codec, blob) = match packed {
            Some(packed) if packed.len() < plain.len() => (codec, Bytes::from(packed)),
            _ => (Codec::None, plain),
        };
        let (event_min, event_max) = self.event_times.unwrap_or_default();
        let header = BatchHeader {
            count: self.count,
            codec,
            inflated_bytes,
            first_sequence,
            publish_time,
            event_time_min: Timestamp::from_millis(event_min),
            event_time_max: Timestamp::from_millis(event_max),
        };
        let checksum = header.checksum(Crc32c::of(&blob), blob.len());
        to_wire(&header, checksum, blob)
    }
}

/// A header, its checksum and a blob as they travel.
pub fn to_wire(header: &BatchHeader, checksum: Crc32c, blob: Bytes) -> v1::Batch {
    v1::Batch {
        count: header.count,
        codec: i32::from(header.codec as u8),
        inflated_bytes: header.inflated_bytes,
        first_sequence: header.first_sequence,
        publish_time_ms: header.publish_time.as_millis(),
        event_time_min_ms: header.event_time_min.as_millis(),
        event_time_max_ms: header.event_time_max.as_millis(),
        checksum: checksum.get(),
        blob,
    }
}

/// What is wrong with a batch, and in which field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchError {
    /// The field of `Batch`.
    pub field: &'static str,
    /// Stable and upper case.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl std::error::Error for BatchError {}

fn wrong(field: &'static str, reason: &'static str, message: impl Into<String>) -> BatchError {
    BatchError { field, reason, message: message.into() }
}

/// Checks all that can be checked without looking inside the blob: counts, sizes, codec and checksum (B4). Gives the header
/// and the blob's own checksum, from which others are combined.
pub fn check(batch: &v1::Batch, limits: Limits) -> Result<(BatchHeader, Crc32c), BatchError> {
    let codec = u8::try_from(batch.codec)
        .ok()
        .and_then(Codec::from_number)
        .ok_or_else(|| wrong("batch.codec", "UNKNOWN_CODEC", format!("codec {} is not known here", batch.codec)))?;
    if batch.count == 0 || batch.count > BATCH_MESSAGES_MAX {
        let message = format!("a batch holds 1 to {BATCH_MESSAGES_MAX} messages, this one says {}", batch.count);
        return Err(wrong("batch.count", "BATCH_COUNT", message));
    }
    let (inflated, max) = (batch.inflated_bytes as usize, limits.batch_bytes_max());
    if batch.blob.is_empty() || batch.blob.len() > max {
        let message = format!("the blob has {} bytes, the limit is {max} (and at least 1)", batch.blob.len());
        return Err(wrong("batch.blob", "BATCH_TOO_LARGE", message));
    }
    if inflated > max {
        return Err(wrong("batch.inflated_bytes", "BATCH_TOO_LARGE", format!("{inflated} bytes inflated, the limit is {max}")));
    }
    let plausible = match codec {
        Codec::None => inflated == batch.blob.len(),
        _ => inflated >= 1 && inflated / INFLATION_MAX <= batch.blob.len(),
    };
    // A message costs at least two bytes of the encoded batch.
    if !plausible || (batch.count as usize) * 2 > inflated {
        let message =
            format!("{inflated} bytes inflated contradict a blob of {} bytes and {} messages", batch.blob.len(), batch.count);
        return Err(wrong("batch.inflated_bytes", "BATCH_INFLATED_BYTES", message));
    }
    let header = BatchHeader {
        count: batch.count,
        codec,
        inflated_bytes: batch.inflated_bytes,
        first_sequence: batch.first_sequence,
        publish_time: Timestamp::from_millis(batch.publish_time_ms),
        event_time_min: Timestamp::from_millis(batch.event_time_min_ms),
        event_time_max: Timestamp::from_millis(batch.event_time_max_ms),
    };
    let blob = Crc32c::of(&batch.blob);
    let computed = header.checksum(blob, batch.blob.len());
    if computed.get() != batch.checksum {
        let message = format!("computed {computed:?}, the batch says {:08x}", batch.checksum);
        return Err(wrong("batch.checksum", "BATCH_CHECKSUM", message));
    }
    Ok((header, blob))
}

/// Looks inside a blob whose header was checked: inflates it to exactly what was declared and reads exactly that many
/// messages. Memory is bounded by the declared size, whatever the blob holds; messages share the inflated bytes.
pub fn decode(header: &BatchHeader, blob: &Bytes) -> Result<Vec<v1::Message>, BatchError> {
    let declared = header.inflated_bytes as usize;
    let inflated = match header.codec {
        Codec::None => Ok(blob.clone()),
        Codec::Lz4 => lz4_flex::block::decompress(blob, declared).map(Bytes::from).map_err(|e| e.to_string()),
        Codec::Zstd => zstd::bulk::decompress(blob, declared).map(Bytes::from).map_err(|e| e.to_string()),
    }
    .map_err(|error| {
        wrong("batch.blob", "BATCH_CORRUPT", format!("cannot inflate {} to {declared} bytes: {error}", header.codec))
    })?;
    if inflated.len() != declared {
        let message = format!("inflates to {} bytes, the header says {declared}", inflated.len());
        return Err(wrong("batch.inflated_bytes", "BATCH_INFLATED_BYTES", message));
    }
    let corrupt = |error: String| wrong("batch.blob", "BATCH_CORRUPT", error);
    let mut at = inflated;
    let mut messages = Vec::with_capacity((header.count as usize).min(at.len() / 2 + 1));
    while !at.is_empty() {
        let (field, wire) = decode_key(&mut at).map_err(|e| corrupt(e.to_string()))?;
        if (field, wire) != (MESSAGES, WireType::LengthDelimited) {
            return Err(corrupt(format!("field {field} does not belong into a batch")));
        }
        let length = decode_varint(&mut at).map_err(|e| corrupt(e.to_string()))?;
        let length = usize::try_from(length).ok().filter(|l| *l <= at.len());
        let length = length.ok_or_else(|| corrupt("a message is cut short".to_owned()))?;
        if messages.len() == header.count as usize {
            let message = format!("holds more messages than the {} its header says", header.count);
            return Err(wrong("batch.count", "BATCH_COUNT", message));
        }
        messages.push(v1::Message::decode(at.split_to(length)).map_err(|e| corrupt(e.to_string()))?);
    }
    if messages.len() != header.count as usize {
        let message = format!("holds {} messages, its header says {}", messages.len(), header.count);
        return Err(wrong("batch.count", "BATCH_COUNT", message));
    }
    Ok(messages)
}

/// Checks one message that a client sent outside a batch, against the limits. `field` is where it stood.
pub fn check_message(message: &v1::Message, limits: Limits) -> Result<(), BatchError> {
    let bytes = message.encoded_len();
    if bytes > limits.message_bytes_max() {
        let text = format!("a message has {bytes} bytes, the limit is {}", limits.message_bytes_max());
        return Err(wrong("messages", "MESSAGE_TOO_LARGE", text));
    }
    if let Some(key) = message.key.as_ref().filter(|k| k.len() > KEY_BYTES_MAX) {
        return Err(wrong(
            "messages.key",
            "KEY_TOO_LARGE",
            format!("a key has {} bytes, the limit is {KEY_BYTES_MAX}", key.len()),
        ));
    }
    if message.headers.len() > HEADERS_MAX {
        let text = format!("a message has {} headers, the limit is {HEADERS_MAX}", message.headers.len());
        return Err(wrong("messages.headers", "TOO_MANY_HEADERS", text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(codec: Codec) -> v1::Batch {
        let mut builder = BatchBuilder::with_capacity(0);
        for n in 0..100_u32 {
            let payload = Bytes::from(format!("message {n} message {n} message {n}"));
            builder.push(&v1::Message {
                payload,
                key: Some(Bytes::from_static(b"k")),
                event_time_ms: u64::from(n),
                ..Default::default()
            });
        }
        builder.finish(codec, 7, Timestamp::from_millis(5))
    }

    #[test]
    fn a_batch_comes_back_whole_under_every_codec() {
        for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
            let batch = batch(codec);
            let (header, _) = check(&batch, Limits::default()).expect("sound");
            assert_eq!((header.codec, header.count, header.event_time_max.as_millis()), (codec, 100, 99));
            let messages = decode(&header, &batch.blob).expect("decodes");
            assert_eq!(messages.len(), 100);
            assert_eq!(messages[99].payload, "message 99 message 99 message 99");
        }
    }

    #[test]
    fn messages_are_encoded_as_the_schema_says() {
        let payload = |bytes: usize| v1::Message { payload: vec![7; bytes].into(), ..Default::default() };
        let mut messages: Vec<v1::Message> = [0, 1, 100, 127, 128, 16_383, 16_384, 1 << 20].map(payload).into();
        messages.push(v1::Message { key: Some(Bytes::new()), ..payload(3) });
        messages.push(v1::Message { event_time_ms: 1, ..payload(3) });
        messages.push(v1::Message { headers: vec![v1::Header { name: "h".into(), value: "v".into() }], ..payload(3) });
        let mut builder = BatchBuilder::with_capacity(0);
        for message in &messages {
            let before = builder.bytes();
            builder.push(message);
            assert_eq!(builder.bytes() - before, BatchBuilder::cost(message));
        }
        assert_eq!(builder.encoded, v1::MessageBatch { messages }.encode_to_vec());
    }

    #[test]
    fn what_contradicts_itself_is_refused_with_its_field() {
        type Spoil = fn(&mut v1::Batch);
        let cases: [(&str, Spoil); 6] = [
            ("batch.count", |b| b.count = 0),
            ("batch.count", |b| b.count = 70_000),
            ("batch.codec", |b| b.codec = 9),
            ("batch.inflated_bytes", |b| b.inflated_bytes = u32::MAX),
            ("batch.inflated_bytes", |b| b.inflated_bytes += 1),
            ("batch.checksum", |b| b.checksum ^= 1),
        ];
        for (field, spoil) in cases {
            let mut batch = batch(Codec::None);
            spoil(&mut batch);
            assert_eq!(check(&batch, Limits::default()).map_err(|e| e.field).err(), Some(field));
        }
    }

    #[test]
    fn a_lie_inside_the_blob_is_found_by_the_decoder() {
        for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
            let batch = batch(codec);
            let (mut header, _) = check(&batch, Limits::default()).expect("sound");
            header.count = 99;
            assert_eq!(decode(&header, &batch.blob).map_err(|e| e.reason), Err("BATCH_COUNT"));
            header.count = 101;
            assert_eq!(decode(&header, &batch.blob).map_err(|e| e.reason), Err("BATCH_COUNT"));
            header.count = 100;
            header.inflated_bytes -= 1;
            assert!(decode(&header, &batch.blob).is_err());
            assert!(decode(&header, &batch.blob.slice(1..)).is_err());
        }
    }
}
