//! Writes the first inputs of each corpus: one of each kind that a parser tells apart.
//!
//! `cargo run --manifest-path tests/fuzz/Cargo.toml --example seeds` after a format has changed. Keys and
//! requests are OpenSSL's, new in each run; files that it does not write stay as they are.

mod log;

use std::path::{Path, PathBuf};
use std::process::Command;

use base64ct::Encoding as _;
use certstatus::crl::{CrlFields, LogAnchor, RevokedEntry, Scope, TbsCrl};
use certstatus::log::checkpoint::Checkpoint;
use certstatus::ocsp::{
    ErrorStatus, HashAlgorithm, IssuerHashes, ResponderId, SingleResponse, parse_request, request,
    response_data, successful,
};
use certstatus::signature::{SignatureAlgorithm, assemble};
use certstatus::{CertStatus, RevocationReason, SerialNumber, UnixMillis};
use hallmark::hsm::wire::{self, Answer, Fault, TokenState};
use hallmark::hsm::{KeyAlgorithm, KeyPolicy};
use hallmark_fuzz::certificates::CHANGES;
use hallmark_fuzz::log::{ORIGIN, log_key, note};

/// Where a target's input goes.
fn write(target: &str, name: &str, contents: impl AsRef<[u8]>) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../vectors/corpora")
        .join(target);
    std::fs::create_dir_all(&directory).expect("the corpus can be made");
    std::fs::write(directory.join(name), contents).expect("an input can be written");
}

/// OpenSSL in a directory of its own.
struct OpenSsl(PathBuf);

impl OpenSsl {
    /// An empty directory below the system's own for such things.
    fn new() -> Self {
        let directory = std::env::temp_dir().join(format!("hallmark-seeds-{}", std::process::id()));
        std::fs::create_dir(&directory).expect("a directory of our own");
        Self(directory)
    }

