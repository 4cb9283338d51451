//! Brokers with the real programs: `hallmark-ocsp crl-sync` makes a revocation take effect at Mosquitto.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use hyper::StatusCode;

use crate::harness::appliance::{LineIdentity, PATIENCE, pem};
use crate::harness::device::{Device, der, serial_of};
use crate::harness::mosquitto::{Mosquitto, make_server_certificate};
use crate::harness::program::run;
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::responder::Responder;
use crate::harness::{Appliance, Site, invariants};
use crate::source::root;

/// An appliance with `hallmark-ocsp`, and a directory for a broker.
struct Factory {
    appliance: Appliance,
    line: LineIdentity,
    responder: Responder,
}

/// A device with a certificate.
struct Certified {
    id: String,
    serial: String,
    certificate: PathBuf,
    key: PathBuf,
}

/// A `crl-sync` process; it ends with the test.
struct Sync {
    process: Child,
    log: PathBuf,
}

impl Factory {
    fn start() -> Self {
        let mut appliance = Appliance::start(Site::new());
        let line = appliance.line_and_order(100);
        let mut responder = Responder::beside(&appliance.site);
        responder.approved_and_started(&mut appliance);
        let directory = appliance.site.path().to_owned();
        make_server_certificate(&directory);
        let cas = ["device-1", "device-root"].map(|name| pem(&appliance.site.ca(name)));
        std::fs::write(directory.join("device-ca.pem"), cas.concat()).unwrap();
        Self {
            appliance,
            line,
            responder,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.appliance.site.path().join(name)
    }

    /// Has a device certified.
    async fn device(&mut self, id: &str) -> Certified {
        let device = Device::new(self.appliance.site.path(), id);
        let reply = self
            .appliance
            .ask_anew(&self.line, "demo", &device.request())
            .await;
        assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
        let certificate = self.path(&format!("{id}.crt"));
        std::fs::write(&certificate, &reply.body).unwrap();
        Certified {
            id: id.to_owned(),
            serial: serial_of(self.appliance.site.path(), &der(&reply.body)),
            certificate,
            key: device.key_path(),
        }
    }

    fn revoke(&self, device: &Certified) {
        let words = [
            "cert",
            "revoke",
            &device.serial,
            "--reason",
            "key-compromise",
        ];
        self.appliance.command(&words);
    }

    /// Writes a configuration of `crl-sync` with this broker's table; its file.
    fn configure(&self, name: &str, broker: &str) -> PathBuf {
        let url = format!("http://127.0.0.1:{}/crl/device-1.crl", self.responder.port);
        self.configure_from(name, broker, &[&url])
    }

    /// As [`Self::configure`], with these sources.
    fn configure_from(&self, name: &str, broker: &str, sources: &[&str]) -> PathBuf {
        let text = format!(
            "version = 1\nstate_dir = \"{name}-state\"\npoll = \"200ms\"\n{broker}\n[[crl]]\nname = \"device-1\"\n\
             issuer_file = \"public/ca/device-1.cer\"\nlog_key_file = \"state/log.vkey\"\nsources = {sources:?}\n"
        );
        let file = self.path(&format!("{name}.toml"));
        std::fs::write(&file, text).unwrap();
        file
    }

    /// A command of `crl-sync`.
    fn sync(&self, config: &Path, more: &[&str]) -> Command {
        let mut command = self.appliance.site.command("hallmark-ocsp");
        command
            .arg("--config")
            .arg(config)
            .arg("crl-sync")
            .args(more);
        command
    }

    /// Runs `crl-sync --once --json`.
    fn once(&self, config: &Path) -> Output {
        self.sync(config, &["--once", "--json"]).output().unwrap()
    }

    /// Starts `crl-sync`.
    fn start_sync(&self, config: &Path) -> Sync {
        let log = config.with_extension("log");
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let mut command = self.sync(config, &[]);
        command.stdin(Stdio::null()).stderr(file);
        Sync {
            process: command.spawn().unwrap(),
            log,
        }
    }

    async fn end(self) {
        drop(self.responder);
        invariants::assert(self.appliance).await;
    }
}

impl Sync {
    fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Looks until the log has a text so many times.
    fn wait(&self, text: &str, times: usize) {
        self.wait_until(text, || self.logged().matches(text).count() >= times);
    }

