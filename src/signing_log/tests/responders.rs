//! Certificates of approved OCSP responders.

use certstatus::log::Base64;

use super::*;

#[tokio::test]
async fn only_the_key_that_is_approved_now_gets_a_responders_certificate() {
    let site = Site::new();
    let log = site.log(100).await;
    let responder: Slug = "ocsp-1".parse().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
    let hash = DetailHash::of(&spki);
    let ask = async |spki: DetailHash| {
        let mut tbs = site.tbs("device-1", device("ocsp-1", 1));
        tbs.device_id = None;
        tbs.spki = spki;
        let grant = Grant::act("appliance", Purpose::Responder(responder.clone()));
        log.record_intent(&grant, ToBeSigned::Certificate(tbs))
            .await
            .map(drop)
    };
    let refused = |asked| matches!(asked, Err(IntentRefused::NotApproved { .. }));
    assert!(refused(ask(hash).await));
    let approved = Change::ResponderApproved {
        responder: responder.clone(),
        spki: Base64(spki),
    };
    log.record_change("op", approved).await.unwrap();
    ask(hash).await.unwrap();
    ask(hash).await.unwrap();
    assert!(refused(ask(DetailHash::of(b"another key")).await));
    let revoked = Change::ResponderRevoked {
        responder: responder.clone(),
    };
    log.record_change("op", revoked).await.unwrap();
    let size = log.status().size;
    assert!(refused(ask(hash).await));
    assert_eq!(log.status().size, size, "a refusal is no entry");
}
