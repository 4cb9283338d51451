//! Each rule of the configuration file, and the key that its refusal names.

use super::*;
use certstatus::document;
use certstatus::log::checkpoint::VerifierKey;
use proptest::prelude::*;

/// The published example: what it says must load.
const EXAMPLE: &str = include_str!("../../../hsm-config/softhsm2.toml");

fn load(text: &str) -> Result<Config, ConfigError> {
    let file = Path::new("/etc/hallmark/hallmark.toml");
    document::parse::<File>(file, text)?.into_config(file)
}

/// The whole chain of an error, as the operator reads it.
fn shown(error: &ConfigError) -> String {
    let source = std::error::Error::source(error).map(|s| format!(": {s}"));
    format!("{error}{}", source.unwrap_or_default())
}

#[test]
fn the_example_loads() {
    let config = load(EXAMPLE).unwrap();
    assert_eq!(config.state_dir, Path::new("/var/lib/hallmark/state"));
    assert_eq!(config.listen.minimum_tls, MinimumTls::V1_3);
    assert_eq!(config.server.names.len(), 2);
    assert_eq!(config.operators[0].uid, 1001);
    assert_eq!(config.tokens[0].sign_deadline, Duration::from_secs(10));
    assert_eq!(config.tokens[0].label, "hallmark");
    let names: Vec<_> = config.issuers.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["device-root", "device-1", "access-root", "access"]);
    let key = config.issuers[1].key.as_ref().unwrap();
    assert_eq!(config.token_of(key).unwrap().name, "soft");
}

#[test]
fn what_may_be_left_out() {
    let text = EXAMPLE
        .replace("sessions = 2", "")
        .replace("sign_deadline = \"10s\"", "")
        .replace("daemon_uids = []", "")
        .replace("tls12 = false", "");
    let config = load(&text).unwrap();
    assert_eq!(config.tokens[0].sessions, SESSIONS_DEFAULT);
    assert_eq!(config.tokens[0].sign_deadline, SIGN_DEADLINE_DEFAULT);
}

#[test]
fn relative_paths_are_relative_to_the_file() {
    let text = EXAMPLE
        .replace("\"/etc/hallmark/pins/soft\"", "\"pins/soft\"")
        .replace("\"/etc/hallmark/profiles\"", "\"../profiles/./x\"");
    let config = load(&text).unwrap();
    assert_eq!(
        config.tokens[0].pin_file,
        Path::new("/etc/hallmark/pins/soft")
    );
    assert_eq!(config.profiles, Path::new("/etc/profiles/x"));
}

#[test]
fn the_times_of_revocations_have_defaults() {
    let (before, _) = EXAMPLE.split_once("[revocation]").unwrap();
    let told = load(EXAMPLE).unwrap().revocation;
    assert_eq!(load(before).unwrap().revocation, told);
    let text = EXAMPLE.replace("ocsp_cached = \"10min\"", "ocsp_cached = \"20s\"");
    let told = load(&text).unwrap().revocation;
    assert_eq!(told.ocsp_cached, Duration::from_secs(20));
}

/// A witness's verifier key.
fn witness_key(name: &str) -> String {
    CosignerKey::new(name, [7; 32]).unwrap().to_string()
}

