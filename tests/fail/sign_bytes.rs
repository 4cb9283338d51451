//! An issuer signs intents, never bytes that nobody logged.
//! expect: error[E0308]: mismatched types

use hallmark::issuer::Signer;

pub async fn unlogged(signer: &Signer, tbs: Vec<u8>) {
    let _ = signer.sign(tbs).await;
}
