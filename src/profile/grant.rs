//! What a grant says that can stand in a certificate.
//!
//! Owns the check that a grant and a profile are for the same purpose: a unit of a device order can never
//! be spent on a line's, a server's or a responder's certificate, whatever profile the order names.

use super::ProfilePurpose;
use super::rule::Field;
use crate::ra::{Grant, GrantKind, Purpose};

/// The fields of a grant.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Granted<'a> {
    /// The device id of a unit.
    device_id: Option<&'a str>,
    /// The order of a unit.
    order: Option<&'a str>,
    /// The line that asks, or the line or reader that is certified.
    line: Option<&'a str>,
    /// The responder that is certified.
    responder: Option<&'a str>,
    /// The names of the server that is certified.
    server_names: &'a [String],
}

impl<'a> Granted<'a> {
    /// Reads a grant, which must be for this purpose.
    pub fn of(grant: &'a Grant, profile: ProfilePurpose) -> Result<Self, String> {
        let (purpose, granted) = match &grant.0 {
            GrantKind::Unit {
                order,
                line,
                device_id,
                ..
            } => (
                Some(ProfilePurpose::Device),
                Self {
                    device_id: Some(device_id),
                    order: Some(order.as_str()),
                    line: Some(line.as_str()),
                    ..Self::default()
                },
            ),
            GrantKind::LineRenewal { line, .. }
            | GrantKind::Act {
                purpose: Purpose::Line(line),
                ..
            } => (
                Some(ProfilePurpose::Line),
                Self {
                    line: Some(line.as_str()),
                    ..Self::default()
                },
            ),
            // One profile for all who authenticate by mTLS: who may do what, the registry says and no certificate.
            GrantKind::Act {
                purpose: Purpose::Reader(reader),
                ..
            } => (
                Some(ProfilePurpose::Line),
                Self {
                    line: Some(reader.name.as_str()),
                    ..Self::default()
                },
            ),
            GrantKind::Act {
                purpose: Purpose::Server(names),
                ..
            } => (
                Some(ProfilePurpose::Server),
                Self {
                    server_names: names,
                    ..Self::default()
                },
            ),
            GrantKind::Act {
                purpose: Purpose::Responder(responder),
                ..
            } => (
                Some(ProfilePurpose::OcspSigning),
                Self {
                    responder: Some(responder.as_str()),
                    ..Self::default()
                },
            ),
            GrantKind::Act { .. } => (None, Self::default()),
        };
        if purpose == Some(profile) {
            return Ok(granted);
        }
        Err(match purpose {
            Some(purpose) => {
                format!("it is for purpose {profile}, but the grant is for purpose {purpose}")
            }
            None => {
                format!("it is for purpose {profile}, but the grant is for no such certificate")
            }
        })
    }

    /// The value of a field, if the grant has it.
    pub fn value(&self, field: Field) -> Option<&'a str> {
        match field {
            Field::DeviceId => self.device_id,
            Field::Order => self.order,
            Field::Line => self.line,
            Field::Responder => self.responder,
            Field::ServerName => self.server_names.first().map(String::as_str),
        }
    }

    /// The names of the server.
    pub const fn server_names(&self) -> &'a [String] {
        self.server_names
    }
}

impl ProfilePurpose {
    /// The fields that a grant for this purpose has.
    pub(super) const fn fields(self) -> &'static [Field] {
        match self {
            Self::Device => &[Field::DeviceId, Field::Order, Field::Line],
            Self::Line => &[Field::Line],
            Self::Server => &[Field::ServerName],
            Self::OcspSigning => &[Field::Responder],
        }
    }

    /// The field that says whose certificate it is.
    pub(super) const fn holder(self) -> Field {
        match self {
            Self::Device => Field::DeviceId,
            Self::Line => Field::Line,
            Self::Server => Field::ServerName,
            Self::OcspSigning => Field::Responder,
        }
    }
}

impl std::fmt::Display for ProfilePurpose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Device => "device",
            Self::Line => "line",
            Self::Server => "server",
            Self::OcspSigning => "ocsp-signing",
        })
    }
}
