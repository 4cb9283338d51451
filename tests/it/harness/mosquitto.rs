//! Mosquitto from Debian with a directory and a port of its own, and the clients that speak to it.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use super::appliance::PATIENCE;
use super::program::{openssl, run};
use super::site::free_port;
use crate::source::root;

/// A broker that is started again whenever it ends, as a service manager would, until the test is over.
pub struct Mosquitto {
    directory: PathBuf,
    /// Of MQTT over TLS, on loopback.
    pub port: u16,
    process: Option<Child>,
}

/// Makes a CA and a server certificate for 127.0.0.1 in a directory, with OpenSSL: `server-ca.crt`, `server.crt` and
/// `server.key`; neither is of the appliance, so that nothing of it depends on the broker's own certificate.
pub fn make_server_certificate(directory: &Path) {
    let new = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "30",
    ];
    let ca = [
        "-keyout",
        "server-ca.key",
        "-out",
        "server-ca.crt",
        "-subj",
        "/CN=server CA",
    ];
    let sign = ["-addext", "keyUsage=critical,keyCertSign"];
    openssl(directory, &[&new[..], &ca, &sign].concat());
    let server = [
        "-keyout",
        "server.key",
        "-out",
        "server.crt",
        "-subj",
        "/CN=broker",
    ];
    let signed = ["-CA", "server-ca.crt", "-CAkey", "server-ca.key"];
    let name = [
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ];
    openssl(directory, &[&new[..], &server, &signed, &name].concat());
}

impl Mosquitto {
    /// Its configuration in a directory that has a server certificate; not started.
    ///
    /// `device-ca.pem` and `crlfile` are the files that it judges clients by.
    pub fn configured(directory: &Path, crlfile: &Path) -> Self {
        let port = free_port();
        let at = |name: &str| directory.join(name).display().to_string();
        let text = format!(
            // As root it would drop to a user that reads nothing below the test's directory.
            "user root\nlistener {port} 127.0.0.1\nallow_anonymous false\ncafile {}\ncertfile {}\nkeyfile {}\n\
             crlfile {}\nrequire_certificate true\nuse_identity_as_username true\npid_file {}\nlog_dest stderr\n\
             log_type all\n",
            at("device-ca.pem"),
            at("server.crt"),
            at("server.key"),
            crlfile.display(),
            at("mosquitto.pid"),
        );
        std::fs::write(directory.join("mosquitto.conf"), text).unwrap();
        Self {
            directory: directory.to_owned(),
            port,
            process: None,
        }
    }

    /// Starts it and waits until it runs.
    pub fn start(&mut self) {
        let log = File::create(self.directory.join("mosquitto.log")).unwrap();
        let again = "while :; do mosquitto -c mosquitto.conf; sleep 0.1; done";
        let mut command = Command::new("bash");
        command.current_dir(&self.directory).args(["-c", again]);
        command.stdin(Stdio::null()).stderr(log).process_group(0);
        self.process = Some(command.spawn().unwrap());
        // It catches signals once it says so, some time after it listens.
        self.wait("running", |broker| broker.logged().contains(" running\n"));
    }

    /// Where it writes its process id.
    pub fn pid_file(&self) -> PathBuf {
        self.directory.join("mosquitto.pid")
    }

    /// What it has logged.
    pub fn logged(&self) -> String {
        std::fs::read_to_string(self.directory.join("mosquitto.log")).unwrap_or_default()
    }

    /// Looks until something holds.
    pub fn wait(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let ends = std::time::Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(
                std::time::Instant::now() < ends,
                "not {what}:\n{}",
                self.logged()
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Publishes with `mosquitto_pub` and a client certificate; it must be acknowledged to succeed.
    pub fn publish(&self, certificate: &Path, key: &Path) -> Output {
        publish(&self.directory, self.port, certificate, key)
    }

    /// The same with paho-mqtt.
    pub fn publish_with_paho(&self, certificate: &Path, key: &Path) -> Output {
        paho(&self.directory, self.port, certificate, key, "publish")
            .output()
            .unwrap()
    }

    /// A paho-mqtt client that stays, connects again when it is cut off, and prints what happens to it.
    pub fn stay(&self, certificate: &Path, key: &Path) -> Command {
        paho(&self.directory, self.port, certificate, key, "stay")
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let group = rustix::process::Pid::from_child(&process);
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            let _ = process.wait();
        }
        if std::thread::panicking() {
            eprintln!("mosquitto's log:\n{}", self.logged());
        }
    }
}

/// Publishes one message with `mosquitto_pub` to a broker whose CA is `server-ca.crt` in a directory.
pub fn publish(directory: &Path, port: u16, certificate: &Path, key: &Path) -> Output {
    let mut command = Command::new("mosquitto_pub");
    command
        .current_dir(directory)
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-q", "1"]);
    command.args([
        "-t",
        "test/topic",
        "-m",
        "21.5",
        "--cafile",
        "server-ca.crt",
        "--cert",
    ]);
    command.arg(certificate).arg("--key").arg(key);
    command
        .output()
        .expect("mosquitto_pub is missing: tests/run.sh installs mosquitto-clients")
}

/// The command of `tests/mqtt-client.py` for a broker whose CA is `server-ca.crt` in a directory.
pub fn paho(directory: &Path, port: u16, certificate: &Path, key: &Path, act: &str) -> Command {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    let python = PYTHON.get_or_init(|| {
        let environment = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../paho");
        run(Command::new("bash")
            .current_dir(root())
            .arg("tests/paho.sh")
            .arg(&environment));
        environment.join("bin/python")
    });
    let mut command = Command::new(python);
    command
        .arg(root().join("tests/mqtt-client.py"))
        .current_dir(directory);
    command.args([act, "127.0.0.1", &port.to_string(), "server-ca.crt"]);
    command.arg(certificate).arg(key);
    command
}
