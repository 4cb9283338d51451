//! An intent permits one signature: it is consumed.
//! expect: error[E0382]: use of moved value: `intent`

use hallmark::{issuer::Signer, signing_log::Intent};

pub async fn twice(signer: &Signer, intent: Intent) {
    let _first = signer.sign(intent).await;
    let _second = signer.sign(intent).await;
}
