//! Immutable sorted files of records: what the index is made of.
//!
//! Owns the file's layout and the search in it. Promises that no octet is believed before its checksum agreed, that a
//! search costs one read of 1 KiB (rarely two) whatever the size, and that memory is 2 octets a record: the first
//! serial of each block, and a [`Filter`]. Never changes a file. Failure story: [`Broken`] names the file and the
//! block; nothing is answered from it, and the view makes the index anew from the log.
//!
//! ```text
//! blocks      1024 octets each: 34 records of 29, their number (u16), 28 zeros, the first 8 octets of
//!             SHA-256(segment's number ‖ block's number ‖ the 1016 octets before)
//! fences      for each block the first 8 octets of its first serial
//! filter      words of 64 bits
//! trailer     "HMINDEX1", records, blocks, words (u64 each), SHA-256(segment's number ‖ fences ‖ filter ‖ trailer so far)
//! ```
//!
//! All numbers are big-endian.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::digest::{Context, SHA256};

use super::filter::Filter;
use super::record::{Key, RECORD_BYTES, Record, key_octets};

/// Octets of a block.
const BLOCK_BYTES: usize = 1024;
/// Octets of a block's checksum.
const SUM_BYTES: usize = 8;
/// Octets of a block that the checksum covers.
const BODY_BYTES: usize = BLOCK_BYTES - SUM_BYTES;
/// Records in a full block.
const BLOCK_RECORDS: usize = (BODY_BYTES - 2) / RECORD_BYTES;
/// What a trailer begins with.
const MAGIC: &[u8; 8] = b"HMINDEX1";
/// Octets of a trailer.
const TRAILER_BYTES: usize = 8 + 3 * 8 + 32;
/// Blocks that a walk reads at a time: 64 KiB.
const WALK_BLOCKS: usize = 64;

/// A segment cannot be believed.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}", path.display())]
pub(super) struct Broken {
    /// The file.
    path: PathBuf,
    /// What is wrong with it.
    what: String,
}

/// An open segment.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    id: u64,
    records: u64,
    file: File,
    fences: Vec<u64>,
    filter: Filter,
    /// Whether the file goes when the last reader does.
    disposable: AtomicBool,
}

/// The name of a segment's file.
pub(super) fn file_name(id: u64) -> String {
    format!("{id:08}.segment")
}

/// The checksum of a block.
fn block_sum(id: u64, block: u64, body: &[u8]) -> [u8; SUM_BYTES] {
    let mut context = Context::new(&SHA256);
    context.update(&id.to_be_bytes());
    context.update(&block.to_be_bytes());
    context.update(body);
    let mut sum = [0; SUM_BYTES];
    let hash = context.finish();
    sum.iter_mut()
        .zip(hash.as_ref())
        .for_each(|(to, from)| *to = *from);
    sum
}

/// Writes a segment, record by record in ascending order.
pub(super) struct Writer {
    path: PathBuf,
    id: u64,
    file: BufWriter<File>,
    records: u64,
    block: Vec<u8>,
    in_block: u16,
    fences: Vec<u64>,
    filter: Filter,
}

impl Writer {
    /// A new file in `directory`, for at most `room` records; an error when it exists.
    pub(super) fn create(directory: &Path, id: u64, room: usize) -> io::Result<Self> {
        let path = directory.join(file_name(id));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        Ok(Self {
            path,
            id,
            file: BufWriter::with_capacity(1 << 16, file),
            records: 0,
            block: Vec::with_capacity(BLOCK_BYTES),
            in_block: 0,
            fences: Vec::with_capacity(room.div_ceil(BLOCK_RECORDS)),
            filter: Filter::with_room(room),
        })
    }

    /// The next record; its key is above the one before it.
    pub(super) fn push(&mut self, record: &Record) -> io::Result<()> {
        if self.in_block == 0 {
            self.fences.push(record.key.prefix());
        }
        self.filter.insert(record.key);
        self.block.extend_from_slice(&record.encode());
        self.in_block += 1;
        self.records += 1;
        if usize::from(self.in_block) == BLOCK_RECORDS {
            self.end_block()?;
        }
        Ok(())
    }

    /// Writes the block out.
    fn end_block(&mut self) -> io::Result<()> {
        self.block.resize(BLOCK_RECORDS * RECORD_BYTES, 0);
        self.block.extend_from_slice(&self.in_block.to_be_bytes());
        self.block.resize(BODY_BYTES, 0);
        let number = self.fences.len() as u64 - 1;
        let sum = block_sum(self.id, number, &self.block);
        self.file.write_all(&self.block)?;
        self.file.write_all(&sum)?;
        self.block.clear();
        self.in_block = 0;
        Ok(())
    }

