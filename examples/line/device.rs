//! Devices: a key each and a request for its certificate, as a chip's firmware would make them.

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData as _};

/// A device's request; its private key is of no more use here and is dropped.
pub struct DeviceRequest {
    /// The device id, which is the subject's common name.
    pub device_id: String,
    /// The PKCS#10 request, DER.
    pub der: Vec<u8>,
    /// The public key, DER SubjectPublicKeyInfo: what the certificate must hold.
    pub spki: Vec<u8>,
}

impl DeviceRequest {
    /// Makes a P-256 key and a request for `device_id`.
    ///
    /// # Errors
    /// The encoder's or the random generator's.
    pub fn new(device_id: String) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, device_id.clone());
        let request = params.serialize_request(&key)?;
        Ok(Self {
            device_id,
            der: request.der().to_vec(),
            spki: key.subject_public_key_info(),
        })
    }

    /// The request as PEM.
    pub fn pem(&self) -> String {
        let body = base64_lines(&self.der);
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n")
    }
}

/// Base64 in lines of 64 characters (RFC 7468).
fn base64_lines(der: &[u8]) -> String {
    use base64ct::Encoding as _;
    // 48 octets make 64 characters.
    let lines = der.chunks(48).map(base64ct::Base64::encode_string);
    lines.fold(String::new(), |text, line| text + &line + "\n")
}

/// Makes `count` requests named `PREFIX-N`, N from `first`, on all processors.
///
/// # Errors
/// The first that any of them had.
pub fn requests(
    prefix: &str,
    first: usize,
    count: usize,
) -> Result<Vec<DeviceRequest>, rcgen::Error> {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = count.div_ceil(processors).max(1);
    let numbers: Vec<usize> = (first..first + count).collect();
    let made: Result<Vec<Vec<DeviceRequest>>, rcgen::Error> = std::thread::scope(|scope| {
        let workers: Vec<_> = numbers
            .chunks(share)
            .map(|share| {
                scope.spawn(move || {
                    let request = |n: &usize| DeviceRequest::new(format!("{prefix}-{n}"));
                    share.iter().map(request).collect()
                })
            })
            .collect();
        let joined = workers.into_iter().map(|worker| worker.join());
        joined
            .map(|done| done.unwrap_or(Err(rcgen::Error::RemoteKeyError)))
            .collect()
    });
    Ok(made?.into_iter().flatten().collect())
}
