//! A real disk limit: the kernel refuses every file beyond a size (`ulimit -f`), until it is lifted.

use std::process::Command;

use super::*;

/// Names the directory for the inner test, in the child process that has the limit.
const DIRECTORY: &str = "HALLMARK_VIEW_FULL_DISK";

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the parent tells its child the directory"
)]
fn without_room_the_old_answers_stay_and_it_goes_on_by_itself() {
    if let Some(base) = std::env::var_os(DIRECTORY) {
        return in_the_child(Path::new(&base));
    }
    let base = tempfile::tempdir().unwrap();
    // The limit is the whole process's, so the view gets a process of its own. A shell sets the limit, and makes the
    // signal that comes with it ignored; both are inherited. 256 units are 128 or 256 KiB, by the shell.
    let program = std::env::current_exe().unwrap();
    let script = "trap '' XFSZ; ulimit -S -f 256; exec \"$0\" --exact --nocapture \
                  view::tests::full_disk::without_room_the_old_answers_stay_and_it_goes_on_by_itself";
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(program)
        .env(DIRECTORY, base.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success()
            && text.contains("1 passed")
            && text.contains("it went on by itself"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The same test in the process that has the limit.
fn in_the_child(base: &Path) {
    use std::io::Write as _;
    let public = base.join("public");
    let mut log = MadeLog::new(&public, ORIGIN, [7; 32], TIME).unwrap();
    let device = issuer("device-1");
    log.certificate(&device, serial(1, 0), ISSUED).unwrap();
    log.publish().unwrap();
    let source = Source::directory(public);
    let mut view = View::open(&base.join("state"), log.key().clone()).unwrap();
    wait(view.follow(&source)).unwrap();
    let before = log.head();
    // 10,000 records make a segment of 300 KiB.
    for n in 1..10_000 {
        log.certificate(&device, serial(1, n), ISSUED).unwrap();
    }
    log.revoke(&device, serial(1, 0), RevocationReason::KeyCompromise)
        .unwrap();
    log.publish().unwrap();
    for _ in 0..3 {
        let refused = wait(view.follow(&source)).unwrap_err();
        assert!(
            matches!(&refused, FollowError::Storage { .. }) && refused.is_transient(),
            "{refused:?}"
        );
        assert_eq!(view.reader().head().as_ref(), Some(&before));
        assert_eq!(
            view.reader().status(&device, serial(1, 0)),
            Ok(CertStatus::Good)
        );
    }
    let names = std::fs::read_dir(base.join("state")).unwrap();
    let strays = names.filter(|name| name.as_ref().unwrap().path().extension().is_some());
    assert_eq!(strays.count(), 0, "what did not fit was left behind");
    let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        ..limit
    };
    rustix::process::setrlimit(rustix::process::Resource::Fsize, raised).unwrap();
    wait(view.follow(&source)).unwrap();
    assert_eq!(view.reader().head(), Some(log.head()));
    let status = view.reader().status(&device, serial(1, 0)).unwrap();
    assert!(matches!(status, CertStatus::Revoked { .. }));
    writeln!(io::stdout(), "it went on by itself").unwrap();
}
