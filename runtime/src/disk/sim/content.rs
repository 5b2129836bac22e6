//! The bytes of one simulated file: durable pages, shared between forks, and pending sectors over them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{BLOCK_BYTES, SECTOR_BYTES};
use crate::entropy::Entropy;

pub(super) const HASH_SEED: u64 = 0x9E37_79B9_7F4A_7C15;

/// One step of a hash: any change of `hash` or `word` changes the result.
pub(super) fn mix(hash: u64, word: u64) -> u64 {
    let mixed = (hash ^ word).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    mixed ^ (mixed >> 32)
}

#[derive(Debug)]
struct Page {
    bytes: [u8; BLOCK_BYTES],
    hash: u64,
}

impl Page {
    fn new(bytes: [u8; BLOCK_BYTES]) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        let hash = words.iter().fold(HASH_SEED, |hash, word| mix(hash, u64::from_le_bytes(*word)));
        Self { bytes, hash }
    }
}

type Sector = [u8; SECTOR_BYTES];

#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    /// `None` is a page of zeros.
    pages: Vec<Option<Arc<Page>>>,
    durable_length: u64,
    length: u64,
    pending: BTreeMap<u64, Arc<Sector>>,
}

fn index(of: u64) -> usize {
    usize::try_from(of).expect("a simulated file fits in memory")
}

impl Content {
    pub(super) fn allocated_with(bytes: u64) -> Self {
        let mut content = Self { length: bytes, durable_length: bytes, ..Self::default() };
        content.make_room(bytes);
        content
    }

    fn make_room(&mut self, bytes: u64) {
        let pages = index(bytes.div_ceil(BLOCK_BYTES as u64));
        if pages > self.pages.len() {
            self.pages.resize(pages, None);
        }
    }

    pub(super) const fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn allocated(&self) -> u64 {
        (self.pages.len() * BLOCK_BYTES) as u64
    }

    pub(super) fn read_durable(&self, offset: u64, into: &mut [u8]) {
        let mut done = 0;
        while done < into.len() {
            let at = offset + done as u64;
            let within = index(at % BLOCK_BYTES as u64);
            let count = (BLOCK_BYTES - within).min(into.len() - done);
            let target = &mut into[done..done + count];
            match self.pages.get(index(at / BLOCK_BYTES as u64)) {
                Some(Some(page)) => target.copy_from_slice(&page.bytes[within..within + count]),
                _ => target.fill(0),
            }
            done += count;
        }
    }

