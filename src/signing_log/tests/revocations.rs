//! Revoking, holding and releasing, one and many; selections; issuers.

use std::collections::BTreeMap;

use super::*;

/// The serial of what was issued.
fn serial_of(issued: &Issued) -> SerialNumber {
    match *issued.subject() {
        Subject::Certificate { serial, .. } => serial,
        _ => panic!("no certificate"),
    }
}

/// Devices `dev-0` and so on, issued under `demo`.
async fn issued(site: &Site, log: &SigningLog, count: u8) -> Vec<SerialNumber> {
    let mut serials = Vec::new();
    for n in 0..count {
        let id: &'static str = Box::leak(format!("dev-{n}").into_boxed_str());
        serials.push(serial_of(&site.issue(log, device(id, n)).await.unwrap()));
    }
    serials
}

/// What the full CRL of `device-1` would list.
async fn on_crl(log: &SigningLog) -> Vec<(SerialNumber, UnixMillis, Option<u8>)> {
    let entries = all_revoked(log).await.into_iter();
    entries
        .map(|entry| (entry.serial, entry.revoked_at, entry.reason))
        .collect()
}

#[tokio::test]
async fn a_hold_is_released_or_made_final_from_its_own_time_on() {
    use RevocationReason as R;
    let site = Site::new();
    let log = site.log(10).await;
    let device = device("dev-1", 1);
    let one = serial_of(&site.issue(&log, device).await.unwrap());
    let mut woken = log.revocations();
    let start = *woken.borrow_and_update();
    let held = log
        .record_revoked("op", one, R::CertificateHold)
        .await
        .unwrap();
    assert_eq!(*woken.borrow_and_update(), start + 1);
    assert_eq!(on_crl(&log).await, [(one, held.revoked_at, Some(6))]);
    let record = log.certificate(one).await.unwrap().unwrap();
    assert_eq!(
        (record.status, record.revocation),
        (CertificateState::OnHold, Some(held))
    );
    assert!(record.pem.is_some());
    match log.claimed(&device.claim()).await.unwrap() {
        Claimed::Revoked { standing, .. } => assert!(standing.is_hold()),
        other => panic!("{other:?}"),
    }
    let size = log.status().size;
    assert_eq!(
        log.record_revoked("op", one, R::CertificateHold)
            .await
            .unwrap(),
        held
    );
    assert_eq!(log.status().size, size, "nothing is logged twice");

    let released = log
        .record_revoked("op", one, R::RemoveFromCrl)
        .await
        .unwrap();
    assert_eq!(
        log.record_revoked("op", one, R::RemoveFromCrl)
            .await
            .unwrap(),
        released
    );
    assert_eq!(on_crl(&log).await, []);
    assert!(matches!(
        log.claimed(&device.claim()).await.unwrap(),
        Claimed::Issued(_)
    ));
    let record = log.certificate(one).await.unwrap().unwrap();
    assert_eq!(
        (record.status, record.revocation),
        (CertificateState::Issued, None)
    );

    site.clock.set(NOW.saturating_add(Duration::from_secs(60)));
    let again = log
        .record_revoked("op", one, R::CertificateHold)
        .await
        .unwrap();
    site.clock.set(NOW.saturating_add(Duration::from_secs(600)));
    let last = log
        .record_revoked("op", one, R::KeyCompromise)
        .await
        .unwrap();
    assert_eq!(
        last.revoked_at, again.revoked_at,
        "X.509: the date of the hold"
    );
    assert_eq!(on_crl(&log).await, [(one, again.revoked_at, Some(1))]);
    for (wish, size) in [
        (R::Superseded, log.status().size),
        (R::CertificateHold, log.status().size),
    ] {
        assert_eq!(log.record_revoked("op", one, wish).await.unwrap(), last);
        assert_eq!(log.status().size, size);
    }
    let refused = log.record_revoked("op", one, R::RemoveFromCrl).await;
    assert!(matches!(
        refused,
        Err(LogError::Revoke(RevokeRefused::Final(_)))
    ));
    site.check(&log).await;
    log.stop().await;
    drop(log);
    let log = site.reopen().await;
    assert_eq!(on_crl(&log).await, [(one, again.revoked_at, Some(1))]);
    assert_eq!(
        log.certificate(one).await.unwrap().unwrap().revocation,
        Some(last)
    );
}

