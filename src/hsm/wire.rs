//! The protocol between the daemon and a token host: frames, requests, answers.
//!
//! Owns the encoding in both directions. Promises that no received octets make it panic or allocate more
//! than their own size, and that every length is bounded before it is believed. Never touches a socket.
//! Failure story: a peer that sends what is not a frame is cut off with a [`WireFault`]; both ends come
//! from one build, so this is a damaged installation or a stranger, and nothing to recover from.
//!
//! A frame is a length (4 octets, big-endian, of what follows), a kind (1 octet) and a body. Numbers are
//! big-endian; texts and octet strings carry their length before them, but for the last one of a body.

mod answer;

use std::collections::BTreeMap;

use certstatus::signature::SignatureAlgorithm;

use super::{HsmError, KeyAlgorithm, KeyPolicy, Reached};

/// The version of this protocol; host and daemon must have the same.
pub const PROTOCOL: u16 = 1;

/// What every connection starts with, so that a stranger's octets are recognised at once.
const MAGIC: &[u8; 8] = b"hallmark";

/// The largest part of a TBS in one frame, in octets: bounds what a reader must hold at once.
pub const PART_BYTES_MAX: usize = 1024 * 1024;

/// The largest frame in octets, its length field not counted: one part and its header.
pub const FRAME_BYTES_MAX: usize = PART_BYTES_MAX + 64;

/// The largest TBS in octets: a CRL with a million entries has about 40 MB.
pub const TBS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The longest text in octets: labels, causes, attribute names.
const TEXT_BYTES_MAX: usize = 2048;

/// The attributes that an answer to `Generate` may hold.
const ATTRIBUTES_MAX: usize = 64;

/// Octets before a frame's kind.
const LENGTH_BYTES: usize = 4;

/// Why a peer's octets are not frames of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireFault {
    /// A frame is longer than [`FRAME_BYTES_MAX`] or empty.
    #[error("a frame of {0} octets, which no peer of this version sends")]
    Length(usize),
    /// The kind is unknown or unexpected here.
    #[error("a frame of the unknown kind {0}")]
    Kind(u8),
    /// The body does not fit its kind.
    #[error("a frame whose body does not fit its kind")]
    Body,
    /// The peer speaks another version.
    #[error(
        "the peer speaks version {0} of the token protocol, this is version {PROTOCOL}: install both from one build"
    )]
    Version(u16),
}

/// What the daemon asks of a host.
#[derive(Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// The first frame of a connection.
    Hello,
    /// Find, check and hold a key.
    OpenKey {
        /// The request's number, for its answer.
        id: u32,
        /// The key's label.
        label: &'a str,
        /// What it signs with.
        algorithm: SignatureAlgorithm,
        /// SHA-256 of its SubjectPublicKeyInfo.
        spki_sha256: [u8; 32],
    },
    /// Sign a TBS, or the beginning of one.
    Sign {
        /// The request's number.
        id: u32,
        /// The number that `Opened` gave.
        key: u32,
        /// The whole TBS's length in octets.
        total: u32,
        /// Its first octets: all of them, or [`PART_BYTES_MAX`].
        part: &'a [u8],
    },
    /// The next octets of a TBS.
    More {
        /// The number of the `Sign` that it continues.
        id: u32,
        /// At most [`PART_BYTES_MAX`] octets.
        part: &'a [u8],
    },
    /// Make a key pair (ceremony only).
    Generate {
        /// The request's number.
        id: u32,
        /// The label, which must be free.
        label: &'a str,
        /// The kind of key.
        algorithm: KeyAlgorithm,
        /// How far it may leave the token.
        policy: KeyPolicy,
    },
    /// End every other connection, drop its queue, and tell how many of its jobs still run.
    TakeOver {
        /// The request's number.
        id: u32,
    },
}

/// What a host says to the daemon.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The answer to `Hello`.
    Welcome,
    /// The token's state, after `Welcome` and at each change.
    State(TokenState),
    /// The answer to `OpenKey`.
    Opened {
        /// The request's number.
        id: u32,
        /// What `Sign` names the key by, on this connection.
        key: u32,
        /// The DER SubjectPublicKeyInfo.
        spki: Vec<u8>,
    },
    /// The answer to `Sign`.
    Signature {
        /// The request's number.
        id: u32,
        /// The signature in X.509 form.
        signature: Vec<u8>,
    },
    /// The answer to `Generate`.
    Generated {
        /// The request's number.
        id: u32,
        /// The DER SubjectPublicKeyInfo.
        spki: Vec<u8>,
        /// The attributes read back, by CKA name.
        attributes: BTreeMap<String, String>,
    },
    /// The answer to `TakeOver`.
    StillRunning {
        /// The request's number.
        id: u32,
        /// Jobs of ended connections that sessions still work on.
        jobs: u32,
    },
    /// Any request's failure.
    Failed {
        /// The request's number.
        id: u32,
        /// Why.
        fault: Fault,
    },
}