    /// Writes the rest and makes all of it durable, the name in the directory excepted.
    pub(super) fn finish(mut self) -> io::Result<Segment> {
        if self.in_block > 0 {
            self.end_block()?;
        }
        let mut footer =
            Vec::with_capacity((self.fences.len() + self.filter.words().len()) * 8 + TRAILER_BYTES);
        for word in self.fences.iter().chain(self.filter.words()) {
            footer.extend_from_slice(&word.to_be_bytes());
        }
        footer.extend_from_slice(MAGIC);
        for count in [
            self.records,
            self.fences.len() as u64,
            self.filter.words().len() as u64,
        ] {
            footer.extend_from_slice(&count.to_be_bytes());
        }
        let sum = footer_sum(self.id, &footer);
        footer.extend_from_slice(&sum);
        self.file.write_all(&footer)?;
        let file = self
            .file
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(Segment {
            path: self.path,
            id: self.id,
            records: self.records,
            file,
            fences: self.fences,
            filter: self.filter,
            disposable: AtomicBool::new(true),
        })
    }
}

/// The hash that ends a file.
fn footer_sum(id: u64, footer: &[u8]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(&id.to_be_bytes());
    context.update(footer);
    let mut sum = [0; 32];
    let hash = context.finish();
    sum.iter_mut()
        .zip(hash.as_ref())
        .for_each(|(to, from)| *to = *from);
    sum
}

/// Big-endian words.
fn words(octets: &[u8]) -> Vec<u64> {
    octets
        .as_chunks()
        .0
        .iter()
        .map(|word| u64::from_be_bytes(*word))
        .collect()
}