#[tokio::test]
async fn nothing_is_revoked_in_the_future_after_a_clock_was_ahead() {
    use RevocationReason as R;
    let site = Site::new();
    let log = site.log(10).await;
    let [one, two] = issued(&site, &log, 2).await[..] else {
        panic!("two were asked for");
    };
    // An entry is dated a day ahead; then the clock is right again.
    site.clock
        .set(NOW.saturating_add(Duration::from_secs(86_400)));
    log.record_event("test".parse().unwrap(), json!({}))
        .await
        .unwrap();
    site.clock.set(NOW);
    let gone = log.record_revoked("op", one, R::KeyCompromise).await;
    let gone = gone.unwrap();
    assert_eq!(gone.revoked_at, UnixMillis::from_seconds(NOW.seconds()));
    let held = log.record_revoked("op", two, R::CertificateHold).await;
    let last = log.record_revoked("op", two, R::KeyCompromise).await;
    let (held, last) = (held.unwrap(), last.unwrap());
    assert_eq!(held.revoked_at, gone.revoked_at);
    assert_eq!(last.revoked_at, held.revoked_at);
    let dates = on_crl(&log).await.into_iter().map(|(_, at, _)| at);
    assert!(dates.into_iter().all(|at| at <= NOW));
    // The audit's rules hold.
    site.check(&log).await;
}

#[tokio::test]
async fn many_are_revoked_in_one_transaction_each_with_its_own_answer() {
    use RevocationReason as R;
    let site = Site::new();
    let log = site.log(300).await;
    let serials = issued(&site, &log, 40).await;
    log.record_revoked("op", serials[3], R::Superseded)
        .await
        .unwrap();
    let note = BTreeMap::from([("comment", "batch 7 was stolen".to_owned())]);
    let unknown = super::serial();
    let all = [&serials[..], &[unknown]].concat();
    let size = log.status().size;
    let outcomes = log
        .record_revocations("op", &all, R::KeyCompromise, &note)
        .await
        .unwrap();
    assert_eq!(log.status().size, size + 39);
    for (place, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Revoked::Unchanged(standing) => {
                assert_eq!((place, standing.reason), (3, Some(R::Superseded)));
            }
            Revoked::Refused(refused) => {
                assert_eq!((place, *refused), (40, RevokeRefused::NotIssued(unknown)));
            }
            Revoked::Changed(standing) => assert_eq!(standing.reason, Some(R::KeyCompromise)),
        }
    }
    assert_eq!(on_crl(&log).await.len(), 40);
    let again = log
        .record_revocations("op", &all, R::KeyCompromise, &note)
        .await;
    let changed = again.unwrap().into_iter();
    assert_eq!(
        changed.filter(|o| matches!(o, Revoked::Changed(_))).count(),
        0
    );
    let many = vec![unknown; crate::limits::REVOCATIONS_MAX + 1];
    let refused = log
        .record_revocations("op", &many, R::Superseded, &note)
        .await;
    assert!(matches!(refused, Err(LogError::Change(_))));
    site.check(&log).await;
    let detail: Vec<u8> = sqlx::query_scalar("SELECT detail FROM entry ORDER BY idx DESC LIMIT 1")
        .fetch_one(&mut site.sqlite().await)
        .await
        .unwrap();
    let detail = String::from_utf8(detail).unwrap();
    assert!(
        detail.contains(r#""comment":"batch 7 was stolen","operator":"op""#),
        "{detail}"
    );
}

#[tokio::test]
async fn a_revocation_whose_commit_is_lost_or_misreported_is_done_once() {
    use RevocationReason as R;
    for misreported in [false, true] {
        let site = Site::new();
        let log = site.log(10).await;
        let serials = issued(&site, &log, 5).await;
        if misreported {
            log.inner.faults.misreport(1);
        } else {
            log.inner.faults.lose(1);
        }
        let note = BTreeMap::new();
        let failed = log
            .record_revocations("op", &serials, R::Superseded, &note)
            .await;
        assert!(failed.is_err());
        until(&log, |state| *state == LogState::Running).await;
        let outcomes = log
            .record_revocations("op", &serials, R::Superseded, &note)
            .await
            .unwrap();
        let changed = outcomes
            .iter()
            .filter(|o| matches!(o, Revoked::Changed(_)))
            .count();
        assert_eq!(changed, if misreported { 0 } else { 5 });
        assert_eq!(on_crl(&log).await.len(), 5);
        site.check(&log).await;
    }
}

