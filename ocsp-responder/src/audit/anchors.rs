//! The other heads that a log must extend: checkpoints that the auditor brought, and CRLs' anchors.
//!
//! Owns the comparison that finds forks and truncations. Promises that a head counts only once the log
//! key's signature on it verified, and a CRL only once an issuer of the log is shown to have signed it.
//! Failure story: two signed heads that contradict each other are proof of a fault, whichever is right.

use std::path::Path;

use super::fault::{Cause, Fault};
use super::files::{self, Unreadable};
use super::ledger::{IssuerId, Ledger};
use super::lists::Selection;
use super::report::{Agreement, CrlReport};
use super::{Named, Options};
use crate::crl::{self, NotACrl, ParsedCrl};
use crate::log::checkpoint::{Checkpoint, VerifierKey};
use crate::log::merkle::Hash;
use crate::log::{DetailHash, LeafIndex};
use crate::signature;

/// A head that the log must extend.
#[derive(Debug)]
struct Expected {
    /// Where it came from; `None` for the published head itself.
    by: Option<String>,
    head: Checkpoint,
}

/// All heads that the log must extend, the published one included.
#[derive(Debug)]
pub(super) struct Heads {
    /// Greatest first, so that the next one to be reached is last.
    expected: Vec<Expected>,
    /// The greatest size at which a head agreed.
    vouched: u64,
    /// The heads that agreed.
    pub agreed: Vec<Agreement>,
}

/// A head that does not agree with the entries.
#[derive(Debug)]
pub(super) struct Mismatch {
    /// Where it came from; `None` for the published head itself.
    pub by: Option<String>,
    /// Its size.
    pub size: u64,
    /// The first entry that no other head vouches for.
    pub from: u64,
}

impl Heads {
    /// Reads and verifies all heads given.
    pub(super) fn collect(
        head: &Checkpoint,
        options: &Options,
        crls: &[Brought],
    ) -> Result<Self, Fault> {
        let mut expected = vec![Expected {
            by: None,
            head: head.clone(),
        }];
        for Named { name, contents } in &options.checkpoints {
            let head = Checkpoint::verify(contents, &options.log_key);
            let witness = |source| {
                Fault::whole(Cause::Witness {
                    by: name.clone(),
                    source,
                })
            };
            expected.push(Expected {
                by: Some(name.clone()),
                head: head.map_err(witness)?,
            });
        }
        for crl in crls {
            let parsed = parse_crl(crl, crl::parse_head)?;
            let by = format!("the log anchor in {}", crl.by);
            let head = read_anchor(&by, &parsed, &options.log_key).map_err(Fault::whole)?;
            expected.push(Expected { by: Some(by), head });
        }
        // A stable sort: among heads of one size, the published one is compared last.
        expected.sort_by_key(|expected| std::cmp::Reverse(expected.head.size));
        Ok(Self {
            expected,
            vouched: 0,
            agreed: Vec::new(),
        })
    }

    /// Whether there is a head of this size to compare with.
    pub(super) fn expect(&self, size: u64) -> bool {
        self.expected
            .last()
            .is_some_and(|expected| expected.head.size == size)
    }

    /// Compares the log's root at a size with every head of that size.
    pub(super) fn compare(&mut self, size: u64, root: &Hash) -> Result<(), Mismatch> {
        let mut vouched = self.vouched;
        while let Some(next) = self.expected.pop_if(|expected| expected.head.size == size) {
            if next.head.root != *root {
                return Err(Mismatch {
                    by: next.by,
                    size,
                    from: self.vouched,
                });
            }
            if let Some(by) = next.by {
                self.agreed.push(Agreement { by, size });
            }
            vouched = size;
        }
        self.vouched = vouched;
        Ok(())
    }

    /// The greatest size at which a head agreed so far: the entries before it are as they were.
    pub(super) const fn vouched(&self) -> u64 {
        self.vouched
    }

    /// After the last entry: a head that is left over states more than is published.
    pub(super) fn finish(&mut self, head: &Checkpoint) -> Result<(), Fault> {
        let Some(longer) = self.expected.pop() else {
            return Ok(());
        };
        let by = longer.by.unwrap_or_default();
        let cause = Cause::Truncated {
            by,
            size: longer.head.size,
            published: head.size,
        };
        Err(Fault::at(LeafIndex(head.size), cause))
    }
}

/// A CRL to compare with.
#[derive(Debug)]
pub(super) struct Brought {
    /// Where it came from.
    by: String,
    /// The issuer and partition whose it must be, where it is published under that name.
    published_for: Option<(String, u32)>,
    der: Vec<u8>,
}

/// The CRLs to compare with: those given, and those that are published.
pub(super) fn collect_crls(
    published: &Path,
    given: &[Named<Vec<u8>>],
) -> Result<Vec<Brought>, Unreadable> {
    let as_brought = |given: &Named<Vec<u8>>| {
        let (by, der) = (given.name.clone(), given.contents.clone());
        Brought {
            by,
            published_for: None,
            der,
        }
    };
    let mut crls: Vec<Brought> = given.iter().map(as_brought).collect();
    let directory = published.join("crl");
    for name in files::names(&directory)? {
        if let Some(issuer) = name.strip_suffix(".crl") {
            let path = directory.join(&name);
            collect_crl(&path, format!("crl/{name}"), (issuer, 0), &mut crls)?;
            continue;
        }
        let partitions = directory.join(&name);
        for file in files::names(&partitions)? {
            let number = file.strip_suffix(".crl").and_then(|text| text.parse().ok());
            if let Some(number @ 1..) = number {
                let by = format!("crl/{name}/{file}");
                collect_crl(&partitions.join(&file), by, (&name, number), &mut crls)?;
            }
        }
    }
    Ok(crls)
}

