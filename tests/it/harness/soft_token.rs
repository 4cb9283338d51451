//! A SoftHSM token of a test's own, and the real token host in front of it.
//!
//! Everything lives in a temporary directory and ends with the value. `SOFTHSM2_CONF` is set for child
//! processes only, so the token that a test uses is always the one that it made.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hallmark::config::{Config, KeyUri, Token};
use hallmark::hsm::{CaKey, GeneratedKey, Hsm, HsmError, KeyAlgorithm, KeyPolicy};

use super::program::{ours, run};
use super::site::{SOFTHSM, make_token};

/// The longest that a test waits for something that must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// The published example, which the tests' configurations are made of.
const EXAMPLE: &str = include_str!("../../../hsm-config/softhsm2.toml");

/// A token in a directory of its own.
pub struct SoftToken {
    /// Owns everything below.
    dir: tempfile::TempDir,
    /// The token's serial number.
    serial: String,
    /// Its user PIN.
    pin: String,
    /// Where the PIN is.
    pin_file: PathBuf,
}

/// What a host is started with, beside its token.
#[derive(Clone, Copy)]
pub struct Setting {
    /// `--ceremony`.
    pub ceremony: bool,
    /// `sessions`.
    pub sessions: u16,
    /// `sign_deadline`.
    pub sign_deadline: &'static str,
    /// `daemon_uids`.
    pub daemon_uids: &'static str,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            ceremony: false,
            sessions: 2,
            sign_deadline: "5s",
            daemon_uids: "[]",
        }
    }
}

/// A running token host. Ends with the value.
pub struct Host {
    /// The process.
    child: Child,
    /// Its configuration's part.
    pub token: Token,
}

impl SoftToken {
    /// Makes and initialises a token.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let serial = make_token(dir.path());
        let pin_file = dir.path().join("pin");
        let pin = std::fs::read_to_string(&pin_file).unwrap();
        Self {
            pin: pin.trim_end().to_owned(),
            pin_file,
            serial,
            dir,
        }
    }

    /// A file in the token's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `pkcs11-tool` on this token, logged in.
    pub fn pkcs11_tool(&self, args: &[&str]) {
        run(Command::new("pkcs11-tool")
            .env("SOFTHSM2_CONF", self.path("softhsm2.conf"))
            .env("PIN", &self.pin)
            .args(["--module", SOFTHSM, "--login", "--pin", "env:PIN"])
            .args(["--token-label", "hallmark"])
            .args(args));
    }

    /// Writes a PIN that is not the token's into the PIN file.
    pub fn write_wrong_pin(&self) {
        std::fs::write(&self.pin_file, "999999\n").unwrap();
    }

    /// Writes the token's PIN into the PIN file.
    pub fn write_right_pin(&self) {
        std::fs::write(&self.pin_file, format!("{}\n", self.pin)).unwrap();
    }

    /// Puts the PIN where systemd puts a unit's credentials (systemd.exec(5), `LoadCredential=`): in a directory of the
    /// unit, without a newline; mode 0440, because the mask of the access list shows where a group's bits are.
    pub fn pin_as_credential(&mut self) {
        let directory = self.path("credentials/hallmark-token-soft.service");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::remove_file(&self.pin_file).unwrap();
        self.pin_file = directory.join("soft-pin");
        std::fs::write(&self.pin_file, &self.pin).unwrap();
        let mode = std::fs::Permissions::from_mode(0o440);
        std::fs::set_permissions(&self.pin_file, mode).unwrap();
    }

    /// Takes the token's directory away: the outage drill.
    pub fn unplug(&self) {
        std::fs::rename(self.path("tokens"), self.path("unplugged")).unwrap();
    }

    /// Brings it back.
    pub fn plug_in(&self) {
        std::fs::rename(self.path("unplugged"), self.path("tokens")).unwrap();
    }

    /// Gives the faulting module commands.
    pub fn command(&self, commands: &str) {
        // By rename, so that the module never reads half of it.
        std::fs::write(self.path("control.new"), commands).unwrap();
        std::fs::rename(self.path("control.new"), self.path("control")).unwrap();
    }

    /// How often the real module was called: `sign` or `login`.
    pub fn count(&self, what: &str) -> usize {
        std::fs::read_to_string(self.path("count"))
            .unwrap_or_default()
            .lines()
            .filter(|line| *line == what)
            .count()
    }

    /// The URI of a key.
    pub fn uri(&self, label: &str) -> KeyUri {
        KeyUri {
            token_label: "hallmark".to_owned(),
            token_serial: self.serial.clone(),
            key_label: label.to_owned(),
        }
    }

    /// Writes a configuration and reads its token back.
    fn configure(&self, setting: Setting) -> Token {
        let text = EXAMPLE
            .replace(SOFTHSM, ours("libfaulting_token.so").to_str().unwrap())
            .replace(
                "serial=0123456789abcdef",
                &format!("serial={}", self.serial),
            )
            .replace("/etc/hallmark/pins/soft", self.pin_file.to_str().unwrap())
            .replace(
                "/run/hallmark-token-soft/token.sock",
                self.path("token.sock").to_str().unwrap(),
            )
            .replace("sessions = 2", &format!("sessions = {}", setting.sessions))
            .replace(
                "sign_deadline = \"10s\"",
                &format!("sign_deadline = \"{}\"", setting.sign_deadline),
            )
            .replace(
                "daemon_uids = []",
                &format!("daemon_uids = {}", setting.daemon_uids),
            );
        std::fs::write(self.path("hallmark.toml"), text).unwrap();
        let config = Config::load(&self.path("hallmark.toml")).unwrap();
        config.tokens[0].clone()
    }

    /// The host's command line, as an operator would have it.
    pub fn host_command(&self, setting: Setting) -> (Command, Token) {
        let token = self.configure(setting);
        let mut command = Command::new(ours("hallmark-token"));
        command
            .arg(&token.name)
            .arg("--config")
            .arg(self.path("hallmark.toml"))
            .env("SOFTHSM2_CONF", self.path("softhsm2.conf"))
            .env("FAULTING_TOKEN_MODULE", SOFTHSM)
            .env("FAULTING_TOKEN_CONTROL", self.path("control"))
            .env("FAULTING_TOKEN_COUNT", self.path("count"))
            .stdin(Stdio::null());
        if setting.ceremony {
            command.arg("--ceremony");
        }
        (command, token)
    }

    /// Starts a host.
    pub fn host(&self, setting: Setting) -> Host {
        let (mut command, token) = self.host_command(setting);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("host.log"))
            .unwrap();
        let child = command.stderr(log).spawn().unwrap();
        Host { child, token }
    }

    /// What hosts have logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("host.log")).unwrap_or_default()
    }

    /// Makes a key with a host of its own for the ceremony.
    pub async fn generate(&self, label: &str, algorithm: KeyAlgorithm) -> GeneratedKey {
        let host = self.host(Setting {
            ceremony: true,
            ..Setting::default()
        });
        let hsm = host.hsm();
        let uri = self.uri(label);
        eventually(|| hsm.generate(&uri, algorithm, KeyPolicy::NeverExtractable)).await
    }
}

