//! Answers on the wire: a host's side of the protocol.

use std::collections::BTreeMap;

use super::{
    ATTRIBUTES_MAX, Answer, Body, Fault, MAGIC, PROTOCOL, TokenState, WireFault, frame, put_octets,
    put_text,
};
use crate::hsm::Reached;

/// The kind of `Welcome`.
const WELCOME: u8 = 129;
/// The kind of `State`.
const STATE: u8 = 130;
/// The kind of `Opened`.
const OPENED: u8 = 131;
/// The kind of `Signature`.
const SIGNATURE: u8 = 132;
/// The kind of `Generated`.
const GENERATED: u8 = 133;
/// The kind of `StillRunning`.
const STILL_RUNNING: u8 = 134;
/// The kind of `Failed`.
const FAILED: u8 = 135;

impl Answer {
    /// Appends this answer as a frame.
    pub fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Welcome => frame(out, WELCOME, |out| {
                out.extend_from_slice(MAGIC);
                out.extend_from_slice(&PROTOCOL.to_be_bytes());
            }),
            Self::State(state) => frame(out, STATE, |out| put_state(out, state)),
            Self::Opened { id, key, spki } => frame(out, OPENED, |out| {
                out.extend_from_slice(&id.to_be_bytes());
                out.extend_from_slice(&key.to_be_bytes());
                out.extend_from_slice(spki);
            }),
            Self::Signature { id, signature } => frame(out, SIGNATURE, |out| {
                out.extend_from_slice(&id.to_be_bytes());
                out.extend_from_slice(signature);
            }),
            Self::Generated {
                id,
                spki,
                attributes,
            } => frame(out, GENERATED, |out| {
                out.extend_from_slice(&id.to_be_bytes());
                put_octets(out, spki);
                let count = attributes.len().min(ATTRIBUTES_MAX);
                out.extend_from_slice(&u16::try_from(count).unwrap_or(0).to_be_bytes());
                for (name, value) in attributes.iter().take(count) {
                    put_text(out, name);
                    put_text(out, value);
                }
            }),
            Self::StillRunning { id, jobs } => frame(out, STILL_RUNNING, |out| {
                out.extend_from_slice(&id.to_be_bytes());
                out.extend_from_slice(&jobs.to_be_bytes());
            }),
            Self::Failed { id, fault } => frame(out, FAILED, |out| {
                out.extend_from_slice(&id.to_be_bytes());
                put_fault(out, fault);
            }),
        }
    }

    /// Reads an answer from its frame's kind and body.
    ///
    /// # Errors
    /// [`WireFault`]: cut the peer off.
    pub fn parse(kind: u8, body: &[u8]) -> Result<Self, WireFault> {
        let mut body = Body(body);
        let answer = match kind {
            WELCOME => {
                if &body.array::<8>()? != MAGIC {
                    return Err(WireFault::Body);
                }
                match body.short()? {
                    PROTOCOL => Self::Welcome,
                    other => return Err(WireFault::Version(other)),
                }
            }
            STATE => Self::State(state_of(&mut body)?),
            OPENED => Self::Opened {
                id: body.number()?,
                key: body.number()?,
                spki: body.rest().to_vec(),
            },
            SIGNATURE => Self::Signature {
                id: body.number()?,
                signature: body.rest().to_vec(),
            },
            GENERATED => Self::Generated {
                id: body.number()?,
                spki: body.octets()?.to_vec(),
                attributes: attributes_of(&mut body)?,
            },
            STILL_RUNNING => Self::StillRunning {
                id: body.number()?,
                jobs: body.number()?,
            },
            FAILED => Self::Failed {
                id: body.number()?,
                fault: fault_of(&mut body)?,
            },
            other => return Err(WireFault::Kind(other)),
        };
        body.end(answer)
    }
}

/// Appends a state.
fn put_state(out: &mut Vec<u8>, state: &TokenState) {
    match state {
        TokenState::Starting => out.push(0),
        TokenState::Ready => out.push(1),
        TokenState::PinRejected => out.push(2),
        TokenState::PinLocked => out.push(3),
        TokenState::Unavailable(cause) => {
            out.push(4);
            put_text(out, cause);
        }
    }
}

/// Reads a state.
fn state_of(body: &mut Body<'_>) -> Result<TokenState, WireFault> {
    Ok(match body.octet()? {
        0 => TokenState::Starting,
        1 => TokenState::Ready,
        2 => TokenState::PinRejected,
        3 => TokenState::PinLocked,
        4 => TokenState::Unavailable(body.text()?.to_owned()),
        _ => return Err(WireFault::Body),
    })
}

/// Reads attributes by name; a name twice is refused.
fn attributes_of(body: &mut Body<'_>) -> Result<BTreeMap<String, String>, WireFault> {
    let count = usize::from(body.short()?);
    if count > ATTRIBUTES_MAX {
        return Err(WireFault::Body);
    }
    let mut attributes = BTreeMap::new();
    for _ in 0..count {
        let name = body.text()?.to_owned();
        let value = body.text()?.to_owned();
        if attributes.insert(name, value).is_some() {
            return Err(WireFault::Body);
        }
    }
    Ok(attributes)
}

/// The code of how far a request got.
const fn reached_code(reached: Reached) -> u8 {
    match reached {
        Reached::No => 0,
        Reached::Maybe => 1,
    }
}

/// How far a request got, from its code.
const fn reached_of(code: u8) -> Result<Reached, WireFault> {
    match code {
        0 => Ok(Reached::No),
        1 => Ok(Reached::Maybe),
        _ => Err(WireFault::Body),
    }
}

/// Appends a fault.
fn put_fault(out: &mut Vec<u8>, fault: &Fault) {
    match fault {
        Fault::Busy => out.push(0),
        Fault::Unavailable { cause, reached } => {
            out.extend_from_slice(&[1, reached_code(*reached)]);
            put_text(out, cause);
        }
        Fault::PinRejected => out.push(2),
        Fault::PinLocked => out.push(3),
        Fault::KeyMissing => out.push(4),
        Fault::KeyAmbiguous { count } => {
            out.push(5);
            out.extend_from_slice(&count.to_be_bytes());
        }
        Fault::KeyUnfit { problem } => {
            out.push(6);
            put_text(out, problem);
        }
        Fault::Refused { cause, reached } => {
            out.extend_from_slice(&[7, reached_code(*reached)]);
            put_text(out, cause);
        }
        Fault::Deadline => out.push(8),
    }
}

/// Reads a fault.
fn fault_of(body: &mut Body<'_>) -> Result<Fault, WireFault> {
    Ok(match body.octet()? {
        0 => Fault::Busy,
        1 => Fault::Unavailable {
            reached: reached_of(body.octet()?)?,
            cause: body.text()?.to_owned(),
        },
        2 => Fault::PinRejected,
        3 => Fault::PinLocked,
        4 => Fault::KeyMissing,
        5 => Fault::KeyAmbiguous {
            count: body.number()?,
        },
        6 => Fault::KeyUnfit {
            problem: body.text()?.to_owned(),
        },
        7 => Fault::Refused {
            reached: reached_of(body.octet()?)?,
            cause: body.text()?.to_owned(),
        },
        8 => Fault::Deadline,
        _ => return Err(WireFault::Body),
    })
}
