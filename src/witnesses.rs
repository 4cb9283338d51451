//! Witnesses at a start: what they last saw of this log, held against what the store has.
//!
//! Owns the question, the comparison and what came of it. Promises an end within [`crate::limits::WITNESS_DEADLINE`] whatever
//! a witness does, and that nothing counts which the log key did not sign: where a witness has a head that this store
//! cannot extend, that head is proof by itself, whoever hands it over; agreement counts only with the witness's own
//! cosignature. Never follows a redirect, never changes anything. Failure story: a witness that cannot be heard is a
//! sentence ([`Said::Unheard`]), and no agreement; a head that this store does not have is [`Refused`].

mod ask;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use certstatus::UnixMillis;
use certstatus::hex;
use certstatus::log::checkpoint::{BadNote, Checkpoint, CosignerKey, VerifierKey};
use certstatus::log::merkle::Hash;
use serde::{Serialize, Serializer};

pub use ask::{NotHeard, hear};

use crate::config::Witness;
use crate::signing_log::{LogError, SigningLog};

/// What is done about a start that a witness speaks against, or that none confirms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwitnessed {
    /// A newer or another head is a refusal.
    Refuse,
    /// The operator knows, and the log says so (`--accept-unwitnessed`).
    Accept,
}

/// A head that a witness has, signed by the log key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// What the log key signed.
    pub checkpoint: Checkpoint,
    /// When the witness cosigned it, or why that does not verify.
    pub cosigned: Result<UnixMillis, BadNote>,
}

impl Head {
    /// Reads a witness's answer.
    ///
    /// # Errors
    /// [`NotHeard`]: it says nothing about this log.
    pub fn read(answer: &[u8], witness: &CosignerKey, log: &VerifierKey) -> Result<Self, NotHeard> {
        let note = std::str::from_utf8(answer)
            .map_err(|_| NotHeard::Note(BadNote::Malformed("it is not UTF-8 text")))?;
        let checkpoint = Checkpoint::verify(note, log).map_err(NotHeard::Note)?;
        let cosigned = witness.cosigned_at(note);
        Ok(Self {
            checkpoint,
            cosigned,
        })
    }
}

/// What a witness said at the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WitnessState {
    /// Its name in the configuration.
    pub witness: String,
    /// Its base URL.
    pub url: String,
    /// What it said, as it was judged.
    #[serde(flatten)]
    pub said: Said,
}

/// What a witness said, held against the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Said {
    /// Nothing that counts.
    Unheard {
        /// Why.
        problem: String,
    },
    /// The store has the entries that it cosigned.
    Agrees {
        /// How many they are.
        size: u64,
        /// When it cosigned them.
        cosigned_at: UnixMillis,
    },
    /// It has a head of more entries than the store.
    Newer {
        /// How many they are.
        size: u64,
        /// Their root.
        #[serde(serialize_with = "as_hex")]
        root: Hash,
    },
    /// It has a head whose entries are not the store's.
    Forked {
        /// How many they are.
        size: u64,
        /// Their root.
        #[serde(serialize_with = "as_hex")]
        root: Hash,
        /// The root of as many entries of the store.
        #[serde(serialize_with = "as_hex")]
        ours: Hash,
    },
}

/// A hash for people and log entries.
fn as_hex<S: Serializer>(hash: &Hash, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&hex::encode(hash))
}

impl Said {
    /// Nothing that counts, and why.
    fn unheard(problem: &dyn std::error::Error) -> Self {
        let problem = certstatus::chain(problem);
        Self::Unheard { problem }
    }

    /// A head, held against the root of as many entries of the store (none where it has fewer).
    fn of(head: &Head, ours: Option<Hash>) -> Self {
        let Checkpoint { size, root, .. } = head.checkpoint;
        match (ours, &head.cosigned) {
            (None, _) => Self::Newer { size, root },
            (Some(ours), _) if ours != root => Self::Forked { size, root, ours },
            (Some(_), Ok(cosigned_at)) => Self::Agrees {
                size,
                cosigned_at: *cosigned_at,
            },
            (Some(_), Err(bad)) => Self::unheard(&NotHeard::Cosignature(bad.clone())),
        }
    }

    /// Whether this store cannot be the newest of the log that the witness saw.
    const fn refuses(&self) -> bool {
        match self {
            Self::Newer { .. } | Self::Forked { .. } => true,
            Self::Unheard { .. } | Self::Agrees { .. } => false,
        }
    }
}

/// The witnesses' words of a start, and the store that they were held against.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Testimony {
    /// Entries in the store.
    size: u64,
    /// Their root.
    #[serde(serialize_with = "as_hex")]
    root: Hash,
    /// Each witness.
    witnesses: Vec<WitnessState>,
}

