//! A PKCS#11 module that stands in front of another one, and makes it fail, hang, lie or wait on demand.
//!
//! Tests only. It forwards the whole CK_FUNCTION_LIST of the real module, but for C_Sign, C_SignFinal,
//! C_Login, C_GenerateKeyPair, C_GetMechanismList and C_GetTokenInfo, which obey a text file.
//!
//! | environment variable | what |
//! |---|---|
//! | `FAULTING_TOKEN_MODULE` | the real module's path; required |
//! | `FAULTING_TOKEN_CONTROL` | the file with commands, one a line; looked at on each call; may be absent |
//! | `FAULTING_TOKEN_COUNT` | a file that gets one line for each call that reached the real module: `sign` for a C_Sign or C_SignFinal that succeeded with an output buffer, `login` for a C_Login; and `asked` when a signature is wanted, before any delay or fault |
//!
//! | command | effect |
//! |---|---|
//! | `delay_ms N` | each signature sleeps N ms first, in its own session's thread and outside any lock |
//! | `sign lost N` | the next N signatures are not made and return CKR_DEVICE_ERROR |
//! | `sign done-but-failed N` | the next N are made and return CKR_DEVICE_ERROR without their octets |
//! | `sign refused N` | the next N are not made and return CKR_DATA_LEN_RANGE |
//! | `sign hang N` | the next N are not made and never return |
//! | `sign wrong N` | the next N return with one bit changed |
//! | `sign short N` | the next N return one octet too short |
//! | `sign kill-before N`, `sign kill-after N` | SIGKILL to this very process before, or after, the next N |
//! | `sign kill-pid-before N FILE`, `sign kill-pid-after N FILE` | SIGKILL to the process whose id FILE holds |
//! | `sign kill-parent-after N FILE` | the same, and the call never returns: for a process whose death is to be this one's too, and which must not come after the answer |
//! | `login pin-incorrect N` | the next N C_Login return CKR_PIN_INCORRECT without being made |
//! | `login failed N` | the next N C_Login return CKR_GENERAL_ERROR without being made |
//! | `login kill N` | SIGKILL to this process in the next N C_Login |
//! | `attribute-refused TYPE` | C_GenerateKeyPair returns CKR_ATTRIBUTE_TYPE_INVALID where the private key's template has this attribute (a number, `0x…`) |
//! | `attribute-ignored TYPE` | C_GenerateKeyPair takes this attribute out of the private key's template |
//! | `hide MECHANISM` | the mechanism (a number, `0x…`) is not in the list |
//! | `token_flags FLAGS` | these bits (`0x…`) are set in CK_TOKEN_INFO.flags |
//! | `max_sessions N` | CK_TOKEN_INFO says that at most N sessions can be open, of either kind |
//!
//! Commands with a count are used up one by one, atomically across threads and processes: the file is
//! rewritten under a lock on `FILE.lock`, so that a worker that was killed by one does not pass it on to its
//! successor. A failed count or a malformed command aborts the process: a test must not pass by accident.
#![allow(
    clippy::disallowed_methods,
    reason = "a shared library is told what to do through its environment, and delays are what it is for"
)]

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_BYTE, CK_C_GetFunctionList, CK_FUNCTION_LIST, CK_FUNCTION_LIST_PTR_PTR,
    CK_MECHANISM, CK_MECHANISM_TYPE, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_SLOT_ID,
    CK_TOKEN_INFO, CK_ULONG, CK_USER_TYPE, CKR_ATTRIBUTE_TYPE_INVALID, CKR_BUFFER_TOO_SMALL,
    CKR_DATA_LEN_RANGE, CKR_DEVICE_ERROR, CKR_FUNCTION_NOT_SUPPORTED, CKR_GENERAL_ERROR, CKR_OK,
    CKR_PIN_INCORRECT,
};

//------ The real module ----

/// The real module and the list that stands in front of it.
struct Real {
    /// Its functions.
    functions: CK_FUNCTION_LIST,
    /// The same, with ours among them.
    fronted: CK_FUNCTION_LIST,
    /// Keeps it loaded.
    _library: libloading::Library,
}

