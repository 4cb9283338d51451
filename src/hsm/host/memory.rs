//! What a host remembers from worker to worker about the PIN.
//!
//! Owns the one fact that must outlive a worker: whether its C_Login may be repeated. Promises that a
//! rejection is final for the host's life. It is handed to the next worker as a hidden argument.

use std::fmt;
use std::str::FromStr;

/// Attempts of C_Login without a clear answer that a host makes: tokens lock after three or more.
const UNCLEAR_LOGINS_MAX: u8 = 2;

/// What the workers before this one learnt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Memory {
    /// Nothing that stands in the way.
    #[default]
    Nothing,
    /// The PIN was rejected.
    PinRejected,
    /// The PIN is locked.
    PinLocked,
    /// So many attempts to log in failed without a clear answer, or their worker died in them.
    Unclear(u8),
}

impl Memory {
    /// Whether an attempt ended without a clear answer.
    pub const fn is_unclear(self) -> bool {
        matches!(self, Self::Unclear(_))
    }

    /// The number of unclear attempts, if no further one may be made.
    pub const fn tries_used_up(self) -> Option<u8> {
        match self {
            Self::Unclear(tries) if tries >= UNCLEAR_LOGINS_MAX => Some(tries),
            _ => None,
        }
    }

    /// After one more attempt without a clear answer.
    #[must_use]
    pub const fn after_unclear_login(self) -> Self {
        match self {
            Self::Unclear(tries) => Self::Unclear(tries.saturating_add(1)),
            Self::Nothing => Self::Unclear(1),
            verdict @ (Self::PinRejected | Self::PinLocked) => verdict,
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::PinRejected => f.write_str("pin-rejected"),
            Self::PinLocked => f.write_str("pin-locked"),
            Self::Unclear(tries) => write!(f, "unclear-{tries}"),
        }
    }
}

impl FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "nothing" => Ok(Self::Nothing),
            "pin-rejected" => Ok(Self::PinRejected),
            "pin-locked" => Ok(Self::PinLocked),
            other => other
                .strip_prefix("unclear-")
                .and_then(|tries| tries.parse().ok())
                .map(Self::Unclear)
                .ok_or_else(|| format!("{other:?} is not something that a host remembers")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_survives_its_way_through_an_argument() {
        for memory in [
            Memory::Nothing,
            Memory::PinRejected,
            Memory::PinLocked,
            Memory::Unclear(1),
            Memory::Unclear(255),
        ] {
            assert_eq!(memory.to_string().parse(), Ok(memory));
        }
        assert!("unclear-x".parse::<Memory>().is_err());
    }

    #[test]
    fn a_rejection_is_never_forgotten() {
        assert_eq!(
            Memory::PinRejected.after_unclear_login(),
            Memory::PinRejected
        );
        assert_eq!(Memory::PinLocked.after_unclear_login(), Memory::PinLocked);
        assert_eq!(
            Memory::Unclear(255).after_unclear_login(),
            Memory::Unclear(255)
        );
    }
}
