//! Readers: who they are, what each role may read, and that nobody's certificate is another's.

use super::*;

/// A reader.
fn reader(role: Role, name: &str) -> Reader {
    let name = slug(name);
    Reader { role, name }
}

/// The change that gives a reader a certificate.
fn certified(reader: &Reader, tag: u8) -> Change {
    Change::ReaderCertified {
        reader: reader.clone(),
        certificate: certificate(tag),
    }
}

/// Admits and applies changes.
fn make(registry: &Registry, changes: impl IntoIterator<Item = Change>) {
    for change in changes {
        registry.admit(&change, NOW).unwrap();
        registry.apply(&change);
    }
}

/// The approval of the responder `ocsp-1`.
fn approved() -> Change {
    let key = rcgen::KeyPair::generate().unwrap();
    Change::ResponderApproved {
        responder: slug("ocsp-1"),
        spki: Base64(rcgen::PublicKeyData::subject_public_key_info(&key)),
    }
}

/// Lines with certificates 1 and 2, the responder `ocsp-1` with 11 and 12, the auditor of the same name with 21.
fn read_by() -> (Registry, Reader, Reader) {
    let registry = registry();
    let (responder, auditor) = (
        reader(Role::Responder, "ocsp-1"),
        reader(Role::Auditor, "ocsp-1"),
    );
    make(
        &registry,
        [
            approved(),
            certified(&responder, 11),
            certified(&responder, 12),
            certified(&auditor, 21),
        ],
    );
    (registry, responder, auditor)
}

/// What each of a line, a responder, an auditor and a stranger is told: for the line API, `/public/` and `/private/`.
fn told(registry: &Registry, tag: u8) -> [&'static str; 3] {
    let digest = DetailHash::of(&[tag]);
    let rule = |refused: Option<Refused>| refused.map_or("yes", |refused| refused.rule());
    let area = |area| registry.authenticate_reader(Some(&digest), area, NOW).err();
    [
        rule(registry.authenticate(Some(&[tag]), NOW).err()),
        rule(area(Area::Public)),
        rule(area(Area::Private)),
    ]
}

#[test]
fn nobody_s_certificate_authenticates_another() {
    let (registry, responder, auditor) = read_by();
    let wrong = "wrong-role";
    let unknown = "unknown-certificate";
    for (tag, expected) in [
        (1, ["yes", wrong, wrong]),
        (11, [wrong, "yes", wrong]),
        (12, [wrong, "yes", wrong]),
        (21, [wrong, "yes", "yes"]),
        (99, [unknown; 3]),
    ] {
        assert_eq!(told(&registry, tag), expected, "{tag}");
    }
    let proved = |tag: u8| registry.prove(Some(&DetailHash::of(&[tag])), NOW).unwrap();
    assert_eq!(proved(2).party, Party::Line(slug("line-2")));
    assert_eq!(proved(12).party, Party::Reader(responder));
    assert_eq!(proved(21).party, Party::Reader(auditor));
    assert_eq!(proved(21).not_after, certificate(21).not_after);
    assert_eq!(registry.line_of(certificate(21).serial), None);
    assert_eq!(registry.reader_of(certificate(1).serial), None);
    let late = UnixMillis::from_seconds(201);
    let public = registry.authenticate_reader(Some(&DetailHash::of(&[21])), Area::Public, late);
    assert_eq!(public.unwrap_err().rule(), "certificate-outside-validity");
    let none = registry.authenticate_reader(None, Area::Public, NOW);
    assert_eq!(none.unwrap_err().rule(), "no-certificate");
}

#[test]
fn a_certificate_is_one_party_s_alone() {
    let (registry, responder, auditor) = read_by();
    for (reader, tag) in [(&auditor, 1), (&auditor, 11), (&responder, 21)] {
        let refused = registry.admit(&certified(reader, tag), NOW);
        assert!(matches!(refused, Err(ChangeRefused::Exists(_))), "{tag}");
    }
    let of_line = Change::LineCertified {
        line: slug("line-1"),
        certificate: certificate(11),
        renews: None,
    };
    let refused = registry.admit(&of_line, NOW);
    assert!(matches!(refused, Err(ChangeRefused::Exists(_))));
}

