//! Tables of every rule of the registry.

use std::collections::BTreeSet;

use certstatus::SerialNumber;

use super::*;
use crate::ra::Registry;

mod readers;

/// When changes are made.
const NOW: UnixMillis = UnixMillis::from_seconds(150);

/// A name.
fn slug(name: &str) -> Slug {
    name.parse().unwrap()
}

/// A certificate whose DER is stood for by `tag`, valid from second 100 until second 200.
fn certificate(tag: u8) -> PartyCertificate {
    PartyCertificate {
        serial: SerialNumber::from_random([tag; 16]),
        sha256: DetailHash::of(&[tag]),
        not_before: UnixMillis::from_seconds(100),
        not_after: UnixMillis::from_seconds(200),
    }
}

/// Terms of the order `demo` for `line-1`, from second 120 until second 180, 2 units.
fn terms() -> OrderTerms {
    OrderTerms {
        order: slug("demo"),
        profile: "mqtt-device".into(),
        issuer: "devices".parse().unwrap(),
        lines: BTreeSet::from([slug("line-1")]),
        quantity: 2,
        from: UnixMillis::from_seconds(120),
        until: UnixMillis::from_seconds(180),
        device_id_pattern: "dev-[0-9]+".into(),
    }
}

/// An order's figures.
const fn units(used: u64, unresolved: u32, held: u64) -> Units {
    Units {
        used,
        unresolved,
        held,
    }
}

/// Two lines with certificates 1 and 2, and the order `demo`, each change admitted before it is applied.
fn registry() -> Registry {
    let registry = Registry::default();
    let changes = [
        Change::LineAdded {
            line: slug("line-1"),
        },
        Change::LineCertified {
            line: slug("line-1"),
            certificate: certificate(1),
            renews: None,
        },
        Change::LineAdded {
            line: slug("line-2"),
        },
        Change::LineCertified {
            line: slug("line-2"),
            certificate: certificate(2),
            renews: None,
        },
        Change::OrderOpened { terms: terms() },
    ];
    for change in changes {
        registry.admit(&change, NOW).unwrap();
        registry.apply(&change);
    }
    registry
}

/// The line that certificate `tag` proves at second 150.
fn line(registry: &Registry, tag: u8) -> Line {
    registry
        .authenticate(Some(&[tag]), UnixMillis::from_seconds(150))
        .unwrap()
}

#[test]
fn only_an_exact_valid_certificate_of_an_enabled_line_authenticates() {
    let registry = registry();
    let rule = |peer: Option<&[u8]>, millis| match registry.authenticate(peer, UnixMillis(millis)) {
        Ok(line) => line.name().to_string(),
        Err(refused) => refused.rule().to_owned(),
    };
    let rows: [(Option<&[u8]>, u64, &str); 8] = [
        (Some(&[1]), 100_000, "line-1"),
        (Some(&[2]), 150_000, "line-2"),
        (Some(&[1]), 200_999, "line-1"),
        (Some(&[1]), 201_000, "certificate-outside-validity"),
        (Some(&[1]), 99_999, "certificate-outside-validity"),
        (Some(&[3]), 150_000, "unknown-certificate"),
        (Some(&[1, 1]), 150_000, "unknown-certificate"),
        (None, 150_000, "no-certificate"),
    ];
    for (peer, millis, expected) in rows {
        assert_eq!(rule(peer, millis), expected, "{peer:?} {millis}");
    }
}

#[test]
fn a_disabled_line_is_refused_on_the_next_request_until_it_is_enabled() {
    let registry = registry();
    let now = UnixMillis::from_seconds(150);
    for (state, authenticates) in [(PartyState::Disabled, false), (PartyState::Enabled, true)] {
        registry.apply(&Change::LineSet {
            line: slug("line-1"),
            state,
        });
        assert_eq!(
            registry.authenticate(Some(&[1]), now).is_ok(),
            authenticates
        );
        assert!(registry.authenticate(Some(&[2]), now).is_ok());
    }
}

