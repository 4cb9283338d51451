//! Stations: each keeps one connection and sends requests until there are no more, and the same request
//! again when the answer got lost or said to come back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use hyper::header::RETRY_AFTER;
use hyper::{Method, StatusCode};
use serde_json::Value;

use crate::client::{Api, Call, ClientError, Connection, Reply};
use crate::device::DeviceRequest;

/// What all stations of a run share.
pub struct Run {
    /// The appliance.
    pub api: Api,
    /// The order in the URL.
    pub order: String,
    /// The requests; each is taken once.
    pub requests: Vec<DeviceRequest>,
    /// The first request that nobody took yet.
    pub next: AtomicUsize,
    /// Requests in one call; 1 uses the single interface.
    pub batch: usize,
    /// No request is taken after it.
    pub ends_at: Option<Instant>,
    /// How long one call is retried.
    pub patience: Duration,
}

/// What a station saw.
#[derive(Default)]
pub struct Tally {
    /// Certificates that came back for the right key.
    pub issued: usize,
    /// Refusals by status, in batches too.
    pub refused: BTreeMap<u16, usize>,
    /// The text of the first refusal.
    pub first_refusal: Option<String>,
    /// Calls that were sent again.
    pub resent: usize,
    /// Devices without an answer after the run's patience.
    pub given_up: usize,
    /// From the first sending of each call to its answer, microseconds.
    pub latencies_us: Vec<u32>,
}

impl Tally {
    /// Adds what another station saw.
    pub fn add(&mut self, other: Self) {
        self.issued += other.issued;
        self.resent += other.resent;
        self.given_up += other.given_up;
        self.latencies_us.extend(other.latencies_us);
        self.first_refusal = self.first_refusal.take().or(other.first_refusal);
        for (status, count) in other.refused {
            *self.refused.entry(status).or_default() += count;
        }
    }

    /// Notes a refusal.
    fn refuse(&mut self, status: u16, text: impl FnOnce() -> String) {
        *self.refused.entry(status).or_default() += 1;
        self.first_refusal.get_or_insert_with(text);
    }
}

impl Run {
    /// Takes the next share of the work.
    fn take(&self) -> &[DeviceRequest] {
        if self.ends_at.is_some_and(|end| Instant::now() >= end) {
            return &[];
        }
        let from = self.next.fetch_add(self.batch, Ordering::Relaxed);
        let to = (from + self.batch).min(self.requests.len());
        self.requests.get(from..to).unwrap_or_default()
    }

    /// The call that asks for these devices' certificates.
    fn call<'a>(&self, path: &'a str, devices: &[&DeviceRequest]) -> Call<'a> {
        let (content_type, accept, body) = match (devices, self.batch) {
            ([device], 1) => {
                let body = Bytes::copy_from_slice(&device.der);
                ("application/pkcs10", "application/x-pem-file", body)
            }
            (many, _) => {
                let body: String = many.iter().map(|device| device.pem()).collect();
                ("application/x-pem-file", "*/*", Bytes::from(body))
            }
        };
        Call {
            method: Method::POST,
            path,
            content_type,
            accept,
            body,
        }
    }

    /// One station's work, from its first connection to its last answer.
    pub async fn station(&self) -> Tally {
        let kind = if self.batch == 1 {
            "certificates"
        } else {
            "batches"
        };
        let path = format!("/v1/orders/{}/{kind}", self.order);
        let mut tally = Tally::default();
        let mut connection = None;
        loop {
            let mut pending: Vec<&DeviceRequest> = self.take().iter().collect();
            if pending.is_empty() {
                return tally;
            }
            let started = Instant::now();
            self.until_answered(&mut connection, &path, &mut pending, &mut tally)
                .await;
            let elapsed = started.elapsed().as_micros();
            tally
                .latencies_us
                .push(u32::try_from(elapsed).unwrap_or(u32::MAX));
            tally.given_up += pending.len();
        }
    }

    /// Sends what is pending, and again what got lost or was told to come back, until all is answered or
    /// patience ends; what then is left stays in `pending`.
    async fn until_answered(
        &self,
        connection: &mut Option<Connection>,
        path: &str,
        pending: &mut Vec<&DeviceRequest>,
        tally: &mut Tally,
    ) {
        let give_up_at = Instant::now() + self.patience;
        let mut pause = Duration::from_millis(20);
        loop {
            let mut told = None;
            match self.once(connection, path, pending).await {
                Ok(reply) => {
                    told = told_to_wait(&reply);
                    self.read(&reply, pending, tally);
                }
                // Whether it was carried out is unknown, which is why the same request is sent again.
                Err(error) => {
                    *connection = None;
                    tally.first_refusal.get_or_insert_with(|| error.to_string());
                }
            }
            let wait = told.unwrap_or(pause);
            if pending.is_empty() || Instant::now() + wait >= give_up_at {
                return;
            }
            tally.resent += 1;
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// Sends a call once, on a new connection where there is none.
    async fn once(
        &self,
        connection: &mut Option<Connection>,
        path: &str,
        devices: &[&DeviceRequest],
    ) -> Result<Reply, ClientError> {
        let open = match connection {
            Some(open) => open,
            None => connection.insert(Connection::open(&self.api).await?),
        };
        open.send(self.call(path, devices)).await
    }

    /// Reads what an answer says of each device; those that are told to come back stay in `pending`.
    fn read(&self, reply: &Reply, pending: &mut Vec<&DeviceRequest>, tally: &mut Tally) {
        let text = String::from_utf8_lossy(&reply.body);
        let whole = !reply.status.is_success() || self.batch == 1;
        let rows: Vec<Value> = if whole {
            Vec::new()
        } else {
            text.lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                .collect()
        };
        let mut row = 0;
        pending.retain(|device| {
            let result = rows.get(row).unwrap_or(&Value::Null);
            row += 1;
            let problem = result.pointer("/problem/status").and_then(Value::as_u64);
            let status = match problem.and_then(|status| u16::try_from(status).ok()) {
                Some(status) => status,
                None => reply.status.as_u16(),
            };
            let pem = if whole {
                Some(text.as_ref())
            } else {
                result["chain"].as_str()
            };
            if status == StatusCode::SERVICE_UNAVAILABLE.as_u16() {
                return true;
            }
            if reply.status.is_success() && pem.is_some_and(|pem| holds_key(pem, &device.spki)) {
                tally.issued += 1;
            } else {
                let said = if whole {
                    text.to_string()
                } else {
                    result.to_string()
                };
                tally.refuse(status, || format!("{}: {said}", device.device_id));
            }
            false
        });
    }
}

/// How long the answer says to wait.
fn told_to_wait(reply: &Reply) -> Option<Duration> {
    let seconds = reply
        .headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

/// Whether the first certificate of a PEM text holds this public key.
pub fn holds_key(pem: &str, spki: &[u8]) -> bool {
    use base64ct::Encoding as _;
    let body = pem
        .split_once("-----BEGIN CERTIFICATE-----")
        .and_then(|(_, rest)| rest.split_once("-----END CERTIFICATE-----"))
        .map(|(body, _)| body.split_whitespace().collect::<String>());
    let der = body.and_then(|body| base64ct::Base64::decode_vec(&body).ok());
    der.is_some_and(|der| der.windows(spki.len()).any(|window| window == spki))
}
