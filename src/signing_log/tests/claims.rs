//! Claims, keys, device ids and units.

use proptest::prelude::*;

use super::*;
use crate::ra::{ChangeRefused, PartyCertificate, PartyState, Reader, Refused, Role};

#[tokio::test]
async fn a_retry_finds_the_same_certificate_byte_for_byte() {
    let site = Site::new();
    let log = site.log(1).await;
    let device = device("dev-1", 1);
    assert!(matches!(
        log.claimed(&device.claim()).await.unwrap(),
        Claimed::Free
    ));
    let intent = site.intent(&log, device).await.unwrap();
    assert!(matches!(
        log.claimed(&device.claim()).await.unwrap(),
        Claimed::InFlight
    ));
    let certificate = site.ca.certify(intent);
    let issued = log.record_issued(certificate).await.unwrap();
    // The order is used up and closed, and the claim still answers.
    let order = device.order();
    let state = OrderState::Closed;
    log.record_change("op", Change::OrderSet { order, state })
        .await
        .unwrap();
    let again = site.intent(&log, device).await;
    assert!(matches!(again, Err(IntentRefused::ClaimTaken)), "{again:?}");
    site.check(&log).await;
    log.stop().await;
    drop(log);
    let log = site.reopen().await;
    let Claimed::Issued(found) = log.claimed(&device.claim()).await.unwrap() else {
        panic!("not issued");
    };
    assert_eq!(found.der(), issued.der());
    assert_eq!(found.entries(), issued.entries());
    let (Subject::Certificate { serial: one, .. }, Subject::Certificate { serial: two, .. }) =
        (found.subject(), issued.subject())
    else {
        panic!("no certificates");
    };
    assert_eq!(one, two);
}

