//! Profile files, good and bad.

use super::software_ca::{BUILT_IN, built_in, profiles};
use crate::profile::{Profile, ProfileError, ProfilePurpose};

/// A small file that loads.
const GOOD: &str = r#"version = 1
purpose = "device"
[key]
allowed = ["P-256"]
[validity]
for = "90d"
[[subject]]
attribute = "CN"
value = "{device_id}"
[usage]
key_usage = ["digitalSignature"]
"#;

/// Loads a file of this text.
fn load(text: &str) -> Result<Profile, ProfileError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test-profile.toml");
    std::fs::write(&path, text).unwrap();
    Profile::load(&path)
}

/// The key and problem that a file is refused for.
fn fault(text: &str) -> (String, String) {
    match load(text) {
        Err(ProfileError::Value { key, problem, path }) => {
            assert!(path.ends_with("test-profile.toml"));
            (key, problem)
        }
        other => panic!("{other:?}"),
    }
}

/// What serde says of a file.
fn toml_fault(text: &str) -> String {
    match load(text) {
        Err(error @ ProfileError::Toml { .. }) => {
            assert!(error.to_string().contains("test-profile.toml"));
            std::error::Error::source(&error).unwrap().to_string()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_built_in_files_load() {
    let purposes = BUILT_IN.map(|name| {
        let profile = built_in(name);
        assert_eq!(profile.name(), name);
        profile.purpose()
    });
    use ProfilePurpose as P;
    assert_eq!(
        purposes,
        [P::Device, P::Device, P::Line, P::Server, P::OcspSigning]
    );
    let files = std::fs::read_dir(profiles()).unwrap().count();
    assert_eq!(files, BUILT_IN.len(), "each file in profiles/ is tested");
    assert!(load(GOOD).is_ok());
}

#[test]
fn unknown_keys_and_wrong_types_are_named() {
    assert!(toml_fault(&format!("{GOOD}\n[extra]\n")).contains("extra"));
    assert!(toml_fault(&GOOD.replace("for =", "fro = 1\nfor =")).contains("fro"));
    assert!(toml_fault(&GOOD.replace("value =", "valu = 1\nvalue =")).contains("valu"));
    assert!(toml_fault(&GOOD.replace("key_usage =", "ca = true\nkey_usage =")).contains("ca"));
    assert!(toml_fault(&GOOD.replace("\"90d\"", "90")).contains("for"));
    assert!(toml_fault(&GOOD.replace("\"CN\"", "\"emailAddress\"")).contains("emailAddress"));
    assert!(toml_fault(&GOOD.replace("\"P-256\"", "\"P-521\"")).contains("P-521"));
    assert!(toml_fault(&GOOD.replace("\"device\"", "\"ca\"")).contains("ca"));
    assert!(toml_fault(&GOOD.replace("version = 1", "")).contains("version"));
    assert!(toml_fault("version = ").contains("version"));
    // A later format is told by its version, not by its keys.
    let (key, problem) = fault("version = 2\n[brave.new.world]\n");
    assert_eq!(
        (key.as_str(), problem.as_str()),
        ("version", "it is 2, this release reads 1")
    );
}

#[test]
fn every_contradiction_names_its_key() {
    let san = |lines: &str| format!("{GOOD}[[san]]\n{lines}\n");
    let subject = |lines: &str| format!("{GOOD}[[subject]]\n{lines}\n");
    let usage = |lines: &str| format!("{GOOD}{lines}\n");
    let validity = |lines: &str| GOOD.replace("for = \"90d\"", lines);
    let cases = [
        (GOOD.replace("[\"P-256\"]", "[]"), "key.allowed"),
        (
            GOOD.replace("[key]", "[key]\nrsa_bits_min = 1024"),
            "key.rsa_bits_min",
        ),
        (
            GOOD.replace("[key]", "[key]\nrsa_bits_max = 8192"),
            "key.rsa_bits_max",
        ),
        (
            GOOD.replace("[key]", "[key]\nrsa_bits_min = 4096\nrsa_bits_max = 2048"),
            "key.rsa_bits_min",
        ),
        (validity(""), "validity"),
        (
            validity("for = \"1d\"\nuntil = \"99991231235959Z\""),
            "validity",
        ),
        (validity("until = \"20401231235959Z\""), "validity.until"),
        (validity("for = \"90\""), "validity.for"),
        (validity("for = \"5s\""), "validity.for"),
        (validity("for = \"100000ms 1ns\""), "validity.for"),
        (
            validity("for = \"90d\"\nbackdate = \"2d\""),
            "validity.backdate",
        ),
        (
            validity("for = \"90d\"\nbackdate = \"soon\""),
            "validity.backdate",
        ),
        (GOOD.replace("{device_id}", "{serial}"), "subject[0].value"),
        (
            GOOD.replace("{device_id}", "{responder}"),
            "subject[0].value",
        ),
        (GOOD.replace("{device_id}", "fixed"), "subject"),
        (
            GOOD.replace("value = \"{device_id}\"", ""),
            "subject[0].value",
        ),
        (
            GOOD.replace("value =", "from_request = \"optional\"\nvalue ="),
            "subject[0].value",
        ),
        (
            GOOD.replace("value =", "max_chars = 3\nvalue ="),
            "subject[0].value",
        ),
        (
            subject("attribute = \"CN\"\nvalue = \"x\""),
            "subject[1].attribute",
        ),
        (
            subject("attribute = \"C\"\nvalue = \"Germany\""),
            "subject[1].value",
        ),
        (
            subject("attribute = \"O\"\nfrom_request = \"optional\"\nmax_chars = 65"),
            "subject[1].max_chars",
        ),
        (
            subject("attribute = \"O\"\nfrom_request = \"optional\"\npattern = \"(\""),
            "subject[1].pattern",
        ),
        (
            subject("attribute = \"O\"\nfrom_request = \"optional\"\npattern = \"a)|(b\""),
            "subject[1].pattern",
        ),
        (
            subject("attribute = \"O\"\nfrom_request = \"optional\"\nin_request = \"required\""),
            "subject[1].in_request",
        ),
        (san("type = \"dns\""), "san[0].value"),
        (san("type = \"dns\"\nvalue = \"a b\""), "san[0].value"),
        (
            san("type = \"uri\"\nvalue = \"{server_name}\""),
            "san[0].value",
        ),
        (
            san("type = \"dns\"\nvalue = \"a\"\nmax_count = 2"),
            "san[0].value",
        ),
        (
            san("type = \"dns\"\nvalue = \"a\"\nhardware_type = \"1.2.3\""),
            "san[0].hardware_type",
        ),
        (
            san("type = \"dns\"\nfrom_request = \"optional\"\nmax_count = 0"),
            "san[0].max_count",
        ),
        (
            san("type = \"hardware-module\"\nvalue = \"{device_id}\""),
            "san[0].hardware_type",
        ),
        (
            san(
                "type = \"hardware-module\"\nhardware_type = \"1.2.3\"\nfrom_request = \"optional\"",
            ),
            "san[0].from_request",
        ),
        (san("type = \"server-names\""), "san[0].type"),
        (san("type = \"server-names\"\nvalue = \"x\""), "san[0].type"),
        (
            san(
                "type = \"dns\"\nfrom_request = \"optional\"\n[[san]]\ntype = \"dns\"\nfrom_request = \"optional\"",
            ),
            "san[1].from_request",
        ),
        (GOOD.replace("\"digitalSignature\"", ""), "usage.key_usage"),
        (
            GOOD.replace("\"digitalSignature\"", "\"keyCertSign\""),
            "usage.key_usage",
        ),
        (
            GOOD.replace("\"digitalSignature\"", "\"keyEncipherment\""),
            "usage.key_usage",
        ),
        (
            GOOD.replace(
                "\"digitalSignature\"",
                "\"digitalSignature\", \"digitalSignature\"",
            ),
            "usage.key_usage",
        ),
        (
            GOOD.replace("\"P-256\"", "\"RSA\"") + "rsa_key_usage = [\"keyAgreement\"]",
            "usage.rsa_key_usage",
        ),
        (
            GOOD.replace("\"digitalSignature\"", "\"nonRepudiation\"")
                + "extended_key_usage = [\"clientAuth\"]",
            "usage.key_usage",
        ),
        (
            usage("extended_key_usage = [\"webServer\"]"),
            "usage.extended_key_usage",
        ),
        (
            usage("extended_key_usage = [\"2.5.29.37.0\"]"),
            "usage.extended_key_usage",
        ),
        (
            usage("extended_key_usage = [\"OCSPSigning\"]"),
            "usage.extended_key_usage",
        ),
        (
            usage("extended_key_usage = [\"1.3.6.1.5.5.7.3.2\", \"clientAuth\"]"),
            "usage.extended_key_usage",
        ),
        (
            usage("certificate_policies = [\"2.5.29.32.0\"]"),
            "usage.certificate_policies",
        ),
        (
            usage("certificate_policies = [\"clientAuth\"]"),
            "usage.certificate_policies",
        ),
        (usage("ocsp_nocheck = true"), "usage.ocsp_nocheck"),
        (
            GOOD.replace("\"device\"", "\"line\"")
                .replace("device_id", "line"),
            "usage.extended_key_usage",
        ),
        (
            GOOD.replace("\"device\"", "\"server\"")
                .replace("device_id", "server_name"),
            "usage.extended_key_usage",
        ),
        (
            GOOD.replace("\"device\"", "\"ocsp-signing\"")
                .replace("device_id", "responder"),
            "usage.extended_key_usage",
        ),
        (
            GOOD.replace("\"device\"", "\"ocsp-signing\"")
                .replace("device_id", "responder")
                + "extended_key_usage = [\"OCSPSigning\"]",
            "validity.for",
        ),
    ];
    for (text, expected) in cases {
        let (key, problem) = fault(&text);
        assert_eq!(key, expected, "{problem} in\n{text}");
        assert!(!problem.is_empty());
    }
}

#[test]
fn the_name_is_a_slug() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["Profile.toml", "a b.toml", "-a.toml"] {
        let path = directory.path().join(name);
        std::fs::write(&path, GOOD).unwrap();
        assert!(
            matches!(Profile::load(&path), Err(ProfileError::Value { .. })),
            "{name}"
        );
    }
    let missing = Profile::load(&directory.path().join("none.toml"));
    assert!(matches!(missing, Err(ProfileError::Read { .. })));
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "(\\[\\[?(subject|san|usage|key|validity)\\]\\]?\n|[a-z_]{1,10} = (\"[ -~]{0,10}\"|1|true)\n){0,10}") {
        let _ = load(&text);
        let _ = load(&format!("{GOOD}{text}"));
    }
}

#[test]
fn the_documented_example_loads_and_every_key_is_documented() {
    let path = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/PROFILES.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, after) = text.split_once("```toml\n").unwrap();
    let (example, _) = after.split_once("```").unwrap();
    assert_eq!(load(example).unwrap().purpose(), ProfilePurpose::Device);
    for name in BUILT_IN {
        let file = std::fs::read_to_string(profiles().join(format!("{name}.toml"))).unwrap();
        for (key, _) in file.lines().filter_map(|line| line.split_once(" = ")) {
            let key = key.trim_start_matches('#');
            let told = text.contains(&format!(".{key}`")) || text.contains(&format!("`{key}`"));
            assert!(told, "{name}: {key}");
        }
    }
}
