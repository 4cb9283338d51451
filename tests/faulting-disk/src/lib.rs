//! A library for `LD_PRELOAD` that stands before libc's `fsync`, `fdatasync` and `pwrite64` and fails on demand.
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
//! - `kill-before`, `kill-after`: the process gets `SIGKILL` instead of, or after, the sync;
//! - `power-cut`: the file is cut back to the length that it had at its last sync that was made, then as
//!   `kill-before`: what a disk that had written nothing since would hold. Only for a file that grows at its end;
//! - `hold`: the sync waits until the control file says something else, and is made then;
//! - `no-room`: here the writes are counted, not the syncs; nothing is written, and the call fails with `ENOSPC`.
//!
//! Each fault appends its action to the file `FAULTING_DISK_CONTROL` + `.fired`, so that a test can tell a fault
//! that did no harm from one that never happened.
#![allow(
    clippy::disallowed_methods,
    reason = "a preloaded library is told what to do through its environment"
)]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_int, c_void};
use std::io::Write as _;
use std::sync::Mutex;

/// The real functions' type.
type Sync = unsafe extern "C" fn(c_int) -> c_int;
/// As above.
type Write = unsafe extern "C" fn(c_int, *const c_void, usize, i64) -> isize;

/// The line that is in force, and the syncs it has seen.
static SEEN: Mutex<(String, u64)> = Mutex::new((String::new(), 0));

/// The length of each file, by device and inode, at its last sync that was made.
static SYNCED: Mutex<BTreeMap<(u64, u64), i64>> = Mutex::new(BTreeMap::new());

/// What to do with one sync.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Pass,
    Lost,
    Full,
    DoneButFailed,
    KillBefore,
    KillAfter,
    PowerCut,
    NoRoom,
    Hold,
}

/// The kinds of calls that are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Sync,
    Write,
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

/// libc's `pwrite64`, with faults.
///
/// # Safety
/// As `pwrite(2)`: `octets` points to `count` readable octets.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(
    fd: c_int,
    octets: *const c_void,
    count: usize,
    offset: i64,
) -> isize {
    if decide(fd, Call::Write) != Action::Pass {
        fired(Action::NoRoom);
        return fail(libc::ENOSPC) as isize;
    }
    // SAFETY: the name is a C string; RTLD_NEXT finds libc's function, whose type is `Write`.
    let symbol = unsafe { libc::dlsym(libc::RTLD_NEXT, c"pwrite64".as_ptr()) };
    if symbol.is_null() {
        return fail(libc::ENOSYS) as isize;
    }
    // SAFETY: as above.
    let function: Write = unsafe { std::mem::transmute(symbol) };
    // SAFETY: the caller's arguments, passed on unchanged.
    unsafe { function(fd, octets, count, offset) }
}

/// Makes the real call, or the fault that the control file asks for.
fn faulted(fd: c_int, name: &CStr) -> c_int {
    let action = decide(fd, Call::Sync);
    if action != Action::Pass {
        fired(action);
    }
    match action {
        Action::Pass => real(fd, name),
        Action::Lost => fail(libc::EIO),
        Action::Full | Action::NoRoom => fail(libc::ENOSPC),
        Action::DoneButFailed => {
            real(fd, name);
            fail(libc::EIO)
        }
        Action::Hold => {
            wait_for_another_order();
            real(fd, name)
        }
        Action::KillBefore => die(),
        Action::PowerCut => {
            cut_back(fd);
            die()
        }
        Action::KillAfter => {
            real(fd, name);
            die()
        }
    }
}

/// Waits until the control file holds another line than the one in force, or is gone.
fn wait_for_another_order() {
    let in_force = {
        let seen = SEEN
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        seen.0.clone()
    };
    let Some(control) = std::env::var_os("FAULTING_DISK_CONTROL") else {
        return;
    };
    while std::fs::read_to_string(&control).is_ok_and(|line| line == in_force) {
        std::thread::sleep(std::time::Duration::from_millis(5));
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
    let at = place_and_length(fd);
    // SAFETY: fsync and fdatasync accept any integer.
    let made = unsafe { function(fd) };
    if let (0, Some((place, length))) = (made, at) {
        let mut synced = SYNCED
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        synced.insert(place, length);
    }
    made
}

/// The file's device, inode and length, before a sync: what is written meanwhile may not be part of it.
fn place_and_length(fd: c_int) -> Option<((u64, u64), i64)> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: there is room for the structure, and fstat accepts any integer.
    let told = unsafe { libc::fstat(fd, stat.as_mut_ptr()) };
    // SAFETY: fstat filled it when it says so.
    (told == 0)
        .then(|| unsafe { stat.assume_init() })
        .map(|stat| ((stat.st_dev, stat.st_ino), stat.st_size))
}

/// Takes from a file what was written since its last sync.
fn cut_back(fd: c_int) {
    let synced = SYNCED
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some((place, present)) = place_and_length(fd) else {
        return;
    };
    let length = synced.get(&place).copied();
    // A file that was never synced holds nothing.
    // SAFETY: ftruncate accepts any integers.
    unsafe { libc::ftruncate(fd, length.unwrap_or(0).min(present)) };
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

/// Reads the control file and counts this call against its line.
fn decide(fd: c_int, call: Call) -> Action {
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
        Some("power-cut") => Action::PowerCut,
        Some("no-room") => Action::NoRoom,
        Some("hold") => Action::Hold,
        _ => return Action::Pass,
    };
    if (action == Action::NoRoom) != (call == Call::Write) {
        return Action::Pass;
    }
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
        Action::PowerCut => b"power-cut\n",
        Action::NoRoom => b"no-room\n",
        Action::Hold => b"hold\n",
    };
    if let Ok(mut file) = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
    {
        let _written = file.write_all(name);
    }
}