    /// Looks until something holds.
    fn wait_until(&self, what: &str, holds: impl Fn() -> bool) {
        let ends = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < ends, "not {what:?} in\n{}", self.logged());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Kills it in the middle of whatever it does.
    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Sync {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("the log of crl-sync:\n{}", self.logged());
        }
    }
}

/// A client that stays; what happens to it.
struct Stays {
    process: Child,
    log: PathBuf,
}

impl Stays {
    fn start(mut command: Command, log: PathBuf) -> Self {
        let file = std::fs::File::create(&log).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        let process = command.spawn().unwrap();
        let client = Self { process, log };
        client.wait("connected", 1);
        client
    }

    fn told(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// How often something happened to it: a whole line.
    fn times(&self, what: &str) -> usize {
        self.told().lines().filter(|line| *line == what).count()
    }

    /// Looks until something happened to it so many times.
    fn wait(&self, what: &str, times: usize) {
        let ends = Instant::now() + PATIENCE;
        while self.times(what) < times {
            assert!(
                Instant::now() < ends,
                "not {times} times {what}: {}",
                self.told()
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

impl Drop for Stays {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Asserts that a client's message was acknowledged.
fn acknowledged(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}

/// Tries until a client is refused: the broker reads its files some time after the signal.
fn until_refused(what: &str, mut publish: impl FnMut() -> Output) {
    let ends = Instant::now() + PATIENCE;
    while publish().status.success() {
        assert!(Instant::now() < ends, "{what}: never refused");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[tokio::test]
async fn mosquitto_refuses_a_client_once_its_certificate_is_revoked() {
    let mut factory = Factory::start();
    let (good, bad) = (
        factory.device("sensor-1").await,
        factory.device("sensor-2").await,
    );
    let crl_file = factory.path("broker/revoked.crl.pem");
    std::fs::create_dir(crl_file.parent().unwrap()).unwrap();
    let mut broker = Mosquitto::configured(factory.appliance.site.path(), &crl_file);
    let table = format!(
        "[mosquitto]\ncrl_file = {crl_file:?}\npid_file = {:?}\n",
        broker.pid_file()
    );
    let config = factory.configure("sync", &table);
    let checked = factory.sync(&config, &["--check-config"]).output().unwrap();
    acknowledged(&checked);

    // Mosquitto does not start without the file; so the first run writes it, and owes the signal.
    let first = factory.once(&config);
    assert_eq!(first.status.code(), Some(1), "{first:?}");
    let told = String::from_utf8_lossy(&first.stderr).into_owned();
    assert!(told.contains("could not be told"), "{told}");
    broker.start();
    let again = factory.once(&config);
    assert_eq!(again.status.code(), Some(0), "{again:?}");

    for device in [&good, &bad] {
        acknowledged(&broker.publish(&device.certificate, &device.key));
        acknowledged(&broker.publish_with_paho(&device.certificate, &device.key));
        assert!(
            broker.logged().contains(&format!("u'{}'", device.id)),
            "{}",
            broker.logged()
        );
    }
    // With the old CRL a session is resumed, so the test would see one that is resumed with the new one.
    session(&factory, broker.port, &bad, "-sess_out");
    assert!(session(&factory, broker.port, &bad, "-sess_in").contains("Reused, "));
    let sync = factory.start_sync(&config);
    factory.revoke(&bad);
    until_refused("mosquitto_pub", || {
        broker.publish(&bad.certificate, &bad.key)
    });
    assert!(!session(&factory, broker.port, &bad, "-sess_in").contains("Reused, "));
    until_refused("paho", || {
        broker.publish_with_paho(&bad.certificate, &bad.key)
    });
    assert!(
        broker.logged().contains("certificate verify failed"),
        "{}",
        broker.logged()
    );
    acknowledged(&broker.publish(&good.certificate, &good.key));
    acknowledged(&broker.publish_with_paho(&good.certificate, &good.key));
    sync.wait("newly_revoked=1", 1);
    drop((sync, broker));
    factory.end().await;
}

/// What OpenSSL's client says of a connection that resumes the session in a file, or begins one and leaves it there.
fn session(factory: &Factory, port: u16, device: &Certified, option: &str) -> String {
    let mut client = Command::new("openssl");
    client.current_dir(factory.appliance.site.path());
    client.args([
        "s_client",
        "-connect",
        &format!("127.0.0.1:{port}"),
        "-tls1_2",
    ]);
    client
        .args(["-CAfile", "server-ca.crt", option, "session"])
        .arg("-cert")
        .arg(&device.certificate);
    client.arg("-key").arg(&device.key).stdin(Stdio::null());
    String::from_utf8_lossy(&client.output().unwrap().stdout).into_owned()
}

#[test]
fn the_example_configurations_are_valid() {
    let site = Site::new();
    let directory = site.path().display().to_string();
    for place in [
        "etc/hallmark",
        "etc/mosquitto/pki",
        "var/lib/rabbitmq/crls",
        "var/lib/hallmark-crls",
    ] {
        std::fs::create_dir_all(site.path().join(place)).unwrap();
    }
    let at = |name: &str| site.path().join("etc/hallmark").join(name);
    std::fs::write(at("device-1.cer"), site.ca("device-1")).unwrap();
    std::fs::copy(site.path().join("state/log.vkey"), at("log.vkey")).unwrap();
    for name in ["mosquitto.toml", "rabbitmq.toml", "hook.toml"] {
        let text = std::fs::read_to_string(root().join("examples/crl-sync").join(name)).unwrap();
        let text = text.replace("\"/etc/", &format!("\"{directory}/etc/"));
        let text = text.replace("\"/var/", &format!("\"{directory}/var/"));
        std::fs::write(site.path().join(name), text).unwrap();
        let mut command = site.command("hallmark-ocsp");
        let checked = run(command.args(["--config", name, "crl-sync", "--check-config", "--json"]));
        let said: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
        assert_eq!(
            said,
            serde_json::json!({ "valid": true, "crls": ["device-1"] })
        );
        assert!(
            !site.path().join("var/lib/hallmark-crl-sync").exists(),
            "a check changes nothing"
        );
    }
}

#[tokio::test]
async fn mosquitto_ends_the_live_session_of_a_revoked_client_where_that_is_asked() {
    let mut factory = Factory::start();
    let (good, bad) = (
        factory.device("sensor-1").await,
        factory.device("sensor-2").await,
    );
    let crl_file = factory.path("revoked.crl.pem");
    let mut broker = Mosquitto::configured(factory.appliance.site.path(), &crl_file);
    // The harness starts it again when it ends, as a service manager does at a restart.
    let restart = format!("kill $(cat {})", broker.pid_file().display());
    let table = format!(
        "[mosquitto]\ncrl_file = {crl_file:?}\npid_file = {:?}\nend_sessions = true\n\
         restart_command = [\"bash\", \"-c\", {restart:?}]\n",
        broker.pid_file()
    );
    let config = factory.configure("sync", &table);
    let _owed = factory.once(&config);
    broker.start();
    let sync = factory.start_sync(&config);
    sync.wait("the broker was told", 1);
    let [stays, leaves] = [&good, &bad].map(|device| {
        let log = factory.path(&format!("{}.log", device.id));
        Stays::start(broker.stay(&device.certificate, &device.key), log)
    });
    assert_eq!(
        (stays.times("disconnected"), leaves.times("disconnected")),
        (0, 0)
    );
    factory.revoke(&bad);
    sync.wait("mosquitto was restarted", 1);
    // Both are cut off; the good one comes back, the other one is refused from then on.
    stays.wait("connected", 2);
    leaves.wait("disconnected", 1);
    until_refused("mosquitto_pub", || {
        broker.publish(&bad.certificate, &bad.key)
    });
    assert_eq!(leaves.times("connected"), 1, "{}", leaves.told());
    // Nothing is newly revoked by a restart of crl-sync, so nothing is cut off by it.
    drop(sync);
    let again = factory.once(&config);
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    acknowledged(&broker.publish(&good.certificate, &good.key));
    assert_eq!(stays.times("disconnected"), 1, "{}", stays.told());
    drop((stays, leaves, broker));
    factory.end().await;
}

#[tokio::test]
async fn rabbitmq_refuses_a_revoked_client_and_ends_its_session_alone() {
    let mut factory = Factory::start();
    let (good, bad) = (
        factory.device("sensor-1").await,
        factory.device("sensor-2").await,
    );
    let crl_dir = factory.path("crls");
    std::fs::create_dir(&crl_dir).unwrap();
    let mut broker = RabbitMq::configured(factory.appliance.site.path(), &crl_dir);
    let table = format!(
        "[rabbitmq]\ncrl_dir = {crl_dir:?}\nend_sessions = true\nrabbitmqctl = {:?}\n",
        broker.control_words()
    );
    let config = factory.configure("sync", &table);
    let first = factory.once(&config);
    assert_eq!(first.status.code(), Some(0), "{first:?}");
    broker.start();
    broker.add_user(&good.id);
    broker.add_user(&bad.id);
    for device in [&good, &bad] {
        acknowledged(&broker.publish(&device.certificate, &device.key));
    }
    session(&factory, broker.port, &good, "-sess_out");
    assert!(session(&factory, broker.port, &good, "-sess_in").contains("New, "));
    let sync = factory.start_sync(&config);
    let [stays, leaves] = [&good, &bad].map(|device| {
        let log = factory.path(&format!("{}.log", device.id));
        Stays::start(broker.stay(&device.certificate, &device.key), log)
    });
    factory.revoke(&bad);
    sync.wait("sessions of revoked clients were ended", 1);
    leaves.wait("disconnected", 1);
    until_refused("mosquitto_pub", || {
        broker.publish(&bad.certificate, &bad.key)
    });
    assert!(
        broker.logged().contains("Certificate Revoked"),
        "{}",
        broker.logged()
    );
    acknowledged(&broker.publish(&good.certificate, &good.key));
    assert_eq!(leaves.times("connected"), 1, "{}", leaves.told());
    assert_eq!(stays.times("disconnected"), 0, "{}", stays.told());
    drop((sync, stays, leaves, broker));
    factory.end().await;
}

#[tokio::test]
async fn what_was_written_and_not_told_when_killed_is_told_at_the_next_start() {
    let mut factory = Factory::start();
    let device = factory.device("sensor-1").await;
    let (crl_file, heard) = (factory.path("revoked.crl.pem"), factory.path("heard.json"));
    let hook =
        |command: &[&str]| format!("[hook]\ncrl_file = {crl_file:?}\ncommand = {command:?}\n");
    let hear = format!("cat >> {}", heard.display());
    // In place and told once, then a hook that hangs: between the file and the broker.
    let config = factory.configure("sync", &hook(&["sh", "-c", &hear]));
    assert_eq!(factory.once(&config).status.code(), Some(0));
    let hang = format!(
        "echo $$ > {}; exec sleep 1000",
        factory.path("hanging").display()
    );
    let config = factory.configure("sync", &hook(&["sh", "-c", &hang]));
    let before = std::fs::read(&crl_file).unwrap();
    let sync = factory.start_sync(&config);
    factory.revoke(&device);
    sync.wait("written, and read back", 1);
    let hanging = || std::fs::read_to_string(factory.path("hanging")).unwrap_or_default();
    sync.wait_until("hanging", || hanging().ends_with('\n'));
    sync.kill();
    // Who is killed kills nobody: its command is still there.
    run(Command::new("kill").arg(hanging().trim()));
    assert_ne!(std::fs::read(&crl_file).unwrap(), before);
    assert_eq!(std::fs::read_to_string(&heard).unwrap().lines().count(), 1);

    // It happened and was reported as failed: told again, and what is new is still new.
    let config = factory.configure("sync", &hook(&["sh", "-c", &format!("{hear}; exit 7")]));
    let failed = factory.once(&config);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    let config = factory.configure("sync", &hook(&["sh", "-c", &hear]));
    assert_eq!(factory.once(&config).status.code(), Some(0));
    assert_eq!(factory.once(&config).status.code(), Some(0));
    let heard = std::fs::read_to_string(&heard).unwrap();
    let heard: Vec<serde_json::Value> = heard
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(heard.len(), 3, "{heard:?}");
    assert_eq!(heard[1], heard[2]);
    assert_eq!(
        heard[2]["crls"][0]["newly_revoked"],
        serde_json::json!([device.serial])
    );
    assert_eq!(heard[2]["crls"][0]["file"], crl_file.to_str().unwrap());
    factory.end().await;
}
