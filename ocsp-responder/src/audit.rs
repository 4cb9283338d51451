//! Verifies a published log: no key, no network, no trust in who handed it over.
//!
//! Owns the replay of `public/` (and `private/`, where it is given) from entry 0 to the signed head.
//! Promises that a log that verifies is the one that the log key signed, entry for entry; that every
//! rule of the log holds in it; that it extends every other head it was compared with; and, with
//! details, that every signature is the named issuer's over the logged bytes. Never writes, never
//! follows a reference out of the directory. Memory grows with serials and open intents, not with
//! entries. Failure story: the first fault ends the audit as [`NotVerified::Fault`]; what cannot be read
//! at all is [`NotVerified::Unreadable`] and proves nothing either way.

mod anchors;
mod bundles;
mod details;
mod evidence;
mod fault;
mod files;
mod hashes;
mod ledger;
mod lists;
mod proof_file;
mod report;
mod standing;
mod tbs;
mod tree;
mod units;

use std::path::{Path, PathBuf};

pub use details::{Erased, SELF_TEST_PREFIX};
pub use evidence::{HeadFile, Judged, Order, prove_consistency, prove_inclusion};
pub use fault::{Cause, ClassName, Fault};
pub use files::Unreadable;
pub use lists::Difference;
pub use proof_file::{
    Consistency, Inclusion, NotAProof, PROOF_FILE_BYTES_MAX, Proof, ProofRefused, Proven, Shown,
};
pub use report::{
    Agreement, Certificates, CrlReport, DetailReport, Hex, IssuerReport, Report, Tally,
};
pub use standing::{About, Act, Question, Standing, status};

use anchors::{Heads, Mismatch};
use bundles::first_of;
use details::{Details, ToSign};
use files::Found;
use ledger::Ledger;
use standing::Dossier;
use tree::{Disagreement, Tree};

use crate::log::checkpoint::{BadNote, Checkpoint, VerifierKey};
use crate::log::merkle::{Hash, leaf_hash};
use crate::log::tile::{self, TILE_WIDTH};
use crate::log::{Entry, EntryKind, IssuerName, LeafIndex};

/// Where a log is.
#[derive(Clone, Debug)]
pub struct Source {
    /// The directory `public`, with `log/`, `ca/` and `crl/` in it.
    pub published: PathBuf,
    /// The directory `private`, with `details/` in it, if the auditor has it.
    pub details: Option<PathBuf>,
}

/// A file given for comparison: a name for reports, and its contents.
#[derive(Clone, Debug)]
pub struct Named<T> {
    /// What to call it in a report.
    pub name: String,
    /// Its contents.
    pub contents: T,
}

/// What an audit checks beside the log itself.
#[derive(Clone, Debug)]
pub struct Options {
    /// The key that the log's heads must be signed by: the one thing that is trusted.
    pub log_key: VerifierKey,
    /// Other heads of the same log, as signed notes: older, later or cosigned ones.
    pub checkpoints: Vec<Named<String>>,
    /// CRLs (DER) whose log anchors are such heads, signed by a CA key.
    pub crls: Vec<Named<Vec<u8>>>,
    /// What to do where a detail is gone.
    pub erased: Erased,
}

/// How far an audit has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Entries verified.
    pub done: u64,
    /// Entries in all.
    pub of: u64,
}

