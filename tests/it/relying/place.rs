//! An appliance with three device issuers, and two responders beside it, at the addresses that its certificates name.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use base64ct::Encoding as _;
use hyper::StatusCode;
use serde_json::Value;

use crate::harness::appliance::{LineIdentity, PATIENCE, pem, post};
use crate::harness::device::{Device, der, serial_of};
use crate::harness::program::run;
use crate::harness::responder::Responder;
use crate::harness::site::SOFTHSM;
use crate::harness::{Appliance, Reply, Site, leave_for_lint, log};

/// A device issuer of the place.
#[derive(Clone, Copy, Debug)]
pub struct Issuer {
    /// Its name.
    pub name: &'static str,
    /// The algorithm of its key in a ceremony file.
    algorithm: &'static str,
    /// The hash that it signs with.
    hash: &'static str,
    /// Whether its certificates name partitions of its CRL.
    partitioned: bool,
}

impl Issuer {
    /// The partitions of its CRL, as the names of their files below `/crl`.
    pub fn partitions(&self) -> Vec<String> {
        let numbers: &[u8] = if self.partitioned { &[1, 2] } else { &[] };
        numbers
            .iter()
            .map(|number| format!("{}/{number}", self.name))
            .collect()
    }
}

/// An issuer for each kind of key, one of them with partitioned CRLs.
pub const ISSUERS: [Issuer; 3] = [
    Issuer {
        name: "device-1",
        algorithm: "ecdsa-p256",
        hash: "sha256",
        partitioned: false,
    },
    Issuer {
        name: "device-2",
        algorithm: "ecdsa-p384",
        hash: "sha384",
        partitioned: true,
    },
    Issuer {
        name: "device-3",
        algorithm: "rsa3072",
        hash: "sha256",
        partitioned: false,
    },
];

/// An appliance that runs, a line with an order of each issuer, and responders.
pub struct Place {
    /// The appliance.
    pub appliance: Appliance,
    /// The responder that certificates name; its answers name it by its key.
    pub responder: Responder,
    /// Another one, whose answers name it by its subject.
    pub by_name: Responder,
    /// The line that asks for certificates.
    pub line: LineIdentity,
    /// Commands for the token.
    faults: PathBuf,
}

/// A device's certificate with what relying parties want beside it, all of them files in the site's directory.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The serial, 32 hex digits.
    pub serial: String,
    /// The certificate's file, PEM.
    pub file: String,
    /// The file with the certificate and its issuer's, as a TLS client sends them.
    pub chain: String,
    /// The issuer's name; `ISSUER.pem` is its certificate.
    pub issuer: &'static str,
    /// The device's key, where somebody has it.
    pub key: Option<PathBuf>,
}

impl Place {
    /// Holds the ceremony of these issuers and starts everything.
    pub fn start(issuers: &[Issuer]) -> Self {
        let (site, faults) = Site::faulting_before_ceremony();
        let mut by_name = Responder::beside(&site);
        let text = std::fs::read_to_string(&by_name.config).unwrap();
        let text = text
            .replace("[ocsp]\n", "[ocsp]\nresponder_id = \"byName\"\n")
            .replace("\"ocsp/", "\"ocsp-2/")
            .replace("\"ocsp-1\"", "\"ocsp-2\"");
        by_name.config = site.path().join("ocsp-2.toml");
        std::fs::write(&by_name.config, text).unwrap();
        let responder = Responder::beside(&site);
        declare(&site, issuers, responder.port);
        run(site.hallmark().args(["ceremony", "run", "ceremony.toml"]));
        let root = pem(&site.ca("device-root"));
        std::fs::write(site.path().join("device-root.pem"), &root).unwrap();
        for issuer in issuers {
            let own = pem(&site.ca(issuer.name));
            let path = |end: &str| site.path().join(format!("{}{end}", issuer.name));
            std::fs::write(path(".pem"), &own).unwrap();
            std::fs::write(path("-chain.pem"), own + &root).unwrap();
        }
        let appliance = Appliance::start(site);
        let line = appliance.line("line-1");
        let mut place = Self {
            appliance,
            responder,
            by_name,
            line,
            faults,
        };
        for issuer in issuers {
            place.open_order(issuer);
        }
        place.start_responders(issuers);
        place
    }

    /// The site's directory.
    pub fn path(&self) -> PathBuf {
        self.appliance.site.path().to_owned()
    }

    /// Opens an order of the issuer's name.
    fn open_order(&self, issuer: &Issuer) {
        let open = ["order", "open", issuer.name, "--issuer", issuer.name];
        let terms = ["--profile", "mqtt-device", "--device-id", "[a-zA-Z0-9-]+"];
        let more = ["--quantity", "100", "--line", &self.line.name];
        self.appliance.command(&[&open[..], &terms, &more].concat());
    }

