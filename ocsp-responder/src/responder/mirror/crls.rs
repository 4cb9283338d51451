//! CRLs: each at its own place, none older than the log knows, none that anchors another history.
//!
//! Owns what of the verified log a CRL is compared with. Promises that a file is served only at the place for which the
//! log says that its number was issued, that a newer one which the log knows and the source does not show is told, and
//! that the head in each CRL is compared with the log once, whether the CRL is taken or not: so an old CRL convicts a
//! rewritten log. Failure story: what is served stays; see [`NotTaken`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::status::NotTaken;
use super::{Mirror, blocking};
use crate::crl::{CRL_BYTES_MAX, published_path};
use crate::log::IssuerName;
use crate::log::checkpoint::Checkpoint;
use crate::responder::State;
use crate::responder::certificate::{self, BadFile, Crl, CrlFacts, Expected};
use crate::responder::files::{self, Kind, Published};
use crate::view::{Compared, Fetched, IssuerBinding, Source};

/// How long the log and the CRLs beside it may be of different moments: the one is published or fetched before the other.
const GRACE: Duration = Duration::from_secs(10);

/// A CRL's file.
struct Found {
    path: String,
    partition: u32,
    der: Vec<u8>,
    /// The newest number for this place by the log, when the file was asked for.
    asked: Option<u64>,
    /// Whether it is from the directory.
    kept: bool,
}

/// An anchor that was not compared with the log yet.
#[derive(Debug)]
pub(super) struct Anchor {
    head: Checkpoint,
    note: String,
    since: Instant,
}

impl Mirror {
    /// Takes the CRLs that are kept of an issuer.
    pub(super) async fn restore_crls(&mut self, binding: &IssuerBinding, state: &State) {
        let name = &binding.name;
        for partition in self.directory.partitions(name) {
            let path = published_path(name, partition);
            let Some(der) = self.directory.read(&path, CRL_BYTES_MAX) else {
                continue;
            };
            let found = Found {
                partition,
                der,
                asked: binding.crls.get(&partition).copied(),
                kept: true,
                path: path.clone(),
            };
            let taken = self.take_crl(name, found, None, state).await;
            self.tell(&path, taken, state);
        }
    }

    /// Fetches an issuer's CRL and its partitions; whether the source answered.
    pub(super) async fn look_at_crls(
        &mut self,
        source: &Source,
        binding: &IssuerBinding,
        state: &State,
    ) -> bool {
        let name = &binding.name;
        if !self.kept.contains_key(name) {
            return true;
        }
        let partitions: BTreeSet<u32> = binding.crls.keys().copied().chain([0]).collect();
        for partition in partitions {
            let path = published_path(name, partition);
            let asked = binding.crls.get(&partition).copied();
            let taken = self
                .look_at_crl(source, name, (partition, asked), state)
                .await;
            if let Some(taken) = self.forbear(&path, asked, taken)
                && !self.tell(&path, taken, state)
            {
                return false;
            }
            self.compare_again(source, &path, state).await;
        }
        true
    }

    /// Fetches one CRL.
    async fn look_at_crl(
        &mut self,
        source: &Source,
        name: &IssuerName,
        (partition, asked): (u32, Option<u64>),
        state: &State,
    ) -> Result<(), NotTaken> {
        let path = published_path(name, partition);
        let known = self.versions.get(&path);
        let (der, version) = match source.get_unless(&path, CRL_BYTES_MAX, known).await? {
            Fetched::New(der, version) => (der, version),
            Fetched::Unchanged => return Ok(()),
            Fetched::Missing => {
                let served = self.served(&path).map(|served| served.number);
                return match (served, asked) {
                    (served, Some(issued)) if served < Some(issued) => {
                        Err(NotTaken::Withheld { issued })
                    }
                    (Some(_), _) => Err(NotTaken::Missing),
                    (None, _) => Ok(()),
                };
            }
        };
        let found = Found {
            path: path.clone(),
            partition,
            der,
            asked,
            kept: false,
        };
        self.take_crl(name, found, Some(source), state).await?;
        // What was not taken is looked at again: it may be the log that lags behind.
        if let Some(version) = version {
            self.versions.insert(path, version);
        }
        Ok(())
    }

    /// What is to be told of a CRL; nothing while it and the log may be of different moments.
    fn forbear(
        &mut self,
        path: &str,
        asked: Option<u64>,
        taken: Result<(), NotTaken>,
    ) -> Option<Result<(), NotTaken>> {
        let taken = taken.and_then(|()| {
            let served = self.served(path).map(|served| served.number);
            match (served, asked) {
                (Some(found), Some(issued)) if found < issued => {
                    Err(BadFile::Behind { found, issued }.into())
                }
                _ => Ok(()),
            }
        });
        if !taken.as_ref().is_err_and(NotTaken::is_of_another_moment) {
            self.lags.remove(path);
            return Some(taken);
        }
        let since = self.lags.entry(path.to_owned());
        let since = since.or_insert_with(Instant::now);
        (since.elapsed() >= GRACE).then_some(taken)
    }

