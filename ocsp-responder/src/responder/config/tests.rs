//! Configurations that are right, and each thing that can be wrong with one.

use super::*;

/// A right one; its log key is that of no log.
fn right() -> String {
    let key = VerifierKey::new("log.example/a", [9; 32]).unwrap();
    format!(
        "version = 1\n[listen]\nhttp = [\"127.0.0.1:0\"]\nops = \"127.0.0.1:0\"\n[ocsp]\nkey_file = \"ocsp.key\"\n\
         [witness]\nname = \"ocsp.example\"\nkey_file = \"witness.key\"\n[[log]]\nname = \"a\"\nsource = \"public\"\n\
         log_key = \"{key}\"\nstate_dir = \"state\"\nresponder = \"ocsp-1\"\n"
    )
}

fn load(text: &str) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ocsp.toml");
    std::fs::write(&path, text).unwrap();
    Config::load(&path).map_err(|error| {
        let text = crate::chain(&error);
        text.replace(&directory.path().display().to_string(), "")
    })
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let config = load(&right()).unwrap();
    assert_eq!(config.ocsp.life, Duration::from_secs(600));
    assert_eq!(config.ocsp.identify, Identify::ByKey);
    assert_eq!(
        config.ocsp.signatures_per_origin,
        std::num::NonZeroU32::new(5000)
    );
    let log = &config.logs[0];
    assert_eq!(log.max_age, Duration::from_secs(540));
    assert_eq!(log.poll, Duration::from_millis(250));
    assert!(log.state_dir.is_absolute(), "{}", log.state_dir.display());
    assert_eq!(
        (
            config.listen.connections,
            config.listen.connections_per_origin
        ),
        (8192, 2048)
    );
}

#[test]
fn signatures_are_limited_or_not() {
    let with = |value: &str| {
        let text = format!("signatures_per_origin = {value}\n[witness]");
        let config = load(&right().replacen("[witness]", &text, 1)).unwrap();
        config
            .ocsp
            .signatures_per_origin
            .map(std::num::NonZeroU32::get)
    };
    assert_eq!((with("7"), with("\"unlimited\"")), (Some(7), None));
}

#[test]
fn every_fault_names_its_key() {
    let faults = [
        (
            "[[log]]\nname = \"a\"",
            "[[log]]\nname = \"ocsp\"",
            "log[0].name: is the first part",
        ),
        (
            "ops = \"127.0.0.1:0\"",
            "ops = \"0.0.0.0:1\"",
            "listen.ops: must be a loopback",
        ),
        (
            "http = [\"127.0.0.1:0\"]",
            "http = []",
            "listen.http: must name",
        ),
        (
            "http = [\"127.0.0.1:0\"]",
            "http = [\"localhost\"]",
            "listen.http: must be an IP",
        ),
        (
            "[witness]",
            "answer_life = \"10\"\n[witness]",
            "ocsp.answer_life: write a number and a unit",
        ),
        (
            "[witness]",
            "answer_life = \"1s\"\n[witness]",
            "ocsp.answer_life: must be 10s to 7days",
        ),
        (
            "[witness]",
            "responder_id = \"byHash\"\n[witness]",
            "ocsp.responder_id: ",
        ),
        (
            "[witness]",
            "cache_mib = 0\n[witness]",
            "ocsp.cache_mib: must be 1 to",
        ),
        (
            "[witness]",
            "signatures_per_origin = 0\n[witness]",
            "ocsp.signatures_per_origin: must be 1 to 1000000 a second, or \"unlimited\"",
        ),
        (
            "[witness]",
            "signatures_per_origin = \"many\"\n[witness]",
            "ocsp.signatures_per_origin: must be 1",
        ),
        ("[witness]", "novel = 0\n[witness]", "ocsp.novel: "),
        (
            "name = \"ocsp.example\"",
            "name = \"a b\"",
            "witness.name: must be",
        ),
        (
            "witness.key",
            "ocsp.key",
            "witness.key_file: must not be that",
        ),
        (
            "responder = \"ocsp-1\"",
            "responder = \"OCSP\"",
            "log[0].responder: a name has",
        ),
        (
            "responder = \"ocsp-1\"",
            "responder = \"o\"\nmax_age = \"10m\"",
            "log[0].max_age: must be 1s to 9m",
        ),
        (
            "responder = \"ocsp-1\"",
            "responder = \"o\"\nca_file = \"x\"",
            "log[0].ca_file: belongs to",
        ),
        (
            "source = \"public\"",
            "source = \"https://h/public/\"",
            "log[0].ca_file: is missing",
        ),
        (
            "source = \"public\"",
            "source = \"http://h/public/\"",
            "log[0].source: must be a directory",
        ),
        ("log_key = ", "log_key_file = \"none\"\n# ", "cannot read"),
        ("log_key = ", "# ", "log[0].log_key: is missing"),
        (
            "log_key = \"",
            "log_key = \"x",
            "log[0].log_key: not a signed",
        ),
    ];
    for (from, to, expected) in faults {
        let text = right().replacen(from, to, 1);
        assert_ne!(text, right(), "{from}");
        let told = load(&text).unwrap_err();
        assert!(told.contains(expected), "{expected:?} is not in {told:?}");
    }
}

#[test]
fn logs_are_kept_apart() {
    let log = right().split_once("[[log]]").unwrap().1.to_owned();
    let told = load(&format!("{}[[log]]{log}", right())).unwrap_err();
    assert!(told.contains("log[1].name: is that of another"), "{told}");
    let other = log.replace("name = \"a\"", "name = \"b\"");
    let told = load(&format!("{}[[log]]{other}", right())).unwrap_err();
    assert!(
        told.contains("log[1].state_dir: is that of another"),
        "{told}"
    );
    let other = other.replace("\"state\"", "\"state-b\"");
    let told = load(&format!("{}[[log]]{other}", right())).unwrap_err();
    assert!(told.contains("log[1].log_key: has the origin"), "{told}");
}
