//! A running appliance: `hallmark run` with its token host, an operator's commands, and lines' connections.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use serde_json::Value;

use super::client::{Api, Call, ClientError, Connection, Identity, Reply};
use super::device::{Device, der};
use super::program::run;
use super::site::Site;

/// How long a start, a stop or any other single thing may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A site whose appliance runs, or ran.
pub struct Appliance {
    /// The directory, ports and configuration.
    pub site: Site,
    /// Certificates (DER, leaf) that lines received.
    pub received: Vec<Vec<u8>>,
    process: Option<Child>,
    /// The token host, where it is a process of its own beside the daemon.
    host: Option<Child>,
    /// More options of `run` and `serve`.
    options: &'static [&'static str],
}

/// A line's certificate and key, as files.
#[derive(Clone)]
pub struct LineIdentity {
    /// The line's name.
    pub name: String,
    /// PEM, leaf first.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// The terms of an order that a test opens.
pub struct OrderTerms<'a> {
    /// The name.
    pub name: &'a str,
    /// The lines that may use it.
    pub lines: &'a [&'a LineIdentity],
    /// Units.
    pub quantity: u64,
    /// More options of `order open`.
    pub more: &'a [&'a str],
}

impl Appliance {
    /// Starts the appliance of a site and waits until it is ready.
    pub fn start(site: Site) -> Self {
        let mut appliance = Self::stopped(site);
        appliance.start_again();
        appliance
    }

    /// The appliance of a site, not started yet.
    pub const fn stopped(site: Site) -> Self {
        Self {
            site,
            received: Vec::new(),
            process: None,
            host: None,
            options: &[],
        }
    }

    /// Has the daemon log in JSON from its next start on.
    pub const fn log_json(&mut self) {
        self.options = &["--json"];
    }

