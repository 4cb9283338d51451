//! Servers that ask OCSP about their clients' certificates: nginx, and stunnel in front of Mosquitto. Each is a process of
//! the test's own, on loopback.

use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::place::Leaf;
use crate::harness::appliance::PATIENCE;
use crate::harness::program::openssl;
use crate::harness::site::free_port;

/// A file with a client's TLS session.
#[derive(Clone, Copy, Debug)]
pub enum Session<'a> {
    /// It is a new one, and kept there.
    Kept(&'a str),
    /// It is resumed from there.
    Resumed(&'a str),
}

/// Servers; they end with the test.
pub struct Servers {
    site: PathBuf,
    processes: Vec<Child>,
    /// nginx that asks the responder that the client's certificate names.
    pub nginx: u16,
    /// nginx that asks the responder that it was told of.
    pub nginx_told: u16,
    /// stunnel in front of Mosquitto.
    stunnel: u16,
    /// Mosquitto without TLS.
    mosquitto: u16,
}

impl Servers {
    /// Starts them; `responder` is the URL of the one that nginx is told of.
    pub fn start(site: &Path, responder: &str) -> Self {
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
        let name = ["-subj", "/CN=localhost", "-addext"];
        let names = ["subjectAltName=DNS:localhost,IP:127.0.0.1"];
        let files = ["-nodes", "-keyout", "server.key", "-out", "server.crt"];
        let words = [&["req", "-x509"][..], &key, &name, &names, &files].concat();
        openssl(site, &words);
        let mut servers = Self {
            site: site.to_owned(),
            processes: Vec::new(),
            nginx: free_port(),
            nginx_told: free_port(),
            stunnel: free_port(),
            mosquitto: free_port(),
        };
        servers.start_nginx(responder);
        servers.start_stunnel();
        servers.start_mosquitto();
        for port in [
            servers.nginx,
            servers.nginx_told,
            servers.stunnel,
            servers.mosquitto,
        ] {
            let ends = Instant::now() + PATIENCE;
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                assert!(Instant::now() < ends, "nothing listens: {}", servers.said());
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
        servers
    }

    /// Starts a program of the system with its configuration; what it says goes to `NAME.log`.
    fn spawn(&mut self, program: &str, name: &str, configuration: &str, words: &[&str]) {
        std::fs::write(self.site.join(format!("{name}.conf")), configuration).unwrap();
        let log = std::fs::File::create(self.site.join(format!("{name}.log"))).unwrap();
        let mut command = Command::new(program);
        command.current_dir(&self.site).args(words);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let process = command.spawn().unwrap_or_else(|error| {
            panic!("{program} cannot be run: {error}: tests/run.sh installs what is missing")
        });
        self.processes.push(process);
    }

    /// `ssl_ocsp leaf`: the issuer's certificate names no responder, and `on` would refuse every client for that. The
    /// issuer is trusted beside the root: nginx judges a resumed session's certificate anew, without the chain that
    /// the client sent.
    fn start_nginx(&mut self, responder: &str) {
        let site = self.site.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|what| format!("  {what}_temp_path {site}/nginx-{what};\n"))
            .concat();
        let server = |port: u16, more: &str| {
            format!(
                "  server {{\n    listen 127.0.0.1:{port} ssl;\n    ssl_certificate {site}/server.crt;\n    \
                 ssl_certificate_key {site}/server.key;\n    ssl_client_certificate {site}/device-1-chain.pem;\n    \
                 ssl_verify_client on;\n    ssl_verify_depth 2;\n    ssl_ocsp leaf;\n{more}    \
                 location / {{ return 200 \"welcome\"; }}\n  }}\n"
            )
        };
        let told = format!("    ssl_ocsp_responder {responder};\n");
        let configuration = format!(
            "daemon off;\nmaster_process off;\npid {site}/nginx.pid;\nerror_log stderr info;\nevents {{}}\n\
             http {{\n  access_log off;\n{temporary}{}{}}}\n",
            server(self.nginx, ""),
            server(self.nginx_told, &told),
        );
        let (file, prefix) = (format!("{site}/nginx.conf"), site.to_string());
        let words = ["-c", &file, "-p", &prefix, "-e", "stderr"];
        self.spawn("/usr/sbin/nginx", "nginx", &configuration, &words);
    }

    /// `OCSPaia`: each certificate's own responder is asked, where it names one. Without `sessionResume = no` a client
    /// that resumes a session is let in without a question.
    fn start_stunnel(&mut self) {
        let configuration = format!(
            "foreground = yes\npid =\nsyslog = no\ndebug = info\n[mqtt]\naccept = 127.0.0.1:{}\n\
             connect = 127.0.0.1:{}\ncert = server.crt\nkey = server.key\nCAfile = device-root.pem\n\
             verifyChain = yes\nOCSPaia = yes\nsessionResume = no\n",
            self.stunnel, self.mosquitto
        );
        self.spawn("stunnel", "stunnel", &configuration, &["stunnel.conf"]);
    }

    /// Without TLS, for stunnel alone.
    fn start_mosquitto(&mut self) {
        let configuration = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\npersistence false\nlog_dest stderr\n",
            self.mosquitto
        );
        let words = ["-c", "mosquitto.conf"];
        self.spawn("/usr/sbin/mosquitto", "mosquitto", &configuration, &words);
    }

    /// What nginx answers to a client with this certificate: the HTTP status.
    pub fn http_status(&self, port: u16, leaf: &Leaf) -> String {
        let mut curl = Command::new("curl");
        curl.current_dir(&self.site);
        curl.args(["--silent", "--output", "/dev/null", "--write-out"]);
        curl.args(["%{http_code}", "--cacert", "server.crt", "--max-time", "30"]);
        curl.args(["--cert", &leaf.chain, "--key"])
            .arg(leaf.key.as_ref().unwrap());
        let output = curl
            .arg(format!("https://localhost:{port}/"))
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Whether a device with this certificate can publish: its message then is at the broker.
    pub fn publishes(&self, leaf: &Leaf, text: &str) -> bool {
        let port = self.stunnel.to_string();
        let mut publish = Command::new("timeout");
        publish.current_dir(&self.site);
        publish.args([
            "20",
            "mosquitto_pub",
            "--host",
            "localhost",
            "--port",
            &port,
        ]);
        publish.args(["--cafile", "server.crt", "--cert", &leaf.chain, "--key"]);
        publish.arg(leaf.key.as_ref().unwrap());
        publish.args([
            "--qos",
            "1",
            "--retain",
            "--topic",
            &leaf.serial,
            "--message",
            text,
        ]);
        let output = publish.output().unwrap();
        let arrived = self.retained(&leaf.serial) == text;
        assert_eq!(output.status.success(), arrived, "{output:?}");
        arrived
    }

    /// Whether a device gets a page of nginx in a TLS session of its own, which it keeps as, or has from, a file.
    pub fn gets_page_in(&self, session: Session<'_>, leaf: &Leaf) -> bool {
        let page = self.exchange(self.nginx, session, leaf, b"GET / HTTP/1.0\r\n\r\n");
        String::from_utf8_lossy(&page).starts_with("HTTP/1.1 200")
    }

    /// Whether a device can connect to the broker in such a session.
    pub fn connects_in(&self, session: Session<'_>, leaf: &Leaf) -> bool {
        // CONNECT of version 3.1.1 with a clean session, a keep-alive of 60 s and no client id; DISCONNECT.
        let packets = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00\xe0\x00";
        // CONNACK: accepted.
        self.exchange(self.stunnel, session, leaf, packets) == b"\x20\x02\x00\x00"
    }

    /// Sends something over TLS, and what comes until the server ends it.
    fn exchange(&self, port: u16, session: Session<'_>, leaf: &Leaf, sent: &[u8]) -> Vec<u8> {
        let (option, file) = match session {
            Session::Kept(file) => ("-sess_out", file),
            Session::Resumed(file) => ("-sess_in", file),
        };
        let mut client = Command::new("timeout");
        client
            .current_dir(&self.site)
            .args(["20", "openssl", "s_client"]);
        // In TLS 1.3 a session is there some time after the handshake.
        client.args(["-quiet", "-tls1_2", "-CAfile", "server.crt", option, file]);
        client.args(["-connect", &format!("localhost:{port}")]);
        client.args([
            "-cert",
            &leaf.file,
            "-cert_chain",
            &format!("{}.pem", leaf.issuer),
        ]);
        client.arg("-key").arg(leaf.key.as_ref().unwrap());
        client
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut running = client.spawn().unwrap();
        // The server may have ended it before all is written.
        let _ = running.stdin.as_mut().unwrap().write_all(sent);
        running.wait_with_output().unwrap().stdout
    }

    /// The last message of a topic.
    fn retained(&self, topic: &str) -> String {
        let port = self.mosquitto.to_string();
        let mut subscribe = Command::new("mosquitto_sub");
        subscribe.args(["--host", "127.0.0.1", "--port", &port, "--topic", topic]);
        // A retained message comes at once; where there is none this waits.
        let output = subscribe.args(["-C", "1", "-W", "2"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// What they logged.
    pub fn said(&self) -> String {
        ["nginx", "stunnel", "mosquitto"]
            .map(|name| {
                let log = self.site.join(format!("{name}.log"));
                format!(
                    "{name}:\n{}",
                    std::fs::read_to_string(log).unwrap_or_default()
                )
            })
            .concat()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.said());
        }
    }
}
