//! OCSP responders: listed, approved with their key, given certificates to read with, revoked.

use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use base64ct::{Base64 as Text, Encoding as _};
use certstatus::UnixMillis;
use certstatus::log::entry::Slug;
use certstatus::log::{Base64, DetailHash, LeafIndex};
use serde::{Deserialize, Serialize};

use super::{Acting, Admin, answer, missing, parties, read_json, read_path};
use crate::csr::fit_key;
use crate::http::accept::Told;
use crate::http::problem::Problem;
use crate::ra::{ApprovedResponder, Change, ChangeRefused, Party, PartyCertificate, Reader, Role};
use crate::responders::CertificateState;

/// What approves a responder.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewResponder {
    responder: Slug,
    /// Its public key: PEM, or base64 of the DER.
    key: String,
    /// The request for a certificate to read the published files with, for another key: PEM or base64.
    #[serde(default)]
    tls_csr: Option<String>,
}

/// A responder with its certificates.
#[derive(Debug, Serialize)]
struct Listed {
    #[serde(flatten)]
    approved: ApprovedResponder,
    /// By issuer; empty until the daemon has looked at them.
    certificates: Vec<CertificateState>,
    /// Those that it reads the published files with, newest last.
    client_certificates: Vec<PartyCertificate>,
}

/// A responder that is approved.
#[derive(Debug, Serialize)]
struct Approved {
    responder: Slug,
    sha256: DetailHash,
    /// None where it was approved with this key already.
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<LeafIndex>,
    /// The certificate to read with, where one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<Told<UnixMillis>>,
}

/// A responder that is approved no more.
#[derive(Debug, Serialize)]
struct Revoked {
    responder: Slug,
    entry: LeafIndex,
    /// When the last of its certificates ends: nothing ends them earlier.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificates_until: Option<UnixMillis>,
}

/// `GET /v1/responders`.
pub(super) async fn list(State(admin): State<Admin>) -> Response {
    let registry = admin.inner.log.registry();
    let listed = registry.responders().into_iter().map(|approved| Listed {
        certificates: admin.inner.boards.responders.of(&approved.responder),
        client_certificates: registry
            .reader(&reader(&approved.responder))
            .map_or_else(Vec::new, |record| record.certificates),
        approved,
    });
    answer(Ok(listed.collect::<Vec<_>>()))
}

/// `POST /v1/responders`.
pub(super) async fn approve(
    State(admin): State<Admin>,
    Extension(operator): Extension<Acting>,
    request: Body,
) -> Response {
    match approved(&admin, &operator, request).await {
        Ok(approved) => (StatusCode::CREATED, axum::Json(approved)).into_response(),
        Err(problem) => problem.into_response(),
    }
}

/// A responder as one who reads.
fn reader(name: &Slug) -> Reader {
    Reader {
        role: Role::Responder,
        name: name.clone(),
    }
}

/// Approves a responder's key, and gives the responder a certificate to read with where it asks for one.
async fn approved(
    admin: &Admin,
    Acting(operator): &Acting,
    request: Body,
) -> Result<Approved, Problem> {
    let NewResponder {
        responder,
        key,
        tls_csr,
    } = read_json(request).await?;
    let spki = public_key(&key)?;
    let sha256 = DetailHash::of(&spki);
    let csr = tls_csr.as_deref().map(parties::request).transpose()?;
    if csr.as_ref().is_some_and(|csr| csr.spki_sha256() == sha256) {
        let problem = "it is for the key that signs answers: make another key for TLS";
        return Err(refused("tls_csr", problem.to_owned()));
    }
    let log = &admin.inner.log;
    let entry = match log.registry().responder(&responder) {
        Some(known) if known.sha256 == sha256 => None,
        Some(known) => {
            let problem = format!(
                "{responder} is approved with the key of SHA-256 {}: revoke it first, or take another name",
                known.sha256
            );
            return Err(refused("responder", problem));
        }
        None => {
            let change = Change::ResponderApproved {
                responder: responder.clone(),
                spki: Base64(spki),
            };
            let logged = log.record_change(operator, change).await;
            Some(logged.map_err(|error| Problem::from(&error))?)
        }
    };
    // The approval stands where this fails, and the same request goes on here.
    let client = match csr {
        Some(csr) => {
            let given =
                parties::give(admin, operator, Party::Reader(reader(&responder)), csr).await;
            let half = format!("{responder} is approved, but it has no new client certificate");
            Some(given.map_err(|problem| problem.after(&half))?)
        }
        None => None,
    };
    Ok(Approved {
        responder,
        sha256,
        entry,
        client,
    })
}

/// Reads a public key that we would certify; its SubjectPublicKeyInfo, DER.
fn public_key(text: &str) -> Result<Vec<u8>, Problem> {
    let unreadable = || {
        let problem = "it is not a public key: give the SubjectPublicKeyInfo, PEM (BEGIN PUBLIC KEY) or DER, as \
                       `hallmark-ocsp key` prints it";
        refused("key", problem.to_owned())
    };
    let text = text.trim();
    let der = if text.starts_with("-----") {
        let (label, der) = der::pem::decode_vec(text.as_bytes()).map_err(|_| unreadable())?;
        if label != "PUBLIC KEY" {
            return Err(unreadable());
        }
        der
    } else {
        Text::decode_vec(text).map_err(|_| unreadable())?
    };
    let key = fit_key(&der).map_err(|unfit| refused("key", unfit.to_string()))?;
    Ok(key.spki().to_vec())
}

/// The problem of a value.
fn refused(key: &'static str, problem: String) -> Problem {
    Problem::from(&ChangeRefused::Value { key, problem })
}

/// `POST /v1/responders/{responder}/revoke`.
pub(super) async fn revoke(
    State(admin): State<Admin>,
    Extension(operator): Extension<Acting>,
    Path(responder): Path<String>,
) -> Response {
    answer(revoked(&admin, &operator, &responder).await)
}

/// Ends a responder's renewals and what it reads.
async fn revoked(
    admin: &Admin,
    Acting(operator): &Acting,
    responder: &str,
) -> Result<Revoked, Problem> {
    let name: Slug = read_path(responder, "responder")?;
    let log = &admin.inner.log;
    if log.registry().responder(&name).is_none() {
        return Err(missing("responder", responder));
    }
    let certificates = admin.inner.boards.responders.of(&name);
    let until = certificates
        .iter()
        .filter_map(|state| state.not_after)
        .max();
    let change = Change::ResponderRevoked {
        responder: name.clone(),
    };
    let logged = log.record_change(operator, change).await;
    Ok(Revoked {
        responder: name,
        entry: logged.map_err(|error| Problem::from(&error))?,
        certificates_until: until,
    })
}