#[test]
fn a_responder_reads_while_its_key_is_approved() {
    let (registry, responder, auditor) = read_by();
    let revoked = Change::ResponderRevoked {
        responder: slug("ocsp-1"),
    };
    make(
        &registry,
        [Change::ReaderDecertified {
            reader: responder.clone(),
            serial: certificate(11).serial,
        }],
    );
    make(&registry, [revoked]);
    assert_eq!(told(&registry, 12), ["unknown-certificate"; 3]);
    assert_eq!(registry.reader(&responder), None);
    assert_eq!(told(&registry, 21)[1], "yes", "another of the same name");
    // What was asked for before is not taken in after.
    let late = registry.admit(&certified(&responder, 13), NOW);
    assert!(matches!(late, Err(ChangeRefused::Missing(_))));
    // Approved anew, it has none of its old certificates, nor does a release bring one back.
    make(&registry, [approved()]);
    assert_eq!(told(&registry, 12), ["unknown-certificate"; 3]);
    assert_eq!(registry.decertified(certificate(11).serial), None);
    assert!(!registry.is_enabled(&Party::Reader(responder)));
    assert!(registry.is_enabled(&Party::Reader(auditor)));
}

#[test]
fn a_revoked_certificate_ends_alone_and_may_come_back() {
    let (registry, responder, auditor) = read_by();
    let serial = certificate(11).serial;
    let gone = |reader: &Reader| Change::ReaderDecertified {
        reader: reader.clone(),
        serial,
    };
    let refused = registry.admit(&gone(&auditor), NOW);
    assert!(
        matches!(refused, Err(ChangeRefused::Missing(_))),
        "another's"
    );
    make(&registry, [gone(&responder)]);
    assert_eq!(told(&registry, 11), ["unknown-certificate"; 3]);
    assert_eq!(told(&registry, 12)[1], "yes");
    assert_eq!(registry.reader_of(serial), None);
    let refused = registry.admit(&gone(&responder), NOW);
    assert!(matches!(refused, Err(ChangeRefused::Missing(_))), "gone");
    let (reader, certificate) = registry.decertified(serial).unwrap();
    make(
        &registry,
        [Change::ReaderCertified {
            reader,
            certificate,
        }],
    );
    assert_eq!(told(&registry, 11)[1], "yes");
    assert_eq!(registry.decertified(serial), None);
}

#[test]
fn a_disabled_auditor_reads_nothing_until_it_is_enabled() {
    let (registry, _, auditor) = read_by();
    let set = |state| Change::ReaderSet {
        reader: auditor.clone(),
        state,
    };
    make(&registry, [set(PartyState::Disabled)]);
    assert_eq!(told(&registry, 21), ["reader-disabled"; 3]);
    assert!(!registry.is_enabled(&Party::Reader(auditor.clone())));
    make(&registry, [set(PartyState::Enabled)]);
    assert_eq!(told(&registry, 21)[2], "yes");
    let unknown = Change::ReaderSet {
        reader: reader(Role::Auditor, "nobody"),
        state: PartyState::Disabled,
    };
    let refused = registry.admit(&unknown, NOW);
    assert!(matches!(refused, Err(ChangeRefused::Missing(_))));
    // A log that says so all the same adds nobody.
    registry.apply(&unknown);
    assert_eq!(registry.readers().len(), 2);
}

#[test]
fn changes_of_readers_are_as_the_log_format_says() {
    let auditor = reader(Role::Auditor, "audit-1");
    let kept = r#"{"change":"reader-set","reader":{"role":"auditor","name":"audit-1"},"state":"disabled"}"#;
    let set = Change::ReaderSet {
        reader: auditor.clone(),
        state: PartyState::Disabled,
    };
    assert_eq!(serde_json::to_string(&set).unwrap(), kept);
    for change in [set, certified(&auditor, 7)] {
        let value = serde_json::to_value(&change).unwrap();
        assert_eq!(serde_json::from_value::<Change>(value).unwrap(), change);
    }
    let listed = ReaderRecord {
        reader: auditor,
        state: PartyState::Enabled,
        certificates: Vec::new(),
    };
    let listed = serde_json::to_value(&listed).unwrap();
    assert_eq!(
        (&listed["role"], &listed["name"]),
        (&"auditor".into(), &"audit-1".into())
    );
}
