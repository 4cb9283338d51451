//! From a request's octets to the answer's.
//!
//! Owns which answer a request gets. Promises that a status comes from a verified view that is young enough, that an
//! answer's thisUpdate is the time of the newest entry verified before its status was read, that no answer outlives the
//! responder's certificate, that what was never issued is never `good`, and that no origin has everything signed for it. Never waits, never verifies a file, knows no
//! HTTP. Failure story: everything that can go wrong is an OCSP status.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;

use super::State;
use super::cache::{Cache, SignedAnswer};
use super::certificate::ResponderCertificate;
use super::clock::{Moment, millis};
use super::config::{Identify, Ocsp};
use super::http::date::header_value;
use super::issuers::{Issuer, Named};
use super::keys::SigningKey;
use super::metrics::Outcome;
use super::shares::Origin;
use super::signatures::Signatures;
use crate::ocsp::{self, ErrorStatus, Request, SingleResponse};
use crate::signature::SignatureAlgorithm;
use crate::{CertStatus, UnixMillis};

/// The least time for which a kept answer is used, where the log's newest entry is old already.
const FRESH_MIN: Duration = Duration::from_secs(5);

/// What goes out.
#[derive(Debug)]
pub enum Reply {
    /// A signed answer that everybody who asks this may have, and somebody had.
    Shared(Arc<SignedAnswer>),
    /// The same, signed for whoever asks now.
    New(Arc<SignedAnswer>),
    /// A signed answer for this once: with a nonce, for several certificates, or `unknown`.
    Once(Bytes),
    /// An unsigned one.
    Error(ErrorStatus),
}

/// Makes answers.
#[derive(Debug)]
pub struct Answerer {
    key: SigningKey,
    identify: Identify,
    life: Duration,
    cache: Arc<Cache>,
    signatures: Signatures,
}

/// What one answer is made from.
struct Ground<'a> {
    issuer: &'a Issuer,
    certificate: &'a ResponderCertificate,
    now: Moment,
    /// The log's generation before its status was read.
    generation: u64,
    this_update: UnixMillis,
    next_update: UnixMillis,
}

impl Answerer {
    /// Answers with this key, as configured.
    pub fn new(key: SigningKey, config: &Ocsp, cache: Arc<Cache>) -> Self {
        Self {
            key,
            identify: config.identify,
            life: config.life,
            cache,
            signatures: Signatures::new(config.signatures_per_origin),
        }
    }

    /// The answers that are kept.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The key's SubjectPublicKeyInfo, DER.
    pub fn spki(&self) -> &[u8] {
        self.key.spki()
    }

    /// Answers a GET request; `path` is what follows `/ocsp/`, as it came.
    pub fn get(&self, state: &State, origin: Origin, path: &str, now: Moment) -> Reply {
        if let Some(answer) = self.cache.by_path(path, now) {
            state.metrics.hit();
            return Reply::Shared(answer);
        }
        let Ok(der) = ocsp::decode_get_path(path) else {
            state.metrics.count(Outcome::Malformed);
            return Reply::Error(ErrorStatus::MalformedRequest);
        };
        let reply = self.ask(state, origin, &der);
        // From the second time on: who asks for all certificates once puts no path out that many ask for.
        if let Reply::Shared(answer) = &reply {
            self.cache.keep_path(path, answer);
        }
        reply
    }

    /// Answers an OCSPRequest, however it came.
    pub fn ask(&self, state: &State, origin: Origin, der: &[u8]) -> Reply {
        let Ok(request) = ocsp::parse_request(der) else {
            state.metrics.count(Outcome::Malformed);
            return Reply::Error(ErrorStatus::MalformedRequest);
        };
        match self.answer(state, origin, &request) {
            Ok(reply) => reply,
            Err(status) => {
                state.metrics.count(Outcome::of(status));
                Reply::Error(status)
            }
        }
    }

