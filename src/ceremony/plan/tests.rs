//! Each rule of the ceremony file, and the key that its refusal names.

use super::*;
use proptest::prelude::*;

/// The published configuration and its ceremony file: they must fit.
const CONFIG: &str = include_str!("../../../hsm-config/softhsm2.toml");
const EXAMPLE: &str = include_str!("../../../hsm-config/softhsm2-ceremony.toml");

/// Loads both from files of their own.
fn load(config: &str, plan: &str) -> Result<Plan, PlanRefused> {
    let dir = tempfile::tempdir().unwrap();
    let (config_file, plan_file) = (dir.path().join("c.toml"), dir.path().join("p.toml"));
    std::fs::write(&config_file, config).unwrap();
    std::fs::write(&plan_file, plan).unwrap();
    std::fs::write(
        dir.path().join("owner.pub.pem"),
        super::super::pem(
            "PUBLIC KEY",
            super::super::server::OwnKey::make().unwrap().public.spki(),
        ),
    )
    .unwrap();
    std::fs::write(dir.path().join("no.pem"), "no PEM").unwrap();
    Plan::load(&plan_file, &Config::load(&config_file).unwrap())
}

/// The problems of a plan.
fn problems(config: &str, plan: &str) -> Vec<Problem> {
    match load(config, plan) {
        Err(PlanRefused::Problems { problems, .. }) => problems,
        other => panic!("{:?}", other.map(|_| ())),
    }
}

/// The example with one text in the place of another.
fn changed(from: &str, to: &str) -> String {
    let text = EXAMPLE.replacen(from, to, 1);
    assert_ne!(text, EXAMPLE, "{from} is not in the example");
    text
}

/// The offline variant of the example: the device root's key is elsewhere.
fn offline() -> (String, String) {
    let key =
        "key = \"pkcs11:token=hallmark;serial=0123456789abcdef;object=device-root;type=private\"";
    let config = CONFIG.replace(key, "");
    assert_ne!(config, CONFIG);
    let begin = EXAMPLE.find("[[ca]]\n# The name of").unwrap();
    let end = EXAMPLE.find("[[ca]]\nname = \"device-1\"").unwrap();
    let plan = format!("{}{}", &EXAMPLE[..begin], &EXAMPLE[end..]).replacen(
        "\nparent = \"device-root\"",
        "\nparent = \"offline\"\noffline_parent = \"device-root\"\n\
         offline_parent_subject = \"CN=Root,O=Example\"",
        1,
    );
    (config, plan)
}

#[test]
fn the_example_is_made_roots_first() {
    let plan = load(CONFIG, EXAMPLE).unwrap();
    let names: Vec<_> = plan.cas.iter().map(|ca| ca.name.as_str()).collect();
    assert_eq!(names, ["device-root", "access-root", "device-1", "access"]);
    assert_eq!(plan.operators, ["shift-lead", "security-officer"]);
    let [root, _, device, access] = plan.cas.as_slice() else {
        panic!("four");
    };
    assert_eq!(root.parent, Parent::Itself);
    assert_eq!(root.algorithm, KeyAlgorithm::EcdsaP384);
    assert_eq!(root.crl_validity, DAY * 365);
    assert_eq!(root.spec.path_len, Some(1));
    assert_eq!(root.key.key_label, "device-root");
    assert_eq!(device.parent, Parent::Root("device-root".parse().unwrap()));
    assert_eq!(device.crl_validity, DAY * 7);
    assert_eq!(device.spec.path_len, Some(0));
    assert_eq!(access.role, IssuerRole::Access);
}

#[test]
fn a_root_may_be_elsewhere() {
    let (config, plan) = offline();
    let plan = load(&config, &plan).unwrap();
    let device = plan
        .cas
        .iter()
        .find(|ca| ca.name.as_str() == "device-1")
        .unwrap();
    let Parent::Offline(root) = &device.parent else {
        panic!("offline");
    };
    assert_eq!(root.name.as_str(), "device-root");
    assert_eq!(root.subject.to_string(), "CN=Root,O=Example");
    assert_eq!(root.sha256, None);
}

#[test]
fn the_owners_key_is_read() {
    let plan = load(CONFIG, &changed("# owner_key", "owner_key")).unwrap();
    assert!(plan.owner_key.is_some());
    for (file, word) in [("no.pem", "PEM"), ("missing.pem", "No such file")] {
        let text = changed(
            "# owner_key = \"owner.pub.pem\"",
            &format!("owner_key = \"{file}\""),
        );
        let problems = problems(CONFIG, &text);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].key, "ceremony.owner_key");
        assert!(problems[0].problem.contains(word), "{problems:?}");
    }
}