/// What a worker can do for the daemon now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenState {
    /// Loading the library, looking for the token, logging in.
    Starting,
    /// Logged in.
    Ready,
    /// The PIN was rejected and is not tried again.
    PinRejected,
    /// The PIN is locked.
    PinLocked,
    /// Not usable now, and why.
    Unavailable(String),
}

/// A failure as it crosses the socket: an [`HsmError`] without the names that the daemon knows better.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The queue is full.
    Busy,
    /// No token, or it went away.
    Unavailable {
        /// The C_ function and CKR name, or the system's error.
        cause: String,
        /// Whether the request may have reached the token.
        reached: Reached,
    },
    /// The PIN was rejected.
    PinRejected,
    /// The PIN is locked.
    PinLocked,
    /// No such key.
    KeyMissing,
    /// Too many such keys.
    KeyAmbiguous {
        /// How many.
        count: u32,
    },
    /// Not fit to be a CA key.
    KeyUnfit {
        /// Which attribute.
        problem: String,
    },
    /// The token refused, or the host did.
    Refused {
        /// The C_ function and CKR name, or the rule.
        cause: String,
        /// Whether the request may have reached the token.
        reached: Reached,
    },
    /// The operation took longer than it may.
    Deadline,
}

impl Fault {
    /// Unavailable, and the token has provably not seen the request.
    pub fn unavailable(cause: impl Into<String>) -> Self {
        Self::Unavailable {
            cause: cause.into(),
            reached: Reached::No,
        }
    }

    /// Unavailable, and a signature may exist.
    pub fn lost(cause: impl Into<String>) -> Self {
        Self::Unavailable {
            cause: cause.into(),
            reached: Reached::Maybe,
        }
    }

    /// Refused before the token saw it.
    pub fn refused(cause: impl Into<String>) -> Self {
        Self::Refused {
            cause: cause.into(),
            reached: Reached::No,
        }
    }

    /// The error that callers of this module see.
    pub fn into_error(self, token: &str, label: &str) -> HsmError {
        let token = token.to_owned();
        let label = label.to_owned();
        match self {
            Self::Busy => HsmError::Busy { token },
            Self::Unavailable { cause, reached } => HsmError::Unavailable {
                token,
                cause,
                reached,
            },
            Self::PinRejected => HsmError::PinRejected { token },
            Self::PinLocked => HsmError::PinLocked { token },
            Self::KeyMissing => HsmError::KeyMissing { token, label },
            Self::KeyAmbiguous { count } => HsmError::KeyAmbiguous {
                token,
                label,
                count: usize::try_from(count).unwrap_or(usize::MAX),
            },
            Self::KeyUnfit { problem } => HsmError::KeyUnfit {
                token,
                label,
                problem,
            },
            Self::Refused { cause, reached } => HsmError::Refused {
                token,
                cause,
                reached,
            },
            Self::Deadline => HsmError::Deadline { token },
        }
    }
}

impl TokenState {
    /// Why nothing can be asked of the token in this state; none when it is ready.
    pub fn fault(&self) -> Option<Fault> {
        match self {
            Self::Ready => None,
            Self::Starting => Some(Fault::unavailable("the token host is logging in")),
            Self::PinRejected => Some(Fault::PinRejected),
            Self::PinLocked => Some(Fault::PinLocked),
            Self::Unavailable(cause) => Some(Fault::unavailable(cause.as_str())),
        }
    }
}

//------ Framing ----

/// A whole frame at the front of received octets.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it says.
    pub kind: u8,
    /// The rest of it.
    pub body: &'a [u8],
    /// The octets that it took, with its length field.
    pub length: usize,
}

/// The first frame of `octets`; none if it is not whole yet.
///
/// # Errors
/// [`WireFault::Length`]: cut the peer off.
pub fn split_frame(octets: &[u8]) -> Result<Option<Frame<'_>>, WireFault> {
    let Some((length, rest)) = octets.split_first_chunk::<LENGTH_BYTES>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length == 0 || length > FRAME_BYTES_MAX {
        return Err(WireFault::Length(length));
    }
    Ok(rest
        .get(..length)
        .and_then(<[u8]>::split_first)
        .map(|(kind, body)| Frame {
            kind: *kind,
            body,
            length: LENGTH_BYTES + length,
        }))
}

