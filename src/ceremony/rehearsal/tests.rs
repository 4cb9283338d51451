//! What is found out before anything is made.

use std::path::PathBuf;

use super::*;

/// 2030-06-01.
const NOW: UnixMillis = UnixMillis(1_906_502_400_000);

/// The published examples in a directory of their own, with the built-in profiles.
struct Scene {
    _directory: tempfile::TempDir,
    config: Config,
    plan: Plan,
    hosts: HostProgram,
}

impl Scene {
    /// With one text of the ceremony file in the place of another.
    fn new(from: &str, to: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let config = std::fs::read_to_string(root.join("hsm-config/softhsm2.toml"))
            .unwrap()
            .replace("/var/lib/hallmark/", "")
            .replace(
                "/etc/hallmark/profiles",
                root.join("profiles").to_str().unwrap(),
            );
        let plan = std::fs::read_to_string(root.join("hsm-config/softhsm2-ceremony.toml"))
            .unwrap()
            .replacen(from, to, 1);
        let (config_file, plan_file) = (
            directory.path().join("hallmark.toml"),
            directory.path().join("plan.toml"),
        );
        std::fs::write(&config_file, config).unwrap();
        std::fs::write(&plan_file, plan).unwrap();
        let config = Config::load(&config_file).unwrap();
        Self {
            plan: Plan::load(&plan_file, &config).unwrap(),
            config,
            hosts: HostProgram {
                program: std::env::current_exe().unwrap(),
                config: config_file,
            },
            _directory: directory,
        }
    }

    /// What is in the way.
    fn obstacles(&self) -> Vec<String> {
        obstacles(&self.config, &self.plan, &self.hosts, NOW)
    }
}

#[test]
fn nothing_is_in_the_way_of_the_example() {
    let scene = Scene::new("", "");
    assert_eq!(scene.obstacles(), Vec::<String>::new());
    let outline = outline(&scene.config, &scene.plan);
    assert_eq!(outline.steps.len(), 3 + 4 * 3 + 2, "{outline}");
    assert!(
        outline
            .to_string()
            .contains("device-1, signed by device-root")
    );
    assert!(
        !scene.config.state_dir.exists(),
        "a rehearsal makes nothing"
    );
}

#[test]
fn directories_that_are_not_empty_are_in_the_way() {
    let scene = Scene::new("", "");
    std::fs::create_dir_all(scene.config.published.join("crl")).unwrap();
    std::fs::create_dir_all(&scene.config.state_dir).unwrap();
    let key = LogKey::generate().unwrap();
    let file = scene.config.state_dir.join("log.key");
    certstatus::durable::write_secret(&file, key.as_bytes()).unwrap();
    let found = scene.obstacles();
    assert_eq!(
        found.len(),
        1,
        "a supplied log key is no obstacle: {found:?}"
    );
    assert!(found[0].ends_with("it holds crl"), "{found:?}");
    assert!(
        outline(&scene.config, &scene.plan)
            .to_string()
            .contains("no log key")
    );
}

#[test]
fn a_supplied_log_key_that_is_none_is_in_the_way() {
    let scene = Scene::new("", "");
    let file = scene.config.state_dir.join("log.key");
    certstatus::durable::write_secret(&file, b"no key").unwrap();
    let found = scene.obstacles();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("the log key that was supplied: "),
        "{found:?}"
    );
}

#[test]
fn a_missing_program_or_profile_is_in_the_way() {
    let mut scene = Scene::new("", "");
    scene.hosts.program = PathBuf::from("/nowhere/hallmark-token");
    scene.config.profiles = PathBuf::from("/nowhere");
    let found = scene.obstacles();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("/nowhere/hallmark-token"), "{found:?}");
    assert!(found[1].contains("/nowhere/tls-server.toml"), "{found:?}");
}

#[test]
fn a_certificate_that_would_break_a_rule_is_in_the_way() {
    // 90 days is what the server's certificate is valid for; its issuer would end before it.
    let scene = Scene::new(
        "validity = \"20years\"\nparent = \"access-root\"",
        "validity = \"30days\"\nparent = \"access-root\"",
    );
    let found = scene.obstacles();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("the server's certificate: "),
        "{found:?}"
    );
}