    pub(super) fn write_durable(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        self.make_room(end);
        self.durable_length = self.durable_length.max(end);
        self.length = self.length.max(end);
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let within = index(at % BLOCK_BYTES as u64);
            let count = (BLOCK_BYTES - within).min(bytes.len() - done);
            let slot = &mut self.pages[index(at / BLOCK_BYTES as u64)];
            let mut page = slot.as_ref().map_or([0; BLOCK_BYTES], |page| page.bytes);
            page[within..within + count].copy_from_slice(&bytes[done..done + count]);
            *slot = if page.iter().all(|&b| b == 0) { None } else { Some(Arc::new(Page::new(page))) };
            done += count;
        }
    }

    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> usize {
        let count = index(self.length.saturating_sub(offset)).min(into.len());
        let into = &mut into[..count];
        self.read_durable(offset, into);
        let end = offset + count as u64;
        for (sector, bytes) in self.pending.range(offset / SECTOR_BYTES as u64..end.div_ceil(SECTOR_BYTES as u64)) {
            let start = sector * SECTOR_BYTES as u64;
            let from = start.max(offset);
            let to = (start + SECTOR_BYTES as u64).min(end);
            into[index(from - offset)..index(to - offset)].copy_from_slice(&bytes[index(from - start)..index(to - start)]);
        }
        count
    }

    /// Writes into pending sectors.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        self.make_room(end);
        self.length = self.length.max(end);
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let number = at / SECTOR_BYTES as u64;
            let within = index(at % SECTOR_BYTES as u64);
            let count = (SECTOR_BYTES - within).min(bytes.len() - done);
            let mut sector = [0; SECTOR_BYTES];
            if count < SECTOR_BYTES {
                match self.pending.get(&number) {
                    Some(pending) => sector = **pending,
                    None => self.read_durable(number * SECTOR_BYTES as u64, &mut sector),
                }
            }
            sector[within..within + count].copy_from_slice(&bytes[done..done + count]);
            self.pending.insert(number, Arc::new(sector));
            done += count;
        }
    }

    pub(super) fn set_length(&mut self, bytes: u64) {
        if bytes < self.length {
            // What is cut off is gone from view at once, and durably: nobody here relies on getting it back.
            let zeros = vec![0; index(self.length - bytes)];
            self.pending.split_off(&bytes.div_ceil(SECTOR_BYTES as u64));
            self.write_durable(bytes, &zeros);
            self.pages.truncate(index(bytes.div_ceil(BLOCK_BYTES as u64)));
        }
        self.make_room(bytes);
        self.length = bytes;
        self.durable_length = self.durable_length.min(bytes);
    }

    pub(super) fn sync(&mut self) {
        self.sync_range(0, u64::MAX);
        self.durable_length = self.length;
    }

    pub(super) fn sync_range(&mut self, offset: u64, end: u64) {
        let first = offset / SECTOR_BYTES as u64;
        let last = end.div_ceil(SECTOR_BYTES as u64);
        let mut synced = self.pending.split_off(&first);
        self.pending.append(&mut synced.split_off(&last));
        self.persist(synced);
    }

    /// Writes sectors to their pages, a page at a time.
    fn persist(&mut self, sectors: BTreeMap<u64, Arc<Sector>>) {
        let per_page = (BLOCK_BYTES / SECTOR_BYTES) as u64;
        let mut sectors = sectors.into_iter().peekable();
        while let Some((number, bytes)) = sectors.next() {
            let page = number / per_page;
            let mut content = [0; BLOCK_BYTES];
            self.read_durable(page * BLOCK_BYTES as u64, &mut content);
            let mut put = |number: u64, bytes: &Sector| {
                let at = index(number % per_page) * SECTOR_BYTES;
                content[at..at + SECTOR_BYTES].copy_from_slice(bytes);
            };
            put(number, &bytes);
            while let Some((number, bytes)) = sectors.next_if(|(number, _)| number / per_page == page) {
                put(number, &bytes);
            }
            self.make_room((page + 1) * BLOCK_BYTES as u64);
            let is_zero = content.iter().all(|&b| b == 0);
            self.pages[index(page)] = if is_zero { None } else { Some(Arc::new(Page::new(content))) };
            // The length covers what arrived, as far as the file reaches.
            self.durable_length = self.durable_length.max(((number + 1) * SECTOR_BYTES as u64).min(self.length));
        }
    }

    /// Keeps any subset of the pending sectors and loses the rest; one of those may hold garbage then.
    pub(super) fn lose_some(&mut self, entropy: &Entropy, garbles: bool) {
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return;
        }
        // A tear is seldom a fair coin per sector: nearly nothing, nearly all, a prefix and a single gap are as likely.
        let count = pending.len() as u64;
        let shape = entropy.below(6);
        let cut = entropy.below(count + 1);
        let hole = entropy.below(count);
        let garbage = (garbles && entropy.below(3) == 0).then(|| entropy.below(count));
        let kept = pending
            .into_iter()
            .enumerate()
            .filter(|(place, _)| {
                let place = *place as u64;
                match shape {
                    0 => place < cut,
                    1 => place >= cut,
                    2 => place != hole,
                    3 => place == hole,
                    _ => entropy.below(2) == 0,
                }
            })
            .map(|(place, (number, sector))| {
                if garbage != Some(place as u64) {
                    return (number, sector);
                }
                let mut bytes = *sector;
                bytes.as_chunks_mut::<8>().0.iter_mut().for_each(|word| *word = entropy.bits().to_le_bytes());
                (number, Arc::new(bytes))
            })
            .collect();
        self.persist(kept);
    }

    pub(super) fn crash(&mut self, entropy: &Entropy, garbles: bool) {
        self.lose_some(entropy, garbles);
        if self.length > self.durable_length && entropy.below(2) == 0 {
            self.durable_length = self.length;
        }
        self.length = self.durable_length;
    }

    pub(super) fn durable_hash(&self) -> u64 {
        let mut hash = mix(HASH_SEED, self.durable_length);
        for (number, page) in self.pages.iter().enumerate() {
            if let Some(page) = page {
                hash = mix(mix(hash, number as u64), page.hash);
            }
        }
        hash
    }
}
