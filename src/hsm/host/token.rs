//! The token: loading the library, finding the token, logging in, opening sessions.
//!
//! Owns the vendor's library for this worker's life. Promises that C_Login is called at most once in a
//! worker, never with the last try that a token admits to, and never again after a rejection. Never calls
//! C_Finalize: under load it crashes libraries, and the worker's end does its work. Failure story: every
//! failure here ends the worker or leaves it answering one verdict; the host starts the next.

use std::path::Path;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::MechanismType;
use cryptoki::session::{Session, UserType};
use cryptoki::slot::{Limit, Slot, TokenInfo};
use cryptoki::types::RawAuthPin;
use zeroize::Zeroizing;

use super::args::Purpose;
use super::memory::Memory;
use super::verdict::{Verdict, cause, judge};
use crate::config::Token;
use crate::hsm::wire::TokenState;
use crate::secret;

/// The longest PIN in octets: longer than any token takes, so a wrong file is told from a PIN.
const PIN_BYTES_MAX: usize = 256;

/// A logged-in token.
pub struct LoggedIn {
    /// One session for each thread.
    pub sessions: Vec<Session>,
    /// Keeps the login while threads come and go: it dies with the last session. None where the token
    /// has but one session.
    pub anchor: Option<Session>,
    /// The mechanisms that it offers.
    pub mechanisms: Vec<MechanismType>,
}

/// Why there is no logged-in token.
#[derive(Debug, PartialEq, Eq)]
pub struct NotLoggedIn {
    /// What the daemon is told.
    pub state: TokenState,
    /// What the host must remember.
    pub memory: Memory,
}

impl NotLoggedIn {
    /// Not available now; the next worker may find it so.
    fn unavailable(cause: impl Into<String>) -> Self {
        Self {
            state: TokenState::Unavailable(cause.into()),
            memory: Memory::Nothing,
        }
    }

    /// A call of the library that failed outside of C_Login.
    fn failed(error: &Error) -> Self {
        Self::unavailable(cause(error))
    }
}

/// What a library that refuses to start without saying why most likely lacks.
const GENERAL_ERROR: &str = "C_Initialize: CKR_GENERAL_ERROR; the library does not find its own configuration or \
     storage. SoftHSM2 reads the file that SOFTHSM2_CONF names in the token host's environment, and this user \
     must be able to read and write the directories.tokendir in it";

/// A library that is loaded and a slot that holds the token.
pub struct Found {
    /// The library.
    library: Pkcs11,
    /// The slot.
    slot: Slot,
    /// What the token says of itself.
    told: TokenInfo,
}

/// Loads the library and finds the token by label and serial.
///
/// # Errors
/// [`NotLoggedIn`]: the token is not there, or the library is not.
pub fn find(token: &Token) -> Result<Found, NotLoggedIn> {
    let failed = |error: Error| NotLoggedIn::failed(&error);
    let library = Pkcs11::new(&token.module).map_err(failed)?;
    match library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        // A module that is loaded as part of another one may have been started already.
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(Error::Pkcs11(RvError::GeneralError, _)) => {
            return Err(NotLoggedIn::unavailable(GENERAL_ERROR.to_owned()));
        }
        Err(error) => return Err(failed(error)),
    }
    let mut matches = Vec::new();
    let mut present = Vec::new();
    for slot in library.get_slots_with_token().map_err(failed)? {
        // A slot whose token cannot be asked is not ours to judge: another's reader may be broken.
        let Ok(told) = library.get_token_info(slot) else {
            continue;
        };
        if told.label() == token.label && told.serial_number() == token.serial {
            matches.push((slot, told));
        } else if told.token_initialized() {
            present.push(format!("{:?} ({})", told.label(), told.serial_number()));
        }
    }
    let mut matches = matches.into_iter();
    match (matches.next(), matches.next()) {
        (Some((slot, told)), None) => Ok(Found {
            library,
            slot,
            told,
        }),
        (Some(_), Some(_)) => Err(NotLoggedIn::unavailable(format!(
            "more than one slot holds a token {:?} with serial {}: remove one",
            token.label, token.serial
        ))),
        (None, _) => Err(NotLoggedIn::unavailable(format!(
            "no slot holds the token {:?} with serial {}; there are: {} (SoftHSM2 looks where the file says \
             that SOFTHSM2_CONF names in the token host's environment)",
            token.label,
            token.serial,
            if present.is_empty() {
                "none".to_owned()
            } else {
                present.join(", ")
            }
        ))),
    }
}

