//! Views over made logs: honest ones, lying ones, and disks that fail.

mod faults;
mod full_disk;
mod lies;
mod rules;
mod scale;

#[path = "../../examples/made-log/ca.rs"]
#[expect(dead_code, reason = "views read no CRLs")]
mod ca;
#[path = "../../examples/made-log/log.rs"]
pub(crate) mod made;

use std::collections::BTreeMap;
use std::path::PathBuf;

use made::{MadeLog, serial};

use super::*;
use crate::log::{DetailHash, EntryKind, IssuerName, Outcome};
use crate::{CertStatus, RevocationReason, SerialNumber, UnixMillis};

const ORIGIN: &str = "log.example/view";
/// The time of the first entry.
const TIME: u64 = 1_800_000_000_000;
const ISSUED: Outcome = Outcome::Issued { attempts: 1 };

/// Runs a future to its end.
fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future)
}

fn issuer(name: &str) -> IssuerName {
    name.parse().unwrap()
}

/// A log, its directory, and what a reader should say of it.
struct Site {
    base: tempfile::TempDir,
    log: MadeLog,
    expected: BTreeMap<SerialNumber, CertStatus>,
}

impl Site {
    fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        let public = base.path().join("public");
        let mut log = MadeLog::new(&public, ORIGIN, [7; 32], TIME).unwrap();
        let authority = ca::Ca::new("device-1").unwrap();
        crate::durable::write(&public.join("ca/device-1.cer"), &authority.certificate).unwrap();
        authority
            .write_key(&base.path().join("device-1.key"))
            .unwrap();
        log.push(EntryKind::Issuer {
            issuer: issuer("device-1"),
            spki: DetailHash::of(&authority.spki).0,
            certificate: DetailHash::of(&authority.certificate).0,
        })
        .unwrap();
        Self {
            base,
            log,
            expected: BTreeMap::new(),
        }
    }

    fn public(&self) -> PathBuf {
        self.base.path().join("public")
    }

    fn state(&self) -> PathBuf {
        self.base.path().join("state")
    }

    fn source(&self) -> Source {
        Source::directory(self.public())
    }

    fn open(&self) -> View {
        View::open(&self.state(), self.log.key().clone()).unwrap()
    }

    /// A view whose index has many small parts.
    fn open_small(&self) -> View {
        let mut view = self.open();
        view.holds = Holds {
            recent: 8,
            spill: 16,
        };
        view
    }

    /// Issues the `n`th certificate.
    fn issue(&mut self, n: u64) {
        let serial = serial(1, n);
        self.log
            .certificate(&issuer("device-1"), serial, ISSUED)
            .unwrap();
        self.expected.entry(serial).or_insert(CertStatus::Good);
    }

    /// Revokes, holds or releases the `n`th certificate, whether that can be or not: what is for good stands.
    fn revoke(&mut self, n: u64, reason: RevocationReason) {
        let serial = serial(1, n);
        let now = UnixMillis::from_seconds(UnixMillis(self.log.time).seconds());
        let standing = self.expected.get(&serial).cloned();
        // A hold that is made final keeps its time.
        let at = match (self.held_since(n), reason) {
            (Some(since), reason) if reason != RevocationReason::RemoveFromCrl => since,
            _ => now,
        };
        self.log
            .push(EntryKind::Revoked {
                issuer: issuer("device-1"),
                serial,
                reason: reason.code(),
                revoked_at: at,
            })
            .unwrap();
        let for_good = matches!(standing, Some(CertStatus::Revoked { .. }));
        let status = match reason {
            _ if for_good && self.held_since(n).is_none() => return,
            RevocationReason::RemoveFromCrl => CertStatus::Good,
            reason => CertStatus::Revoked {
                at,
                reason: Some(reason),
            },
        };
        self.expected.insert(serial, status);
    }

    /// Since when the `n`th certificate is on hold.
    fn held_since(&self, n: u64) -> Option<UnixMillis> {
        match self.expected.get(&serial(1, n)) {
            Some(CertStatus::Revoked {
                at,
                reason: Some(RevocationReason::CertificateHold),
            }) => Some(*at),
            _ => None,
        }
    }

    /// Whether the audit allows that: only a hold is left, for good or by a release.
    fn may_revoke(&self, n: u64, reason: RevocationReason) -> bool {
        use RevocationReason::{CertificateHold, RemoveFromCrl};
        match self.expected.get(&serial(1, n)) {
            Some(CertStatus::Good) => reason != RemoveFromCrl,
            _ => self.held_since(n).is_some() && reason != CertificateHold,
        }
    }

    /// Issues many, revokes every seventh, and publishes.
    fn grow(&mut self, range: std::ops::Range<u64>) {
        for n in range {
            self.issue(n);
            if n % 7 == 3 {
                self.revoke(n, RevocationReason::KeyCompromise);
            }
        }
        self.log.publish().unwrap();
    }

    /// Checks every serial, and that others are unknown.
    fn check(&self, reader: &Reader) {
        for (serial, status) in &self.expected {
            assert_eq!(
                reader.status(&issuer("device-1"), *serial).as_ref(),
                Ok(status),
                "{serial}"
            );
        }
        let other = reader.status(&issuer("device-1"), serial(2, 0));
        assert_eq!(other, Ok(CertStatus::Unknown));
        assert_eq!(reader.head().unwrap(), self.log.head());
        assert_eq!(reader.as_of(), Some(UnixMillis(self.log.time - 1)));
    }

    /// The names of the segments' files.
    fn segments(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.state()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.ends_with(".segment")).collect();
        names.sort();
        names
    }
}

fn follow(view: &mut View, site: &Site) -> Followed {
    wait(view.follow(&site.source())).unwrap()
}

/// What goes wrong.
fn refused(view: &mut View, site: &Site) -> FollowError {
    wait(view.follow(&site.source())).unwrap_err()
}

/// Follows until the index is merged.
fn settle_down(view: &mut View, site: &Site) {
    let until = Instant::now() + Duration::from_secs(60);
    while view.is_merging() {
        assert!(Instant::now() < until, "the merge does not end");
        std::thread::yield_now();
        follow(view, site);
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
