//! What people read when a ceremony fails.

use super::*;

#[test]
fn a_failure_midway_lists_what_was_made() {
    let error = CeremonyError::Midway {
        doing: "making the certificate of device-1".to_owned(),
        made: vec![
            "the database in /state".to_owned(),
            "a key pair pkcs11:token=t;serial=s;object=device-1;type=private".to_owned(),
        ],
        source: Box::new(StepFailed::Randomness),
    };
    assert_eq!(
        error.to_string(),
        "the ceremony failed while making the certificate of device-1. What it had made stays; remove it by hand \
         before a new try:\n- the database in /state\n- a key pair \
         pkcs11:token=t;serial=s;object=device-1;type=private\nThe reason"
    );
}

#[test]
fn a_failure_that_made_nothing_says_so() {
    let error = CeremonyError::Midway {
        doing: "making the database".to_owned(),
        made: Vec::new(),
        source: Box::new(StepFailed::Randomness),
    };
    assert_eq!(
        error.to_string(),
        "the ceremony failed while making the database. Nothing was made"
    );
}