#[test]
fn a_validity_may_be_for_ever() {
    let text = EXAMPLE
        .replace("\"30years\"", "\"99991231235959Z\"")
        .replacen("\"20years\"", "\"99991231235959Z\"", 1);
    let plan = load(CONFIG, &text).unwrap();
    assert_eq!(plan.cas[0].spec.validity, Validity::Forever);
    assert_eq!(plan.cas[2].spec.validity, Validity::Forever);
}

/// Each fault: what is written instead of what, the key that the problem must name, and a word of it.
const FAULTS: &[(&str, &str, &str, &str)] = &[
    (
        "title = \"Plant 7, first keys\"",
        "title = \" \"",
        "ceremony.title",
        "200 bytes",
    ),
    (
        "\"Plant 7, room 12\"",
        "\"a\\nb\"",
        "ceremony.place",
        "one line",
    ),
    (
        "[\"shift-lead\", \"security-officer\"]",
        "[]",
        "ceremony.operators",
        "who takes part",
    ),
    (
        "\"security-officer\"",
        "\"\"",
        "ceremony.operators[1]",
        "200 bytes",
    ),
    (
        "name = \"device-1\"",
        "name = \"device-2\"",
        "ca[1].name",
        "no [[issuer]] device-2",
    ),
    (
        "name = \"device-1\"",
        "name = \"Device\"",
        "ca[1].name",
        "a-z",
    ),
    (
        "name = \"device-1\"",
        "name = \"access\"",
        "ca[3].name",
        "twice",
    ),
    (
        "CN=Plant 7 Device Root,O=Example,C=DE\"\n\n# From",
        "CN=Plant 7 Device Root, O=Example\"\n\n# From",
        "ca[0].subject",
        "RFC 4514",
    ),
    (
        "CN=Plant 7 Access,",
        "CN=Plant 7 Access Root,",
        "ca[3].subject",
        "another certificate's",
    ),
    ("\"30years\"", "\"30\"", "ca[0].validity", "duration"),
    (
        "\"30years\"",
        "\"3000years\"",
        "ca[0].validity",
        "100 years",
    ),
    ("\"30years\"", "\"20years\"", "ca[1].validity", "shorter"),
    (
        "\"20years\"",
        "\"99991231235959Z\"",
        "ca[1].validity",
        "shorter",
    ),
    ("path_len = 1", "path_len = 0", "ca[1].parent", "path_len"),
    (
        "parent = \"device-root\"\n\n# CRL",
        "parent = \"device-root\"\npath_len = 1\n\n# CRL",
        "ca[1].path_len",
        "only roots",
    ),
    (
        "crl_validity = \"365days\"",
        "crl_validity = \"1min\"",
        "ca[0].crl_validity",
        "an hour",
    ),
    (
        "crl_partitions = 0",
        "crl_partitions = 1000",
        "ca[1].crl_partitions",
        "128",
    ),
    (
        "parent = \"access-root\"",
        "parent = \"access-root\"\ncrl_partitions = 4",
        "ca[3].crl_partitions",
        "device issuers",
    ),
    (
        "parent = \"device-root\"\n\n# CRL",
        "\n\n# CRL",
        "ca[1].parent",
        "missing",
    ),
    (
        "parent = \"device-root\"\n\n# CRL",
        "parent = \"access\"\n\n# CRL",
        "ca[1].parent",
        "no root",
    ),
    (
        "parent = \"device-root\"\n\n# CRL",
        "parent = \"Root\"\n\n# CRL",
        "ca[1].parent",
        "a-z",
    ),
    (
        "parent = \"access-root\"",
        "parent = \"device-root\"",
        "ca[0].name",
        "a root of its own",
    ),
    (
        "parent = \"access-root\"",
        "parent = \"device-root\"",
        "ca[2].name",
        "signs no issuer",
    ),
    (
        "parent = \"access-root\"",
        "parent = \"access-root\"\noffline_parent = \"x\"",
        "ca[3].offline_parent",
        "only with",
    ),
    (
        "name = \"access-root\"\n",
        "name = \"access-root\"\nparent = \"device-root\"\n",
        "ca[2].parent",
        "signs itself",
    ),
    (
        "role = \"access\"",
        "role = \"device\"",
        "ca",
        "exactly one entry",
    ),
    (
        "role = \"device\"",
        "role = \"access\"",
        "ca",
        "exactly one entry",
    ),
];

