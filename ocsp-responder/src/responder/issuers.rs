//! The issuers that are answered for, of all logs together.
//!
//! Owns the way from a CertID to an issuer. Promises that an issuer is answered for from that log alone that its own key
//! vouched for, by a CRL: any log can name any CA certificate, and this responder's certificates are public. A question
//! never waits for a change: changes replace the whole list. Never verifies: what comes here was (see `certificate.rs`).
//! Failure story: an issuer that no log is vouched for, or more than one, is answered for by `tryLater`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::certificate::{CaCertificate, ResponderCertificate};
use super::log::FollowedLog;
use crate::log::IssuerName;
use crate::ocsp::{CertId, HashAlgorithm};

/// An issuer.
#[derive(Debug)]
pub struct Issuer {
    /// The log that knows its certificates.
    pub log: Arc<FollowedLog>,
    /// Its name there.
    pub name: IssuerName,
    /// Its certificate.
    pub ca: Arc<CaCertificate>,
    /// This responder's certificate by it, whether still valid or not; none if there never was one.
    pub certificate: Option<Arc<ResponderCertificate>>,
    /// Whether any issuer of this log ever had one: then those without are not answered for.
    pub log_has_some: bool,
    /// Whether its key signed a CRL that names this log.
    pub vouched: bool,
}

/// What is known of an issuer that a question names.
#[derive(Debug)]
pub enum Named {
    /// No log has it.
    Nobody,
    /// This one.
    One(Arc<Issuer>),
    /// Its key vouched for no log yet, or for several.
    Doubtful,
}

/// One state of the list.
#[derive(Debug, Default)]
struct List {
    all: Vec<Arc<Issuer>>,
    /// By the hash of the key, under each algorithm: their lengths differ.
    by_key: HashMap<Vec<u8>, Vec<Arc<Issuer>>>,
}

/// The issuers.
#[derive(Debug)]
pub struct Issuers {
    current: RwLock<Arc<List>>,
    /// By log.
    parts: Mutex<Vec<Vec<Arc<Issuer>>>>,
}

impl Issuers {
    /// Of so many logs, none yet.
    pub fn new(logs: usize) -> Self {
        Self {
            current: RwLock::default(),
            parts: Mutex::new(vec![Vec::new(); logs]),
        }
    }

    /// Replaces those of one log.
    pub fn set(&self, log: usize, issuers: Vec<Arc<Issuer>>) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = parts.get_mut(log) {
            *part = issuers;
        }
        let mut list = List::default();
        for issuer in parts.iter().flatten() {
            for hash in HashAlgorithm::ALL {
                let key = issuer.ca.hashes.key_hash(hash).to_vec();
                list.by_key.entry(key).or_default().push(Arc::clone(issuer));
            }
            list.all.push(Arc::clone(issuer));
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(list);
    }

    /// The list as it is.
    fn current(&self) -> Arc<List> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The one issuer that all these CertIDs name.
    pub fn find(&self, ids: &[CertId<'_>]) -> Named {
        let list = self.current();
        let key = ids.first().map(|first| first.issuer_key_hash);
        let candidates = key.and_then(|key| list.by_key.get(key));
        let candidates = candidates.map_or(&[][..], Vec::as_slice);
        let named: Vec<_> = candidates
            .iter()
            .filter(|issuer| ids.iter().all(|id| issuer.ca.hashes.matches(id)))
            .collect();
        let vouched: Vec<_> = named.iter().filter(|issuer| issuer.vouched).collect();
        match (vouched.as_slice(), named.as_slice()) {
            (_, []) => Named::Nobody,
            ([one], _) => Named::One(Arc::clone(one)),
            // Nothing is signed for one that has no certificate for this responder: a root, an access issuer.
            ([], [one]) if one.certificate.is_none() => Named::One(Arc::clone(one)),
            ([] | [_, ..], _) => Named::Doubtful,
        }
    }

    /// The other logs for which the key of this issuer vouched too.
    pub fn rivals(&self, issuer: &Issuer) -> Vec<String> {
        let list = self.current();
        let others = list.all.iter().filter(|other| {
            other.vouched
                && other.log.index != issuer.log.index
                && other.ca.hashes == issuer.ca.hashes
        });
        others.map(|other| other.log.name.clone()).collect()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Issuer>> {
        self.current().all.clone()
    }
}