#[test]
fn witnesses_are_read_and_judged() {
    assert!(load(EXAMPLE).unwrap().witnesses.is_empty());
    let witness = |more: &str| format!("\n[[witness]]\nurl = \"http://w.example:8080\"\n{more}\n");
    let key = |name: &str| format!("key = \"{}\"", witness_key(name));
    let two = [
        witness(&key("w.example/1")),
        witness(&format!("{}\nname = \"dmz\"", key("w.example/1"))),
    ];
    let told = load(&[EXAMPLE, &two[0], &two[1]].concat())
        .unwrap()
        .witnesses;
    let names: Vec<_> = told.iter().map(|witness| witness.name.as_str()).collect();
    assert_eq!(names, ["w.example/1", "dmz"]);
    assert_eq!(told[0].key.to_string(), witness_key("w.example/1"));
    assert_eq!(told[0].url.address(), "w.example:8080");

    let many = witness(&key("w.example/1")).repeat(limits::WITNESSES_MAX + 1);
    let log_key = VerifierKey::new("w.example/1", [7; 32]).unwrap();
    let rows = [
        (two[0].repeat(2), "witness[1].name: ", "stands twice"),
        (many, "witness: ", "at most"),
        (
            two[0].replace("http:", "https:"),
            "witness[0].url: ",
            "does not begin with",
        ),
        (
            two[0].replace("8080", "8080/checkpoint/x"),
            "witness[0].url: ",
            "goes too far",
        ),
        (
            witness("key = \"w+1+2\""),
            "witness[0].key: ",
            "hallmark-ocsp key",
        ),
        (
            witness(&format!("key = \"{log_key}\"")),
            "witness[0].key: ",
            "witness",
        ),
        (
            two[1].replace("dmz", "d m z"),
            "witness[0].name: ",
            "no space",
        ),
        (two[1].replace("dmz", ""), "witness[0].name: ", "1 to"),
    ];
    for (text, key, word) in rows {
        let error = load(&[EXAMPLE, &text].concat())
            .map(|_| ())
            .expect_err(&text);
        let shown = shown(&error);
        assert!(
            shown.contains(key) && shown.contains(word),
            "{text}: {shown}"
        );
    }
}

#[test]
fn tls12_is_opened_on_request() {
    let config = load(&EXAMPLE.replace("tls12 = false", "tls12 = true")).unwrap();
    assert_eq!(config.listen.minimum_tls, MinimumTls::V1_2);
}

