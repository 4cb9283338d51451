//! RabbitMQ from Debian as a private node with its MQTT plugin: own directory, ports, cookie and name server.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::program::run;
use super::site::free_port;

/// How long the node may take to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// Where Debian has the scripts that do not change to the user `rabbitmq`.
const SCRIPTS: &str = "/usr/lib/rabbitmq/bin";

/// A node; it ends with the test.
pub struct RabbitMq {
    directory: PathBuf,
    /// Of MQTT over TLS, on loopback.
    pub port: u16,
    name_server_port: u16,
    process: Option<Child>,
}

impl RabbitMq {
    /// Its configuration in a directory that has `device-ca.pem` and a server certificate; not started.
    pub fn configured(directory: &Path, crl_dir: &Path) -> Self {
        let own = directory.join("rabbitmq");
        std::fs::create_dir(&own).unwrap();
        let port = free_port();
        let general = format!(
            "listeners.tcp = none\nmqtt.listeners.tcp = none\nmqtt.listeners.ssl.default = 127.0.0.1:{port}\n\
             mqtt.ssl_cert_login = true\nmqtt.allow_anonymous = false\nssl_cert_login_from = common_name\n\
             log.console = true\nlog.file = false\n"
        );
        let at = |name: &str| directory.join(name).display().to_string();
        let advanced = format!(
            "[{{rabbit, [{{ssl_options, [{{cacertfile, {:?}}}, {{certfile, {:?}}}, {{keyfile, {:?}}},\n\
             {{verify, verify_peer}}, {{fail_if_no_peer_cert, true}}, {{reuse_sessions, false}},\n\
             {{crl_check, peer}}, {{crl_cache, {{ssl_crl_hash_dir, {{internal, [{{dir, {:?}}}]}}}}}}]}}]}}].\n",
            at("device-ca.pem"),
            at("server.crt"),
            at("server.key"),
            crl_dir.display().to_string()
        );
        std::fs::write(own.join("rabbitmq.conf"), general).unwrap();
        std::fs::write(own.join("advanced.config"), advanced).unwrap();
        std::fs::write(own.join("enabled_plugins"), "[rabbitmq_mqtt].\n").unwrap();
        Self {
            directory: own,
            port,
            name_server_port: free_port(),
            process: None,
        }
    }

    /// What makes a program of RabbitMQ's speak of this node and no other.
    fn environment(&self) -> Vec<(&'static str, String)> {
        let at = |name: &str| self.directory.join(name).display().to_string();
        vec![
            ("HOME", at("")),
            (
                "RABBITMQ_NODENAME",
                format!("hallmark{}@localhost", self.port),
            ),
            ("RABBITMQ_CONF_ENV_FILE", at("none")),
            ("RABBITMQ_CONFIG_FILE", at("rabbitmq.conf")),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", at("advanced.config")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", at("enabled_plugins")),
            ("RABBITMQ_MNESIA_BASE", at("mnesia")),
            ("RABBITMQ_LOG_BASE", at("log")),
            ("ERL_EPMD_PORT", self.name_server_port.to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
            ("ERL_CRASH_DUMP_SECONDS", "0".to_owned()),
        ]
    }

    /// A program of RabbitMQ's for this node.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(Path::new(SCRIPTS).join(program));
        command
            .current_dir(&self.directory)
            .envs(self.environment());
        command
    }

    /// The words of `rabbitmqctl` for this node, for a program that does not have its environment.
    pub fn control_words(&self) -> Vec<String> {
        let mut words = vec!["env".to_owned()];
        words.extend(
            self.environment()
                .iter()
                .map(|(name, value)| format!("{name}={value}")),
        );
        words.push(format!("{SCRIPTS}/rabbitmqctl"));
        words
    }

    /// Starts it and waits until it listens.
    pub fn start(&mut self) {
        let log = File::create(self.directory.join("log.txt")).unwrap();
        // Its name server is one of its own that ends with the test; without one RabbitMQ would start one that stays.
        let both = format!(
            "epmd & until epmd -names >/dev/null 2>&1; do sleep 0.05; done; exec {SCRIPTS}/rabbitmq-server"
        );
        let mut command = Command::new("bash");
        command
            .current_dir(&self.directory)
            .envs(self.environment());
        command.args(["-c", &both]).process_group(0);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.process = Some(command.spawn().expect("bash is missing"));
        let ends = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none(),
                "it ended; tests/run.sh installs rabbitmq-server:\n{}",
                self.logged()
            );
            assert!(
                Instant::now() < ends,
                "it does not listen:\n{}",
                self.logged()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Makes a user of this name, who may do everything and has no password that anybody knows.
    pub fn add_user(&self, name: &str) {
        run(self
            .command("rabbitmqctl")
            .args(["add_user", name, "not-asked-for"]));
        run(self.command("rabbitmqctl").args(["clear_password", name]));
        run(self
            .command("rabbitmqctl")
            .args(["set_permissions", name, ".*", ".*", ".*"]));
    }

    /// What it has logged.
    pub fn logged(&self) -> String {
        std::fs::read_to_string(self.directory.join("log.txt")).unwrap_or_default()
    }

    /// Publishes with `mosquitto_pub` and a client certificate; it must be acknowledged to succeed.
    pub fn publish(&self, certificate: &Path, key: &Path) -> Output {
        super::mosquitto::publish(
            self.directory.parent().unwrap(),
            self.port,
            certificate,
            key,
        )
    }

    /// A paho-mqtt client that stays, connects again when it is cut off, and prints what happens to it.
    pub fn stay(&self, certificate: &Path, key: &Path) -> Command {
        super::mosquitto::paho(
            self.directory.parent().unwrap(),
            self.port,
            certificate,
            key,
            "stay",
        )
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let group = rustix::process::Pid::from_child(&process);
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            let _ = process.wait();
        }
        if std::thread::panicking() {
            eprintln!("rabbitmq's log:\n{}", self.logged());
        }
    }
}
