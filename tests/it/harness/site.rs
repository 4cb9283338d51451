//! A site: a directory with a private SoftHSM token on which the real ceremony was run, and a configuration.
//!
//! The ceremony is run once for all tests; each test gets a copy of what it left, and ports of its own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use tempfile::TempDir;

use super::program::{ours, run};
use crate::source::root;

/// SoftHSM's module, where Debian puts it.
pub const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// A site that is not running.
pub struct Site {
    /// Everything is below it; removed with the site unless the test fails.
    directory: Option<TempDir>,
    api_port: u16,
    ops_port: u16,
    /// The PKCS#11 module in the configuration, and what its processes find in their environment.
    module: PathBuf,
    environment: Vec<(&'static str, PathBuf)>,
}

/// The template that sites are copied from.
struct Template {
    directory: PathBuf,
    token_serial: String,
}

impl Site {
    /// A copy of the template.
    pub fn new() -> Self {
        Self::copied(Self::empty())
    }

    /// A copy of the template whose token is called through `tests/faulting-token`; the file with its commands.
    pub fn faulting() -> (Self, PathBuf) {
        let mut site = Self::empty();
        let control = site.call_through_faults();
        (Self::copied(site), control)
    }

    /// As [`Self::before_ceremony`], with the token called through `tests/faulting-token`.
    pub fn faulting_before_ceremony() -> (Self, PathBuf) {
        let mut site = Self::empty();
        let control = site.call_through_faults();
        site.prepare();
        (site, control)
    }

    /// Calls the token through `tests/faulting-token`; the file with its commands.
    fn call_through_faults(&mut self) -> PathBuf {
        let control = self.path().join("faults");
        self.module = ours("libfaulting_token.so");
        self.environment
            .push(("FAULTING_TOKEN_MODULE", PathBuf::from(SOFTHSM)));
        self.environment
            .push(("FAULTING_TOKEN_CONTROL", control.clone()));
        self.environment
            .push(("FAULTING_TOKEN_COUNT", self.path().join("token-count")));
        control
    }

    /// Copies the template into a site's directory.
    fn copied(site: Self) -> Self {
        let template = template();
        copy_directory(&template.directory, site.path());
        site.write_configuration(&template.token_serial);
        site
    }

    /// An empty directory with ports.
    fn empty() -> Self {
        // Directly below /tmp: a Unix socket's path has at most 107 bytes.
        let directory = tempfile::Builder::new()
            .prefix("hallmark-it.")
            .tempdir_in("/tmp");
        Self {
            directory: Some(directory.unwrap()),
            api_port: free_port(),
            ops_port: free_port(),
            module: PathBuf::from(SOFTHSM),
            environment: Vec::new(),
        }
    }

    /// A site of its own, ceremony included, whose token is called through OpenSC's `pkcs11-spy`; the file with
    /// the trace.
    pub fn traced() -> (Self, PathBuf) {
        let (site, trace) = Self::traced_before_ceremony();
        run(site.hallmark().args(["ceremony", "run", "ceremony.toml"]));
        (site, trace)
    }

    /// As [`Self::traced`], before its ceremony.
    pub fn traced_before_ceremony() -> (Self, PathBuf) {
        let mut site = Self::empty();
        let trace = site.path().join("trace");
        site.module = [
            "/usr/lib/x86_64-linux-gnu",
            "/usr/lib/aarch64-linux-gnu",
            "/usr/lib",
        ]
        .map(|directory| Path::new(directory).join("pkcs11-spy.so"))
        .into_iter()
        .find(|path| path.exists())
        .expect("pkcs11-spy.so is missing: tests/run.sh installs opensc-pkcs11");
        site.environment.push(("PKCS11SPY", PathBuf::from(SOFTHSM)));
        site.environment.push(("PKCS11SPY_OUTPUT", trace.clone()));
        site.prepare();
        // One session: calls of several would be mixed in the trace.
        site.reconfigure("sessions = 2", "sessions = 1");
        (site, trace)
    }

