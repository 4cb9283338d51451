//! The issuers that are answered for, of all logs together.
//!
//! Owns the way from a CertID to an issuer. Promises that a question never waits for a change: changes replace the whole
//! list. Never verifies: what comes here was (see `certificate.rs`). Failure story: an issuer that two logs have is
//! answered for from the first of them, which the second one's mirror tells loudly.

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

    /// The one issuer that all these CertIDs name; none if there is no such.
    pub fn find(&self, ids: &[CertId<'_>]) -> Option<Arc<Issuer>> {
        let list = self.current();
        let first = ids.first()?;
        let candidates = list.by_key.get(first.issuer_key_hash)?;
        let named = |issuer: &&Arc<Issuer>| ids.iter().all(|id| issuer.ca.hashes.matches(id));
        candidates.iter().find(named).map(Arc::clone)
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Issuer>> {
        self.current().all.clone()
    }
}
