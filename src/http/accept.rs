//! What form the client wants its certificate in, and that form's bytes.
//!
//! Owns content negotiation (RFC 9110, 12.5.1) for certificates. Promises that a form which is not offered
//! is refused before anything is issued. Failure story: without `Accept`, or with a wildcard, it is PEM.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use certstatus::log::LeafIndex;
use certstatus::{SerialNumber, UnixMillis, pkcs7};
use serde::Serialize;

use super::problem::{Problem, kind};
use crate::issuance::{Answer, Origin};

/// A form of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The chain in PEM, leaf first, without the root.
    Pem,
    /// The leaf in DER.
    Leaf,
    /// The chain as certs-only PKCS#7 in DER.
    Pkcs7,
    /// The chain in PEM with serial, entries and validity, as JSON.
    Json,
}

/// Media types that are offered, the one that we prefer first.
const OFFERED: [(&str, Form); 5] = [
    ("application/x-pem-file", Form::Pem),
    // The registered name of the same thing (RFC 8555, 9.1).
    ("application/pem-certificate-chain", Form::Pem),
    ("application/pkix-cert", Form::Leaf),
    ("application/pkcs7-mime", Form::Pkcs7),
    ("application/json", Form::Json),
];

impl Form {
    /// The form that the client likes best.
    ///
    /// # Errors
    /// [`Problem`] 406 with the list of what there is.
    pub(crate) fn wanted(headers: &HeaderMap) -> Result<(&'static str, Self), Problem> {
        let fields: Option<Vec<_>> = headers
            .get_all(header::ACCEPT)
            .iter()
            .map(|value| value.to_str().ok())
            .collect();
        let [pem, ..] = OFFERED;
        match fields {
            Some(fields) if fields.is_empty() => Ok(pem),
            Some(fields) => best(&fields.join(",")).ok_or_else(not_acceptable),
            None => Err(not_acceptable()),
        }
    }
}

/// The refusal of everything that is not offered.
fn not_acceptable() -> Problem {
    let offered: Vec<_> = OFFERED.iter().map(|(name, _)| *name).collect();
    let detail = format!("ask for one of {}", offered.join(", "));
    Problem::new(&kind::NOT_ACCEPTABLE, detail)
}

/// The offered form with the highest quality; of equals the one that we prefer.
fn best(accept: &str) -> Option<(&'static str, Form)> {
    let ranges: Vec<_> = accept.split(',').filter_map(range).collect();
    let mut found: Option<(u16, (&'static str, Form))> = None;
    for offer in OFFERED {
        let quality = quality_of(offer.0, &ranges);
        if quality > 0 && found.is_none_or(|(highest, _)| quality > highest) {
            found = Some((quality, offer));
        }
    }
    found.map(|(_, offer)| offer)
}

/// A media range and its quality in thousandths.
fn range(text: &str) -> Option<(String, u16)> {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next()?.to_ascii_lowercase();
    let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
    let quality = match weight {
        None => 1000,
        Some(weight) => quality(weight)?,
    };
    Some((name, quality))
}

/// A qvalue (`0.5`, `1`) in thousandths.
fn quality(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = fraction.len() <= 3 && fraction.bytes().all(|c| c.is_ascii_digit());
    let thousandths: u16 = format!("{fraction:0<3}").parse().ok().filter(|_| digits)?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1000),
        _ => None,
    }
}

/// The quality of an offer: the most specific range that covers it counts.
fn quality_of(offer: &str, ranges: &[(String, u16)]) -> u16 {
    [offer, "application/*", "*/*"]
        .into_iter()
        .find_map(|wanted| ranges.iter().find(|(name, _)| name == wanted))
        .map_or(0, |(_, quality)| *quality)
}

/// An issued certificate as JSON tells of it, in single answers and in batches.
///
/// Lines read its end as RFC 3339, operators in milliseconds as every time on the admin socket.
#[derive(Debug, Serialize)]
pub(crate) struct Told<T = String> {
    serial: SerialNumber,
    entries: Entries,
    not_after: T,
    origin: &'static str,
    /// PEM, leaf first, without the root.
    chain: String,
}

/// The log entries that account for a certificate.
#[derive(Debug, Serialize)]
struct Entries {
    intent: LeafIndex,
    outcome: LeafIndex,
}

impl Told {
    /// Tells a line of an answer.
    ///
    /// # Errors
    /// [`Problem`] 500 when a certificate is too long for PEM, which none is.
    pub(crate) fn of(answer: &Answer) -> Result<Self, Problem> {
        Self::until(answer, answer.not_after.to_string())
    }
}

impl Told<UnixMillis> {
    /// Tells an operator of an answer.
    ///
    /// # Errors
    /// As for a line.
    pub(crate) fn operator(answer: &Answer) -> Result<Self, Problem> {
        Self::until(answer, answer.not_after)
    }
}

impl<T> Told<T> {
    /// An answer with its end in this form.
    fn until(answer: &Answer, not_after: T) -> Result<Self, Problem> {
        let (intent, outcome) = answer.entries;
        Ok(Self {
            serial: answer.serial,
            entries: Entries { intent, outcome },
            not_after,
            origin: origin(answer.origin),
            chain: pem(&answer.chain)?,
        })
    }
}

/// The word for an origin.
pub(crate) const fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::New => "new",
        Origin::Repeated => "repeated",
    }
}