impl Found {
    /// Logs in, once, and opens up to `wanted` sessions.
    ///
    /// `before_login` is called right before C_Login: if the worker dies in it, the host knows.
    ///
    /// # Errors
    /// [`NotLoggedIn`], with what the host must remember.
    pub fn log_in(
        self,
        token: &Token,
        purpose: Purpose,
        memory: Memory,
        before_login: impl FnOnce(),
    ) -> Result<LoggedIn, NotLoggedIn> {
        let anchor = self
            .open(purpose)
            .map_err(|error| NotLoggedIn::failed(&error))?;
        if self.told.login_required() {
            self.may_log_in(memory)?;
            let mut pin = read_pin(&token.pin_file)?;
            // Moved, not copied: the allocation is wiped when it is dropped.
            let pin = RawAuthPin::new(Box::new(std::mem::take(&mut *pin)));
            before_login();
            match anchor.login_with_raw(UserType::User, &pin) {
                // Logged in is what was wanted; some libraries share a login between processes.
                Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
                Err(error) => return Err(rejected(&error, memory)),
            }
        }
        let mechanisms = self
            .library
            .get_mechanism_list(self.slot)
            .map_err(|error| NotLoggedIn::failed(&error))?;
        let (sessions, anchor) = self.open_sessions(anchor, token.sessions, purpose)?;
        Ok(LoggedIn {
            sessions,
            anchor,
            mechanisms,
        })
    }

    /// Whether a PIN may be tried.
    fn may_log_in(&self, memory: Memory) -> Result<(), NotLoggedIn> {
        if self.told.user_pin_locked() {
            return Err(NotLoggedIn {
                state: TokenState::PinLocked,
                memory: Memory::PinLocked,
            });
        }
        if self.told.user_pin_final_try() {
            // No memory: the flag itself remembers, and goes away when an operator has logged in.
            return Err(NotLoggedIn::unavailable(
                "one more wrong PIN locks the token, and the host does not use the last try: check \
                 pin_file, then log in once with the vendor's tool",
            ));
        }
        // An attempt of which nobody heard the end, and the token counts a wrong PIN: it was ours.
        if memory.is_unclear() && self.told.user_pin_count_low() {
            return Err(NotLoggedIn {
                state: TokenState::PinRejected,
                memory: Memory::PinRejected,
            });
        }
        if let Some(tries) = memory.tries_used_up() {
            return Err(NotLoggedIn {
                state: TokenState::Unavailable(given_up(tries)),
                memory,
            });
        }
        Ok(())
    }

    /// Opens a session as the purpose needs it.
    fn open(&self, purpose: Purpose) -> Result<Session, Error> {
        match purpose {
            Purpose::Service => self.library.open_ro_session(self.slot),
            Purpose::Ceremony => self.library.open_rw_session(self.slot),
        }
    }

    /// Opens the threads' sessions, as many as configured and as the token gives beside the anchor.
    fn open_sessions(
        &self,
        anchor: Session,
        wanted: u16,
        purpose: Purpose,
    ) -> Result<(Vec<Session>, Option<Session>), NotLoggedIn> {
        let limit = match purpose {
            Purpose::Service => self.told.max_session_count(),
            Purpose::Ceremony => self.told.max_rw_session_count(),
        };
        let wanted = u64::from(wanted.max(1));
        let count = match limit {
            Limit::Max(most) => wanted.min(most.saturating_sub(1)),
            Limit::Unavailable | Limit::Infinite => wanted,
        };
        let mut sessions = Vec::new();
        for _ in 0..count {
            match self.open(purpose) {
                Ok(session) => sessions.push(session),
                // Other programs hold sessions too: go on with what there is.
                Err(error) if judge(&error).verdict == Verdict::Busy => break,
                Err(error) => return Err(NotLoggedIn::failed(&error)),
            }
        }
        if sessions.is_empty() {
            // A card with a single session: the login's own does the work.
            return Ok((vec![anchor], None));
        }
        Ok((sessions, Some(anchor)))
    }
}

