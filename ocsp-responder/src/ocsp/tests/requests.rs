//! Requests of every form, and the refusals.

use super::*;

#[test]
fn what_is_written_is_read() {
    let ids: [Vec<u8>; 2] = [an_id(), cert_id(SHA1_NULL, &[5])];
    let der = request(&[&ids[0], &ids[1]], Some(&[7; 32]));
    let read = parse_request(&der).unwrap();
    assert_eq!(read.nonce.unwrap().octets(), [7; 32]);
    assert_eq!(
        read.cert_ids.iter().map(|id| id.der).collect::<Vec<_>>(),
        ids
    );
    let [first, second] = &read.cert_ids[..] else {
        panic!("two were asked for");
    };
    assert_eq!(first.hash, Some(HashAlgorithm::Sha1));
    assert_eq!(
        (first.issuer_name_hash, first.issuer_key_hash),
        (&[1; 20][..], &[2; 20][..])
    );
    assert_eq!(
        first.serial_number(),
        SerialNumber::from_slice(&[0x5a; 16]).ok()
    );
    assert_eq!((second.serial, second.serial_number()), (&[5][..], None));
    assert_eq!(Parts::with(|_| ()), request(&[&ids[0]], None));
}

#[test]
fn a_request_by_gnutls_is_read() {
    // ocsptool 3.7.9, whose nonces have 23 octets.
    let der: Vec<u8> = [
        "307d307b304d304b3049300906052b0e03021a050004146e660e71bfaf714a7503330ba98f1396ec9201df04149b",
        "7385140a5ea88ba8640bc4700e578322b9eeae0210400000000000000000000000000000a1a22a3028302606092b",
        "0601050507300102041904177cc70dde0e96bfa72d56f327ff770d1f317d314b1e1130",
    ]
    .concat()
    .as_bytes()
    .chunks(2)
    .map(|digits| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap())
    .collect();
    let read = parse_request(&der).unwrap();
    let [id] = read.cert_ids[..] else {
        panic!("one was asked for");
    };
    assert_eq!(id.hash, Some(HashAlgorithm::Sha1));
    let serial = id.serial_number().unwrap();
    assert_eq!(serial.to_string(), "400000000000000000000000000000a1");
    let nonce = read.nonce.unwrap().octets();
    assert_eq!(nonce.len(), 23);
    assert_eq!(request(&[id.der], Some(nonce)), der);
}

#[test]
fn what_clients_may_leave_out_or_write_is_taken() {
    let requestor = tagged(1, &[&[0x82, 1, b'x']]);
    let anything = sequence(&[&sequence(&[&[6, 1, 1]]), &[3, 1, 0]]);
    let list = |extensions: &[u8]| sequence(&[&sequence(&[&an_id(), extensions])]);
    let locator = extension(NOVEL, &[], b"anything");
    for der in [
        Parts::with(|parts| parts.version = tagged(0, &[&[2, 1, 0]])),
        Parts::with(|parts| parts.requestor = requestor.clone()),
        Parts::with(|parts| parts.signature = tagged(0, &[&anything])),
        Parts::with(|parts| parts.list = list(&tagged(0, &[&sequence(&[&locator])]))),
        Parts::with(|parts| parts.list = list(&tagged(0, &[&sequence(&[])]))),
        Parts::with(|parts| parts.list.extend(tagged(2, &[&sequence(&[])]))),
        Parts::extended(&[
            extension(NOVEL, &[], &[]),
            extension(NOVEL, &[1, 1, 0], &[]),
        ]),
    ] {
        let read = parse_request(&der).unwrap();
        assert_eq!((read.cert_ids.len(), read.nonce), (1, None), "{der:02x?}");
        assert_eq!(read.cert_ids[0].der, an_id());
    }
}