/// Each fault: what is written instead of what, the key that the message must name, and a word of it.
const FAULTS: &[(&str, &str, &str, &str)] = &[
    (
        "ocsp_cached = \"10min\"",
        "ocsp_cached = \"8days\"",
        "revocation.ocsp_cached: ",
        "must be 100ms to 7days",
    ),
    (
        "crl_within = \"5s\"",
        "crl_within = \"soon\"",
        "revocation.crl_within: ",
        "with a unit",
    ),
    (
        "crl_within = \"5s\"",
        "crl_within = \"2s\"",
        "revocation.crl_within: ",
        "must be 3s to 1h",
    ),
    (
        "ocsp_poll = \"1s\"",
        "ocsp_pull = \"1s\"",
        "revocation.ocsp_pull: ",
        "unknown field",
    ),
    ("version = 1", "version = 3", "version: ", "3 is not known"),
    ("version = 1", "", "version: ", "missing"),
    ("state_dir =", "state =", "state: ", "unknown field"),
    (
        "profiles = \"/etc/hallmark/profiles\"",
        "",
        "top level: ",
        "`profiles`",
    ),
    ("\"/etc/hallmark/profiles\"", "\"\"", "profiles: ", "path"),
    (
        "\"/var/lib/hallmark/private\"",
        "\"/var/lib/hallmark/public/private\"",
        "details: ",
        "published or below",
    ),
    (
        "\"/var/lib/hallmark/state\"",
        "\"/var/lib/hallmark/private/state\"",
        "state_dir: ",
        "details or below",
    ),
    (
        "\"/var/lib/hallmark/private\"",
        "\"/var/lib/hallmark/public/../public\"",
        "details: ",
        "published or below",
    ),
    (
        "\"/var/lib/hallmark/public\"",
        "\"/var/lib/hallmark/state\"",
        "published: ",
        "state_dir or below",
    ),
    (
        "hallmark.example/plant-7",
        "https://hallmark.example",
        "log.origin: ",
        "without its scheme",
    ),
    (
        "hallmark.example/plant-7",
        "plant+7",
        "log.origin: ",
        "without its scheme",
    ),
    (
        "hallmark.example/plant-7",
        "plant 7",
        "log.origin: ",
        "without its scheme",
    ),
    ("# key = ", "key = ", "log.key: ", "one of them"),
    ("key_file = ", "# key_file = ", "log.key_file: ", "missing"),
    (
        "/state/log.key",
        "/public/log.key",
        "log.key_file: ",
        "others read",
    ),
    (
        "0.0.0.0:8443",
        "localhost:8443",
        "listen.api: ",
        "address and a port",
    ),
    ("127.0.0.1:9464", "0.0.0.0:9464", "listen.ops: ", "loopback"),
    (
        "127.0.0.1:9464",
        "127.0.0.1:8443",
        "listen.ops: ",
        "port of listen.api",
    ),
    ("tls12 = false", "tls12 = 0", "listen.tls12: ", "boolean"),
    (
        "/run/hallmark/admin.sock",
        "/run/hallmark-token-soft/token.sock",
        "token[0].socket: ",
        "another socket",
    ),
    (
        "/run/hallmark/",
        "/run/hallmark-of-a-plant-with-a-very-long-name-that-somebody-chose-long-ago-and-nobody-changes-any-more/",
        "listen.admin_socket: ",
        "at most 103",
    ),
    (
        "[\"hallmark.plant-7.example\", \"192.0.2.7\"]",
        "[]",
        "server.names: ",
        "1 to 32",
    ),
    (
        "\"192.0.2.7\"",
        "\"192.0.2\"",
        "server.names[1]: ",
        "neither",
    ),
    (
        "\"192.0.2.7\"",
        "\"*.example\"",
        "server.names[1]: ",
        "neither",
    ),
    (
        "\"192.0.2.7\"",
        "\"Hallmark.plant-7.example\"",
        "server.names[1]: ",
        "twice",
    ),
    (
        "issuer = \"access\"",
        "issuer = \"gate\"",
        "server.issuer: ",
        "no [[issuer]]",
    ),
    (
        "\"shift-lead\"",
        "\"appliance\"",
        "operator[0].name: ",
        "own acts",
    ),
    (
        "\"shift-lead\"",
        "\"j doe\"",
        "operator[0].name: ",
        "1 to 64",
    ),
    ("uid = 1001", "uid = -1", "operator[0].uid: ", "u32"),
    (
        "uid = 1001",
        "uid = 1001\n[[operator]]\nname = \"shift-lead\"\nuid = 1002",
        "operator[1].name: ",
        "twice",
    ),
    (
        "uid = 1001",
        "uid = 1001\n[[operator]]\nname = \"e.roe\"\nuid = 1001",
        "operator[1].uid: ",
        "twice",
    ),
    (
        "name = \"soft\"",
        "name = \"Soft\"",
        "token[0].name: ",
        "a-z",
    ),
    (
        "pin_file = ",
        "pin = ",
        "token[0].pin: ",
        "unknown field `pin`",
    ),
    (
        "pin_file = \"/etc/hallmark/pins/soft\"",
        "",
        "token[0]: ",
        "`pin_file`",
    ),
    (
        "/etc/hallmark/pins/soft",
        "/var/lib/hallmark/public/pin",
        "token[0].pin_file: ",
        "others read",
    ),
    (
        "sessions = 2",
        "sessions = 0",
        "token[0].sessions: ",
        "1 to 64",
    ),
    (
        "sessions = 2",
        "sessions = 65",
        "token[0].sessions: ",
        "1 to 64",
    ),
    ("\"10s\"", "\"10\"", "token[0].sign_deadline: ", "unit"),
    ("\"10s\"", "\"1ms\"", "token[0].sign_deadline: ", "100ms"),
    ("\"10s\"", "10", "token[0].sign_deadline: ", "string"),
    (
        "uri = \"pkcs11:token=hallmark;",
        "uri = \"pkcs11:token=hallmark;pin-value=1234;",
        "token[0].uri: ",
        "holds a PIN",
    ),
    (
        "object=device-1;type=private",
        "object=device-1",
        "issuer[1].key: ",
        "\"type\" is missing",
    ),
    (
        "serial=0123456789abcdef;object=device-1",
        "serial=1;object=device-1",
        "issuer[1].key: ",
        "no [[token]]",
    ),
    (
        "object=device-1;",
        "object=device-root;",
        "issuer[1].key: ",
        "one use",
    ),
    (
        "name = \"device-1\"",
        "name = \"device-root\"",
        "issuer[1].name: ",
        "twice",
    ),
    (
        "http://pki.plant-7.example/ocsp",
        "ldap://pki.plant-7.example",
        "issuer[0].ocsp_url: ",
        "http://",
    ),
    (
        "every = \"1day\"",
        "every = \"4days\"",
        "crl.every: ",
        "at most half",
    ),
    (
        "every = \"1day\"",
        "validity = \"10min\"",
        "crl.validity: ",
        "1h to 10years",
    ),
    (
        "every = \"1day\"",
        "keep_expired_since = \"always\"",
        "crl.keep_expired_since: ",
        "no time such as",
    ),
    (
        "# crl_partition_url = ",
        "crl_every = \"5days\"\n# crl_partition_url = ",
        "issuer[1].crl_every: ",
        "at most half",
    ),
    (
        "# crl_partition_url = ",
        "crl_partition_url = \"http://pki.example/a.crl\"\n# ",
        "issuer[1].crl_partition_url: ",
        "exactly once",
    ),
    (
        "# crl_partition_url = ",
        "crl_partition_url = ",
        "issuer[1].crl_url: ",
        "crl_partition_url",
    ),
    (
        "/crl/device-1.crl",
        "/crl/device 1.crl",
        "issuer[1].crl_url: ",
        "character",
    ),
    (
        "pki.plant-7.example/ca/access.cer",
        "/ca/access.cer",
        "issuer[3].ca_url: ",
        "host",
    ),
];

