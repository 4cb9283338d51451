//! Writes a log as the appliance publishes it, without the appliance: leaves, tiles, signed heads.
//!
//! Owns the leaves of one made-up log and its Ed25519 key. Promises the layout of `docs/LOG-FORMAT.md` and the order of
//! the publisher: tiles, then partial ones, then the checkpoint, then superfluous partial ones go. Never syncs a file:
//! what it makes can be made again. Failure story: an error of writing leaves a log that is not complete; start anew.

use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use certstatus::log::checkpoint::{Checkpoint, VerifierKey};
use certstatus::log::merkle::leaf_hash;
use certstatus::log::tile::{
    Edge, FULL, TILE_WIDTH, encode_entries, encode_hashes, entry_bundle_path, hash_tile_path,
};
use certstatus::log::{DetailHash, Entry, EntryKind, IssuerName, LeafIndex, Outcome, Subject};
use certstatus::{RevocationReason, SerialNumber, UnixMillis};

/// A log in the making.
pub struct MadeLog {
    log: PathBuf,
    pair: Ed25519KeyPair,
    key: VerifierKey,
    edge: Edge,
    bundle: Vec<Vec<u8>>,
    superfluous: Vec<PathBuf>,
    directory: PathBuf,
    /// The time of the next entry in milliseconds since 1970.
    pub time: u64,
}

/// The `n`th serial of the logs of this seed: as random as a real one, and known to whoever knows the seed.
pub fn serial(seed: u64, n: u64) -> SerialNumber {
    let hash = DetailHash::of(&[seed.to_be_bytes(), n.to_be_bytes()].concat()).0;
    let mut octets = [0; 16];
    octets
        .iter_mut()
        .zip(hash)
        .for_each(|(to, from)| *to = from);
    SerialNumber::from_random(octets)
}

/// An Ed25519 key from 32 octets.
fn pair(seed: &[u8; 32]) -> io::Result<Ed25519KeyPair> {
    Ed25519KeyPair::from_seed_unchecked(seed).map_err(io::Error::other)
}

impl MadeLog {
    /// Begins a log below `public` with its genesis entry.
    pub fn new(public: &Path, origin: &str, seed: [u8; 32], time: u64) -> io::Result<Self> {
        let mut made = Self::empty(public, origin, seed, time)?;
        let genesis = EntryKind::Genesis {
            origin: origin.to_owned(),
            log_key: made.key.to_string(),
        };
        made.push(genesis)?;
        Ok(made)
    }

    /// A log without entries, which no appliance has.
    pub fn empty(public: &Path, origin: &str, seed: [u8; 32], time: u64) -> io::Result<Self> {
        let pair = pair(&seed)?;
        let public_key = pair
            .public_key()
            .as_ref()
            .try_into()
            .map_err(io::Error::other)?;
        let key = VerifierKey::new(origin, public_key).map_err(io::Error::other)?;
        Ok(Self {
            log: public.join("log"),
            pair,
            key,
            edge: Edge::default(),
            bundle: Vec::new(),
            superfluous: Vec::new(),
            directory: PathBuf::new(),
            time,
        })
    }

    /// The key that verifies its heads.
    pub fn key(&self) -> &VerifierKey {
        &self.key
    }

    /// Entries so far.
    pub fn size(&self) -> u64 {
        self.edge.size()
    }

    /// The head of all entries so far.
    pub fn head(&self) -> Checkpoint {
        Checkpoint {
            origin: self.key.name().to_owned(),
            size: self.edge.size(),
            root: self.edge.root(),
        }
    }

    /// Signs a head: this log's, or one that lies.
    pub fn sign(&self, head: &Checkpoint) -> io::Result<String> {
        let signature = self.pair.sign(head.body().as_bytes());
        let signature = signature.as_ref().try_into().map_err(io::Error::other)?;
        Ok(head.to_note(&self.key, signature))
    }

    /// Appends an entry, a millisecond after the one before it.
    pub fn push(&mut self, kind: EntryKind) -> io::Result<LeafIndex> {
        let index = LeafIndex(self.edge.size());
        let has_detail = !matches!(kind, EntryKind::Genesis { .. } | EntryKind::Tick);
        let entry = Entry {
            index,
            time: UnixMillis(self.time),
            kind,
            // Of a detail that there is not: leaves have the length of real ones.
            detail: has_detail.then(|| DetailHash::of(&index.0.to_be_bytes())),
        };
        self.time += 1;
        self.push_leaf(entry.encode())?;
        Ok(index)
    }

