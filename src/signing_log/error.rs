//! Why the log refuses an intent, an entry or a read.
//!
//! Owns the two error enums. Texts are for operators and lines; none holds SQL, a detail or a secret.

use certstatus::log::IssuerName;
use certstatus::log::entry::Slug;
use certstatus::{SerialNumber, UnixMillis};

use super::revocations::RevokeRefused;
use crate::hsm::HsmError;
use crate::ra::{ChangeRefused, Refused};
use crate::store::StoreError;

/// Why an intent is not made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IntentRefused {
    /// The order does not entitle it (closed, dates, used up), checked in the transaction.
    #[error(transparent)]
    Order(Refused),
    /// The claim is taken: look at what it has come to.
    #[error("this request has been made before")]
    ClaimTaken,
    /// The public key belongs to another device id or request.
    #[error(
        "this public key was used before{}: a device makes its own key, once",
        holder.as_ref().map(Holder::told).unwrap_or_default()
    )]
    KeyUsed {
        /// Whose it is, where whoever asks may know.
        holder: Option<Holder>,
    },
    /// The device id has a certificate already.
    #[error(
        "device id {device_id:?} has a certificate already{}",
        serial.map(|serial| format!(" (serial {serial})")).unwrap_or_default()
    )]
    DeviceIdUsed {
        /// The device id, as asked for.
        device_id: String,
        /// Its certificate, where whoever asks may know.
        serial: Option<SerialNumber>,
    },
    /// The certificate of the issuer, or of the one that vouches for lines, is revoked or on hold.
    #[error(
        "the CA certificate of {issuer} is revoked or on hold, so nothing is issued: tell the appliance's operator"
    )]
    IssuerRevoked {
        /// Whose certificate is revoked.
        issuer: IssuerName,
    },
    /// The key is not approved as this responder's.
    #[error(
        "this key is not approved as that of responder {responder}: see `hallmark responder list`"
    )]
    NotApproved {
        /// The responder.
        responder: Slug,
    },
    /// The object is not one that the grant entitles to, or cannot stand in the log: our own fault.
    #[error("the signing log does not take this object: {problem}")]
    Object {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The log takes no entries now.
    #[error(transparent)]
    Log(LogError),
}

/// The certificate that holds a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its device id, or the profile of a certificate that is no device's.
    pub device_id: String,
    /// Its serial.
    pub serial: SerialNumber,
}

impl Holder {
    /// As part of a sentence.
    fn told(&self) -> String {
        format!(" for {:?} (serial {})", self.device_id, self.serial)
    }
}

/// Why the log did not take an entry or could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// Storage failed; nothing is issued until recovery is through.
    #[error("the signing log is halted: {0}")]
    Halted(String),
    /// Recovery is not through.
    #[error("the signing log is recovering")]
    Recovering,
    /// The system gives no randomness for salts: without it details could be guessed.
    #[error("the system gives no randomness")]
    Randomness,
    /// Too many appends wait.
    #[error("the signing log is busy")]
    Busy,
    /// The daemon is stopping.
    #[error("the appliance is stopping")]
    Stopping,
    /// The clock is more than 5 s before the newest entry.
    #[error("the clock says {now}, before the log's newest entry at {newest}: set the clock right")]
    ClockBackwards {
        /// The clock.
        now: UnixMillis,
        /// The newest entry.
        newest: UnixMillis,
    },
    /// The database does not say what it must.
    #[error("the database is damaged: {0}")]
    Damaged(String),
    /// The database holds no log, or another one than the configuration names.
    #[error("this is not the configured log: {0}")]
    WrongLog(String),
    /// The log key does not sign.
    #[error("the log key does not sign")]
    LogKey(#[source] HsmError),
    /// A token host may still sign for an earlier process: open intents cannot be closed yet.
    #[error("open intents cannot be closed while a token may still sign")]
    TokenBusy(#[source] HsmError),
    /// Reading the database failed.
    #[error("reading the database failed: {0}")]
    Read(String),
    /// Writing the published files failed; it is retried.
    #[error("publishing the log failed: {0}")]
    Publish(String),
    /// A certificate cannot be revoked or released.
    #[error(transparent)]
    Revoke(#[from] RevokeRefused),
    /// A change of the registry is refused.
    #[error(transparent)]
    Change(#[from] ChangeRefused),
}

impl LogError {
    /// A failed read.
    pub(super) fn read(error: &sqlx::Error) -> Self {
        Self::Read(certstatus::chain(error))
    }

    /// A failed reopening or a failed append, in one line for the operator.
    pub(super) fn halted(error: &StoreError) -> Self {
        Self::Halted(certstatus::chain(error))
    }
}

impl From<LogError> for IntentRefused {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}
