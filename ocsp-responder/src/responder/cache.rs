//! Signed answers, kept until the log says otherwise.
//!
//! Owns two maps: by what is asked (issuer, serial, CertID), and, for the many GET requests that come again octet for
//! octet, by the path. Promises that an answer which the log made wrong is found in neither once [`Cache::forget`] has
//! returned, whatever was being signed meanwhile; that a look-up allocates nothing and holds one of many locks for a
//! moment; and that memory is bounded, whoever asks for what. Never signs and never decides a status.
//!
//! How a path forgets: both maps share the answer, which says itself that it is gone. So a path need not be found when
//! its serial is revoked.

mod bounded;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use hyper::body::Bytes;
use hyper::header::HeaderValue;

use super::clock::Moment;
use super::log::FollowedLog;
use crate::SerialNumber;
use crate::UnixMillis;
use crate::log::IssuerName;
use bounded::Bounded;

/// Parts with a lock each: more than any machine's processors that would meet in one.
const SHARDS: usize = 64;

/// CertIDs of one serial that answers are kept for: four hashes, with and without parameters.
const FORMS_MAX: usize = 8;

/// What an answer costs beside its octets: its headers, counts, keys and the maps' room.
const OVERHEAD: usize = 768;

/// A signed answer as it goes out.
#[derive(Debug)]
pub struct SignedAnswer {
    /// The OCSPResponse.
    pub body: Bytes,
    /// The entity tag, quoted.
    pub etag: HeaderValue,
    /// thisUpdate as an HTTP date.
    pub last_modified: HeaderValue,
    /// nextUpdate as an HTTP date.
    pub expires: HeaderValue,
    /// thisUpdate.
    pub this_update: UnixMillis,
    /// nextUpdate.
    pub next_update: UnixMillis,
    /// The log that it is from.
    pub log: Arc<FollowedLog>,
    /// By the steady clock: from then on too little of its life is left.
    pub fresh_until: u64,
    /// Whether the log has said otherwise, or it was put out of the cache.
    gone: AtomicBool,
}

impl SignedAnswer {
    /// An answer that nobody has kept yet; its entity tag comes from its octets.
    pub fn new(
        body: Vec<u8>,
        [last_modified, expires]: [HeaderValue; 2],
        [this_update, next_update]: [UnixMillis; 2],
        log: Arc<FollowedLog>,
        fresh_until: u64,
    ) -> Self {
        let hash = crate::hex::encode(&crate::log::DetailHash::of(&body).0);
        // Hex digits in quotes are always a header's value.
        let etag = HeaderValue::from_maybe_shared(Bytes::from(format!("\"{hash}\"")));
        Self {
            etag: etag.unwrap_or_else(|_| HeaderValue::from_static("\"\"")),
            body: Bytes::from(body),
            last_modified,
            expires,
            this_update,
            next_update,
            log,
            fresh_until,
            gone: AtomicBool::new(false),
        }
    }

    /// Whether it may be given out now.
    fn is_good(&self, now: Moment) -> bool {
        !self.gone.load(Ordering::Acquire)
            && now.steady < self.fresh_until
            && now.date < self.next_update
            && self.log.is_fresh(now)
    }

    /// What it costs in octets.
    fn weight(&self) -> usize {
        self.body.len() + OVERHEAD
    }
}

/// What is asked: an issuer of a log, and a serial.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Subject {
    log: usize,
    issuer: IssuerName,
    serial: SerialNumber,
}

/// The answers for one subject, by the CertID as it was sent.
#[derive(Debug, Default)]
struct Forms(Vec<(Box<[u8]>, Arc<SignedAnswer>)>);

impl Drop for Forms {
    /// Whoever puts them out of the map, they are gone for the paths too.
    fn drop(&mut self) {
        for (_, answer) in &self.0 {
            answer.gone.store(true, Ordering::Release);
        }
    }
}

/// Answers by path.
type Paths = Bounded<Arc<[u8]>, Arc<SignedAnswer>>;

/// The answers.
#[derive(Debug)]
pub struct Cache {
    subjects: Vec<Mutex<Bounded<Subject, Forms>>>,
    paths: Vec<RwLock<Paths>>,
}

impl Cache {
    /// Room for so many octets, a third of it for paths.
    pub fn new(octets: usize) -> Self {
        let shard = octets / SHARDS;
        let paths = shard / 3;
        Self {
            subjects: (0..SHARDS)
                .map(|_| Mutex::new(Bounded::new(shard - paths)))
                .collect(),
            paths: (0..SHARDS)
                .map(|_| RwLock::new(Bounded::new(paths)))
                .collect(),
        }
    }