/// Why a log did not verify.
#[derive(Debug, thiserror::Error)]
pub enum NotVerified {
    /// Something is wrong with it.
    #[error("the log does not verify")]
    Fault(#[from] Fault),
    /// Something could not be read.
    #[error("the log could not be read")]
    Unreadable(#[from] Unreadable),
}

/// Verifies a published log; `progress` is called about once a bundle of 256 entries.
///
/// # Errors
/// [`NotVerified::Fault`]: do not rely on the log; keep this copy as evidence.
/// [`NotVerified::Unreadable`]: mend the copy and try again.
pub fn verify(
    source: &Source,
    options: &Options,
    progress: impl FnMut(Progress),
) -> Result<Report, NotVerified> {
    let mut nothing_more = Dossier::default();
    replayed(source, options, &mut nothing_more, progress)
}

/// Verifies a published log and collects the entries that the dossier is about.
fn replayed(
    source: &Source,
    options: &Options,
    dossier: &mut Dossier,
    mut progress: impl FnMut(Progress),
) -> Result<Report, NotVerified> {
    // CRLs first: one published while we read the head would else anchor a later head than ours.
    let crls = anchors::collect_crls(&source.published, &options.crls)?;
    let log = source.published.join("log");
    let (_, head) = read_head(&log.join("checkpoint"), &options.log_key)?;
    let heads = Heads::collect(&head, options, &crls)?;
    let mut audit = Audit {
        source,
        options,
        log: &log,
        tree: Tree::new(&log, head.size),
        ledger: Ledger::new(options.log_key.clone()),
        details: source
            .details
            .as_ref()
            .map(|_| Details::new(options.erased)),
        heads,
        head,
        dossier,
    };
    audit.replay(&mut progress)?;
    audit.check_issuers()?;
    let crls = crls
        .iter()
        .map(|crl| anchors::check_crl(crl, &audit.ledger, &options.log_key));
    let crls = crls.collect::<Result<_, Fault>>()?;
    Ok(audit.report(crls))
}

/// Reads the published head, verifies its signature, and gives back the note and what it states.
fn read_head(path: &Path, key: &VerifierKey) -> Result<(String, Checkpoint), NotVerified> {
    let Some(note) = files::read(path)? else {
        let source = std::io::ErrorKind::NotFound.into();
        return Err(Unreadable {
            path: path.to_owned(),
            source,
        }
        .into());
    };
    let note = String::from_utf8(note).map_err(|_| BadNote::Malformed("it is not UTF-8 text"));
    let head = note.and_then(|note| Checkpoint::verify(&note, key).map(|head| (note, head)));
    Ok(head.map_err(|refused| Fault::whole(Cause::Head(refused)))?)
}

/// An audit on its way through the log.
struct Audit<'a> {
    source: &'a Source,
    options: &'a Options,
    /// The directory `public/log`.
    log: &'a Path,
    head: Checkpoint,
    tree: Tree<'a>,
    ledger: Ledger,
    /// The checks that need details, if they are given.
    details: Option<Details>,
    heads: Heads,
    /// What the caller wants to know of one serial.
    dossier: &'a mut Dossier,
}

impl Audit<'_> {
    /// Goes through all entries, up to the signed head.
    fn replay(&mut self, progress: &mut impl FnMut(Progress)) -> Result<(), NotVerified> {
        self.compare_heads()?;
        if self.head.size == 0 {
            return Err(Fault::whole(Cause::Genesis("the log has no entries")).into());
        }
        for bundle in 0..self.head.size.div_ceil(TILE_WIDTH) {
            if let Some(disagreement) = self.bundle(bundle)? {
                return Err(self.settle(&disagreement)?.into());
            }
            progress(Progress {
                done: self.tree.size(),
                of: self.head.size,
            });
        }
        Ok(self.heads.finish(&self.head)?)
    }

    /// Reads an entry bundle.
    fn read_bundle(&self, bundle: u64) -> Result<Found, NotVerified> {
        bundles::read(self.log, self.head.size, bundle)
    }