/// The device ids that a selection names, over all its pages.
async fn selected(log: &SigningLog, selection: &Selection) -> Vec<String> {
    let (mut found, mut after, mut entries) = (Vec::new(), None, None);
    loop {
        let page = log.select(selection, entries, after).await.unwrap();
        entries = Some(page.entries);
        let ids = page.certificates.into_iter();
        found.extend(ids.map(|one| one.device_id.unwrap_or_default()));
        after = match page.next {
            Some(next) => Some(next),
            None => return found,
        };
    }
}

#[tokio::test]
async fn selections_name_what_fulfils_every_criterion() {
    let site = Site::new();
    let log = site.log(100).await;
    log.record_issuer(life::record("device-1", &certificate(None)))
        .await
        .unwrap();
    open_order(&log, "other", 10).await;
    let serials = issued(&site, &log, 12).await;
    let later = NOW.saturating_add(Duration::from_secs(60));
    site.clock.set(later);
    let other = Device {
        order: "other",
        ..device("Dev-X", 77)
    };
    site.issue(&log, other).await.unwrap();
    let open = site.intent(&log, device("open", 78)).await.unwrap();
    let text = |text: &str| Some(text.to_owned());
    let none = Selection::default;
    let rows: Vec<(Selection, &[&str])> = vec![
        (
            Selection {
                order: Some("other".parse().unwrap()),
                ..none()
            },
            &["Dev-X"],
        ),
        (
            Selection {
                serials: vec![serials[4], serials[2]],
                ..none()
            },
            &["dev-2", "dev-4"],
        ),
        (
            Selection {
                device_ids: vec!["DEV-3".into(), "none".into()],
                ..none()
            },
            &["dev-3"],
        ),
        (
            Selection {
                device_id_from: text("dev-10"),
                device_id_to: text("DEV-2"),
                ..none()
            },
            &["dev-2", "dev-10", "dev-11"],
        ),
        (
            Selection {
                device_id_pattern: text("[dD]ev-[89X]"),
                ..none()
            },
            &["dev-8", "dev-9", "Dev-X"],
        ),
        (
            Selection {
                issued_from: Some(later),
                ..none()
            },
            &["Dev-X"],
        ),
        (
            Selection {
                issued_until: Some(later),
                device_id_pattern: text(".*-1.*"),
                ..none()
            },
            &["dev-1", "dev-10", "dev-11"],
        ),
        (
            Selection {
                spki: Some(DetailHash([5; 32])),
                ..none()
            },
            &["dev-5"],
        ),
        (
            Selection {
                kind: Some(CertificateKind::Line),
                ..none()
            },
            &[],
        ),
        (
            Selection {
                line: Some("line-1".parse().unwrap()),
                issued_from: Some(later),
                ..none()
            },
            &["Dev-X"],
        ),
        (
            Selection {
                issuer: Some("device-2".parse().unwrap()),
                ..none()
            },
            &[],
        ),
        (
            Selection {
                serials: serials[..2].to_vec(),
                device_ids: vec!["dev-1".into()],
                ..none()
            },
            &["dev-1"],
        ),
    ];
    for (selection, expected) in &rows {
        assert_eq!(selected(&log, selection).await, *expected, "{selection:?}");
    }
    // Named, and without a certificate that fulfils the rest.
    let named = Selection {
        device_ids: ["DEV-3", "None", "dev-x", "open"].map(str::to_owned).into(),
        device_id_pattern: text("[dD]ev-[3X]"),
        order: Some("demo".parse().unwrap()),
        ..none()
    };
    let page = log.select(&named, None, None).await.unwrap();
    assert_eq!(page.unmatched, ["dev-x", "none", "open"]);
    let page = log.select(&named, None, Some(0)).await.unwrap();
    assert!(page.unmatched.is_empty(), "the first page had them");
    let before = log.status().size;
    log.record_issued(site.ca.certify(open)).await.unwrap();
    // What came to its end later is not of the earlier entries.
    let all = Selection {
        order: Some("demo".parse().unwrap()),
        ..none()
    };
    let then = log.select(&all, Some(before), None).await.unwrap();
    assert_eq!(
        (then.certificates.len(), selected(&log, &all).await.len()),
        (12, 13)
    );
    for bad in [
        none(),
        Selection {
            device_id_pattern: text("("),
            ..none()
        },
        Selection {
            serials: vec![serials[0]; 501],
            ..none()
        },
    ] {
        let refused = log.select(&bad, None, None).await;
        assert!(matches!(refused, Err(LogError::Change(_))), "{bad:?}");
    }
}

