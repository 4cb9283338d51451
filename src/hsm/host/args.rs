//! The command line of `hallmark-token`.

use std::path::PathBuf;

use clap::Parser;

use super::memory::Memory;

/// Keeps one PKCS#11 token: logs in, holds its sessions, and signs for the daemon over a Unix socket.
#[derive(Debug, Parser)]
#[command(
    name = "hallmark-token",
    version,
    after_help = "Example:\n  hallmark-token main --config /etc/hallmark/hallmark.toml\n\n\
        NAME is a [[token]] of the configuration. The host reads the PIN from its pin_file, which nobody\n\
        else may read, and listens on its socket. Run it under a user of its own. It waits for a token\n\
        that is absent, and replaces a library that crashes or hangs. A PIN that was rejected is not tried\n\
        again until the host is started anew."
)]
pub struct Args {
    /// The token's name in the configuration.
    pub name: String,
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Allow the generation of keys: for a ceremony, never in service.
    #[arg(long)]
    pub ceremony: bool,
    /// Be the process that loads the library; the host starts it with a socket as standard input.
    #[arg(long, hide = true)]
    pub worker: bool,
    /// What earlier workers learnt about the PIN.
    #[arg(long, hide = true, default_value_t = Memory::Nothing)]
    pub memory: Memory,
}

/// What a host is started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Signing.
    Service,
    /// Signing and making keys.
    Ceremony,
}

impl Args {
    /// What the host is started for.
    pub const fn purpose(&self) -> Purpose {
        if self.ceremony {
            Purpose::Ceremony
        } else {
            Purpose::Service
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn help_has_an_example_and_hides_the_worker() {
        Args::command().debug_assert();
        let help = Args::command().render_long_help().to_string();
        assert!(help.contains("hallmark-token main --config"), "{help}");
        assert!(
            !help.contains("--worker") && !help.contains("--memory"),
            "{help}"
        );
    }

    #[test]
    fn generation_is_off_unless_asked_for() {
        let args = Args::parse_from(["hallmark-token", "a", "--config", "c"]);
        assert_eq!(args.purpose(), Purpose::Service);
        let args = Args::parse_from(["hallmark-token", "a", "--config", "c", "--ceremony"]);
        assert_eq!(args.purpose(), Purpose::Ceremony);
    }
}