    /// Runs a command line that ends in `-out FILE` and gives the file.
    fn run(&self, line: &str, file: &str) -> Vec<u8> {
        let status = Command::new("openssl")
            .args(line.split(' ').map(|word| word.replace('~', " ")))
            .args(["-out", file])
            .current_dir(&self.0)
            .status()
            .expect("openssl runs");
        assert!(status.success(), "openssl {line}");
        std::fs::read(self.0.join(file)).expect("openssl wrote it")
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Kinds of keys, as OpenSSL names them, and the options that make requests sign in other ways.
const KEYS: &[(&str, &str, &[(&str, &str)])] = &[
    (
        "p256",
        "EC -pkeyopt ec_paramgen_curve:P-256",
        &[("", "-sha256"), ("-sha512", "-sha512")],
    ),
    (
        "p384",
        "EC -pkeyopt ec_paramgen_curve:P-384",
        &[("", "-sha384")],
    ),
    (
        "rsa",
        "RSA -pkeyopt rsa_keygen_bits:2048",
        &[
            ("", "-sha256"),
            (
                "-pss",
                "-sha384 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:48",
            ),
        ],
    ),
    ("ed25519", "ED25519", &[("", "-sha256")]),
];

/// Keys, algorithms, signed objects and requests.
fn requests() {
    let openssl = OpenSsl::new();
    for (kind, genpkey, ways) in KEYS {
        openssl.run(&format!("genpkey -algorithm {genpkey}"), "key.pem");
        let spki = openssl.run("pkey -in key.pem -pubout -outform DER", "key.der");
        write("public_key", kind, &spki);
        for (way, options) in *ways {
            let line = format!("req -new -key key.pem -subj /CN=device-1 {options} -outform DER");
            let request = openssl.run(&line, "request.der");
            let name = format!("{kind}{way}");
            write("csr", &name, &request);
            write("certificate", &name, &request);
            write("signed_object", &name, &request);
            write("signature", &name, [&spki[..], &request].concat());
        }
    }
    let weak = "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024";
    openssl.run(weak, "weak.pem");
    write(
        "public_key",
        "rsa-1024",
        openssl.run("pkey -in weak.pem -pubout -outform DER", "weak.der"),
    );
    openssl.run(
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256",
        "key.pem",
    );
    let with_names = "req -new -key key.pem -subj /O=Example/OU=a/OU=b/CN=device-2/serialNumber=7 \
                      -addext subjectAltName=DNS:device-2.example,IP:192.0.2.1,URI:urn:x:1 \
                      -addext keyUsage=critical,digitalSignature -addext extendedKeyUsage=clientAuth";
    write(
        "csr",
        "extensions",
        openssl.run(&format!("{with_names} -outform DER"), "request.der"),
    );
    write(
        "certificate",
        "extensions",
        openssl.run(&format!("{with_names} -outform DER"), "again.der"),
    );
    let allowed = "req -new -key key.pem -subj /OU=Line~7/serialNumber=device-4 -outform DER";
    write(
        "certificate",
        "organizational-unit",
        openssl.run(allowed, "again.der"),
    );
    let pem = openssl.run(with_names, "request.pem");
    write("csr", "extensions-pem", &pem);
    let pem = String::from_utf8(pem).expect("PEM is ASCII");
    write(
        "csr",
        "new-certificate-request-pem",
        pem.replace("CERTIFICATE REQ", "NEW CERTIFICATE REQ"),
    );
    let body: Vec<&str> = pem.lines().filter(|line| !line.starts_with('-')).collect();
    write("csr", "base64-wrapped", body.join("\r\n"));
    write("csr", "base64", body.concat());
    write("csr", "request-twice-pem", pem.repeat(2));
    let certificate = "req -x509 -new -key key.pem -subj /CN=root -days 36500 -outform DER";
    write(
        "signed_object",
        "certificate",
        openssl.run(certificate, "root.der"),
    );
    std::fs::write(
        openssl.0.join("attributes.cnf"),
        "[req]\nprompt=no\ndistinguished_name=n\nattributes=a\n[n]\nCN=device-3\n[a]\n\
         challengePassword=sesame\nunstructuredName=bench\n",
    )
    .expect("the configuration can be written");
    let line = "req -new -key key.pem -config attributes.cnf -outform DER";
    write("csr", "attributes", openssl.run(line, "request.der"));
    write("certificate", "attributes", openssl.run(line, "again.der"));
    for (name, extensions) in [
        (
            "root",
            "basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign",
        ),
        (
            "path-length",
            "basicConstraints=critical,CA:TRUE,pathlen:1 -addext keyUsage=critical,keyCertSign,cRLSign",
        ),
        (
            "no-ca",
            "basicConstraints=critical,CA:FALSE -addext keyUsage=critical,digitalSignature",
        ),
    ] {
        let line = format!(
            "req -x509 -new -key key.pem -config attributes.cnf -days 36500 -addext {extensions} \
             -addext subjectKeyIdentifier=hash -outform DER"
        );
        write("issuer_certificate", name, openssl.run(&line, "root.der"));
    }
    let line = "req -new -key key.pem -subj / -outform DER";
    write("csr", "empty-subject", openssl.run(line, "request.der"));
    write(
        "csr",
        "private-key-pem",
        openssl.run("pkey -in key.pem", "again.pem"),
    );
}

/// AlgorithmIdentifiers in their own and their other permitted forms.
fn algorithms() {
    use SignatureAlgorithm as A;
    for algorithm in [
        A::EcdsaSha256,
        A::RsaPkcs1Sha384,
        A::RsaPssSha256,
        A::RsaPssSha512,
        A::Ed25519,
    ] {
        write(
            "algorithm",
            &format!("{algorithm:?}").to_lowercase(),
            algorithm.identifier(),
        );
    }
    let without_null = A::RsaPkcs1Sha256
        .identifier()
        .split_last_chunk::<2>()
        .map(|(most, _)| most);
    let mut shorter = without_null.expect("it ends in NULL").to_vec();
    shorter[1] -= 2;
    write("algorithm", "rsapkcs1sha256-absent-parameters", shorter);
}

/// CRLs with and without entries, with UTCTime and GeneralizedTime.
fn crls() {
    let (_, key) = log_key();
    let body = Checkpoint {
        origin: ORIGIN.into(),
        size: 9,
        root: [5; 32],
    }
    .body();
    let (log_key, checkpoint) = (key.to_string(), note(&body));
    let anchor = LogAnchor {
        origin: ORIGIN,
        log_key: &log_key,
        checkpoint: &checkpoint,
    };
    let name = [
        &[0x30, 13, 0x31, 11, 0x30, 9, 6, 3, 0x55, 4, 3, 0x0c, 2][..],
        b"ca",
    ]
    .concat();
    let fields = |algorithm, scope, seconds| CrlFields {
        issuer: &name,
        authority_key_id: &[9; 20],
        algorithm,
        number: 300,
        this_update: UnixMillis::from_seconds(seconds),
        next_update: UnixMillis::from_seconds(seconds + 86_400),
        scope,
        expired_since: None,
        anchor,
    };
    let revoked: Vec<RevokedEntry> = [None, Some(1), Some(9), None]
        .into_iter()
        .zip(0..)
        .map(|(reason, at)| RevokedEntry {
            serial: SerialNumber::from_random([at; 16]),
            revoked_at: UnixMillis::from_seconds(if at == 3 {
                2_600_000_000
            } else {
                1_700_000_000
            }),
            reason,
        })
        .collect();
    let signed = |fields: &CrlFields<'_>, revoked: &[RevokedEntry], signature: &[u8]| {
        assemble(
            TbsCrl::encode(fields, revoked).der(),
            fields.algorithm,
            signature,
        )
    };
    let root = fields(
        SignatureAlgorithm::Ed25519,
        Scope::Everything,
        1_700_000_000,
    );
    write("crl", "empty", signed(&root, &[], &[1; 64]));
    let device = fields(
        SignatureAlgorithm::EcdsaSha256,
        Scope::UserCertificates,
        1_700_000_000,
    );
    write("crl", "entries", signed(&device, &revoked, &[2; 70]));
    let late = fields(
        SignatureAlgorithm::RsaPkcs1Sha256,
        Scope::UserCertificates,
        2_600_000_000,
    );
    let partition = CrlFields {
        expired_since: Some(UnixMillis::from_seconds(1_600_000_000)),
        ..fields(
            SignatureAlgorithm::EcdsaSha256,
            Scope::Partition("http://pki.example/crl/ca/1.crl".to_owned()),
            1_700_000_000,
        )
    };
    write("crl", "partition", signed(&partition, &revoked, &[2; 70]));
    write("crl", "after-2050", signed(&late, &revoked[3..], &[3; 256]));
    write("signed_object", "crl", signed(&device, &revoked, &[2; 70]));
    write(
        "signed_object",
        "rsa-crl",
        signed(&late, &revoked, &[2; 256]),
    );
}

/// OCSP requests in the forms that clients send, their paths, and answers of every kind.
fn ocsp() {
    let openssl = OpenSsl::new();
    openssl.run("genpkey -algorithm ED25519", "key.pem");
    let line = "req -x509 -new -key key.pem -subj /CN=ca -days 36500 -outform DER";
    let certificate = openssl.run(line, "ca.der");
    let issuer = IssuerHashes::of_certificate(&certificate).expect("a certificate");
    let serial = SerialNumber::from_random([0x5a; 16]);
    let sha1 = issuer.cert_id(HashAlgorithm::Sha1, serial.as_bytes());
    let others = [HashAlgorithm::Sha256, HashAlgorithm::Sha512]
        .map(|hash| issuer.cert_id(hash, &[0, 0x80, 1]));
    let ids: Vec<&[u8]> = [&sha1]
        .into_iter()
        .chain(&others)
        .map(Vec::as_slice)
        .collect();
    let one = request(&ids[..1], None);
    let three = request(&ids, Some(&[9; 32]));
    // A nonce without an OCTET STRING of its own: what was one becomes 32 octets like any other.
    let mut bare = request(&ids[..1], Some(&[9; 30]));
    let at = bare.len() - 32;
    bare[at] = 0x05;
    // A version that is the default, before the list.
    let contents = &one[4..];
    let version = [&[0xa0, 3, 2, 1, 0], contents].concat();
    let header = |octets: &[u8]| {
        let len = u8::try_from(octets.len()).expect("a short request");
        [&[0x30, len], octets].concat()
    };
    let version = header(&header(&version));
    for (name, der) in [
        ("one", &one),
        ("three-and-nonce", &three),
        ("bare-nonce", &bare),
        ("version", &version),
    ] {
        assert!(parse_request(der).is_ok(), "{name}");
        write("ocsp_request", name, der);
    }
    let text = base64ct::Base64::encode_string(&three);
    let escaped = text
        .replace('+', "%2B")
        .replace('/', "%2F")
        .replace('=', "%3D");
    write("ocsp_get_path", "plain", format!("/{text}%0A"));
    write(
        "ocsp_get_path",
        "escaped-twice",
        escaped.replace('%', "%25"),
    );
    write(
        "ocsp_get_path",
        "base64url",
        text.replace('+', "-").replace('/', "_"),
    );
    write(
        "ocsp_get_path",
        "blanks",
        text.replace('+', " ").replace('=', "%3d"),
    );
    write("ocsp_get_path", "escaped", escaped);
    let at = UnixMillis::from_seconds(1_700_000_000);
    let reason = Some(RevocationReason::KeyCompromise);
    let statuses = [
        CertStatus::Good,
        CertStatus::Revoked { at, reason },
        CertStatus::Unknown,
    ];
    let said = |(cert_id, status)| SingleResponse {
        cert_id,
        status,
        this_update: at,
        next_update: UnixMillis::from_seconds(1_700_000_600),
    };
    let singles: Vec<_> = ids.into_iter().zip(statuses).map(said).collect();
    let nonce = parse_request(&three).ok().and_then(|read| read.nonce);
    let by_name = ResponderId::by_name(&certificate).expect("a certificate");
    let by_key = ResponderId::by_key(&certificate).expect("a certificate");
    let (ed25519, rsa) = (
        SignatureAlgorithm::Ed25519,
        SignatureAlgorithm::RsaPssSha256,
    );
    let tbs = response_data(&by_name, at, &singles, nonce);
    let whole = successful(&tbs, ed25519, &[1; 64], &[&certificate]);
    write("ocsp_response", "by-name", whole);
    let tbs = response_data(&by_key, at, &singles[..1], None);
    write(
        "ocsp_response",
        "by-key",
        successful(&tbs, rsa, &[2; 256], &[]),
    );
    write("ocsp_response", "try-later", ErrorStatus::TryLater.der());
    write("ocsp_response", "certificate", certificate);
}

/// Texts that people write.
fn texts() {
    write(
        "serial",
        "text",
        SerialNumber::from_random([0x5a; 16]).to_string(),
    );
    write("serial", "octets", [0x7f; 16]);
    write("serial", "octets-first-too-low", [0x3f; 16]);
    write("name", "issuer", "device-1");
    write("name", "longest", "a".repeat(40));
    let token = "pkcs11:token=hallmark;serial=4a1f0e0ac11ae09d";
    write("pkcs11_uri", "token", token);
    write(
        "pkcs11_uri",
        "key",
        format!("{token};object=device%20issuer%201;type=private"),
    );
    write(
        "pkcs11_uri",
        "escapes",
        "pkcs11:serial=1;token=%c3%BC%3B%25;type=private;object=a:b[c]",
    );
    write(
        "pkcs11_uri",
        "pin",
        format!("{token};object=k;type=private?pin-value=1234"),
    );
    write("config", "example", bare("softhsm2.toml"));
    let plan = bare("softhsm2-ceremony.toml");
    write("ceremony_plan", "example", &plan);
    let subject = r#"subject = 'CN=A\\, B\20+OU=\C3\BC,2.5.4.5=#130137,O="x",C=DE' #"#;
    write(
        "ceremony_plan",
        "odd-subject",
        plan.replacen("subject =", subject, 1),
    );
    write(
        "config",
        "other-version",
        "version = 2\nnovel = [1, { a = 1e9 }]\n",
    );
    write(
        "config",
        "odd-toml",
        "version = 1\n\"a.b\".'c' = '''\nx'''\n[[t]]\n[[t.u]]\nd = 1979-05-27T07:32:00Z\n",
    );
}

/// What stations and token hosts send.
fn peers() {
    write(
        "accept",
        "two",
        "application/pkix-cert;q=0.5, application/json;q=0.9",
    );
    write("accept", "any", "text/html, */*;q=0.001");
    write(
        "accept",
        "none-wanted",
        "application/json;q=0, application/x-pem-file;q=0.000",
    );
    let line = r#"{"csr":"MIIB","device_id":"d-1","id":"1"}"#;
    write(
        "batch",
        "ndjson",
        format!("{line}\n\n{line}\r\n{{\"csr\":\"\\u004dA==\"}}\n{{}}"),
    );
    let block = "-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----\n";
    write(
        "batch",
        "pem",
        format!("{block}subject=x\n{block}-----BEGIN \n{block}"),
    );
    let mut out = Vec::new();
    wire::put_hello(&mut out);
    let algorithm = SignatureAlgorithm::EcdsaSha256;
    wire::put_open_key(&mut out, 1, "device issuer 1", algorithm, &[3; 32]);
    wire::put_sign(&mut out, 2, 1, &[0x30, 3, 2, 1, 5]);
    wire::put_generate(
        &mut out,
        3,
        "k",
        KeyAlgorithm::EcdsaP384,
        KeyPolicy::NeverExtractable,
    );
    wire::put_take_over(&mut out, 4);
    write("token_frames", "requests", &out);
    let cause = || "C_Sign: CKR_DEVICE_REMOVED".to_owned();
    let faults = [
        Fault::Busy,
        Fault::lost(cause()),
        Fault::refused(cause()),
        Fault::KeyAmbiguous { count: 2 },
        Fault::KeyUnfit {
            problem: "CKA_EXTRACTABLE is true".into(),
        },
        Fault::Deadline,
    ];
    let answers = [
        Answer::Welcome,
        Answer::State(TokenState::Ready),
        Answer::State(TokenState::Unavailable(cause())),
        Answer::Opened {
            id: 1,
            key: 1,
            spki: vec![0x30, 0],
        },
        Answer::Signature {
            id: 2,
            signature: vec![7; 70],
        },
        Answer::Generated {
            id: 3,
            spki: vec![0x30, 0],
            attributes: [("CKA_LOCAL", "true"), ("CKA_SENSITIVE", "true")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        },
        Answer::StillRunning { id: 4, jobs: 2 },
    ];
    let mut out = Vec::new();
    answers.iter().for_each(|answer| answer.put(&mut out));
    write("token_frames", "answers", &out);
    let mut out = Vec::new();
    for (fault, id) in faults.into_iter().zip(5..) {
        Answer::Failed { id, fault }.put(&mut out);
    }
    write("token_frames", "failures", &out);
    write("token_frames", "length-of-4-gib", [255; 5]);
}

/// Files where the log key should be: an Ed25519 key that signs nothing else, and what is none.
fn log_key_files() {
    let openssl = OpenSsl::new();
    let pem = openssl.run("genpkey -algorithm ED25519", "key.pem");
    write("log_key_file", "pem", &pem);
    let der = openssl.run("pkey -in key.pem -outform DER", "key.der");
    write("log_key_file", "der", &der);
    let public = openssl.run("pkey -in key.pem -pubout", "public.pem");
    write("log_key_file", "public", &public);
    write("log_key_file", "two", [&pem[..], &pem].concat());
    let other = "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256";
    write("log_key_file", "p256", openssl.run(other, "other.pem"));
    let encrypted = "pkcs8 -topk8 -in key.pem -passout pass:hallmark";
    let encrypted = openssl.run(encrypted, "encrypted.pem");
    write("log_key_file", "encrypted", encrypted);
}

/// Profiles and changes of the registry.
fn policies() {
    for name in [
        "mqtt-device",
        "idevid",
        "line",
        "tls-server",
        "ocsp-signing",
    ] {
        write("profile", name, bare(&format!("../profiles/{name}.toml")));
    }
    write("registry", "line-and-order", CHANGES);
    let more = r#"{"change":"line-set","line":"line-1","state":"disabled"}
{"change":"order-set","order":"demo","state":"closed"}
{"change":"line-decertified","line":"line-1","serial":"5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a"}
{"change":"units-returned","order":"demo","units":3}
{"change":"responder-approved","responder":"ocsp-1","spki":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEDYmPmcPmTmD9j6afTD5WHgbjpYcpkVJM5fL1X6DmlX80LfqrgXihsIX9UWlXPZmAf5ahVspNswNN1rwBVyBmYA=="}
{"change":"reader-certified","reader":{"role":"responder","name":"ocsp-1"},"certificate":{"serial":"5b5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a","sha256":"7e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d","not_before":1600000000000,"not_after":1800000000000}}
{"change":"reader-decertified","reader":{"role":"responder","name":"ocsp-1"},"serial":"5b5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a"}
{"change":"reader-certified","reader":{"role":"auditor","name":"audit-1"},"certificate":{"serial":"5c5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a","sha256":"8e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d","not_before":1600000000000,"not_after":1800000000000}}
{"change":"reader-set","reader":{"role":"auditor","name":"audit-1"},"state":"disabled"}
{"change":"responder-revoked","responder":"ocsp-1"}"#;
    write("registry", "everything", format!("{CHANGES}\n{more}"));
    write(
        "registry",
        "odd-pattern",
        CHANGES.replace("[ -~]*", "(?i)(a{1,8}|[^b-d]+?)\\\\d{2,}"),
    );
}

/// An annotated example without its annotations.
fn bare(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../hsm-config")
        .join(name);
    let text = std::fs::read_to_string(path).expect("the example is there");
    let lines = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.collect::<Vec<_>>().join("\n")
}

fn main() {
    policies();
    peers();
    requests();
    algorithms();
    crls();
    ocsp();
    log::log();
    texts();
    log_key_files();
}