    /// The CRL that is served at a path.
    fn served(&self, path: &str) -> Option<CrlFacts> {
        self.log.mirror.crls().remove(path)
    }

    /// Verifies a CRL and serves it; new ones are kept too.
    async fn take_crl(
        &mut self,
        name: &IssuerName,
        found: Found,
        source: Option<&Source>,
        state: &State,
    ) -> Result<(), NotTaken> {
        let Found {
            path,
            partition,
            der,
            asked,
            kept,
        } = found;
        let Some((crl, der)) = self.verified(name, &path, der, state).await? else {
            return Ok(());
        };
        self.vouch(name, state);
        self.compare(source, &path, &crl).await?;
        let issuers = self.log.reader.issuers();
        let binding = issuers.iter().find(|binding| binding.name == *name);
        crl.fits(&Expected {
            partition,
            asked,
            issued: binding.and_then(|binding| binding.crls.get(&partition).copied()),
            served: self.served(&path),
            kept,
        })?;
        let facts = crl.facts;
        let (directory, at, made) = (self.directory.clone(), path.clone(), facts.this_update);
        let (published, written) = blocking(move || {
            let written = if kept {
                Ok(())
            } else {
                directory.write(&at, &der)
            };
            let file = written.as_ref().ok().and_then(|()| directory.file(&at));
            (Published::new(Kind::Crl, &der, made, file), written)
        })
        .await;
        tracing::info!(log = self.log.name, path, number = facts.number, entries = facts.entries, until = %facts.next_update, "a CRL is served");
        state.files.set(self.log.index, &path, published);
        self.log.mirror.serves(&path, facts);
        written.map_err(NotTaken::NotKept)
    }

    /// Verifies whose a CRL is; nothing where it is served already.
    async fn verified(
        &self,
        name: &IssuerName,
        path: &str,
        der: Vec<u8>,
        state: &State,
    ) -> Result<Option<(Crl, Vec<u8>)>, NotTaken> {
        let Some(kept) = self.kept.get(name) else {
            return Ok(None);
        };
        let (ca, key) = (Arc::clone(&kept.ca), self.log.key.clone());
        // One that is wrong in some way is looked at again.
        let served = state.files.find(&format!("{}/{path}", self.log.name));
        let served = served.filter(|_| !self.log.mirror.problems().contains_key(path));
        // A million entries take a while to read.
        let verified = blocking(move || {
            if served.is_some_and(|served| served.etag == files::etag(&der)) {
                return Ok(None);
            }
            let crl = certificate::crl(&der, &ca, &key)?;
            Ok::<_, BadFile>(Some((crl, der)))
        });
        Ok(verified.await?)
    }

    /// An issuer's key signed that this is its log: from now on it is answered for from here.
    fn vouch(&mut self, name: &IssuerName, state: &State) {
        if let Some(kept) = self.kept.get_mut(name).filter(|kept| !kept.vouched) {
            kept.vouched = true;
            self.changed = true;
            self.tell_issuers(state);
        }
    }

    /// Compares the head in a CRL with the log; remembers it for later where that cannot be now.
    async fn compare(
        &mut self,
        source: Option<&Source>,
        path: &str,
        crl: &Crl,
    ) -> Result<(), NotTaken> {
        if self.compared.get(path) == Some(&crl.anchor) {
            return Ok(());
        }
        let compared = match source {
            Some(source) => {
                let reader = &self.log.reader;
                reader.compare(source, &crl.anchor, &crl.note).await
            }
            None => None,
        };
        match compared {
            Some(Compared::Contradicts) => return Err(BadFile::Forked.into()),
            Some(Compared::Extends) => self.agrees(path, crl.anchor.clone()),
            None => {
                let anchor = Anchor {
                    head: crl.anchor.clone(),
                    note: crl.note.clone(),
                    since: Instant::now(),
                };
                let before = self.anchors.entry(path.to_owned()).or_insert(anchor);
                if before.head != crl.anchor {
                    before.head = crl.anchor.clone();
                    before.note.clone_from(&crl.note);
                }
            }
        }
        Ok(())
    }

    /// The head in the CRL at a path is the log's.
    fn agrees(&mut self, path: &str, head: Checkpoint) {
        self.anchors.remove(path);
        self.compared.insert(path.to_owned(), head);
    }

    /// Compares a head that could not be compared when its CRL was read.
    async fn compare_again(&mut self, source: &Source, path: &str, state: &State) {
        let Some(anchor) = self.anchors.get(path) else {
            return;
        };
        let (head, since) = (anchor.head.clone(), anchor.since);
        let reader = &self.log.reader;
        let compared = reader.compare(source, &head, &anchor.note).await;
        let told = format!("{path}, log anchor");
        match compared {
            Some(Compared::Extends) => {
                self.agrees(path, head);
                self.tell(&told, Ok(()), state);
            }
            Some(Compared::Contradicts) => {
                self.tell(&told, Err(BadFile::Forked.into()), state);
            }
            None if since.elapsed() >= GRACE => {
                self.tell(&told, Err(NotTaken::Unproved), state);
            }
            None => {}
        }
    }
}
