//! Brokers with the real programs: `hallmark-ocsp crl-sync` makes a revocation take effect at Mosquitto.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use hyper::StatusCode;

use crate::harness::appliance::{LineIdentity, PATIENCE, pem};
use crate::harness::device::{Device, der, serial_of};
use crate::harness::mosquitto::{Mosquitto, make_server_certificate};
use crate::harness::responder::Responder;
use crate::harness::{Appliance, Site, invariants};

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
        let ends = Instant::now() + PATIENCE;
        while self.logged().matches(text).count() < times {
            assert!(
                Instant::now() < ends,
                "not {times} times {text:?} in\n{}",
                self.logged()
            );
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
    let config = factory.configure("mosquitto", &table);
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
    let sync = factory.start_sync(&config);
    factory.revoke(&bad);
    until_refused("mosquitto_pub", || {
        broker.publish(&bad.certificate, &bad.key)
    });
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