// SAFETY: function lists are constant tables of function pointers into a library that stays loaded.
unsafe impl Send for Real {}
// SAFETY: as above; nothing is ever written to it.
unsafe impl Sync for Real {}

/// The one real module of this process.
static REAL: OnceLock<Option<Real>> = OnceLock::new();

/// The real module, loaded at the first use; none if there is none.
fn real() -> Option<&'static Real> {
    REAL.get_or_init(|| {
        let path = std::env::var_os("FAULTING_TOKEN_MODULE")?;
        // SAFETY: loading a PKCS#11 module runs its initialisers, which is what the caller asked for.
        let library = unsafe { libloading::Library::new(path) }.ok()?;
        let mut list = std::ptr::null_mut();
        // SAFETY: the symbol has the type that PKCS#11 2.40, section 5.4, gives it.
        let rv = unsafe {
            let get = library
                .get::<CK_C_GetFunctionList>(b"C_GetFunctionList\0")
                .ok()?;
            (*get)?(&raw mut list)
        };
        if rv != CKR_OK || list.is_null() {
            return None;
        }
        // SAFETY: the module returned success and a list, which it keeps for its own life.
        let functions = unsafe { *list };
        let mut fronted = functions;
        fronted.C_GetFunctionList = Some(C_GetFunctionList);
        fronted.C_Sign = Some(sign);
        fronted.C_SignFinal = Some(sign_final);
        fronted.C_Login = Some(login);
        fronted.C_GenerateKeyPair = Some(generate_key_pair);
        fronted.C_GetMechanismList = Some(mechanism_list);
        fronted.C_GetTokenInfo = Some(token_info);
        Some(Real {
            functions,
            fronted,
            _library: library,
        })
    })
    .as_ref()
}

/// The entry point of every PKCS#11 module.
///
/// # Safety
/// `list` is null or points to a place for a pointer (PKCS#11 2.40, section 5.4).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: CK_FUNCTION_LIST_PTR_PTR) -> CK_RV {
    match real() {
        Some(real) if !list.is_null() => {
            // SAFETY: not null, and the caller gave a place for a pointer. Nobody writes through it.
            unsafe { *list = std::ptr::from_ref(&real.fronted).cast_mut() };
            CKR_OK
        }
        _ => CKR_GENERAL_ERROR,
    }
}

//------ Commands ----

/// What the next signature or login does.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    /// As the real module does.
    None,
    /// Returns this and does nothing.
    Fail(CK_RV),
    /// Does it and returns CKR_DEVICE_ERROR.
    DoneButFailed,
    /// Never returns.
    Hang,
    /// Changes a bit.
    Wrong,
    /// Drops an octet.
    Short,
    /// Ends this process before.
    KillBefore,
    /// Ends this process after.
    KillAfter,
    /// Ends the process named in a file before.
    KillPidBefore(PathBuf),
    /// Ends the process named in a file after.
    KillPidAfter(PathBuf),
    /// The same, and never returns.
    KillParentAfter(PathBuf),
}

/// The control file as it was last read.
struct Control {
    /// Its state when it was read.
    seen: Option<(SystemTime, u64)>,
    /// Its lines.
    lines: Vec<String>,
}

/// The control file's last reading, so that a call costs one `stat` when nothing changed.
static CONTROL: Mutex<Control> = Mutex::new(Control {
    seen: None,
    lines: Vec::new(),
});

/// A mistake in a test's set-up ends the process, loudly.
fn set_up_fault(what: &str) -> ! {
    eprintln!("faulting-token: {what}");
    std::process::abort()
}

/// The control file's lines.
fn lines() -> Vec<String> {
    let Some(path) = std::env::var_os("FAULTING_TOKEN_CONTROL") else {
        return Vec::new();
    };
    let mut control = CONTROL.lock().unwrap_or_else(PoisonError::into_inner);
    let now = std::fs::metadata(&path)
        .ok()
        .and_then(|meta| Some((meta.modified().ok()?, meta.len())));
    // A change within the clock's grain is seen by its length, or at the next call with a count anyway.
    if now.is_none() || now != control.seen {
        control.lines = read_lines(Path::new(&path));
        control.seen = now;
    }
    control.lines.clone()
}

