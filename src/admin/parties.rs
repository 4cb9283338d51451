//! What the operators' acts on lines and readers have in common: requests read, certificates given, changes logged.

use certstatus::UnixMillis;
use certstatus::log::LeafIndex;
use serde::Serialize;

use super::Admin;
use crate::csr::{Csr, VerifiedCsr};
use crate::http::accept::Told;
use crate::http::lines::{Asker, certify};
use crate::http::problem::Problem;
use crate::ra::{Change, Grant, Party, Purpose};

/// A change's entry in the log.
#[derive(Debug, Serialize)]
pub(super) struct Logged {
    /// None where everything was so already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) entry: Option<LeafIndex>,
}

/// Reads a certificate request.
///
/// # Errors
/// [`Problem`]: the operator's request is at fault.
pub(super) fn request(csr: &str) -> Result<VerifiedCsr, Problem> {
    let csr = Csr::parse(csr.as_bytes()).and_then(Csr::verify);
    csr.map_err(|refused| Problem::from(&refused))
}

/// Gives a line or a reader a certificate to authenticate with.
///
/// # Errors
/// [`Problem`], for the operator; a retry gives another certificate.
pub(super) async fn give(
    admin: &Admin,
    operator: &str,
    party: Party,
    csr: VerifiedCsr,
) -> Result<Told<UnixMillis>, Problem> {
    let (issuance, log) = (&admin.inner.issuance, &admin.inner.log);
    let purpose = match &party {
        Party::Line(line) => Purpose::Line(line.clone()),
        Party::Reader(reader) => Purpose::Reader(reader.clone()),
    };
    let (grant, operator) = (Grant::act(operator, purpose), operator.to_owned());
    let asker = Asker::Operator;
    let issued = certify(issuance, log, operator, party, grant, csr, asker).await?;
    Told::operator(&issued)
}

/// Has the log say what an operator changed.
///
/// # Errors
/// [`Problem`]: it is not changed, as far as anyone knows.
pub(super) async fn record(
    admin: &Admin,
    operator: &str,
    change: Change,
) -> Result<Logged, Problem> {
    let logged = admin.inner.log.record_change(operator, change).await;
    let entry = logged.map_err(|error| Problem::from(&error))?;
    Ok(Logged { entry: Some(entry) })
}