    /// Appends octets, whether they are a leaf or not.
    pub fn push_leaf(&mut self, leaf: Vec<u8>) -> io::Result<()> {
        let mut full = Vec::new();
        self.edge.push(leaf_hash(&leaf), |at, hashes| {
            full.push((
                hash_tile_path(at.level, at.index, FULL),
                encode_hashes(hashes),
            ));
        });
        self.bundle.push(leaf);
        if self.bundle.len() as u64 == TILE_WIDTH {
            let path = entry_bundle_path(self.edge.size() / TILE_WIDTH - 1, FULL);
            full.push((path, encode_entries(self.bundle.iter().map(Vec::as_slice))));
            self.bundle.clear();
        }
        for (path, octets) in full {
            self.superfluous.push(self.log.join(format!("{path}.p")));
            self.write(&path, &octets)?;
        }
        Ok(())
    }

    /// Appends the intent and the outcome of a certificate.
    pub fn certificate(
        &mut self,
        issuer: &IssuerName,
        serial: SerialNumber,
        outcome: Outcome,
    ) -> io::Result<()> {
        let subject = Subject::Certificate {
            serial,
            not_after: UnixMillis::END_OF_TIME,
        };
        self.signed(issuer, subject, outcome)
    }

    /// Appends the intent and the outcome of a CRL; partition 0 is the full one.
    pub fn crl(
        &mut self,
        issuer: &IssuerName,
        number: u64,
        partition: u32,
        outcome: Outcome,
    ) -> io::Result<()> {
        self.signed(issuer, Subject::Crl { number, partition }, outcome)
    }

    /// Appends the intent and the outcome of a signature.
    fn signed(
        &mut self,
        issuer: &IssuerName,
        subject: Subject,
        outcome: Outcome,
    ) -> io::Result<()> {
        let issuer = issuer.clone();
        let intent = self.push(EntryKind::Intent {
            issuer: issuer.clone(),
            subject,
        })?;
        self.push(EntryKind::Outcome {
            intent,
            issuer,
            subject,
            outcome,
        })?;
        Ok(())
    }

    /// Appends a revocation, at the time of its entry.
    pub fn revoke(
        &mut self,
        issuer: &IssuerName,
        serial: SerialNumber,
        reason: RevocationReason,
    ) -> io::Result<()> {
        self.push(EntryKind::Revoked {
            issuer: issuer.clone(),
            serial,
            reason: reason.code(),
            revoked_at: UnixMillis::from_seconds(UnixMillis(self.time).seconds()),
        })?;
        Ok(())
    }

    /// Publishes everything so far.
    pub fn publish(&mut self) -> io::Result<Checkpoint> {
        let mut partial: Vec<_> = self
            .edge
            .partials()
            .map(|(at, hashes)| {
                (
                    hash_tile_path(at.level, at.index, at.width),
                    encode_hashes(hashes),
                )
            })
            .collect();
        if let Ok(width @ 1..) = u16::try_from(self.bundle.len()) {
            let path = entry_bundle_path(self.edge.size() / TILE_WIDTH, width);
            partial.push((path, encode_entries(self.bundle.iter().map(Vec::as_slice))));
        }
        for (path, octets) in partial {
            self.write(&path, &octets)?;
        }
        let head = self.head();
        self.write_checkpoint(&self.sign(&head)?)?;
        for directory in self.superfluous.drain(..) {
            match std::fs::remove_dir_all(&directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(head)
    }

    /// Puts a note in the checkpoint's place.
    pub fn write_checkpoint(&self, note: &str) -> io::Result<()> {
        std::fs::create_dir_all(&self.log)?;
        let hidden = self.log.join(".checkpoint");
        std::fs::write(&hidden, note)?;
        std::fs::rename(hidden, self.log.join("checkpoint"))
    }

    /// Writes one tile or bundle.
    fn write(&mut self, path: &str, octets: &[u8]) -> io::Result<()> {
        let path = self.log.join(path);
        if let Some(directory) = path.parent()
            && directory != self.directory
        {
            std::fs::create_dir_all(directory)?;
            directory.clone_into(&mut self.directory);
        }
        std::fs::write(path, octets)
    }
}