#[test]
fn each_fault_is_named_with_its_key() {
    for (from, to, key, word) in FAULTS {
        let text = EXAMPLE.replacen(from, to, 1);
        assert_ne!(text, EXAMPLE, "{from} is not in the example");
        let error = load(&text).map(|_| ()).expect_err(to);
        let shown = shown(&error);
        assert!(
            shown.contains(&format!(": {key}")),
            "{from} → {to}: {shown}"
        );
        assert!(shown.contains(word), "{from} → {to}: {shown}");
        assert!(shown.starts_with("/etc/hallmark/hallmark.toml"), "{shown}");
    }
}

#[test]
fn tokens_are_distinct() {
    let second = |name: &str, serial: &str| {
        format!(
            "{EXAMPLE}\n[[token]]\nname = \"{name}\"\nmodule = \"m.so\"\n\
             uri = \"pkcs11:token=hallmark;serial={serial}\"\npin_file = \"p\"\nsocket = \"s\"\n"
        )
    };
    assert_eq!(load(&second("other", "2")).unwrap().tokens.len(), 2);
    let error = load(&second("soft", "2")).unwrap_err();
    assert!(shown(&error).contains(": token[1].name: "));
    let error = load(&second("other", "0123456789abcdef")).unwrap_err();
    assert!(shown(&error).contains(": token[1].uri: "));
}

#[test]
fn the_servers_issuer_has_a_key() {
    let key = "key = \"pkcs11:token=hallmark;serial=0123456789abcdef;object=access;type=private\"";
    let error = load(&EXAMPLE.replace(key, "")).unwrap_err();
    assert!(shown(&error).contains("server.issuer: access has no key"));
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "\\PC{0,60}") {
        let _ = load(&text);
    }

    #[test]
    fn a_mutated_file_is_answered(at in 0..EXAMPLE.len(), byte in 0_u8..128, gone in 0_usize..40) {
        let mut bytes = EXAMPLE.as_bytes().to_vec();
        let end = (at + gone).min(bytes.len());
        bytes.splice(at..end, [byte]);
        let _ = load(&String::from_utf8_lossy(&bytes));
    }
}