/// Appends one frame, whose body `write` appends.
fn frame(out: &mut Vec<u8>, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    out.push(kind);
    write(out);
    let length = u32::try_from(out.len() - start - LENGTH_BYTES).unwrap_or(u32::MAX);
    if let Some(place) = out
        .get_mut(start..)
        .and_then(<[u8]>::first_chunk_mut::<LENGTH_BYTES>)
    {
        *place = length.to_be_bytes();
    }
}

/// Appends a text with its length (2 octets), cut at a character's border when it is too long.
fn put_text(out: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let cut = text.get(..end).unwrap_or_default();
    out.extend_from_slice(&u16::try_from(cut.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(cut.as_bytes());
}

/// Appends octets with their length (4 octets).
fn put_octets(out: &mut Vec<u8>, octets: &[u8]) {
    out.extend_from_slice(&u32::try_from(octets.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(octets);
}

/// Reads a body from its front.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    /// The next `N` octets.
    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireFault> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(WireFault::Body)?;
        self.0 = rest;
        Ok(*head)
    }

    /// The next octet.
    fn octet(&mut self) -> Result<u8, WireFault> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    /// The next number of 2 octets.
    fn short(&mut self) -> Result<u16, WireFault> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// The next number of 4 octets.
    fn number(&mut self) -> Result<u32, WireFault> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// The next `count` octets.
    fn take(&mut self, count: usize) -> Result<&'a [u8], WireFault> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(WireFault::Body)?;
        self.0 = rest;
        Ok(head)
    }

    /// The next text.
    fn text(&mut self) -> Result<&'a str, WireFault> {
        let length = usize::from(self.short()?);
        if length > TEXT_BYTES_MAX {
            return Err(WireFault::Body);
        }
        std::str::from_utf8(self.take(length)?).map_err(|_| WireFault::Body)
    }

    /// The next octet string.
    fn octets(&mut self) -> Result<&'a [u8], WireFault> {
        let length = usize::try_from(self.number()?).map_err(|_| WireFault::Body)?;
        self.take(length)
    }

    /// Whatever is left.
    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// The value, if the body was read to its end.
    fn end<T>(&self, value: T) -> Result<T, WireFault> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(WireFault::Body)
        }
    }
}

//------ Requests ----

/// The kind of `Hello`.
const HELLO: u8 = 1;
/// The kind of `OpenKey`.
const OPEN_KEY: u8 = 2;
/// The kind of `Sign`.
const SIGN: u8 = 3;
/// The kind of `More`.
const MORE: u8 = 4;
/// The kind of `Generate`.
const GENERATE: u8 = 5;
/// The kind of `TakeOver`.
const TAKE_OVER: u8 = 6;

/// Appends `Hello`.
pub fn put_hello(out: &mut Vec<u8>) {
    frame(out, HELLO, |out| {
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&PROTOCOL.to_be_bytes());
    });
}

/// Appends `OpenKey`.
pub fn put_open_key(
    out: &mut Vec<u8>,
    id: u32,
    label: &str,
    algorithm: SignatureAlgorithm,
    spki_sha256: &[u8; 32],
) {
    frame(out, OPEN_KEY, |out| {
        out.extend_from_slice(&id.to_be_bytes());
        out.push(signature_code(algorithm));
        out.extend_from_slice(spki_sha256);
        put_text(out, label);
    });
}