    /// Has `run` and `serve` take these options from the next start on.
    pub const fn set_options(&mut self, options: &'static [&'static str]) {
        self.options = options;
    }

    /// What the daemon and its token host have logged.
    pub fn logged(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Starts it after it was stopped or killed, and waits until it is ready.
    pub fn start_again(&mut self) {
        self.spawn();
        self.wait_until_ready();
    }

    /// Starts the processes, without waiting.
    pub fn spawn(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let mut command = self.site.hallmark();
        command.arg("run").args(self.options);
        self.process = Some(self.spawn_logged(&mut command));
    }

    /// Starts the token host alone, as a service of its own, without waiting.
    pub fn spawn_host(&mut self) {
        assert!(self.host.is_none(), "it runs already");
        let mut command = self.site.command("hallmark-token");
        command
            .arg("soft")
            .arg("--config")
            .arg(self.site.configuration());
        self.host = Some(self.spawn_logged(&mut command));
    }

    /// Starts the daemon alone, with more in its environment, without waiting.
    pub fn spawn_daemon(&mut self, environment: &[(&str, PathBuf)]) {
        assert!(self.process.is_none(), "it runs already");
        let mut command = self.site.hallmark();
        command
            .arg("serve")
            .args(self.options)
            .envs(environment.iter().cloned());
        self.process = Some(self.spawn_logged(&mut command));
    }

    /// Starts a process whose messages go to the appliance's log.
    fn spawn_logged(&self, command: &mut Command) -> Child {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        command.spawn().unwrap()
    }

    /// The daemon's process id.
    pub fn daemon_id(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// The token host's process id, where it is a service of its own.
    pub fn host_id(&self) -> u32 {
        self.host.as_ref().unwrap().id()
    }

    /// Sends the daemon a signal.
    pub fn signal_daemon(&self, sent: rustix::process::Signal) {
        signal(self.process.as_ref().unwrap(), sent);
    }

    /// Whether the daemon has ended; it can be started again then.
    pub fn daemon_ended(&mut self) -> bool {
        ended(&mut self.process)
    }

    /// Whether the token host has ended; it can be started again then.
    pub fn host_ended(&mut self) -> bool {
        ended(&mut self.host)
    }

    /// Asks the token host to end, and waits until it has.
    pub fn stop_host(&mut self) {
        if let Some(host) = self.host.take() {
            end(host, "the token host");
        }
    }

    /// Kills the token host; its worker dies with it.
    pub fn kill_host(&mut self) {
        let mut host = self.host.take().unwrap();
        host.kill().unwrap();
        host.wait().unwrap();
    }

    /// Waits until `/readyz` says so and every issuer is loaded.
    ///
    /// # Panics
    /// When the daemon ends or the time is over.
    pub fn wait_until_ready(&mut self) {
        self.wait("ready", |appliance| {
            let process = appliance.process.as_mut().unwrap();
            if let Some(status) = process.try_wait().unwrap() {
                panic!("the appliance ended: {status}");
            }
            appliance.is_ready() && appliance.issuers_are_usable()
        });
    }

    /// Whether every issuer of the configuration is loaded and its token is there.
    fn issuers_are_usable(&self) -> bool {
        let configured = std::fs::read_to_string(self.site.configuration()).unwrap();
        let configured = configured.matches("[[issuer]]").count();
        let told = self.json(&["status"]);
        let issuers = told["issuers"].as_array().unwrap();
        issuers.len() == configured && issuers.iter().all(|issuer| issuer["usable"] == true)
    }

    /// Whether `/readyz` says that a device certificate could be issued now.
    pub fn is_ready(&self) -> bool {
        let url = format!("http://{}/readyz", self.site.ops());
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", "--max-time", "5"]);
        curl.args(["--output", "/dev/null", &url]);
        curl.status().unwrap().success()
    }

    /// Looks until something holds.
    ///
    /// # Panics
    /// When it does not within [`PATIENCE`].
    pub fn wait(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let ends = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < ends, "not {what} after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The processes of the appliance whose arguments contain all of these words, such as a token's worker.
    pub fn processes_with(&self, words: &[&str]) -> Vec<u32> {
        let all = descendants(self.process.as_ref().unwrap().id());
        let named = |id: &u32| {
            let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            words
                .iter()
                .all(|word| line.split('\0').any(|part| part.ends_with(word)))
        };
        all.into_iter().filter(named).collect()
    }

    /// Kills one of the appliance's processes.
    pub fn kill_process(&self, id: u32) {
        kill_if_ours(id, self.site.path());
    }

    /// Asks for this device's certificate until there is one, as a line does.
    pub async fn ask_until_issued(&mut self, line: &LineIdentity, device: &Device) -> Reply {
        let ends = Instant::now() + PATIENCE;
        loop {
            let reply = self.ask_anew(line, "demo", &device.request()).await;
            if reply.status != StatusCode::SERVICE_UNAVAILABLE {
                return reply;
            }
            assert!(reply.headers.contains_key("retry-after"), "{reply:?}");
            assert!(Instant::now() < ends, "still {reply:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The line client's command for the order `demo`.
    pub fn line_client(&self, line: &LineIdentity, more: &[&str]) -> Command {
        self.api(Some(line));
        let mut command = self.site.command("examples/line");
        command.args([
            "--api",
            &self.site.api(),
            "--ca",
            "server-ca.pem",
            "--order",
            "demo",
            "--json",
        ]);
        command
            .arg("--cert")
            .arg(&line.certificate)
            .arg("--key")
            .arg(&line.key)
            .args(more);
        command
    }

    /// Asks the appliance to end, and waits until it has.
    pub fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            end(process, "the appliance");
        }
        self.stop_host();
    }

    /// Kills every process of the appliance at once, as a power cut would.
    pub fn kill(&mut self) {
        for mut process in [self.process.take(), self.host.take()]
            .into_iter()
            .flatten()
        {
            let family = descendants(process.id());
            let _ = process.kill();
            process.wait().unwrap();
            for id in family {
                kill_if_ours(id, self.site.path());
            }
        }
    }

    /// Where the daemon's own messages go.
    fn log_path(&self) -> PathBuf {
        self.site.path().join("hallmark.log")
    }

    /// Runs an operator's command and returns whatever came of it.
    pub fn try_command(&self, words: &[&str]) -> Output {
        self.site.hallmark().args(words).output().unwrap()
    }

    /// Runs an operator's command, which must succeed.
    pub fn command(&self, words: &[&str]) -> String {
        let output = run(self.site.hallmark().args(words));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs an operator's command with `--json`.
    pub fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.command(&[words, &["--json"]].concat())).unwrap()
    }

    /// Enrols a line with a key of its own.
    pub fn line(&self, name: &str) -> LineIdentity {
        let device = Device::new(self.site.path(), name);
        let request = self.site.path().join(format!("{name}.csr"));
        std::fs::write(&request, device.request()).unwrap();
        let pem = self.command(&["line", "add", name, "--csr", request.to_str().unwrap()]);
        let certificate = self.site.path().join(format!("{name}.pem"));
        std::fs::write(&certificate, pem).unwrap();
        LineIdentity {
            name: name.to_owned(),
            certificate,
            key: device.key_path(),
        }
    }

    /// Opens an order of issuer `device-1`, of profile `mqtt-device` and any plain device id if not told otherwise.
    pub fn order(&self, terms: &OrderTerms<'_>) {
        let quantity = terms.quantity.to_string();
        let mut words = vec!["order", "open", terms.name];
        words.extend(["--issuer", "device-1", "--quantity", &quantity]);
        for line in terms.lines {
            words.extend(["--line", &line.name]);
        }
        if !terms.more.contains(&"--profile") {
            words.extend(["--profile", "mqtt-device"]);
        }
        if !terms.more.contains(&"--device-id") {
            words.extend(["--device-id", "[A-Za-z0-9-]+"]);
        }
        words.extend(terms.more);
        self.command(&words);
    }

    /// A line `line-1` and an order `demo` of so many units for it.
    pub fn line_and_order(&self, quantity: u64) -> LineIdentity {
        let line = self.line("line-1");
        self.order(&OrderTerms {
            name: "demo",
            lines: &[&line],
            quantity,
            more: &[],
        });
        line
    }

    /// What connections to the API need, with or without a line's certificate.
    pub fn api(&self, line: Option<&LineIdentity>) -> Api {
        let ca = self.site.path().join("server-ca.pem");
        std::fs::write(&ca, pem(&self.site.ca("access-root"))).unwrap();
        let identity = line.map(|line| Identity {
            certificate: &line.certificate,
            key: &line.key,
        });
        Api::new(&self.site.api(), &ca, identity).unwrap()
    }

    /// Opens a connection with a line's certificate.
    pub async fn connect(&self, line: &LineIdentity) -> Connection {
        Connection::open(&self.api(Some(line))).await.unwrap()
    }

    /// Sends a request for a certificate under an order and notes what comes back.
    pub async fn ask(&mut self, connection: &mut Connection, order: &str, csr: &[u8]) -> Reply {
        let path = format!("/v1/orders/{order}/certificates");
        let reply = post(connection, &path, csr).await;
        if reply.status.is_success() {
            self.received.push(der(&reply.body));
        }
        reply
    }

    /// Connects, asks for a certificate under an order, and returns the answer.
    pub async fn ask_anew(&mut self, line: &LineIdentity, order: &str, csr: &[u8]) -> Reply {
        let mut connection = self.connect(line).await;
        self.ask(&mut connection, order, csr).await
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.logged();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines
                .get(lines.len().saturating_sub(40)..)
                .unwrap_or_default();
            eprintln!("the end of the appliance's log:\n{}", tail.join("\n"));
            eprintln!("everything is kept in {}", self.site.keep().display());
        }
    }
}

/// Posts a body to a path and takes what comes.
pub async fn post(connection: &mut Connection, path: &str, body: &[u8]) -> Reply {
    try_post(connection, path, body).await.unwrap()
}

/// Posts a body to a path, where the connection may break.
///
/// # Errors
/// [`ClientError`]: there is no answer.
pub async fn try_post(
    connection: &mut Connection,
    path: &str,
    body: &[u8],
) -> Result<Reply, ClientError> {
    let call = Call {
        method: Method::POST,
        path,
        content_type: "application/pkcs10",
        accept: "*/*",
        body: Bytes::copy_from_slice(body),
    };
    connection.send(call).await
}

/// A DER certificate as PEM.
pub fn pem(certificate: &[u8]) -> String {
    use base64ct::Encoding as _;
    let body = base64ct::Base64::encode_string(certificate);
    let lines: Vec<&str> = body
        .as_bytes()
        .chunks(64)
        .map(|l| str::from_utf8(l).unwrap())
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}

/// Asks a process to end, and waits until it has.
fn end(mut process: Child, what: &str) {
    signal(&process, rustix::process::Signal::TERM);
    let ends = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = process.try_wait().unwrap() {
            assert!(status.success(), "{what} ended with {status}");
            return;
        }
        if Instant::now() >= ends {
            let _ = process.kill();
            panic!("{what} does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process has ended; if so it is forgotten.
fn ended(process: &mut Option<Child>) -> bool {
    let over = process
        .as_mut()
        .is_some_and(|process| process.try_wait().unwrap().is_some());
    if over {
        *process = None;
    }
    over
}

/// Sends a signal to a child that was not waited for, so that its id is still its own.
fn signal(process: &Child, signal: rustix::process::Signal) {
    let id = rustix::process::Pid::from_child(process);
    rustix::process::kill_process(id, signal).unwrap();
}

/// All processes below one.
fn descendants(ancestor: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut pending = vec![ancestor];
    while let Some(parent) = pending.pop() {
        let tasks = format!("/proc/{parent}/task");
        for task in std::fs::read_dir(tasks).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children"));
            let ids = children.unwrap_or_default();
            let ids: Vec<u32> = ids
                .split_whitespace()
                .filter_map(|id| id.parse().ok())
                .collect();
            pending.extend(&ids);
            found.extend(ids);
        }
    }
    found
}

/// Kills a process whose arguments or environment name the site's directory: an id alone may be a stranger's.
fn kill_if_ours(id: u32, directory: &Path) {
    let directory = directory.as_os_str().as_encoded_bytes();
    let mentions = |file: &str| {
        let contents = std::fs::read(format!("/proc/{id}/{file}")).unwrap_or_default();
        contents
            .windows(directory.len())
            .any(|window| window == directory)
    };
    let pid = i32::try_from(id)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid.filter(|_| mentions("cmdline") || mentions("environ")) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}
