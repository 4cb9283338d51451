//! `hsm` and `hallmark-token` together, on a real SoftHSM token with a module in front that fails on demand.

use certstatus::log::DetailHash;
use certstatus::signature::{PublicKey, SignatureAlgorithm};
use hallmark::hsm::{Hsm, HsmError, KeyAlgorithm, KeyPolicy, LogKey, Reached};

use crate::harness::soft_token::{
    Host, Setting, SoftToken, eventually, open, settled, sha256, signal, until,
};

/// What is signed where it does not matter.
const TBS: &[u8] = b"\x30\x07a short";

/// A host in service with one P-256 key, and the key on the daemon's side.
async fn in_service(setting: Setting) -> (SoftToken, Host, Hsm, hallmark::hsm::CaKey) {
    let token = SoftToken::new();
    let made = token.generate("ca", KeyAlgorithm::EcdsaP256).await;
    let host = token.host(setting);
    let hsm = host.hsm();
    let key = open(&hsm, &token.uri("ca"), KeyAlgorithm::EcdsaP256, &made.spki).await;
    (token, host, hsm, key)
}

/// Whether the key's signature over the TBS verifies.
fn verifies(key: &hallmark::hsm::CaKey, tbs: &[u8], signature: &[u8]) -> bool {
    PublicKey::parse(key.spki())
        .unwrap()
        .verify(key.algorithm(), tbs, signature)
        .is_ok()
}

//------ Signing ----

