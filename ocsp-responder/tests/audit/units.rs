//! Units that operators give back: no more than unresolved certificates held.

use certstatus::audit::{Erased, Report};
use certstatus::log::{LeafIndex, Outcome, UNRESOLVED_RETURNED_MAX};
use serde_json::{Value, json};

use crate::forge::{Details, Forge, chain};

/// Unresolved certificates whose units return by themselves.
const CAP: u8 = UNRESOLVED_RETURNED_MAX as u8;

/// A log with a ceremony and this many unresolved certificates of the order `demo`; the intents of these.
fn doubtful(count: u8) -> (Forge, Vec<LeafIndex>) {
    let mut forge = Forge::new();
    forge.ceremony("root", "root", 1);
    forge.ceremony("device-1", "root", 2);
    let intents = (1..=count)
        .map(|n| {
            let tbs = forge.device_tbs(100 + n);
            let intent = forge.intent("device-1", Forge::device_subject(100 + n), tbs);
            forge.outcome(intent, Outcome::Unresolved { attempts: 2 }, None);
            intent
        })
        .collect();
    (forge, intents)
}

/// An operator gives units back.
fn give_back(forge: &mut Forge, order: &str, units: u64) -> LeafIndex {
    let change = json!({"change": "units-returned", "order": order, "units": units});
    told(forge, change)
}

/// An event of units given back, whatever it says.
fn told(forge: &mut Forge, change: Value) -> LeafIndex {
    forge.event(
        "units-returned",
        json!({"change": change, "operator": "op"}),
    )
}

/// Audits it with what is left of its details.
fn audited(forge: &Forge, erased: &[LeafIndex]) -> Result<Report, (Option<LeafIndex>, String)> {
    let mut published = forge.published();
    for index in erased {
        published.details[index.0 as usize] = None;
    }
    let mut options = published.options();
    if !erased.is_empty() {
        options.erased = Erased::Counted;
    }
    let audited = published.audit_with(&options, Details::Given);
    audited.map_err(|fault| (fault.index, chain(&fault)))
}

#[test]
fn units_that_were_held_may_be_given_back() {
    let (mut forge, _) = doubtful(CAP + 3);
    give_back(&mut forge, "demo", 1);
    give_back(&mut forge, "demo", 2);
    let report = audited(&forge, &[]).unwrap();
    assert_eq!(report.units_returned, [("demo".to_owned(), 3)].into());
    let name = "units-returned".parse().unwrap();
    assert_eq!(report.events.get(&name), Some(&2));
    // Without details nobody knows of which order they were.
    let published = forge.published();
    let blind = published.audit_with(&published.options(), Details::NotGiven);
    assert!(blind.unwrap().units_returned.is_empty());
}

#[test]
fn units_that_nobody_held_are_a_fault_at_the_entry_that_gives_them_back() {
    for (count, first, order, second, held) in [
        (CAP, 0, "demo", 1, 0),
        (CAP + 2, 0, "demo", 3, 2),
        (CAP + 2, 2, "demo", 1, 0),
        (CAP + 2, 1, "demo", 2, 1),
        (CAP + 2, 0, "other", 1, 0),
        (CAP + 2, 0, "demo", u64::MAX, 2),
    ] {
        let (mut forge, _) = doubtful(count);
        if first > 0 {
            give_back(&mut forge, "demo", first);
        }
        let expected = give_back(&mut forge, order, second);
        forge.tick();
        let (index, said) = audited(&forge, &[]).unwrap_err();
        assert_eq!(index, Some(expected), "{said}");
        let sentence = format!(
            "gives {second} units of order {order} back, but its unresolved certificates held no more \
             than {held}"
        );
        assert!(said.contains(&sentence), "{said}");
    }
}

#[test]
fn units_are_held_from_the_outcome_on_and_not_before() {
    let (mut forge, _) = doubtful(CAP);
    let tbs = forge.device_tbs(90);
    let open = forge.intent("device-1", Forge::device_subject(90), tbs);
    let early = give_back(&mut forge, "demo", 1);
    forge.outcome(open, Outcome::Unresolved { attempts: 1 }, None);
    assert_eq!(audited(&forge, &[]).unwrap_err().0, Some(early));
    // Neither of an abandoned certificate.
    let (mut forge, _) = doubtful(CAP);
    let tbs = forge.device_tbs(90);
    let open = forge.intent("device-1", Forge::device_subject(90), tbs);
    forge.outcome(open, Outcome::Abandoned, None);
    let none = give_back(&mut forge, "demo", 1);
    assert_eq!(audited(&forge, &[]).unwrap_err().0, Some(none));
}

#[test]
fn an_erased_detail_excuses_as_many_units_as_it_may_have_named() {
    let (mut forge, intents) = doubtful(CAP + 2);
    give_back(&mut forge, "demo", 2);
    let last = give_back(&mut forge, "demo", 1);
    assert_eq!(audited(&forge, &[]).unwrap_err().0, Some(last));
    // It is one too many, whatever order the erased one was of.
    let (index, said) = audited(&forge, &intents[..1]).unwrap_err();
    assert_eq!(index, Some(last), "{said}");
    // What was given back by an entry without its detail may have been none of these.
    let report = audited(&forge, &[LeafIndex(last.0 - 1)]).unwrap();
    assert_eq!(report.units_returned, [("demo".to_owned(), 1)].into());
}

#[test]
fn an_event_without_order_or_number_is_a_fault() {
    for change in [
        json!({"change": "units-returned", "order": "demo"}),
        json!({"change": "units-returned", "units": 1}),
        json!({"change": "units-returned", "order": "demo", "units": 0}),
        json!("units-returned"),
    ] {
        let (mut forge, _) = doubtful(CAP + 2);
        let expected = told(&mut forge, change.clone());
        let (index, said) = audited(&forge, &[]).unwrap_err();
        assert_eq!(index, Some(expected), "{change}: {said}");
        assert!(said.contains("no order, or no number of units"), "{said}");
    }
}