/// Appends `Sign` and, where the TBS is longer than [`PART_BYTES_MAX`], as many `More` as it takes.
pub fn put_sign(out: &mut Vec<u8>, id: u32, key: u32, tbs: &[u8]) {
    let (first, rest) = tbs.split_at(tbs.len().min(PART_BYTES_MAX));
    frame(out, SIGN, |out| {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&key.to_be_bytes());
        out.extend_from_slice(&u32::try_from(tbs.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(first);
    });
    for part in rest.chunks(PART_BYTES_MAX) {
        frame(out, MORE, |out| {
            out.extend_from_slice(&id.to_be_bytes());
            out.extend_from_slice(part);
        });
    }
}

/// Appends `Generate`.
pub fn put_generate(
    out: &mut Vec<u8>,
    id: u32,
    label: &str,
    algorithm: KeyAlgorithm,
    policy: KeyPolicy,
) {
    frame(out, GENERATE, |out| {
        out.extend_from_slice(&id.to_be_bytes());
        out.push(algorithm_code(algorithm));
        out.push(match policy {
            KeyPolicy::NeverExtractable => 0,
            KeyPolicy::WrapWithTrusted => 1,
        });
        put_text(out, label);
    });
}

/// Appends `TakeOver`.
pub fn put_take_over(out: &mut Vec<u8>, id: u32) {
    frame(out, TAKE_OVER, |out| {
        out.extend_from_slice(&id.to_be_bytes())
    });
}

impl<'a> Request<'a> {
    /// Reads a request from its frame's kind and body.
    ///
    /// # Errors
    /// [`WireFault`]: cut the peer off.
    pub fn parse(kind: u8, body: &'a [u8]) -> Result<Self, WireFault> {
        let mut body = Body(body);
        let request = match kind {
            HELLO => {
                if &body.array::<8>()? != MAGIC {
                    return Err(WireFault::Body);
                }
                match body.short()? {
                    PROTOCOL => Self::Hello,
                    // The rest of the body belongs to a version that this one cannot read.
                    other => return Err(WireFault::Version(other)),
                }
            }
            OPEN_KEY => Self::OpenKey {
                id: body.number()?,
                algorithm: signature_of(body.octet()?)?,
                spki_sha256: body.array()?,
                label: body.text()?,
            },
            SIGN => Self::Sign {
                id: body.number()?,
                key: body.number()?,
                total: body.number()?,
                part: body.rest(),
            },
            MORE => Self::More {
                id: body.number()?,
                part: body.rest(),
            },
            GENERATE => Self::Generate {
                id: body.number()?,
                algorithm: algorithm_of(body.octet()?)?,
                policy: match body.octet()? {
                    0 => KeyPolicy::NeverExtractable,
                    1 => KeyPolicy::WrapWithTrusted,
                    _ => return Err(WireFault::Body),
                },
                label: body.text()?,
            },
            TAKE_OVER => Self::TakeOver { id: body.number()? },
            other => return Err(WireFault::Kind(other)),
        };
        body.end(request)
    }
}

/// The code of a signature algorithm on the wire.
const fn signature_code(algorithm: SignatureAlgorithm) -> u8 {
    match algorithm {
        SignatureAlgorithm::EcdsaSha256 => 1,
        SignatureAlgorithm::EcdsaSha384 => 2,
        SignatureAlgorithm::EcdsaSha512 => 3,
        SignatureAlgorithm::RsaPkcs1Sha256 => 4,
        SignatureAlgorithm::RsaPkcs1Sha384 => 5,
        SignatureAlgorithm::RsaPkcs1Sha512 => 6,
        SignatureAlgorithm::RsaPssSha256 => 7,
        SignatureAlgorithm::RsaPssSha384 => 8,
        SignatureAlgorithm::RsaPssSha512 => 9,
        SignatureAlgorithm::Ed25519 => 10,
    }
}

/// The signature algorithm with a code.
const fn signature_of(code: u8) -> Result<SignatureAlgorithm, WireFault> {
    Ok(match code {
        1 => SignatureAlgorithm::EcdsaSha256,
        2 => SignatureAlgorithm::EcdsaSha384,
        3 => SignatureAlgorithm::EcdsaSha512,
        4 => SignatureAlgorithm::RsaPkcs1Sha256,
        5 => SignatureAlgorithm::RsaPkcs1Sha384,
        6 => SignatureAlgorithm::RsaPkcs1Sha512,
        7 => SignatureAlgorithm::RsaPssSha256,
        8 => SignatureAlgorithm::RsaPssSha384,
        9 => SignatureAlgorithm::RsaPssSha512,
        10 => SignatureAlgorithm::Ed25519,
        _ => return Err(WireFault::Body),
    })
}

/// The code of a key algorithm on the wire.
const fn algorithm_code(algorithm: KeyAlgorithm) -> u8 {
    match algorithm {
        KeyAlgorithm::EcdsaP256 => 1,
        KeyAlgorithm::EcdsaP384 => 2,
        KeyAlgorithm::Rsa3072 => 3,
        KeyAlgorithm::Rsa4096 => 4,
        KeyAlgorithm::Rsa3072Pss => 5,
        KeyAlgorithm::Rsa4096Pss => 6,
        KeyAlgorithm::Ed25519 => 7,
    }
}

/// The key algorithm with a code.
const fn algorithm_of(code: u8) -> Result<KeyAlgorithm, WireFault> {
    Ok(match code {
        1 => KeyAlgorithm::EcdsaP256,
        2 => KeyAlgorithm::EcdsaP384,
        3 => KeyAlgorithm::Rsa3072,
        4 => KeyAlgorithm::Rsa4096,
        5 => KeyAlgorithm::Rsa3072Pss,
        6 => KeyAlgorithm::Rsa4096Pss,
        7 => KeyAlgorithm::Ed25519,
        _ => return Err(WireFault::Body),
    })
}

#[cfg(test)]
mod tests;