/// A CA certificate, with this serial.
fn certificate(serial: Option<SerialNumber>) -> Vec<u8> {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.serial_number = serial.map(|serial| serial.as_bytes().to_vec().into());
    params.self_signed(&key).unwrap().der().to_vec()
}

#[tokio::test]
async fn an_issuer_whose_certificate_is_revoked_issues_nothing_also_after_a_restart() {
    use RevocationReason as R;
    let site = Site::new();
    let log = site.log(10).await;
    let mut tbs = site.tbs("device-root", device("ca", 9));
    tbs.device_id = None;
    let ca = tbs.serial;
    let grant = Grant::act("op", Purpose::Ca("device-1".parse().unwrap()));
    let intent = log
        .record_intent(&grant, ToBeSigned::Certificate(tbs))
        .await
        .unwrap();
    log.record_issued(site.ca.certify(intent)).await.unwrap();
    let mut record = life::record("device-1", &certificate(Some(ca)));
    record.role = IssuerRole::Device;
    record.parent = "device-root".parse().unwrap();
    log.record_issuer(record).await.unwrap();
    site.issue(&log, device("dev-1", 1)).await.unwrap();

    let revoked_one = |log: &SigningLog| {
        let revoked = log.revoked_issuers();
        revoked.keys().map(ToString::to_string).collect::<Vec<_>>()
    };
    log.record_revoked("op", ca, R::CertificateHold)
        .await
        .unwrap();
    assert_eq!(revoked_one(&log), ["device-1"]);
    let refused = site.intent(&log, device("dev-2", 2)).await;
    assert!(matches!(refused, Err(IntentRefused::IssuerRevoked { .. })));
    log.record_revoked("op", ca, R::RemoveFromCrl)
        .await
        .unwrap();
    assert_eq!(revoked_one(&log), [""; 0]);
    site.issue(&log, device("dev-2", 2)).await.unwrap();
    log.record_revoked("op", ca, R::CaCompromise).await.unwrap();
    // The root's CRL lists it, the issuer's own does not.
    let contents = CrlContents {
        issuer: &"device-root".parse().unwrap(),
        partition: 0,
        gone: None,
    };
    let root = log.revoked(&contents).await.unwrap().list;
    assert_eq!((root.entries(), on_crl(&log).await.len()), (1, 0));
    log.stop().await;
    drop(log);
    let log = site.reopen().await;
    assert_eq!(revoked_one(&log), ["device-1"]);
    let refused = site.intent(&log, device("dev-3", 3)).await;
    assert!(matches!(refused, Err(IntentRefused::IssuerRevoked { .. })));
    // Its key may still be tested, and sign CRLs: they tell what it is worth.
    let issuer: IssuerName = "device-1".parse().unwrap();
    let test = ToBeSigned::SelfTest {
        issuer: issuer.clone(),
        key: site.ca.public.clone(),
        algorithm: SignatureAlgorithm::Ed25519,
    };
    let grant = Grant::act("appliance", Purpose::SelfTest(issuer));
    log.record_intent(&grant, test).await.unwrap();
    // No selection takes a CA certificate along, except by its serial.
    let all = Selection {
        issuer: Some("device-root".parse().unwrap()),
        ..Selection::default()
    };
    assert!(selected(&log, &all).await.is_empty());
}
