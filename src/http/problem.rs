//! Problem documents (RFC 9457): the one place that turns errors into answers.
//!
//! Owns the list of problem types. Promises that every domain error has a stable `type`, a status that says
//! whose fault it is and a sentence for whoever asked, and that causes inside the appliance go to its own log
//! with their whole chain, never to the client. Failure story: there is none; an answer is always made.

use std::error::Error;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use certstatus::SerialNumber;
use serde::Serialize;

use crate::csr::CsrRefused;
use crate::hsm::HsmError;
use crate::issuance::IssueError;
use crate::profile::BuildRefused;
use crate::ra::{ChangeRefused, Refused};
use crate::signing_log::{IntentRefused, LogError, RevokeRefused};

pub(crate) mod kind;

use kind::Kind;

/// The media type of problem documents.
pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

/// The longest that a crowd at a token is told to stay away: its rate may be another by then.
const RETRY_AFTER_SECONDS_MAX: u32 = 30;

/// What a client gets instead of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    kind: &'static Kind,
    detail: String,
    rule: Option<&'static str>,
    serial: Option<SerialNumber>,
    /// Seconds after which the same request may succeed.
    retry_after: Option<u32>,
}

/// The document as it stands in JSON.
#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<SerialNumber>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u32>,
}

impl Problem {
    /// A problem of a kind with its sentence.
    pub(crate) fn new(kind: &'static Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            rule: None,
            serial: None,
            retry_after: kind.retry_after,
        }
    }

    /// The name of the rule, for logs and metrics: the finer of type and rule.
    pub(crate) fn rule(&self) -> &'static str {
        self.rule.unwrap_or(self.kind.slug)
    }

    /// The status.
    pub(crate) const fn status(&self) -> StatusCode {
        self.kind.status
    }

    /// Says before it what was done all the same.
    pub(crate) fn after(mut self, done: &str) -> Self {
        self.detail = format!("{done}: {}", self.detail);
        self
    }

    /// Adds the serial that it is about.
    fn with_serial(mut self, serial: SerialNumber) -> Self {
        self.serial = Some(serial);
        self
    }

    /// Something that is wrong inside: the chain of causes to the log, an apology to the client.
    pub(crate) fn internal(error: &dyn Error) -> Self {
        tracing::error!(cause = certstatus::chain(error), "a request failed inside");
        let detail = "the appliance failed on this request and has logged why: tell its operator";
        Self::new(&kind::INTERNAL, detail)
    }

    /// Something that does not work now and comes back: the chain of causes to the log.
    fn unavailable(kind: &'static Kind, detail: &str, error: &dyn Error) -> Self {
        tracing::warn!(
            cause = certstatus::chain(error),
            "a request must be made again"
        );
        Self::new(kind, detail)
    }
}