impl Host {
    /// A daemon's side of this host.
    pub fn hsm(&self) -> Hsm {
        Hsm::open(std::slice::from_ref(&self.token))
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The worker's process id, as soon as there is one.
    pub fn worker_pid(&self) -> u32 {
        let started = Instant::now();
        loop {
            let children =
                std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid()));
            if let Some(pid) = children
                .unwrap()
                .split_whitespace()
                .next()
                .and_then(|pid| pid.parse().ok())
            {
                return pid;
            }
            assert!(started.elapsed() < PATIENCE, "no worker");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills the worker and waits for its successor.
    pub fn kill_worker(&self) {
        let worker = self.worker_pid();
        signal("KILL", worker);
        let started = Instant::now();
        while self.worker_pid() == worker {
            assert!(started.elapsed() < PATIENCE, "no successor");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks it to stop and waits for its end.
    pub fn stop(&mut self) {
        signal("TERM", self.pid());
        self.child.wait().unwrap();
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.stop();
        }
    }
}

/// Sends a signal.
pub fn signal(name: &str, pid: u32) {
    run(Command::new("kill")
        .arg(format!("-{name}"))
        .arg(pid.to_string()));
}

/// Tries again while a retry helps, until it works.
pub async fn eventually<T, F>(attempt: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, HsmError>>,
{
    settled(attempt)
        .await
        .unwrap_or_else(|error| panic!("{error}"))
}

/// Tries again while a retry helps, and gives back what came at last.
pub async fn settled<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, HsmError>
where
    F: Future<Output = Result<T, HsmError>>,
{
    let started = Instant::now();
    loop {
        match attempt().await {
            Err(error) if error.retry_helps() => {
                assert!(started.elapsed() < PATIENCE, "still {error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other,
        }
    }
}

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Opens a key as soon as its token is ready.
pub async fn open(hsm: &Hsm, uri: &KeyUri, algorithm: KeyAlgorithm, spki: &[u8]) -> CaKey {
    let pin = sha256(spki);
    eventually(|| hsm.ca_key(uri, algorithm.signature(), &pin)).await
}

/// SHA-256, which keys are pinned by.
pub fn sha256(octets: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, octets);
    digest.as_ref().try_into().unwrap()
}