    /// Has both responders approved, waits until each issuer has certified them, and starts them.
    fn start_responders(&mut self, issuers: &[Issuer]) {
        let path = self.path();
        for (name, responder) in [("ocsp-1", &self.responder), ("ocsp-2", &self.by_name)] {
            let printed = run(responder.command(&self.appliance.site).arg("key")).stdout;
            let file = format!("{name}.pub");
            std::fs::write(path.join(&file), printed).unwrap();
            let approve = ["responder", "approve", name, "--key", &file];
            self.appliance.command(&approve);
        }
        for name in ["ocsp-1", "ocsp-2"] {
            for issuer in issuers {
                let file = path.join(format!("public/responders/{name}/{}.cer", issuer.name));
                self.appliance.wait("certified", |_| file.exists());
            }
        }
        self.responder.start(&mut self.appliance);
        self.by_name.start(&mut self.appliance);
    }

    /// Has a device's certificate issued.
    pub async fn issue(&mut self, issuer: &'static str, name: &str) -> Leaf {
        let path = self.path();
        let device = Device::new(&path, &format!("{issuer}-{name}"));
        let ends = Instant::now() + PATIENCE;
        let reply = loop {
            let reply = self.ask(issuer, &device).await;
            // The token may be starting anew after faults.
            if reply.status != StatusCode::SERVICE_UNAVAILABLE {
                break reply;
            }
            assert!(Instant::now() < ends, "still {reply:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
        let certificate = der(&reply.body);
        let mut leaf = self.leaf(issuer, name, &certificate);
        leaf.key = Some(device.key_path());
        self.appliance.received.push(certificate);
        leaf
    }

    /// Asks an issuer for a device's certificate.
    async fn ask(&self, issuer: &str, device: &Device) -> Reply {
        let mut connection = self.appliance.connect(&self.line).await;
        let order = format!("/v1/orders/{issuer}/certificates");
        post(&mut connection, &order, &device.request()).await
    }

    /// Writes a certificate where relying parties find it.
    fn leaf(&self, issuer: &'static str, name: &str, certificate: &[u8]) -> Leaf {
        let path = self.path();
        let (file, chain) = (
            format!("{issuer}-{name}.crt"),
            format!("{issuer}-{name}.chain"),
        );
        let own = pem(certificate);
        std::fs::write(path.join(&file), &own).unwrap();
        let above = std::fs::read_to_string(path.join(format!("{issuer}.pem"))).unwrap();
        std::fs::write(path.join(&chain), own + &above).unwrap();
        Leaf {
            serial: serial_of(&path, certificate),
            file,
            chain,
            issuer,
            key: None,
        }
    }

    /// A certificate that the issuer's key signed behind the log's back: that of another one, with another serial.
    pub fn signed_unlogged(&self, issuer: &Issuer, name: &str, like: &Leaf) -> Leaf {
        let certificate = std::fs::read(self.path().join(&like.file)).unwrap();
        let certificate = der(&certificate);
        let mut tbs = parts(parts(&certificate)[0].content)[0].whole.to_vec();
        let serial = octets(&like.serial);
        let at = tbs.windows(serial.len()).position(|part| part == serial);
        // In the middle: the beginning has the form of all our serials, and the end tells the partition.
        tbs[at.unwrap() + serial.len() / 2] ^= 0x55;
        self.leaf(issuer.name, name, &self.assembled(issuer, &tbs))
    }

    /// The certificate of an intent that was left unresolved, as it may exist somewhere: the token loses signatures
    /// until there is such an intent, and signs its body once more outside the appliance.
    pub async fn unresolved(&mut self, issuer: &Issuer) -> Leaf {
        let device = Device::new(&self.path(), &format!("{}-doubtful", issuer.name));
        self.order_of_token("sign done-but-failed 1000\n");
        let ends = Instant::now() + PATIENCE;
        let entry = loop {
            let reply = self.ask(issuer.name, &device).await;
            assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{reply:?}");
            let all = self.appliance.json(&["cert", "list", "--limit", "500"]);
            let mut all = all.as_array().unwrap().iter();
            let lost = |c: &&Value| c["status"] == "unresolved" && c["order"] == issuer.name;
            if let Some(found) = all.find(lost) {
                break found["intent"].as_u64().unwrap();
            }
            assert!(Instant::now() < ends, "never unresolved");
        };
        self.order_of_token("");
        let (path, entry) = (self.path(), usize::try_from(entry).unwrap());
        let mut tbs = Value::Null;
        self.appliance.wait("published", |_| {
            let entries = log::try_entries(&path).unwrap_or_default();
            let found = entries.get(entry);
            tbs = found.map_or(Value::Null, |found| found.detail["tbs"].clone());
            tbs.is_string()
        });
        let tbs = base64ct::Base64::decode_vec(tbs.as_str().unwrap()).unwrap();
        let mut leaf = self.leaf(issuer.name, "unresolved", &self.assembled(issuer, &tbs));
        leaf.key = Some(device.key_path());
        leaf
    }

    /// Orders faults of the token, which sees the order as a whole or not at all.
    fn order_of_token(&self, lines: &str) {
        let next = self.faults.with_extension("new");
        std::fs::write(&next, lines).unwrap();
        std::fs::rename(next, &self.faults).unwrap();
    }

    /// A certificate of this body, signed by the issuer's key on the token with GnuTLS: a detached signature without
    /// attributes (RFC 5652, 5.4) is one of the content itself.
    fn assembled(&self, issuer: &Issuer, tbs: &[u8]) -> Vec<u8> {
        let path = self.path();
        std::fs::write(path.join("tbs"), tbs).unwrap();
        let key = format!("pkcs11:token=hallmark;object={};type=private", issuer.name);
        let pin = std::fs::read_to_string(path.join("pin")).unwrap();
        let mut tool = Command::new("certtool");
        tool.current_dir(&path)
            .env("SOFTHSM2_CONF", path.join("softhsm2.conf"))
            .env("GNUTLS_PIN", pin.trim())
            .args(["--p7-detached-sign", "--hash", issuer.hash])
            .args(["--provider", SOFTHSM, "--load-privkey", &key]);
        tool.args(["--load-certificate", &format!("{}.pem", issuer.name)]);
        run(tool.args(["--infile", "tbs", "--outder", "--outfile", "signed"]));
        let signed = std::fs::read(path.join("signed")).unwrap();
        // The signature is the last part of the last part, and so on down.
        let mut last = parts(&signed).pop().unwrap();
        while last.whole[0] != 0x04 {
            last = parts(last.content).pop().unwrap();
        }
        // In the body the algorithm is the third part, after the version and the serial (RFC 5280, 4.1).
        let algorithm = parts(parts(tbs)[0].content)[2].whole;
        let bits = tlv(0x03, &[&[0], last.content].concat());
        tlv(0x30, &[tbs, algorithm, &bits].concat())
    }

    /// Revokes a certificate; the appliance's answer.
    pub fn revoke(&self, leaf: &Leaf, reason: &str) -> Value {
        let words = ["cert", "revoke", &leaf.serial, "--reason", reason];
        self.appliance.json(&words)
    }

    /// The URL of each responder, and how its answers name it.
    pub fn urls(&self) -> [(&'static str, String); 2] {
        [
            ("by-key", self.responder.url()),
            ("by-name", self.by_name.url()),
        ]
    }

    /// The URL of a CRL at the responder that certificates name.
    pub fn crl_url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/crl/{name}.crl", self.responder.port)
    }

    /// Writes a CRL that is served as a PEM file, and leaves it to be linted.
    pub fn fetch_crl(&self, name: &str, file: &str) {
        let fetch = ["--silent", "--fail", &self.crl_url(name)];
        let crl = run(Command::new("curl").args(fetch)).stdout;
        leave_for_lint(&format!("served-{}.crl", name.replace('/', "-")), &crl);
        let der = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(der.path(), crl).unwrap();
        let mut convert = Command::new("openssl");
        convert.current_dir(self.path());
        convert.args(["crl", "-inform", "DER", "-out", file, "-in"]);
        run(convert.arg(der.path()));
    }

    /// Waits until the CRL that is served lists a serial.
    pub fn wait_until_on(&mut self, name: &str, serial: &str) {
        let url = self.crl_url(name);
        let listed = |_: &mut Appliance| serials_on(&url).contains(serial);
        self.appliance.wait("served", listed);
    }

    /// Waits until both responders serve a full CRL of the issuer, and its partitions, with these certificates and no
    /// other. Then their OCSP answers have them too: a CRL is served once the log up to its anchor is read.
    pub fn wait_until_served(&mut self, issuer: &Issuer, revoked: &[&Leaf]) {
        let wanted: BTreeSet<_> = revoked.iter().map(|leaf| leaf.serial.clone()).collect();
        for port in [self.responder.port, self.by_name.port] {
            for files in [vec![issuer.name.to_owned()], issuer.partitions()] {
                let on =
                    |name: &String| serials_on(&format!("http://127.0.0.1:{port}/crl/{name}.crl"));
                self.appliance.wait("served", |_| {
                    let listed: BTreeSet<_> = files.iter().flat_map(on).collect();
                    files.is_empty() || listed == wanted
                });
            }
        }
    }
}

/// The serials on a CRL that is served.
fn serials_on(url: &str) -> BTreeSet<String> {
    let crl = run(Command::new("curl").args(["--silent", "--fail", url])).stdout;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), crl).unwrap();
    let mut read = Command::new("openssl");
    read.args(["crl", "-inform", "DER", "-noout", "-text", "-in"]);
    let text = String::from_utf8(run(read.arg(file.path())).stdout).unwrap();
    let lines = text.lines().map(str::trim);
    let serials = lines.filter_map(|line| line.strip_prefix("Serial Number: "));
    serials.map(str::to_ascii_lowercase).collect()
}