#[test]
fn octets_that_are_no_request_are_refused_by_field() {
    let good = Parts::with(|_| ());
    let mut longer = good.clone();
    longer.push(0);
    let indefinite = [&[0x30, 0x80], &good[2..], &[0, 0]].concat();
    let length = [&[0x30, 0x81, good[1]], &good[2..]].concat();
    for (der, field) in [
        (Vec::new(), "OCSPRequest"),
        (longer, "OCSPRequest"),
        (good[..good.len() - 1].to_vec(), "OCSPRequest"),
        (indefinite, "OCSPRequest"),
        (length, "OCSPRequest"),
        (
            Parts::with(|p| p.signature = tagged(0, &[&[5, 0]])),
            "OCSPRequest",
        ),
        (
            Parts::with(|p| p.signature = tagged(1, &[&[0x30, 0]])),
            "OCSPRequest",
        ),
        (Parts::with(|p| p.version = vec![0xa0, 0x84]), "version"),
        (Parts::with(|p| p.list = Vec::new()), "requestList"),
        (Parts::with(|p| p.list = vec![0x31, 0]), "requestList"),
        (
            Parts::with(|p| p.list = sequence(&[&[5, 0]])),
            "requestList: a Request",
        ),
        (Parts::with(|p| p.list.extend([5, 0])), "tbsRequest"),
        (
            Parts::with(|p| p.extensions = vec![vec![5, 0]]),
            "requestExtensions",
        ),
        (
            Parts::extended(&[extension(NOVEL, &[1, 1, 1], &[])]),
            "requestExtensions",
        ),
        (
            Parts::extended(&[extension(NOVEL, &[5, 0], &[])]),
            "requestExtensions",
        ),
        (
            Parts::extended(&[sequence(&[&[6, 1, 1]])]),
            "requestExtensions",
        ),
    ] {
        assert_eq!(parse_request(&der), Err(BadRequest::NotDer(field)));
    }
    for version in [&[2, 1, 1][..], &[2, 1, 0xff], &[2, 2, 0, 0], &[5, 0], &[]] {
        let der = Parts::with(|parts| parts.version = tagged(0, &[version]));
        assert_eq!(parse_request(&der), Err(BadRequest::Version), "{version:?}");
    }
    for extensions in [
        tagged(0, &[&[5, 0]]),
        tagged(0, &[&[0x30, 2, 5, 0]]),
        vec![5, 0],
    ] {
        let list = sequence(&[&sequence(&[&an_id(), &extensions])]);
        let field = "requestList: singleRequestExtensions";
        let der = Parts::with(|parts| parts.list = list);
        assert_eq!(parse_request(&der), Err(BadRequest::NotDer(field)));
    }
}

#[test]
fn no_more_is_read_than_the_limits_say() {
    assert_eq!(parse_request(&Parts::many(0)), Err(BadRequest::NoCertId));
    let most = Parts::many(CERT_IDS_MAX);
    assert_eq!(parse_request(&most).unwrap().cert_ids.len(), CERT_IDS_MAX);
    let more = Parts::many(CERT_IDS_MAX + 1);
    assert_eq!(parse_request(&more), Err(BadRequest::TooManyCertIds));
    // A requestorName that fills the request up.
    let filled = |len: usize| {
        let name = vec![b'x'; len];
        Parts::with(|parts| parts.requestor = tagged(1, &[&tlv::wrap(0x82, &[&name])]))
    };
    let room = REQUEST_BYTES_MAX - filled(10_000).len() + 10_000;
    assert_eq!(filled(room).len(), REQUEST_BYTES_MAX);
    assert!(parse_request(&filled(room)).is_ok());
    assert_eq!(parse_request(&filled(room + 1)), Err(BadRequest::TooLong));
    // The most that is promised to fit does: the largest hashes, the longest serials and nonce.
    let identifier = tlv::wrap(
        tlv::OBJECT_IDENTIFIER,
        &[&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3]],
    );
    let large = sequence(&[
        &sequence(&[&identifier, &[5, 0]]),
        &octets(&[1; 64]),
        &octets(&[2; 64]),
        &tlv::wrap(tlv::INTEGER, &[&[0x5a; SERIAL_OCTETS_MAX]]),
    ]);
    let der = request(&[&large[..]; CERT_IDS_MAX], Some(&[3; NONCE_OCTETS_MAX]));
    assert!(der.len() + 3_000 < REQUEST_BYTES_MAX, "{}", der.len());
    assert_eq!(
        parse_request(&der).unwrap().cert_ids[0].hash,
        Some(HashAlgorithm::Sha512)
    );
}

#[test]
fn a_hash_has_parameters_null_or_none() {
    for (algorithm, hash) in [
        (
            &[0x30, 7, 6, 5, 0x2b, 0x0e, 3, 2, 0x1a][..],
            Some(Some(HashAlgorithm::Sha1)),
        ),
        (SHA1_NULL, Some(Some(HashAlgorithm::Sha1))),
        (&[0x30, 9, 6, 5, 0x2b, 0x0e, 3, 2, 0x1a, 0x30, 0], None),
        (&[0x30, 11, 6, 5, 0x2b, 0x0e, 3, 2, 0x1a, 5, 0, 5, 0], None),
        (&[0x30, 5, 6, 3, 0x2a, 3, 4], Some(None)),
        (&[0x30, 7, 6, 3, 0x2a, 3, 4, 0x30, 0], Some(None)),
        (&[0x30, 9, 6, 3, 0x2a, 3, 4, 5, 0, 5, 0], None),
        (&[0x30, 0], None),
    ] {
        let id = cert_id(algorithm, &[5]);
        let der = request(&[&id], None);
        let read = parse_request(&der);
        match hash {
            Some(hash) => {
                let [read] = read.unwrap().cert_ids[..] else {
                    panic!("one was asked for");
                };
                assert_eq!((read.hash, read.der), (hash, &id[..]));
            }
            None => assert_eq!(read, Err(BadRequest::NotDer("requestList: a CertID"))),
        }
    }
}

