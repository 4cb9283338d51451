//! Devices: keys and certificate requests made by OpenSSL, as a device's firmware or a test station would.

use std::path::{Path, PathBuf};

use super::program::openssl;

/// A kind of key that a device may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKey {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// RSA with so many bits.
    Rsa(u16),
    /// Ed25519.
    Ed25519,
}

/// A device with its private key in a directory.
pub struct Device {
    /// Its device id, the common name of its requests.
    pub id: String,
    directory: PathBuf,
    key_file: String,
}

impl Device {
    /// A device with a new P-256 key.
    pub fn new(directory: &Path, id: &str) -> Self {
        Self::with_key(directory, id, DeviceKey::P256)
    }

    /// A device with a new key.
    pub fn with_key(directory: &Path, id: &str, key: DeviceKey) -> Self {
        let number = std::fs::read_dir(directory).unwrap().count();
        let key_file = format!("key-{number}-{id}.pem");
        let bits;
        let arguments: &[&str] = match key {
            DeviceKey::P256 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            DeviceKey::P384 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
            DeviceKey::Ed25519 => &["-algorithm", "ED25519"],
            DeviceKey::Rsa(size) => {
                bits = format!("rsa_keygen_bits:{size}");
                &["-algorithm", "RSA", "-pkeyopt", &bits]
            }
        };
        openssl(
            directory,
            &[&["genpkey", "-out", &key_file], arguments].concat(),
        );
        Self {
            id: id.to_owned(),
            directory: directory.to_owned(),
            key_file,
        }
    }

    /// A certificate request (PEM) with only the device id in its subject; signed anew each time.
    pub fn request(&self) -> Vec<u8> {
        self.request_with(&format!("/CN={}", self.id), &[])
    }

    /// A certificate request (PEM) with this subject and more of OpenSSL's options.
    pub fn request_with(&self, subject: &str, more: &[&str]) -> Vec<u8> {
        let fixed = [
            "req",
            "-new",
            "-utf8",
            "-key",
            &self.key_file,
            "-subj",
            subject,
        ];
        openssl(&self.directory, &[&fixed, more].concat()).into_bytes()
    }

    /// The private key's file.
    pub fn key_path(&self) -> PathBuf {
        self.directory.join(&self.key_file)
    }
}

/// The DER of the first block of PEM.
pub fn der(pem: &[u8]) -> Vec<u8> {
    use base64ct::Encoding as _;
    let text = std::str::from_utf8(pem).unwrap();
    let body: String = text
        .lines()
        .skip_while(|line| !line.starts_with("-----BEGIN"))
        .skip(1)
        .take_while(|line| !line.starts_with("-----END"))
        .collect();
    base64ct::Base64::decode_vec(&body).unwrap()
}

/// The serial number of a DER certificate as OpenSSL reads it, in the canonical form.
pub fn serial_of(directory: &Path, certificate: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new_in(directory).unwrap();
    std::fs::write(file.path(), certificate).unwrap();
    let path = file.path().to_str().unwrap();
    let printed = openssl(
        directory,
        &["x509", "-inform", "DER", "-noout", "-serial", "-in", path],
    );
    printed
        .trim()
        .trim_start_matches("serial=")
        .to_ascii_lowercase()
}