/// Makes a site's ceremony and configuration those of these issuers, whose certificates name a responder at this port.
/// As in the quickstart, and unlike other sites of tests, only device issuers name one: no other has a responder.
fn declare(site: &Site, issuers: &[Issuer], port: u16) {
    let path = site.path().join("ceremony.toml");
    let plan = std::fs::read_to_string(&path).unwrap();
    let (tables, like) = without_device_1(&plan, "[[ca]]");
    let mut plan = tables;
    for issuer in issuers {
        let mut table = named(&like, issuer).replace("ecdsa-p256", issuer.algorithm);
        if issuer.partitioned {
            table = table.replace("role = ", "crl_partitions = 2\nrole = ");
        }
        plan += &table;
    }
    std::fs::write(path, plan).unwrap();

    let config = std::fs::read_to_string(site.configuration()).unwrap();
    // The responder looks four times a second, and may be slow where tests run side by side.
    let config = config.replace("ocsp_poll = \"1s\"", "ocsp_poll = \"4s\"");
    let config = config.replace("http://pki.example", &format!("http://127.0.0.1:{port}"));
    let (tables, like) = without_device_1(&config, "[[issuer]]");
    let mut config: String = tables
        .lines()
        .filter(|line| !line.starts_with("ocsp_url = "))
        .flat_map(|line| [line, "\n"])
        .collect();
    for issuer in issuers {
        let mut table = named(&like, issuer);
        if issuer.partitioned {
            table = table.replace("crl_url", "crl_partition_url").replace(
                &format!("/{}.crl", issuer.name),
                &format!("/{}/{{partition}}.crl", issuer.name),
            );
        }
        config += &table;
    }
    std::fs::write(site.configuration(), config).unwrap();
}

