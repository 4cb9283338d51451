//! A library for `LD_PRELOAD` that stands before libc's `fsync` and `fdatasync` and fails on demand.
//!
//! The file named by `FAULTING_DISK_CONTROL` holds one line, read anew at every sync:
//!
//! ```text
//! ACTION SKIP COUNT SUFFIX
//! ```
//!
//! Syncs of files whose path ends with `SUFFIX` are counted from the moment that the line appears; the first
//! `SKIP` pass, the next `COUNT` meet `ACTION`, later ones pass:
//!
//! - `lost`: nothing is synced, and the call fails with `EIO`;
//! - `done-but-failed`: the sync is made, and the call fails with `EIO`;
//! - `full`: nothing is synced, and the call fails with `ENOSPC`;
//! - `kill-before`, `kill-after`: the process gets `SIGKILL` instead of, or after, the sync.
//!
//! Each fault appends its action to the file `FAULTING_DISK_CONTROL` + `.fired`, so that a test can tell a fault
//! that did no harm from one that never happened.

use std::ffi::{CStr, c_int};
use std::io::Write as _;
use std::sync::Mutex;

/// The real functions' type.
type Sync = unsafe extern "C" fn(c_int) -> c_int;

/// The line that is in force, and the syncs it has seen.
static SEEN: Mutex<(String, u64)> = Mutex::new((String::new(), 0));

/// What to do with one sync.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Pass,
    Lost,
    Full,
    DoneButFailed,
    KillBefore,
    KillAfter,
}

/// libc's `fsync`, with faults.
///
/// # Safety
/// As `fsync(2)`: any integer is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    faulted(fd, c"fsync")
}

/// libc's `fdatasync`, with faults.
///
/// # Safety
/// As `fdatasync(2)`: any integer is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    faulted(fd, c"fdatasync")
}

/// Makes the real call, or the fault that the control file asks for.
fn faulted(fd: c_int, name: &CStr) -> c_int {
    let action = decide(fd);
    if action != Action::Pass {
        fired(action);
    }
    match action {
        Action::Pass => real(fd, name),
        Action::Lost => fail(libc::EIO),
        Action::Full => fail(libc::ENOSPC),
        Action::DoneButFailed => {
            real(fd, name);
            fail(libc::EIO)
        }
        Action::KillBefore => die(),
        Action::KillAfter => {
            real(fd, name);
            die()
        }
    }
}

/// Calls the next library's function of this name.
fn real(fd: c_int, name: &CStr) -> c_int {
    // SAFETY: the name is a C string; RTLD_NEXT finds libc's function, whose type is `Sync`.
    let symbol = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    if symbol.is_null() {
        return fail(libc::ENOSYS);
    }
    // SAFETY: as above.
    let function: Sync = unsafe { std::mem::transmute(symbol) };
    // SAFETY: fsync and fdatasync accept any integer.
    unsafe { function(fd) }
}

/// Sets `errno` and says that the call failed.
fn fail(errno: c_int) -> c_int {
    // SAFETY: the location is this thread's own.
    unsafe { *libc::__errno_location() = errno };
    -1
}

/// Ends the process as a power cut would.
fn die() -> c_int {
    // SAFETY: a signal to the own process.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    loop {
        std::thread::park();
    }
}

/// Reads the control file and counts this sync against its line.
fn decide(fd: c_int) -> Action {
    let Some(control) = std::env::var_os("FAULTING_DISK_CONTROL") else {
        return Action::Pass;
    };
    let Ok(line) = std::fs::read_to_string(control) else {
        return Action::Pass;
    };
    let mut words = line.split_whitespace();
    let action = match words.next() {
        Some("lost") => Action::Lost,
        Some("full") => Action::Full,
        Some("done-but-failed") => Action::DoneButFailed,
        Some("kill-before") => Action::KillBefore,
        Some("kill-after") => Action::KillAfter,
        _ => return Action::Pass,
    };
    let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
    let (Some(skip), Some(count)) = (number(), number()) else {
        return Action::Pass;
    };
    let suffix = words.next().unwrap_or("");
    let path = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
    if !path.to_string_lossy().ends_with(suffix) {
        return Action::Pass;
    }
    let mut seen = SEEN
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if seen.0 != line {
        *seen = (line.clone(), 0);
    }
    seen.1 += 1;
    if seen.1 > skip && seen.1 <= skip.saturating_add(count) {
        action
    } else {
        Action::Pass
    }
}

/// Notes that a fault happened.
fn fired(action: Action) {
    let Some(mut path) = std::env::var_os("FAULTING_DISK_CONTROL") else {
        return;
    };
    path.push(".fired");
    let name: &[u8] = match action {
        Action::Pass => b"pass\n",
        Action::Lost => b"lost\n",
        Action::Full => b"full\n",
        Action::DoneButFailed => b"done-but-failed\n",
        Action::KillBefore => b"kill-before\n",
        Action::KillAfter => b"kill-after\n",
    };
    if let Ok(mut file) = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
    {
        let _written = file.write_all(name);
    }
}