/// Reads the control file; an absent one is empty.
fn read_lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .lines()
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

/// The number that follows a word.
fn number_after(lines: &[String], word: &str) -> Vec<u64> {
    lines
        .iter()
        .filter_map(|line| line.strip_prefix(word)?.strip_prefix(' '))
        .map(|text| {
            let parsed = match text.strip_prefix("0x") {
                Some(hex) => u64::from_str_radix(hex, 16),
                None => text.parse(),
            };
            parsed.unwrap_or_else(|_| set_up_fault(&format!("{word} {text}: not a number")))
        })
        .collect()
}

/// Takes one use of the first command for `what` that has any left.
fn take(what: &str) -> Fault {
    if !lines().iter().any(|line| line.starts_with(what)) {
        return Fault::None;
    }
    let Some(path) = std::env::var_os("FAULTING_TOKEN_CONTROL").map(PathBuf::from) else {
        return Fault::None;
    };
    let mut lock_path = path.clone().into_os_string();
    lock_path.push(".lock");
    let lock = File::create(&lock_path)
        .and_then(|lock| lock.lock().map(|()| lock))
        .unwrap_or_else(|error| set_up_fault(&format!("lock of the control file: {error}")));
    let mut now = read_lines(&path);
    let mut fault = Fault::None;
    for line in &mut now {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [first, name, count, rest @ ..] = words.as_slice() else {
            continue;
        };
        if *first != what {
            continue;
        }
        let count: u64 = count
            .parse()
            .unwrap_or_else(|_| set_up_fault(&format!("{line}: not a count")));
        if count == 0 {
            continue;
        }
        fault = named(what, name, rest)
            .unwrap_or_else(|| set_up_fault(&format!("{line}: unknown command")));
        *line = [&[what, name, &(count - 1).to_string()], rest]
            .concat()
            .join(" ");
        break;
    }
    if fault != Fault::None {
        let mut next = path.clone().into_os_string();
        next.push(".next");
        std::fs::write(&next, now.join("\n") + "\n")
            .and_then(|()| std::fs::rename(&next, &path))
            .unwrap_or_else(|error| set_up_fault(&format!("the control file: {error}")));
    }
    drop(lock);
    fault
}

/// The fault with a name.
fn named(what: &str, name: &str, rest: &[&str]) -> Option<Fault> {
    Some(match (what, name, rest) {
        ("sign", "lost", []) => Fault::Fail(CKR_DEVICE_ERROR),
        ("sign", "refused", []) => Fault::Fail(CKR_DATA_LEN_RANGE),
        ("sign", "done-but-failed", []) => Fault::DoneButFailed,
        ("sign", "hang", []) => Fault::Hang,
        ("sign", "wrong", []) => Fault::Wrong,
        ("sign", "short", []) => Fault::Short,
        ("sign", "kill-before", []) | ("login", "kill", []) => Fault::KillBefore,
        ("sign", "kill-after", []) => Fault::KillAfter,
        ("sign", "kill-pid-before", [file]) => Fault::KillPidBefore(PathBuf::from(file)),
        ("sign", "kill-pid-after", [file]) => Fault::KillPidAfter(PathBuf::from(file)),
        ("sign", "kill-parent-after", [file]) => Fault::KillParentAfter(PathBuf::from(file)),
        ("login", "pin-incorrect", []) => Fault::Fail(CKR_PIN_INCORRECT),
        ("login", "failed", []) => Fault::Fail(CKR_GENERAL_ERROR),
        _ => return None,
    })
}

/// Adds a line to the counter file.
fn count(what: &str) {
    let Some(path) = std::env::var_os("FAULTING_TOKEN_COUNT") else {
        return;
    };
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        // One write of a short line to a file open for appending is whole, whoever else appends.
        .and_then(|mut file| file.write_all(format!("{what}\n").as_bytes()))
        .unwrap_or_else(|error| set_up_fault(&format!("the counter file: {error}")));
}

