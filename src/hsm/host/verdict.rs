//! What each PKCS#11 return code means for the worker and for the daemon.
//!
//! Owns the one exhaustive match over the codes: a code that the library adds breaks the build until
//! somebody has thought about it. Promises that a PIN's rejection never reads as something to retry, and
//! that a failed C_Sign never reads as "no signature exists". Never calls the token.

use std::borrow::Cow;

use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};

use crate::hsm::Reached;
use crate::hsm::wire::Fault;

/// What to do after a return code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The token is short of something that running jobs give back: try again soon.
    Busy,
    /// The library or the token is in a state that only a new C_Initialize ends: the worker leaves.
    Leave,
    /// The PIN is wrong: never tried again by this host.
    PinRejected,
    /// The PIN is locked.
    PinLocked,
    /// This request will not succeed, however often it is made; others may.
    Refused,
}

/// A failed call: what the daemon is told, and whether the worker goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// What the daemon is told.
    pub fault: Fault,
    /// What the worker does.
    pub verdict: Verdict,
}

/// Judges a failed call of the library.
pub fn judge(error: &Error) -> Judged {
    let (verdict, reached) = match error {
        Error::Pkcs11(code, function) => (weigh(*code).1, reached(*function)),
        // The module is not one, or lacks a function that we need: loading it anew changes nothing, but
        // an operator may replace it, and then the next worker finds it.
        Error::LibraryLoading(_) | Error::MissingSymbol(_) => (Verdict::Leave, Reached::No),
        Error::NullFunctionPointer | Error::NotSupported => (Verdict::Refused, Reached::Maybe),
        // The library returned something that its own binding cannot read.
        Error::TryFromInt(_)
        | Error::TryFromSlice(_)
        | Error::ParseInt(_)
        | Error::Utf8(_)
        | Error::NulError(_)
        | Error::InvalidValue => (Verdict::Refused, Reached::Maybe),
        Error::PinNotSet => (Verdict::PinRejected, Reached::No),
    };
    let cause = cause(error);
    let fault = match verdict {
        // "Busy" promises that no signature exists, which a failed C_Sign cannot.
        Verdict::Busy if reached == Reached::No => Fault::Busy,
        Verdict::Busy | Verdict::Leave => Fault::Unavailable { cause, reached },
        Verdict::PinRejected => Fault::PinRejected,
        Verdict::PinLocked => Fault::PinLocked,
        Verdict::Refused => Fault::Refused { cause, reached },
    };
    Judged { fault, verdict }
}

/// The C_ function and the CKR name, for operators and logs.
pub fn cause(error: &Error) -> String {
    match error {
        Error::Pkcs11(code, function) => format!("C_{function:?}: {}", weigh(*code).0),
        Error::LibraryLoading(source) => format!("cannot load the PKCS#11 module: {source}"),
        other => other.to_string(),
    }
}

/// Whether a signature or a key may exist after this function failed.
///
/// C_SignInit has seen no data; whatever C_Sign says, the token may have signed before it failed.
const fn reached(function: Function) -> Reached {
    match function {
        Function::Sign | Function::SignUpdate | Function::SignFinal | Function::GenerateKeyPair => {
            Reached::Maybe
        }
        _ => Reached::No,
    }
}