#[tokio::test(flavor = "multi_thread")]
async fn every_algorithm_signs_and_verifies() {
    let token = SoftToken::new();
    let host = token.host(Setting {
        ceremony: true,
        ..Setting::default()
    });
    let hsm = host.hsm();
    // Longer than one frame, as a CRL is.
    let long: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[0]).collect();
    for (label, algorithm) in [
        ("p256", KeyAlgorithm::EcdsaP256),
        ("p384", KeyAlgorithm::EcdsaP384),
        ("rsa3072", KeyAlgorithm::Rsa3072),
        ("rsa4096", KeyAlgorithm::Rsa4096),
        ("rsa3072-pss", KeyAlgorithm::Rsa3072Pss),
        ("rsa4096-pss", KeyAlgorithm::Rsa4096Pss),
        ("ed25519", KeyAlgorithm::Ed25519),
    ] {
        let uri = token.uri(label);
        let made = eventually(|| hsm.generate(&uri, algorithm, KeyPolicy::NeverExtractable)).await;
        assert_eq!(
            PublicKey::parse(&made.spki).unwrap().kind(),
            algorithm.kind()
        );
        assert_eq!(made.attributes["CKA_SENSITIVE"], "true");
        assert_eq!(made.attributes["CKA_EXTRACTABLE"], "false");
        assert_eq!(made.attributes["CKA_LABEL"], label);
        let key = open(&hsm, &uri, algorithm, &made.spki).await;
        assert_eq!(key.spki(), made.spki);
        assert!(key.usable());
        for tbs in [TBS, &long, b""] {
            let signature = key.sign(tbs).await.unwrap();
            assert!(verifies(&key, tbs, &signature), "{label} {}", tbs.len());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_hashes_by_itself_gets_everything() {
    let token = SoftToken::new();
    // CKM_RSA_PKCS and CKM_RSA_PKCS_PSS: what is left hashes on the token.
    token.command("hide 0x1\nhide 0xd\n");
    let host = token.host(Setting {
        ceremony: true,
        ..Setting::default()
    });
    let hsm = host.hsm();
    let long: Vec<u8> = (0..100_000u32).map(|n| n.to_le_bytes()[0]).collect();
    for (label, algorithm) in [
        ("rsa", KeyAlgorithm::Rsa3072),
        ("pss", KeyAlgorithm::Rsa3072Pss),
    ] {
        let uri = token.uri(label);
        let made = eventually(|| hsm.generate(&uri, algorithm, KeyPolicy::NeverExtractable)).await;
        let key = open(&hsm, &uri, algorithm, &made.spki).await;
        for tbs in [TBS, &long] {
            let signature = key.sign(tbs).await.unwrap();
            assert!(verifies(&key, tbs, &signature), "{label} {}", tbs.len());
        }
    }
    assert_eq!(token.count("sign"), 4);
    // Without CKM_ECDSA there is nothing that signs ECDSA on SoftHSM.
    let ec = token.uri("ec");
    let made =
        eventually(|| hsm.generate(&ec, KeyAlgorithm::EcdsaP256, KeyPolicy::NeverExtractable))
            .await;
    token.command("hide 0x1041\n");
    host.kill_worker();
    let pin = sha256(&made.spki);
    let refused = settled(|| hsm.ca_key(&ec, SignatureAlgorithm::EcdsaSha256, &pin)).await;
    let error = refused.err().unwrap();
    assert!(matches!(error, HsmError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("no mechanism"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_at_once_are_all_answered_and_counted() {
    let (token, _host, hsm, key) = in_service(Setting::default()).await;
    let before = token.count("sign");
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..500u32 {
        let key = key.clone();
        tasks.spawn(async move {
            let tbs = n.to_be_bytes();
            let signature = key.sign(&tbs).await.unwrap();
            assert!(verifies(&key, &tbs, &signature));
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(token.count("sign") - before, 500);
    let health = &hsm.health()[0];
    assert!(health.usable, "{health:?}");
    assert_eq!(health.signatures, 500);
    assert!(health.latency_us.unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_sessions_sign_at_once_as_configured_and_as_the_token_gives() {
    let token = SoftToken::new();
    let made = token.generate("ca", KeyAlgorithm::EcdsaP256).await;
    for (told, configured, at_once) in [
        // What the token tells counts the session that holds the login, unless there is no other.
        ("", 3, 3),
        ("max_sessions 3\n", 8, 2),
        ("max_sessions 1\n", 8, 1),
        // 0 is CK_EFFECTIVELY_INFINITE.
        ("max_sessions 0\n", 2, 2),
    ] {
        token.command(told);
        let host = token.host(Setting {
            sessions: configured,
            sign_deadline: "1s",
            ..Setting::default()
        });
        let hsm = host.hsm();
        let key = open(&hsm, &token.uri("ca"), KeyAlgorithm::EcdsaP256, &made.spki).await;
        let asked = token.count("asked");
        // Each session that signs is stuck, and all of them end together, with their process.
        token.command(&format!("{told}sign hang 100\n"));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let key = key.clone();
            tasks.spawn(async move { key.sign(TBS).await });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap().unwrap_err();
        }
        assert_eq!(token.count("asked") - asked, at_once, "{told:?}");
        token.command("");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_key_on_a_token_signs_like_one_in_a_file() {
    let token = SoftToken::new();
    let made = token.generate("log", KeyAlgorithm::Ed25519).await;
    let host = token.host(Setting::default());
    let hsm = host.hsm();
    let pin = DetailHash::of(&made.spki).0;
    let on_token = LogKey::open(&hsm, &token.uri("log"), &pin).await.unwrap();
    let path = token.path("log.key");
    std::fs::write(&path, LogKey::generate().unwrap().as_bytes()).unwrap();
    run_chmod(&path);
    for log_key in [on_token, LogKey::from_file(&path).unwrap()] {
        let signature = log_key.sign(b"checkpoint").await.unwrap();
        aws_lc_rs::signature::UnparsedPublicKey::new(
            &aws_lc_rs::signature::ED25519,
            log_key.public(),
        )
        .verify(b"checkpoint", &signature)
        .unwrap();
    }
}

/// Closes a file to others.
fn run_chmod(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

//------ Generation ----

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_in_a_ceremony_only_and_never_overwritten() {
    let token = SoftToken::new();
    token.generate("ca", KeyAlgorithm::EcdsaP256).await;
    let generate = async |hsm: &Hsm, label| {
        let uri = token.uri(label);
        let policy = KeyPolicy::NeverExtractable;
        settled(|| hsm.generate(&uri, KeyAlgorithm::EcdsaP256, policy)).await
    };
    let service = token.host(Setting::default());
    let error = generate(&service.hsm(), "new").await.unwrap_err();
    assert!(error.to_string().contains("--ceremony"), "{error}");
    assert_eq!(error.reached(), Reached::No);
    drop(service);
    let ceremony = token.host(Setting {
        ceremony: true,
        ..Setting::default()
    });
    let error = generate(&ceremony.hsm(), "ca").await.unwrap_err();
    assert!(error.to_string().contains("never overwritten"), "{error}");
    assert_eq!(error.reached(), Reached::No);
    generate(&ceremony.hsm(), "new").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_declared_for_wrapping_is_fit() {
    let token = SoftToken::new();
    let host = token.host(Setting {
        ceremony: true,
        ..Setting::default()
    });
    let hsm = host.hsm();
    let uri = token.uri("clone");
    let made =
        eventually(|| hsm.generate(&uri, KeyAlgorithm::EcdsaP256, KeyPolicy::WrapWithTrusted))
            .await;
    assert_eq!(made.attributes["CKA_EXTRACTABLE"], "true");
    assert_eq!(made.attributes["CKA_WRAP_WITH_TRUSTED"], "true");
    open(&hsm, &uri, KeyAlgorithm::EcdsaP256, &made.spki).await;
}

//------ Finding keys ----

/// The failure to open a key, once the token is ready.
async fn refusal(hsm: &Hsm, token: &SoftToken, label: &str, spki: &[u8]) -> HsmError {
    let (uri, pin) = (token.uri(label), sha256(spki));
    let opened = settled(|| hsm.ca_key(&uri, SignatureAlgorithm::EcdsaSha256, &pin)).await;
    opened.err().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_opened_when_it_is_there_exactly_once() {
    let token = SoftToken::new();
    let made = token.generate("ca", KeyAlgorithm::EcdsaP256).await;
    let host = token.host(Setting::default());
    let hsm = host.hsm();
    let error = refusal(&hsm, &token, "other", &made.spki).await;
    assert!(matches!(error, HsmError::KeyMissing { .. }), "{error}");
    let error = refusal(&hsm, &token, "ca", b"another public key").await;
    assert!(matches!(error, HsmError::KeyUnfit { .. }), "{error}");
    let mut elsewhere = token.uri("ca");
    elsewhere.token_serial = "0000".to_owned();
    let error = hsm
        .ca_key(
            &elsewhere,
            SignatureAlgorithm::EcdsaSha256,
            &sha256(&made.spki),
        )
        .await
        .err()
        .unwrap();
    assert!(!error.retry_helps(), "{error}");
    open(&hsm, &token.uri("ca"), KeyAlgorithm::EcdsaP256, &made.spki).await;
    drop(host);
    // Another pair of the same label, made in front of the vendor's tool.
    token.pkcs11_tool(&[
        "--keypairgen",
        "--key-type",
        "EC:prime256v1",
        "--label",
        "ca",
        "--id",
        "aa",
    ]);
    let host = token.host(Setting::default());
    let error = refusal(&host.hsm(), &token, "ca", &made.spki).await;
    assert!(
        matches!(error, HsmError::KeyAmbiguous { count: 2, .. }),
        "{error}"
    );
    assert!(!error.retry_helps());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_unfit_attributes_is_refused_by_name() {
    let token = SoftToken::new();
    for (label, flags, attribute) in [
        (
            "extractable",
            &["--extractable"][..],
            "CKA_WRAP_WITH_TRUSTED",
        ),
        ("as-the-tool-makes-it", &[], "CKA_SIGN_RECOVER"),
    ] {
        let args = [
            &["--keypairgen", "--key-type", "EC:prime256v1"][..],
            &["--label", label, "--sensitive"],
            flags,
        ]
        .concat();
        token.pkcs11_tool(&args);
        let der = token.path("public.der");
        token.pkcs11_tool(&[
            "--read-object",
            "--type",
            "pubkey",
            "--label",
            label,
            "--output-file",
            der.to_str().unwrap(),
        ]);
        let spki = std::fs::read(der).unwrap();
        let host = token.host(Setting::default());
        let error = refusal(&host.hsm(), &token, label, &spki).await;
        assert!(
            matches!(error, HsmError::KeyUnfit { .. }),
            "{label}: {error}"
        );
        assert!(error.to_string().contains(attribute), "{label}: {error}");
    }
}

//------ PIN ----

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_pin_is_tried_once_by_a_host_and_again_only_by_the_next() {
    let token = SoftToken::new();
    let made = token.generate("ca", KeyAlgorithm::EcdsaP256).await;
    let logins = token.count("login");
    token.write_wrong_pin();
    let host = token.host(Setting::default());
    let hsm = host.hsm();
    let error = refusal(&hsm, &token, "ca", &made.spki).await;
    assert!(matches!(error, HsmError::PinRejected { .. }), "{error}");
    assert!(!hsm.health()[0].usable);
    // A worker's death changes nothing: the host remembers, and says in its log that one died.
    for _ in 0..3 {
        host.kill_worker();
        let error = refusal(&hsm, &token, "ca", &made.spki).await;
        assert!(matches!(error, HsmError::PinRejected { .. }), "{error}");
    }
    assert_eq!(token.count("login") - logins, 1);
    assert!(token.log().contains("the worker ended by itself"));
    drop(host);
    token.write_right_pin();
    let host = token.host(Setting::default());
    open(
        &host.hsm(),
        &token.uri("ca"),
        KeyAlgorithm::EcdsaP256,
        &made.spki,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_comes_from_a_credential_as_systemd_hands_it_out() {
    let mut token = SoftToken::new();
    let made = token.generate("ca", KeyAlgorithm::EcdsaP256).await;
    token.pin_as_credential();
    let host = token.host(Setting::default());
    let key = open(
        &host.hsm(),
        &token.uri("ca"),
        KeyAlgorithm::EcdsaP256,
        &made.spki,
    )
    .await;
    let signature = key.sign(TBS).await.unwrap();
    assert!(verifies(&key, TBS, &signature));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_try_of_a_pin_is_not_used() {
    let token = SoftToken::new();
    let made = token.generate("ca", KeyAlgorithm::EcdsaP256).await;
    let logins = token.count("login");
    // CKF_USER_PIN_FINAL_TRY
    token.command("token_flags 0x20000\n");
    let host = token.host(Setting::default());
    let hsm = host.hsm();
    until("the reason is told", || {
        hsm.health()[0]
            .problem
            .as_ref()
            .is_some_and(|problem| problem.contains("last try"))
    })
    .await;
    assert_eq!(token.count("login"), logins);
    // An operator logs in with the vendor's tool, and the flag goes.
    token.command("");
    open(&hsm, &token.uri("ca"), KeyAlgorithm::EcdsaP256, &made.spki).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_fails_without_saying_why_is_tried_twice_at_most() {
    for command in ["login failed 9\n", "login kill 9\n"] {
        let token = SoftToken::new();
        token.command(command);
        let host = token.host(Setting::default());
        let hsm = host.hsm();
        until("the host gives up", || {
            hsm.health()[0]
                .problem
                .as_ref()
                .is_some_and(|problem| problem.contains("not tried again"))
        })
        .await;
        host.kill_worker();
        until("the worker comes back", || {
            token.log().matches("not tried again").count() > 1
        })
        .await;
        assert_eq!(token.count("login"), 2, "{command}");
    }
}

//------ Outages ----

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_a_signature_tells_whether_one_may_exist_and_the_next_works() {
    let setting = Setting {
        sign_deadline: "500ms",
        sessions: 1,
        ..Setting::default()
    };
    let (token, _host, _hsm, key) = in_service(setting).await;
    for (command, made) in [
        ("sign lost 1", 0),
        ("sign done-but-failed 1", 1),
        ("sign kill-before 1", 0),
        ("sign kill-after 1", 1),
        ("sign hang 1", 0),
        ("sign short 1", 1),
        ("sign refused 1", 0),
    ] {
        let before = token.count("sign");
        token.command(command);
        let error = key.sign(TBS).await.unwrap_err();
        assert_eq!(error.reached(), Reached::Maybe, "{command}: {error}");
        if command.contains("hang") {
            assert!(matches!(error, HsmError::Deadline { .. }), "{error}");
        }
        assert_eq!(token.count("sign") - before, made, "{command}");
        let signature = eventually(|| key.sign(TBS)).await;
        assert!(verifies(&key, TBS, &signature), "{command}");
        assert_eq!(token.count("sign") - before, made + 1, "{command}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_behind_a_hanging_signature_is_provably_unsigned() {
    let setting = Setting {
        sign_deadline: "500ms",
        sessions: 1,
        ..Setting::default()
    };
    let (token, _host, _hsm, key) = in_service(setting).await;
    token.command("sign hang 1");
    let before = token.count("sign");
    let hanging = tokio::spawn({
        let key = key.clone();
        async move { key.sign(TBS).await }
    });
    until("the first is at the token", || {
        std::fs::read_to_string(token.path("control"))
            .unwrap()
            .contains("hang 0")
    })
    .await;
    let waiting = key.sign(TBS).await.unwrap_err();
    assert_eq!(waiting.reached(), Reached::No, "{waiting}");
    assert_eq!(
        hanging.await.unwrap().unwrap_err().reached(),
        Reached::Maybe
    );
    assert_eq!(token.count("sign"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_worker_is_killed_and_replaced() {
    let (_token, host, _hsm, key) = in_service(Setting::default()).await;
    let worker = host.worker_pid();
    signal("STOP", worker);
    let error = key.sign(TBS).await.unwrap_err();
    assert_eq!(error.reached(), Reached::Maybe, "{error}");
    eventually(|| key.sign(TBS)).await;
    assert_ne!(host.worker_pid(), worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_goes_away_and_comes_back_is_used_again() {
    let (token, _host, hsm, key) = in_service(Setting::default()).await;
    key.sign(TBS).await.unwrap();
    token.unplug();
    let error = key.sign(TBS).await.unwrap_err();
    assert!(error.retry_helps(), "{error}");
    until("the key is unusable", || !key.usable()).await;
    until("the reason is told", || {
        hsm.health()[0]
            .problem
            .as_ref()
            .is_some_and(|problem| problem.contains("C_Initialize: CKR_GENERAL_ERROR"))
    })
    .await;
    let error = key.sign(TBS).await.unwrap_err();
    assert_eq!(error.reached(), Reached::No, "{error}");
    token.plug_in();
    let signature = eventually(|| key.sign(TBS)).await;
    assert!(verifies(&key, TBS, &signature));
    assert!(key.usable());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_token_that_goes_away_is_noticed_without_a_signature() {
    let (token, _host, _hsm, key) = in_service(Setting::default()).await;
    let signed = token.count("sign");
    token.unplug();
    until("the probe finds out", || !key.usable()).await;
    token.plug_in();
    until("it comes back", || key.usable()).await;
    assert_eq!(token.count("sign"), signed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_token_is_waited_for() {
    let token = SoftToken::new();
    let made = token.generate("ca", KeyAlgorithm::EcdsaP256).await;
    token.unplug();
    std::fs::create_dir(token.path("tokens")).unwrap();
    let host = token.host(Setting::default());
    let hsm = host.hsm();
    let error = hsm
        .ca_key(
            &token.uri("ca"),
            SignatureAlgorithm::EcdsaSha256,
            &sha256(&made.spki),
        )
        .await
        .err()
        .unwrap();
    assert!(matches!(error, HsmError::Unavailable { .. }), "{error}");
    assert!(
        error.to_string().contains("no slot holds the token"),
        "{error}"
    );
    std::fs::remove_dir(token.path("tokens")).unwrap();
    token.plug_in();
    open(&hsm, &token.uri("ca"), KeyAlgorithm::EcdsaP256, &made.spki).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_busy_and_nothing_of_it_is_signed() {
    let setting = Setting {
        sessions: 1,
        ..Setting::default()
    };
    let (token, _host, _hsm, key) = in_service(setting).await;
    token.command("sign hang 1");
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..1200 {
        let key = key.clone();
        tasks.spawn(async move { key.sign(TBS).await });
    }
    let first = tasks.join_next().await.unwrap().unwrap().unwrap_err();
    assert!(matches!(first, HsmError::Busy { .. }), "{first}");
    assert_eq!(first.reached(), Reached::No);
    tasks.shutdown().await;
}

//------ Hosts ----

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_not_running_is_named_and_waited_for() {
    let (token, mut host, hsm, key) = in_service(Setting::default()).await;
    host.stop();
    assert!(!token.path("token.sock").exists());
    until("the loss is noticed", || !key.usable()).await;
    let error = key.sign(TBS).await.unwrap_err();
    assert_eq!(error.reached(), Reached::No);
    until("the reason is told", || {
        hsm.health()[0]
            .problem
            .as_ref()
            .is_some_and(|problem| problem.contains("start hallmark-token soft"))
    })
    .await;
    let _host = token.host(Setting::default());
    eventually(|| key.sign(TBS)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_hosts_worker_dies_and_the_next_host_takes_the_socket() {
    let (token, mut host, _hsm, key) = in_service(Setting::default()).await;
    let worker = host.worker_pid();
    host.kill();
    until("the worker dies with its host", || {
        // A zombie of an init that does not reap counts as dead.
        std::fs::read_to_string(format!("/proc/{worker}/stat"))
            .map_or(true, |stat| stat.contains(") Z "))
    })
    .await;
    let _host = token.host(Setting::default());
    eventually(|| key.sign(TBS)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_host_serves_a_socket_and_says_what_is_wrong_otherwise() {
    let (token, host, _hsm, _key) = in_service(Setting::default()).await;
    let refused = |token: &SoftToken| {
        let output = token.host_command(Setting::default()).0.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused(&token).contains("another token host serves"));
    drop(host);
    let pin = token.path("pin");
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&pin, std::fs::Permissions::from_mode(0o644)).unwrap();
    let text = refused(&token);
    assert!(
        text.contains("chmod 0400") && text.contains("mode 644"),
        "{text}"
    );
    std::fs::remove_file(&pin).unwrap();
    assert!(refused(&token).contains("cannot be read by this user"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_is_not_configured_is_not_heard() {
    let token = SoftToken::new();
    let host = token.host(Setting {
        daemon_uids: "[54321]",
        ..Setting::default()
    });
    let hsm = host.hsm();
    until("the refusal is logged", || {
        token.log().contains("its user is not in daemon_uids")
    })
    .await;
    assert!(!hsm.health()[0].usable);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_ends_the_predecessors_jobs() {
    let setting = Setting {
        sessions: 1,
        ..Setting::default()
    };
    let (token, host, _hsm, key) = in_service(setting).await;
    token.command("delay_ms 600\n");
    let (asked, before) = (token.count("asked"), token.count("sign"));
    // More than a busy machine gets worked off before the successor comes.
    let jobs = 50;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..jobs {
        let key = key.clone();
        tasks.spawn(async move { key.sign(TBS).await });
    }
    until("one is at the token", || token.count("asked") > asked).await;
    let successor = host.hsm();
    successor.idle().await.unwrap();
    let signed = token.count("sign");
    let mut ended = 0;
    while let Some(done) = tasks.join_next().await {
        if let Err(error) = done.unwrap() {
            assert_eq!(error.reached(), Reached::Maybe);
            ended += 1;
        }
    }
    assert!(ended > 0, "idle waited until all {jobs} were signed");
    // What was at the token may have been signed, and its answer dropped.
    assert!(
        signed - before <= jobs - ended + 1,
        "{signed} - {before}, {ended} ended"
    );
    // One session works in order of arrival: what was left over would come before the successor's own.
    let own = open(
        &successor,
        &token.uri("ca"),
        KeyAlgorithm::EcdsaP256,
        key.spki(),
    )
    .await;
    own.sign(TBS).await.unwrap();
    assert_eq!(
        token.count("sign"),
        signed + 1,
        "nothing of it is signed later"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_is_given_when_no_host_runs_and_waits_for_a_hanging_one() {
    let token = SoftToken::new();
    let made = token.generate("ca", KeyAlgorithm::EcdsaP256).await;
    let (_, configured) = token.host_command(Setting::default());
    Hsm::open(&[configured]).idle().await.unwrap();
    let setting = Setting {
        sessions: 1,
        sign_deadline: "1s",
        ..Setting::default()
    };
    let host = token.host(setting);
    let hsm = host.hsm();
    let key = open(&hsm, &token.uri("ca"), KeyAlgorithm::EcdsaP256, &made.spki).await;
    let worker = host.worker_pid();
    token.command("sign hang 1");
    let hanging = tokio::spawn(async move { key.sign(TBS).await });
    until("it is at the token", || {
        std::fs::read_to_string(token.path("control"))
            .unwrap()
            .contains("hang 0")
    })
    .await;
    host.hsm().idle().await.unwrap();
    assert_ne!(
        host.worker_pid(),
        worker,
        "idle means that the worker is dead"
    );
    assert_eq!(
        hanging.await.unwrap().unwrap_err().reached(),
        Reached::Maybe
    );
}
