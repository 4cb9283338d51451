//! CRLs against the log that they are made of: the same rules, for what a log with the log key wrote.

use certstatus::crl::Scope;
use certstatus::log::Subject;

use crate::forge::{Details, Forge, chain, serial};
use crate::rules::case;

#[test]
fn logged_crls_agree_with_the_log() {
    case(
        "it lists a certificate that the log never revoked",
        Details::Given,
        |forge| forge.crl("device-1", 1, &[11]).1,
    );
    case(
        "it lists a certificate that the log never revoked",
        Details::Given,
        |forge| {
            forge.revoke(11, 1);
            // Of another issuer.
            forge.crl("root", 1, &[11]).1
        },
    );
    case(
        "the CRL number in its bytes is not the leaf's",
        Details::Given,
        |forge| {
            let tbs = forge.crl_tbs("device-1", 2, &[], &forge.head());
            forge
                .sign(
                    "device-1",
                    Subject::Crl {
                        number: 1,
                        partition: 0,
                    },
                    tbs,
                )
                .1
        },
    );
    case(
        "the issuer in its bytes is not the subject",
        Details::Given,
        |forge| {
            let tbs = forge.crl_tbs("root", 1, &[], &forge.head());
            forge
                .sign(
                    "device-1",
                    Subject::Crl {
                        number: 1,
                        partition: 0,
                    },
                    tbs,
                )
                .1
        },
    );
    case(
        "states another root for the first 2 entries",
        Details::Given,
        |forge| {
            let leaves = [forge.leaves()[0].clone(), b"forked".to_vec()];
            let tbs = forge.crl_tbs("device-1", 1, &[], &forge.sign_head(&leaves));
            forge
                .sign(
                    "device-1",
                    Subject::Crl {
                        number: 1,
                        partition: 0,
                    },
                    tbs,
                )
                .1
        },
    );
    case(
        "states another root for the first 500 entries",
        Details::Given,
        |forge| {
            // A head that the log did not have yet.
            let leaves = vec![b"future".to_vec(); 500];
            let tbs = forge.crl_tbs("device-1", 1, &[], &forge.sign_head(&leaves));
            forge
                .sign(
                    "device-1",
                    Subject::Crl {
                        number: 1,
                        partition: 0,
                    },
                    tbs,
                )
                .1
        },
    );
    case(
        "is not a checkpoint that the log key signed",
        Details::Given,
        |forge| {
            let tbs = forge.crl_tbs("device-1", 1, &[], "nothing");
            forge
                .sign(
                    "device-1",
                    Subject::Crl {
                        number: 1,
                        partition: 0,
                    },
                    tbs,
                )
                .1
        },
    );
}

/// A log whose device issuer has two partitions, and three revoked certificates.
fn partitioned() -> Forge {
    let mut forge = Forge::new();
    forge.partitions = 2;
    forge.ceremony("root", "root", 1);
    forge.ceremony("device-1", "root", 2);
    for n in 11..14 {
        forge.device(n);
        forge.revoke(n, 1);
    }
    forge
}

/// Those of the three that belong to a partition.
fn members(partition: u32) -> Vec<u8> {
    let of = |n: &u8| serial(*n).partition(2) == partition;
    (11..14).filter(of).collect()
}

#[test]
fn a_partitions_crl_lists_its_own_certificates_and_stands_in_its_own_place() {
    let mut forge = partitioned();
    forge.crl("device-1", 1, &[11, 12, 13]);
    for partition in [1, 2] {
        forge.scope = Scope::Partition(format!("http://x.example/{partition}.crl"));
        let place = (u64::from(partition) + 1, partition);
        forge.crl_of("device-1", place, &members(partition));
    }
    let report = forge.published().audit().unwrap();
    let mut told: Vec<_> = report
        .crls
        .iter()
        .map(|crl| (crl.partition, crl.number))
        .collect();
    told.sort_unstable();
    assert_eq!(told, [(0, 1), (1, 2), (2, 3)]);
    assert!(report.crls.iter().all(|crl| crl.newest == crl.number));

    // Exchanged on the way to readers.
    let one = forge.crls["device-1/1"].clone();
    let full = forge.crls["device-1"].clone();
    for other in [one, full] {
        forge.crls.insert("device-1/2".to_owned(), other);
        let said = chain(&forge.published().audit().unwrap_err());
        assert!(said.contains("in the place of another partition"), "{said}");
    }
}

#[test]
fn a_crl_that_lists_another_partitions_certificates_is_a_fault() {
    let case = |sentence: &str, partition: u32, scope: Scope, revoked: &[u8]| {
        let mut forge = partitioned();
        forge.scope = scope;
        let (_, at) = forge.crl_of("device-1", (1, partition), revoked);
        let fault = forge.published().audit().unwrap_err();
        assert_eq!(fault.index, Some(at), "{sentence}: {fault}");
        assert!(
            chain(&fault).contains(sentence),
            "{sentence}: {}",
            chain(&fault)
        );
    };
    let named = || Scope::Partition("http://x.example/1.crl".to_owned());
    case("another partition", 1, named(), &members(2));
    case("none of its issuer", 3, named(), &[]);
    case("covers a partition", 0, named(), &[]);
    case("covers a partition", 1, Scope::UserCertificates, &[]);
}

#[test]
fn a_crl_made_before_a_hold_was_lifted_verifies() {
    let mut forge = Forge::new();
    forge.ceremony("root", "root", 1);
    forge.ceremony("device-1", "root", 2);
    forge.device(11);
    forge.revoke(11, 6);
    let tbs = forge.crl_tbs("device-1", 1, &[11], &forge.head());
    forge.revoke(11, 8);
    // Made before the hold was lifted, logged after it.
    forge.sign(
        "device-1",
        Subject::Crl {
            number: 1,
            partition: 0,
        },
        tbs,
    );
    let report = forge.published().audit().unwrap();
    assert_eq!(report.certificates.revoked, 0);
}