/// Certificates in PEM, one after the other.
///
/// # Errors
/// As [`Told::of`].
pub(crate) fn pem(chain: &[Vec<u8>]) -> Result<String, Problem> {
    let mut text = String::with_capacity(chain.iter().map(|c| c.len() / 2 * 3 + 64).sum());
    for certificate in chain {
        let one = der::pem::encode_string("CERTIFICATE", der::pem::LineEnding::LF, certificate)
            .map_err(|error| Problem::internal(&error))?;
        text.push_str(&one);
    }
    Ok(text)
}

/// The whole answer: 201 for a new certificate, 200 for one that was issued before.
///
/// # Errors
/// As [`Told::of`].
pub(crate) fn response(
    answer: &Answer,
    (media_type, form): (&'static str, Form),
) -> Result<Response<Body>, Problem> {
    let (content_type, body) = match form {
        Form::Pem => (media_type, pem(&answer.chain)?.into_bytes()),
        Form::Leaf => (
            media_type,
            answer.chain.first().cloned().unwrap_or_default(),
        ),
        Form::Pkcs7 => {
            let chain: Vec<_> = answer.chain.iter().map(Vec::as_slice).collect();
            (
                "application/pkcs7-mime; smime-type=certs-only",
                pkcs7::certs_only(&chain),
            )
        }
        Form::Json => {
            let told = serde_json::to_vec(&Told::of(answer)?);
            (media_type, told.map_err(|error| Problem::internal(&error))?)
        }
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = match answer.origin {
        Origin::New => axum::http::StatusCode::CREATED,
        Origin::Repeated => axum::http::StatusCode::OK,
    };
    let (headers, (_, outcome)) = (response.headers_mut(), answer.entries);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        HeaderName::from_static("hallmark-entry"),
        HeaderValue::from(outcome.0),
    );
    if let Ok(serial) = HeaderValue::from_str(&answer.serial.to_string()) {
        headers.insert(HeaderName::from_static("hallmark-serial"), serial);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use proptest::prelude::*;

    use super::*;

    /// The form that `Accept: text` gets.
    fn wanted(text: &str) -> Option<Form> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, text.parse().unwrap());
        Form::wanted(&headers).ok().map(|(_, form)| form)
    }

    #[test]
    fn the_best_offered_form_is_chosen() {
        let rows = [
            ("*/*", Some(Form::Pem)),
            ("application/*", Some(Form::Pem)),
            ("application/json", Some(Form::Json)),
            ("APPLICATION/JSON", Some(Form::Json)),
            ("application/pkix-cert", Some(Form::Leaf)),
            (
                "application/pkcs7-mime; smime-type=certs-only",
                Some(Form::Pkcs7),
            ),
            ("application/pem-certificate-chain", Some(Form::Pem)),
            (
                "text/html, application/json;q=0.5, */*;q=0.1",
                Some(Form::Json),
            ),
            (
                "application/json;q=0.2, application/pkix-cert;q=0.25",
                Some(Form::Leaf),
            ),
            ("application/x-pem-file;q=0, application/*", Some(Form::Pem)),
            ("application/json;q=0", None),
            ("application/json;q=nonsense", None),
            ("application/json;q=1.5", None),
            ("text/html", None),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(wanted(text), expected, "{text}");
        }
        assert_eq!(Form::wanted(&HeaderMap::new()).unwrap().1, Form::Pem);
    }

    /// An answer with two certificates.
    fn answer(origin: Origin) -> Answer {
        Answer {
            chain: vec![vec![0x30, 0], vec![0x30, 1, 0]],
            serial: SerialNumber::from_random([1; 16]),
            entries: (LeafIndex(7), LeafIndex(9)),
            not_after: UnixMillis(0),
            origin,
        }
    }

    #[tokio::test]
    async fn each_form_has_its_type_and_bytes() {
        for (media_type, form) in OFFERED {
            let response = response(&answer(Origin::New), (media_type, form)).unwrap();
            assert_eq!(response.status(), 201);
            assert_eq!(response.headers()["hallmark-entry"], "9");
            let serial = answer(Origin::New).serial.to_string();
            assert_eq!(response.headers()["hallmark-serial"], serial);
            let content_type = response.headers()["content-type"]
                .to_str()
                .unwrap()
                .to_owned();
            assert!(content_type.starts_with(media_type));
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let pem = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n\
                       -----BEGIN CERTIFICATE-----\nMAEA\n-----END CERTIFICATE-----\n";
            match form {
                Form::Pem => assert_eq!(body, pem),
                Form::Leaf => assert_eq!(body.as_ref(), [0x30, 0]),
                Form::Pkcs7 => assert!(body.starts_with(&[0x30])),
                Form::Json => {
                    let told: serde_json::Value = serde_json::from_slice(&body).unwrap();
                    let expected = serde_json::json!({
                        "serial": serial, "entries": {"intent": 7, "outcome": 9},
                        "not_after": "1970-01-01T00:00:00Z", "origin": "new", "chain": pem,
                    });
                    assert_eq!(told, expected);
                }
            }
        }
        let repeated = response(&answer(Origin::Repeated), ("x", Form::Pem)).unwrap();
        assert_eq!(repeated.status(), 200);
    }

    proptest! {
        #[test]
        fn any_accept_header_is_read(text in ".{0,80}") {
            let _ = best(&text);
        }
    }
}