#[test]
fn a_revoked_certificate_is_refused_and_the_lines_other_one_is_not() {
    let registry = registry();
    let now = UnixMillis::from_seconds(150);
    let first = certificate(1);
    let further = Change::LineCertified {
        line: slug("line-1"),
        certificate: certificate(3),
        renews: None,
    };
    registry.apply(&further);
    assert_eq!(registry.line_of(first.serial), Some(slug("line-1")));
    let revoked = |line| Change::LineDecertified {
        line: slug(line),
        serial: first.serial,
    };
    assert!(
        registry.admit(&revoked("line-2"), NOW).is_err(),
        "not its certificate"
    );
    registry.admit(&revoked("line-1"), NOW).unwrap();
    registry.apply(&revoked("line-1"));
    let refused = registry.authenticate(Some(&[1]), now);
    assert_eq!(refused, Err(Refused::UnknownCertificate));
    assert!(registry.authenticate(Some(&[3]), now).is_ok());
    assert_eq!(registry.line_of(first.serial), None);
    assert!(
        registry.admit(&revoked("line-1"), NOW).is_err(),
        "once is enough"
    );
}

#[test]
fn a_foreign_order_and_no_order_are_told_alike() {
    let registry = registry();
    let other = line(&registry, 2);
    assert_eq!(
        registry.order_for(&other, "demo"),
        Err(Refused::NoOrder("demo".into()))
    );
    assert_eq!(
        registry.order_for(&other, "none"),
        Err(Refused::NoOrder("none".into()))
    );
    let now = UnixMillis::from_seconds(150);
    let refused = registry.grant(&other, &slug("demo"), "dev-1", now);
    assert_eq!(refused, Err(Refused::NoOrder("demo".into())));
    let nonsense = format!("a\r\nb{}", "x".repeat(500));
    let Err(Refused::NoOrder(told)) = registry.order_for(&other, &nonsense) else {
        unreachable!("no order has such a name");
    };
    assert!(told.len() <= 64 && !told.contains('\n'));
    assert_eq!(
        registry
            .order_for(&line(&registry, 1), "demo")
            .unwrap()
            .terms,
        terms()
    );
}

#[test]
fn a_grant_needs_state_dates_device_id_and_units() {
    let long = "dev-".to_owned() + &"1".repeat(61);
    let rows = [
        (OrderState::Open, 0, 150_000, "dev-1", "granted"),
        (OrderState::Open, 1, 120_000, "dev-1", "granted"),
        (OrderState::Open, 0, 179_999, "dev-1", "granted"),
        (OrderState::Open, 0, 180_000, "dev-1", "order-outside-dates"),
        (OrderState::Open, 0, 119_999, "dev-1", "order-outside-dates"),
        (OrderState::Closed, 0, 150_000, "dev-1", "order-closed"),
        (OrderState::Open, 2, 150_000, "dev-1", "order-used-up"),
        (OrderState::Open, 3, 150_000, "dev-1", "order-used-up"),
        (OrderState::Open, 0, 150_000, "dev-1x", "device-id-pattern"),
        (OrderState::Open, 0, 150_000, "xdev-1", "device-id-pattern"),
        (OrderState::Open, 0, 150_000, "dev-1\n", "device-id-form"),
        (OrderState::Open, 0, 150_000, "", "device-id-form"),
        (OrderState::Open, 0, 150_000, &long, "device-id-form"),
    ];
    for (state, used, millis, device_id, expected) in rows {
        let registry = registry();
        registry.apply(&Change::OrderSet {
            order: slug("demo"),
            state,
        });
        registry.set_units(&slug("demo"), units(used, 0, 0));
        let asking = line(&registry, 1);
        let told = match registry.grant(&asking, &slug("demo"), device_id, UnixMillis(millis)) {
            Ok(grant) => {
                assert_eq!(grant.device_id(), Some(device_id));
                "granted"
            }
            Err(refused) => refused.rule(),
        };
        assert_eq!(told, expected, "{state:?} {used} {millis} {device_id:?}");
    }
}