impl Testimony {
    /// Holds what was heard, in the order of the witnesses, against the store.
    ///
    /// # Errors
    /// [`LogError`] of reading the store.
    pub async fn of(
        witnesses: &[Witness],
        heard: &[Result<Head, NotHeard>],
        log: &SigningLog,
    ) -> Result<Self, LogError> {
        let size = log.status().size;
        let root = log.root_at(size).await?.unwrap_or_default();
        let mut states = Vec::with_capacity(witnesses.len());
        for (witness, heard) in witnesses.iter().zip(heard) {
            let said = match heard {
                Ok(head) => Said::of(head, log.root_at(head.checkpoint.size).await?),
                Err(problem) => Said::unheard(problem),
            };
            states.push(WitnessState::of(witness, said));
        }
        Ok(Self {
            size,
            root,
            witnesses: states,
        })
    }

    /// Each witness.
    #[must_use]
    pub fn witnesses(&self) -> &[WitnessState] {
        &self.witnesses
    }

    /// Tells the program's log of each witness but those that refuse: of them an error tells.
    pub fn tell(&self) {
        for state in &self.witnesses {
            match &state.said {
                Said::Agrees { size, .. } => {
                    tracing::info!(witness = state.witness, size, "the witness agrees");
                }
                Said::Unheard { problem } => tracing::warn!(
                    witness = state.witness, url = state.url, %problem,
                    "the start is not confirmed by this witness"
                ),
                Said::Newer { .. } | Said::Forked { .. } => {}
            }
        }
    }

    /// Whether at least one witness was asked, and each of them agrees.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        let agree = |state: &WitnessState| matches!(state.said, Said::Agrees { .. });
        !self.witnesses.is_empty() && self.witnesses.iter().all(agree)
    }

    /// Refuses a store that a witness proves not to be the newest.
    ///
    /// # Errors
    /// [`Refused`] tells of every such witness.
    pub fn judge(&self) -> Result<(), Refused> {
        if self.witnesses.iter().any(|state| state.said.refuses()) {
            return Err(Refused {
                told: self.contradictions(),
            });
        }
        Ok(())
    }

    /// What speaks against this store, one sentence for each witness.
    fn contradictions(&self) -> String {
        let ours = (self.size, hex::encode(&self.root));
        let sentences = self.witnesses.iter().filter_map(|state| {
            let by = format!("witness {} ({})", state.witness, state.url);
            match &state.said {
                Said::Newer { size, root } => Some(format!(
                    "{by} has seen {size} entries (root {}), this store has {} (root {}): an older copy was restored",
                    hex::encode(root),
                    ours.0,
                    ours.1,
                )),
                Said::Forked { size, root, ours: here } => Some(format!(
                    "{by} has seen another history, a fork: its {size} entries have the root {}, the first {size} of \
                     the {} in this store have {}",
                    hex::encode(root),
                    ours.0,
                    hex::encode(here),
                )),
                Said::Unheard { .. } | Said::Agrees { .. } => None,
            }
        });
        sentences.collect::<Vec<_>>().join("; ")
    }
}

/// A start that a witness's head forbids.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{told}. Nothing was issued, logged or published. Restore the newest backup of the store; if there is none and what it \
     lacks is lost, start once with --accept-unwitnessed, which is logged (docs/WITNESSES.md)"
)]
pub struct Refused {
    told: String,
}

impl WitnessState {
    /// What this witness said.
    fn of(witness: &Witness, said: Said) -> Self {
        Self {
            witness: witness.name.clone(),
            url: witness.url.to_string(),
            said,
        }
    }
}

/// What the witnesses said at this start, for `status` and `/metrics`; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Board {
    states: Arc<Mutex<Vec<WitnessState>>>,
}

impl Board {
    /// Of witnesses that were not asked yet.
    #[must_use]
    pub fn new(witnesses: &[Witness]) -> Self {
        let unasked = |witness| {
            let problem = "not asked yet".to_owned();
            WitnessState::of(witness, Said::Unheard { problem })
        };
        let states = witnesses.iter().map(unasked).collect();
        Self {
            states: Arc::new(Mutex::new(states)),
        }
    }

    /// Each witness, in the order of the configuration.
    #[must_use]
    pub fn states(&self) -> Vec<WitnessState> {
        self.lock().clone()
    }

    /// Tells what they said.
    pub fn tell(&self, states: &[WitnessState]) {
        *self.lock() = states.to_vec();
    }

    /// The states; no panic can leave them half changed.
    fn lock(&self) -> MutexGuard<'_, Vec<WitnessState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