/// A TOML text without the table of `device-1` under such a header, and that table with its header.
fn without_device_1(text: &str, header: &str) -> (String, String) {
    let at = text.find("name = \"device-1\"").unwrap();
    let start = text[..at].rfind(header).unwrap();
    let end = text[at..]
        .find("\n[")
        .map_or(text.len(), |end| at + end + 1);
    let rest = format!("{}{}\n", &text[..start], &text[end..]);
    (rest, format!("{}\n", &text[start..end]))
}

/// The table of `device-1` for another issuer.
fn named(table: &str, issuer: &Issuer) -> String {
    let subject = format!("CN=Relying {} of {}", issuer.name, issuer.algorithm);
    table
        .replace("device-1", issuer.name)
        .replace("CN=Quickstart Device Issuer 1", &subject)
}

/// One element of DER.
struct Part<'a> {
    /// With its header.
    whole: &'a [u8],
    /// Without.
    content: &'a [u8],
}

/// The elements of DER that stand one after the other.
fn parts(mut rest: &[u8]) -> Vec<Part<'_>> {
    let mut all = Vec::new();
    while let [_tag, first, ..] = *rest {
        let long = usize::from(first.saturating_sub(0x80));
        let length = rest[2..2 + long].iter();
        let length = match long {
            0 => usize::from(first),
            _ => length.fold(0, |sum, octet| sum << 8 | usize::from(*octet)),
        };
        let (whole, after) = rest.split_at(2 + long + length);
        all.push(Part {
            whole,
            content: &whole[2 + long..],
        });
        rest = after;
    }
    all
}

/// An element of DER of less than 64 KiB; its length has as few octets as it can.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
    let header = match (high, low) {
        (0, 0..0x80) => vec![tag, low],
        (0, _) => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [&header, content].concat()
}

/// The octets that hex digits say.
fn octets(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks(2);
    let octet = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    pairs.map(octet).collect()
}
