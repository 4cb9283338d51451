//! Keeps the segments few: newer ones are merged into the older ones beside them.
//!
//! Owns the choice of what to merge, and the merge in a thread of its own. Promises that each record is rewritten a
//! few times in its life only (sizes grow by [`RATIO`]), that a merge changes no answer, and that dropping it ends
//! it soon. Never touches what is in use: inputs stay until the view has put the output in their place.
//! Failure story: without room or with a damaged input nothing changes, and the view hears why.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::record::Record;
use super::segment::{Broken, Segment, Walk, Writer};

/// A segment is left alone while it has more than so many times the records of all newer ones together.
const RATIO: u64 = 4;

/// Records between two looks at the order to stop.
const STOP_EVERY: u64 = 4096;

/// Why a merge did not come about.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotMerged {
    /// An input is damaged.
    #[error("a part of the index is damaged")]
    Broken(#[from] Broken),
    /// The output cannot be written.
    #[error("a part of the index cannot be written")]
    Io(#[from] io::Error),
    /// It was told to stop.
    #[error("the merge was stopped")]
    Stopped,
}

/// From which segment on to merge, oldest first; `None` when all is well.
pub(super) fn choose(sizes: &[u64]) -> Option<usize> {
    let mut newer = 0_u64;
    let mut from = None;
    for (place, size) in sizes.iter().enumerate().rev() {
        if newer > 0 && newer.saturating_mul(RATIO) >= *size {
            from = Some(place);
        }
        newer = newer.saturating_add(*size);
    }
    from
}

/// Writes the records of all inputs (oldest first) as one segment.
pub(super) fn merge(
    inputs: &[Arc<Segment>],
    mut writer: Writer,
    stop: &AtomicBool,
) -> Result<Segment, NotMerged> {
    let mut walks: Vec<Walk<'_>> = inputs.iter().map(|segment| segment.walk()).collect();
    let mut heads: Vec<Option<Record>> = Vec::with_capacity(walks.len());
    for walk in &mut walks {
        heads.push(walk.next()?);
    }
    let mut done = 0_u64;
    while let Some(key) = heads.iter().flatten().map(|record| record.key).min() {
        let mut merged: Option<Record> = None;
        for (head, walk) in heads.iter_mut().zip(&mut walks) {
            if let Some(record) = *head
                && record.key == key
            {
                merged = Some(merged.map_or(record, |older| record.over(older)));
                *head = walk.next()?;
            }
        }
        if let Some(record) = merged {
            writer.push(&record)?;
        }
        done += 1;
        if done.is_multiple_of(STOP_EVERY) && stop.load(Ordering::Relaxed) {
            return Err(NotMerged::Stopped);
        }
    }
    Ok(writer.finish()?)
}

/// A merge under way.
pub(super) struct Merge {
    /// The numbers of its inputs.
    pub inputs: Vec<u64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Segment, NotMerged>>>,
}

impl Merge {
    /// Starts one, into a new segment of this number.
    pub(super) fn start(
        inputs: Vec<Arc<Segment>>,
        directory: PathBuf,
        id: u64,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let ids = inputs.iter().map(|segment| segment.id()).collect();
        let order = Arc::clone(&stop);
        let work = move || {
            let room: u64 = inputs.iter().map(|segment| segment.records()).sum();
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            let written = Writer::create(&directory, id, room)
                .map_err(NotMerged::Io)
                .and_then(|writer| merge(&inputs, writer, &order));
            if written.is_err() {
                // What there is of it only takes room; an absent file is as good.
                let _ = std::fs::remove_file(directory.join(super::segment::file_name(id)));
            }
            written
        };
        let thread = std::thread::Builder::new()
            .name("index-merge".into())
            .spawn(work)?;
        Ok(Self {
            inputs: ids,
            stop,
            thread: Some(thread),
        })
    }

    /// Whether [`Self::finish`] would not wait.
    pub(super) fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the output.
    pub(super) fn finish(mut self) -> Result<Segment, NotMerged> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            // The thread has told why on standard error.
            Some(Err(_)) => Err(NotMerged::Io(io::Error::other(
                "the merging thread panicked",
            ))),
            None => Err(NotMerged::Stopped),
        }
    }
}

impl Drop for Merge {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its output, if there is one, is disposable and takes its file away.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_stay_far_apart() {
        assert_eq!(choose(&[]), None);
        assert_eq!(choose(&[7]), None);
        assert_eq!(choose(&[1000, 100, 10]), None);
        assert_eq!(choose(&[1000, 100, 25]), Some(1));
        assert_eq!(choose(&[1000, 200, 50]), Some(0));
        assert_eq!(choose(&[9_000_000, 4096]), None);
        assert_eq!(choose(&[5, 5, 5]), Some(0));
    }

    #[test]
    fn ten_million_records_stay_in_few_segments() {
        let (mut sizes, mut written) = (Vec::new(), 0_u64);
        for _ in 0..2442 {
            sizes.push(4096_u64);
            written += 4096;
            if let Some(from) = choose(&sizes) {
                let merged = sizes.drain(from..).sum();
                sizes.push(merged);
                written += merged;
            }
            assert!(sizes.len() <= 7, "{sizes:?}");
        }
        let kept: u64 = sizes.iter().sum();
        assert!(
            written / kept < 25,
            "each record is written {} times",
            written / kept
        );
    }
}
