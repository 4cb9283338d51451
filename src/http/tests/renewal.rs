//! A line renews its own certificate, one at a time.

use super::*;

#[tokio::test]
async fn a_line_renews_one_certificate_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::fixed(UnixMillis::from_seconds(NOW));
    let log = new_log(directory.path(), &clock).await;
    let access = "access".parse().unwrap();
    let issuance = Issuance::new(log, clock, BTreeMap::new(), access);
    let (one, two): (Slug, Slug) = ("one".parse().unwrap(), "two".parse().unwrap());
    let turn = issuance.renewal_turn(&one);
    assert!(turn.is_some() && issuance.renewal_turn(&one).is_none());
    assert!(issuance.renewal_turn(&two).is_some(), "others go on");
    drop(turn);
    assert!(issuance.renewal_turn(&one).is_some());
}