    /// Makes a second token, which is called with the first one's module, and adds it to the configuration under
    /// this name; its serial number.
    pub fn add_token(&self, name: &str) -> String {
        let beside = self.path().join(name);
        let serial = make_token_labelled(&beside, name);
        for token in std::fs::read_dir(beside.join("tokens")).unwrap() {
            let token = token.unwrap();
            let home = self.path().join("tokens").join(token.file_name());
            std::fs::rename(token.path(), home).unwrap();
        }
        let mut text = std::fs::read_to_string(self.configuration()).unwrap();
        text += &format!(
            "\n[[token]]\nname = \"{name}\"\nmodule = \"{}\"\nuri = \"pkcs11:token={name};serial={serial}\"\n\
             pin_file = \"{name}/pin\"\nsocket = \"{}\"\nsessions = 1\n",
            self.module.display(),
            self.path()
                .join("run")
                .join(format!("{name}.sock"))
                .display(),
        );
        std::fs::write(self.configuration(), text).unwrap();
        serial
    }

    /// A site of its own with a token, a configuration and a ceremony file, before its ceremony.
    pub fn before_ceremony() -> Self {
        let site = Self::empty();
        site.prepare();
        site
    }

    /// Makes a token and runs the real ceremony on it; the token's serial number.
    fn hold_ceremony(&self) -> String {
        let token_serial = self.prepare();
        run(self.hallmark().args(["ceremony", "run", "ceremony.toml"]));
        token_serial
    }

    /// Makes all that a ceremony needs; the token's serial number.
    fn prepare(&self) -> String {
        let token_serial = make_token(self.path());
        self.write_configuration(&token_serial);
        copy_directory(&root().join("profiles"), &self.path().join("profiles"));
        std::fs::create_dir(self.path().join("run")).unwrap();
        let ceremony = fill_in("softhsm/ceremony.toml.in", self, &token_serial);
        std::fs::write(self.path().join("ceremony.toml"), ceremony).unwrap();
        token_serial
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.directory.as_ref().map(TempDir::path).unwrap()
    }

    /// The configuration file.
    pub fn configuration(&self) -> PathBuf {
        self.path().join("hallmark.toml")
    }

    /// The base URL of the API.
    pub fn api(&self) -> String {
        format!("https://127.0.0.1:{}", self.api_port)
    }

    /// The port of the API.
    pub const fn api_port(&self) -> u16 {
        self.api_port
    }

    /// The address of health and metrics.
    pub fn ops(&self) -> String {
        format!("127.0.0.1:{}", self.ops_port)
    }

    /// Changes the configuration: each text is there exactly once and is replaced.
    pub fn reconfigure(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.configuration()).unwrap();
        assert_eq!(text.matches(from).count(), 1, "{from:?} in\n{text}");
        std::fs::write(self.configuration(), text.replace(from, to)).unwrap();
    }

    /// A command of a program with this site's token in its environment.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(ours(program));
        command.current_dir(self.path());
        command.env("SOFTHSM2_CONF", self.path().join("softhsm2.conf"));
        command.envs(self.environment.iter().cloned());
        command
    }

    /// `hallmark --config F ...`
    pub fn hallmark(&self) -> Command {
        let mut command = self.command("hallmark");
        command.arg("--config").arg(self.configuration());
        command
    }

    /// The DER certificate of a CA as it is published.
    pub fn ca(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path().join(format!("public/ca/{name}.cer"))).unwrap()
    }

    /// Keeps the directory, for people to look at after a failure.
    pub fn keep(&mut self) -> PathBuf {
        self.directory.take().map(TempDir::keep).unwrap()
    }

    /// Writes the token's and the appliance's configuration for this directory and these ports.
    fn write_configuration(&self, token_serial: &str) {
        let tokens = self.path().join("tokens");
        let token = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n",
            tokens.display()
        );
        std::fs::write(self.path().join("softhsm2.conf"), token).unwrap();
        let text = fill_in("softhsm/hallmark.toml.in", self, token_serial);
        std::fs::write(self.configuration(), with_urls(&text)).unwrap();
    }
}