    /// The part of a path.
    fn path_shard(&self, path: &[u8]) -> Option<&RwLock<Paths>> {
        // The end of a path is the end of a serial, which is random. The map itself hashes with a secret; who meets in
        // one part on purpose only puts out what is kept there.
        let end = path.iter().rev().take(16);
        let sum = end.fold(0_usize, |sum, octet| {
            sum.wrapping_mul(31).wrapping_add(usize::from(*octet))
        });
        self.paths.get(sum % SHARDS)
    }

    /// The part of a subject.
    fn subject_shard(&self, subject: &Subject) -> Option<MutexGuard<'_, Bounded<Subject, Forms>>> {
        // The end of a serial is random, and the appliance's choice.
        let [.., end] = subject.serial.as_bytes();
        let shard = self.subjects.get(usize::from(*end) % SHARDS)?;
        Some(shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The answer to a GET request, by its path.
    pub fn by_path(&self, path: &str, now: Moment) -> Option<Arc<SignedAnswer>> {
        let shard = self.path_shard(path.as_bytes())?;
        let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
        let answer = shard.get(path.as_bytes())?;
        answer.is_good(now).then(|| Arc::clone(answer))
    }

    /// Keeps an answer by the path that asked for it.
    pub fn keep_path(&self, path: &str, answer: &Arc<SignedAnswer>) {
        // What a proof of wrongness or a full map has put out is not brought back by a path.
        if answer.gone.load(Ordering::Acquire) {
            return;
        }
        let Some(shard) = self.path_shard(path.as_bytes()) else {
            return;
        };
        // The path may hold the last share of an answer that the subjects have put out: all of it counts.
        let weight = path.len() + answer.weight();
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        shard.put(Arc::from(path.as_bytes()), Arc::clone(answer), weight);
    }

    /// The answer to a CertID.
    pub fn by_cert_id(
        &self,
        log: usize,
        issuer: &IssuerName,
        serial: SerialNumber,
        cert_id: &[u8],
        now: Moment,
    ) -> Option<Arc<SignedAnswer>> {
        let subject = Subject {
            log,
            issuer: issuer.clone(),
            serial,
        };
        let shard = self.subject_shard(&subject)?;
        let forms = shard.get(&subject)?;
        let (_, answer) = forms.0.iter().find(|(form, _)| **form == *cert_id)?;
        answer.is_good(now).then(|| Arc::clone(answer))
    }

    /// Keeps an answer, unless its log changed since `generation` was read.
    pub fn keep(
        &self,
        issuer: &IssuerName,
        serial: SerialNumber,
        cert_id: &[u8],
        answer: &Arc<SignedAnswer>,
        generation: u64,
    ) {
        let log = &answer.log;
        let subject = Subject {
            log: log.index,
            issuer: issuer.clone(),
            serial,
        };
        let Some(mut shard) = self.subject_shard(&subject) else {
            return;
        };
        // Under the lock: whoever changes the log counts first and then takes it, so one of the two sees the other.
        if log.generation() != generation {
            answer.gone.store(true, Ordering::Release);
            return;
        }
        let mut forms = shard.take(&subject).unwrap_or_default();
        if let Some(at) = forms.0.iter().position(|(form, _)| **form == *cert_id) {
            let (_, before) = forms.0.swap_remove(at);
            before.gone.store(true, Ordering::Release);
        }
        if forms.0.len() < FORMS_MAX {
            forms.0.push((Box::from(cert_id), Arc::clone(answer)));
        } else {
            answer.gone.store(true, Ordering::Release);
        }
        let weight = forms
            .0
            .iter()
            .map(|(form, answer)| form.len() + answer.weight())
            .sum();
        shard.put(subject, forms, weight);
    }

    /// Forgets the answers for a serial; the log's generation was counted before.
    pub fn forget(&self, log: usize, issuer: &IssuerName, serial: SerialNumber) {
        let subject = Subject {
            log,
            issuer: issuer.clone(),
            serial,
        };
        if let Some(mut shard) = self.subject_shard(&subject) {
            shard.take(&subject);
        }
    }

    /// Forgets all answers of a log; its generation was counted before.
    pub fn forget_log(&self, log: usize) {
        for shard in &self.subjects {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|subject| subject.log != log);
        }
    }

    /// Subjects and paths kept, and the octets that they are counted as.
    pub fn size(&self) -> (usize, usize, usize) {
        let mut size = (0, 0, 0);
        for shard in &self.subjects {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            size.0 += shard.len();
            size.2 += shard.weight();
        }
        for shard in &self.paths {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            size.1 += shard.len();
            size.2 += shard.weight();
        }
        size
    }
}

#[cfg(test)]
mod tests;
