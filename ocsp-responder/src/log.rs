//! The signing log's formats: entries, details, the Merkle tree, tiles and checkpoints.
//!
//! Owns every byte that `docs/LOG-FORMAT.md` describes, for writing (the appliance) and for reading
//! (responder and auditor). Promises that one value has one encoding: a parser here re-encodes what it
//! read and refuses bytes that differ. Never touches a key: checkpoints are signed through a closure.

pub mod checkpoint;
pub mod detail;
pub mod entry;
pub mod merkle;
pub mod tile;

pub use detail::{
    Base64, CrlList, Detail, DetailHash, EventDetail, Gone, IntentDetail, OutcomeDetail, Salt,
    UNRESOLVED_RETURNED_MAX, UnitsReturned,
};
pub use entry::{Class, Entry, EntryKind, EventName, IssuerName, LeafIndex, Outcome, Subject};

/// The event of a start of the appliance that no witness confirmed and an operator accepted.
pub const UNWITNESSED_START: &str = "unwitnessed-start";
