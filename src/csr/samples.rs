//! Requests for tests: made by `openssl`, or put together by hand and signed by a software key.
//!
//! A machine without `openssl` fails the test: nothing is skipped.

use std::path::PathBuf;
use std::process::Command;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use certstatus::signature::{SignatureAlgorithm, assemble, tlv};
use der::asn1::ObjectIdentifier;
use der::{Any, Encode, Tag};

use super::{Csr, VerifiedCsr};

/// One test's directory, in which `openssl` runs.
pub(crate) struct OpenSsl {
    /// Removed when the test ends.
    directory: tempfile::TempDir,
}

impl OpenSsl {
    /// A new empty directory.
    pub fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// Where a file of this test stands.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, contents: &[u8]) {
        std::fs::write(self.path(name), contents).unwrap();
    }

    /// Reads a file.
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Runs a command with these arguments: whether it succeeded, and both outputs as text.
    pub fn ask(&self, arguments: &[&str]) -> (bool, String) {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(self.directory.path())
            .output()
            .expect("the tests need the openssl command: install it");
        let text = [&output.stdout[..], &output.stderr[..]].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    /// Runs a command line, split at blanks, that must succeed.
    pub fn run(&self, line: &str) -> String {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let (success, text) = self.ask(&arguments);
        assert!(success, "openssl {line}: {text}");
        text
    }

    /// A new key (`genpkey` options) and its request in DER (further `req` options).
    pub fn request(&self, genpkey: &str, req: &str) -> Vec<u8> {
        self.run(&format!("genpkey {genpkey} -out key.pem"));
        self.run(&format!(
            "req -new -key key.pem {req} -outform DER -out csr.der"
        ));
        self.read("csr.der")
    }
}

/// A P-256 key of a device in a test.
pub(crate) struct DeviceKey(EcdsaKeyPair);

/// A request that is put together by hand, part by part.
#[derive(Clone)]
pub(crate) struct Parts {
    /// The version's INTEGER.
    pub version: Vec<u8>,
    /// The subject Name, DER.
    pub subject: Vec<u8>,
    /// The SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
    /// The attributes, each a SEQUENCE, in order.
    pub attributes: Vec<Vec<u8>>,
}

impl DeviceKey {
    /// A new key.
    pub fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap())
    }

    /// Its SubjectPublicKeyInfo.
    pub fn spki(&self) -> Vec<u8> {
        let algorithm = [
            0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
            0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07,
        ];
        let bits = [&[0], self.0.public_key().as_ref()].concat();
        let bits = tlv::wrap(tlv::BIT_STRING, &[&bits]);
        tlv::wrap(tlv::SEQUENCE, &[&algorithm, &bits])
    }

    /// A signature over the message.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature = self.0.sign(&SystemRandom::new(), message).unwrap();
        signature.as_ref().to_vec()
    }

    /// The parts of a request with this subject and no attributes.
    pub fn parts(&self, subject: &[u8]) -> Parts {
        Parts {
            version: vec![tlv::INTEGER, 1, 0],
            subject: subject.to_vec(),
            spki: self.spki(),
            attributes: Vec::new(),
        }
    }

    /// The request, signed.
    pub fn request(&self, parts: &Parts) -> Vec<u8> {
        let info = parts.info();
        let signature = self.sign(&info);
        assemble(&info, SignatureAlgorithm::EcdsaSha256, &signature)
    }

    /// The request for this subject and these extensions, proved.
    pub fn verified(&self, subject: &[u8], extensions: &[Vec<u8>]) -> VerifiedCsr {
        let mut parts = self.parts(subject);
        if !extensions.is_empty() {
            parts.attributes.push(extension_request(extensions));
        }
        let csr = Csr::parse(&self.request(&parts)).unwrap();
        csr.verify().unwrap()
    }
}

impl Parts {
    /// The CertificationRequestInfo.
    pub fn info(&self) -> Vec<u8> {
        let attributes: Vec<&[u8]> = self.attributes.iter().map(Vec::as_slice).collect();
        let attributes = tlv::wrap(tlv::CONTEXT_0, &attributes);
        let parts = [&self.version, &self.subject, &self.spki, &attributes[..]];
        tlv::wrap(tlv::SEQUENCE, &parts)
    }
}

/// The DER of an object identifier.
pub(crate) fn oid(dotted: &str) -> Vec<u8> {
    ObjectIdentifier::new_unwrap(dotted).to_der().unwrap()
}

/// An attribute of a request with these values.
pub(crate) fn attribute(dotted: &str, values: &[&[u8]]) -> Vec<u8> {
    let values = tlv::wrap(tlv::SET, values);
    tlv::wrap(tlv::SEQUENCE, &[&oid(dotted), &values])
}

/// The extensionRequest attribute.
pub(crate) fn extension_request(extensions: &[Vec<u8>]) -> Vec<u8> {
    let extensions: Vec<&[u8]> = extensions.iter().map(Vec::as_slice).collect();
    let value = tlv::wrap(tlv::SEQUENCE, &extensions);
    attribute("1.2.840.113549.1.9.14", &[&value])
}

/// An extension that is not critical.
pub(crate) fn extension(dotted: &str, value: &[u8]) -> Vec<u8> {
    let value = tlv::wrap(tlv::OCTET_STRING, &[value]);
    tlv::wrap(tlv::SEQUENCE, &[&oid(dotted), &value])
}

/// A name of one attribute an RDN: OID, tag, text.
pub(crate) fn name(attributes: &[(&str, Tag, &str)]) -> Vec<u8> {
    let rdns: Vec<Vec<u8>> = attributes
        .iter()
        .map(|(dotted, tag, text)| {
            let value = Any::new(*tag, text.as_bytes()).unwrap().to_der().unwrap();
            let pair = tlv::wrap(tlv::SEQUENCE, &[&oid(dotted), &value]);
            tlv::wrap(tlv::SET, &[&pair])
        })
        .collect();
    let rdns: Vec<&[u8]> = rdns.iter().map(Vec::as_slice).collect();
    tlv::wrap(tlv::SEQUENCE, &rdns)
}

/// The name `CN=text`.
pub(crate) fn common_name(text: &str) -> Vec<u8> {
    name(&[("2.5.4.3", Tag::Utf8String, text)])
}