/// Why a segment cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotOpened {
    /// It is absent or not what was written.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The system does not let us look.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Segment {
    /// Opens the segment of this number and checks its footer; blocks are checked when they are read.
    pub(super) fn open(directory: &Path, id: u64, records: u64) -> Result<Self, NotOpened> {
        let path = directory.join(file_name(id));
        let broken = |what: &str| Broken {
            path: path.clone(),
            what: what.to_owned(),
        };
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(broken("it is missing").into());
            }
            opened => opened?,
        };
        let length = file.metadata()?.len();
        let mut trailer = [0; TRAILER_BYTES];
        let Some(trailer_at) = length.checked_sub(TRAILER_BYTES as u64) else {
            return Err(broken("it is truncated").into());
        };
        file.read_exact_at(&mut trailer, trailer_at)?;
        let (head, _) = trailer.split_at(TRAILER_BYTES - 32);
        let (magic, counts) = head.split_at(MAGIC.len());
        let counts = words(counts);
        let &[stated, blocks, filter_words] = counts.as_slice() else {
            return Err(broken("its trailer is damaged").into());
        };
        // Sizes first, so that a damaged number asks for no memory.
        let footer_bytes = blocks
            .checked_add(filter_words)
            .and_then(|words| words.checked_mul(8));
        let footer_bytes = footer_bytes.and_then(|bytes| bytes.checked_add(TRAILER_BYTES as u64));
        let whole = blocks.checked_mul(BLOCK_BYTES as u64);
        let whole = whole
            .zip(footer_bytes)
            .and_then(|(blocks, footer)| blocks.checked_add(footer));
        if magic != MAGIC || whole != Some(length) || stated != records {
            return Err(broken("its size or trailer is not what was written").into());
        }
        let mut footer = vec![0; usize::try_from(footer_bytes.unwrap_or(0)).unwrap_or(0)];
        file.read_exact_at(&mut footer, blocks * BLOCK_BYTES as u64)?;
        let (summed, sum) = footer.split_at(footer.len().saturating_sub(32));
        if footer_sum(id, summed) != sum {
            return Err(broken("its footer does not have the checksum that was written").into());
        }
        let (fences, rest) = summed.split_at(usize::try_from(blocks * 8).unwrap_or(0));
        let filter = rest
            .get(..usize::try_from(filter_words * 8).unwrap_or(0))
            .unwrap_or_default();
        let filter =
            Filter::from_words(words(filter)).ok_or_else(|| broken("its filter is damaged"))?;
        let fences = words(fences);
        Ok(Self {
            path,
            id,
            records,
            file,
            fences,
            filter,
            disposable: AtomicBool::new(false),
        })
    }

    /// Its number.
    pub(super) const fn id(&self) -> u64 {
        self.id
    }

    /// How many records it has.
    pub(super) const fn records(&self) -> u64 {
        self.records
    }

    /// Says whether the file is to go with the last reader.
    pub(super) fn set_disposable(&self, disposable: bool) {
        self.disposable.store(disposable, Ordering::Relaxed);
    }

    /// The record of this key, if the segment has one.
    pub(super) fn get(&self, key: Key) -> Result<Option<Record>, Broken> {
        if !self.filter.may_have(key) {
            return Ok(None);
        }
        let wanted = key.encode();
        let mut block = self.block_before(key.prefix());
        let mut octets = [0; BLOCK_BYTES];
        while self
            .fences
            .get(block)
            .is_some_and(|fence| *fence <= key.prefix())
        {
            self.read(&mut octets, block)?;
            let records = self.checked(&octets, block)?;
            let found =
                records.binary_search_by(|record| key_octets(record).cmp(wanted.as_slice()));
            if let Some(record) = found.ok().and_then(|place| records.get(place)) {
                let decoded = Record::decode(record);
                return decoded.map(Some).ok_or_else(|| self.damaged(block));
            }
            // Further only where the next block may begin with the same 64 bits, and this one ends before the key.
            if records
                .last()
                .is_some_and(|last| key_octets(last) > wanted.as_slice())
            {
                break;
            }
            block += 1;
        }
        Ok(None)
    }

    /// The last block that begins before a serial: the first that can have it.
    fn block_before(&self, prefix: u64) -> usize {
        // Serials are random after their first two bits, so the place is known to a few blocks: five standard
        // deviations here. It spares the walk of a binary search through memory that no cache holds.
        let count = self.fences.len();
        let guess = (u128::from(prefix << 2) * count as u128) >> 64;
        let guess = usize::try_from(guess).unwrap_or(0);
        let reach = count.isqrt() / 2 + 2;
        let (low, high) = (
            guess.saturating_sub(reach),
            guess.saturating_add(reach).min(count),
        );
        let begins_before = |at: usize| self.fences.get(at).is_none_or(|fence| *fence < prefix);
        let inside = (low == 0 || begins_before(low)) && (high == count || !begins_before(high));
        let (low, high) = if inside { (low, high) } else { (0, count) };
        let window = self.fences.get(low..high).unwrap_or_default();
        let above = low + window.partition_point(|fence| *fence < prefix);
        above.saturating_sub(1)
    }

    /// Reads blocks from the disk, unchecked.
    fn read(&self, octets: &mut [u8], block: usize) -> Result<(), Broken> {
        let at = block as u64 * BLOCK_BYTES as u64;
        self.file.read_exact_at(octets, at).map_err(|error| Broken {
            path: self.path.clone(),
            what: format!("block {block} cannot be read: {error}"),
        })
    }

    /// What to say of a block that cannot be believed.
    fn damaged(&self, block: usize) -> Broken {
        Broken {
            path: self.path.clone(),
            what: format!("block {block} is not what was written"),
        }
    }

    /// The records of a block, once its checksum agreed.
    fn checked<'a>(
        &self,
        octets: &'a [u8],
        block: usize,
    ) -> Result<&'a [[u8; RECORD_BYTES]], Broken> {
        let parts = octets.split_at_checked(BODY_BYTES);
        let (body, sum) = parts.ok_or_else(|| self.damaged(block))?;
        if block_sum(self.id, block as u64, body) != sum {
            return Err(self.damaged(block));
        }
        let (records, rest) = body.split_at(BLOCK_RECORDS * RECORD_BYTES);
        let count = rest
            .first_chunk()
            .map_or(0, |count| u16::from_be_bytes(*count));
        let records = records.as_chunks().0.get(..usize::from(count));
        records.ok_or_else(|| self.damaged(block))
    }

    /// Goes through all records in order.
    pub(super) const fn walk(&self) -> Walk<'_> {
        Walk {
            segment: self,
            next: 0,
            records: Vec::new(),
            at: 0,
        }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if self.disposable.load(Ordering::Relaxed)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            // It only takes room; the next start takes it away.
            tracing::warn!(path = %self.path.display(), %error, "a superfluous part of the index stays");
        }
    }
}

/// A segment on the way from its first record to its last.
pub(super) struct Walk<'a> {
    segment: &'a Segment,
    /// The next block to be read.
    next: usize,
    records: Vec<Record>,
    at: usize,
}

impl Walk<'_> {
    /// The next record.
    pub(super) fn next(&mut self) -> Result<Option<Record>, Broken> {
        if self.at == self.records.len() {
            self.refill()?;
        }
        let record = self.records.get(self.at).copied();
        self.at += usize::from(record.is_some());
        Ok(record)
    }

    /// Reads some blocks.
    fn refill(&mut self) -> Result<(), Broken> {
        self.records.clear();
        self.at = 0;
        let blocks = (self.segment.fences.len() - self.next).min(WALK_BLOCKS);
        let mut octets = vec![0; blocks * BLOCK_BYTES];
        self.segment.read(&mut octets, self.next)?;
        for block in octets.chunks_exact(BLOCK_BYTES) {
            let octets = self.segment.checked(block, self.next)?;
            let records: Option<Vec<Record>> = octets.iter().map(Record::decode).collect();
            let records = records.ok_or_else(|| self.segment.damaged(self.next))?;
            self.records.extend(records);
            self.next += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