#[test]
fn a_line_renews_but_does_not_collect() {
    let registry = registry();
    let asking = line(&registry, 1);
    let now = UnixMillis::from_seconds(150);
    for tag in 11..18 {
        assert_eq!(registry.renewal(&asking, now), Ok(asking.renewal()));
        let change = Change::LineCertified {
            line: slug("line-1"),
            certificate: certificate(tag),
            renews: None,
        };
        registry.admit(&change, NOW).unwrap();
        registry.apply(&change);
    }
    assert_eq!(
        registry.renewal(&asking, now).unwrap_err().rule(),
        "too-many-certificates"
    );
    let later = UnixMillis::from_seconds(300);
    assert!(
        registry.renewal(&asking, later).is_ok(),
        "expired ones do not count"
    );
}

#[test]
fn a_renewal_counts_only_while_its_asker_may_ask() {
    let registry = registry();
    let first = certificate(1);
    let renewed = |tag| Change::LineCertified {
        line: slug("line-1"),
        certificate: certificate(tag),
        renews: Some(first.serial),
    };
    let set = |state| Change::LineSet {
        line: slug("line-1"),
        state,
    };
    let rule = |change: &Change, now| match registry.admit(change, now) {
        Ok(()) => "admitted",
        Err(ChangeRefused::Line(refused)) => refused.rule(),
        Err(other) => panic!("{other}"),
    };
    assert_eq!(rule(&renewed(3), NOW), "admitted");
    registry.apply(&set(PartyState::Disabled));
    assert_eq!(rule(&renewed(3), NOW), "line-disabled");
    registry.apply(&set(PartyState::Enabled));
    // All counted before any was certified: the eighth is the last all the same.
    for tag in 11..18 {
        assert_eq!(rule(&renewed(tag), NOW), "admitted");
        registry.apply(&renewed(tag));
    }
    assert_eq!(rule(&renewed(18), NOW), "too-many-certificates");
    assert_eq!(
        rule(&renewed(18), UnixMillis::from_seconds(300)),
        "admitted"
    );
    registry.apply(&Change::LineDecertified {
        line: slug("line-1"),
        serial: first.serial,
    });
    assert_eq!(rule(&renewed(19), NOW), "unknown-certificate");
    let kept = serde_json::to_string(&renewed(3)).unwrap();
    assert_eq!(serde_json::from_str::<Change>(&kept).unwrap(), renewed(3));
    let act = Change::LineCertified {
        line: slug("line-1"),
        certificate: certificate(20),
        renews: None,
    };
    // Details hold no null, and those of an operator's act look as they always did.
    assert!(!serde_json::to_string(&act).unwrap().contains("renews"));
    assert_eq!(registry.admit(&act, NOW), Ok(()));
}

/// The terms of a new order, changed.
fn opened(change: impl FnOnce(&mut OrderTerms)) -> Change {
    let mut terms = terms();
    terms.order = slug("new");
    change(&mut terms);
    Change::OrderOpened { terms }
}

#[test]
fn orders_are_opened_on_possible_terms_only() {
    let registry = registry();
    registry.admit(&opened(|_| ()), NOW).unwrap();
    registry
        .admit(&opened(|t| t.quantity = QUANTITY_MAX), NOW)
        .unwrap();
    let rows = [
        (
            opened(|t| t.order = slug("demo")),
            "the order demo exists already",
        ),
        (opened(|t| t.quantity = 0), "quantity:"),
        (opened(|t| t.quantity = QUANTITY_MAX + 1), "quantity:"),
        (opened(|t| t.until = t.from), "until:"),
        (opened(|t| t.until = UnixMillis(u64::MAX)), "until:"),
        (opened(|t| t.lines.clear()), "lines:"),
        (
            opened(|t| t.lines = (0..257).map(|n| slug(&format!("l{n}"))).collect()),
            "lines:",
        ),
        (
            opened(|t| {
                t.lines.insert(slug("nowhere"));
            }),
            "there is no line nowhere",
        ),
        (opened(|t| t.profile = String::new()), "profile:"),
        (opened(|t| t.profile = "../x".into()), "profile:"),
        (
            opened(|t| t.device_id_pattern = "(".into()),
            "device_id_pattern:",
        ),
    ];
    for (change, expected) in rows {
        let told = registry.admit(&change, NOW).unwrap_err().to_string();
        assert!(told.starts_with(expected), "{told}");
    }
}

