//! A line's own certificate: renewed by the line, or issued by an operator's act; a reader's, by an operator's act.
//!
//! Owns the order of the two steps: the certificate is issued, then the registry's change is logged.
//! Promises that such a certificate authenticates only after both are durable, and that a client that goes
//! away cancels neither; that a renewal ends in a usable certificate only while the certificate that asked for
//! it may still ask, that a line renews one certificate at a time, and that the same renewal (of the same certificate,
//! for the same key) gets the same certificate. Failure story: a certificate whose second step failed authenticates
//! nobody; the line asks again and gets another.

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use certstatus::log::DetailHash;
use certstatus::{SerialNumber, UnixMillis};
use der::Decode as _;
use x509_cert::Certificate;

use super::accept::{self, Form};
use super::problem::Problem;
use super::{Api, Asked, Peer, body, in_time};
use crate::csr::{Csr, VerifiedCsr};
use crate::issuance::{Answer, Issuance, IssueError, RenewalTurn};
use crate::limits;
use crate::ra::{Change, Grant, Line, Party, PartyCertificate};
use crate::signing_log::SigningLog;

/// The profile of the certificates of lines and readers.
pub const LINE_PROFILE: &str = "line";

/// Who asked for a line's certificate.
pub(crate) enum Asker {
    /// An operator; a line or auditor that does not exist yet is added once its certificate is there.
    Operator,
    /// The line itself, with the certificate of this serial, in its turn.
    Line {
        /// The serial.
        renews: SerialNumber,
        /// Held until both steps are done.
        turn: RenewalTurn,
    },
}

/// Issues a certificate for a line or a reader and lets it authenticate that party; `operator` is who the log names.
///
/// # Errors
/// [`Problem`], for whoever asked.
pub(crate) async fn certify(
    issuance: &Issuance,
    log: &SigningLog,
    operator: String,
    party: Party,
    grant: Grant,
    csr: VerifiedCsr,
    asker: Asker,
) -> Result<Answer, Problem> {
    let (issuance, log) = (issuance.clone(), log.clone());
    // Both steps in a task of their own: a client that goes away between them must not leave half.
    let task = tokio::spawn(async move {
        let issued = issuance.access(grant, LINE_PROFILE, csr).await;
        let answer = issued.map_err(|error| Problem::from(&error))?;
        let certificate = line_certificate(&answer).map_err(|error| Problem::from(&error))?;
        let (renews, turn) = match asker {
            Asker::Operator => (None, None),
            Asker::Line { renews, turn } => (Some(renews), Some(turn)),
        };
        if let Party::Line(line) = &party
            && renews.is_none()
            && log.registry().line(line).is_none()
        {
            let added = Change::LineAdded { line: line.clone() };
            let logged = log.record_change(&operator, added).await;
            logged.map_err(|error| Problem::from(&error))?;
        }
        let change = match party {
            Party::Line(line) => Change::LineCertified {
                line,
                certificate,
                renews,
            },
            Party::Reader(reader) => Change::ReaderCertified {
                reader,
                certificate,
            },
        };
        let logged = log.record_change(&operator, change).await;
        drop(turn);
        logged.map_err(|error| Problem::from(&error))?;
        Ok(answer)
    });
    in_time(task)
        .await?
        .map_err(|error| Problem::internal(&error))?
}

/// What the registry keeps of an issued line certificate.
fn line_certificate(answer: &Answer) -> Result<PartyCertificate, IssueError> {
    let unreadable = || IssueError::NotACertificate(answer.entries.0);
    let der = answer.chain.first().ok_or_else(unreadable)?;
    let certificate = Certificate::from_der(der).map_err(|_| unreadable())?;
    let validity = certificate.tbs_certificate().validity();
    let seconds =
        |time: &x509_cert::time::Time| UnixMillis::from_seconds(time.to_unix_duration().as_secs());
    Ok(PartyCertificate {
        serial: answer.serial,
        sha256: DetailHash::of(der),
        not_before: seconds(&validity.not_before),
        not_after: seconds(&validity.not_after),
    })
}

/// `POST /v1/line/certificate`: the line that asks gets a new certificate for itself, or the one that the same
/// renewal got before.
pub(super) async fn renew(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    request: Body,
) -> Response {
    let mut line = None;
    let answered = async {
        let proved = api.line(peer).map_err(|refused| Problem::from(&refused))?;
        line = Some(proved);
        let wanted = Form::wanted(&headers)?;
        let bytes = body::read(request, limits::CSR_BYTES_MAX).await?;
        // Again: whoever sends slowly may have been disabled or revoked meanwhile.
        let proved = api.line(peer).map_err(|refused| Problem::from(&refused))?;
        let proved = line.insert(proved);
        let place = api.in_flight(proved)?;
        let (inner, name) = (&api.inner, proved.name().clone());
        // Before the count, so that no two renewals of a line count the same certificates.
        let turn = inner.issuance.renewal_turn(&name);
        let turn = turn.ok_or_else(Problem::busy)?;
        let csr = Csr::parse(&bytes).and_then(Csr::verify);
        let csr = csr.map_err(|refused| Problem::from(&refused))?;
        // Before the count too: a retry adds no certificate.
        let before = in_time(inner.issuance.renewed_before(proved, &csr)).await?;
        if let Some(answer) = before.map_err(|error| Problem::from(&error))? {
            return accept::response(&answer, wanted);
        }
        let asker = Asker::Line {
            renews: proved.serial(),
            turn,
        };
        let grant = inner.log.registry().renewal(proved, inner.clock.now());
        let grant = grant.map_err(|refused| Problem::from(&refused))?;
        let operator = format!("line {name}");
        let (issuance, log) = (inner.issuance.clone(), inner.log.clone());
        // The work keeps its place when the line hangs up.
        let certified = tokio::spawn(async move {
            let party = Party::Line(name);
            let answer = certify(&issuance, &log, operator, party, grant, csr, asker).await;
            drop(place);
            answer
        });
        let answer = certified
            .await
            .map_err(|error| Problem::internal(&error))??;
        accept::response(&answer, wanted)
    };
    match answered.await {
        Ok(response) => response,
        Err(problem) => {
            let asked = Asked {
                line: line.as_ref().map(Line::name),
                ..Asked::default()
            };
            api.note(&problem, peer, asked);
            problem.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use certstatus::log::LeafIndex;
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::issuance::Origin;

    #[test]
    fn the_registry_keeps_what_the_certificate_says() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 2);
        params.not_after = rcgen::date_time_ymd(2056, 1, 2);
        let der = params.self_signed(&key).unwrap().der().to_vec();
        let mut answer = Answer {
            chain: vec![der.clone()],
            serial: SerialNumber::from_random([1; 16]),
            entries: (LeafIndex(1), LeafIndex(2)),
            not_after: UnixMillis(0),
            origin: Origin::New,
        };
        let kept = line_certificate(&answer).unwrap();
        assert_eq!(kept.sha256, DetailHash::of(&der));
        assert_eq!(kept.not_before.to_string(), "2026-01-02T00:00:00Z");
        assert_eq!(kept.not_after.to_string(), "2056-01-02T00:00:00Z");
        answer.chain = vec![vec![0x30]];
        assert!(line_certificate(&answer).is_err());
    }
}