    /// Answers a request that is well formed.
    fn answer(
        &self,
        state: &State,
        origin: Origin,
        request: &Request<'_>,
    ) -> Result<Reply, ErrorStatus> {
        // One certificate of one issuer signs the answer (RFC 6960, 4.2.2.2), so all must be of one.
        let issuer = match state.issuers.find(&request.cert_ids) {
            Named::One(issuer) => issuer,
            Named::Doubtful => return Err(ErrorStatus::TryLater),
            Named::Nobody if state.logs.iter().all(|log| log.knows_issuers()) => {
                return Err(ErrorStatus::Unauthorized);
            }
            // At a first start, or where a CA certificate is missing, nobody can tell whose it is.
            Named::Nobody => return Err(ErrorStatus::TryLater),
        };
        let now = state.clock.now();
        if let ([id], None) = (request.cert_ids.as_slice(), request.nonce)
            && let Some(serial) = id.serial_number()
            && let Some(kept) =
                self.cache
                    .by_cert_id(issuer.log.index, &issuer.name, serial, id.der, now)
        {
            state.metrics.hit();
            return Ok(Reply::Shared(kept));
        }
        let ground = self.ground(&issuer, now)?;
        if !self.signatures.take(origin, now) {
            state.metrics.unsigned();
            return Err(ErrorStatus::TryLater);
        }
        let mut singles = Vec::with_capacity(request.cert_ids.len());
        for id in &request.cert_ids {
            let status = match id.serial_number() {
                None => CertStatus::Unknown,
                Some(serial) => {
                    let status = issuer.log.reader.status(&issuer.name, serial);
                    status.map_err(|_| ErrorStatus::TryLater)?
                }
            };
            singles.push(SingleResponse {
                cert_id: id.der,
                status,
                this_update: ground.this_update,
                next_update: ground.next_update,
            });
        }
        let der = self.sign(&ground, &singles, request.nonce)?;
        singles
            .iter()
            .for_each(|single| state.metrics.count(Outcome::of_status(single.status)));
        let [single] = singles.as_slice() else {
            return Ok(Reply::Once(der.into()));
        };
        if request.nonce.is_some() || single.status == CertStatus::Unknown {
            return Ok(Reply::Once(der.into()));
        }
        Ok(Reply::New(self.keep(&ground, request, der)))
    }

    /// What an answer of this issuer can be made from now.
    fn ground<'a>(&self, issuer: &'a Issuer, now: Moment) -> Result<Ground<'a>, ErrorStatus> {
        let Some(certificate) = issuer.certificate.as_deref() else {
            // A root or another issuer that this responder has no part in, unless it has no part in any yet.
            return Err(if issuer.log_has_some {
                ErrorStatus::Unauthorized
            } else {
                ErrorStatus::TryLater
            });
        };
        let log = &issuer.log;
        // Before the time and the status: what is newer than it was known to be does no harm.
        let generation = log.generation();
        if !log.is_fresh(now) || !certificate.is_valid(now.date) {
            return Err(ErrorStatus::TryLater);
        }
        let this_update = log.reader.as_of().ok_or(ErrorStatus::TryLater)?;
        let next_update = this_update
            .saturating_add(self.life)
            .min(certificate.not_after);
        if next_update <= now.date {
            return Err(ErrorStatus::TryLater);
        }
        Ok(Ground {
            issuer,
            certificate,
            now,
            generation,
            this_update,
            next_update,
        })
    }

    /// Signs an answer.
    fn sign(
        &self,
        ground: &Ground<'_>,
        singles: &[SingleResponse<'_>],
        nonce: Option<ocsp::Nonce<'_>>,
    ) -> Result<Vec<u8>, ErrorStatus> {
        let responder = match self.identify {
            Identify::ByKey => &ground.certificate.by_key,
            Identify::ByName => &ground.certificate.by_name,
        };
        // Never before what it states, whatever the clocks say.
        let produced_at = ground.now.date.max(ground.this_update);
        let tbs = ocsp::response_data(responder, produced_at, singles, nonce);
        let signature = self.key.sign(&tbs).ok_or(ErrorStatus::InternalError)?;
        let certificates = [ground.certificate.der.as_slice()];
        Ok(ocsp::successful(
            &tbs,
            SignatureAlgorithm::EcdsaSha256,
            &signature,
            &certificates,
        ))
    }

    /// Keeps an answer for one certificate.
    fn keep(&self, ground: &Ground<'_>, request: &Request<'_>, der: Vec<u8>) -> Arc<SignedAnswer> {
        // Half of its life is enough for those who get it last; what is younger than the view is kept a moment.
        let half = ground.this_update.saturating_add(self.life / 2);
        let left = half
            .0
            .saturating_sub(ground.now.date.0)
            .max(millis(FRESH_MIN));
        let dates = [
            header_value(ground.this_update),
            header_value(ground.next_update),
        ];
        let log = Arc::clone(&ground.issuer.log);
        let fresh_until = ground.now.steady.saturating_add(left);
        let life = [ground.this_update, ground.next_update];
        let answer = SignedAnswer::new(der, dates, life, log, fresh_until);
        let answer = Arc::new(answer);
        if let [id] = request.cert_ids.as_slice()
            && let Some(serial) = id.serial_number()
        {
            let name = &ground.issuer.name;
            self.cache
                .keep(name, serial, id.der, &answer, ground.generation);
        }
        answer
    }
}
