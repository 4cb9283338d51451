//! A published log with issuers by OpenSSL, and the responder that follows it.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use certstatus::crl::{CrlFields, LogAnchor, RevokedEntry, Scope, TbsCrl};
use certstatus::log::{DetailHash, EntryKind, IssuerName, Outcome};
use certstatus::signature::{KeyKind, PublicKey, SignatureAlgorithm, assemble};
use certstatus::{RevocationReason, SerialNumber, UnixMillis, durable};
use der::{Decode as _, Encode as _};
use x509_cert::Certificate;
use x509_cert::ext::pkix::SubjectKeyIdentifier;

use super::made::MadeLog;

/// An outcome of issuing.
pub const ISSUED: Outcome = Outcome::Issued { attempts: 1 };
/// The options of an EC key.
pub const EC: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";
/// The options of an RSA key.
pub const RSA: &str = "-algorithm RSA -pkeyopt rsa_keygen_bits:2048";
/// How long a test waits for what has to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// The time now.
#[expect(
    clippy::disallowed_methods,
    reason = "OpenSSL and the responder under test read the clock"
)]
pub fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(since.unwrap().as_millis()).unwrap()
}

/// Waits until something is so.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// The `n`th serial of all tests.
pub fn serial(n: u64) -> SerialNumber {
    super::made::serial(77, n)
}

/// Runs OpenSSL in a directory; its standard output and standard error.
#[track_caller]
pub fn openssl(directory: &Path, line: &str) -> (String, Vec<u8>) {
    let output = Command::new("openssl")
        .args(line.split_whitespace())
        .current_dir(directory)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success(),
        "openssl {line}: {told}{}",
        String::from_utf8_lossy(&output.stdout)
    );
    (told, output.stdout)
}

/// A log with issuers and a place for a responder.
pub struct Site {
    base: tempfile::TempDir,
    pub log: MadeLog,
}

impl Site {
    /// A log of this origin with these issuers, whose keys are made with these options; its newest entry is now.
    pub fn new(origin: &str, issuers: &[(&str, &str)]) -> Self {
        Self::at(origin, issuers, now())
    }

    /// The same at another time.
    pub fn at(origin: &str, issuers: &[(&str, &str)], time: u64) -> Self {
        let base = tempfile::tempdir().unwrap();
        let seed = DetailHash::of(origin.as_bytes()).0;
        let log = MadeLog::new(&base.path().join("public"), origin, seed, time).unwrap();
        let mut site = Self { base, log };
        for (name, options) in issuers {
            site.issuer(name, options);
        }
        site.publish();
        for (name, _) in issuers {
            // As the ceremony does: so the issuer's key vouches for the log.
            let first = site.crl(name, 1, &[]);
            site.put(&format!("crl/{name}.crl"), &first);
        }
        site
    }

    /// Makes an issuer and binds it.
    fn issuer(&mut self, name: &str, options: &str) {
        self.openssl(&format!("genpkey {options} -out {name}.key"));
        self.write("ca.cnf", b"[req]\ndistinguished_name=dn\nx509_extensions=ca\n[dn]\n[ca]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n");
        self.openssl(&format!("req -config ca.cnf -x509 -new -key {name}.key -subj /O=Example/CN={name} -days 3650 -out {name}.pem"));
        let der = self.openssl(&format!("x509 -in {name}.pem -outform DER"));
        self.bind(name, &der);
    }

    /// Publishes an issuer's certificate and has the log name it.
    pub fn bind(&mut self, name: &str, der: &[u8]) {
        durable::write(&self.public().join(format!("ca/{name}.cer")), der).unwrap();
        let certificate = Certificate::from_der(der).unwrap();
        let spki = certificate
            .tbs_certificate()
            .subject_public_key_info()
            .to_der()
            .unwrap();
        let entry = EntryKind::Issuer {
            issuer: issuer(name),
            spki: DetailHash::of(&spki).0,
            certificate: DetailHash::of(der).0,
        };
        self.log.push(entry).unwrap();
    }

    pub fn path(&self) -> &Path {
        self.base.path()
    }

    pub fn public(&self) -> PathBuf {
        self.base.path().join("public")
    }

    pub fn write(&self, name: &str, contents: &[u8]) {
        std::fs::write(self.base.path().join(name), contents).unwrap();
    }

    #[track_caller]
    pub fn openssl(&self, line: &str) -> Vec<u8> {
        openssl(self.path(), line).1
    }

    /// Issues a certificate.
    pub fn issue(&mut self, name: &str, n: u64) {
        self.log
            .certificate(&issuer(name), serial(n), ISSUED)
            .unwrap();
    }

    /// Revokes a certificate.
    pub fn revoke(&mut self, name: &str, n: u64) {
        self.log
            .revoke(&issuer(name), serial(n), RevocationReason::KeyCompromise)
            .unwrap();
    }

    /// Publishes what was appended.
    pub fn publish(&mut self) {
        self.log.publish().unwrap();
    }