/// Ends a process with SIGKILL.
fn kill(pid: &str) {
    // The shell's own `kill`, so that this crate needs no binding to the system for one call.
    let status = std::process::Command::new("/bin/sh")
        .args(["-c", "kill -KILL \"$1\"", "kill", pid])
        .status();
    if !status.is_ok_and(|status| status.success()) {
        set_up_fault(&format!("process {pid} cannot be killed"));
    }
}

/// Ends the process whose id a file holds.
fn kill_named(file: &Path) {
    let pid = std::fs::read_to_string(file)
        .unwrap_or_else(|error| set_up_fault(&format!("{}: {error}", file.display())));
    kill(pid.trim());
}

/// Ends this process.
fn kill_self() -> ! {
    kill(&std::process::id().to_string());
    never()
}

/// Never returns.
fn never() -> ! {
    loop {
        std::thread::park();
    }
}

//------ The functions in front ----

/// Signs through `real`, which fills the output buffer, with whatever fault is due.
///
/// # Safety
/// `signature` and `length` are as PKCS#11 2.40, section 5.2, wants them for functions that return octets.
unsafe fn faulting(
    signature: *mut CK_BYTE,
    length: *mut CK_ULONG,
    real: impl FnOnce() -> CK_RV,
) -> CK_RV {
    if signature.is_null() {
        // A question for the length: signs nothing and ends nothing.
        return real();
    }
    count("asked");
    if let [delay, ..] = number_after(&lines(), "delay_ms")[..] {
        std::thread::sleep(Duration::from_millis(delay));
    }
    let fault = take("sign");
    match &fault {
        Fault::Fail(rv) => return *rv,
        Fault::Hang => never(),
        Fault::KillBefore => kill_self(),
        Fault::KillPidBefore(file) => kill_named(file),
        _ => {}
    }
    let rv = real();
    if rv == CKR_OK {
        count("sign");
    }
    match &fault {
        Fault::KillAfter => kill_self(),
        Fault::KillPidAfter(file) => kill_named(file),
        Fault::KillParentAfter(file) => {
            kill_named(file);
            never()
        }
        Fault::DoneButFailed if rv == CKR_OK => return CKR_DEVICE_ERROR,
        Fault::Wrong | Fault::Short if rv == CKR_OK => {
            // SAFETY: after success `length` says how many octets of `signature` were written.
            unsafe {
                let octets = std::slice::from_raw_parts_mut(
                    signature,
                    usize::try_from(*length).unwrap_or(0),
                );
                match octets.last_mut() {
                    Some(_) if fault == Fault::Short => *length -= 1,
                    Some(last) => *last ^= 1,
                    None => {}
                }
            }
        }
        _ => {}
    }
    rv
}

/// C_Sign.
unsafe extern "C" fn sign(
    session: CK_SESSION_HANDLE,
    tbs: *mut CK_BYTE,
    tbs_length: CK_ULONG,
    signature: *mut CK_BYTE,
    length: *mut CK_ULONG,
) -> CK_RV {
    let Some(real) = real().and_then(|real| real.functions.C_Sign) else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    // SAFETY: the caller's arguments, passed on unchanged.
    unsafe {
        faulting(signature, length, || {
            real(session, tbs, tbs_length, signature, length)
        })
    }
}

/// C_SignFinal.
unsafe extern "C" fn sign_final(
    session: CK_SESSION_HANDLE,
    signature: *mut CK_BYTE,
    length: *mut CK_ULONG,
) -> CK_RV {
    let Some(real) = real().and_then(|real| real.functions.C_SignFinal) else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    // SAFETY: the caller's arguments, passed on unchanged.
    unsafe { faulting(signature, length, || real(session, signature, length)) }
}