#[test]
fn each_fault_is_named_with_its_key() {
    for (from, to, key, word) in FAULTS {
        let problems = problems(CONFIG, &changed(from, to));
        let named = problems
            .iter()
            .any(|problem| problem.key == *key && problem.problem.contains(word));
        assert!(named, "{from} → {to}: {problems:?}");
    }
}

#[test]
fn unknown_keys_and_versions_are_refused() {
    for (from, to, word) in [
        ("place =", "room =", "ceremony.room"),
        ("role = \"root\"", "role = \"boss\"", "ca[0].role"),
        ("\"ecdsa-p384\"", "\"ecdsa-p521\"", "ca[0].algorithm"),
        ("version = 1", "version = 2", "version"),
    ] {
        match load(CONFIG, &changed(from, to)) {
            Err(error @ PlanRefused::File(_)) => {
                assert!(error.to_string().contains(word), "{error}");
            }
            other => panic!("{from} → {to}: {:?}", other.map(|_| ())),
        }
    }
}

#[test]
fn all_problems_are_listed_at_once() {
    let text = changed("\"30years\"", "\"never\"")
        .replacen("\"shift-lead\"", "\"\"", 1)
        .replacen("name = \"device-1\"", "name = \"device-9\"", 1);
    let error = load(CONFIG, &text).map(|_| ()).unwrap_err();
    let shown = error.to_string();
    for part in [
        "p.toml: 3 things are wrong:",
        "\n- ceremony.operators[0]: ",
        "\n- ca[0].validity: ",
        "\n- ca[1].name: ",
    ] {
        assert!(shown.contains(part), "{shown}");
    }
}

#[test]
fn configuration_and_file_name_the_same_issuers() {
    let end = EXAMPLE.find("[[ca]]\nname = \"access-root\"").unwrap();
    let problems = problems(CONFIG, &EXAMPLE[..end]);
    let shown: Vec<_> = problems.iter().map(|p| p.problem.as_str()).collect();
    assert_eq!(problems.len(), 3, "{shown:?}");
    assert!(shown[0].contains("[[issuer]] access-root"), "{shown:?}");
    assert!(shown[1].contains("[[issuer]] access"), "{shown:?}");
    assert!(shown[2].contains("role = \"access\""), "{shown:?}");
}

#[test]
fn faults_of_offline_roots() {
    let (config, plan) = offline();
    for (from, to, key) in [
        (
            "\noffline_parent = \"device-root\"\n",
            "\n",
            "ca[0].offline_parent",
        ),
        (
            "\noffline_parent = \"device-root\"\n",
            "\noffline_parent = \"access-root\"\n",
            "ca[0].offline_parent",
        ),
        (
            "\noffline_parent_subject = \"CN=Root,O=Example\"",
            "",
            "ca[0].offline_parent_subject",
        ),
        (
            "\"CN=Root,O=Example\"",
            "\"CN=Plant 7 Device Issuer 1,O=Example,C=DE\"",
            "ca[0].offline_parent_subject",
        ),
        (
            "\noffline_parent_subject = \"CN=Root,O=Example\"",
            "\noffline_parent_subject = \"CN=Root,O=Example\"\noffline_parent_sha256 = \"ab\"",
            "ca[0].offline_parent_sha256",
        ),
        (
            "parent = \"access-root\"",
            "parent = \"offline\"\noffline_parent = \"device-root\"\n\
             offline_parent_subject = \"CN=Root,O=Example\"",
            "ca[2].parent",
        ),
    ] {
        let text = plan.replacen(from, to, 1);
        assert_ne!(text, plan, "{from}");
        let problems = problems(&config, &text);
        assert!(
            problems.iter().any(|p| p.key == key),
            "{from} → {to}: {problems:?}"
        );
    }
    // A root without a key in the configuration that nobody names would never get its certificate.
    let problems = problems(&config, EXAMPLE);
    assert!(
        problems
            .iter()
            .any(|p| p.key == "ca[0].name" && p.problem.contains("no key"))
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_mutated_file_is_answered(at in 0..EXAMPLE.len(), byte in 0_u8..128, gone in 0_usize..40) {
        let mut bytes = EXAMPLE.as_bytes().to_vec();
        let end = (at + gone).min(bytes.len());
        bytes.splice(at..end, [byte]);
        let _ = load(CONFIG, &String::from_utf8_lossy(&bytes));
    }
}