#[test]
fn serials_of_any_form_come_back_as_they_were() {
    for serial in [
        &[0][..],
        &[0xff],
        &[0, 0, 5],
        &[0x3f; 16],
        &[0x80; 16],
        &[0x5a; 15],
        &[0x5a; SERIAL_OCTETS_MAX],
    ] {
        let der = request(&[&cert_id(SHA1_NULL, serial)], None);
        let read = parse_request(&der).unwrap().cert_ids[0];
        assert_eq!((read.serial, read.serial_number()), (serial, None));
    }
    for serial in [&[][..], &[0x5a; SERIAL_OCTETS_MAX + 1]] {
        let der = request(&[&cert_id(SHA1_NULL, serial)], None);
        let refused = Err(BadRequest::NotDer("requestList: a CertID"));
        assert_eq!(parse_request(&der), refused);
    }
}

#[test]
fn nonces_are_kept_in_both_forms_and_in_range() {
    // RFC 9654, 2.1: the example.
    let example = [
        0x30, 0x2f, 0x06, 0x09, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x02, 0x04, 0x22,
        0x04, 0x20, 0xdd, 0x49, 0xd4, 0x07, 0x2c, 0x44, 0x9d, 0xa1, 0xc3, 0x17, 0xbd, 0x1c, 0x1b,
        0xdf, 0xfe, 0xdb, 0xe1, 0x50, 0x31, 0x2e, 0xc4, 0xcd, 0x0a, 0xdd, 0x18, 0xe5, 0xbd, 0x6f,
        0x84, 0xbf, 0x14, 0xc8,
    ];
    let der = Parts::extended(&[example.to_vec()]);
    let nonce = parse_request(&der).unwrap().nonce.unwrap();
    assert_eq!(nonce.octets(), &example[17..]);
    assert_eq!(der, request(&[&an_id()], Some(&example[17..])));
    for (value, len) in [
        (octets(&[9; 1]), Some(1)),
        (octets(&[9; 128]), Some(128)),
        (octets(&[]), None),
        (octets(&[9; 129]), None),
        (vec![9; 1], Some(1)),
        (vec![9; 128], Some(128)),
        (vec![4; 16], Some(16)),
        (vec![], None),
        (vec![9; 129], None),
        ([&octets(&[9; 126])[..], &[0]].concat(), None),
    ] {
        let der = Parts::nonce(&value);
        match len {
            None => assert_eq!(parse_request(&der), Err(BadRequest::NonceLength)),
            Some(len) => {
                let nonce = parse_request(&der).unwrap().nonce.unwrap();
                assert_eq!((nonce.0, nonce.octets().len()), (&value[..], len));
                let tbs = response_data(&KEY, AT, &[single(CertStatus::Good)], Some(nonce));
                let echoed = extension(NONCE, &[], &value);
                assert!(tbs.ends_with(&echoed), "{value:02x?}");
            }
        }
    }
    let twice = [
        extension(NONCE, &[], &octets(&[1])),
        extension(NONCE, &[], &octets(&[1])),
    ];
    assert_eq!(
        parse_request(&Parts::extended(&twice)),
        Err(BadRequest::NonceTwice)
    );
}

#[test]
fn critical_extensions_must_be_known() {
    let basic = sequence(&[&tlv::wrap(tlv::OBJECT_IDENTIFIER, &[BASIC])]);
    let both = sequence(&[&[6, 3, 0x2a, 3, 4], &basic[2..]]);
    let novel = sequence(&[&[6, 3, 0x2a, 3, 4]]);
    let refused = Some(BadRequest::CriticalExtension);
    for (extension, refusal) in [
        (extension(NOVEL, CRITICAL, &[]), refused),
        (extension(NONCE, CRITICAL, &octets(&[9])), None),
        (extension(ACCEPTABLE_RESPONSES, CRITICAL, &basic), None),
        (extension(ACCEPTABLE_RESPONSES, CRITICAL, &both), None),
        (extension(ACCEPTABLE_RESPONSES, CRITICAL, &novel), refused),
        (extension(ACCEPTABLE_RESPONSES, CRITICAL, &[5, 0]), refused),
        (extension(ACCEPTABLE_RESPONSES, &[], &novel), None),
    ] {
        let der = Parts::extended(std::slice::from_ref(&extension));
        assert_eq!(parse_request(&der).err(), refusal, "{extension:02x?}");
    }
    let single = tagged(
        0,
        &[&sequence(&[&extension(NONCE, CRITICAL, &octets(&[9]))])],
    );
    let list = sequence(&[&sequence(&[&an_id(), &single])]);
    let der = Parts::with(|parts| parts.list = list);
    assert_eq!(
        parse_request(&der).err(),
        refused,
        "a nonce for one certificate is none"
    );
}