/// C_Login.
unsafe extern "C" fn login(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_BYTE,
    pin_length: CK_ULONG,
) -> CK_RV {
    let Some(real) = real().and_then(|real| real.functions.C_Login) else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    count("login");
    match take("login") {
        Fault::Fail(rv) => rv,
        Fault::KillBefore => kill_self(),
        // SAFETY: the caller's arguments, passed on unchanged.
        _ => unsafe { real(session, user, pin, pin_length) },
    }
}

/// C_GenerateKeyPair.
unsafe extern "C" fn generate_key_pair(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    public: *mut CK_ATTRIBUTE,
    public_count: CK_ULONG,
    private: *mut CK_ATTRIBUTE,
    private_count: CK_ULONG,
    public_key: *mut CK_OBJECT_HANDLE,
    private_key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    let Some(real) = real().and_then(|real| real.functions.C_GenerateKeyPair) else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    let length = usize::try_from(private_count).unwrap_or(0);
    let mut template = if private.is_null() {
        Vec::new()
    } else {
        // SAFETY: the caller's template has that many attributes; they are copied, their values stay the caller's.
        unsafe { std::slice::from_raw_parts(private, length) }.to_vec()
    };
    let lines = lines();
    let refused = number_after(&lines, "attribute-refused");
    if template.iter().any(|it| refused.contains(&it.type_)) {
        return CKR_ATTRIBUTE_TYPE_INVALID;
    }
    let ignored = number_after(&lines, "attribute-ignored");
    template.retain(|it| !ignored.contains(&it.type_));
    // SAFETY: the caller's arguments, but for a copy of the template that lives as long as the call.
    unsafe {
        real(
            session,
            mechanism,
            public,
            public_count,
            template.as_mut_ptr(),
            CK_ULONG::try_from(template.len()).unwrap_or(0),
            public_key,
            private_key,
        )
    }
}

/// C_GetMechanismList.
unsafe extern "C" fn mechanism_list(
    slot: CK_SLOT_ID,
    list: *mut CK_MECHANISM_TYPE,
    length: *mut CK_ULONG,
) -> CK_RV {
    let Some(real) = real().and_then(|real| real.functions.C_GetMechanismList) else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    let mut count: CK_ULONG = 0;
    // SAFETY: a null list asks for the length only.
    let rv = unsafe { real(slot, std::ptr::null_mut(), &raw mut count) };
    if rv != CKR_OK {
        return rv;
    }
    let mut all = vec![0; usize::try_from(count).unwrap_or(0)];
    // SAFETY: the list has room for `count` entries.
    let rv = unsafe { real(slot, all.as_mut_ptr(), &raw mut count) };
    if rv != CKR_OK {
        return rv;
    }
    all.truncate(usize::try_from(count).unwrap_or(0));
    let hidden = number_after(&lines(), "hide");
    all.retain(|mechanism| !hidden.contains(mechanism));
    let shown = CK_ULONG::try_from(all.len()).unwrap_or(0);
    // SAFETY: the caller's length is in and out; its list, if any, has room for that many.
    unsafe {
        let room = std::mem::replace(&mut *length, shown);
        if list.is_null() {
            return CKR_OK;
        }
        if room < shown {
            return CKR_BUFFER_TOO_SMALL;
        }
        std::ptr::copy_nonoverlapping(all.as_ptr(), list, all.len());
    }
    CKR_OK
}

/// C_GetTokenInfo.
unsafe extern "C" fn token_info(slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO) -> CK_RV {
    let Some(real) = real().and_then(|real| real.functions.C_GetTokenInfo) else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    // SAFETY: the caller's arguments, passed on unchanged.
    let rv = unsafe { real(slot, info) };
    if rv == CKR_OK {
        let lines = lines();
        for flags in number_after(&lines, "token_flags") {
            // SAFETY: after success the caller's structure is filled.
            unsafe { (*info).flags |= flags };
        }
        for most in number_after(&lines, "max_sessions") {
            // SAFETY: as above.
            unsafe {
                (*info).ulMaxSessionCount = most;
                (*info).ulMaxRwSessionCount = most;
            }
        }
    }
    rv
}