/// What a failed C_Login means.
fn rejected(error: &Error, memory: Memory) -> NotLoggedIn {
    if let Error::Pkcs11(RvError::UserPinNotInitialized, _) = error {
        // There is no PIN that could be wrong, so nothing is counted: once one is set, the next worker finds it.
        let cause = cause(error);
        return NotLoggedIn {
            state: TokenState::Unavailable(format!(
                "{cause}: the token has no user PIN; set it with the vendor's tool"
            )),
            memory,
        };
    }
    match judge(error).verdict {
        Verdict::PinRejected => NotLoggedIn {
            state: TokenState::PinRejected,
            memory: Memory::PinRejected,
        },
        Verdict::PinLocked => NotLoggedIn {
            state: TokenState::PinLocked,
            memory: Memory::PinLocked,
        },
        // Some tokens report a wrong PIN as a general error, so this counts as a try.
        Verdict::Busy | Verdict::Leave | Verdict::Refused => {
            let memory = memory.after_unclear_login();
            let cause = cause(error);
            NotLoggedIn {
                state: TokenState::Unavailable(match memory.tries_used_up() {
                    Some(tries) => format!("{cause}; {}", given_up(tries)),
                    None => cause,
                }),
                memory,
            }
        }
    }
}

/// Why C_Login is not called any more.
fn given_up(tries: u8) -> String {
    format!(
        "C_Login failed {tries} times without saying why; it is not tried again, as each try may count as \
         a wrong PIN: check the token, then restart the token host"
    )
}

/// Reads the PIN: the file's octets but for one newline at the end, and no control characters: what an editor
/// added would be tried as part of the PIN, and tries are few.
fn read_pin(path: &Path) -> Result<Zeroizing<Vec<u8>>, NotLoggedIn> {
    let unreadable = |problem: String| {
        NotLoggedIn::unavailable(format!("pin_file {} {problem}", path.display()))
    };
    let mut pin =
        secret::read(path, PIN_BYTES_MAX + 1).map_err(|refused| unreadable(refused.to_string()))?;
    if pin.last() == Some(&b'\n') {
        pin.pop();
    }
    if pin.is_empty() || pin.len() > PIN_BYTES_MAX {
        return Err(unreadable(format!(
            "must hold the PIN, 1 to {PIN_BYTES_MAX} octets, and at most a newline after it"
        )));
    }
    if pin.iter().any(u8::is_ascii_control) {
        return Err(unreadable(
            "must be one line: it has a line break, a carriage return or another control character inside"
                .to_owned(),
        ));
    }
    Ok(pin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryptoki::context::Function;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_pin_file_loses_one_newline_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin");
        for (content, pin) in [
            (&b"1234"[..], Some(&b"1234"[..])),
            (b"1234\n", Some(b"1234")),
            (b" 12 \n", Some(b" 12 ")),
            (b" 12 \n\n", None),
            (b"1234\r\n", None),
            (b"1234\n5678\n", None),
            (b"", None),
            (b"\n", None),
            (&[b'1'; 300], None),
        ] {
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            let read = read_pin(&path).ok();
            assert_eq!(read.as_ref().map(|pin| pin.as_slice()), pin);
        }
        let missing = read_pin(&dir.path().join("none")).err().unwrap();
        assert!(matches!(missing.state, TokenState::Unavailable(_)));
    }

    #[test]
    fn a_login_of_unknown_outcome_is_counted_and_a_rejection_remembered() {
        let failed = |code| Error::Pkcs11(code, Function::Login);
        assert_eq!(
            rejected(&failed(RvError::PinIncorrect), Memory::Nothing).memory,
            Memory::PinRejected
        );
        assert_eq!(
            rejected(&failed(RvError::PinLocked), Memory::Nothing).memory,
            Memory::PinLocked
        );
        for before in [Memory::Nothing, Memory::Unclear(1)] {
            let unset = rejected(&failed(RvError::UserPinNotInitialized), before);
            assert_eq!(unset.memory, before);
            assert!(matches!(unset.state, TokenState::Unavailable(_)));
        }
        let once = rejected(&failed(RvError::GeneralError), Memory::Nothing).memory;
        assert!(once.is_unclear());
        assert_eq!(once.tries_used_up(), None);
        let twice = rejected(&failed(RvError::DeviceError), once).memory;
        assert_eq!(twice.tries_used_up(), Some(2));
    }
}