    /// A tick at this time, published.
    pub fn tick(&mut self, time: u64) {
        self.log.time = self.log.time.max(time);
        self.log.push(EntryKind::Tick).unwrap();
        self.publish();
    }

    /// The part of a configuration that is for this log.
    pub fn log_config(&self, name: &str, more: &str) -> String {
        format!(
            "[[log]]\nname = \"{name}\"\nsource = {:?}\nlog_key = \"{}\"\nstate_dir = {:?}\nresponder = \"ocsp-1\"\npoll = \"20ms\"\n{more}\n",
            self.public(),
            self.log.key(),
            self.base.path().join("state"),
        )
    }

    /// Writes a configuration for this log alone.
    pub fn config(&self, listen: &str, ocsp: &str, log: &str) -> PathBuf {
        let text = format!("{}{}", head(listen, ocsp), self.log_config("a", log));
        let path = self.base.path().join("ocsp.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Certifies the responder's key for an issuer, from its configuration's `key` command.
    pub fn approve(&self, config: &Path, name: &str) {
        let key = self.responder_key(config);
        self.certify(
            name,
            &key,
            "extendedKeyUsage=OCSPSigning\nnoCheck=ignored\nkeyUsage=critical,digitalSignature\n",
            name,
        );
    }

    /// The responder's public key, PEM.
    pub fn responder_key(&self, config: &Path) -> Vec<u8> {
        let output = hallmark_ocsp(config).arg("key").output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    }

    /// Has issuer `by` certify a public key with these extensions, and publishes it for the issuer `name`.
    pub fn certify(&self, by: &str, key: &[u8], extensions: &str, name: &str) {
        self.write("responder.ext", extensions.as_bytes());
        self.write("responder.pub", key);
        self.openssl(&format!("genpkey {EC} -out throwaway.key"));
        self.openssl("req -new -key throwaway.key -subj /O=Example/CN=ocsp-1 -out responder.csr");
        let number = now();
        let der = self.openssl(&format!(
            "x509 -req -in responder.csr -force_pubkey responder.pub -CA {by}.pem -CAkey {by}.key -days 3 -set_serial {number} -extfile responder.ext -outform DER"
        ));
        durable::write(
            &self.public().join(format!("responders/ocsp-1/{name}.cer")),
            &der,
        )
        .unwrap();
    }

    /// The newest head, signed.
    pub fn note(&self) -> String {
        self.log.sign(&self.log.head()).unwrap()
    }

    /// A CRL of issuer `by`, signed, logged, and its entries published.
    pub fn crl(&mut self, by: &str, number: u64, revoked: &[u64]) -> Vec<u8> {
        let made = self.crl_with(by, number, revoked, &self.note());
        self.log_crl(by, number, 0);
        made
    }

    /// The same of a partition.
    pub fn partition_crl(
        &mut self,
        by: &str,
        number: u64,
        partition: u32,
        revoked: &[u64],
    ) -> Vec<u8> {
        let scope = Scope::Partition(format!("http://crl.example/{by}/{partition}.crl"));
        let made = self.crl_of(by, number, revoked, scope, &self.note());
        self.log_crl(by, number, partition);
        made
    }

    /// Logs and publishes that a CRL was issued.
    pub fn log_crl(&mut self, by: &str, number: u64, partition: u32) {
        self.log
            .crl(&issuer(by), number, partition, ISSUED)
            .unwrap();
        self.publish();
    }

    /// A full CRL of issuer `by` with this checkpoint in it, signed and not logged.
    pub fn crl_with(&self, by: &str, number: u64, revoked: &[u64], checkpoint: &str) -> Vec<u8> {
        self.crl_of(by, number, revoked, Scope::UserCertificates, checkpoint)
    }

    /// A CRL of issuer `by` that covers this, signed and not logged.
    fn crl_of(
        &self,
        by: &str,
        number: u64,
        revoked: &[u64],
        scope: Scope,
        checkpoint: &str,
    ) -> Vec<u8> {
        let der = self.openssl(&format!("x509 -in {by}.pem -outform DER"));
        let certificate = Certificate::from_der(&der).unwrap();
        let tbs = certificate.tbs_certificate();
        let name = tbs.subject().to_der().unwrap();
        let (_, key_id): (bool, SubjectKeyIdentifier) = tbs.get_extension().unwrap().unwrap();
        let spki = PublicKey::parse(&tbs.subject_public_key_info().to_der().unwrap()).unwrap();
        let algorithm = SignatureAlgorithm::for_key(spki.kind());
        assert!(
            matches!(spki.kind(), KeyKind::P256 | KeyKind::Rsa(_)),
            "signed with SHA-256 below"
        );
        let log_key = self.log.key().to_string();
        let fields = CrlFields {
            issuer: &name,
            authority_key_id: key_id.0.as_bytes(),
            algorithm,
            number,
            this_update: UnixMillis(now()),
            next_update: UnixMillis(now() + 7 * 86_400_000),
            scope,
            expired_since: None,
            anchor: LogAnchor {
                origin: self.log.key().name(),
                log_key: &log_key,
                checkpoint,
            },
        };
        let entries: Vec<RevokedEntry> = revoked
            .iter()
            .map(|n| RevokedEntry {
                serial: serial(*n),
                revoked_at: UnixMillis(now()),
                reason: Some(1),
            })
            .collect();
        let tbs = TbsCrl::encode(&fields, &entries);
        self.write("crl.tbs", tbs.der());
        let signature = self.openssl(&format!("dgst -sha256 -sign {by}.key crl.tbs"));
        assemble(tbs.der(), algorithm, &signature)
    }

    /// Publishes a file.
    pub fn put(&self, path: &str, octets: &[u8]) {
        durable::write(&self.public().join(path), octets).unwrap();
    }

    /// What `openssl ocsp` says of a serial.
    pub fn ask(&self, url: &str, name: &str, serial: &str, more: &str) -> String {
        let line = format!(
            "ocsp -issuer {name}.pem {more} -serial 0x{serial} -url {url} -CAfile {name}.pem"
        );
        let output = Command::new("openssl")
            .args(line.split_whitespace())
            .current_dir(self.path())
            .output()
            .unwrap();
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    }
}

/// The head of a configuration.
pub fn head(listen: &str, ocsp: &str) -> String {
    format!(
        "version = 1\n[listen]\nhttp = [\"127.0.0.1:0\"]\nops = \"127.0.0.1:0\"\n{listen}\n[ocsp]\nkey_file = \"ocsp.key\"\n{ocsp}\n[witness]\nname = \"ocsp.example/1\"\nkey_file = \"witness.key\"\n"
    )
}

/// An issuer's name.
pub fn issuer(name: &str) -> IssuerName {
    name.parse().unwrap()
}

/// The program with a configuration.
pub fn hallmark_ocsp(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hallmark-ocsp"));
    command.arg("--config").arg(config);
    command
}

/// A running responder; killed when it is dropped.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    told: Vec<String>,
    pub address: SocketAddr,
    pub ops: SocketAddr,
}

impl Running {
    /// Starts the program and waits until it listens.
    pub fn start(config: &Path) -> Self {
        let mut child = hallmark_ocsp(config)
            .arg("run")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            stderr
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| send.send(line))
        });
        let nowhere: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut running = Self {
            child,
            lines,
            told: Vec::new(),
            address: nowhere,
            ops: nowhere,
        };
        running.address = running.wait_for("listening address=").parse().unwrap();
        running.ops = running.wait_for("health and metrics ops=").parse().unwrap();
        running
    }

    /// Waits for a line with this text; what follows it.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line =
                line.unwrap_or_else(|_| panic!("{text:?} was not told, only: {:#?}", self.told));
            self.told.push(line.clone());
            if let Some((_, rest)) = line.split_once(text) {
                return rest.to_owned();
            }
        }
    }

    /// Everything that was told so far.
    pub fn told(&mut self) -> String {
        self.told.extend(self.lines.try_iter());
        self.told.join("\n")
    }

    /// The URL of OCSP.
    pub fn url(&self) -> String {
        format!("http://{}/ocsp", self.address)
    }

    /// Waits until it is ready.
    #[track_caller]
    pub fn ready(&self) {
        until("ready", || get(self.ops, "/readyz").status == 200);
    }

    /// A metric's value.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let text = String::from_utf8(get(self.ops, "/metrics").body).unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with(name) && !line.starts_with('#'))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// Sends SIGTERM and waits for the end.
    pub fn stop(mut self) -> std::process::ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.child.wait().unwrap()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Holds it, so that it sees nothing half changed.
    pub fn hold(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    /// Its memory in KiB.
    pub fn memory(&self) -> u64 {
        self.proc_status("VmRSS:")
    }

    /// The most memory that it ever had, in KiB.
    pub fn memory_peak(&self) -> u64 {
        self.proc_status("VmHWM:")
    }

    /// A number of its status.
    fn proc_status(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// Reads what came on a connection.
    pub fn parse(octets: &[u8]) -> Self {
        let end = octets
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap_or_else(|| panic!("not HTTP: {octets:?}"));
        let head = String::from_utf8(octets[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self {
            status,
            head,
            body: octets[end + 4..].to_vec(),
        }
    }
}

/// A connection from another address of this machine.
pub fn connect_from(from: std::net::Ipv4Addr, address: SocketAddr) -> std::net::TcpStream {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
    bind(&socket, &SocketAddr::from((from, 0))).unwrap();
    connect(&socket, &address).unwrap();
    socket.into()
}

/// Sends octets on a connection of their own and reads until its end.
pub fn exchange(address: SocketAddr, octets: &[u8]) -> Vec<u8> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(octets).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// Sends a request with these header lines.
pub fn send(address: SocketAddr, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    Answer::parse(&exchange(address, &[head.as_bytes(), body].concat()))
}

/// GET.
pub fn get(address: SocketAddr, path: &str) -> Answer {
    send(address, "GET", path, "", b"")
}