#[test]
fn lines_and_certificates_are_added_once_and_to_what_exists() {
    let registry = registry();
    let mut backwards = certificate(9);
    backwards.not_after = backwards.not_before;
    let rows = [
        (
            Change::LineAdded {
                line: slug("line-1"),
            },
            "the line line-1 exists already",
        ),
        (
            Change::LineCertified {
                line: slug("line-9"),
                certificate: certificate(9),
                renews: None,
            },
            "there is no line line-9",
        ),
        (
            Change::LineCertified {
                line: slug("line-2"),
                certificate: certificate(1),
                renews: None,
            },
            "the client certificate 41010101010101010101010101010101 exists already",
        ),
        (
            Change::LineCertified {
                line: slug("line-1"),
                certificate: backwards,
                renews: None,
            },
            "not_after: it must be after not_before",
        ),
        (
            Change::LineSet {
                line: slug("line-9"),
                state: PartyState::Enabled,
            },
            "there is no line line-9",
        ),
        (
            Change::OrderSet {
                order: slug("none"),
                state: OrderState::Closed,
            },
            "there is no order none",
        ),
    ];
    for (change, expected) in rows {
        assert_eq!(
            registry.admit(&change, NOW).unwrap_err().to_string(),
            expected
        );
    }
}

#[test]
fn changes_that_do_not_fit_refuse_more_and_never_less() {
    let registry = registry();
    registry.apply(&Change::LineCertified {
        line: slug("line-9"),
        certificate: certificate(9),
        renews: None,
    });
    let now = UnixMillis::from_seconds(150);
    assert_eq!(
        registry.authenticate(Some(&[9]), now),
        Err(Refused::UnknownCertificate)
    );
    registry.apply(&opened(|t| t.device_id_pattern = "(".into()));
    let refused = registry
        .grant(&line(&registry, 1), &slug("new"), "dev-1", now)
        .unwrap_err();
    assert_eq!(refused.rule(), "device-id-pattern");
    registry.apply(&Change::OrderOpened {
        terms: OrderTerms {
            quantity: 99,
            ..terms()
        },
    });
    assert_eq!(
        registry.order(&slug("demo")).unwrap().terms.quantity,
        2,
        "terms are fixed"
    );
}

#[test]
fn changes_round_trip_as_the_log_keeps_them() {
    let changes = [
        Change::LineAdded {
            line: slug("line-1"),
        },
        Change::LineCertified {
            line: slug("line-1"),
            certificate: certificate(1),
            renews: None,
        },
        Change::LineDecertified {
            line: slug("line-1"),
            serial: certificate(1).serial,
        },
        Change::LineSet {
            line: slug("line-1"),
            state: PartyState::Disabled,
        },
        Change::OrderOpened { terms: terms() },
        Change::OrderSet {
            order: slug("demo"),
            state: OrderState::Closed,
        },
        returned("demo", 3),
    ];
    for change in changes {
        let value = serde_json::to_value(&change).unwrap();
        assert_eq!(serde_json::from_value::<Change>(value).unwrap(), change);
    }
}

/// An operator's act that gives units back.
fn returned(order: &str, units: u64) -> Change {
    let order = slug(order);
    Change::UnitsReturned { order, units }
}