/// A return code's name and what to do about it; PKCS#11 3.1, section 5.1, says what each means.
#[expect(clippy::too_many_lines, reason = "one line a code; the point is that they stand together")]
#[rustfmt::skip]
fn weigh(code: RvError) -> (Cow<'static, str>, Verdict) {
    use Verdict::{Busy, Leave, PinLocked, PinRejected, Refused};
    let (name, verdict) = match code {
        // The library gave up half-way: its state is unknown.
        RvError::Cancel => ("CKR_CANCEL", Leave),
        RvError::FunctionCanceled => ("CKR_FUNCTION_CANCELED", Leave),
        RvError::GeneralError => ("CKR_GENERAL_ERROR", Leave),
        RvError::FunctionFailed => ("CKR_FUNCTION_FAILED", Leave),
        // This process has no memory left: a new one has.
        RvError::HostMemory => ("CKR_HOST_MEMORY", Leave),
        // The slot list of this C_Initialize is out of date.
        RvError::SlotIdInvalid => ("CKR_SLOT_ID_INVALID", Leave),
        // The token went away, or a proxy to it did; most libraries say so for ever, until C_Initialize.
        RvError::DeviceError => ("CKR_DEVICE_ERROR", Leave),
        RvError::DeviceRemoved => ("CKR_DEVICE_REMOVED", Leave),
        RvError::TokenNotPresent => ("CKR_TOKEN_NOT_PRESENT", Leave),
        RvError::TokenNotRecognized => ("CKR_TOKEN_NOT_RECOGNIZED", Leave),
        // Handles that this worker found itself: the token lost them, so nothing found before holds.
        RvError::KeyHandleInvalid => ("CKR_KEY_HANDLE_INVALID", Leave),
        RvError::ObjectHandleInvalid => ("CKR_OBJECT_HANDLE_INVALID", Leave),
        RvError::SessionHandleInvalid => ("CKR_SESSION_HANDLE_INVALID", Leave),
        RvError::SessionClosed => ("CKR_SESSION_CLOSED", Leave),
        RvError::UserNotLoggedIn => ("CKR_USER_NOT_LOGGED_IN", Leave),
        RvError::KeyChanged => ("CKR_KEY_CHANGED", Leave),
        RvError::KeyNeeded => ("CKR_KEY_NEEDED", Leave),
        // A session that is in the middle of something we did not start.
        RvError::OperationActive => ("CKR_OPERATION_ACTIVE", Leave),
        RvError::OperationNotInitialized => ("CKR_OPERATION_NOT_INITIALIZED", Leave),
        // The library itself is not in order.
        RvError::CryptokiNotInitialized => ("CKR_CRYPTOKI_NOT_INITIALIZED", Leave),
        RvError::CryptokiAlreadyInitialized => ("CKR_CRYPTOKI_ALREADY_INITIALIZED", Leave),
        RvError::MutexBad => ("CKR_MUTEX_BAD", Leave),
        RvError::MutexNotLocked => ("CKR_MUTEX_NOT_LOCKED", Leave),
        RvError::LibraryLoadFailed => ("CKR_LIBRARY_LOAD_FAILED", Leave),
        RvError::NeedToCreateThreads => ("CKR_NEED_TO_CREATE_THREADS", Leave),
        RvError::CantLock => ("CKR_CANT_LOCK", Leave),
        // A token that fails its own tests signs nothing until it is started again.
        RvError::FipsSelfTestFailed => ("CKR_FIPS_SELF_TEST_FAILED", Leave),
        // Somebody else's login holds the token.
        RvError::UserAnotherAlreadyLoggedIn => ("CKR_USER_ANOTHER_ALREADY_LOGGED_IN", Leave),
        RvError::UserTooManyTypes => ("CKR_USER_TOO_MANY_TYPES", Leave),
        RvError::SessionReadOnlyExists => ("CKR_SESSION_READ_ONLY_EXISTS", Leave),
        RvError::SessionReadWriteSoExists => ("CKR_SESSION_READ_WRITE_SO_EXISTS", Leave),
        RvError::SessionExists => ("CKR_SESSION_EXISTS", Leave),
        // No PIN was ever set; C_Login costs no try, and `token` counts none.
        RvError::UserPinNotInitialized => ("CKR_USER_PIN_NOT_INITIALIZED", Leave),
        // Not known here: the safe reading is that the library needs a new start.
        RvError::VendorDefined(code) => return (Cow::Owned(format!("CKR_VENDOR_DEFINED ({code:#x})")), Leave),
        RvError::UnknownErrorCode(code) => return (Cow::Owned(format!("unknown return code {code:#x}")), Leave),

        // Other sessions give these back.
        RvError::SessionCount => ("CKR_SESSION_COUNT", Busy),
        RvError::DeviceMemory => ("CKR_DEVICE_MEMORY", Busy),

        // The PIN file holds what the token does not take: each further try may lock it.
        RvError::PinIncorrect => ("CKR_PIN_INCORRECT", PinRejected),
        RvError::PinInvalid => ("CKR_PIN_INVALID", PinRejected),
        RvError::PinLenRange => ("CKR_PIN_LEN_RANGE", PinRejected),
        RvError::PinExpired => ("CKR_PIN_EXPIRED", PinRejected),
        RvError::PinTooWeak => ("CKR_PIN_TOO_WEAK", PinRejected),
        RvError::NewPinMode => ("CKR_NEW_PIN_MODE", PinRejected),
        RvError::NextOtp => ("CKR_NEXT_OTP", PinRejected),
        RvError::PinLocked => ("CKR_PIN_LOCKED", PinLocked),

        // What was asked cannot be done with this key, mechanism, template or data.
        RvError::ArgumentsBad => ("CKR_ARGUMENTS_BAD", Refused),
        RvError::AttributeReadOnly => ("CKR_ATTRIBUTE_READ_ONLY", Refused),
        RvError::AttributeSensitive => ("CKR_ATTRIBUTE_SENSITIVE", Refused),
        RvError::AttributeTypeInvalid => ("CKR_ATTRIBUTE_TYPE_INVALID", Refused),
        RvError::AttributeValueInvalid => ("CKR_ATTRIBUTE_VALUE_INVALID", Refused),
        RvError::ActionProhibited => ("CKR_ACTION_PROHIBITED", Refused),
        RvError::DataInvalid => ("CKR_DATA_INVALID", Refused),
        RvError::DataLenRange => ("CKR_DATA_LEN_RANGE", Refused),
        RvError::FunctionNotSupported => ("CKR_FUNCTION_NOT_SUPPORTED", Refused),
        RvError::FunctionNotParallel => ("CKR_FUNCTION_NOT_PARALLEL", Refused),
        RvError::FunctionRejected => ("CKR_FUNCTION_REJECTED", Refused),
        RvError::CurveNotSupported => ("CKR_CURVE_NOT_SUPPORTED", Refused),
        RvError::DomainParamsInvalid => ("CKR_DOMAIN_PARAMS_INVALID", Refused),
        RvError::KeySizeRange => ("CKR_KEY_SIZE_RANGE", Refused),
        RvError::KeyTypeInconsistent => ("CKR_KEY_TYPE_INCONSISTENT", Refused),
        RvError::KeyNotNeeded => ("CKR_KEY_NOT_NEEDED", Refused),
        RvError::KeyIndigestible => ("CKR_KEY_INDIGESTIBLE", Refused),
        RvError::KeyFunctionNotPermitted => ("CKR_KEY_FUNCTION_NOT_PERMITTED", Refused),
        RvError::KeyNotWrappable => ("CKR_KEY_NOT_WRAPPABLE", Refused),
        RvError::KeyUnextractable => ("CKR_KEY_UNEXTRACTABLE", Refused),
        RvError::MechanismInvalid => ("CKR_MECHANISM_INVALID", Refused),
        RvError::MechanismParamInvalid => ("CKR_MECHANISM_PARAM_INVALID", Refused),
        RvError::TemplateIncomplete => ("CKR_TEMPLATE_INCOMPLETE", Refused),
        RvError::TemplateInconsistent => ("CKR_TEMPLATE_INCONSISTENT", Refused),
        RvError::TokenWriteProtected => ("CKR_TOKEN_WRITE_PROTECTED", Refused),
        RvError::SessionReadOnly => ("CKR_SESSION_READ_ONLY", Refused),
        RvError::SessionParallelNotSupported => ("CKR_SESSION_PARALLEL_NOT_SUPPORTED", Refused),
        RvError::BufferTooSmall => ("CKR_BUFFER_TOO_SMALL", Refused),
        RvError::PublicKeyInvalid => ("CKR_PUBLIC_KEY_INVALID", Refused),
        RvError::UserTypeInvalid => ("CKR_USER_TYPE_INVALID", Refused),
        RvError::ExceededMaxIterations => ("CKR_EXCEEDED_MAX_ITERATIONS", Refused),
        // A session that is logged in already is what C_Login was to bring about; its caller knows.
        RvError::UserAlreadyLoggedIn => ("CKR_USER_ALREADY_LOGGED_IN", Refused),

        // Answers to functions that this worker never calls.
        RvError::NoEvent => ("CKR_NO_EVENT", Refused),
        RvError::EncryptedDataInvalid => ("CKR_ENCRYPTED_DATA_INVALID", Refused),
        RvError::EncryptedDataLenRange => ("CKR_ENCRYPTED_DATA_LEN_RANGE", Refused),
        RvError::SignatureInvalid => ("CKR_SIGNATURE_INVALID", Refused),
        RvError::SignatureLenRange => ("CKR_SIGNATURE_LEN_RANGE", Refused),
        RvError::UnwrappingKeyHandleInvalid => ("CKR_UNWRAPPING_KEY_HANDLE_INVALID", Refused),
        RvError::UnwrappingKeySizeRange => ("CKR_UNWRAPPING_KEY_SIZE_RANGE", Refused),
        RvError::UnwrappingKeyTypeInconsistent => ("CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT", Refused),
        RvError::WrappedKeyInvalid => ("CKR_WRAPPED_KEY_INVALID", Refused),
        RvError::WrappedKeyLenRange => ("CKR_WRAPPED_KEY_LEN_RANGE", Refused),
        RvError::WrappingKeyHandleInvalid => ("CKR_WRAPPING_KEY_HANDLE_INVALID", Refused),
        RvError::WrappingKeySizeRange => ("CKR_WRAPPING_KEY_SIZE_RANGE", Refused),
        RvError::WrappingKeyTypeInconsistent => ("CKR_WRAPPING_KEY_TYPE_INCONSISTENT", Refused),
        RvError::RandomSeedNotSupported => ("CKR_RANDOM_SEED_NOT_SUPPORTED", Refused),
        RvError::RandomNoRng => ("CKR_RANDOM_NO_RNG", Refused),
        RvError::SavedStateInvalid => ("CKR_SAVED_STATE_INVALID", Refused),
        RvError::InformationSensitive => ("CKR_INFORMATION_SENSITIVE", Refused),
        RvError::StateUnsaveable => ("CKR_STATE_UNSAVEABLE", Refused),
    };
    (Cow::Borrowed(name), verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fault and verdict of a code returned by a function.
    fn judged(code: RvError, function: Function) -> Judged {
        judge(&Error::Pkcs11(code, function))
    }

    #[test]
    fn a_pin_is_never_something_to_retry() {
        for code in [
            RvError::PinIncorrect,
            RvError::PinInvalid,
            RvError::PinLenRange,
            RvError::PinExpired,
        ] {
            let judged = judged(code, Function::Login);
            assert_eq!(judged.verdict, Verdict::PinRejected);
            assert_eq!(judged.fault, Fault::PinRejected);
            assert!(!judged.fault.into_error("t", "k").retry_helps());
        }
        let locked = judged(RvError::PinLocked, Function::Login);
        assert_eq!(locked.verdict, Verdict::PinLocked);
        assert!(!locked.fault.into_error("t", "k").retry_helps());
    }

    #[test]
    fn a_failed_sign_never_proves_that_no_signature_exists() {
        for code in [
            RvError::DeviceError,
            RvError::DeviceMemory,
            RvError::SessionCount,
            RvError::DataLenRange,
            RvError::VendorDefined(0x8000_0001),
        ] {
            for function in [Function::Sign, Function::SignFinal, Function::SignUpdate] {
                let error = judged(code, function).fault.into_error("t", "k");
                assert_eq!(error.reached(), Reached::Maybe, "{error}");
            }
            let error = judged(code, Function::SignInit).fault.into_error("t", "k");
            assert_eq!(error.reached(), Reached::No, "{error}");
        }
    }

    #[test]
    fn the_cause_names_the_function_and_the_code() {
        let judged = judged(RvError::DeviceError, Function::Sign);
        assert_eq!(judged.verdict, Verdict::Leave);
        assert_eq!(judged.fault, Fault::lost("C_Sign: CKR_DEVICE_ERROR"));
    }

    #[test]
    fn a_token_short_of_sessions_is_busy() {
        assert_eq!(
            judged(RvError::SessionCount, Function::SignInit).fault,
            Fault::Busy
        );
    }
}