#[tokio::test]
async fn of_two_at_once_one_is_made() {
    let site = Arc::new(Site::new());
    let log = site.log(100).await;
    let tasks: Vec<_> = (0..32)
        .map(|_| {
            let (site, log) = (Arc::clone(&site), log.clone());
            tokio::spawn(async move { site.intent(&log, device("dev-1", 1)).await })
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_intent) => made += 1,
            Err(IntentRefused::ClaimTaken) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((made, used(&log)), (1, 1));
    site.check(&log).await;
}

#[tokio::test]
async fn keys_and_device_ids_are_used_once() {
    let site = Site::new();
    let log = site.log(100).await;
    open_order(&log, "other", 100).await;
    let first = site.issue(&log, device("Dev-1", 1)).await.unwrap();
    let Subject::Certificate { serial, .. } = *first.subject() else {
        panic!("no certificate");
    };
    let refusals = [
        // Another device, other fields, another order: the key stays the first one's.
        Device {
            requested: 2,
            ..device("dev-2", 1)
        },
        Device {
            requested: 9,
            ..device("Dev-1", 1)
        },
        Device {
            order: "other",
            ..device("Dev-1", 1)
        },
    ];
    for device in refusals {
        match site.intent(&log, device).await {
            Err(IntentRefused::KeyUsed {
                holder: Some(holder),
            }) => assert_eq!(
                (holder.device_id.as_str(), holder.serial),
                ("Dev-1", serial)
            ),
            other => panic!("{device:?}: {other:?}"),
        }
    }
    match site.intent(&log, device("dEV-1", 2)).await {
        Err(IntentRefused::DeviceIdUsed {
            device_id,
            serial: used,
        }) => assert_eq!((device_id.as_str(), used), ("dEV-1", Some(serial))),
        other => panic!("{other:?}"),
    }
    // Another line, whose order is not this one, learns that they are used and nothing else.
    foreign_order(&log).await;
    for (device, rule) in [(device("dev-9", 1), "key"), (device("DEV-1", 9), "device")] {
        let device = Device {
            order: "foreign",
            ..device
        };
        let mut grant = device.grant();
        if let GrantKind::Unit { line, .. } = &mut grant.0 {
            *line = "line-2".parse().unwrap();
        }
        let object = ToBeSigned::Certificate(site.tbs("device-1", device));
        let refused = log.record_intent(&grant, object).await.unwrap_err();
        let told = refused.to_string();
        assert!(!told.contains(&serial.to_string()), "{rule}: {told}");
        assert!(!told.contains("Dev-1"), "{rule}: {told}");
        let named = match rule {
            "key" => matches!(refused, IntentRefused::KeyUsed { holder: None }),
            _ => matches!(refused, IntentRefused::DeviceIdUsed { serial: None, .. }),
        };
        assert!(named, "{rule}: {refused:?}");
    }
    assert_eq!(used(&log), 1);
    site.check(&log).await;
}

/// Opens the order `foreign` of a line `line-2`.
async fn foreign_order(log: &SigningLog) {
    let line: certstatus::log::entry::Slug = "line-2".parse().unwrap();
    let demo = log.registry().order(&"demo".parse().unwrap()).unwrap();
    let terms = OrderTerms {
        order: "foreign".parse().unwrap(),
        lines: BTreeSet::from([line.clone()]),
        ..demo.terms
    };
    for change in [Change::LineAdded { line }, Change::OrderOpened { terms }] {
        log.record_change("op", change).await.unwrap();
    }
}

#[tokio::test]
async fn a_device_key_and_a_line_key_are_never_the_same() {
    let site = Site::new();
    let log = site.log(100).await;
    let line = Grant::act("op", Purpose::Line("line-1".parse().unwrap()));
    let tbs = |key| {
        let mut tbs = site.tbs("access", device("line-1", key));
        tbs.device_id = None;
        ToBeSigned::Certificate(tbs)
    };
    log.record_intent(&line, tbs(1)).await.unwrap();
    // A line renews with its key; a device must not have it.
    log.record_intent(&line, tbs(1)).await.unwrap();
    let refused = site.intent(&log, device("dev-1", 1)).await;
    assert!(matches!(refused, Err(IntentRefused::KeyUsed { .. })));
    site.intent(&log, device("dev-2", 2)).await.unwrap();
    let refused = log.record_intent(&line, tbs(2)).await;
    assert!(matches!(refused, Err(IntentRefused::KeyUsed { .. })));
}

#[tokio::test]
async fn a_unit_is_taken_only_for_an_enabled_line_of_the_order() {
    let site = Site::new();
    let log = site.log(100).await;
    let set = |state| Change::LineSet {
        line: "line-1".parse().unwrap(),
        state,
    };
    log.record_change("op", set(PartyState::Disabled))
        .await
        .unwrap();
    // The grant is from before.
    match site.intent(&log, device("dev-1", 1)).await {
        Err(IntentRefused::Order(Refused::LineDisabled(line))) => {
            assert_eq!(line.as_str(), "line-1");
        }
        other => panic!("{other:?}"),
    }
    log.record_change("op", set(PartyState::Enabled))
        .await
        .unwrap();
    add_line(&log, "line-2").await;
    let mut grant = device("dev-1", 1).grant();
    let GrantKind::Unit {
        line, certificate, ..
    } = &mut grant.0
    else {
        panic!("no unit");
    };
    *line = "line-2".parse().unwrap();
    *certificate = line_certificate("line-2").serial;
    let object = ToBeSigned::Certificate(site.tbs("device-1", device("dev-1", 1)));
    let refused = log.record_intent(&grant, object).await;
    assert!(matches!(
        refused,
        Err(IntentRefused::Order(Refused::NoOrder(_)))
    ));
    assert_eq!(used(&log), 0);
    site.intent(&log, device("dev-1", 1)).await.unwrap();
}

#[tokio::test]
async fn a_renewal_that_was_under_way_gets_no_intent_once_its_line_may_not_ask() {
    let site = Site::new();
    let log = site.log(1).await;
    let line: Slug = "line-1".parse().unwrap();
    let serial = line_certificate("line-1").serial;
    // The grant is from before whatever comes.
    let grant = Grant(GrantKind::LineRenewal {
        line: line.clone(),
        certificate: serial,
    });
    let renew = || log.record_intent(&grant, renewed(&site));
    let state = |state| Change::LineSet {
        line: line.clone(),
        state,
    };
    renew().await.unwrap();
    log.record_change("op", state(PartyState::Disabled))
        .await
        .unwrap();
    let size = log.status().size;
    let refused = renew().await;
    assert!(matches!(
        refused,
        Err(IntentRefused::Order(Refused::LineDisabled(_)))
    ));
    assert_eq!(log.status().size, size, "nothing is recorded");
    log.record_change("op", state(PartyState::Enabled))
        .await
        .unwrap();
    renew().await.unwrap();
    let revoked = Change::LineDecertified {
        line: line.clone(),
        serial,
    };
    log.record_change("op", revoked).await.unwrap();
    let refused = renew().await;
    assert!(matches!(
        refused,
        Err(IntentRefused::Order(Refused::UnknownCertificate))
    ));
}

/// A line's certificate to be signed.
fn renewed(site: &Site) -> ToBeSigned {
    let mut tbs = site.tbs("device-1", device("line-1", 9));
    (tbs.device_id, tbs.profile) = (None, "line".into());
    ToBeSigned::Certificate(tbs)
}

#[tokio::test]
async fn a_unit_is_taken_only_by_a_certificate_that_proves_its_line_still() {
    let site = Site::new();
    let log = site.log(100).await;
    let line: Slug = "line-1".parse().unwrap();
    // Another certificate of the line, so that the line itself goes on.
    let other = Change::LineCertified {
        line: line.clone(),
        certificate: line_certificate("another of line-1"),
        renews: None,
    };
    let revoked = Change::LineDecertified {
        line,
        serial: line_certificate("line-1").serial,
    };
    for change in [other, revoked] {
        log.record_change("op", change).await.unwrap();
    }
    // The grant is from before.
    match site.intent(&log, device("dev-1", 1)).await {
        Err(IntentRefused::Order(Refused::UnknownCertificate)) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(used(&log), 0, "nothing was taken");
    let mut grant = device("dev-1", 1).grant();
    if let GrantKind::Unit { certificate, .. } = &mut grant.0 {
        *certificate = line_certificate("another of line-1").serial;
    }
    let object = ToBeSigned::Certificate(site.tbs("device-1", device("dev-1", 1)));
    log.record_intent(&grant, object).await.unwrap();
    assert_eq!(used(&log), 1);
}

#[tokio::test]
async fn a_certificate_that_was_revoked_meanwhile_never_authenticates() {
    let site = Site::new();
    let log = site.log(100).await;
    let line: Slug = "line-1".parse().unwrap();
    let issued = site.issue(&log, device("dev-1", 1)).await.unwrap();
    let Subject::Certificate { serial, .. } = *issued.subject() else {
        panic!("no certificate");
    };
    log.record_revoked("op", serial, RevocationReason::KeyCompromise)
        .await
        .unwrap();
    let certificate = PartyCertificate {
        serial,
        sha256: DetailHash::of(issued.der()),
        not_before: NOW,
        not_after: UnixMillis::END_OF_TIME,
    };
    let of_line = Change::LineCertified {
        line: line.clone(),
        certificate: certificate.clone(),
        renews: None,
    };
    let reader = Reader {
        role: Role::Auditor,
        name: line,
    };
    let of_auditor = Change::ReaderCertified {
        reader,
        certificate,
    };
    for certified in [of_line, of_auditor] {
        let refused = log.record_change("op", certified).await;
        assert!(matches!(
            refused,
            Err(LogError::Change(ChangeRefused::Value { .. }))
        ));
    }
    assert_eq!(log.registry().line_of(serial), None);
    assert_eq!(log.registry().readers(), []);
}

#[tokio::test]
async fn the_last_unit_is_the_last_however_many_ask() {
    const IDS: [&str; 12] = [
        "d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d8", "d9", "d10", "d11",
    ];
    let site = Arc::new(Site::new());
    let log = site.log(5).await;
    let tasks: Vec<_> = (1u8..)
        .zip(IDS)
        .chain((1u8..).zip(IDS))
        .map(|(key, id)| {
            let (site, log) = (Arc::clone(&site), log.clone());
            tokio::spawn(async move { site.intent(&log, device(id, key)).await })
        })
        .collect();
    let (mut made, mut taken, mut up) = (Vec::new(), 0, 0);
    for task in tasks {
        match task.await.unwrap() {
            Ok(intent) => made.push(intent),
            Err(IntentRefused::ClaimTaken) => taken += 1,
            Err(IntentRefused::Order(Refused::UsedUp { quantity: 5, .. })) => up += 1,
            Err(other) => panic!("{other}"),
        }
    }
    // Five devices got the units; their retries find the claim taken, which costs nothing.
    assert_eq!((made.len(), taken, up), (5, 5, 14));
    assert_eq!(used(&log), 5);
    // A unit that comes back is there for exactly one more.
    log.record_failed(failed(made.pop().unwrap(), 0))
        .await
        .unwrap();
    assert_eq!(used(&log), 4);
    site.intent(&log, device("e0", 50)).await.unwrap();
    let refused = site.intent(&log, device("e1", 51)).await;
    assert!(matches!(
        refused,
        Err(IntentRefused::Order(Refused::UsedUp { .. }))
    ));
    site.check(&log).await;
}

#[tokio::test]
async fn an_order_counts_within_its_dates_and_while_it_is_open() {
    let site = Site::new();
    let log = site.log(10).await;
    let refused = |result| match result {
        Err(IntentRefused::Order(refused)) => refused,
        other => panic!("{other:?}"),
    };
    let unknown = Device {
        order: "nope",
        ..device("dev-1", 1)
    };
    let none = refused(site.intent(&log, unknown).await);
    assert_eq!(none, Refused::NoOrder("nope".to_owned()));
    let order: Slug = "demo".parse().unwrap();
    for state in [OrderState::Closed, OrderState::Open] {
        let order = order.clone();
        log.record_change("op", Change::OrderSet { order, state })
            .await
            .unwrap();
        let result = site.intent(&log, device("dev-1", 1)).await;
        match state {
            OrderState::Closed => assert!(matches!(refused(result), Refused::OrderClosed(_))),
            OrderState::Open => drop(result.unwrap()),
        }
    }
    site.clock.set(UnixMillis(NOW.0 - 1));
    let early = refused(site.intent(&log, device("dev-2", 2)).await);
    assert!(matches!(early, Refused::OutsideDates { .. }));
    site.clock
        .set(NOW.saturating_add(Duration::from_secs(86_400)));
    let late = refused(site.intent(&log, device("dev-2", 2)).await);
    assert!(matches!(late, Refused::OutsideDates { .. }));
    let other = ToBeSigned::Certificate(site.tbs("device-2", device("dev-2", 2)));
    let refused = log.record_intent(&device("dev-2", 2).grant(), other).await;
    assert!(matches!(refused, Err(IntentRefused::Object { .. })));
    site.check(&log).await;
}

#[tokio::test]
async fn an_abandoned_intent_leaves_nothing_behind() {
    let site = Site::new();
    let log = site.log(1).await;
    let device = device("dev-1", 1);
    let intent = site.intent(&log, device).await.unwrap();
    let Subject::Certificate { serial, .. } = *intent.subject() else {
        panic!("no certificate");
    };
    log.record_failed(failed(intent, 0)).await.unwrap();
    assert_eq!(used(&log), 0);
    let record = log.certificate(serial).await.unwrap().unwrap();
    assert_eq!(
        (record.status, record.pem),
        (CertificateState::Abandoned, None)
    );
    let revoked = log
        .record_revoked("op", serial, RevocationReason::KeyCompromise)
        .await;
    assert!(matches!(
        revoked,
        Err(LogError::Revoke(RevokeRefused::NotIssued(_)))
    ));
    assert!(all_revoked(&log).await.is_empty());
    site.issue(&log, device).await.unwrap();
    site.check(&log).await;
}

#[tokio::test]
async fn unresolved_units_return_up_to_the_cap_and_their_serials_are_revoked() {
    let site = Site::new();
    let cap = crate::limits::UNRESOLVED_RETURNED_MAX;
    let log = site.log(2).await;
    let device = device("dev-1", 1);
    for round in 1..=cap + 2 {
        let intent = site.intent(&log, device).await.unwrap();
        let Subject::Certificate { serial, .. } = *intent.subject() else {
            panic!("no certificate");
        };
        log.record_failed(failed(intent, 2)).await.unwrap();
        assert_eq!(used(&log), u64::from(round.saturating_sub(cap)));
        // The claim is free for a fresh intent, the serial never comes back.
        let claimed = log.claimed(&device.claim()).await.unwrap();
        assert!(matches!(claimed, Claimed::Free));
        let standing = log
            .record_revoked("op", serial, RevocationReason::Superseded)
            .await
            .unwrap();
        assert_eq!(standing.reason, None);
        let record = log.certificate(serial).await.unwrap().unwrap();
        assert_eq!(record.status, CertificateState::Unresolved);
    }
    let refused = site.intent(&log, device).await;
    assert!(matches!(
        refused,
        Err(IntentRefused::Order(Refused::UsedUp { .. }))
    ));
    let order = log.registry().order(&device.order()).unwrap();
    assert_eq!(order.unresolved, cap + 2);
    let revoked = all_revoked(&log).await;
    assert_eq!(revoked.len(), usize::try_from(cap + 2).unwrap());
    assert!(revoked.iter().all(|entry| entry.reason.is_none()));
    site.check(&log).await;
    log.stop().await;
    drop(log);
    let log = site.reopen().await;
    let order = log.registry().order(&device.order()).unwrap();
    assert_eq!((order.used, order.unresolved), (2, cap + 2));
}

#[tokio::test]
async fn a_revoked_certificate_is_told_and_stays_as_it_is() {
    let site = Site::new();
    let log = site.log(10).await;
    let device = device("dev-1", 1);
    let issued = site.issue(&log, device).await.unwrap();
    let Subject::Certificate { serial, .. } = *issued.subject() else {
        panic!("no certificate");
    };
    let first = log
        .record_revoked("op", serial, RevocationReason::KeyCompromise)
        .await
        .unwrap();
    let size = log.status().size;
    let second = log
        .record_revoked("other", serial, RevocationReason::CessationOfOperation)
        .await
        .unwrap();
    assert_eq!((first, log.status().size), (second, size));
    assert_eq!(first.reason, Some(RevocationReason::KeyCompromise));
    match log.claimed(&device.claim()).await.unwrap() {
        Claimed::Revoked { serial: told, .. } => assert_eq!(told, serial),
        other => panic!("{other:?}"),
    }
    let again = site.intent(&log, device).await;
    assert!(matches!(again, Err(IntentRefused::ClaimTaken)));
    let record = log.certificate(serial).await.unwrap().unwrap();
    assert_eq!(record.status, CertificateState::Revoked);
    let unknown = log
        .record_revoked("op", super::serial(), RevocationReason::KeyCompromise)
        .await;
    assert!(matches!(unknown, Err(LogError::Revoke(_))));
    site.check(&log).await;
}

#[tokio::test]
async fn a_grant_entitles_to_its_own_kind_only() {
    let site = Site::new();
    let log = site.log(10).await;
    let one = device("dev-1", 1);
    let certificate = || ToBeSigned::Certificate(site.tbs("device-1", one));
    let test = |issuer: &str| ToBeSigned::SelfTest {
        issuer: issuer.parse().unwrap(),
        key: site.ca.public.clone(),
        algorithm: SignatureAlgorithm::Ed25519,
    };
    let name = |issuer: &str| -> IssuerName { issuer.parse().unwrap() };
    let wrong = [
        (one.grant(), test("device-1")),
        (
            Grant::act("op", Purpose::SelfTest(name("device-1"))),
            certificate(),
        ),
        (
            Grant::act("op", Purpose::SelfTest(name("device-1"))),
            test("device-2"),
        ),
        (
            Grant::act("op", Purpose::Crl(name("device-1"))),
            certificate(),
        ),
        (device("dev-2", 1).grant(), certificate()),
    ];
    for (grant, object) in wrong {
        let refused = log.record_intent(&grant, object).await;
        assert!(matches!(refused, Err(IntentRefused::Object { .. })));
    }
    // The bytes must name the algorithm that signs.
    let mut tbs = site.tbs("device-1", one);
    tbs.algorithm = SignatureAlgorithm::EcdsaSha256;
    let refused = log
        .record_intent(&one.grant(), ToBeSigned::Certificate(tbs))
        .await;
    assert!(matches!(refused, Err(IntentRefused::Object { .. })));
    let mut tbs = site.tbs("device-1", one);
    tbs.der = vec![0x30; crate::limits::DETAIL_BYTES_MAX];
    let refused = log
        .record_intent(&one.grant(), ToBeSigned::Certificate(tbs))
        .await;
    assert!(matches!(refused, Err(IntentRefused::Object { .. })));
    assert_eq!(used(&log), 0);
    let grant = Grant::act("op", Purpose::SelfTest(name("device-1")));
    let intent = log.record_intent(&grant, test("device-1")).await.unwrap();
    assert!(
        intent
            .tbs()
            .starts_with(b"Hallmark self-test\nlog.example/site\n")
    );
    let issued = log.record_issued(site.ca.certify(intent)).await.unwrap();
    assert!(issued.der().is_empty());
    site.check(&log).await;
}

#[tokio::test]
async fn a_wrong_signature_gives_the_intent_back() {
    let site = Site::new();
    let log = site.log(10).await;
    let intent = site.intent(&log, device("dev-1", 1)).await.unwrap();
    let wrong = intent.certify(vec![0; 64], 1).unwrap_err();
    assert_eq!(wrong.failed.attempts, 1);
    log.record_failed(*wrong.failed).await.unwrap();
    assert_eq!(log.status().open_intents, 0);
    site.check(&log).await;
}

#[tokio::test]
async fn crl_numbers_only_grow() {
    let site = Site::new();
    let log = site.bare().await;
    let issuer: IssuerName = "device-1".parse().unwrap();
    let first = log.next_crl_number(&issuer).await.unwrap();
    assert_eq!(first, NOW.0);
    let grant = Grant::act("op", Purpose::Crl(issuer.clone()));
    let checkpoint = log.checkpoint().await.unwrap();
    let crl = |number| {
        let fields = certstatus::crl::CrlFields {
            issuer: &[0x30, 0x00],
            authority_key_id: &[1; 20],
            algorithm: SignatureAlgorithm::Ed25519,
            number,
            this_update: NOW,
            next_update: NOW.saturating_add(Duration::from_secs(60)),
            scope: certstatus::crl::Scope::Everything,
            expired_since: None,
            anchor: certstatus::crl::LogAnchor {
                origin: ORIGIN,
                log_key: &log.verifier_key(),
                checkpoint: &checkpoint,
            },
        };
        ToBeSigned::Crl {
            issuer: issuer.clone(),
            key: site.ca.public.clone(),
            algorithm: SignatureAlgorithm::Ed25519,
            partition: 0,
            gone: None,
            tbs: certstatus::crl::TbsCrl::encode(&fields, &[]),
        }
    };
    let intent = log.record_intent(&grant, crl(first)).await.unwrap();
    let issued = log.record_issued(site.ca.certify(intent)).await.unwrap();
    assert!(certstatus::crl::parse(issued.der()).is_ok());
    // What the keeper asks at a start: this CRL, and no other one.
    let rows = [
        ((first, 0), true),
        ((first, 1), false),
        ((first + 1, 0), false),
    ];
    for (crl, logged) in rows {
        assert_eq!(log.issued_crl(&issuer, crl, 0).await.unwrap(), logged);
    }
    let (_, outcome) = issued.entries();
    let later = log.issued_crl(&issuer, (first, 0), outcome.0 + 1).await;
    assert!(!later.unwrap());
    assert_eq!(log.next_crl_number(&issuer).await.unwrap(), first + 1);
    let refused = log.record_intent(&grant, crl(first)).await;
    assert!(matches!(refused, Err(IntentRefused::Object { .. })));
    site.check(&log).await;
}

/// What the model test does.
#[derive(Clone, Copy, Debug)]
enum Act {
    Intend(Device),
    Issue(u8),
    Abandon(u8),
    Unresolve(u8),
}

fn act() -> impl Strategy<Value = Act> {
    let ids = prop::sample::select(vec!["a", "A", "b", "c"]);
    let orders = prop::sample::select(vec!["demo", "other"]);
    let device = (orders, ids, 0u8..3, 0u8..2).prop_map(|(order, id, key, requested)| Device {
        order,
        id,
        key,
        requested,
    });
    prop_oneof![
        4 => device.prop_map(Act::Intend),
        1 => any::<u8>().prop_map(Act::Issue),
        2 => any::<u8>().prop_map(Act::Abandon),
        1 => any::<u8>().prop_map(Act::Unresolve),
    ]
}

/// The rules, written down once more as plainly as possible.
#[derive(Default)]
struct Model {
    /// Devices whose intent is open or issued.
    live: Vec<Device>,
    used: HashMap<&'static str, u64>,
}

impl Model {
    fn intend(&mut self, wanted: Device) -> &'static str {
        let same = |live: &&Device| {
            (live.order, live.key, live.requested) == (wanted.order, wanted.key, wanted.requested)
        };
        if self.live.iter().any(|live| same(&live)) {
            return "claim";
        }
        if self.live.iter().any(|live| live.key == wanted.key) {
            return "key";
        }
        if self
            .live
            .iter()
            .any(|live| live.id.eq_ignore_ascii_case(wanted.id))
        {
            return "device";
        }
        let used = self.used.entry(wanted.order).or_default();
        if *used >= 3 {
            return "used up";
        }
        *used += 1;
        self.live.push(wanted);
        "made"
    }

    fn free(&mut self, device: Device) {
        self.live.retain(|live| *live != device);
        *self.used.get_mut(device.order).unwrap() -= 1;
    }
}

fn told(result: &Result<Intent, IntentRefused>) -> &'static str {
    match result {
        Ok(_) => "made",
        Err(IntentRefused::ClaimTaken) => "claim",
        Err(IntentRefused::KeyUsed { .. }) => "key",
        Err(IntentRefused::DeviceIdUsed { .. }) => "device",
        Err(IntentRefused::Order(Refused::UsedUp { .. })) => "used up",
        Err(other) => panic!("{other}"),
    }
}

