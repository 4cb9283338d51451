//! Many certificates: 100,000, and a million in long runs. (Ten million by hand: `examples/measure-view.rs`.)

use super::*;

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "tests/run.sh --long says so through its environment"
)]
fn many_certificates_start_at_once_and_answer_right() {
    let long = std::env::var_os("HALLMARK_TEST_LONG").is_some();
    let count = if long { 1_000_000 } else { 100_000 };
    let mut site = Site::new();
    let device = issuer("device-1");
    for n in 0..count {
        site.log.certificate(&device, serial(1, n), ISSUED).unwrap();
        if n % 20 == 0 {
            site.log
                .revoke(&device, serial(1, n), RevocationReason::Superseded)
                .unwrap();
        }
    }
    site.log.publish().unwrap();
    let mut view = site.open();
    follow(&mut view, &site);
    settle_down(&mut view, &site);
    drop(view);
    let start = Instant::now();
    let view = site.open();
    let took = start.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    let reader = view.reader();
    assert_eq!(reader.records(), count);
    for n in (0..count).step_by(37) {
        let status = reader.status(&device, serial(1, n)).unwrap();
        assert_eq!(
            matches!(status, CertStatus::Revoked { .. }),
            n % 20 == 0,
            "{n}: {status:?}"
        );
        assert_eq!(
            reader.status(&device, serial(2, n)),
            Ok(CertStatus::Unknown)
        );
    }
}
