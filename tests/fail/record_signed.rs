//! A signature that was not checked cannot be recorded as issued.
//! expect: error[E0308]: mismatched types

use hallmark::{issuer::Signed, signing_log::SigningLog};

pub async fn unchecked(log: &SigningLog, signed: Signed) {
    let _ = log.record_issued(signed).await;
}