/// Reads one published CRL, if it is there.
fn collect_crl(
    path: &Path,
    by: String,
    (issuer, partition): (&str, u32),
    crls: &mut Vec<Brought>,
) -> Result<(), Unreadable> {
    if let Some(der) = files::read(path)? {
        let published_for = Some((issuer.to_owned(), partition));
        crls.push(Brought {
            by,
            published_for,
            der,
        });
    }
    Ok(())
}

/// Parses a CRL given or published, or its head.
fn parse_crl(
    crl: &Brought,
    parse: fn(&[u8]) -> Result<ParsedCrl, NotACrl>,
) -> Result<ParsedCrl, Fault> {
    parse(&crl.der).map_err(|refused| {
        Fault::whole(Cause::Crl {
            by: crl.by.clone(),
            what: refused.0,
        })
    })
}

/// The head in a CRL's log anchor, if it is this log's.
pub(super) fn read_anchor(
    by: &str,
    crl: &ParsedCrl,
    key: &VerifierKey,
) -> Result<Checkpoint, Cause> {
    let wrong = |what| Cause::Crl {
        by: by.to_owned(),
        what,
    };
    let (origin, log_key, note) = crl.anchor.as_ref().ok_or(wrong("it has no log anchor"))?;
    if origin != key.name() {
        return Err(wrong("it anchors a log of another origin"));
    }
    if *log_key != key.to_string() {
        return Err(wrong("it anchors a log of another log key"));
    }
    Checkpoint::verify(note, key).map_err(|source| Cause::Witness {
        by: by.to_owned(),
        source,
    })
}

/// Checks that an issuer of this log signed a CRL, that the log knows that signature, and that it lists what the log
/// says.
pub(super) fn check_crl(
    crl: &Brought,
    ledger: &Ledger,
    key: &VerifierKey,
) -> Result<CrlReport, Fault> {
    let wrong = |what| {
        Fault::whole(Cause::Crl {
            by: crl.by.clone(),
            what,
        })
    };
    let parsed = parse_crl(crl, crl::parse)?;
    let (tbs, algorithm, signature) =
        signature::split(&crl.der).map_err(|_| wrong("it is not a signed object"))?;
    let issuer = ledger.issuers().find(|(_, record)| {
        let named = record.subject.as_deref() == Some(parsed.issuer.as_slice());
        let key = record.key.as_ref().filter(|_| named);
        key.is_some_and(|key| key.verify(algorithm, tbs, signature).is_ok())
    });
    let Some((id, record)) = issuer else {
        return Err(wrong("no issuer of this log signed it"));
    };
    let published = crl.published_for.as_ref();
    if published.is_some_and(|(name, _)| name != record.name.as_str()) {
        return Err(wrong("it is published under the name of another issuer"));
    }
    let known = ledger.crls_numbered(id, parsed.number);
    if known.is_empty() {
        return Err(wrong("the log knows no CRL of its issuer and number"));
    }
    // Without details the log does not tell the CRL's hash, only its number.
    let sha256 = DetailHash::of(&crl.der);
    let same = |hash: &Option<DetailHash>| hash.is_none_or(|hash| hash == sha256);
    let Some((partition, _)) = known.into_iter().find(|(_, hash)| same(hash)) else {
        return Err(wrong(
            "the CRL that the log knows by its number is another one",
        ));
    };
    if published.is_some_and(|(_, place)| *place != partition) {
        return Err(wrong("it is published in the place of another partition"));
    }
    check_list((crl, &parsed), (id, partition), ledger, key)?;
    Ok(CrlReport {
        by: crl.by.clone(),
        issuer: record.name.clone(),
        partition,
        number: parsed.number,
        newest: ledger.newest_crl(id, partition).unwrap_or(parsed.number),
    })
}

/// Checks that a CRL lists what the log says below the head that it names, as values: the auditor's other check of it
/// compares what it encoded itself.
fn check_list(
    (crl, parsed): (&Brought, &ParsedCrl),
    (id, partition): (IssuerId, u32),
    ledger: &Ledger,
    key: &VerifierKey,
) -> Result<(), Fault> {
    let by = &crl.by;
    let wrong = |what| {
        let by = by.clone();
        Fault::whole(Cause::Crl { by, what })
    };
    let size = read_anchor(by, parsed, key).map_err(Fault::whole)?.size;
    let of = ledger.selection(id, partition, &parsed.scope, (size, None));
    let of = of.map_err(wrong)?;
    // Only details tell how many partitions there are: without them this CRL may lack what others have.
    let all = Selection {
        issuer: id,
        partition: None,
        size,
        gone: None,
    };
    let (of, known) = of.map_or((all, false), |of| (of, true));
    ledger
        .lists
        .compare(of, known, parsed)
        .map_err(|difference| {
            let by = by.clone();
            Fault::whole(Cause::Listed { by, difference })
        })
}
