//! An appliance whose disk and token fail on demand: `tests/faulting-disk` before the daemon, and
//! `tests/faulting-token` before the token's library, each process a service of its own.

use std::path::PathBuf;

use super::appliance::Appliance;
use super::program::ours;
use super::site::Site;

/// Where faults are ordered, and where it stands what came of them.
pub struct Faults {
    /// Commands for the disk.
    disk: PathBuf,
    /// Commands for the token.
    token: PathBuf,
    /// What the token did.
    count: PathBuf,
}

impl Faults {
    /// An appliance without a fault yet; its token's signatures may take one second.
    pub fn appliance() -> (Appliance, Self) {
        let (site, token) = Site::faulting();
        site.reconfigure("sessions = 2", "sessions = 2\nsign_deadline = \"1s\"");
        let faults = Self {
            disk: site.path().join("disk-faults"),
            count: site.path().join("token-count"),
            token,
        };
        let mut appliance = Appliance::stopped(site);
        appliance.spawn_host();
        faults.start_daemon(&mut appliance);
        (appliance, faults)
    }

    /// Starts the daemon and waits until it is ready.
    pub fn start_daemon(&self, appliance: &mut Appliance) {
        self.start_daemon_without_waiting(appliance);
        appliance.wait_until_ready();
    }

    /// Starts the daemon.
    pub fn start_daemon_without_waiting(&self, appliance: &mut Appliance) {
        appliance.spawn_daemon(&[
            ("LD_PRELOAD", ours("libfaulting_disk.so")),
            ("FAULTING_DISK_CONTROL", self.disk.clone()),
        ]);
    }

    /// Orders faults of the disk: a line for `tests/faulting-disk`, or nothing.
    pub fn order_of_disk(&self, line: &str) {
        std::fs::write(&self.disk, line).unwrap();
    }

    /// The order for the disk that is in force.
    pub fn disk_order(&self) -> String {
        std::fs::read_to_string(&self.disk).unwrap_or_default()
    }

    /// Orders faults of the token: lines for `tests/faulting-token`, or nothing.
    pub fn order_of_token(&self, lines: &str) {
        // Seen as a whole or not at all.
        let next = self.token.with_extension("new");
        std::fs::write(&next, format!("{lines}\n")).unwrap();
        std::fs::rename(next, &self.token).unwrap();
    }

    /// The disk's faults that happened, one a line.
    pub fn disk_fired(&self) -> String {
        let mut path = self.disk.clone().into_os_string();
        path.push(".fired");
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// What is left of the commands for the token.
    pub fn token_commands(&self) -> String {
        std::fs::read_to_string(&self.token).unwrap_or_default()
    }

    /// Signatures that the token was asked for.
    pub fn asked(&self) -> u64 {
        self.counted("asked")
    }

    /// Signatures that the token made, whether they arrived or not.
    pub fn signatures(&self) -> u64 {
        self.counted("sign")
    }

    /// Lines of this word in the token's count.
    fn counted(&self, word: &str) -> u64 {
        let text = std::fs::read_to_string(&self.count).unwrap_or_default();
        let found = text.lines().filter(|line| *line == word).count();
        u64::try_from(found).unwrap()
    }
}
