//! Asking every source of every CRL, side by side.
//!
//! Owns which source said what last. Promises that all sources are asked, so that one that is stuck in the past hides
//! nothing that another has, and that a silent one delays the others only briefly. What a source serves is fetched again
//! only when it changed. Failure story: each source's fault is told once when it begins, changes and ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::fetch::{FetchError, Fetched, Source, Version};
use super::issuer::{BadCrl, Crl, Issuer};

/// How long answers are waited for once one source of each CRL has answered.
const GRACE: Duration = Duration::from_millis(500);

/// How long a round waits for answers at all: a source that trickles delays nobody for longer.
const ROUND: Duration = Duration::from_secs(5);

/// How long a round waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looking {
    /// Until each CRL has an answer and a little longer, or for a while; what comes later is taken up in the next round.
    AsTheyCome,
    /// Until every source has answered or its deadline is over.
    AtAll,
}

/// The number of an issuer and of a source among its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// The issuer.
    pub issuer: usize,
    /// The source.
    source: usize,
}

/// A source gives no CRL that can be used.
#[derive(Debug, thiserror::Error)]
enum Fault {
    /// It gives none.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It is bad.
    #[error("its CRL is not taken")]
    Bad(#[from] BadCrl),
}

/// One source.
#[derive(Debug)]
struct Watched {
    at: At,
    source: Arc<Source>,
    issuer: Arc<Issuer>,
    known: Option<Version>,
    busy: bool,
    fault: Option<String>,
}

/// What a look brought: nothing new, or a CRL that verified, or a fault; and the version that it is about.
type Brought = Result<Option<(Crl, Option<Version>)>, (Fault, Option<Version>)>;

/// All sources.
#[derive(Debug)]
pub struct Sources {
    all: Vec<Watched>,
    looks: JoinSet<(At, Brought)>,
    issuers: usize,
}

impl Sources {
    /// The sources of each issuer.
    pub fn new(issuers: &[Arc<Issuer>], sources: Vec<Vec<Source>>) -> Self {
        let mut all = Vec::new();
        for (number, (issuer, sources)) in issuers.iter().zip(sources).enumerate() {
            all.extend(
                sources
                    .into_iter()
                    .enumerate()
                    .map(|(source_number, source)| Watched {
                        at: At {
                            issuer: number,
                            source: source_number,
                        },
                        source: Arc::new(source),
                        issuer: Arc::clone(issuer),
                        known: None,
                        busy: false,
                        fault: None,
                    }),
            );
        }
        Self {
            all,
            looks: JoinSet::new(),
            issuers: issuers.len(),
        }
    }

    /// Asks, and returns the CRLs that verified.
    pub async fn look(&mut self, looking: Looking) -> Vec<(At, Crl)> {
        for watched in self.all.iter_mut().filter(|watched| !watched.busy) {
            watched.busy = true;
            let (at, source, issuer) = (
                watched.at,
                Arc::clone(&watched.source),
                Arc::clone(&watched.issuer),
            );
            let known = watched.known.clone();
            self.looks
                .spawn(async move { (at, fetch(&source, issuer, known).await) });
        }
        let (mut found, mut answered) = (Vec::new(), vec![false; self.issuers]);
        let ends = Instant::now() + ROUND;
        loop {
            let enough =
                looking == Looking::AsTheyCome && answered.iter().all(|answered| *answered);
            let next = self.looks.join_next();
            let next = match (looking, enough) {
                (Looking::AtAll, _) => next.await,
                (_, true) => timeout(GRACE, next).await.unwrap_or_default(),
                (_, false) => timeout_at(ends, next).await.unwrap_or_default(),
            };
            let Some(next) = next else { return found };
            let Ok((at, brought)) = next else {
                // A fault of this program ended a look; nobody knows whose: all may be asked again.
                self.all.iter_mut().for_each(|watched| watched.busy = false);
                continue;
            };
            if let (Ok(_), Some(answered)) = (&brought, answered.get_mut(at.issuer)) {
                *answered = true;
            }
            found.extend(self.take(at, brought).map(|crl| (at, crl)));
        }
    }

    /// Takes what a look brought.
    fn take(&mut self, at: At, brought: Brought) -> Option<Crl> {
        let watched = self.all.iter_mut().find(|watched| watched.at == at)?;
        watched.busy = false;
        match brought {
            Ok(None) => {
                // What was wrong with the version that it still has is wrong with it; what failed works again.
                if watched.known.is_none() {
                    watched.tell(None);
                }
                None
            }
            Ok(Some((crl, version))) => {
                watched.known = version;
                Some(crl)
            }
            Err((fault, version)) => {
                watched.known = version;
                watched.tell(Some(crate::chain(&fault)));
                None
            }
        }
    }

    /// Notes what became of a CRL that a source brought.
    pub fn judged(&mut self, at: At, taken: Result<(), BadCrl>) {
        let Some(watched) = self.all.iter_mut().find(|watched| watched.at == at) else {
            return;
        };
        if taken.as_ref().is_err_and(BadCrl::may_pass) {
            watched.known = None;
        }
        watched.tell(taken.err().map(|bad| crate::chain(&Fault::Bad(bad))));
    }

    /// The name of a source.
    pub fn name(&self, at: At) -> String {
        let watched = self.all.iter().find(|watched| watched.at == at);
        watched
            .map(|watched| watched.source.to_string())
            .unwrap_or_default()
    }

    /// The sources of an issuer, each with what is wrong with it.
    pub fn of(&self, issuer: usize) -> impl Iterator<Item = (String, Option<&str>)> {
        let own = self
            .all
            .iter()
            .filter(move |watched| watched.at.issuer == issuer);
        own.map(|watched| (watched.source.to_string(), watched.fault.as_deref()))
    }
}

impl Watched {
    /// Says what changed about this source.
    fn tell(&mut self, fault: Option<String>) {
        let (crl, source) = (self.issuer.name.as_str(), &self.source);
        match &fault {
            _ if fault == self.fault => {}
            Some(text) => tracing::warn!(crl, %source, fault = text, "a source of a CRL fails"),
            None => tracing::info!(crl, %source, "a source of a CRL works again"),
        }
        self.fault = fault;
    }
}

/// Fetches a CRL and verifies it.
async fn fetch(source: &Source, issuer: Arc<Issuer>, known: Option<Version>) -> Brought {
    let fetched = match source.fetch(known).await {
        Ok(fetched) => fetched,
        Err(error) => return Err((error.into(), None)),
    };
    let Fetched::Octets(octets, version) = fetched else {
        return Ok(None);
    };
    // A million entries take a while to read.
    match tokio::task::spawn_blocking(move || issuer.verify(octets)).await {
        Ok(Ok(crl)) => Ok(Some((crl, version))),
        Ok(Err(bad)) => Err((bad.into(), version)),
        Err(stopped) => Err((
            FetchError::File(std::io::Error::other(stopped)).into(),
            None,
        )),
    }
}