    /// The leaves of a bundle that the signed head covers.
    fn leaves<'f>(&self, bundle: u64, found: &'f Found) -> Result<Vec<&'f [u8]>, Fault> {
        bundles::leaves(self.head.size, bundle, found)
    }

    /// Goes through one bundle; stops at a hash tile that disagrees.
    fn bundle(&mut self, bundle: u64) -> Result<Option<Disagreement>, NotVerified> {
        let found = self.read_bundle(bundle)?;
        let leaves = self.leaves(bundle, &found)?;
        let hashes: Vec<Hash> = leaves.iter().map(|leaf| leaf_hash(leaf)).collect();
        let mut disagreement = self.tree.compare(0, bundle, &hashes)?;
        let detail_bundle = self.read_details(bundle)?;
        let details = self.details_in(bundle, detail_bundle.as_ref())?;
        let mut details = details.into_iter().peekable();
        for (position, (leaf, hash)) in leaves.iter().zip(&hashes).enumerate() {
            let index = LeafIndex(self.tree.size());
            let entry = Entry::parse(leaf)
                .map_err(|refused| Fault::at(index, Cause::NotAnEntry(refused)))?;
            if entry.index != index {
                return Err(Fault::at(index, Cause::Misplaced { says: entry.index }).into());
            }
            if disagreement
                .as_ref()
                .is_some_and(|found| found.position == Some(position))
            {
                return Ok(disagreement);
            }
            let detail = details
                .next_if(|(of, _)| *of == index.0)
                .map(|(_, detail)| detail);
            self.entry(&entry, detail)?;
            if let Some(upper) = self.tree.push(*hash)? {
                return Ok(Some(upper));
            }
            if self.tree.size() == self.head.size
                && let Some(upper) = self.tree.compare_partials()?
            {
                return Ok(Some(upper));
            }
            self.compare_heads()?;
        }
        if let Some((index, _)) = details.next() {
            return Err(Fault::at(LeafIndex(index), Cause::DetailStray).into());
        }
        Ok(disagreement.take())
    }

    /// Checks one entry: against the rules of the log, and against its detail.
    fn entry(&mut self, entry: &Entry, detail: Option<&[u8]>) -> Result<(), NotVerified> {
        let at = |cause| Fault::at(entry.index, cause);
        let ended = self.ledger.admit(entry).map_err(at)?;
        self.dossier.note(entry);
        let Some(details) = &mut self.details else {
            return Ok(());
        };
        if let (
            EntryKind::Issuer {
                issuer,
                spki,
                certificate,
            },
            None,
        ) = (&entry.kind, detail)
        {
            // Without its detail the published certificate serves, if it is the one of this entry;
            // it may as well be that of a later one, so a refusal says nothing here.
            let der = files::read(&ca_path(&self.source.published, issuer))?.unwrap_or_default();
            details::bind_certificate(issuer, spki, certificate, &der, &mut self.ledger).ok();
        }
        let crl = details
            .check(entry, detail, ended, &mut self.ledger)
            .map_err(at)?;
        match crl {
            Some(crl) => self.check_logged_crl(entry.index, crl),
            None => Ok(()),
        }
    }

    /// Checks that the head in a logged CRL is one that this log had before it, and that its list is the one that
    /// follows from the entries below that head.
    fn check_logged_crl(&mut self, index: LeafIndex, crl: ToSign) -> Result<(), NotVerified> {
        let size = self.check_logged_anchor(index, &crl)?;
        let Some(details) = &mut self.details else {
            return Ok(());
        };
        let built = details.build(crl, size, &mut self.ledger);
        built.map_err(|cause| Fault::at(index, cause).into())
    }

    /// Checks that the head in a logged CRL is one that this log had before it; gives back its size.
    fn check_logged_anchor(&mut self, index: LeafIndex, crl: &ToSign) -> Result<u64, NotVerified> {
        let by = format!("the CRL of entry {index}");
        let anchor = anchors::read_anchor(&by, &crl.frame.parsed, &self.options.log_key)
            .map_err(|cause| Fault::at(index, cause))?;
        let root = self.tree.root_at(anchor.size, |bundle| {
            let found = self.read_bundle(bundle)?;
            let leaves = self.leaves(bundle, &found)?;
            Ok::<_, NotVerified>(leaves.iter().map(|leaf| leaf_hash(leaf)).collect())
        })?;
        if root == Some(anchor.root) {
            return Ok(anchor.size);
        }
        let (size, from) = (anchor.size, self.heads.vouched());
        if self.entries_are_the_heads()? {
            return Err(Fault::at(index, Cause::Fork { by, size, from }).into());
        }
        Err(self.root_fault(from, size).into())
    }

    /// Reads a detail bundle; `None` where details are not given or the bundle has none.
    fn read_details(&self, bundle: u64) -> Result<Option<Found>, Unreadable> {
        let Some(details) = &self.source.details else {
            return Ok(None);
        };
        files::read_tile(details, bundle, self.head.size, tile::detail_bundle_path)
    }

    /// The details of a bundle, up to the signed head.
    fn details_in<'f>(
        &self,
        bundle: u64,
        found: Option<&'f Found>,
    ) -> Result<Vec<(u64, &'f [u8])>, Fault> {
        let Some(found) = found else {
            return Ok(Vec::new());
        };
        let mut details = tile::parse_details(&found.bytes, bundle).map_err(|_| {
            Fault::at(
                first_of(bundle),
                Cause::DetailBundle {
                    path: found.path.clone(),
                },
            )
        })?;
        // A wider bundle may hold details of entries after the head; one of the exact width may not.
        if found.width > tile::width_in(self.head.size, bundle) {
            details.retain(|(index, _)| *index < self.head.size);
        }
        Ok(details)
    }

    /// Compares the tree so far with every other head of its size.
    fn compare_heads(&mut self) -> Result<(), NotVerified> {
        if !self.heads.expect(self.tree.size()) {
            return Ok(());
        }
        let Err(mismatch) = self.heads.compare(self.tree.size(), &self.tree.root()) else {
            return Ok(());
        };
        let Mismatch { by, size, from } = mismatch;
        Err(match by {
            // If the published head agrees with the entries, there are two signed histories.
            Some(by) if self.entries_are_the_heads()? => {
                Fault::whole(Cause::Fork { by, size, from })
            }
            _ => self.root_fault(from, size),
        }
        .into())
    }

    /// The fault of entries that do not hash up to the published head, the first `end` already not.
    fn root_fault(&self, from: u64, end: u64) -> Fault {
        let to = end.min(self.head.size).saturating_sub(1);
        Fault::whole(Cause::Root {
            size: self.head.size,
            from,
            to,
        })
    }

    /// Says which one is wrong where a hash tile and the entries disagree: only the head can tell.
    fn settle(&mut self, disagreement: &Disagreement) -> Result<Fault, Unreadable> {
        let first = LeafIndex(disagreement.first_entry());
        let path = disagreement.path.clone();
        if self.entries_are_the_heads()? {
            return Ok(Fault::at(first, Cause::Tile { path }));
        }
        Ok(match disagreement.position {
            Some(_) => {
                let count = disagreement.entries();
                Fault::at(first, Cause::Altered { tile: path, count })
            }
            None => self.root_fault(self.heads.vouched(), self.head.size),
        })
    }

    /// Hashes the rest of the entries, unseen, and tells whether they are what the head was signed over.
    fn entries_are_the_heads(&mut self) -> Result<bool, Unreadable> {
        while self.tree.size() < self.head.size {
            let bundle = self.tree.size() / TILE_WIDTH;
            let found = match self.read_bundle(bundle) {
                Ok(found) => found,
                Err(NotVerified::Fault(_)) => return Ok(false),
                Err(NotVerified::Unreadable(unreadable)) => return Err(unreadable),
            };
            let Ok(leaves) = self.leaves(bundle, &found) else {
                return Ok(false);
            };
            let done = usize::try_from(self.tree.size() % TILE_WIDTH).unwrap_or(0);
            for leaf in leaves.iter().skip(done) {
                self.tree.push_unseen(leaf_hash(leaf));
            }
        }
        Ok(self.tree.root() == self.head.root)
    }

    /// Checks that every issuer that signed certificates or CRLs is bound to a key, and each bound one to its
    /// certificate. A key that has signed self-tests and a request only waits for an offline root's answer.
    fn check_issuers(&mut self) -> Result<(), NotVerified> {
        for (_, record) in self.ledger.issuers() {
            if let (Some(first_use), None) = (record.first_use, record.bound) {
                let cause = Cause::IssuerUnnamed(record.name.clone());
                return Err(Fault::at(first_use, cause).into());
            }
        }
        let bound: Vec<(IssuerName, LeafIndex, [u8; 32], [u8; 32])> = self
            .ledger
            .issuers()
            .filter_map(|(_, record)| {
                let (index, certificate) = record.bound?;
                Some((record.name.clone(), index, record.spki?, certificate))
            })
            .collect();
        for (issuer, index, spki, certificate) in bound {
            let path = ca_path(&self.source.published, &issuer);
            let Some(der) = files::read(&path)? else {
                let what = "its certificate is missing from ca/";
                let cause = Cause::CaCertificate { issuer, what };
                return Err(Fault::at(index, cause).into());
            };
            details::bind_certificate(&issuer, &spki, &certificate, &der, &mut self.ledger)
                .map_err(|cause| Fault::at(index, cause))?;
        }
        Ok(())
    }

    /// The summary of a log in which nothing is wrong.
    fn report(self, crls: Vec<CrlReport>) -> Report {
        let issuers = self.ledger.issuers().map(|(id, record)| {
            let report = IssuerReport {
                spki_sha256: record.spki.map(Hex),
                certificate_sha256: record.bound.map(|(_, certificate)| Hex(certificate)),
                classes: self.ledger.classes_of(id),
            };
            (record.name.clone(), report)
        });
        Report {
            issuers: issuers.collect(),
            origin: self.head.origin,
            log_key: self.options.log_key.to_string(),
            entries: self.head.size,
            root: Hex(self.head.root),
            oldest: self.ledger.oldest,
            newest: self.ledger.newest,
            certificates: self.ledger.certificates(),
            classes: self.ledger.classes(),
            orders: self
                .details
                .as_ref()
                .map(|done| done.orders.clone())
                .unwrap_or_default(),
            units_returned: self
                .details
                .as_ref()
                .map(|done| done.units.returned().clone())
                .unwrap_or_default(),
            events: self.ledger.events,
            unwitnessed_starts: self.ledger.unwitnessed,
            details: self.details.map(|done| done.report),
            agrees_with: self.heads.agreed,
            crls,
            tiles_checked: self.tree.checked,
            tiles_missing: self.tree.missing,
        }
    }
}

/// Where an issuer's certificate is published.
fn ca_path(published: &Path, issuer: &IssuerName) -> PathBuf {
    published.join("ca").join(format!("{issuer}.cer"))
}