/// Plays acts, those of a round at the same time, and compares each answer with the model's.
async fn play(rounds: Vec<Vec<Act>>) {
    let site = Arc::new(Site::new());
    let log = site.log(3).await;
    open_order(&log, "other", 3).await;
    let mut model = Model::default();
    let mut open: Vec<(Device, Intent)> = Vec::new();
    for round in rounds {
        let mut intends = Vec::new();
        let mut closings = Vec::new();
        for act in round {
            let pick = |n: u8, open: &mut Vec<(Device, Intent)>| {
                (!open.is_empty()).then(|| open.swap_remove(usize::from(n) % open.len()))
            };
            let (site, log) = (Arc::clone(&site), log.clone());
            match act {
                Act::Intend(device) => {
                    let expected = model.intend(device);
                    let task = tokio::spawn(async move { site.intent(&log, device).await });
                    intends.push((device, expected, task));
                }
                Act::Issue(n) => closings.extend(pick(n, &mut open).map(|(_, intent)| {
                    let certificate = site.ca.certify(intent);
                    tokio::spawn(async move { log.record_issued(certificate).await.map(drop) })
                })),
                Act::Abandon(n) | Act::Unresolve(n) => {
                    let attempts = u32::from(matches!(act, Act::Unresolve(_)));
                    closings.extend(pick(n, &mut open).map(|(device, intent)| {
                        model.free(device);
                        let failed = failed(intent, attempts);
                        tokio::spawn(async move { log.record_failed(failed).await })
                    }));
                }
            }
        }
        for (device, expected, task) in intends {
            let result = task.await.unwrap();
            assert_eq!(told(&result), expected, "{device:?}");
            open.extend(result.ok().map(|intent| (device, intent)));
        }
        for task in closings {
            task.await.unwrap().unwrap();
        }
    }
    site.check(&log).await;
    log.kill().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// At most 8 unresolved, so that every unit returns.
    #[test]
    fn a_batch_decides_as_one_by_one(
        rounds in prop::collection::vec(prop::collection::vec(act(), 1..12), 1..6)
    ) {
        let mut left = 8;
        let mut few = |act: &Act| match act {
            Act::Unresolve(_) => {
                left -= 1;
                left >= 0
            }
            _ => true,
        };
        let rounds = rounds
            .into_iter()
            .map(|round| round.into_iter().filter(&mut few).collect())
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(rounds));
    }
}