/// What a real configuration has and the quickstart's has not: where to ask about each issuer's certificates, at names
/// with a domain as linters want them, also in the server's.
fn with_urls(configuration: &str) -> String {
    let configuration = configuration.replace("\"localhost\"", "\"hallmark.example\"");
    let mut text = String::new();
    let urls = ["crl_url = ", "ocsp_url = ", "ca_url = "];
    let lines = configuration.lines();
    for line in lines.filter(|line| !urls.iter().any(|key| line.starts_with(key))) {
        text += line;
        text.push('\n');
        let key = line
            .strip_prefix("key = ")
            .and_then(|uri| uri.split("object=").nth(1));
        if let Some(name) = key.and_then(|rest| rest.split(';').next()) {
            let base = "http://pki.example";
            text += &format!(
                "crl_url = \"{base}/crl/{name}.crl\"\nca_url = \"{base}/ca/{name}.cer\"\n"
            );
            text += &format!("ocsp_url = \"{base}/ocsp\"\n");
        }
    }
    text
}

/// One of the quickstart's files with its places filled in.
fn fill_in(file: &str, site: &Site, token_serial: &str) -> String {
    let path = site.path();
    let run = path.join("run").display().to_string();
    let uid = rustix::process::getuid().as_raw().to_string();
    let values = [
        ("API_PORT", site.api_port.to_string()),
        ("OPS_PORT", site.ops_port.to_string()),
        ("PUBLIC", "http://pki.example".to_owned()),
        ("RUN", run),
        ("OPERATOR", "operator".to_owned()),
        ("UID", uid),
        ("MODULE", site.module.display().to_string()),
        ("TOKEN_SERIAL", token_serial.to_owned()),
        ("SESSIONS", "2".to_owned()),
    ];
    let text = std::fs::read_to_string(root().join(file)).unwrap();
    let text = values.iter().fold(text, |text, (name, value)| {
        text.replace(&format!("@{name}@"), value)
    });
    assert!(
        !text.contains('@'),
        "{file} has a place that is not filled in:\n{text}"
    );
    text
}

/// The template, made by the first test that needs it: a token, then the real ceremony.
fn template() -> &'static Template {
    static TEMPLATE: OnceLock<Template> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let site = Site::empty();
        let token_serial = site.hold_ceremony();
        for name in ["device-root", "device-1", "access-root", "access"] {
            super::leave_for_lint(&format!("{name}.cer"), &site.ca(name));
            let crl = std::fs::read(site.path().join(format!("public/crl/{name}.crl"))).unwrap();
            super::leave_for_lint(&format!("{name}.crl"), &crl);
        }
        remove_earlier_templates();
        let directory = template_directory(std::process::id());
        copy_directory(site.path(), &directory);
        Template {
            directory,
            token_serial,
        }
    })
}

/// Makes the token `hallmark` with the quickstart's script; its serial number.
pub fn make_token(directory: &Path) -> String {
    make_token_labelled(directory, "hallmark")
}

/// Makes a token with the quickstart's script; its serial number.
fn make_token_labelled(directory: &Path, label: &str) -> String {
    let script = ". softhsm/token.sh; make_token \"$0\" \"$1\"";
    let mut command = Command::new("bash");
    command
        .current_dir(root())
        .args(["-euc", script])
        .arg(directory)
        .arg(label);
    let printed = String::from_utf8(run(&mut command).stdout).unwrap();
    let serial = printed.trim().to_owned();
    assert_eq!(serial.len(), 16, "not a token's serial number: {serial:?}");
    serial
}

/// Where the template of a test process is.
fn template_directory(process: u32) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("template-{process}"))
}

/// Removes templates of test processes that have ended: a static is never dropped.
fn remove_earlier_templates() {
    for entry in std::fs::read_dir(env!("CARGO_TARGET_TMPDIR")).unwrap() {
        let path = entry.unwrap().path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let process = name.strip_prefix("template-");
        let alive = process.is_some_and(|id| Path::new("/proc").join(id).exists());
        if process.is_some() && !alive {
            // Another test process may remove it at the same time.
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

/// Copies a directory with everything below it, but for sockets and the configuration of the copy's origin.
fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let permissions = std::fs::metadata(from).unwrap().permissions();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        let target = to.join(entry.file_name());
        if kind.is_dir() {
            copy_directory(&entry.path(), &target);
        } else if kind.is_file() {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
    std::fs::set_permissions(to, permissions).unwrap();
}

/// A TCP port on loopback that nobody has, below those that the system gives to outgoing connections.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes that run side by side begin at different places.
    let start = u16::try_from(std::process::id() % 180).unwrap() * 100;
    loop {
        let port = 12_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 18_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
