//! What operators put into files and arguments: configuration, PKCS#11 URIs, names, serials, the log key.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::LazyLock;

use certstatus::SerialNumber;
use certstatus::log::entry::{EventName, IssuerName, Slug};
use hallmark::ceremony::{Plan, PlanRefused};
use hallmark::config::{Config, KeyUri, LogKeyPlace, TokenUri};
use hallmark::hsm::LogKey;

/// The configuration file: what is accepted does not contradict itself, and an error quotes no PIN.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let file = Path::new("/etc/hallmark/hallmark.toml");
    let config = match Config::from_text(file, text) {
        Ok(config) => config,
        Err(refused) => {
            assert!(
                refused
                    .to_string()
                    .starts_with("/etc/hallmark/hallmark.toml")
            );
            return;
        }
    };
    let places = [
        &config.state_dir,
        &config.published,
        &config.details,
        &config.profiles,
    ];
    assert!(places.iter().all(|place| place.is_absolute()));
    assert!(config.listen.ops.ip().is_loopback());
    for (at, issuer) in config.issuers.iter().enumerate() {
        assert!(
            config.issuers[..at]
                .iter()
                .all(|before| before.name != issuer.name)
        );
        assert!(
            issuer
                .key
                .as_ref()
                .is_none_or(|key| config.token_of(key).is_some())
        );
    }
    for (at, token) in config.tokens.iter().enumerate() {
        assert!(
            config.tokens[..at]
                .iter()
                .all(|before| before.name != token.name)
        );
        assert!(token.sessions > 0 && !token.sign_deadline.is_zero());
    }
    assert!(config.issuer(&config.server.issuer).is_some());
    if let LogKeyPlace::Token(key) = &config.log.key {
        assert!(config.token_of(key).is_some());
    }
}

/// The example that the ceremony's file belongs to.
const EXAMPLE: &str = include_str!("../../../hsm-config/softhsm2.toml");

/// A ceremony file: a refusal names a key or a line; what is accepted is accepted again.
pub fn ceremony_plan(bytes: &[u8]) {
    static CONFIG: LazyLock<Config> = LazyLock::new(|| {
        let file = Path::new("/etc/hallmark/hallmark.toml");
        Config::from_text(file, EXAMPLE).expect("the example is accepted")
    });
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    // It names a file, which would be opened: any file of this machine.
    if text.contains("owner_key") {
        return;
    }
    let file = Path::new("/nowhere/ceremony.toml");
    match Plan::from_text(file, text.to_owned(), &CONFIG) {
        Ok(_) => assert!(Plan::from_text(file, text.to_owned(), &CONFIG).is_ok()),
        Err(PlanRefused::Problems { problems, .. }) => {
            assert!(
                problems
                    .iter()
                    .all(|found| !found.key.is_empty() && !found.problem.is_empty())
            );
            assert!(!problems.is_empty());
        }
        Err(refused) => drop(refused.to_string()),
    }
}

/// The log key's file: a refusal is the same sentence whatever is in the file, so that it tells nothing of it; what is
/// accepted is the same key each time.
pub fn log_key_file(bytes: &[u8]) {
    let thread = std::thread::current().id();
    let name = format!("hallmark-log-key-{}-{thread:?}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let mut options = std::fs::OpenOptions::new();
    let file = options.create_new(true).write(true).mode(0o600).open(&path);
    file.and_then(|mut file| file.write_all(bytes))
        .expect("a file of our own");
    let (once, again) = (LogKey::from_file(&path), LogKey::from_file(&path));
    std::fs::remove_file(&path).expect("it is there");
    match (once, again) {
        (Ok(once), Ok(again)) => assert_eq!(once.public(), again.public()),
        (Err(refused), Err(_)) => {
            let sentence = "is not one Ed25519 private key in PKCS#8 (PEM or DER), not encrypted";
            let told = format!("log key {}: {sentence}", path.display());
            assert_eq!(refused.to_string(), told);
        }
        _ => panic!("one file is read in two ways"),
    }
}

/// A PKCS#11 URI of either form: what is accepted is printed in a form that means the same.
pub fn pkcs11_uri(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(token) = text.parse::<TokenUri>() {
        assert_eq!(token.to_string().parse(), Ok(token));
        assert!(text.parse::<KeyUri>().is_err());
    }
    if let Ok(key) = text.parse::<KeyUri>() {
        assert_eq!(key.to_string().parse(), Ok(key));
    }
}

/// A serial number as text, or its octets: one number has one text and one row of octets.
pub fn serial(bytes: &[u8]) {
    if let Ok(serial) = SerialNumber::from_slice(bytes) {
        assert_eq!(serial.as_bytes(), bytes);
        assert_eq!(serial.to_string().parse(), Ok(serial));
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(serial) = text.parse::<SerialNumber>() {
        assert_eq!(serial.to_string(), text);
        assert_eq!(SerialNumber::from_slice(serial.as_bytes()), Ok(serial));
    }
}

/// A name of an issuer or event: itself, and safe in a path and a URL.
pub fn name(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let slug = text.parse::<Slug>();
    assert_eq!(slug.is_ok(), text.parse::<IssuerName>().is_ok());
    assert_eq!(slug.is_ok(), text.parse::<EventName>().is_ok());
    if let Ok(slug) = slug {
        assert_eq!(slug.as_str(), text);
        assert!(!text.contains(['/', '.', '%', '\0']));
    }
}