#[test]
fn units_are_given_back_up_to_those_that_are_held() {
    let registry = registry();
    let refused = |change: &Change| match registry.admit(change, NOW) {
        Ok(()) => String::new(),
        Err(refused) => refused.to_string(),
    };
    assert_eq!(refused(&returned("none", 1)), "there is no order none");
    let none = "units: the order demo holds none: there is nothing to give back";
    assert_eq!(refused(&returned("demo", 1)), none);
    registry.set_units(&slug("demo"), units(2, 12, 2));
    let too_many = "units: the order demo holds 2: give back no more than these";
    for (count, sentence) in [
        (0, "units: give back at least 1"),
        (1, ""),
        (2, ""),
        (3, too_many),
        (u64::MAX, too_many),
    ] {
        assert_eq!(refused(&returned("demo", count)), sentence, "{count}");
    }
    // Closed or not: what it closes is the issuing.
    registry.apply(&Change::OrderSet {
        order: slug("demo"),
        state: OrderState::Closed,
    });
    assert_eq!(refused(&returned("demo", 2)), "");
}

#[test]
fn a_return_that_is_replayed_leaves_the_figures_to_the_store() {
    let registry = registry();
    registry.set_units(&slug("demo"), units(2, 12, 2));
    registry.apply(&returned("demo", 2));
    let order = registry.order(&slug("demo")).unwrap();
    assert_eq!(order.units(), units(2, 12, 2));
}

#[test]
fn listings_show_what_stands() {
    let registry = registry();
    registry.set_units(&slug("demo"), units(2, 12, 1));
    let names: Vec<_> = registry
        .lines()
        .into_iter()
        .map(|l| l.line.to_string())
        .collect();
    assert_eq!(names, ["line-1", "line-2"]);
    assert_eq!(
        registry.line(&slug("line-2")).unwrap().certificates,
        [certificate(2)]
    );
    let orders = registry.orders();
    assert_eq!(orders[0].units(), units(2, 12, 1));
    let shown = serde_json::to_value(&orders[0]).unwrap();
    assert_eq!((&shown["used"], &shown["held"]), (&2.into(), &1.into()));
    assert_eq!(registry.order(&slug("none")), None);
}

#[test]
fn a_responder_is_approved_with_one_key_until_it_is_revoked() {
    let registry = Registry::default();
    let now = UnixMillis(0);
    let key = rcgen::KeyPair::generate().unwrap();
    let spki = Base64(rcgen::PublicKeyData::subject_public_key_info(&key));
    let approved = |name: &str, spki: &Base64| Change::ResponderApproved {
        responder: slug(name),
        spki: spki.clone(),
    };
    let revoked = Change::ResponderRevoked {
        responder: slug("ocsp-1"),
    };
    assert!(matches!(
        registry.admit(&revoked, now),
        Err(ChangeRefused::Missing(_))
    ));
    let no_key = approved("ocsp-1", &Base64(vec![0x30, 0]));
    assert!(matches!(
        registry.admit(&no_key, now),
        Err(ChangeRefused::Value { key: "spki", .. })
    ));
    let change = approved("ocsp-1", &spki);
    registry.admit(&change, now).unwrap();
    registry.apply(&change);
    let known = registry.responder(&slug("ocsp-1")).unwrap();
    assert_eq!(known.sha256, DetailHash::of(&spki.0));
    assert!(matches!(
        registry.admit(&change, now),
        Err(ChangeRefused::Exists(_))
    ));
    registry.admit(&revoked, now).unwrap();
    registry.apply(&revoked);
    assert_eq!(registry.responders(), []);
    // Or a revocation under one name would leave the key approved under the other.
    registry.apply(&approved("ocsp-2", &spki));
    let Err(ChangeRefused::Value { key, problem }) = registry.admit(&change, now) else {
        panic!("the same key twice");
    };
    assert_eq!(key, "spki");
    assert!(problem.contains("ocsp-2"), "{problem}");
    for number in 0..64 {
        registry.apply(&approved(&format!("ocsp-{number}"), &spki));
    }
    let one_more = approved("ocsp-64", &spki);
    assert!(matches!(
        registry.admit(&one_more, now),
        Err(ChangeRefused::Value {
            key: "responder",
            ..
        })
    ));
}
