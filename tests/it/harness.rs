//! What integration tests stand on: a private token, the real ceremony, the real daemon and its token host as
//! processes of their own, a line's client, and the invariants that hold after every test.
//!
//! Promises that nothing is shared between tests but the programs and a template that is copied, and that
//! all processes end with the test. Never sleeps for a fixed time to let something happen: it looks until a
//! deadline. Failure story: a test that fails keeps its directory and prints where it is and the end of the log.

pub mod appliance;
pub mod device;
pub mod dice;
pub mod faults;
pub mod invariants;
pub mod log;
pub mod mosquitto;
pub mod program;
pub mod rabbitmq;
pub mod responder;
pub mod site;
pub mod soft_token;

#[path = "../../examples/line/client.rs"]
pub mod client;

use std::path::PathBuf;

pub use appliance::{Appliance, OrderTerms};
pub use client::{Connection, Reply};
pub use site::Site;

/// Runs a test against a started appliance, then stops it and asserts the standing invariants.
pub async fn with_appliance(test: impl AsyncFnOnce(&mut Appliance)) {
    let mut appliance = Appliance::start(Site::new());
    test(&mut appliance).await;
    invariants::assert(appliance).await;
}

/// Leaves a certificate or CRL for `tests/lint.sh` as `target/lint/NAME`.
pub fn leave_for_lint(name: &str, der: &[u8]) {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../lint");
    std::fs::create_dir_all(&directory).unwrap();
    // Tests run side by side: the name appears only with its whole contents.
    let part = tempfile::NamedTempFile::new_in(&directory).unwrap();
    std::fs::write(part.path(), der).unwrap();
    part.persist(directory.join(name)).unwrap();
}