impl Serialize for Problem {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let document = Document {
            r#type: self.kind.urn(),
            title: self.kind.title,
            status: self.kind.status.as_u16(),
            detail: &self.detail,
            rule: self.rule,
            serial: self.serial,
            retry_after_seconds: self.retry_after,
        };
        document.serialize(to)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        // Strings and integers always serialise.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.kind.status;
        let headers = response.headers_mut();
        let mut set = |name: HeaderName, value: HeaderValue| headers.insert(name, value);
        set(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        set(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after {
            set(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.kind.status == StatusCode::UNAUTHORIZED {
            // A 401 names a scheme (RFC 9110, 15.5.2); TLS client certificates have none registered.
            let scheme = HeaderValue::from_static("ClientCertificate");
            set(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

impl From<&Refused> for Problem {
    fn from(refused: &Refused) -> Self {
        let kind = match refused {
            Refused::NoCertificate => &kind::NO_CERTIFICATE,
            Refused::UnknownCertificate => &kind::UNKNOWN_CERTIFICATE,
            Refused::OutsideValidity { .. } => &kind::CERTIFICATE_OUTSIDE_VALIDITY,
            Refused::LineDisabled(_) => &kind::LINE_DISABLED,
            Refused::ReaderDisabled(_) => &kind::READER_DISABLED,
            Refused::WrongRole { .. } => &kind::WRONG_ROLE,
            Refused::NoOrder(_) => &kind::NO_SUCH_ORDER,
            Refused::OrderClosed(_) => &kind::ORDER_CLOSED,
            Refused::OutsideDates { .. } => &kind::ORDER_OUTSIDE_DATES,
            Refused::UsedUp { .. } => &kind::ORDER_USED_UP,
            Refused::DeviceId { .. } => &kind::DEVICE_ID_PATTERN,
            Refused::DeviceIdForm => &kind::DEVICE_ID_FORM,
            Refused::TooManyCertificates { .. } => &kind::TOO_MANY_CERTIFICATES,
        };
        Self::new(kind, refused.to_string())
    }
}

impl From<&CsrRefused> for Problem {
    fn from(refused: &CsrRefused) -> Self {
        let mut problem = Self::new(&kind::CSR_REFUSED, refused.to_string());
        problem.rule = Some(refused.rule());
        problem
    }
}

impl From<&BuildRefused> for Problem {
    fn from(refused: &BuildRefused) -> Self {
        match refused {
            BuildRefused::Request { .. } => Self::new(&kind::FIELD_REFUSED, refused.to_string()),
            // No request can cause it: the operator's profile is at fault, and the sender can do nothing.
            BuildRefused::Lint { .. } => Self::internal(refused),
        }
    }
}

impl From<&IntentRefused> for Problem {
    fn from(refused: &IntentRefused) -> Self {
        let conflict = |kind, serial: Option<SerialNumber>| {
            let mut problem = Self::new(kind, refused.to_string());
            problem.serial = serial;
            problem
        };
        match refused {
            IntentRefused::Order(refused) => Self::from(refused),
            IntentRefused::ClaimTaken => Self::new(
                &kind::LATE,
                "the same request is in work: send it again to get its certificate",
            ),
            IntentRefused::KeyUsed { holder } => {
                conflict(&kind::KEY_USED, holder.as_ref().map(|holder| holder.serial))
            }
            IntentRefused::DeviceIdUsed { serial, .. } => conflict(&kind::DEVICE_ID_USED, *serial),
            IntentRefused::IssuerRevoked { .. } => {
                Self::new(&kind::ISSUER_REVOKED, refused.to_string())
            }
            // No request asks for a responder's certificate.
            IntentRefused::Object { .. } | IntentRefused::NotApproved { .. } => {
                Self::internal(refused)
            }
            IntentRefused::Log(error) => Self::from(error),
        }
    }
}

impl From<&LogError> for Problem {
    fn from(error: &LogError) -> Self {
        let again = |kind, detail| Self::unavailable(kind, detail, error);
        match error {
            LogError::Busy => Self::busy(),
            LogError::Halted(_) | LogError::Randomness => again(
                &kind::HALTED,
                "nothing can be recorded now, so nothing is issued: send the same request again later",
            ),
            LogError::Recovering => again(
                &kind::RECOVERING,
                "the appliance has just started and checks its records: send the same request again soon",
            ),
            LogError::Stopping => again(
                &kind::STOPPING,
                "the appliance is stopping: send the same request again when it is back",
            ),
            LogError::ClockBackwards { .. } => again(
                &kind::CLOCK_WRONG,
                "the appliance's clock is wrong, so nothing is issued: its operator must set it right",
            ),
            LogError::LogKey(_) => again(
                &kind::HALTED,
                "the signing log cannot be signed now, so nothing is issued: send the same request again later",
            ),
            LogError::TokenBusy(_) => again(
                &kind::RECOVERING,
                "the appliance waits for its token to finish: send the same request again soon",
            ),
            LogError::Read(_) => again(
                &kind::HALTED,
                "the appliance cannot read its records now: send the same request again later",
            ),
            LogError::Damaged(_) | LogError::WrongLog(_) | LogError::Publish(_) => {
                Self::internal(error)
            }
            LogError::Change(refused) => Self::from(refused),
            LogError::Revoke(refused) => Self::from(refused),
        }
    }
}

impl From<&HsmError> for Problem {
    fn from(error: &HsmError) -> Self {
        if let HsmError::Busy { .. } = error {
            return Self::busy();
        }
        let kind = if error.retry_helps() {
            &kind::TOKEN_FAILED
        } else {
            &kind::TOKEN_UNFIT
        };
        let detail =
            "the token that holds the issuer's key did not sign: send the same request again later";
        Self::unavailable(kind, detail, error)
    }
}

impl From<&RevokeRefused> for Problem {
    fn from(refused: &RevokeRefused) -> Self {
        let (kind, serial) = match refused {
            RevokeRefused::NotIssued(serial) => (&kind::MISSING, serial),
            RevokeRefused::NotOnHold(serial) | RevokeRefused::Final(serial) => {
                (&kind::NOT_ON_HOLD, serial)
            }
        };
        Self::new(kind, refused.to_string()).with_serial(*serial)
    }
}

impl From<&ChangeRefused> for Problem {
    fn from(refused: &ChangeRefused) -> Self {
        let kind = match refused {
            ChangeRefused::Line(refused) => return Self::from(refused),
            ChangeRefused::Exists(_) => &kind::EXISTS,
            ChangeRefused::Missing(_) => &kind::MISSING,
            ChangeRefused::Value { .. } => &kind::VALUE_REFUSED,
        };
        Self::new(kind, refused.to_string())
    }
}

impl From<&IssueError> for Problem {
    fn from(error: &IssueError) -> Self {
        match error {
            IssueError::Csr(refused) => Self::from(refused),
            IssueError::Ra(refused) => Self::from(refused),
            IssueError::Build(refused) => Self::from(refused),
            IssueError::Intent(refused) => Self::from(refused),
            IssueError::RevokedBefore(serial) => {
                Self::new(&kind::REVOKED_BEFORE, error.to_string()).with_serial(*serial)
            }
            IssueError::HeldBefore(serial) => {
                Self::new(&kind::HELD_BEFORE, error.to_string()).with_serial(*serial)
            }
            IssueError::NoDeviceId => Self::new(
                &kind::NO_DEVICE_ID,
                "the request names no device: add ?device_id= to the URL, or, where the order's profile takes one, give its \
                 subject one common name",
            ),
            IssueError::DeviceIdDiffers { .. } => {
                Self::new(&kind::DEVICE_ID_DIFFERS, error.to_string())
            }
            IssueError::NoToken => Self::unavailable(
                &kind::NO_TOKEN,
                "the token that holds the issuer's key is not there now: send the same request again soon",
                error,
            ),
            IssueError::Token(source) => Self::from(source),
            IssueError::Crowded { retry_after } => Self::crowded(*retry_after),
            // The intent is closed; a retry is a new attempt, perhaps on another token.
            IssueError::Check(_) => Self::unavailable(
                &kind::TOKEN_FAILED,
                "the token made a wrong signature, which was thrown away: send the same request again soon",
                error,
            ),
            IssueError::NoProfile(_) | IssueError::Randomness | IssueError::NotACertificate(_) => {
                Self::internal(error)
            }
            IssueError::Log(source) => Self::from(source),
            IssueError::Late => Self::late(),
        }
    }
}

/// Problems that only the listeners know.
impl Problem {
    /// All places are taken.
    pub(crate) fn busy() -> Self {
        let detail =
            "the appliance has as much work as it can do: send the same request again soon";
        Self::new(&kind::BUSY, detail)
    }

    /// The line waits for as many signatures as the token can make in time: it comes back once these are made.
    fn crowded(retry_after: Duration) -> Self {
        let seconds = u32::try_from(retry_after.as_secs()).unwrap_or(u32::MAX);
        let mut problem = Self::busy();
        problem.retry_after = Some(seconds.saturating_add(1).min(RETRY_AFTER_SECONDS_MAX));
        problem
    }

    /// No answer in time.
    pub(crate) fn late() -> Self {
        let detail = "the certificate is not ready yet: send the same request again to get it";
        Self::new(&kind::LATE, detail)
    }

    /// A body over its limit.
    pub(crate) fn too_long(bytes_max: usize) -> Self {
        let detail = format!("the body is longer than {bytes_max} bytes");
        Self::new(&kind::TOO_LONG, detail)
    }
}

#[cfg(test)]
mod tests;
